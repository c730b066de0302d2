"""PSNR with and without adjustment: python -m benchmarks.quality [--seeds 3] [--jobs 2].

Every method has the same optimizer, learning rate, schedule, steps and initial parameters as the
plain run beside it. Curves go to ``results/quality-runs.jsonl`` as they are finished (a later call
does the missing ones only), the table to ``results/quality.md``, the figures behind it to
``results/quality.json``.
"""

import argparse
import itertools
import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._report import RESULTS
from iga_array import MLP, Trainer
from iga_core import SGD, Adam, Adjustment, Grouping, Muon, Network
from iga_lab.signals import grid, load

SIZE, PATCH, WIDTH, STEPS = 96, 8, 128, 1000
GROUPS = (SIZE // PATCH) ** 2
OPTIMIZERS = {"sgd": SGD, "adam": Adam, "muon": Muon}
SYSTEMS = [
    ("pe", "adam", 5e-3, 5, 8),
    ("pe", "muon", 2e-2, 2, 4),
    ("siren", "adam", 1e-3, 3, 3),
    ("relu", "adam", 2e-3, 2, 2),
    ("siren", "muon", 2e-3, None, None),
    ("relu", "muon", 2e-2, None, None),
]
"""Network, optimizer, learning rate, and the gain in dB wanted of the paper's and of group-wise."""
METHODS = {
    "plain": None,
    "paper": Adjustment(),
    "group-wise": Adjustment(sampling="random", samples=8, reach="mean"),
    "half": Adjustment(end=GROUPS // 2, sampling="random", samples=2, reach="mean"),
}
SCHEDULES = ("cosine", "constant")


def trainer(
    network: str, optimizer: str, rate: float, schedule: Any, method: str, seed: int
) -> Trainer:
    signal = load("astronaut", (SIZE, None))
    return Trainer(
        MLP(Network(network, width=WIDTH), seed=seed),  # type: ignore[arg-type]
        grid(SIZE, SIZE).astype(np.float32),
        signal.pixels.reshape(-1, 3).astype(np.float32),
        grouping=Grouping.patches((SIZE, SIZE), PATCH),
        adjustment=METHODS[method],
        optimizer=OPTIMIZERS[optimizer](rate, schedule),
        steps=STEPS,
    )


def curve(
    network: str, optimizer: str, rate: float, schedule: str, method: str, seed: int
) -> list[float]:
    """Train once; PSNR in dB at every step, up to where the loss became non-finite."""
    run = trainer(network, optimizer, rate, schedule, method, seed)
    psnr = []
    try:
        for _ in range(STEPS):
            psnr.append(round(-10 * float(np.log10(float(run.step()))), 3))
    except FloatingPointError:
        pass
    return psnr


def cases(seeds: int) -> list[dict[str, Any]]:
    return [
        {"network": n, "optimizer": o, "rate": r, "schedule": s, "method": m, "seed": seed}
        for required, s in itertools.product((True, False), SCHEDULES)
        for n, o, r, wanted, _ in SYSTEMS
        if (wanted is not None) is required
        for m in METHODS
        for seed in range(seeds)
    ]


def run_missing(seeds: int, jobs: int, path: Path) -> list[dict[str, Any]]:
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    finished = [{k: v for k, v in run.items() if k != "psnr"} for run in done]
    missing = [case for case in cases(seeds) if case not in finished]
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(jobs) as pool, path.open("a") as file:
        futures = {pool.submit(_curve_of, case): case for case in missing}
        for count, future in enumerate(as_completed(futures), 1):
            run = {**futures[future], "psnr": future.result()}
            done.append(run)
            file.write(json.dumps(run) + "\n")
            file.flush()
            label = " ".join(str(v) for v in futures[future].values())
            print(f"{count}/{len(missing)}  {label}: {run['psnr'][-1]:.2f} dB", flush=True)
    return done


def _curve_of(case: dict[str, Any]) -> list[float]:
    return curve(**case)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    run_missing(given.seeds, given.jobs, RESULTS / "quality-runs.jsonl")
