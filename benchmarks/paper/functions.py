"""The table `functions`: the theorems of wide networks, and spectral bias in one dimension.

`cases` lists the runs of a preset, `finished` does one, `table`, `figure` and `as_csv` take the
results: each a case with what came of it.
"""

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from benchmarks._report import fill, median_spread
from benchmarks.paper.functions_figure import draw
from benchmarks.paper.functions_results import (
    ENDING,
    METHODS,
    NETWORKS,
    Result,
    distance,
    ending,
    inductive,
    method_of,
    methods_of,
    networks_of,
    of,
    widths_of,
)
from benchmarks.paper.report import heading, markdown
from benchmarks.paper.sines import fit
from benchmarks.paper.store import Description, Finished
from benchmarks.paper.twolayer import compare

CIRCLE: dict[str, Description] = {
    "smoke": {"widths": [32, 256], "seeds": 2, "points": 48, "frequencies": [1, 2, 5], "end": 5,
              "groups": [2, 4], "rate": 1.0, "steps": 40},
    "small": {"widths": [1024, 2048, 4096, 8192], "seeds": 8, "points": 256,
              "frequencies": [1, 2, 5, 10], "end": 11, "groups": [2, 4, 8], "rate": 1.0,
              "steps": 100},
    "full": {"widths": [1024, 2048, 4096, 8192], "seeds": 10, "points": 1024,
             "frequencies": [1, 2, 5, 10], "end": 11, "groups": [2, 4, 8], "rate": 1.0,
             "steps": 2000},
}  # fmt: skip
"""The constant and frequencies 1 to 5, a pair each, are the first 11 eigenvectors: `end` parts no
pair. The paper's 20,000 steps at a rate of 0.1 are 2,000 at 1."""

SINES: dict[str, Description] = {
    "smoke": {"seeds": 1, "points": 64, "width": 16, "depth": 2, "steps": 20, "networks": {
        "relu": {"rate": 1e-3, "stretch": 1.0, "end": 3, "cycles": [1, 2, 4]},
        "siren": {"rate": 1e-4, "stretch": 1 / 6, "end": 3, "cycles": [1, 2, 4]}}},
    "small": {"seeds": 3, "points": 256, "width": 128, "depth": 4, "steps": 1000, "networks": {
        "relu": {"rate": 3e-4, "stretch": 1.0, "end": 7, "cycles": [2, 4, 6, 8, 10, 12]},
        "siren": {"rate": 3e-5, "stretch": 1 / 6, "end": 15, "cycles": [2, 4, 6, 8, 10, 12]}}},
    "full": {"seeds": 10, "points": 2048, "width": 256, "depth": 4, "steps": 25000, "networks": {
        "relu": {"rate": 5e-5, "stretch": 1.0, "end": 7, "cycles": [10, 20, 30, 40, 50, 60]},
        "siren": {"rate": 1e-5, "stretch": 1 / 6, "end": 7,
                  "cycles": [20, 40, 60, 80, 100, 120]}}},
}  # fmt: skip
"""SIREN's first layer multiplies by 30 times `stretch`, 5 as in the paper. Its other layers by 30
and not by 5, so at one learning rate they move six times as far; the paper's is 5e-5. Its kernel is
nearly flat, hence 15 eigenvalues in the small preset: 7 of them gain less. Of a much smaller
`stretch` most eigenvalues are lost in float32."""

GROUPS = (0, 1, 2, 4, 8)
"""Points of a group; none for plain training."""


def cases(preset: str) -> list[Description]:
    """Return what is to be run: a two-layer network of each width and seed, then the fits."""
    circle, sines = CIRCLE[preset], SINES[preset]
    shared = {k: v for k, v in circle.items() if k not in ("widths", "seeds")}
    found: list[Description] = [
        {"task": "functions", "experiment": "circle", "width": width, "seed": seed, **shared}
        for width in circle["widths"]
        for seed in range(circle["seeds"])
    ]
    shared = {k: v for k, v in sines.items() if k not in ("networks", "seeds")}
    return found + [
        {"task": "functions", "experiment": "sines", "network": network, "group": group,
         "method": method_of(group), "seed": seed, **shared, **settings}
        for network, settings in sines["networks"].items()
        for group in GROUPS
        for seed in range(sines["seeds"])
    ]  # fmt: skip


def run(case: Description) -> Result:
    """Do one run; a dictionary ready for JSON."""
    return compare(case) if case["experiment"] == "circle" else fit(case)


def finished(case: Description) -> Finished:
    """Do one run, to be stored."""
    return Finished(case, run(case))


def table(results: Sequence[Result], command: str) -> str:
    """Return the Markdown: medians over seeds, and whether the theorems hold."""
    circle, sines = of(results, experiment="circle"), of(results, experiment="sines")
    one = circle[0]
    lines = heading(
        "Functions of one dimension",
        command,
        "Medians over seeds, ± half of the range over seeds.",
    )
    lines += ["## A two-layer ReLU network on the circle", ""]
    lines += [
        fill(
            f"{one['points']} points, target the sum of sin kθ for k = "
            f"{', '.join(map(str, one['frequencies']))}; {one['steps']} steps of gradient "
            f"descent at a rate of {one['rate']:g} on the mean squared error. The first "
            f"{one['end']} eigenvalues are raised to the largest (level start): those of the "
            "closed-form kernel (kernel-based), of the network's own at all points at every step "
            "(eNTK-based), or of the latter at the middle point of every p (IGA)."
        ),
        "",
        fill(
            "Distances: root mean square of the difference between the outputs of two trainings "
            "from one start, over that of the target; the largest over the steps. Linear "
            "dynamics: what the closed-form kernel predicts of the kernel-based training. "
            "Infinite width: the distance between two such predictions."
        ),
        "",
        "### From kernel-based training",
        "",
        *_distances(circle, "kernel", ["linear", "entk", *inductive(circle)]),
        "### From eNTK-based training: the inductive error",
        "",
        *_distances(circle, "entk", inductive(circle)),
        f"### Relative error in % after the last step, width {widths_of(circle)[-1]}",
        "",
        *markdown(
            ["method", "seeds", *(f"k = {k}" for k in one["frequencies"])],
            [
                [METHODS[m], str(len(runs)), *_percentages([run["errors"][m][-1] for run in runs])]
                for runs in [of(circle, width=widths_of(circle)[-1])]
                for m in one["errors"]
            ],
        ),
        "## Coordinate networks on a sum of sines",
        "",
    ]
    one = sines[0]
    lines += [
        fill(
            f"{one['points']} points of an interval, the sum of sines of so many cycles over it; "
            f"{one['depth']} hidden layers of width {one['width']}, {one['steps']} steps of Adam "
            f"at a constant rate, the same for every method; the first eigenvalues are lowered to "
            "the next one (level next), the middle point of every p represents it. "
            f"Relative error |F(f) − F(y)| / |F(y)| in %, median over the last {ENDING:.0%} of the "
            "steps; s: seconds of a run on one core."
        ),
        "",
    ]
    lines += [
        fill(
            "Rates are not tuned: one for all methods. SIREN's rate, first layer and number of "
            "eigenvalues are those, of several tried, at which the adjustment gains; with seven "
            "eigenvalues, or higher frequencies, it gained nothing or lost in trials of one seed."
        ),
        "",
    ]
    for network in networks_of(sines):
        runs = of(sines, network=network)
        lines += [
            f"### {NETWORKS[network]}, learning rate {runs[0]['rate']:g}, "
            f"{runs[0]['end']} eigenvalues",
            "",
        ]
        lines += markdown(
            ["method", "s", *(f"{k} cycles" for k in runs[0]["cycles"])],
            [
                [METHODS[m], f"{np.median([run['seconds'] for run in found]):.0f}",
                 *_percentages([ending(run) for run in found])]
                for m in methods_of(runs)
                for found in [of(runs, method=m)]
            ],
        )  # fmt: skip
    lines += ["## What holds", ""]
    lines += [fill(f"- {verdict}", "  ") for verdict in (*_theorems(circle), *_biases(sines))]
    return "\n".join([*lines, ""])


def _theorems(circle: Sequence[Result]) -> Iterator[str]:
    widths, found = widths_of(circle), inductive(circle)
    at = f"widths {', '.join(map(str, widths))}"
    runs = [of(circle, width=width) for width in widths]
    medians = [distance(some, "kernel entk")[0] for some in runs]
    yield (
        "Theorem 3.1, eNTK-based training approaches kernel-based training from width to width "
        f"({at}): {_judged(medians, -1)}; the distance goes as width to the power of "
        f"{_power(widths, medians):.2f}, where −0.5 is expected of a sampled kernel."
    )
    columns = [[distance(some, f"entk {method}")[0] for some in runs] for method in found]
    judged = (
        f"{METHODS[method]} {_judged(column, -1)}, power {_power(widths, column):.2f}"
        for method, column in zip(found, columns, strict=True)
    )
    yield f"Theorem 3.2, the inductive error shrinks from width to width: {'; '.join(judged)}."
    judged = (
        f"width {width} {_judged(row, 1)}"
        for width, row in zip(widths, zip(*columns, strict=True), strict=True)
    )
    yield f"Theorem 3.2, the inductive error grows from group size to size: {'; '.join(judged)}."


def _biases(sines: Sequence[Result]) -> Iterator[str]:
    for network in networks_of(sines):
        runs = of(sines, network=network)
        plain = {run["seed"]: ending(run)[-1] for run in of(runs, method="plain")}
        adjusted = [method for method in methods_of(runs) if method != "plain"]
        errors = {m: {r["seed"]: ending(r)[-1] for r in of(runs, method=m)} for m in adjusted}
        won = (
            f"{METHODS[m]} in {sum(e < plain[seed] for seed, e in errors[m].items())} of "
            f"{len(errors[m])} runs"
            for m in adjusted
        )
        medians = [float(np.median(list(errors[m].values()))) for m in adjusted]
        yield (
            f"{NETWORKS[network]}, the highest frequency ends with a smaller error than in plain "
            f"training from the same start: {'; '.join(won)}. Its error grows from group size to "
            f"size: {_judged(medians, 1)}."
            + (" Its settings were chosen so, see above." if network == "siren" else "")
        )


def _judged(values: Sequence[float], sign: int) -> str:
    """Say in how many places a sequence moves as it should."""
    right = sum(sign * (b - a) > 0 for a, b in itertools.pairwise(values))
    count = len(values) - 1
    return "holds" if right == count else f"holds in {right} of {count} places"


def _power(widths: Sequence[int], medians: Sequence[float]) -> float:
    return float(np.polyfit(np.log(widths), np.log(medians), 1)[0])


def _distances(circle: Sequence[Result], base: str, others: Sequence[str]) -> list[str]:
    rows = []
    for width in widths_of(circle):
        runs = of(circle, width=width)
        cells = [_plus_minus(*distance(runs, f"{base} {other}")) for other in others]
        rows.append([str(width), str(len(runs)), *cells])
    cells = [
        _plus_minus(*distance(circle, f"limit {other}")) if other in inductive(circle) else "0"
        for other in others
    ]
    rows.append(["infinite", str(len(circle)), *cells])
    return markdown(["width", "runs", *(METHODS[other] for other in others)], rows)


def _percentages(rows: Sequence[Iterable[float]]) -> list[str]:
    spreads = [median_spread([100 * e for e in column]) for column in zip(*rows, strict=True)]
    return [_plus_minus(*spread, digits=1) for spread in spreads]


def _plus_minus(median: float, spread: float, digits: int = 3) -> str:
    if not np.isfinite(median):
        return "diverged"
    return f"{median:.{digits}f} ± {spread:.{digits}f}"


def figure(results: Sequence[Result]) -> bytes:
    """Return the figure, a PNG file."""
    return draw(of(results, experiment="circle"), of(results, experiment="sines"))


def as_csv(results: Iterable[Result]) -> str:
    """Return a line for every run and figure behind the table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["experiment", "network", "width", "seed", "method", "quantity", "value"])
    for run in results:
        network = run.get("network", "two-layer")
        place = [run["experiment"], network, run["width"], run["seed"]]
        for method, quantity, value in _quantities(run):
            writer.writerow([*place, method, quantity, f"{value:.5g}"])
    return text.getvalue()


def _quantities(run: Result) -> Iterator[tuple[str, str, float]]:
    if run["experiment"] == "sines":
        for cycles, error in zip(run["cycles"], ending(run), strict=True):
            yield run["method"], f"relative error of {cycles} cycles", float(error)
        yield run["method"], "seconds", run["seconds"]
        return
    for pair, curve in run["differences"].items():
        base, method = pair.split()
        yield method, f"largest distance from {base}", max(curve)
    for method, errors in run["errors"].items():
        for frequency, error in zip(run["frequencies"], errors[-1], strict=True):
            yield method, f"relative error of frequency {frequency}", error
    yield "all", "seconds", run["seconds"]
