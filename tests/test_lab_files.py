"""Models and checkpoints that others made, cut, edited or mixed up; and folders of two owners."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from iga_lab import files
from iga_lab.errors import InputError, printable
from iga_lab.files import PART, from_json, hold, sweep, write_whole
from iga_lab.runs import course as courses
from iga_lab.runs import folders, models, storage
from iga_lab.runs import run as runs
from iga_lab.runs.storage import UnusableError
from iga_lab.settings import choose, defaults
from iga_lab.signals import Form, load
from tests.support.drawing import nothing_drawn
from tests.support.forging import digest_of, file_of, forged, opened, reforge, said
from tests.support.lab import (
    FILES,
    UNFINISHED,
    fit,
    iga,
    names,
    refuse,
    result_of,
    same_models,
    saved_often,
    signal_of,
    step_hook,
    tree,
)

pytestmark = pytest.mark.usefixtures("undrawn")

GIVEN = {
    "network": defaults.NETWORK, "frequencies": 2, "method": defaults.METHODS, "steps": 5, "width": 4,
    "depth": 1, "patch": 4, "filter": "damp", "scale": None, "factor": None, "end": None,
    "start": None, "level": None, "sampling": None, "samples": None, "reach": "mean",
    "outputs": None, "refresh": None, "average": None, "optimizer": "adam",
    "learning_rate": None, "schedule": "cosine", "average_weights": None, "columns": None, "seed": 0,
    "dtype": "float32", "backend": "numpy", "device": None, "grouping": "patches",
    "batch": None, "lpips_weights": None,
}  # fmt: skip


def begun(folder, steps=0, **given):
    """A run that was killed after some steps: its folder, open to others."""
    signal = load("astronaut", (8, None))
    run = runs.begin(choose(GIVEN | given, signal), signal.values, folder)
    assert not folder.exists()
    run.start()
    for _ in range(steps):
        for course in run.courses:
            course.step()
        run.save()
    run.close()
    return run


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run that was killed after its second step, and a model made of it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run = begun(folder, steps=2)
    model = models.Model(run.settings.network, run.courses[0].folded(), Form("image", (8, 8), 3))
    (folder / "model.safetensors").write_bytes(b"".join(models.model_file(model, {})))
    return folder


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(killed):
    shutil.copytree(killed, "run")
    return Path("run")


@pytest.fixture
def model(run):
    return run / "model.safetensors"


@pytest.fixture
def only(run):
    """The only checkpoint of a run, in a folder that does not say which run it is of."""
    for name in (folders.BEFORE, folders.MARK):
        (run / name).unlink()
    return run / folders.CHECKPOINT


# the format

ARRAYS = {
    "a": np.arange(5.0), "b/c.d": np.float32([[1, 2], [3, 4]]), "bytes": np.uint8([1, 2, 3]),
    "none": np.zeros((0, 3)), "one": np.asarray(7), "yes": np.asarray(True),
}  # fmt: skip


def test_other_programs_read_it_and_the_digest_is_the_documented_one():
    path = Path("file.safetensors")
    write_whole(path, *storage.packed(ARRAYS, {"kind": "model", "name": "größe\udcff"}))
    arrays, words = opened(path)
    assert words["name"] == "größe\\udcff"
    assert words["digest"] == digest_of(ARRAYS, words)
    found = storage.opened(path, "model").read("model")
    assert arrays.keys() == found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        for other in (arrays[name], found[name]):
            assert (other.dtype, other.shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(other, array)
        assert found[name].flags.writeable


def test_equal_content_gives_equal_bytes_in_whatever_order_it_came():
    words = {"kind": "model", "name": "one", "about": "two"}
    one = storage.packed(ARRAYS, words)
    other = storage.packed(dict(reversed(ARRAYS.items())), dict(reversed(words.items())))
    assert b"".join(one) == b"".join(other)


def test_a_file_that_another_program_has_ordered_anew_is_the_same(model):
    before = models.load_model(model)
    reforge(model)  # in an order of its own
    for one, other in zip(before.parameters, models.load_model(model).parameters, strict=True):
        np.testing.assert_array_equal(one, other)


def unusable(path, content, kind="model"):
    path.write_bytes(content)
    try:
        storage.opened(path, kind).read("model")
    except UnusableError:
        return True
    return False


@pytest.mark.parametrize("name", ["model.safetensors", folders.CHECKPOINT])
@given(st.integers(0, 2**40), st.integers(0, 7))
def test_every_flipped_bit_is_found(killed, tmp_path_factory, name, place, bit):
    content = bytearray((killed / name).read_bytes())
    content[place % len(content)] ^= 1 << bit
    kind = name.partition(".")[0]
    assert unusable(tmp_path_factory.getbasetemp() / "flipped", bytes(content), kind)


@pytest.mark.slow
def test_every_single_flipped_bit_is_found(killed, tmp_path):
    content = (killed / "model.safetensors").read_bytes()
    assert not unusable(tmp_path / "whole", content)
    for place in range(len(content)):
        for bit in range(8):
            flipped = content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
            assert unusable(tmp_path / "flipped", flipped), (place, bit)


@given(st.data())
def test_what_is_cut_or_longer_is_found(killed, tmp_path_factory, data):
    content = (killed / "model.safetensors").read_bytes()
    path = tmp_path_factory.getbasetemp() / "cut"
    assert unusable(path, content[: data.draw(st.integers(0, len(content) - 1))])
    assert unusable(path, content + data.draw(st.binary(min_size=1, max_size=20)))


def one(dtype="F32", shape=(1,), offsets=(0, 4), **others):
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **others}}


HEADERS = {
    "nothing": b"",
    "too short": b"1234",
    "longer than the file": (2**40).to_bytes(8, "little") + b"{}",
    "negative": (2**64 - 1).to_bytes(8, "little") + b"{}",
    "no JSON": file_of(b"no json"),
    "not UTF-8": file_of(b'{"\xff": 1}'),
    "UTF-16": file_of("{}".encode("utf-16")),
    "no table": file_of(b"[]"),
    "deep lists": file_of(b"[" * 100_000),
    "deep tables": file_of(b'{"a":' * 100_000),
    "a name twice": file_of(b'{"x": 1, "x": 1}'),
    "infinity": file_of(b'{"x": Infinity}'),
    "an infinite number": file_of(b'{"x": 1e999}'),
    "many digits": file_of(b'{"x": ' + b"9" * 10_000 + b"}"),
    "words of numbers": file_of({"__metadata__": {"kind": 1}}),
    "words in a list": file_of({"__metadata__": ["kind"]}),
    "no array": file_of({"x": 1}),
    "more than an array": file_of(one(more=1), bytes(4)),
    "float16": file_of(one("F16", [2]), bytes(4)),
    "no dtype": file_of(one(["F32"]), bytes(4)),
    "an infinite shape": file_of(b'{"x": {"dtype": "F32", "shape": [Infinity, 3], "data_offsets": [0, 4]}}', bytes(4)),
    "a negative shape": file_of(one(shape=[-1, -1]), bytes(4)),
    "a shape of words": file_of(one(shape=["1"]), bytes(4)),
    "a shape that is true": file_of(one(shape=[True]), bytes(4)),
    "a shape that is no list": file_of(one(shape="1"), bytes(4)),
    "a broken shape": file_of(one(shape=[1.0]), bytes(4)),
    "a deep shape": file_of(one(shape=json.loads("[" * 400 + "]" * 400)), bytes(4)),
    "many axes": file_of(one(shape=[1] * 9), bytes(4)),
    "a huge shape": file_of(one(shape=[2**62, 2**62]), bytes(4)),
    "another size": file_of(one(shape=[2]), bytes(4)),
    "beyond the end": file_of(one(offsets=[4, 8]), bytes(4)),
    "backwards": file_of(one(offsets=[4, 0]), bytes(4)),
    "one offset": file_of(one(offsets=[0]), bytes(4)),
    "a hole": file_of(one(offsets=[4, 8]), bytes(8)),
    "more behind": file_of(one(), bytes(8)),
    "overlapping": file_of(one() | {"y": one()["x"]}, bytes(4)),
    "a long name": file_of({"x" * 300: one()["x"]}, bytes(4)),
    "a name that rings": file_of({"\a": one()["x"]}, bytes(4)),
    "many arrays": file_of(
        b'{%s}' % b",".join(b'"%x":{}' % k for k in range(100_001))
    ),
    "too long": file_of(b'{"x": "%s"}' % (b" " * 2**24)),
}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(content, id=name, marks=[pytest.mark.slow] * (len(content) > 10**6))
        for name, content in HEADERS.items()
    ],
)
def test_headers_out_of_bounds(content):
    Path("model").write_bytes(content)
    assert "damaged" in refuse("render", "model")


def test_files_that_are_none():
    assert "no file" in refuse("render", "missing")
    assert "no file" in refuse("render", "/dev/null/model")
    assert "cannot be read" in refuse("render", 300 * "x")
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe")
    assert "no file" in refuse("render", "pipe")
    Path("link").symlink_to("link")
    assert "which" in refuse("render", "link")
    for path in ("missing", 300 * "x", "pipe", "/dev/null/run"):
        refuse("fit", "--resume", path)


@pytest.mark.parametrize("kind", ["render", "resume"])
def test_memory_is_asked_for_before_arrays_are_read(model, monkeypatch, kind):
    from iga_lab import memory

    def never(*_):
        raise AssertionError("read")

    monkeypatch.setattr(storage, "_read", never)
    monkeypatch.setattr(memory, "available_memory", lambda: 100)
    arguments = ["render", model] if kind == "render" else ["fit", "--resume", model.parent]
    assert "free memory" in refuse(*arguments)


def test_a_sparse_file_is_not_read(monkeypatch):
    """With a right header, all its arrays a hole that takes no place on the disk."""
    from iga_core import Network

    network = Network("relu", width=8000, depth=2).folded
    shapes = [list(shape) for shape in network.shapes]
    header, end = {}, 0
    for k, shape in enumerate(shapes):
        begin, end = end, end + 4 * int(np.prod(shape))
        name = f"layers.{k // 2}.{'bias' if k % 2 else 'weight'}"
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    model = models.Model(network, [np.zeros(shape, np.float32) for shape in network.shapes],
                         Form("image", (8, 8), 3))  # fmt: skip
    start = bytes(models.model_file(model, {})[0])
    with Path("sparse").open("wb") as file:
        file.write(start)
        file.truncate(len(start) + end)
    if 512 * Path("sparse").stat().st_blocks > end / 16:
        pytest.skip("this file system has no holes")
    monkeypatch.setattr(storage, "_read", None)
    assert "nearly all of it is empty" in refuse("render", "sparse")


# models


def test_model_file_of_another_program(run, model):
    arrays, _ = opened(model)
    Path("other").write_bytes(forged(arrays, {}))
    assert "another program" in refuse("render", "other")
    Path("other").write_bytes(forged(arrays, {"program": "some\x1b[31mone", "kind": "model\n"}))
    line = refuse("render", "other")
    assert r"some\x1b[31mone, model\n" in line
    reforge(model, words={"format": "\x1b]0;title\a" + 1000 * "9", "version": "\u202e"})
    line = refuse("render", model)
    assert r"format \x1b]0;title\x07999" in line
    assert r"\u202e" in line
    assert len(line) < 400
    assert "of iga-core, checkpoint" in refuse("render", run / folders.CHECKPOINT)
    assert "a folder" in refuse("render", run)


DEEP = json.loads("[" * 400 + "]" * 400)
NETWORK = [
    "{}", "[", "[]", "5", "null", '"pe"', '{"kind": "pe"}', "[" * 100_000, '{"a":' * 100_000,
]  # fmt: skip
NETWORK_CHANGES = [
    {"kind": "zzz"}, {"kind": ["pe"]}, {"kind": {}}, {"width": "4"}, {"width": 4.0}, {"width": True},
    {"width": 10**3000}, {"width": -1}, {"depth": 10**9}, {"depth": 2}, {"depth": ...}, {"more": 1},
    {"inputs": 3}, {"outputs": 4}, {"frequencies": 3}, {"frequencies": 10**6},
    {"fourier": {"count": 3}}, {"fourier": "../.."}, {"normalised": True}, {"normalised": "anyway"},
    {"normalised": [1]}, {"width": DEEP}, {"unknown": DEEP},
]  # fmt: skip
SIGNAL_CHANGES = [
    {"kind": "picture"}, {"kind": "shape"}, {"kind": []}, {"shape": [3]}, {"shape": [0, 3]},
    {"shape": [8.0, 8]}, {"shape": [True, 8]}, {"shape": "88"}, {"shape": 8}, {"shape": ["8", "8"]},
    {"shape": [2**31, 3]}, {"shape": [10**3000, 3]}, {"shape": [[8], 8]}, {"shape": ...},
    {"shape": [8] * 100_000},
    {"rate": "../.."}, {"rate": 8000}, {"rate": ...}, {"channels": 1}, {"channels": 7},
    {"channels": "3"}, {"../..": 1},
]  # fmt: skip


@pytest.mark.parametrize("text", NETWORK)
@pytest.mark.parametrize("word", ["network", "signal"])
def test_descriptions_that_are_none(model, word, text):
    reforge(model, words={word: text})
    assert "damaged" in refuse("render", model)


@pytest.mark.parametrize(
    ("word", "change"),
    [("network", change) for change in NETWORK_CHANGES]
    + [("signal", change) for change in SIGNAL_CHANGES],
)
def test_descriptions_that_were_edited(model, word, change):
    reforge(model, words=said(model, word, **change))
    assert "damaged" in refuse("render", model)


def test_descriptions_beside_json(model):
    for word in ("network", "signal"):
        text = opened(model)[1][word]
        for infinite in ("Infinity", "-Infinity", "NaN", "1e999"):
            reforge(model, words={word: text.replace("3", infinite, 1)})
            assert "damaged" in refuse("render", model)
        reforge(model, words={word: None})
        assert "damaged" in refuse("render", model)
        reforge(model, words={word: text})


@pytest.mark.parametrize(
    "arrays",
    [
        {"layers.1.bias": None},
        {"layers.2.bias": np.zeros(3, np.float32)},
        {"layers.1.bias": None, "layers.2.bias": np.zeros(3, np.float32)},
        {"layers.1.bias": np.zeros(7, np.float32)},
        {"layers.1.bias": np.zeros((3, 1), np.float32)},
        {"layers.1.bias": np.zeros(3)},
        {"layers.1.bias": np.zeros(3, np.int32)},
        {"layers.1.bias": np.zeros(3, np.float16)},
        {"layers.1.bias": np.full(3, np.nan, np.float32)},
        {"layers.1.weight": np.full((3, 4), np.inf, np.float32)},
    ],
)
def test_layers_that_are_not_the_networks(model, arrays):
    reforge(model, arrays=arrays)
    assert "damaged" in refuse("render", model)


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.uint8])
def test_layers_of_other_numbers(model, dtype):
    arrays, _ = opened(model)
    reforge(model, arrays={name: array.astype(dtype) for name, array in arrays.items()})
    assert "damaged" in refuse("render", model)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_that_overflow(model, dtype):
    arrays, _ = opened(model)
    most = np.finfo(dtype).max
    reforge(
        model, arrays={name: np.full_like(array, most, dtype) for name, array in arrays.items()}
    )
    assert "finite values" in refuse("render", model)


@pytest.mark.slow
def test_a_sound_that_would_be_too_fast():
    options, _ = signal_of("sound")
    options += ["--method", "plain", "--width", 4, "--steps", 1, "--output", "run"]
    assert iga("fit", *options).exit_code == 0
    line = refuse("render", "run/model-plain.safetensors", "--size", 40_000_000)
    assert "a rate of 1 to" in line


def test_wide_networks_are_evaluated_a_few_points_at_a_time(model, monkeypatch):
    from iga_lab.runs import rendering

    loaded = models.load_model(model)
    whole = rendering.evaluate(loaded, (9, 8))
    sizes = []
    original = rendering.MLP.__call__
    monkeypatch.setattr(
        rendering.MLP, "__call__", lambda mlp, x: sizes.append(len(x)) or original(mlp, x)
    )
    widest = max(max(layer) for layer in loaded.network.layers)
    monkeypatch.setattr(rendering, "BLOCK_BYTES", 5 * widest * 4)
    np.testing.assert_allclose(rendering.evaluate(loaded, (9, 8)), whole, atol=1e-6)
    assert max(sizes) == 5
    assert sum(sizes) == 72


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--size", "0"], "got 0x0"),
        (["--size", "9999999x9999999"], "free memory"),
        (["--size", "9999999999"], "pixels a side"),
        (["--output", "picture.jpg"], "ends in .png"),
        (["--output", "nowhere/picture.png"], "a folder that exists"),
    ],
)
def test_render_settings(model, arguments, expected):
    assert expected in refuse("render", model, *arguments)


# checkpoints

SETTINGS_CHANGES = [
    {"patch": 0}, {"patch": "4"}, {"patch": 4.0}, {"patch": True}, {"width": "four"}, {"width": 5},
    {"width": 10**9}, {"depth": 10**6}, {"depth": 10**3000}, {"shape": [9, 9]}, {"shape": [8.0, 8]},
    {"shape": ...}, {"channels": 1}, {"method": []}, {"method": ["plain"]}, {"method": "plain"},
    {"method": ["plain", "plain", "iga"]}, {"method": ["../.."]},
    {"method": [[1]]}, {"method": ["plain", "lion"]}, {"steps": 0}, {"steps": 5.5}, {"steps": 10**12}, {"steps": 1},
    {"seed": -1}, {"seed": "0"}, {"columns": 0}, {"columns": "1"}, {"batch": 0}, {"batch": 99},
    {"batch": True}, {"filter": "dmap"}, {"filter": {}}, {"filter": "equalise"}, {"scale": -1},
    {"scale": "1"}, {"factor": 0.1}, {"end": 3}, {"grouping": "rows"}, {"grouping": []},
    {"network": "zzz"}, {"frequencies": 10**9}, {"optimizer": "adm"}, {"optimizer": []},
    {"learning_rate": -1}, {"learning_rate": "fast"}, {"learning_rate": True}, {"schedule": "x"},
    {"average_weights": 1}, {"average_weights": 0.5}, {"sampling": "x"}, {"samples": 0},
    {"samples": 99}, {"reach": 1}, {"outputs": None}, {"refresh": 0}, {"average": 2},
    {"dtype": "float16"}, {"dtype": "float64"}, {"backend": "os"}, {"backend": 3}, {"device": 0},
    {"device": "cuda:0"}, {"device": "../.."}, {"rate": "../.."}, {"rate": 8000}, {"signal": 3},
    {"signal": ...}, {"lpips_weights": 3}, {"lpips_weights": "/dev/zero"}, {"kind": "shape"},
    {"kind": "sound"}, {"unknown": 1}, {"unknown": DEEP}, {"width": DEEP}, {"signal": DEEP},
]  # fmt: skip


@pytest.mark.parametrize("change", SETTINGS_CHANGES, ids=lambda change: str(change)[:40])
def test_settings_that_were_edited(only, change):
    reforge(only, words=said(only, "settings", **change))
    refuse("fit", "--resume", "run")


@pytest.mark.parametrize("depth", [17, 500, *range(900, 1000, 3), 10**6])
def test_nothing_is_nested_so_deep_that_only_reading_it_works(depth):
    """Some 990 levels can be read, but neither be repeated in an error nor written again."""
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        with pytest.raises(ValueError, match="nested too deep"):
            from_json(opening * depth + "1" + closing * depth)
        assert from_json(opening * 15 + "1" + closing * 15)


@pytest.mark.parametrize("text", [*NETWORK, "['" * 200_000, '{"a": Infinity}', None])
def test_settings_that_are_none(only, text):
    reforge(only, words={"settings": text})
    assert "damaged" in refuse("fit", "--resume", "run")


@pytest.mark.parametrize(
    "name",
    [
        "values", "plain/losses", "plain/durations", "plain/stopped", "iga/trainer.done",
        "plain/trainer.parameters.0", "plain/trainer.finite.1", "iga/trainer.adjustment.S",
    ],
)  # fmt: skip
def test_arrays_that_were_edited(only, name):
    arrays, _ = opened(only)
    array = arrays[name]
    others = [None, array.astype(np.uint8), np.zeros((3, *array.shape), array.dtype)]
    if array.dtype.kind == "f":
        others += [np.full_like(array, np.nan)] * (name != "plain/trainer.parameters.0")
        other = array.astype(np.float64 if array.itemsize == 4 else np.float32)
        others += [other] * (name != "iga/trainer.adjustment.S")  # which any precision serves
    if array.dtype == np.int64:
        others += [array - 10, array + 2**40]
    for other in others:
        reforge(only, arrays={name: other})
        line = refuse("fit", "--resume", "run")
        assert "damaged" in line
        reforge(only, arrays={name: array})


def test_values_beyond_those_of_a_signal(only):
    reforge(only, arrays={"values": 100 * opened(only)[0]["values"]})
    assert "damaged" in refuse("fit", "--resume", "run")


@pytest.mark.parametrize("name", ["more", "fr/losses", "plain/more", "plain/trainer.more"])
def test_arrays_of_nobody(only, name):
    reforge(only, arrays={name: np.zeros(3)})
    assert "damaged" in refuse("fit", "--resume", "run")


def test_a_network_that_the_file_has_no_room_for_is_not_made(only, monkeypatch):
    monkeypatch.setattr(runs, "prepare", None)
    reforge(only, words=said(only, "settings", width=20_000))
    assert "parameters are said" in refuse("fit", "--resume", "run")


def test_an_edited_checkpoint_of_a_right_digest_is_of_another_run(run):
    path = run / folders.CHECKPOINT
    content = path.read_bytes()
    for change in ({"words": said(path, "settings", learning_rate=1.0)},
                   {"arrays": {"values": opened(path)[0]["values"] ** 2}}):  # fmt: skip
        path.write_bytes(content)
        reforge(path, **change)
        line = refuse("fit", "--resume", "run")
        assert "'checkpoint.safetensors'" in line
        assert "of another run" in line
        assert "remove .iga-run" in line


def test_the_checkpoint_of_another_run(run):
    begun(Path("other"), steps=3, seed=1)
    shutil.copy(Path("other") / folders.CHECKPOINT, run)
    before = (run / folders.CHECKPOINT).read_bytes()
    line = refuse("fit", "--resume", "run")
    assert "which is of another run, of 'astronaut'" in line
    assert (run / folders.CHECKPOINT).read_bytes() == before
    # What the line says can be done.
    shutil.copytree(run, "again")
    (run / folders.CHECKPOINT).unlink()
    assert iga("fit", "--resume", "run").exit_code == 0
    assert result_of(run)["settings"]["seed"] == 0
    Path("again/.iga-run").unlink()
    assert iga("fit", "--resume", "again").exit_code == 0
    assert result_of(Path("again"))["settings"]["seed"] == 1


def test_a_checkpoint_goes_on_in_another_folder(run):
    Path("elsewhere").mkdir()
    shutil.copy(run / folders.CHECKPOINT, "elsewhere")
    assert iga("fit", "--resume", "elsewhere").exit_code == 0
    assert names("elsewhere") == FILES


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    with nothing_drawn():
        begun(folder)
        assert iga("fit", "--resume", folder).exit_code == 0
    return folder


def damage(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("how", [damage, Path.unlink, lambda path: path.write_bytes(b"")])
def test_the_checkpoint_before_a_damaged_one_is_gone_on_from(unbroken, run, how):
    (run / "model.safetensors").unlink()
    how(run / folders.CHECKPOINT)
    outcome = iga("fit", "--resume", "run")
    assert outcome.exit_code == 0, outcome.output
    first = outcome.stderr.splitlines()[0]
    assert "'checkpoint.safetensors', which is" in first
    assert "going on from the one before it, at step 1" in first
    assert names(run) == FILES
    same_models(run, unbroken)


def test_a_damaged_checkpoint_never_becomes_the_one_before(run):
    good = (run / folders.BEFORE).read_bytes()
    damage(run / folders.CHECKPOINT)
    again = runs.resume(run)
    again.start()
    assert (run / folders.CHECKPOINT).read_bytes() == good
    again.courses[0].step()
    again.save()
    again.close()
    assert (run / folders.BEFORE).read_bytes() == good


def test_two_damaged_checkpoints_are_both_named(run):
    damage(run / folders.CHECKPOINT)
    damage(run / folders.BEFORE)
    line = refuse("fit", "--resume", "run")
    assert "'checkpoint.safetensors', which is damaged" in line
    assert "'checkpoint-before.safetensors', which is damaged" in line
    assert "start a new one with `iga fit`" in line


def test_settings_are_the_same_when_they_are_read():
    """Of every filter and every kind of setting: what is written is what is read."""
    from iga_lab.settings import by_name, composed

    signal = load("astronaut", (8, None))
    for chosen in (
        {}, {"filter": "equalise", "end": 2, "level": "start"}, {"filter": "scale", "factor": 1},
        {"scale": 3, "average": 0, "learning_rate": 1, "average_weights": 0.5, "batch": 2},
        {"method": ("plain", "scale", "iga+fr"), "depth": 2, "optimizer": "muon", "columns": 3},
    ):  # fmt: skip
        settings = choose(GIVEN | chosen, signal)
        text = json.dumps(by_name(settings))
        assert composed(from_json(text)) == settings
        assert json.dumps(by_name(composed(from_json(text)))) == text


def test_results_that_are_none():
    Path("run").mkdir()
    result = Path("run/result.json")
    for text in ("", "[" * 100_000, "[]", '{"program": "iga-core"}', "5", '{"program": NaN}',
                 '{"program": "iga-core", "status": {}}'):  # fmt: skip
        result.write_text(text)
        assert "has no checkpoint" in refuse("fit", "--resume", "run")
    result.write_bytes(b"\xff")
    refuse("fit", "--resume", "run")


# words


def test_nothing_from_a_file_moves_a_terminal():
    assert printable("größe\x1b[2J\r\n\u202e\udcff\x9b") == r"größe\x1b[2J\r\n\u202e\udcff\x9b"
    assert str(InputError("a\nb")) == r"a\nb"


@given(st.text())
def test_printable_text_is_printable(text):
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


# whole files


def test_what_akilled_write_left_is_taken_up_by_the_next():
    path, part = Path("file"), Path(f".file{PART}")
    part.write_bytes(b"what a killed process had written")
    write_whole(path, b"ne", memoryview(b"w"))
    assert path.read_bytes() == b"new"
    assert names(".") == {"file"}


def test_a_file_that_another_process_writes_is_left_to_it():
    part = Path(f".file{PART}")
    with hold(part), pytest.raises(InputError, match="another process that writes it"):
        write_whole(Path("file"), b"new")
    assert names(".") == {part.name}


def test_a_link_in_place_of_an_unfinished_file_is_not_followed():
    Path("precious").write_bytes(b"mine")
    Path(f".file{PART}").symlink_to("precious")
    with pytest.raises(InputError, match="'file'"):
        write_whole(Path("file"), b"new")
    assert Path("precious").read_bytes() == b"mine"


def test_only_what_nothing_writes_is_swept():
    for name in (f".dead{PART}", f".alive{PART}", f"visible{PART}", ".other.part", "other"):
        Path(name).write_bytes(b"")
    with hold(Path(f".alive{PART}")):
        sweep(Path())
        assert names(".") == {f".alive{PART}", f"visible{PART}", ".other.part", "other"}


def test_a_lock_is_of_the_file_that_is_there():
    """One that was renamed or removed after it was opened says nothing of the one in its place."""
    path = Path("lock")
    first = hold(path)
    assert hold(path) is None
    path.unlink()
    with hold(path) as second:
        assert second is not None
        assert hold(path) is None
    first.file.close()


def test_without_locks_it_works_and_says_so(monkeypatch):
    import fcntl

    def refused(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    outcome = fit("run", "--method", "plain", steps=2)
    assert outcome.exit_code == 0, outcome.output
    assert "this file system has no locks" in outcome.stderr


# two processes, kills and disks


def test_two_runs_in_one_folder(run):
    claim = folders.claim_again(run)
    assert "another `iga fit` is at work" in refuse("fit", "--resume", "run")
    claim.close()
    Path("new").mkdir()
    with hold(Path("new") / folders.MARK):
        line = refuse("fit", "--size", 8, "--patch", 2, "--output", "new")
        assert "'new', in which another `iga fit` is at work" in line
    assert fit("new", "--method", "plain", steps=1).exit_code == 0


def test_a_folder_that_was_filled_meanwhile():
    """The other run is over by the time that this one makes its folder."""
    signal = load("astronaut", (8, None))
    run = runs.begin(choose(GIVEN, signal), signal.values, Path("run"))
    begun(Path("run"))
    before = tree("run")
    with pytest.raises(InputError, match="holds another run"):
        run.start()
    assert tree("run").keys() == before.keys()


def test_runs_of_one_second_have_folders_of_their_own(monkeypatch):
    class Stopped(folders.datetime):
        @classmethod
        def now(cls):
            return cls(2030, 1, 2)

    monkeypatch.setattr(folders, "datetime", Stopped)
    signal = load("astronaut", (8, None))
    all_runs = [runs.begin(choose(GIVEN, signal), signal.values, None) for _ in range(3)]
    for run in all_runs:
        run.start()
    assert [str(run.folder) for run in all_runs] == [
        f"iga-runs/astronaut-pe-20300102-000000{tail}" for tail in ("", "-2", "-3")
    ]
    for run in all_runs:
        run.close()


@pytest.mark.parametrize("name", ["../x", "a" * 400, "漢" * 300, "\udcff\x1b[1m", "a/b\\c:d"])
def test_default_folders_of_odd_names(name):
    folder = folders.new_folder(None, name)
    assert folder.parent == folders.RUNS
    assert printable(folder.name) == folder.name
    folders.make_folder(folder)


def test_a_run_that_was_gone_on_with_meanwhile(run):
    again = runs.resume(run)
    other = runs.resume(run)
    other.start()
    other.courses[0].step()
    other.save()
    other.close()
    with pytest.raises(InputError, match="has gone on meanwhile"):
        again.start()
    assert iga("fit", "--resume", "run").exit_code == 0


def test_what_a_kill_in_the_first_moment_leaves_counts_as_nothing():
    Path("run").mkdir()
    Path("run/.iga-run").write_bytes(b"iga-co")
    Path(f"run/.checkpoint.safetensors{PART}").write_bytes(b"half")
    outcome = fit("run", "--method", "plain", steps=1)
    assert outcome.exit_code == 0, outcome.output
    assert names("run") == FILES - {"model-iga.safetensors"}


def test_what_a_kill_in_the_last_moment_leaves_is_swept():
    assert fit("run", steps=1).exit_code == 0
    Path("run/.iga-run").write_bytes(b"iga-core 12\n")
    Path(f"run/.curves.png{PART}").write_bytes(b"half")
    assert "nothing to resume" in iga("fit", "--resume", "run").output
    assert names("run") == FILES


def test_a_kill_between_two_renames_loses_no_more_than_a_checkpoint(unbroken, run, monkeypatch):
    (run / "model.safetensors").unlink()
    replace = Path.replace

    def killed(path, target):
        replace(path, target)
        if path.name == folders.CHECKPOINT:
            raise SystemExit(9)

    again = runs.resume(run)
    again.start()
    with monkeypatch.context() as hook:
        hook.setattr(Path, "replace", killed)
        hook.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            again.save()
    again.close()
    assert names(run) == {folders.BEFORE, ".iga-run", f".checkpoint.safetensors{PART}"}
    assert iga("fit", "--resume", "run").exit_code == 0
    assert names(run) == FILES
    same_models(run, unbroken)


def full(_):
    raise OSError(28, "No space left on device")


def test_a_disk_that_is_full_for_a_while_stops_no_training(monkeypatch):
    with monkeypatch.context() as hook:
        saved_often(hook)
        step_hook(hook, "plain", 3, lambda: hook.setattr(os, "fsync", full))
        step_hook(hook, "iga", 9, lambda: hook.setattr(os, "fsync", lambda _: None))
        outcome = fit("run")
    assert outcome.exit_code == 0, outcome.output
    assert " ".join(outcome.stderr.split()).count("goes on without a new checkpoint") == 1
    assert names("run") == FILES


def test_a_full_disk_at_the_end_loses_what_does_not_fit_and_nothing_else(unbroken, monkeypatch):
    begun(Path("run"))
    original = files._write

    def filling(file, part, path, *others):
        if path.name in ("result.json", "model-iga.safetensors"):
            full(file)
        original(file, part, path, *others)

    with monkeypatch.context() as hook:
        hook.setattr(files, "_write", filling)
        outcome = iga("fit", "--resume", "run")
    assert outcome.exit_code == 2
    assert "PSNR" in outcome.stdout
    last = outcome.stderr.splitlines()[-1]
    assert "No space left on device" in last
    assert last.endswith("iga fit --resume run")
    lost = {"result.json", "model-iga.safetensors"}
    kept = {path for path in names("run") if not path.startswith(".")}
    assert kept == (FILES - lost) | {folders.CHECKPOINT, folders.BEFORE}
    assert iga("fit", "--resume", "run").exit_code == 0
    assert names("run") == FILES
    same_models(Path("run"), unbroken)


def test_a_full_disk_at_the_start_leaves_nothing(monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in refuse("fit", "--size", 8, "--patch", 2, "--output", "run")


def denied(*_, **__):
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("name", ["replace", "unlink"])
def test_a_checkpoint_that_may_not_be_moved(run, monkeypatch, name):
    damage(run / folders.CHECKPOINT)
    with monkeypatch.context() as hook:
        hook.setattr(Path, name, denied)
        outcome = iga("fit", "--resume", "run")
    assert outcome.exit_code == 2, outcome.output
    assert "Operation not permitted in 'run'" in outcome.stderr.splitlines()[-1]


def test_a_folder_in_which_no_file_can_be_opened(run):
    (run / folders.MARK).unlink()
    (run / folders.MARK).mkdir()
    line = refuse("fit", "--resume", "run")
    assert "resume: expected a folder that can be written, got 'run' (Is a directory)" in line


def test_a_mark_that_cannot_be_written():
    class Full(io.BytesIO):
        truncate = write = denied

    claim = folders.Claim(Path("run"), files.Held(Full(), certain=True))
    with pytest.raises(InputError, match="Operation not permitted"):
        claim.mark("12ab")


def test_a_folder_that_is_removed_is_made_again(monkeypatch):
    step_hook(monkeypatch, "iga", 9, lambda: shutil.rmtree("run"))
    saved_often(monkeypatch)
    outcome = fit("run")
    assert outcome.exit_code == 0, outcome.output
    assert names("run") == FILES


def test_networks_of_more_arrays_than_are_read_are_refused_at_the_start(monkeypatch):
    monkeypatch.setattr(storage, "MOST_ARRAYS", 20)
    line = refuse("fit", "--size", 8, "--patch", 2, "--depth", 9, "--width", 2, "--output", "run")
    assert "at most 20 arrays" in line
    assert "lower --depth" in line


@pytest.mark.parametrize(("cost", "least"), [(0.001, 15), (0.15, 15), (10, 1000)])
def test_checkpoints_take_at_most_a_hundredth_of_the_time(monkeypatch, cost, least):
    """By a clock of its own: steps of a second, and checkpoints that cost what they cost."""
    now, saved = [0.0], []

    class Clocked:
        status, done = "interrupted", 0

        def step(self):
            now[0] += 1
            self.done += 1
            self.status = "interrupted" if self.done < 5000 else "finished"

    def save():
        saved.append(now[0])
        now[0] += cost

    monkeypatch.setattr(courses.time, "monotonic", lambda: now[0])
    nothing = {"wished": lambda: False, "watch": lambda _: None, "note": lambda _: None}
    courses.race([Clocked()], save=save, **nothing)
    assert len(saved) == pytest.approx(5000 / (least + cost), rel=0.2, abs=1)
    assert (len(saved) - 1) * cost <= 0.01 * now[0] + 1


def test_a_checkpoint_looks_at_no_other_program(run, monkeypatch):
    from iga_lab import hardware

    again = runs.resume(run)
    again.start()
    monkeypatch.setattr(hardware, "versions", None)
    monkeypatch.setattr(hardware.metadata, "packages_distributions", None)
    again.save()
    again.close()


def test_equal_runs_give_equal_models():
    for name in ("one", "other"):
        begun(Path(name))
        assert iga("fit", "--resume", name).exit_code == 0
    for method in defaults.METHODS:
        file = f"model-{method}.safetensors"
        assert Path("one", file).read_bytes() == Path("other", file).read_bytes()
        assert load_file(Path("one", file))
    assert UNFINISHED.isdisjoint(names("one"))
