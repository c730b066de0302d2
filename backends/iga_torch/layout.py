"""How the points of a call fall into groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from iga_core import Grouping
from iga_torch.checking import require_tensor
from iga_torch.recording import FLOATS
from iga_torch.samples import Key, Samples, arguments_of, leading


@dataclass(frozen=True, eq=False)
class Layout:
    """The points of a call, and the arguments that run along with them.

    Parameters
    ----------
    arguments : dict
        Of the call; its sampled tensors are replaced by None, since autograd keeps them.
    sampled : frozenset
        Keys of the arguments with the leading axes of the points.
    axes : int
        How many leading axes these are.
    groups : int
        How many there are.
    index : Index, optional
        How points in their own order fall into groups; None if they come in groups, (n, p, ...).
    """

    arguments: dict[Key, Any]
    sampled: frozenset[Key]
    axes: int
    groups: int
    index: "Index | None"

    def split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return values at all points as (n, p, C), and those of points in no group as (m, C)."""
        if self.index is None:
            return values, values.new_empty((0, values.shape[-1]))
        index, rest, _ = self.index.on(values.device)
        flat = values.reshape(-1, values.shape[-1])
        grouped = flat.index_select(0, index.reshape(-1)).reshape(*index.shape, -1)
        return grouped, flat.index_select(0, rest)

    def joined(self, grouped: Tensor, rest: Tensor, like: Tensor) -> Tensor:
        """Put what `split` gave back into the order, shape and dtype of the call's outputs."""
        if self.index is None:
            return grouped.to(like.dtype)
        index, others, _ = self.index.on(like.device)
        found = torch.empty((like.numel() // like.shape[-1], like.shape[-1]), dtype=like.dtype,
                            device=like.device)  # fmt: skip
        found[index.reshape(-1)] = grouped.reshape(-1, like.shape[-1]).to(like.dtype)
        found[others] = rest.to(like.dtype)
        return found.reshape(like.shape)

    def neighbours(self, device: torch.device) -> Tensor:
        """Return the groups nearest the points in no group, (m,)."""
        if self.index is None:
            return torch.empty(0, dtype=torch.int64, device=device)
        return self.index.on(device)[2]

    def neighbouring(self, tensors: Sequence[Tensor], positions: Tensor) -> tuple[Samples, int]:
        """Return the call at two points of each group, and how many leading axes count them."""
        points = self.index.grouping.points if self.index else max(t.shape[1] for t in tensors)
        first = positions[:, :1]
        two = torch.cat([first, (first + 1) % points], dim=1) if points > 1 else first
        return self.samples(tensors, two), self.axes

    def others(self) -> dict[Key, Any]:
        """Return the arguments that are no tensors."""
        return {
            key: value
            for key, value in self.arguments.items()
            if key not in self.sampled and not isinstance(value, Tensor)
        }

    def samples(self, tensors: Sequence[Tensor], positions: Tensor) -> Samples:
        """Return the call at positions (n, s) of each group, one sample a group."""
        if self.index is None:
            rows = torch.arange(self.groups, device=positions.device)[:, None]
            parts = [t.detach()[rows, positions] if t.shape[1] > 1 else t.detach() for t in tensors]
            axis, each = 0, 1
        else:
            axis, each = self.axes - 1, positions.shape[1]
            flat = self.index.on(positions.device)[0].gather(1, positions).reshape(-1)
            parts = [tensor.detach().index_select(axis, flat) for tensor in tensors]
        return Samples(self.arguments, self.sampled, axis, self.groups, each).with_tensors(parts)


class Index:
    """A grouping's parts on the device of the data."""

    def __init__(self, grouping: Grouping) -> None:
        self.grouping = grouping
        self._tensors: tuple[Tensor, Tensor, Tensor] | None = None

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return index (n, p), rest (m,) and neighbours (m,) there."""
        if self._tensors is None or self._tensors[0].device != device:
            g = self.grouping
            index, rest, neighbours = (
                torch.tensor(part, device=device) for part in (g.index, g.rest, g.neighbours)
            )
            self._tensors = index, rest, neighbours
        return self._tensors

    def __getstate__(self) -> dict[str, Any]:
        return {"grouping": self.grouping, "_tensors": None}


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
    others : dict, optional
        Arguments that are no tensors; None as for `storages`.
    """

    positions: Tensor
    values: list[Tensor]
    storages: list[tuple[object, ...]] | None = None
    others: dict[Key, Any] | None = None

    @classmethod
    def of(
        cls, layout: Layout, tensors: Sequence[Tensor], samples: Samples, positions: Tensor
    ) -> "Seen":
        """Remember the arguments of a call."""
        values = [tensor.clone() for tensor in _tensors_of(samples)]
        return cls(positions, values, _storages(layout, tensors), layout.others())

    def again(self, layout: Layout, tensors: Sequence[Tensor]) -> bool:
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
        points = layout.index.grouping.points if layout.index else int(tensors[0].shape[1])
        if len(self.positions) != layout.groups or int(self.positions.max()) >= points:
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
    return [v.detach() for v in samples.arguments.values() if isinstance(v, Tensor)]


def _storages(layout: Layout, tensors: Sequence[Tensor]) -> list[tuple[object, ...]]:
    given = [v for v in layout.arguments.values() if isinstance(v, Tensor)]
    return [_storage(tensor) for tensor in (*tensors, *given)]


def _are_same(a: dict[Key, Any], b: dict[Key, Any]) -> bool:
    """Say whether arguments that are no tensors are known to be the same."""

    def known(x: Any, y: Any) -> bool:
        plain = type(x) is type(y) and isinstance(x, int | float | complex | str | bytes)
        return x is y or (plain and bool(x == y))

    return a.keys() == b.keys() and all(known(a[key], b[key]) for key in a)


def _storage(tensor: Tensor) -> tuple[object, ...]:
    """Return what tells a tensor's numbers from others, without reading them.

    A weak reference keeps the storage's address from being given to another one.
    """
    view = (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype)
    try:
        return StorageWeakRef(tensor.untyped_storage()), tensor._version, *view
    except RuntimeError:  # inference tensors count no versions
        return (object(),)


def sent(array: NDArray[numpy.generic], like: Tensor) -> Tensor:
    """Move to a tensor's device, from pinned memory and without waiting where it is a GPU."""
    tensor = torch.tensor(array)  # a copy: those of a grouping are read-only
    if like.device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(like.device, non_blocking=True)


def at(values: Tensor, positions: Tensor) -> Tensor:
    """Return the entries (n, s, ...) at positions (n, s) of rows (n, p, ...)."""
    return values[torch.arange(len(positions), device=positions.device)[:, None], positions]


def layout_of(
    args: tuple[Any, ...], kwargs: dict[str, Any], index: Index | None
) -> tuple[Layout, list[Tensor]]:
    """Read from a call's arguments how its points are laid out; raise where that is impossible."""
    arguments = arguments_of(args, kwargs)
    tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
    if not tensors:
        raise TypeError("coords: expected a tensor, got none; pass the coordinates first")
    coords = tensors[0]
    shape = tuple(coords.shape)
    if index is None:
        if coords.ndim < 3 or coords.numel() == 0:
            raise ValueError(
                f"coords: expected shape (groups, points, ...) of three axes or more, got {shape}; "
                "use Grouping.split first, or pass a Grouping to IGA"
            )
        sampled = leading(arguments, shape[:2]) | leading(arguments, (shape[0], 1))
        axes, groups = 2, shape[0]
    else:
        count = index.grouping.count
        if coords.ndim < 2 or not (shape[0] == count or shape[:2] == (1, count)):
            raise ValueError(
                f"coords: expected shape ({count}, ...) or (1, {count}, ...), as many points as "
                f"the grouping has, got {shape}; pass all points at once in their own order, or "
                "another grouping"
            )
        axes, groups = 1 if shape[0] == count else 2, index.grouping.groups
        sampled = leading(arguments, shape[:axes])
    kept = [arguments[key] for key in arguments if key in sampled]
    others = {key: None if key in sampled else _given(value) for key, value in arguments.items()}
    return Layout(others, sampled, axes, groups, index), kept


def _given(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def require_points(layout: Layout, output: Any, coords: Tensor) -> None:
    """Raise unless there is a row of channels for each point, in a float dtype or autocast's."""
    require_tensor(output)
    kind = output.device.type
    reduced = torch.is_autocast_enabled(kind) and output.dtype == torch.get_autocast_dtype(kind)
    if output.dtype not in FLOATS and not reduced:
        raise TypeError(
            f"output: expected float32 or float64, got {output.dtype}; "
            "return output.float(), or put the call under torch.autocast"
        )
    leading_axes = tuple(coords.shape[: layout.axes])
    if output.ndim != layout.axes + 1 or tuple(output.shape[:-1]) != leading_axes:
        wanted = ", ".join(map(str, leading_axes))
        raise ValueError(
            f"output: expected shape ({wanted}, channels), got {tuple(output.shape)}; "
            "return one row of channels a point"
        )
