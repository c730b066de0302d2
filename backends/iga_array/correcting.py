"""From an adjustment's settings to what turns each piece's cotangent into the adjusted one."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy
from array_api_compat import array_namespace, device

from iga_array.passes import Passes
from iga_array.pieces import Evaluated, Pieces, Sums
from iga_core import Adjustment, AdjustmentState, SpectralTransform, adjust, gram
from iga_core.arrays import Array, on_host
from iga_core.sampling import Largest, blind_positions

HELD_BYTES = 2**27
"""The tapes of all pieces are held between the forward and the backward pass up to this size."""

TRANSFORM_PARTS = ("eigenvalues", "vectors", "weights")

Correction = Callable[[Array], Array]


@dataclass(frozen=True, eq=False)
class Memory:
    """What a `Corrector` carries from step to step; replaced, never changed.

    Parameters
    ----------
    state : AdjustmentState
        Of the transform.
    positions : array of int64, shape (n, samples), optional
        The representatives of the next step.
    unsampled : array, shape (n, C), optional
        The groups' mean cotangents of the last pass, less those of their representatives there.
    """

    state: AdjustmentState = field(default_factory=AdjustmentState)
    positions: Array | None = None
    unsampled: Array | None = None


class Corrector:
    """An adjustment of one signal's training, with its memory.

    Representatives of largest cotangent, and the groups' mean cotangents, are known only after
    all points were evaluated. Where the tapes of all pieces fit in `HELD_BYTES`, the backward
    passes wait for that (`holds`). Where not, each piece is finished at once with what the last
    pass left: its largest cotangents; and its means, moved by the change that the sampled points
    show since. The last pass has nothing to say of the groups of another batch: there every step
    looks first, by a forward pass of its own (`looks_first`), and its eigenpairs start anew.

    Parameters
    ----------
    adjustment : Adjustment
        The settings.
    pieces : Pieces
        The signal.
    point_bytes : int
        Size of the tape of one point.
    """

    def __init__(self, adjustment: Adjustment, pieces: Pieces, point_bytes: int) -> None:
        self.adjustment, self.pieces = adjustment, pieces
        self.memory = Memory()
        self._looks = adjustment.sampling == "largest" or adjustment.reach == "mean"
        self.holds = self._looks and point_bytes * pieces.count <= HELD_BYTES

    def look(self, evaluated: Evaluated) -> Sums:
        """Read from a piece's cotangent what the choice of points and the means need."""
        sums = Sums()
        if evaluated.piece.grouped:
            cotangent = self.pieces.grouped(evaluated.cotangent)
            if self.adjustment.sampling == "largest":
                sums.largest = Largest(self.adjustment.samples)
                sums.largest.look(cotangent, evaluated.piece.start)
            if self.adjustment.reach == "mean":
                sums.cotangent = self.pieces.xp.sum(cotangent, axis=1)
        return sums

    def from_this_pass(self, passes: Passes, sums: Sums, step: int) -> Correction:
        """Make the correction of a step whose points were all evaluated."""
        transform = self._transform(passes, lambda: self._choose(sums, step))
        return self._correction(transform, self._means(sums))

    @property
    def looks_first(self) -> bool:
        """Whether every step needs a pass before it, because its groups are others."""
        return self._looks and not self.holds and self.pieces.batch is not None

    @property
    def needs_look(self) -> bool:
        """Whether the next step needs a pass before it, because there was none."""
        return self._looks and self.memory.positions is None

    def from_last_pass(self, passes: Passes, step: int) -> Correction:
        """Make the correction of a step none of whose points were evaluated."""
        positions, unsampled = self.memory.positions, self.memory.unsampled
        if positions is None:
            positions = self._choose(Sums(), step)
        means = None
        if unsampled is not None:
            means = unsampled + self.pieces.means_at(passes, positions)
        return self._correction(self._transform(passes, lambda: positions), means)

    def remember(self, passes: Passes, sums: Sums, step: int) -> None:
        """Keep of a pass what the coming step cannot know."""
        positions, means = self._choose(sums, step), self._means(sums)
        if means is not None:
            means = means - self.pieces.means_at(passes, positions)
        self.memory = Memory(self.memory.state, positions, means)

    def state_dict(self) -> dict[str, Array]:
        """Return the memory by name, for `Trainer.state_dict`."""
        state, transform = self.memory.state, self.memory.state.transform
        parts = {} if transform is None else {k: getattr(transform, k) for k in TRANSFORM_PARTS}
        found = {
            "step": numpy.asarray(state.step),
            "tracked": state.vectors,
            "positions": self.memory.positions,
            "unsampled": self.memory.unsampled,
            **parts,
        }
        return {f"adjustment.{k}": array for k, array in found.items() if array is not None}

    def read(self, state: dict[str, Array]) -> Memory:
        """Return the memory that `state_dict` gave, or raise ValueError if it does not fit."""
        xp, coords = self.pieces.xp, self.pieces.coords
        adjustment, groups = self.adjustment, self.pieces.groups
        step = taken_count(state, "adjustment.step")

        def array(name: str, *shape: int, dtype: Any = coords.dtype) -> Array:
            return taken(state, f"adjustment.{name}", coords, shape, dtype)

        if step == 0:
            return Memory()
        equalised = adjustment.end - adjustment.start
        transform = SpectralTransform(
            array("eigenvalues", adjustment.end + 1),
            array("vectors", groups, equalised),
            array("weights", equalised),
        )
        tracked = state.get("adjustment.tracked")
        if tracked is not None:
            tracked = array("tracked", groups, tracked.shape[-1])
        positions = unsampled = None
        if not (self.holds or self.looks_first):
            positions = array("positions", groups, adjustment.samples, dtype=xp.int64)
            if adjustment.reach == "mean":
                unsampled = array("unsampled", groups, self.pieces.targets.shape[1])
        return Memory(AdjustmentState(step, transform, tracked), positions, unsampled)

    def _choose(self, sums: Sums, step: int) -> Array:
        if sums.largest is not None:
            return sums.largest.positions
        adjustment, grouping = self.adjustment, self.pieces.grouping
        positions = blind_positions(
            self.pieces.groups,
            grouping.points,
            adjustment.sampling,
            adjustment.samples,
            centre=grouping.centre,
            seed=[adjustment.seed, step],
        )
        return self.pieces.xp.asarray(positions, device=device(self.pieces.coords))

    def _means(self, sums: Sums) -> Array | None:
        return None if sums.cotangent is None else sums.cotangent / self.pieces.grouping.points

    def _correction(self, transform: SpectralTransform, means: Array | None) -> Correction:
        if means is None:
            return lambda cotangent: cotangent + transform.change(cotangent)
        shift = transform.change(means)[:, None, :]
        return lambda cotangent: cotangent + shift

    def _transform(self, passes: Passes, positions: Callable[[], Array]) -> SpectralTransform:
        state = self.memory.state
        transform = state.held(self.adjustment)
        if transform is not None:
            state = state.skipped()
        else:
            coords = self.pieces.coords_at(positions())
            if self.adjustment.samples == 1:
                coords = coords[:, 0, :]
            kernel = gram(passes.factors(coords, self.adjustment.outputs))
            require_still_finite("the kernel", kernel)
            if self.pieces.batch is not None:
                state = replace(state, vectors=None)
            transform, state = adjust(kernel, self.adjustment, state)
        self.memory = replace(self.memory, state=state)
        return transform


def taken(
    state: dict[str, Array], name: str, like: Array, shape: tuple[int, ...], dtype: Any
) -> Array:
    """Return an array of a state in the namespace and on the device of another, else raise."""
    found = state.get(name)
    array = None if found is None else array_namespace(like).asarray(found, device=device(like))
    if array is None or tuple(array.shape) != tuple(shape) or array.dtype != dtype:
        got = "nothing" if array is None else f"{array.dtype} of shape {tuple(array.shape)}"
        raise ValueError(
            f"state: expected {dtype} of shape {tuple(shape)} as {name}, got {got}; "
            "load it into a run of the same settings"
        )
    return array


def taken_count(state: dict[str, Array], name: str) -> int:
    """Return a number of steps of a state, else raise."""
    try:
        count = int(state[name])
    except (KeyError, TypeError, ValueError):
        count = -1
    if count < 0:
        raise ValueError(
            f"state: expected a number of steps as {name}, got {state.get(name)}; "
            "load it into a run of the same settings"
        )
    return count


def require_still_finite(what: str, array: Array) -> None:
    """Raise if training diverged, where knowing it costs no synchronisation."""
    if on_host(array):
        xp = array_namespace(array)
        if not bool(xp.all(xp.isfinite(array))):
            raise FloatingPointError(f"{what} became non-finite")
