"""Which settings nobody should have to set: python -m benchmarks.defaults [--jobs 2].

Sweeps of one setting of Damp at a time; then finalists beside plain training, the control without
a kernel, Equalise and the paper's form, all of the same learning rate, steps and seeds. Runs are
kept in ``defaults-runs.jsonl``, so that a later call does the missing ones only; the tables go to
``defaults.md``, the figures behind them to ``defaults.json``.
"""

import argparse
import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._report import RESULTS, environment, fill, write_json, write_text
from benchmarks._runs import Case, Run, Runs
from iga_array import MLP, Trainer
from iga_core import Adam, Adjustment, Damp, Equalise, Grouping, Muon, Network, Scale
from iga_core.optimizers import Optimizer
from iga_lab.signals import coordinates, load

SIDE, PATCH, WIDTH, STEPS = 64, 4, 64, 600
"""Points a side of the picture and of a patch, units of a layer, steps."""
LAST, EVERY = 100, 10
"""PSNR is a median of the last so many steps; averaged weights are evaluated at every so many."""
AVERAGED = 0.99
RATES = {"pe": 5e-3, "siren": 1e-3, "relu": 2e-3, "finer": 1e-3, "gabor": 1e-3, "gauss": 1e-3,
         "pe, Muon": 2e-2, "siren, Muon": 2e-3}  # fmt: skip
"""Learning rate of each network, of Adam unless Muon is named."""
MAIN = ("pe", "siren", "relu")
OTHERS = tuple(network for network in RATES if network not in MAIN)

CHOSEN_ON, CHOICE_SEEDS = "astronaut", (100, 101)
"""What is chosen is chosen on this photograph and these seeds, and reported on others."""
PHOTOGRAPHS, SEEDS = ("coffee", "chelsea"), (0, 1)
SCHEDULES = ("cosine", "constant")

BASE = {"samples": 1, "average": 0.9, "refresh": 5, "scale": 1.0}
AXES: dict[str, tuple[float, ...]] = {
    "samples": (1, 2),
    "average": (0, 0.5, 0.9),
    "refresh": (1, 2, 5, 10),
    "scale": (0.3, 1, 3),
}
FINALISTS = ("damp 1 0.9 5 1", "damp 1 0.9 10 1", "damp 1 0.9 2 1")
"""What the sweeps left within their errors of the base: other rates of renewal."""
CHOSEN = FINALISTS[1]
"""The cheapest within 0.2 dB of the best."""
COMPARED = ("plain", "control", CHOSEN)
"""Rows that are trained with a cooldown too."""
CONTROLS = tuple(
    f"scale {factor} of {groups}"
    for factor, groups in itertools.product((0.05, 0.1, 0.2, 0.5), (1, 16, 256))
)
PAPERS = ("paper 10 of 64", "paper 20 of 64", "paper 32 of 64", "paper 20 of 256")
HALF = "half of 256"
CASE = ("network", "photograph", "schedule", "method", "seed")


def damp(**changed: float) -> str:
    """Return the name of a setting of Damp: samples, average, refresh and scale."""
    return "damp " + " ".join(f"{value:g}" for value in (BASE | changed).values())


def setting(method: str, seed: int) -> tuple[Adjustment | None, int]:
    """Return the adjustment of a method, and its number of groups."""
    kind, *numbers = method.split()
    if kind == "plain":
        return None, 256
    if kind == "damp":
        samples, average, refresh, scale = map(float, numbers)
        return Adjustment(Damp(scale), samples=int(samples), refresh=int(refresh),
                          average=average, seed=seed), 256  # fmt: skip
    groups = int(numbers[-1])
    if kind == "half":
        return Adjustment(Equalise(groups // 2), samples=2, refresh=1, average=0, seed=seed), groups
    if kind == "scale":
        return Adjustment(Scale(float(numbers[0]))), groups
    return Adjustment.paper(int(numbers[0])), groups


def train(case: Case) -> Run:
    """Train once; PSNR in dB of the last iterates and of averaged weights; NaN if it diverged."""
    network, photograph, schedule, method, seed = case
    kind, _, optimizer = network.partition(", ")
    update: type[Optimizer] = Muon if optimizer else Adam
    adjustment, groups = setting(method, seed)
    values = load(photograph, (SIDE, None)).values.reshape(-1, 3).astype(np.float32)
    trainer = Trainer(
        MLP(Network(kind, width=WIDTH), seed=seed),
        coordinates((SIDE, SIDE)).astype(np.float32),
        values,
        grouping=Grouping.patches((SIDE, SIDE), SIDE // math.isqrt(groups)),
        adjustment=adjustment,
        optimizer=update(RATES[network], schedule, AVERAGED),
        steps=STEPS,
        workers=1,
        seed=seed,
    )
    psnr, averaged = [], []
    try:
        while trainer.done < STEPS:
            psnr.append(decibel(trainer.step()))
            if trainer.done > STEPS - LAST and trainer.done % EVERY == 0:
                averaged.append(decibel(np.mean((trainer.predict() - values) ** 2)))
    except FloatingPointError:
        return {"median": math.nan, "maximum": max(psnr, default=math.nan), "averaged": math.nan}
    return {
        "median": float(np.median(psnr[-LAST:])),
        "maximum": max(psnr),
        "averaged": float(np.median(averaged)),
    }


def decibel(error: Any) -> float:
    return round(-10 * math.log10(float(error)), 3)


class Table:
    """Runs by network and method, all at the same photographs, schedules and seeds."""

    def __init__(
        self,
        runs: Runs,
        networks: Iterable[str],
        methods: Iterable[str],
        places: Iterable[tuple[str, str, int]],
    ) -> None:
        cells = list(itertools.product(networks, methods))
        places = list(places)
        cases = [(n, picture, rate, m, seed) for n, m in cells for picture, rate, seed in places]
        found = runs(cases)
        size = len(places)
        self.runs = {cell: found[k * size : (k + 1) * size] for k, cell in enumerate(cells)}

    def __call__(self, network: str, method: str, figure: str = "median") -> Any:
        """Return a figure of each run, (places,)."""
        return np.asarray([run[figure] for run in self.runs[network, method]])

    def best(self, network: str, methods: Iterable[str]) -> str:
        """Return the method of the highest mean; one that diverged is none."""
        means = {method: float(np.mean(self(network, method))) for method in methods}
        return max(means, key=lambda method: (not math.isnan(means[method]), means[method]))


def mean_error(values: Any) -> str:
    """Return mean and standard error, as text."""
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{np.mean(values):+.2f} ± {error:.2f}"


def sweeps(runs: Runs) -> list[str]:
    """Return the table of the sweeps, paired with the base by network and seed."""
    methods = list(dict.fromkeys(damp(**{axis: v}) for axis in AXES for v in AXES[axis]))
    places = [(CHOSEN_ON, "cosine", seed) for seed in CHOICE_SEEDS]
    table, base = Table(runs, MAIN, methods, places), damp()
    lines = [f"| setting | {' | '.join(MAIN)} | all |", "|---" * (2 + len(MAIN)) + "|"]
    for axis, values in AXES.items():
        for value in values:
            method = damp(**{axis: value})
            gains = [table(network, method) - table(network, base) for network in MAIN]
            cells = " | ".join(f"{gain.mean():+.2f}" for gain in gains)
            words = "0, the base" if method == base else mean_error(np.concatenate(gains))
            lines.append(f"| {axis} {value:g} | {cells} | {words} |")
    return lines


def tuned(runs: Runs) -> dict[str, dict[str, str]]:
    """Return the best control and form of the paper for each network, on runs not reported."""
    places = [(CHOSEN_ON, "cosine", CHOICE_SEEDS[0])]
    table = Table(runs, RATES, (*CONTROLS, *PAPERS), places)
    return {
        network: {"control": table.best(network, CONTROLS), "paper": table.best(network, PAPERS)}
        for network in RATES
    }


ROWS = ("plain", "control", "paper", HALF, *FINALISTS)


def finals(
    runs: Runs,
    best: dict[str, dict[str, str]],
    networks: Iterable[str],
    places: list[Any],
    rows: Iterable[str] = ROWS,
) -> dict[tuple[str, str, str, str], Any]:
    """Return medians and averaged weights, (photographs and seeds,), by network, row, schedule."""
    found = {}
    for network in networks:
        methods = {row: best[network].get(row, row) for row in rows}
        for schedule in dict.fromkeys(place[1] for place in places):
            own = [place for place in places if place[1] == schedule]
            table = Table(runs, [network], dict.fromkeys(methods.values()), own)
            for row, method in methods.items():
                for figure in ("median", "averaged"):
                    found[network, row, schedule, figure] = table(network, method, figure)
    return found


def table_of(found: dict[Any, Any], networks: Iterable[str], schedule: str) -> list[str]:
    networks = list(networks)
    lines = [f"| method | {' | '.join(networks)} |", "|---" * (1 + len(networks)) + "|"]
    for row in ROWS:
        cells = []
        for network in networks:
            last, averaged = (np.mean(found[network, row, schedule, figure])
                              for figure in ("median", "averaged"))  # fmt: skip
            cells.append(f"{last:.2f} / {averaged:.2f}")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return lines


def by_schedule(found: dict[Any, Any]) -> list[str]:
    """Return a table with a row a method and schedule."""
    lines = [f"| method, schedule | {' | '.join(MAIN)} |", "|---" * (1 + len(MAIN)) + "|"]
    for row in COMPARED:
        for schedule in ("constant", "cosine", "cooldown"):
            cells = (
                " / ".join(
                    f"{np.mean(found[network, row, schedule, figure]):.2f}"
                    for figure in ("median", "averaged")
                )
                for network in MAIN
            )
            lines.append(f"| {row}, {schedule} | {' | '.join(cells)} |")
    return lines


def pairs(found: dict[Any, Any], under: str) -> list[str]:
    """Return what each row has over another one, paired by photograph and seed."""
    head = [*(f"{network}" for network in MAIN), "all"]
    lines = [f"| method | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|"]
    for row in ROWS:
        if row == under:
            continue
        gains = {
            network: np.concatenate(
                [found[network, row, s, "median"] - found[network, under, s, "median"]
                 for s in SCHEDULES]
            )
            for network in MAIN
        }  # fmt: skip
        gains["all"] = np.concatenate(list(gains.values()))
        lines.append(f"| {row} | {' | '.join(map(mean_error, gains.values()))} |")
    return lines


def report(runs: Runs) -> tuple[str, dict[str, Any]]:
    """Do what is missing; return the page, and the figures behind it."""
    swept = sweeps(runs)
    best = tuned(runs)
    places = list(itertools.product(PHOTOGRAPHS, SCHEDULES, SEEDS))
    found = finals(runs, best, MAIN, places)
    cooled = [(photograph, "cooldown", seed) for photograph in PHOTOGRAPHS for seed in SEEDS]
    found |= finals(runs, best, MAIN, cooled, COMPARED)
    others = finals(runs, best, OTHERS, [(PHOTOGRAPHS[0], "cosine", SEEDS[0])])
    where = ", ".join(f"{key} {value}" for key, value in environment().items())
    where_to = f"{' and '.join(PHOTOGRAPHS)}, seeds {' and '.join(map(str, SEEDS))}"
    parts = [
        "# Which settings nobody has to set",
        fill(f"`python -m benchmarks.defaults`: {where}"),
        fill(
            f"Photographs at {SIDE} x {SIDE}, width {WIDTH}, {STEPS} steps, one thread; {SIDE}/"
            f"{PATCH} x {SIDE}/{PATCH} = 256 groups unless a row says otherwise. PSNR in dB: the "
            f"median over the last {LAST} steps. Rates of every method: "
            + ", ".join(f"{network} {rate:g}" for network, rate in RATES.items())
            + ". `damp S A R C`: S samples, a running average with share A of the old, a new "
            "transform every R steps, scale C."
        ),
        "## One setting at a time",
        fill(
            f"What Damp gains over `{damp()}` on {CHOSEN_ON}, cosine, seeds "
            f"{' and '.join(map(str, CHOICE_SEEDS))}; ± standard error over networks and seeds."
        ),
        "\n".join(swept),
        "## Finalists and controls",
        fill(
            f"Means over {where_to}; behind the stroke the same runs with averaged weights, "
            f"{AVERAGED}. `control`: the means of the groups times a factor, without a kernel; "
            f"`paper`: `Adjustment.paper(end)`; both the best for each network of the tries below. "
            "`half`: half of the eigenvalues equalised, two samples, fresh at every step."
        ),
    ]
    for schedule in SCHEDULES:
        parts += [f"### {schedule} rate", "\n".join(table_of(found, MAIN, schedule))]
    for under, words in ((CHOSEN, f"`{CHOSEN}`, which was chosen"), ("control", "the control")):
        parts += [
            f"### Over {words}",
            fill(f"Differences of medians over both schedules and {where_to}, paired; mean ± "
                 "standard error."),
            "\n".join(pairs(found, under)),
        ]  # fmt: skip
    parts += [
        "### The schedule",
        fill("The same means by schedule: the last iterate / averaged weights. A cooldown is a "
             "constant rate that falls linearly to zero over the last fifth."),
        "\n".join(by_schedule(found)),
        "### Other networks and Muon",
        fill(f"{PHOTOGRAPHS[0]}, cosine, seed {SEEDS[0]}: one run each, so that differences of a "
             "few tenths say nothing."),
        "\n".join(table_of(others, OTHERS, "cosine")),
        "## Tuned",
        fill(f"On {CHOSEN_ON}, cosine, seed {CHOICE_SEEDS[0]}, each the best of: "
             f"{', '.join(CONTROLS)}; {', '.join(PAPERS)}."),
        "\n".join(
            ["| network | control | paper |", "|---|---|---|"]
            + [f"| {n} | {best[n]['control']} | {best[n]['paper']} |" for n in RATES]
        ),
    ]  # fmt: skip
    figures = {", ".join(key): value.tolist() for key, value in (found | others).items()}
    return "\n\n".join(parts) + "\n", {"tuned": best, "found": figures}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sweeps", action="store_true", help="these alone")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    runs = Runs(given.output / "defaults-runs.jsonl", given.jobs, CASE, train)
    if given.sweeps:
        print("\n".join(sweeps(runs)))
        return
    text, figures = report(runs)
    print(text)
    write_text("defaults.md", text, given.output)
    write_json("defaults.json", figures, given.output)


if __name__ == "__main__":
    main()
