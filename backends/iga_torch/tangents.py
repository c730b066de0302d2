"""The Jacobian of any network's outputs with respect to its trained parameters, as factors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from iga_core import LayerFactors, Lookup, Rows, gram
from iga_core.kernel import Factor
from iga_torch.explicit import ExplicitRows
from iga_torch.recording import (
    FLOATS,
    LinearUse,
    LookupUse,
    Recording,
    WithoutDropout,
    evaluating,
)
from iga_torch.samples import Samples

Leaves = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Part:
    """One use of a layer by all samples: what it was given, and the gradients of its result."""

    use: LinearUse | LookupUse
    operand: Tensor
    """(n, u, d_in), or (n, u) indices."""
    cotangents: Tensor
    """(heads, n, u, d)"""

    def beside(self) -> tuple[Tensor, Tensor]:
        """Return operand and cotangents (n, u, heads d): the Gram matrix sums over the heads."""
        return self.operand, self.cotangents.movedim(0, 2).flatten(2)

    def below(self) -> tuple[Tensor, Tensor]:
        """Return operand and cotangents with a row for every sample and head."""
        heads = self.cotangents.shape[0]
        return (
            self.operand.repeat_interleave(heads, dim=0),
            self.cotangents.transpose(0, 1).flatten(0, 1),
        )

    def shares(self, sample: int) -> dict[str, Tensor]:
        """Return the gradients of this use's parameters for one sample, summed over the heads."""
        cotangents, operand = self.cotangents[:, sample].sum(dim=0), self.operand[sample]
        if isinstance(self.use, LookupUse):
            table = cotangents.new_zeros(self.use.shape)
            return {self.use.table: table.index_add_(0, operand, cotangents)}
        found = {self.use.weight: cotangents.T @ operand, self.use.bias: cotangents.sum(dim=0)}
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


class Tangents:
    """How the Jacobian of a network is had: from which parameters' factors, and which rows.

    A parameter has factors where `Recording` understands every operation that reads it. At the
    first call of each form, the shares of two samples are compared with autograd on that sample
    alone; a parameter that differs is given explicit rows from then on.
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
            raise _unreached()
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
            part = _part(use, together, samples.count)
            if part is None:
                others |= use.parameters
            else:
                parts.append(part)
        # The Jacobian of a parameter is one sum: its factors must be of one kind.
        tables = {part.use.table for part in parts if isinstance(part.use, LookupUse)}
        others |= tables.intersection(
            part.use.weight for part in parts if isinstance(part.use, LinearUse)
        )
        return Evaluation(flat.detach(), parts, others, not (recording.dropped or changed))

    def _check(
        self,
        network: nn.Module,
        leaves: Leaves,
        samples: Samples,
        outputs: str,
        evaluation: Evaluation,
        witness: Tensor | None,
    ) -> None:
        """Hold two samples against autograd, once for each form of call."""
        modes = tuple(module.training for module in network.modules())
        form = (samples.shapes(), outputs, tuple(map(id, leaves.values())), modes)
        if form in self._checked:
            return
        if witness is not None and evaluation.steady:
            _require_alike(evaluation.outputs, witness)
        heads = _heads(evaluation.outputs, outputs)
        for sample in sorted({0, samples.count - 1}):
            alone = samples.some(sample, sample + 1)
            found, wanted = _gradients_alone(network, leaves, alone, sum(heads[1:], heads[0]))
            _require_alike(evaluation.outputs[sample : sample + 1], found)
            scale = max(float(gradient.abs().max()) for gradient in wanted.values())
            explicit = self._explicit | evaluation.others
            got = _shares(evaluation.parts, sample)
            for name in set(wanted) - explicit:
                share = got.get(name, torch.zeros_like(wanted[name]))
                if not alike(share, wanted[name], scale):
                    self._explicit.add(name)
            rows = {name: leaves[name] for name in leaves if name in explicit | self._explicit}
            self._rows.check(network, rows, alone, heads, wanted, alike)
        self._checked.add(form)


def trained(network: nn.Module) -> dict[str, Tensor]:
    """Return the trained parameters by name, or raise where there is none."""
    leaves: dict[str, Tensor] = {
        name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad
    }
    if not leaves:
        raise ValueError(
            "network: expected a trainable parameter, got none; unfreeze one with requires_grad_()"
        )
    for name, leaf in leaves.items():
        if leaf.dtype not in (*FLOATS, torch.complex64, torch.complex128):
            raise TypeError(
                f"network: expected parameters of float32 or float64, got {leaf.dtype} for {name}; "
                "keep them in float32 and use torch.autocast for speed"
            )
    return leaves


def require_output(found: Any, samples: Samples) -> None:
    """Raise unless a network gave one tensor of a real float dtype, a row of channels a point."""
    if not isinstance(found, Tensor):
        raise TypeError(
            f"network: expected it to return one tensor, got {type(found).__name__}; "
            "wrap it in a module that returns the outputs alone"
        )
    if found.dtype not in FLOATS:
        raise TypeError(
            f"output: expected float32 or float64, got {found.dtype}; "
            "return output.float(), or use torch.autocast around the call"
        )
    length = samples.count * samples.each
    if found.ndim < samples.axis + 2 or found.shape[samples.axis] != length:
        wanted = ", ".join([*["1"] * samples.axis, str(length), "..."])
        raise ValueError(
            f"output: expected shape ({wanted}, channels), got {tuple(found.shape)}; "
            "return one row of channels a point"
        )


def alike(got: Tensor, wanted: Tensor, scale: float) -> bool:
    """Say whether two gradients agree to half of the digits; `scale` is the largest of all."""
    eps = _eps(wanted)
    largest = float(wanted.abs().max())
    difference = float((got - wanted).abs().max())
    return math.isfinite(difference) and difference <= eps**0.5 * largest + eps * scale


def _require_alike(together: Tensor, alone: Tensor) -> None:
    difference = float((together - alone).abs().max())
    largest = float(alone.abs().max())
    if difference > 10 * _eps(alone) ** 0.5 * max(largest, float(together.abs().max())):
        raise ValueError(
            "network: expected the output of a sample to depend on that sample alone, got one that "
            f"differs by {difference / (largest or 1.0):.2g} of its size among other samples; put "
            "BatchNorm into eval mode, and let nothing mix or draw at random across samples"
        )


def _eps(tensor: Tensor) -> float:
    reduced = tensor.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return 2.0**-8 if reduced else float(torch.finfo(tensor.dtype).eps)


def _gradients_alone(
    network: nn.Module, leaves: Leaves, sample: Samples, head: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Evaluate one sample by itself: its outputs (1, points, C), and their gradients."""
    try:
        with evaluating(network), WithoutDropout():
            found = sample.call(network)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            "network: expected one that can evaluate a sample by itself, got "
            f"{type(error).__name__} ({error}); put BatchNorm into eval mode"
        ) from error
    require_output(found, sample)
    if not found.requires_grad:
        raise _unreached()
    with evaluating(network):
        flat = found.reshape(1, -1, found.shape[-1])
        gradients = torch.autograd.grad(
            (flat * head).sum(), list(leaves.values()), allow_unused=True
        )
    dense = {
        name: torch.zeros_like(leaf) if gradient is None else gradient.to_dense()
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
    }
    return flat.detach(), dense


def _unreached() -> ValueError:
    return ValueError(
        "network: expected outputs that depend on a trained parameter, got none that do; "
        "unfreeze one, or train without an adjustment"
    )


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
        return Part(use, use.inputs.reshape(count, signals.shape[2], -1), signals)
    indices = use.indices.reshape(count, -1)
    if use.padding is not None:
        signals = signals * (indices != use.padding)[..., None]
    return Part(use, indices, signals)


def _shares(parts: list[Part], sample: int) -> dict[str, Tensor]:
    """Return the gradients for one sample of all parameters that have factors."""
    found: dict[str, Tensor] = {}
    for part in parts:
        for name, share in part.shares(sample).items():
            found[name] = found[name] + share if name in found else share
    return found


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
