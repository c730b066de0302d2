"""How near a prediction comes to the truth, point by point and window by window."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iga_lab.errors import InputError
from iga_lab.hardware import INSTALL, array_library
from iga_lab.metrics.pairs import require_pair, require_pictures

SSIM_WINDOW = 7
MS_SSIM_SIDE = 161
"""Pixels a side that five scales of an 11 x 11 window need."""


def psnr(loss: ArrayLike) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio in dB of mean squared errors, for a peak of 1.

    Parameters
    ----------
    loss : array_like
        Mean squared errors.

    Returns
    -------
    ndarray of float64
        ``−10 log₁₀ loss``; infinite where the loss is 0.
    """
    with np.errstate(divide="ignore"):
        return -10 * np.log10(np.asarray(loss, dtype=np.float64))


def mean_squared_error(prediction: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Return the mean over all points and channels; NaN or infinity where the prediction is."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.mean((prediction - truth) ** 2))


def ssim(prediction: NDArray[np.float64], truth: NDArray[np.float64]) -> float | None:
    """Return the structural similarity of two pictures (Wang et al. 2004).

    Parameters
    ----------
    prediction, truth : ndarray of float64, shape (height, width, channels)
        The unclipped prediction, and values in [0, 1].

    Returns
    -------
    float or None
        With a uniform 7 x 7 window, the mean over channels; None if the picture is smaller.
    """
    if min(truth.shape[:2]) < SSIM_WINDOW:
        return None
    from skimage.metrics import structural_similarity

    value = float(
        structural_similarity(  # type: ignore[no-untyped-call]
            truth, prediction, win_size=SSIM_WINDOW, data_range=1.0, channel_axis=-1
        )
    )
    return value if math.isfinite(value) else None


def ms_ssim(prediction: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Return the multi-scale structural similarity of two pictures (Wang et al. 2003).

    Parameters
    ----------
    prediction, truth : ndarray of float64, shape (height, width, 1 or 3)
        The unclipped prediction, and values in [0, 1]; at least `MS_SSIM_SIDE` pixels a side.

    Returns
    -------
    float
        At most 1, for equal pictures: five scales, an 11 x 11 Gaussian window of deviation 1.5,
        the mean over channels; a negative scale counts as 0.

    Raises
    ------
    InputError
        If the pictures cannot be compared, or pytorch-msssim is not installed.
    """
    require_pictures(prediction, truth, MS_SSIM_SIDE, "MS-SSIM")
    torch, _, _ = array_library("torch", "cpu")
    try:
        import pytorch_msssim
    except ImportError:
        raise InputError(
            "pytorch-msssim: expected to be installed, got nothing that loads; "
            f"run {INSTALL['measures']}"
        ) from None
    left, right = (
        torch.asarray(np.moveaxis(picture, 2, 0)[None].astype(np.float64))
        for picture in (prediction, truth)
    )
    return float(pytorch_msssim.ms_ssim(left, right, data_range=1.0))


def iou(prediction: NDArray[Any], truth: NDArray[Any], level: float = 0.5) -> float:
    """Return the intersection over the union of two solids.

    Parameters
    ----------
    prediction, truth : ndarray
        Occupancies on one grid, of any shape; where they are at least `level` is inside.
    level : float, optional
        Between the values outside and inside.

    Returns
    -------
    float
        From 0, for disjoint solids, to 1, for equal ones.

    Raises
    ------
    InputError
        If the arrays do not match, are not finite, or nothing of the truth is inside.
    """
    require_pair(prediction, truth)
    inside, wanted = prediction >= level, truth >= level
    if not np.any(wanted):
        raise InputError(
            f"truth: expected something at or above the level {level:g}, got at most "
            f"{float(np.max(truth)):g}; lower the level"
        )
    return float(np.sum(inside & wanted) / np.sum(inside | wanted))
