"""The Jacobian of any network's outputs with respect to its trained parameters, as factors."""

import contextlib
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from iga_core import gram
from iga_torch.checking import (
    Leaves,
    alike,
    chosen_half,
    evaluated,
    full_precision,
    gradients_of,
    precision,
    prepared,
    require_alike,
    require_graph,
    require_separate_rows,
)
from iga_torch.explicit import ExplicitRows
from iga_torch.operations import MatrixUse, TableUse
from iga_torch.parts import Cut, Part, factors_of, part_of, rows_of
from iga_torch.recording import Recording, WithoutDropout, evaluating
from iga_torch.report import KernelReport, Reason, report_of
from iga_torch.samples import Samples
from iga_torch.weights import place_of


@dataclass(eq=False)
class Evaluation:
    """The outputs of samples, while their graph is there."""

    samples: Samples
    inputs: list[Tensor]
    outputs: Tensor
    """(n, points of a sample, C), real"""
    heads: list[Tensor]
    recording: Recording


@dataclass(frozen=True, eq=False)
class Found:
    """What an evaluation did with the trained parameters."""

    parts: list[Part]
    outputs: Tensor
    heads: list[Tensor]
    others: dict[str, Reason] = field(default_factory=dict)
    """Parameters that were read in ways that have no factors, and why."""


class Way(NamedTuple):
    """How the uses of parameters are read from an evaluation."""

    ordered: bool = True
    """Whether a layer's rows are in the samples' order; else they have owners, which are found."""
    graph: bool = False
    """Whether the graph is asked for what derivatives inside the network did with parameters."""


WAYS = (Way(), Way(graph=True), Way(ordered=False), Way(ordered=False, graph=True))
"""The first that is right is taken; those that cost more come later."""


class Tangents:
    """How the Jacobian of a network is had: from which parameters' factors, and which rows.

    A parameter has factors where `Recording` understands every operation that reads it. At the
    first call of each form, the shares of two halves of the samples, randomly weighted, are
    compared with autograd's gradients; a parameter that differs is given explicit rows from then
    on. Both are taken from one evaluation: what rounding does to it, and what it drew at random,
    is the same on both sides, so that a steep network in float32 is told from a wrong share.

    A call costs one evaluation of the network, and one more if any parameter has explicit rows,
    for which the first call of a form takes three more, of one sample.
    """

    def __init__(self) -> None:
        self._explicit: dict[str, Reason] = {}
        self._others: dict[str, Reason] = {}
        self._checked: dict[object, Way] = {}
        self._rows = ExplicitRows()

    def report(self, leaves: Leaves) -> KernelReport:
        """Return how the last kernel was made of each parameter; see `KernelReport`."""
        return report_of(leaves, {**self._others, **self._explicit}, bool(self._checked))

    def kernel(
        self,
        network: nn.Module,
        leaves: Leaves,
        samples: Samples,
        right: Samples | None = None,
        *,
        outputs: str = "sum",
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

        Returns
        -------
        Tensor, shape (n, n')
            Zero where the outputs of these samples do not move with any parameter.
        """
        sides = [samples] if right is None else [samples, right]
        found = [self._evaluate(network, leaves, side, outputs) for side in sides]
        full, heads = outputs == "full", found[0].heads
        self._others = {name: why for side in found for name, why in side.others.items()}
        explicit = {*self._explicit, *self._others}
        factors = [factors_of(side.parts, explicit, full) for side in found]
        if factors[0].keys() != factors[-1].keys():
            factors = [factors_of(side.parts, explicit, full, joined=False) for side in found]
        # A parameter that one side does not reach has no share.
        keys = [key for key in factors[0] if key in factors[-1]]
        less = [key for key in keys if key[-1] == "less"]
        keys = [key for key in keys if key[-1] != "less"]
        shares = [gram(*([side[key] for key in keys] for side in factors))] if keys else []
        if less:
            shares.append(-gram(*([side[key] for key in less] for side in factors)))
        rows = {name: leaf for name, leaf in leaves.items() if name in explicit}
        if rows:
            shares.append(self._rows.kernel(network, rows, sides, heads, full))
        if not shares:
            each = len(heads) if full else 1
            shape = (samples.count * each, sides[-1].count * each)
            shares.append(heads[0].new_zeros(shape))
        return sum(shares[1:], start=shares[0])

    def _evaluate(
        self, network: nn.Module, leaves: Leaves, samples: Samples, outputs: str
    ) -> Found:
        with evaluating(network) as traces, contextlib.ExitStack() as stack:
            inputs = prepared(samples.tensors())
            recording = Recording(leaves, inputs)
            flat = evaluated(network, leaves, samples.with_tensors(inputs), recording)
            heads = heads_of(flat, outputs)
            evaluation = Evaluation(samples, inputs, flat, heads, recording)
            form = self._form(network, leaves, evaluation, outputs)
            new = self._is_new(form)
            if new:
                require_graph([flat], leaves)
                stack.enter_context(full_precision())
            found = _found(evaluation, self._checked.get(form, Way()))
            if new:
                way, found, reached = self._checked_parts(leaves, evaluation, found)
        if new:
            eps = precision(leaves, flat)
            explicit = {*self._explicit, *found.others}
            rows = {name: leaf for name, leaf in leaves.items() if name in explicit}
            with full_precision():
                if not (reached or traces.drew or traces.changed or recording.dropped):
                    _compare_outputs(network, leaves, evaluation, eps)
                self._rows.check(network, rows, samples, heads, eps)
            self._checked[form] = way
        return found

    def _is_new(self, form: object) -> bool:
        return form not in self._checked

    @staticmethod
    def _form(
        network: nn.Module, leaves: Leaves, evaluation: Evaluation, outputs: str
    ) -> tuple[object, ...]:
        """Return what tells one way of evaluating from another."""
        modes = tuple(module.training for module in network.modules())
        # Not which tensors they are: fast weights are new ones at every call.
        like = tuple((name, leaf.shape, leaf.dtype) for name, leaf in leaves.items())
        recording = evaluation.recording
        uses = tuple(
            (
                used.name,
                used.operation,
                used.use.inputs.shape if isinstance(used.use, MatrixUse) else None,
                tuple(basis is None for basis in used.use.weight.bases),
            )
            for used in recording.uses
        )
        shapes, others = evaluation.samples.shapes(), frozenset(recording.others)
        # A schedule may turn to derivatives later, by the same calls.
        return (shapes, outputs, like, modes, uses, others, recording.read(evaluation.outputs))

    def _checked_parts(
        self, leaves: Leaves, evaluation: Evaluation, found: Found
    ) -> tuple[Way, Found, bool]:
        """Hold shares against autograd, read in one way after the other; then with explicit rows.

        Returns
        -------
        way : Way
            That leaves the fewest parameters to explicit rows.
        found : Found
            What is to be used.
        reached : bool
            Whether the derivatives by the inputs told samples apart.
        """
        eps = precision(leaves, evaluation.outputs)
        head = sum(evaluation.heads[1:], evaluation.heads[0])
        count = evaluation.samples.count
        generator = numpy.random.default_rng(0)
        weights = torch.from_numpy(generator.uniform(0.5, 1.5, count)).to(head)
        half = chosen_half(count, head.device)
        inputs = [t for t in evaluation.inputs if t.requires_grad]
        sides, reached = [], False
        for chosen in (half, ~half) if count > 1 else (half,):
            chosen_weights = weights * chosen
            scalar = (evaluation.outputs * chosen_weights[:, None, None] * head).sum()
            wanted, slopes = gradients_of(scalar, leaves, inputs)
            for slope in slopes:
                if slope is not None:
                    reached = True
                    axis, samples = evaluation.samples.axis, evaluation.samples
                    stacked = slope.unflatten(axis, (count, samples.each)).movedim(axis, 0)
                    require_separate_rows(stacked.flatten(1), chosen, eps)
            sides.append((chosen_weights, wanted))
        best = Way()
        wrong = _differing(found, sides, eps)
        for way in WAYS[1:]:
            if not wrong:
                break
            other = _found(evaluation, way)
            still = _differing(other, sides, eps)
            if len(still | other.others.keys()) < len(wrong | found.others.keys()):
                best, found, wrong = way, other, still
        why = "its share of the factors differs from autograd's gradient"
        self._explicit |= dict.fromkeys(wrong - found.others.keys(), why)
        return best, found, reached


def _differing(found: Found, sides: list[tuple[Tensor, dict[str, Tensor]]], eps: float) -> set[str]:
    """Return the parameters whose weighted shares are not autograd's gradients."""
    differing = set()
    for weights, wanted in sides:
        scale = max(float(gradient.abs().max()) for gradient in wanted.values())
        got: dict[str, Tensor] = {}
        for part in found.parts:
            for name, share in part.shares(weights).items():
                got[name] = got[name] + share if name in got else share
        for name, gradient in wanted.items():
            share = got.get(name, torch.zeros_like(gradient))
            if name not in found.others and not alike(share, gradient, scale, eps):
                differing.add(name)
    return _with_partners(differing, found.parts)


def _with_partners(names: set[str], parts: list[Part]) -> set[str]:
    """Return names and those of the leaves that a matrix is made of together with any of these."""
    for part in parts:
        if not names.isdisjoint(part.use.weight.names):
            names = names.union(part.use.weight.names)
    return names


def _compare_outputs(
    network: nn.Module, leaves: Leaves, evaluation: Evaluation, eps: float
) -> None:
    """Compare outputs of some samples alone, where no derivative by inputs tells them apart."""
    count = evaluation.samples.count
    if count == 1:
        return
    alone = evaluation.samples.some(0, count // 2)
    with evaluating(network):
        found = evaluated(network, leaves, alone.with_tensors(prepared(alone.tensors())))
    require_alike(evaluation.outputs[: count // 2].detach(), found.detach(), eps)


def heads_of(outputs: Tensor, kind: str) -> list[Tensor]:
    """Return the cotangents (1, 1, C) of the scalars whose gradients are the kernel's rows."""
    points, channels = outputs.shape[1:]
    if kind == "sum":
        return [outputs.new_full((1, 1, channels), 1 / (math.sqrt(channels) * points))]
    scale = 1 / points if kind == "full" else 1 / (math.sqrt(channels) * points)
    unit = torch.eye(channels, dtype=outputs.dtype, device=outputs.device)
    return list(scale * unit[:, None, None, :])


def _found(evaluation: Evaluation, way: Way) -> Found:
    """Take the gradients of all results of operations with parameters, and cut them by samples."""
    recording = evaluation.recording
    known, others = list(recording.uses), dict[str, Reason](recording.others)
    if way.graph:
        more, unknown = recording.from_graph()
        known += more
        others = {**unknown, **others}
    found = Found([], evaluation.outputs.detach(), evaluation.heads, others)
    for used in known:  # of what is made of two leaves, both have factors or neither
        if why := [others[name] for name in used.use.weight.names if name in others]:
            others |= dict.fromkeys(used.use.weight.names, why[0])
    uses = [used for used in known if used.name not in others]
    if not uses:
        return found
    edges = {(used.edge.node, used.edge.output_nr): used.edge for used in uses}
    places = {key: place for place, key in enumerate(edges)}
    ordered = way.ordered and not recording.selects
    signals = _Signals(evaluation, list(edges.values()), ordered)
    for used in uses:
        place = places[used.edge.node, used.edge.output_nr]
        shape = signals.shape(place)
        if shape is None:
            continue  # nothing comes back through it
        channel = -1 if isinstance(used.use, TableUse) else used.use.channel
        cut = signals.cut(place, channel)
        if cut is None:
            why_not = "rows of its layer that belong to no one sample"
            others |= dict.fromkeys(used.use.weight.names, why_not)
            continue
        found.parts.append(part_of(used.use, cut[1], shape, cut[0]))
    # The Jacobian of a parameter is one sum: its factors must be of one kind.
    kinds: dict[str, set[object]] = {}
    for part in found.parts:
        for name in part.use.weight.names:
            kinds.setdefault(name, set()).add(part.kind)
    for name, of in kinds.items():
        if len(of) > 1:
            for other in _with_partners({name}, found.parts):
                others.setdefault(other, "used in several ways, as a table and otherwise")
    return found


class _Signals:
    """The gradients of recorded results, cut by samples; the same tensor for the same gradient."""

    def __init__(self, evaluation: Evaluation, edges: list[GradientEdge], ordered: bool) -> None:
        self._count, self._ordered = evaluation.samples.count, ordered
        self._edges, self._outputs = edges, evaluation.outputs
        self._heads = evaluation.heads
        self._gradients = [self._taken(head) for head in self._heads]
        self._numbered: tuple[Tensor | None, ...] | None = None
        self._known: dict[object, tuple[Cut, Tensor] | None] = {}

    def _taken(self, head: Tensor) -> tuple[Tensor | None, ...]:
        with WithoutDropout():
            return torch.autograd.grad(
                self._outputs,
                self._edges,
                head.expand(self._outputs.shape),
                retain_graph=True,
                allow_unused=True,
            )

    def shape(self, place: int) -> torch.Size | None:
        """Return the shape of a result; None if it is empty, or nothing comes back through it."""
        reaching = [g[place] for g in self._gradients if g[place] is not None]
        return reaching[0].shape if reaching and reaching[0].numel() else None  # type: ignore[union-attr]

    def cut(self, place: int, channel: int | None) -> tuple[Cut, Tensor] | None:
        """Return gradients (heads, n, u, d), and how they were cut; None if they cannot be."""
        given = [g[place] for g in self._gradients]
        # An added bias hands its gradient on to the product before it.
        views = ((place_of(g), g.shape, g.stride()) if g is not None else None for g in given)
        key = (channel, *views)
        if key not in self._known:
            like = next(g for g in given if g is not None)
            each = [rows_of(torch.zeros_like(like) if g is None else g, channel) for g in given]
            rows = torch.stack(each) if len(each) > 1 else each[0][None]
            kind = self._outputs.dtype
            rows = rows.to(kind.to_complex() if rows.is_complex() else kind)
            cut = self._cut_of(place, channel, rows)
            self._known[key] = None if cut is None else (cut, cut(rows))
        return self._known[key]

    def _cut_of(self, place: int, channel: int | None, rows: Tensor) -> Cut | None:
        if self._ordered and rows.shape[1] % self._count == 0:
            return Cut(self._count)
        # With outputs weighted by their numbers, the gradient of a row is so often what it was.
        spread = [1 + 0.1 * k for k in range(len(self._heads))]  # heads may cancel in a plain sum
        if self._numbered is None:
            numbers = torch.arange(1, self._count + 1, device=rows.device)[:, None, None]
            head = sum(c * h for c, h in zip(spread, self._heads, strict=True))
            self._numbered = self._taken(numbers * head)
        numbered = self._numbered[place]
        if numbered is None:
            return None
        plain = sum(c * r for c, r in zip(spread, rows, strict=True))
        largest = plain.abs().amax(dim=1, keepdim=True)
        safe = torch.where(largest > 0, largest, 1)
        plain, times = plain / safe, rows_of(numbered, channel).to(plain.dtype) / safe
        ratio = (times * plain.conj()).real.sum(dim=1) / plain.abs().square().sum(dim=1)
        owners = ratio.round()
        has_one = largest[:, 0] > 0
        within = (owners >= 1) & (owners <= self._count) & ((ratio - owners).abs() < 0.01)
        if not bool((within | ~has_one).all()):
            return None
        return Cut(self._count, torch.where(has_one, owners.nan_to_num().long() - 1, -1))
