"""How figures look: their size, colours and axes; and how they become files."""

import contextlib
import functools
import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from iga_lab.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
COLOURS = {
    "plain": "#4477AA", "fr": "#228833", "bn": "#AA3377", "scale": "#66CCEE", "iga": "#CC3311",
    "iga+fr": "#DDAA33",
}  # fmt: skip
GREY = "#777777"
LONGEST = 48
"""Letters of a name that a figure has room for."""


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """Draw alike everywhere: no style, font or window system that a person has set up takes part.

    It decorates whatever draws a figure from beginning to end.
    """
    # matplotlib looks for it when it is first imported, and refuses a name that it does not know.
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


@functools.cache
def _drawable() -> frozenset[int]:
    """Return what the font of figures has."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def drawable(name: str) -> str:
    """Return a name as figures can show it: no longer than they have room for.

    A letter that their font has not is written as an escape.
    """
    known = _drawable()
    shown = [c if ord(c) in known else ascii(c)[1:-1] for c in printable(name)]
    if len("".join(shown)) <= LONGEST:
        return "".join(shown)
    # Letters, not characters, so that no escape is cut.
    while len("".join(shown)) > LONGEST - 1:
        del shown[len(shown) * 2 // 3]
    shown.insert(len(shown) * 2 // 3, "…")
    return "".join(shown)


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure, in inches."""
    # Not pyplot, which keeps every figure alive and looks for a window system.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def png(figure: "Figure") -> bytes:
    """Return a figure as a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def opened(axes: "Axes") -> None:
    """Leave axes without a frame, with a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
