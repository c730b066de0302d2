"""SGD, Adam and Muon as pure updates, the same on every backend, and their schedules."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

from array_api_compat import array_namespace

from iga_core.arrays import Array, is_traced, require_choice, require_number, short

Schedule: TypeAlias = Literal["constant", "step", "cosine", "cooldown"]
Moments: TypeAlias = dict[str, list[Array]]

STEP_DROP = 0.1
STEP_AT = 0.3
COOLDOWN_AT = 0.8
BIAS_LEARNING_RATE = 1e-3
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_ITERATIONS = 5


@dataclass(frozen=True)
class Optimizer:
    """What all optimizers share: a learning rate, its schedule, and an average of the weights.

    Parameters
    ----------
    learning_rate : float
        At the first step; positive and finite.
    schedule : {"constant", "step", "cosine", "cooldown"}
        "step" drops the rate to a tenth after 30 % of the steps, as the paper does; "cosine"
        takes it to zero at the end; "cooldown" leaves it constant and takes it linearly to zero
        over the last fifth.
    average_weights : float
        Share of the old in an exponential moving average of the parameters, from 0 (no average is
        kept) to below 1. What is trained does not change; a trainer evaluates the average.

    Raises
    ------
    TypeError, ValueError
        If one is out of its range.

    Notes
    -----
    A constant rate has a floor under the loss, adjusted or not, to which training falls back in
    spikes. A rate that goes to zero, or averaged weights, take it away.
    """

    learning_rate: float
    schedule: Schedule = "constant"
    average_weights: float = 0.0

    def __post_init__(self) -> None:
        rate: Any = self.learning_rate
        if isinstance(rate, bool) or not isinstance(rate, Real):
            raise TypeError(f"learning_rate: expected a number, got {short(rate)}; 1e-3 is a start")
        # A NumPy scalar would promote float32 parameters.
        object.__setattr__(self, "learning_rate", float(rate))
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(
                "learning_rate: expected a positive finite number, got "
                f"{self.learning_rate}; 1e-3 is a start"
            )
        require_choice("schedule", self.schedule, get_args(Schedule))
        share = require_number("average_weights", self.average_weights, 0, 1, "0.99")
        object.__setattr__(self, "average_weights", share)

    def decay(self, step: int, steps: int) -> Any:
        """Return the factor on the learning rate.

        Parameters
        ----------
        step, steps : int
            This step, from 0, and how many there will be; later ones are as the end. Under
            `jax.jit` the step may be traced.

        Returns
        -------
        float
            From 0 to 1; an array () of a traced step.
        """
        if self.schedule == "constant":
            return 1.0
        if is_traced(step):  # as under `jax.jit`, where no value is known and nothing may branch
            xp = array_namespace(step)
            one = xp.ones_like(step / steps)
            done = xp.minimum(step / steps, one)
            if self.schedule == "cosine":
                return (1 + xp.cos(math.pi * done)) / 2
            if self.schedule == "cooldown":
                return xp.minimum((1 - done) / (1 - COOLDOWN_AT), one)
            return xp.where(done < STEP_AT, one, STEP_DROP * one)
        done = min(step, steps) / steps
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        if self.schedule == "cooldown":
            return min((1 - done) / (1 - COOLDOWN_AT), 1.0)
        return STEP_DROP if done >= STEP_AT else 1.0

    def newest_share(self, step: int) -> float:
        """Return the share that the parameters after a step have in their average.

        Parameters
        ----------
        step : int
            From 0.

        Returns
        -------
        float
            1 at the first step; later ``(1 − a) / (1 − aᵗ)`` of t parameters, so that their weights
            sum to 1 and the first ones count no more than others.
        """
        a = self.average_weights
        return (1 - a) / (1 - a ** (step + 1))

    def initial(self, parameters: list[Array]) -> Moments:
        """Return the moments before the first step: zeros like the parameters."""
        raise NotImplementedError

    def update(
        self,
        parameters: list[Array],
        gradients: list[Array],
        moments: Moments,
        step: int,
        steps: int,
    ) -> tuple[list[Array], Moments]:
        """Return new parameters and moments; nothing is changed in place.

        Parameters
        ----------
        parameters, gradients : list of array
            Of the same shapes.
        moments : dict of list of array
            What `initial` or the last update returned.
        step, steps : int
            This step, from 0, and how many there will be.

        Returns
        -------
        parameters : list of array
        moments : dict of list of array
        """
        raise NotImplementedError


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, without momentum."""

    def initial(self, parameters: list[Array]) -> Moments:  # noqa: ARG002, D102
        return {}

    def update(  # noqa: D102
        self,
        parameters: list[Array],
        gradients: list[Array],
        moments: Moments,
        step: int,
        steps: int,
    ) -> tuple[list[Array], Moments]:
        rate = self.learning_rate * self.decay(step, steps)
        return [p - rate * g for p, g in zip(parameters, gradients, strict=True)], moments


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015) with decay rates 0.9 and 0.999 and epsilon 1e-8."""

    def initial(self, parameters: list[Array]) -> Moments:  # noqa: D102
        return {"first": _zeros_like(parameters), "second": _zeros_like(parameters)}

    def update(  # noqa: D102
        self,
        parameters: list[Array],
        gradients: list[Array],
        moments: Moments,
        step: int,
        steps: int,
    ) -> tuple[list[Array], Moments]:
        rate = self.learning_rate * self.decay(step, steps)
        news, firsts, seconds = [], [], []
        for p, g, first, second in zip(
            parameters, gradients, moments["first"], moments["second"], strict=True
        ):
            new, first, second = _adam(p, g, first, second, rate, step)
            news.append(new)
            firsts.append(first)
            seconds.append(second)
        return news, {"first": firsts, "second": seconds}


@dataclass(frozen=True)
class Muon(Optimizer):
    """Muon (Jordan et al. 2024): matrices move along their orthogonalised momentum.

    Nesterov momentum 0.95, no weight decay; a matrix of more rows than columns moves
    ``√(rows/columns)`` times as far. Biases are Adam's, at 1e-3 on the same schedule.
    """

    momentum = 0.95

    def initial(self, parameters: list[Array]) -> Moments:  # noqa: D102
        biases = [p for p in parameters if p.ndim != 2]
        return {
            "momentum": _zeros_like([p for p in parameters if p.ndim == 2]),
            "first": _zeros_like(biases),
            "second": _zeros_like(biases),
        }

    def update(  # noqa: D102
        self,
        parameters: list[Array],
        gradients: list[Array],
        moments: Moments,
        step: int,
        steps: int,
    ) -> tuple[list[Array], Moments]:
        decay = self.decay(step, steps)
        old = {name: iter(arrays) for name, arrays in moments.items()}
        new: Moments = {name: [] for name in moments}
        news = []
        for p, g in zip(parameters, gradients, strict=True):
            if p.ndim == 2:
                buffer = self.momentum * next(old["momentum"]) + (1 - self.momentum) * g
                lookahead = self.momentum * buffer + (1 - self.momentum) * g
                reach = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
                news.append(p - self.learning_rate * decay * reach * orthogonalise(lookahead))
                new["momentum"].append(buffer)
            else:
                moved, first, second = _adam(
                    p, g, next(old["first"]), next(old["second"]), BIAS_LEARNING_RATE * decay, step
                )
                news.append(moved)
                new["first"].append(first)
                new["second"].append(second)
        return news, new


def orthogonalise(matrix: Array) -> Array:
    """Bring all singular values near 1 by five Newton-Schulz iterations, in the array's precision.

    Parameters
    ----------
    matrix : array, shape (r, c)
        A momentum; zero stays zero.

    Returns
    -------
    array, shape (r, c)
        The singular vectors of `matrix`, with singular values near 1 unless they were tiny beside
        the largest.

    Notes
    -----
    ``O(r c min(r, c))``. The quintic's coefficients are those of Jordan et al. 2024.
    """
    xp = array_namespace(matrix)
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    tiny = float(xp.finfo(x.dtype).smallest_normal)
    x = x / (xp.max(xp.abs(x)) + tiny)  # squares of very large or small numbers are out of range
    x = x / (xp.sqrt(xp.sum(x * x)) + tiny)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def _adam(
    parameter: Array, gradient: Array, first: Array, second: Array, rate: float, step: int
) -> tuple[Array, Array, Array]:
    xp = array_namespace(parameter)
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient * gradient
    unbiased = xp.sqrt(second / (1 - 0.999 ** (step + 1)))
    return parameter - rate / (1 - 0.9 ** (step + 1)) * first / (unbiased + 1e-8), first, second


def _zeros_like(arrays: list[Array]) -> list[Array]:
    return [array_namespace(array).zeros_like(array) for array in arrays]
