"""The figures of the tables, as PNG files in memory."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.paper.signals import sample
from benchmarks.paper.store import Finished
from benchmarks.paper.systems import METHODS, NETWORKS, OPTIMIZERS, Row
from benchmarks.paper.tables import of_row, value
from iga_lab.figures.views import views
from iga_lab.signals.solids import surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchmarks.paper.sweeps import Setting

DPI = 130
VIEW = 240
COLOURS = {
    "plain": "#4477AA", "fr": "#CCBB44", "bn": "#AA3377", "iga": "#CC3311", "groupwise": "#228833",
}  # fmt: skip
STYLES = {"sgd": ":", "adam": "-", "muon": "--"}


def images(runs: Sequence[Finished], rows: Sequence[Row], signal: dict[str, str]) -> bytes:
    """Draw, for each network, PSNR over training under the cosine schedule, and pictures."""
    networks, methods = _axes_of(rows)
    figure = _figure(2.2 * (2.4 + len(methods)), 2.3 * len(networks))
    ratios = [1.4] + [1] * (1 + len(methods))
    cells: Any = figure.subplots(
        len(networks), 2 + len(methods), squeeze=False, gridspec_kw={"width_ratios": ratios}
    )
    for line, network in enumerate(networks):
        curves, truth, *pictures = cells[line]
        for row in (row for row in rows if row.network == network):
            _curve(curves, of_row(runs, row, "cosine"), row.method)
        curves.set_ylabel(f"{NETWORKS[network]}\nPSNR (dB)")
        curves.grid(alpha=0.3)
        for cell, method in zip(pictures, methods, strict=True):
            run = _first(runs, rows, network, method, signal)
            cell.set_axis_off()
            if run is None or run.prediction is None:
                continue
            _picture(cell, run.prediction, f"{METHODS[method]}: {run.result['psnr_end']:.1f} dB")
            _picture(truth, _truth(run), "truth")
        truth.set_axis_off()
    cells[0, 0].set_title("over training, cosine", fontsize=9)
    cells[0, 0].legend(fontsize=6, loc="lower right")
    cells[-1, 0].set_xlabel("step")
    return _png(figure)


def shapes(runs: Sequence[Finished], rows: Sequence[Row], signal: dict[str, str]) -> bytes:
    """Draw the surfaces of one solid, truth first, from the front."""
    networks, methods = _axes_of(rows)
    figure = _figure(2.5 * (1 + len(methods)), 2.7 * len(networks))
    cells: Any = figure.subplots(len(networks), 1 + len(methods), squeeze=False)
    for line, network in enumerate(networks):
        truth, *solids = cells[line]
        for cell, method in zip(solids, methods, strict=True):
            run = _first(runs, rows, network, method, signal)
            cell.set_axis_off()
            if run is None or run.prediction is None:
                continue
            _solid(cell, run.prediction, f"{METHODS[method]}: IoU {run.result['iou']:.3f}")
            _solid(truth, _truth(run), f"{NETWORKS[network]}: truth")
        truth.set_axis_off()
    return _png(figure)


def _axes_of(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Return the networks and the methods of some rows, in a table's order."""
    methods = [method for method in METHODS if any(row.method == method for row in rows)]
    return list(dict.fromkeys(row.network for row in rows)), methods


def _first(
    runs: Sequence[Finished], rows: Sequence[Row], network: str, method: str, signal: dict[str, str]
) -> Finished | None:
    """Return the run of a cell on one signal, under the cosine schedule, of the first seed."""
    found = (
        run
        for row in rows
        if (row.network, row.method) == (network, method)
        for run in of_row(runs, row, "cosine")
        if run.case["signal"] == signal["signal"] and run.case["seed"] == 0
    )
    return next(found, None)


def _truth(run: Finished) -> Any:
    return sample(run.case["source"], run.case["kind"], tuple(run.case["size"])).values


def _picture(axes: "Axes", values: Any, title: str) -> None:
    picture = np.clip(values.astype(float), 0, 1)
    axes.imshow(picture if picture.shape[-1] == 3 else picture[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=8)


def _solid(axes: "Axes", values: Any, title: str) -> None:
    axes.set_title(title, fontsize=9)
    volume = values[..., 0].astype(float)
    if volume.max() > 0.5 > volume.min():
        brightness, opacity = np.moveaxis(views(surface(volume), VIEW)[0], -1, 0)
        axes.imshow(brightness * opacity + 1 - opacity, cmap="gray", vmin=0, vmax=1)


def optimizers(runs: Sequence[Finished], rows: Sequence[Row]) -> bytes:
    """Draw PSNR against steps and against seconds, a line of panels for each network."""
    networks = list(dict.fromkeys(row.network for row in rows))
    figure = _figure(11, 4.2 * len(networks))
    axes: Any = figure.subplots(len(networks), 2, squeeze=False, sharey="row")
    for line, network in enumerate(networks):
        for row in (row for row in rows if row.network == network):
            found = of_row(runs, row, "cosine")
            for cell, column in zip(axes[line], (0, 1), strict=True):
                _curve(
                    cell,
                    found,
                    row.method,
                    column,
                    STYLES[row.optimizer],
                    OPTIMIZERS[row.optimizer],
                )
        axes[line, 0].set(ylabel=f"{NETWORKS[network]}, PSNR (dB)", xlabel="step")
        axes[line, 1].set(xlabel="seconds of training")
        for cell in axes[line]:
            cell.grid(alpha=0.3)
    axes[0, 0].set_title("against steps (cosine schedule)")
    axes[0, 1].set_title("against seconds")
    axes[0, 0].legend(fontsize=7, ncols=2)
    return _png(figure)


def sweep(
    runs: Sequence[Finished], plain: Sequence[Row], found: Sequence["Setting"], axis: str
) -> bytes:
    """Draw PSNR against a setting, a panel for each network; bars where it has no order."""
    figure = _figure(5.5 * len(plain), 4.4)
    panels: Any = figure.subplots(1, len(plain), squeeze=False)[0]
    for axes, reference in zip(panels, plain, strict=True):
        network = reference.network
        without = value(of_row(runs, reference, "cosine"), "psnr_median").middle
        mine = [s for s in found if s.row.network == network]
        heights = [value(of_row(runs, s.row, "cosine"), "psnr_median") for s in mine]
        if axis.startswith("sampling"):
            _bars(axes, mine, heights, without or 0.0)
        else:
            if without is not None:
                axes.axhline(without, color=COLOURS["plain"], linestyle="--", label="plain")
            for base in dict.fromkeys(s.base for s in mine):
                points = [
                    (s.x, v.middle, v.spread)
                    for s, v in zip(mine, heights, strict=True)
                    if s.base == base and v.middle is not None
                ]
                if points:
                    x, y, spread = zip(*points, strict=True)
                    axes.errorbar(
                        x, y, spread, marker="o", capsize=3, color=COLOURS[base],
                        label=METHODS[base],
                    )  # fmt: skip
            axes.set_xscale("log", base=2)
            ticks = sorted({setting.x for setting in mine})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.set_xlabel(axis)
            axes.set_ylabel("PSNR (dB), median of the last 100 steps")
            axes.legend(fontsize=8)
        axes.set_title(NETWORKS[network])
        axes.grid(alpha=0.3)
    return _png(figure)


def _bars(axes: "Axes", found: Sequence["Setting"], heights: Sequence[Any], without: float) -> None:
    shown = [(s, v) for s, v in zip(found, heights, strict=True) if v.middle is not None]
    names = [s.label for s, _ in shown]
    axes.barh(
        names,
        [v.middle for _, v in shown],
        xerr=[v.spread for _, v in shown],
        color=["#999999" if s.row.control else COLOURS[s.base] for s, _ in shown],
    )
    axes.invert_yaxis()
    axes.set_axisbelow(True)
    axes.axvline(without, color=COLOURS["plain"], linestyle="--", label="plain")
    low = min([without, *(v.middle for _, v in shown)])
    axes.set_xlim(left=max(0, low - 3))
    axes.set_xlabel("PSNR (dB), median of the last 100 steps")
    axes.tick_params(axis="y", labelsize=7)
    axes.legend(fontsize=8, loc="lower right")


def _curve(
    axes: "Axes",
    runs: Sequence[Finished],
    method: str,
    column: int = 0,
    style: str = "-",
    optimizer: str = "",
) -> None:
    """Draw the median over runs of PSNR against step (column 0) or seconds (1)."""
    curves = [np.asarray(run.result["curve"]) for run in runs if len(run.result["curve"])]
    if not curves:
        return
    shortest = min(len(curve) for curve in curves)
    stacked = np.median([curve[:shortest] for curve in curves], axis=0)
    label = f"{METHODS.get(method, method)} {optimizer}".strip()
    axes.plot(
        stacked[:, column], stacked[:, 2], style, color=COLOURS[method], linewidth=1.2, label=label
    )


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=DPI)


def _png(figure: "Figure") -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
