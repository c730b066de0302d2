"""What a signal is: values on a grid of coordinates in [-1, 1]; no file and no kind's own rules."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Kind = Literal["function", "sound", "image", "volume", "shape"]
Values: TypeAlias = NDArray[np.float64]
Size: TypeAlias = tuple[int | None, ...]
"""(side, None) of the centre, the same along each axis, or the whole: (width, height) of a picture
or (width, height, depth) of a volume, in pixels."""
Progress: TypeAlias = Callable[[int, int], object]

AXES: dict[Kind, int] = {"function": 1, "sound": 1, "image": 2, "volume": 3, "shape": 3}
UNIT: dict[Kind, str] = {
    "function": "sample", "sound": "sample", "image": "pixel", "volume": "point", "shape": "point",
}  # fmt: skip
HALF = 0.5
"""Largest magnitude of a signal of one axis: from lowest to highest it spans at most 1."""


@dataclass(frozen=True, eq=False)
class Signal:
    """What is to be fitted.

    Parameters
    ----------
    name : str
        For titles and folders.
    kind : {"function", "sound", "image", "volume", "shape"}
        Decides how it is measured and drawn.
    values : ndarray of float64, shape (*axes, channels)
        In [0, 1]; of a function or a sound, of one axis, in [-1/2, 1/2].
    notes : tuple of str
        What was converted on the way, a line each.
    rate : int, optional
        Samples a second of a sound.
    """

    name: str
    kind: Kind
    values: Values
    notes: tuple[str, ...] = ()
    rate: int | None = None


def coordinates(shape: tuple[int, ...], rows: slice = slice(None)) -> Values:
    """Return the coordinates of a grid's points, in C order.

    Parameters
    ----------
    shape : tuple of int
        Points along each axis: (samples,), (height, width) or (depth, height, width).
    rows : slice
        Those wanted of the first axis, by default all.

    Returns
    -------
    ndarray of float64, shape (N, len(shape))
        ``x`` along the last axis first, then ``y`` and ``z`` along those before; from -1 to 1,
        both ends included.
    """
    axes = [np.linspace(-1, 1, count) for count in shape]
    axes[0] = axes[0][rows]
    grid = np.meshgrid(*axes, indexing="ij")
    return np.stack([axis.reshape(-1) for axis in reversed(grid)], axis=-1)


def measured(kind: Kind, shape: tuple[int, ...]) -> str:
    """Return a grid's size in words: "128 × 96 pixels", "16,384 samples"."""
    numbers = f"{shape[0]:,}" if len(shape) == 1 else " × ".join(map(str, reversed(shape)))
    return f"{numbers} {UNIT[kind]}s"
