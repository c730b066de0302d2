"""The arguments of a network's call, and the part of them that belongs to each sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


def _itself(output: Any) -> Any:
    return output


@dataclass(frozen=True, eq=False)
class Samples:
    """What a network is called with, for `count` samples.

    A sample is `each` consecutive entries along `axis` of those tensors that are sampled; all else
    belongs to every sample.

    Parameters
    ----------
    leaves : tuple
        What the arguments hold, nested as they may be: tensors and others, in the order of `spec`.
    spec : TreeSpec
        How they make positional and keyword arguments.
    sampled : tuple of int
        Places among the leaves of the tensors that are sampled.
    axis : int
        0, or that behind some leading axes of length one.
    count, each : int
        Samples, and entries of each.
    output : callable
        Takes the tensor of outputs out of what the network returns.
    """

    leaves: tuple[Any, ...]
    spec: TreeSpec
    sampled: tuple[int, ...]
    axis: int
    count: int
    each: int = 1
    output: Callable[[Any], Any] = _itself

    @classmethod
    def of(cls, x: Tensor, count: int, each: int = 1) -> "Samples":
        """Return the call with one tensor whose first axis holds the samples."""
        leaves, spec = tree_flatten(((x,), {}))
        return cls(tuple(leaves), spec, (0,), 0, count, each)

    def call(self, network: Callable[..., Any]) -> Any:
        """Call a network with these arguments, and return its tensor of outputs."""
        args, kwargs = tree_unflatten(list(self.leaves), self.spec)
        return self.output(network(*args, **kwargs))

    def tensors(self) -> list[Tensor]:
        """Return the sampled tensors, in the order of the call."""
        return [self.leaves[place] for place in self.sampled]

    def with_tensors(self, tensors: Sequence[Tensor]) -> "Samples":
        """Return the same call with other sampled tensors."""
        return replace(self, leaves=replaced(self.leaves, self.sampled, tensors))

    def some(self, start: int, stop: int) -> "Samples":
        """Return samples ``start <= i < stop``."""
        length = (stop - start) * self.each
        parts = [t.narrow(self.axis, start * self.each, length) for t in self.tensors()]
        return replace(self.with_tensors(parts), count=stop - start)

    def stacked(self) -> list[Tensor]:
        """Return the sampled tensors as (count, ...), each row those of one sample."""
        return [
            t.unflatten(self.axis, (self.count, self.each)).movedim(self.axis, 0)
            for t in self.tensors()
        ]

    def shapes(self) -> tuple[object, ...]:
        """Return what tells one form of call from another."""
        like = [(tuple(t.shape), t.dtype, t.device) for t in self.tensors()]
        return (len(self.leaves), self.sampled, self.axis, self.count, *like)


def replaced(
    leaves: tuple[Any, ...], places: Sequence[int], values: Sequence[Any]
) -> tuple[Any, ...]:
    """Return leaves with others at some places."""
    found = list(leaves)
    for place, value in zip(places, values, strict=True):
        found[place] = value
    return tuple(found)
