"""The conformance suite that a backend, ours or another's, must pass.

A backend in any framework, or in none, is described to the suite by an adapter: an object with the
three attributes and five methods of `Backend`, NumPy arrays in, NumPy arrays out. Each of `cases`
is one question; ``case.check(backend)`` compares the answer with the reference's, which is
`iga_array` on NumPy in float64, and gives a `Row`.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from iga_core._protocol import Backend, DType, Floats, Positions, Problem
from iga_core.adjustment import Adjustment
from iga_core.filters import SAFE, Damp, Equalise, Scale
from iga_core.fourier import Fourier
from iga_core.grouping import Grouping
from iga_core.kinds import KINDS
from iga_core.network import Network
from iga_core.optimizers import SGD, Adam, Muon
from iga_core.sampling import representatives

__all__ = [
    "ILL_POSED",
    "NETWORKS",
    "SENSITIVITIES",
    "STEPS",
    "TOLERANCES",
    "Backend",
    "Case",
    "DType",
    "Floats",
    "Positions",
    "Problem",
    "Row",
    "Status",
    "cases",
]

Quantity = Literal["values", "adjusted", "trained"]
Status = Literal["pass", "ill-posed", "fail"]

TOLERANCES: dict[str, dict[Quantity, float]] = {
    "float64": {"values": 1e-10, "adjusted": 1e-12, "trained": 1e-9},
    "float32": {"values": 1e-5, "adjusted": 1e-4, "trained": 1e-3},
}
"""Largest relative difference: of values, gradients and kernels; of what S was applied to; and of
the parameters after training."""
WELL_CONDITIONED = 1e3
"""In float64, S of a kernel whose safe eigenvalues reach further apart may differ by ten times eps
times how far."""
SENSITIVITIES = 10
"""A difference of so many times the reference's own sensitivity is allowed too."""
ILL_POSED = 0.01
"""A case that would be allowed more than this is not judged."""

NETWORKS = (*KINDS, "relu+fr", "pe+fr", "siren+fr", "relu+bn", "pe+bn", "siren+bn")
"""Labels of the networks that `iga_core` describes, of each kind and each addition some."""
FOURIER = Fourier(low=3, high=3, phases=4, alpha=0.05)

STEPS = 25
SHAPE, PATCH = (13, 14), 3
"""Points of the signal, and of a group: 16 groups of 9 points, and 38 points in none."""
SCATTERED = 145
"""Points without a grid: 16 groups of 9 neighbours, and one point in none."""
COLUMNS = 4
"""Of a piece, where a problem comes in pieces: there are three of three columns."""

PAPER = Adjustment.paper(end=6)
GROUPWISE = Adjustment(Equalise(6, 1, "start"), samples=4, outputs="trace", refresh=1, average=0)
FILTERS: dict[str, Any] = {
    "equalise": Equalise(6), "raise": Equalise(6, 1, "start"), "damp": Damp(), "scale": Scale(0.1),
}  # fmt: skip
ADJUSTED: dict[str, tuple[str, Adjustment]] = {
    "paper": ("patches", PAPER),
    "groupwise": ("patches", GROUPWISE),
    "damp": ("patches", Adjustment()),
    "damp/points": ("patches", Adjustment(reach="points")),
    "scale": ("patches", Adjustment(Scale(0.1))),
    "scale/points": ("patches", Adjustment(Scale(0.1), reach="points")),
    "pieces/paper": ("pieces", PAPER),
    "pieces/damp": ("pieces", Adjustment(samples=2)),
    "neighbours/damp": ("neighbours", Adjustment()),
    "neighbours/equalise": ("neighbours", Adjustment(Equalise(6))),
    "duplicates/damp": ("duplicates", Adjustment()),
    "duplicates/equalise": ("duplicates", Adjustment(Equalise(6))),
    "narrow/damp": ("narrow", Adjustment()),
    "dead/damp": ("dead", Adjustment()),
}
"""What gradients are asked for: of which problem, and with which adjustment."""
# Rates at which 25 steps go far beyond the bounds, and rounding is not amplified to them.
TRAININGS: dict[str, tuple[str, SGD | Adam | Muon, Adjustment]] = {
    "sgd": ("patches", SGD(3e-2), GROUPWISE),
    "adam": ("patches", Adam(1e-3), PAPER),
    "muon": ("patches", Muon(2e-3), Adjustment()),
    "pieces": ("pieces", Adam(1e-3), Adjustment(refresh=3, average=0.5)),
}


@dataclass(frozen=True)
class Row:
    """How one backend answered one case.

    Parameters
    ----------
    backend, device, dtype : str
        Of the backend.
    network : str
        Its label.
    case : str
        See `cases`.
    difference : float
        From the reference: the largest ``max |a − b| / max |b|`` of the answer's arrays, infinite
        where there is no answer to compare.
    bound : float
        The largest of the tolerance, ten times the sensitivity and, for an adjusted gradient of an
        ill-conditioned kernel in float64, ten times eps times the condition.
    sensitivity : float
        What the reference itself changes by when each initial parameter is multiplied by
        ``1 ± eps`` of the dtype, with random signs.
    status : {"pass", "ill-posed", "fail"}
        Ill-posed where the bound exceeds 0.01, so that the difference says nothing, or is infinite,
        because the dtype counts other eigenvalues of the kernel as safe than float64; a missing
        answer, NaN, and a wrong shape or dtype fail in any case.
    seconds : float
        For the answer; for a transform, with the reference's kernel.
    message : str
        Why there is nothing to compare.
    """

    backend: str
    device: str
    dtype: str
    network: str
    case: str
    difference: float
    bound: float
    sensitivity: float
    status: Status
    seconds: float
    message: str = ""


Question: TypeAlias = Callable[[Backend, list[Floats]], list[Floats]]


class Case:
    """A question to every backend; made by `cases`.

    Attributes
    ----------
    network : str
        Its label.
    name : str
        See `cases`.
    """

    def __init__(
        self,
        network: str,
        name: str,
        quantity: Quantity,
        question: Question,
        reference: Backend,
        parameters: list[Floats],
        seed: int,
        condition: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.network, self.name, self._condition = network, name, condition
        self._quantity, self._question = quantity, question
        self._reference, self._parameters, self._seed = reference, parameters, seed
        self._sensitivities: dict[str, float] = {}

    def check(self, backend: Backend) -> Row:
        """Ask a backend.

        Parameters
        ----------
        backend : Backend
            What it raises is reported as a failure.

        Returns
        -------
        Row

        Raises
        ------
        ValueError
            If the backend's dtype is none of the suite's, or the reference is not finite.

        Notes
        -----
        The reference is asked once, and once more for each dtype.
        """
        if backend.dtype not in TOLERANCES:
            raise ValueError(
                f"dtype: expected 'float64' or 'float32' of {backend.name}, got "
                f"{backend.dtype!r}; name it by a string"
            )
        sensitivity = self._sensitivity(backend.dtype)
        bound = max(TOLERANCES[backend.dtype][self._quantity], SENSITIVITIES * sensitivity)
        if self._quantity == "adjusted":
            condition, eps = self._condition(), float(np.finfo(backend.dtype).eps)
            if backend.dtype == "float64" and condition > WELL_CONDITIONED:
                bound = max(bound, 10 * eps * condition)
            elif condition > 1 / (SAFE * eps):
                bound = math.inf  # in this dtype other eigenvalues are safe: another S is right
        difference, message = math.inf, ""
        status: Status = "fail"
        started = time.perf_counter()
        try:
            # Copies: a backend may share their memory, and train in place.
            answer = self._question(backend, [p.copy() for p in self._parameters])
            seconds = time.perf_counter() - started
            _require_answer(answer, self._wanted, backend.dtype)
        except Exception as error:  # whatever a backend raises is its failure
            seconds = time.perf_counter() - started
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        else:
            difference = _difference(answer, self._wanted)
            status = _judged(difference, bound)
        return Row(
            backend.name, backend.device, backend.dtype, self.network, self.name,
            difference, bound, sensitivity, status, seconds, message,
        )  # fmt: skip

    @functools.cached_property
    def _wanted(self) -> list[Floats]:
        answer = self._question(self._reference, self._parameters)
        if not all(np.all(np.isfinite(array)) for array in answer):
            raise ValueError(
                f"reference: expected finite answers, got NaN or infinity for {self.name} of "
                f"{self.network}; pass iga_array on NumPy in float64"
            )
        return answer

    def _sensitivity(self, dtype: DType) -> float:
        if dtype not in self._sensitivities:
            eps, generator = float(np.finfo(dtype).eps), np.random.default_rng(self._seed)
            perturbed = [
                p * (1 + eps * generator.choice([-1.0, 1.0], p.shape)) for p in self._parameters
            ]
            answer = self._question(self._reference, perturbed)
            self._sensitivities[dtype] = _difference(answer, self._wanted)
        return self._sensitivities[dtype]


def cases(reference: Backend, networks: Sequence[str] = tuple(KINDS), seed: int = 0) -> list[Case]:
    """Return the suite.

    Parameters
    ----------
    reference : Backend
        What the others are compared with: ``iga_array.conformance.ArrayBackend()``. The
        representatives, too, are chosen by its cotangents.
    networks : sequence of str
        Kinds of network, by default all, or labels: a kind, then "+fr" for a small `Fourier`, "+bn"
        for a normalised network, or both. See `NETWORKS`.
    seed : int
        Of the initial parameters.

    Returns
    -------
    list of Case
        For each network: "forward", the outputs; "gradient", the loss and its plain gradients;
        "kernel/RULE/SAMPLES"; "transform/FILTER/REACH" of a given kernel and cotangent, and
        "transform/FILTER/zero" and "/singular" of such kernels; "adjusted/...", the
        adjusted gradients of `ADJUSTED`; "steps/...", the parameters after the 25 adjusted steps of
        `TRAININGS`. Of a normalised network "forward", "gradient" and "steps/...", which are plain.

    Raises
    ------
    TypeError, ValueError
        If a network or the seed is none.
    """
    labels = KINDS if networks is None else networks
    return [case for label in labels for case in _cases(_network(label), reference, seed)]


def _cases(network: Network, reference: Backend, seed: int) -> Iterator[Case]:
    problems = {name: _problem(network, name) for name in PROBLEMS}
    problem = problems["patches"]
    starts = {
        name: [_float32_values(parameter) for parameter in of.network.initial(seed)]
        for name, of in problems.items()
    }
    _kill(starts["dead"])
    start = starts["patches"]

    def cotangent(of: Problem, parameters: list[Floats]) -> Floats:
        errors = reference.evaluate(of.network, parameters, of.coords) - of.targets
        return np.asarray(of.grouping.split(2 / errors.size * errors)[0])

    def chosen(
        of: Problem, adjustment: Adjustment, parameters: list[Floats], step: int
    ) -> Positions:
        columns = of.pieces(step)[0]
        found = representatives(
            cotangent(of, parameters)[:, columns], adjustment.sampling, adjustment.samples,
            seed=[adjustment.seed, step],
        )  # fmt: skip
        return np.asarray(columns[found])

    @functools.cache
    def chosen_first(name: str, adjustment: Adjustment) -> Positions:
        return chosen(problems[name], adjustment, starts[name], 0)

    @functools.cache
    def chosen_in(training: str) -> Positions:
        name, optimizer, adjustment = TRAININGS[training]
        parameters, moments, found = start, optimizer.initial(start), []
        for step in range(STEPS):
            found.append(chosen(problems[name], adjustment, parameters, step))
            if adjustment.sampling != "random":  # else the parameters have no say
                _, gradients = reference.gradients(problem, parameters, adjustment, found[-1])
                parameters, moments = optimizer.update(parameters, gradients, moments, step, STEPS)
        return np.stack(found)

    def forward(backend: Backend, parameters: list[Floats]) -> list[Floats]:
        return [backend.evaluate(network, parameters, problem.coords)]

    def gradient(backend: Backend, parameters: list[Floats]) -> list[Floats]:
        loss, gradients = backend.gradients(problem, parameters)
        return [loss, *gradients]

    def kernel(
        name: str,
        outputs: Literal["sum", "trace"],
        adjustment: Adjustment,
        backend: Backend,
        parameters: list[Floats],
    ) -> list[Floats]:
        of = problems[name]
        positions = chosen_first(name, adjustment)[:, :, None]
        points = np.take_along_axis(of.grouping.split(of.coords)[0], positions, axis=1)
        return [backend.kernel(of.network, parameters, points, outputs)]

    def transformed(
        adjustment: Adjustment,
        change: Callable[[Floats], Floats],
        backend: Backend,
        parameters: list[Floats],
    ) -> list[Floats]:
        (matrix,) = kernel("patches", "sum", PAPER, reference, parameters)
        return [backend.transform(change(matrix), adjustment, cotangent(problem, parameters))]

    def adjusted(
        name: str, adjustment: Adjustment, backend: Backend, parameters: list[Floats]
    ) -> list[Floats]:
        positions = chosen_first(name, adjustment)
        return backend.gradients(problems[name], parameters, adjustment, positions)[1]

    def trained(training: str, backend: Backend, parameters: list[Floats]) -> list[Floats]:
        name, optimizer, adjustment = TRAININGS[training]
        positions = chosen_in(training)
        return backend.train(problems[name], parameters, optimizer, adjustment, positions)

    def plainly_trained(training: str, backend: Backend, parameters: list[Floats]) -> list[Floats]:
        none = np.empty((STEPS, problem.grouping.groups, 0), np.int64)
        return backend.train(problem, parameters, TRAININGS[training][1], None, none)

    def case(
        name: str,
        quantity: Quantity,
        question: Callable[..., Any],
        *settings: Any,
        on: str = "patches",
        condition: Callable[[], float] = lambda: 1.0,
    ) -> Case:
        asked = functools.partial(question, *settings)
        return Case(network.label, name, quantity, asked, reference, starts[on], seed, condition)

    def condition_of(
        name: str, adjustment: Adjustment, change: Callable[[Floats], Floats] = _as_it_is
    ) -> float:
        (matrix,) = kernel(name, adjustment.outputs, adjustment, reference, starts[name])
        return _condition(change(matrix))

    yield case("forward", "values", forward)
    yield case("gradient", "values", gradient)
    if network.normalised:
        for training, (name, *_) in TRAININGS.items():
            if name == "patches":
                yield case(f"steps/{training}", "trained", plainly_trained, training)
        return
    for rule in ("sum", "trace"):
        for adjustment in (PAPER, GROUPWISE):
            asked = ("patches", rule, adjustment)
            yield case(f"kernel/{rule}/{adjustment.samples}", "values", kernel, *asked)
    first = functools.partial(condition_of, "patches", PAPER)
    for filter, spectral in FILTERS.items():  # noqa: A001
        for reach in ("points", "mean"):
            adjustment = Adjustment(spectral, reach=reach)
            asked_of = (transformed, adjustment, _as_it_is)
            yield case(f"transform/{filter}/{reach}", "adjusted", *asked_of, condition=first)
        if filter in ("equalise", "damp"):
            for name, change in CHANGES.items():
                adjustment = Adjustment(spectral)
                yield case(
                    f"transform/{filter}/{name}", "adjusted", transformed, adjustment, change,
                    condition=functools.partial(condition_of, "patches", PAPER, change),
                )  # fmt: skip
    for name, (on, adjustment) in ADJUSTED.items():
        yield case(
            f"adjusted/{name}", "adjusted", adjusted, on, adjustment,
            on=on, condition=functools.partial(condition_of, on, adjustment),
        )  # fmt: skip
    for training in TRAININGS:
        yield case(f"steps/{training}", "trained", trained, training)


PROBLEMS = ("patches", "pieces", "neighbours", "duplicates", "narrow", "dead")


def _problem(network: Network, name: str) -> Problem:
    """Make a smooth signal of three channels.

    "patches" is a grid that the patches do not divide, "pieces" the same in pieces; "neighbours"
    are scattered points, "duplicates" such of which half stand twice. "narrow" has more groups than
    parameters, and "dead" units that never speak, see `_kill`: both kernels are singular.
    """
    if name in ("neighbours", "duplicates"):
        coords = np.random.default_rng(1).uniform(-1, 1, (SCATTERED, 2))
        if name == "duplicates":
            coords[: SCATTERED // 2] = coords[SCATTERED // 2 : 2 * (SCATTERED // 2)]
        x, y = coords[:, :1], coords[:, 1:]
        grouping = Grouping.nearest(_float32_values(coords), 16)
        if name == "duplicates":
            grouping = Grouping.blocks(SCATTERED, 9)  # so that groups are each other's duplicates
    else:
        axes = [np.linspace(-1, 1, side) for side in SHAPE]
        x, y = (axis.reshape(-1, 1) for axis in np.meshgrid(*axes, indexing="ij"))
        grouping = Grouping.patches(SHAPE, PATCH)
    if name == "narrow":
        network = replace(network, width=1, depth=1, outputs=1, frequencies=1, fourier=None)
    channel = np.arange(network.outputs)
    signal = 0.5 + 0.5 * np.sin((4 + 2 * channel) * x + 3 * x * y + channel)
    coords = _float32_values(np.concatenate([x, y], axis=1))
    columns = COLUMNS if name == "pieces" else None
    return Problem(network, coords, _float32_values(signal), grouping, columns)


def _kill(parameters: list[Floats]) -> None:
    """Take away all weights but the last, so that the outputs are alike at all points."""
    for parameter in parameters[:-2]:
        if parameter.ndim == 2:
            parameter *= 0


def _as_it_is(kernel: Floats) -> Floats:
    return kernel


def _singular(kernel: Floats) -> Floats:
    """Let every second group be the copy of the one before, and the last one see nothing."""
    twins = np.repeat(np.arange(0, len(kernel), 2), 2)
    found = kernel[np.ix_(twins, twins)]
    found[-1, :] = found[:, -1] = 0
    return found


CHANGES: dict[str, Callable[[Floats], Floats]] = {
    "zero": np.zeros_like, "singular": _singular,
}  # fmt: skip


def _condition(kernel: Floats) -> float:
    """Return the largest over the smallest of the safe eigenvalues."""
    values = np.linalg.eigvalsh(kernel)
    safe = values[values > SAFE * float(np.finfo(np.float64).eps) * values[-1]]
    return float(safe[-1] / safe[0]) if len(safe) else 1.0


def _network(label: str) -> Network:
    kind, *additions = label.split("+")
    if additions not in ([], ["fr"], ["bn"], ["fr", "bn"]):
        raise ValueError(
            f"networks: expected a kind, alone or with +fr, +bn or +fr+bn, got {label!r}; "
            'write "pe+fr"'
        )
    return Network(
        kind, width=16, depth=2, frequencies=3,
        fourier=FOURIER if "fr" in additions else None,
        normalised="anyway" if "bn" in additions else False,
    )  # fmt: skip


def _float32_values(array: Floats) -> Floats:
    """Round, so that every dtype is given the same problem."""
    return array.astype(np.float32).astype(np.float64)


def _require_answer(answer: list[Floats], wanted: list[Floats], dtype: str) -> None:
    if len(answer) != len(wanted):
        raise ValueError(f"expected {len(wanted)} arrays, got {len(answer)}")
    for got, right in zip(answer, wanted, strict=True):
        if not isinstance(got, np.ndarray | np.generic):
            raise TypeError(f"expected NumPy arrays, got {type(got).__name__}")
        if got.shape != right.shape or got.dtype != dtype:
            raise ValueError(
                f"expected {dtype} of shape {right.shape}, got {got.dtype} of shape {got.shape}"
            )
        if not np.all(np.isfinite(got)):
            raise ValueError("expected finite values, got NaN or infinity")


def _difference(answer: list[Floats], wanted: list[Floats]) -> float:
    """Return the largest relative difference; an array's is relative to its largest number."""
    found = 0.0
    for got, right in zip(answer, wanted, strict=True):
        largest = float(np.max(np.abs(right))) or 1.0
        difference = float(np.max(np.abs(got.astype(np.float64) - right))) / largest
        found = max(found, difference if math.isfinite(difference) else math.inf)
    return found


def _judged(difference: float, bound: float) -> Status:
    if bound > ILL_POSED:
        return "ill-posed"
    return "pass" if difference <= bound else "fail"
