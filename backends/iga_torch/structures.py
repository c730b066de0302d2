"""Structures of arguments and outputs as leaves: what PyTorch knows, and dataclasses."""

import copy
import dataclasses
from typing import Any

from torch.utils._pytree import (
    GetAttrKey,
    TreeSpec,
    register_pytree_node,
    tree_flatten,
    tree_flatten_with_path,
    tree_map,
)


@dataclasses.dataclass(frozen=True, eq=False)
class _Opened:
    """A dataclass whose fields are leaves; put together again it is that dataclass.

    PyTorch knows those that were registered with it, which people's own are not, and to register
    them would change how all else sees them.
    """

    hollow: Any
    """The dataclass with nothing in its fields, so that a structure keeps no tensor alive."""
    fields: dict[str, Any]


def flattened(tree: Any) -> tuple[list[Any], TreeSpec]:
    """Return the leaves of a structure, and what `tree_unflatten` makes it of again."""
    return tree_flatten(_opened(tree))


def flattened_with_paths(tree: Any) -> tuple[list[tuple[tuple[Any, ...], Any]], TreeSpec]:
    """Return the leaves with the keys on the way to each."""
    return tree_flatten_with_path(_opened(tree))


def _opened(tree: Any) -> Any:
    return tree_map(_opened_leaf, tree)


def _opened_leaf(leaf: Any) -> Any:
    if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type | TreeSpec):
        return leaf
    names = [field.name for field in dataclasses.fields(leaf) if hasattr(leaf, field.name)]
    fields = {name: _opened(getattr(leaf, name)) for name in names}
    return _Opened(_filled(leaf, dict.fromkeys(names)), fields)


def _filled(like: Any, fields: dict[str, Any]) -> Any:
    """Return a copy with other fields."""
    found = copy.copy(like)  # no `__init__`, which may take or make other things
    for name, value in fields.items():
        object.__setattr__(found, name, value)  # it may be frozen
    return found


def _context(opened: _Opened) -> tuple[tuple[str, ...], Any]:
    return tuple(opened.fields), opened.hollow


register_pytree_node(
    _Opened,
    lambda opened: (list(opened.fields.values()), _context(opened)),
    lambda values, context: _filled(context[1], dict(zip(context[0], values, strict=True))),
    flatten_with_keys_fn=lambda opened: (
        [(GetAttrKey(name), value) for name, value in opened.fields.items()],
        _context(opened),
    ),
)
