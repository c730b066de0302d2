"""What one method came to, as figures and tables want it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iga_lab.metrics.similarity import psnr


@dataclass(frozen=True, eq=False)
class Outcome:
    """One method at the end of its training.

    Parameters
    ----------
    name, status, message : str
        See `Course`.
    steps : int
        Steps taken.
    prediction : ndarray of float64, shape (*axes, channels)
        Unclipped.
    losses : ndarray of float64, shape (k,)
        Mean squared error after 0, 1, 2, ... steps, of the next step's batch; the last is that of
        the prediction, at all points.
    seconds : ndarray of float64, shape (k,)
        Time spent in steps until then.
    seconds_per_step : float or None
        Median; None before the first step.
    measures : dict of str to float or None
        By the signal's kind, see `measures`.
    band_errors : list of float
        See `metrics.band_errors`; those of the bands of `bands`.
    """

    name: str
    status: str
    message: str
    steps: int
    prediction: NDArray[np.float64]
    losses: NDArray[np.float64]
    seconds: NDArray[np.float64]
    seconds_per_step: float | None
    measures: dict[str, float | None]
    band_errors: list[float]

    @property
    def psnr(self) -> NDArray[np.float64]:
        """The curve in dB, (k,)."""
        return psnr(self.losses)

    def psnr_after(self, seconds: float) -> float:
        """Return the PSNR in dB that training had reached after some seconds."""
        reached = int(np.searchsorted(self.seconds, seconds, side="right")) - 1
        return float(self.psnr[max(0, reached)])


def equal_seconds(outcomes: Sequence[Outcome]) -> float:
    """Return when the first method had taken its steps; a stopped one does not count."""
    whole = [o for o in outcomes if o.status != "stopped"] or outcomes
    return min(float(o.seconds[-1]) for o in whole)
