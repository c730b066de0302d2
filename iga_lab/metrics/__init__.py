"""How near a prediction comes to the truth; no file of a run is known here."""

from iga_lab.metrics.outcomes import Outcome, equal_seconds
from iga_lab.metrics.perceptual import lpips
from iga_lab.metrics.similarity import (
    MS_SSIM_SIDE,
    iou,
    mean_squared_error,
    ms_ssim,
    psnr,
    ssim,
)
from iga_lab.metrics.spectra import OCTAVES, band_errors, frequency_errors
from iga_lab.metrics.surfaces import Chamfer, chamfer

__all__ = [
    "MS_SSIM_SIDE", "OCTAVES", "Chamfer", "Outcome", "band_errors", "chamfer", "equal_seconds",
    "frequency_errors", "iou", "lpips", "mean_squared_error", "ms_ssim", "psnr", "ssim",
]  # fmt: skip
