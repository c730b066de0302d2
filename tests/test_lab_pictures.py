"""Image files as signals, and what is refused of them."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from iga_lab import signals
from iga_lab.errors import InputError
from iga_lab.signals import images, sizes
from tests.support.lab import refuse


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


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
def test_of_several_frames_the_first_is_taken_or_all(suffix):
    frames = [Image.fromarray(picture(seed)).quantize(9).convert("RGB") for seed in range(3)]
    given = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(f"film.{suffix}", save_all=True, append_images=frames[1:], **given)
    pixels, note = loaded(f"film.{suffix}")
    np.testing.assert_allclose(pixels, np.asarray(frames[0]) / 255, atol=1e-12)
    assert "first" in note
    if suffix == "tif":
        assert "leave it out" in refuse("fit", "film.tif", "--axes", "THWC")
        return
    assert "--axes THWC" in note
    signal = signals.load(f"film.{suffix}", axes="TYXC")
    assert (signal.kind, signal.layout) == ("video", "TYXC")
    np.testing.assert_allclose(signal.values, np.stack(frames) / 255, atol=1e-12)
    assert signals.load(f"film.{suffix}", (6, None), axes="THWC").values.shape == (3, 6, 6, 3)


def gif(width, height):
    """One white pixel in a corner of a large screen, which is transparent."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    control = b"!\xf9\x04\x01\0\0\0\0"
    return screen + control + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02D\x01\0;"


def peak(code):
    """Run code in a process of its own; returns the most bytes that it held.

    `getrusage` counts what the process held from which it was forked, this one.
    """
    told = "print(*(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{told}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return 1024 * int(done.stdout.split()[-2])


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's account of memory"
)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["screen.gif", "glass.png", "photograph.jpg"])
def test_what_is_large_is_read_in_little_more_than_its_pixels(name):
    if name == "screen.gif":
        Path(name).write_bytes(gif(9000, 9000))
    else:
        mode = "RGBA" if name == "glass.png" else "RGB"
        Image.new(mode, (10336, 7752), (200, 10, 20, 128)[: len(mode)]).save(name)
    load = f"from iga_lab import signals; signals.load({name!r}, (16, None))"
    # Beside the libraries, 4 bytes a pixel; a JPEG is decoded at an eighth of its sides.
    assert peak(load) < (200e6 if name == "photograph.jpg" else 500e6)


def test_what_decoding_takes_is_stated_before(monkeypatch):
    Image.fromarray(picture(shape=(200, 300, 3))).save("large.png")
    Image.fromarray(picture(shape=(200, 300, 3))).save("large.jpg")
    monkeypatch.setattr(sizes, "MOST_DECODED", 200_000)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    for name, remedy in (("large.png", "save it as a JPEG"), ("large.jpg", "lower --size")):
        line = refuse("fit", name, "--size", "90", "--patch", "9")
        assert f"got {name!r}, of 300 × 200 pixels, which takes" in line
        assert "at most 200 kB of memory" in line
        assert remedy in line


def test_jpegs_are_decoded_at_a_reduced_size():
    y, x = np.mgrid[:480, :640] / 640
    smooth = np.stack([x, y, np.cos(9 * x) / 2 + 0.5], axis=-1)
    Image.fromarray(np.uint8(255 * smooth)).save("smooth.jpg", quality=95)
    found = signals.load("smooth.jpg", (20, None)).values
    expected = smooth[:, 80:560].reshape(20, 24, 20, 24, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(found, expected, atol=0.03)
    with images._opened(Path("smooth.jpg")) as image:
        images._still(Path("smooth.jpg"), image, (20, None))
        assert image.size == (80, 60)


def loaded(name):
    signal = signals.load(name, (10, 12))
    return signal.values, " ".join(signal.notes)


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
    np.testing.assert_array_equal(signal.values, np.rot90(picture(), -1) / 255)
    assert "orientation" in " ".join(signal.notes)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("size", [(10, 12), (12, 10), (5, 7), (6, None)])
def test_every_orientation(orientation, size):
    """Against Pillow's own turning of the whole; 0 and 9 are none, and nothing is said of them."""
    image = Image.fromarray(picture(shape=(12, 10, 3)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save("turned.png", exif=exif)
    with Image.open("turned.png") as stored:
        ImageOps.exif_transpose(stored).save("upright.png", exif=b"")
    found, expected = (signals.load(name, size) for name in ("turned.png", "upright.png"))
    np.testing.assert_allclose(found.values, expected.values, atol=1e-6)
    assert ("orientation" in " ".join(found.notes)) == (orientation in range(2, 9))


def test_centre_square_and_resizing():
    Image.fromarray(picture(shape=(12, 40, 3))).save("wide.png")
    square = signals.load("wide.png", (12, None)).values
    np.testing.assert_array_equal(square, picture(shape=(12, 40, 3))[:, 14:26] / 255)
    smaller = signals.load("wide.png", (5, 7)).values
    assert smaller.shape == (7, 5, 3)
    assert smaller.min() >= 0
    assert smaller.max() <= 1
    assert "enlarged" in " ".join(signals.load("wide.png", (50, None)).notes)


def test_photographs_are_the_shipped_ones():
    known = images.photographs()
    assert {"astronaut", "coffee", "chelsea", "camera"} <= set(known)
    assert all(path.is_file() for path in known.values())
    for name in known:
        try:
            pixels = signals.load(name, (8, None)).values
        except InputError as error:
            pytest.fail(f"{name}: {error}")
        assert pixels.shape in ((8, 8, 1), (8, 8, 3))
