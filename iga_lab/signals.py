"""Pictures as signals: values in [0, 1] on a grid of coordinates in [-1, 1]."""

import difflib
import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError
from iga_lab.hardware import INSTALL, require_memory

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels: TypeAlias = NDArray[np.float64]
Size: TypeAlias = tuple[int, int | None]
"""(side, None) of the centre square, or (width, height) of the whole picture, in pixels."""

FORMATS = ("PNG", "JPEG", "MPO", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG2000", "AVIF")
BYTES_A_PIXEL = 400
"""Of a fit and its figures, beside the network."""


@dataclass(frozen=True, eq=False)
class Signal:
    """A picture to be fitted.

    Parameters
    ----------
    name : str
        For titles and folders.
    pixels : ndarray of float64, shape (height, width, channels)
        Values in [0, 1]; one channel for a grey picture, else three.
    notes : tuple of str
        What was converted on the way, a line each.
    """

    name: str
    pixels: Pixels
    notes: tuple[str, ...] = ()


def photographs() -> dict[str, Path]:
    """Return the pictures that lie in scikit-image's own folder, by name; nothing is fetched."""
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise InputError(
            "scikit-image: expected to be installed, got nothing; "
            f"run {INSTALL['lab']}, or give an image file"
        )
    folder = Path(found.origin).parent / "data"
    files = sorted(f for f in folder.glob("*") if f.suffix in (".png", ".jpg"))
    return {file.stem: file for file in files}


def load(source: str, size: Size) -> Signal:
    """Read a picture and bring it to a size.

    Parameters
    ----------
    source : str
        The name of a photograph that ships with scikit-image, or an image file.
    size : tuple
        ``(side, None)``: the centre square, resized; ``(width, height)``: the whole, resized.

    Returns
    -------
    Signal

    Raises
    ------
    InputError
        If the picture cannot be used as one.
    """
    width, height = size[0], size[0] if size[1] is None else size[1]
    if width < 1 or height < 1:
        raise InputError(
            f"size: expected at least 1 pixel a side, got {width}x{height}; raise --size"
        )
    require_memory(
        "size", width * height * BYTES_A_PIXEL, f"{width}x{height} pixels", "lower --size"
    )
    path = _locate(source)
    pixels, notes = _read(path)
    if size[1] is None:
        pixels = _centre_square(pixels)
    if width > pixels.shape[1] or height > pixels.shape[0]:
        notes.append(f"enlarged from {pixels.shape[1]}x{pixels.shape[0]} to {width}x{height}")
    resized = _resize(pixels, width, height)
    return Signal(path.stem, resized, tuple(f"{path.name}: {note}" for note in notes))


def grid(width: int, height: int, rows: slice = slice(None)) -> NDArray[np.float64]:
    """Return the coordinates of a picture's pixels, row by row.

    Parameters
    ----------
    width, height : int
        Of the picture, in pixels.
    rows : slice
        The rows wanted, by default all.

    Returns
    -------
    ndarray of float64, shape (rows * width, 2)
        ``x`` along the width and ``y`` down the height, from -1 to 1, both ends included.
    """
    y, x = np.meshgrid(np.linspace(-1, 1, height)[rows], np.linspace(-1, 1, width), indexing="ij")
    return np.stack([x.reshape(-1), y.reshape(-1)], axis=-1)


def _locate(source: str) -> Path:
    known = photographs()
    if source in known:
        return known[source]
    path = Path(source)
    if not path.exists():
        near = difflib.get_close_matches(path.stem, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the names are {', '.join(known)}"
        raise InputError(
            "signal: expected an image file or the name of a photograph, "
            f"got {source!r}, which is neither; {hint}"
        )
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise InputError(
            f"signal: expected an image file, got {source!r}, which is {kind}; name a file in it"
            if path.is_dir()
            else f"signal: expected an image file, got {source!r}, which is {kind}; copy it to one"
        )
    return path


def _read(path: Path) -> tuple[Pixels, list[str]]:
    image, notes = _decode(path)
    pixels, note = _values(path, image)
    return pixels, [*notes, note] if note else notes


def _decode(path: Path) -> tuple["Image", list[str]]:
    """Load a single picture, upright."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    Image.init()
    notes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=[f for f in FORMATS if f in Image.OPEN]) as image:
                frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
                if frames > 1:
                    raise InputError(
                        f"signal: expected one picture, got {frames} frames in {path.name!r} "
                        "(animated or of several pages); save one of them as a file of its own"
                    )
                if image.mode in ("LA", "RGB", "RGBA") and "16" in str(image.tile):
                    notes.append("16 bits a channel in colour, read as 8 bits")
                image.load()
                if image.getexif().get(0x0112, 1) != 1:
                    notes.append("turned upright as its EXIF orientation says")
                ImageOps.exif_transpose(image, in_place=True)
                return image, notes
        except InputError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise InputError(
                f"signal: expected at most {Image.MAX_IMAGE_PIXELS:,} pixels, got more in "
                f"{path.name!r} (a decompression bomb?); make it smaller first"
            ) from None
        except UnidentifiedImageError:
            raise InputError(
                f"signal: expected an image ({', '.join(FORMATS)}), got {path.name!r}, "
                "which is none; convert it first"
            ) from None
        except Exception as error:  # a damaged file makes decoders fail in every way there is
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"signal: expected a whole image, got {path.name!r}, which cannot be read "
                f"({reason}); it may be truncated or protected: get it anew"
            ) from None


def _values(path: Path, image: "Image") -> tuple[Pixels, str]:
    """Return (height, width, channels) in [0, 1], and what was converted."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        return np.asarray(image, dtype=np.float64)[..., None] / 65535, (
            "16-bit grey, divided by 65535"
        )
    if mode == "F":
        return _floats(path, np.asarray(image, dtype=np.float64)[..., None])
    if image.has_transparency_data:
        layered = np.asarray(image.convert("LA" if mode in ("L", "LA", "La") else "RGBA")) / 255
        colour, opacity = layered[..., :-1], layered[..., -1:]
        if np.all(opacity == 1):
            return colour, "opaque everywhere, alpha channel dropped"
        return colour * opacity + (1 - opacity), "transparent, laid on white"
    if mode == "RGB":
        return np.asarray(image) / 255, ""
    if mode == "L":
        return np.asarray(image)[..., None] / 255, "grey, fitted as one channel"
    if mode == "1":
        return np.asarray(image, dtype=np.float64)[..., None], "1-bit, read as grey"
    if mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):
        what = "palette" if mode == "P" else mode
        return np.asarray(image.convert("RGB")) / 255, f"{what}, converted to RGB"
    raise InputError(
        f"signal: expected grey or colour of 8 or 16 bits, got mode {mode} in {path.name!r}; "
        "convert it first"
    )


def _floats(path: Path, values: Pixels) -> tuple[Pixels, str]:
    if not np.all(np.isfinite(values)) or values.min() < 0 or values.max() > 1:
        raise InputError(
            f"signal: expected floating-point values in [0, 1], got {values.min():.4g} to "
            f"{values.max():.4g} in {path.name!r}; scale them first"
        )
    return values, "floating-point grey, taken as it is"


def _centre_square(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def _resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resample with Lanczos in floating point; the overshoot is clipped."""
    from PIL import Image

    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    channels = [
        np.asarray(
            Image.fromarray(pixels[..., c].astype(np.float32)).resize(
                (width, height), Image.Resampling.LANCZOS
            )
        )
        for c in range(pixels.shape[2])
    ]
    return np.clip(np.stack(channels, axis=-1).astype(np.float64), 0, 1)
