"""Choosing among the results of `functions`, and the figures that are made of them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks._report import median_spread
from benchmarks.paper.twolayer import Floats

Result = dict[str, Any]
"""A case and what came of it."""

NETWORKS = {"relu": "ReLU", "siren": "SIREN"}
METHODS = {
    "plain": "plain", "linear": "linear dynamics", "kernel": "kernel-based", "entk": "eNTK-based",
    "iga2": "IGA p=2", "iga4": "IGA p=4", "iga8": "IGA p=8",
}  # fmt: skip
ENDING = 0.1
"""The error of a fit is its median over so large a share of the records, the last ones."""


def method_of(group: int) -> str:
    """Return the method whose groups have so many points; none for plain training."""
    return {0: "plain", 1: "entk"}.get(group, f"iga{group}")


def of(results: Iterable[Result], **wanted: Any) -> list[Result]:
    """Return those of some settings."""
    return [result for result in results if wanted.items() <= result.items()]


def widths_of(circle: Iterable[Result]) -> list[int]:
    return sorted({run["width"] for run in circle})


def inductive(circle: Sequence[Result]) -> list[str]:
    """Return the methods with more than one point in a group."""
    return [method_of(group) for group in circle[0]["groups"]]


def networks_of(sines: Iterable[Result]) -> list[str]:
    return list(dict.fromkeys(run["network"] for run in sines))


def methods_of(sines: Iterable[Result]) -> list[str]:
    return list(dict.fromkeys(run["method"] for run in sines))


def distance(circle: Sequence[Result], pair: str) -> tuple[float, float]:
    """Return the largest distance over training of two methods: median over runs, spread."""
    return median_spread([max(run["differences"][pair]) for run in circle])


def ending(run: Result) -> Floats:
    """Return the relative error of each frequency at the end; infinite where a fit diverged."""
    errors = np.asarray(run["errors"])
    if run["diverged"] is not None:
        return np.full(errors.shape[1], np.inf)
    return np.asarray(np.median(errors[-max(1, int(ENDING * len(errors))) :], axis=0))
