"""The signals that the tables are made on."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError
from iga_lab.signals import coordinates, load
from iga_lab.signals.images import photographs, read_picture
from iga_lab.signals.meshes import MESHES

Kind = Literal["image", "shape"]

IMAGES = ("astronaut", "coffee", "chelsea")
"""Of scikit-image, in the order in which they are used: the first one is tuned on."""
ENDINGS: dict[Kind, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"),
    "shape": MESHES,
}
"""Of the files that are meant in a folder."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A signal on its grid.

    Parameters
    ----------
    kind : {"image", "shape"}
        Photograph, or occupancy of space by a solid.
    coords : ndarray of float64, shape (N, d)
        In [-1, 1].
    values : ndarray of float64, shape (*axes, channels)
        In [0, 1].
    """

    kind: Kind
    coords: NDArray[np.float64]
    values: NDArray[np.float64]

    @property
    def digest(self) -> str:
        """Tells one signal from another of the same name."""
        return hashlib.sha256(self.values.astype(np.float32).tobytes()).hexdigest()[:12]


@functools.lru_cache(maxsize=2)
def sample(source: str, kind: Kind, size: tuple[int, ...]) -> Sample:
    """Load a signal; `source` is a file, or one of the names that need none.

    A picture that is higher than wide is brought to the size the other way round.
    """
    if source in SOLIDS:
        x, y, z = (coordinates(size)[:, k].reshape(size) for k in range(3))
        values = SOLIDS[source](x, y, z)[..., None].astype(np.float64)
    elif kind == "shape" or size[0] == size[1]:
        values = load(source, (size[0], None)).values
    else:
        values = load(source, size[::-1] if _is_upright(source) else size).values
    return Sample(kind, coordinates(values.shape[:-1]), values)


def _is_upright(source: str) -> bool:
    pixels, _ = read_picture(photographs().get(source, Path(source)))
    return bool(pixels.shape[0] > pixels.shape[1])


def sources(
    kind: Kind, data: str | None, size: tuple[int, ...], skip: bool, most: int
) -> dict[str, str]:
    """Return the signals to be used by name, each of which can be loaded.

    Parameters
    ----------
    kind : {"image", "shape"}
        Which files of a folder are meant.
    data : str, optional
        A folder; without one, scikit-image's photographs or solids made of formulas.
    size : tuple of int
        To load them at.
    skip : bool
        Leave broken files out, and say so, instead of raising.
    most : int
        How many are wanted, the first by name.

    Raises
    ------
    InputError
        If the folder has none, or a broken one.
    """
    if data is None:
        names = list(IMAGES if kind == "image" else SOLIDS)
        return {name: name for name in names[:most]}
    folder = Path(data)
    if not folder.is_dir():
        raise InputError(f"data: expected a folder, got {data!r}; name the one of the files")
    found: dict[str, str] = {}
    for file in files(kind, folder):
        if len(found) == most:
            break
        try:
            sample(str(file), kind, size)
        except InputError as error:
            if not skip:
                raise InputError(
                    f"data: expected files that can be used, got {file.name!r} ({error}); "
                    "take it out, or skip such files with --skip-broken"
                ) from None
            print(f"skipped {file.name}: {error}")
            continue
        found[file.name if file.stem in found else file.stem] = str(file.resolve())
    if not found:
        raise InputError(
            f"data: expected files ending in {', '.join(ENDINGS[kind])}, got none in {data!r}; "
            "name another folder"
        )
    return found


def files(kind: Kind, folder: Path) -> list[Path]:
    """Return the files of a folder that may hold such signals, by name."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in ENDINGS[kind])


def _gyroid(
    x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return where a ball is filled by one side of Schoen's gyroid."""
    k = 3 * np.pi
    wave = np.sin(k * x) * np.cos(k * y) + np.sin(k * y) * np.cos(k * z)
    wave += np.sin(k * z) * np.cos(k * x)
    inside: NDArray[np.bool_] = (wave > 0) & (x**2 + y**2 + z**2 < 0.8)
    return inside


def _knot(
    x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return where a torus with a twisted, corrugated tube is filled."""
    around, from_axis = np.arctan2(y, x), np.hypot(x, y) - 0.55
    about = np.arctan2(z, from_axis) + 2 * around
    inside: NDArray[np.bool_] = np.hypot(from_axis, z) < 0.25 + 0.06 * np.cos(7 * about)
    return inside


Solid = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]
SOLIDS: dict[str, Solid] = {"gyroid": _gyroid, "torus": _knot}


def split(found: dict[str, str], most: int) -> tuple[str, Sequence[str]]:
    """Return the name that rates are chosen on, and those reported: others, if there are."""
    names = list(found)
    return names[0], names[1 : 1 + most] or names
