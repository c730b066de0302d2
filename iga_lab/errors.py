"""What a person has to change, said in one line."""

import difflib
from collections.abc import Collection


class InputError(Exception):
    """A setting or a file that cannot be used; the command ends with it and exit code 2."""


def unknown(name: str, got: str, choices: Collection[str]) -> InputError:
    """Return the error of a name that is none of `choices`, with the nearest of them."""
    near = difflib.get_close_matches(got.lower(), choices, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "name one of them"
    return InputError(f"{name}: expected one of {', '.join(choices)}, got {got!r}; {hint}")
