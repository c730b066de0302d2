"""Trained networks as files that `iga render` and others read."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_core import Network
from iga_lab.errors import InputError
from iga_lab.files import Content, from_json
from iga_lab.runs.storage import DTYPES, Contents, DamagedError, UnusableError, opened, packed
from iga_lab.signals import Form

KINDS_OF_NUMBERS = {DTYPES["F32"], DTYPES["F64"]}


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network as it lies in a file.

    Parameters
    ----------
    network : Network
        Its description.
    parameters : list of ndarray
        Weight and bias of each layer in turn, of one dtype.
    form : Form
        Of the signal it was trained on.
    """

    network: Network
    parameters: list[NDArray[Any]]
    form: Form


def model_file(model: Model, about: Mapping[str, str]) -> list[Content]:
    """Return a model as the parts of a ``.safetensors`` file.

    Parameters
    ----------
    model : Model
        To be saved.
    about : mapping of str to str
        Further metadata.
    """
    arrays = dict(zip(_names(model.network), model.parameters, strict=True))
    words = {"kind": "model", "network": _network(model.network), "signal": _form(model.form)}
    return packed(arrays, {**about, **words})


def load_model(path: Path) -> Model:
    """Read a model.

    Raises
    ------
    InputError
        If the file is not one, or is damaged.
    """
    try:
        contents = opened(path, "model")
        try:
            network, form = _described(contents)
            _require_layers(contents, network)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedError(error) from None
        arrays = contents.read("model")
        parameters = [arrays[name] for name in _names(network)]
        if not all(np.all(np.isfinite(p)) for p in parameters):
            raise DamagedError("it holds NaN or infinity")
        return Model(network, parameters, form)
    except UnusableError as error:
        raise InputError(
            f"model: expected a model-*.safetensors that `iga fit` has written, got {str(path)!r}, "
            f"which {error}; name another, or make it anew with `iga fit`"
        ) from None


def _described(contents: Contents) -> tuple[Network, Form]:
    """Return the network and the form of the signal that a file describes."""
    said, signal = (from_json(contents.words[name]) for name in ("network", "signal"))
    network = Network(**said)
    form = Form(**signal | {"shape": tuple(signal["shape"])})
    # What is written again as it stands is of the right types, and nothing is beside it.
    if (_network(network), _form(form)) != (json.dumps(said), json.dumps(signal)):
        raise ValueError("its network or signal is not described as `iga fit` does")
    if network != network.folded:
        raise ValueError("the network is not folded")
    if (network.inputs, network.outputs) != (len(form.shape), form.channels):
        raise ValueError("the signal is not one of the network's")
    return network, form


def _require_layers(contents: Contents, network: Network) -> None:
    """Raise unless a file holds the layers of its network, before they are read."""
    # Before the names are listed: a header may claim any depth.
    if len(contents.entries) != 2 * (network.depth + 1):
        raise ValueError("layers are missing, or there are others")
    entries = [contents.entries[name] for name in _names(network)]
    if [entry.shape for entry in entries] != network.shapes:
        raise ValueError("the layers are not the network's")
    kinds = {entry.dtype for entry in entries}
    if len(kinds) > 1 or not kinds <= KINDS_OF_NUMBERS:
        raise ValueError("the layers are not all float32 or all float64")


def _names(network: Network) -> list[str]:
    return [f"layers.{k}.{part}" for k in range(network.depth + 1) for part in ("weight", "bias")]


def _network(network: Network) -> str:
    return json.dumps(dataclasses.asdict(network))


def _form(form: Form) -> str:
    return json.dumps(dataclasses.asdict(form))
