"""Activations of the scaled pre-activation, each with its derivative.

Every function may use `z` as its own storage.
"""

from collections.abc import Callable

from iga_core._arrays import Array, Namespace
from iga_core.network import FREQUENCY_SCALES, GABOR_DECAY

Activation = Callable[[Namespace, Array], tuple[Array, Array]]


def _relu(xp: Namespace, z: Array) -> tuple[Array, Array]:
    slope = xp.astype(z > 0, z.dtype)
    z *= slope
    return z, slope


def _sine(xp: Namespace, z: Array) -> tuple[Array, Array]:
    return xp.sin(z), xp.cos(z)


def _finer(xp: Namespace, z: Array) -> tuple[Array, Array]:
    period = xp.abs(z)
    period *= 1 / FREQUENCY_SCALES["finer"]
    period += 1
    z *= period
    slope = xp.cos(z)
    slope *= period
    return xp.sin(z), slope


def _gabor(xp: Namespace, z: Array) -> tuple[Array, Array]:
    envelope = xp.exp(-((GABOR_DECAY * z) ** 2))
    value = xp.cos(z) * envelope
    return value, -xp.sin(z) * envelope - (2 * GABOR_DECAY**2) * z * value


def _gauss(xp: Namespace, z: Array) -> tuple[Array, Array]:
    value = xp.exp(-z * z)
    return value, -2 * z * value


ACTIVATIONS: dict[str, Activation] = {
    "relu": _relu,
    "pe": _relu,
    "siren": _sine,
    "gabor": _gabor,
    "finer": _finer,
    "gauss": _gauss,
}
