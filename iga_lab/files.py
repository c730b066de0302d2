"""Files that are written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from iga_lab.errors import InputError

PROGRAM = "iga-core"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name in its folder, then rename it.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    # In the same folder, for only within a file system is a rename at once; with the number of the
    # process, so that two of them do not write into each other's file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # before the rename: a crash may not leave an empty file
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"output: expected to write {str(path)!r}, got {error.strerror or error}; "
            "free the disk or choose another folder"
        ) from None


def as_json(content: dict[str, Any]) -> bytes:
    """Return indented JSON, UTF-8."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
