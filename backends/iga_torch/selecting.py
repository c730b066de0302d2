"""Finding the tensor that is meant in what a network is given or returns, nested as it may be."""

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.utils._pytree import TreeSpec

from iga_core.arrays import short
from iga_torch.structures import flattened, flattened_with_paths

Selector: TypeAlias = str | int | tuple[str | int, ...] | Callable[[Any], Tensor]
"""A name or key at any depth, a path from the outside, or a function of the structure."""
TAKES = {
    "coords": "coords= takes a name or path",
    "output": "output= takes a name or path, or a list of these, which are adjusted as one",
}
Path: TypeAlias = tuple[object, ...]


def require_selector(name: str, given: Any) -> None:
    """Raise unless this says which tensor is meant."""
    keys = given if isinstance(given, tuple) else (given,)
    plain = all(isinstance(key, str | int) and not isinstance(key, bool) for key in keys)
    if given is not None and not callable(given) and not (keys and plain):
        raise TypeError(
            f"{name}: expected a name, a path such as ('out', 0) or a function, got "
            f"{short(given)}; say which tensor is meant"
        )


def parameter_names(network: nn.Module) -> list[str]:
    """Return the names of the positional arguments of a network's `forward`."""
    try:
        signature = inspect.signature(network.forward)
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, p in signature.parameters.items() if p.kind in kinds]


def selected(
    name: str, chosen: Selector | None, tree: Any, names: Sequence[str] | None = None
) -> tuple[list[Any], TreeSpec, int]:
    """Return the leaves of a structure, how they make it, and the place of the tensor meant.

    Parameters
    ----------
    name : str
        What an error calls it.
    chosen : selector, optional
        By default the first tensor of real or complex numbers among arguments, or of others where
        there is none; the only one of such numbers in what is returned.
    tree : pytree
        Returned by a network; or ``(args, kwargs)``.
    names : sequence of str, optional
        Of the positional arguments, where the structure is ``(args, kwargs)``.

    Raises
    ------
    TypeError, ValueError
        If there is no such tensor, or several.
    """
    if chosen is None:
        leaves, spec = flattened(tree)
        found = _first(leaves) if names is not None else _only(leaves)
        if found is not None:
            return leaves, spec, found
    # Paths, which take as long as all else, are there for names and for words.
    paths, spec = flattened_with_paths(tree)
    leaves = [leaf for _, leaf in paths]
    tensors = {place: _keys(path, names) for place, (path, leaf) in enumerate(paths)
               if isinstance(leaf, Tensor)}  # fmt: skip
    if callable(chosen):
        given = tree if names is None else _called(tree)
        meant = chosen(given)
        places = [place for place in tensors if leaves[place] is meant]
        what = "a function that returns a tensor of the structure as it is"
    elif chosen is None:
        places = [place for place in tensors if _has_numbers(leaves[place])]
        what = "one tensor, or to be told which one is meant"
    elif isinstance(chosen, tuple):
        places = [p for p, keys in tensors.items() if _begins(keys, chosen)]
        what = f"one tensor at {chosen!r}"
    else:
        places = [p for p, keys in tensors.items() if any(chosen in key for key in keys)]
        what = f"one tensor named {chosen!r}"
    if len(places) != 1:
        raise _not_found(name, what, chosen, tree, list(tensors.values()), len(places))
    return leaves, spec, places[0]


def _first(leaves: list[Any]) -> int | None:
    """Return the place of the first tensor of real or complex numbers, or of others."""
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    # Tables are read at whole numbers.
    return next((p for p in places if _has_numbers(leaves[p])), places[0] if places else None)


def _only(leaves: list[Any]) -> int | None:
    """Return the place of the only tensor, or the only one of real or complex numbers."""
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    if len(leaves) > 1 or not places:
        places = [place for place in places if _has_numbers(leaves[place])]
    return places[0] if len(places) == 1 else None


def _called(tree: Any) -> Any:
    """Return what a function is to choose from: the only argument, or all of them."""
    args, kwargs = tree
    return args[0] if len(args) == 1 and not kwargs else tree


def _keys(path: tuple[Any, ...], names: Sequence[str] | None) -> list[tuple[object, ...]]:
    """Return what each level of a path may be called."""
    keys: list[tuple[object, ...]] = [(_key(entry),) for entry in path]
    if names is None:
        return keys
    positional, first = keys[0] == (0,), keys[1][0]
    if positional and isinstance(first, int) and first < len(names):
        return [(first, names[first]), *keys[2:]]
    return keys[1:]


def _key(entry: Any) -> object:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            found: object = getattr(entry, attribute)
            return found
    return str(entry)


def _begins(keys: list[tuple[object, ...]], path: Path) -> bool:
    return len(path) <= len(keys) and all(
        one in key for one, key in zip(path, keys[: len(path)], strict=True)
    )


def _has_numbers(tensor: Tensor) -> bool:
    return tensor.dtype.is_floating_point or tensor.dtype.is_complex


def _not_found(
    name: str, what: str, chosen: Any, tree: Any, paths: list[Any], count: int
) -> Exception:
    if not paths:
        return TypeError(
            f"{name}: expected a tensor, got none in {short(tree)}; pass or return one"
        )
    there = [".".join(str(key[-1]) for key in keys) or "the whole" for keys in paths]
    listed = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
    near = difflib.get_close_matches(str(chosen), [part for t in there for part in t.split(".")], 1)
    hint = f"did you mean {near[0]!r}?" if near and not count else TAKES[name]
    got = "none" if not count else f"{count} of them"
    return ValueError(f"{name}: expected {what}, got {got} among {listed}; {hint}")
