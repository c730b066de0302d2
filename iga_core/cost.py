"""What an adjustment costs beside a plain step, counted, and how many groups that allows."""

import math
from collections.abc import Iterable

from iga_core.adjustment import Adjustment
from iga_core.filters import needs_kernel

MOST = 0.03
"""Share of a plain step that an adjustment may add where nobody has said how many groups."""
REPRESENTATIVES = 2.0
"""How much slower the passes of few points run than those of many, operation for operation."""
TRANSFORM = 8.0
"""Multiply-adds of the passes that take as long as ``1 / n³`` of a transform: eigenvalues, and an
inverse or eigenvectors, in float64. 6 to 10 were measured for Damp and Equalise of 256 to 1,024
groups in NumPy."""
EACH = 250.0
"""Multiply-adds that take as long as the means' mean and correction at one point and output."""


def added_share(
    adjustment: Adjustment,
    shapes: Iterable[tuple[int, ...]],
    groups: int,
    points: int,
    outputs: int | None = None,
) -> float:
    """Return what an adjustment adds to a step, as a share of a plain one.

    Parameters
    ----------
    adjustment : Adjustment
        The settings.
    shapes : iterable of tuple of int
        Of the trained parameters.
    groups : int
        Of a step.
    points : int
        Of a step, in all.
    outputs : int, optional
        Channels of a point; by default the length of the last parameter's first axis.

    Returns
    -------
    float
        Of processor time: multiply-adds are counted, and weighed by how fast they run beside those
        of the passes. On several cores the passes share them and most of a transform does not, so
        that more of the wall clock is added.

    Examples
    --------
    >>> shapes = [(128, 26), (128,), (128, 128), (128,), (128, 128), (128,), (3, 128), (3,)]
    >>> round(added_share(Adjustment(), shapes, groups=256, points=128 * 128), 3)
    0.019
    """
    shapes = list(shapes)
    size = sum(math.prod(shape) for shape in shapes)
    outputs = shapes[-1][0] if outputs is None else outputs
    plain = 3 * size * points  # a forward pass, and twice as much back
    each = EACH * outputs * points
    if not needs_kernel(adjustment.filter):
        return each / plain
    samples = groups * adjustment.samples
    ends = sum(shape[0] + shape[1] for shape in shapes if len(shape) == 2)
    signals = 2 * size * samples * REPRESENTATIVES  # there and back, without the parameters' share
    renewal = signals + ends * samples**2 + TRANSFORM * groups**3
    return (each + renewal / adjustment.refresh) / plain


def affordable_groups(
    adjustment: Adjustment,
    shapes: Iterable[tuple[int, ...]],
    points: int,
    outputs: int | None = None,
    most: float = MOST,
) -> int:
    """Return the largest number of groups whose adjustment adds at most a share to a step.

    Parameters
    ----------
    adjustment, shapes, points, outputs
        As `added_share` takes them.
    most : float
        The share.

    Returns
    -------
    int
        At least 2, whatever they cost, and at most `points`.

    Examples
    --------
    >>> shapes = [(128, 26), (128,), (128, 128), (128,), (128, 128), (128,), (3, 128), (3,)]
    >>> [affordable_groups(Adjustment(), shapes, n) for n in (64**2, 128**2, 512 * 768)]
    [184, 329, 1043]
    """
    shapes = list(shapes)
    low, high = 2, max(2, points)
    while low < high:
        middle = (low + high + 1) // 2
        if added_share(adjustment, shapes, middle, points, outputs) <= most:
            low = middle
        else:
            high = middle - 1
    return low
