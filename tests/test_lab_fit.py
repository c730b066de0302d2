"""`iga fit` from the outside: its files, its numbers, and going on after an interruption."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from iga_lab.cli import main
from iga_lab.runs import course as courses
from tests.support.drawing import nothing_drawn
from tests.support.lab import (
    FILES,
    STEPS,
    TINY,
    UNFINISHED,
    fit,
    iga,
    names,
    result_of,
    rows_of,
    same_models,
    saved_often,
    step_hook,
)

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    with nothing_drawn():
        outcome = fit(folder)
    assert outcome.exit_code == 0, outcome.output
    return folder, outcome


def test_files_are_whole(unbroken):
    folder, outcome = unbroken
    assert names(folder) == FILES
    assert str(folder / "comparison.png") in outcome.stdout
    assert max(map(len, outcome.stdout.splitlines()[:8])) <= 100
    assert "\x1b" not in outcome.output


def test_result_contract(unbroken):
    result = result_of(unbroken[0])
    assert (result["program"], result["status"]) == ("iga-core", "finished")
    assert set(result["methods"]) == {"plain", "iga"}
    for numbers in result["methods"].values():
        assert {"psnr_final", "psnr_median", "psnr_max", "psnr_equal_seconds", "ssim"} < set(
            numbers
        )
        assert numbers["seconds_per_step"] > 0
        assert (numbers["steps"], numbers["status"], numbers["message"]) == (STEPS, "finished", "")
        assert numbers["psnr_max"] >= numbers["psnr_final"] >= 3
    assert isinstance(result["methods"]["iga"]["overhead_percent"], float)
    assert "overhead_percent" not in result["methods"]["plain"]
    assert result["settings"]["patch"] == 4
    chosen = {
        "filter": "damp", "scale": 1, "factor": None, "end": None, "start": None, "level": None,
        "sampling": "random", "samples": 1, "reach": "mean", "outputs": "sum", "refresh": 10,
        "average": 0.9, "learning_rate": 5e-3,
    }  # fmt: skip
    assert {name: result["settings"][name] for name in chosen} == chosen
    assert {"python", "numpy", "iga-core"} <= set(result["versions"])
    assert result["machine"]["cores"] >= 1


def test_curves_say_what_the_result_says(unbroken):
    folder, _ = unbroken
    ends = {}
    for method, numbers in result_of(folder)["methods"].items():
        rows = rows_of(folder, method)
        psnr = np.array([float(row["psnr"]) for row in rows])
        loss = np.array([float(row["loss"]) for row in rows])
        seconds = [float(row["seconds"]) for row in rows]
        ends[method] = seconds[-1]
        assert [int(row["step"]) for row in rows] == list(range(STEPS + 1))
        np.testing.assert_allclose(psnr, -10 * np.log10(loss), atol=1e-4)
        assert numbers["psnr_final"] == pytest.approx(psnr[-1], abs=1e-4)
        assert numbers["psnr_max"] == pytest.approx(psnr.max(), abs=1e-4)
        assert numbers["psnr_median"] == pytest.approx(np.median(psnr), abs=1e-4)
        assert seconds[0] == 0
        assert np.all(np.diff(seconds) > 0)
    result = result_of(folder)
    faster = min(ends, key=ends.get)
    assert result["equal_seconds"] == pytest.approx(ends[faster], abs=1e-5)
    numbers = result["methods"][faster]
    assert numbers["psnr_equal_seconds"] == numbers["psnr_final"]
    slower = next(method for method in ends if method != faster)
    reached = [row for row in rows_of(folder, slower) if float(row["seconds"]) <= ends[faster]]
    assert result["methods"][slower]["psnr_equal_seconds"] == pytest.approx(
        float(reached[-1]["psnr"]), abs=1e-4
    )


def test_both_methods_start_alike(unbroken):
    folder, _ = unbroken
    starts = [float(rows_of(folder, method)[0]["loss"]) for method in ("plain", "iga")]
    assert starts[0] == pytest.approx(starts[1], rel=1e-6)


def test_saved_model_has_the_reported_psnr(unbroken):
    """By hand, so that coordinates, targets and PSNR are what they are said to be."""
    from skimage.data import astronaut

    folder, _ = unbroken
    photograph = astronaut().astype(np.float32) / 255
    truth = np.stack(
        [
            np.asarray(
                Image.fromarray(photograph[..., c]).resize((16, 16), Image.Resampling.LANCZOS)
            )
            for c in range(3)
        ],
        axis=-1,
    ).clip(0, 1)
    x = np.linspace(-1, 1, 16)
    coords = np.stack(np.meshgrid(x, x, indexing="xy"), axis=-1).reshape(-1, 2)
    octaves = (coords[:, None, :] * (2.0 ** np.arange(6) * np.pi)[:, None]).reshape(-1, 12)
    values = np.concatenate([coords, np.sin(octaves), np.cos(octaves)], axis=1)
    for method, numbers in result_of(folder)["methods"].items():
        layers = load_file(folder / f"model-{method}.safetensors")
        hidden = values
        for k in range(3):
            hidden = hidden @ layers[f"layers.{k}.weight"].T + layers[f"layers.{k}.bias"]
            hidden = np.maximum(hidden, 0) if k < 2 else hidden
        loss = np.mean((hidden - truth.reshape(-1, 3)) ** 2)
        assert -10 * np.log10(loss) == pytest.approx(numbers["psnr_final"], abs=1e-3)


@pytest.mark.parametrize("method", ["plain", "iga"])
def test_interrupted_and_resumed_is_unbroken(unbroken, tmp_path, monkeypatch, method):
    folder = tmp_path / "run"
    with monkeypatch.context() as hook:
        step_hook(hook, method, 9, lambda: signal.raise_signal(signal.SIGINT))
        stopped = fit(folder)
    assert stopped.exit_code == 130, stopped.output
    assert f"iga fit --resume {folder}" in stopped.stdout
    assert names(folder) == FILES | UNFINISHED | {"checkpoint-before.safetensors"}
    result = result_of(folder)
    assert result["status"] == "interrupted"
    assert result["methods"][method]["steps"] == 9
    assert result["methods"]["iga"]["status"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    refused = iga("fit", "--resume", folder, "--steps", 3, "astronaut")
    assert refused.exit_code == 2
    assert "--steps" in refused.stderr
    assert "SIGNAL" in refused.stderr

    resumed = iga("fit", "--resume", folder)
    assert resumed.exit_code == 0, resumed.output
    assert names(folder) == FILES
    same_models(folder, unbroken[0])

    before = (folder / "result.json").read_bytes()
    again = iga("fit", "--resume", folder)
    assert again.exit_code == 0
    assert "finished" in again.output
    assert (folder / "result.json").read_bytes() == before


def test_killed_and_resumed_is_unbroken(unbroken, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def kill():
        raise SystemExit(9)

    with monkeypatch.context() as hook:
        saved_often(hook)
        step_hook(hook, "iga", 9, kill)
        assert fit(folder).exit_code == 9
    assert names(folder) == UNFINISHED | {"checkpoint-before.safetensors"}
    resumed = iga("fit", "--resume", folder)
    assert resumed.exit_code == 0, resumed.output
    same_models(folder, unbroken[0])


def test_second_interrupt_aborts_at_once(tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    step_hook(monkeypatch, "plain", 3, twice)
    stopped = fit(folder)
    assert stopped.exit_code == 130
    assert names(folder) == UNFINISHED


UNTIL_STEPPED = """
from pathlib import Path
from iga_lab import cli
from iga_lab.runs import course as courses
step = courses.Course.step
courses.Course.step = lambda course: (step(course), Path("stepped").touch())
cli.main()
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to one process there")
def test_interrupt_of_a_process(tmp_path):
    folder = tmp_path / "run"
    arguments = ["fit", *TINY, "--steps", "1000000", "--method", "plain", "--output", str(folder)]
    command = [sys.executable, "-c", UNTIL_STEPPED, *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "stepped").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert f"--resume {folder}" in output
    assert result_of(folder)["methods"]["plain"]["status"] == "interrupted"


def test_non_finite_loss_stops_one_method(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    original = courses.Trainer.step

    def overflow(trainer):
        if trainer.transform is not None and trainer.done == 5:
            trainer.model.parameters = [1e30 * array for array in trainer.model.parameters]
        return original(trainer)

    monkeypatch.setattr(courses.Trainer, "step", overflow)
    outcome = fit(folder, "--network", "relu")
    assert outcome.exit_code == 0, outcome.output
    methods = result_of(folder)["methods"]
    assert (methods["plain"]["status"], methods["plain"]["steps"]) == ("finished", STEPS)
    assert (methods["iga"]["status"], methods["iga"]["steps"]) == ("stopped", 5)
    assert "non-finite at step 5" in methods["iga"]["message"]
    assert "lower --learning-rate" in outcome.stderr
    for array in load_file(folder / "model-iga.safetensors").values():
        assert np.all(np.abs(array) < 1e3)
    assert names(folder) == FILES


def test_non_finite_loss_of_every_method_fails(tmp_path):
    folder = tmp_path / "run"
    outcome = fit(folder, "--optimizer", "sgd", "--learning-rate", "1e4", "--network", "relu")
    assert outcome.exit_code == 1, outcome.output
    result = result_of(folder)
    assert result["status"] == "failed"
    assert {numbers["status"] for numbers in result["methods"].values()} == {"stopped"}
    for method in ("plain", "iga"):
        for array in load_file(folder / f"model-{method}.safetensors").values():
            assert np.all(np.isfinite(array))


FILTERS = [
    {"filter": "damp", "scale": 0.3},
    {"filter": "equalise", "end": 3, "start": 1, "level": "start"},
    {"filter": "scale", "factor": 0.2},
]


@pytest.mark.parametrize("chosen", FILTERS)
def test_every_setting_reaches_the_run(tmp_path, chosen):
    folder = tmp_path / "run"
    kernel = {
        "sampling": "largest", "samples": 1, "outputs": "trace", "refresh": 1, "average": 0,
    }  # fmt: skip
    given = chosen | (kernel if chosen["filter"] != "scale" else {}) | {
        "network": "siren", "method": "iga", "reach": "points", "optimizer": "muon", "learning_rate": 1e-3, "schedule": "step", "columns": 2, "seed": 5,
        "dtype": "float64", "backend": "numpy", "device": "cpu", "frequencies": "nyquist",
        "batch": 8, "grouping": "blocks",
    }  # fmt: skip
    none = {name for other in FILTERS for name in other} - set(chosen)
    options = [x for name in given for x in (f"--{name.replace('_', '-')}", given[name])]
    outcome = fit(folder, *options, steps=3)
    assert outcome.exit_code == 0, outcome.output
    settings = result_of(folder)["settings"]
    expected = given | {"method": ["iga"], "frequencies": 3, "shape": [16, 16], "channels": 3}
    expected |= dict.fromkeys(none)
    assert {name: settings[name] for name in expected} == expected
    assert "overhead_percent" in result_of(folder)["methods"]["iga"]
    assert load_file(folder / "model-iga.safetensors")["layers.0.weight"].dtype == np.float64


@pytest.mark.parametrize(
    ("options", "expected", "said"),
    [
        (["--filter", "equalise"], {"end": 8, "refresh": 10}, "IGA, eigenvalues 0 to 7 equalised: 16 groups of 4 × 4"),
        (["--scale", 0.5], {"scale": 0.5}, "IGA, Damp with scale 0.5: 16 groups"),
        (["--batch", 6, "--filter", "equalise"], {"end": 3, "refresh": 1, "average": 0},
         "IGA, eigenvalues 0 to 2 equalised: 16 groups of 4 × 4, 6 a step"),
        (["--batch", 6], {"scale": 1, "refresh": 1, "average": 0}, "IGA, Damp: 16 groups of 4 × 4, 6 a step"),
        (["--filter", "scale", "--patch", 16], {"factor": 0.1}, "IGA, Scale 0.1: 1 group of 16 × 16"),
    ],
)  # fmt: skip
def test_defaults_of_filters(tmp_path, options, expected, said):
    outcome = fit(tmp_path / "run", *options, steps=2)
    assert outcome.exit_code == 0, outcome.output
    settings = result_of(tmp_path / "run")["settings"]
    assert {name: settings[name] for name in expected} == expected
    assert said in outcome.stdout
    assert "counted to add" in outcome.stdout


@pytest.mark.parametrize("method", ["plain", "iga"])
@pytest.mark.parametrize("chosen", FILTERS)
def test_the_spectrum_is_that_of_the_filter(chosen, method, monkeypatch):
    """Against eigenvalues of an explicit Jacobian's kernel, and what each filter makes of them."""
    from iga_lab import settings, signals
    from iga_lab.figures import spectrum
    from iga_lab.settings.naming import OF_A_KERNEL
    from tests.support import oracle

    given = {name: None for options in FILTERS for name in options} | chosen
    given |= dict.fromkeys(OF_A_KERNEL) | {
        "network": "pe", "frequencies": 2, "method": ("plain", "iga"), "steps": 5, "width": 8,
        "depth": 2, "patch": 3, "grouping": "patches", "batch": None, "reach": "mean",
        "optimizer": "adam", "learning_rate": None, "schedule": "cosine", "columns": None,
        "average_weights": None, "seed": 1, "dtype": "float32", "backend": "numpy", "device": "cpu", "lpips_weights": None,
    }  # fmt: skip
    found = settings.choose(given, signals.load("astronaut", (12, None)))
    parameters = found.architecture(method).initial(1)
    one = spectrum.spectrum(found, method, parameters)

    x = np.linspace(-1, 1, 12)[1::3]
    centres = np.stack([p.ravel() for p in np.meshgrid(x, x)], axis=1)
    J = oracle.jacobian(found.architecture(method), parameters, centres)
    values = np.linalg.eigvalsh(oracle.kernel(J, J, "sum"))[::-1]
    np.testing.assert_allclose(one.before, values, atol=1e-12 * values[0])
    if method == "plain":
        assert (one.after, one.filter) == (None, None)
        return
    mu = 0.3 * np.exp(np.mean(np.log(values)))
    wanted = {
        "damp": values * mu / (values + mu),
        "equalise": np.concatenate([values[:1], [values[1]] * 2, values[3:]]),
        "scale": 0.2 * values,
    }[chosen["filter"]]
    np.testing.assert_allclose(one.after, wanted, rtol=1e-9)
    # With fewer groups than a step has, `start` and `end` keep their shares.
    monkeypatch.setattr(spectrum, "GROUPS", 12)
    fewer = spectrum.spectrum(found, method, parameters)
    assert len(fewer.before) == len(fewer.after) == 12
    if chosen["filter"] == "equalise":
        assert (fewer.filter.start, fewer.filter.end) == (0, 2)


def test_what_the_filter_warns_of_is_said_once(tmp_path):
    given = ["--network", "relu", "--width", 2, "--depth", 1, "--filter", "equalise", "--end", 15]
    outcome = fit(tmp_path / "run", *given, "--refresh", 1)
    assert outcome.exit_code == 0, outcome.output
    words = " ".join(outcome.stderr.split())
    assert words.count("end: not all of the 15 leading eigenvalues exceed") == 1
    assert "Warning" not in words


def test_default_folder_and_a_whole_grey_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--size", "24x9", "--width", "4", "--depth", "1", "--steps", "2"]
    outcome = iga("fit", "camera", *options, "--method", "plain")
    assert outcome.exit_code == 0, outcome.output
    assert "grey" in outcome.stderr
    (folder,) = (tmp_path / "iga-runs").iterdir()
    assert folder.name.startswith("camera-pe-")
    assert result_of(folder)["settings"]["shape"] == [9, 24]
    assert names(folder) == FILES - {"model-iga.safetensors"}
    model = folder / "model-plain.safetensors"
    assert load_file(model)["layers.1.weight"].shape == (1, 4)
    rendered = iga("render", model, "--size", "7x5", "--output", tmp_path / "grey.png")
    assert rendered.exit_code == 0, rendered.output
    with Image.open(tmp_path / "grey.png") as image:
        assert (image.mode, image.size) == ("L", (7, 5))


def test_render(unbroken, tmp_path, monkeypatch):
    from iga_lab.runs import rendering

    model = unbroken[0] / "model-iga.safetensors"
    whole, blocks = tmp_path / "whole.png", tmp_path / "blocks.png"
    assert iga("render", model, "--size", "31x20", "--output", whole).exit_code == 0
    monkeypatch.setattr(rendering, "BLOCK_POINTS", 70)
    assert iga("render", model, "--size", "31x20", "--output", blocks).exit_code == 0
    with Image.open(whole) as one, Image.open(blocks) as other:
        assert one.size == (31, 20)
        assert one.mode == "RGB"
        assert np.max(np.abs(np.asarray(one, int) - np.asarray(other, int))) <= 1
    refused = iga("render", model, "--output", whole)
    assert refused.exit_code == 2
    assert "exists" in refused.stderr
    same_size = tmp_path / "same.png"
    assert iga("render", model, "--output", same_size).exit_code == 0
    with Image.open(same_size) as image:
        assert image.size == (16, 16)


def test_failed_write_leaves_nothing_half_written(tmp_path, monkeypatch):
    from iga_lab.errors import InputError
    from iga_lab.files import write_whole

    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"file"}


def test_backends():
    outcome = iga("backends")
    assert outcome.exit_code == 0
    assert np.__version__ in outcome.stdout
    assert "cupy" in outcome.stdout


def test_help_and_version():
    from importlib.metadata import version

    text = iga("fit", "--help").output
    parameters = main.commands["fit"].params
    options = [option for parameter in parameters for option in parameter.opts[:1]]
    assert len(options) == 36
    for option in options[1:]:
        assert f"{option} " in text
    assert version("iga-core") in iga("--version").output
