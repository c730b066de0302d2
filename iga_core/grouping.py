"""A data set's points and the groups they fall into."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from iga_core.arrays import Array, require_array, require_count, require_shape


@dataclass(frozen=True, eq=False)
class Grouping:
    """A partition of a data set into `n` groups of `p` points and `m` points in no group.

    Group `i` holds the points ``origins[i] + offsets``, so the whole index costs ``n + p + m``
    integers. Make one with `patches` or `blocks`: they alone guarantee that the parts fit.

    Parameters
    ----------
    origins : ndarray of int64, shape (n,)
        Position in the data set of each group's first point.
    offsets : ndarray of int64, shape (p,)
        Distance of each point of a group from its first.
    rest : ndarray of int64, shape (m,)
        Points in no group, ascending.
    centre : int
        The position in a group nearest its middle; of two equally near, the lower.
    """

    origins: NDArray[np.int64] = field(repr=False)
    offsets: NDArray[np.int64] = field(repr=False)
    rest: NDArray[np.int64] = field(repr=False)
    centre: int

    @classmethod
    def patches(cls, shape: int | Sequence[int], size: int | Sequence[int]) -> "Grouping":
        """Cut an n-D grid of points, in C order, into patches that do not overlap.

        Parameters
        ----------
        shape : int or sequence of int
            Points along each axis: ``(rows, columns)`` of an image.
        size : int or sequence of int
            Points of a patch along every axis, or one number per axis.

        Returns
        -------
        Grouping
            Patches and their points both in C order; what the patch does not divide is `rest`.

        Raises
        ------
        TypeError, ValueError
            If a number is not a positive integer, the lengths differ, or a patch exceeds the grid.
        """
        sides = _sides("shape", shape)
        patch = _sides("size", size)
        if not isinstance(size, Iterable):
            patch = patch * len(sides)
        if len(patch) != len(sides):
            raise ValueError(
                f"size: expected one number or {len(sides)} (one per axis of shape {sides}), "
                f"got {len(patch)}; pass one per axis"
            )
        if any(p > s for p, s in zip(patch, sides, strict=True)):
            raise ValueError(
                f"size: expected a patch no larger than the grid {sides}, got {patch}; "
                "choose a smaller patch"
            )
        strides = [math.prod(sides[axis + 1 :]) for axis in range(len(sides))]
        counts = [s // p for s, p in zip(sides, patch, strict=True)]
        origins = _lattice(counts, [p * t for p, t in zip(patch, strides, strict=True)])
        offsets = _lattice(patch, strides)
        covered = [c * p for c, p in zip(counts, patch, strict=True)]
        middle = np.ravel_multi_index([(p - 1) // 2 for p in patch], patch)
        return cls(origins, offsets, _outside(sides, covered), int(middle))

    @classmethod
    def blocks(cls, count: int, size: int) -> "Grouping":
        """Cut `count` points into blocks of `size` consecutive points.

        Parameters
        ----------
        count : int
            Points in the data set.
        size : int
            Points in a block.

        Returns
        -------
        Grouping
            ``count // size`` blocks; the last ``count % size`` points are `rest`.

        Raises
        ------
        TypeError, ValueError
            If a number is not a positive integer or a block exceeds the data.
        """
        return cls.patches(require_count("count", count, 1), require_count("size", size, 1))

    @property
    def groups(self) -> int:
        """Number of groups, `n`."""
        return len(self.origins)

    @property
    def points(self) -> int:
        """Points in a group, `p`."""
        return len(self.offsets)

    @property
    def count(self) -> int:
        """Points in the data set, ``n * p + m``."""
        return self.groups * self.points + len(self.rest)

    @property
    def index(self) -> NDArray[np.int64]:
        """Position in the data set of every grouped point, (n, p); made anew at each call."""
        return self.columns(0, self.points)

    def columns(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return some columns of the index.

        Parameters
        ----------
        start, stop : int
            Positions in the group.

        Returns
        -------
        ndarray of int64, shape (n, stop - start)
        """
        return self.origins[:, None] + self.offsets[None, start:stop]

    def split(self, flat: Array) -> tuple[Array, Array]:
        """Arrange data by group.

        Parameters
        ----------
        flat : array, shape (N, ...)
            Data in their own order, of any dtype.

        Returns
        -------
        groups : array, shape (n, p, ...)
            The grouped points.
        rest : array, shape (m, ...)
            The points in no group.

        Raises
        ------
        ValueError
            If the first axis is not as long as the data set.
        """
        require_array("flat", flat)
        require_shape("flat", flat, (self.count, "..."), f"this grouping is of {self.count} points")
        groups = _take(flat, self.index.reshape(-1))
        xp = array_namespace(flat)
        shape = (self.groups, self.points, *flat.shape[1:])
        return xp.reshape(groups, shape), _take(flat, self.rest)

    def join(self, groups: Array, rest: Array) -> Array:
        """Put grouped data back in their own order: the inverse of `split`.

        Parameters
        ----------
        groups : array, shape (n, p, ...)
            The grouped points.
        rest : array, shape (m, ...)
            The points in no group, of the same dtype.

        Returns
        -------
        array, shape (N, ...)
            All points in the order of the data set.

        Raises
        ------
        TypeError, ValueError
            If the dtypes differ or the shapes are not those that `split` gives.
        """
        remedy = "pass both arrays as Grouping.split gives them"
        require_array("groups", groups)
        require_array("rest", rest)
        if groups.dtype != rest.dtype:
            raise TypeError(
                f"groups, rest: expected one dtype, got {groups.dtype}, {rest.dtype}; {remedy}"
            )
        require_shape("groups", groups, (self.groups, self.points, "..."), remedy)
        require_shape("rest", rest, (len(self.rest), *groups.shape[2:]), remedy)
        xp = array_namespace(groups, rest)
        grouped = xp.reshape(groups, (self.groups * self.points, *groups.shape[2:]))
        inverse = np.empty(self.count, dtype=np.int64)
        inverse[np.concatenate([self.index.reshape(-1), self.rest])] = np.arange(self.count)
        return _take(xp.concat([grouped, rest]), inverse)


def _sides(name: str, value: Any) -> tuple[int, ...]:
    several = isinstance(value, Iterable) and not isinstance(value, str)
    values = tuple(value) if several else (value,)
    if not values:
        raise ValueError(f"{name}: expected at least one axis, got none; pass an int per axis")
    return tuple(require_count(name, side, 1) for side in values)


def _outside(sides: Sequence[int], covered: Sequence[int]) -> NDArray[np.int64]:
    """Flat positions of the points beyond the covered corner of a grid, ascending."""
    if list(sides) == list(covered):
        return np.empty(0, dtype=np.int64)
    outside = np.ones(sides, dtype=bool)
    outside[tuple(map(slice, covered))] = False
    return np.flatnonzero(outside)


def _lattice(counts: Sequence[int], strides: Sequence[int]) -> NDArray[np.int64]:
    """Flat positions of a lattice's points, in C order."""
    flat = np.zeros(1, dtype=np.int64)
    for count, stride in zip(counts, strides, strict=True):
        flat = (flat[:, None] + stride * np.arange(count)).reshape(-1)
    return flat


def _take(flat: Array, index: NDArray[np.int64]) -> Array:
    xp = array_namespace(flat)
    return xp.take(flat, xp.asarray(index, device=device(flat)), axis=0)
