"""The Jacobian of any network's outputs with respect to its trained parameters, as factors."""

import math
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor, nn

from iga_core import LayerFactors, Lookup, Rows, gram
from iga_core.ntk import Factor
from iga_torch.bases import root
from iga_torch.checking import (
    REDUCED_EPS,
    Leaves,
    alike,
    full_precision,
    gradients,
    precision,
    reduced_precision,
    require_alike,
    require_output,
    unreached,
)
from iga_torch.explicit import ExplicitRows
from iga_torch.recording import FLOATS, LinearUse, LookupUse, Recording, evaluating
from iga_torch.samples import Samples


@dataclass(frozen=True, eq=False)
class Part:
    """One use of a layer by all samples: what it was given, and the gradients of its result."""

    use: LinearUse | LookupUse
    operand: Tensor
    """(n, u, d_in), or (n, u) indices."""
    cotangents: Tensor
    """(heads, n, u, d)"""

    @property
    def basis(self) -> Tensor | None:
        """What the weight is multiplied by before it is used, if anything."""
        return self.use.basis if isinstance(self.use, LinearUse) else None

    @property
    def reduced(self) -> Tensor:
        """What has the scalar products of the operand, or of its product with the basis."""
        if self.basis is None:
            return self.operand
        return self.operand @ root(self.basis).to(self.operand.dtype).T

    def beside(self) -> tuple[Tensor, Tensor]:
        """Return operand and cotangents (n, u, heads d): the Gram matrix sums over the heads."""
        return self.reduced, self.cotangents.movedim(0, 2).flatten(2)

    def kind(self) -> tuple[str | None, object]:
        """Return the weight or table that is used, and what its other uses must have in common."""
        if isinstance(self.use, LookupUse):
            return self.use.table, LookupUse
        return self.use.weight, id(self.basis)

    def below(self) -> tuple[Tensor, Tensor]:
        """Return operand and cotangents with a row for every sample and head."""
        heads = self.cotangents.shape[0]
        return (
            self.reduced.repeat_interleave(heads, dim=0),
            self.cotangents.transpose(0, 1).flatten(0, 1),
        )

    def shares(self, weights: Tensor) -> dict[str, Tensor]:
        """Return the gradients of this use's parameters, summed over the heads and samples."""
        cotangents = (self.cotangents.sum(dim=0) * weights[:, None, None]).flatten(0, 1)
        operand = self.operand.flatten(0, 1)
        if isinstance(self.use, LookupUse):
            table = cotangents.new_zeros(self.use.shape)
            return {self.use.table: table.index_add_(0, operand, cotangents)}
        weight = cotangents.T @ operand
        if self.basis is not None:
            weight = weight @ self.basis.to(weight.dtype).T
        found = {self.use.weight: weight, self.use.bias: cotangents.sum(dim=0)}
        return {name: share for name, share in found.items() if name is not None}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The outputs of samples, and what their evaluation did with the trained parameters."""

    outputs: Tensor
    """(n, points of a sample, C)"""
    parts: list[Part]
    others: set[str]
    """Parameters that were read in ways that have no factors."""
    steady: bool
    """Whether another evaluation gives the same: no dropout, no buffer that moves."""

    def form(self) -> tuple[object, ...]:
        """Return what tells one way of evaluating from another."""
        uses = (
            (type(p.use), *sorted(p.use.parameters), p.operand.shape, p.basis is None)
            for p in self.parts
        )
        return tuple(uses), frozenset(self.others)


class Tangents:
    """How the Jacobian of a network is had: from which parameters' factors, and which rows.

    A parameter has factors where `Recording` understands every operation that reads it. At the
    first call of each form, the shares of two samples are compared with autograd on that sample
    alone, and those of all samples, with random weights, with autograd on all; a parameter that
    differs is given explicit rows from then on.
    """

    def __init__(self) -> None:
        self._explicit: set[str] = set()
        self._checked: set[object] = set()
        self._rows = ExplicitRows()

    def kernel(
        self,
        network: nn.Module,
        leaves: Leaves,
        samples: Samples,
        right: Samples | None = None,
        *,
        outputs: str = "sum",
        witness: Tensor | None = None,
    ) -> Tensor:
        """Return the kernel of the samples' mean outputs; with "full", a row and column a channel.

        Parameters
        ----------
        network : nn.Module
            At its present parameters.
        leaves : mapping of str to Tensor
            Those that are trained, see `trained`.
        samples, right : Samples
            Of the rows, and of the columns where they are others.
        outputs : {"sum", "trace", "full"}
            See `iga_torch.empirical_ntk`.
        witness : Tensor, optional
            What the network gave for these samples among others, (n, points, C); held against
            what it gives now, where this form of call was not checked before.
        """
        sides = [samples] if right is None else [samples, right]
        evaluations = [self._evaluate(network, leaves, side, outputs) for side in sides]
        for side, evaluation in zip(sides, evaluations, strict=True):
            self._check(network, leaves, side, outputs, evaluation, witness)
        full = outputs == "full"
        explicit = self._explicit.union(*(e.others for e in evaluations))
        factors = [_factors(evaluation.parts, explicit, full) for evaluation in evaluations]
        shares = [gram(factors[0], *factors[1:])] if all(factors) else []
        rows = {name: leaf for name, leaf in leaves.items() if name in explicit}
        if rows:
            heads = _heads(evaluations[0].outputs, outputs)
            shares.append(self._rows.kernel(network, rows, sides, heads, full))
        if not shares:
            raise unreached()
        return sum(shares[1:], start=shares[0])

    def _evaluate(
        self, network: nn.Module, leaves: Leaves, samples: Samples, outputs: str
    ) -> Evaluation:
        with evaluating(network) as changed:
            with Recording(leaves) as recording:
                found = samples.call(network)
            require_output(found, samples)
            flat = found.reshape(samples.count, -1, found.shape[-1])
            edges = [use.edge for use in recording.uses]
            heads = _heads(flat, outputs) if edges else []
            cotangents = [
                torch.autograd.grad(
                    flat,
                    edges,
                    head.expand(flat.shape),
                    retain_graph=head is not heads[-1],
                    allow_unused=True,
                )
                for head in heads
            ]
        parts, others = [], recording.others
        for use, *found_for in zip(recording.uses, *cotangents, strict=True):
            reaching = [b for b in found_for if b is not None]
            if not reaching:
                continue
            signals = [torch.zeros_like(reaching[0]) if b is None else b for b in found_for]
            together = torch.stack(signals) if len(signals) > 1 else signals[0][None]
            part = _part(use, together.to(flat.dtype), samples.count)
            if part is None:
                others |= use.parameters
            else:
                parts.append(part)
        # The Jacobian of a parameter is one sum: its factors must be of one kind.
        kinds = {part.kind() for part in parts}
        names = [name for name, _ in kinds if name is not None]
        others |= {name for name in names if names.count(name) > 1}
        return Evaluation(flat.detach(), parts, others, not (recording.dropped or changed))

    def _check(
        self,
        network: nn.Module,
        leaves: Leaves,
        samples: Samples,
        outputs: str,
        seen: Evaluation,
        witness: Tensor | None,
    ) -> None:
        """Hold the shares against autograd, once for each form of call; see the class."""
        modes = tuple(module.training for module in network.modules())
        ids = tuple(map(id, leaves.values()))
        form = (samples.shapes(), outputs, ids, modes, seen.form())
        if form in self._checked:
            return
        reduced = reduced_precision()
        with full_precision():
            evaluation = self._evaluate(network, leaves, samples, outputs)
            eps = precision(leaves, evaluation.outputs)
            if witness is not None and evaluation.steady:
                low = reduced or witness.dtype not in FLOATS
                require_alike(witness, evaluation.outputs, REDUCED_EPS if low else eps)
            heads = _heads(evaluation.outputs, outputs)
            head = sum(heads[1:], heads[0])
            generator = numpy.random.default_rng(0)
            weights = torch.from_numpy(
                generator.uniform(0.5, 1.5, samples.count)
                * generator.choice([-1, 1], samples.count)
            ).to(head)
            self._compare(network, leaves, samples, evaluation, weights, head, eps)
            for sample in sorted({0, samples.count - 1}):
                alone = samples.some(sample, sample + 1)
                chosen = torch.zeros_like(weights)
                chosen[sample] = 1
                found, wanted = self._compare(network, leaves, alone, evaluation, chosen, head, eps)
                require_alike(evaluation.outputs[sample : sample + 1], found, eps)
                explicit = self._explicit | evaluation.others
                rows = {name: leaf for name, leaf in leaves.items() if name in explicit}
                self._rows.check(network, rows, alone, heads, wanted, eps)
        self._checked.add(form)

    def _compare(
        self,
        network: nn.Module,
        leaves: Leaves,
        samples: Samples,
        evaluation: Evaluation,
        weights: Tensor,
        head: Tensor,
        eps: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Find the parameters whose weighted shares are not the gradients of these samples.

        `weights` are of all samples of the evaluation; the samples are those that are not zero.
        """
        found, wanted = gradients(
            network, leaves, samples, weights[weights != 0][:, None, None] * head
        )
        scale = max(float(gradient.abs().max()) for gradient in wanted.values())
        got: dict[str, Tensor] = {}
        for part in evaluation.parts:
            for name, share in part.shares(weights).items():
                got[name] = got[name] + share if name in got else share
        for name, gradient in wanted.items():
            share = got.get(name, torch.zeros_like(gradient))
            if not alike(share, gradient, scale, eps):
                self._explicit.add(name)
        return found, wanted


def _heads(outputs: Tensor, kind: str) -> list[Tensor]:
    """Return the cotangents (1, 1, C) of the scalars whose gradients are the kernel's rows."""
    points, channels = outputs.shape[1:]
    if kind == "sum":
        return [outputs.new_full((1, 1, channels), 1 / (math.sqrt(channels) * points))]
    scale = 1 / points if kind == "full" else 1 / (math.sqrt(channels) * points)
    unit = torch.eye(channels, dtype=outputs.dtype, device=outputs.device)
    return list(scale * unit[:, None, None, :])


def _part(use: LinearUse | LookupUse, cotangents: Tensor, count: int) -> Part | None:
    """Cut a use by samples; None if it does not fall into as many equal parts."""
    uses = math.prod(cotangents.shape[1:-1])
    if uses % count:
        return None
    signals = cotangents.reshape(len(cotangents), count, -1, cotangents.shape[-1])
    if isinstance(use, LinearUse):
        operand = use.inputs.reshape(count, signals.shape[2], -1)
        return Part(use, operand.to(signals.dtype), signals)
    indices = use.indices.reshape(count, -1)
    if use.padding is not None:
        signals = signals * (indices != use.padding)[..., None]
    return Part(use, indices, signals)


def _factors(parts: list[Part], explicit: set[str], full: bool) -> list[Factor]:
    """Return the factors of the parameters that have some, of all heads beside or below."""
    weights: dict[str, list[int]] = {}
    biases: dict[str, list[int]] = {}
    tables: dict[str, list[int]] = {}
    for k, part in enumerate(parts):
        use = part.use
        names = (
            ((use.weight, weights), (use.bias, biases))
            if isinstance(use, LinearUse)
            else ((use.table, tables),)
        )
        for name, places in names:
            if name is not None and name not in explicit:
                places.setdefault(name, []).append(k)
    cut = [part.below() if full else part.beside() for part in parts]

    def all_uses(places: list[int]) -> tuple[Tensor, Tensor]:
        if len(places) == 1:
            return cut[places[0]]
        operands, cotangents = zip(*(cut[k] for k in places), strict=True)
        return torch.cat(operands, dim=1), torch.cat(cotangents, dim=1)

    bias_of = {tuple(places): name for name, places in biases.items()}
    factors: list[Factor] = []
    for uses in weights.values():
        bias = bias_of.pop(tuple(uses), None)
        factors.append(LayerFactors(*all_uses(uses), bias=bias is not None))
    # A bias that does not always go with one weight.
    factors += [Rows(all_uses(list(uses))[1].sum(dim=1)) for uses in bias_of]
    factors += [Lookup(*all_uses(uses)) for uses in tables.values()]
    return factors
