"""The folder of a run: where it may be, and what it shows of the run in it."""

import json
import os
from datetime import datetime
from pathlib import Path

from iga_lab.errors import InputError
from iga_lab.files import PROGRAM

RUNS = Path("iga-runs")
RESULT = "result.json"
CHECKPOINT = "checkpoint.safetensors"


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
        stamp = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
        # Two runs may begin in one second.
        free = (RUNS / (stamp + tail) for tail in ["", *(f"-{k}" for k in range(2, 100))])
        folder = next(path for path in free if not path.exists())
    try:
        if folder.is_dir() and any(folder.iterdir()):
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
        raise InputError(
            f"output: expected a folder that can be written, got {str(folder)!r} "
            f"({error.strerror}); choose another"
        ) from None


def finished(folder: Path) -> bool:
    """Whether a folder holds a run with nothing left to do."""
    if (folder / CHECKPOINT).exists():
        return False
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return bool(result["program"] == PROGRAM and result["status"] in ("finished", "failed"))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_run(folder: Path) -> bool:
    return (folder / CHECKPOINT).exists() or (folder / RESULT).exists()
