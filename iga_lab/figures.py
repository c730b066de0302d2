"""The figures of a fit, as PNG files in memory."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iga_array import MLP, empirical_ntk
from iga_core import adjust, leading_eigenpairs
from iga_lab.results import Outcome, equal_seconds
from iga_lab.settings import Settings
from iga_lab.signals import grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
COLOURS = {"plain": "#4477AA", "iga": "#CC3311"}
LABELS = {"plain": "plain", "iga": "IGA"}
NETWORKS = {
    "relu": "ReLU", "pe": "PE", "siren": "SIREN", "gabor": "Gabor", "finer": "FINER",
    "gauss": "Gauss",
}  # fmt: skip
OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "muon": "Muon"}
GREY = "#777777"
FRAME = "#FFEE00"
CELL = 3.4
"""Inches that a picture is wide."""
DETAIL_SHARE = 4
"""The detail's side is this part of the picture's shorter side."""
SMALLEST_DETAIL = 8
SPECTRUM_GROUPS = 1024
"""The spectrum is that of at most as many group centres."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of the eNTK at the group centres.

    Parameters
    ----------
    before : ndarray of float64, shape (n,)
        Of the kernel K, descending.
    after : ndarray of float64, shape (n,), or None
        Of S K, in the same order; None where nothing is adjusted, or K is not finite.
    equalised : tuple of int
        `start` and `end`, as they apply to these n groups.
    """

    before: NDArray[np.float64]
    after: NDArray[np.float64] | None
    equalised: tuple[int, int]


def comparison(
    settings: Settings, truth: NDArray[np.float64], outcomes: Sequence[Outcome]
) -> bytes:
    """Draw truth and predictions, a detail of each, and the error maps on one scale.

    Parameters
    ----------
    settings : Settings
        Of the fit.
    truth : ndarray of float64, shape (height, width, channels)
        Values in [0, 1].
    outcomes : sequence of Outcome
        One a column, after the truth.

    Returns
    -------
    bytes
        A PNG file.
    """
    top, left, side = detail(truth)
    window = (slice(top, top + side), slice(left, left + side))
    tall = float(np.clip(CELL * truth.shape[0] / truth.shape[1], 2.2, 6.0))
    columns = 1 + len(outcomes)
    figure = _figure((CELL + 0.2) * columns + 1.1, 2 * tall + CELL + 1.2)
    cells = figure.add_gridspec(
        3, columns + 1, height_ratios=[tall, CELL, tall], width_ratios=[CELL] * columns + [0.2]
    )
    axes = np.array([[figure.add_subplot(cells[r, c]) for c in range(columns)] for r in range(3)])
    titles = ["truth", *(f"{LABELS[o.name]}: {o.psnr[-1]:.2f} dB" for o in outcomes)]
    pictures = [truth, *(o.prediction for o in outcomes)]
    for (whole, close, _), title, picture in zip(axes.T, titles, pictures, strict=True):
        _show(whole, picture, title)
        _mark(whole, top, left, side)
        _show(close, picture[window], "detail" if picture is truth else "")
    _describe(axes[2, 0], settings)
    errors = [np.mean(np.abs(o.prediction - truth), axis=-1) for o in outcomes]
    brightest = max(float(np.quantile(np.stack(errors), 0.995)), 1e-6)
    for cell, error in zip(axes[2, 1:], errors, strict=True):
        drawn = cell.imshow(error, cmap="inferno", vmin=0, vmax=brightest, interpolation="nearest")
        _bare(cell, f"absolute error, mean {error.mean():.4f}")
    bar = figure.colorbar(drawn, cax=figure.add_subplot(cells[2, -1]), extend="max")
    bar.set_label("absolute error (1 = black to white)")
    return _png(figure)


def curves(settings: Settings, outcomes: Sequence[Outcome]) -> bytes:
    """Draw PSNR against steps and against seconds; returns a PNG file."""
    figure = _figure(11, 4.5)
    by_steps, by_seconds = figure.subplots(1, 2, sharey=True)
    for o in outcomes:
        label = f"{LABELS[o.name]}, {o.psnr[-1]:.2f} dB at the end"
        for axes, x in ((by_steps, np.arange(len(o.psnr))), (by_seconds, o.seconds)):
            axes.plot(x, o.psnr, color=COLOURS[o.name], linewidth=1.4, label=label)
            axes.plot(x[-1], o.psnr[-1], "o", color=COLOURS[o.name], markersize=5, clip_on=False)
    if len(outcomes) > 1:
        by_seconds.axvline(
            equal_seconds(outcomes), color=GREY, linestyle="--", linewidth=1,
            label="the faster method has finished", zorder=0,
        )  # fmt: skip
    by_steps.set(xlabel="training step", ylabel="PSNR (dB)", title="at equal steps")
    by_seconds.set(xlabel="training time (s)", title="at equal seconds")
    for axes in (by_steps, by_seconds):
        axes.set_xlim(left=0)
        _open(axes)
        axes.legend(loc="lower right", frameon=False)
    figure.suptitle(", ".join(_description(settings)), fontsize=10, color=GREY)
    return _png(figure)


def spectra(settings: Settings, name: str, steps: int, parameters: list[NDArray[Any]]) -> bytes:
    """Draw the eigenvalues of the eNTK at the group centres, at the start and at the end.

    Parameters
    ----------
    settings : Settings
        Of the fit.
    name : str
        The method, "plain" or "iga".
    steps : int
        That it has taken.
    parameters : list of ndarray
        Of its model after them.

    Returns
    -------
    bytes
        A PNG file.
    """
    initial = settings.architecture.initial(settings.seed)
    found = [spectrum(settings, name, arrays) for arrays in (initial, parameters)]
    figure = _figure(11, 4.8)
    both = figure.subplots(1, 2, sharey=True)
    titles = ("at the start", f"after {steps:,} steps of {LABELS[name]}")
    for axes, one, title in zip(both, found, titles, strict=True):
        _draw_spectrum(axes, one)
        axes.set(xlabel="index of the eigenvalue", title=title)
        axes.legend(loc="upper right", frameon=False)
    both[0].set_ylabel(f"eigenvalue of the eNTK\nat {len(found[0].before):,} group centres")
    both[0].set_ylim(*_limits(found))
    figure.suptitle(", ".join(_description(settings)), fontsize=10, color=GREY)
    return _png(figure)


def spectrum(settings: Settings, name: str, parameters: list[NDArray[Any]]) -> Spectrum:
    """Return the spectrum at some parameters, in float64 on the host.

    Its values are NaN where the kernel is not finite. Of more than `SPECTRUM_GROUPS` groups as
    many are taken, evenly, and `start` and `end` shrink in proportion.
    """
    groups = settings.grouping.groups
    count = min(groups, SPECTRUM_GROUPS)
    centres = _centres(settings)[np.linspace(0, groups - 1, count).round().astype(int)]
    model = MLP(settings.architecture, np, settings.seed, np.float64)
    model.parameters = [np.asarray(array, dtype=np.float64) for array in parameters]
    with np.errstate(all="ignore"):
        kernel = empirical_ntk(model, centres, outputs=settings.outputs)
    if not np.all(np.isfinite(kernel)):
        return Spectrum(np.full(count, np.nan), None, (0, 0))
    before = leading_eigenpairs(kernel, count)[0]
    if name == "plain":
        return Spectrum(before, None, (0, 0))
    start = settings.start * count // groups
    end = max(start + 1, settings.end * count // groups)
    transform, _ = adjust(kernel, replace(settings.adjustment, start=start, end=end))
    after = before.copy()
    after[start:end] *= 1 - transform.weights
    return Spectrum(before, after, (start, end))


def detail(picture: NDArray[np.float64]) -> tuple[int, int, int]:
    """Return top, left and side of the square in which the picture varies most."""
    height, width = picture.shape[:2]
    shorter = min(height, width)
    side = min(shorter, max(SMALLEST_DETAIL, shorter // DETAIL_SHARE))
    grey = picture.mean(axis=-1)
    energy = np.zeros((height, width))
    energy[:, 1:] += np.abs(np.diff(grey, axis=1))
    energy[1:, :] += np.abs(np.diff(grey, axis=0))
    sums = np.pad(energy.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(int(np.argmax(inside)), inside.shape)
    return int(top), int(left), side


def _centres(settings: Settings) -> NDArray[np.float64]:
    grouping = settings.grouping
    return grid(*settings.size)[grouping.columns(grouping.centre, grouping.centre + 1)[:, 0]]


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _png(figure: "Figure") -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _show(axes: "Axes", picture: NDArray[np.float64], title: str) -> None:
    clipped = np.clip(picture, 0, 1)
    if picture.shape[2] == 1:
        axes.imshow(clipped[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(clipped, interpolation="nearest")
    _bare(axes, title)


def _bare(axes: "Axes", title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title)


def _mark(axes: "Axes", top: int, left: int, side: int) -> None:
    from matplotlib.patches import Rectangle

    for colour, width in (("black", 3.0), (FRAME, 1.5)):
        frame = Rectangle((left - 0.5, top - 0.5), side, side, fill=False, clip_on=False)
        frame.set(edgecolor=colour, linewidth=width)
        axes.add_patch(frame)


def _description(settings: Settings) -> list[str]:
    s = settings
    kind = NETWORKS[s.network] + (f" ({s.frequencies} frequencies)" if s.network == "pe" else "")
    return [
        f"{s.signal}, {s.size[0]} × {s.size[1]} pixels",
        f"{kind}, {s.depth} × {s.width}",
        f"{OPTIMIZERS[s.optimizer]} {s.learning_rate:g}, {s.schedule}",
        f"{s.steps:,} steps",
    ]


def _describe(axes: "Axes", settings: Settings) -> None:
    axes.axis("off")
    lines = _description(settings)
    if "iga" in settings.method:
        s = settings
        lines += [
            "",
            f"IGA: {s.grouping.groups:,} patches of {s.patch} × {s.patch}",
            f"eigenvalues {s.start} to {s.end - 1} equalised",
            f"sampling {s.sampling}, {s.samples} a patch",
            f"reach {s.reach}, level {s.level}",
        ]
    axes.text(0.02, 0.5, "\n".join(lines), va="center", transform=axes.transAxes, linespacing=1.5)


def _open(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _draw_spectrum(axes: "Axes", one: Spectrum) -> None:
    index = np.arange(len(one.before))
    if one.after is not None:
        start, end = one.equalised
        axes.axvspan(start - 0.5, end - 0.5, color=COLOURS["iga"], alpha=0.07, linewidth=0,
                     label=f"equalised, {start} to {end - 1}")  # fmt: skip
    axes.plot(index, _positive(one.before), ".-", color=COLOURS["plain"], markersize=4, linewidth=1,
              label="before the transform")  # fmt: skip
    if one.after is not None:
        axes.plot(index, _positive(one.after), ".-", color=COLOURS["iga"], markersize=4,
                  linewidth=1, label="after the transform")  # fmt: skip
    axes.set_yscale("log")
    _open(axes)


def _positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave out what rounding alone has made."""
    noise = len(values) * np.finfo(np.float64).eps * abs(values[0])
    return np.where(values > noise, values, np.nan)


def _limits(found: list[Spectrum]) -> tuple[float, float]:
    values = np.concatenate([_positive(one.before) for one in found])
    if np.all(np.isnan(values)):
        return 0.1, 10.0
    return float(np.nanmin(values)) / 2, float(np.nanmax(values)) * 3
