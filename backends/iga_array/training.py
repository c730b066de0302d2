"""Training in pieces, on all groups or a batch of them a step, with or without an adjustment."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import numpy

from iga_array.checking import require_data, require_kinds
from iga_array.correcting import (
    Correction,
    Corrector,
    require_still_finite,
    taken,
    taken_count,
)
from iga_array.mlp import MLP
from iga_array.passes import Passes
from iga_array.pieces import Evaluated, Piece, Pieces, Sums, overflow_is_seen_later, total
from iga_core import Adjustment, Grouping, SpectralTransform
from iga_core.arrays import Array, common_namespace, require_count
from iga_core.batches import require_batch
from iga_core.optimizers import Adam, Optimizer


def train(
    model: MLP,
    coords: Array,
    targets: Array,
    *,
    grouping: Grouping,
    adjustment: Adjustment | None = None,
    optimizer: Optimizer | None = None,
    steps: int = 1000,
    columns: int | None = None,
    workers: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    callback: "Callable[[Trainer], object] | None" = None,
) -> "Trainer":
    """Fit a model to a signal under the mean squared error.

    Parameters
    ----------
    model : MLP
        Trained in place: its `parameters` are replaced at every step. A normalised network takes
        all points of a step in one piece, and no adjustment.
    coords : array, shape (N, inputs)
        Coordinates of the points in their own order, in [-1, 1].
    targets : array, shape (N, outputs)
        The signal there, of the same namespace, dtype and device.
    grouping : Grouping
        Of the N points. Plain training runs through the same pieces.
    adjustment : Adjustment, optional
        Without one, training is plain.
    optimizer : Optimizer, optional
        SGD, Adam or Muon of `iga_core`; ``Adam(5e-3, "cosine")`` by default.
    steps : int
        Steps in all; the schedule ends there.
    columns : int, optional
        Positions of every group in one piece; by default, what the cache of a core holds.
    workers : int, optional
        Pieces worked on at a time; by default one a core for NumPy arrays, where threadpoolctl
        is installed to give each one thread of the linear algebra library, else 1.
    batch : int, optional
        Groups a step, more than the `end` of an adjustment; by default all. Points in no group
        take part in every step. The gradient is, on average over steps, that of all points.
    seed : int
        Of the batches, see `iga_core.batches.batch_of`.
    callback : callable, optional
        Called with the `Trainer` after every step; training ends when it returns True.

    Returns
    -------
    Trainer
        After the last step; its `state_dict` continues the run elsewhere.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not belong together or, on a CPU, data are not finite; if a normalised
        network comes with an adjustment.
    FloatingPointError
        On a CPU, when the loss becomes non-finite. The model then has the parameters of the last
        finite loss. The loss after the last step is not evaluated.

    Notes
    -----
    A batch with ``sampling="largest"`` or ``reach="mean"`` whose tapes exceed
    `iga_array.correcting.HELD_BYTES` costs a second forward pass a step.

    NumPy runs of several workers take turns within a process. They also have the GNU C library
    keep up to 64 MB of freed memory a thread.
    """
    if callback is not None and not callable(callback):
        raise TypeError(
            f"callback: expected a function, got {type(callback).__name__}; "
            "pass one that takes the Trainer"
        )
    trainer = Trainer(
        model,
        coords,
        targets,
        grouping=grouping,
        adjustment=adjustment,
        optimizer=optimizer,
        steps=steps,
        columns=columns,
        workers=workers,
        batch=batch,
        seed=seed,
    )
    while trainer.done < trainer.steps:
        trainer.step()
        if callback is not None and callback(trainer) is True:
            break
    trainer._measure()
    return trainer


class Trainer:
    """Training a step at a time; takes what `train` takes.

    Attributes
    ----------
    model : MLP
        At the parameters after the last step.
    done, steps : int
        Steps taken, and in all.
    loss : array, shape ()
        Mean squared error over all points, or an estimate of it from those of the step's batch, at
        the parameters before the last step; None before any.

    Raises
    ------
    TypeError, ValueError
        As `train` does.
    """

    def __init__(
        self,
        model: MLP,
        coords: Array,
        targets: Array,
        *,
        grouping: Grouping,
        adjustment: Adjustment | None = None,
        optimizer: Optimizer | None = None,
        steps: int = 1000,
        columns: int | None = None,
        workers: int | None = None,
        batch: int | None = None,
        seed: int = 0,
    ) -> None:
        require_kinds(model, grouping, adjustment, optimizer)
        xp = common_namespace(coords=coords, targets=targets, parameters=model.parameters[0])
        require_data(model, coords, targets, grouping, adjustment)
        batch = require_batch(batch, seed, grouping.groups, adjustment)
        self.model = model
        self.optimizer = optimizer or Adam(5e-3, "cosine")
        self.steps = require_count("steps", steps, 1)
        self.done = 0
        self.loss: Array = None
        self._moments = self.optimizer.initial(model.parameters)
        self._evaluated: deque[tuple[Array, list[Array]]] = deque([(0.0, model.parameters)], 2)
        self._pieces = Pieces(
            coords,
            targets,
            grouping,
            model.network.width,
            columns,
            workers,
            batch,
            seed,
            whole=bool(model.network.normalised),
        )
        numbers = sum(2 * fan_in for fan_in, _ in model.network.layers)
        point_bytes = numbers * xp.finfo(coords.dtype).bits // 8
        self._corrector = (
            None if adjustment is None else Corrector(adjustment, self._pieces, point_bytes)
        )

    @property
    def transform(self) -> SpectralTransform | None:
        """The last transform made."""
        return self._corrector.memory.state.transform if self._corrector else None

    def step(self) -> Array:
        """Take one step.

        Returns
        -------
        array, shape ()
            The `loss`.

        Raises
        ------
        FloatingPointError
            On a CPU, if the loss is non-finite; the model goes back to the last finite one.
        """
        with overflow_is_seen_later(), self._pieces.threads():
            self._pieces.turn_to(self.done)
            return self._step()

    def _step(self) -> Array:
        passes = self.model.passes()
        memory = None if self._corrector is None else self._corrector.memory
        try:
            sums = self._gradients(passes)
            self.loss = sums.error / math.prod(self._pieces.targets.shape)
            require_still_finite("the loss", self.loss)
            parameters, moments = self.optimizer.update(
                self.model.parameters,
                passes.unfolded(sums.gradients or []),
                self._moments,
                self.done,
                self.steps,
            )
        except BaseException as error:
            if self._corrector is not None and memory is not None:
                self._corrector.memory = memory
            if not isinstance(error, FloatingPointError):
                raise
            self.restore()
            raise FloatingPointError(
                f"{error} at step {self.done}; the model has the parameters of "
                "the last finite loss: lower the learning rate"
            ) from None
        self._evaluated.append((self.loss, self.model.parameters))
        self.model.parameters, self._moments = parameters, moments
        self.model.statistics = passes.statistics
        self.done += 1
        return self.loss

    def restore(self) -> None:
        """Go back to the parameters of the last finite loss, of the last two."""
        for loss, parameters in reversed(self._evaluated):
            if math.isfinite(float(loss)):
                self.model.parameters = parameters
                self._measure()
                return

    def _measure(self) -> None:
        """Give a normalised model the statistics of all points at its present parameters."""
        if self.model.network.normalised:
            self.model.measure(self._pieces.coords)

    @property
    def parameters(self) -> list[Array]:
        """The model's parameters after the last step."""
        return self.model.parameters

    def predict(self) -> Array:
        """Evaluate the model at all points, (N, outputs); a normalised one is given its statistics.

        They are those of all points at the present parameters, as in a pass of training.
        """
        self._measure()
        return self.model(self._pieces.coords)

    def folded(self) -> list[Array]:
        """Return the parameters of the plain network ``model.network.folded``.

        A normalised network is folded with the statistics of all points at its present parameters,
        which it gets.
        """
        self._measure()
        return self.model.fold().parameters

    def state_dict(self) -> dict[str, Array]:
        """Return all that a run needs to go on elsewhere, by name.

        Returns
        -------
        dict of str to array
            The step, parameters, moments and the adjustment's state; not copies.
        """
        state = {"done": numpy.asarray(self.done)}
        for name, arrays in self._lists().items():
            state |= {f"{name}.{k}": array for k, array in enumerate(arrays)}
        return state | (self._corrector.state_dict() if self._corrector else {})

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Continue where another run of the same settings stood.

        Parameters
        ----------
        state : dict of str to array
            What its `state_dict` gave; NumPy arrays serve every namespace.

        Raises
        ------
        ValueError
            If it is of another network or optimizer. Nothing is changed then.
        """
        like = self._pieces.coords
        found = {
            name: [
                taken(state, f"{name}.{k}", like, old.shape, old.dtype)
                for k, old in enumerate(wanted)
            ]
            for name, wanted in self._lists().items()
        }
        done = taken_count(state, "done")
        adjusted = any(name.startswith("adjustment.") for name in state)
        if done > self.steps or adjusted != (self._corrector is not None):
            raise ValueError(
                f"state: expected {'an adjusted' if self._corrector else 'a plain'} run of at most "
                f"{self.steps} steps, got {'an adjusted' if adjusted else 'a plain'} one after "
                f"{done}; load it into a run of the same settings"
            )
        if self._corrector:
            self._corrector.memory = self._corrector.read(state)
        self.done = done
        self.model.parameters = found.pop("parameters")
        self._evaluated = deque([(0.0, found.pop("finite"))], 2)
        self._moments = found
        self._measure()

    def _lists(self) -> dict[str, list[Array]]:
        finite = self._evaluated[-1][1]
        return {"parameters": self.model.parameters, "finite": finite, **self._moments}

    def _gradients(self, passes: Passes) -> Sums:
        """Sum the error and the adjusted gradients of the folded parameters over all points."""
        corrector, pieces = self._corrector, self._pieces

        def evaluate(share: list[Piece]) -> Iterator[Evaluated]:
            return (pieces.evaluate(passes, piece) for piece in share)

        def finish(evaluated: Evaluated, correction: Correction | None) -> Sums:
            cotangent = evaluated.cotangent
            if correction is not None and evaluated.piece.grouped:
                adjusted = correction(pieces.grouped(cotangent))
                cotangent = pieces.xp.reshape(adjusted, cotangent.shape)
            return Sums(evaluated.error, passes.gradients(evaluated.tape, cotangent))

        if corrector is None:
            return total(pieces.map(lambda share: total(finish(e, None) for e in evaluate(share))))
        if corrector.holds:
            held = pieces.map(lambda share: list(evaluate(share)))
            seen = total(corrector.look(e) for share in held for e in share)
            correction = corrector.from_this_pass(passes, seen, self.done)
            parts = pieces.map(lambda share: total(finish(e, correction) for e in share), held)
            return total(parts)
        if corrector.looks_first:
            seen = total(pieces.map(lambda share: total(map(corrector.look, evaluate(share)))))
            correction = corrector.from_this_pass(passes, seen, self.done)
            return total(
                pieces.map(lambda share: total(finish(e, correction) for e in evaluate(share)))
            )
        if corrector.needs_look:
            seen = total(pieces.map(lambda share: total(map(corrector.look, evaluate(share)))))
            corrector.remember(passes, seen, self.done)
        coming: Future[Correction] = Future()

        def correct() -> None:
            try:
                coming.set_result(corrector.from_last_pass(passes, self.done))
            except BaseException as error:
                coming.set_exception(error)

        def look_and_finish(evaluated: Evaluated) -> Sums:
            sums = corrector.look(evaluated)
            sums += finish(evaluated, coming.result())
            return sums

        try:
            parts = pieces.map(
                lambda share: total(map(look_and_finish, evaluate(share))), meanwhile=correct
            )
        finally:
            coming.cancel()  # whoever still waits, because something failed, stops
        sums = total(parts)
        corrector.remember(passes, sums, self.done + 1)
        return sums
