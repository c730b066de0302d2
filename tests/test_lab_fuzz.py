"""Files and settings that chance has made: each gets one line and exit code 2, or is a clean run."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iga_lab.errors import InputError
from iga_lab.signals import load

if os.name == "nt":
    pytest.skip("its processes have no bounds", allow_module_level=True)

from tests.support import hostile

QUICK = settings(derandomize=True, database=None, deadline=None, max_examples=20)
HONEST = hostile.honest()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model and a checkpoint."""
    return hostile.made(tmp_path_factory.mktemp("made"))


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(name, content):
    """Read a signal: refused in one line, or whole."""
    Path(name).write_bytes(content)
    with hostile.bounded():
        try:
            values = load(name, (8, None) if name != "moving.gif" else None).values
        except InputError:
            return
    assert np.all(np.isfinite(values))
    assert np.abs(values).max() <= 1


@pytest.mark.parametrize("name", HONEST)
def test_honest_files_are_read(name):
    Path(name).write_bytes(HONEST[name])
    assert load(name, (8, None)).values.size > 0


@QUICK
@given(
    st.sampled_from(sorted(HONEST)), st.sampled_from(sorted(hostile.BYTES)), st.integers(0, 2**32)
)
def test_damaged_signals(name, kind, seed):
    read(name, hostile.BYTES[kind](HONEST[name], random.Random(seed)))


@QUICK
@given(st.data())
def test_signals_of_edited_headers(data):
    name = data.draw(st.sampled_from([name for name in HONEST if list(hostile.headers(name))]))
    changes = dict(hostile.headers(name))
    read(name, changes[data.draw(st.sampled_from(sorted(changes)))](HONEST[name]))


def test_an_array_whose_header_never_ends():
    """NumPy takes it apart into tokens, whose end comes too early."""
    content = HONEST["volume.npy"].replace(b"(8, 9, 10)", b"((((((((")
    Path("volume.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"volume\.npy.* cannot be read"):
        load("volume.npy", (8, None))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("text.obj", b"f 2 ", b"f 9999 "),
        ("text.obj", b"f 2 ", b"f 99999999999999999999 "),
        ("text.obj", b"f 2 ", b"f -99 "),
        ("binary.ply", b"\x03\x01\0\0\0", b"\x03\x01\x08\0\0"),
    ],
)
def test_faces_of_vertices_that_are_not_there(name, old, new):
    assert old in HONEST[name]
    Path(name).write_bytes(HONEST[name].replace(old, new, 1))
    with pytest.raises(InputError, match="signal: expected "):
        load(name, (8, None))


def test_vertices_of_one_number():
    content = b"".join(b"v %d\n" % n for n in range(8)) + b"f 1 2 3\nf 1 3 4\nf 2 3 4\nf 1 2 4\n"
    Path("text.obj").write_bytes(content)
    with pytest.raises(InputError, match="expected three numbers a vertex, got 1"):
        load("text.obj", (8, None))


@QUICK
@given(st.sampled_from(["model", "checkpoint"]), st.data())
def test_descriptions_and_headers_of_arrays(made, name, data):
    name = next(full for full in made if full.startswith(name))
    content, value = made[name], data.draw(st.sampled_from(hostile.VALUES))
    if data.draw(st.booleans()):
        field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        content = hostile.entered(content, field, value)
    else:
        word, field = data.draw(st.sampled_from(list(hostile.descriptions(content))))
        content = hostile.described(content, word, field, value)
    hostile.lay(name, content)
    with hostile.nothing_measured(), hostile.fresh():
        assert hostile.judged(hostile.commands(name)) == ""


@settings(QUICK, max_examples=15)
@given(st.sampled_from(hostile.options()), st.sampled_from(hostile.ODD))
def test_odd_settings(option, text):
    with hostile.nothing_measured(), hostile.fresh():
        assert hostile.judged(hostile.settings(option, text)) == ""


@pytest.mark.slow
def test_hundreds_of_inputs_in_bounded_memory_and_time():
    process = subprocess.run(
        [sys.executable, "-m", "tests.support.hostile", Path.cwd()],
        cwd=Path(hostile.__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
    )
    lines = [line.partition("\t") for line in process.stdout.splitlines()]
    assert process.returncode == 0, (lines[-1], process.stderr[-3000:])
    found = {what: json.loads(judged) for what, _, judged in lines}
    assert len(found) >= 300
    assert {what: wrong for what, (wrong, *_) in found.items() if wrong} == {}
