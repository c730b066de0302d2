"""Per-sample gradients of parameters whose layers have no factors."""

import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from iga_core import Rows, gram
from iga_torch.checking import Leaves, alike
from iga_torch.recording import WithoutDropout, evaluating
from iga_torch.samples import Samples

ROW_BYTES = 2**27
"""Explicit rows are held up to this size, twice while two blocks of rows meet; a row at least."""


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
        wanted: Mapping[str, Tensor],
        eps: float,
    ) -> None:
        """Give up batching if it fails, or differs from the gradients of one sample."""
        if self._one_by_one or not leaves:
            return
        try:
            found = self._batched(network, leaves, samples, [sum(heads[1:], heads[0])])[0]
        except (RuntimeError, ValueError, NotImplementedError):
            self._one_by_one = True
            return
        expected = [torch.atleast_1d(_real(wanted[name])).reshape(-1) for name in leaves]
        sizes = [gradient.numel() for gradient in expected]
        largest = max(float(gradient.abs().max()) for gradient in wanted.values())
        pairs = zip(found[0].split(sizes), expected, strict=True)
        self._one_by_one = not all(alike(a, b, largest, eps) for a, b in pairs)

    def kernel(
        self,
        network: nn.Module,
        leaves: Leaves,
        sides: list[Samples],
        heads: list[Tensor],
        full: bool,
    ) -> Tensor:
        """Return the share of these parameters in the kernel, (n, n') or a row and column a head.

        Costs one per-sample gradient of every sample and head for each batch of parameters whose
        rows fit in `ROW_BYTES`; where one parameter's do not, blocks of rows meet in pairs.
        """
        find = self._alone if self._one_by_one else self._batched
        left, right = sides[0], sides[-1]
        rows = len(heads) if full else 1
        total = heads[0].new_zeros((left.count * rows, right.count * rows))
        for batch in _batches(leaves, left.count, len(heads)):
            row_bytes = sum(map(_bytes, batch.values())) * len(heads)
            size = max(1, ROW_BYTES // row_bytes)

            def block(
                samples: Samples, start: int, batch: Leaves = batch, size: int = size
            ) -> Rows:
                part = samples.some(start, min(start + size, samples.count))
                jacobians = find(network, batch, part, heads)
                if full:
                    return Rows(torch.stack(jacobians, dim=1).flatten(0, 1))
                return Rows(torch.cat(jacobians, dim=1))

            for i in range(0, left.count, size):
                upper = block(left, i)
                for j in range(i if len(sides) == 1 else 0, right.count, size):
                    same = len(sides) == 1 and i == j
                    share = gram([upper], None if same else [block(right, j)])
                    place = slice(i * rows, i * rows + share.shape[0])
                    other = slice(j * rows, j * rows + share.shape[1])
                    total[place, other] += share
                    if len(sides) == 1 and i != j:
                        total[other, place] += share.T
        return total

    @staticmethod
    def _batched(
        network: nn.Module, leaves: Leaves, samples: Samples, heads: list[Tensor]
    ) -> list[Tensor]:
        """Return (n, q) for each head, all samples at a time."""

        def scalar(values: dict[str, Tensor], head: Tensor, *tensors: Tensor) -> Tensor:
            outputs = samples.with_tensors(list(tensors)).call(
                lambda *args, **kwargs: functional_call(network, values, args, kwargs)
            )
            return (outputs.reshape(-1, outputs.shape[-1]) * head[0]).sum()

        values = {name: leaf.detach() for name, leaf in leaves.items()}
        stacked = samples.stacked()
        over_samples = vmap(
            grad(scalar), in_dims=(None, None, *[0] * len(stacked)), randomness="different"
        )
        found = []
        for head in heads:
            with evaluating(network), WithoutDropout(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="There is a performance drop")
                gradients = over_samples(values, head, *stacked)
            found.append(_row(gradients[name].detach() for name in leaves).to(head.dtype))
        return found

    @staticmethod
    def _alone(
        network: nn.Module, leaves: Leaves, samples: Samples, heads: list[Tensor]
    ) -> list[Tensor]:
        """Return (n, q) for each head, by one backward pass a sample and head."""
        found: list[list[Tensor]] = [[] for _ in heads]
        for i in range(samples.count):
            with evaluating(network):
                with WithoutDropout():
                    outputs = samples.some(i, i + 1).call(network)
                flat = outputs.reshape(-1, outputs.shape[-1])
                for rows, head in zip(found, heads, strict=True):
                    gradients = torch.autograd.grad(
                        (flat * head[0]).sum(),
                        list(leaves.values()),
                        retain_graph=head is not heads[-1],
                        allow_unused=True,
                    )
                    rows.append(
                        _row(
                            torch.zeros_like(leaf)[None] if g is None else g.to_dense()[None]
                            for leaf, g in zip(leaves.values(), gradients, strict=True)
                        )
                    )
        return [torch.cat(rows).to(head.dtype) for rows, head in zip(found, heads, strict=True)]


def _row(gradients: Iterator[Tensor]) -> Tensor:
    return torch.cat([_real(g).reshape(g.shape[0], -1) for g in gradients], dim=1)


def _real(gradient: Tensor) -> Tensor:
    """Real numbers with the same inner products."""
    return torch.view_as_real(gradient) if gradient.is_complex() else gradient


def _bytes(leaf: Tensor) -> int:
    return leaf.numel() * leaf.element_size()


def _batches(leaves: Leaves, count: int, heads: int) -> Iterator[dict[str, Tensor]]:
    """Cut the parameters into batches whose rows fit in `ROW_BYTES`, or that are one parameter."""
    batch: dict[str, Tensor] = {}
    for name, leaf in leaves.items():
        size = sum(map(_bytes, [*batch.values(), leaf])) * count * heads
        if batch and size > ROW_BYTES:
            yield batch
            batch = {}
        batch[name] = leaf
    if batch:
        yield batch
