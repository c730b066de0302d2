"""Arrays with a few words beside them, in one file that says whose it is and what it has to hold.

The format is safetensors, so that other programs read our files; but a file that comes from
elsewhere is held against bounds before anything of its size is read, a digest finds any bit of it
that was changed, and equal content gives equal bytes. That library does none of these: it reads
whatever fits the format, and orders the words at random.

The digest is the SHA-256 of a line of JSON, ``[words, [[name, dtype, shape], ...]]``, the words
ordered by name and without the digest, and of the bytes of the arrays; these come in the order of
the widest numbers first, and then of their names.
"""

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from iga_core.arrays import short
from iga_lab.errors import InputError
from iga_lab.files import PROGRAM, Content, from_json
from iga_lab.hardware import version
from iga_lab.memory import require_memory

FORMAT = "5"
"""Of models and checkpoints: raised when what is in them changes."""
MOST_HEADER = 2**24
"""Bytes; what JSON of that length becomes in memory stays below a gigabyte."""
MOST_ARRAYS = 100_000
MOST_AXES = 8
MOST_NAME = 256
MOST_WORD = 40
MOST_REASON = 200
"""Letters of what is said to be wrong with a file, which may repeat what stands in it."""
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip
CODES = {dtype: code for code, dtype in DTYPES.items()}
SPARSE_BYTES, SPARSE_SHARE = 2**26, 16
"""A larger file of which the disk holds less than one in so many bytes was not filled by a run."""
WORDS = "__metadata__"
DIGEST = "digest"

Arrays: TypeAlias = dict[str, NDArray[Any]]


class UnusableError(Exception):
    """Why a file cannot be used: the end of a sentence that begins with its name."""


class DamagedError(UnusableError):
    """A file that is not what it says it is; the reason goes into the sentence."""

    def __init__(self, reason: object) -> None:
        words = " ".join(str(reason).split()) or type(reason).__name__
        super().__init__(f"is damaged or was edited ({words[:MOST_REASON]})")


class OtherRunError(UnusableError):
    """A checkpoint that is whole, but not of the run in whose folder it lies."""


@dataclass(frozen=True)
class Entry:
    """What a header says of an array: kind of number, shape, and where its bytes begin and end."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Contents:
    """What a file says that it holds; the arrays are not read yet.

    Attributes
    ----------
    path : Path
        The file.
    words : dict of str to str
        What is said beside the arrays.
    entries : dict of str to Entry
        The arrays by name.
    digest : str
        What all of it has to come to.
    """

    path: Path
    words: dict[str, str]
    entries: dict[str, Entry]
    digest: str

    def read(self, name: str) -> Arrays:
        """Return the arrays, once they are found to be those that were written.

        Parameters
        ----------
        name : str
            Of the setting that named the file, for errors.

        Raises
        ------
        UnusableError
            If they are not, or cannot be read.
        InputError
            If they do not fit in memory.
        """
        size = sum(entry.end - entry.begin for entry in self.entries.values())
        require_memory(name, size, f"{self.path.name!r}", "use a machine that has more")
        found: Arrays = {}
        try:
            with self.path.open("rb") as file:
                for key in _ordered({k: (e.dtype, e.shape) for k, e in self.entries.items()}):
                    found[key] = _read(file, self.entries[key])
        except (OSError, MemoryError) as error:
            raise _unreadable(error) from None
        if _digest(found, self.words) != self.digest:
            raise DamagedError("its digest is that of another content")
        return found


def packed(arrays: Mapping[str, NDArray[Any]], words: Mapping[str, str]) -> list[Content]:
    """Return arrays and words as the parts of a file of this program; equal ones give equal bytes.

    Raises
    ------
    InputError
        If they are more than `opened` reads.
    """
    about = {
        "program": PROGRAM, "version": version(PROGRAM) or "unknown", "format": FORMAT, **words,
    }  # fmt: skip
    # A file's name may be of bytes that are no UTF-8, which no reader would take.
    about = {name: _utf8(text) for name, text in about.items()}
    straight = {
        name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
        for name, array in arrays.items()
    }
    about[DIGEST] = _digest(straight, about)
    header: dict[str, Any] = {WORDS: dict(sorted(about.items()))}
    position = 0
    names = _ordered({name: (array.dtype, array.shape) for name, array in straight.items()})
    for name in names:
        array = straight[name]
        offsets = [position, position := position + array.nbytes]
        header[name] = {
            "dtype": CODES[array.dtype], "shape": list(array.shape), "data_offsets": offsets,
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin where their numbers may
    if len(names) > MOST_ARRAYS or len(text) > MOST_HEADER:
        raise InputError(
            f"depth: expected networks of at most {MOST_ARRAYS:,} arrays in a file, got "
            f"{len(names):,}; lower --depth, or run fewer methods at once"
        )
    start = len(text).to_bytes(8, "little") + text
    return [start, *(_bytes_of(straight[name]) for name in names)]


def opened(path: Path, kind: str) -> Contents:
    """Read what a file says of itself, held against bounds.

    Parameters
    ----------
    path : Path
        Of the file.
    kind : {"model", "checkpoint"}
        What it has to be.

    Raises
    ------
    UnusableError
        If it is another thing, of another format, or damaged.
    """
    try:
        status = path.stat()
        # Before it is opened: a pipe would wait for someone to write into it.
        if not stat.S_ISREG(status.st_mode):
            raise UnusableError("is a folder" if path.is_dir() else "is no file")
        with path.open("rb") as file:
            header, start = _header(file, status.st_size)
        words, entries = _checked(header, status.st_size - start, start)
    except (FileNotFoundError, NotADirectoryError):
        raise UnusableError("is no file") from None
    except OSError as error:
        raise _unreadable(error) from None
    except (TypeError, ValueError) as error:
        raise DamagedError(error) from None
    about = {name: text[:MOST_WORD] for name, text in words.items()}
    if words.get("program") != PROGRAM or words.get("kind") != kind:
        program, what = about.get("program", "another program"), about.get("kind", "unknown kind")
        raise UnusableError(f"is of {program}, {what}")
    if words.get("format") != FORMAT:
        number, by = about.get("format", "1"), about.get("version", "of unknown version")
        raise UnusableError(f"is of format {number}, written by {PROGRAM} {by}, and not {FORMAT}")
    if _is_sparse(status):
        raise DamagedError(f"it is {status.st_size:,} bytes long and nearly all of it is empty")
    return Contents(path, words, entries, words.pop(DIGEST, ""))


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """Return a file's header and where its arrays begin."""
    length = int.from_bytes(file.read(8), "little")
    if length > min(MOST_HEADER, size - 8):
        raise ValueError(
            f"it begins as no file of this format does, or is cut: {length:,} bytes of header in "
            f"{size:,}"
        )
    header = from_json(file.read(length))
    if not isinstance(header, dict):
        raise TypeError("its header is no table")
    return header, 8 + length


def _checked(
    header: dict[str, Any], size: int, start: int
) -> tuple[dict[str, str], dict[str, Entry]]:
    """Return a header's words and entries if they are possible in so many bytes of arrays."""
    words = header.pop(WORDS, {})
    if not isinstance(words, dict) or not all(isinstance(text, str) for text in words.values()):
        raise TypeError("the words beside its arrays are none")
    if len(header) > MOST_ARRAYS:
        raise ValueError(f"{len(header):,} arrays, of at most {MOST_ARRAYS:,}")
    entries = {name: _entry(name, said, start) for name, said in header.items()}
    position = start
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            raise ValueError("its arrays overlap, or leave something between them")
        position = entry.end
    if position != start + size:
        raise ValueError(f"{position - start:,} bytes of arrays are said, {size:,} are there")
    return words, entries


def _entry(name: str, said: Any, start: int) -> Entry:
    if len(name) > MOST_NAME or not name.isprintable():
        raise ValueError("the name of an array is none")
    if not isinstance(said, dict) or set(said) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{short(name)} is no array")
    code, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise ValueError(f"{short(name)} is of {short(code)}, none of {', '.join(DTYPES)}")
    if not _are_counts(shape) or len(shape) > MOST_AXES:
        raise ValueError(f"{short(name)} has the shape {short(shape)}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{short(name)} lies at {short(offsets)}")
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPES[code].itemsize:
        raise ValueError(f"{short(name)} has not the bytes that its shape takes")
    return Entry(DTYPES[code], tuple(shape), start + begin, start + end)


def _are_counts(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n < 2**63 for n in numbers)


def _is_sparse(status: os.stat_result) -> bool:
    """Whether a large file is mostly a hole, which costs its maker nothing and its reader time."""
    held = 512 * getattr(status, "st_blocks", 0)
    # Some file systems do not say what they hold, and some compress what is there.
    return 0 < held < status.st_size / SPARSE_SHARE and status.st_size > SPARSE_BYTES


def _read(file: BinaryIO, entry: Entry) -> NDArray[Any]:
    array = np.empty(math.prod(entry.shape), entry.dtype)
    file.seek(entry.begin)
    if file.readinto(_bytes_of(array)) != array.nbytes:  # type: ignore[attr-defined]
        raise DamagedError("it is cut")
    # Of this machine's byte order, which other libraries ask for.
    return array.astype(entry.dtype.newbyteorder("="), copy=False).reshape(entry.shape)


def _ordered(arrays: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> list[str]:
    """Return the names of arrays as they follow each other: the widest numbers first, aligned."""
    return sorted(arrays, key=lambda name: (-arrays[name][0].itemsize, name))


def _digest(arrays: Arrays, words: Mapping[str, str]) -> str:
    """Return what stands for all of a content: names, kinds of numbers, shapes, numbers, words."""
    names = _ordered({name: (array.dtype, array.shape) for name, array in arrays.items()})
    layout = [
        [name, CODES[arrays[name].dtype.newbyteorder("<")], arrays[name].shape] for name in names
    ]
    said = {name: text for name, text in words.items() if name != DIGEST}
    found = hashlib.sha256(json.dumps([said, layout], sort_keys=True).encode())
    for name in names:
        found.update(_bytes_of(arrays[name]))
    return found.hexdigest()


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _unreadable(error: Exception) -> UnusableError:
    reason = getattr(error, "strerror", None) or type(error).__name__
    return UnusableError(f"cannot be read ({reason})")
