"""The terminal that the command writes to, or the file or pipe in its place."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = 100
"""Of a table, and of what is not a terminal."""
LINES = 10
"""That a method writes where there is no terminal to draw a bar in; of a list of failures."""


def console(stderr: bool = False) -> "Console":
    """Return the terminal as it is now; a file or a pipe is taken to be `COLUMNS` wide."""
    from rich.console import Console

    # Highlighting would colour numbers and names, and tear a table's cells apart.
    found = Console(stderr=stderr, highlight=False)
    if not found.is_terminal or found.width > COLUMNS:
        found = Console(stderr=stderr, highlight=False, width=COLUMNS)
    return found


def quoted(path: Path) -> str:
    r"""Return a path as it can be pasted into a shell, whatever its name.

    Examples
    --------
    >>> print(quoted(Path("my runs/first")), quoted(Path("a\x1b[2J")))
    'my runs/first' $'a\x1b[2J'
    """
    text = str(path)
    if text.isprintable():
        return shlex.quote(text)
    # As bash and zsh read it, where no character may stand for itself that moves the terminal.
    return "$'" + "".join(map(_escaped, text)) + "'"


def _escaped(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    if letter.isprintable():
        return letter
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(letter))
