"""How a signal is cut into groups, and how many where nobody has said so."""

import math
from collections.abc import Callable

from iga_core import Grouping
from iga_lab.errors import InputError
from iga_lab.signals import UNIT, Kind

LEAST_POINTS = 4
"""Of a group by default: the mean of fewer is hardly another thing than a point."""
MOST_REST = 0.02
"""Share of the points that may be in no group by default, as in `Grouping.nearest`."""
STEP_SHARE = {1: 1, 2: 1, 3: 8}
"""By default a step takes one in so many groups of a signal of so many axes."""
CONTROL_GROUPS = 16
"""About as many groups has the control "scale"."""


def counts(grouping: str, patch: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the number of groups and the points of a group, without making them."""
    if grouping == "blocks":
        return math.prod(shape) // patch, patch
    return math.prod(side // patch for side in shape), patch ** len(shape)


def cut(grouping: str, patch: int, shape: tuple[int, ...]) -> Grouping:
    """Cut a signal into patches with so many points along each axis, or blocks of so many."""
    if grouping == "blocks":
        return Grouping.blocks(math.prod(shape), patch)
    return Grouping.patches(shape, patch)


def described(grouping: str, patch: int, shape: tuple[int, ...]) -> str:
    """Return how many groups of what, in a phrase."""
    groups, points = counts(grouping, patch, shape)
    size = f"{points} points" if grouping == "blocks" else " × ".join([str(patch)] * len(shape))
    return f"{groups:,} group{'s' if groups > 1 else ''} of {size}"


def control_patch(shape: tuple[int, ...]) -> int:
    """Return the side of the patches of the control "scale", which gains most with a few groups."""
    side = math.pow(math.prod(shape) / CONTROL_GROUPS, 1 / len(shape))
    return min(max(1, round(side)), *shape)


def default_patch(grouping: str, shape: tuple[int, ...], affordable: Callable[[int], int]) -> int:
    """Return the smallest patch or block whose groups a step can afford.

    Parameters
    ----------
    grouping : {"patches", "blocks"}
        What is cut.
    shape : tuple of int
        Points of the signal along each axis.
    affordable : callable
        From the points of a step to the most groups that it can afford.

    Returns
    -------
    int
        Of those with at least `LEAST_POINTS` points and no more than `MOST_REST` of the points in
        no group; where there is none such, the smallest that can be afforded; else the largest that
        leaves two groups, where there is room for two.
    """
    count, share = math.prod(shape), STEP_SHARE[len(shape)]
    most = share * affordable(count // share)
    largest = max(1, count // 2) if grouping == "blocks" else min(shape)
    sizes = {p: counts(grouping, p, shape) for p in range(1, largest + 1)}
    several = [p for p, (groups, _) in sizes.items() if groups > 1]
    if not several:
        return largest
    wanted = [p for p in several if sizes[p][0] <= most] or several[-1:]
    large = [p for p in wanted if sizes[p][1] >= LEAST_POINTS] or wanted
    covering = (p for p in large if math.prod(sizes[p]) >= (1 - MOST_REST) * count)
    return next(covering, large[0])


def require_patch(grouping: str, patch: int, kind: Kind, shape: tuple[int, ...]) -> None:
    """Raise InputError unless a signal of this shape has a patch or block of this size."""
    if patch < 1:
        raise InputError(f"patch: expected at least 1, got {patch}; raise it")
    most = math.prod(shape) if grouping == "blocks" else min(shape)
    if patch > most:
        what = "the signal's" if grouping == "blocks" or len(shape) == 1 else "the shorter side's"
        raise InputError(
            f"patch: expected at most {what} {most} {UNIT[kind]}s, got {patch}; "
            "lower --patch or raise --size"
        )
