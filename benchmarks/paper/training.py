"""One training run of a table, in a process of its own."""

import contextlib
import functools
import math
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any
from unittest import mock

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from benchmarks._report import alternate
from benchmarks.paper.signals import Sample, sample
from benchmarks.paper.store import Description, Finished
from iga_array import MLP
from iga_array import Trainer as ArrayTrainer
from iga_core import (
    SGD,
    Adam,
    Adjustment,
    Fourier,
    Grouping,
    Muon,
    Network,
    SpectralTransform,
    adjust,
)
from iga_core.adjustment import AdjustmentState
from iga_lab import metrics
from iga_lab.errors import InputError
from iga_lab.fitting import Training
from iga_lab.hardware import to_host
from iga_lab.shapes import surface
from iga_lab.spectra import band_errors

OPTIMIZERS = {"sgd": SGD, "adam": Adam, "muon": Muon}
LAST = 100
POINTS_OF_A_CURVE = 200
TIMED_ROUNDS = 60
CHAMFER_SAMPLES = 30_000


def run(case: Description) -> Finished:
    """Train once; the result's PSNR is in dB, its seconds are of training alone.

    The keys of a case are those that `systems` gives it.
    """
    data = sample(case["source"], case["kind"], tuple(case["size"]))
    trainer = training(case, data)
    losses: list[float] = []
    seconds: list[float] = []
    overlaps: dict[int, float] = {}
    looks = _looks(case["steps"]) if data.kind == "shape" else set()
    clock = time.process_time if case["device"] == "cpu" else time.perf_counter
    with _control(case):
        try:
            for _ in range(case["steps"]):
                started = clock()
                losses.append(float(trainer.step()))
                seconds.append(clock() - started)
                if not math.isfinite(losses[-1]):
                    losses.pop()
                    break
                if len(losses) in looks:
                    overlaps[len(losses)] = _overlap(data, _prediction(trainer, data))
        except FloatingPointError:
            pass
    stopped = len(losses) < case["steps"]
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
    if overlaps:
        late = [iou for step, iou in overlaps.items() if step > case["steps"] - LAST]
        result["iou_median"] = None if stopped else float(np.median(late))
        result["iou_max"] = max(overlaps.values())
    return Finished(case, result, prediction.astype(np.float16))


def training(case: Description, data: Sample) -> Training:
    """Make the trainer of a case, on its backend and device."""
    arguments: dict[str, Any] = {
        "grouping": _grouping(case, data.values.shape[:-1]),
        "adjustment": None if case["adjustment"] is None else Adjustment(**case["adjustment"]),
        "optimizer": OPTIMIZERS[case["optimizer"]](case["rate"], case["schedule"]),
        "steps": case["steps"],
        "batch": case["batch"],
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
    early = range(steps // 20, steps, max(1, steps // 20))
    return {*early, *late[:: max(1, len(late) // 10)], steps}


def _prediction(trainer: Training, data: Sample) -> NDArray[np.float64]:
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
        distance = None
        with contextlib.suppress(InputError):  # an empty prediction has no surface
            distance = metrics.chamfer(
                surface(prediction[..., 0]), surface(data.values[..., 0]), CHAMFER_SAMPLES
            )
        found["chamfer"] = None if distance is None else distance.plain
        return found
    bands = band_errors(prediction, data.values).tolist()
    return {"ssim": metrics.ssim(prediction, data.values), "bands": bands, "fine": bands[-1]}


@contextlib.contextmanager
def _control(case: Description) -> Iterator[None]:
    """Have S made of something else than the eNTK, where the case asks for it."""
    if not case["control"]:
        yield
        return
    name = "iga_array.correcting" if case["backend"] == "numpy" else "iga_torch.wrapper"
    control = functools.partial(CONTROLS[case["control"]], adjust, case["seed"])
    with mock.patch.object(import_module(name), "adjust", control):
        yield


@functools.cache
def _random(seed: int, n: int) -> NDArray[np.float64]:
    return np.random.default_rng([seed, n]).normal(size=(n, n))


def random_vectors(
    make: Any, seed: int, kernel: Any, adjustment: Adjustment, state: Any
) -> tuple[SpectralTransform, AdjustmentState]:
    """Keep the kernel's gains and give them to random orthonormal vectors, the same all along."""
    transform, state = make(kernel, adjustment, state)
    vectors = np.linalg.qr(_random(seed, kernel.shape[0]))[0][:, : transform.vectors.shape[1]]
    vectors = _like(kernel, np.ascontiguousarray(vectors))
    return SpectralTransform(transform.eigenvalues, vectors, transform.weights), state


def random_kernel(
    make: Any, seed: int, kernel: Any, adjustment: Adjustment, state: Any
) -> tuple[SpectralTransform, AdjustmentState]:
    """Take a Gram matrix of random features, the same all along, for the kernel."""
    features = _random(seed, kernel.shape[0])
    made: tuple[SpectralTransform, AdjustmentState] = make(
        _like(kernel, features @ features.T), adjustment, state
    )
    return made


def _like(kernel: Any, values: NDArray[np.float64]) -> Any:
    xp = array_namespace(kernel)
    return xp.asarray(values, dtype=kernel.dtype, device=device(kernel))


CONTROLS = {"vectors": random_vectors, "kernel": random_kernel}


def seconds_a_step(case: Description) -> Finished:
    """Time the steps of some cases in turn; the result has the median seconds of each."""
    steps = {}
    for name, one in case["cases"].items():
        data = sample(one["source"], one["kind"], tuple(one["size"]))
        steps[name] = training(one, data).step
    rounds = min(TIMED_ROUNDS, min(one["steps"] for one in case["cases"].values()))
    seconds = alternate(steps, rounds, time.process_time)
    return Finished(case, {name: float(np.median(s)) for name, s in seconds.items()})
