"""The activation of a layer with its derivative, on any array library; on CuPy in one kernel.

What each kind computes is written in `iga_core.kinds`; here is only how it is evaluated.
"""

import functools
from typing import Any

from array_api_compat import is_cupy_namespace

from iga_core.arrays import Array, Namespace
from iga_core.kinds import KINDS


def activated(xp: Namespace, kind: str, product: Array, bias: Array) -> tuple[Array, Array]:
    """Return the activation of a layer and its derivative, both at ``product + bias``.

    Parameters
    ----------
    xp : array namespace
        Of the arrays; on CuPy all of it is one kernel, where the kind has one.
    kind : str
        Of the network.
    product : array, shape (r, width)
        Inputs times weights; may be used as storage.
    bias : array, shape (width,)

    Returns
    -------
    value, slope : array, shape (r, width)
    """
    cuda = KINDS[kind].cuda
    if cuda is not None and is_cupy_namespace(xp):
        return _fused(xp, cuda)(product, bias, product, xp.empty_like(product))  # type: ignore[no-any-return]
    product += bias
    return KINDS[kind].value_and_slope(xp, product)


@functools.cache
def _fused(xp: Namespace, cuda: str) -> Any:
    # `value` may be stored where `product` is, so `z` is read before.
    return xp.ElementwiseKernel(
        "T product, T bias",
        "T value, T slope",
        f"const T z = product + bias; {cuda}",
        "iga_activation",
    )
