"""What kinds of functions PyTorch has, as far as derivatives by coordinates are concerned."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

Function = Callable[..., Any]


def named(names: str, *places: Any) -> list[Function]:
    """Return the functions of some names, wherever PyTorch has them, or in these places."""
    places = places or (torch, Tensor, F, torch.special, torch.linalg)
    found = [getattr(place, name, None) for name in names.split() for place in places]
    return [function for function in found if callable(function)]


def attributes(names: str) -> list[Function]:
    """Return the functions that read some attributes of a tensor."""
    return [getattr(Tensor, name).__get__ for name in names.split() if hasattr(Tensor, name)]


QUERIES = frozenset(
    named(
        """size dim ndimension numel nelement element_size stride storage_offset is_complex
        is_floating_point is_contiguous is_signed is_conj is_neg is_inference get_device is_tensor
        __len__ __repr__ __hash__""",
        torch,
        Tensor,
    )
    + attributes(
        """shape dtype device ndim layout requires_grad is_leaf is_cuda is_cpu is_meta is_mps is_xpu
        is_sparse itemsize nbytes names grad_fn _version"""
    )
)
"""They ask for no numbers of a tensor."""
READINGS = frozenset(
    named("item tolist numpy __array__ __float__ __int__ __bool__ __index__ __complex__", Tensor)
    + attributes("data")
)
"""They take numbers out of tensors, or tensors out of sight."""
CONSTANTS = frozenset(
    named(
        """lt le gt ge eq ne less less_equal greater greater_equal not_equal __lt__ __le__ __gt__
        __ge__ __eq__ __ne__ isnan isinf isfinite isclose allclose equal signbit sign floor ceil
        round trunc fix floor_divide __floordiv__ __rfloordiv__ argmax argmin argsort searchsorted
        bucketize any all logical_not logical_and logical_or logical_xor long int short bool byte
        char detach zeros_like ones_like full_like empty_like rand_like randn_like new_zeros
        new_ones new_full new_empty new_tensor"""
    )
)
"""Their results have no derivative, or none but zero."""
LIKE_ANOTHER = frozenset(named("expand_as view_as reshape_as type_as to", Tensor))
"""They may take a shape or a dtype from a second tensor."""
IN_PLACE = frozenset(
    named(
        " ".join(
            name
            for place in (torch, Tensor, F)
            for name in dir(place)
            if name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        )
        + """ __setitem__ __iadd__ __isub__ __imul__ __itruediv__ __idiv__ __ifloordiv__ __ipow__
        __imod__""",
        torch,
        Tensor,
        F,
    )
)
"""They change a tensor."""
MAY_BE_IN_PLACE = frozenset(
    function
    for function in vars(F).values()
    if inspect.isfunction(function) and "inplace" in inspect.signature(function).parameters
)


def is_in_place(function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Say whether a call changes one of its arguments."""
    if kwargs.get("out") is not None or function in IN_PLACE:
        return True
    if function not in MAY_BE_IN_PLACE:
        return False
    given = inspect.signature(function).bind(*args, **kwargs).arguments
    return bool(given.get("inplace", False))
