"""The points that a step evaluates, at once or in pieces."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from iga_core import Grouping
from iga_core.batches import batch_of
from iga_torch.choosing import sent
from iga_torch.recording import evaluating
from iga_torch.wrapper import IGA, Call, Pass

HOST_BYTES = 2**30
ACCELERATOR_BYTES = 2**32
"""Most that autograd holds between the forward and the backward pass of a piece."""

PROBED_POINTS = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """Points that are evaluated at once, by the adjusted model or by the network alone."""

    model: nn.Module
    coords: Tensor
    targets: Tensor
    weights: Tensor | None = None
    """Of the points' errors, (points, 1), where they are not all 1."""

    def error(self) -> Tensor:
        """Return the sum of squared errors."""
        outputs = self.model(self.coords)
        if self.weights is None:
            return mse_loss(outputs, self.targets, reduction="sum")
        return torch.sum(self.weights * torch.square(outputs - self.targets))


class Batches:
    """The groups of a signal, some of them a step, with all points in no group.

    The errors of a batch weigh as much as those of all groups would, so that a step's loss is, on
    average, that of all points.

    Attributes
    ----------
    grouping : Grouping
        Of a step's points: one group behind the other, then those in no group.
    """

    def __init__(
        self, coords: Tensor, targets: Tensor, grouping: Grouping, batch: int, seed: int
    ) -> None:
        self._coords, self._targets, self._of_all = coords, targets, grouping
        self._batch, self._seed = batch, seed
        points, rest = batch * grouping.points, len(grouping.rest)
        self.grouping = Grouping(
            origins=numpy.arange(0, points, grouping.points),
            offsets=numpy.arange(grouping.points),
            rest=numpy.arange(points, points + rest),
            centre=grouping.centre,
        )
        self._offsets, self._rest = (
            torch.from_numpy(part).to(coords.device) for part in (grouping.offsets, grouping.rest)
        )
        self._weights = coords.new_ones((points + rest, 1))
        self._weights[:points] = grouping.groups / batch

    def piece(self, model: nn.Module, step: int) -> Piece:
        """Return the points of a step."""
        chosen = batch_of(self._of_all.groups, self._batch, self._seed, step)
        origins = sent(self._of_all.origins[chosen], self._coords.device)
        place = torch.cat([(origins[:, None] + self._offsets).flatten(), self._rest])
        return Piece(model, self._coords[place], self._targets[place], self._weights)


class Afresh(IGA):
    """A wrapper that finds the eigenpairs of every kernel anew: each is of other groups."""

    def _begun(
        self, call: Call, cotangent: Tensor, tensors: list[Tensor], last: Pass | None
    ) -> Pass:
        self._state = dataclasses.replace(self._state, vectors=None)
        return super()._begun(call, cotangent, tensors, last)


def cut(
    adjusted: nn.Module,
    network: nn.Module,
    coords: Tensor,
    targets: Tensor,
    grouping: Grouping,
    columns: int,
) -> Iterator[Piece]:
    """Yield columns of all groups, (n, b, ...), then the points in no group."""
    # Columns from all over a group, so that its mean over a piece is near its mean.
    order = numpy.random.default_rng(0).permutation(grouping.points)
    # `IGA` takes the middle one of all columns for the centre.
    middle = (grouping.points - 1) // 2
    order[order == grouping.centre] = order[middle]
    order[middle] = grouping.centre
    for first in range(0, grouping.points, columns):
        index = grouping.origins[:, None] + grouping.offsets[order[first : first + columns]]
        place = torch.from_numpy(index).to(coords.device)
        yield Piece(adjusted, coords[place], targets[place])
    rest = torch.from_numpy(grouping.rest).to(coords.device)
    if len(rest):
        for place in torch.split(rest, columns * grouping.groups):
            yield Piece(network, coords[place], targets[place])


def columns_that_fit(held_bytes: int, coords: Tensor, grouping: Grouping) -> int:
    """Return how many positions of every group fit in a piece, where so much is held of a point."""
    bound = HOST_BYTES if coords.device.type == "cpu" else ACCELERATOR_BYTES
    pieces = max(1, math.ceil(grouping.count * held_bytes / bound))
    return math.ceil(grouping.points / pieces)


def held_bytes(network: nn.Module, coords: Tensor, targets: Tensor) -> int:
    """Return what autograd holds of a point; raise if the outputs are not like the targets."""
    count = min(len(coords), PROBED_POINTS)
    fewer = count // 2
    output, held = _held(network, coords[:count])
    wanted = tuple(targets[:count].shape)
    if not isinstance(output, Tensor) or tuple(output.shape) != wanted:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"targets: expected the network's outputs, of shape {got} at {count} points, "
            f"got {wanted}; give the network as many outputs as the signal has"
        )
    # What is held once, whatever the points, is in both.
    less = _held(network, coords[:fewer])[1] if fewer > 1 else 0
    return math.ceil((held - less) / (count - fewer)) if less else math.ceil(held / count)


def _held(network: nn.Module, coords: Tensor) -> tuple[Any, int]:
    """Return a network's outputs, and how many bytes autograd holds for them."""
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    points = coords.clone()
    with evaluating(network), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        output = network(points)
    return output, sum(held.values())
