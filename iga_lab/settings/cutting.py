"""How a signal is cut into groups, and how many where nobody has said so."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from iga_core import Grouping
from iga_core.arrays import require_choice

GROUPINGS = ("patches", "blocks")
LEAST_POINTS = 4
"""Of a group by default: the mean of fewer is hardly another thing than a point."""
MOST_REST = 0.02
"""Share of the points that may be in no group by default, as in `Grouping.nearest`."""
STEP_SHARE = {1: 1, 2: 1, 3: 8}
"""By default a step takes one in so many groups of a signal of so many axes."""
CONTROL_GROUPS = 16
"""About as many groups has the control "scale"."""


@dataclass(frozen=True)
class Cutting:
    """A signal in groups of one size, and how many of them a step takes.

    Parameters
    ----------
    grouping : {"patches", "blocks"}
        Whether groups are patches of the grid, or consecutive points.
    patch : int
        Points of a patch along each axis, or of a block.
    shape : tuple of int
        Points of the signal along each axis.
    batch : int, optional
        Groups a step; by default all.

    Examples
    --------
    >>> cutting = Cutting("patches", 4, (12, 16))
    >>> cutting.groups, cutting.points, str(cutting)
    (12, 16, '12 groups of 4 × 4')
    """

    grouping: str
    patch: int
    shape: tuple[int, ...]
    batch: int | None = None

    def __post_init__(self) -> None:
        require_choice("grouping", self.grouping, GROUPINGS)

    @property
    def groups(self) -> int:
        """How many; found without making them."""
        return counts(self.grouping, self.patch, self.shape)[0]

    @property
    def points(self) -> int:
        """Of a group."""
        return counts(self.grouping, self.patch, self.shape)[1]

    @property
    def together(self) -> int:
        """Groups of one step."""
        return self.groups if self.batch is None else self.batch

    @property
    def step_points(self) -> int:
        """Points of one step, those in no group included: they take part in every step."""
        return math.prod(self.shape) - (self.groups - self.together) * self.points

    def made(self) -> Grouping:
        """Return the points in their groups."""
        if self.grouping == "blocks":
            return Grouping.blocks(math.prod(self.shape), self.patch)
        return Grouping.patches(self.shape, self.patch)

    def __str__(self) -> str:
        groups, points = counts(self.grouping, self.patch, self.shape)
        sides = " × ".join([str(self.patch)] * len(self.shape))
        size = f"{points} points" if self.grouping == "blocks" else sides
        at_once = f", {self.batch} a step" if self.batch else ""
        return f"{groups:,} group{'s' if groups > 1 else ''} of {size}{at_once}"


def counts(grouping: str, patch: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the number of groups and the points of a group, without making them."""
    if grouping == "blocks":
        return math.prod(shape) // patch, patch
    return math.prod(side // patch for side in shape), patch ** len(shape)


def control_patch(shape: tuple[int, ...]) -> int:
    """Return the side of the patches of the control "scale", which gains most with a few groups."""
    side = math.pow(math.prod(shape) / CONTROL_GROUPS, 1 / len(shape))
    # A long thin signal has no room for squares of that size.
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
    # Each wish gives way to the one before it where both cannot be had: that a step can afford the
    # groups, that they are large enough to have a mean, that few points are left over.
    wanted = [p for p in several if sizes[p][0] <= most] or several[-1:]
    large = [p for p in wanted if sizes[p][1] >= LEAST_POINTS] or wanted
    covering = (p for p in large if math.prod(sizes[p]) >= (1 - MOST_REST) * count)
    return next(covering, large[0])
