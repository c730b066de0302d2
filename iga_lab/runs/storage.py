"""Arrays with a few words beside them, in one file that says whose it is; no pickle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError
from iga_lab.files import PROGRAM
from iga_lab.hardware import version

FORMAT = "4"
"""Of models and checkpoints: raised when what is in them changes."""

Arrays: TypeAlias = dict[str, NDArray[Any]]


def packed(arrays: Arrays, metadata: Mapping[str, str]) -> bytes:
    """Return arrays and words as the content of a ``.safetensors`` file of this program."""
    from safetensors.numpy import save

    # What is not in C order would be written in its own order and read in another.
    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    number = version("iga-core") or "unknown"
    about = {"program": PROGRAM, "version": number, "format": FORMAT, **metadata}
    content: bytes = save(ordered, metadata=about)
    return content


def unpacked(name: str, path: Path, kind: str) -> tuple[Arrays, dict[str, str]]:
    """Read what `packed` made.

    Parameters
    ----------
    name : str
        Of the setting that named the file, for errors.
    path : Path
        Of the file.
    kind : {"model", "checkpoint"}
        What it has to be.

    Raises
    ------
    InputError
        If it is another thing, of another format, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        what = "a folder" if path.is_dir() else "no file"
        raise InputError(
            f"{name}: expected a file that `iga fit` has written, got {str(path)!r}, which is "
            f"{what}; name a model-*.safetensors"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("program") != PROGRAM or metadata.get("kind") != kind:
                raise InputError(
                    f"{name}: expected a {kind} of {PROGRAM}, got {path.name!r} of "
                    f"{metadata.get('program', 'another program')} "
                    f"({metadata.get('kind', 'of unknown kind')}); name a file of `iga fit`"
                )
            if metadata.get("format") != FORMAT:
                raise InputError(
                    f"{name}: expected a {kind} of format {FORMAT}, got {path.name!r} of format "
                    f"{metadata.get('format', '1')}, written by {PROGRAM} "
                    f"{metadata.get('version', 'of unknown version')}; make it anew with `iga fit`"
                )
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise damaged(name, path, error) from None


def damaged(name: str, path: Path, error: Exception) -> InputError:
    """Return the error of a file that is not what it says it is."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(
        f"{name}: expected a whole file of {PROGRAM}, got {path.name!r}, which is damaged or "
        f"of another program or version ({reason}); make it anew with `iga fit`"
    )
