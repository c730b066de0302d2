"""Fixed factors B of weights ``Λ B`` of which Λ is trained."""

from collections.abc import MutableMapping

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_ROOTS: MutableMapping[Tensor, tuple[int, Tensor]] = WeakIdKeyDictionary()


def root(basis: Tensor) -> Tensor:
    """Return an R of at most as many rows as columns with ``RᵀR = BᵀB``.

    The Jacobian in Λ of ``Λ (B a)`` is that of a layer with inputs ``B a``, of which its kernel
    needs the scalar products alone: those of ``R a``. Kept for as long as B is.
    """
    if basis.shape[0] <= basis.shape[1]:
        return basis
    known = _ROOTS.get(basis)
    if known is None or known[0] != basis._version:
        known = (basis._version, torch.linalg.qr(basis.detach(), mode="r").R)
        _ROOTS[basis] = known
    return known[1]
