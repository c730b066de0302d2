"""What is special about each kind of network, one entry a kind: everything else asks here.

It knows the array API standard and no framework. A new entry of `KINDS` is a new kind everywhere:
in `Network`, on every array library, in every framework, in the conformance suite.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

from iga_core.arrays import Array, Namespace, require_number, short

Hold: TypeAlias = Callable[[Array], Array]
"""Gives back its argument as a constant: the identity, `Tensor.detach`, `lax.stop_gradient`."""

SINE_SCALE = 30.0
GABOR_DECAY = 0.5


def _default(fan_in: int) -> float:
    return 1 / math.sqrt(fan_in)


def _he(fan_in: int) -> float:
    return math.sqrt(6 / fan_in)


def _sine_bound(fan_in: int) -> float:
    return _he(fan_in) / SINE_SCALE


class Bounds(NamedTuple):
    """Bounds of initial weights, which are uniform around 0; biases keep PyTorch's default.

    Parameters
    ----------
    first, hidden, last : callable
        Fan-in -> bound, of the first weight, those between hidden layers and the last one; by
        default PyTorch's ``1/√fan_in``.
    divisor : float
        What the bounds ``√(6/count)/‖b_j‖`` of a `Fourier` network's Λ are divided by.
    """

    first: Callable[[int], float] = _default
    hidden: Callable[[int], float] = _default
    last: Callable[[int], float] = _default
    divisor: float = 1.0


_DEFAULT_BOUNDS = Bounds()


@dataclass(frozen=True)
class Kind:
    """A kind of network: how it activates the scaled pre-activation ``z = s (W a + b)``.

    The activation is written twice, both times on the array API standard and element by element:
    once to be differentiated by a framework, once with its derivative for libraries that cannot.

    Parameters
    ----------
    value : callable
        ``(xp, z, hold)`` -> ``φ(z)``, of differentiable operations; ``hold(array)`` is that array
        as a constant of the derivative, which few kinds need.
    value_and_slope : callable
        ``(xp, z)`` -> ``φ(z)`` and ``φ'(z)``, two arrays like `z`, which it may use as storage.
    scale : float
        The frequency s.
    bounds : Bounds
        Of the initial weights.
    encodes : bool
        Whether the first layer sees a positional encoding of the coordinates.
    alpha : float, optional
        The published amplitude of `Fourier`; without one a user has to name it.
    normalises : {"before", "after"}, optional
        Where a batch normalisation stands, before the activation or after it; None where one takes
        from the kind what it starts from, so that a user has to ask for it by "anyway" (before).
    cuda : str, optional
        The same as `value_and_slope` in CUDA C++, from ``const T z`` to ``T value, slope``; CuPy
        makes one kernel of it.

    Raises
    ------
    TypeError, ValueError
        If a value is of another kind or out of its range.

    Examples
    --------
    A kind of one's own works everywhere; ``iga_core.testing.cases(reference, ["swish"])`` are the
    questions whose answers must agree.

    >>> from iga_core import Network
    >>> def swish(xp, z, hold):
    ...     return z / (1 + xp.exp(-z))
    >>> def swish_and_slope(xp, z):
    ...     gate = 1 / (1 + xp.exp(-z))
    ...     return z * gate, gate * (1 + z * (1 - gate))
    >>> KINDS["swish"] = Kind(swish, swish_and_slope)
    >>> Network("swish").label
    'swish'
    >>> _ = KINDS.pop("swish")  # leaves the table as it was
    """

    value: Callable[[Namespace, Array, Hold], Array]
    value_and_slope: Callable[[Namespace, Array], tuple[Array, Array]]
    scale: float = 1.0
    bounds: Bounds = _DEFAULT_BOUNDS
    encodes: bool = False
    alpha: float | None = None
    normalises: Literal["before", "after"] | None = None
    cuda: str | None = None

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("value", callable(self.value), "a function of (xp, z, hold)"),
            ("value_and_slope", callable(self.value_and_slope), "a function of (xp, z)"),
            ("bounds", isinstance(self.bounds, Bounds), "Bounds"),
            ("normalises", self.normalises in ("before", "after", None), "before, after or None"),
        ):
            if not fits:
                got = short(getattr(self, name))
                raise TypeError(f"{name}: expected {wanted}, got {got}; see iga_core.kinds.Kind")
        object.__setattr__(self, "scale", require_number("scale", self.scale, 1e-6, 1e6, "1.0"))


def _relu(xp: Namespace, z: Array, hold: Hold) -> Array:
    # PyTorch has it in one pass. Both have slope 0 at 0; `maximum` would have 1/2, `clip` 1.
    return xp.relu(z) if hasattr(xp, "relu") else z * hold(xp.astype(z > 0, z.dtype))


def _relu_and_slope(xp: Namespace, z: Array) -> tuple[Array, Array]:
    slope = xp.astype(z > 0, z.dtype)
    z *= slope
    return z, slope


def _finer_factor(xp: Namespace, z: Array) -> Array:
    # In place: passes over memory are a good part of what a layer costs.
    factor = xp.abs(z)
    factor *= 1 / SINE_SCALE
    factor += 1
    return factor


def _finer_and_slope(xp: Namespace, z: Array) -> tuple[Array, Array]:
    factor = _finer_factor(xp, z)
    z *= factor
    slope = xp.cos(z)
    slope *= factor
    return xp.sin(z), slope


def _gabor_and_slope(xp: Namespace, z: Array) -> tuple[Array, Array]:
    envelope = xp.exp(-((GABOR_DECAY * z) ** 2))
    value = xp.cos(z) * envelope
    return value, -xp.sin(z) * envelope - (2 * GABOR_DECAY**2) * z * value


def _gauss_and_slope(xp: Namespace, z: Array) -> tuple[Array, Array]:
    value = xp.exp(-z * z)
    return value, -2 * z * value


_RELU = Kind(
    _relu,
    _relu_and_slope,
    bounds=Bounds(last=_he),
    alpha=0.001,
    normalises="after",
    cuda="slope = z > 0; value = z * slope;",
)
_SIREN = Kind(
    lambda xp, z, _: xp.sin(z),
    lambda xp, z: (xp.sin(z), xp.cos(z)),
    scale=SINE_SCALE,
    # With these, pre-activations of every layer start about normal (Sitzmann et al. 2020).
    bounds=Bounds(lambda fan_in: 1 / fan_in, _sine_bound, _sine_bound, divisor=SINE_SCALE),
    alpha=0.004,
    cuda="sincos(z, &value, &slope);",
)
KINDS: dict[str, Kind] = {
    "relu": _RELU,
    "pe": replace(_RELU, encodes=True, alpha=0.05, normalises="before"),
    "siren": _SIREN,
    "gabor": Kind(
        lambda xp, z, _: xp.cos(z) * xp.exp(-((GABOR_DECAY * z) ** 2)),
        _gabor_and_slope,
        scale=20.0,
        cuda=f"""
            const T envelope = exp(T({-(GABOR_DECAY**2)!r}) * z * z);
            T sine, cosine;
            sincos(z, &sine, &cosine);
            value = cosine * envelope;
            slope = -sine * envelope - T({2 * GABOR_DECAY**2!r}) * z * value;
        """,
    ),
    "finer": replace(
        _SIREN,
        # Its authors train it with the factor held constant.
        value=lambda xp, z, hold: xp.sin(_finer_factor(xp, hold(z)) * z),
        value_and_slope=_finer_and_slope,
        alpha=None,
        cuda=f"""
            const T factor = abs(z) * T({1 / SINE_SCALE!r}) + 1;
            sincos(z * factor, &value, &slope);
            slope *= factor;
        """,
    ),
    "gauss": Kind(
        lambda xp, z, _: xp.exp(-(z**2)),
        _gauss_and_slope,
        scale=10.0,
        cuda="value = exp(-z * z); slope = -2 * z * value;",
    ),
}
"""Every kind by its name, in the order of menus; to be added to in every process that uses it."""
