"""A run from its first file to its last."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_lab import metrics
from iga_lab.errors import InputError
from iga_lab.figures.comparisons import comparison
from iga_lab.figures.curves import curves
from iga_lab.figures.spectrum import spectra
from iga_lab.files import as_json, write_whole
from iga_lab.metrics import Outcome
from iga_lab.runs import results
from iga_lab.runs.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from iga_lab.runs.course import Course, prepare
from iga_lab.runs.folders import CHECKPOINT, RESULT, make_folder, new_folder
from iga_lab.runs.models import Model, model_file
from iga_lab.settings import Settings, require_usable
from iga_lab.signals import exported, suffixes
from iga_lab.signals.solids import surface

EXPORTED = ("sound", "volume", "video", "shape")
"""Kinds whose fits are written as files too, and the truth beside them; so are all arrays'."""


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
    """

    def __init__(self, folder: Path, settings: Settings, values: NDArray[np.float64]) -> None:
        self.folder = folder
        self.settings = settings
        if settings.lpips_weights is not None:
            _require_lpips(settings.form.kind, values, Path(settings.lpips_weights))
        self.courses: list[Course] = prepare(settings, values)
        self._values = values

    def start(self) -> None:
        """Make the folder, with a checkpoint from which the run can be continued."""
        make_folder(self.folder)
        self.save()

    def save(self) -> None:
        """Write the checkpoint."""
        save_checkpoint(
            self.folder,
            Checkpoint(
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
        # First, so that whatever fails from here on costs no training.
        self.save()
        truth = self._values
        outcomes = [results.outcome(self.settings, course, truth) for course in self.courses]
        result = results.result(self.settings, outcomes, truth)
        for name, content in self._files(outcomes, result):
            write_whole(self.folder / name, content)
        if result["status"] != "interrupted":
            # Last: a folder with a result and no checkpoint is one that is done.
            (self.folder / CHECKPOINT).unlink(missing_ok=True)
        return result

    def _files(
        self, outcomes: Sequence[Outcome], result: dict[str, Any]
    ) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of every file, the numbers before the pictures of them.

        Each is made once the one before it is written: what fails takes none of those with it,
        and only one is held in memory.
        """
        settings, form = self.settings, self.settings.form
        for course in self.courses:
            network = settings.architecture(course.name).folded
            model = Model(network, course.folded(), form)
            about = {"method": course.name, "signal": settings.signal}
            yield f"model-{course.name}.safetensors", model_file(model, about)
        if form.kind in EXPORTED or form.layout:
            fits = {f"fit-{outcome.name}": outcome.prediction for outcome in outcomes}
            for name, values in {"truth": self._values, **fits}.items():
                # A network that is nowhere inside has no surface to write.
                if form.kind != "shape" or len(surface(values[..., 0]).faces):
                    content = exported(form.kind, values, form.rate, form.layout)
                    yield name + suffixes(form)[0], content
        yield "curves.csv", results.curves_csv(outcomes)
        yield RESULT, as_json(result)
        yield "curves.png", curves(settings, outcomes)
        yield "comparison.png", comparison(settings, self._values, outcomes)
        # The kernel of a normalised network is not that of each point on its own.
        own = [c for c in self.courses if not settings.architecture(c.name).normalised]
        if own:
            last = own[-1]
            drawn = spectra(settings, last.name, len(last.losses), last.parameters())
            yield "spectrum.png", drawn


def begin(settings: Settings, values: NDArray[np.float64], output: Path | None) -> Run:
    """Prepare a new run; nothing is written yet.

    Parameters
    ----------
    settings : Settings
        As `choose` makes them.
    values : ndarray of float64, shape (*axes, channels)
        The signal.
    output : Path, optional
        The folder as the person named it.

    Raises
    ------
    InputError
        If the folder or the backend cannot be used, or they do not fit the signal.
    """
    folder = new_folder(output, f"{settings.signal}-{settings.network.kind}")
    return Run(folder, settings, values)


def resume(folder: Path) -> Run:
    """Prepare to continue a run where its checkpoint stands.

    Raises
    ------
    InputError
        If the folder holds no unfinished run, or a damaged one.
    """
    checkpoint = load_checkpoint(folder)
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
