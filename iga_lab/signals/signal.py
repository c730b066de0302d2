"""What a signal is: values on a grid of coordinates in [-1, 1]; no file and no kind's own rules."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from iga_core.arrays import require_choice, require_count, short
from iga_lab.errors import a
from iga_lab.signals.layouts import kind_of, order

Kind = Literal["function", "sound", "image", "volume", "video", "shape"]
Values: TypeAlias = NDArray[np.float64]
Size: TypeAlias = tuple[int | None, ...]
"""(side, None) of the centre, the same along each axis, or the whole: (width, height) of a picture
or of a video's frames, (width, height, depth) of a volume, in pixels."""
Progress: TypeAlias = Callable[[int, int], object]

AXES: dict[Kind, int] = {
    "function": 1, "sound": 1, "image": 2, "volume": 3, "video": 3, "shape": 3,
}  # fmt: skip
ONE_CHANNEL = ("function", "shape")
"""Kinds that have no more."""
MOST_CHANNELS = 32
"""Of a point: with more, an axis has been taken for the channels by mistake."""
MOST_SIDE = 2**31 - 1
"""That a picture's file can have; no signal's is larger."""
UNIT: dict[Kind, str] = {
    "function": "sample", "sound": "sample", "image": "pixel", "volume": "point", "video": "pixel",
    "shape": "point",
}  # fmt: skip
HALF = 0.5
"""Largest magnitude of a signal of one axis: from lowest to highest it spans at most 1."""


@dataclass(frozen=True)
class Form:
    """What is known of a signal without its values; `str` says its size in words.

    Parameters
    ----------
    kind : {"function", "sound", "image", "volume", "video", "shape"}
        Decides how it is measured, drawn and written.
    shape : tuple of int
        Points along each axis.
    channels : int
        Of a point.
    rate : int, optional
        Samples a second, of a sound.
    layout : str
        Of an array, what its axes hold, in their order: "CHW", see `signals.arrays`.
    low, high : float
        What the lowest and the highest value that there can be are in the file's own numbers.

    Raises
    ------
    TypeError, ValueError
        If they are not those of a signal.

    Examples
    --------
    >>> str(Form("image", (96, 128), 3))
    '128 × 96 pixels'
    """

    kind: Kind
    shape: tuple[int, ...]
    channels: int
    rate: int | None = None
    layout: str = ""
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        # Forms come out of files too, where anything may stand.
        require_choice("kind", self.kind, AXES)
        if len(self.shape) != AXES[self.kind]:
            raise ValueError(
                f"shape: expected {AXES[self.kind]} axes of {a(self.kind)}, got {len(self.shape)}; "
                "name another kind"
            )
        for side in self.shape:
            if require_count("shape", side, 1) > MOST_SIDE:
                raise ValueError(
                    f"shape: expected at most {MOST_SIDE:,} {self.unit}s a side, got {side}; "
                    "lower --size"
                )
        most = 1 if self.kind in ONE_CHANNEL else MOST_CHANNELS
        if require_count("channels", self.channels, 1) > most:
            raise ValueError(
                f"channels: expected at most {most} of {a(self.kind)}, got {self.channels}; "
                "name another kind"
            )
        if self.kind == "sound":
            require_count("rate", self.rate, 1)
        elif self.rate is not None:
            raise ValueError(
                f"rate: expected None for {a(self.kind)}, got {short(self.rate)}; leave it out"
            )
        if self.layout != "":
            self._require_layout()
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(
                f"low: expected finite numbers below high, got {self.low} and {self.high}; "
                "write them anew"
            )

    def _require_layout(self) -> None:
        places = order(self.layout) if kind_of(str(self.layout)) == self.kind else ()
        if len(places) - len(self.shape) not in ((0, 1) if self.channels == 1 else (1,)):
            raise ValueError(
                f"layout: expected the axes of {a(self.kind)} of {self.channels} channels, got "
                f"{self.layout!r}; write it anew"
            )

    @property
    def unit(self) -> str:
        """What a point is called."""
        return UNIT[self.kind]

    def __str__(self) -> str:
        shape = self.shape
        numbers = f"{shape[0]:,}" if len(shape) == 1 else " × ".join(map(str, reversed(shape)))
        return f"{numbers} {self.unit}s"


@dataclass(frozen=True, eq=False)
class Signal:
    """What is to be fitted.

    Parameters
    ----------
    name : str
        For titles and folders.
    kind : {"function", "sound", "image", "volume", "video", "shape"}
        Decides how it is measured and drawn.
    values : ndarray of float64, shape (*axes, channels)
        In [0, 1]; of a function or a sound, of one axis, in [-1/2, 1/2].
    notes : tuple of str
        What was converted on the way, a line each.
    rate : int, optional
        Samples a second of a sound.
    layout, low, high
        See `Form`.
    """

    name: str
    kind: Kind
    values: Values
    notes: tuple[str, ...] = ()
    rate: int | None = None
    layout: str = ""
    low: float = 0.0
    high: float = 1.0

    @property
    def form(self) -> Form:
        """All but the name and the values."""
        *shape, channels = self.values.shape
        return Form(self.kind, tuple(shape), channels, self.rate, self.layout, self.low, self.high)


def coordinates(shape: tuple[int, ...], rows: slice = slice(None)) -> Values:
    """Return the coordinates of a grid's points, in C order.

    Parameters
    ----------
    shape : tuple of int
        Points along each axis: (samples,), (height, width), (depth, height, width) or (frames,
        height, width).
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
