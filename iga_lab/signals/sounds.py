"""Sound files."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError
from iga_lab.memory import readable, require_memory
from iga_lab.signals.signal import Progress, Signal, Size
from iga_lab.signals.sizes import SIZES, halved, target

LOADING = 12
"""Bytes of memory that one byte of a sound's file takes, until it is cut."""
EXPORTED = np.iinfo(np.int16)


def sound(path: Path, size: Size | None, _: Progress | None) -> Signal:
    """Read a sound, and take its middle."""
    values, rate, notes = read_sound(path)
    (count,) = target("sound", size or (min(SIZES["sound"], len(values)), None))[0]
    if count > len(values):
        raise InputError(
            f"size: expected at most the {len(values):,} samples of {path.name!r}, got {count:,}; "
            "lower --size"
        )
    # Sounds begin and end in silence, so their middle says more.
    first = (len(values) - count) // 2
    part = values[first : first + count]
    notes.append(f"{count:,} samples in the middle, {count / rate:.3g} s, scaled into [-1/2, 1/2]")
    said = tuple(f"{path.name}: {note}" for note in notes)
    return Signal(path.stem, "sound", halved(path.name, part), said, rate)


def read_sound(path: Path) -> tuple[NDArray[np.float64], int, list[str]]:
    """Read a sound of one channel.

    Parameters
    ----------
    path : Path
        A WAV file of 8, 16, 24, 32 or 64 bits PCM, or of 32- or 64-bit floating point.

    Returns
    -------
    values : ndarray of float64, shape (n, 1)
        Full scale is [-1, 1].
    rate : int
        Samples a second.
    notes : list of str
        What the person should know.

    Raises
    ------
    InputError
        If it cannot be read, is of another encoding or of several channels, is empty or holds NaN.
    """
    size = path.stat().st_size
    require_memory("signal", LOADING * size, f"a sound of {readable(size)}", "cut it first")
    rate, samples = _decode(path)
    if samples.ndim > 1:
        raise InputError(
            f"signal: expected a sound of one channel, got {samples.shape[1]} in {path.name!r}; "
            "mix it down or take one of them first"
        )
    if samples.size == 0 or rate < 1:
        raise InputError(
            f"signal: expected a sound, got {samples.size} samples at {rate} Hz in {path.name!r}; "
            "name another file"
        )
    if samples.dtype.kind == "f":
        values, encoding = samples.astype(np.float64), f"{8 * samples.itemsize}-bit floating point"
        if not np.all(np.isfinite(values)):
            raise InputError(
                f"signal: expected finite samples, got NaN or infinity in {path.name!r}; repair it"
            )
    else:
        values, encoding = _full_scale(samples), "PCM"
    notes = [f"{len(values):,} samples at {rate:,} Hz, {encoding}"]
    return values[:, None], rate, notes


def wav_file(values: NDArray[np.float64], rate: int) -> bytes:
    """Return a sound as a WAV file of 16 bits; what is beyond [-1, 1] is clipped.

    Parameters
    ----------
    values : ndarray of float64, shape (n, 1)
        Full scale is [-1, 1].
    rate : int
        Samples a second.
    """
    from scipy.io import wavfile

    content = io.BytesIO()
    # The largest number and its negative: full scale is symmetric, the integers are not.
    levels = np.rint(np.clip(values[:, 0], -1, 1) * EXPORTED.max).astype(np.int16)
    wavfile.write(content, rate, levels)
    return content.getvalue()


def _decode(path: Path) -> tuple[int, NDArray[Any]]:
    from scipy.io import wavfile

    with warnings.catch_warnings():
        # Chunks of metadata that are not known are skipped; an end before its time is an error.
        warnings.simplefilter("ignore", wavfile.WavFileWarning)
        warnings.filterwarnings("error", ".*(prematurely|Incomplete)", wavfile.WavFileWarning)
        try:
            rate, samples = wavfile.read(io.BytesIO(path.read_bytes()))
            return int(rate), np.asarray(samples)
        except Exception as error:  # a damaged file makes the reader fail in several ways
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"signal: expected a whole WAV file of PCM or floating point, got {path.name!r}, "
                f"which cannot be read ({reason}); convert it first or get it anew"
            ) from None


def _full_scale(samples: NDArray[Any]) -> NDArray[np.float64]:
    """Divide integers by their largest magnitude; those of 8 bits have their zero at 128."""
    if samples.dtype == np.uint8:
        return (samples.astype(np.float64) - 128) / 128
    values: NDArray[np.float64] = samples.astype(np.float64)
    return values / -float(np.iinfo(samples.dtype).min)
