"""The kit for backends: what public functions ask of their arrays, and the words for a refusal.

It knows the array API standard and NumPy. Of other libraries it touches only what somebody else has
imported already: JAX's tracers and its registry of trees, by way of `sys.modules`.
"""

import functools
import operator
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace, is_cupy_array, is_jax_array
from array_api_compat import device as device_of
from numpy.typing import NDArray

__all__ = [
    "Array",
    "Namespace",
    "common_namespace",
    "is_traced",
    "on_host",
    "register_tree",
    "require_array",
    "require_choice",
    "require_count",
    "require_finite",
    "require_nonempty",
    "require_number",
    "require_seed",
    "require_shape",
    "require_square",
    "same_device",
    "sent",
    "short",
    "taken",
    "widest",
]

Array: TypeAlias = Any
Namespace: TypeAlias = Any

LONGEST = 60
"""Characters of a value that an error message repeats."""


def common_namespace(**arrays: Array) -> Namespace:
    """Return the namespace of arrays that share namespace, float dtype and device, else raise.

    Parameters
    ----------
    **arrays : array
        By the names that an error message shall use.

    Returns
    -------
    namespace
        As `array_api_compat` gives it.

    Raises
    ------
    TypeError
        If one is no array, they are of several libraries, or of another dtype than one of float32
        and float64.
    ValueError
        If they are on several devices.

    Examples
    --------
    >>> import numpy as np
    >>> common_namespace(kernel=np.eye(2), cotangent=np.ones((2, 3))).__name__
    'array_api_compat.numpy'
    """
    names = ", ".join(arrays)
    for name, array in arrays.items():
        require_array(name, array)
    try:
        xp = array_namespace(*arrays.values())
    except TypeError as error:
        kinds = ", ".join(type(array).__module__.partition(".")[0] for array in arrays.values())
        raise TypeError(
            f"{names}: expected arrays of one library, got {kinds}; convert them first"
        ) from error
    for name, array in arrays.items():
        if array.dtype not in (xp.float32, xp.float64):
            raise TypeError(
                f"{name}: expected float32 or float64, got {array.dtype}; "
                "convert it with astype first"
            )
    first, *others = arrays.values()
    if any(array.dtype != first.dtype for array in others):
        dtypes = ", ".join(str(array.dtype) for array in arrays.values())
        raise TypeError(f"{names}: expected one dtype, got {dtypes}; convert them first")
    if not all(same_device(first, array) for array in others):
        places = ", ".join(str(device_of(array)) for array in arrays.values())
        raise ValueError(f"{names}: expected one device, got {places}; move them first")
    return xp


def same_device(a: Array, b: Array) -> bool:
    """Say whether nothing speaks against two arrays being on one device.

    Under `jax.jit` an array has no device yet: that is no mismatch.
    """
    places = device_of(a), device_of(b)
    return None in places or places[0] == places[1]


def require_array(name: str, array: Array) -> None:
    """Raise TypeError unless this is an array whose arithmetic is that of the standard."""
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise TypeError(
            f"{name}: expected an array, got {type(array).__name__}; "
            "convert it with the asarray of your array library"
        )
    # Both pass for arrays and compute something else: masked values would be trained on as the
    # numbers behind the mask, and `*` of two matrices is `@`.
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: expected an array without a mask, got numpy.ma.MaskedArray; "
            "leave the masked points out, or fill them with numpy.ma.filled"
        )
    if isinstance(array, np.matrix):
        raise TypeError(
            f"{name}: expected an array, got numpy.matrix; convert it with numpy.asarray"
        )
    if (
        getattr(array, "is_sparse", False)
        or getattr(array, "is_sparse_csr", False)
        or type(array).__module__.startswith("scipy.sparse")
    ):
        raise TypeError(
            f"{name}: expected a dense array, got a sparse one; convert it with to_dense() or "
            "toarray()"
        )


def require_nonempty(name: str, array: Array) -> None:
    """Raise ValueError if some axis has no length."""
    if 0 in array.shape:
        raise ValueError(
            f"{name}: expected at least one number, got shape {tuple(array.shape)}; pass some data"
        )


def require_shape(name: str, array: Array, shape: Sequence[int | str], remedy: str) -> None:
    """Raise ValueError unless the shape matches.

    A string in `shape` stands for any length of that axis, a final ``"..."`` for any further axes;
    `remedy` says what to do.
    """
    expected = list(shape)
    open_ended = bool(expected) and expected[-1] == "..."
    if open_ended:
        expected.pop()
    fits = len(array.shape) == len(expected) or (open_ended and len(array.shape) > len(expected))
    if not fits or any(
        isinstance(want, int) and want != got
        for want, got in zip(expected, array.shape, strict=False)
    ):
        wanted = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name}: expected shape ({wanted}), got {tuple(array.shape)}; {remedy}")


def require_square(name: str, array: Array) -> int:
    """Return the side of a square matrix of at least one row, else raise ValueError."""
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(
            f"{name}: expected shape (n, n), got {tuple(array.shape)}; "
            "pass a square matrix, as gram(factors) gives it"
        )
    require_nonempty(name, array)
    return int(array.shape[0])


def is_traced(array: Array) -> bool:
    """Say whether an array stands for a value that is not known yet, as under `jax.jit`."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(array, jax.core.Tracer)


def on_host(array: Array) -> bool:
    """Say whether a value of this array can be read without waiting for an accelerator."""
    if is_cupy_array(array) or is_traced(array):
        return False
    place = device_of(array)
    if is_jax_array(array):
        return getattr(place, "platform", "cpu") == "cpu"
    return getattr(place, "type", "cpu") == "cpu"


def require_finite(name: str, array: Array, remedy: str) -> None:
    """Raise ValueError on NaN or infinity where reading the answer costs no synchronisation."""
    if on_host(array):
        xp = array_namespace(array)
        if not bool(xp.all(xp.isfinite(array))):
            raise ValueError(f"{name}: expected finite values, got NaN or infinity; {remedy}")


def require_count(name: str, value: Any, least: int) -> int:
    """Return a whole number that is at least `least`, else raise TypeError or ValueError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_):
        raise TypeError(
            f"{name}: expected a whole number, got {short(value)}; pass an int of at least {least}"
        )
    if number < least:
        raise ValueError(f"{name}: expected at least {least}, got {number}; raise it")
    return number


def require_number(name: str, value: Any, least: float, below: float, example: str) -> float:
    """Return a float with ``least <= value < below``, else raise TypeError or ValueError.

    `example` is what an error message offers. Infinity is never let through.
    """
    try:
        # Strings of digits and truth values convert too, and were hardly meant.
        number = None if isinstance(value, bool | np.bool_ | str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None:
        raise TypeError(f"{name}: expected a number, got {short(value)}; {example} is a start")
    if not least <= number < below:
        raise ValueError(
            f"{name}: expected a number from {least:g} to below {below:g}, got {number:g}; "
            f"{example} is a start"
        )
    return number


def require_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise ValueError unless a value is one of some words."""
    choices = tuple(choices)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{name}: expected one of {', '.join(choices)}, got {short(value)}; name one of them"
        )


def require_seed(name: str, value: Any) -> None:
    """Raise unless a value is None, a whole number from 0, or a sequence of such numbers."""
    if value is None:
        return
    several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    for number in value if several else (value,):
        require_count(name, number, 0)


def short(value: Any) -> str:
    """Return what an error message repeats of a value: an array's kind, or the start of its repr.

    Examples
    --------
    >>> short(-1), short("x" * 1000)[-3:]
    ('-1', '...')
    """
    if getattr(value, "shape", ()) and hasattr(value, "dtype"):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def widest(array: Array) -> Any:
    """Return the dtype of the n-square algebra: float64 where the array's device has it."""
    return _widest(array_namespace(array), device_of(array), array.dtype)


@functools.lru_cache(maxsize=64)
def _widest(xp: Namespace, place: Any, dtype: Any) -> Any:
    # Cached: some libraries find out by trying each dtype. JAX has float64 only if it is told to.
    return xp.__array_namespace_info__().dtypes(device=place).get("float64", dtype)


def taken(state: Mapping[str, Any], name: str, like: Array) -> Array:
    """Return a copy of an array of a saved state that shall replace another, where that is.

    Raises ValueError unless it is there and of the other's shape and dtype.
    """
    if not isinstance(state, Mapping):
        raise ValueError(
            f"state: expected what state_dict returned, got {short(state)}; load that of a run of "
            "the same settings"
        )
    found, array = state.get(name), None
    if found is not None:
        array = array_namespace(like).asarray(found, device=device_of(like), copy=True)
    if array is None or array.shape != like.shape or array.dtype != like.dtype:
        got = "nothing" if array is None else f"{array.dtype} of shape {tuple(array.shape)}"
        raise ValueError(
            f"state: expected {like.dtype} of shape {tuple(like.shape)} as {name}, got {got}; "
            "load it into a run of the same settings"
        )
    return array


def sent(array: NDArray[Any], like: Array) -> Array:
    """Return a host's array on the device of another, as a copy.

    Whole numbers become int32 where that device has no int64. A copy, because PyTorch takes no
    array that is read-only.
    """
    xp, place = array_namespace(like), device_of(like)
    narrow = array.dtype == np.int64 and not _has_int64(xp, place)
    dtype = xp.int32 if narrow else None
    return xp.asarray(array, dtype=dtype, device=place, copy=True)


@functools.lru_cache(maxsize=64)
def _has_int64(xp: Namespace, place: Any) -> bool:
    return "int64" in xp.__array_namespace_info__().dtypes(device=place)


def register_tree(kind: type, *names: str) -> None:
    """Let JAX, where it is in use, pass instances of a class through `jit`, `grad` and `vmap`.

    Parameters
    ----------
    kind : type
        A frozen dataclass.
    *names : str
        Its fields, all of them data.
    """
    jax = sys.modules.get("jax")
    if jax is not None and kind not in _REGISTERED:
        _REGISTERED.add(kind)
        jax.tree_util.register_dataclass(kind, data_fields=list(names), meta_fields=[])


_REGISTERED: set[type] = set()
