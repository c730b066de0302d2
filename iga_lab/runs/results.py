"""What came of a fit: outcomes, the table's numbers, and the files that hold them."""

import contextlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_lab import metrics
from iga_lab.errors import InputError
from iga_lab.files import PROGRAM
from iga_lab.hardware import machine, versions
from iga_lab.metrics import OCTAVES, Outcome, equal_seconds, mean_squared_error
from iga_lab.runs.course import Course
from iga_lab.runs.storage import FORMAT
from iga_lab.settings import Settings, by_name
from iga_lab.signals.meshes import occupied
from iga_lab.signals.solids import surface

LAST = 100
"""Points of the curve whose median is given."""
BANDS = 4
"""Octaves of a signal of one axis in which the error is given."""
ENERGY = 0.999
"""Part of the signal's energy that lies in them."""


def outcome(settings: Settings, course: Course, truth: NDArray[np.float64]) -> Outcome:
    """Evaluate a course as it stands; `truth` is (*axes, channels)."""
    prediction = course.predict().reshape(truth.shape)
    # The loss of a step is that before it, so the curve's last point is evaluated here; a course
    # that was stopped stands where its last loss was.
    losses = course.losses[:]
    if course.status != "stopped" or not losses:
        losses.append(mean_squared_error(prediction, truth))
    seconds = np.concatenate([[0.0], np.cumsum(course.durations)])[: len(losses)]
    return Outcome(
        course.name,
        course.status,
        course.message,
        len(course.losses),
        prediction,
        np.asarray(losses),
        seconds,
        float(np.median(course.durations)) if course.durations else None,
        measures(settings, prediction, truth),
        metrics.band_errors(prediction, truth, bands(truth)).tolist(),
    )


def measures(
    settings: Settings, prediction: NDArray[np.float64], truth: NDArray[np.float64]
) -> dict[str, float | None]:
    """Return what a signal of this kind is measured by beside PSNR; None where it cannot be.

    For images SSIM, MS-SSIM where they are large enough and the library is there, and LPIPS where
    its weights are given; for shapes IoU and both Chamfer distances.
    """
    found: dict[str, float | None] = {}
    if settings.form.kind == "image":
        found["ssim"] = metrics.ssim(prediction, truth)
        if min(settings.form.shape) >= metrics.MS_SSIM_SIDE:
            found["ms_ssim"] = None
            with contextlib.suppress(InputError):  # its library is not installed
                found["ms_ssim"] = metrics.ms_ssim(prediction, truth)
        if settings.lpips_weights is not None:
            found["lpips"] = metrics.lpips(prediction, truth, Path(settings.lpips_weights))
    elif settings.form.kind == "shape":
        found["iou"] = metrics.iou(prediction, truth)
        found["chamfer"] = found["chamfer_squared"] = None
        solid = surface(prediction[..., 0])
        if len(solid.faces):
            distance = metrics.chamfer(solid, surface(truth[..., 0]))
            found |= {"chamfer": distance.plain, "chamfer_squared": distance.squared}
    return found


def bands(truth: NDArray[np.float64]) -> list[float]:
    """Return the edges of the bands of frequencies, in cycles a sample, in which errors are given.

    For one axis, `BANDS` octaves up to where `ENERGY` of the truth lies below; else octaves up to
    the grid's highest frequency.
    """
    if truth.ndim > 2:
        return list(OCTAVES)
    power = (np.abs(np.fft.rfft(truth, axis=0)) ** 2).sum(axis=-1)
    share = np.cumsum(power) / max(power.sum(), np.finfo(np.float64).tiny)
    highest = (int(np.searchsorted(share, ENERGY)) + 1) / len(truth)
    return [0.0, *(highest * 2.0**-k for k in reversed(range(BANDS)))]


def summary(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Return the numbers of every method, ready for JSON; None where there is none."""
    limit = equal_seconds(outcomes)
    plain = next((o for o in outcomes if o.name == "plain"), None)
    found: dict[str, dict[str, Any]] = {}
    for o in outcomes:
        numbers: dict[str, Any] = {
            "psnr_final": float(o.psnr[-1]),
            "psnr_median": float(np.median(o.psnr[-LAST:])),
            "psnr_max": float(np.max(o.psnr)),
            "psnr_equal_seconds": o.psnr_after(limit),
            **o.measures,
            "seconds_per_step": o.seconds_per_step,
            "steps": o.steps,
            "status": o.status,
            "message": o.message,
        }
        if o.name != "plain":
            numbers["overhead_percent"] = _overhead(o, plain)
        numbers["band_errors"] = [_finite_or_none(error) for error in o.band_errors]
        found[o.name] = {name: _finite_or_none(value) for name, value in numbers.items()}
    return found


def result(
    settings: Settings, outcomes: Sequence[Outcome], truth: NDArray[np.float64]
) -> dict[str, Any]:
    """Return the content of ``result.json``."""
    # JSON has no infinity.
    edges = [None if edge == np.inf else edge for edge in bands(truth)]
    return {
        "program": PROGRAM,
        "format": FORMAT,
        "status": run_status([o.status for o in outcomes]),
        "settings": by_name(settings),
        "range": [settings.form.low, settings.form.high],
        **({"occupied": occupied(truth)} if settings.form.kind == "shape" else {}),
        "methods": summary(outcomes),
        "equal_seconds": equal_seconds(outcomes),
        "bands_in_cycles_a_sample": edges,
        "versions": versions(),
        "machine": machine(settings.place.backend, settings.place.device),
    }


def run_status(statuses: Sequence[str]) -> str:
    """Return "interrupted" with steps left, "finished", or "failed" if no method finished."""
    if "interrupted" in statuses:
        return "interrupted"
    return "finished" if "finished" in statuses else "failed"


def curves_csv(outcomes: Sequence[Outcome]) -> bytes:
    """Return the curves as CSV: method, step, seconds, loss, psnr (dB)."""
    text = io.StringIO()
    text.write("method,step,seconds,loss,psnr\n")
    for o in outcomes:
        rows = zip(o.seconds.tolist(), o.losses.tolist(), o.psnr.tolist(), strict=True)
        for step, (seconds, loss, decibel) in enumerate(rows):
            text.write(f"{o.name},{step},{seconds:.6f},{loss!r},{decibel:.4f}\n")
    return text.getvalue().encode()


def _overhead(other: Outcome, plain: Outcome | None) -> float | None:
    if plain is None or plain.seconds_per_step is None or other.seconds_per_step is None:
        return None
    return 100 * (other.seconds_per_step / plain.seconds_per_step - 1)


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
