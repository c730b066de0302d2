"""Training with and without adjustment, side by side from the same start."""

import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from iga_array import MLP, Trainer
from iga_lab.errors import InputError
from iga_lab.hardware import array_library, to_host
from iga_lab.settings import Settings
from iga_lab.signals import grid

CHECKPOINT_SECONDS = 15.0
RECENT = 50
"""Steps over which the speed is shown."""


class Course:
    """One method's training, with the record of it.

    Attributes
    ----------
    name : str
        "plain" or "iga".
    trainer : Trainer
        With the model in it.
    losses : list of float
        Mean squared error at the parameters before each step.
    durations : list of float
        Seconds of each step.
    message : str
        Why it was stopped; empty unless its loss became non-finite.
    """

    def __init__(self, name: str, trainer: Trainer, coords: Any) -> None:
        self.name = name
        self.trainer = trainer
        self.losses: list[float] = []
        self.durations: list[float] = []
        self.message = ""
        self._coords = coords
        self._finite = trainer.model.parameters

    @property
    def status(self) -> str:
        """Either "stopped" by a non-finite loss, "finished", or "interrupted": with steps left."""
        if self.message:
            return "stopped"
        return "finished" if self.trainer.done >= self.trainer.steps else "interrupted"

    @property
    def speed(self) -> float:
        """Steps a second, of late."""
        recent = self.durations[-RECENT:]
        return 1 / statistics.median(recent) if recent else math.nan

    def step(self) -> None:
        """Take one step; a non-finite loss stops the course at the last finite model."""
        before = self.trainer.model.parameters
        started = time.perf_counter()
        try:
            loss = float(self.trainer.step())
        except FloatingPointError:
            loss, self._finite = math.nan, self.trainer.model.parameters
        seconds = time.perf_counter() - started
        if math.isfinite(loss):
            self.losses.append(loss)
            self.durations.append(seconds)
            self._finite = before
        else:
            self._stop()

    def predict(self) -> NDArray[np.float64]:
        """Evaluate the model at all points, (N, channels); never non-finite."""
        prediction = self._evaluate()
        if not np.all(np.isfinite(prediction)):
            self._stop()
            prediction = self._evaluate()
        return prediction

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all that the course needs to go on, as NumPy arrays by name."""
        trainer = {f"trainer.{k}": to_host(v) for k, v in self.trainer.state_dict().items()}
        return trainer | {
            "losses": np.asarray(self.losses, dtype=np.float64),
            "durations": np.asarray(self.durations, dtype=np.float64),
        }

    def load_state(self, state: dict[str, NDArray[Any]], message: str) -> None:
        """Go on from what `state` returned.

        Raises
        ------
        InputError
            If it is of another run or incomplete.
        """
        prefix = "trainer."
        try:
            self.trainer.load_state_dict(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )
            self.losses = [float(loss) for loss in state["losses"]]
            self.durations = [float(seconds) for seconds in state["durations"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"resume: expected the checkpoint of this run, got another ({error}); "
                "start a new run with `iga fit`"
            ) from None
        self.message = message
        self._finite = self.trainer.model.parameters

    def _stop(self) -> None:
        self.trainer.model.parameters = self._finite
        self.message = (
            f"the loss became non-finite at step {len(self.losses)}; the model is the last "
            "finite one: lower --learning-rate"
        )

    def _evaluate(self) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):
            return to_host(self.trainer.model(self._coords)).astype(np.float64)


def prepare(settings: Settings, pixels: NDArray[np.float64]) -> list[Course]:
    """Make the courses of a fit, all from the same initial parameters.

    Parameters
    ----------
    settings : Settings
        As `choose` makes them.
    pixels : ndarray of float64, shape (height, width, channels)
        Values in [0, 1].

    Returns
    -------
    list of Course
        One a method.

    Raises
    ------
    InputError
        If the backend or device is not to be had, or the settings do not fit the signal.
    """
    library, device, _ = array_library(settings.backend, settings.device)
    xp = array_namespace(library.empty(0))
    dtype = getattr(xp, settings.dtype)
    coords = xp.asarray(grid(*settings.size), dtype=dtype, device=device)
    targets = xp.asarray(pixels.reshape(len(coords), -1), dtype=dtype, device=device)
    try:
        return [
            Course(
                method,
                Trainer(
                    MLP(settings.architecture, library, settings.seed, dtype, device),
                    coords,
                    targets,
                    grouping=settings.grouping,
                    adjustment=settings.adjustment if method == "iga" else None,
                    optimizer=settings.update,
                    steps=settings.steps,
                    columns=settings.columns,
                ),
                coords,
            )
            for method in settings.method
        ]
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None


def race(
    courses: Sequence[Course],
    *,
    wished: Callable[[], bool],
    watch: Callable[[Course], object],
    save: Callable[[], object],
) -> None:
    """Train all courses in turns of one step, so that what slows the machine slows them all.

    Parameters
    ----------
    courses : sequence of Course
        Those that are over are left alone.
    wished : callable
        Asked after every step; the race ends when it says true.
    watch : callable
        Told of every step.
    save : callable
        Called every `CHECKPOINT_SECONDS`, between steps.
    """
    saved = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # overflow is reported by the course
        while running := [course for course in courses if course.status == "interrupted"]:
            for course in running:
                course.step()
                watch(course)
                if wished():
                    return
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                save()
                saved = time.monotonic()
