"""Sound files."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError
from iga_lab.memory import readable
from iga_lab.signals.signal import Progress, Signal, Size
from iga_lab.signals.sizes import SIZES, halved, require_channels, require_decodable, target

LOADING = 12
"""Bytes of memory that one byte of a file takes that is read whole."""
EXPORTED = np.iinfo(np.int16)
MOST_BYTES_A_SECOND = 2**32 - 1
"""That the header of a WAV file can hold."""


def sound(path: Path, size: Size | None, _: Progress | None) -> Signal:
    """Read a sound, and take its middle."""
    rate, samples = read_sound(path)
    length, channels = samples.shape
    (count,) = target("sound", size or (min(SIZES["sound"], length), None), channels)[0]
    if count > length:
        raise InputError(
            f"size: expected at most the {length:,} samples of {path.name!r}, got {count:,}; "
            "lower --size"
        )
    # Sounds begin and end in silence, so their middle says more.
    first = (length - count) // 2
    values, encoding = _in_floats(path, samples[first : first + count])
    loudest = float(np.abs(values).max())
    several = f" of {channels} channels" if channels > 1 else ""
    notes = (
        f"{length:,} samples{several} at {rate:,} Hz, {encoding}",
        f"{count:,} samples in the middle, {count / rate:.3g} s, scaled into [-1/2, 1/2]: the "
        f"loudest is {loudest:.4g} of full scale",
    )
    said = tuple(f"{path.name}: {note}" for note in notes)
    scaled = halved(path.name, values)
    return Signal(path.stem, "sound", scaled, said, rate, low=-loudest, high=loudest)


def read_sound(path: Path) -> tuple[int, NDArray[Any]]:
    """Open a sound.

    Parameters
    ----------
    path : Path
        A WAV file of 8, 16, 24, 32 or 64 bits PCM, or of 32- or 64-bit floating point.

    Returns
    -------
    rate : int
        Samples a second.
    samples : ndarray, shape (n, channels)
        As they are encoded, and where they lie, if the file is a whole one.

    Raises
    ------
    InputError
        If it cannot be read, is of another encoding, is empty, or could not be written again.
    """
    rate, samples = _decode(path)
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    require_channels(path, channels)
    if samples.size == 0 or rate < 1:
        raise InputError(
            f"signal: expected a sound, got {samples.size} samples at {rate} Hz in {path.name!r}; "
            "name another file"
        )
    require_rate("signal", rate, channels, f"{path.name!r} is damaged: get it anew")
    return rate, samples.reshape(-1, channels)


def require_rate(name: str, rate: int, channels: int, remedy: str) -> None:
    """Raise unless a WAV file of 16 bits can be of a rate."""
    most = MOST_BYTES_A_SECOND // (channels * np.dtype(np.int16).itemsize)
    if not 1 <= rate <= most:
        raise InputError(
            f"{name}: expected a rate of 1 to {most:,} Hz, which a WAV file of {channels} "
            f"channel{'s' if channels > 1 else ''} can hold, got {rate:,} Hz; {remedy}"
        )


def wav_file(values: NDArray[np.float64], rate: int) -> bytes:
    """Return a sound as a WAV file of 16 bits; what is beyond [-1, 1] is clipped.

    Parameters
    ----------
    values : ndarray of float64, shape (n, channels)
        Full scale is [-1, 1].
    rate : int
        Samples a second.
    """
    from scipy.io import wavfile

    content = io.BytesIO()
    levels = np.rint(np.clip(values, -1, 1) * EXPORTED.max).astype(np.int16)
    wavfile.write(content, rate, levels[:, 0] if levels.shape[1] == 1 else levels)
    return content.getvalue()


def _decode(path: Path) -> tuple[int, NDArray[Any]]:
    from scipy.io import wavfile

    with warnings.catch_warnings():
        # Chunks of metadata that are not known are skipped; an end before its time is an error.
        warnings.simplefilter("ignore", wavfile.WavFileWarning)
        warnings.filterwarnings("error", ".*(prematurely|Incomplete)", wavfile.WavFileWarning)
        try:
            # Only what is taken of a long recording is read.
            rate, samples = wavfile.read(path, mmap=True)
            return int(rate), np.asarray(samples)
        except Exception:  # 24 bits, an unknown length, damage: what it is shows in a second look
            size = path.stat().st_size
            what = f"a sound of {readable(size)} that has to be read whole"
            require_decodable(path, LOADING * size, what, "cut it first")
        try:
            rate, samples = wavfile.read(io.BytesIO(path.read_bytes()))
            return int(rate), np.asarray(samples)
        except Exception as error:  # a damaged file makes the reader fail in several ways
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"signal: expected a whole WAV file of PCM or floating point, got {path.name!r}, "
                f"which cannot be read ({reason}); convert it first or get it anew"
            ) from None


def _in_floats(path: Path, samples: NDArray[Any]) -> tuple[NDArray[np.float64], str]:
    """Return samples as parts of full scale, and how they were encoded."""
    values = samples.astype(np.float64)
    if samples.dtype.kind == "f":
        if not np.all(np.isfinite(values)):
            raise InputError(
                f"signal: expected finite samples, got NaN or infinity in {path.name!r}; repair it"
            )
        return values, f"{8 * samples.itemsize}-bit floating point"
    if samples.dtype == np.uint8:  # the zero of these is 128
        return (values - 128) / 128, "PCM"
    # The largest number and its negative: full scale is symmetric, the integers are not.
    return values / -float(np.iinfo(samples.dtype).min), "PCM"
