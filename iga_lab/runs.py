"""A run from its first validation to its last file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_lab import figures, results, signals, storage
from iga_lab.errors import InputError
from iga_lab.fitting import Course, prepare
from iga_lab.hardware import array_library
from iga_lab.settings import Settings, choose, require_usable
from iga_lab.signals import Size
from iga_lab.storage import finished

__all__ = ["Run", "begin", "finished", "resume"]


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
        pixels: NDArray[np.float64],
        notes: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.courses: list[Course] = prepare(settings, pixels)
        self.notes = notes
        self._pixels = pixels

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
                self._pixels,
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
        outcomes = [results.outcome(course, self._pixels) for course in self.courses]
        result = results.result(self.settings, outcomes)
        last = self.courses[-1]
        parameters = {course.name: course.parameters() for course in self.courses}
        for name, arrays in parameters.items():
            model = storage.Model(self.settings.architecture, arrays, self.settings.size)
            about = {"method": name, "signal": self.settings.signal}
            storage.save_model(self.folder / f"model-{name}.safetensors", model, about)
        self._write("curves.csv", results.curves_csv(outcomes))
        self._write(storage.RESULT, results.as_json(result))
        self._write("curves.png", figures.curves(self.settings, outcomes))
        self._write("comparison.png", figures.comparison(self.settings, self._pixels, outcomes))
        spectra = figures.spectra(self.settings, last.name, len(last.losses), parameters[last.name])
        self._write("spectrum.png", spectra)
        if result["status"] != "interrupted":
            (self.folder / storage.CHECKPOINT).unlink(missing_ok=True)
        return result

    def _write(self, name: str, content: bytes) -> None:
        storage.write_whole(self.folder / name, content)


def begin(source: str, size: Size, given: Mapping[str, Any], output: str | None) -> Run:
    """Prepare a new run; nothing is written yet.

    Parameters
    ----------
    source : str
        See `signals.load`.
    size : tuple
        See `signals.load`.
    given : mapping
        See `choose`.
    output : str, optional
        The folder as the person named it.

    Raises
    ------
    InputError
        If any of it cannot be used.
    """
    signal = signals.load(source, size)
    backend, device = given["backend"], given["device"]
    placed = {**given, "device": array_library(backend, device)[2]}
    settings = choose(placed, signal.name, signal.pixels.shape)
    folder = storage.new_folder(output, f"{signal.name}-{settings.network}")
    return Run(folder, settings, signal.pixels, signal.notes)


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
        run = Run(folder, checkpoint.settings, checkpoint.pixels)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"resume: expected a checkpoint of this version, got another ({error}); "
            "start a new run with `iga fit`"
        ) from None
    for course in run.courses:
        course.load_state(checkpoint.states[course.name], checkpoint.messages.get(course.name, ""))
    return run
