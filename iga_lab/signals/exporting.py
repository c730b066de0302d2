"""Values as files that other programs read, a format a kind."""

from typing import Any

from numpy.typing import NDArray

from iga_lab.signals.arrays import npy_file
from iga_lab.signals.images import png_file
from iga_lab.signals.meshes import ply_file
from iga_lab.signals.signal import HALF, Form, Kind
from iga_lab.signals.sounds import wav_file

SUFFIXES: dict[Kind, str] = {
    "function": ".npy", "sound": ".wav", "image": ".png", "volume": ".npy", "video": ".npy",
    "shape": ".ply",
}  # fmt: skip
PNG_CHANNELS = 4


def suffixes(form: Form) -> tuple[str, ...]:
    """Return how the names of files of a signal may end, the usual one first.

    What came as an array goes as one; if it is a picture, it may be looked at too.
    """
    usual = SUFFIXES[form.kind]
    if form.kind == "image" and form.layout:
        return (".npy", usual) if form.channels <= PNG_CHANNELS else (".npy",)
    return (usual,)


def exported(kind: Kind, values: NDArray[Any], rate: int | None, layout: str = "") -> bytes:
    """Return values, (*axes, channels), as the content of a file of their kind.

    Parameters
    ----------
    kind, rate
        Of the signal.
    values : ndarray, shape (*axes, channels)
        Its own, or those of a fit.
    layout : str
        That of the array in which the signal came, in which it goes; "" for a file of its kind.

    Raises
    ------
    InputError
        If they have no surface, for a shape, or no such file can hold them.
    """
    if layout:
        return npy_file(values, layout)
    if kind == "image":
        return png_file(values)
    if kind == "sound":
        return wav_file(values / HALF, rate or 1)
    if kind == "shape":
        return ply_file(values[..., 0])
    return npy_file(values)
