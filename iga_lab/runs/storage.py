"""Folders and files of a run: whole or not at all, and without pickle."""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_core import Network
from iga_lab.errors import InputError
from iga_lab.files import PROGRAM, write_whole
from iga_lab.hardware import versions
from iga_lab.settings import Settings
from iga_lab.signals import AXES, Kind

RUNS = Path("iga-runs")
FORMAT = "4"
"""Of models and checkpoints: raised when what is in them changes."""
RESULT = "result.json"
CHECKPOINT = "checkpoint.safetensors"

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network as it lies in a file.

    Parameters
    ----------
    network : Network
        Its description.
    parameters : list of ndarray
        Weight and bias of each layer in turn, of one dtype.
    kind, shape, rate
        Of the signal it was trained on: see `Signal`, and the points along each axis.
    """

    network: Network
    parameters: list[NDArray[Any]]
    kind: Kind
    shape: tuple[int, ...]
    rate: int | None = None


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


def new_folder(output: str | None, name: str) -> Path:
    """Choose the folder of a new run, without making it.

    Parameters
    ----------
    output : str, optional
        As the person named it; by default one in `RUNS` by name and time.
    name : str
        For the default.

    Raises
    ------
    InputError
        If it holds something already or cannot be made.
    """
    if output is None:
        stamp = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
        free = (RUNS / (stamp + tail) for tail in ["", *(f"-{k}" for k in range(2, 100))])
        folder = next(path for path in free if not path.exists())
    else:
        folder = Path(output)
    try:
        if folder.is_dir() and any(folder.iterdir()):
            holds = "another run" if _is_run(folder) else "other files"
            hint = f"continue it with --resume {folder}, or " if _is_run(folder) else ""
            raise InputError(
                f"output: expected a new or an empty folder, got {str(folder)!r}, which holds "
                f"{holds}; {hint}choose another"
            )
        existing = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    except OSError as error:
        raise InputError(
            f"output: expected a folder, got {str(folder)!r} ({error.strerror}); choose another"
        ) from None
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        why = "may not be written" if existing.is_dir() else "is not a folder"
        raise InputError(
            f"output: expected a folder that can be written, got {str(folder)!r}: "
            f"{str(existing)!r} {why}; choose another"
        )
    return folder


def make_folder(folder: Path) -> None:
    """Make a run's folder and those above it.

    Raises
    ------
    InputError
        If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"output: expected a folder that can be written, got {str(folder)!r} "
            f"({error.strerror}); choose another"
        ) from None


def save_model(path: Path, model: Model, about: Mapping[str, str]) -> None:
    """Write a model.

    Parameters
    ----------
    path : Path
        A name that ends in ``.safetensors``.
    model : Model
        To be saved.
    about : mapping of str to str
        Further metadata.
    """
    arrays = {
        f"layers.{k // 2}.{'bias' if k % 2 else 'weight'}": parameter
        for k, parameter in enumerate(model.parameters)
    }
    metadata = {
        "kind": "model",
        "network": json.dumps(dataclasses.asdict(model.network)),
        "signal": json.dumps({"kind": model.kind, "shape": model.shape, "rate": model.rate}),
    }
    _save(path, arrays, {**about, **metadata})


def load_model(path: Path) -> Model:
    """Read a model.

    Raises
    ------
    InputError
        If the file is not one, or is damaged.
    """
    arrays, metadata = _load("model", path, "model")
    try:
        network = Network(**json.loads(metadata["network"]))
        if network != network.folded:
            raise ValueError("the network is not folded")
        signal = json.loads(metadata["signal"])
        kind, shape, rate = signal["kind"], tuple(map(int, signal["shape"])), signal["rate"]
        if network.depth > len(arrays):
            raise ValueError("layers are missing")
        names = [
            f"layers.{k}.{part}" for k in range(network.depth + 1) for part in ("weight", "bias")
        ]
        parameters = [arrays.pop(name) for name in names]
        if arrays or [p.shape for p in parameters] != network.shapes:
            raise ValueError("the layers are not the network's")
        if len({p.dtype for p in parameters}) > 1 or parameters[0].dtype.kind != "f":
            raise ValueError("the layers are not of one floating-point type")
        if not all(np.all(np.isfinite(p)) for p in parameters):
            raise ValueError("it holds NaN or infinity")
        if len(shape) != AXES[kind] or network.inputs != len(shape) or min(shape) < 1:
            raise ValueError("the signal is not one of the network's")
        if kind == "sound" and not (isinstance(rate, int) and 0 < rate < 2**31):
            raise ValueError("the sound has no rate")
        return Model(network, parameters, kind, shape, rate)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged("model", path, error) from None


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write where a run stands, in place of what was written before."""
    arrays: Arrays = {"values": checkpoint.values}
    for method, state in checkpoint.states.items():
        arrays |= {f"{method}/{name}": array for name, array in state.items()}
    metadata = {
        "kind": "checkpoint",
        "settings": json.dumps(dataclasses.asdict(checkpoint.settings)),
        "messages": json.dumps(checkpoint.messages),
    }
    _save(folder / CHECKPOINT, arrays, metadata)


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
    arrays, metadata = _load("resume", path, "checkpoint")
    try:
        values = json.loads(metadata["settings"])
        messages = json.loads(metadata["messages"])
        settings = Settings(**values | {k: tuple(values[k]) for k in ("shape", "method")})
        signal = arrays.pop("values")
        if signal.shape != (*settings.shape, settings.channels):
            raise ValueError("the signal is not of the run's size")
        states: dict[str, Arrays] = {method: {} for method in settings.method}
        for name, array in arrays.items():
            method, _, rest = name.partition("/")
            states[method][rest] = array
        return Checkpoint(settings, signal, states, dict(messages))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged("resume", path, error) from None


def finished(folder: Path) -> bool:
    """Whether a folder holds a run with nothing left to do."""
    if (folder / CHECKPOINT).exists():
        return False
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return bool(result["program"] == PROGRAM and result["status"] in ("finished", "failed"))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_run(folder: Path) -> bool:
    return (folder / CHECKPOINT).exists() or (folder / RESULT).exists()


def _save(path: Path, arrays: Arrays, metadata: Mapping[str, str]) -> None:
    from safetensors.numpy import save

    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    version = versions().get("iga-core", "unknown")
    about = {"program": PROGRAM, "version": version, "format": FORMAT, **metadata}
    write_whole(path, save(ordered, metadata=about))


def _load(name: str, path: Path, kind: str) -> tuple[Arrays, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        what = "a folder" if path.is_dir() else "no file"
        raise InputError(
            f"{name}: expected a file that `iga fit` has written, got {str(path)!r}, which is "
            f"{what}; name a model-*.safetensors"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("program") != PROGRAM or metadata.get("kind") != kind:
                raise InputError(
                    f"{name}: expected a {kind} of {PROGRAM}, got {path.name!r} of "
                    f"{metadata.get('program', 'another program')} "
                    f"({metadata.get('kind', 'of unknown kind')}); name a file of `iga fit`"
                )
            if metadata.get("format") != FORMAT:
                raise InputError(
                    f"{name}: expected a {kind} of format {FORMAT}, got {path.name!r} of format "
                    f"{metadata.get('format', '1')}, written by {PROGRAM} "
                    f"{metadata.get('version', 'of unknown version')}; make it anew with `iga fit`"
                )
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise _damaged(name, path, error) from None


def _damaged(name: str, path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(
        f"{name}: expected a whole file of {PROGRAM}, got {path.name!r}, which is damaged or "
        f"of another program or version ({reason}); make it anew with `iga fit`"
    )
