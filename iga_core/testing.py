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
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np

from iga_core._protocol import Backend, DType, Floats, Positions, Problem
from iga_core.adjustment import Adjustment
from iga_core.fourier import Fourier
from iga_core.grouping import Grouping
from iga_core.network import Kind, Network
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
    "float64": {"values": 1e-10, "adjusted": 1e-8, "trained": 1e-6},
    "float32": {"values": 1e-5, "adjusted": 1e-4, "trained": 1e-3},
}
"""Largest relative difference: of values, gradients and kernels; of what S was applied to; and of
the parameters after training."""
SENSITIVITIES = 10
"""A difference of so many times the reference's own sensitivity is allowed too."""
ILL_POSED = 0.01
"""A case that would be allowed more than this is not judged."""

NETWORKS = (*get_args(Kind), "relu+fr", "pe+fr", "siren+fr", "relu+bn", "pe+bn", "siren+bn")
"""Labels of the networks that `iga_core` describes, of each kind and each addition some."""
FOURIER = Fourier(low=3, high=3, phases=4, alpha=0.05)

STEPS = 25
SHAPE, PATCH = (13, 14), 3
"""Points of the signal, and of a group: 16 groups of 9 points, and 38 points in none."""
PAPER = Adjustment(end=6)
GROUPWISE = Adjustment(
    end=6, start=1, level="start", sampling="random", outputs="trace", samples=4, reach="mean"
)
# Rates at which 25 steps go far beyond the bounds, and rounding is not amplified to them.
TRAININGS: dict[str, tuple[SGD | Adam | Muon, Adjustment]] = {
    "sgd": (SGD(3e-2), GROUPWISE),
    "adam": (Adam(1e-3), PAPER),
    "muon": (Muon(2e-3), GROUPWISE),
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
        The larger of the tolerance and ten times the sensitivity.
    sensitivity : float
        What the reference itself changes by when each initial parameter is multiplied by
        ``1 ± eps`` of the dtype, with random signs.
    status : {"pass", "ill-posed", "fail"}
        Ill-posed where the bound exceeds 0.01, so that the difference says nothing; a missing
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
    ) -> None:
        self.network, self.name = network, name
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


def cases(
    reference: Backend, networks: Sequence[str] = get_args(Kind), seed: int = 0
) -> list[Case]:
    """Return the suite.

    Parameters
    ----------
    reference : Backend
        What the others are compared with: ``iga_array.conformance.ArrayBackend()``. The
        representatives, too, are chosen by its cotangents.
    networks : sequence of str
        Kinds of network, or labels: a kind, then "+fr" for a small `Fourier`, "+bn" for a
        normalised network, or both. See `NETWORKS`.
    seed : int
        Of the initial parameters.

    Returns
    -------
    list of Case
        For each network: "forward", the outputs; "gradient", the loss and its plain gradients;
        "kernel/RULE/SAMPLES"; "transform/eigenvalues", and "transform/REACH" of a given kernel and
        cotangent; "adjusted/REACH", the adjusted gradients; "steps/OPTIMIZER", the parameters
        after 25 adjusted steps. Of a normalised network "forward", "gradient" and
        "steps/OPTIMIZER", which are plain.

    Raises
    ------
    TypeError, ValueError
        If a network or the seed is none.
    """
    return [case for label in networks for case in _cases(_problem(label), reference, seed)]


def _cases(problem: Problem, reference: Backend, seed: int) -> Iterator[Case]:
    network, grouping = problem.network, problem.grouping
    start = [_float32_values(parameter) for parameter in network.initial(seed)]
    grouped_coords = grouping.split(problem.coords)[0]

    def cotangent(parameters: list[Floats]) -> Floats:
        errors = reference.evaluate(network, parameters, problem.coords) - problem.targets
        return np.asarray(grouping.split(2 / errors.size * errors)[0])

    def chosen(adjustment: Adjustment, parameters: list[Floats], step: int) -> Positions:
        seed, count = [adjustment.seed, step], adjustment.samples
        found = representatives(cotangent(parameters), adjustment.sampling, count, seed=seed)
        return np.asarray(found)

    @functools.cache
    def chosen_first(adjustment: Adjustment) -> Positions:
        return chosen(adjustment, start, 0)

    @functools.cache
    def chosen_in(training: str) -> Positions:
        optimizer, adjustment = TRAININGS[training]
        parameters, moments, found = start, optimizer.initial(start), []
        for step in range(STEPS):
            found.append(chosen(adjustment, parameters, step))
            _, gradients = reference.gradients(problem, parameters, adjustment, found[-1])
            parameters, moments = optimizer.update(parameters, gradients, moments, step, STEPS)
        return np.stack(found)

    def forward(backend: Backend, parameters: list[Floats]) -> list[Floats]:
        return [backend.evaluate(network, parameters, problem.coords)]

    def gradient(backend: Backend, parameters: list[Floats]) -> list[Floats]:
        loss, gradients = backend.gradients(problem, parameters)
        return [loss, *gradients]

    def kernel(
        outputs: Literal["sum", "trace"],
        adjustment: Adjustment,
        backend: Backend,
        parameters: list[Floats],
    ) -> list[Floats]:
        positions = chosen_first(adjustment)[:, :, None]
        points = np.take_along_axis(grouped_coords, positions, axis=1)
        return [backend.kernel(network, parameters, points, outputs)]

    def equalise(
        adjustment: Adjustment, backend: Backend, parameters: list[Floats]
    ) -> tuple[Floats, Floats]:
        (matrix,) = kernel(adjustment.outputs, adjustment, reference, parameters)
        return backend.equalise(matrix, adjustment, cotangent(parameters))

    def eigenvalues(backend: Backend, parameters: list[Floats]) -> list[Floats]:
        return [equalise(a, backend, parameters)[0] for a in (PAPER, GROUPWISE)]

    def transformed(
        adjustment: Adjustment, backend: Backend, parameters: list[Floats]
    ) -> list[Floats]:
        return [equalise(adjustment, backend, parameters)[1]]

    def adjusted(
        adjustment: Adjustment, backend: Backend, parameters: list[Floats]
    ) -> list[Floats]:
        return backend.gradients(problem, parameters, adjustment, chosen_first(adjustment))[1]

    def trained(training: str, backend: Backend, parameters: list[Floats]) -> list[Floats]:
        return backend.train(problem, parameters, *TRAININGS[training], chosen_in(training))

    def plainly_trained(training: str, backend: Backend, parameters: list[Floats]) -> list[Floats]:
        optimizer, _ = TRAININGS[training]
        none = np.empty((STEPS, grouping.groups, 0), np.int64)
        return backend.train(problem, parameters, optimizer, None, none)

    def case(name: str, quantity: Quantity, question: Callable[..., Any], *settings: Any) -> Case:
        asked = functools.partial(question, *settings)
        return Case(network.label, name, quantity, asked, reference, start, seed)

    yield case("forward", "values", forward)
    yield case("gradient", "values", gradient)
    if network.normalised:
        for training in TRAININGS:
            yield case(f"steps/{training}", "trained", plainly_trained, training)
        return
    for rule in ("sum", "trace"):
        for adjustment in (PAPER, GROUPWISE):
            yield case(f"kernel/{rule}/{adjustment.samples}", "values", kernel, rule, adjustment)
    yield case("transform/eigenvalues", "values", eigenvalues)
    for adjustment in (PAPER, GROUPWISE):
        yield case(f"transform/{adjustment.reach}", "adjusted", transformed, adjustment)
    for adjustment in (PAPER, GROUPWISE):
        yield case(f"adjusted/{adjustment.reach}", "adjusted", adjusted, adjustment)
    for training in TRAININGS:
        yield case(f"steps/{training}", "trained", trained, training)


def _problem(label: str) -> Problem:
    """Make a smooth signal of three channels on a grid that the patches do not divide."""
    network = _network(label)
    axes = [np.linspace(-1, 1, side) for side in SHAPE]
    x, y = (axis.reshape(-1, 1) for axis in np.meshgrid(*axes, indexing="ij"))
    channel = np.arange(network.outputs)
    signal = 0.5 + 0.5 * np.sin((4 + 2 * channel) * x + 3 * x * y + channel)
    coords = _float32_values(np.concatenate([x, y], axis=1))
    return Problem(network, coords, _float32_values(signal), Grouping.patches(SHAPE, PATCH))


def _network(label: str) -> Network:
    kind, *additions = label.split("+")
    if additions not in ([], ["fr"], ["bn"], ["fr", "bn"]):
        raise ValueError(
            f"networks: expected a kind, alone or with +fr, +bn or +fr+bn, got {label!r}; "
            'write "pe+fr"'
        )
    return Network(
        cast(Kind, kind), width=16, depth=2, frequencies=3,
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
