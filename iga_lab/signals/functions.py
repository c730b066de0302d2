"""Functions that are made and not read: sums of sines."""

import numpy as np

from iga_lab.errors import InputError
from iga_lab.signals.signal import Signal, Size, coordinates
from iga_lab.signals.sizes import SIZES, halved, target

SINES = tuple(range(5, 51, 5))
"""Frequencies of the function `sines`, in cycles from -1 to 1."""
PHASES = 0
"""Seed of its phases."""


def sines(frequencies: str, size: Size | None) -> Signal:
    """Make a sum of sines of frequencies such as "5,20,80", or of `SINES`."""
    (count,), _ = target("function", size or (SIZES["function"], None))
    try:
        asked = [float(part) for part in frequencies.split(",")] if frequencies else list(SINES)
    except ValueError:
        asked = []
    # Both ends are samples, so n of them have n - 1 steps, of which two make the shortest cycle.
    highest = (count - 1) / 2
    if not asked or not all(0 < f <= highest for f in asked):
        raise InputError(
            f"signal: expected frequencies above 0 and at most {highest:g}, half of the samples, "
            f"as in sines:5,20,80, got {'sines:' + frequencies!r}; change them or raise --size"
        )
    # Sines that start together pile up, and one peak in the middle would be all of the signal.
    phases = np.random.default_rng(PHASES).uniform(0, 2 * np.pi, len(asked))
    values = np.sin(np.pi * np.asarray(asked) * coordinates((count,)) + phases)
    total = values.sum(axis=-1, keepdims=True)
    said = ", ".join(f"{f:g}" for f in asked)
    note = f"sines: {said} cycles from -1 to 1, of random phases, scaled into [-1/2, 1/2]"
    return Signal("sines", "function", halved("sines", total), (note,))
