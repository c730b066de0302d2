"""Training a network under the mean squared error, plain or with an adjustment.

What is adjusted, when and how, is `iga_core.Adjuster`'s affair: here points are evaluated, a piece
at a time and in tiles of cache size, and their cotangents handed over and taken back.
"""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy
from array_api_compat import device
from numpy.typing import NDArray

from iga_array.checking import require_data, require_kinds, taken_count
from iga_array.mlp import MLP
from iga_array.passes import LayerTape, Passes
from iga_array.tiles import Sums, Workers, overflow_is_seen_later, rows_of_a_tile, total
from iga_core import Adjuster, Adjustment, Grouping, LayerFactors, Transform
from iga_core.adjuster import Choose
from iga_core.arrays import Array, common_namespace, on_host, require_count, sent, taken
from iga_core.grouping import MEMORY, batch_of, pieces, require_batch
from iga_core.optimizers import Adam, Optimizer

ADJUSTED = "adjustment."
"""What the names of an adjuster's state begin with in a trainer's."""


@dataclass(frozen=True, eq=False)
class Tile:
    """Points that are evaluated at once, (r,), and the weight of their errors."""

    points: Array
    weight: Any
    """A number, or (r, 1)."""
    grouped: bool


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A tile after its forward pass: error, cotangent (r, C), and the tape behind it."""

    error: Array
    cotangent: Array
    tape: list[LayerTape]


def train(
    model: MLP,
    coords: Array,
    targets: Array,
    *,
    callback: "Callable[[Trainer], object] | None" = None,
    **settings: Any,
) -> "Trainer":
    """Fit a model to a signal under the mean squared error.

    Parameters
    ----------
    model : MLP
        Trained in place, see `Trainer`.
    coords : array, shape (N, inputs)
        Coordinates of the points in their own order, in [-1, 1].
    targets : array, shape (N, outputs)
        The signal there, of the same namespace, dtype and device.
    callback : callable, optional
        Called with the `Trainer` after every step; training ends when it returns True.
    **settings
        What `Trainer` takes beside these: `grouping`, and optionally `adjustment`, `optimizer`,
        `steps`, `columns`, `memory`, `workers`, `batch`, `seed`.

    Returns
    -------
    Trainer
        After the last step; its `state_dict` continues the run elsewhere.

    Raises
    ------
    TypeError, ValueError
        As `Trainer` does; if the callback is no function.
    FloatingPointError
        On a CPU, when the loss becomes non-finite. The model then has the parameters of the last
        finite loss. The loss after the last step is not evaluated.

    Examples
    --------
    >>> import numpy as np
    >>> from iga_core import Adjustment, Grouping, Network
    >>> coords = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> model = MLP(Network("siren", inputs=1, outputs=1, width=16, depth=1))
    >>> run = train(
    ...     model, coords, np.sin(9 * coords), grouping=Grouping.blocks(64, 8),
    ...     adjustment=Adjustment(), steps=20,
    ... )
    >>> run.done, model(coords).shape
    (20, (64, 1))
    """
    if callback is not None and not callable(callback):
        raise TypeError(
            f"callback: expected a function, got {type(callback).__name__}; "
            "pass one that takes the Trainer"
        )
    trainer = Trainer(model, coords, targets, **settings)
    while trainer.done < trainer.steps:
        trainer.step()
        if callback is not None and callback(trainer) is True:
            break
    trainer._measure()
    return trainer


class Trainer:
    """Training a step at a time.

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
        Of the N points.
    adjustment : Adjustment, optional
        Without one, training is plain, through the same pieces.
    optimizer : Optimizer, optional
        SGD, Adam or Muon of `iga_core`; ``Adam(5e-3, "cosine")`` by default.
    steps : int
        Steps in all; the schedule ends there.
    columns : int, optional
        Positions of every group in one piece, at least `samples` of them with an adjustment; by
        default, what `memory` allows. See `iga_core.grouping.pieces`.
    memory : int
        Bytes that what is held of a piece may take, counted in float64. Points in no group come
        with the first piece, in addition.
    workers : int, optional
        Threads; by default one a core for NumPy arrays, where threadpoolctl is installed to give
        each one thread of the linear algebra library, else 1.
    batch : int, optional
        Groups a step; by default all. Points in no group take part in every step. The gradient is,
        on average over steps, that of all points. A transform then serves one step alone.
    seed : int
        Of the batches and pieces.
    choose : callable, optional
        Chooses the representatives in place of the adjustment's sampling, see `Adjuster`.

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
        If the arguments do not belong together or, on a CPU, data are not finite; if a normalised
        network comes with an adjustment.

    Notes
    -----
    NumPy runs of several workers take turns within a process. NumPy runs also have the GNU C
    library keep up to `memory` of what was freed.
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
        memory: int = MEMORY,
        workers: int | None = None,
        batch: int | None = None,
        seed: int = 0,
        choose: Choose | None = None,
    ) -> None:
        require_kinds(model, grouping, adjustment, optimizer)
        self._xp = common_namespace(coords=coords, targets=targets, parameters=model.parameters[0])
        require_data(model, coords, targets, grouping)
        self._batch = require_batch(batch, seed, grouping.groups)
        self.model = model
        self.optimizer = optimizer or Adam(5e-3, "cosine")
        self.steps = require_count("steps", steps, 1)
        self.done = 0
        self.loss: Array = None
        self._coords, self._targets = coords, targets
        self._grouping, self._seed = grouping, seed
        self._groups = self._batch or grouping.groups
        if columns is not None:
            columns = require_count("columns", columns, 1)
        self._least = 1 if adjustment is None else adjustment.samples
        self._columns, self._memory = columns, require_count("memory", memory, 1)
        self._workers = Workers(workers, coords)
        self._adjuster: Adjuster | None = None
        if adjustment is not None:
            adjustment.require_fit(self._groups, grouping.points)
            self._adjuster = Adjuster(
                adjustment, grouping.points, centre=grouping.centre, choose=choose
            )
        self._moments = self.optimizer.initial(model.parameters)
        self._averaged: list[Array] | None = None
        if self.optimizer.average_weights:
            self._averaged = model.parameters
        self._evaluated: deque[tuple[Array, list[Array]]] = deque([(0.0, model.parameters)], 2)

    @property
    def transform(self) -> Transform | None:
        """The transform that serves; None before any."""
        return None if self._adjuster is None else self._adjuster.transform

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
        passes = self.model.passes()
        before = None if self._adjuster is None else self._adjuster.state
        try:
            with overflow_is_seen_later(), self._workers.at_work():
                sums = self._gradients(passes)
                self.loss = sums.error / math.prod(self._targets.shape)
                self._require_still_finite(self.loss)
                parameters, moments = self.optimizer.update(
                    self.model.parameters,
                    passes.unfolded(sums.gradients or []),
                    self._moments,
                    self.done,
                    self.steps,
                )
        except BaseException:
            if self._adjuster is not None and before is not None:
                self._adjuster.state = before
            raise
        self._evaluated.append((self.loss, self.model.parameters))
        self.model.parameters, self._moments = parameters, moments
        self.model.statistics = passes.statistics
        if self._averaged is not None:
            share = self.optimizer.newest_share(self.done)
            self._averaged = [
                old + share * (new - old)
                for old, new in zip(self._averaged, parameters, strict=True)
            ]
        self.done += 1
        return self.loss

    def restore(self) -> None:
        """Go back to the parameters of the last finite loss, of the last two."""
        for loss, parameters in reversed(self._evaluated):
            if math.isfinite(float(loss)):
                self.model.parameters = parameters
                if self._averaged is not None:
                    self._averaged = parameters  # of a run that diverged an average says nothing
                self._measure()
                return

    def _require_still_finite(self, loss: Array) -> None:
        """Raise if training diverged, where knowing it costs no synchronisation."""
        if on_host(loss) and not math.isfinite(float(loss)):
            self.restore()
            raise FloatingPointError(
                f"the loss became non-finite at step {self.done}; the model has the parameters of "
                "the last finite loss: lower the learning rate"
            )

    def _measure(self) -> None:
        """Give a normalised model the statistics of all points at its present parameters."""
        if self.model.network.normalised:
            self.model.measure(self._coords)

    @property
    def parameters(self) -> list[Array]:
        """The model's parameters after the last step."""
        return self.model.parameters

    @property
    def averaged(self) -> list[Array]:
        """The optimizer's average of the parameters; those after the last step where it has none.

        ``model.parameters = trainer.averaged`` gives them to the model.
        """
        return self.model.parameters if self._averaged is None else self._averaged

    def predict(self) -> Array:
        """Evaluate the model at all points, (N, outputs), at the `averaged` parameters.

        A normalised one is given its statistics, those of all points at these parameters.
        """
        with self._at_average():
            return self.model(self._coords)

    def folded(self) -> list[Array]:
        """Return the parameters of the plain network ``model.network.folded``, of the `averaged`.

        A normalised network is folded with the statistics of all points at these parameters.
        """
        with self._at_average():
            return self.model.fold().parameters

    @contextlib.contextmanager
    def _at_average(self) -> Iterator[None]:
        """Have the model at the averaged parameters here, with its statistics."""
        before = self.model.parameters, self.model.statistics
        self.model.parameters = self.averaged
        try:
            self._measure()
            yield
        finally:
            if self._averaged is not None:
                self.model.parameters, self.model.statistics = before

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
        adjustment = {} if self._adjuster is None else self._adjuster.state_dict()
        return state | {ADJUSTED + name: array for name, array in adjustment.items()}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Continue where another run of the same settings stood.

        Parameters
        ----------
        state : dict of str to array
            What its `state_dict` gave; NumPy arrays serve every namespace.

        Raises
        ------
        ValueError
            If it is of another network, optimizer or adjustment. Nothing is changed then.
        """
        found = {
            name: [taken(state, f"{name}.{k}", old) for k, old in enumerate(wanted)]
            for name, wanted in self._lists().items()
        }
        done = taken_count(state, "done")
        adjustment = {
            name.removeprefix(ADJUSTED): array
            for name, array in state.items()
            if name.startswith(ADJUSTED)
        }
        adjusted = self._adjuster is not None
        if done > self.steps or bool(adjustment) != adjusted:
            raise ValueError(
                f"state: expected {'an adjusted' if adjusted else 'a plain'} run of at most "
                f"{self.steps} steps, got {'an adjusted' if adjustment else 'a plain'} one after "
                f"{done}; load it into a run of the same settings"
            )
        if self._adjuster is not None:
            self._adjuster.load_state_dict(
                adjustment, self._coords, self._batch or self._grouping.groups
            )
        self.done = done
        self.model.parameters = found.pop("parameters")
        self._evaluated = deque([(0.0, found.pop("finite"))], 2)
        self._averaged = found.pop("averaged", None)
        self._moments = found
        self._measure()

    def _lists(self) -> dict[str, list[Array]]:
        finite = self._evaluated[-1][1]
        averaged = {} if self._averaged is None else {"averaged": self._averaged}
        return {
            "parameters": self.model.parameters, "finite": finite, **averaged, **self._moments,
        }  # fmt: skip

    def _on_device(self, array: NDArray[Any]) -> Array:
        return sent(array, self._coords)

    def _gradients(self, passes: Passes) -> Sums:
        """Sum the error and the adjusted gradients of the folded parameters over a step."""
        grouping = self._grouping
        if self._batch is not None:
            grouping = grouping.some(batch_of(grouping.groups, self._batch, self._seed, self.done))
            if self._adjuster is not None:
                # The transform of one batch does not serve the groups of the next.
                self._adjuster.forget(grouping.centre)
        if self.model.network.normalised:
            return self._at_once(passes, grouping)
        sums = Sums()
        for columns in pieces(
            grouping.points, grouping.groups, self.model.network.numbers,
            memory=self._memory, columns=self._columns,
            least=self._least, seed=self._seed, step=self.done,
        ):  # fmt: skip
            # Points in no group come with the first piece, whose means correct them.
            rest = self._rest(grouping) if sums.gradients is None else []
            sums += self._piece(passes, grouping, columns, rest)
        return sums

    def _piece(
        self, passes: Passes, grouping: Grouping, columns: NDArray[Any], rest: list[Tile]
    ) -> Sums:
        tiles = [*self._tiles(grouping, columns), *rest]
        shares = self._workers.shares(tiles)
        adjuster = self._adjuster
        if adjuster is None:  # nothing to wait for: each tile's tape is dropped with it
            return total(
                self._workers.map(
                    lambda share: total(
                        self._finished(passes, e, e.cotangent)
                        for e in (self._evaluate(passes, tile) for tile in share)
                    ),
                    shares,
                )
            )
        held = self._workers.map(
            lambda share: [self._evaluate(passes, tile) for tile in share], shares
        )
        cotangents = [evaluated.cotangent for share in held for evaluated in share]
        corrected = self._adjusted(adjuster, passes, grouping, columns, tiles, cotangents)
        pairs = self._workers.shares(corrected)
        # From the last tile back to the first: the tapes written last are still in the cache.
        return total(
            self._workers.map(
                lambda both: total(
                    self._finished(passes, e, g) for e, g in reversed(list(zip(*both, strict=True)))
                ),
                list(zip(held, pairs, strict=True)),
            )
        )

    def _adjusted(
        self,
        adjuster: Adjuster,
        passes: Passes,
        grouping: Grouping,
        columns: NDArray[Any],
        tiles: list[Tile],
        cotangents: list[Array],
    ) -> list[Array]:
        """Put a piece's cotangents together, have them adjusted, and cut them up again."""
        xp, n = self._xp, grouping.groups
        pairs = list(zip(cotangents, tiles, strict=True))
        parts = [xp.reshape(g, (n, -1, g.shape[1])) for g, tile in pairs if tile.grouped]
        beyond = [g for g, tile in pairs if not tile.grouped]
        piece = xp.concat(parts, axis=1)
        adjuster.look(piece, columns)

        def factors_at(positions: Array) -> list[LayerFactors]:
            places = xp.take_along_axis(self._on_device(grouping.index), positions, axis=1)
            coords = xp.take(self._coords, xp.reshape(places, (-1,)), axis=0)
            shape = (n, -1, coords.shape[1]) if positions.shape[1] > 1 else (n, coords.shape[1])
            return passes.factors(xp.reshape(coords, shape), adjuster.adjustment.outputs)

        adjuster.make(factors_at)
        if beyond:
            neighbours = self._on_device(grouping.neighbours)
            piece, rest = adjuster.with_rest(piece, xp.concat(beyond), neighbours)
        else:
            piece, rest = adjuster(piece), None
        found, column, row = [], 0, 0
        for cotangent, tile in pairs:
            rows = cotangent.shape[0]
            if tile.grouped:
                part = piece[:, column : column + rows // n, :]
                found.append(xp.reshape(part, cotangent.shape))
                column += rows // n
            else:
                found.append(rest[row : row + rows, :])
                row += rows
        return found

    def _tiles(self, grouping: Grouping, columns: NDArray[Any]) -> list[Tile]:
        """Cut a piece into tiles of some columns each, as many for each worker."""
        rows = rows_of_a_tile(self.model.network.width, self._coords)
        step = max(1, rows // grouping.groups)
        workers = self._workers.count
        count = min(len(columns), workers * math.ceil(len(columns) / (step * workers)))
        weight = self._grouping.groups / grouping.groups
        return [
            Tile(self._on_device(grouping.index[:, part].reshape(-1)), weight, True)
            for part in numpy.array_split(columns, count)
        ]

    def _rest(self, grouping: Grouping) -> list[Tile]:
        rows = rows_of_a_tile(self.model.network.width, self._coords)
        count = math.ceil(len(grouping.rest) / rows)
        return [
            Tile(self._on_device(part), 1.0, False)
            for part in (numpy.array_split(grouping.rest, count) if count else [])
        ]

    def _at_once(self, passes: Passes, grouping: Grouping) -> Sums:
        """Evaluate all points of a step together, as a normalised network needs them."""
        weight = self._grouping.groups / grouping.groups
        weights = numpy.ones((grouping.count, 1))
        weights[: grouping.index.size] = weight
        points = numpy.concatenate([grouping.index.reshape(-1), grouping.rest])
        weighted = self._xp.asarray(weights, dtype=self._coords.dtype, device=device(self._coords))
        tile = Tile(self._on_device(points), 1.0 if weight == 1 else weighted, True)
        (sums,) = self._workers.map(
            lambda share: self._finished(passes, e := self._evaluate(passes, share), e.cotangent),
            [tile],
        )
        return sums

    def _evaluate(self, passes: Passes, tile: Tile) -> Evaluated:
        """Run a tile forward, to the cotangent of the mean squared error over all points."""
        xp = self._xp
        cotangent, tape = passes.forward(xp.take(self._coords, tile.points, axis=0))
        cotangent -= xp.take(self._targets, tile.points, axis=0)
        error = xp.sum(tile.weight * (cotangent * cotangent))
        cotangent *= tile.weight * (2 / math.prod(self._targets.shape))
        return Evaluated(error, cotangent, tape)

    @staticmethod
    def _finished(passes: Passes, evaluated: Evaluated, cotangent: Array) -> Sums:
        return Sums(evaluated.error, passes.gradients(evaluated.tape, cotangent))
