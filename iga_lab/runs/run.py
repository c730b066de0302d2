"""A run from its first file to its last."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_lab import metrics
from iga_lab.errors import InputError, a
from iga_lab.figures.comparisons import comparison
from iga_lab.figures.curves import curves
from iga_lab.figures.spectrum import spectra
from iga_lab.files import Content, as_json, sweep, write_whole
from iga_lab.metrics import Outcome
from iga_lab.runs import results
from iga_lab.runs.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from iga_lab.runs.course import Course, prepare
from iga_lab.runs.folders import (
    BEFORE,
    CHECKPOINT,
    MARK,
    RESULT,
    Claim,
    claim_again,
    claim_new,
    make_folder,
    marked,
    new_folder,
)
from iga_lab.runs.models import Model, model_file
from iga_lab.runs.storage import DamagedError, OtherRunError, UnusableError
from iga_lab.settings import Settings
from iga_lab.signals import exported, suffixes
from iga_lab.signals.solids import surface

EXPORTED = ("sound", "volume", "video", "shape")
"""Kinds whose fits are written as files too, and the truth beside them; so are all arrays'."""


class Run:
    """A fit in its folder.

    Parameters
    ----------
    folder : Path
        Where it is to be; for good once it is claimed.
    settings : Settings
        All of them.
    values : ndarray of float64, shape (*axes, channels)
        The signal.
    claim : callable
        Makes the folder this process's own, or raises InputError.

    Attributes
    ----------
    folder : Path
        Made by `start`.
    settings : Settings
        All of them.
    courses : list of Course
        One a method.
    notes : list of str
        What the person should be told, and has not been.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        values: NDArray[np.float64],
        claim: Callable[[], Claim],
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.notes: list[str] = []
        self._claim_folder = claim
        self._claim: Claim | None = None
        if settings.lpips_weights is not None:
            _require_lpips(settings.form.kind, values, Path(settings.lpips_weights))
        self.courses: list[Course] = prepare(settings, values)
        self._values = values

    def start(self) -> None:
        """Claim the folder until `close`, with a checkpoint in it from which the run can go on.

        Raises
        ------
        InputError
            If it cannot be written, or another process works in it.
        """
        self._claim = self._claim_folder()
        self.folder = self._claim.folder
        if self._claim.note:
            self.notes.append(self._claim.note)
        try:
            sweep(self.folder)
            checkpoint = self._checkpoint()
            self._claim.mark(checkpoint.run)
            if not (self.folder / CHECKPOINT).exists():
                save_checkpoint(self.folder, checkpoint)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other processes into the folder."""
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def save(self) -> None:
        """Write the checkpoint.

        Raises
        ------
        InputError
            If it cannot be written; the ones before it stay.
        """
        make_folder(self.folder)  # where someone has removed it, the training need not be lost
        save_checkpoint(self.folder, self._checkpoint())

    def report(self) -> tuple[dict[str, Any], InputError | None]:
        """Write every file for where the run stands, whatever else cannot be written.

        Returns
        -------
        dict
            The content of ``result.json``.
        InputError or None
            Why there are files that could not be written; the checkpoint stays then.
        """
        errors = []
        try:
            # First, so that whatever fails from here on costs no training.
            self.save()
        except InputError as error:
            errors.append(error)
        truth = self._values
        outcomes = [results.outcome(self.settings, course, truth) for course in self.courses]
        result = results.result(self.settings, outcomes, truth)
        for name, make in self._files(outcomes, result):
            try:
                make_folder(self.folder)
                write_whole(self.folder / name, *make())
            except InputError as error:
                errors.append(error)
            except Exception as error:  # libraries that draw or export fail in every way there is
                reason = " ".join(str(error).split()) or type(error).__name__
                errors.append(
                    InputError(
                        f"{name}: expected to be made, got {type(error).__name__}: {reason}; what "
                        "else there is has been written: mend that, or report it"
                    )
                )
        if result["status"] != "interrupted" and not errors:
            # Last: a folder with a result and no checkpoint is one that is done. The older one
            # first, so that a run killed in between goes on from its end.
            try:
                for name in (BEFORE, CHECKPOINT):
                    (self.folder / name).unlink(missing_ok=True)
            except OSError as error:
                errors.append(_not_moved("output", self.folder, error))
        return result, errors[0] if errors else None

    def _checkpoint(self) -> Checkpoint:
        states = {course.name: course.state() for course in self.courses}
        return Checkpoint(self.settings, self._values, states)

    def _files(
        self, outcomes: Sequence[Outcome], result: dict[str, Any]
    ) -> Iterator[tuple[str, Callable[[], Sequence[Content]]]]:
        """Yield name and maker of every file, the numbers before the pictures of them.

        Each is made once the one before it is written: what fails takes none of those with it,
        and only one is held in memory.
        """
        settings, form = self.settings, self.settings.form
        for course in self.courses:
            yield f"model-{course.name}.safetensors", partial(self._model, course)
        if form.kind in EXPORTED or form.layout:
            fits = {f"fit-{outcome.name}": outcome.prediction for outcome in outcomes}
            for name, values in {"truth": self._values, **fits}.items():
                # A network that is nowhere inside has no surface to write.
                if form.kind != "shape" or len(surface(values[..., 0]).faces):
                    yield (
                        name + suffixes(form)[0],
                        partial(_one, exported, form.kind, values, form.rate, form.layout),
                    )
        yield "curves.csv", partial(_one, results.curves_csv, outcomes)
        yield RESULT, partial(_one, as_json, result)
        yield "curves.png", partial(_one, curves, settings, outcomes)
        yield "comparison.png", partial(_one, comparison, settings, self._values, outcomes)
        # The kernel of a normalised network is not that of each point on its own.
        own = [c for c in self.courses if not settings.architecture(c.name).normalised]
        if own:
            yield "spectrum.png", partial(self._spectrum, own[-1])

    def _model(self, course: Course) -> list[Content]:
        network = self.settings.architecture(course.name).folded
        about = {"method": course.name, "name": self.settings.signal}
        return model_file(Model(network, course.folded(), self.settings.form), about)

    def _spectrum(self, course: Course) -> list[Content]:
        steps, parameters = len(course.losses), course.parameters()
        return [spectra(self.settings, course.name, steps, parameters)]


def _one(make: Callable[..., bytes], *arguments: Any) -> list[Content]:
    return [make(*arguments)]


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
    name = f"{settings.signal}-{settings.network.kind}"
    return Run(new_folder(output, name), settings, values, partial(claim_new, output, name))


def resume(folder: Path) -> Run:
    """Prepare to continue a run where its checkpoint stands, or the one before it.

    Nothing is written yet.

    Raises
    ------
    InputError
        If the folder holds no unfinished run, or only damaged checkpoints.
    """
    reasons = []
    for name in (CHECKPOINT, BEFORE):
        path = folder / name
        try:
            stamp = _stamp(path)
            run = _continued(path, partial(_claimed_unchanged, path, stamp))
        except OtherRunError as error:
            # Not passed over: going on from the one before it would write over this one.
            raise InputError(
                f"resume: expected the checkpoint of the run in {str(folder)!r}, got {name!r}, "
                f"which {error}; move it away to go on from the one before it, or remove {MARK} "
                "to go on from this one"
            ) from None
        except UnusableError as error:
            reasons.append(f"{name!r}, which {error}")
            continue
        if reasons:
            steps = max(course.trainer.done for course in run.courses)
            run.notes.append(
                f"resume: got {reasons[0]}; going on from the one before it, at step {steps}"
            )
        return run
    if not any(os.path.lexists(folder / name) for name in (CHECKPOINT, BEFORE)):
        reasons = [f"{str(folder)!r}, which has no {CHECKPOINT}"]
    raise InputError(
        f"resume: expected the folder of a run that can go on, got {' and '.join(reasons)}; start "
        "a new one with `iga fit`"
    )


def _continued(path: Path, claim: Callable[[], Claim]) -> Run:
    """Return the run whose checkpoint this is, or raise UnusableError."""
    checkpoint = load_checkpoint(path, marked(path.parent))
    try:
        run = Run(path.parent, checkpoint.settings, checkpoint.values, claim)
        for course in run.courses:
            course.load_state(checkpoint.states[course.name])
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedError(error) from None
    return run


def _claimed_unchanged(path: Path, stamp: object) -> Claim:
    """Claim the folder of a checkpoint that was read, and have it be the newest."""
    claim = claim_again(path.parent)
    try:
        if _stamp(path) != stamp:
            raise InputError(
                f"resume: expected a run that nothing works on, got {str(path.parent)!r}, in which "
                "another `iga fit` has gone on meanwhile; try again"
            )
        # The damaged one may not become the one before the next.
        path.replace(path.parent / CHECKPOINT)
    except OSError as error:
        claim.close()
        raise _not_moved("resume", path.parent, error) from None
    except BaseException:
        claim.close()
        raise
    return claim


def _not_moved(name: str, folder: Path, error: OSError) -> InputError:
    return InputError(
        f"{name}: expected checkpoints that can be moved and removed, got {error.strerror} in "
        f"{str(folder)!r}; see whose the folder is"
    )


def _stamp(path: Path) -> object:
    """Return what changes with a file that is written anew."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _require_lpips(kind: str, values: NDArray[np.float64], weights: Path) -> None:
    """Raise before training what the measure would raise after it."""
    if kind != "image":
        raise InputError(
            f"lpips-weights: expected an image to measure, got {a(kind)}; leave it out"
        )
    metrics.lpips(values, values, weights)
