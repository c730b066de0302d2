"""Activations of the scaled pre-activation, each with its derivative."""

import functools
from collections.abc import Callable
from typing import Any

from array_api_compat import is_cupy_namespace

from iga_core.arrays import Array, Namespace
from iga_core.network import FREQUENCY_SCALES, GABOR_DECAY

Activation = Callable[[Namespace, Array], tuple[Array, Array]]


def activated(xp: Namespace, kind: str, product: Array, bias: Array) -> tuple[Array, Array]:
    """Return the activation of a layer and its derivative, both at ``product + bias``.

    Parameters
    ----------
    xp : array namespace
        Of the arrays; on CuPy all of it is one kernel.
    kind : str
        Of the network.
    product : array, shape (r, width)
        Inputs times weights; may be used as storage.
    bias : array, shape (width,)

    Returns
    -------
    value, slope : array, shape (r, width)
    """
    if is_cupy_namespace(xp):
        return _fused(xp, kind)(product, bias, product, xp.empty_like(product))  # type: ignore[no-any-return]
    product += bias
    return ACTIVATIONS[kind](xp, product)


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
"""Each may use `z` as its own storage."""

_RELU = "slope = z > 0; value = z * slope;"
KERNELS = {
    "relu": _RELU,
    "pe": _RELU,
    "siren": "sincos(z, &value, &slope);",
    "finer": f"""
        const T period = abs(z) * T({1 / FREQUENCY_SCALES["finer"]!r}) + 1;
        sincos(z * period, &value, &slope);
        slope *= period;
    """,
    "gabor": f"""
        const T envelope = exp(T({-(GABOR_DECAY**2)!r}) * z * z);
        T sine, cosine;
        sincos(z, &sine, &cosine);
        value = cosine * envelope;
        slope = -sine * envelope - T({2 * GABOR_DECAY**2!r}) * z * value;
    """,
    "gauss": "value = exp(-z * z); slope = -2 * z * value;",
}
"""The same in CUDA C++, from `z` of type T to `value` and `slope`."""


@functools.cache
def _fused(xp: Namespace, kind: str) -> Any:
    # `value` may be stored where `product` is, so `z` is read before.
    return xp.ElementwiseKernel(
        "T product, T bias",
        "T value, T slope",
        f"const T z = product + bias; {KERNELS[kind]}",
        f"iga_{kind}",
    )
