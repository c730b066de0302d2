"""`iga fit --backend torch` from the outside: what NumPy's runs do, on PyTorch."""

import signal
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from iga_core import Network
from iga_lab import hardware
from tests.support.drawing import nothing_drawn
from tests.support.lab import (
    FILES,
    STEPS,
    UNFINISHED,
    fit,
    iga,
    names,
    refuse,
    result_of,
    rows_of,
    same_models,
    saved_often,
)
from tests.support.lab import step_hook as hook_step

torch = pytest.importorskip("torch")

TORCH = ["--backend", "torch"]
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    with nothing_drawn():
        outcome = fit(folder, *TORCH)
    assert outcome.exit_code == 0, outcome.output
    return folder


def test_result(unbroken):
    assert names(unbroken) == FILES
    result = result_of(unbroken)
    assert result["status"] == "finished"
    assert {m["steps"] for m in result["methods"].values()} == {STEPS}
    assert (result["settings"]["backend"], result["settings"]["device"]) == ("torch", "cpu")
    assert result["machine"]["device"] == "cpu"
    assert result["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("options", [["--network", "siren", "--optimizer", "muon"]])
def test_the_curves_are_numpy_s(tmp_path, options):
    for backend in ("numpy", "torch"):
        outcome = fit(
            tmp_path / backend, "--backend", backend, "--dtype", "float64", *options, steps=20
        )
        assert outcome.exit_code == 0, outcome.output
    for method in ("plain", "iga"):
        ours, theirs = (
            [float(row["loss"]) for row in rows_of(tmp_path / backend, method)]
            for backend in ("torch", "numpy")
        )
        assert len(ours) == 21
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        layers = [
            load_file(tmp_path / b / f"model-{method}.safetensors") for b in ("numpy", "torch")
        ]
        assert layers[0].keys() == layers[1].keys()
        for name, wanted in layers[0].items():
            np.testing.assert_allclose(layers[1][name], wanted, atol=1e-5)


def test_the_model_loads_into_the_module(unbroken):
    from safetensors.torch import load_file as load_tensors

    from iga_lab.signals import coordinates, load
    from iga_torch.networks import from_network

    network = from_network(Network("pe", width=8, depth=2))
    network.load_state_dict(load_tensors(unbroken / "model-iga.safetensors"))
    with torch.no_grad():
        prediction = network(torch.tensor(coordinates((16, 16)), dtype=torch.float32)).numpy()
    loss = np.mean((prediction - load("astronaut", (16, None)).values.reshape(-1, 3)) ** 2)
    psnr = result_of(unbroken)["methods"]["iga"]["psnr_final"]
    assert -10 * np.log10(loss) == pytest.approx(psnr, abs=1e-4)


def test_render(unbroken, tmp_path):
    picture = tmp_path / "picture.png"
    outcome = iga(
        "render", unbroken / "model-iga.safetensors", "--size", "31x20", "--output", picture
    )
    assert outcome.exit_code == 0, outcome.output
    with Image.open(picture) as image:
        assert image.size == (31, 20)


def test_interrupted_and_resumed_is_unbroken(unbroken, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as hook:
        hook_step(hook, "iga", 9, lambda: signal.raise_signal(signal.SIGINT))
        stopped = fit(folder, *TORCH)
    assert stopped.exit_code == 130, stopped.output
    assert names(folder) == FILES | UNFINISHED | {"checkpoint-before.safetensors"}
    resumed = iga("fit", "--resume", folder)
    assert resumed.exit_code == 0, resumed.output
    assert names(folder) == FILES
    same_models(folder, unbroken)


def test_killed_and_resumed_is_unbroken(unbroken, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def kill():
        raise SystemExit(9)

    with monkeypatch.context() as hook:
        saved_often(hook)
        hook_step(hook, "iga", 9, kill)
        assert fit(folder, *TORCH).exit_code == 9
    assert names(folder) == UNFINISHED | {"checkpoint-before.safetensors"}
    assert iga("fit", "--resume", folder).exit_code == 0
    same_models(folder, unbroken)


@pytest.mark.parametrize(
    "options",
    [
        "--network finer --optimizer sgd --schedule step --sampling largest --outputs trace "
        "--patch 3 --columns 3",
        "--network gauss --filter equalise --level start --start 1 --end 3 --sampling centre --reach points "
        "--patch 5 --refresh 2 --dtype float64",
        "--network siren --optimizer muon --columns 1",
        "--network relu --filter scale --factor 0.05 --patch 5",
    ],
)
def test_every_setting(tmp_path, options):
    """Patches of 3 and of 5 leave pixels in no patch."""
    folder = tmp_path / "run"
    given = [*TORCH, *options.split(), "--method", "iga", "--device", "cpu"]
    outcome = fit(folder, *given, steps=3)
    assert outcome.exit_code == 0, outcome.output
    assert result_of(folder)["methods"]["iga"]["steps"] == 3


def test_non_finite_loss_of_every_method_fails(tmp_path):
    folder = tmp_path / "run"
    settings = ["--optimizer", "sgd", "--learning-rate", "1e4", "--network", "relu"]
    outcome = fit(folder, *TORCH, *settings)
    assert outcome.exit_code == 1, outcome.output
    result = result_of(folder)
    assert {numbers["status"] for numbers in result["methods"].values()} == {"stopped"}
    for method in ("plain", "iga"):
        for array in load_file(folder / f"model-{method}.safetensors").values():
            assert np.all(np.isfinite(array))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda(tmp_path, unbroken):
    folder = tmp_path / "run"
    outcome = fit(folder, *TORCH, "--device", "cuda")
    assert outcome.exit_code == 0, outcome.output
    result = result_of(folder)
    assert result["settings"]["device"] == "cuda:0"
    assert torch.cuda.get_device_name(0) in result["machine"]["device"]
    for method in ("plain", "iga"):
        ours, theirs = (
            [float(row["loss"]) for row in rows_of(f, method)] for f in (folder, unbroken)
        )
        np.testing.assert_allclose(ours[:5], theirs[:5], rtol=1e-2)


def test_backends(monkeypatch):
    text = iga("backends").stdout
    assert torch.__version__ in text
    assert f"cpu ({torch.get_num_threads()} threads)" in text
    monkeypatch.setattr(hardware, "_torch_devices", lambda _: ["NVIDIA X", "NVIDIA Y"])
    text = iga("backends").stdout
    assert "cuda:1 (NVIDIA Y)" in text
    assert "--device cuda" in text
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "iga-core[torch]" in iga("backends").stdout


# What bad input gets


@pytest.fixture
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_somewhere_else")
@pytest.mark.parametrize(
    ("devices", "device", "said"),
    [
        (
            [],
            "cuda",
            "device: expected cpu, there being no CUDA device, got 'cuda'; choose --device",
        ),
        ([], "cuda:0", "got 'cuda:0'"),
        ([], "gpu", "got 'gpu'"),
        (["A", "B"], "cuda:2", "expected cuda:0 to cuda:1, got 'cuda:2'; see `iga backends`"),
        (["A"], "cuda:", "got 'cuda:'"),
        (["A"], "", "got ''"),
    ],
)
def test_device(monkeypatch, devices, device, said):
    monkeypatch.setattr(hardware, "_torch_devices", lambda _: devices)
    assert said in refuse("fit", *TORCH, "--device", device)


@pytest.mark.usefixtures("_somewhere_else")
def test_a_missing_library_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    line = refuse("fit", *TORCH)
    assert 'run pip install "iga-core[torch]", or choose --backend numpy' in line


@pytest.mark.usefixtures("_somewhere_else")
def test_settings_that_do_not_fit():
    assert "did you mean 'torch'" in refuse("fit", "--backend", "torhc")
    assert "less than the 16 groups" in refuse(
        "fit", *TORCH, "--size", "16", "--patch", "4", "--filter", "equalise", "--end", "16"
    )
    assert "columns: expected at least 1" in refuse("fit", *TORCH, "--columns", "0")
    assert "--backend torch" in refuse("fit", "--device", "cuda")


def test_exhausted_memory_is_said_in_one_line(tmp_path, monkeypatch):
    from iga_torch.training import Trainer

    def exhausted(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 TiB.")

    monkeypatch.setattr(Trainer, "step", exhausted)
    outcome = fit(tmp_path / "run", *TORCH)
    assert outcome.exit_code == 2
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("Error: --columns: expected pieces that fit in memory, got")
