"""The arguments of a call as they were before it, since a network may change them in place."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Before:
    """Arguments of a call, at a time before it.

    Parameters
    ----------
    leaves : list
        The arguments themselves.
    versions : list of int or None
        How often each had been changed; None for what counts no changes.
    copies : list, optional
        Of the arguments as they were.
    """

    leaves: list[Any]
    versions: list[int | None]
    copies: list[Any] | None

    @classmethod
    def of(cls, leaves: list[Any], copied: bool) -> "Before":
        """Remember arguments, with copies where a change is to be expected."""
        copies = [_copy(leaf) for leaf in leaves] if copied else None
        return cls(leaves, list(map(_version, leaves)), copies)

    def arguments(self) -> tuple[list[Any] | None, bool]:
        """Return the arguments as they were, None if they are lost, and whether any was changed."""
        if self.versions == list(map(_version, self.leaves)):
            return self.leaves, False
        return self.copies, True


def _version(leaf: Any) -> int | None:
    return leaf._version if isinstance(leaf, Tensor) and not leaf.is_inference() else None


def _copy(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf
