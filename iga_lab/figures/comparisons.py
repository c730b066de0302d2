"""Truth and fits side by side, as PNG files in memory."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iga_lab.figures.captions import LABELS, description, groups, head
from iga_lab.figures.style import COLOURS, GREY, house_style, new_figure, opened, png
from iga_lab.figures.views import views
from iga_lab.metrics import Outcome
from iga_lab.settings import Settings
from iga_lab.signals.solids import surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Grid = NDArray[Any]

Values = NDArray[np.float64]
FRAME = "#FFEE00"
CELL = 3.4
"""Inches that a picture is wide."""
DETAIL_SHARE = 4
"""The detail's side is this part of the picture's shorter side."""
SMALLEST_DETAIL = 8
STRETCH_SHARE = 16
"""The detail of a signal of one axis is this part of it."""
SMALLEST_STRETCH = 64
VIEW = 420
"""Pixels a side of a view of a solid."""
SIDES = ("from the front", "from the right", "from above")
SLICES = ("z", "y", "x")
SHOWN = (3, 4)
"""Channels that are colours, or colours and opacity; the mean of others is drawn."""


@house_style()
def comparison(settings: Settings, truth: Values, outcomes: Sequence[Outcome]) -> bytes:
    """Draw truth and predictions as their kind wants it.

    Parameters
    ----------
    settings : Settings
        Of the fit.
    truth : ndarray of float64, shape (*axes, channels)
        The signal.
    outcomes : sequence of Outcome
        One a column, after the truth.

    Returns
    -------
    bytes
        A PNG file: of a picture with a detail of each and the error maps on one scale; of a
        volume, three slices through the middle and their errors; of a shape, its surface from
        three sides; of a function or a sound with residuals and spectra.
    """
    kind = settings.form.kind
    draw = {"image": _pictures, "volume": _slices, "video": _frames, "shape": _solids}.get(
        kind, _traces
    )
    return png(draw(settings, truth, outcomes))


def detail(picture: Values) -> tuple[int, int, int]:
    """Return top, left and side of the square in which the picture varies most."""
    height, width = picture.shape[:2]
    shorter = min(height, width)
    side = min(shorter, max(SMALLEST_DETAIL, shorter // DETAIL_SHARE))
    grey = picture.mean(axis=-1)
    energy = np.zeros((height, width))
    energy[:, 1:] += np.abs(np.diff(grey, axis=1))
    energy[1:, :] += np.abs(np.diff(grey, axis=0))
    # Sums over all squares at once, from an integral image.
    sums = np.pad(energy.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(int(np.argmax(inside)), inside.shape)
    return int(top), int(left), side


def _pictures(settings: Settings, truth: Values, outcomes: Sequence[Outcome]) -> "Figure":
    top, left, side = detail(truth)
    window = (slice(top, top + side), slice(left, left + side))
    tall = float(np.clip(CELL * truth.shape[0] / truth.shape[1], 2.2, 6.0))
    figure, axes, bar = _grid([tall, CELL, tall], 1 + len(outcomes))
    pictures = [truth, *(o.prediction for o in outcomes)]
    for (whole, close, _), title, picture in zip(axes.T, _titles(outcomes), pictures, strict=True):
        _show(whole, picture, title)
        _mark(whole, top, left, side)
        _show(close, picture[window], "detail" if picture is truth else "")
    _describe(axes[2, 0], settings)
    _errors(figure, axes[2:, 1:], bar, [[np.abs(o.prediction - truth)] for o in outcomes])
    return figure


def _slices(settings: Settings, truth: Values, outcomes: Sequence[Outcome]) -> "Figure":
    """Draw the slice in the middle of each axis, and errors there."""
    titles = [f"middle of {name}" for name in SLICES]
    return _three(
        settings,
        truth,
        outcomes,
        titles,
        lambda values: [np.take(values, n // 2, axis) for axis, n in enumerate(truth.shape[:3])],
    )


def _frames(settings: Settings, truth: Values, outcomes: Sequence[Outcome]) -> "Figure":
    """Draw a video's first, middle and last frame, and errors there."""
    last = len(truth) - 1
    some = (0, last // 2, last)
    titles = [f"frame {number + 1} of {last + 1}" for number in some]
    return _three(
        settings, truth, outcomes, titles, lambda values: [values[number] for number in some]
    )


def _three(
    settings: Settings,
    truth: Values,
    outcomes: Sequence[Outcome],
    names: Sequence[str],
    middle: Callable[[Values], list[Values]],
) -> "Figure":
    """Draw three pictures out of each, one below the other, and the errors of each."""
    heights = [float(np.clip(CELL * s.shape[0] / s.shape[1], 1.0, 6.0)) for s in middle(truth)]
    figure, axes, bar = _grid([*heights, *heights], 1 + len(outcomes))
    volumes = [truth, *(o.prediction for o in outcomes)]
    for column, title, volume in zip(axes.T, _titles(outcomes), volumes, strict=True):
        for axis, name, part in zip(column, names, middle(volume), strict=False):
            _show(axis, part, f"truth, {name}" if volume is truth else title)
    for axis in axes[4:, 0]:
        axis.axis("off")
    _describe(axes[3, 0], settings)
    _errors(figure, axes[3:, 1:], bar, [middle(np.abs(o.prediction - truth)) for o in outcomes])
    return figure


def _solids(settings: Settings, truth: Values, outcomes: Sequence[Outcome]) -> "Figure":
    columns = 1 + len(outcomes)
    figure = new_figure((CELL + 0.2) * columns, 3 * (CELL + 0.4) + 0.6)
    axes = figure.subplots(3, columns, squeeze=False)
    titles = ["truth", *(f"{LABELS[o.name]}: IoU {o.measures['iou']:.4f}" for o in outcomes)]
    volumes = [truth, *(o.prediction for o in outcomes)]
    for column, title, volume in zip(axes.T, titles, volumes, strict=True):
        for axis, side, view in zip(column, SIDES, _views(volume), strict=False):
            axis.imshow(view, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            _bare(axis, f"truth, {side}" if volume is truth else title)
    _caption(figure, settings)
    return figure


def _views(volume: Values) -> Values:
    """Return the three views of a volume's surface on white, (3, side, side)."""
    drawn = views(surface(volume[..., 0]), VIEW)
    return drawn[..., 0] * drawn[..., 1] + 1 - drawn[..., 1]


def _traces(settings: Settings, truth: Values, outcomes: Sequence[Outcome]) -> "Figure":
    """Draw prediction over truth, a stretch of it, the residual, and spectra.

    Of several channels one is drawn, the loudest: another may be silent.
    """
    chosen = int(np.argmax(np.sum(truth**2, axis=0)))
    count, values = len(truth), truth[:, chosen]
    length = min(count, max(SMALLEST_STRETCH, count // STRETCH_SHARE))
    first = _liveliest(values, length)
    x, unit = np.linspace(-1, 1, count), "x"
    frequencies, per = np.fft.rfftfreq(count) * (count - 1), "cycles from -1 to 1"
    rate = settings.form.rate
    if rate is not None:
        x, unit = np.arange(count) / rate, "time (s)"
        frequencies, per = np.fft.rfftfreq(count, 1 / rate), "frequency (Hz)"
    figure = new_figure(max(4.6 * len(outcomes), 8.0), 11)
    axes = figure.subplots(4, len(outcomes), squeeze=False, sharey="row")
    largest = max(float(np.abs(o.prediction[:, chosen] - values).max()) for o in outcomes)
    spectrum = _magnitudes(values)
    residuals = [_magnitudes(o.prediction[:, chosen] - values) for o in outcomes]
    faintest = min(float(np.median(residual)) for residual in residuals) / 10
    for (whole, close, rest, spectra), o, residual in zip(axes.T, outcomes, residuals, strict=True):
        prediction, colour = o.prediction[:, chosen], COLOURS[o.name]
        for axis, part in ((whole, slice(None)), (close, slice(first, first + length))):
            axis.plot(x[part], values[part], color=GREY, linewidth=2.2, alpha=0.6, label="truth")
            axis.plot(x[part], prediction[part], color=colour, linewidth=0.8, label=LABELS[o.name])
        whole.axvspan(x[first], x[first + length - 1], color=FRAME, alpha=0.35, linewidth=0)
        which = "" if truth.shape[1] == 1 else f", channel {chosen + 1} of {truth.shape[1]} drawn"
        whole.set(title=f"{LABELS[o.name]}: {o.psnr[-1]:.2f} dB{which}", xlabel=unit)
        close.set(title="detail", xlabel=unit)
        rest.plot(x, prediction - values, color=colour, linewidth=0.7)
        rms = float(np.sqrt(np.mean((prediction - values) ** 2)))
        rest.set(title=f"residual, root mean square {rms:.1e}", xlabel=unit)
        rest.set_ylim(-1.05 * largest, 1.05 * largest)
        spectra.plot(frequencies, spectrum, color=GREY, linewidth=1.6, alpha=0.6, label="truth")
        spectra.plot(frequencies, residual, color=colour, linewidth=0.8, label="residual")
        spectra.set(title="spectrum", xlabel=per, yscale="log")
        spectra.set(xlim=(0, _audible(frequencies, spectrum)), ylim=_shown(spectrum, faintest))
        for axis in (whole, close, rest, spectra):
            opened(axis)
        for axis in (close, spectra):
            axis.legend(loc="upper right", fontsize=8)
    axes[3, 0].set_ylabel("amplitude")
    _caption(figure, settings)
    return figure


def _liveliest(values: Values, length: int) -> int:
    """Return where the stretch begins in which a signal varies most."""
    change = np.append(np.abs(np.diff(values)), 0.0)
    sums = np.append(0.0, np.cumsum(change))
    return int(np.argmax(sums[length:] - sums[:-length]))


def _magnitudes(values: Values) -> Values:
    """Return the amplitudes of the waves that make up a signal, seen through a Hann window."""
    # Without it the jump from the last sample to the first drowns what is weak. Its zeros at both
    # ends are left out, so that every sample counts.
    window = np.hanning(len(values) + 2)[1:-1]
    found: Values = np.abs(np.fft.rfft(window * values)) * 2 / window.sum()
    return found


def _audible(frequencies: NDArray[Any], spectrum: Values) -> float:
    """Return twice the frequency below which nearly all of a signal's energy lies."""
    share = np.cumsum(spectrum**2) / np.sum(spectrum**2)
    return float(min(frequencies[-1], 2 * frequencies[np.searchsorted(share, 0.999)]))


def _shown(spectrum: Values, faintest: float) -> tuple[float, float]:
    largest = float(spectrum.max())
    return float(np.clip(faintest, 1e-8 * largest, 1e-3 * largest)), 3 * largest


def _grid(heights: list[float], columns: int) -> "tuple[Figure, Grid, Axes]":
    """Return cells of some heights, and one beside the last row for a bar."""
    figure = new_figure((CELL + 0.2) * columns + 1.1, sum(heights) + 0.4 * len(heights))
    cells = figure.add_gridspec(
        len(heights), columns + 1, height_ratios=heights, width_ratios=[CELL] * columns + [0.2]
    )
    rows = range(len(heights))
    axes = np.array([[figure.add_subplot(cells[r, c]) for c in range(columns)] for r in rows])
    bar = figure.add_subplot(cells[-1, -1])
    return figure, axes, bar


def _titles(outcomes: Sequence[Outcome]) -> list[str]:
    return ["truth", *(f"{LABELS[o.name]}: {o.psnr[-1]:.2f} dB" for o in outcomes)]


def _errors(figure: "Figure", axes: "Grid", bar: "Axes", errors: list[list[Values]]) -> None:
    """Draw error maps on one scale; a list a column."""
    maps = [[np.mean(error, axis=-1) for error in column] for column in errors]
    every = np.concatenate([error.reshape(-1) for column in maps for error in column])
    # The worst half per cent may be white: one pixel must not turn all others black.
    brightest = max(float(np.quantile(every, 0.995)), 1e-6)
    for cells, column in zip(axes.T, maps, strict=True):
        for cell, error in zip(cells, column, strict=True):
            drawn = cell.imshow(error, cmap="inferno", vmin=0, vmax=brightest)
            drawn.set_interpolation("nearest")
            _bare(cell, f"absolute error, mean {error.mean():.4f}")
    colours = figure.colorbar(drawn, cax=bar, extend="max")
    colours.set_label("absolute error (1 = black to white)")


def _show(axes: "Axes", picture: Values, title: str) -> None:
    clipped = np.clip(picture, 0, 1)
    if picture.shape[2] in SHOWN:
        axes.imshow(clipped, interpolation="nearest")
    else:
        grey = clipped.mean(axis=-1)
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
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


def _describe(axes: "Axes", settings: Settings) -> None:
    axes.axis("off")
    lines = [*description(settings), "", *groups(settings)]
    text = axes.text(0.02, 0.5, "\n".join(lines), va="center", transform=axes.transAxes)
    text.set(linespacing=1.5, parse_math=False)


def _caption(figure: "Figure", settings: Settings) -> None:
    head(figure, [", ".join(part(settings)) for part in (description, groups)])
