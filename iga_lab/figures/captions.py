"""What is written beside and above figures."""

from typing import TYPE_CHECKING

from iga_core import Equalise
from iga_core.filters import needs_kernel
from iga_lab.figures.style import GREY, drawable
from iga_lab.settings import Settings, adjusted
from iga_lab.settings.words import about, filtering

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {
    "plain": "plain", "fr": "FR", "bn": "BN", "scale": "Scale", "iga": "IGA", "iga+fr": "IGA + FR",
}  # fmt: skip
NETWORKS = {
    "relu": "ReLU", "pe": "PE", "siren": "SIREN", "gabor": "Gabor", "finer": "FINER",
    "gauss": "Gauss",
}  # fmt: skip


def description(settings: Settings) -> list[str]:
    """Return what a fit was, in a few phrases."""
    network, optimizer = settings.network, settings.optimizer
    octaves = f" ({network.frequencies} frequencies)" if network.kind == "pe" else ""
    average = optimizer.average_weights
    return [
        f"{drawable(settings.signal)}, {settings.form}",
        f"{NETWORKS[network.kind]}{octaves}, {network.depth} × {network.width}",
        f"{type(optimizer).__name__} {optimizer.learning_rate:g}, {optimizer.schedule}"
        + (f", averaged {average:g}" if average else ""),
        f"{settings.steps:,} steps",
    ]


def groups(settings: Settings) -> list[str]:
    """Return what was adjusted in which groups, in a few phrases."""
    cutting, adjustment = settings.cutting, settings.adjustment
    what = f"blocks of {cutting.patch} points"
    if cutting.grouping == "patches":
        what = f"patches of {' × '.join([str(cutting.patch)] * len(cutting.shape))}"
    lines = [f"{cutting.groups:,} {what}" + (f", {cutting.batch} a step" if cutting.batch else "")]
    lines += [line for line in about(settings) if line.startswith("Scale")]
    if any(map(adjusted, settings.methods)):
        chosen = adjustment.filter
        level = f", level {chosen.level}" if isinstance(chosen, Equalise) else ""
        lines += [f"IGA: {filtering(settings)}", f"reach {adjustment.reach}{level}"]
        if needs_kernel(chosen):
            lines += [
                f"sampling {adjustment.sampling}, {adjustment.samples} a patch",
                f"refresh {adjustment.refresh}, average {adjustment.average:g}",
            ]
    return lines


def head(figure: "Figure", lines: list[str]) -> None:
    """Write lines above a figure."""
    # A name may hold two dollars, which are no mathematics.
    figure.suptitle("\n".join(lines), fontsize=10, color=GREY, parse_math=False)
