"""Files that are written whole or not at all, by one process at a time; and JSON that is strict.

It knows nothing of what is in them.
"""

import contextlib
import itertools
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeAlias

from iga_lab.errors import InputError

PROGRAM = "iga-core"
PART = ".iga-part"
"""What the names of files end with that are not whole yet; they begin with a dot."""
MOST_DEPTH = 16
"""Of what stands in JSON; ours has three levels."""
FAR = 2**30
"""Where the byte is that stands for the lock on Windows, which keeps others from reading it."""

Content: TypeAlias = bytes | memoryview


@dataclass(frozen=True)
class Held:
    """An open file that no other process has from `hold`, until it is closed or this one ends.

    Parameters
    ----------
    file : binary file
        Open to be read and appended to.
    certain : bool
        False on a file system without locks, where nothing keeps others away.
    """

    file: BinaryIO
    certain: bool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def hold(path: Path) -> Held | None:
    """Open a file, made if need be, and lock it; None where another process has done so.

    The system drops the lock with the process, however that ends.

    Raises
    ------
    OSError
        If it cannot be opened or made.
    """
    # No link is followed: in a folder that others write to, one could lead to a file of ours.
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    flags |= getattr(os, "O_BINARY", 0)
    while True:
        file = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
        try:
            certain = _lock(file.fileno())
            if certain is not None and _is_at(file.fileno(), path):
                return Held(file, certain)
        except BaseException:
            file.close()
            raise
        file.close()
        if certain is None:
            return None
        # It was renamed or removed by the process that had it, between our opening and locking it.


def _lock(descriptor: int) -> bool | None:
    """Lock a file; returns None where another process has it, False where there are no locks."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return None
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:  # some network file systems
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def write_whole(path: Path, *content: Content, before: Path | None = None) -> None:
    """Write a file under another name in its folder, then rename it.

    That name is always the same, so that what a killed process leaves there is taken up by the
    next one that writes the file.

    Parameters
    ----------
    path : Path
        Of the file.
    *content : bytes or memoryview of bytes
        Its parts, one after the other.
    before : Path, optional
        What the file that was there is renamed to.

    Raises
    ------
    InputError
        If it cannot be written; what was there stays.
    """
    try:
        part = path.with_name(f".{path.name}{PART}")
        held = hold(part)
        if held is None:
            raise InputError(
                f"output: expected to write {str(path)!r} alone, got another process that writes "
                "it; wait for it, or choose another name"
            )
        with held:
            _write(held.file, part, path, content, before)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"output: expected to write {str(path)!r}, got {reason}; "
            "free the disk or choose another folder"
        ) from None


def _write(
    file: BinaryIO, part: Path, path: Path, content: tuple[Content, ...], before: Path | None
) -> None:
    try:
        file.truncate(0)
        for piece in content:
            # An unbuffered file may take a part of a large piece only.
            rest = memoryview(piece)
            while rest:
                rest = rest[file.write(rest) :]
        # Without it a rename can outlive what was written before it, when the power fails.
        os.fsync(file.fileno())
        if sys.platform == "win32":
            file.close()  # what is open cannot be renamed there; elsewhere it stays locked for it
        if before is not None and path.exists():
            path.replace(before)
        part.replace(path)
    except BaseException:
        if sys.platform == "win32":
            file.close()
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def sweep(folder: Path) -> None:
    """Remove what killed processes were writing in a folder, and nothing that one still writes."""
    with contextlib.suppress(OSError):
        for part in folder.glob(f".*{PART}"):
            remove(part)


def remove(path: Path) -> None:
    """Remove a file of ours unless another process holds it or it cannot be removed."""
    with contextlib.suppress(OSError):
        held = hold(path)
        if held is None:
            return
        with held:
            if sys.platform == "win32":
                held.file.close()
            path.unlink()


def is_part(path: Path) -> bool:
    """Whether a file is one that was not written to its end."""
    return path.name.startswith(".") and path.name.endswith(PART)


def as_json(content: dict[str, Any]) -> bytes:
    """Return indented JSON, UTF-8."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def from_json(content: bytes | str) -> Any:
    """Return what JSON says, of a file that anyone may have written.

    Raises
    ------
    ValueError
        If it is none; if it holds NaN, infinity or a name twice, or is nested too deep.

    Examples
    --------
    >>> from_json(b'{"shape": [2, 3]}')
    {'shape': [2, 3]}
    """
    text = content.decode() if isinstance(content, bytes) else content
    try:
        found = json.loads(
            text, parse_constant=_refused, parse_float=_finite, object_pairs_hook=_once
        )
    except RecursionError:
        raise ValueError("nested too deep") from None
    level = [found]
    # What can be read can still be too deep to be compared, repeated in an error or written again.
    for _ in range(MOST_DEPTH):
        inside = (one.values() if isinstance(one, dict) else one
                  for one in level if isinstance(one, dict | list))  # fmt: skip
        level = list(itertools.chain.from_iterable(inside))
    if level:
        raise ValueError("nested too deep")
    return found


def _refused(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found
