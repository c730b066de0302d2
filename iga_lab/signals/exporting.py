"""Values as files that other programs read, a format a kind."""

from typing import Any

from numpy.typing import NDArray

from iga_lab.signals.arrays import npy_file
from iga_lab.signals.images import png_file
from iga_lab.signals.meshes import ply_file
from iga_lab.signals.signal import HALF, Kind
from iga_lab.signals.sounds import wav_file

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
        return png_file(values)
    if kind == "sound":
        return wav_file(values / HALF, rate or 1)
    if kind == "shape":
        return ply_file(values[..., 0])
    return npy_file(values[..., 0])
