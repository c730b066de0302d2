"""PSNR with and without adjustment: python -m benchmarks.quality [--seeds 3] [--jobs 2].

Every method has the same optimizer, learning rate, schedule, steps and initial parameters as the
plain run beside it. Curves go to ``results/quality-runs.jsonl`` as they are finished (a later call
does the missing ones only), the table to ``results/quality.md``, the figures behind it to
``results/quality.json``.
"""

import argparse
import itertools
import json
import math
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

import iga_array.correcting
from benchmarks._report import (
    RESULTS,
    alternate,
    environment,
    median_spread,
    write_json,
    write_text,
)
from iga_array import MLP, Trainer
from iga_array.correcting import HELD_BYTES
from iga_core import SGD, Adam, Adjustment, Grouping, Muon, Network
from iga_lab.signals import coordinates, load

SIZE, PATCH, WIDTH, STEPS = 96, 8, 128, 1000
GROUPS = (SIZE // PATCH) ** 2
OPTIMIZERS = {"sgd": SGD, "adam": Adam, "muon": Muon}
SYSTEMS = [
    ("pe", "adam", 5e-3, 5, 8),
    ("pe", "muon", 2e-2, 2, 4),
    ("siren", "adam", 1e-3, 3, 3),
    ("relu", "adam", 2e-3, 2, 2),
]
"""Network, optimizer, learning rate, and the gain in dB wanted of the paper's and of group-wise."""
METHODS = {
    "plain": None,
    "paper": Adjustment(),
    "group-wise": Adjustment(sampling="random", samples=8, reach="mean"),
    "half": Adjustment(end=GROUPS // 2, sampling="random", samples=2, reach="mean"),
}
STREAMED = ("group-wise", "half")
"""Run for PE under Adam once more, with means from the last pass, as large signals are."""
EQUAL_SECONDS_STEPS = 20
SCHEDULES = ("cosine", "constant")


def trainer(
    network: str, optimizer: str, rate: float, schedule: Any, method: str, seed: int
) -> Trainer:
    signal = load("astronaut", (SIZE, None))
    return Trainer(
        MLP(Network(network, width=WIDTH), seed=seed),  # type: ignore[arg-type]
        coordinates((SIZE, SIZE)).astype(np.float32),
        signal.values.reshape(-1, 3).astype(np.float32),
        grouping=Grouping.patches((SIZE, SIZE), PATCH),
        adjustment=METHODS[method],
        optimizer=OPTIMIZERS[optimizer](rate, schedule),
        steps=STEPS,
    )


def curve(
    network: str, optimizer: str, rate: float, schedule: str, method: str, seed: int
) -> list[float]:
    """Train once; PSNR in dB at every step, up to where the loss became non-finite."""
    method, _, streamed = method.partition(", ")
    iga_array.correcting.HELD_BYTES = 0 if streamed else HELD_BYTES
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
        for s in SCHEDULES
        for n, o, r, _, _ in SYSTEMS
        for m in methods_of(n, o, s)
        for seed in range(seeds)
    ]


def methods_of(network: str, optimizer: str, schedule: str) -> list[str]:
    streamed = (network, optimizer, schedule) == ("pe", "adam", "cosine")
    return [*METHODS, *(f"{method}, streamed" for method in STREAMED if streamed)]


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


def seconds_a_step(network: str, optimizer: str, rate: float, rounds: int) -> dict[str, float]:
    """Time all methods of a system in turn, on all cores; the median seconds of each."""
    steps = {m: trainer(network, optimizer, rate, "constant", m, 0).step for m in METHODS}
    seconds = alternate(steps, rounds)
    return {method: float(np.median(values)) for method, values in seconds.items()}


def summary(
    runs: list[dict[str, Any]], timing: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    """One row a system, schedule and method; PSNR in dB, medians over seeds."""
    rows = []
    for (network, optimizer, rate, _, _), schedule in itertools.product(SYSTEMS, SCHEDULES):
        cell = {"network": network, "optimizer": optimizer, "rate": rate, "schedule": schedule}
        plain = math.nan
        found = [run for run in runs if cell.items() <= run.items()]
        for method in methods_of(network, optimizer, schedule):
            curves = [run["psnr"] for run in found if run["method"] == method]
            if not curves:
                continue
            seconds = timing[f"{network} {optimizer}"]
            overhead = seconds[method.partition(", ")[0]] / seconds["plain"]
            last = int(STEPS / max(1, overhead))
            measures = {
                "median_of_last_100": [float(np.median(psnr[-100:])) for psnr in curves],
                "lowest_of_last_100": [min(psnr[-100:]) for psnr in curves],
                "maximum": [max(psnr) for psnr in curves],
                "at_equal_seconds": [
                    float(np.median(psnr[:last][-EQUAL_SECONDS_STEPS:])) for psnr in curves
                ],
            }
            row: dict[str, Any] = {**cell, "method": method, "seeds": len(curves)}
            for name, values in measures.items():
                row[name], row[f"{name}_spread"] = median_spread(values)
            row["overhead_percent"] = 100 * (overhead - 1)
            if method == "plain":
                plain = row["median_of_last_100"]
            rows.append({**row, "gain": row["median_of_last_100"] - plain})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    wanted = {
        (network, optimizer, method): gain
        for network, optimizer, _, paper, group in SYSTEMS
        for method, gain in (("paper", paper), ("group-wise", group))
    }
    lines = [
        "# What the adjustment gains",
        "",
        f"`python -m benchmarks.quality`: {environment()}".replace("'", ""),
        "",
        f"`astronaut`, centre square at {SIZE} x {SIZE}, patch {PATCH} ({GROUPS} groups), width "
        f"{WIDTH}, {STEPS} steps; PSNR in dB, medians over seeds, ± half of the range. `paper`: "
        "the defaults of `Adjustment`; `group-wise`: random sampling, 8 samples, reach mean; "
        f"`half`: the same with 2 samples and end {GROUPS // 2}. Streamed: worked through as "
        "signals are whose tapes do not fit in memory together. The gain is over the plain run of "
        "the same optimizer and rate. Equal seconds: where the method was when the plain run had "
        f"finished, by step times measured in turn; median of {EQUAL_SECONDS_STEPS} steps.",
    ]
    for schedule in SCHEDULES:
        lines += [
            "",
            f"## Learning rate: {schedule}",
            "",
            "| system | method | median of last 100 | gain (wanted) | lowest of last 100 | maximum "
            "| at equal seconds | overhead % |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in (r for r in rows if r["schedule"] == schedule):
            key = row["network"], row["optimizer"], row["method"]
            least = wanted.get(key) if schedule == "cosine" else None
            aim = f" (at least {least})" if least else ""
            gain = "" if row["method"] == "plain" else f"{row['gain']:+.1f}{aim}"
            lines.append(
                f"| {row['network']}, {row['optimizer']} {row['rate']} | {row['method']} "
                f"| {row['median_of_last_100']:.1f} ± {row['median_of_last_100_spread']:.1f} "
                f"| {gain} | {row['lowest_of_last_100']:.1f} | {row['maximum']:.1f} "
                f"| {row['at_equal_seconds']:.1f} | {row['overhead_percent']:.0f} |"
            )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40, help="for the step times")
    parser.add_argument("--table-only", action="store_true", help="of the runs that are there")
    given = parser.parse_args()
    path = RESULTS / "quality-runs.jsonl"
    runs = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not given.table_only:
        runs = run_missing(given.seeds, given.jobs, path)
    timing = {f"{n} {o}": seconds_a_step(n, o, r, given.rounds) for n, o, r, _, _ in SYSTEMS}
    rows = summary(runs, timing)
    text = table(rows)
    print(text)
    write_text("quality.md", text)
    write_json("quality.json", {"rows": rows, "seconds_a_step": timing})
