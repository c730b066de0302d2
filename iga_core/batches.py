"""Which groups take part in a step that does not take all."""

import functools

import numpy as np
from numpy.typing import NDArray

from iga_core.adjustment import Adjustment
from iga_core.arrays import require_count


def batch_of(groups: int, batch: int, seed: int, step: int) -> NDArray[np.int64]:
    """Draw the groups of a step: without replacement, in a fresh random order each epoch.

    Parameters
    ----------
    groups : int
        Groups in all.
    batch : int
        Groups a step, at most as many.
    seed : int
        The same seed gives the same groups on every backend.
    step : int
        Steps before this one.

    Returns
    -------
    ndarray of int64, shape (batch,)
        Ascending.

    Notes
    -----
    An epoch has ``groups // batch`` steps. The ``groups % batch`` groups that are left over at its
    end take no part in it: another random few each time, so all groups come equally often.
    """
    epoch, place = divmod(step, groups // batch)
    return np.sort(_order(groups, seed, epoch)[place * batch : (place + 1) * batch])


@functools.lru_cache(maxsize=1)
def _order(groups: int, seed: int, epoch: int) -> NDArray[np.int64]:
    # A stream of its own, apart from those of seeds like [seed, step].
    stream = np.random.SeedSequence(seed, spawn_key=(epoch,))
    return np.random.default_rng(stream).permutation(groups)


def require_batch(
    batch: int | None, seed: int, groups: int, adjustment: Adjustment | None
) -> int | None:
    """Return the batch as an int; raise if it is no part of the groups or too small to adjust."""
    require_count("seed", seed, 0)
    if batch is None:
        return None
    batch = require_count("batch", batch, 1)
    if batch > groups:
        raise ValueError(
            f"batch: expected at most the {groups} groups, got {batch}; lower it, or leave it out "
            "to take all groups"
        )
    if adjustment is None:
        return batch
    if adjustment.end >= batch:
        raise ValueError(
            f"end: expected less than the {batch} groups of a batch, got {adjustment.end}; "
            "lower end or raise batch"
        )
    if adjustment.refresh > 1:
        raise ValueError(
            f"refresh: expected 1 with batch={batch}, got {adjustment.refresh}; the transform of "
            "one batch does not serve the groups of the next"
        )
    return batch
