"""Which points of a group stand for it; random numbers come from the host, alike for every backend.

`representatives` checks and delegates; the functions below it assume.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from iga_core.arrays import (
    Array,
    common_namespace,
    require_choice,
    require_count,
    require_finite,
    require_nonempty,
    require_seed,
    require_shape,
    sent,
    short,
)

SamplingRule: TypeAlias = Literal["largest", "centre", "random"]


def representatives(
    cotangent: Array,
    rule: SamplingRule,
    samples: int = 1,
    *,
    centre: int | NDArray[np.int64] | None = None,
    seed: int | Sequence[int] | None = None,
) -> Array:
    """Choose the points whose tangents stand for their groups (Shi et al. 2025, section 4.3).

    Parameters
    ----------
    cotangent : array, shape (n, p, C)
        Gradient of the loss with respect to the outputs, float32 or float64.
    rule : {"largest", "centre", "random"}
        The points of largest ``Σ_c |g|``, ties to the lowest position (the paper's); position
        `centre`; or a uniform draw without replacement.
    samples : int
        Points of each group.
    centre : int or ndarray of int, shape (n,), optional
        The positions that the rule "centre" takes; see `Grouping.centre`.
    seed : int or sequence of int, optional
        For the rule "random"; the same seed gives the same points on every backend.

    Returns
    -------
    array of int64, shape (n, samples)
        Positions in the group, on the cotangent's device.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range or, on a CPU and for "largest", the cotangent is not
        finite.

    Notes
    -----
    ``O(n p C)``; with more than one sample "largest" sorts, ``O(n p log p)``.

    Examples
    --------
    >>> import numpy as np
    >>> cotangent = np.asarray([[[0.1], [-3.0], [2.0]]])
    >>> representatives(cotangent, "largest", 2).tolist()
    [[1, 2]]
    """
    common_namespace(cotangent=cotangent)
    require_shape("cotangent", cotangent, ("groups", "points", "channels"), "group it first")
    require_nonempty("cotangent", cotangent)
    require_choice("rule", rule, get_args(SamplingRule))
    require_seed("seed", seed)
    groups, points = cotangent.shape[:2]
    if require_count("samples", samples, 1) > points:
        raise ValueError(
            f"samples: expected at most the {points} points of a group, got {samples}; lower it"
        )
    if rule == "largest":
        require_finite("cotangent", cotangent, "skip this step")
        return largest(cotangent, samples)
    if rule == "centre":
        if samples != 1:
            raise ValueError(
                f"samples: expected 1 with the rule 'centre', got {samples}; use 'random'"
            )
        return sent(_centres(centre, groups, points), cotangent)
    return sent(drawn(groups, points, samples, seed), cotangent)


def largest(cotangent: Array, samples: int) -> Array:
    """Return the positions (n, samples) of largest ``Σ_c |g|`` in each group, the largest first."""
    xp = array_namespace(cotangent)
    magnitudes = xp.abs(cotangent)
    # Channels are few: adding them one by one is far quicker than a sum over a short axis.
    channels = (magnitudes[:, :, c] for c in range(magnitudes.shape[2]))
    scores = functools.reduce(operator.add, channels)
    if samples == 1:
        return xp.argmax(scores, axis=1, keepdims=True)
    return xp.argsort(-scores, axis=1, stable=True)[:, :samples]


def drawn(
    groups: int, points: int, samples: int, seed: int | Sequence[int] | None
) -> NDArray[np.int64]:
    """Draw ``samples <= points`` different positions of each group, (groups, samples)."""
    # Floyd's algorithm, all groups at once: O(groups * samples²), however large a group is.
    generator = np.random.default_rng(seed)
    chosen = np.empty((groups, samples), dtype=np.int64)
    for k in range(samples):
        last = points - samples + k
        candidate = generator.integers(0, last + 1, size=groups)
        taken = np.any(chosen[:, :k] == candidate[:, None], axis=1)
        chosen[:, k] = np.where(taken, last, candidate)
    return chosen


def _centres(centre: Any, groups: int, points: int) -> NDArray[np.int64]:
    remedy = "pass Grouping.centre"
    given = np.asarray(-1 if centre is None else centre)
    if given.dtype.kind not in "iu" or given.shape not in ((), (groups,)):
        raise TypeError(
            f"centre: expected a whole number or {groups} of them, got {short(centre)}; {remedy}"
        )
    if given.min() < 0 or given.max() >= points:
        raise ValueError(
            f"centre: expected positions in [0, {points}), got {short(centre)}; {remedy}"
        )
    return np.broadcast_to(given, (groups,)).astype(np.int64)[:, None]
