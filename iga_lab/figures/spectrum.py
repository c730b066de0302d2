"""The spectrum of the kernel before and after training, and what the filter makes of it."""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iga_array import MLP, empirical_ntk
from iga_core import Equalise
from iga_core.filters import Filter
from iga_lab.figures.captions import LABELS, description, head
from iga_lab.figures.style import COLOURS, house_style, new_figure, opened, png
from iga_lab.settings import Settings
from iga_lab.settings.words import about
from iga_lab.signals import coordinates

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROUPS = 1024
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
    filter : Filter, optional
        That of the adjustment, as it applies to these n groups.
    """

    before: NDArray[np.float64]
    after: NDArray[np.float64] | None = None
    filter: Filter | None = None


@house_style()
def spectra(settings: Settings, name: str, steps: int, parameters: list[NDArray[Any]]) -> bytes:
    """Draw the eigenvalues of the eNTK at the group centres, at the start and at the end.

    Parameters
    ----------
    settings : Settings
        Of the fit.
    name : str
        The method, whose network is not normalised.
    steps : int
        That it has taken.
    parameters : list of ndarray
        All that it trains, after them.

    Returns
    -------
    bytes
        A PNG file.
    """
    initial = settings.architecture(name).initial(settings.seed)
    found = [spectrum(settings, name, arrays) for arrays in (initial, parameters)]
    figure = new_figure(11, 4.8)
    both = figure.subplots(1, 2, sharey=True)
    titles = ("at the start", f"after {steps:,} steps of {LABELS[name]}")
    for axes, one, title in zip(both, found, titles, strict=True):
        _draw_spectrum(axes, one)
        axes.set(xlabel="index of the eigenvalue", title=title)
        axes.legend(loc="upper right", frameon=False)
    both[0].set_ylabel(f"eigenvalue of the eNTK\nat {len(found[0].before):,} group centres")
    both[0].set_ylim(*_limits(found))
    head(figure, [", ".join(description(settings)), *about(settings)])
    return png(figure)


def spectrum(settings: Settings, name: str, parameters: list[NDArray[Any]]) -> Spectrum:
    """Return the spectrum at some parameters, in float64 on the host.

    Its values are NaN where the kernel is not finite. As many groups are taken, evenly, as take
    part in a step; at most `GROUPS`, and `start` and `end` of `Equalise` shrink in
    proportion.
    """
    grouping = settings.grouping_of(name)
    together = min(settings.cutting.together, grouping.groups)
    count = min(together, GROUPS)
    some = np.linspace(0, grouping.groups - 1, count).round().astype(int)
    centres = coordinates(settings.form.shape)[grouping.index[some, grouping.centre[some]]]
    model = MLP(settings.architecture(name), np, settings.seed, np.float64)
    model.parameters = [np.asarray(array, dtype=np.float64) for array in parameters]
    with np.errstate(all="ignore"):  # that it may overflow is looked at below
        kernel = empirical_ntk(model, centres, outputs=settings.adjustment.outputs)
    if not np.all(np.isfinite(kernel)):
        return Spectrum(np.full(count, np.nan))
    values, vectors = (found[..., ::-1] for found in np.linalg.eigh(kernel))
    adjustment = settings.adjustment_of(name)
    if adjustment is None:
        return Spectrum(values)
    chosen = adjustment.filter
    if isinstance(chosen, Equalise):
        start = chosen.start * count // together
        end = max(start + 1, chosen.end * count // together)
        chosen = Equalise(end, start, chosen.level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some eigenvalues are rounding: it shows
        S = chosen(kernel).matrix()
    # S is a function of K, and has its eigenvectors.
    gains = np.sum(vectors * (S * vectors if np.ndim(S) == 0 else S @ vectors), axis=0)
    return Spectrum(values, gains * values, chosen)


def _draw_spectrum(axes: "Axes", one: Spectrum) -> None:
    index = np.arange(len(one.before))
    if isinstance(one.filter, Equalise):
        start, end = one.filter.start, one.filter.end
        axes.axvspan(start - 0.5, end - 0.5, color=COLOURS["iga"], alpha=0.07, linewidth=0,
                     label=f"equalised, {start} to {end - 1}")  # fmt: skip
    axes.plot(index, _positive(one.before), ".-", color=COLOURS["plain"], markersize=4, linewidth=1,
              label="of the kernel")  # fmt: skip
    if one.after is not None:
        axes.plot(index, _positive(one.after), ".-", color=COLOURS["iga"], markersize=4,
                  linewidth=1, label=f"after {type(one.filter).__name__}")  # fmt: skip
    axes.set_yscale("log")
    opened(axes)


def _positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave out what rounding alone has made."""
    noise = len(values) * np.finfo(np.float64).eps * abs(values[0])
    return np.where(values > noise, values, np.nan)


def _limits(found: list[Spectrum]) -> tuple[float, float]:
    drawn = [v for one in found for v in (one.before, one.after) if v is not None]
    values = np.concatenate(list(map(_positive, drawn)))
    if np.all(np.isnan(values)):
        return 0.1, 10.0
    return float(np.nanmin(values)) / 2, float(np.nanmax(values)) * 3
