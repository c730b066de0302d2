"""Fixed factors B of weights ``Λ B`` of which Λ is trained."""

from collections.abc import MutableMapping

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_ROOTS: MutableMapping[Tensor, dict[object, Tensor]] = WeakIdKeyDictionary()


def root(basis: Tensor) -> Tensor:
    """Return an R of at most as many rows as columns with ``RᴴR = BᴴB``.

    The Jacobian in Λ of ``Λ (B a)`` is that of a layer with inputs ``B a``, of which its kernel
    needs the scalar products alone: those of ``R a``. Kept for as long as B is, or what B is a
    view of.
    """
    if basis.shape[0] <= basis.shape[1]:
        return basis
    base = basis._base if basis._base is not None else basis
    view = (basis._version, basis.shape, basis.stride(), basis.storage_offset(), basis.is_conj())
    known = _ROOTS.get(base, {})
    if view not in known:
        # Roots of former values are let go.
        known = {key: R for key, R in known.items() if key[0] == basis._version}  # type: ignore[index]
        known[view] = torch.linalg.qr(basis.detach(), mode="r").R
        _ROOTS[base] = known
    return known[view]
