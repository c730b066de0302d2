"""Which groups the points of a call fall into, and whether they are those of the last call."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from iga_core import Adjustment, Grouping
from iga_core.arrays import require_count
from iga_core.cost import affordable_groups
from iga_core.filters import needs_kernel
from iga_torch.layout import Given, Layout, as_real, axes_of, axes_of_rows
from iga_torch.neighbours import nearest
from iga_torch.samples import Samples
from iga_torch.seen import Seen

LEAST_GROUPS = 64
"""Of a call where nobody has said how many, if there are points enough."""
LEAST_POINTS = 4
"""Of a group, then: the mean of fewer is hardly another thing than a point."""
WITHOUT_KERNEL = 16
"""Groups for a filter that has no kernel: it gains most with a few large ones."""


class Placing:
    """The groups of points: given, on the first axis of the data, or neighbours found anew.

    Parameters
    ----------
    grouping, groups, adjustment
        As `IGA` takes them.
    warn : callable
        Says a thing, once.

    Attributes
    ----------
    seen : Seen or None
        The points of which the last kernel was made.
    """

    def __init__(
        self,
        grouping: Grouping | str | None,
        groups: int | None,
        adjustment: Adjustment,
        warn: Callable[[str], None],
    ) -> None:
        if not isinstance(grouping, Grouping | None) and grouping != "rows":
            raise TypeError(
                f"grouping: expected a Grouping, 'rows' or None, got {type(grouping).__name__}; "
                "leave it out, to have neighbours grouped at each call, or say how many by groups="
            )
        if groups is not None and grouping is not None:
            raise ValueError(
                f"groups: expected no grouping beside it, got {groups} and a grouping; leave one "
                "of them out"
            )
        if isinstance(grouping, Grouping) and adjustment.samples > grouping.points:
            adjustment.require_fit(grouping.groups, grouping.points)
        self._given = Given(grouping) if isinstance(grouping, Grouping) else None
        self.rows = grouping == "rows"
        self._wanted = None if groups is None else require_count("groups", groups, 1)
        # New points have a transform of their own at each call.
        self._fresh, self._warn = replace(adjustment, refresh=1), warn
        self.seen: Seen | None = None
        self._last: Layout | None = None

    @property
    def grouping(self) -> Grouping | str | None:
        """As it was given."""
        if self._given is not None:
            return self._given.grouping
        return "rows" if self.rows else None

    def axes(self, coords: Tensor) -> tuple[int, ...] | None:
        """Return the points' leading axes; None where outputs say how many there are."""
        if self._given is not None:
            return axes_of(coords, self._given.grouping)
        return axes_of_rows(coords) if self.rows else None

    def placed(
        self,
        layout: Layout,
        tensors: list[Tensor],
        coords: Tensor,
        channels: int,
        leaves: Mapping[str, Tensor],
    ) -> tuple[Layout, bool]:
        """Return the points of a call in groups, and whether a transform of theirs may be kept.

        It may where they are known to be the points of the last kernel, or there was none.

        Parameters
        ----------
        layout, tensors
            Of the call.
        coords : Tensor
            The coordinates among them.
        channels : int
            Outputs of a point.
        leaves : mapping of str to Tensor
            The trained parameters.
        """
        seen = self.seen
        if self._given is not None:
            layout = layout.placed(self._given.on(coords))
        elif not self.rows:
            last = self._last
            if last is not None and last.index is not None and last.shape == layout.shape:
                # Where these are the last points, so are their groups.
                again = layout.placed(last.index)
                if seen is not None and seen.again(again, tensors):
                    return again, True
            found = self._found(layout.count, channels, leaves)
            layout = layout.placed(nearest(_middles(layout, coords), found))
            if last is not None:
                return layout, False
        return layout, seen is None or seen.again(layout, tensors)

    def _found(self, count: int, channels: int, leaves: Mapping[str, Tensor]) -> int:
        """Return how many groups of neighbours a call of so many points has."""
        if self._wanted is not None:
            if self._wanted > count:
                self._warn(
                    f"groups: expected at most the {count} points of a call, got {self._wanted}; "
                    "every point is a group of its own there"
                )
            return min(self._wanted, count)
        wanted = WITHOUT_KERNEL
        if needs_kernel(self._fresh.filter):
            shapes = [tuple(leaf.shape) for leaf in leaves.values()]
            wanted = max(LEAST_GROUPS, affordable_groups(self._fresh, shapes, count, channels))
        return max(1, min(wanted, count // LEAST_POINTS))

    def saw(
        self, layout: Layout, tensors: list[Tensor], samples: Samples, positions: Tensor
    ) -> None:
        """Remember the points of which a kernel was made."""
        self.seen, self._last = Seen.of(layout, tensors, samples, positions), layout

    def load(self, seen: Seen | None) -> None:
        """Go on after the points that another process has seen."""
        self.seen, self._last = seen, None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}  # found again from the points


def _middles(layout: Layout, coords: Tensor) -> Tensor:
    """Return a row of real coordinates for each point; of a ray, the mean of its own."""
    flat = coords.reshape(layout.count, -1, coords.shape[-1] if coords.ndim > 1 else 1)
    precise = torch.complex128 if coords.is_complex() else torch.float64
    return as_real(flat.mean(dim=1, dtype=precise)).flatten(1)
