"""What a size means for a kind, what it costs, and the signal that comes of it."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from iga_lab.errors import InputError, a
from iga_lab.memory import readable, require_memory
from iga_lab.signals.resampling import Box, centre_box, whole_box
from iga_lab.signals.signal import AXES, HALF, MOST_CHANNELS, UNIT, Kind, Size, Values

SIZES: dict[Kind, int] = {"function": 1024, "sound": 16384, "image": 128, "shape": 64}
"""Sides where none is given; a shorter sound, and a volume or a video, is taken whole."""
BYTES_A_VALUE = 400
"""Of a fit and its figures, beside the network: a pixel, voxel or sample of up to `COLOURS`."""
COLOURS = 3
MOST_DECODED = 1_000_000_000
"""Bytes of memory that reading a signal's file may take."""
NARROW = 1 / 4
"""Of its range: a signal that spans less is said to."""


def target(kind: Kind, size: Size, channels: int = 1) -> tuple[tuple[int, ...], bool]:
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
    needed = math.prod(shape) * BYTES_A_VALUE * -(-channels // COLOURS)
    require_memory("size", needed, f"{words} {UNIT[kind]}s", "lower --size")
    return shape, centred


def wanted(
    kind: Kind, size: Size | None, whole: tuple[int, ...], channels: int = 1
) -> tuple[Box, tuple[int, ...]]:
    """Return which part of a picture, volume or video is taken, and to how many points it comes.

    Parameters
    ----------
    kind : {"image", "volume", "video"}
        A size of a video that names no frames leaves them as they are.
    size : tuple, optional
        See `load`.
    whole : tuple of int
        Points along each axis of what there is.
    channels : int
        Of a point.
    """
    if kind != "video":
        usual: Size = (SIZES["image"], None) if kind == "image" else tuple(reversed(whole))
        shape, centred = target(kind, size or usual, channels)
        return centre_box(whole) if centred else whole_box(whole), shape
    frames, *frame = whole
    sides = [side for side in size or () if side is not None]
    full = {0: [*reversed(frame), frames], 1: [*sides, *sides, frames], 2: [*sides, frames]}
    shape, _ = target(kind, tuple(full.get(len(sides), sides)), channels)
    taken = centre_box(tuple(frame)) if len(sides) == 1 else whole_box(tuple(frame))
    return (slice(0, frames), *taken), shape


def halved(name: str, values: Values) -> Values:
    """Scale values so that their largest magnitude is `HALF`."""
    loudest = float(np.abs(values).max())
    if loudest == 0:
        raise InputError(
            f"signal: expected values other than 0, got only those in {name!r}; "
            "raise --size or take another part"
        )
    return HALF * values / loudest


def require_decodable(path: Path, needed: int, what: str, remedy: str) -> None:
    """Raise if reading a file takes more memory than reading may take, or than there is."""
    if needed > MOST_DECODED:
        raise InputError(
            f"signal: expected a file that is read in at most {readable(MOST_DECODED)} of memory, "
            f"got {path.name!r}, {what}, which takes {readable(needed)}; {remedy}"
        )
    require_memory("signal", needed, f"{path.name!r}, {what}", remedy)


def require_channels(path: Path, channels: int) -> None:
    """Raise unless a point has a number of channels that is likely to be meant."""
    if not 1 <= channels <= MOST_CHANNELS:
        raise InputError(
            f"signal: expected 1 to {MOST_CHANNELS} channels, got {channels} in {path.name!r}; "
            "take some of them first"
        )


def enlargement(before: Sequence[int], shape: Sequence[int]) -> list[str]:
    """Return a note if there were fewer points along an axis."""
    if all(new <= old for new, old in zip(shape, before, strict=True)):
        return []
    old, new = ("x".join(map(str, reversed(axes))) for axes in (before, shape))
    return [f"enlarged from {old} to {new}"]


def narrowness(values: Values) -> list[str]:
    """Return a note if values in [0, 1] span little of it, to which PSNR is relative."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return [f"every value is {low:.4g} of the range: there is nothing to learn"]
    if high - low >= NARROW:
        return []
    flattered = -20 * math.log10(high - low)
    return [
        f"its values span only {low:.4g} to {high:.4g} of the range, "
        f"which adds {flattered:.0f} dB to every PSNR"
    ]
