"""Training of a PyTorch network, adjusted or not, on all groups or a batch of them a step."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from iga_core import Adjustment, Grouping, SpectralTransform
from iga_core import optimizers as core
from iga_core.adjustment import require_fit
from iga_core.arrays import common_namespace, require_count, require_finite, require_shape
from iga_core.batches import require_batch
from iga_torch.checking import require_separate, trained
from iga_torch.layers import normalising
from iga_torch.muon import Muon
from iga_torch.networks import CoordinateNetwork
from iga_torch.pieces import Afresh, Batches, Piece, columns_that_fit, cut, held_bytes
from iga_torch.wrapper import IGA

PREDICTED_POINTS = 2**16

OPTIMIZERS: dict[type[core.Optimizer], Any] = {
    core.SGD: torch.optim.SGD,
    core.Adam: torch.optim.Adam,
    core.Muon: Muon,
}


class Trainer:
    """Training under the mean squared error, a step at a time.

    Parameters
    ----------
    network : nn.Module
        (..., inputs) -> (..., outputs); trained in place. One with batch normalisation in training
        mode takes all points of a step in one piece, and no adjustment.
    coords : Tensor, shape (N, inputs)
        Coordinates of the points in their own order.
    targets : Tensor, shape (N, outputs)
        The signal there, of the same dtype and device as `coords` and the parameters.
    grouping : Grouping
        Of the N points.
    adjustment : Adjustment, optional
        Without one, training is plain.
    optimizer : Optimizer, optional
        SGD, Adam or Muon of `iga_core`, taken as its counterpart in PyTorch;
        ``Adam(5e-3, "cosine")`` by default.
    steps : int
        Steps in all; the schedule ends there.
    columns : int, optional
        Positions of every group in one piece, at least `samples` of them; `IGA` says what an
        adjustment does in pieces. By default all points are evaluated at once if what autograd
        holds for them fits in `iga_torch.pieces.HOST_BYTES` or `ACCELERATOR_BYTES`, else as many
        as fit.
    batch : int, optional
        Groups a step, all evaluated at once, more than the `end` of an adjustment; by default all
        groups. Points in no group take part in every step. The gradient is, on average over steps,
        that of all points.
    seed : int
        Of the batches, see `iga_core.batches.batch_of`.

    Attributes
    ----------
    network : nn.Module
        At the parameters after the last step.
    done, steps : int
        Steps taken, and in all.
    loss : Tensor, shape ()
        Mean squared error over all points, or an estimate of it from those of the step's batch, at
        the parameters before the last step; None before any.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not belong together or, on a CPU, data are not finite.
    """

    def __init__(
        self,
        network: nn.Module,
        coords: Tensor,
        targets: Tensor,
        *,
        grouping: Grouping,
        adjustment: Adjustment | None = None,
        optimizer: core.Optimizer | None = None,
        steps: int = 1000,
        columns: int | None = None,
        batch: int | None = None,
        seed: int = 0,
    ) -> None:
        optimizer = core.Adam(5e-3, "cosine") if optimizer is None else optimizer
        _require_kinds(network, grouping, adjustment, optimizer)
        self._trained = list(trained(network).values())
        _require_fit(network, coords, targets, grouping, adjustment)
        batch = require_batch(batch, seed, grouping.groups, adjustment)
        self.network = network
        self.steps = require_count("steps", steps, 1)
        self.done = 0
        self.loss: Tensor | None = None
        self._coords = coords
        self._numbers = targets.numel()
        point_bytes = held_bytes(network, coords, targets)
        self._batches = None
        if batch is not None:
            self._batches = Batches(coords, targets, grouping, batch, seed)
        if batch is not None or normalising(network) is not None:
            _require_one_piece("a batch" if batch else "a normalised network", columns)
            columns = grouping.points
        elif columns is None:
            columns = columns_that_fit(point_bytes, coords, grouping)
        columns = max(require_count("columns", columns, 1), adjustment.samples if adjustment else 1)
        in_one = columns >= grouping.points
        self._model: IGA | None = None
        if adjustment is not None:
            settings = {f.name: getattr(adjustment, f.name) for f in dataclasses.fields(adjustment)}
            if self._batches is not None:
                self._model = Afresh(network, self._batches.grouping, **settings)
            else:
                self._model = IGA(network, grouping if in_one else None, **settings)
        self._adjusted = self._model or network
        if in_one:
            self._pieces = [Piece(self._adjusted, coords, targets)]
        else:
            self._pieces = list(cut(self._adjusted, network, coords, targets, grouping, columns))
        self._decay = optimizer.decay
        self._optimizer = OPTIMIZERS[type(optimizer)](self._trained, lr=optimizer.learning_rate)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._make_moments()
        self._evaluated = [(torch.zeros(()), _copies(self._trained)) for _ in range(2)]

    @property
    def transform(self) -> SpectralTransform | None:
        """The last transform made."""
        return None if self._model is None else self._model.transform

    def step(self) -> Tensor:
        """Take one step.

        Returns
        -------
        Tensor, shape ()
            The `loss`.

        Raises
        ------
        FloatingPointError
            On a CPU, if the loss is non-finite; the network goes back to the last finite one.
        """
        self.loss = self._differentiated()
        self._note_evaluated(self.loss)
        decay = self._decay(self.done, self.steps)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * decay
        self._optimizer.step()
        self.done += 1
        return self.loss

    def restore(self) -> None:
        """Go back to the parameters of the last finite loss, with the statistics of all points."""
        for loss, parameters in reversed(self._evaluated):
            if math.isfinite(loss.item()):
                _copy(parameters, self._trained)
                if normalising(self.network) is not None:
                    self.predict()
                return

    @property
    def parameters(self) -> list[Tensor]:
        """The trained parameters after the last step, in the network's order; not copies."""
        return [parameter.detach() for parameter in self._trained]

    @torch.no_grad()
    def predict(self) -> Tensor:
        """Evaluate the network at all points, (N, outputs).

        A normalised one in training mode gets their statistics.
        """
        if normalising(self.network) is not None:
            found: Tensor = self.network(self._coords)
            return found
        return torch.cat([self.network(x) for x in torch.split(self._coords, PREDICTED_POINTS)])

    def folded(self) -> list[Tensor]:
        """Return the parameters of the plain network ``network.network.folded``; copies.

        A normalised network is folded with the statistics of all points at its present parameters,
        which it gets.

        Raises
        ------
        TypeError
            If the network was not made by `from_network`.
        """
        if not isinstance(self.network, CoordinateNetwork):
            raise TypeError(
                f"network: expected one made by from_network, got {type(self.network).__name__}; "
                "fold a network of your own yourself"
            )
        if self.network.network.normalised and self.network.training:
            self.network.measure(self._coords)
        return [parameter.detach() for parameter in self.network.fold().parameters()]

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that a run needs to go on elsewhere, by name.

        Returns
        -------
        dict of str to Tensor
            The step, the network, the moments and the adjustment's state; not copies.
        """
        state = {"done": torch.tensor(self.done), **self._own_state()}
        adjustment = {} if self._model is None else self._model.adjustment_state()
        return state | {f"adjustment.{name}": tensor for name, tensor in adjustment.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another run of the same settings stood.

        Parameters
        ----------
        state : mapping of str to array
            What its `state_dict` gave; NumPy arrays serve as well as tensors.

        Raises
        ------
        ValueError
            If it is of another network or optimizer. Nothing is changed then.
        """
        own = self._own_state()
        found = [_taken(state, name, like) for name, like in own.items()]
        done = _taken(state, "done", torch.tensor(self.done)).item()
        prefix = "adjustment."
        adjustment = {
            name.removeprefix(prefix): torch.asarray(array, copy=True)
            for name, array in state.items()
            if name.startswith(prefix)
        }
        if not 0 <= done <= self.steps or bool(adjustment) != (self._model is not None):
            raise ValueError(
                f"state: expected {'an adjusted' if self._model else 'a plain'} run of at most "
                f"{self.steps} steps, got {'an adjusted' if adjustment else 'a plain'} one after "
                f"{done}; load it into a run of the same settings"
            )
        if self._model is not None:
            self._model.load_adjustment_state(adjustment)
        _copy(found, own.values())
        finite = self._evaluated[-1][1]
        self._evaluated = [(torch.zeros(()), kept) for kept in (_copies(finite), finite)]
        self.done = int(done)

    def _differentiated(self) -> Tensor:
        """Return the loss, its gradient left with the parameters."""
        self._optimizer.zero_grad()
        losses = []
        pieces = self._pieces
        if self._batches is not None:
            pieces = [self._batches.piece(self._adjusted, self.done)]
        for piece in pieces:
            loss = piece.error() / self._numbers
            self._require_still_finite(loss.detach())
            torch.autograd.backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _own_state(self) -> dict[str, Tensor]:
        """Return by name the tensors that a step changes in place."""
        state = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        state |= {f"finite.{k}": v for k, v in enumerate(self._evaluated[-1][1])}
        for k, parameter in enumerate(self._trained):
            moments = self._optimizer.state[parameter].items()
            state |= {f"optimizer.{k}.{name}": moment for name, moment in moments}
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}

    def _make_moments(self) -> None:
        """Have the optimizer make its state, so that there is one before the first step too."""
        for parameter in self._trained:
            parameter.grad = torch.zeros_like(parameter)
        self._optimizer.step()
        self._optimizer.zero_grad()
        for moments in self._optimizer.state.values():
            if "step" in moments:
                moments["step"].zero_()

    def _note_evaluated(self, loss: Tensor) -> None:
        """Keep the present parameters, of this loss, and those of the loss before."""
        _, oldest = self._evaluated.pop(0)
        _copy(self._trained, oldest)
        self._evaluated.append((loss, oldest))

    def _require_still_finite(self, loss: Tensor) -> None:
        """Raise if training diverged, where knowing it costs no synchronisation."""
        if loss.device.type == "cpu" and not math.isfinite(loss.item()):
            self.restore()
            raise FloatingPointError(
                f"the loss became non-finite at step {self.done}; the model has the parameters of "
                "the last finite loss: lower the learning rate"
            )


def _require_one_piece(what: str, columns: int | None) -> None:
    if columns is not None:
        raise ValueError(
            f"columns: expected None, because {what} is evaluated at once, got {columns}; "
            "leave it out, and take fewer groups a step by `batch` if memory is short"
        )


def _copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _copy(sources: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def _taken(state: Mapping[str, Any], name: str, like: Tensor) -> Tensor:
    """Return a tensor of a state that shall replace another, else raise."""
    array = state.get(name)
    tensor = None if array is None else torch.asarray(array, copy=True)
    if tensor is None or tensor.shape != like.shape or tensor.dtype != like.dtype:
        got = "nothing" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        raise ValueError(
            f"state: expected {like.dtype} of shape {tuple(like.shape)} as {name}, got {got}; "
            "load it into a run of the same settings"
        )
    return tensor


def _require_kinds(network: Any, grouping: Any, adjustment: Any, optimizer: Any) -> None:
    for name, value, kind in (
        ("network", network, nn.Module),
        ("grouping", grouping, Grouping),
        ("adjustment", adjustment, Adjustment | None),
    ):
        if not isinstance(value, kind):
            raise TypeError(
                f"{name}: expected {getattr(kind, '__name__', 'Adjustment or None')}, got "
                f"{type(value).__name__}; construct one first"
            )
    if type(optimizer) not in OPTIMIZERS:
        raise TypeError(
            f"optimizer: expected SGD, Adam or Muon of iga_core, got {type(optimizer).__name__}; "
            "use IGA in a loop of your own for another"
        )


def _require_fit(
    network: nn.Module,
    coords: Tensor,
    targets: Tensor,
    grouping: Grouping,
    adjustment: Adjustment | None,
) -> None:
    parameter = next(iter(trained(network).values()))
    common_namespace(coords=coords, targets=targets, parameters=parameter)
    remedy = "give one row a point"
    require_shape("coords", coords, (grouping.count, "inputs"), remedy)
    require_shape("targets", targets, (grouping.count, "outputs"), remedy)
    require_finite("coords", coords, "clean the data first")
    require_finite("targets", targets, "clean the data first")
    if adjustment is not None:
        require_separate(network)
        require_fit(adjustment, grouping)
