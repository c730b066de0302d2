"""How figures look: their size, colours and axes; and how they become files."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
COLOURS = {
    "plain": "#4477AA", "fr": "#228833", "bn": "#AA3377", "scale": "#66CCEE", "iga": "#CC3311",
    "iga+fr": "#DDAA33",
}  # fmt: skip
GREY = "#777777"


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
