"""The arguments of a network's call, and the part of them that belongs to each sample."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

Key = int | str


@dataclass(frozen=True, eq=False)
class Samples:
    """What a network is called with, for `count` samples.

    A sample is `each` consecutive entries along `axis` of those arguments that are sampled; all
    others belong to every sample.

    Parameters
    ----------
    arguments : mapping
        Positional arguments under 0, 1, ... and keyword arguments under their names.
    sampled : frozenset
        Keys of the tensors that are sampled.
    axis : int
        0, or 1 behind a leading axis of length one.
    count, each : int
        Samples, and entries of each.
    """

    arguments: Mapping[Key, Any]
    sampled: frozenset[Key]
    axis: int
    count: int
    each: int = 1

    def call(self, network: Callable[..., Any]) -> Any:
        """Call a network with these arguments."""
        positional = [value for key, value in self.arguments.items() if isinstance(key, int)]
        keywords = {key: value for key, value in self.arguments.items() if isinstance(key, str)}
        return network(*positional, **keywords)

    def tensors(self) -> list[Tensor]:
        """Return the sampled arguments, in the order of the call."""
        return [value for key, value in self.arguments.items() if key in self.sampled]

    def with_tensors(self, tensors: list[Tensor]) -> "Samples":
        """Return the same call with other sampled arguments."""
        others = iter(tensors)
        return replace(
            self,
            arguments={
                key: next(others) if key in self.sampled else value
                for key, value in self.arguments.items()
            },
        )

    def some(self, start: int, stop: int) -> "Samples":
        """Return samples ``start <= i < stop``."""
        length = (stop - start) * self.each
        parts = [t.narrow(self.axis, start * self.each, length) for t in self.tensors()]
        return replace(self.with_tensors(parts), count=stop - start)

    def stacked(self) -> list[Tensor]:
        """Return the sampled arguments as (count, ...), each row the arguments of one sample."""
        return [
            t.unflatten(self.axis, (self.count, self.each)).movedim(self.axis, 0)
            for t in self.tensors()
        ]

    def shapes(self) -> tuple[object, ...]:
        """Return what tells one form of call from another."""
        like = [(tuple(t.shape), t.dtype, t.device) for t in self.tensors()]
        return (tuple(self.arguments), self.sampled, self.axis, self.count, *like)


def arguments_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[Key, Any]:
    """Return a call's arguments under the keys of `Samples`."""
    arguments: dict[Key, Any] = dict(enumerate(args))
    arguments.update(kwargs)
    return arguments


def leading(arguments: Mapping[Key, Any], shape: tuple[int, ...]) -> frozenset[Key]:
    """Return the keys of the tensors whose first axes are these."""
    return frozenset(
        key
        for key, value in arguments.items()
        if isinstance(value, Tensor) and tuple(value.shape[: len(shape)]) == shape
    )
