"""The figure of the table `functions`."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.paper.functions_results import (
    METHODS,
    NETWORKS,
    Result,
    distance,
    inductive,
    methods_of,
    networks_of,
    of,
    widths_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_ERROR = 0.01
COLOURS = {
    "plain": "#4477AA", "linear": "#999999", "kernel": "#222222", "entk": "#CC3311",
    "iga2": "#EE7733", "iga4": "#228833", "iga8": "#AA3377",
}  # fmt: skip


def draw(circle: Sequence[Result], sines: Sequence[Result]) -> bytes:
    """Draw errors by frequency over training, and what the theorems say, as a PNG file."""
    from matplotlib.figure import Figure

    networks = networks_of(sines)
    figure = Figure(figsize=(13, 2.5 * len(networks) + 5), layout="constrained", dpi=130)
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.5 * len(networks), 5])
    upper, lower = parts
    upper.suptitle("Sum of sines: relative error of each frequency over training", fontsize=11)
    _heat_maps(upper, sines, networks)
    one = circle[0]
    lower.suptitle(
        f"Two-layer ReLU network on {one['points']} points of the circle, gradient descent: "
        "bars span the seeds",
        fontsize=11,
    )
    by_width, by_group, by_step = lower.subplots(1, 3)
    _against_width(by_width, circle)
    _against_group(by_group, circle)
    _against_steps(by_step, circle)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _heat_maps(figure: Any, sines: Sequence[Result], networks: Sequence[str]) -> None:
    from matplotlib.colors import LogNorm

    columns = methods_of(sines)
    panels = figure.subplots(len(networks), len(columns), squeeze=False, sharex=True)
    for row, network in zip(panels, networks, strict=True):
        for axes, method in zip(row, columns, strict=True):
            runs = of(sines, network=network, method=method)
            shortest = min(len(run["errors"]) for run in runs)
            errors = np.median([run["errors"][:shortest] for run in runs], axis=0)
            cycles, steps = runs[0]["cycles"], runs[0]["recorded"][:shortest]
            image = axes.pcolormesh(
                steps,
                np.arange(len(cycles)),
                errors.T,
                norm=LogNorm(LEAST_ERROR, 1),
                cmap="magma",
                shading="nearest",
            )
            axes.set_yticks(np.arange(len(cycles)), [str(k) for k in cycles])
            axes.set_title(f"{NETWORKS[network]}, {METHODS[method]}", fontsize=10)
            if network == networks[-1]:
                axes.set_xlabel("step of Adam")
        row[0].set_ylabel("cycles over the interval")
    bar = figure.colorbar(image, ax=panels, extend="both", shrink=0.9, pad=0.01)
    bar.set_label("relative error, median over seeds")


def _against_width(axes: "Axes", circle: Sequence[Result]) -> None:
    widths = widths_of(circle)
    pairs = {"kernel entk": "eNTK- from kernel-based (Th. 3.1)"} | {
        f"entk {m}": f"{METHODS[m]} from eNTK-based (3.2)" for m in inductive(circle)
    }
    for pair, label in pairs.items():
        _bars(axes, widths, [of(circle, width=w) for w in widths], pair, label, pair.split()[1])
    first = distance(of(circle, width=widths[0]), "kernel entk")[0]
    guide = 1.3 * first * np.sqrt(widths[0] / np.asarray(widths))
    axes.plot(widths, guide, ":", color="black", label="slope −1/2")
    axes.set(title="against width", xlabel="width of the network")
    _finish(axes, widths)


def _against_group(axes: "Axes", circle: Sequence[Result]) -> None:
    from matplotlib import colormaps

    groups = circle[0]["groups"]
    widths = widths_of(circle)
    for shade, width in zip(np.linspace(0.8, 0.1, len(widths)), widths, strict=True):
        runs = of(circle, width=width)
        values = [distance(runs, f"entk {m}")[0] for m in inductive(circle)]
        axes.plot(groups, values, "o-", color=colormaps["viridis"](shade), label=f"width {width}")
    values = [distance(circle, f"limit {m}")[0] for m in inductive(circle)]
    axes.plot(groups, values, "s--", color="black", label="infinite width, predicted")
    axes.set(title="inductive error against group size (Th. 3.2)", xlabel="points of a group, p")
    _finish(axes, groups)


def _against_steps(axes: "Axes", circle: Sequence[Result]) -> None:
    widest = of(circle, width=widths_of(circle)[-1])
    one = widest[0]
    frequencies = one["frequencies"]
    equalised = max(k for k in frequencies if 2 * k < one["end"])  # a constant, then pairs
    for method in one["errors"]:
        curves = np.median([run["errors"][method] for run in widest], axis=0)
        for frequency, style in ((equalised, "-"), (frequencies[-1], ":")):
            axes.plot(
                one["recorded"][1:],
                curves[1:, frequencies.index(frequency)],
                style,
                color=COLOURS[method],
                label=METHODS[method] if style == "-" else None,
            )
    axes.set(
        title=f"error of k = {equalised} (equalised, solid), {frequencies[-1]} (not, dotted)",
        xlabel=f"step of gradient descent, width {one['width']}",
        ylabel="relative error, median over seeds",
        xscale="log",
    )
    axes.title.set_fontsize(10)
    axes.set_yscale("log")
    axes.set_ylim(bottom=LEAST_ERROR / 10)
    axes.grid(alpha=0.3)
    _legend(axes)


def _bars(
    axes: "Axes",
    x: Sequence[int],
    runs: Sequence[Sequence[Result]],
    pair: str,
    label: str,
    colour: str,
) -> None:
    found = [[max(run["differences"][pair]) for run in some] for some in runs]
    middle = np.asarray([np.median(values) for values in found])
    low = middle - [min(values) for values in found]
    high = np.asarray([max(values) for values in found]) - middle
    axes.errorbar(x, middle, [low, high], marker="o", capsize=3, color=COLOURS[colour], label=label)


def _finish(axes: "Axes", ticks: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylabel("largest distance of the outputs over training\nrelative to the target")
    axes.title.set_fontsize(10)
    axes.grid(alpha=0.3)
    _legend(axes)


def _legend(axes: "Axes") -> None:
    axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.17))
