"""Which points of a group stand for it."""

import functools
import operator
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from iga_core._arrays import Array, common_namespace, require_count, require_finite, require_shape

SamplingRule: TypeAlias = Literal["largest", "centre", "random"]


def representatives(
    cotangent: Array,
    rule: SamplingRule,
    samples: int = 1,
    *,
    centre: int | None = None,
    seed: int | Sequence[int] | None = None,
) -> Array:
    """Choose the points whose tangents stand for their groups (paper, section 3.3).

    Parameters
    ----------
    cotangent : array, shape (n, p, C)
        Gradient of the loss with respect to the outputs, float32 or float64.
    rule : {"largest", "centre", "random"}
        The points of largest ``sum |g|`` over channels, ties to the lowest position; position
        `centre`; or a uniform draw without replacement.
    samples : int
        Points of each group.
    centre : int, optional
        The position that the rule "centre" takes; see `Grouping.centre`.
    seed : int or sequence of int, optional
        For the rule "random"; the same seed gives the same points on every backend.

    Returns
    -------
    array of int64, shape (n, samples)
        Positions in the group, on the cotangent's device.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range or, on a CPU, the cotangent is not finite.

    Notes
    -----
    ``O(n p C)``; with more than one sample "largest" sorts, ``O(n p log p)``.
    """
    xp = common_namespace(cotangent=cotangent)
    require_shape("cotangent", cotangent, ("groups", "points", "channels"), "group it first")
    groups, points = cotangent.shape[:2]
    if require_count("samples", samples, 1) > points:
        raise ValueError(
            f"samples: expected at most the {points} points of a group, got {samples}; lower it"
        )
    if rule == "largest":
        require_finite("cotangent", cotangent, "skip this step")
        return largest(cotangent, samples)[1]
    positions = blind_positions(groups, points, rule, samples, centre=centre, seed=seed)
    return xp.asarray(positions, device=device(cotangent))


def blind_positions(
    groups: int,
    points: int,
    rule: SamplingRule,
    samples: int,
    *,
    centre: int | None,
    seed: int | Sequence[int] | None,
) -> NDArray[np.int64]:
    """Choose by a rule that does not look at the cotangent, (groups, samples), on the host."""
    if rule == "random":
        return _random_positions(groups, points, samples, seed)
    if rule != "centre":
        rules = ", ".join(get_args(SamplingRule))
        raise ValueError(f"rule: expected one of {rules}, got {rule!r}; name one of them")
    if samples != 1:
        raise ValueError(f"samples: expected 1 with the rule 'centre', got {samples}; use 'random'")
    if centre is None or not 0 <= centre < points:
        raise ValueError(
            f"centre: expected a position in [0, {points}), got {centre}; pass Grouping.centre"
        )
    return np.full((groups, 1), centre, dtype=np.int64)


def _random_positions(
    groups: int, points: int, samples: int, seed: int | Sequence[int] | None
) -> NDArray[np.int64]:
    # Floyd's algorithm, all groups at once: O(groups * samples^2), however large a group is.
    generator = np.random.default_rng(seed)
    chosen = np.empty((groups, samples), dtype=np.int64)
    for drawn in range(samples):
        last = points - samples + drawn
        candidate = generator.integers(0, last + 1, size=groups)
        taken = np.any(chosen[:, :drawn] == candidate[:, None], axis=1)
        chosen[:, drawn] = np.where(taken, last, candidate)
    return chosen


def largest(cotangent: Array, samples: int, first: int = 0) -> tuple[Array, Array]:
    """Return the largest ``sum |g|`` of each group and their positions, both (n, samples).

    `cotangent` (n, b, C) may be a piece of the columns, whose first is column `first` of the
    group; of a piece with fewer columns than samples, all are returned.
    """
    xp = array_namespace(cotangent)
    magnitudes = xp.abs(cotangent)
    # Channels are few: adding them one by one is far quicker than a sum over a short axis.
    scores = functools.reduce(
        operator.add, (magnitudes[:, :, c] for c in range(cotangent.shape[2]))
    )
    if samples == 1:
        best = xp.argmax(scores, axis=1, keepdims=True)
        return xp.max(scores, axis=1, keepdims=True), first + best
    positions = xp.arange(first, first + scores.shape[1], dtype=xp.int64, device=device(cotangent))
    return _top(scores, xp.broadcast_to(positions, scores.shape), samples)


def merge_largest(
    earlier: tuple[Array, Array] | None, later: tuple[Array, Array], samples: int
) -> tuple[Array, Array]:
    """Combine what `largest` says of two pieces, the one with the lower columns first."""
    if earlier is None:
        return later
    xp = array_namespace(later[0])
    if samples == 1:
        wins = later[0] > earlier[0]
        return xp.where(wins, later[0], earlier[0]), xp.where(wins, later[1], earlier[1])
    scores, positions = (xp.concat(pair, axis=1) for pair in zip(earlier, later, strict=True))
    return _top(scores, positions, samples)


def _top(scores: Array, positions: Array, samples: int) -> tuple[Array, Array]:
    xp = array_namespace(scores)
    order = xp.argsort(-scores, axis=1, stable=True)[:, :samples]
    return xp.take_along_axis(scores, order, axis=1), xp.take_along_axis(positions, order, axis=1)
