"""Errors by frequency: what spectral bias is about."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iga_lab.errors import InputError
from iga_lab.metrics.pairs import require_pair

OCTAVES = (0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, np.inf)
"""Edges of bands in cycles a sample; half a cycle is the highest frequency along an axis."""


def band_errors(
    prediction: NDArray[np.float64], truth: NDArray[np.float64], bands: ArrayLike = OCTAVES
) -> NDArray[np.float64]:
    """Return the relative error in every band of frequencies.

    Parameters
    ----------
    prediction, truth : ndarray of float64, shape (*axes, channels)
        Samples on a regular grid of one or more axes.
    bands : array_like, shape (k + 1,), optional
        Increasing edges in cycles a sample; a frequency of several axes counts by its Euclidean
        length, at most ``√axes / 2``. Band i is ``bands[i] <= |f| < bands[i + 1]``.

    Returns
    -------
    ndarray of float64, shape (k,)
        ``‖residual in the band‖ / ‖truth in the band‖``, over all channels; infinite where the
        truth has nothing beyond rounding and the residual has something, NaN where neither has.

    Raises
    ------
    InputError
        If the arrays do not match or the edges do not increase.

    Notes
    -----
    One fast Fourier transform of each in complex128: ``O(N log N)`` time, 48 bytes a sample.
    """
    require_pair(prediction, truth)
    edges = np.asarray(bands, dtype=np.float64)
    if truth.ndim < 2:
        raise InputError(
            f"truth: expected shape (*axes, channels), got {truth.shape}; add an axis of channels"
        )
    if edges.ndim != 1 or len(edges) < 2 or not np.all(edges[:-1] < edges[1:]) or edges[0] < 0:
        raise InputError(
            f"bands: expected increasing edges from 0 on, got {edges.tolist()}; "
            "give them in cycles a sample"
        )
    grid = truth.shape[:-1]
    number = np.searchsorted(edges, _lengths(grid), side="right") - 1
    axes = tuple(range(len(grid)))

    def norms(values: NDArray[np.float64]) -> NDArray[np.float64]:
        power = np.sum(np.abs(np.fft.fftn(values, axes=axes)) ** 2, axis=-1)
        inside = (number >= 0) & (number < len(edges) - 1)
        found = np.bincount(number[inside], power[inside], len(edges) - 1)
        return np.sqrt(found.astype(np.float64))

    return _ratios(norms(prediction - truth), norms(truth), prediction, truth)


def frequency_errors(
    prediction: NDArray[np.float64], truth: NDArray[np.float64], frequencies: ArrayLike
) -> NDArray[np.float64]:
    """Return the relative error of a signal of one axis at given frequencies.

    Parameters
    ----------
    prediction, truth : ndarray of float64, shape (n, channels)
        Equally spaced samples.
    frequencies : array_like, shape (k,)
        In cycles over the n samples, from 0 to n / 2; whole numbers are the bins of the discrete
        Fourier transform, others are evaluated exactly.

    Returns
    -------
    ndarray of float64, shape (k,)
        ``|transform of the residual| / |transform of the truth|``, the norm over channels;
        infinite and NaN as for `band_errors`.

    Raises
    ------
    InputError
        If the arrays do not match or a frequency is out of range.

    Notes
    -----
    ``O(k n)`` time and memory.
    """
    require_pair(prediction, truth)
    asked = np.asarray(frequencies, dtype=np.float64)
    if truth.ndim != 2:
        raise InputError(
            f"truth: expected shape (n, channels), got {truth.shape}; use band_errors for grids"
        )
    count = len(truth)
    if asked.ndim != 1 or not np.all((asked >= 0) & (asked <= count / 2)):
        raise InputError(
            f"frequencies: expected numbers from 0 to {count / 2:g}, got {asked.tolist()}; "
            f"give them in cycles over the {count} samples"
        )
    turns = np.outer(asked, np.arange(count)) % count / count
    waves = np.exp(-2j * np.pi * turns)

    def norms(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.linalg.norm(waves @ values, axis=1))

    return _ratios(norms(prediction - truth), norms(truth), prediction, truth)


def _lengths(grid: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the length of every frequency of a grid, in cycles a sample."""
    squared = np.zeros(grid)
    for axis, count in enumerate(grid):
        shape = [count if i == axis else 1 for i in range(len(grid))]
        squared += np.fft.fftfreq(count).reshape(shape) ** 2
    return np.sqrt(squared)


def _ratios(
    residual: NDArray[np.float64],
    whole: NDArray[np.float64],
    prediction: NDArray[np.float64],
    truth: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Divide norms of transforms; one below the rounding of its transform is zero."""
    points = truth.size // truth.shape[-1]
    # ‖FFT(x)‖ = √points ‖x‖, whose relative error in floating point is of the order log(points).
    rounding = 4 * np.finfo(np.float64).eps * np.sqrt(points) * np.log2(2 * points)
    noise = rounding * np.linalg.norm(truth)
    both = rounding * (np.linalg.norm(truth) + np.linalg.norm(prediction))
    above = np.where(residual > both, residual, 0.0)
    below = np.where(whole > noise, whole, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(above / below)
