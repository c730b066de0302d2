"""A function with the parameters that its outputs depend on, as a module.

It finds out which modules a function calls, so that they are left as they were and errors can
name them; it knows nothing of the adjustment.
"""

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from iga_core.arrays import short

Parameters = nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Mapping[str, Tensor]
"""What may say which parameters are trained."""
LONGEST = 100
"""Of a list or dict in which networks are looked for; longer ones hold data."""


class Function(nn.Module):
    """A function, whose parameters are those that were given.

    The modules that it calls are parts of this one, as far as they are found: behind its own
    variables, those of functions that it calls, or as the object whose method it is.

    Parameters
    ----------
    function : callable
        It.
    parameters : nn.Module, or iterable or mapping of tensors
        Its trained ones, see `IGA`.

    Raises
    ------
    TypeError, ValueError
        If it is no function, or these are no parameters.
    """

    def __init__(self, function: Callable[..., Any], parameters: Parameters | None) -> None:
        super().__init__()
        given = _named(function, parameters)
        wanted = {id(parameter) for parameter in given.values()}
        owners = modules_of(function)
        if isinstance(parameters, nn.Module):
            owners = {"network": parameters, **owners}
        names: dict[int, str] = {}
        for name, module in owners.items():
            missing = wanted - names.keys()
            if missing.isdisjoint(map(id, module.parameters())):
                continue
            while hasattr(self, name):
                name += "_"
            self.add_module(name, module)
            own = {id(p): f"{name}.{inner}" for inner, p in module.named_parameters()}
            names = own | names
        for k, (name, parameter) in enumerate(given.items()):
            if id(parameter) not in names:
                # Of no module that was found; autograd knows it all the same.
                names[id(parameter)] = f"parameter{k}" if name == str(k) else name
                if isinstance(parameter, nn.Parameter):  # for `to` and `state_dict`
                    self.register_parameter(names[id(parameter)].replace(".", "_"), parameter)
        free = self._parameters.keys()
        in_modules = {name for name, _ in super().named_parameters(remove_duplicate=False)} - free
        # Those are looked up anew, since others may take their places: `load_state_dict` with
        # `assign`, `to` and `functional_call` put them there. The function keeps the free ones.
        self._given: dict[str, Tensor | None] = {}
        for parameter in given.values():
            name = names[id(parameter)]
            self._given[name] = None if name in in_modules else parameter
        # The function itself: its signature says what its arguments are called.
        self.forward = function

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that were given, by names in the modules that they are of."""
        del recurse, remove_duplicate
        for name, given in self._given.items():
            parameter = self._present(name) if given is None else given
            yield (f"{prefix}.{name}" if prefix else name), parameter  # type: ignore[misc]

    def _present(self, name: str) -> Tensor:
        """Return the parameter that is now in a place of a module."""
        path, _, attribute = name.rpartition(".")
        try:
            found = self.get_submodule(path)._parameters.get(attribute)
        except AttributeError:  # a part was replaced by another kind
            found = None
        if found is None:
            raise ValueError(
                f"parameters: expected those that were given, got none at {name} any more; change "
                "the network first, by weight normalisation as by all else, and wrap it then"
            )
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> "Function":
        if not inspect.ismethod(self.forward):
            raise TypeError(
                "copy: expected a model around a module, got one around a function, whose copy "
                "would still call the old network; copy the network and wrap its own function"
            )
        found = self.__class__.__new__(self.__class__)
        memo[id(self)] = found
        found.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return found


def _named(function: Any, parameters: Any) -> dict[str, Tensor]:
    """Return the parameters by name; numbers are the names of those that have none."""
    if not callable(function):
        raise TypeError(
            f"network: expected a torch.nn.Module or a function, got {type(function).__name__}; "
            "pass what maps points to outputs"
        )
    if parameters is None:
        raise TypeError(
            f"parameters: expected those that {_name_of(function)} depends on, got none; pass "
            "parameters=network.parameters()"
        )
    if isinstance(parameters, nn.Module):
        pairs: list[Any] = list(parameters.named_parameters())
    elif isinstance(parameters, Mapping):
        pairs = list(parameters.items())
    elif isinstance(parameters, Tensor) or not isinstance(parameters, Iterable):
        raise TypeError(
            f"parameters: expected an iterable of tensors, got {type(parameters).__name__}; pass "
            "network.parameters(), or a list"
        )
    else:
        pairs = [given if _is_pair(given) else ("", given) for given in parameters]
    found: dict[str, Tensor] = {}
    for k, (name, parameter) in enumerate(pairs):
        if not isinstance(parameter, Tensor):
            raise TypeError(
                f"parameters: expected tensors, got {short(parameter)} at place {k}; pass "
                "network.parameters()"
            )
        if not parameter.is_leaf:
            raise ValueError(
                f"parameters: expected trained tensors, got the result of an operation at place "
                f"{k}; pass the parameters that it is made from"
            )
        found[name if name and name not in found else str(k)] = parameter
    if not found:
        raise ValueError(
            "parameters: expected at least one tensor, got none; an iterator gives its own only "
            "once: call network.parameters() anew"
        )
    return found


def _is_pair(given: Any) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str)


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__name__)


def modules_of(function: Any) -> dict[str, nn.Module]:
    """Return the modules that a function calls, by the names of the variables they are behind.

    Parameters
    ----------
    function : callable
        A function, a method, a `functools.partial` or an object that is called.

    Returns
    -------
    dict of str to nn.Module
        Those behind the names in its code, in its closure and in its object, and behind the
        functions among these, in turn; in lists and dicts too, but in no other objects.
    """
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    waiting = [("network", function)]
    if not (inspect.isroutine(function) or isinstance(function, functools.partial)):
        waiting = [*_attributes(function), ("network", type(function).__call__)]
    while waiting:
        name, value = waiting.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            while name in found:  # variables of two functions may have one name
                name += "_"
            found[name] = value
        elif isinstance(value, list | tuple) and len(value) <= LONGEST:
            waiting += [(f"{name}{k}", held) for k, held in enumerate(value)]
        elif isinstance(value, dict) and len(value) <= LONGEST:
            waiting += [(f"{name}_{key}".replace(".", "_"), held) for key, held in value.items()]
        elif inspect.ismethod(value):
            of_module = isinstance(value.__self__, nn.Module)
            waiting += [("network", value.__self__)] if of_module else _attributes(value.__self__)
            waiting.append((name, value.__func__))
        elif isinstance(value, functools.partial):
            waiting += [(name, value.func), *value.keywords.items()]
            waiting += [(f"argument{k}", given) for k, given in enumerate(value.args)]
        elif inspect.isfunction(value) and not _is_of_library(value):
            with contextlib.suppress(ValueError):  # a variable that is not set yet
                variables = inspect.getclosurevars(value)
                waiting += [*variables.nonlocals.items(), *variables.globals.items()]
    return found


def _attributes(value: Any) -> list[tuple[str, Any]]:
    return list(getattr(value, "__dict__", {}).items())


def _is_of_library(function: Any) -> bool:
    """Say whether a function is of a library, behind whose names there is no network of a user."""
    return (function.__module__ or "").partition(".")[0] in {"numpy", "torch", "functools"}
