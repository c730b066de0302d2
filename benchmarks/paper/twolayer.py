"""A two-layer ReLU network on the circle, trained with a transform of three origins.

The network is that of the closed form `theory.two_layer_kernel`; the targets are sums of sines on
the circle, of which some are among the equalised eigenvectors.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.store import Description
from benchmarks.paper.theory import linear_residuals, two_layer_kernel
from iga_core import Equalise, Grouping, LayerFactors, gram

Floats: TypeAlias = NDArray[Any]
Adjusted: TypeAlias = Callable[[Floats, Floats], Floats]
"""From the residual (N,) and the derivatives (N, width) of the outputs with respect to every unit's
pre-activation to an adjusted residual."""

RECORDS = 32
DIGITS = 5


def compare(case: Description) -> dict[str, Any]:
    """Train one network plain and with every transform, and measure how far they part.

    Parameters
    ----------
    case : dict
        `width`, `seed`, `points` N of the circle, `frequencies` of the target, `end`, `groups`
        (sizes), learning `rate` and `steps`.

    Returns
    -------
    dict
        ``recorded``, steps taken; relative ``errors`` of each method, (records, frequencies);
        ``differences`` between the outputs of two methods, relative to the target, (records,):
        "linear" is what `linear_residuals` predicts of "kernel", and those of "limit" are between
        two such predictions.
    """
    started = time.perf_counter()
    angles = 2 * np.pi * np.arange(case["points"]) / case["points"]
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    target = np.sum([np.sin(k * angles) for k in case["frequencies"]], axis=0)
    equalise = Equalise(case["end"], level="start")
    groupings = {size: Grouping.blocks(len(x), size) for size in (1, *case["groups"])}
    kernel = two_layer_kernel(x)
    methods = {"plain": _unadjusted, "kernel": _fixed(kernel, equalise)} | {
        _name(size): _inductive(x, grouping, equalise) for size, grouping in groupings.items()
    }
    recorded = np.unique(np.geomspace(1, case["steps"], RECORDS).round().astype(int)).tolist()
    recorded = [0, *recorded]
    outputs = {
        name: _trained(case, x, target, adjusted, recorded) for name, adjusted in methods.items()
    }
    first, rate = outputs["plain"][0] - target, 2 * case["rate"] / len(x)

    def predicted(grouping: Grouping) -> Floats:
        points = _centres(grouping)
        transform = equalise(kernel[np.ix_(points, points)])
        residuals = linear_residuals(kernel, first, rate, recorded, transform)
        return np.asarray(residuals + target)

    limits = {_name(size): predicted(grouping) for size, grouping in groupings.items()}
    outputs["linear"] = limits["entk"]
    inductive = [_name(size) for size in case["groups"]]
    pairs = [("kernel", "linear"), ("kernel", "entk")]
    pairs += itertools.product(("kernel", "entk"), inductive)
    differences = {f"{a} {b}": _apart(outputs[a], outputs[b], target) for a, b in pairs}
    differences |= {f"limit {b}": _apart(limits["entk"], limits[b], target) for b in inductive}
    bins = list(case["frequencies"])
    return {
        "recorded": recorded,
        "errors": {
            name: relative_errors(outputs[name], target, bins) for name in ("linear", *methods)
        },
        "differences": differences,
        "seconds": time.perf_counter() - started,
    }


def relative_errors(outputs: Floats, target: Floats, bins: Sequence[int]) -> list[list[float]]:
    """Return ``|F(f) − F(y)| / |F(y)|`` of outputs (records, N), one column a bin of the FFT."""
    truth = np.fft.rfft(target)[list(bins)]
    errors = np.abs(np.fft.rfft(outputs, axis=1)[:, list(bins)] - truth) / np.abs(truth)
    return [[round(float(error), DIGITS) for error in row] for row in errors]


def _name(size: int) -> str:
    return "entk" if size == 1 else f"iga{size}"


def _apart(left: Floats, right: Floats, target: Floats) -> list[float]:
    distances = np.linalg.norm(left - right, axis=1) / np.linalg.norm(target)
    return [round(float(distance), DIGITS) for distance in distances]


def _unadjusted(residual: Floats, signals: Floats) -> Floats:  # noqa: ARG001
    return residual


def _centres(grouping: Grouping) -> NDArray[np.int64]:
    return grouping.index[np.arange(grouping.groups), grouping.centre]


def _fixed(kernel: Floats, equalise: Equalise) -> Adjusted:
    transform = equalise(kernel.astype(np.float32))
    return lambda residual, _: np.asarray(transform(residual))


def _inductive(x: Floats, grouping: Grouping, equalise: Equalise) -> Adjusted:
    """Make the transform from the middle point of each group, anew at every step."""
    points = _centres(grouping)
    inputs = x[points].astype(np.float32)

    def adjusted(residual: Floats, signals: Floats) -> Floats:
        kernel = gram([LayerFactors(inputs, signals[points])])
        groups, rest = grouping.split(residual)
        return np.asarray(grouping.join(equalise(kernel)(groups), rest))

    return adjusted


def _trained(
    case: Description, x: Floats, target: Floats, adjusted: Adjusted, recorded: Sequence[int]
) -> Floats:
    """Train from the seed's start by gradient descent; outputs before some of the steps."""
    width, generator = case["width"], np.random.default_rng(case["seed"])
    layer = generator.normal(size=(width, 3)).astype(np.float32)  # a unit's weights and bias
    layer[:, 2] = 0
    outer = generator.choice([-1.0, 1.0], size=width) / np.sqrt(2 * width)
    outer = outer.astype(np.float32)
    inputs = np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float32)
    rate, target = 2 * case["rate"] / len(x), target.astype(np.float32)
    kept = []
    for step in range(case["steps"] + 1):
        before = inputs @ layer.T
        signals = (before > 0) * outer
        outputs = np.sum(signals * before, axis=1)
        if step in recorded:
            kept.append(outputs)
        residual = adjusted(outputs - target, signals)
        layer -= rate * (signals.T @ (residual[:, None] * inputs))
    return np.stack(kept)
