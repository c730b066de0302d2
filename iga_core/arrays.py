"""What every public function asks of its arrays, and the words it uses when it does not get it."""

import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

from array_api_compat import array_namespace, device, is_cupy_array, is_jax_array

Array: TypeAlias = Any
Namespace: TypeAlias = Any


def common_namespace(**arrays: Array) -> Namespace:
    """Return the namespace of arrays that share namespace, float dtype and device, else raise."""
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
    dtypes = [array.dtype for array in arrays.values()]
    if any(dtype != dtypes[0] for dtype in dtypes):
        raise TypeError(
            f"{names}: expected one dtype, got {', '.join(map(str, dtypes))}; convert them first"
        )
    devices = [device(array) for array in arrays.values()]
    if any(place != devices[0] for place in devices):
        raise ValueError(
            f"{names}: expected one device, got {', '.join(map(str, devices))}; move them first"
        )
    return xp


def require_array(name: str, array: Array) -> None:
    """Raise unless this is an array."""
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise TypeError(
            f"{name}: expected an array, got {type(array).__name__}; "
            "convert it with the asarray of your array library"
        )


def require_nonempty(name: str, array: Array) -> None:
    """Raise if some axis has no length."""
    if 0 in array.shape:
        raise ValueError(
            f"{name}: expected at least one number, got shape {tuple(array.shape)}; pass some data"
        )


def require_shape(name: str, array: Array, shape: Sequence[int | str], remedy: str) -> None:
    """Raise unless the shape matches; a string in `shape` stands for any length of that axis.

    A final ``"..."`` stands for any further axes.
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
    """Return the side of a square matrix, else raise."""
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(
            f"{name}: expected shape (n, n), got {tuple(array.shape)}; "
            "pass a square matrix, as gram(factors) gives it"
        )
    return int(array.shape[0])


def on_host(array: Array) -> bool:
    """Whether a value of this array can be read without waiting for an accelerator."""
    if is_cupy_array(array) or is_jax_array(array):
        return False
    return getattr(device(array), "type", "cpu") == "cpu"


def require_finite(name: str, array: Array, remedy: str) -> None:
    """Raise on NaN or infinity where reading the answer costs no synchronisation."""
    if on_host(array):
        xp = array_namespace(array)
        if not bool(xp.all(xp.isfinite(array))):
            raise ValueError(f"{name}: expected finite values, got NaN or infinity; {remedy}")


def require_count(name: str, value: Any, least: int) -> int:
    """Return a whole number that is at least `least`, else raise."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(
            f"{name}: expected a whole number, got {value!r}; pass an int of at least {least}"
        )
    if number < least:
        raise ValueError(f"{name}: expected at least {least}, got {number}; raise it")
    return number
