"""A data set's points, the groups they fall into, and which of both take part when.

All of it is host arithmetic on integers, NumPy alone, so that every backend has the same groups;
only `Grouping.split` and `join` touch the data themselves, in whatever library they are.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import (
    array_namespace,
    is_array_api_strict_namespace,
    is_cupy_array,
    is_torch_array,
)
from numpy.typing import NDArray

from iga_core.arrays import (
    Array,
    require_array,
    require_count,
    require_nonempty,
    require_shape,
    sent,
)

Index = NDArray[np.int64]

MOST_POINTS = 2**32
"""Points of a grid: its index alone takes 32 GiB then."""

MOST_AXES = 32
"""Axes of a grid: on the way to patches there are twice as many, and NumPy allows 64."""

MOST_REST = 0.02
"""Share of the points that `Grouping.nearest` leaves in no group."""

MEMORY = 2**29
"""Bytes that a piece may take by default, see `pieces`."""


@dataclass(frozen=True, eq=False, repr=False)
class Grouping:
    """A partition of a data set into `n` groups of `p` points and `m` points in no group.

    Make one with `patches`, `blocks` or `nearest`: they alone guarantee that the parts fit. Its
    arrays are read-only.

    Parameters
    ----------
    index : ndarray of int64, shape (n, p)
        Position in the data set of every grouped point.
    rest : ndarray of int64, shape (m,)
        Points in no group, ascending.
    neighbours : ndarray of int64, shape (m,)
        The group nearest each of these; -1 where it takes no part, see `some`.
    centre : ndarray of int64, shape (n,)
        The position in each group nearest its middle; of two equally near, the lower.

    Examples
    --------
    >>> grouping = Grouping.patches((4, 5), 2)
    >>> grouping
    Grouping(groups=4, points=4, rest=4)
    >>> grouping.index.tolist()
    [[0, 1, 5, 6], [2, 3, 7, 8], [10, 11, 15, 16], [12, 13, 17, 18]]
    >>> grouping.rest.tolist(), grouping.neighbours.tolist()
    ([4, 9, 14, 19], [1, 1, 3, 3])
    """

    index: Index
    rest: Index
    neighbours: Index
    centre: Index

    def __post_init__(self) -> None:
        # One grouping serves many steps and trainers: none may change it for the others.
        for array in (self.index, self.rest, self.neighbours, self.centre):
            array.flags.writeable = False

    def __repr__(self) -> str:
        return f"Grouping(groups={self.groups}, points={self.points}, rest={len(self.rest)})"

    @classmethod
    def patches(cls, shape: int | Sequence[int], size: int | Sequence[int]) -> "Grouping":
        """Cut an n-D grid of points, in C order, into patches that do not overlap.

        Parameters
        ----------
        shape : int or sequence of int
            Points along each axis: ``(rows, columns)`` of an image; `MOST_POINTS` in all and
            `MOST_AXES` axes at most.
        size : int or sequence of int
            Points of a patch along every axis, or one number per axis.

        Returns
        -------
        Grouping
            Patches and their points both in C order. What the patches do not cover is `rest`; the
            neighbour of such a point is the last patch along each axis that it lies beyond.

        Raises
        ------
        TypeError, ValueError
            If a number is not a positive integer, the lengths differ, a patch exceeds the grid, or
            the grid is too large.

        Notes
        -----
        Time and memory are ``O(N)``.

        Examples
        --------
        >>> Grouping.patches((512, 768), 16).index.shape
        (1536, 256)
        """
        sides = _sides("shape", shape)
        patch = _sides("size", size)
        if not isinstance(size, Iterable):
            patch = patch * len(sides)
        if len(patch) != len(sides):
            raise ValueError(
                f"size: expected one number or {len(sides)} (one per axis of the shape), got "
                f"{len(patch)}; pass one per axis"
            )
        if any(p > s for p, s in zip(patch, sides, strict=True)):
            raise ValueError(
                f"size: expected a patch no larger than the grid {sides}, got {patch}; "
                "choose a smaller patch"
            )
        counts = [s // p for s, p in zip(sides, patch, strict=True)]
        axes = len(sides)
        # Each axis cut in two: which patch, and where in it. All of the first stand before all of
        # the second, and a view of the grid's own numbers becomes the index.
        grid = np.arange(math.prod(sides)).reshape(sides)
        covered = tuple(slice(c * p) for c, p in zip(counts, patch, strict=True))
        cut = grid[covered].reshape([k for pair in zip(counts, patch, strict=True) for k in pair])
        order = [*range(0, 2 * axes, 2), *range(1, 2 * axes, 2)]
        index = cut.transpose(order).reshape(math.prod(counts), math.prod(patch))
        outside = np.ones(sides, dtype=bool)
        outside[covered] = False
        rest = np.flatnonzero(outside)
        places = np.unravel_index(rest, sides)
        nearest = [np.minimum(x // p, c - 1) for x, p, c in zip(places, patch, counts, strict=True)]
        neighbours = np.ravel_multi_index(nearest, counts)
        middle = np.ravel_multi_index([(p - 1) // 2 for p in patch], patch)
        return cls(index, rest, neighbours, np.broadcast_to(middle, len(index)))

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
            If a number is not a positive integer, a block exceeds the data, or there are more than
            `MOST_POINTS`.

        Notes
        -----
        Time and memory are ``O(count)``.

        Examples
        --------
        >>> Grouping.blocks(10, 4).index.tolist()
        [[0, 1, 2, 3], [4, 5, 6, 7]]
        """
        return cls.patches(require_count("count", count, 1), require_count("size", size, 1))

    @classmethod
    def nearest(cls, coords: Array, groups: int) -> "Grouping":
        """Group neighbours, of any points, by a balanced k-d tree.

        A node is split along its widest axis at the rank that gives each side its share of the
        groups; the points inside a group stand in the order of continued splits, so that a column
        holds points at like places of all groups. Equal coordinates are ordered by index.

        Parameters
        ----------
        coords : array, shape (N, d)
            Coordinates of the points: real numbers of any dtype, library and device, read as
            float64 on the host.
        groups : int
            How many groups are wanted. There are fewer where more than 2 % of the points would be
            left in none: the next lower number that leaves so few.

        Returns
        -------
        Grouping
            ``N // n`` points a group. Where that does not divide, some leaves of the tree have a
            point more: that of largest index is `rest`, and the leaf's group its neighbour.

        Raises
        ------
        TypeError, ValueError
            If the coordinates are no real numbers, of another shape or not finite, or `groups` is
            no positive integer or more than the points.

        Notes
        -----
        Time is ``O(d N log N)``, memory ``O(d N)``. The same coordinates give the same groups,
        whatever the library and the device.

        Examples
        --------
        >>> coords = np.asarray([[0.0, 0.0], [9.0, 0.1], [0.1, 0.2], [9.1, 0.0]])
        >>> Grouping.nearest(coords, 2).index.tolist()
        [[0, 2], [3, 1]]
        """
        require_array("coords", coords)
        require_shape("coords", coords, ("points", "axes"), "pass one row a point")
        require_nonempty("coords", coords)
        values = _on_host(coords)
        if not np.all(np.isfinite(values)):
            raise ValueError("coords: expected finite values, got NaN or infinity; clean the data")
        count = len(values)
        wanted = require_count("groups", groups, 1)
        if wanted > count:
            raise ValueError(
                f"groups: expected at most the {count} points, got {wanted}; ask for fewer"
            )
        n = next(n for n in range(wanted, 0, -1) if count % n <= MOST_REST * count)
        return _by_splits(cls, np.ascontiguousarray(values.T), n)

    @property
    def groups(self) -> int:
        """Number of groups, `n`."""
        return int(self.index.shape[0])

    @property
    def points(self) -> int:
        """Points in a group, `p`."""
        return int(self.index.shape[1])

    @property
    def count(self) -> int:
        """Points in the data set, ``n * p + m``."""
        return self.index.size + len(self.rest)

    def some(self, chosen: Index) -> "Grouping":
        """Return some of the groups, with all points in no group: what a step on a batch is of.

        Parameters
        ----------
        chosen : ndarray of int64, shape (k,)
            Numbers of groups, ascending.

        Returns
        -------
        Grouping
            Of positions in the same data set, which it does not cover: `split` and `join` are for
            the whole. Points in no group whose neighbour is not among the chosen have -1 for it.

        Examples
        --------
        >>> some = Grouping.patches((4, 5), 2).some(np.asarray([1, 2]))
        >>> some.index.tolist(), some.neighbours.tolist()
        ([[2, 3, 7, 8], [10, 11, 15, 16]], [0, 0, -1, -1])
        """
        # One place more, so that a neighbour of -1, where these are some themselves, remains -1.
        place = np.full(self.groups + 1, -1)
        place[chosen] = np.arange(len(chosen))
        return Grouping(self.index[chosen], self.rest, place[self.neighbours], self.centre[chosen])

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
        TypeError, ValueError
            If it is no array, or its first axis is not as long as the data set.

        Examples
        --------
        >>> groups, rest = Grouping.blocks(5, 2).split(np.arange(5.0))
        >>> groups.tolist(), rest.tolist()
        ([[0.0, 1.0], [2.0, 3.0]], [4.0])
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

        Examples
        --------
        >>> grouping = Grouping.patches((2, 5), 2)
        >>> grouping.join(*grouping.split(np.arange(10))).tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
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


def pieces(
    points: int,
    groups: int,
    numbers: int,
    *,
    memory: int = MEMORY,
    columns: int | None = None,
    least: int = 1,
    seed: int = 0,
    step: int = 0,
) -> list[Index]:
    """Say which columns of all groups each piece of a step has, the same for every backend.

    Parameters
    ----------
    points, groups : int
        Points in a group, groups in a step.
    numbers : int
        How many numbers a backend holds of a point between the forward and the backward pass. Each
        is counted as 8 bytes whatever its dtype, so that float32 and float64 have the same pieces.
    memory : int
        Bytes that a piece may take, unless one column alone takes more.
    columns : int, optional
        Columns of a piece, in place of what `memory` would allow.
    seed, step : int, from 0
        Of the shuffling: columns from all over a group, so that its mean over a piece is near its
        mean, and others at every step.

    Returns
    -------
    list of ndarray of int64
        Ascending columns of each piece, of lengths that differ by one at most. One piece where all
        fits.

    Raises
    ------
    TypeError, ValueError
        If a number is not a positive integer.

    Examples
    --------
    >>> [piece.tolist() for piece in pieces(4, groups=2, numbers=10, memory=320)]
    [[1, 3], [0, 2]]
    """
    points = require_count("points", points, 1)
    column = 8 * require_count("numbers", numbers, 1) * require_count("groups", groups, 1)
    fitting = max(1, require_count("memory", memory, 1) // column)
    most = fitting if columns is None else require_count("columns", columns, 1)
    count = min(-(-points // most), max(1, points // least))  # the first rounded up
    if count == 1:
        return [np.arange(points)]
    # A child of a child of the seed's stream: batches are of its children, and sampling's streams
    # are of [seed, step], so that no draw repeats another.
    stream = np.random.SeedSequence(seed, spawn_key=(step, 0))
    order = np.random.default_rng(stream).permutation(points)
    return [np.sort(piece) for piece in np.array_split(order, count)]


def batch_of(groups: int, batch: int, seed: int, step: int) -> Index:
    """Draw the groups of a step: without replacement, in a fresh random order each epoch.

    Parameters
    ----------
    groups : int
        Groups in all.
    batch : int
        Groups a step, at most as many.
    seed : int
        The same seed gives the same groups on every backend.
    step : int
        Steps before this one.

    Returns
    -------
    ndarray of int64, shape (batch,)
        Ascending.

    Notes
    -----
    An epoch has ``groups // batch`` steps. The ``groups % batch`` groups that are left over at its
    end take no part in it: another random few each time, so all groups come equally often.

    Examples
    --------
    >>> sorted([*batch_of(4, 2, seed=0, step=0), *batch_of(4, 2, seed=0, step=1)])
    [np.int64(0), np.int64(1), np.int64(2), np.int64(3)]
    """
    epoch, place = divmod(step, groups // batch)
    return np.sort(_order(groups, seed, epoch)[place * batch : (place + 1) * batch])


def require_batch(batch: int | None, seed: int, groups: int) -> int | None:
    """Return the batch as an int, or None; raise if it is no part of the groups."""
    require_count("seed", seed, 0)
    if batch is None:
        return None
    batch = require_count("batch", batch, 1)
    if batch > groups:
        raise ValueError(
            f"batch: expected at most the {groups} groups, got {batch}; lower it, or leave it out "
            "to take all groups"
        )
    return batch


@functools.lru_cache(maxsize=1)
def _order(groups: int, seed: int, epoch: int) -> Index:
    # Kept, because the steps of an epoch cut one order into batches. The stream is a child of the
    # seed's, apart from those of seeds like [seed, step].
    stream = np.random.SeedSequence(seed, spawn_key=(epoch,))
    return np.random.default_rng(stream).permutation(groups)


def _sides(name: str, value: Any) -> tuple[int, ...]:
    several = isinstance(value, Iterable) and not isinstance(value, str)
    values = tuple(value) if several else (value,)
    # Before anything of this size is made; NumPy's own refusals name neither it nor a remedy.
    if not 1 <= len(values) <= MOST_AXES:
        raise ValueError(
            f"{name}: expected from 1 to {MOST_AXES} axes, got {len(values)}; pass an int per axis"
        )
    sides = tuple(require_count(name, side, 1) for side in values)
    if math.prod(sides) > MOST_POINTS:
        raise ValueError(
            f"{name}: expected at most {MOST_POINTS} points, got {math.prod(sides)}; "
            "take a part of the data at a time"
        )
    return sides


def _by_splits(cls: type[Grouping], axes: NDArray[np.float64], n: int) -> Grouping:
    """Make n groups of points, given by their coordinates along each axis, (d, N)."""
    count = axes.shape[1]
    # Ranks along each axis, ties broken by index, are unique: any selection by rank is one set of
    # points, so that the fast unordered `partition` is deterministic. They take half the memory
    # of coordinates, whose extent is that between the sorted values at two ranks.
    kind = np.int32 if count < 2**31 else np.int64
    ranks = np.empty(axes.shape, dtype=kind)
    ordered = np.empty_like(axes)
    for axis, values in enumerate(axes):
        order = np.argsort(values, kind="stable")
        ranks[axis, order] = np.arange(count, dtype=kind)
        ordered[axis] = values[order]
    points = count // n
    index = np.empty((points, n), dtype=np.int64)  # points first: a column is one block of memory
    keys = np.empty((len(axes), points, n), dtype=kind)
    rest, neighbours = [], []
    waiting = [(0, n, np.arange(count), ranks)]
    while waiting:
        first, last, members, theirs = waiting.pop()
        if last - first == 1:
            index[:, first], keys[:, :, first] = members[:points], theirs[:, :points]
            rest += members[points:].tolist()
            neighbours += [first] * (len(members) - points)
            continue
        middle = (first + last) // 2
        # Leaf k ends at rank (k + 1) N / n, so leaves differ by one point at most.
        left = middle * count // n - first * count // n
        split = theirs[_widest(ordered, theirs)]
        low = split < np.partition(split, left)[left]
        # Both sides in their order, so that memory is read forwards and members stay ascending.
        for start, stop, side in ((first, middle, low), (middle, last, ~low)):
            part = np.flatnonzero(side)
            waiting.append((start, stop, members[part], np.take(theirs, part, axis=1)))
    _order_inside(ordered, keys, index)
    order = np.argsort(rest)
    distances = np.zeros(index.shape)
    for values in axes:
        grouped = values[index]
        distances += (grouped - grouped.mean(axis=0)) ** 2
    return cls(
        np.ascontiguousarray(index.T),
        np.asarray(rest, dtype=np.int64)[order],
        np.asarray(neighbours, dtype=np.int64)[order],
        np.argmin(distances, axis=0),
    )


def _order_inside(ordered: NDArray[np.float64], keys: NDArray[Any], index: Index) -> None:
    """Continue the splits down to single points, of all groups at once: they are equally large."""
    columns = np.arange(index.shape[1])
    waiting = [(0, len(index))]
    while waiting:
        first, last = waiting.pop()
        if last - first == 1:
            continue
        middle = (first + last) // 2
        part = keys[:, first:last]
        order = np.argpartition(part[_widest(ordered, part), :, columns].T, middle - first, axis=0)
        index[first:last] = index[first + order, columns]
        keys[:, first:last] = part[:, order, columns]
        waiting += [(first, middle), (middle, last)]


def _widest(ordered: NDArray[np.float64], ranks: NDArray[Any]) -> Any:
    """Return the axis (or axes) along which points of these ranks, (d, k, ...), reach furthest."""
    place = np.arange(len(ranks)).reshape(-1, *[1] * (ranks.ndim - 2))
    extents = ordered[place, ranks.max(axis=1)] - ordered[place, ranks.min(axis=1)]
    return np.argmax(extents, axis=0)


def _on_host(coords: Array) -> NDArray[np.float64]:
    xp = array_namespace(coords)
    if not xp.isdtype(coords.dtype, ("integral", "real floating")):
        raise TypeError(
            f"coords: expected real numbers, got {coords.dtype}; pass one column for each axis"
        )
    # The standard has no way to NumPy that all libraries and devices take.
    if is_torch_array(coords):
        coords = coords.detach().cpu().double()
    elif is_cupy_array(coords):
        coords = coords.get()
    elif is_array_api_strict_namespace(xp):
        coords = coords.to_device(xp.Device("CPU_DEVICE"))
    return np.asarray(coords, dtype=np.float64)


def _take(flat: Array, index: Index) -> Array:
    xp = array_namespace(flat)
    return xp.take(flat, sent(index, flat), axis=0)
