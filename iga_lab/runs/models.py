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
from iga_lab.runs.storage import damaged, packed, unpacked
from iga_lab.signals import Form


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


def model_file(model: Model, about: Mapping[str, str]) -> bytes:
    """Return a model as the content of a ``.safetensors`` file.

    Parameters
    ----------
    model : Model
        To be saved.
    about : mapping of str to str
        Further metadata.
    """
    form = model.form
    arrays = {
        f"layers.{k // 2}.{'bias' if k % 2 else 'weight'}": parameter
        for k, parameter in enumerate(model.parameters)
    }
    metadata = {
        "kind": "model",
        "network": json.dumps(dataclasses.asdict(model.network)),
        "signal": json.dumps(
            {name: value for name, value in vars(form).items() if name != "channels"}
        ),
    }
    return packed(arrays, {**about, **metadata})


def load_model(path: Path) -> Model:
    """Read a model.

    Raises
    ------
    InputError
        If the file is not one, or is damaged.
    """
    arrays, metadata = unpacked("model", path, "model")
    try:
        network = Network(**json.loads(metadata["network"]))
        if network != network.folded:
            raise ValueError("the network is not folded")
        signal = json.loads(metadata["signal"])
        said = signal | {"shape": tuple(signal["shape"]), "rate": signal["rate"]}
        form = Form(**said, channels=network.outputs)
        if network.inputs != len(form.shape):
            raise ValueError("the signal is not one of the network's")
        # Before the names are listed: a header may claim any depth.
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
        return Model(network, parameters, form)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged("model", path, error) from None
