"""What operations do with a trained weight and data, whatever they are called.

Three things have factors: products of a matrix with rows of data, vectors that are added to data
or multiplied with them entry by entry, and tables whose rows are read.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from iga_torch.weights import MULTIPLES, Weight, Weights

Readers = dict[Callable[..., Any], Callable[..., "Contraction | None"]]


@dataclass(frozen=True, eq=False)
class Contraction:
    """A result ``z[…, r, …] = Σ_c weight[r, c] inputs[…, c]``, and a bias that is added to it.

    Parameters
    ----------
    inputs : Tensor
        With the axis that is summed over at the end, the others as in the result.
    weight : Tensor
        Trained.
    rows, columns : int
        Axes of the weight that are kept and summed over; there are no rows if it is a vector.
    channel : int
        Axis of the result that the rows become.
    bias : Tensor, optional
        One number a row.
    """

    inputs: Tensor
    weight: Tensor
    rows: int | None
    columns: int
    channel: int | None
    bias: Tensor | None = None


@dataclass(frozen=True, eq=False)
class MatrixUse:
    """A trained matrix in one contraction: with what inputs, and which axis of the result."""

    weight: Weight
    sides: tuple[int, int]
    """Of the leaf: the rows of the product, and what it is summed over."""
    inputs: Tensor
    channel: int | None

    @property
    def name(self) -> str:
        """Of the leaf."""
        return self.weight.name


@dataclass(frozen=True, eq=False)
class VectorUse:
    """A trained vector, or number, that is added to data, or multiplied with a `factor`."""

    weight: Weight
    channel: int | None
    """Axis of the result along which it runs; None for a number."""
    factor: Tensor | int | None = None

    @property
    def name(self) -> str:
        """Of the leaf."""
        return self.weight.name


@dataclass(frozen=True, eq=False)
class TableUse:
    """One reading of the rows `indices` of a table."""

    weight: Weight
    indices: Tensor
    padding: int | None = None

    @property
    def name(self) -> str:
        """Of the leaf."""
        return self.weight.name


Use = MatrixUse | VectorUse | TableUse


def uses_of(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    result: Tensor,
    weights: Weights,
) -> list[Use]:
    """Return what an operation did with each of the weights that it read, where that is known."""
    try:
        if func in CONTRACTIONS:
            found = CONTRACTIONS[func](weights, *args, **kwargs)
            return [] if found is None else _of_contraction(found, weights)
        if func in TABLES:
            table = TABLES[func](weights, *args, **kwargs)
            return [] if table is None else [table]
        if func in ELEMENTWISE:
            vector = _entry_by_entry(ELEMENTWISE[func], weights, result, *args, **kwargs)
            return [] if vector is None else [vector]
    except TypeError:  # a form of the call that is not known here
        pass
    return []


def _of_contraction(found: Contraction, weights: Weights) -> list[Use]:
    uses: list[Use] = []
    weight, bias = weights.of(found.weight), weights.of(found.bias)
    if weights.of(found.inputs) is not None:
        return []
    if weight is not None:
        sides = weight.sides(found.rows, found.columns)
        if sides is None:
            return []
        uses.append(MatrixUse(weight, sides, found.inputs.detach(), found.channel))
    if bias is not None:
        if set(bias.axes[:-1]) - {None} or bias.bases != (None, None):
            return uses
        uses.append(VectorUse(bias, found.channel))
    return uses


def _linear(
    weights: Weights,  # noqa: ARG001
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
) -> Contraction | None:
    return Contraction(input, weight, 0, 1, -1, bias) if weight.ndim == 2 else None


def _matmul(weights: Weights, a: Tensor, b: Tensor) -> Contraction | None:
    if weights.of(b) is not None:
        if b.ndim == 1:
            return Contraction(a, b, None, 0, None)
        return Contraction(a, b, -1, -2, -1)
    if a.ndim == 1 or b.ndim == 1:
        return None
    return Contraction(b.movedim(-2, -1), a, -2, -1, -2)


def _addmm(
    weights: Weights,
    bias: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> Contraction | None:
    found = _matmul(weights, a, b)
    if found is None or beta != 1 or alpha != 1:
        return None
    if weights.of(bias) is None:
        return found
    return replace(found, bias=bias) if found.channel == -1 else None


def _convolution(
    weights: Weights,  # noqa: ARG001
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,  # noqa: ARG001
    groups: int = 1,
) -> Contraction | None:
    """Read a convolution whose kernel is one point: a layer at every point."""
    space = weight.ndim - 2
    plain = (
        all(size == 1 for size in weight.shape[2:])
        and all(step == 1 for step in _each(stride))
        and (isinstance(padding, str) or all(width == 0 for width in _each(padding)))
        and groups == 1
    )
    channel = -(space + 1)
    return Contraction(input.movedim(channel, -1), weight, 0, 1, channel, bias) if plain else None


def _each(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _einsum(weights: Weights, equation: Any, *operands: Any) -> Contraction | None:
    """Read a sum over one axis of a weight, of which one other axis is kept."""
    given = operands[0] if len(operands) == 1 else operands
    if not isinstance(equation, str) or len(given) != 2:
        return None
    left, arrow, kept = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    at = next((k for k in (0, 1) if weights.of(given[k]) is not None), None)
    if at is None or not arrow or len(terms) != 2:
        return None
    weight, term, inputs, other = given[at], terms[at], given[1 - at], terms[1 - at]
    # An ellipsis stands for as many axes as are left, all of the data.
    free = "".join(chr(ord("α") + k) for k in range(inputs.ndim - len(other.replace("...", ""))))
    other, kept = other.replace("...", free), kept.replace("...", free)
    summed = [axis for axis in term if axis in other and axis not in kept]
    rows = [axis for axis in term if axis in kept and axis not in other]
    known = len(term) == weight.ndim == 2 and len(summed) == len(rows) == 1
    others = [axis for axis in kept if axis not in rows]
    once = len(set(other)) == len(other) and sorted([*others, *summed]) == sorted(other)
    if not known or not once:
        return None
    moved = inputs.permute(*(other.index(axis) for axis in [*others, *summed]))
    return Contraction(
        moved, weight, term.index(rows[0]), term.index(summed[0]), kept.index(rows[0]) - len(kept)
    )


def _embedding(
    weights: Weights,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,  # noqa: ARG001
    scale_grad_by_freq: bool = False,
    sparse: bool = False,  # noqa: ARG001
) -> TableUse | None:
    found = _table(weights, weight)
    if found is None or scale_grad_by_freq or max_norm is not None:
        return None
    return TableUse(found, input, None if padding_idx is None else padding_idx % weight.shape[0])


def _rows_of_table(weights: Weights, table: Tensor, index: Any) -> TableUse | None:
    found = _table(weights, table)
    whole = isinstance(index, Tensor) and index.dtype in (torch.int64, torch.int32)
    if found is None or not whole or index.ndim == 0:
        return None
    return TableUse(found, torch.remainder(index, table.shape[0]))


def _table(weights: Weights, table: Tensor) -> Weight | None:
    """Return the weight of a table that is a leaf itself, row by row."""
    found = weights.of(table)
    return found if found is not None and found.leaf is table and table.ndim == 2 else None


def _entry_by_entry(
    kind: str, weights: Weights, result: Tensor, a: Any, b: Any, *, alpha: float = 1
) -> VectorUse | None:
    weight, other = (weights.of(a), b) if weights.of(a) is not None else (weights.of(b), a)
    is_first = weights.of(a) is not None
    # What is changed in place on a view has its gradient elsewhere.
    if weight is None or not isinstance(other, Tensor) or weights.of(other) is not None:
        return None
    trained = a if is_first else b
    longer = [axis - trained.ndim for axis, of in enumerate(weight.axes) if of is not None
              and trained.shape[axis] > 1]  # fmt: skip
    if alpha != 1 or len(longer) > 1 or weight.bases != (None, None) or result._is_view():
        return None
    channel = longer[0] if longer else None
    if kind == "add":
        return VectorUse(weight, channel)
    if kind == "subtract":
        return VectorUse(weight, channel, None if is_first else -1)
    return VectorUse(weight, channel, other.detach())


CONTRACTIONS: Readers = {
    F.linear: _linear,
    **dict.fromkeys(
        (torch.matmul, torch.mm, torch.bmm, Tensor.matmul, Tensor.mm, Tensor.bmm,
         Tensor.__matmul__, torch.mv, Tensor.mv),
        _matmul,
    ),
    Tensor.__rmatmul__: lambda weights, a, b: _matmul(weights, b, a),
    **dict.fromkeys((torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm), _addmm),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _convolution),
    torch.einsum: _einsum,
}  # fmt: skip
TABLES: dict[Callable[..., Any], Callable[..., TableUse | None]] = {
    F.embedding: _embedding,
    Tensor.__getitem__: _rows_of_table,
}
ELEMENTWISE: dict[Callable[..., Any], str] = {
    **dict.fromkeys(
        (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.add_, Tensor.__iadd__),
        "add",
    ),
    **dict.fromkeys((torch.sub, Tensor.sub, Tensor.__sub__, Tensor.sub_, Tensor.__isub__),
                    "subtract"),
    **dict.fromkeys(MULTIPLES, "multiply"),  # in place, the factor would be gone
}  # fmt: skip
