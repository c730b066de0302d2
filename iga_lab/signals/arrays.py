"""Arrays in files of NumPy's own format, read without pickle and without trust."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from iga_lab.errors import InputError
from iga_lab.memory import require_memory
from iga_lab.signals.signal import Kind, Progress, Signal, Size
from iga_lab.signals.sizes import SIZES, centre, resized, target


def volume_or_image(path: Path, size: Size | None, _: Progress | None) -> Signal:
    """Read an array; one with three axes and no colours in the last is a volume."""
    array = open_array(path)
    if array.ndim == 3 and array.shape[-1] not in (1, 3):
        kind: Kind = "volume"
        values, what = array[..., None], "a volume, its axes taken as (z, y, x)"
        size = size or tuple(reversed(array.shape))
    else:
        kind = "image"
        values = array if array.ndim == 3 else array[..., None]
        what = "a grey image" if values.shape[-1] == 1 else "an image, its last axis the colours"
        size = size or (SIZES["image"], None)
    shape, centred = target(kind, size)
    if centred:
        values = centre(values)  # still on the disk: only what is kept is read
    # In float64: as read, scaled, and resampled.
    require_memory("signal", 24 * values.size, f"an array of shape {values.shape}", "cut it first")
    scaled, note = in_unit_range(path, values)
    return resized(path, kind, scaled, [what, note], shape, centred)


def npy_file(values: NDArray[Any]) -> bytes:
    """Return an array as the content of a ``.npy`` file of float32."""
    content = io.BytesIO()
    np.save(content, values.astype(np.float32), allow_pickle=False)
    return content.getvalue()


def open_array(path: Path) -> NDArray[Any]:
    """Open an array of two or three axes where it lies; nothing but its header is read yet.

    Parameters
    ----------
    path : Path
        A ``.npy`` file.

    Returns
    -------
    ndarray of bool, integer or floating-point type
        A read-only memory map.

    Raises
    ------
    InputError
        If it is damaged, of another type or number of axes, or empty.
    """
    # The header by itself first, for a map of a file that is too short fails without saying why.
    try:
        with path.open("rb") as file:
            version = npy.read_magic(file)
            read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
            shape, _, dtype = read(file)
            present = path.stat().st_size - file.tell()
    except (KeyError, OSError, SyntaxError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"signal: expected an array that numpy.save wrote, got {path.name!r}, which cannot be "
            f"read ({reason}); write it anew"
        ) from None
    if dtype.kind not in "buif":
        raise InputError(
            f"signal: expected an array of integers or floating-point numbers, got {dtype} in "
            f"{path.name!r}; convert it first"
        )
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise InputError(
            "signal: expected an array of shape (height, width), (height, width, 3) or (depth, "
            f"height, width), got {shape} in {path.name!r}; reshape it first"
        )
    if math.prod(shape) * dtype.itemsize > present:
        raise InputError(
            f"signal: expected {math.prod(shape) * dtype.itemsize:,} bytes of data for shape "
            f"{shape}, got {present:,} in {path.name!r}; it is truncated: get it anew"
        )
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def in_unit_range(path: Path, array: NDArray[Any]) -> tuple[NDArray[np.float64], str]:
    """Return an array as float64 in [0, 1], and what was done.

    Integers are divided by the largest number of their type; others must lie in [0, 1].

    Raises
    ------
    InputError
        If they do not, or an integer is negative.
    """
    values = np.array(array, dtype=np.float64)
    note = "taken as it is"
    if array.dtype.kind in "iu":
        largest = np.iinfo(array.dtype).max
        values /= largest
        note = f"{array.dtype} divided by {largest}"
    if not np.all(np.isfinite(values)) or values.min() < 0 or values.max() > 1:
        raise InputError(
            f"signal: expected values in [0, 1], got {values.min():.4g} to {values.max():.4g} in "
            f"{path.name!r}; scale them first"
        )
    return values, note
