"""The terminal that the command writes to, or the file or pipe in its place."""

from rich.console import Console

COLUMNS = 100
"""Of a table, and of what is not a terminal."""
LINES = 10
"""That a method writes where there is no terminal to draw a bar in; of a list of failures."""


def console(stderr: bool = False) -> Console:
    """Return the terminal as it is now; a file or a pipe is taken to be `COLUMNS` wide."""
    # Highlighting would colour numbers and names, and tear a table's cells apart.
    found = Console(stderr=stderr, highlight=False)
    if not found.is_terminal or found.width > COLUMNS:
        found = Console(stderr=stderr, highlight=False, width=COLUMNS)
    return found
