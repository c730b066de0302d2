"""Which numbers of a file become 0 and 1: known from their type and data, or refused."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError
from iga_lab.signals.resampling import Box, Read, lengths, parts

BYTE = 8
"""Bits that whole numbers have at least, unless there are only 0 and 1: so dark pictures stay."""


@dataclass(frozen=True)
class Range:
    """What becomes 0 and 1.

    Parameters
    ----------
    low, high : float
        In the file's own numbers.
    note : str
        How it is known.
    """

    low: float
    high: float
    note: str = ""

    def scaled(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return values of the file in [0, 1]; what resampling brought beyond it is clipped."""
        found = (np.asarray(values, dtype=np.float64) - self.low) / (self.high - self.low)
        return np.clip(found, 0, 1, out=found)


def found_range(path: Path, dtype: np.dtype[Any], read: Read, box: Box) -> Range:
    """Return the range of numbers that are in no format of pictures, after a look at all.

    Whole numbers, none negative, are taken to be of as many bits as the largest needs, and at
    least of `BYTE`; if all are 0 or 1, of one. That of a type says little: photographs lie in
    int64 as 0 to 255, and twelve bits of a camera in uint16. Others have to lie in [0, 1].

    Parameters
    ----------
    path : Path
        For errors.
    dtype : dtype
        In the file.
    read, box
        See `resampled`.

    Raises
    ------
    InputError
        If a number is NaN, infinite or negative, or a floating-point one is above 1.
    """
    low, high = _extent(path, read, box)
    whole = dtype.kind in "iu"
    if low < 0 or (not whole and high > 1):
        kind = "whole numbers from 0 on" if whole else "values in [0, 1]"
        raise InputError(
            f"signal: expected {kind}, got {low:.4g} to {high:.4g} in {path.name!r}, of which it "
            "is not known what is black and white; scale them first, as (a - low) / (high - low)"
        )
    if not whole:
        return Range(0.0, 1.0, "taken as it is")
    if high <= 1:
        return Range(0.0, 1.0, f"{dtype} of 0 and 1, taken as a mask")
    largest = int(np.iinfo(dtype).max)
    bits = max(BYTE, math.ceil(math.log2(high + 1)))
    full = min(2**bits - 1, largest)
    note = f"{dtype} divided by {full}"
    if full < largest:
        note += f", the most of {bits} bits, as the largest is {high:.10g}"
    return Range(0.0, float(full), note)


def _extent(path: Path, read: Read, box: Box) -> tuple[float, float]:
    """Return the least and the largest value."""
    low, high, wrong, example = math.inf, -math.inf, 0, math.nan
    for part in parts(box):
        values = read(part)
        least, most = float(values.min()), float(values.max())
        if not (math.isfinite(least) and math.isfinite(most)):
            bad = values[~np.isfinite(values)]
            wrong, example = wrong + bad.size, float(bad[0])
        low, high = min(low, least), max(high, most)
    if wrong:
        raise InputError(
            f"signal: expected finite values, got {example} at {wrong:,} of "
            f"{math.prod(lengths(box)):,} places in {path.name!r}; replace them first"
        )
    return low, high
