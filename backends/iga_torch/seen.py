"""Knowing the same points again, without waiting for a device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from iga_torch.layout import Layout
from iga_torch.samples import Samples


@dataclass(frozen=True, eq=False)
class Seen:
    """The points of which a kernel was made, by which the same points are known again.

    Parameters
    ----------
    positions : Tensor of int64, shape (n, s)
        Of the representatives.
    values : list of Tensor
        The call's tensors, those that are sampled at the representatives only; copies.
    storages : list of tuple, optional
        Where they are, and at which version; None where that is not known, as after loading.
    others : list, optional
        Arguments that are no tensors; None as for `storages`.
    """

    positions: Tensor
    values: list[Tensor]
    storages: list[tuple[object, ...]] | None = None
    others: list[Any] | None = None

    @classmethod
    def of(
        cls, layout: Layout, tensors: list[Tensor], samples: Samples, positions: Tensor
    ) -> "Seen":
        """Remember the arguments of a call."""
        values = [tensor.clone() for tensor in _tensors_of(samples)]
        return cls(positions, values, _storages(layout, tensors), layout.others())

    def again(self, layout: Layout, tensors: list[Tensor]) -> bool:
        """Say whether a call is known to be of the same points.

        On a CPU it is if all arguments have the same values, those that are sampled at the
        representatives: no count of versions sees what NumPy or `.data` change. An accelerator is
        asked for values after loading only; there the tensors must be the same, unchanged.
        """
        if self.others is not None and not _are_same(self.others, layout.others()):
            return False
        on_host = all(tensor.device.type == "cpu" for tensor in tensors)
        if not on_host and self.storages is not None:
            return self.storages == _storages(layout, tensors)
        if len(self.positions) != layout.groups or int(self.positions.max()) >= layout.points:
            return False
        now = _tensors_of(layout.samples(tensors, self.positions.to(tensors[0].device)))
        return len(now) == len(self.values) and all(
            a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b.to(a.device))
            for a, b in zip(now, self.values, strict=True)
        )

    def state(self) -> dict[str, Tensor]:
        """Return by name what another process can know the points by; not copies."""
        return {"positions": self.positions} | {f"points.{k}": v for k, v in enumerate(self.values)}

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> "Seen | None":
        """Return what `state` gave, if a mapping has it; raise ValueError if it is damaged."""
        if "positions" not in state:
            return None
        found = torch.as_tensor(state["positions"])
        names = [f"points.{k}" for k in range(len(state)) if f"points.{k}" in state]
        if found.dtype != torch.int64 or found.ndim != 2 or found.numel() == 0 or found.min() < 0:
            raise ValueError(
                "state: expected positions (groups, samples) from 0, got "
                f"{found.dtype} of shape {tuple(found.shape)}; load what adjustment_state returned"
            )
        return cls(found, [torch.as_tensor(state[name]) for name in names])

    def __getstate__(self) -> dict[str, Any]:
        # Storages of another process or copy are others, and not all arguments can be pickled.
        return {**self.__dict__, "storages": None, "others": None}


def _tensors_of(samples: Samples) -> list[Tensor]:
    """Return a call's tensors, sampled or not."""
    return [leaf.detach() for leaf in samples.leaves if isinstance(leaf, Tensor)]


def _storages(layout: Layout, tensors: list[Tensor]) -> list[tuple[object, ...]]:
    given = [leaf for leaf in layout.leaves if isinstance(leaf, Tensor)]
    return [storage_of(tensor) for tensor in (*tensors, *given)]


def _are_same(a: list[Any], b: list[Any]) -> bool:
    """Say whether arguments that are no tensors are known to be the same."""

    def known(x: Any, y: Any) -> bool:
        plain = type(x) is type(y) and isinstance(x, int | float | complex | str | bytes)
        return x is y or (plain and bool(x == y))

    return len(a) == len(b) and all(map(known, a, b))


def storage_of(tensor: Tensor) -> tuple[object, ...]:
    """Return what tells a tensor's numbers from others, without reading them.

    A weak reference keeps the storage's address from being given to another one.
    """
    view = (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype)
    try:
        return StorageWeakRef(tensor.untyped_storage()), tensor._version, *view
    except RuntimeError:  # inference tensors count no versions
        return (object(),)
