"""Where a run stands, as a file from which it goes on."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError
from iga_lab.files import write_whole
from iga_lab.runs.folders import CHECKPOINT
from iga_lab.runs.storage import Arrays, damaged, packed, unpacked
from iga_lab.settings import Settings, by_name, composed


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
    messages : dict of str to str
        Why a method was stopped.
    """

    settings: Settings
    values: NDArray[np.float64]
    states: dict[str, Arrays]
    messages: dict[str, str]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write where a run stands, in place of what was written before."""
    arrays: Arrays = {"values": checkpoint.values}
    for method, state in checkpoint.states.items():
        arrays |= {f"{method}/{name}": array for name, array in state.items()}
    metadata = {
        "kind": "checkpoint",
        "settings": json.dumps(by_name(checkpoint.settings)),
        "messages": json.dumps(checkpoint.messages),
    }
    write_whole(folder / CHECKPOINT, packed(arrays, metadata))


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read where a run stands.

    Raises
    ------
    InputError
        If the folder holds no unfinished run, or a damaged one.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise InputError(
            f"resume: expected the folder of a run, got {str(folder)!r}, which has no "
            f"{CHECKPOINT}; start a new one with `iga fit`"
        )
    arrays, metadata = unpacked("resume", path, "checkpoint")
    try:
        settings = composed(json.loads(metadata["settings"]))
        messages = json.loads(metadata["messages"])
        signal = arrays.pop("values")
        # The trainers would refuse most others, but in words about arrays.
        if signal.shape != (*settings.form.shape, settings.form.channels):
            raise ValueError("the signal is not of the run's size")
        states: dict[str, Arrays] = {method: {} for method in settings.methods}
        for name, array in arrays.items():
            method, _, rest = name.partition("/")
            states[method][rest] = array
        return Checkpoint(settings, signal, states, dict(messages))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged("resume", path, error) from None
