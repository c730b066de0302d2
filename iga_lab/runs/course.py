"""Training by several methods, side by side from the same seed."""

import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from iga_array import MLP, Trainer
from iga_lab.errors import InputError
from iga_lab.hardware import array_library, to_host
from iga_lab.memory import is_out_of_memory
from iga_lab.settings import Settings
from iga_lab.signals import coordinates

CHECKPOINT_SECONDS = 15.0
"""From one checkpoint to the next, or longer:"""
CHECKPOINT_SHARE = 0.01
"""Of the time they may take, however slow the disk is."""
TRAINER = "trainer."
"""What the names of a trainer's state begin with in a course's."""
RECENT = 50
"""Steps over which the speed is shown."""


class Training(Protocol):
    """What every backend's `Trainer` offers."""

    done: int
    steps: int

    @property
    def parameters(self) -> list[Any]:
        """All that is trained, after the last step."""

    def folded(self) -> list[Any]:
        """Weight and bias of each layer of the plain network that computes the same."""

    def step(self) -> Any:
        """Take one step and return the loss before it, or raise FloatingPointError."""

    def restore(self) -> None:
        """Go back to the parameters of the last finite loss."""

    def predict(self) -> Any:
        """Evaluate the network at all points, (N, channels)."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return all that the training needs to go on, by name."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from it, or raise ValueError."""


class Course:
    """One method's training, with the record of it.

    Attributes
    ----------
    name : str
        The method.
    trainer : Training
        With the network in it.
    losses : list of float
        Mean squared error at the parameters before each step, of its batch.
    durations : list of float
        Seconds of each step.
    message : str
        Why it was stopped; empty unless its loss became non-finite.
    """

    def __init__(self, name: str, trainer: Training) -> None:
        self.name = name
        self.trainer = trainer
        self.losses: list[float] = []
        self.durations: list[float] = []
        self.message = ""

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
        started = time.perf_counter()
        try:
            # As a float, which waits for a device to have it: the time is that of the whole step.
            loss = float(self.trainer.step())
        except FloatingPointError:
            loss = math.nan
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(
                "columns: expected pieces that fit in memory, got larger ones; lower --columns, "
                "or --size or --width"
            ) from None
        seconds = time.perf_counter() - started
        if math.isfinite(loss):
            self.losses.append(loss)
            self.durations.append(seconds)
        else:
            self._stop()

    def predict(self) -> NDArray[np.float64]:
        """Evaluate the model at all points, (N, channels); never non-finite."""
        prediction = self._evaluate()
        # The last step's loss is never evaluated, so only here is its overflow seen.
        if not np.all(np.isfinite(prediction)):
            self._stop()
            prediction = self._evaluate()
        if not np.all(np.isfinite(prediction)):  # only what came out of a file has no finite one
            raise InputError(
                f"{self.name}: expected a model of finite values, got none before it either; "
                "start a new run with `iga fit`"
            )
        return prediction

    def parameters(self) -> list[NDArray[Any]]:
        """Return all that is trained, as NumPy arrays."""
        return [to_host(parameter) for parameter in self.trainer.parameters]

    def folded(self) -> list[NDArray[Any]]:
        """Return weight and bias of each layer of the folded network, as NumPy arrays."""
        return [to_host(parameter) for parameter in self.trainer.folded()]

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all that the course needs to go on, as NumPy arrays by name."""
        trainer = {TRAINER + name: to_host(v) for name, v in self.trainer.state_dict().items()}
        return trainer | {
            "losses": np.asarray(self.losses, dtype=np.float64),
            "durations": np.asarray(self.durations, dtype=np.float64),
            "stopped": np.asarray(bool(self.message)),
        }

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from what `state` returned.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is of another course or incomplete.
        """
        fresh = self.state()
        for name, array in state.items():
            # What a first step makes is not in a fresh course: kernels, which are of floats.
            if array.dtype.kind != "f" if name not in fresh else array.dtype != fresh[name].dtype:
                raise ValueError(f"{name} is of {array.dtype}")
        trainer = {
            name.removeprefix(TRAINER): array
            for name, array in state.items()
            if name.startswith(TRAINER)
        }
        for name, array in trainer.items():
            # What diverged goes back to these. The newest may be what has just diverged.
            if name.startswith("finite.") and not np.all(np.isfinite(array)):
                raise ValueError(f"{name} is not finite")
        self.trainer.load_state_dict(trainer)
        stopped = bool(state["stopped"])
        for name in ("losses", "durations"):
            record, done = state[name], self.trainer.done
            # The step that stopped a course left no record; whether it counts is the trainer's.
            if record.ndim != 1 or not done - stopped <= len(record) <= done:
                raise ValueError(f"{name} are not those of {done} steps")
            if not (np.all(np.isfinite(record)) and np.all(record >= 0)):
                raise ValueError(f"{name} are not finite and positive")
        if len(state["losses"]) != len(state["durations"]):
            raise ValueError("losses and durations are of different steps")
        self.losses, self.durations = state["losses"].tolist(), state["durations"].tolist()
        self.message = self._why_stopped() if stopped else ""
        found = {name: (array.dtype, array.shape) for name, array in self.state().items()}
        if found != {name: (array.dtype, array.shape) for name, array in state.items()}:
            raise ValueError("its arrays are not those of this run")

    def _stop(self) -> None:
        self.trainer.restore()
        self.message = self._why_stopped()

    def _why_stopped(self) -> str:
        return (
            f"the loss became non-finite at step {len(self.losses)}; the model is the last "
            "finite one: lower --learning-rate"
        )

    def _evaluate(self) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):
            return to_host(self.trainer.predict()).astype(np.float64)


def prepare(settings: Settings, values: NDArray[np.float64]) -> list[Course]:
    """Make the courses of a fit, those of one network from the same initial parameters.

    Parameters
    ----------
    settings : Settings
        As `choose` makes them.
    values : ndarray of float64, shape (*axes, channels)
        The signal.

    Returns
    -------
    list of Course
        One a method.

    Raises
    ------
    InputError
        If the backend or device is not to be had, or the settings do not fit the signal.
    """
    place = settings.place
    library, device, _ = array_library(place.backend, place.device)
    xp = array_namespace(library.empty(0))
    # Copied, because PyTorch takes no array that is read-only, as one out of a file may be.
    like = {"dtype": getattr(xp, place.dtype), "device": device, "copy": True}
    coords = xp.asarray(coordinates(settings.form.shape), **like)
    targets = xp.asarray(values.reshape(len(coords), -1), **like)
    try:
        return [
            Course(method, _training(settings, method, coords, targets))
            for method in settings.methods
        ]
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None


def _training(settings: Settings, method: str, coords: Any, targets: Any) -> Training:
    network, xp = settings.architecture(method), array_namespace(coords)
    start = (settings.seed, coords.dtype, coords.device)
    arguments: dict[str, Any] = {
        "grouping": settings.grouping_of(method),
        "adjustment": settings.adjustment_of(method),
        "optimizer": settings.optimizer,
        "steps": settings.steps,
        "columns": settings.columns,
        "batch": settings.cutting.batch,
        "seed": settings.seed,
    }
    if settings.place.backend == "torch":
        # Only now, as `iga_torch` needs PyTorch to be imported at all.
        from iga_torch.networks import from_network
        from iga_torch.training import Trainer as TorchTrainer

        return TorchTrainer(from_network(network, *start), coords, targets, **arguments)
    return Trainer(MLP(network, xp, *start), coords, targets, **arguments)


def race(
    courses: Sequence[Course],
    *,
    wished: Callable[[], bool],
    watch: Callable[[Course], object],
    save: Callable[[], object],
    note: Callable[[str], None],
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
        Called every `CHECKPOINT_SECONDS`, between steps; less often where it takes long. Where it
        raises InputError, that is noted, and it is called again the next time.
    note : callable
        Told what the adjustment warns of, each once.
    """
    saved, taken, failed = time.monotonic(), 0.0, False
    with warnings.catch_warnings():
        # Overflow is reported by the course; what a filter says of the data is passed on.
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.filterwarnings("ignore", "kernel: expected finite values")
        warnings.filterwarnings("default", "end: ")
        warnings.showwarning = lambda message, *_, **__: note(str(message))
        while running := [course for course in courses if course.status == "interrupted"]:
            for course in running:
                course.step()
                watch(course)
                if wished():
                    return  # between steps, where a checkpoint is whole
            started = time.monotonic()
            if started - saved >= max(CHECKPOINT_SECONDS, taken / CHECKPOINT_SHARE):
                try:
                    save()
                except InputError as error:
                    # A disk may be free again later; what is trained until then is not lost by it.
                    if not failed:
                        note(f"training goes on without a new checkpoint: {error}")
                    failed = True
                else:
                    failed = False
                saved = time.monotonic()
                taken = saved - started
