"""From what a person names to a signal: which file's kind reads it, or which function makes it."""

import dataclasses
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from iga_lab.errors import InputError, readable
from iga_lab.signals import arrays, functions, images, meshes, sounds
from iga_lab.signals.signal import Progress, Signal, Size

Reader: TypeAlias = Callable[[Path, Size | None, Progress | None], Signal]


def load(
    source: str,
    size: Size | None = None,
    progress: Progress | None = None,
    axes: str | None = None,
) -> Signal:
    """Read or make a signal, and bring it to a size.

    Parameters
    ----------
    source : str
        The name of a photograph that ships with scikit-image; ``sines`` or ``sines:5,20,80``, a
        sum of sines of equal amplitudes and random phases; or a file: an image, an array
        (``.npy``), a sound (``.wav``) or a mesh (``.obj``, ``.ply``, ``.stl``).
    size : tuple, optional
        ``(side, None)``: the centre square or cube of a picture or volume, resampled; the samples
        from a sound's middle, or of a function; the points along each axis of a shape's grid.
        ``(width, height)``, ``(width, height, depth)``: a whole picture, the frames of a video, a
        whole volume, resampled. By default `SIZES`.
    progress : callable, optional
        Told of the faces of a mesh done and of all.
    axes : str, optional
        What the axes of an array hold, a letter each, see `layouts.kind_of`; ``"THWC"`` takes an
        animated picture as a video. By default known from the shape, where it can be.

    Returns
    -------
    Signal

    Raises
    ------
    InputError
        If it cannot be used as one.
    """
    name, _, rest = source.partition(":")
    if name == "sines":
        _require_no_axes(axes, source)
        return functions.sines(rest, size)
    path = _locate(source)
    found = _read(path, size, progress, axes)
    # From here on the name is text: for titles, folders and files, which hold no other.
    return dataclasses.replace(
        found, name=readable(found.name), notes=tuple(map(readable, found.notes))
    )


def _read(path: Path, size: Size | None, progress: Progress | None, axes: str | None) -> Signal:
    """Read a file by its suffix: pictures and arrays may have axes that need names."""
    readers: dict[str, Reader] = {".wav": sounds.sound}
    readers |= dict.fromkeys(meshes.MESHES, meshes.shape)
    suffix = path.suffix.lower()
    if suffix in readers:
        _require_no_axes(axes, path.name)
        return readers[suffix](path, size, progress)
    reader = arrays.array if suffix == ".npy" else images.picture
    return reader(path, size, axes)


def _require_no_axes(axes: str | None, name: str) -> None:
    if axes is not None:
        raise InputError(
            f"axes: expected an array (.npy), or an animated picture, got {axes!r} for {name!r}; "
            "leave it out"
        )


def _locate(source: str) -> Path:
    known = images.photographs()
    if source in known:
        return known[source]
    path = Path(source)
    try:
        exists = path.exists()
    except (OSError, ValueError):  # a name longer than the system has any, or with a zero in it
        exists = False
    if not exists or not source:
        names = [*known, "sines"]
        near = difflib.get_close_matches(path.stem, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the names are {', '.join(names)}"
        raise InputError(
            "signal: expected a file (image, .npy, .wav, .obj, .ply, .stl) or a name, "
            f"got {source!r}, which is neither; {hint}"
        )
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        remedy = "name a file in it" if path.is_dir() else "copy it to one"
        raise InputError(f"signal: expected a file, got {source!r}, which is {kind}; {remedy}")
    return path
