"""Arrays in files of NumPy's own format, read without pickle, without trust and in parts."""

import io
import math
import tokenize
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from iga_lab.errors import InputError, a
from iga_lab.signals.layouts import canonical, guessed, kind_of, laid_out, order
from iga_lab.signals.ranges import found_range
from iga_lab.signals.resampling import Box, holding, lengths, resampled
from iga_lab.signals.signal import Kind, Signal, Size
from iga_lab.signals.sizes import (
    enlargement,
    narrowness,
    require_channels,
    require_decodable,
    wanted,
)

NAMES = {"T": "t", "D": "z", "H": "y", "W": "x", "C": "channel"}


def array(path: Path, size: Size | None, axes: str | None) -> Signal:
    """Read a picture, a volume or a video, whose axes are named or known from their number."""
    opened = open_array(path)
    shape, dtype = opened.shape, opened.dtype
    layout, doubt = _layout(path, shape, axes)
    kind: Kind = next(k for k in get_args(Kind) if k == kind_of(layout))
    places = order(layout)
    grid = tuple(shape[place] for place in places[: len(places) - ("C" in canonical(layout))])
    channels = math.prod(shape) // math.prod(grid)
    require_channels(path, channels)
    box, target = wanted(kind, size, grid, channels)

    # The file is read in the order in which it lies, so that every part of it is read once.
    lying = places if opened.flags.c_contiguous else tuple(len(places) - 1 - p for p in places)
    full_box, full_target = (*box, slice(0, channels)), (*target, channels)
    stored = tuple(full_box[lying.index(place)] for place in range(len(places)))
    kept = tuple(full_target[lying.index(place)] for place in range(len(places)))
    what = f"an array of shape {shape}"
    require_decodable(path, holding(stored, kept), what, "lower --size, or cut it first")

    def read(part: Box) -> NDArray[np.float64]:
        # Opened anew, as what has been read of a memory map counts as memory until it is closed.
        again = np.load(path, mmap_mode="r", allow_pickle=False)
        return np.asarray((again if again.flags.c_contiguous else again.T)[part], np.float64)

    found = found_range(path, dtype, read, stored)
    values = resampled(read, stored, kept, smooth=kind == "volume").transpose(lying)
    values = np.ascontiguousarray(found.scaled(values).reshape(full_target))
    notes = [
        f"{a(kind)}, its axes taken as {layout} "
        f"({', '.join(NAMES[letter] for letter in canonical(layout))}){doubt}",
        found.note,
        *enlargement(lengths(box), target),
        *narrowness(values),
    ]
    said = tuple(f"{path.name}: {note}" for note in notes)
    return Signal(path.stem, kind, values, said, None, layout, found.low, found.high)


def npy_file(values: NDArray[Any], layout: str = "") -> bytes:
    """Return a signal, (*axes, channels), as a ``.npy`` file of float32, its axes as in a layout.

    Without one, as of a function, the channels are left out.
    """
    content = io.BytesIO()
    placed = laid_out(values, layout) if layout else values[..., 0]
    np.save(content, placed.astype(np.float32, order="C"), allow_pickle=False)
    return content.getvalue()


def open_array(path: Path) -> NDArray[Any]:
    """Open an array of two to four axes where it lies; nothing but its header is read yet.

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
    # NumPy takes a header that is no literal apart into tokens, which may end too early.
    except (
        KeyError, OSError, SyntaxError, TypeError, ValueError, tokenize.TokenError,
    ) as error:  # fmt: skip
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
    if not 2 <= len(shape) <= 4 or min(shape) < 1:
        raise InputError(
            "signal: expected an array of shape (height, width), (depth, height, width) or "
            "(frames, height, width), with or without an axis of channels, got "
            f"{shape} in {path.name!r}; reshape it first"
        )
    if math.prod(shape) * dtype.itemsize > present:
        raise InputError(
            f"signal: expected {math.prod(shape) * dtype.itemsize:,} bytes of data for shape "
            f"{shape}, got {present:,} in {path.name!r}; it is truncated: get it anew"
        )
    opened: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return opened


def _layout(path: Path, shape: tuple[int, ...], axes: str | None) -> tuple[str, str]:
    """Return what the axes hold, and what to say if it is something else."""
    if axes is None:
        layout, others = guessed(shape)
        if layout:
            return layout, f"; if they are not, say --axes {others}" if others else ""
        raise InputError(
            f"axes: expected to be told what the axes of {path.name!r} hold, got shape {shape} "
            f"alone; say --axes {others}"
        )
    try:
        kind_of(axes)
    except ValueError as error:
        raise InputError(f"axes: {error}") from None
    if len(axes) != len(shape):
        raise InputError(
            f"axes: expected a letter for each of the {len(shape)} axes of {path.name!r}, of shape "
            f"{shape}, got {axes!r}; name each"
        )
    return axes, ""
