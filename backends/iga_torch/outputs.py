"""The tensors among what a network returns that are adjusted, several of them as one."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec

from iga_torch.layout import as_real
from iga_torch.selecting import Selector, require_selector, selected


class Outputs:
    """Which tensors of what is returned are the outputs.

    Parameters
    ----------
    chosen : selector, or list of them, optional
        See `IGA`; with a list, the channels of all of them are outputs of one function.
    """

    def __init__(self, chosen: Selector | list[Selector] | None) -> None:
        self._chosen = chosen if isinstance(chosen, list) else [chosen]
        if not self._chosen:
            raise ValueError("output: expected at least one, got an empty list; name a tensor")
        for one in self._chosen:
            require_selector("output", one)

    def taken(self, returned: Any) -> tuple[list[Any], TreeSpec, list[int]]:
        """Return the leaves of a structure, how they make it, and the places of the outputs."""
        found = [selected("output", one, returned) for one in self._chosen]
        leaves, spec, _ = found[0]
        return leaves, spec, list(dict.fromkeys(place for _, _, place in found))

    def joined(self, axes: int, returned: Any) -> Tensor:
        """Return the outputs as one tensor, whose so many leading axes count points."""
        leaves, _, places = self.taken(returned)
        return beside([leaves[place] for place in places], axes)


def beside(tensors: list[Tensor], axes: int) -> Tensor:
    """Return the channels of several tensors behind their points' axes; a single one as it is."""
    if len(tensors) == 1:
        return tensors[0]
    return torch.cat([as_real(t).reshape(*t.shape[:axes], -1) for t in tensors], dim=-1)


def apart(joined: Tensor, like: list[Tensor], axes: int) -> list[Tensor]:
    """Return the parts of what `beside` joined, in the form of each."""
    if len(like) == 1:
        return [joined]
    widths = [as_real(t).reshape(*t.shape[:axes], -1).shape[-1] for t in like]
    parts = []
    for part, t in zip(joined.split(widths, dim=-1), like, strict=True):
        found = part.reshape(as_real(t).shape)
        found = torch.view_as_complex(found.contiguous()) if t.is_complex() else found
        parts.append(found.to(t.dtype))
    return parts
