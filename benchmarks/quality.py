"""PSNR with and without adjustment: python -m benchmarks.quality [--seeds 3] [--jobs 2].

Every method has the same optimizer, learning rate, schedule, steps and initial parameters as the
plain run beside it. Below ``results``, runs go to ``quality-curves.jsonl`` as they are finished (a
later call does the missing ones only), the table to ``quality.md``, the figures behind it to
``quality.json``.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._report import (
    RESULTS,
    environment,
    fill,
    median_spread,
    write_json,
    write_text,
)
from benchmarks._runs import Run, Runs
from iga_array import MLP, Trainer
from iga_core import Adam, Adjustment, Equalise, Grouping, Network, Scale
from iga_lab.signals import coordinates, load

RATES = {"pe": 5e-3, "siren": 1e-3, "relu": 2e-3}
"""Learning rate of each network."""
METHODS = ("plain", "scale", "half", "damp")
COMPARED = ("half", "scale", "plain")
"""What damp is compared with."""
FACTORS = (0.05, 0.1, 0.2, 0.5)
"""Those of `Scale` that are tried, each with several numbers of groups."""
TUNING_SEED = 100
LAST, THINNED = 100, 10


@dataclass(frozen=True)
class Size:
    """How large everything is: side of the picture and of the patches, width, steps."""

    side: int
    patches: tuple[int, ...]
    width: int
    steps: int

    @property
    def tuned(self) -> list[int]:
        """Patches that `Scale` is tried with: those of 1 and of 16 groups, and the others."""
        return [self.side, self.side // 4, *self.patches]

    def groups(self, patch: int) -> int:
        return (self.side // patch) ** 2


SIZES = {"full": Size(96, (8, 4), 128, 1000), "smoke": Size(24, (4, 3), 8, 20)}
CASE = ("size", "network", "patch", "method", "seed")
"""What a run is found by; the method "scale 0.1" is that factor."""


def adjustment(method: str, groups: int) -> Adjustment | None:
    name, _, factor = method.partition(" ")
    if name == "scale":
        return Adjustment(Scale(float(factor)))
    half = Adjustment(Equalise(groups // 2), samples=2, refresh=1, average=0)
    return {"plain": None, "half": half, "damp": Adjustment()}[name]


def train(case: tuple[Any, ...]) -> Run:
    """Train once; PSNR in dB, with a median that is not a number where it diverged."""
    name, network, patch, method, seed = case
    size = SIZES[name]
    grouping = Grouping.patches((size.side, size.side), patch)
    trainer = Trainer(
        MLP(Network(network, width=size.width), seed=seed),
        coordinates((size.side, size.side)).astype(np.float32),
        load("astronaut", (size.side, None)).values.reshape(-1, 3).astype(np.float32),
        grouping=grouping,
        adjustment=adjustment(method, grouping.groups),
        optimizer=Adam(RATES[network], "cosine"),
        steps=size.steps,
        workers=1,
    )
    psnr = []
    try:
        for _ in range(size.steps):
            psnr.append(round(-10 * math.log10(float(trainer.step())), 3))
    except FloatingPointError:
        pass
    median = float(np.median(psnr[-LAST:])) if trainer.done == size.steps else math.nan
    return {"median": median, "maximum": max(psnr, default=math.nan), "curve": psnr[::THINNED]}


def tuned(name: str, runs: Runs) -> dict[str, Run]:
    """Return the best run of `Scale` of each network, on a seed that is not reported."""
    cases = [
        (name, network, patch, f"scale {factor}", TUNING_SEED)
        for network in RATES
        for patch in SIZES[name].tuned
        for factor in FACTORS
    ]
    best: dict[str, Run] = {}
    for run in runs(cases):
        if run["median"] > best.get(run["network"], {"median": -math.inf})["median"]:
            best[run["network"]] = run
    return best


def summary(name: str, runs: Runs, seeds: int) -> list[dict[str, Any]]:
    """One row a network, patch and method; each figure a list over seeds."""
    size, scale = SIZES[name], tuned(name, runs)
    rows, cases = [], []
    for network in RATES:
        for patch in size.patches:
            for method in METHODS:
                # Two rows are the same in both places: what is tuned, and what has no groups.
                own = {
                    "plain": (size.patches[0], "plain"),
                    "scale": (scale[network]["patch"], scale[network]["method"]),
                }.get(method, (patch, method))
                cases += [(name, network, *own, seed) for seed in range(seeds)]
                groups = f", {size.groups(own[0])} groups" if method == "scale" else ""
                rows.append({"network": network, "patch": patch, "method": method,
                             "settings": own[1] + groups})  # fmt: skip
    found = runs(cases)
    for k, row in enumerate(rows):
        for figure in ("median", "maximum"):
            row[figure] = [run[figure] for run in found[k * seeds : (k + 1) * seeds]]
    return rows


def differences(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard error, over seeds, of what damp has more; of each network and their mean.

    Both sides of a difference have the same seed.
    """
    by = {(row["network"], row["patch"], row["method"]): np.asarray(row["median"]) for row in rows}
    found = []
    for patch in dict.fromkeys(row["patch"] for row in rows):
        for other in COMPARED:
            gains = {n: by[n, patch, "damp"] - by[n, patch, other] for n in RATES}
            gains["mean"] = np.mean(list(gains.values()), axis=0)
            for network, gain in gains.items():
                count = len(gain)
                error = float(np.std(gain, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
                found.append({"patch": patch, "over": other, "network": network,
                              "gain": float(np.mean(gain)), "error": error})  # fmt: skip
    return found


def table(name: str, rows: list[dict[str, Any]], gains: list[dict[str, Any]]) -> str:
    size = SIZES[name]
    where = ", ".join(f"{key} {value}" for key, value in environment().items())
    patches = " and ".join(f"{patch} ({size.groups(patch)} groups)" for patch in size.patches)
    lines = [
        "# What the adjustment gains",
        "",
        fill(f"`python -m benchmarks.quality`: {where}"),
        "",
        fill(
            f"`astronaut`, centre square at {size.side} x {size.side}, patch {patches}, width "
            f"{size.width}, {size.steps:,} steps of Adam, cosine; PSNR in dB, medians over seeds, "
            "± half of the range. `half`: half of the "
            "eigenvalues equalised, two random samples, reach mean, fresh at every step; `damp`: "
            "the defaults, `Adjustment()`; `scale`: the control, means times a factor and no "
            f"kernel: the best of the factors {', '.join(map(str, FACTORS))} with "
            f"{', '.join(str(size.groups(p)) for p in size.tuned)} groups, for each network, on "
            f"seed {TUNING_SEED}, which is not reported."
        ),
        "",
        f"| network, rate | patch | method | median of last {LAST} | maximum |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        figures = [median_spread(row[figure]) for figure in ("median", "maximum")]
        cells = " | ".join(f"{middle:.2f} ± {spread:.2f}" for middle, spread in figures)
        network = f"{row['network']}, {RATES[row['network']]}"
        lines.append(f"| {network} | {row['patch']} | {row['settings']} | {cells} |")
    lines += [
        "",
        fill(
            f"What `damp` has more at the median of the last {LAST}, by seed: mean ± standard "
            "error. Wanted over `half`: a mean above 0, and no network below -0.2 by more than two "
            "standard errors; over `scale`: at least +1.5 on PE."
        ),
        "",
        f"| patch | over | {' | '.join(RATES)} | mean |",
        "|---" * (3 + len(RATES)) + "|",
    ]
    for start in range(0, len(gains), 1 + len(RATES)):
        some = gains[start : start + 1 + len(RATES)]
        cells = " | ".join(f"{row['gain']:+.2f} ± {row['error']:.2f}" for row in some)
        lines.append(f"| {some[0]['patch']} | {some[0]['over']} | {cells} |")
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="so small that it says nothing")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    name = "smoke" if given.smoke else "full"
    rows = summary(
        name, Runs(given.output / "quality-curves.jsonl", given.jobs, CASE, train), given.seeds
    )
    gains = differences(rows)
    text = table(name, rows, gains)
    print(text)
    write_text("quality.md", text, given.output)
    write_json("quality.json", {"rows": rows, "gains_of_damp": gains}, given.output)


if __name__ == "__main__":
    main()
