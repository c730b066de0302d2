"""One training run of a table, in a process of its own."""

import contextlib
import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from benchmarks._report import alternate
from benchmarks.paper.signals import Sample, sample
from benchmarks.paper.store import Description, Finished
from iga_array import MLP
from iga_array import Trainer as ArrayTrainer
from iga_core import SGD, Adam, Adjustment, Fourier, Grouping, Muon, Network, Transform
from iga_core.filters import Filter
from iga_lab import metrics
from iga_lab.errors import InputError
from iga_lab.hardware import to_host
from iga_lab.metrics.spectra import band_errors
from iga_lab.runs.course import Training
from iga_lab.signals.solids import surface

OPTIMIZERS = {"sgd": SGD, "adam": Adam, "muon": Muon}
LAST = 100
POINTS_OF_A_CURVE = 200
TIMED_ROUNDS = 60
CHAMFER_SAMPLES = 100_000
HARMLESS_RATE = 1e-9
ACCELERATOR_BLOCK = 100
"""Steps between two looks at their losses, for which an accelerator would have to wait."""


def run(case: Description) -> Finished:
    """Train once; the result's PSNR is in dB, its seconds are of training alone.

    The keys of a case are those that `systems` gives it.
    """
    data = sample(case["source"], case["kind"], tuple(case["size"]))
    trainer = training(case, data)
    looks = _looks(case["steps"]) if data.kind == "shape" else set()
    losses: list[float] = []
    seconds: list[float] = []
    overlaps: dict[int, float] = {}
    for steps in _blocks(case, looks):
        seen, spent = _taken(case, trainer, steps)
        losses += seen
        seconds += [spent / steps] * len(seen)
        if len(seen) < steps:
            break
        if len(losses) in looks:
            overlaps[len(losses)] = _overlap(data, _prediction(trainer, data))
    prediction = _prediction(trainer, data)
    stopped = len(losses) < case["steps"] or not np.all(np.isfinite(prediction))
    if stopped:
        trainer.restore()
        prediction = _prediction(trainer, data)
    psnr = metrics.psnr(np.asarray(losses))
    result = {
        "status": "diverged" if stopped else "finished",
        "steps": len(losses),
        "psnr_median": None if stopped else float(np.median(psnr[-LAST:])),
        "psnr_lowest": None if stopped else float(np.min(psnr[-LAST:])),
        "psnr_max": float(np.max(psnr)) if losses else None,
        "psnr_end": float(metrics.psnr(metrics.mean_squared_error(prediction, data.values))),
        "seconds": float(np.sum(seconds)),
        "curve": _thinned(psnr, seconds),
        **_measures(data, prediction),
    }
    if looks:
        late = [iou for step, iou in overlaps.items() if step > case["steps"] - LAST]
        result["iou_median"] = None if stopped else float(np.median(late))
        result["iou_max"] = max(overlaps.values(), default=None)
    largest = float(np.finfo(np.float16).max)
    return Finished(case, result, np.clip(prediction, -largest, largest).astype(np.float16))


def _taken(case: Description, trainer: Training, steps: int) -> tuple[list[float], float]:
    """Take some steps; their losses, up to where one is not finite, and the seconds of all."""
    clock = clock_of(case)
    started, losses = clock(), []
    with contextlib.suppress(FloatingPointError):
        for _ in range(steps):
            losses.append(trainer.step())
    found = [float(loss) for loss in losses]  # waits for an accelerator, once for all
    spent = clock() - started
    finite = next((k for k, loss in enumerate(found) if not math.isfinite(loss)), len(found))
    return found[:finite], spent


def _blocks(case: Description, looks: set[int]) -> Iterator[int]:
    """Yield numbers of steps that are taken without a look in between."""
    block = 1 if case["device"] == "cpu" else ACCELERATOR_BLOCK
    ends = sorted({*range(block, case["steps"], block), *looks, case["steps"]})
    for start, end in itertools.pairwise([0, *ends]):
        yield end - start


def clock_of(case: Description) -> Callable[[], float]:
    """Return the clock of a run: processor time, which other runs do not stretch, on a CPU."""
    return time.process_time if case["device"] == "cpu" else time.perf_counter


def training(case: Description, data: Sample) -> Training:
    """Make the trainer of a case, on its backend and device."""
    grouping = _grouping(case, data.values.shape[:-1])
    arguments: dict[str, Any] = {
        "grouping": grouping,
        # In one piece, as the paper has it; a normalised network takes no other.
        "columns": None if case["normalised"] else grouping.points,
        "adjustment": adjustment(case),
        "optimizer": OPTIMIZERS[case["optimizer"]](case["rate"], case["schedule"]),
        "steps": case["steps"],
        "batch": case["batch"],
        "seed": case["seed"],
    }
    coords = data.coords.astype(np.float32)
    targets = data.values.reshape(len(coords), -1).astype(np.float32)
    if case["backend"] == "numpy":
        model = MLP(network(case, data), seed=case["seed"])
        return ArrayTrainer(model, coords, targets, workers=1, **arguments)
    import torch

    from iga_torch import Trainer as TorchTrainer
    from iga_torch import from_network

    torch.backends.cuda.matmul.allow_tf32 = bool(case["tf32"])
    place = torch.device(case["device"])
    return TorchTrainer(
        from_network(network(case, data), case["seed"], torch.float32, place),
        torch.from_numpy(coords).to(place),
        torch.from_numpy(targets).to(place),
        **arguments,
    )


def adjustment(case: Description) -> Adjustment | None:
    """Return the adjustment of a case: the paper's, but for what the case says."""
    if case["adjustment"] is None:
        return None
    found = Adjustment.paper(**case["adjustment"], seed=case["seed"])
    if not case["control"]:
        return found
    return dataclasses.replace(found, filter=CONTROLS[case["control"]](found.filter, case["seed"]))


def network(case: Description, data: Sample) -> Network:
    """Describe the network of a case."""
    return Network(
        case["network"],
        data.coords.shape[1],
        data.values.shape[-1],
        case["width"],
        case["depth"],
        case["frequencies"],
        fourier=None if case["fourier"] is None else Fourier(**case["fourier"]),
        normalised=case["normalised"],
    )


def _looks(steps: int) -> set[int]:
    """Return the steps after which the whole signal is looked at."""
    late = range(max(1, steps - LAST + 1), steps + 1)
    early = range(steps // 10, steps - LAST, max(1, steps // 10))
    return {*early, *late[:: -max(1, len(late) // 10)]}


def _prediction(trainer: Training, data: Sample) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):  # what is not finite is seen by the caller
        return to_host(trainer.predict()).astype(np.float64).reshape(data.values.shape)


def _overlap(data: Sample, prediction: NDArray[np.float64]) -> float:
    return float(metrics.iou(prediction[..., 0], data.values[..., 0]))


def _grouping(case: Description, shape: tuple[int, ...]) -> Grouping:
    if case["blocks"]:
        return Grouping.blocks(math.prod(shape), case["blocks"])
    return Grouping.patches(shape, case["patch"])


def _thinned(psnr: NDArray[np.float64], seconds: list[float]) -> list[list[float]]:
    """Return rows of step, seconds until then, and PSNR: every k-th and the last."""
    spent = np.concatenate([[0.0], np.cumsum(seconds)])
    every = max(1, math.ceil(len(psnr) / POINTS_OF_A_CURVE))
    steps = sorted({*range(0, len(psnr), every), len(psnr) - 1} - {-1})
    return [[k, round(float(spent[k]), 4), round(float(psnr[k]), 3)] for k in steps]


def _measures(data: Sample, prediction: NDArray[np.float64]) -> dict[str, Any]:
    if data.kind == "shape":
        found: dict[str, Any] = {"iou": _overlap(data, prediction)}
        with contextlib.suppress(InputError):  # an empty prediction has no surface
            truth, floor = _true_surface(data)
            distance = metrics.chamfer(surface(prediction[..., 0]), truth, CHAMFER_SAMPLES)
            found |= {"chamfer": distance.plain, "chamfer_squared": distance.squared}
            found |= {"chamfer_floor": floor}
        return found
    bands = band_errors(prediction, data.values).tolist()
    found = {"ssim": metrics.ssim(prediction, data.values), "bands": bands, "fine": bands[-1]}
    if min(data.values.shape[:2]) >= metrics.MS_SSIM_SIDE:
        found["ms_ssim"] = metrics.ms_ssim(prediction, data.values)
    return found


@functools.lru_cache(maxsize=1)
def _true_surface(data: Sample) -> tuple[Any, float]:
    """Return the surface of a solid, and how far two samplings of it are apart."""
    truth = surface(data.values[..., 0])
    return truth, metrics.chamfer(truth, truth, CHAMFER_SAMPLES).plain


@dataclasses.dataclass(frozen=True)
class RandomVectors:
    """A filter's own gains at every step, given to random orthonormal vectors.

    The vectors are the same all along; the first of them gets the smallest gain.
    """

    filter: Filter
    seed: int

    def __call__(self, kernel: Any) -> Transform:
        S = self.filter(kernel).matrix()
        gains = array_namespace(S).linalg.eigvalsh(S)
        Q = _like(S, _orthonormal(self.seed, S.shape[0]))
        return Transform((Q * gains) @ Q.T)


@dataclasses.dataclass(frozen=True)
class RandomKernel:
    """A filter of a Gram matrix of random features, the same all along, in the kernel's place."""

    filter: Filter
    seed: int

    def __call__(self, kernel: Any) -> Transform:
        features = _features(self.seed, kernel.shape[0])
        return self.filter(_like(kernel, features @ features.T))


CONTROLS: dict[str, Callable[[Filter, int], Filter]] = {
    "vectors": RandomVectors,
    "kernel": RandomKernel,
}
"""Filters that make S of something else than the eNTK, each of another filter and a seed."""


@functools.cache
def _features(seed: int, n: int) -> NDArray[np.float64]:
    return np.random.default_rng([seed, n]).normal(size=(n, n))


@functools.cache
def _orthonormal(seed: int, n: int) -> NDArray[np.float64]:
    return np.linalg.qr(_features(seed, n))[0]


def _like(array: Any, values: NDArray[np.float64]) -> Any:
    xp = array_namespace(array)
    return xp.asarray(values, dtype=array.dtype, device=device(array))


def seconds_a_step(case: Description) -> Finished:
    """Time the steps of some cases in turn; the result has the median seconds of each.

    At a rate that moves nothing: a step costs the same, and none diverges.
    """
    steps: dict[str, Callable[[], object]] = {}
    for name, one in case["cases"].items():
        data = sample(one["source"], one["kind"], tuple(one["size"]))
        trainer = training({**one, "rate": HARMLESS_RATE}, data)
        steps[name] = functools.partial(_taken, one, trainer, 1)
    first = next(iter(case["cases"].values()))
    rounds = min(TIMED_ROUNDS, first["steps"] - 1)
    seconds = alternate(steps, rounds, clock_of(first))
    return Finished(case, {name: float(np.median(s)) for name, s in seconds.items()})
