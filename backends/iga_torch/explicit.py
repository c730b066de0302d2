"""Per-sample gradients of parameters whose layers have no factors."""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from iga_core import Rows, gram
from iga_torch.checking import Leaves, alike, evaluated, gradients_of, prepared
from iga_torch.functions import Function
from iga_torch.recording import WithoutDropout, evaluating
from iga_torch.samples import Samples

ROW_BYTES = 2**27
"""Explicit rows are held up to this size in all; beyond it, one of them and one more evaluation."""


class ExplicitRows:
    """Rows of the Jacobian by `torch.func`, or a sample at a time where that does not work."""

    def __init__(self) -> None:
        self._one_by_one = False

    def check(
        self,
        network: nn.Module,
        leaves: Leaves,
        samples: Samples,
        heads: list[Tensor],
        eps: float,
    ) -> None:
        """Give up batching if it fails, or differs from autograd's gradients of one sample.

        Both have the same draws, since each evaluation begins with the same random state. How
        much rounding makes of a steep network is seen from a change of its inputs in their last
        digits. Three evaluations of one sample.
        """
        if self._one_by_one or not leaves:
            return
        if leaves.keys() - slots_of(network, leaves).values():
            self._one_by_one = True  # one sample may not tell, whose gradient by these is zero
            return
        alone, together = samples.some(0, 1), [sum(heads[1:], heads[0])]
        moved = alone.with_tensors([_moved(t, 8 * eps) for t in alone.tensors()])
        try:
            found = self._batched(network, leaves, alone, together, randomness="same")[0, 0]
        except (RuntimeError, ValueError, NotImplementedError):
            self._one_by_one = True
            return
        wanted, other = (self._alone(network, leaves, s, together)[0, 0] for s in (alone, moved))
        sizes = [leaf.numel() * (2 if leaf.is_complex() else 1) for leaf in leaves.values()]
        scale = float(wanted.abs().max())
        self._one_by_one = not all(
            alike(a, b, scale, eps, 4 * float((b - c).abs().max()))
            for a, b, c in zip(*(row.split(sizes) for row in (found, wanted, other)), strict=True)
        )

    def kernel(
        self,
        network: nn.Module,
        leaves: Leaves,
        sides: list[Samples],
        heads: list[Tensor],
        full: bool,
    ) -> Tensor:
        """Return the share of these parameters in the kernel, (n, n') or a row and column a head.

        Every per-sample gradient is computed once. While all rows fit in `ROW_BYTES`, they are
        formed, by one evaluation, or one a sample where a network cannot be batched. Beyond, the
        kernel's columns are had one by one, ``J (J'ᵀ e)``: a gradient, and a derivative of all
        outputs along it, through the graph of one evaluation, so that no row but one is held.
        """
        per_row = sum(leaf.numel() * leaf.element_size() for leaf in leaves.values()) * len(heads)
        if per_row * sum(side.count for side in sides) > ROW_BYTES:
            try:
                return self._by_columns(network, leaves, sides, heads, full)
            except RuntimeError:  # something in it cannot be differentiated twice
                return self._in_blocks(network, leaves, sides, heads, full, per_row)
        return gram(*([self._rows(network, leaves, side, heads, full)] for side in sides))

    def _rows(
        self, network: nn.Module, leaves: Leaves, samples: Samples, heads: list[Tensor], full: bool
    ) -> Rows:
        find = self._alone if self._one_by_one else self._batched
        found = find(network, leaves, samples, heads)
        return Rows(found.flatten(0, 1) if full else found.flatten(1))

    @staticmethod
    def _by_columns(
        network: nn.Module, leaves: Leaves, sides: list[Samples], heads: list[Tensor], full: bool
    ) -> Tensor:
        parameters = list(leaves.values())
        with evaluating(network):
            scalars = [_scalars(network, leaves, side, heads) for side in sides]
            left, right = scalars[0], scalars[-1]
            directions = torch.zeros_like(left, requires_grad=True)
            # Linear in the directions u: Σ u ∇f, whose derivative by u along v is that of f.
            with WithoutDropout():
                summed = torch.autograd.grad(
                    left, parameters, directions, create_graph=True, allow_unused=True
                )
            reached = [k for k, gradient in enumerate(summed) if gradient is not None]
            columns = []
            for one in torch.eye(right.numel(), dtype=right.dtype, device=right.device):
                gradients, _ = gradients_of((right * one.view_as(right)).sum(), leaves, [])
                row = list(gradients.values())
                product = torch.stack(
                    [(_real(summed[k]) * _real(row[k])).sum() for k in reached]
                ).sum()
                with WithoutDropout():
                    (column,) = torch.autograd.grad(product, directions, retain_graph=True)
                columns.append(column)
        found = torch.stack(columns, dim=-1).unflatten(-1, right.shape)  # (n, heads, n', heads)
        if full:
            return found.flatten(2).flatten(0, 1)
        return found.diagonal(dim1=1, dim2=3).sum(dim=-1)

    def _in_blocks(
        self,
        network: nn.Module,
        leaves: Leaves,
        sides: list[Samples],
        heads: list[Tensor],
        full: bool,
        row_bytes: int,
    ) -> Tensor:
        """Let blocks of rows meet in pairs, for which they are computed again."""
        size = max(1, ROW_BYTES // (2 * row_bytes))

        def blocks(samples: Samples) -> Iterator[Rows]:
            for i in range(0, samples.count, size):
                part = samples.some(i, min(i + size, samples.count))
                yield self._rows(network, leaves, part, heads, full)

        strips = [
            torch.cat([gram([upper], [other]) for other in blocks(sides[-1])], dim=1)
            for upper in blocks(sides[0])
        ]
        return torch.cat(strips)

    @staticmethod
    def _batched(
        network: nn.Module,
        leaves: Leaves,
        samples: Samples,
        heads: list[Tensor],
        randomness: str = "different",
    ) -> Tensor:
        """Return (n, heads, q), all samples at a time."""
        slots = slots_of(network, leaves)

        def scalars(values: dict[str, Tensor], *tensors: Tensor) -> Tensor:
            given = {slot: values[name] for slot, name in slots.items()}
            outputs = samples.with_tensors(list(tensors)).call(
                lambda *args, **kwargs: functional_call(
                    network, given, args, kwargs, tie_weights=False
                )
            )
            outputs = outputs.reshape(-1, outputs.shape[-1])
            if outputs.is_complex():
                outputs = torch.view_as_real(outputs.resolve_conj()).flatten(1)
            return torch.stack([(outputs * head[0]).sum() for head in heads])

        def rows(values: dict[str, Tensor], *tensors: Tensor) -> dict[str, Tensor]:
            pulled: Any = vjp(lambda given: scalars(given, *tensors), values)
            found, back = pulled
            gradients = [back(one)[0] for one in torch.eye(len(heads)).to(found)]
            return {name: torch.stack([of[name] for of in gradients]) for name in values}

        values = {name: leaf.detach() for name, leaf in leaves.items()}
        stacked = samples.stacked()
        over_samples = vmap(rows, in_dims=(None, *[0] * len(stacked)), randomness=randomness)
        with evaluating(network), WithoutDropout(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            gradients = over_samples(values, *stacked)
        shape = (samples.count, len(heads))
        return _row(shape, (gradients[name].detach() for name in leaves)).to(heads[0].dtype)

    @staticmethod
    def _alone(network: nn.Module, leaves: Leaves, samples: Samples, heads: list[Tensor]) -> Tensor:
        """Return (n, heads, q), by one evaluation a sample, and one backward pass a head."""
        found = []
        for i in range(samples.count):
            with evaluating(network):
                scalars = _scalars(network, leaves, samples.some(i, i + 1), heads)[0]
                for scalar in scalars:
                    gradients, _ = gradients_of(scalar, leaves, [])
                    found.append(_row((1, 1), gradients.values()))
        rows = torch.cat(found).unflatten(0, (samples.count, len(heads))).flatten(2)
        return rows.to(heads[0].dtype)


def slots_of(network: nn.Module, leaves: Leaves) -> dict[str, str]:
    """Return every place of a module that holds a leaf, once, with the leaf's name.

    A module may be found under several names, and a parameter in several modules. Of the former
    one name will do, and with two of them `functional_call` would put a wrong tensor back. The
    free parameters of a function have no place: it has them from elsewhere.
    """
    names = {id(leaf): name for name, leaf in leaves.items()}
    return {
        f"{path}.{attribute}" if path else attribute: names[id(parameter)]
        for path, module in network.named_modules()
        for attribute, parameter in module._parameters.items()
        if id(parameter) in names and not isinstance(module, Function)
    }


def _scalars(network: nn.Module, leaves: Leaves, samples: Samples, heads: list[Tensor]) -> Tensor:
    """Evaluate samples: the scalars whose gradients are the rows, (n, heads)."""
    outputs = evaluated(network, leaves, samples.with_tensors(prepared(samples.tensors())))
    return torch.stack([(outputs * head).sum(dim=(1, 2)) for head in heads], dim=1)


def _moved(tensor: Tensor, relative: float) -> Tensor:
    inexact = tensor.dtype.is_floating_point or tensor.dtype.is_complex
    return tensor * (1 + relative) if inexact else tensor


def _row(shape: tuple[int, int], gradients: Iterable[Tensor]) -> Tensor:
    return torch.cat([_real(g).reshape(*shape, -1) for g in gradients], dim=2)


def _real(gradient: Tensor) -> Tensor:
    """Real numbers with the same inner products."""
    return torch.view_as_real(gradient.resolve_conj()) if gradient.is_complex() else gradient
