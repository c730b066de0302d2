"""Values as files that other programs read, a format a kind."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError
from iga_lab.signals.signal import HALF, Kind
from iga_lab.signals.solids import surface
from iga_lab.signals.sounds import wav

SUFFIXES: dict[Kind, str] = {
    "function": ".npy", "sound": ".wav", "image": ".png", "volume": ".npy", "shape": ".ply",
}  # fmt: skip


def exported(kind: Kind, values: NDArray[Any], rate: int | None) -> bytes:
    """Return values, (*axes, channels), as the content of a file of their kind.

    Raises
    ------
    InputError
        If they have no surface, for a shape.
    """
    if kind == "image":
        return _png(np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8))
    if kind == "sound":
        return wav(values / HALF, rate or 1)
    if kind == "shape":
        return _ply(values[..., 0])
    content = io.BytesIO()
    np.save(content, values[..., 0].astype(np.float32), allow_pickle=False)
    return content.getvalue()


def _ply(values: NDArray[Any]) -> bytes:
    mesh = surface(values)
    if len(mesh.faces) == 0:
        raise InputError(
            f"model: expected a shape, got values from {values.min():.3g} to {values.max():.3g}, "
            "nowhere above 1/2 beside others; train it for longer"
        )
    content: bytes = mesh.export(file_type="ply")  # type: ignore[assignment]
    return content


def _png(picture: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(content, "PNG")
    return content.getvalue()
