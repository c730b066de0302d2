"""Which points of a group stand for it."""

import functools
import operator
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from iga_core.arrays import (
    Array,
    common_namespace,
    require_count,
    require_finite,
    require_nonempty,
    require_shape,
)

SamplingRule: TypeAlias = Literal["largest", "centre", "random"]

COLUMNS_AT_ONCE = 64
"""`Largest` compares as many columns at a time: one comparison a piece would cost far more."""


def representatives(
    cotangent: Array,
    rule: SamplingRule,
    samples: int = 1,
    *,
    centre: int | None = None,
    seed: int | Sequence[int] | None = None,
) -> Array:
    """Choose the points whose tangents stand for their groups (Shi et al. 2025).

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
        If an argument is out of its range or, on a CPU and for "largest", the cotangent is not
        finite.

    Notes
    -----
    ``O(n p C)``; with more than one sample "largest" sorts, ``O(n p log p)``.
    """
    xp = common_namespace(cotangent=cotangent)
    require_shape("cotangent", cotangent, ("groups", "points", "channels"), "group it first")
    require_nonempty("cotangent", cotangent)
    groups, points = cotangent.shape[:2]
    if require_count("samples", samples, 1) > points:
        raise ValueError(
            f"samples: expected at most the {points} points of a group, got {samples}; lower it"
        )
    if rule == "largest":
        require_finite("cotangent", cotangent, "skip this step")
        return _best(_scores(cotangent), samples)
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
    if centre is None or not 0 <= require_count("centre", centre, 0) < points:
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


class Largest:
    """The points of largest ``sum |g|`` in each group, of columns that come a piece at a time.

    Parameters
    ----------
    samples : int
        Points of each group.
    """

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._best: tuple[Array, Array] | None = None
        self._waiting: list[tuple[Array, int]] = []

    def look(self, cotangent: Array, first: int = 0) -> "Largest":
        """Consider columns (n, b, C), of which the first is column `first` of the groups."""
        self._waiting.append((cotangent, first))
        if sum(piece.shape[1] for piece, _ in self._waiting) >= COLUMNS_AT_ONCE:
            self._choose()
        return self

    def __iadd__(self, later: "Largest") -> "Largest":
        """Consider the columns that another has considered, all higher than those here."""
        if later._best is not None:
            self._choose()
            self._keep(later._best)
        for cotangent, first in later._waiting:
            self.look(cotangent, first)
        return self

    @property
    def positions(self) -> Array:
        """Positions in the group, int64 (n, samples), the largest first, ties by the lowest."""
        self._choose()
        return None if self._best is None else self._best[1]

    def _choose(self) -> None:
        if not self._waiting:
            return
        pieces = [piece for piece, _ in self._waiting]
        xp = array_namespace(*pieces)
        scores = _scores(xp.concat(pieces, axis=1))
        columns = [
            xp.arange(first, first + piece.shape[1], dtype=xp.int64, device=device(piece))
            for piece, first in self._waiting
        ]
        self._waiting = []
        positions = xp.broadcast_to(xp.concat(columns), scores.shape)
        self._keep((scores, positions))

    def _keep(self, later: tuple[Array, Array]) -> None:
        """Keep the best of what was kept and of candidates at higher positions."""
        xp = array_namespace(later[0])
        earlier = [] if self._best is None else [self._best]
        scores, positions = (
            xp.concat(parts, axis=1) for parts in zip(*earlier, later, strict=True)
        )
        order = _best(scores, self._samples)
        self._best = (
            xp.take_along_axis(scores, order, axis=1),
            xp.take_along_axis(positions, order, axis=1),
        )


def _scores(cotangent: Array) -> Array:
    """Return ``sum |g|`` over channels, (n, p)."""
    magnitudes = array_namespace(cotangent).abs(cotangent)
    # Channels are few: adding them one by one is far quicker than a sum over a short axis.
    channels = (magnitudes[:, :, c] for c in range(magnitudes.shape[2]))
    return functools.reduce(operator.add, channels)


def _best(scores: Array, samples: int) -> Array:
    """Return the columns of the largest scores, (n, samples), ties to the lowest."""
    xp = array_namespace(scores)
    if samples == 1:
        return xp.argmax(scores, axis=1, keepdims=True)
    return xp.argsort(-scores, axis=1, stable=True)[:, :samples]
