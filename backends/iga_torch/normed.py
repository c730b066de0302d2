"""Matrices whose rows have trained lengths: weight normalisation (Salimans and Kingma 2016).

Row r of the matrix is ``g_r v_r / ‖v_r‖``, of two trained leaves. A sample's gradient of the
matrix, ``G = Σ_u b_u a_uᵀ``, becomes ``c_r = G_r · v̂_r`` for the lengths g and
``s_r (G_r − c_r v̂_r)`` for the directions v, with unit rows v̂ and ``s_r = g_r / ‖v_r‖``. So the
directions' share of the kernel is that of a layer with cotangents ``s ∘ b``, less that of the rows
``s ∘ c``, and no sample's G is formed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iga_core import LayerFactors, Rows
from iga_core.ntk import Factor


@dataclass(frozen=True, eq=False)
class Normed:
    """How a matrix is made of directions and lengths.

    Parameters
    ----------
    matrix : Tensor, shape (d_out, d_in)
        It, with its graph.
    directions, lengths : str or None
        Names of the leaves; None for one that is not trained.
    leaves : tuple of Tensor
        Those that are, in this order.
    unit : Tensor, shape (d_out, d_in)
        v̂.
    scale : Tensor, shape (d_out,)
        s.
    """

    matrix: Tensor
    directions: str | None
    lengths: str | None
    leaves: tuple[Tensor, ...]
    unit: Tensor
    scale: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """Of the leaves that are trained."""
        return tuple(name for name in (self.directions, self.lengths) if name is not None)

    def pulled(self, gradient: Tensor) -> dict[str, Tensor]:
        """Return the gradients of the leaves, by that of the matrix."""
        found = torch.autograd.grad(self.matrix, self.leaves, gradient, retain_graph=True)
        return dict(zip(self.names, found, strict=True))

    def factors(
        self, uses: Sequence[Sequence[tuple[Tensor, Tensor]]], full: bool
    ) -> tuple[list[Factor], list[Factor]]:
        """Return factors whose Gram matrices are added up, and those that are taken away.

        Parameters
        ----------
        uses : sequence of sequences of pairs
            For each head, for each use, inputs (n, u, d_in) and cotangents (n, u, d_out).
        full : bool
            Whether each sample has a row for every head.
        """
        heads = []
        for pairs in uses:
            a, b = (torch.cat(parts, dim=1) for parts in zip(*pairs, strict=True))
            along = (b * (a @ self.unit.to(a.dtype).T)).sum(dim=1)
            heads.append((a, b * self.scale.to(b.dtype), along))
        if full:  # a sample's heads below each other
            a, b, along = (
                torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*heads, strict=True)
            )
            heads = [(a, b, along)]
        more: list[Factor] = []
        less: list[Factor] = []
        for a, b, along in heads:
            if self.directions is not None:
                more.append(LayerFactors(a, b, bias=False))
                less.append(Rows(along * self.scale.to(along.dtype)))
            if self.lengths is not None:
                more.append(Rows(along))
        return more, less


def normed(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    result: Any,
    name_of: Callable[[Any], str | None],
) -> Normed | None:
    """Return what a call made, if it is such a matrix, of leaves that `name_of` knows."""
    if func is not torch._weight_norm or len(args) != 3 or not isinstance(result, Tensor):
        return None
    v, g, axis = args
    if axis != 0 or v.ndim != 2 or v.is_complex() or not (v.is_leaf and g.is_leaf):
        return None
    names = name_of(v), name_of(g)
    leaves = tuple(t for t, name in zip((v, g), names, strict=True) if name is not None)
    with torch.no_grad():
        length = v.norm(dim=1)
        unit, scale = v / length[:, None], g.reshape(-1) / length
    return Normed(result, *names, leaves, unit, scale)
