"""Signals: values on a grid of coordinates in [-1, 1]."""

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from iga_lab.arrays import in_unit_range, open_array
from iga_lab.errors import InputError
from iga_lab.hardware import require_memory
from iga_lab.pictures import photographs, read_picture
from iga_lab.shapes import MESHES, load_mesh, occupancy
from iga_lab.sounds import read_sound

Kind = Literal["function", "sound", "image", "volume", "shape"]
Values: TypeAlias = NDArray[np.float64]
Size: TypeAlias = tuple[int | None, ...]
"""(side, None) of the centre, the same along each axis, or the whole: (width, height) of a picture
or (width, height, depth) of a volume, in pixels."""
Progress: TypeAlias = Callable[[int, int], object]

AXES: dict[Kind, int] = {"function": 1, "sound": 1, "image": 2, "volume": 3, "shape": 3}
UNIT: dict[Kind, str] = {
    "function": "sample", "sound": "sample", "image": "pixel", "volume": "point", "shape": "point",
}  # fmt: skip
SIZES: dict[Kind, int] = {"function": 1024, "sound": 16384, "image": 128, "shape": 64}
"""Sides where none is given; a shorter sound, and a volume, is taken whole."""
SINES = tuple(range(5, 51, 5))
"""Frequencies of the function `sines`, in cycles from -1 to 1."""
PHASES = 0
"""Seed of its phases."""
BYTES_A_VALUE = 400
"""Of a fit and its figures, beside the network: a pixel, voxel or sample."""
HALF = 0.5
"""Largest magnitude of a signal of one axis: from lowest to highest it spans at most 1."""


@dataclass(frozen=True, eq=False)
class Signal:
    """What is to be fitted.

    Parameters
    ----------
    name : str
        For titles and folders.
    kind : {"function", "sound", "image", "volume", "shape"}
        Decides how it is measured and drawn.
    values : ndarray of float64, shape (*axes, channels)
        In [0, 1]; of a function or a sound, of one axis, in [-1/2, 1/2].
    notes : tuple of str
        What was converted on the way, a line each.
    rate : int, optional
        Samples a second of a sound.
    """

    name: str
    kind: Kind
    values: Values
    notes: tuple[str, ...] = ()
    rate: int | None = None


def load(source: str, size: Size | None = None, progress: Progress | None = None) -> Signal:
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
        ``(width, height)``, ``(width, height, depth)``: a whole picture or volume, resampled. By
        default `SIZES`.
    progress : callable, optional
        Told of the faces of a mesh done and of all.

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
        return _sines(rest, size)
    path = _locate(source)
    readers = {".npy": _array, ".wav": _sound} | dict.fromkeys(MESHES, _shape)
    return readers.get(path.suffix.lower(), _picture)(path, size, progress)


def coordinates(shape: tuple[int, ...], rows: slice = slice(None)) -> Values:
    """Return the coordinates of a grid's points, in C order.

    Parameters
    ----------
    shape : tuple of int
        Points along each axis: (samples,), (height, width) or (depth, height, width).
    rows : slice
        Those wanted of the first axis, by default all.

    Returns
    -------
    ndarray of float64, shape (N, len(shape))
        ``x`` along the last axis first, then ``y`` and ``z`` along those before; from -1 to 1,
        both ends included.
    """
    axes = [np.linspace(-1, 1, count) for count in shape]
    axes[0] = axes[0][rows]
    grid = np.meshgrid(*axes, indexing="ij")
    return np.stack([axis.reshape(-1) for axis in reversed(grid)], axis=-1)


def measured(kind: Kind, shape: tuple[int, ...]) -> str:
    """Return a grid's size in words: "128 × 96 pixels", "16,384 samples"."""
    numbers = f"{shape[0]:,}" if len(shape) == 1 else " × ".join(map(str, reversed(shape)))
    return f"{numbers} {UNIT[kind]}s"


def _locate(source: str) -> Path:
    known = photographs()
    if source in known:
        return known[source]
    path = Path(source)
    if not path.exists():
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


def _sines(frequencies: str, size: Size | None) -> Signal:
    (count,), _ = _target("function", size or (SIZES["function"], None))
    try:
        asked = [float(part) for part in frequencies.split(",")] if frequencies else list(SINES)
    except ValueError:
        asked = []
    highest = (count - 1) / 2
    if not asked or not all(0 < f <= highest for f in asked):
        raise InputError(
            f"signal: expected frequencies above 0 and at most {highest:g}, half of the samples, "
            f"as in sines:5,20,80, got {'sines:' + frequencies!r}; change them or raise --size"
        )
    phases = np.random.default_rng(PHASES).uniform(0, 2 * np.pi, len(asked))
    values = np.sin(np.pi * np.asarray(asked) * coordinates((count,)) + phases)
    total = values.sum(axis=-1, keepdims=True)
    said = ", ".join(f"{f:g}" for f in asked)
    note = f"sines: {said} cycles from -1 to 1, of random phases, scaled into [-1/2, 1/2]"
    return Signal("sines", "function", _halved("sines", total), (note,))


def _sound(path: Path, size: Size | None, _: Progress | None) -> Signal:
    values, rate, notes = read_sound(path)
    (count,) = _target("sound", size or (min(SIZES["sound"], len(values)), None))[0]
    if count > len(values):
        raise InputError(
            f"size: expected at most the {len(values):,} samples of {path.name!r}, got {count:,}; "
            "lower --size"
        )
    first = (len(values) - count) // 2
    part = values[first : first + count]
    notes.append(f"{count:,} samples in the middle, {count / rate:.3g} s, scaled into [-1/2, 1/2]")
    said = tuple(f"{path.name}: {note}" for note in notes)
    return Signal(path.stem, "sound", _halved(path.name, part), said, rate)


def _picture(path: Path, size: Size | None, _: Progress | None) -> Signal:
    shape, centred = _target("image", size or (SIZES["image"], None))
    pixels, notes = read_picture(path)
    return _resized(path, "image", pixels, notes, shape, centred)


def _array(path: Path, size: Size | None, _: Progress | None) -> Signal:
    array = open_array(path)
    if array.ndim == 3 and array.shape[-1] not in (1, 3):
        kind: Kind = "volume"
        values, what = array[..., None], "a volume, its axes taken as (z, y, x)"
        size = size or tuple(reversed(array.shape))
    else:
        kind = "image"
        values = array if array.ndim == 3 else array[..., None]
        what = "a grey image" if values.shape[-1] == 1 else "an image, its last axis the colours"
        size = size or (SIZES["image"], None)
    shape, centred = _target(kind, size)
    if centred:
        values = _centre(values)
    require_memory("signal", 24 * values.size, f"an array of shape {values.shape}", "cut it first")
    scaled, note = in_unit_range(path, values)
    return _resized(path, kind, scaled, [what, note], shape, centred)


def _shape(path: Path, size: Size | None, progress: Progress | None) -> Signal:
    (side, _, _), centred = _target("shape", size or (SIZES["shape"], None))
    if not centred:
        raise InputError("size: expected one side for a shape, got several; give --size S")
    mesh = load_mesh(path)
    inside = occupancy(mesh, side, progress)
    if not inside.any():
        raise InputError(
            f"size: expected points inside of {path.name!r}, got none of {side} a side; "
            "raise --size"
        )
    notes = [*mesh.metadata["notes"], f"{len(mesh.faces):,} faces, {inside.mean():.2%} of the "
             f"{side} × {side} × {side} points inside"]  # fmt: skip
    said = tuple(f"{path.name}: {note}" for note in notes)
    return Signal(path.stem, "shape", inside[..., None].astype(np.float64), said)


def _target(kind: Kind, size: Size) -> tuple[tuple[int, ...], bool]:
    """Return the points along each axis that a size means, and whether it is a centre's."""
    axes = AXES[kind]
    sides = tuple(side for side in size if side is not None)
    centred = len(sides) == 1
    if not centred and len(sides) != axes:
        words = "one number" if axes == 1 else f"one side, or {'xWxHxD'[1 : 2 * axes]}"
        raise InputError(
            f"size: expected {words} for a {kind}, got {'x'.join(map(str, sides))}; change --size"
        )
    shape = sides * axes if centred else tuple(reversed(sides))
    words = "x".join(map(str, reversed(shape)))
    if min(shape) < 1:
        raise InputError(
            f"size: expected at least 1 {UNIT[kind]} a side, got {words}; raise --size"
        )
    needed = math.prod(shape) * BYTES_A_VALUE
    require_memory("size", needed, f"{words} {UNIT[kind]}s", "lower --size")
    return shape, centred


def _halved(name: str, values: Values) -> Values:
    """Scale values so that their largest magnitude is `HALF`."""
    loudest = float(np.abs(values).max())
    if loudest == 0:
        raise InputError(
            f"signal: expected values other than 0, got only those in {name!r}; "
            "raise --size or take another part"
        )
    return HALF * values / loudest


def _resized(
    path: Path, kind: Kind, values: Values, notes: list[str], shape: tuple[int, ...], centred: bool
) -> Signal:
    if centred:
        values = _centre(values)
    before = values.shape[:-1]
    if any(new > old for new, old in zip(shape, before, strict=True)):
        old, new = ("x".join(map(str, reversed(axes))) for axes in (before, shape))
        notes.append(f"enlarged from {old} to {new}")
    resized = _resample(values, shape)
    return Signal(path.stem, kind, resized, tuple(f"{path.name}: {note}" for note in notes))


def _centre(values: NDArray[Any]) -> NDArray[Any]:
    """Return the square or cube in the middle."""
    side = min(values.shape[:-1])
    return values[tuple(slice((n - side) // 2, (n - side) // 2 + side) for n in values.shape[:-1])]


def _resample(values: Values, shape: tuple[int, ...]) -> Values:
    """Resample pictures with Lanczos, volumes linearly after smoothing; overshoot is clipped."""
    if values.shape[:-1] == shape:
        return np.ascontiguousarray(values)
    if len(shape) > 2:
        from skimage.transform import resize

        fewer = resize(values, (*shape, 1), order=1, anti_aliasing=True)  # type: ignore[no-untyped-call]
        return np.clip(np.asarray(fewer, dtype=np.float64), 0, 1)
    from PIL import Image

    height, width = shape
    channels = [
        np.asarray(
            Image.fromarray(values[..., c].astype(np.float32)).resize(
                (width, height), Image.Resampling.LANCZOS
            )
        )
        for c in range(values.shape[-1])
    ]
    return np.clip(np.stack(channels, axis=-1).astype(np.float64), 0, 1)
