"""Values brought to a size: what a size means for a kind, what it costs, and resampling."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError, a
from iga_lab.memory import require_memory
from iga_lab.signals.signal import AXES, HALF, UNIT, Kind, Signal, Size, Values

SIZES: dict[Kind, int] = {"function": 1024, "sound": 16384, "image": 128, "shape": 64}
"""Sides where none is given; a shorter sound, and a volume, is taken whole."""
BYTES_A_VALUE = 400
"""Of a fit and its figures, beside the network: a pixel, voxel or sample."""


def target(kind: Kind, size: Size) -> tuple[tuple[int, ...], bool]:
    """Return the points along each axis that a size means, and whether it is a centre's."""
    axes = AXES[kind]
    sides = tuple(side for side in size if side is not None)
    centred = len(sides) == 1
    if not centred and len(sides) != axes:
        words = "one number" if axes == 1 else f"one side, or {'xWxHxD'[1 : 2 * axes]}"
        raise InputError(
            f"size: expected {words} for {a(kind)}, got {'x'.join(map(str, sides))}; change --size"
        )
    shape = sides * axes if centred else tuple(reversed(sides))
    words = "x".join(map(str, reversed(shape)))
    if min(shape) < 1:
        raise InputError(
            f"size: expected at least 1 {UNIT[kind]} a side, got {words}; raise --size"
        )
    needed = math.prod(shape) * BYTES_A_VALUE
    require_memory("size", needed, f"{words} {UNIT[kind]}s", "lower --size")
    return shape, centred


def halved(name: str, values: Values) -> Values:
    """Scale values so that their largest magnitude is `HALF`."""
    loudest = float(np.abs(values).max())
    if loudest == 0:
        raise InputError(
            f"signal: expected values other than 0, got only those in {name!r}; "
            "raise --size or take another part"
        )
    return HALF * values / loudest


def resized(
    path: Path, kind: Kind, values: Values, notes: list[str], shape: tuple[int, ...], centred: bool
) -> Signal:
    """Resample values, or the square or cube in their middle; returns them as a signal."""
    if centred:
        values = centre(values)
    before = values.shape[:-1]
    if any(new > old for new, old in zip(shape, before, strict=True)):
        old, new = ("x".join(map(str, reversed(axes))) for axes in (before, shape))
        notes.append(f"enlarged from {old} to {new}")
    fewer = resample(values, shape)
    return Signal(path.stem, kind, fewer, tuple(f"{path.name}: {note}" for note in notes))


def centre(values: NDArray[Any]) -> NDArray[Any]:
    """Return the square or cube in the middle."""
    side = min(values.shape[:-1])
    return values[tuple(slice((n - side) // 2, (n - side) // 2 + side) for n in values.shape[:-1])]


def resample(values: Values, shape: tuple[int, ...]) -> Values:
    """Resample pictures with Lanczos, volumes linearly after smoothing; overshoot is clipped."""
    if values.shape[:-1] == shape:
        return np.ascontiguousarray(values)
    if len(shape) > 2:
        from skimage.transform import resize

        fewer = resize(values, (*shape, 1), order=1, anti_aliasing=True)  # type: ignore[no-untyped-call]
        return np.clip(np.asarray(fewer, dtype=np.float64), 0, 1)
    from PIL import Image

    height, width = shape
    # Each channel as floats: Pillow has no colour picture of more than 8 bits a channel.
    channels = [
        np.asarray(
            Image.fromarray(values[..., c].astype(np.float32)).resize(
                (width, height), Image.Resampling.LANCZOS
            )
        )
        for c in range(values.shape[-1])
    ]
    return np.clip(np.stack(channels, axis=-1).astype(np.float64), 0, 1)
