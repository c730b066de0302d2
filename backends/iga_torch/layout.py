"""How the points of a call are laid out in its arguments and outputs, and fall into groups."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec

from iga_core import Grouping
from iga_torch.neighbours import Index
from iga_torch.recording import COMPLEX, FLOATS, evaluating
from iga_torch.samples import Samples, replaced


@dataclass(frozen=True, eq=False)
class Layout:
    """The points of a call, and the arguments that run along with them.

    Parameters
    ----------
    leaves, spec
        Of the call's arguments, as `Samples` has them; its sampled tensors are replaced by None,
        since autograd keeps them.
    sampled : tuple of int
        Places of the tensors that run along, the coordinates among them.
    along : tuple of int
        How many leading axes each of these has in common with the points.
    shape : tuple of int
        The points' leading axes.
    output : callable
        Takes the outputs out of what the network returns.
    index : Index, optional
        How the points fall into groups; None if the first axis holds the groups.
    """

    leaves: tuple[Any, ...]
    spec: TreeSpec
    sampled: tuple[int, ...]
    along: tuple[int, ...]
    shape: tuple[int, ...]
    output: Callable[[Any], Any]
    index: Index | None = None

    @property
    def count(self) -> int:
        """Points in all."""
        return math.prod(self.shape)

    @property
    def groups(self) -> int:
        """Groups of points."""
        return self.shape[0] if self.index is None else len(self.index.index)

    @property
    def points(self) -> int:
        """Points in a group."""
        return self.shape[1] if self.index is None else self.index.index.shape[1]

    def placed(self, index: Index) -> "Layout":
        """Return the same points in groups."""
        return replace(self, index=index)

    def sharing(self, tensors: list[Tensor], coords: int) -> "Layout":
        """Return the same call with no tensor but the coordinates running along."""
        others = [k for k in range(len(tensors)) if k != coords]
        leaves = replaced(
            self.leaves, [self.sampled[k] for k in others], [tensors[k].detach() for k in others]
        )
        return replace(
            self, leaves=leaves, sampled=(self.sampled[coords],), along=(self.along[coords],)
        )

    def split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return values at all points, real, as (n, p, C), and of points in no group as (m, C)."""
        flat = as_real(values).reshape(self.count, -1)
        if self.index is None:
            return flat.unflatten(0, self.shape), flat[:0]
        grouped = flat.index_select(0, self.index.index.reshape(-1))
        return grouped.unflatten(0, self.index.index.shape), flat.index_select(0, self.index.rest)

    def joined(self, grouped: Tensor, rest: Tensor, like: Tensor) -> Tensor:
        """Put what `split` gave back into the order, shape and dtype of the call's outputs."""
        flat = grouped.flatten(0, 1)
        if self.index is not None:
            found = torch.empty_like(flat[:1].expand(self.count, -1))
            found[self.index.index.reshape(-1)] = flat
            found[self.index.rest] = rest
            flat = found
        if like.is_complex():
            flat = torch.view_as_complex(flat.reshape(self.count, -1, 2).contiguous())
        return flat.to(like.dtype).reshape(like.shape)

    def neighbours(self, device: torch.device) -> Tensor:
        """Return the groups nearest the points in no group, (m,)."""
        if self.index is None:
            return torch.empty(0, dtype=torch.int64, device=device)
        return self.index.neighbours

    def others(self) -> list[Any]:
        """Return the arguments that are no tensors."""
        return [
            leaf
            for place, leaf in enumerate(self.leaves)
            if place not in self.sampled and not isinstance(leaf, Tensor)
        ]

    def samples(self, tensors: list[Tensor], positions: Tensor) -> Samples:
        """Return the call at positions (n, s) of each group, one sample a group."""
        n, each = positions.shape
        if self.index is None:
            rows = torch.arange(n, device=positions.device)[:, None]
            parts = [
                t.detach()[rows, positions] if along > 1 else t.detach()
                for t, along in zip(tensors, self.along, strict=True)
            ]
            return self._samples(parts, 0, n, 1)
        flat = self.index.index.gather(1, positions).reshape(-1)
        axes = len(self.shape)
        # Where something belongs to a part of the leading axes, as a latent to each signal, the
        # samples are on the first axis, each with its own; else behind axes of length one.
        axis = axes - 1 if all(along == axes for along in self.along) else 0
        parts = []
        for t, along in zip(tensors, self.along, strict=True):
            place = flat // math.prod(self.shape[along:axes])
            taken = t.detach().reshape(-1, *t.shape[along:]).index_select(0, place)
            ones = (1,) * (along - 1)
            shape = (*ones, len(flat)) if axis else (len(flat), *ones)
            parts.append(taken.reshape(*shape, *t.shape[along:]))
        return self._samples(parts, axis, n, each)

    def neighbouring(self, tensors: list[Tensor], positions: Tensor) -> tuple[Samples, int]:
        """Return the call at two points of each group, and how many leading axes count them."""
        first = positions[:, :1]
        two = torch.cat([first, (first + 1) % self.points], dim=1) if self.points > 1 else first
        return self.samples(tensors, two), len(self.shape)

    def follows(self, network: nn.Module, tensors: list[Tensor]) -> bool:
        """Say whether a network returns as many outputs along the last axis as it is given points.

        Asked with one point more than there are, so that no number of channels is that by chance.
        """
        count, device = self.shape[-1] + 1, tensors[0].device
        every = torch.arange(self.count, device=device)
        layout = self.placed(Index(every[None], every[:0], every[:0]))
        some = torch.arange(count, device=device) % self.count
        samples = layout.samples(tensors, some[None])
        try:
            with evaluating(network), torch.no_grad():
                found = samples.call(network)
        except (IndexError, RuntimeError, ValueError):
            return False
        return found.shape[samples.axis] == count

    def _samples(self, parts: list[Tensor], axis: int, count: int, each: int) -> Samples:
        leaves = replaced(self.leaves, self.sampled, parts)
        places = tuple(sorted(self.sampled))
        return Samples(leaves, self.spec, places, axis, count, each, self._rows)

    def _rows(self, output: Any) -> Tensor:
        """Return the outputs with one axis of channels behind those of the points."""
        found: Tensor = self.output(output)
        axes = len(self.shape)
        return found.reshape(*found.shape[:axes], -1) if found.ndim != axes + 1 else found

    def require_outputs(self, output: Tensor) -> None:
        """Raise unless there is a row of channels for each point."""
        if tuple(output.shape[: len(self.shape)]) != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise ValueError(
                f"output: expected shape ({wanted}) or ({wanted}, channels), got "
                f"{tuple(output.shape)}; return one row of channels a point"
            )


def require_numbers(output: Tensor) -> None:
    """Raise unless outputs are of a float dtype, complex numbers of one, or autocast's."""
    kind = output.device.type
    reduced = torch.is_autocast_enabled(kind) and output.dtype == torch.get_autocast_dtype(kind)
    if output.dtype not in (*FLOATS, *COMPLEX) and not reduced:
        raise TypeError(
            "output: expected float32 or float64, or complex numbers of these, got "
            f"{output.dtype}; return output.float(), or put the call under torch.autocast"
        )


def as_real(values: Tensor) -> Tensor:
    """Return real numbers, of complex ones the real and the imaginary parts as two."""
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


def leading_axes(coords: Tensor, output: Tensor) -> tuple[int, ...]:
    """Return the axes that the coordinates, without their last, and the output begin with."""
    points = coords.shape[:-1] if coords.ndim > 1 else coords.shape
    common = 0
    while common < min(len(points), output.ndim) and points[common] == output.shape[common]:
        common += 1
    if not common:
        raise ValueError(
            f"output: expected the leading axes of the coordinates, {tuple(points)}, got shape "
            f"{tuple(output.shape)}; return one row of channels a point, or expand the coordinates "
            "to the axes of the outputs"
        )
    return tuple(points[:common])


def axes_of(coords: Tensor, grouping: Grouping) -> tuple[int, ...]:
    """Return the leading axes that hold as many points as a grouping has, in their own order."""
    for axes in range(1, coords.ndim + 1):
        if math.prod(coords.shape[:axes]) == grouping.count and coords.shape[axes:] != ():
            return tuple(coords.shape[:axes])
    if coords.ndim == 1 and len(coords) == grouping.count:
        return (grouping.count,)
    raise ValueError(
        f"coords: expected leading axes of {grouping.count} points, as many as the grouping has, "
        f"got shape {tuple(coords.shape)}; pass all points at once in their own order, or leave "
        "the grouping out, to have groups found at each call"
    )


def axes_of_rows(coords: Tensor) -> tuple[int, ...]:
    """Return groups and points of a group, of data whose first axis holds the groups."""
    if coords.ndim < 3 or coords.numel() == 0:
        raise ValueError(
            "coords: expected shape (groups, points, ...) of three axes or more, got "
            f"{tuple(coords.shape)}; leave the grouping out, to have groups found at each call"
        )
    return tuple(coords.shape[:2])


def running_along(
    leaves: list[Any], coords: int, shape: tuple[int, ...], rows: bool, shared: set[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the places of the tensors that run along with the points, and along how many axes.

    Parameters
    ----------
    leaves : list
        Of the arguments.
    coords : int
        The place of the coordinates.
    shape : tuple of int
        The points' leading axes.
    rows : bool
        Whether these are groups and points; what has the groups' axis alone belongs to a group.
    shared : set of int
        Places of tensors that are known to belong to every point, whatever their shape.
    """
    found = {coords: len(shape)}
    for place, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor) or place in found or place in shared:
            continue
        along = 0
        while along < min(len(shape), leaf.ndim) and leaf.shape[along] == shape[along]:
            along += 1
        # Leading axes of length one alone are those of a tensor for all points.
        if along == len(shape) or (along and math.prod(shape[:along]) > 1):
            found[place] = along
    if rows:
        found = {place: 2 if along == 2 else 1 for place, along in found.items()}
    places = tuple(sorted(found))
    return places, tuple(found[place] for place in places)


def sent(array: NDArray[numpy.generic], like: Tensor) -> Tensor:
    """Move to a tensor's device, from pinned memory and without waiting where it is a GPU."""
    tensor = torch.tensor(array)  # a copy: those of a grouping are read-only
    if like.device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(like.device, non_blocking=True)


class Given:
    """A grouping that was given, on the device of the data."""

    def __init__(self, grouping: Grouping) -> None:
        self.grouping = grouping
        self._index: Index | None = None

    def on(self, like: Tensor) -> Index:
        """Return its parts where a tensor is."""
        if self._index is None or self._index.index.device != like.device:
            g = self.grouping
            self._index = Index(*(sent(part, like) for part in (g.index, g.rest, g.neighbours)))
        return self._index

    def __getstate__(self) -> dict[str, Any]:
        return {"grouping": self.grouping, "_index": None}
