"""How the points of a call fall into groups."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iga_core import Grouping
from iga_torch.checking import require_tensor
from iga_torch.recording import FLOATS
from iga_torch.samples import Key, Samples, arguments_of, leading


@dataclass(frozen=True, eq=False)
class Layout:
    """The points of a call: `groups` of `points`, and the arguments that run along with them.

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
    index : Tensor of int64, shape (n, p), optional
        Where the grouped points are in the data's own order; None if they come in groups.
    """

    arguments: dict[Key, Any]
    sampled: frozenset[Key]
    axes: int
    groups: int
    index: Tensor | None

    def grouped(self, values: Tensor) -> Tensor:
        """Return values at all points as (n, p, C)."""
        if self.index is None:
            return values
        flat = values.reshape(-1, values.shape[-1])
        return flat.index_select(0, self.index.reshape(-1)).reshape(*self.index.shape, -1)

    def plus(self, values: Tensor, change: Tensor) -> Tensor:
        """Return values at all points with (n, p or 1, C) added to the grouped ones."""
        if self.index is None:
            return values + change
        added = change.expand(*self.index.shape, -1).reshape(-1, change.shape[-1])
        flat = values.reshape(-1, values.shape[-1])
        return flat.index_add(0, self.index.reshape(-1), added).reshape(values.shape)

    def samples(self, tensors: list[Tensor], positions: Tensor) -> Samples:
        """Return the call at positions (n, s) of each group, one sample a group."""
        if self.index is None:
            rows = torch.arange(self.groups, device=positions.device)[:, None]
            parts = [t.detach()[rows, positions] if t.shape[1] > 1 else t.detach() for t in tensors]
            axis, each = 0, 1
        else:
            axis, each = self.axes - 1, positions.shape[1]
            flat = self.index.gather(1, positions).reshape(-1)
            parts = [tensor.detach().index_select(axis, flat) for tensor in tensors]
        return Samples(self.arguments, self.sampled, axis, self.groups, each).with_tensors(parts)


class Index:
    """A grouping's index on the device of the data."""

    def __init__(self, grouping: Grouping) -> None:
        self.grouping = grouping
        self._tensor: Tensor | None = None

    def on(self, device: torch.device) -> Tensor:
        """Return it there, (n, p)."""
        if self._tensor is None or self._tensor.device != device:
            self._tensor = torch.from_numpy(self.grouping.index).to(device)
        return self._tensor

    def __getstate__(self) -> dict[str, Any]:
        return {"grouping": self.grouping, "_tensor": None}


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
                "use Grouping.split first, or pass grouping= to IGA"
            )
        sampled = leading(arguments, shape[:2]) | leading(arguments, (shape[0], 1))
        groups, where = shape[0], None
    else:
        count = index.grouping.count
        if coords.ndim < 2 or not (shape[0] == count or shape[:2] == (1, count)):
            raise ValueError(
                f"coords: expected shape ({count}, ...) or (1, {count}, ...), as many points as "
                f"the grouping has, got {shape}; pass all points at once in their own order, or "
                "another grouping"
            )
        sampled = leading(arguments, shape[: 1 if shape[0] == count else 2])
        groups, where = index.grouping.groups, index.on(coords.device)
    axes = 2 if index is None or shape[0] != index.grouping.count else 1
    kept = [arguments[key] for key in arguments if key in sampled]
    others = {key: None if key in sampled else _given(value) for key, value in arguments.items()}
    return Layout(others, sampled, axes, groups, where), kept


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
