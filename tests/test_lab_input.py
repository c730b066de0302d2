"""What bad input gets: one line, exit code 2, and nothing written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import load_file, save_file

from iga_lab import hardware, signals
from iga_lab.cli import main
from iga_lab.errors import InputError
from iga_lab.settings import METHODS, NETWORK


def iga(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def tree(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refuse(*arguments):
    """Run a command that must be refused, and return what it says."""
    before = tree(".")
    outcome = iga(*arguments)
    assert outcome.exit_code == 2, outcome.output
    assert outcome.stdout == ""
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("Error: ")
    assert " got " in line or "No such" in line
    assert tree(".") == before
    return line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["astronat"], "did you mean 'astronaut'"),
        (["missing.png"], "'missing.png', which is neither"),
        (["."], "is a folder"),
        (["--network", "sirn"], "did you mean 'siren'"),
        (["--network", "zzz"], "relu, pe, siren, gabor, finer, gauss"),
        (["--method", "plain,iag"], "did you mean 'iga'"),
        (["--method", ""], "expected one of plain, iga"),
        (["--optimizer", "adm"], "did you mean 'adam'"),
        (["--schedule", "cosin"], "did you mean 'cosine'"),
        (["--sampling", "larges"], "did you mean 'largest'"),
        (["--level", "nxt"], "did you mean 'next'"),
        (["--reach", "means"], "did you mean 'mean'"),
        (["--outputs", "sums"], "did you mean 'sum'"),
        (["--dtype", "float16"], "float32, float64, got 'float16'"),
        (["--backend", "nunpy"], "did you mean 'numpy'"),
        (["--device", "cuda:0"], "--backend cupy"),
        (["--stepz", "3"], "--steps"),
        (["--size", "0"], "got 0x0"),
        (["--size", "10x0"], "got 10x0"),
        (["--size", "-5"], "'-5'"),
        (["--size", "big"], "got 'big'"),
        (["--size", "99999999"], "free memory"),
        (["--size", "32", "--patch", "33"], "shorter side, 32 pixels, got 33"),
        (["--size", "32x8", "--patch", "9"], "shorter side, 8 pixels, got 9"),
        (["--patch", "0"], "patch: expected at least 1"),
        (["--size", "16", "--patch", "4", "--end", "16"], "less than the 16 groups, got 16"),
        (["--size", "16", "--patch", "16"], "room for two patches of 16"),
        (["--end", "0"], "end: expected at least 1"),
        (["--end", "5", "--start", "5"], "less than end = 5, got 5"),
        (["--start", "-1"], "start: expected at least 0"),
        (["--samples", "0"], "samples: expected at least 1"),
        (["--size", "16", "--patch", "2", "--samples", "5"], "the 4 points of a group, got 5"),
        (["--sampling", "centre", "--samples", "2"], "expected 1 with sampling='centre', got 2"),
        (["--refresh", "0"], "refresh: expected at least 1"),
        (["--learning-rate", "nan"], "got nan"),
        (["--learning-rate", "inf"], "got inf"),
        (["--learning-rate", "0"], "got 0"),
        (["--learning-rate", "fast"], "got 'fast'"),
        (["--steps", "0"], "steps: expected at least 1"),
        (["--steps", "1.5"], "got '1.5'"),
        (["--width", "0"], "width: expected at least 1"),
        (["--depth", "-1"], "depth: expected at least 1"),
        (["--width", "9999999"], "free memory"),
        (["--depth", "9999999999"], "free memory"),
        (["--frequencies", "0"], "frequencies: expected at least 1"),
        (["--frequencies", "33"], "at most 32"),
        (["--frequencies", "many"], "'nyquist', got 'many'"),
        (["--columns", "0"], "columns: expected at least 1"),
        (["--seed", "-1"], "seed: expected at least 0"),
        (["--resume", "."], "has no checkpoint"),
        (["--resume", "nowhere"], "has no checkpoint"),
    ],
)
def test_settings(arguments, said):
    assert said in refuse("fit", *arguments)


def test_kernel_that_does_not_fit_in_memory(monkeypatch):
    monkeypatch.setattr(hardware, "available_memory", lambda: 50_000_000)
    line = refuse("fit", "--size", "96", "--patch", "1")
    assert "50 MB" in line
    assert f"{5 * 4 * 9216**2 / 1e9:.3g} GB" in line
    assert "9,216 groups" in line


def test_missing_library_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(hardware, "LAB_MODULES", ("click", "nothing_of_this_name"))
    line = refuse("fit")
    assert "nothing_of_this_name" in line
    assert 'pip install "iga-core[lab]"' in line


def test_output_folder():
    Path("file").write_text("text")
    assert "is not a folder" in refuse("fit", "--output", "file/run")
    assert "is not a folder" in refuse("fit", "--output", "file")
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    assert "other files" in refuse("fit", "--output", "full")
    Path("run").mkdir()
    Path("run/result.json").write_text("{}")
    assert "holds another run" in refuse("fit", "--output", "run")


def test_output_folder_that_cannot_be_made(monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    assert "Permission denied" in refuse("fit", "--size", "8", "--patch", "2", "--output", "x/y")


# pictures


def picture(seed=0, shape=(12, 10, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_not_an_image():
    Path("text.png").write_text("no image")
    assert "which is none" in refuse("fit", "text.png")
    Path("empty.png").write_bytes(b"")
    assert "which is none" in refuse("fit", "empty.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_truncated(suffix):
    Image.fromarray(picture(shape=(64, 64, 3))).save(f"whole.{suffix}")
    content = Path(f"whole.{suffix}").read_bytes()
    Path(f"half.{suffix}").write_bytes(content[: len(content) // 2])
    assert "truncated" in refuse("fit", f"half.{suffix}")


@pytest.mark.parametrize("limit", [100, 45])
def test_decompression_bomb(monkeypatch, limit):
    """Pillow warns above its limit, and raises above twice its limit."""
    Image.fromarray(picture()).save("bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert "decompression bomb" in refuse("fit", "bomb.png")


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_animated(suffix):
    frames = [Image.fromarray(picture(seed)) for seed in range(3)]
    frames[0].save(f"film.{suffix}", save_all=True, append_images=frames[1:])
    assert "got 3 frames" in refuse("fit", f"film.{suffix}")


def loaded(name):
    signal = signals.load(name, (10, 12))
    return signal.pixels, " ".join(signal.notes)


def test_colour_is_exact():
    Image.fromarray(picture()).save("colour.png")
    pixels, note = loaded("colour.png")
    np.testing.assert_array_equal(pixels, picture() / 255)
    assert note == ""


def test_grey():
    Image.fromarray(picture()[..., 0]).save("grey.png")
    pixels, note = loaded("grey.png")
    np.testing.assert_array_equal(pixels, picture()[..., :1] / 255)
    assert "grey" in note


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_exact(suffix):
    values = np.random.default_rng(0).integers(0, 65536, (12, 10)).astype(np.uint16)
    values[0, :2] = 0, 65535
    Image.fromarray(values).save(f"deep.{suffix}")
    pixels, note = loaded(f"deep.{suffix}")
    np.testing.assert_array_equal(pixels[..., 0], values / 65535)
    assert "65535" in note


def test_16_bit_colour_says_that_it_is_read_as_8():
    import struct
    import zlib

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    values = np.random.default_rng(0).integers(0, 65536, (12, 10, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 10, 12, 16, 2, 0, 0, 0)
    Path("deep.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    pixels, note = loaded("deep.png")
    np.testing.assert_allclose(pixels, values / 65535, atol=1 / 255)
    assert "8 bits" in note


def test_transparent_lies_on_white():
    layered = picture(shape=(12, 10, 4))
    Image.fromarray(layered).save("glass.png")
    pixels, note = loaded("glass.png")
    opacity = layered[..., 3:] / 255
    np.testing.assert_allclose(pixels, layered[..., :3] / 255 * opacity + 1 - opacity, atol=1e-12)
    assert "white" in note
    layered[..., 3] = 255
    Image.fromarray(layered).save("opaque.png")
    pixels, note = loaded("opaque.png")
    np.testing.assert_array_equal(pixels, layered[..., :3] / 255)
    assert "opaque" in note


def test_transparent_grey_has_one_channel():
    grey, opacity = (Image.fromarray(picture(seed, (12, 10))) for seed in range(2))
    Image.merge("LA", (grey, opacity)).save("glass.png")
    assert loaded("glass.png")[0].shape == (12, 10, 1)


def test_palette():
    paletted = Image.fromarray(picture()).quantize(8)
    paletted.save("palette.png")
    pixels, note = loaded("palette.png")
    np.testing.assert_array_equal(pixels, np.asarray(paletted.convert("RGB")) / 255)
    assert "palette" in note
    paletted.info["transparency"] = 0
    paletted.save("glass.png", transparency=0)
    pixels, note = loaded("glass.png")
    assert "white" in note
    np.testing.assert_array_equal(pixels[np.asarray(paletted) == 0], 1)


def test_other_modes():
    image = Image.fromarray(picture())
    image.convert("1").save("bits.png")
    pixels, note = loaded("bits.png")
    assert set(np.unique(pixels)) == {0.0, 1.0}
    assert "1-bit" in note
    image.convert("CMYK").save("print.tif")
    pixels, note = loaded("print.tif")
    assert pixels.shape == (12, 10, 3)
    assert "CMYK" in note
    values = np.random.default_rng(0).uniform(0, 1, (12, 10)).astype(np.float32)
    Image.fromarray(values).save("float.tif")
    np.testing.assert_array_equal(loaded("float.tif")[0][..., 0], values)
    Image.fromarray(2 * values).save("bright.tif")
    assert "in [0, 1]" in refuse("fit", "bright.tif")
    Image.fromarray(values.astype(np.int32)).save("wide.tif")
    assert "mode I" in refuse("fit", "wide.tif")


def test_exif_orientation():
    turned = Image.fromarray(picture())
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save("turned.png", exif=exif)
    signal = signals.load("turned.png", (12, 10))
    np.testing.assert_array_equal(signal.pixels, np.rot90(picture(), -1) / 255)
    assert "orientation" in " ".join(signal.notes)


def test_centre_square_and_resizing():
    Image.fromarray(picture(shape=(12, 40, 3))).save("wide.png")
    square = signals.load("wide.png", (12, None)).pixels
    np.testing.assert_array_equal(square, picture(shape=(12, 40, 3))[:, 14:26] / 255)
    smaller = signals.load("wide.png", (5, 7)).pixels
    assert smaller.shape == (7, 5, 3)
    assert smaller.min() >= 0
    assert smaller.max() <= 1
    assert "enlarged" in " ".join(signals.load("wide.png", (50, None)).notes)


def test_photographs_are_the_shipped_ones():
    known = signals.photographs()
    assert {"astronaut", "coffee", "chelsea", "camera"} <= set(known)
    assert all(path.is_file() for path in known.values())
    for name in known:
        try:
            pixels = signals.load(name, (8, None)).pixels
        except InputError as error:
            pytest.fail(f"{name}: {error}")
        assert pixels.shape in ((8, 8, 1), (8, 8, 3))


def test_grid_has_both_ends_and_x_along_the_width():
    coords = signals.grid(3, 2)
    expected = [[-1, -1], [0, -1], [1, -1], [-1, 1], [0, 1], [1, 1]]
    np.testing.assert_array_equal(coords, expected)
    np.testing.assert_array_equal(signals.grid(3, 2, slice(1, 2)), expected[3:])


# models and runs


@pytest.fixture(scope="module")
def _interrupted(tmp_path_factory):
    """A run that has just begun: a checkpoint, and a model made of it."""
    from iga_lab import runs, storage

    given = {
        "network": NETWORK, "frequencies": 2, "method": METHODS, "steps": 5, "width": 4,
        "depth": 1, "patch": 4, "end": None, "start": 0, "level": "next", "sampling": "random",
        "samples": None, "reach": "mean", "refresh": 1, "outputs": "sum", "optimizer": "adam",
        "learning_rate": None, "schedule": "cosine", "columns": None, "seed": 0,
        "dtype": "float32", "backend": "numpy", "device": None,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "run"
    run = runs.begin("astronaut", (8, None), given, str(folder))
    assert not folder.exists()
    run.start()
    parameters = run.courses[0].trainer.model.parameters
    model = storage.Model(run.settings.architecture, parameters, (8, 8))
    storage.save_model(folder / "model.safetensors", model, {})
    return folder


@pytest.fixture
def run(_interrupted):
    shutil.copytree(_interrupted, "run")
    return Path("run")


def metadata_of(path):
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return file.metadata()


def test_model_file_of_another_program(run):
    model = run / "model.safetensors"
    arrays = load_file(model)
    save_file(arrays, "other.safetensors")
    assert "another program" in refuse("render", "other.safetensors")
    save_file(arrays, "other.safetensors", {"program": "someone", "kind": "model"})
    assert "someone" in refuse("render", "other.safetensors")
    assert "checkpoint" in refuse("render", run / "checkpoint.safetensors")
    assert "no file" in refuse("render", "missing.safetensors")
    assert "a folder" in refuse("render", run)
    Path("text").write_text("no model")
    assert "damaged" in refuse("render", "text")


def test_damaged_model(run):
    model = run / "model.safetensors"
    content, arrays, metadata = model.read_bytes(), load_file(model), metadata_of(model)
    model.write_bytes(content[:-5])
    assert "damaged" in refuse("render", model)
    save_file({k: v for k, v in arrays.items() if k != "layers.1.bias"}, model, metadata)
    assert "damaged" in refuse("render", model)
    save_file(arrays | {"layers.1.bias": np.zeros(7, np.float32)}, model, metadata)
    assert "damaged" in refuse("render", model)
    save_file(arrays | {"layers.1.bias": np.full(3, np.nan, np.float32)}, model, metadata)
    assert "NaN" in refuse("render", model)
    for key, value in (("network", "{}"), ("network", "["), ("size", "5")):
        save_file(arrays, model, metadata | {key: value})
        assert "damaged" in refuse("render", model)
    deep = json.loads(metadata["network"]) | {"depth": 10**9}
    save_file(arrays, model, metadata | {"network": json.dumps(deep)})
    assert "damaged" in refuse("render", model)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "0"], "got 0x0"),
        (["--size", "9999999x9999999"], "free memory"),
        (["--size", "9999999999"], "pixels a side"),
        (["--output", "picture.jpg"], "ends in .png"),
        (["--output", "nowhere/picture.png"], "a folder that exists"),
    ],
)
def test_render_settings(run, arguments, said):
    assert said in refuse("render", run / "model.safetensors", *arguments)


def test_damaged_checkpoint(run):
    path = run / "checkpoint.safetensors"
    content, arrays, metadata = path.read_bytes(), load_file(path), metadata_of(path)
    path.write_bytes(content[: len(content) // 2])
    assert "damaged" in refuse("fit", "--resume", run)
    save_file(arrays, path, {"program": "someone"})
    assert "someone" in refuse("fit", "--resume", run)
    for broken in (
        {"settings": "{}"},
        {"settings": "[]"},
        {"messages": "no json"},
        {"settings": json.dumps(json.loads(metadata["settings"]) | {"patch": 0})},
        {"settings": json.dumps(json.loads(metadata["settings"]) | {"width": "four"})},
        {"settings": json.dumps(json.loads(metadata["settings"]) | {"width": 5})},
        {"settings": json.dumps(json.loads(metadata["settings"]) | {"size": [9, 9]})},
    ):
        save_file(arrays, path, metadata | broken)
        refuse("fit", "--resume", run)
    for name in ("pixels", "plain/losses", "iga/trainer.done", "plain/trainer.parameters.0"):
        save_file({k: v for k, v in arrays.items() if k != name}, path, metadata)
        refuse("fit", "--resume", run)
