"""Values and their derivatives by coordinates together, while a network is evaluated.

It knows how tensors are told apart that depend on the coordinates; what operations do to their
derivatives is said by the rules that it is given. The derivatives of a tensor are tensors of its
own shape, each for itself: so an operation that is linear does to each what it does to the value,
wherever it puts which axis, and a trained matrix meets rows in the order of the points each time,
as the factors of a kernel want it.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from iga_torch.elementary import CONSTANTS, QUERIES, READINGS, Function, is_in_place
from iga_torch.graph import nodes_behind

Bend = Callable[[], Any] | None
"""Makes a second derivative; None is zero."""

BY_AUTOGRAD = (
    "take the derivatives by torch.autograd.grad in a function that is given to "
    "IGA(function, parameters=...)"
)


@dataclass(frozen=True, eq=False)
class Jet:
    """A tensor that depends on the coordinates, and its derivatives by them.

    Parameters
    ----------
    value : Tensor
        It.
    first : list of Tensor
        Its derivative along each direction.
    second : list of Tensor, optional
        For each group of directions, the sum of its second derivatives; None if all are zero.
    """

    value: Tensor
    first: list[Tensor]
    second: list[Tensor] | None


@dataclass(frozen=True, eq=False)
class Operation:
    """A call of a function, some of whose arguments depend on the coordinates.

    Parameters
    ----------
    func : callable
        Of PyTorch.
    leaves, spec
        What the arguments hold, and how they make positional and keyword arguments; without a
        `spec` they are the positional ones.
    jets : dict of int to Jet
        By their places among the leaves.
    """

    func: Function
    leaves: list[Any]
    spec: TreeSpec | None
    jets: dict[int, Jet]

    def __call__(self, replaced: Mapping[int, Tensor] | None = None) -> Any:
        """Call the function, with other leaves at some places."""
        leaves = list(self.leaves)
        for place, leaf in (replaced or {}).items():
            leaves[place] = leaf
        if self.spec is None:
            return self.func(*leaves)
        args, kwargs = tree_unflatten(leaves, self.spec)
        return self.func(*args, **kwargs)

    def refused(self, why: str = "", instead: str | None = None) -> ValueError:
        """Return the error for what has no rule."""
        name = resolve_name(self.func)
        if name is None or name.startswith("<") or "." not in name:
            name = f"{self.func.__module__}.{self.func.__name__}"
        return ValueError(
            f"network: expected operations whose derivatives are known, got {name}{why}; "
            f"{instead or f'write it in others, or {BY_AUTOGRAD}'}"
        )


class Taylor(TorchFunctionMode):
    """Carries derivatives along with the values of what is evaluated in this mode.

    Every operation on a tensor with a `Jet` has a rule, or is refused: nothing that depends on the
    coordinates passes for a constant.

    Parameters
    ----------
    rules : mapping of callable to callable
        See `taylor_rules`.
    directions : int
        First derivatives of each value.
    groups : sequence of sequence of int
        Directions over which second derivatives are summed.
    watching : bool
        Whether to refuse tensors that depend on the coordinates by ways which no mode sees, such
        as scripted modules; gradients must be recorded.
    """

    def __init__(
        self,
        rules: Mapping[Function, Function],
        directions: int = 0,
        groups: Sequence[Sequence[int]] = (),
        watching: bool = False,
    ) -> None:
        super().__init__()
        self.directions, self.groups = directions, groups
        self._rules = rules
        # Derivatives of each tensor and its version; not the tensor, which would be kept alive.
        self._jets: dict[
            int, tuple[weakref.ref[Tensor], list[Tensor], list[Tensor] | None, int]
        ] = {}
        self._recorded = torch.is_grad_enabled()
        self._watching = watching
        self._ours: set[Any] = set()
        self._others: set[Any] = set()  # nodes of the graph that lead to none of ours

    def start(self, x: Tensor) -> Tensor:
        """Return coordinates (..., d) as a tensor of its own, by which is differentiated."""
        units = torch.eye(self.directions, dtype=x.dtype, device=x.device)
        # Made of the coordinates, so that those who follow what is made of data take it for that.
        first = [torch.zeros_like(x) + unit for unit in units]
        own: Tensor = self._kept(Jet(x.view_as(x), first, None))
        return own

    def end(self, output: Tensor) -> Jet:
        """Return the jet of what was evaluated, of zeros if it is constant."""
        if self._watching:
            self._require_seen([output])
        zeros = [torch.zeros_like(output)] * self.directions
        return self.of(output) or Jet(output, zeros, None)

    def of(self, value: Any) -> Jet | None:
        """Return the jet of a value; None if it is constant."""
        found = self._jets.get(id(value))
        if found is None or found[0]() is not value or not isinstance(value, Tensor):
            return None
        return Jet(value, found[1], found[2])

    def second(self, jet: Jet) -> list[Tensor]:
        """Return second derivatives, zeros too."""
        if jet.second is None:
            return [torch.zeros_like(jet.value)] * len(self.groups)
        return jet.second

    def linear(self, value: Tensor, jets: list[Jet], function: Callable[..., Tensor]) -> Jet:
        """Return the jet of a value whose derivatives are a linear function of several jets'."""
        first = [function(*of) for of in zip(*(jet.first for jet in jets), strict=True)]
        if all(jet.second is None for jet in jets):
            return Jet(value, first, None)
        second = [function(*of) for of in zip(*map(self.second, jets), strict=True)]
        return Jet(value, first, second)

    def composed(self, jet: Jet, value: Tensor, slope: Tensor, bend: Bend) -> Jet:
        """Return the jet of ``f(u)``, entry by entry, of f, f' and f'' at u."""
        first = [slope * along for along in jet.first]
        if bend is None or not self.groups:
            second = None if jet.second is None else [slope * of for of in jet.second]
            return Jet(value, first, second)
        bent = bend()
        second = [bent * products(jet, jet, group) for group in self.groups]
        if jet.second is not None:
            second = [torch.addcmul(a, slope, b) for a, b in zip(second, jet.second, strict=True)]
        return Jet(value, first, second)

    def __torch_function__(
        self,
        func: Function,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # Few calls are nested, and to take a tree apart takes as long as a small product.
        nested = kwargs or any(isinstance(value, list | tuple | dict) for value in args)
        leaves, spec = tree_flatten((args, kwargs)) if nested else (list(args), None)
        if self._watching:
            self._require_seen(leaves)
        jets = {place: jet for place, leaf in enumerate(leaves) if (jet := self.of(leaf))}
        if not jets or func in QUERIES:
            return func(*args, **kwargs)
        operation = Operation(func, leaves, spec, jets)
        if func in CONSTANTS:
            return constant(operation())
        self._require_pure(operation, args, kwargs)
        if func not in self._rules:
            raise operation.refused()
        given = {name: value for name, value in kwargs.items() if name not in ("inplace", "out")}
        first = (given.pop("input"),) if "input" in given else ()
        try:
            found = self._rules[func](self, operation, *first, *args, **given)
        except TypeError as error:
            raise operation.refused(" in a form that is not") from error
        return tuple(map(self._kept, found)) if isinstance(found, tuple) else self._kept(found)

    def _kept(self, found: Any) -> Any:
        """Remember a jet, and return its value; or else what there is."""
        if not isinstance(found, Jet):
            return found
        value, key, jets = found.value, id(found.value), self._jets
        forgetting = weakref.ref(value, lambda _: jets.pop(key, None))
        jets[key] = (forgetting, found.first, found.second, version(value))
        if self._watching:
            self._ours.add(value.grad_fn)
        return value

    def _require_pure(
        self, operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Raise if an operation changes something, or what it is given was changed."""
        func, leaves = operation.func, operation.leaves
        if any(version(leaves[k]) != self._jets[id(leaves[k])][3] for k in operation.jets):
            raise operation.refused(
                " of a tensor that was changed in place", "write what changes it out of place"
            )
        if is_in_place(func, args, kwargs):
            raise operation.refused(", in place", "write it out of place, or pass inplace=False")
        if func in READINGS:
            raise operation.refused(
                ", which takes numbers out of tensors", "read from x.detach(), which is constant"
            )
        if torch.is_grad_enabled() != self._recorded:
            raise operation.refused(
                " where gradients are off, under torch.no_grad or in an autograd.Function",
                f"use x.detach() for what shall be constant, or {BY_AUTOGRAD}",
            )

    def _require_seen(self, leaves: list[Any]) -> None:
        """Raise if a tensor has no jet, but has coordinates in its graph."""
        for leaf in leaves:
            if not isinstance(leaf, Tensor) or self.of(leaf) is not None:
                continue
            with torch._C.DisableTorchFunction():  # to another mode it would be a use of a weight
                node = leaf.grad_fn
            name = node.name() if node is not None else ""
            seen = set()
            for behind in nodes_behind([node], self._others):
                if behind in self._ours:
                    raise ValueError(
                        "network: expected operations whose derivatives are known, got a tensor "
                        f"that {name} made of the coordinates unseen, as scripted modules and "
                        "functions with a backward pass of their own do; write it in operations of "
                        f"PyTorch, or {BY_AUTOGRAD}"
                    )
                seen.add(behind)
            self._others |= seen


def products(a: Jet, b: Jet, group: Sequence[int]) -> Tensor:
    """Return the sum over some directions of the products of two tensors' derivatives."""
    found = a.first[group[0]] * b.first[group[0]]
    for k in group[1:]:
        found = torch.addcmul(found, a.first[k], b.first[k])
    return found


def constant(result: Any) -> Any:
    """Return what has no derivative by anything."""
    return result.detach() if isinstance(result, Tensor) and result.requires_grad else result


def is_inexact(value: Any) -> bool:
    """Say whether something is a tensor of numbers that may have derivatives."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def version(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place, where that is counted."""
    return 0 if tensor.is_inference() else tensor._version
