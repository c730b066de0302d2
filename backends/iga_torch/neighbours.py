"""Groups of neighbours among points that are new at every call, found where the points are.

`Grouping.nearest` reads values on the host and takes tens of milliseconds; here nothing is read,
and every shape follows from counts alone.
"""

import functools
import math
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

MOST_REST = 0.02
"""Share of the points that may be left in no group, as in `Grouping.nearest`."""


@dataclass(frozen=True, eq=False)
class Index:
    """Points in groups, on the device of the data.

    Parameters
    ----------
    index : Tensor of int64, shape (n, p)
        Positions of the points of each group.
    rest, neighbours : Tensor of int64, shape (m,)
        Positions of the points in no group, and the group nearest each.
    """

    index: Tensor
    rest: Tensor
    neighbours: Tensor

    @property
    def count(self) -> int:
        """Points in all."""
        return self.index.numel() + self.rest.numel()


def nearest(coords: Tensor, groups: int) -> Index:
    """Group neighbours by sorting and tiling (Leutenegger, Lopez and Edgington 1997).

    The points are sorted along the first axis and cut into slabs, each slab along the second, and
    so on, so that the tiles are about as many along every axis and hold equally many points.

    Parameters
    ----------
    coords : Tensor, shape (N, d)
        Coordinates; where d is large, the first few decide.
    groups : int
        How many, at most N. There are fewer where more than 2 % of the points would be in none.

    Returns
    -------
    Index

    Notes
    -----
    One sort an axis, ``O(d N log N)``, at most log2(groups) axes. Nothing waits for the device.
    """
    count = coords.shape[0]
    tiling = _tiling(count, groups, coords.shape[1], coords.device)
    values = coords.detach().to(torch.float64)
    low, high = values.amin(dim=0), values.amax(dim=0)
    # From 0 to below 1, so that slab + value sorts by slab first.
    values = (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny) * 0.999
    order = torch.argsort(values[:, 0], stable=True)
    rest = order[tiling.rest]
    order = order[tiling.kept]
    for axis, slabs in enumerate(tiling.slabs, start=1):
        order = order[torch.argsort(values[order, axis] + slabs, stable=True)]
    index = order.reshape(tiling.groups, -1)
    if not rest.numel():
        return Index(index, rest, rest)
    middle = values[index].mean(dim=1)
    return Index(index, rest, torch.cdist(values[rest], middle).argmin(dim=1))


@dataclass(frozen=True, eq=False)
class Tiling:
    """How sorted points are cut: which ranks are kept, and the slab of each from axis to axis."""

    groups: int
    kept: Tensor
    rest: Tensor
    slabs: tuple[Tensor, ...]


@functools.lru_cache(maxsize=64)
def _tiling(count: int, wanted: int, axes: int, device: torch.device) -> Tiling:
    groups = next(n for n in range(min(wanted, count), 0, -1) if count % n <= MOST_REST * count)
    points, left = divmod(count, groups)
    # Those in no group are spread over the first axis.
    rest = ((2 * numpy.arange(left) + 1) * count) // (2 * left) if left else numpy.arange(0)
    kept = numpy.delete(numpy.arange(count), rest)
    slabs, tiles = [], numpy.asarray([groups])  # tiles of each slab so far
    levels = min(axes, max(1, math.floor(math.log2(groups)))) if groups > 1 else 1
    for level in range(levels - 1):
        cut = []
        for tile in tiles:
            parts = max(1, round(tile ** (1 / (levels - level))))
            cut += [len(part) for part in numpy.array_split(numpy.arange(tile), parts)]
        tiles = numpy.asarray(cut)
        slabs.append(numpy.repeat(numpy.arange(len(tiles)), tiles * points).astype(float))
    on = functools.partial(torch.as_tensor, device=device)
    return Tiling(groups, on(kept), on(rest), tuple(map(on, slabs)))
