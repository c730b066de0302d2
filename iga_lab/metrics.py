"""How near a prediction comes to the truth."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

SSIM_WINDOW = 7


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
