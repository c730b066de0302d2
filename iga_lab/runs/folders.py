"""The folder of a run: where it may be, whose it is, and what it shows of the run in it."""

import contextlib
import itertools
import os
import re
import sys
from datetime import datetime
from pathlib import Path

from iga_lab.errors import InputError
from iga_lab.files import PROGRAM, Held, from_json, hold, is_part, remove, sweep

RUNS = Path("iga-runs")
RESULT = "result.json"
CHECKPOINT = "checkpoint.safetensors"
BEFORE = "checkpoint-before.safetensors"
"""The one before it, for the case that it is damaged."""
MARK = ".iga-run"
"""Locked by the process that works in the folder; says which run it is, until it is done."""
MOST_NAME = 50
"""Letters of a signal's name in that of its folder, which file systems bound in bytes."""
MOST_RESULT = 2**24
"""Bytes of a `RESULT` that is looked into."""


class Claim:
    """The right to write into a run's folder, until it is closed or the process ends.

    Parameters
    ----------
    folder : Path
        Of the run.
    held : Held
        Its `MARK`.
    made : bool
        Whether the folder was made for it.

    Attributes
    ----------
    note : str
        What the person should know of it; may be empty.
    """

    def __init__(self, folder: Path, held: Held, made: bool = False) -> None:
        self.folder = folder
        self._held, self._made = held, made
        self.note = ""
        if not held.certain:
            self.note = (
                f"{folder}: this file system has no locks; another `iga fit` in the same folder "
                "would not be kept out"
            )

    def mark(self, run: str) -> None:
        """Note which run the folder is of.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        if marked(self.folder) == run:
            return  # nothing is gained by writing it anew, on a disk that may be full
        file = self._held.file
        try:
            file.truncate(0)
            file.write(f"{PROGRAM} {run}\n".encode())
        except OSError as error:
            raise _unwritable("output", self.folder, error) from None

    def close(self) -> None:
        """Let others in, and take the mark away where there is nothing left to do.

        A folder that was made for nothing goes too.
        """
        mark = self.folder / MARK
        file = self._held.file
        if sys.platform == "win32":
            file.close()  # what is open cannot be removed there
        with contextlib.suppress(OSError):
            if not any(map(os.path.lexists, (self.folder / CHECKPOINT, self.folder / BEFORE))):
                mark.unlink(missing_ok=True)
                if self._made and not any(self.folder.iterdir()):
                    self.folder.rmdir()
        file.close()


def new_folder(output: Path | None, name: str) -> Path:
    """Choose the folder of a new run, without making it.

    Parameters
    ----------
    output : Path, optional
        As the person named it; by default one in `RUNS` by name and time.
    name : str
        For the default.

    Raises
    ------
    InputError
        If it holds something already or cannot be made.
    """
    folder = output
    if folder is None:
        # Letters that the locale has not cannot be in the names of files either.
        known = name.encode(sys.getfilesystemencoding(), "replace")
        short = re.sub(r"[^\w .+()-]", "_", known.decode(sys.getfilesystemencoding()))[:MOST_NAME]
        stamp = f"{short}-{datetime.now():%Y%m%d-%H%M%S}"
        tails = itertools.chain([""], (f"-{k}" for k in itertools.count(2)))
        folder = next(path for tail in tails if not (path := RUNS / (stamp + tail)).exists())
    try:
        if folder.is_dir() and not _is_free(folder):
            holds = "another run" if _is_run(folder) else "other files"
            hint = f"continue it with --resume {folder}, or " if _is_run(folder) else ""
            raise InputError(
                f"output: expected a new or an empty folder, got {str(folder)!r}, which holds "
                f"{holds}; {hint}choose another"
            )
        # What is to be made has no permissions yet; those of the nearest folder above it count.
        existing = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    except OSError as error:
        raise InputError(
            f"output: expected a folder, got {str(folder)!r} ({error.strerror}); choose another"
        ) from None
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        why = "may not be written" if existing.is_dir() else "is not a folder"
        raise InputError(
            f"output: expected a folder that can be written, got {str(folder)!r}: "
            f"{str(existing)!r} {why}; choose another"
        )
    return folder


def claim_new(output: Path | None, name: str) -> Claim:
    """Make the folder of a new run, see `new_folder`, and claim it.

    Raises
    ------
    InputError
        If it cannot be made, or another process was faster.
    """
    while True:
        folder = new_folder(output, name)
        made = not folder.exists()
        make_folder(folder)
        claim = _claimed("output", folder, made)
        if claim is not None and _is_free(folder):
            return claim
        if claim is not None:
            claim.close()
        # Several runs that were started in one second have the same name by default.
        if output is not None:
            raise InputError(
                f"output: expected a new or an empty folder, got {str(folder)!r}, in which "
                "another `iga fit` is at work; choose another"
            )


def claim_again(folder: Path) -> Claim:
    """Claim the folder of a run that is to go on.

    Raises
    ------
    InputError
        If another process works in it, or it cannot be written.
    """
    claim = _claimed("resume", folder)
    if claim is None:
        raise InputError(
            f"resume: expected a run that nothing works on, got {str(folder)!r}, in which another "
            "`iga fit` is at work; wait until it ends, or end it"
        )
    return claim


def make_folder(folder: Path) -> None:
    """Make a run's folder and those above it.

    Raises
    ------
    InputError
        If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable("output", folder, error) from None


def marked(folder: Path) -> str | None:
    """Return which run a folder is of, where that is said."""
    try:
        with (folder / MARK).open("rb") as file:
            words = file.read(200).decode()
    except (OSError, ValueError):
        return None
    found = re.fullmatch(rf"{PROGRAM} ([0-9a-f]+)\n", words)
    return found[1] if found else None


def finished(folder: Path) -> bool:
    """Whether a folder holds a run with nothing left to do; what a killed process left is swept."""
    try:
        if any(os.path.lexists(folder / name) for name in (CHECKPOINT, BEFORE)):
            return False
        path = folder / RESULT
        if not path.is_file() or path.stat().st_size > MOST_RESULT:
            return False
        result = from_json(path.read_bytes())
        done = bool(result["program"] == PROGRAM and result["status"] in ("finished", "failed"))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if done:
        sweep(folder)
        if (folder / MARK).exists():
            remove(folder / MARK)
    return done


def _claimed(name: str, folder: Path, made: bool = False) -> Claim | None:
    try:
        held = hold(folder / MARK)
    except OSError as error:
        raise _unwritable(name, folder, error) from None
    return None if held is None else Claim(folder, held, made)


def _unwritable(name: str, folder: Path, error: OSError) -> InputError:
    return InputError(
        f"{name}: expected a folder that can be written, got {str(folder)!r} "
        f"({error.strerror}); choose another"
    )


def _is_free(folder: Path) -> bool:
    """Whether nothing is in a folder but what a killed process of ours was about to write."""
    return all(path.name == MARK or is_part(path) for path in folder.iterdir())


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (CHECKPOINT, BEFORE, RESULT))
