"""Functions, sounds and arrays as signals, and what is refused of them."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from iga_lab import memory, signals
from iga_lab.errors import InputError
from iga_lab.signals import exported, images, resampling
from tests.support.lab import refuse

RATE = 8000


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_coordinates_have_both_ends_and_x_along_the_last_axis():
    expected = [[-1, -1], [0, -1], [1, -1], [-1, 1], [0, 1], [1, 1]]
    np.testing.assert_array_equal(signals.coordinates((2, 3)), expected)
    np.testing.assert_array_equal(signals.coordinates((2, 3), slice(1, 2)), expected[3:])
    np.testing.assert_array_equal(signals.coordinates((3,))[:, 0], [-1, 0, 1])
    volume = signals.coordinates((2, 3, 5)).reshape(2, 3, 5, 3)
    np.testing.assert_array_equal(volume[1, 2, :, 0], np.linspace(-1, 1, 5))
    np.testing.assert_array_equal(volume[1, :, 4, 1], np.linspace(-1, 1, 3))
    np.testing.assert_array_equal(volume[:, 2, 4, 2], [-1, 1])


# functions


def amplitudes(values, frequencies):
    """Least squares of sines and cosines of those frequencies; and the largest residual."""
    x = np.pi * np.linspace(-1, 1, len(values))[:, None] * np.asarray(frequencies)
    basis = np.concatenate([np.cos(x), np.sin(x)], axis=1)
    weights, *_ = np.linalg.lstsq(basis, values[:, 0], rcond=None)
    residual = np.abs(basis @ weights - values[:, 0]).max()
    return np.hypot(*weights.reshape(2, -1)), residual


@pytest.mark.parametrize(
    ("name", "frequencies"), [("sines", range(5, 51, 5)), ("sines:3,20.5", [3, 20.5])]
)
def test_sines_are_sums_of_sines_of_one_amplitude(name, frequencies):
    signal = signals.load(name, (400, None))
    assert (signal.name, signal.kind, signal.values.shape) == ("sines", "function", (400, 1))
    assert np.abs(signal.values).max() == 0.5
    found, residual = amplitudes(signal.values, frequencies)
    np.testing.assert_allclose(found, found[0], rtol=1e-9)
    assert residual < 1e-12
    np.testing.assert_array_equal(signals.load(name, (400, None)).values, signal.values)
    assert signals.load(name).values.shape == (1024, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sines:5,many"], "got 'sines:5,many'"),
        (["sines:-5"], "above 0"),
        (["sines:nan"], "above 0"),
        (["sines:600"], "at most 511.5, half of the samples"),
        (["sines", "--size", "10x10"], "expected one number for a function, got 10x10"),
        (["sines", "--size", "0"], "at least 1 sample a side, got 0"),
        (["sines", "--size", "9999999999999"], "free memory"),
        (["sine"], "did you mean 'sines'"),
        (["sines", "--patch", "2000"], "the signal's 1024 samples, got 2000"),
        (["sines", "--patch", "4", "--batch", "300"], "at most the 256 groups, got 300"),
        (["sines", "--batch", "0"], "batch: expected at least 1"),
        (
            ["sines", "--patch", "4", "--batch", "20", "--filter", "equalise", "--end", "20"],
            "less than the 20 groups of a batch",
        ),
        (["sines", "--batch", "20", "--refresh", "2"], "refresh: expected 1 with --batch, got 2"),
        (["sines", "--grouping", "block"], "did you mean 'blocks'"),
        (["sines", "--lpips-weights", "alex.pt"], "an image to measure, got a function"),
        (["--lpips-weights", "missing.pt"], "missing.pt"),
        (["--lpips-weights", "."], "weights"),
        (
            ["sines", "--network", "siren", "--method", "bn"],
            "expected --network relu or pe with bn, got 'siren'",
        ),
        (
            ["sines", "--network", "gauss", "--method", "fr"],
            "expected --network relu or pe or siren with fr, got 'gauss'",
        ),
        (["sines", "--depth", "1", "--method", "iga+fr"], "raise --depth, or leave iga+fr out"),
        (["--method", "iga+bn"], "did you mean"),
    ],
)
def test_settings(arguments, said):
    assert said in refuse("fit", *arguments)


# sounds


def write(name, samples, rate=RATE):
    wavfile.write(name, rate, samples)
    return name


def wave(count=100):
    return np.sin(np.arange(count) / 3) * np.linspace(0.1, 0.9, count)


def halved(values):
    return 0.5 * values / np.abs(values).max()


@pytest.mark.parametrize(
    ("dtype", "scale"), [("int16", 2**15 - 1), ("int32", 2**31 - 1), ("float32", 1), ("float64", 1)]
)
def test_sound_is_exact_but_for_its_scale(dtype, scale):
    samples = np.asarray(wave() * scale, dtype=dtype)
    signal = signals.load(write("sound.wav", samples))
    assert (signal.name, signal.kind, signal.rate) == ("sound", "sound", RATE)
    np.testing.assert_allclose(signal.values[:, 0], halved(samples.astype(float)), rtol=1e-12)
    assert "100 samples at 8,000 Hz" in " ".join(signal.notes)


def test_sounds_of_8_and_24_bits():
    samples = np.rint(128 + 100 * wave()).astype(np.uint8)
    signal = signals.load(write("sound.wav", samples))
    np.testing.assert_allclose(signal.values[:, 0], halved(samples - 128.0), rtol=1e-12)
    levels = np.rint(wave() * (2**23 - 1)).astype(int)
    data = b"".join(int(level).to_bytes(3, "little", signed=True) for level in levels)
    Path("deep.wav").write_bytes(riff(1, 24, data))
    np.testing.assert_allclose(signals.load("deep.wav").values[:, 0], halved(levels), rtol=1e-12)


def riff(encoding, bits, data, channels=1, said=None, rate=RATE):
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", encoding, channels, rate, rate * block % 2**32, block, bits)
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data"
    chunks += struct.pack("<I", len(data) if said is None else said) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def test_a_sound_without_its_length_is_read_to_its_end():
    """As programs write it that do not know where it will end."""
    samples = np.rint(30000 * wave()).astype("<i2")
    Path("stream.wav").write_bytes(riff(1, 16, samples.tobytes(), said=2**32 - 20))
    values = signals.load("stream.wav").values[:, 0]
    np.testing.assert_allclose(values, halved(samples.astype(float)), rtol=1e-12)


def test_size_of_a_sound_is_its_middle():
    samples = wave(1000).astype(np.float32)
    write("sound.wav", samples)
    part = signals.load("sound.wav", (100, None)).values[:, 0]
    np.testing.assert_allclose(part, halved(samples[450:550]), rtol=1e-6)
    assert signals.load("sound.wav").values.shape == (1000, 1)
    write("long.wav", wave(20000))
    assert signals.load("long.wav").values.shape == (16384, 1)


def test_channels_of_a_sound_keep_their_balance():
    samples = np.stack([wave(), 0.25 * wave()[::-1], np.zeros(100)], axis=1)
    write("stereo.wav", samples.astype(np.float32))
    signal = signals.load("stereo.wav", (60, None))
    np.testing.assert_allclose(signal.values, halved(samples[20:80]), rtol=1e-6)
    loudest = np.abs(samples[20:80]).max()
    assert (signal.low, signal.high) == pytest.approx((-loudest, loudest))
    assert "3 channels" in " ".join(signal.notes)
    _, again = wavfile.read(io.BytesIO(exported("sound", signal.values, RATE)))
    np.testing.assert_allclose(again / 32767, samples[20:80] / loudest, atol=1 / 32767)


def test_only_the_middle_of_a_long_sound_is_read(monkeypatch):
    write("long.wav", np.rint(30000 * wave(20000)).astype(np.int16))
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("all of it was read"))
    assert signals.load("long.wav", (50, None)).values.shape == (50, 1)


def test_export_of_a_sound_is_the_sound():
    content = exported("sound", 0.5 * wave()[:, None], RATE)
    rate, samples = wavfile.read(io.BytesIO(content))
    assert (rate, samples.dtype) == (RATE, np.int16)
    np.testing.assert_allclose(samples / 32767, wave(), atol=1 / 32767)


def test_sounds_that_cannot_be_used(monkeypatch):
    write("many.wav", np.zeros((4, 33), np.float32))
    assert "1 to 32 channels, got 33" in refuse("fit", "many.wav")
    for channels, rate in ((1, 3_000_000_000), (2, 1_100_000_000)):
        content = riff(3, 32, np.float32([[0.5] * channels]).tobytes(), channels, rate=rate)
        Path("fast.wav").write_bytes(content)
        assert f"can hold, got {rate:,} Hz" in refuse("fit", "fast.wav")
    write("silence.wav", np.zeros(50, np.int16))
    assert "0" in refuse("fit", "silence.wav")
    broken = wave()
    broken[7] = np.nan
    assert "NaN" in refuse("fit", write("nan.wav", broken))
    assert "0 samples" in refuse("fit", write("empty.wav", np.zeros(0, np.int16)))
    write("short.wav", wave())
    assert "at most the 100 samples" in refuse("fit", "short.wav", "--size", "101")
    assert "one number" in refuse("fit", "short.wav", "--size", "10x10")
    content = Path("short.wav").read_bytes()
    for name, part in (("half", content[:500]), ("head", content[:30]), ("none", b"")):
        Path(f"{name}.wav").write_bytes(part)
        assert "cannot be read" in refuse("fit", f"{name}.wav")
    Path("text.wav").write_text("no sound")
    assert "cannot be read" in refuse("fit", "text.wav")
    Path("law.wav").write_bytes(riff(7, 8, bytes(100)))  # mu-law
    assert "PCM or floating point" in refuse("fit", "law.wav")
    Path("deep.wav").write_bytes(riff(1, 24, bytes(range(90))))
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    assert "'deep.wav', a sound of 134 bytes that has to be read whole" in refuse("fit", "deep.wav")
    assert "100 samples, which takes 40 kB" in refuse("fit", "short.wav")


# arrays


def test_arrays_of_pictures():
    random = np.random.default_rng(0)
    for shape, channels in (((6, 8), 1), ((6, 8, 1), 1), ((6, 8, 3), 3)):
        values = random.integers(0, 65536, shape).astype(np.uint16)
        np.save("picture.npy", values)
        signal = signals.load("picture.npy", (8, 6))
        assert signal.kind == "image"
        np.testing.assert_array_equal(signal.values, values.reshape(6, 8, channels) / 65535)
        assert "uint16 divided by 65535" in " ".join(signal.notes)
    values = random.uniform(size=(40, 60))
    np.save("picture.npy", values)
    np.testing.assert_array_equal(
        signals.load("picture.npy", (40, None)).values[..., 0], values[:, 10:50]
    )
    assert signals.load("picture.npy", (10, None)).values.shape == (10, 10, 1)
    np.save("mask.npy", values > 0.5)
    assert set(np.unique(signals.load("mask.npy", (60, 40)).values)) == {0, 1}


def test_arrays_of_volumes():
    values = np.random.default_rng(0).uniform(size=(4, 6, 8)).astype(np.float32)
    np.save("volume.npy", np.asfortranarray(values))
    whole = signals.load("volume.npy")
    assert whole.kind == "volume"
    np.testing.assert_array_equal(whole.values[..., 0], values)
    assert "(z, y, x)" in " ".join(whole.notes)
    cube = signals.load("volume.npy", (4, None)).values[..., 0]
    np.testing.assert_array_equal(cube, values[:, 1:5, 2:6])
    assert signals.load("volume.npy", (5, 6, 7)).values.shape == (7, 6, 5, 1)
    smooth = np.linspace(0, 1, 32)[None, None, :] * np.ones((32, 32, 1))
    np.save("smooth.npy", smooth)
    smaller = signals.load("smooth.npy", (8, None)).values[2:-2, 2:-2, 2:-2, 0]
    expected = smooth[0, 0].reshape(8, 4).mean(axis=1)[2:-2]
    np.testing.assert_allclose(smaller, np.broadcast_to(expected, smaller.shape), atol=1e-6)
    assert "one side, or WxHxD for a volume" in refuse("fit", "volume.npy", "--size", "4x4")


def header(shape, dtype="<f8", data=b""):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (117 - len(text)) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


def test_arrays_that_cannot_be_used(monkeypatch):
    for name, content in {
        "huge": header((1 << 40, 1 << 40)),
        "overflow": header((1 << 62, 1 << 62, 1 << 62)),
        "negative": header((-3, -4), data=bytes(200)),
        "truncated": header((10, 10), data=bytes(100)),
        "none": b"",
        "text": b"no array",
        "object": header((2, 2), "|O", bytes(100)),
    }.items():
        Path(f"{name}.npy").write_bytes(content)
        refuse("fit", f"{name}.npy")
    np.save("pickled.npy", np.array([[{}, {}]], dtype=object), allow_pickle=True)
    assert "object" in refuse("fit", "pickled.npy")
    np.save("line.npy", np.zeros(5))
    assert "(height, width)" in refuse("fit", "line.npy")
    np.save("five.npy", np.zeros((2, 2, 2, 2, 2)))
    assert "(depth, height, width)" in refuse("fit", "five.npy")
    np.save("many.npy", np.zeros((5, 6, 33)))
    assert "1 to 32 channels, got 33" in refuse("fit", "many.npy", "--axes", "HWC")
    np.save("empty.npy", np.zeros((0, 5)))
    assert "(0, 5)" in refuse("fit", "empty.npy")
    np.save("complex.npy", np.zeros((5, 5), complex))
    assert "complex128" in refuse("fit", "complex.npy")
    np.save("bright.npy", np.full((5, 5), 1.5))
    assert "in [0, 1], got 1.5" in refuse("fit", "bright.npy")
    np.save("minus.npy", np.full((5, 5), -3, np.int8))
    assert "from 0 on, got -3 to -3" in refuse("fit", "minus.npy")
    np.save("nan.npy", np.full((5, 5), np.nan, np.float32))
    assert "got nan at 25 of 25 places" in refuse("fit", "nan.npy")
    np.save("inf.npy", np.where(np.eye(5) > 0, -np.inf, 0.5))
    assert "got -inf at 5 of 25 places" in refuse("fit", "inf.npy")
    np.savez("several.npz", a=np.zeros((5, 5)))
    Path("several.npz").rename("several.npy")
    refuse("fit", "several.npy")
    np.save("volume.npy", np.zeros((20, 20, 20)))
    monkeypatch.setattr(memory, "available_memory", lambda: 1_000_000)
    assert "20x20x20 points, which takes 3.2 MB; lower --size" in refuse("fit", "volume.npy")


@pytest.mark.parametrize(
    ("dtype", "largest", "full"),
    [
        ("int64", 255, 255), ("int64", 200, 255), ("uint8", 9, 255), ("int8", 100, 127),
        ("uint16", 4095, 4095), ("uint16", 4096, 8191), ("uint16", 65535, 65535),
        ("int16", 32767, 32767), ("uint32", 100_000, 131_071), (">u2", 300, 511), ("uint8", 1, 1),
        ("uint64", 1, 1), ("float32", 0.5, 1), ("bool", 1, 1),
    ],
)  # fmt: skip
def test_ranges_are_taken_from_the_data_and_said(dtype, largest, full):
    values = np.linspace(0, largest, 48).reshape(6, 8).astype(dtype)
    np.save("array.npy", values)
    signal = signals.load("array.npy", (8, 6))
    np.testing.assert_array_equal(signal.values[..., 0], values.astype(float) / full)
    assert (signal.low, signal.high) == (0, full)
    notes = " ".join(signal.notes)
    assert (f"divided by {full}" in notes) == (full > 1)
    assert ("only" in notes) == (largest / full < 0.25)


@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize(
    ("axes", "kind"),
    [
        ("HWC", "image"), ("chw", "image"), ("CXY", "image"), ("WH", "image"), ("ZYX", "volume"),
        ("XYZ", "volume"), ("CDHW", "volume"), ("TYXC", "video"), ("TCHW", "video"),
        ("THW", "video"),
    ],
)  # fmt: skip
def test_layouts_that_are_said(axes, kind, fortran):
    """Whatever the order of the axes, each point has its own values; and they go as they came."""
    sides = {"T": 5, "D": 5, "Z": 5, "H": 6, "Y": 6, "W": 7, "X": 7, "C": 4}
    array = np.random.default_rng(0).uniform(size=[sides[a] for a in axes.upper()])
    np.save("array.npy", np.asfortranarray(array) if fortran else array)
    size = (7, 6) if kind in ("image", "video") else (7, 6, 5)
    signal = signals.load("array.npy", size, axes=axes)
    assert (signal.kind, signal.layout) == (kind, axes)
    letters = axes.upper().translate(str.maketrans("ZYX", "DHW")).lower()
    grid = {"image": "hw", "volume": "dhw", "video": "thw"}[kind]
    expected = np.einsum(f"{letters}->{grid}{'c' if 'c' in letters else ''}", array)
    np.testing.assert_array_equal(signal.values, expected.reshape(signal.values.shape))
    again = np.load(io.BytesIO(exported(kind, signal.values, None, axes)))
    np.testing.assert_array_equal(again, array.astype(np.float32))
    smaller = signals.load("array.npy", (3, None), axes=axes).values
    assert smaller.shape[-3:-1] == (3, 3)
    assert smaller.shape[0] == (5 if kind == "video" else 3)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((3, 16, 20), "CHW or DHW"), ((1, 16, 20), "CHW or DHW"), ((16, 20, 4), "HWC or DHW"),
        ((16, 20, 2), "HWC or DHW"), ((3, 20, 3), "HWC, CHW or DHW"),
        ((6, 16, 20, 4), "DHWC or THWC"), ((3, 6, 16, 20), "CDHW or CTHW"),
    ],
)  # fmt: skip
def test_layouts_that_are_not_clear_are_asked_for(shape, said):
    np.save("array.npy", np.random.default_rng(0).uniform(size=shape))
    assert f"got shape {shape} alone; say --axes {said}" in refuse("fit", "array.npy")


@pytest.mark.parametrize(
    ("shape", "kind", "layout"),
    [
        ((6, 8), "image", "HW"), ((6, 8, 3), "image", "HWC"), ((6, 8, 9), "volume", "DHW"),
        ((4, 6, 8), "volume", "DHW"), ((5, 6, 8, 3), "volume", "DHWC"),
    ],
)  # fmt: skip
def test_layouts_that_are_known_are_said(shape, kind, layout):
    np.save("array.npy", np.random.default_rng(0).uniform(size=shape))
    signal = signals.load("array.npy")
    assert (signal.kind, signal.layout) == (kind, layout)
    assert f"its axes taken as {layout}" in signal.notes[0]
    assert ("--axes" in signal.notes[0]) == (shape[0] == 4 or len(shape) == 4)


def test_axes_that_cannot_be_used():
    np.save("array.npy", np.zeros((6, 8, 9)))
    for axes in ("HW", "HHW", "HWQ", "TDHW", "CHWC", "", "DHWCC", "TC"):
        assert "axes: expected a letter" in refuse("fit", "array.npy", "--axes", axes)
    write("short.wav", wave())
    for name in ("sines", "short.wav", "astronaut"):
        assert "axes: expected an array" in refuse("fit", name, "--axes", "THWC")


def test_a_large_array_is_shrunk_as_it_is_read(monkeypatch):
    """By blocks, of which each is read once; with the result of all at once."""
    values = np.random.default_rng(0).uniform(size=(90, 120, 3))
    np.save("array.npy", values)
    whole, seen = signals.load("array.npy", (20, None)).values, []
    original = np.load

    def watched(*given, **named):
        array = original(*given, **named)
        return _Watched(array, seen)

    monkeypatch.setattr(resampling, "PART_VALUES", 1000)
    np.testing.assert_array_equal(signals.load("array.npy", (20, None)).values, whole)
    monkeypatch.setattr(np, "load", watched)
    opened = np.load("array.npy")
    resampling.resampled(
        lambda box: opened[box], resampling.whole_box(values.shape), (9, 8, 3), False
    )
    assert max(seen) <= 1000
    assert sum(seen) == values.size


class _Watched:
    def __init__(self, array, seen):
        self.array, self.seen = array, seen

    def __getitem__(self, box):
        part = np.array(self.array[box])
        self.seen.append(part.size)
        return part


@pytest.mark.parametrize("part", [7, 50, 400, 10**6])
@pytest.mark.parametrize("smooth", [False, True])
def test_resampling_in_parts_is_that_of_each_axis(part, smooth, monkeypatch):
    """Against one matrix an axis, made by resampling the columns of the identity."""
    values = np.random.default_rng(0).uniform(size=(5, 11, 14, 2))
    target = (3, 4, 17, 2)
    monkeypatch.setattr(resampling, "PART_VALUES", part)
    found = resampling.resampled(
        lambda box: values[box], resampling.whole_box(values.shape), target, smooth
    )
    kind = Image.Resampling.BILINEAR if smooth else Image.Resampling.LANCZOS
    expected = values
    for axis, (old, new) in enumerate(zip(values.shape, target, strict=True)):
        one = Image.fromarray(np.eye(old, dtype=np.float32)).resize((old, new), kind)
        matrix = np.asarray(one, dtype=float) if old != new else np.eye(old)
        expected = np.moveaxis(np.tensordot(matrix, expected, (1, axis)), 0, axis)
    np.testing.assert_allclose(found, expected, atol=1e-6)


# names


def test_folders_are_refused_with_what_to_do():
    for name in ("music.wav", "solid.obj", "volume.npy", "pictures"):
        Path(name).mkdir()
        assert "is a folder; name a file in it" in refuse("fit", name)


def test_meshes_are_shapes():
    from trimesh.creation import icosphere

    icosphere(3).export("ball.ply")
    told = []
    signal = signals.load("ball.ply", (16, None), lambda *news: told.append(news))
    assert (signal.kind, signal.values.shape) == ("shape", (16, 16, 16, 1))
    assert set(np.unique(signal.values)) == {0, 1}
    assert told == [(1280, 1280)]
    assert "several" in refuse("fit", "ball.ply", "--size", "16x16x16")
    assert "0." in signal.notes[-1]
    assert "at least 2" in refuse("fit", "ball.ply", "--size", "1")
    Path("open.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert "watertight" in refuse("fit", "open.obj")


def test_every_name_can_be_given():
    assert "sines" not in images.photographs()
    with pytest.raises(InputError, match=r"the names are .*sines"):
        signals.load("zzzzzz")
