"""A run from its first validation to its last file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_lab import files, metrics
from iga_lab.errors import InputError
from iga_lab.figures import comparisons, curves
from iga_lab.hardware import array_library
from iga_lab.runs import results, storage
from iga_lab.runs.course import Course, prepare
from iga_lab.runs.storage import finished
from iga_lab.settings import Settings, choose, require_usable
from iga_lab.signals import SUFFIXES, Progress, Size, exported, load
from iga_lab.signals.solids import surface

__all__ = ["Run", "begin", "finished", "resume"]

EXPORTED = ("sound", "volume", "shape")
"""Kinds whose fits are written as files too, and the truth beside them."""

FOURIER_RATE = (
    "fr: trained at the learning rate of all methods, {:g}; a rate moves its weights further than "
    "those of others, and pe wants about a tenth with it: see --learning-rate"
)


class Run:
    """A fit in its folder.

    Attributes
    ----------
    folder : Path
        Made by `start`.
    settings : Settings
        All of them.
    courses : list of Course
        One a method.
    notes : sequence of str
        What the person should be told.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        values: NDArray[np.float64],
        notes: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.settings = settings
        if settings.lpips_weights is not None:
            _require_lpips(settings.kind, values, Path(settings.lpips_weights))
        self.courses: list[Course] = prepare(settings, values)
        self.notes = notes
        self._values = values

    def start(self) -> None:
        """Make the folder, with a checkpoint from which the run can be continued."""
        storage.make_folder(self.folder)
        self.save()

    def save(self) -> None:
        """Write the checkpoint."""
        storage.save_checkpoint(
            self.folder,
            storage.Checkpoint(
                self.settings,
                self._values,
                {course.name: course.state() for course in self.courses},
                {course.name: course.message for course in self.courses},
            ),
        )

    def report(self) -> dict[str, Any]:
        """Write every file for where the run stands.

        Returns
        -------
        dict
            The content of ``result.json``.
        """
        self.save()
        truth = self._values
        outcomes = [results.outcome(self.settings, course, truth) for course in self.courses]
        result = results.result(self.settings, outcomes, truth)
        for course in self.courses:
            self._write_model(course)
        if self.settings.kind in EXPORTED:
            fits = {f"fit-{outcome.name}": outcome.prediction for outcome in outcomes}
            for name, values in {"truth": truth, **fits}.items():
                self._write_values(name, values)
        self._write("curves.csv", results.curves_csv(outcomes))
        self._write(storage.RESULT, files.as_json(result))
        self._write("curves.png", curves.curves(self.settings, outcomes))
        self._write("comparison.png", comparisons.comparison(self.settings, truth, outcomes))
        self._write_spectrum()
        if result["status"] != "interrupted":
            (self.folder / storage.CHECKPOINT).unlink(missing_ok=True)
        return result

    def _write_model(self, course: Course) -> None:
        s = self.settings
        network = s.architecture(course.name).folded
        model = storage.Model(network, course.folded(), s.kind, s.shape, s.rate)
        about = {"method": course.name, "signal": s.signal}
        storage.save_model(self.folder / f"model-{course.name}.safetensors", model, about)

    def _write_values(self, name: str, values: NDArray[np.float64]) -> None:
        kind = self.settings.kind
        if kind != "shape" or len(surface(values[..., 0]).faces):
            self._write(name + SUFFIXES[kind], exported(kind, values, self.settings.rate))

    def _write_spectrum(self) -> None:
        """Draw the kernel of the last method that has one: each point on its own."""
        own = [c for c in self.courses if not self.settings.architecture(c.name).normalised]
        if own:
            name, steps, parameters = own[-1].name, len(own[-1].losses), own[-1].parameters()
            self._write("spectrum.png", curves.spectra(self.settings, name, steps, parameters))

    def _write(self, name: str, content: bytes) -> None:
        files.write_whole(self.folder / name, content)


def begin(
    source: str,
    size: Size | None,
    given: Mapping[str, Any],
    output: str | None,
    progress: Progress | None = None,
) -> Run:
    """Prepare a new run; nothing is written yet.

    Parameters
    ----------
    source : str
        See `signals.load`.
    size : tuple, optional
        See `signals.load`.
    given : mapping
        See `choose`.
    output : str, optional
        The folder as the person named it.
    progress : callable, optional
        See `signals.load`.

    Raises
    ------
    InputError
        If any of it cannot be used.
    """
    signal = load(source, size, progress)
    backend, device = given["backend"], given["device"]
    placed = {**given, "device": array_library(backend, device)[2]}
    if placed["lpips_weights"] is not None:
        placed["lpips_weights"] = str(Path(placed["lpips_weights"]).absolute())
    settings = choose(placed, signal)
    folder = storage.new_folder(output, f"{signal.name}-{settings.network}")
    notes = list(signal.notes)
    if {"fr", "iga+fr"} & set(settings.method) and given["learning_rate"] is None:
        notes.append(FOURIER_RATE.format(settings.learning_rate))
    return Run(folder, settings, signal.values, notes)


def resume(folder: Path) -> Run:
    """Prepare to continue a run where its checkpoint stands.

    Raises
    ------
    InputError
        If the folder holds no unfinished run, or a damaged one.
    """
    checkpoint = storage.load_checkpoint(folder)
    try:
        require_usable(checkpoint.settings)
        run = Run(folder, checkpoint.settings, checkpoint.values)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"resume: expected a checkpoint of this version, got another ({error}); "
            "start a new run with `iga fit`"
        ) from None
    for course in run.courses:
        course.load_state(checkpoint.states[course.name], checkpoint.messages.get(course.name, ""))
    return run


def _require_lpips(kind: str, values: NDArray[np.float64], weights: Path) -> None:
    """Raise before training what the measure would raise after it."""
    if kind != "image":
        raise InputError(f"lpips-weights: expected an image to measure, got a {kind}; leave it out")
    metrics.lpips(values, values, weights)
