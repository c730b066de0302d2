"""What a person has to change, said in one line."""

import difflib
import sys
from collections.abc import Collection


class InputError(Exception):
    r"""A setting or a file that cannot be used; the command ends with it and exit code 2.

    Parameters
    ----------
    message : str
        What was expected, what came and what to do; it is kept `printable`.

    Examples
    --------
    >>> str(InputError("model: expected a whole file, got one of \x1b[31mred"))
    'model: expected a whole file, got one of \\x1b[31mred'
    """

    def __init__(self, message: str) -> None:
        # Here, because names of files and what stands in them end up in errors from everywhere.
        super().__init__(printable(message))


def printable(text: str) -> str:
    r"""Return text with an escape in place of each character that is not one to be read.

    Those move the cursor, colour or clear a terminal, turn the direction of a line, or are the
    bytes of a name that is not UTF-8.

    Examples
    --------
    >>> printable("größe\x1b[2J\u202e\udcff")
    'größe\\x1b[2J\\u202e\\udcff'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def readable(name: str) -> str:
    r"""Return the name of a file as text, whatever its bytes and the locale are.

    What is UTF-8 becomes letters, in a locale that does not know them too, and every other byte an
    escape.

    Examples
    --------
    >>> readable("größe.png"), readable("gr\udcff.png")
    ('größe.png', 'gr\\xff.png')
    """
    # A name holds the bytes that the locale could not read as surrogates, each alone.
    kept = "surrogatepass" if sys.platform == "win32" else "surrogateescape"
    content = name.encode("utf-8", kept)
    return printable(content.decode("utf-8", "backslashreplace"))


def a(noun: str) -> str:
    """Return a noun with its article.

    Examples
    --------
    >>> a("sound"), a("image")
    ('a sound', 'an image')
    """
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def unknown(name: str, got: str, choices: Collection[str]) -> InputError:
    """Return the error of a name that is none of `choices`, with the nearest of them."""
    near = difflib.get_close_matches(got.lower(), choices, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "name one of them"
    return InputError(f"{name}: expected one of {', '.join(choices)}, got {got!r}; {hint}")
