"""The curves of a fit: PSNR against steps and against seconds."""

from collections.abc import Sequence

import numpy as np

from iga_lab.figures.captions import LABELS, description, head
from iga_lab.figures.style import COLOURS, GREY, house_style, new_figure, opened, png
from iga_lab.metrics import Outcome, equal_seconds
from iga_lab.settings import Settings
from iga_lab.settings.words import about


@house_style()
def curves(settings: Settings, outcomes: Sequence[Outcome]) -> bytes:
    """Draw PSNR against steps and against seconds; returns a PNG file."""
    figure = new_figure(11, 4.5)
    by_steps, by_seconds = figure.subplots(1, 2, sharey=True)
    for o in outcomes:
        label = f"{LABELS[o.name]}, {o.psnr[-1]:.2f} dB at the end"
        for axes, x in ((by_steps, np.arange(len(o.psnr))), (by_seconds, o.seconds)):
            axes.plot(x, o.psnr, color=COLOURS[o.name], linewidth=1.4, label=label)
            axes.plot(x[-1], o.psnr[-1], "o", color=COLOURS[o.name], markersize=5, clip_on=False)
    if len(outcomes) > 1:
        by_seconds.axvline(
            equal_seconds(outcomes), color=GREY, linestyle="--", linewidth=1,
            label="the first method has finished", zorder=0,
        )  # fmt: skip
    what = "PSNR (dB)" if settings.cutting.batch is None else "PSNR (dB), of each step's batch"
    by_steps.set(xlabel="training step", ylabel=what, title="at equal steps")
    by_seconds.set(xlabel="training time (s)", title="at equal seconds")
    for axes in (by_steps, by_seconds):
        axes.set_xlim(left=0)
        opened(axes)
        axes.legend(loc="lower right", frameon=False)
    head(figure, [", ".join(description(settings)), *about(settings)])
    return png(figure)
