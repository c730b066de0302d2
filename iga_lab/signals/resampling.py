"""Values brought to another grid, read in parts of which each is shrunk as it comes."""

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Box: TypeAlias = tuple[slice, ...]
"""The part of an array between a start and a stop of every axis."""
Read: TypeAlias = Callable[[Box], NDArray[np.float64]]
"""From a part of what lies in a file to its values, with every axis kept."""

PART_VALUES = 2**20
"""Of what is read at a time: 8 MB, as float64."""
COPIES = 3
"""Arrays of float32 that a resampling holds: what was shrunk, Pillow's copy, and what it makes."""


def centre_box(shape: tuple[int, ...]) -> Box:
    """Return the square or cube in the middle.

    Examples
    --------
    >>> centre_box((2, 5))
    (slice(0, 2, None), slice(1, 3, None))
    """
    side = min(shape)
    starts = [(count - side) // 2 for count in shape]
    return tuple(slice(start, start + side) for start in starts)


def whole_box(shape: tuple[int, ...]) -> Box:
    """Return the part that is all of it."""
    return tuple(slice(0, count) for count in shape)


def lengths(box: Box) -> tuple[int, ...]:
    """Return the points of a part along each axis."""
    return tuple(part.stop - part.start for part in box)


def parts(box: Box) -> Iterator[Box]:
    """Yield parts of at most `PART_VALUES` values that make up a part, in C order."""
    counts = lengths(box)
    for axis, count in enumerate(counts):
        beside = math.prod(counts[:axis]) * math.prod(counts[axis + 1 :])
        if count * beside <= PART_VALUES:
            break
        if count > 1:
            step = max(1, PART_VALUES // beside)
            start, stop = box[axis].start, box[axis].stop
            for first in range(start, stop, step):
                some = slice(first, min(first + step, stop))
                yield from parts((*box[:axis], some, *box[axis + 1 :]))
            return
    yield box


def holding(box: Box, target: tuple[int, ...]) -> int:
    """Return the bytes that `resampled` takes at most, beside a part of a few megabytes."""
    before = lengths(box)
    if before == target:
        return np.dtype(np.float64).itemsize * math.prod(target)
    largest = max(n * math.prod(target[axis + 1 :]) for axis, n in enumerate(before))
    return COPIES * np.dtype(np.float32).itemsize * largest


def resampled(read: Read, box: Box, target: tuple[int, ...], smooth: bool) -> NDArray[Any]:
    """Return a part of an array on a grid of other counts.

    Parameters
    ----------
    read : callable
        Asked for parts of at most `PART_VALUES` values.
    box : tuple of slice
        What is wanted of the array.
    target : tuple of int
        Points along each axis; where they are as many as before, nothing is resampled.
    smooth : bool
        With a triangle as wide as the coarser grid's distance, which never overshoots; else with
        Lanczos' window, which keeps more detail.

    Returns
    -------
    ndarray, shape `target`
        Exact, in float64, where nothing is resampled; else of float32.

    Notes
    -----
    Resampling is linear and works on one axis after the other, the last first: every part is
    shrunk along its later axes before the next is read, with the same numbers as at once. So no
    more is held than a part and what is kept of all, see `holding`.
    """
    return _along_later(read, box, target, smooth, axis=0)


def _along_later(
    read: Read, box: Box, target: tuple[int, ...], smooth: bool, axis: int
) -> NDArray[Any]:
    """Resample along an axis and those after it, and leave those before it."""
    counts = lengths(box)
    if math.prod(counts) <= PART_VALUES or axis == len(box) - 1:
        values: NDArray[Any] = _read(read, box)
        for later in reversed(range(axis, len(box))):
            values = _along(values, later, target[later], smooth)
        return values
    step = max(1, PART_VALUES // (math.prod(counts) // counts[axis]))
    # Made once and filled, as a list of parts to be joined would hold everything twice.
    joined = None
    for first in range(0, counts[axis], step):
        start = box[axis].start + first
        some = slice(start, min(start + step, box[axis].stop))
        shrunk = _along_later(read, (*box[:axis], some, *box[axis + 1 :]), target, smooth, axis + 1)
        if joined is None:
            shape = (*counts[: axis + 1], *target[axis + 1 :])
            joined = np.empty(shape, shrunk.dtype)
        joined[(*[slice(None)] * axis, slice(first, first + shrunk.shape[axis]))] = shrunk
    assert joined is not None  # a box has at least one point along each axis
    return _along(joined, axis, target[axis], smooth)


def _read(read: Read, box: Box) -> NDArray[np.float64]:
    """Read what may be more than a part, where the last axis alone is longer than one."""
    counts = lengths(box)
    if math.prod(counts) <= PART_VALUES:
        return read(box)
    values = np.empty(counts)
    for part in parts(box):
        inside = tuple(
            slice(p.start - b.start, p.stop - b.start) for p, b in zip(part, box, strict=True)
        )
        values[inside] = read(part)
    return values


def _along(values: NDArray[Any], axis: int, count: int, smooth: bool) -> NDArray[Any]:
    """Resample along one axis."""
    if values.shape[axis] == count:
        return values
    from PIL import Image

    kind = Image.Resampling.BILINEAR if smooth else Image.Resampling.LANCZOS
    # Pillow leaves an axis alone along which the counts are equal. The first axis is resampled as
    # it lies; others become the last, along which Pillow is twice as fast.
    first = axis == 0
    moved = values if first else np.moveaxis(values, axis, -1)
    shape = (len(values), -1) if first else (-1, values.shape[axis])
    flat = np.ascontiguousarray(moved, dtype=np.float32).reshape(shape)
    size = (flat.shape[1], count) if first else (count, flat.shape[0])
    fewer = np.asarray(Image.fromarray(flat).resize(size, kind))
    if first:
        return fewer.reshape(count, *values.shape[1:])
    return np.moveaxis(fewer.reshape(*moved.shape[:-1], count), -1, axis)
