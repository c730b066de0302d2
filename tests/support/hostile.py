"""Files and settings as a stranger may hand them in, and what the command may do with them.

Honest files are made by the libraries that others use; mutations know their formats from the
formats' own documents, and nothing of the lab. `python -m tests.support.hostile` puts every case to
the command, in a process whose memory and time are bounded, and prints what it did.
"""

import faulthandler
import io
import itertools
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import tracemalloc
import warnings
import zlib
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import pytest
import trimesh
from PIL import Image
from safetensors.numpy import load as arrays_of
from scipy.io import wavfile

from iga_lab import metrics
from iga_lab.cli.fit import fit as fitting
from tests.support.drawing import nothing_drawn
from tests.support.forging import file_of, forged
from tests.support.lab import TINY, iga, step_hook, tree

MOST_BYTES = 10**9
MOST_SECONDS = 20
QUICK = ["--size", "8", "--width", "4", "--depth", "1", "--patch", "2", "--steps", "1"]


def _peak():
    """Bytes that this process has held at most; not its parent, as `ru_maxrss` has it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


# honest files


def _pixels(*shape):
    return (np.arange(np.prod(shape)) * 37 % 251).reshape(shape).astype(np.uint8)


def _image(pixels, form, **options):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form, **options)
    return content.getvalue()


def _sound(samples):
    content = io.BytesIO()
    wavfile.write(content, 8000, samples)
    return content.getvalue()


def _array(values):
    content = io.BytesIO()
    np.save(content, values)
    return content.getvalue()


def _mesh(kind):
    content = trimesh.creation.box([1, 1.5, 2]).export(file_type=kind)
    return content.encode() if isinstance(content, str) else content


def honest():
    """Small files that the command reads, by name; of every format and way that it reads."""
    frames = [Image.fromarray(_pixels(9, 8) + n) for n in range(3)]
    wave = np.sin(np.arange(200) ** 1.3 / 9)
    return {
        "colour.png": _image(_pixels(12, 11, 3), "PNG"),
        "clear.png": _image(_pixels(12, 11, 4), "PNG"),
        "deep.png": _image(_pixels(12, 11).astype(np.uint16) * 250, "PNG"),
        "moving.gif": _image(_pixels(9, 8), "GIF", save_all=True, append_images=frames),
        "photo.jpg": _image(_pixels(40, 33, 3), "JPEG"),
        "finer.jpg": _image(_pixels(40, 33, 3), "JPEG", progressive=True),
        "plain.bmp": _image(_pixels(12, 11, 3), "BMP"),
        "page.tif": _image(_pixels(12, 11, 3), "TIFF", compression="tiff_lzw"),
        "lossy.webp": _image(_pixels(12, 11, 3), "WEBP"),
        "plain.ppm": _image(_pixels(12, 11, 3), "PPM"),
        "whole.wav": _sound((wave * 30000).astype(np.int16)),
        "broken.wav": _sound(wave.astype(np.float32)),
        "stereo.wav": _sound(np.stack([wave, -wave], 1).astype(np.float32)),
        "volume.npy": _array(np.linspace(0, 1, 720).reshape(8, 9, 10)),
        "picture.npy": _array(_pixels(12, 11, 3)),
        "binary.stl": _mesh("stl"),
        "text.stl": _mesh("stl_ascii"),
        "text.obj": _mesh("obj"),
        "binary.ply": _mesh("ply"),
    }


@contextmanager
def nothing_measured():
    """A run draws no pictures and measures no surfaces: honest work, which takes seconds."""
    with pytest.MonkeyPatch.context() as instead, nothing_drawn():
        instead.setattr(metrics, "chamfer", lambda *_: metrics.Chamfer(0.0, 0.0))
        yield


def made(folder):
    """A model and a checkpoint of the command itself, their bytes by name."""
    with pytest.MonkeyPatch.context() as patch, nothing_drawn():
        step_hook(patch, "iga", 2, lambda: signal.raise_signal(signal.SIGINT))
        outcome = iga("fit", *TINY, "--steps", 5, "--output", Path(folder, "run"))
    assert outcome.exit_code == 130, outcome.output
    names = ("model-iga.safetensors", "checkpoint.safetensors")
    return {name: Path(folder, "run", name).read_bytes() for name in names}


# mutations of bytes

HEAD = 64
"""Bytes in which most formats say what is to come."""


def _put(content, start, part):
    return content[:start] + part + content[start + len(part) :]


def flipped(content, chance, most=None):
    """A few bits flipped, of the first `most` bytes or anywhere."""
    found = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        found[chance.randrange(min(most or len(found), len(found)))] ^= 1 << chance.randrange(8)
    return bytes(found)


def cut(content, chance):
    return content[: chance.randrange(len(content))]


def inserted(content, chance):
    place = chance.randrange(len(content))
    return content[:place] + chance.randbytes(chance.randint(1, 99)) + content[place:]


def removed(content, chance):
    first, last = sorted(chance.sample(range(len(content) + 1), 2))
    return content[:first] + content[last:]


def repeated(content, chance):
    first, last = sorted(chance.sample(range(len(content) + 1), 2))
    return content[:last] + content[first:]


def extreme(content, chance):
    """A number in the head as large or as small as it may be, in either order of its bytes."""
    part = chance.choice([
        b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", bytes(4), b"\xff\xff", bytes(8),
        b"\xff" * 8, b"\x80\0\0\0", b"\0\0\0\x80",
    ])  # fmt: skip
    return _put(content, chance.randrange(min(HEAD, len(content))), part)


BYTES = {
    "flipped": flipped,
    "flipped head": lambda content, chance: flipped(content, chance, HEAD),
    "cut": cut, "inserted": inserted, "removed": removed, "repeated": repeated, "extreme": extreme,
}  # fmt: skip

# mutations of headers

NUMBERS = (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1)


def png_header(content, *, width=None, height=None, depth=None, colour=None):
    """Change what a PNG says it is, and give the header the checksum that belongs to it."""
    found = struct.unpack(">IIBBBBB", content[16:29])
    wished = [new if new is not None else old
              for new, old in zip((width, height, depth, colour), found[:4], strict=True)]  # fmt: skip
    body = b"IHDR" + struct.pack(">IIBBBBB", *wished, *found[4:])
    return _put(content, 12, body + struct.pack(">I", zlib.crc32(body)))


def _fields(places):
    """Changes of binary numbers: where each lies, by name, and in which format."""
    for (name, (place, form)), number in itertools.product(places.items(), NUMBERS):
        part = struct.pack(form, number % 256 ** struct.calcsize(form))
        yield f"{name} {number}", lambda content, place=place, part=part: _put(content, place, part)


def _words(texts, replacements):
    """Changes of texts: each once by each replacement."""
    for text, new in itertools.product(texts, replacements):
        yield (
            f"{text!r} by {new!r}"[:60],
            lambda content, text=text, new=new: content.replace(text, new, 1),
        )


def _after(mark, places):
    """Changes of numbers that lie some bytes behind a mark."""
    for name, change in _fields(places):
        yield (
            name,
            lambda content, change=change: (
                content[: content.index(mark)] + change(content[content.index(mark) :])
            ),
        )


WAV = {"channels": (22, "<H"), "rate": (24, "<I"), "align": (32, "<H"), "bits": (34, "<H"),
       "format": (20, "<H"), "chunk": (16, "<I"), "data": (40, "<I")}  # fmt: skip
TEXTS = (b"nan", b"-1", b"0", b"1e999", b"99999999999999999999", b"", b"\xff\0", b"x" * 3000)


def headers(name):
    """Changes of a file's header by name, each a function of its content."""
    suffix = name.rpartition(".")[2]
    if suffix == "png":
        for field, values in {"width": NUMBERS, "height": NUMBERS, "depth": (0, 1, 3, 16, 255),
                              "colour": (0, 1, 2, 3, 4, 6, 255)}.items():  # fmt: skip
            for value in values:
                yield f"{field} {value}", lambda c, f=field, v=value: png_header(c, **{f: v})
        yield "a bomb", lambda content: png_header(content, width=30_000, height=30_000)
    elif suffix == "gif":
        yield from _fields({"width": (6, "<H"), "height": (8, "<H"), "flags": (10, "B")})
        yield from _after(b",\0\0\0\0", {"frame": (5, "<H"), "corner": (1, "<H")})
    elif suffix == "jpg":
        mark = b"\xff\xc2" if name.startswith("finer") else b"\xff\xc0"
        yield from _after(mark, {"height": (5, ">H"), "width": (7, ">H"), "channels": (9, "B")})
    elif suffix == "bmp":
        yield from _fields({"width": (18, "<I"), "height": (22, "<I"), "bits": (28, "<H"),
                            "start": (10, "<I")})  # fmt: skip
    elif suffix == "ppm":
        yield from _words([b"11 12", b"255"], [*TEXTS, b"99999 99999"])
    elif suffix == "wav":
        yield from _fields(WAV)
    elif suffix == "npy":
        shape = b"(8, 9, 10)" if name.startswith("volume") else b"(12, 11, 3)"
        yield from _words([shape], [b"()", b"(0,)", b"(-1, 3)", b"(2**99,)", b"(10**9, 10**9)",
                                    b"(True, 8)", b"(8.0, 9)", b"'8'", b"(((((((("])  # fmt: skip
        dtypes = [b"'|O'", b"'<f2'", b"'>f8'", b"'<c16'", b"'|S8'", b"'<U9'", b"'<M8[s]'", b"'V8'",
                  b"[('a', '<f8')]", b"'zzz'", b"()"]  # fmt: skip
        yield from _words([b"'<f8'" if name.startswith("volume") else b"'|u1'"], dtypes)
        yield from _words([b"False"], [b"True", b"None", b"__import__('os')"])
        yield from _fields({"version": (6, "B"), "length": (8, "<H")})
        for value in (np.nan, np.inf, -np.inf, 1.7e308):
            part = struct.pack("<d", value)
            yield f"a value {value}", lambda content, part=part: content[:-8] + part
    elif name == "binary.stl":
        yield from _fields({"count": (80, "<I")})
        for value in (np.nan, np.inf, 3e38, 0):
            part = struct.pack("<f", value) * 3
            yield f"a corner {value}", lambda content, part=part: _put(content, 96, part)
    elif suffix in ("stl", "obj", "ply"):
        texts = {"text.stl": [b"vertex", b"-0.5", b"endfacet"], "text.obj": [b"v -0.5", b"f 2"],
                 "binary.ply": [b"element face 12", b"vertex 8", b"uchar", b"float", b"1.0"]}  # fmt: skip
        yield from _words(texts[name], TEXTS)
    elif suffix == "safetensors":
        yield from _tensors()


VALUES = (None, True, -1, 0, 2**31, 2**64, 1.5, "", "../..", "\x1b[31m", [], [[]], {}, [2**62] * 2)


def split(content):
    """The header of a file of arrays as JSON, and its data."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def worded(content, word, text):
    """Change a word in a file of arrays, and give it the digest that belongs to it."""
    return forged(arrays_of(content), split(content)[0]["__metadata__"] | {word: text})


def entered(content, field, value):
    """Change what a file says of its first array."""
    header, data = split(content)
    name = next(name for name in header if name != "__metadata__")
    return file_of(header | {name: header[name] | {field: value}}, data)


def described(content, word, field, value):
    """Change a field of a description in JSON that is a word of a file."""
    found = json.loads(split(content)[0]["__metadata__"][word])
    return worded(content, word, json.dumps(found | {field: value}))


def descriptions(content):
    """The words of a file that are descriptions in JSON, with their fields."""
    for word, text in sorted(split(content)[0]["__metadata__"].items()):
        if text.startswith("{"):
            yield from ((word, field) for field in json.loads(text))


def _tensors():
    for field, value in itertools.product(("dtype", "shape", "data_offsets"), VALUES):
        yield f"{field} {value!r}"[:60], lambda c, f=field, v=value: entered(c, f, v)


# cases


def commands(name):
    """What is done with a file."""
    if name.startswith("model"):
        return ["render", name, "--size", "4"]
    if name.startswith("checkpoint"):
        return ["fit", "--resume", "run"]
    return ["fit", name, *QUICK, "--method", "plain", "--output", "out"]


def files(originals):
    """Cases of files: what was done, the name, and a function that returns the bytes."""
    for name, content in originals.items():
        for kind, number in itertools.product(BYTES, range(3)):
            chance = random.Random(f"{name} {kind} {number}")
            yield (f"{name}: {kind} {number}", name,
                   lambda c=content, k=kind, r=chance: BYTES[k](c, r))  # fmt: skip
        yield f"{name}: empty", name, lambda: b""
        for what, change in headers(name):
            yield f"{name}: {what}", name, lambda c=content, change=change: change(c)
        if name.endswith(".safetensors"):
            for word, field in descriptions(content):
                value = random.Random(f"{name} {word} {field}").choice(VALUES)
                yield (f"{name}: {word}, {field} {value!r}"[:80], name,
                       lambda c=content, w=word, f=field, v=value: described(c, w, f, v))  # fmt: skip


# Between them lies what is honest but large, and would only take long.
ODD = ("-1", "0", "1", "", " 7 ", "1_0", "٣", "nan", "-inf", "1e308", "1e-320", "9" * 15, "9" * 25,
       "9" * 5000, "0x10", "1,2", "\x1b[31m", "a\nb", "--")  # fmt: skip
SHORT = "--steps"
"""An option of which a large number is honest, and takes for ever."""
PLACES = ("--output", "--resume", "--lpips-weights")


def options():
    """The options of `iga fit` that take a value."""
    found = [option.opts[0] for option in fitting.params if isinstance(option, click.Option)]
    return [name for name in found if name not in (SHORT, "--help")]


def settings(option, text):
    """A command line with an odd value, its honest ones before it, which it overrides."""
    place = [] if option in PLACES else ["--output", "out"]
    return ["fit", "sines:1,2", *QUICK, *place, option, text]


def cases(originals):
    """All cases: what they are, the name and bytes of the file if there is one, the command."""
    for what, name, content in files(originals):
        yield what, name, content, commands(name)
    for option, text in itertools.product(options(), ODD):
        if option != "--resume" or text:
            yield f"{option} {text[:20]!r}", None, None, settings(option, text)
    for text in (t for t in ODD if not t.lstrip("+").strip().isdigit() or len(t) < 2):
        yield f"{SHORT} {text[:20]!r}", None, None, settings(SHORT, text)


def lay(name, content):
    """Put a file where the command of its case looks for it."""
    path = Path("run", name) if name.startswith("checkpoint") else Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


@contextmanager
def fresh():
    """What a case leaves is gone after it."""
    yield
    for path in Path().iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def judged(command):
    """Run a command here, and return what is wrong with what it did; empty if nothing is."""
    before = tree(".")
    outcome = iga(*command)
    if not isinstance(outcome.exception, SystemExit | None):
        return f"{type(outcome.exception).__name__}: {outcome.exception}"
    said = outcome.stderr.splitlines()
    if any(not line.isprintable() for line in [*said, *outcome.stdout.splitlines()]):
        return f"control characters: {outcome.output!r}"
    if outcome.exit_code == 2:
        if len(said) != 1 or not said[0].startswith("Error: ") or outcome.stdout:
            return f"not one line: {outcome.output!r}"
        return "" if tree(".") == before else f"it wrote {sorted(set(tree('.')) - set(before))}"
    if outcome.exit_code not in (0, 1):
        return f"exit code {outcome.exit_code}: {outcome.output!r}"
    new = set(tree(".")) - set(before)
    litter = [str(path) for path in new if path.name.startswith(".") or path.suffix == ".part"]
    results = [json.loads(path.read_text()) for path in new if path.name == "result.json"]
    if outcome.exit_code == 1 and [result["status"] for result in results] == ["finished"]:
        return f"exit code 1 of a finished run: {outcome.output!r}"
    return f"it left {litter}" if litter else ""


@contextmanager
def bounded(most=MOST_BYTES):
    """Fail if more memory is taken at a time, of what Python and NumPy count."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def main(folder):
    """Put every case to the command; prints a line of JSON each: what it was, and what is wrong."""
    # Beyond what is judged below, so that a case which takes it all ends the case, not the machine.
    resource.setrlimit(resource.RLIMIT_AS, (8 * MOST_BYTES, 8 * MOST_BYTES))
    warnings.simplefilter("error")
    os.chdir(folder)
    originals = honest() | made(folder)
    Path("case").mkdir()
    with nothing_measured():
        for what, name, content, command in cases(originals):
            print(json.dumps(what), end="\t", flush=True)
            # From another thread, as no decoder in C would hear a signal.
            faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
            os.chdir(Path(folder, "case"))
            if name is not None:
                lay(name, content())
            start = time.monotonic()
            wrong = judged(command)
            faulthandler.cancel_dump_traceback_later()
            seconds = time.monotonic() - start
            # It only grows, so the first case that is above the bound is the one to look at.
            peak = _peak()
            if peak > MOST_BYTES:
                wrong = wrong or f"{peak / 1e6:.0f} MB"
            print(json.dumps([wrong, seconds, peak]), flush=True)
            os.chdir(folder)
            shutil.rmtree("case")
            Path("case").mkdir()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as somewhere:
        main(sys.argv[1] if len(sys.argv) > 1 else somewhere)
