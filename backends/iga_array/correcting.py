"""From an adjustment's settings to what turns each piece's cotangent into the adjusted one."""

from collections.abc import Callable

import numpy
from array_api_compat import array_namespace, device

from iga_array.mlp import Passes
from iga_array.pieces import Evaluated, Pieces, Sums
from iga_core import Adjustment, AdjustmentState, SpectralTransform, adjust, gram
from iga_core._arrays import Array, on_host
from iga_core.sampling import blind_positions, largest

HELD_BYTES = 2**27
"""The tapes of all pieces are held between the forward and the backward pass up to this size."""

Correction = Callable[[Array], Array]


class Corrector:
    """An adjustment of one signal's training, with its state.

    Representatives of largest cotangent, and the groups' mean cotangents, are known only after
    all points were evaluated. Where the tapes of all pieces fit in `HELD_BYTES`, the backward
    passes wait for that (`holds`). Where not, each piece is finished at once with what the last
    pass left: its largest cotangents; and its means, moved by the change that the sampled points
    show since.

    Parameters
    ----------
    adjustment : Adjustment
    pieces : Pieces
    point_bytes : int
        Size of the tape of one point.
    """

    def __init__(self, adjustment: Adjustment, pieces: Pieces, point_bytes: int) -> None:
        self.adjustment, self.pieces = adjustment, pieces
        self.state = AdjustmentState()
        self.positions: Array | None = None
        self.unsampled: Array | None = None
        self._looks = adjustment.sampling == "largest" or adjustment.reach == "mean"
        size = point_bytes * pieces.grouping.count
        self.holds = self._looks and size <= HELD_BYTES

    def look(self, evaluated: Evaluated) -> Sums:
        """Read from a piece's cotangent what the choice of points and the means need."""
        sums = Sums(samples=self.adjustment.samples)
        if evaluated.piece.grouped:
            cotangent = self.pieces.grouped(evaluated.cotangent)
            if self.adjustment.sampling == "largest":
                sums.largest = largest(cotangent, self.adjustment.samples, evaluated.piece.start)
            if self.adjustment.reach == "mean":
                sums.cotangent = self.pieces.xp.sum(cotangent, axis=1)
        return sums

    def from_this_pass(self, passes: Passes, sums: Sums, step: int) -> Correction:
        """Make the correction of a step whose points were all evaluated."""
        return self._correction(passes, self._choose(sums, step), self._means(sums))

    @property
    def needs_look(self) -> bool:
        """Whether the next step needs a pass before it, because there was none."""
        return self._looks and self.positions is None

    def from_last_pass(self, passes: Passes, step: int) -> Correction:
        """Make the correction of a step none of whose points were evaluated."""
        if self.positions is None:
            self.positions = self._choose(Sums(), step)
        means = None
        if self.unsampled is not None:
            means = self.unsampled + self.pieces.means_at(passes, self.positions)
        return self._correction(passes, self.positions, means)

    def remember(self, passes: Passes, sums: Sums, step: int) -> None:
        """Keep of a pass what the coming step cannot know."""
        self.positions = self._choose(sums, step)
        means = self._means(sums)
        if means is not None:
            self.unsampled = means - self.pieces.means_at(passes, self.positions)

    def state_dict(self) -> dict[str, Array]:
        """Return the state by name, for `Trainer.state_dict`."""
        transform = self.state.transform
        state = {
            "adjustment.step": numpy.asarray(self.state.step),
            "adjustment.tracked": self.state.vectors,
            "adjustment.positions": self.positions,
            "adjustment.unsampled": self.unsampled,
        }
        if transform is not None:
            state |= {f"adjustment.{name}": array for name, array in vars(transform).items()}
        return {name: array for name, array in state.items() if array is not None}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Take the state from what `state_dict` gave."""
        like = self.pieces.coords

        def array(name: str) -> Array | None:
            value = state.get(f"adjustment.{name}")
            return value if value is None else self.pieces.xp.asarray(value, device=device(like))

        parts = [array(name) for name in ("eigenvalues", "vectors", "weights")]
        transform = None if parts[0] is None else SpectralTransform(*parts)
        step = int(state["adjustment.step"])
        self.state = AdjustmentState(step, transform, array("tracked"))
        self.positions, self.unsampled = array("positions"), array("unsampled")

    def _choose(self, sums: Sums, step: int) -> Array:
        if sums.largest is not None:
            return sums.largest[1]
        adjustment, grouping = self.adjustment, self.pieces.grouping
        positions = blind_positions(
            grouping.groups,
            grouping.points,
            adjustment.sampling,
            adjustment.samples,
            centre=grouping.centre,
            seed=[adjustment.seed, step],
        )
        return self.pieces.xp.asarray(positions, device=device(self.pieces.coords))

    def _means(self, sums: Sums) -> Array | None:
        return None if sums.cotangent is None else sums.cotangent / self.pieces.grouping.points

    def _correction(
        self, passes: Passes, positions: Array | None, means: Array | None
    ) -> Correction:
        transform = self._transform(passes, positions)
        if means is None:
            return lambda cotangent: cotangent + transform.change(cotangent)
        shift = transform.change(means)[:, None, :]
        return lambda cotangent: cotangent + shift

    def _transform(self, passes: Passes, positions: Array | None) -> SpectralTransform:
        held = self.state.held(self.adjustment)
        if held is not None:
            self.state = self.state.skipped()
            return held
        coords = self.pieces.coords_at(positions)
        if self.adjustment.samples == 1:
            coords = coords[:, 0, :]
        kernel = gram(passes.factors(coords, self.adjustment.outputs))
        require_still_finite("the kernel", kernel)
        transform, self.state = adjust(kernel, self.adjustment, self.state)
        return transform


def require_still_finite(what: str, array: Array) -> None:
    """Raise if training diverged, where knowing it costs no synchronisation."""
    if on_host(array):
        xp = array_namespace(array)
        if not bool(xp.all(xp.isfinite(array))):
            raise FloatingPointError(f"{what} became non-finite")
