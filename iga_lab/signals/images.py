"""Image files, and the photographs that need none: pixels in [0, 1], decoded in bounded memory."""

import contextlib
import importlib.util
import io
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError
from iga_lab.hardware import INSTALL
from iga_lab.signals.layouts import canonical
from iga_lab.signals.ranges import Range, found_range
from iga_lab.signals.resampling import Box, Read, holding, lengths, parts, resampled
from iga_lab.signals.signal import Signal, Size
from iga_lab.signals.sizes import enlargement, narrowness, require_decodable, wanted

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels: TypeAlias = NDArray[np.float64]
# Pillow opens more: some with the help of other programs, none that photographs come in.
FORMATS = ("PNG", "JPEG", "MPO", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG2000", "AVIF")
VIDEO = "THWC"
JPEGS = ("JPEG", "MPO")
"""Formats whose decoder makes a picture of an eighth to a half of its size as easily."""
ORIENTATION = 0x0112
"""Number of the EXIF tag that says how the camera was held."""
TURNS = {
    2: (False, False, True), 3: (False, True, True), 4: (False, True, False),
    5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}  # fmt: skip
"""To turn what is stored upright, by orientation: exchange the axes, then flip rows, columns."""
FINER = 3
"""Pixels of a picture that is decoded at a reduced size, for each that is kept, along an axis."""
PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
"""Of a picture in Pillow's memory, by mode; others take `WIDE`."""
WIDE = 4
DECODER_BYTES = {"TIFF": 4, "WEBP": 16, "JPEG2000": 20, "AVIF": 8}
"""What a format's decoder holds of a pixel beside the picture, as measured; others nothing."""
PROGRESSIVE_BYTES = 2
"""Of a coefficient, of which a progressive JPEG has one a pixel and channel, all held at once."""


@dataclass(frozen=True)
class Upright:
    """How what is stored has to be turned.

    Parameters
    ----------
    exchange, rows, columns : bool
        Exchange the axes, then flip the rows, flip the columns.
    """

    exchange: bool = False
    rows: bool = False
    columns: bool = False

    def turned(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return what is stored, (height, width, channels), upright."""
        found = pixels.swapaxes(0, 1) if self.exchange else pixels
        return found[:: -1 if self.rows else 1, :: -1 if self.columns else 1]

    def sides(self, stored: tuple[int, int]) -> tuple[int, int]:
        """Return height and width upright of those that are stored, or the other way round."""
        return (stored[1], stored[0]) if self.exchange else stored

    def stored(self, box: Box, upright: tuple[int, int]) -> Box:
        """Return where a part of the upright picture is stored."""
        flips = (self.rows, self.columns)
        found = tuple(
            slice(n - part.stop, n - part.start) if flip else part
            for part, n, flip in zip(box, upright, flips, strict=True)
        )
        return found[::-1] if self.exchange else found


COLOUR = slice(0, 3)
Convert: TypeAlias = Callable[["Image"], NDArray[Any]]


def picture(path: Path, size: Size | None, axes: str | None) -> Signal:
    """Read an image file; an animated one as a video, if its axes are named."""
    with _opened(path) as image:
        if axes is not None:
            _require_video(path, image, axes)
            return _video(path, image, size, axes)
        pixels, notes, found = _still(path, image, size)
    notes += narrowness(pixels)
    said = tuple(f"{path.name}: {note}" for note in notes)
    return Signal(path.stem, "image", pixels, said, low=found.low, high=found.high)


def png_file(values: NDArray[Any]) -> bytes:
    """Return a picture, (height, width, channels), as a PNG file of 8 bits; [0, 1] is shown."""
    from PIL import Image

    pixels = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(content, "PNG")
    return content.getvalue()


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
        If the file cannot be used as one, or takes too much memory.
    """
    with _opened(path) as image:
        height, width = _upright(image).sides((image.height, image.width))
        pixels, notes, _ = _still(path, image, (width, height))
    return pixels, notes


@contextlib.contextmanager
def _opened(path: Path) -> Iterator["Image"]:
    """Open an image without decoding it; what goes wrong with it inside is said in our words."""
    from PIL import Image, UnidentifiedImageError

    Image.init()
    most = Image.MAX_IMAGE_PIXELS or math.inf
    with warnings.catch_warnings():
        # Pillow warns above its limit of pixels, which is ours only where all are decoded.
        warnings.simplefilter("ignore")
        try:
            with Image.open(path, formats=[f for f in FORMATS if f in Image.OPEN]) as image:
                if image.width * image.height > most and image.format not in JPEGS:
                    raise Image.DecompressionBombError
                yield image
        except InputError:
            raise
        except Image.DecompressionBombError:
            raise InputError(
                f"signal: expected at most {most:,} pixels, got more in {path.name!r} (a "
                "decompression bomb?); make it smaller first, or save it as a JPEG"
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


def _still(path: Path, image: "Image", size: Size | None) -> tuple[Pixels, list[str], Range]:
    """Return the pixels that a size means, upright, in [0, 1], with notes and their range."""
    if image.format not in JPEGS:
        # Before the orientation is asked for, which a PNG may tell after its pixels only.
        _require_memory(path, image, 0, 0)
    notes, upright = _about(image), _upright(image)
    whole = upright.sides((image.height, image.width))
    box, shape = wanted("image", size, whole)
    height, width = shape
    kept, full = upright.sides((height, width)), image.width * image.height
    stored = _drafted(image, upright.stored(box, whole), kept)
    _require_memory(path, image, full, holding((*stored, slice(0, WIDE)), (*kept, WIDE)))
    image.load()
    read, channels, found, note = _reader(path, image, stored)
    values = resampled(read, (*stored, slice(0, channels)), (*kept, channels), smooth=False)
    pixels = np.ascontiguousarray(upright.turned(found.scaled(values)))
    notes += [note] if note else []
    return pixels, [*notes, *enlargement(lengths(box), shape)], found


def _about(image: "Image") -> list[str]:
    """Return what a person should know of a picture that is not decoded yet."""
    notes = []
    # An MPO holds the same picture again, smaller or for the other eye.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        paged = image.format == "TIFF"
        notes.append(
            "several pages, of which the first is taken" if paged
            else f"animated, its first frame is taken; --axes {VIDEO} takes all as a video"
        )  # fmt: skip
    if image.mode in ("LA", "RGB", "RGBA") and "16" in str(getattr(image, "tile", "")):
        notes.append("16 bits a channel in colour, read as 8 bits")
    if _upright(image) != Upright():
        notes.append("turned upright as its EXIF orientation says")
    return notes


def _upright(image: "Image") -> Upright:
    """Return how a picture has to be turned; what is no orientation turns nothing."""
    return Upright(*TURNS.get(image.getexif().get(ORIENTATION, 1), ()))


def _drafted(image: "Image", box: Box, kept: tuple[int, int]) -> Box:
    """Let a JPEG be decoded at a reduced size, if that suffices; returns where the part is then."""
    ratio = min(n / new for n, new in zip(lengths(box), kept, strict=True))
    factor = next((f for f in (8, 4, 2) if f * FINER <= ratio), 1)
    if factor == 1 or image.format not in JPEGS:
        return box
    before = image.height
    image.draft(None, (image.width // factor, image.height // factor))
    factor = round(before / image.height)
    found = []
    for part, most in zip(box, (image.height, image.width), strict=True):
        count = round((part.stop - part.start) / factor)
        start = min(round(part.start / factor), most - count)
        found.append(slice(start, start + count))
    return tuple(found)


def _require_memory(path: Path, image: "Image", full: int, kept: int) -> None:
    """Raise if decoding a picture and shrinking it takes too much; nothing is decoded yet.

    Parameters
    ----------
    full : int
        Pixels of the whole picture, at whatever size it is decoded.
    kept : int
        Bytes that shrinking takes.
    """
    pixels = image.width * image.height
    needed = kept + pixels * PIXEL_BYTES.get(image.mode, WIDE)
    needed += pixels * DECODER_BYTES.get(image.format or "", 0)
    if image.info.get("progressive"):
        needed += full * PROGRESSIVE_BYTES * len(image.getbands())
    smaller = "make it smaller first, or save it as a JPEG"
    remedy = "lower --size" if image.format in JPEGS else smaller
    require_decodable(path, needed, f"of {image.width} × {image.height} pixels", remedy)


def _reader(path: Path, image: "Image", box: Box) -> tuple[Read, int, Range, str]:
    """Return how a picture's values are read, their channels and range, and what is converted.

    A part is converted when it is read, so that nothing but the picture is held whole.
    """
    mode = image.mode
    convert: Convert = _as_it_is
    channels, found = len(image.getbands()), Range(0, 255)
    note = {"L": "grey, fitted as one channel", "1": "1-bit, read as grey"}.get(mode, "")
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        read = _in_parts(image, _as_it_is)
        found = found_range(path, np.dtype(np.uint16), read, (*box, slice(0, 1)))
        return read, 1, found, f"16-bit grey, {found.note}"
    if mode == "F":
        read = _in_parts(image, _as_it_is)
        found = found_range(path, np.dtype(np.float32), read, (*box, slice(0, 1)))
        return read, 1, found, f"floating-point grey, {found.note}"
    if image.has_transparency_data:
        layered = "LA" if mode in ("L", "LA", "La") else "RGBA"
        channels = len(layered) - 1
        if _is_opaque(image, layered, box):
            note = "opaque everywhere, alpha channel dropped"
            convert = _converted(layered[:-1])
        else:
            convert, found, note = _on_white(layered), Range(0, 1), "transparent, laid on white"
    elif mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):
        convert, channels = _converted("RGB"), 3
        note = f"{'palette' if mode == 'P' else mode}, converted to RGB"
    elif mode == "1":
        found = Range(0, 1)
    elif mode not in ("RGB", "L"):
        raise InputError(
            f"signal: expected grey or colour of 8 or 16 bits, got mode {mode} in {path.name!r}; "
            "convert it first"
        )
    return _in_parts(image, convert), channels, found, note


def _in_parts(image: "Image", convert: Convert) -> Read:
    """Return how parts of a picture, (height, width, channels), are read."""

    def read(box: Box) -> NDArray[np.float64]:
        rows, columns, channels = box
        part = image.crop((columns.start, rows.start, columns.stop, rows.stop))
        values = np.asarray(convert(part), dtype=np.float64)
        return values.reshape(*lengths((rows, columns)), -1)[..., channels]

    return read


def _as_it_is(part: "Image") -> NDArray[Any]:
    return np.asarray(part)


def _converted(mode: str) -> Convert:
    return lambda part: np.asarray(part.convert(mode))


def _on_white(layered: str) -> Convert:
    """Return how a part with its opacity last is laid on white, in [0, 1]."""

    def convert(part: "Image") -> NDArray[Any]:
        values = np.asarray(part.convert(layered)) / 255
        colour, opacity = values[..., :-1], values[..., -1:]
        colour *= opacity
        colour += 1 - opacity
        return colour

    return convert


def _is_opaque(image: "Image", layered: str, box: Box) -> bool:
    """Whether no pixel of a part lets anything through."""
    for rows, columns in parts(box):
        part = image.crop((columns.start, rows.start, columns.stop, rows.stop))
        if part.convert(layered).getchannel("A").getextrema() != (255, 255):
            return False
    return True


def _require_video(path: Path, image: "Image", axes: str) -> None:
    """Raise unless axes are those of an animated picture's frames."""
    frames = "an animated one" if getattr(image, "is_animated", False) else "a single one"
    if canonical(axes) != VIDEO or frames == "a single one" or image.format in ("MPO", "TIFF"):
        raise InputError(
            f"axes: expected an array (.npy), or {VIDEO} for an animated picture, got {axes} for "
            f"{path.name!r}, {frames}; leave it out"
        )


def _video(path: Path, image: "Image", size: Size | None, axes: str) -> Signal:
    """Read all frames, transparent ones laid on white."""
    whole = (int(getattr(image, "n_frames", 1)), image.height, image.width)
    box, shape = wanted("video", size, whole)
    pixels = image.width * image.height
    _require_memory(path, image, pixels, WIDE * pixels + holding((*box, COLOUR), (*shape, 3)))
    convert = _on_white("RGBA")

    def read(part: Box) -> NDArray[np.float64]:
        frames, *inside = part
        found = []
        for number in range(frames.start, frames.stop):
            image.seek(number)
            found.append(_in_parts(image, convert)(tuple(inside)))
        return np.stack(found)

    values = Range(0, 1).scaled(resampled(read, (*box, COLOUR), (*shape, 3), smooth=False))
    notes = [f"a video of {whole[0]} frames, in colour", *enlargement(lengths(box), shape)]
    said = tuple(f"{path.name}: {note}" for note in [*notes, *narrowness(values)])
    return Signal(path.stem, "video", values, said, layout=axes, high=255)
