"""Pictures from saved models, at any size."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from iga_array import MLP
from iga_lab.errors import InputError
from iga_lab.hardware import require_memory
from iga_lab.signals import Size, grid
from iga_lab.storage import Model, load_model, write_whole

BLOCK_POINTS = 2**16
LARGEST_SIDE = 2**31 - 1
"""That a PNG file can have."""


def render(path: Path, size: Size | None, output: Path | None) -> Path:
    """Evaluate a saved model and write the picture, 8 bits a channel, clipped to [0, 1].

    Parameters
    ----------
    path : Path
        Of the model.
    size : tuple, optional
        ``(width, height)``, or ``(side, None)`` for a square; by default as it was trained.
    output : Path, optional
        A new file whose name ends in ``.png``; by default beside the model.

    Returns
    -------
    Path
        Of the picture.

    Raises
    ------
    InputError
        If the model cannot be read, or the picture not be made or written.
    """
    model = load_model(path)
    width, height = size or model.size
    height = width if height is None else height
    output = output or path.with_name(f"{path.stem}-{width}x{height}.png")
    _require_size(width, height, model.network.outputs)
    _require_new_png(output)
    write_whole(output, _png(evaluate(model, width, height)))
    return output


def evaluate(model: Model, width: int, height: int) -> NDArray[np.uint8]:
    """Return the picture of a model, (height, width, channels), a few rows at a time."""
    dtype = model.parameters[0].dtype
    network = MLP(model.network, np, dtype=dtype)
    network.parameters = list(model.parameters)
    picture = np.empty((height, width, model.network.outputs), dtype=np.uint8)
    step = max(1, BLOCK_POINTS // width)
    for first in range(0, height, step):
        rows = slice(first, min(first + step, height))
        values = network(grid(width, height, rows).astype(dtype))
        eight_bits = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
        picture[rows] = eight_bits.reshape(-1, width, model.network.outputs)
    return picture


def _png(picture: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(content, "PNG")
    return content.getvalue()


def _require_size(width: int, height: int, channels: int) -> None:
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise InputError(
            f"size: expected 1 to {LARGEST_SIDE:,} pixels a side, got {width}x{height}; "
            "change --size"
        )
    require_memory(
        "size", 3 * width * height * channels, f"{width}x{height} pixels", "lower --size"
    )


def _require_new_png(output: Path) -> None:
    if output.suffix.lower() != ".png":
        raise InputError(
            f"output: expected a name that ends in .png, got {str(output)!r}; rename it"
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
