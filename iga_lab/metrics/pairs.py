"""What every measure asks of the two arrays that it compares."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError


def require_pair(prediction: NDArray[Any], truth: NDArray[Any]) -> None:
    """Raise unless both have one shape, something in it, and are finite."""
    if prediction.shape != truth.shape:
        raise InputError(
            f"prediction: expected the truth's shape {truth.shape}, got {prediction.shape}; "
            "compare a signal with its own fit"
        )
    if truth.size == 0:
        raise InputError(f"truth: expected values, got shape {truth.shape}; give a signal")
    for name, values, remedy in (
        ("truth", truth, "repair the signal"),
        ("prediction", prediction, "the fit diverged: lower its learning rate"),
    ):
        bad = int(np.sum(~np.isfinite(values)))
        if bad:
            raise InputError(
                f"{name}: expected finite values, got {bad} of {values.size} NaN or infinite; "
                f"{remedy}"
            )


def require_pictures(
    prediction: NDArray[Any], truth: NDArray[Any], side: int, measure: str
) -> None:
    """Raise unless both are pictures, (height, width, 1 or 3), of enough pixels a side."""
    require_pair(prediction, truth)
    if truth.ndim != 3 or truth.shape[2] not in (1, 3):
        raise InputError(
            f"truth: expected shape (height, width, 1 or 3) for {measure}, got {truth.shape}; "
            "give a grey or a colour picture"
        )
    if min(truth.shape[:2]) < side:
        height, width, _ = truth.shape
        raise InputError(
            f"truth: expected at least {side} pixels a side for {measure}, got {width} x {height}; "
            "give a larger picture"
        )
