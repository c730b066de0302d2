"""Uses of trained leaves that no call of a function shows, read from autograd's graph.

A network that takes derivatives in its forward pass, by `torch.autograd.grad` or by `torch.func`,
is multiplied with its transposed weights on the way back, inside the engine, where no call can be
recorded. But what it returns has a graph, in which each of these products is a node, with what it
was given. This module knows PyTorch's names of such nodes, and nothing of kernels.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from iga_torch.operations import Use, VectorUse, uses_of
from iga_torch.weights import Weight, Weights

VIEWS = frozenset(
    f"{name}Backward{number}"
    for name in ("Alias", "Clone", "Conj", "Expand", "Permute", "ReshapeAlias", "Squeeze", "T",
                 "ToCopy", "Transpose", "UnsafeView", "Unsqueeze", "View")
    for number in range(7)
)  # fmt: skip
"""Nodes that hand a tensor on; what becomes of it is seen where it is used."""
OPERANDS: dict[str, tuple[Callable[..., Any], int, str, str]] = {
    "MmBackward0": (torch.mm, 0, "self", "mat2"),
    "AddmmBackward0": (torch.mm, 1, "mat1", "mat2"),
    "BmmBackward0": (torch.matmul, 0, "self", "mat2"),
    "MvBackward0": (torch.mv, 0, "self", "vec"),
    "MulBackward0": (torch.mul, 0, "self", "other"),
}
"""Nodes of two operands: what they do, the edge of the first one, and what they are saved as."""
SUMS = {"AddBackward0": 1, "SubBackward0": -1, "AddmmBackward0": 1}
"""Nodes that add a vector, and the sign of the second operand."""


def nodes_behind(starts: Iterable[Any], but: Container[Any] = ()) -> Iterator[Any]:
    """Yield the nodes of a graph from some on, once each; not those in `but`, nor behind them."""
    seen, waiting = set(), list(starts)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or node in but:
            continue
        seen.add(node)
        yield node
        waiting += [following for following, _ in node.next_functions]


@dataclass(frozen=True, eq=False)
class Used:
    """What was done with a weight, where its result's gradient is had, and what did it."""

    use: Use
    edge: GradientEdge
    operation: Callable[..., Any]

    @property
    def name(self) -> str:
        """Of the leaf."""
        return self.use.name


@dataclass(frozen=True, eq=False)
class Step:
    """A recorded operation, as the nodes between its result's and those of what it was given."""

    result: Any
    given: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Reader:
    """A node that was given weights, and for each of its edges the weight that comes by it."""

    node: Any
    sources: tuple[Tensor | None, ...]


def readers_in_graph(outputs: Tensor, weights: Weights, steps: Iterable[Step]) -> list[Reader]:
    """Return the nodes that read weights in the graph of some outputs, but for recorded steps'.

    Parameters
    ----------
    outputs : Tensor
        Of an evaluation.
    weights : Weights
        Seen in it.
    steps : iterable of Step
        Whose uses are known.
    """
    sources = weights.nodes()
    known = set(sources).union(*(nodes_behind([step.result], step.given) for step in steps))
    found = []
    for node in nodes_behind([outputs.grad_fn]):
        if node in known or node.name() in VIEWS:
            continue
        read = tuple(_weight_behind(following, sources) for following, _ in node.next_functions)
        if any(source is not None for source in read):
            found.append(Reader(node, read))
    return found


def form_of(readers: Iterable[Reader], weights: Weights) -> tuple[object, ...]:
    """Return the kinds of nodes that read weights, and which leaves.

    It tells a function that has come to take a derivative from what it was, though its calls are
    the same.
    """
    return tuple(sorted(
        (reader.node.name(), tuple(weight.name for weight in _weights_of(reader, weights)))
        for reader in readers
    ))  # fmt: skip


def uses_of_readers(
    readers: Iterable[Reader], weights: Weights
) -> tuple[list[Used], dict[str, str]]:
    """Return what nodes did with the weights that they read.

    Returns
    -------
    uses : list of Used
        Those that have factors.
    others : dict of str to str
        Leaves that were used otherwise, and by what node.
    """
    uses: list[Used] = []
    others: dict[str, str] = {}
    for reader in readers:
        node = reader.node
        found = _uses_of_node(node, reader.sources, weights)
        uses += [Used(use, GradientEdge(node, 0), torch.autograd.grad) for use in found]
        names = {name for weight in _weights_of(reader, weights) for name in weight.names}
        for name in names.difference(*(use.weight.names for use in found)):
            others.setdefault(name, f"read by {node.name()} in the graph of a derivative")
    return uses, others


def _weights_of(reader: Reader, weights: Weights) -> list[Weight]:
    return [weight for source in reader.sources if (weight := weights.of(source)) is not None]


def _weight_behind(node: Any, sources: dict[Any, Tensor]) -> Tensor | None:
    """Return the weight of which an edge brings nothing but views."""
    while node is not None and node not in sources and node.name() in VIEWS:
        ((node, _),) = node.next_functions
    return sources.get(node)


def _uses_of_node(node: Any, read: Sequence[Tensor | None], weights: Weights) -> list[Use]:
    kind, uses = node.name(), []
    if kind in SUMS and not {getattr(node, f"_saved_{of}", 1) for of in ("alpha", "beta")} - {1}:
        uses += _added(node, read, weights, SUMS[kind])
    if kind in OPERANDS and getattr(node, "_saved_alpha", 1) == 1:
        operation, first, *saved = OPERANDS[kind]
        try:
            sides = zip(saved, read[first : first + 2], strict=True)
            operands = [_operand(node, what, source, weights) for what, source in sides]
        except (AttributeError, RuntimeError):  # of another PyTorch; freed, or changed since
            return uses
        if all(operand is not None for operand in operands):
            nothing = torch.empty(0)  # a result is asked only whether it is a view
            uses += uses_of(operation, tuple(operands), {}, nothing, weights)
    return uses


def _added(node: Any, read: Sequence[Tensor | None], weights: Weights, sign: int) -> list[Use]:
    """Return the uses of vectors in a sum: each leaf itself, along the last axis."""
    uses: list[Use] = []
    for place, source in enumerate(read):
        if source is None or (node.name() == "AddmmBackward0" and place > 0):
            continue
        weight, following = weights.of(source), node.next_functions[place][0]
        assert weight is not None
        leaf = weight.leaf
        if leaf.ndim == 1 and leaf.is_leaf and following is get_gradient_edge(leaf).node:
            factor = -1 if place == 1 and sign < 0 else None
            uses.append(VectorUse(weight, -1 if len(leaf) > 1 else None, factor))
    return uses


def _operand(node: Any, what: str, source: Tensor | None, weights: Weights) -> Tensor | None:
    """Return what a node was given; of a weight, a tensor that `weights` knows."""
    tensor = getattr(node, f"_saved_{what}")
    if source is None:
        return None if tensor is None else tensor.detach()
    if tensor is None:
        # The other operand has no gradient, so that only the form of this one was kept. Nodes are
        # PyTorch's, with attributes that no type tells of.
        form: Any = [getattr(node, f"_saved_{what}_sym_{of}", None) for of in ("sizes", "strides")]
        return None if None in form else weights.like(source, *form)
    if tensor.ndim == 3 and tensor.stride(0) == 0:
        tensor = tensor[0]  # one matrix for a whole batch
    return weights.found(source, tensor)
