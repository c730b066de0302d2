"""Where a run stands, as a file from which it goes on; the one before it is kept beside it."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iga_lab.files import from_json, write_whole
from iga_lab.runs.folders import BEFORE, CHECKPOINT, MARK
from iga_lab.runs.storage import Arrays, DamagedError, OtherRunError, opened, packed
from iga_lab.settings import Settings, by_name, composed, require_usable


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a run stands.

    Parameters
    ----------
    settings : Settings
        All of them.
    values : ndarray of float64, shape (*axes, channels)
        The signal.
    states : dict of str to dict of str to ndarray
        Of each method, see `Course.state`.
    """

    settings: Settings
    values: NDArray[np.float64]
    states: dict[str, Arrays]

    @property
    def run(self) -> str:
        """Which run it is of: what all its checkpoints agree in, and those of another do not."""
        found = hashlib.sha256(_settings(self.settings).encode())
        found.update(np.ascontiguousarray(self.values).reshape(-1).data)
        return found.hexdigest()


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write where a run stands, and keep the checkpoint before it.

    Raises
    ------
    InputError
        If it cannot be written; those that were there stay.
    """
    arrays: Arrays = {"values": checkpoint.values}
    for method, state in checkpoint.states.items():
        arrays |= {f"{method}/{name}": array for name, array in state.items()}
    words = {"kind": "checkpoint", "settings": _settings(checkpoint.settings)}
    write_whole(folder / CHECKPOINT, *packed(arrays, words), before=folder / BEFORE)


def load_checkpoint(path: Path, run: str | None) -> Checkpoint:
    """Read where a run stands.

    Parameters
    ----------
    path : Path
        Of the file.
    run : str, optional
        Which run it has to be of, where that is known.

    Raises
    ------
    UnusableError
        If it is of another run, or damaged.
    InputError
        If its settings cannot be used on this machine.
    """
    contents = opened(path, "checkpoint")
    try:
        said = from_json(contents.words["settings"])
        settings = composed(said)
        # What is written again as it stands is of the right types, and nothing is beside it.
        if _settings(settings) != json.dumps(said):
            raise ValueError("its settings are not those of a run")
        form = settings.form
        values = contents.entries["values"]
        if (values.dtype, values.shape) != (np.dtype("<f8"), (*form.shape, form.channels)):
            raise ValueError("the signal is not of the run's size")
        _require_room(settings, sum(math.prod(e.shape) for e in contents.entries.values()))
    except KeyError as error:
        raise DamagedError(f"{error} is missing or unknown") from None
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise DamagedError(error) from None
    arrays = contents.read("resume")
    signal = arrays.pop("values")
    # Every signal is scaled into that, see `Signal`.
    if not np.all(np.abs(signal) <= 1):
        raise DamagedError("the signal is not one")
    states: dict[str, Arrays] = {method: {} for method in settings.methods}
    for name, array in arrays.items():
        method, _, rest = name.partition("/")
        if method not in states:
            raise DamagedError("it holds another method's arrays")
        states[method][rest] = array
    checkpoint = Checkpoint(settings, signal, states)
    if run is not None and checkpoint.run != run:
        raise OtherRunError(
            f"is of another run, of {settings.signal!r}, or was given other settings than {MARK} "
            "names"
        )
    require_usable(settings)
    return checkpoint


def _require_room(settings: Settings, numbers: int) -> None:
    """Raise if a file is too small for its networks, before these are made."""
    networks = [settings.architecture(method) for method in settings.methods]
    wanted = sum(math.prod(shape) for network in networks for shape in network.shapes)
    if wanted > numbers:
        raise ValueError(
            f"networks of {wanted:,} parameters are said, {numbers:,} numbers are there"
        )


def _settings(settings: Settings) -> str:
    return json.dumps(by_name(settings))
