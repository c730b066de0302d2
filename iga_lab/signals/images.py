"""Image files, and the photographs that need none: pixels in [0, 1]."""

import importlib.util
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError
from iga_lab.hardware import INSTALL
from iga_lab.signals.arrays import in_unit_range
from iga_lab.signals.signal import Progress, Signal, Size
from iga_lab.signals.sizes import SIZES, resized, target

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels: TypeAlias = NDArray[np.float64]
# Pillow opens more: some with the help of other programs, none that photographs come in.
FORMATS = ("PNG", "JPEG", "MPO", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG2000", "AVIF")


def picture(path: Path, size: Size | None, _: Progress | None) -> Signal:
    """Read an image file."""
    shape, centred = target("image", size or (SIZES["image"], None))
    pixels, notes = read_picture(path)
    return resized(path, "image", pixels, notes, shape, centred)


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


def read_picture(path: Path) -> tuple[Pixels, list[str]]:
    """Read a single picture.

    Returns
    -------
    pixels : ndarray of float64, shape (height, width, channels)
        Upright, in [0, 1]; one channel for a grey picture, else three.
    notes : list of str
        What was converted on the way.

    Raises
    ------
    InputError
        If the file cannot be used as one.
    """
    image, notes = _decode(path)
    pixels, note = _values(path, image)
    return pixels, [*notes, note] if note else notes


def png_file(values: NDArray[Any]) -> bytes:
    """Return a picture, (height, width, channels), as a PNG file of 8 bits; [0, 1] is shown."""
    from PIL import Image

    pixels = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(content, "PNG")
    return content.getvalue()


def _decode(path: Path) -> tuple["Image", list[str]]:
    """Load a single picture, upright."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    Image.init()  # fills Image.OPEN, which knows no format before
    notes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Pillow refuses what is twice as large, and only warns of what is over its bound.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=[f for f in FORMATS if f in Image.OPEN]) as image:
                # The further frames of a camera's MPO file are previews and depths of the first.
                frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
                if frames > 1:
                    raise InputError(
                        f"signal: expected one picture, got {frames} frames in {path.name!r} "
                        "(animated or of several pages); save one of them as a file of its own"
                    )
                # Seen in the decoder's name alone: the mode is that of 8 bits.
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
    # A PPM file of more than 8 bits comes as 32-bit integers, up to 65535 all the same.
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        return np.asarray(image, dtype=np.float64)[..., None] / 65535, (
            "16-bit grey, divided by 65535"
        )
    if mode == "F":
        values, note = in_unit_range(path, np.asarray(image)[..., None])
        return values, f"floating-point grey, {note}"
    if image.has_transparency_data:
        # Converted first: a palette or a plain colour may be transparent without a layer for it.
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
