"""Random batches of points, grouped anew at every step: python -m benchmarks.batches [--jobs 2].

What the wrapper finds by itself (sorting and tiling) beside the exact k-d tree, groups at random,
the control without a kernel, and plain training; all of the same batches, rates and initial
parameters. Runs are kept in ``batches-runs.jsonl``, the table goes to ``batches.md``.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

import iga_torch
from benchmarks._report import RESULTS, environment, fill, write_text
from benchmarks._runs import Case, Run, Runs
from iga_core import Adjustment, Grouping, Network, Scale
from iga_lab.signals import coordinates, load

SIDE, BATCH, WIDTH, STEPS = 96, 2304, 64, 600
LAST, EVERY = 100, 10
RATES = {"pe": 5e-3, "siren": 1e-3}
PHOTOGRAPHS, SEEDS = ("coffee", "chelsea"), (0, 1)
METHODS = {
    "plain": "plain",
    "control": "`Scale(0.1)`, 16 groups: no kernel",
    "tiles 0": "`IGA(network)`: 64 groups by sorting and tiling",
    "kd 64": "64 groups by `Grouping.nearest`",
    "random 64": "64 groups at random",
    "tiles 128": "`IGA(network, groups=128)`",
    "kd 128": "128 groups by `Grouping.nearest`",
}
CASE = ("network", "photograph", "method", "seed")
Model = Any


def wrapped(network: torch.nn.Module, method: str, seed: int) -> Model:
    """Return a function from a batch to its outputs, in some order, and that order."""
    kind, _, groups = method.partition(" ")
    if kind == "plain":
        return lambda x: (network(x), slice(None))
    if kind == "control":
        control = iga_torch.IGA(network, None, Adjustment(Scale(0.1)))
        return lambda x: (control(x), slice(None))
    if kind == "tiles":
        number = int(groups) or None
        own = iga_torch.IGA(network, None, Adjustment(seed=seed), groups=number)
        return lambda x: (own(x), slice(None))
    rows = iga_torch.IGA(network, "rows", Adjustment(seed=seed))
    random = np.random.default_rng(seed)

    def call(x: torch.Tensor) -> tuple[torch.Tensor, Any]:
        index = random.permutation(len(x)).reshape(int(groups), -1)
        if kind == "kd":
            index = np.array(Grouping.nearest(x, int(groups)).index)
        order = torch.from_numpy(index)
        return rows(x[order]), order

    return call


def train(case: Case) -> Run:
    """Train once; PSNR in dB over the whole picture, the median of the last steps."""
    kind, photograph, method, seed = case
    torch.set_num_threads(1)
    values = load(photograph, (SIDE, None)).values.reshape(-1, 3).astype(np.float32)
    coords, targets = (
        torch.from_numpy(a) for a in (coordinates((SIDE, SIDE)).astype(np.float32), values)
    )
    network = iga_torch.from_network(Network(kind, width=WIDTH), seed=seed)
    model = wrapped(network, method, seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATES[kind])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    generator = torch.Generator().manual_seed(seed)
    psnr = []
    for step in range(1, STEPS + 1):
        chosen = torch.randperm(len(coords), generator=generator)[:BATCH]
        optimizer.zero_grad()
        outputs, order = model(coords[chosen])
        torch.mean((outputs - targets[chosen][order]) ** 2).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step > STEPS - LAST and step % EVERY == 0:
            with torch.no_grad():
                error = torch.mean((network(coords) - targets) ** 2)
            psnr.append(-10 * math.log10(float(error)))
    return {"median": round(float(np.median(psnr)), 3), "maximum": round(max(psnr), 3)}


def table(runs: Runs) -> str:
    places = [(photograph, seed) for photograph in PHOTOGRAPHS for seed in SEEDS]
    cells = [(network, method) for network in RATES for method in METHODS]
    found = runs([(n, picture, m, seed) for n, m in cells for picture, seed in places])
    by = {
        cell: np.asarray([run["median"] for run in found[k * len(places) :][: len(places)]])
        for k, cell in enumerate(cells)
    }
    where = ", ".join(f"{key} {value}" for key, value in environment().items())
    lines = [
        "# Random batches, grouped anew at every step", "",
        fill(f"`python -m benchmarks.batches`: {where}, torch {torch.__version__}"), "",
        fill(
            f"{' and '.join(PHOTOGRAPHS)} at {SIDE} x {SIDE}, seeds "
            f"{' and '.join(map(str, SEEDS))}; {BATCH:,} random points a step, width {WIDTH}, "
            f"{STEPS} steps of Adam, cosine; PSNR in dB of the whole picture, the median over the "
            f"last {LAST} steps; mean, and in brackets what it has over plain, mean ± standard "
            "error of the pairs."
        ), "",
        f"| groups | {' | '.join(f'{n}, {rate:g}' for n, rate in RATES.items())} |",
        "|---" * (1 + len(RATES)) + "|",
    ]  # fmt: skip
    for method, words in METHODS.items():
        row = []
        for network in RATES:
            gain = by[network, method] - by[network, "plain"]
            error = np.std(gain, ddof=1) / math.sqrt(len(gain))
            row.append(f"{by[network, method].mean():.2f} ({gain.mean():+.2f} ± {error:.2f})")
        lines.append(f"| {words} | {' | '.join(row)} |")
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    text = table(Runs(given.output / "batches-runs.jsonl", given.jobs, CASE, train))
    print(text)
    write_text("batches.md", text, given.output)


if __name__ == "__main__":
    main()
