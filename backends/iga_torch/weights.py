"""What is a trained matrix still: its views, copies, multiples, and products with fixed matrices.

People write one layer in many ways, ``x @ W.T``, ``x.matmul(W.permute(1, 0))``,
``x @ (coefficients @ basis).T``. All use a tensor ``T = c P M Qᵀ`` or its transpose, of one trained
leaf M, fixed matrices P and Q and a number c, and of M the gradient is known from that of T. So
tensors of that form are followed through an evaluation, whatever made them.
"""

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from iga_torch.bases import root
from iga_torch.normed import Normed, normed

COPIES: tuple[Any, ...] = (Tensor.clone, torch.clone, Tensor.contiguous)
MULTIPLES: frozenset[Any] = frozenset(
    {Tensor.mul, Tensor.__mul__, Tensor.multiply, torch.mul, torch.multiply}
)
QUOTIENTS = frozenset({Tensor.div, Tensor.__truediv__, Tensor.divide, torch.div, torch.divide})
NEGATIVES = frozenset({Tensor.neg, Tensor.__neg__, Tensor.negative, torch.neg, torch.negative})
PRODUCTS = frozenset({torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__})


@dataclass(frozen=True, eq=False)
class Weight:
    """A tensor that is a trained leaf but for the order of its axes, fixed factors and a number.

    Parameters
    ----------
    name : str
        Of the leaf.
    leaf : Tensor
        It.
    axes : tuple
        For each axis of the tensor, which of the leaf's axes longer than one it is, counted
        without the others; None for axes of length one.
    bases : pair of Tensor or None
        For each axis of the leaf, what it is multiplied by, as (length in the leaf, length in
        the tensor).
    scale : number or Tensor
        The fixed number.
    made : Normed, optional
        If `leaf` is a matrix that is made of trained leaves otherwise.
    """

    name: str
    leaf: Tensor
    axes: tuple[int | None, ...]
    bases: tuple[Tensor | None, Tensor | None] = (None, None)
    scale: Any = 1
    made: Normed | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of all leaves that it is made of."""
        return (self.name,) if self.made is None else self.made.names

    def sides(self, rows: int | None, columns: int) -> tuple[int, int] | None:
        """Return which sides of the leaf two axes of the tensor are; None if there are others."""
        row = None if rows is None else self.axes[rows]
        column = self.axes[columns]
        # An axis of length one is on the side that is left over.
        row = row if row is not None else (0 if column is None else 1 - column)
        column = column if column is not None else 1 - row
        inside = {axis for axis in self.axes if axis is not None} <= {row, column}
        return (row, column) if inside and {row, column} == {0, 1} else None


def leaf_weight(name: str, leaf: Tensor) -> Weight:
    """Return what a leaf is itself."""
    return Weight(name, leaf, _axes(leaf.shape))


def _axes(shape: torch.Size) -> tuple[int | None, ...]:
    if len(shape) == 2:
        return (0, 1)
    places = iter(range(len(shape)))
    return tuple(next(places) if size > 1 else None for size in shape)


class Weights:
    """The tensors of an evaluation that are trained leaves in that sense, and those that hold data.

    Data are the sampled arguments and whatever was made from them. Only what is neither data nor
    trained is fixed: a product of data and a weight is no weight.
    """

    def __init__(self, leaves: Mapping[str, Tensor]) -> None:
        # Tensors are kept, so that no other one gets the id of one of them.
        self._weights = {id(t): (t, leaf_weight(name, t), t._version) for name, t in leaves.items()}
        self._data: dict[int, weakref.ref[Tensor]] = {}

    def of(self, value: Any) -> Weight | None:
        """Return what a value is of a leaf; None if it is nothing of the kind."""
        found = self._weights.get(id(value))
        return None if found is None else found[1]

    def nodes(self) -> dict[Any, Tensor]:
        """Return the nodes of the graph that weights come from, and these."""
        found: dict[Any, Tensor] = {}
        for tensor, weight, _ in self._weights.values():
            node = get_gradient_edge(tensor).node if tensor is weight.leaf else tensor.grad_fn
            if node is not None:
                found[node] = tensor
        return found

    def found(self, source: Tensor, tensor: Tensor) -> Tensor | None:
        """Return a view of a weight's numbers, known as a weight; None if it is none."""
        _, weight, version = self._weights[id(source)]
        axes = _viewed(source, weight.axes, tensor) if source._version == version else None
        if axes is None:
            return None
        view = tensor.detach()
        self._weights[id(view)] = (view, replace(weight, axes=axes), view._version)
        return view

    def like(self, source: Tensor, sizes: Sequence[int], strides: Sequence[int]) -> Tensor | None:
        """Return a weight as a view of this form, known as a weight; None if it is none."""
        if math.prod(sizes) != source.numel():
            return None
        view = source.detach().as_strided(sizes, strides, source.storage_offset())
        return self.found(source, view)

    def is_data(self, tensor: Tensor) -> bool:
        """Say whether a tensor is known to be made from the sampled arguments."""
        found = self._data.get(id(tensor))
        return found is not None and found() is tensor

    def note_data(self, tree: Any) -> None:
        """Remember tensors as data."""
        for tensor in tensors_in(tree):
            self._data[id(tensor)] = weakref.ref(tensor)

    def is_fixed(self, value: Any) -> bool:
        """Say whether a value is a tensor that is neither trained nor data."""
        return isinstance(value, Tensor) and not value.requires_grad and not self.is_data(value)

    def follow(self, func: Callable[..., Any], args: tuple[Any, ...], result: Any) -> bool:
        """Say whether the result of an operation is a weight again, and remember it if so."""
        found = self._followed(func, args, result) if isinstance(result, Tensor) else None
        if found is None:
            return False
        self._weights[id(result)] = (result, found, result._version)
        return True

    def follow_made(self, func: Callable[..., Any], args: tuple[Any, ...], result: Any) -> bool:
        """Say whether the result is a matrix made of leaves, and remember it if so."""
        found = normed(func, args, result, self._leaf_name)
        if found is None:
            return False
        weight = Weight(found.names[0], result, _axes(result.shape), made=found)
        self._weights[id(result)] = (result, weight, result._version)
        return True

    def _leaf_name(self, value: Any) -> str | None:
        weight = self.of(value)
        return weight.name if weight is not None and weight.leaf is value else None

    def is_changed(self, tensor: Tensor) -> bool:
        """Say whether a weight was changed in place since it was first seen."""
        return tensor._version != self._weights[id(tensor)][2]

    def _followed(
        self, func: Callable[..., Any], args: tuple[Any, ...], result: Tensor
    ) -> Weight | None:
        first = self.of(args[0]) if args else None
        if first is not None:
            axes = _viewed(args[0], first.axes, result)
            if axes is not None:
                return replace(first, axes=axes)
            if args[0] is first.leaf and _is_reshaped(first.leaf, result):
                return replace(first, axes=_axes(result.shape))
            if func in COPIES and result.dtype == args[0].dtype:
                return first
            if func in NEGATIVES:
                return replace(first, scale=-first.scale)
        if len(args) != 2:
            return None
        second = self.of(args[1])
        if (first is None) == (second is None):
            return None
        weight, other = (first, args[1]) if first is not None else (second, args[0])
        assert weight is not None
        if result.dtype != weight.leaf.dtype:
            return None
        if func in MULTIPLES and self._is_number(other):
            return replace(weight, scale=weight.scale * other)
        if func in QUOTIENTS and first is not None and self._is_number(other):
            return replace(weight, scale=weight.scale / other)
        if func in PRODUCTS and result.ndim == 2 and self.is_fixed(other) and other.ndim == 2:
            return _product(weight, other, on_the_right=first is not None)
        return None

    def _is_number(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            return value.ndim == 0 and self.is_fixed(value)
        return isinstance(value, int | float | complex)


def _product(weight: Weight, other: Tensor, on_the_right: bool) -> Weight | None:
    """Return ``T B``, or ``B T``, of a matrix T."""
    sides = weight.sides(0, 1)
    if sides is None or weight.leaf.ndim != 2:
        return None
    side = sides[1] if on_the_right else sides[0]
    basis, before = other if on_the_right else other.T, weight.bases[side]
    if before is not None:
        basis = before @ basis
    bases = tuple(basis if k == side else weight.bases[k] for k in (0, 1))
    return replace(weight, axes=sides, bases=bases)  # type: ignore[arg-type]


def _viewed(
    source: Tensor, axes: tuple[int | None, ...], result: Tensor
) -> tuple[int | None, ...] | None:
    """Read from strides which axes of a view are which of its source; None if it is none.

    No list of functions does this: transposing, permuting, adding axes, and whatever PyTorch has
    yet for it, all leave the numbers where they are.
    """
    if not _are_the_same_numbers(source, result):
        return None
    strides = zip(source.shape, source.stride(), axes, strict=True)
    places = {(size, stride): axis for size, stride, axis in strides if size > 1}
    found = tuple(
        places.get((size, stride), -1) if size > 1 else None
        for size, stride in zip(result.shape, result.stride(), strict=True)
    )
    longer = [axis for axis in found if axis is not None]
    return found if -1 not in longer and len(longer) == len(places) else None


def _are_the_same_numbers(source: Tensor, result: Tensor) -> bool:
    return (
        result.layout == source.layout == torch.strided
        and result.dtype == source.dtype
        and result.numel() == source.numel()
        and place_of(result) == place_of(source)
        and result.is_conj() == source.is_conj()
        and result.is_neg() == source.is_neg()
    )


def place_of(tensor: Tensor) -> tuple[object, object]:
    """Return where a tensor's numbers begin, also of one that has none, on "meta"."""
    return tensor.untyped_storage()._cdata, tensor.storage_offset()


def _is_reshaped(leaf: Tensor, result: Tensor) -> bool:
    """Say whether a leaf's numbers are read in their order, in another shape."""
    contiguous = leaf.is_contiguous() and result.is_contiguous()
    return contiguous and _are_the_same_numbers(leaf, result)


def reduced(values: Tensor, basis: Tensor | None, whole: bool) -> Tensor:
    """Return ``values Bᵀ``; unless the `whole` is asked for, something of equal scalar products."""
    if basis is None:
        return values
    return values @ (basis if whole else root(basis)).to(values.dtype).T


def tensors_in(tree: Any) -> list[Tensor]:
    """Return the tensors in nested lists, tuples and mappings."""
    if isinstance(tree, Tensor):
        return [tree]
    found: list[Tensor] = []
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list | tuple):
            waiting += reversed(value)
        elif isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, Mapping):
            waiting += reversed(value.values())  # type: ignore[call-overload]
    return found
