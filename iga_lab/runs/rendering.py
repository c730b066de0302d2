"""Signals from saved models, at any size, as files that other programs read."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_array import MLP
from iga_lab.errors import InputError, a
from iga_lab.files import write_whole
from iga_lab.memory import require_memory
from iga_lab.runs.models import Model, load_model
from iga_lab.signals import MOST_SIDE, Form, Kind, Size, coordinates, exported, suffixes
from iga_lab.signals.sounds import require_rate

BLOCK_BYTES = 2**28
"""Of the values of a hidden layer, of which a few are held."""
BLOCK_POINTS = 2**16
BYTES_A_POINT: dict[Kind, int] = {
    "function": 16, "sound": 20, "image": 16, "volume": 16, "video": 16,
    "shape": 200,
}  # fmt: skip
"""Of evaluating and writing one, at most, for each channel."""


def render(path: Path, size: Size | None, output: Path | None) -> Path:
    """Evaluate a saved model and write what it represents.

    A picture is written as PNG, 8 bits a channel, clipped to [0, 1]; a sound as WAV of 16 bits, its
    loudest sample in training at full scale; a shape as the mesh where it crosses 1/2, as PLY; a
    function, a volume, a video or what came as an array as an array, NPY of float32, its axes as
    they came.

    Parameters
    ----------
    path : Path
        Of the model.
    size : tuple, optional
        ``(side, None)``, the same along each axis, or one number an axis: ``(width, height)``,
        ``(width, height, depth)``; by default as it was trained.
    output : Path, optional
        A new file, its name ending as `suffixes` says; by default beside the model.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    InputError
        If the model cannot be read, or the file not be made or written; nothing is written then.
    """
    model = load_model(path)
    shape = _shape(model, size)
    words = "x".join(map(str, reversed(shape)))
    output = output or path.with_name(f"{path.stem}-{words}{suffixes(model.form)[0]}")
    _require_size(model, shape, words)
    _require_new(output, model.form)
    rate = _rate(model, shape)
    layout = model.form.layout if output.suffix.lower() == ".npy" else ""
    write_whole(output, exported(model.form.kind, evaluate(model, shape), rate, layout))
    return output


def evaluate(model: Model, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a model's values on a grid, (*shape, channels), some points at a time.

    Raises
    ------
    InputError
        If they are not finite.
    """
    dtype = model.parameters[0].dtype
    network = MLP(model.network, np, dtype=dtype)
    network.parameters = list(model.parameters)
    values = np.empty((*shape, model.network.outputs), dtype=dtype)
    # The layers' values of all points at once would take a hundred times the result's memory, and
    # those of a wide layer more than that.
    widest = max(max(layer) for layer in model.network.layers)
    points = max(1, min(BLOCK_POINTS, BLOCK_BYTES // (widest * dtype.itemsize)))
    step = max(1, points // math.prod(shape[1:]))
    for first in range(0, shape[0], step):
        rows = slice(first, min(first + step, shape[0]))
        coords = coordinates(shape, rows).astype(dtype)
        block = values[rows].reshape(len(coords), -1)
        with np.errstate(all="ignore"):  # what overflows is seen at its end
            for start in range(0, len(coords), points):
                block[start : start + points] = network(coords[start : start + points])
    if not np.all(np.isfinite(values)):
        raise InputError(
            "model: expected one of finite values, got NaN or infinity at some points; make it "
            "anew with `iga fit`"
        )
    return values


def _rate(model: Model, shape: tuple[int, ...]) -> int | None:
    """Return the samples a second with which a sound takes as long as in training."""
    if model.form.rate is None:
        return None
    rate = max(1, round(model.form.rate * (shape[0] - 1) / max(1, model.form.shape[0] - 1)))
    require_rate("size", rate, model.form.channels, "lower --size")
    return rate


def _shape(model: Model, size: Size | None) -> tuple[int, ...]:
    if size is None:
        return model.form.shape
    sides = tuple(side for side in size if side is not None)
    axes = len(model.form.shape)
    if len(sides) not in (1, axes):
        words = "x".join(map(str, sides))
        raise InputError(
            f"size: expected one side or {axes} numbers for {a(model.form.kind)}, got {words}; "
            "change --size"
        )
    return sides * axes if len(sides) == 1 else tuple(reversed(sides))


def _require_size(model: Model, shape: tuple[int, ...], words: str) -> None:
    unit = model.form.unit
    if not all(1 <= side <= MOST_SIDE for side in shape):
        raise InputError(
            f"size: expected 1 to {MOST_SIDE:,} {unit}s a side, got {words}; change --size"
        )
    needed = BYTES_A_POINT[model.form.kind] * math.prod(shape) * model.network.outputs
    require_memory("size", needed, f"{words} {unit}s", "lower --size")


def _require_new(output: Path, form: Form) -> None:
    endings = suffixes(form)
    if output.suffix.lower() not in endings:
        raise InputError(
            f"output: expected a name that ends in {' or '.join(endings)} for {a(form.kind)}, got "
            f"{str(output)!r}; rename it"
        )
    if output.exists():
        raise InputError(
            f"output: expected a new file, got {str(output)!r}, which exists; "
            "choose another name with --output"
        )
    if not output.absolute().parent.is_dir():
        raise InputError(
            f"output: expected a folder that exists, got {str(output.parent)!r}; make it first"
        )
