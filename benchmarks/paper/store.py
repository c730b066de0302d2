"""Finished runs, one file each, found again by what was run."""

import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._report import environment
from iga_lab.errors import InputError

FORMAT = 2
"""Of the files; raised when runs of an older format must not be mixed with new ones."""
ABOUT = {"format": FORMAT, "iga-core": version("iga-core")}
"""What all runs of a folder have in common."""

LABELS = ("signal", "source", "method")
"""Of a description: what a table calls a run, which has no part in what is computed."""

Description = dict[str, Any]
"""What was run, ready for JSON."""


@dataclasses.dataclass(frozen=True, eq=False)
class Finished:
    """A run that is over.

    Parameters
    ----------
    case : dict
        What was run.
    result : dict
        What came of it.
    prediction : ndarray of float16, or None
        Where the run leaves one.
    """

    case: Description
    result: dict[str, Any]
    prediction: NDArray[np.float16] | None = None


class Store:
    """A folder of finished runs; a run that lies there is never done or written again.

    Parameters
    ----------
    folder : Path
        Made if it is missing.

    Raises
    ------
    InputError
        If the folder cannot be used, or holds runs of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        about = folder / "format.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not about.exists():
                if any(folder.glob("*.json")):
                    raise InputError(
                        f"output: expected a folder of runs, got {str(folder)!r} with other "
                        "files; name another one with --output"
                    )
                _write_new(about, json.dumps(ABOUT).encode())
            found = json.loads(about.read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"output: expected a folder of runs, got {str(folder)!r} ({error}); "
                "name another one with --output"
            ) from None
        if found != ABOUT:
            raise InputError(
                f"output: expected runs of {_words(ABOUT)}, got {_words(found)} in "
                f"{str(folder)!r}; name another folder with --output"
            )

    def __contains__(self, case: Description) -> bool:
        return self._path(case).exists()

    def read(self, case: Description) -> Finished:
        """Return a finished run, or raise InputError if its file is damaged."""
        path = self._path(case)
        try:
            content = json.loads(path.read_text())
            beside = path.with_suffix(".npy")
            prediction = np.load(beside, allow_pickle=False) if beside.exists() else None
            return Finished(case, content["result"], prediction)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"output: expected a whole run in {str(path)!r}, got one that cannot be read "
                f"({error}); delete that file to have it run again"
            ) from None

    def add(self, finished: Finished) -> None:
        """Keep a run; one that is there already stays as it is."""
        path = self._path(finished.case)
        if finished.prediction is not None:
            _write_new(path.with_suffix(".npy"), _npy(finished.prediction))
        about = _without(finished.case, ("source",))
        content = {"case": about, "result": finished.result, "environment": environment()}
        _write_new(path, (json.dumps(content, indent=1) + "\n").encode())

    def missing(self, cases: Iterable[Description]) -> list[Description]:
        """Return those that are yet to be run, each once."""
        once = {key(case): case for case in cases}
        return [case for case in once.values() if case not in self]

    def _path(self, case: Description) -> Path:
        return self.folder / f"{key(case)}.json"


def _words(about: Any) -> str:
    pairs = about.items() if isinstance(about, dict) else []
    return ", ".join(f"{name} {value}" for name, value in pairs) or "nothing known"


def key(case: Description) -> str:
    """Return a file name that belongs to this description alone."""
    text = json.dumps(_without(case, LABELS), sort_keys=True)
    words = [str(case[k]) for k in ("task", "network", "optimizer") if case.get(k)]
    readable = re.sub(r"[^a-z0-9+]+", "-", " ".join(words).lower()).strip("-")
    return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _without(case: Any, names: tuple[str, ...]) -> Any:
    if isinstance(case, dict):
        return {k: _without(v, names) for k, v in case.items() if k not in names}
    return case


def _npy(array: NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def _write_new(path: Path, content: bytes) -> None:
    """Write a whole file, unless another process was faster."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_bytes(content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # there are file systems without hard links
        if not path.exists():
            temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
