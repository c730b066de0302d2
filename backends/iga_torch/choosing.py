"""Which points stand for their groups, of data that may come in pieces."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from iga_core import Adjustment, representatives
from iga_core.sampling import blind_positions
from iga_torch.layout import Layout

STEPS_AT_ONCE = 64
"""Random positions are sent to an accelerator for as many steps at a time."""


@dataclass(eq=False)
class Candidates:
    """The representatives among the columns seen so far at one version of the parameters."""

    tensors: list[Tensor]
    """The sampled arguments there, (n, s, ...)."""
    scores: Tensor
    """(n, s); of two candidates the one of larger score stays."""
    anchor: Tensor
    """The first column that was seen, by which the same groups are known again."""
    columns: int
    calls: int = 1


class Chooser:
    """Applies the sampling rule of an adjustment.

    In a pass of several pieces the representatives among all columns are those of highest score:
    ``sum |g|``, nearness to the centre, or a random number.
    """

    def __init__(self, adjustment: Adjustment) -> None:
        self.adjustment = adjustment
        self._drawn: tuple[object, int, Tensor] | None = None

    def positions(self, cotangent: Tensor, samples: int, centre: int, step: int) -> Tensor:
        """Return positions (n, samples) of the representatives among these columns (n, p, C)."""
        groups, points = cotangent.shape[:2]
        if self.adjustment.sampling == "random" and samples <= points:
            return self._random(groups, points, samples, step, cotangent.device)
        return representatives(cotangent, self.adjustment.sampling, samples, centre=centre)

    def begin(
        self, layout: Layout, tensors: list[Tensor], cotangent: Tensor, step: int, columns: int
    ) -> tuple[Tensor, Candidates]:
        """Return the representatives of a first piece, as positions and as candidates.

        `columns` is how many the last pass had, 0 if there was none.
        """
        samples = self.adjustment.samples
        centre = _within(columns, 0, cotangent.shape[1])
        positions = self.positions(cotangent, samples, centre, step)
        return positions, Candidates(
            layout.samples(tensors, positions).tensors(),
            self._scores(cotangent, positions, [step], 0, columns),
            tensors[0].detach()[:, 0].clone(),
            cotangent.shape[1],
        )

    def add(
        self,
        seen: Candidates,
        layout: Layout,
        tensors: list[Tensor],
        cotangent: Tensor,
        step: int,
        columns: int,
    ) -> None:
        """Consider a further piece of a pass."""
        points = cotangent.shape[1]
        wanted = self.adjustment.samples
        centre = _within(columns, seen.columns, points)
        if self.adjustment.sampling == "random":
            seed = [self.adjustment.seed, step, seen.calls]
            positions = torch.from_numpy(
                blind_positions(
                    len(cotangent), points, "random", min(wanted, points), centre=None, seed=seed
                )
            ).to(cotangent.device)
        else:
            positions = self.positions(cotangent, min(wanted, points), centre, step)
        scores = self._scores(cotangent, positions, [step, seen.calls], seen.columns, columns)
        scores = torch.cat([seen.scores, scores], dim=1)
        kept = scores.argsort(dim=1, descending=True, stable=True)[:, :wanted]
        found = layout.samples(tensors, positions).tensors()
        seen.tensors = [
            # What belongs to a group has one entry for all of its representatives.
            old if old.shape[1] < seen.scores.shape[1] else at(torch.cat([old, new], dim=1), kept)
            for old, new in zip(seen.tensors, found, strict=True)
        ]
        seen.scores = at(scores, kept)
        seen.columns += points
        seen.calls += 1

    def _scores(
        self, cotangent: Tensor, positions: Tensor, seed: list[int], before: int, columns: int
    ) -> Tensor:
        rule, points = self.adjustment.sampling, cotangent.shape[1]
        if rule == "largest":
            return at(cotangent.abs().sum(dim=-1), positions)
        if rule == "centre":
            return -(positions + before - (columns - 1) // 2).abs().to(cotangent.dtype)
        scores = _largest_of_random(positions.shape, points, [self.adjustment.seed, *seed])
        return sent(scores, cotangent.device).to(cotangent.dtype)

    def _random(
        self, groups: int, points: int, samples: int, step: int, device: torch.device
    ) -> Tensor:
        form = (groups, points, device)
        if self._drawn is not None:
            known, first, drawn = self._drawn
            if known == form and 0 <= step - first < len(drawn):
                return drawn[step - first]
        count = 1 if device.type == "cpu" else STEPS_AT_ONCE
        blocks = [
            blind_positions(
                groups,
                points,
                "random",
                samples,
                centre=None,
                seed=[self.adjustment.seed, step + k],
            )
            for k in range(count)
        ]
        drawn = sent(numpy.stack(blocks), device)
        self._drawn = (form, step, drawn)
        return drawn[0]


def chosen(own: Candidates, last: Candidates | None) -> list[Tensor]:
    """Return the representatives of a pass that begins: the last pass's, if that had pieces.

    Whether its groups were the same is a mask, so that an accelerator need not be asked.
    """
    if last is None or last.calls == 1 or _forms(own) != _forms(last):
        return own.tensors
    same = (own.anchor == last.anchor).all()
    pairs = zip(last.tensors, own.tensors, strict=True)
    return [torch.where(same, old, new) for old, new in pairs]


def at(values: Tensor, positions: Tensor) -> Tensor:
    """Return the entries (n, s, ...) at positions (n, s) of rows (n, p, ...)."""
    return values[torch.arange(len(positions), device=positions.device)[:, None], positions]


def _within(columns: int, before: int, points: int) -> int:
    """Return the position, in a piece behind others, that is nearest the centre of all columns."""
    if columns == 0:
        return (points - 1) // 2
    return min(max((columns - 1) // 2 - before, 0), points - 1)


def _largest_of_random(
    shape: Sequence[int], points: int, seed: list[int]
) -> NDArray[numpy.float64]:
    """Draw the largest of `points` random numbers for each group, in random order, (n, s)."""
    generator = numpy.random.default_rng(seed)
    ratios = generator.random(shape) ** (1 / (points - numpy.arange(shape[1])))
    return generator.permuted(numpy.cumprod(ratios, axis=1), axis=1)


def sent(array: NDArray[numpy.generic], device: torch.device) -> Tensor:
    """Move to a device, from pinned memory and without waiting where it is a GPU."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _forms(candidates: Candidates) -> list[object]:
    tensors = [candidates.anchor, *candidates.tensors]
    return [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
