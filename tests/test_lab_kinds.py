"""`iga fit` and `iga render` on functions, sounds, volumes and shapes, and by every method."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import trimesh
from safetensors.numpy import load_file, save_file
from scipy.io import wavfile

from iga_lab import memory, metrics
from iga_lab.cli import tables
from iga_lab.cli.terminal import console as new_console
from iga_lab.runs import course as courses
from iga_lab.runs import storage
from iga_lab.settings import ALL_METHODS
from tests.support.forging import reforge, said
from tests.support.lab import (
    KINDS,
    RATE,
    iga,
    metadata_of,
    names,
    refuse,
    result_of,
    rows_of,
    signal_of,
    step_hook,
)
from tests.support.measures import saved, state
from tests.support.selection import slow

TINY = ["--width", "8", "--depth", "2", "--steps", "6"]
COMMON = {"comparison.png", "curves.csv", "curves.png", "result.json", "spectrum.png"}
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fit(kind, *arguments):
    outcome = iga("fit", *signal_of(kind)[0], *TINY, "--output", "run", *arguments)
    assert outcome.exit_code == 0, outcome.output
    lines = outcome.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    return Path("run"), outcome


GIVEN = ["--network", "relu", "--dtype", "float64"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """What `iga fit` wrote and said for each kind, asked for once."""
    found = {}

    def of(kind):
        if kind not in found:
            place = tmp_path_factory.mktemp(kind)
            with pytest.MonkeyPatch.context() as elsewhere:
                elsewhere.chdir(place)
                found[kind] = place / "run", fit(kind, *GIVEN)[1]
        folder, outcome = found[kind]
        shutil.copytree(folder, "run", dirs_exist_ok=True)
        signal_of(kind)
        return Path("run"), outcome

    return of


@pytest.mark.parametrize("kind", KINDS)
def test_files_and_numbers(kind, fitted):
    folder, outcome = fitted(kind)
    suffix = signal_of(kind)[1]
    fits = {f"{name}{suffix}" for name in ("truth", "fit-plain", "fit-iga")} if suffix else set()
    if kind == "shape":  # a network that is nowhere inside has no surface
        fits = {name for name in fits if name == "truth.ply" or name in names(folder)}
    models = {f"model-{name}.safetensors" for name in ("plain", "iga")}
    assert names(folder) == COMMON | models | fits
    result = result_of(folder)
    assert result["settings"]["kind"] == kind
    edges = result["bands_in_cycles_a_sample"]
    for name, numbers in result["methods"].items():
        assert numbers["status"] == "finished"
        assert len(numbers["band_errors"]) == len(edges) - 1
        assert len(rows_of(folder, name)) == 7
        assert ("iou" in numbers) == (kind == "shape")
    assert "Relative error by frequency" in outcome.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_what_was_measured(kind, fitted):
    """By hand, from the file, at the points and with the values that the kind is said to have."""
    from iga_lab.signals import load

    arguments, _ = signal_of(kind)
    folder, _ = fitted(kind)
    size = (int(arguments[2]), None) if "--size" in arguments else None
    truth = load(arguments[0], size).values
    axes = [np.linspace(-1, 1, n) for n in truth.shape[:-1]]
    points = np.stack([p.ravel() for p in reversed(np.meshgrid(*axes, indexing="ij"))], axis=1)
    for method, numbers in result_of(folder)["methods"].items():
        layers = load_file(folder / f"model-{method}.safetensors")
        values = points
        for k in range(3):
            values = values @ layers[f"layers.{k}.weight"].T + layers[f"layers.{k}.bias"]
            values = np.maximum(values, 0) if k < 2 else values
        loss = np.mean((values.reshape(truth.shape) - truth) ** 2)
        assert -10 * np.log10(loss) == pytest.approx(numbers["psnr_final"], abs=1e-9)


@pytest.mark.parametrize("kind", ["sound", "shape"])
def test_interrupted_and_resumed_is_unbroken(kind, fitted, monkeypatch):
    fitted(kind)
    Path("run").rename("unbroken")
    with monkeypatch.context() as hook:
        step_hook(hook, "iga", 3, lambda: signal.raise_signal(signal.SIGINT))
        stopped = iga("fit", *signal_of(kind)[0], *TINY, *GIVEN, "--output", "run")
    assert stopped.exit_code == 130, stopped.output
    assert "of 6" in stopped.stdout
    resumed = iga("fit", "--resume", "run")
    assert resumed.exit_code == 0, resumed.output
    assert names("run") == names("unbroken")
    for method in ("plain", "iga"):
        ours, theirs = (load_file(f"{f}/model-{method}.safetensors") for f in ("run", "unbroken"))
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_render_a_sound(fitted):
    folder, _ = fitted("sound")
    model = folder / "model-iga.safetensors"
    assert iga("render", model).exit_code == 0
    rate, samples = wavfile.read(folder / "model-iga-128.wav")
    assert (rate, samples.shape) == (RATE, (128,))
    _, trained = wavfile.read(folder / "fit-iga.wav")
    assert np.abs(samples.astype(int) - trained).max() <= 1
    assert iga("render", model, "--size", "255", "--output", "fine.wav").exit_code == 0
    rate, finer = wavfile.read("fine.wav")
    assert (rate, finer.shape) == (2 * RATE, (255,))
    assert np.abs(finer[::2].astype(int) - samples).max() <= 1
    assert "ends in .wav for a sound" in refuse("render", model, "--output", "fine.png")
    assert "got 5x5" in refuse("render", model, "--size", "5x5", "--output", "new.wav")


def test_render_a_volume(fitted):
    folder, _ = fitted("volume")
    model = folder / "model-plain.safetensors"
    assert iga("render", model).exit_code == 0
    whole = np.load(folder / "model-plain-8x6x5.npy")
    np.testing.assert_allclose(whole, np.load(folder / "fit-plain.npy"), atol=1e-5)
    assert iga("render", model, "--size", "4x6x5", "--output", "fewer.npy").exit_code == 0
    fewer = np.load("fewer.npy")
    assert (fewer.shape, fewer.dtype) == ((5, 6, 4), np.float32)
    np.testing.assert_allclose(fewer[:, :, [0, -1]], whole[:, :, [0, -1]], atol=1e-5)
    assert iga("render", model, "--size", "3", "--output", "cube.npy").exit_code == 0
    assert np.load("cube.npy").shape == (3, 3, 3)
    assert "3 numbers" in refuse("render", model, "--size", "4x4", "--output", "x.npy")


def test_render_a_shape(monkeypatch):
    folder, _ = fit("shape", "--steps", "60", "--method", "plain", "--batch", "64", "--width", "16")
    model = folder / "model-plain.safetensors"
    numbers = result_of(folder)["methods"]["plain"]
    assert numbers["iou"] > 0.8
    assert 0 < numbers["chamfer_squared"] < numbers["chamfer"] < 0.2
    trained = trimesh.load(folder / "fit-plain.ply")
    assert iga("render", model).exit_code == 0
    again = trimesh.load(folder / "model-plain-8x8x8.ply")
    assert again.is_watertight
    assert again.volume == pytest.approx(trained.volume, rel=1e-4)
    np.testing.assert_allclose(again.bounds[1], [0.45, 0.675, 0.9], atol=0.25)
    with monkeypatch.context() as less:
        less.setattr(memory, "available_memory", lambda: 1_000_000)
        assert "20x20x20 points" in refuse("render", model, "--size", "20", "--output", "x.ply")
    arrays = load_file(model)
    reforge(model, arrays={name: 0 * array for name, array in arrays.items()})
    assert "a shape, got values from 0 to 0" in refuse("render", model, "--output", "y.ply")


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_every_method(backend):
    if backend == "torch":
        pytest.importorskip("torch")
    given = ["--method", ",".join(ALL_METHODS), "--backend", backend, "--dtype", "float64"]
    folder, _ = fit("function", *given)
    methods = result_of(folder)["methods"]
    assert tuple(methods) == ALL_METHODS
    truth = np.load(render(folder, "plain"))
    for method, numbers in methods.items():
        assert ("overhead_percent" in numbers) == (method != "plain")
        layers = load_file(folder / f"model-{method}.safetensors")
        assert [layers[f"layers.{k}.weight"].shape[0] for k in range(3)] == [8, 8, 1]
        assert 'fourier": null' in metadata_of(folder / f"model-{method}.safetensors")["network"]
        values = np.load(render(folder, method))
        assert np.all(np.isfinite(values))
        assert values.shape == truth.shape
    starts = {method: float(rows_of(folder, method)[0]["loss"]) for method in methods}
    assert starts["plain"] == pytest.approx(starts["iga"], rel=1e-9)
    assert starts["fr"] == pytest.approx(starts["iga+fr"], rel=1e-9)


def render(folder, method):
    output = f"{method}.npy"
    if not Path(output).exists():
        outcome = iga("render", folder / f"model-{method}.safetensors", "--output", output)
        assert outcome.exit_code == 0, outcome.output
    return output


@pytest.mark.parametrize("method", ["fr", "bn"])
def test_a_folded_model_has_the_reported_psnr(method):
    from iga_lab.signals import load

    folder, _ = fit("function", "--method", method, "--dtype", "float64")
    values = np.load(render(folder, method))
    loss = np.mean((values - load("sines:2,5", (64, None)).values[:, 0]) ** 2)
    psnr = result_of(folder)["methods"][method]["psnr_final"]
    assert -10 * np.log10(loss) == pytest.approx(psnr, abs=1e-3)
    spectrum = {"spectrum.png"} if method == "fr" else set()
    assert names(folder) & {"spectrum.png"} == spectrum


def test_pictures_are_measured_with_what_is_given():
    weights = saved(Path.cwd(), state())
    given = ["camera", "--size", "32", *TINY, "--steps", "1", "--output", "run"]
    outcome = iga("fit", *given, "--method", "plain", "--lpips-weights", weights.name)
    assert outcome.exit_code == 0, outcome.output
    assert "LPIPS" in outcome.stdout
    numbers = result_of(Path("run"))["methods"]["plain"]
    assert numbers["lpips"] > 0
    assert "ms_ssim" not in numbers
    assert result_of(Path("run"))["settings"]["lpips_weights"] == str(weights)
    assert "at least 31 pixels" in refuse("fit", "--size", "16", "--lpips-weights", weights.name)


def test_the_tables_fit_a_hundred_columns():
    numbers = {
        "psnr_final": 102.25, "psnr_median": 100.25, "psnr_max": 102.25, "seconds_per_step": 12.345,
        "psnr_equal_seconds": 101.25, "overhead_percent": 123.4, "steps": 9999, "message": "",
        "band_errors": [1.23e-5] * 5,
    }  # fmt: skip
    pictures = {"ssim": 0.99991, "ms_ssim": 0.99991, "lpips": 0.12345}
    shapes = {"iou": 0.99991, "chamfer": 1.234e-3, "chamfer_squared": 1.234e-6}
    for kind, measures in (("image", pictures), ("shape", shapes), ("function", {})):
        statuses = ("finished", "interrupted", "stopped")
        methods = {
            name: numbers | measures | {"status": status}
            for name, status in zip(("plain", "iga", "iga+fr"), statuses, strict=True)
        }
        settings = {"kind": kind, "batch": 64, "steps": 10000, "rate": None, "shape": [1024]}
        edges = [0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, None]
        result = {"settings": settings, "methods": methods, "bands_in_cycles_a_sample": edges}
        console = new_console()
        with console.capture() as captured:
            console.print(tables.results(result))
            console.print(tables.bands(result))
        text = captured.get()
        assert max(map(len, text.splitlines())) <= 100
        assert "of 10,000" in text
        assert "…" not in text
        for word in ("overhead", "102.25", "+123.4", "stopped"):
            assert word in text


def test_band_errors_are_of_the_signal_s_octaves(fitted):
    folder, _ = fitted("function")
    result = result_of(folder)
    edges = np.array(result["bands_in_cycles_a_sample"]) * 64
    assert 5 < edges[-1] <= 8
    np.testing.assert_allclose(edges[1:-1] * 2, edges[2:])
    assert edges[0] == 0


@pytest.mark.parametrize("grouping", ["patches", "blocks"])
def test_groups_reach_the_trainer(grouping, monkeypatch):
    seen = []
    original = courses.Trainer.__init__

    def watched(trainer, *arguments, **given):
        seen.append(given)
        original(trainer, *arguments, **given)

    monkeypatch.setattr(courses.Trainer, "__init__", watched)
    monkeypatch.setattr(metrics, "chamfer", lambda *_: metrics.Chamfer(1.0, 1.0))  # seconds
    fit("shape", "--grouping", grouping, "--method", "plain", "--seed", "3")
    (given,) = seen
    assert (given["batch"], given["seed"]) == (16, 3)
    points = np.stack(np.unravel_index(given["grouping"].index[1], (8, 8, 8)), axis=1)
    if grouping == "patches":
        expected = [[z, y, 2 + x] for z in (0, 1) for y in (0, 1) for x in (0, 1)]
    else:
        expected = [[0, 0, 2], [0, 0, 3]]
    np.testing.assert_array_equal(points, expected)


def test_runs_and_models_of_another_version_are_named(fitted):
    folder, _ = fitted("function")
    model = folder / "model-plain.safetensors"
    arrays, metadata = load_file(model), metadata_of(model)
    old = {name: value for name, value in metadata.items() if name != "format"}
    others = {name: metadata | {"format": name} for name in ("4", "6")} | {"1": old}
    for number, changed in others.items():
        said = f"of format {number}, written by iga-core 0.0.9"
        save_file(arrays, model, changed | {"version": "0.0.9"})
        line = refuse("render", model)
        assert said in line
        assert f"and not {storage.FORMAT}; " in line
        other = changed | {"kind": "checkpoint", "version": "0.0.9"}
        save_file(arrays, folder / "checkpoint.safetensors", other)
        assert said in refuse("fit", "--resume", folder)


def test_damaged_signals_of_models(fitted):
    folder, _ = fitted("sound")
    model = folder / "model-plain.safetensors"
    for bad in (
        {"kind": "picture"}, {"kind": "shape"}, {"shape": [3, 4]}, {"shape": [0]}, {"rate": None},
        {"rate": -1}, {"shape": "many"}, {"layout": "HW"}, {"layout": 5}, {"low": 2}, {"high": "1"},
    ):  # fmt: skip
        content = model.read_bytes()
        reforge(model, words=said(model, "signal", **bad))
        assert "damaged" in refuse("render", model)
        model.write_bytes(content)


LAYOUTS = {
    "CHW": ((3, 8, 10), ["--size", "10x8", "--axes", "CHW"]),
    "HWC": ((8, 10, 5), ["--size", "10x8", "--axes", "HWC"]),
    "DHWC": ((4, 6, 8, 3), []),
    "TCHW": ((4, 2, 6, 8), ["--axes", "TCHW"]),
}


@pytest.mark.parametrize("layout", ["CHW", *slow(["HWC", "DHWC", "TCHW"])])
def test_arrays_go_as_they_came(layout):
    """The truth beside a fit is the array in [0, 1], and all that is written has its axes."""
    shape, given = LAYOUTS[layout]
    values = np.random.default_rng(0).integers(0, 4096, shape).astype(np.int32)
    values.flat[0] = 4095
    np.save("array.npy", values)
    run = ["--patch", "2", "--method", "plain", "--output", "run"]
    outcome = iga("fit", "array.npy", *given, *TINY, *run)
    assert outcome.exit_code == 0, outcome.output
    assert "int32 divided by 4095" in outcome.stderr
    assert result_of(Path("run"))["range"] == [0, 4095]
    np.testing.assert_array_equal(np.load("run/truth.npy"), np.float32(values / 4095))
    assert iga("render", "run/model-plain.safetensors", "--output", "again.npy").exit_code == 0
    np.testing.assert_allclose(np.load("again.npy"), np.load("run/fit-plain.npy"), atol=1e-5)
    if layout == "CHW":
        outcome = iga("render", "run/model-plain.safetensors", "--output", "again.png")
        assert outcome.exit_code == 0, outcome.output
    elif layout == "HWC":
        line = refuse("render", "run/model-plain.safetensors", "--output", "again.png")
        assert "ends in .npy for a image" in line or "ends in .npy for an image" in line


@pytest.mark.slow
def test_several_channels_of_a_sound_come_back():
    samples = np.stack([np.sin(np.arange(200) / 5), np.cos(np.arange(200) / 9) / 2], axis=1)
    wavfile.write("stereo.wav", RATE, samples.astype(np.float32))
    outcome = iga("fit", "stereo.wav", "--patch", "8", *TINY, "--output", "run")
    assert outcome.exit_code == 0, outcome.output
    rate, truth = wavfile.read("run/truth.wav")
    assert rate == RATE
    np.testing.assert_allclose(truth / 32767, samples / np.abs(samples).max(), atol=1 / 32767)
    assert wavfile.read("run/fit-iga.wav")[1].shape == samples.shape
    model = "run/model-iga.safetensors"
    assert iga("render", model, "--output", "again.wav").exit_code == 0
    assert wavfile.read("again.wav")[1].shape == samples.shape


def test_a_shape_says_how_much_is_inside(fitted):
    folder, _ = fitted("shape")
    x = np.linspace(-1, 1, 8)
    inside = [np.sum(np.abs(x) < half) for half in (0.45, 0.675, 0.9)]
    assert result_of(folder)["occupied"] == np.prod(inside) / 512


@pytest.mark.parametrize(("rate", "noted"), [((), True), (("--learning-rate", 1e-3), False)])
def test_fr_at_a_rate_that_nobody_chose_is_noted(rate, noted):
    _, outcome = fit("function", "--method", "fr", *rate)
    assert ("fr: trained at the learning rate" in outcome.output) is noted
