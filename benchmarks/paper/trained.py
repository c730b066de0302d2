"""The tables `images`, `shapes` and `optimizers`, every method at a learning rate of its own."""

import dataclasses
from collections.abc import Sequence

from benchmarks._report import fill
from benchmarks.paper import drawing
from benchmarks.paper.published import IMAGES, SHAPES
from benchmarks.paper.report import Output, as_csv, heading, labels, markdown
from benchmarks.paper.store import Finished, key
from benchmarks.paper.systems import (
    NETWORKS,
    OPTIMIZERS,
    RATES,
    SCHEDULES,
    Row,
    groupwise,
    image_rows,
    settings,
    shape_rows,
)
from benchmarks.paper.tables import (
    Rates,
    Study,
    image_sizes,
    name_of,
    of_row,
    tuning,
    value,
    with_steps,
    within,
)

MUON_RATES = {"pe": (2e-2, 4e-2, 8e-2), "siren": (2e-3, 4e-3, 8e-3)}
SGD_RATES = {
    ("pe", "plain"): (1.0, 2.0, 4.0),
    ("pe", "iga"): (16.0, 32.0, 64.0),
    ("pe", "groupwise"): (16.0, 32.0, 64.0),
    ("siren", "plain"): (3e-2, 1e-1, 3e-1),
    ("siren", "iga"): (1e-1, 3e-1, 1.0),
    ("siren", "groupwise"): (3e-1, 1.0, 3.0),
}
"""Plain gradient descent diverges where the adjusted one is at its best."""


def images(study: Study, command: str, networks: Sequence[str]) -> Output:
    """Make the table of photographs."""
    wanted = within(networks, list(NETWORKS))
    rows = [row for row in image_rows(study.preset) if row.network in wanted]
    trials = study.trials(rows, SCHEDULES)
    rates = study.chosen(trials)
    runs = study.reports(rows, rates, SCHEDULES)
    preset = study.preset
    lines = heading(
        "Photographs",
        command,
        f"{image_sizes(preset)}. PSNR in dB of the unclipped output; SSIM and fine at the "
        "end: fine is the relative error of all frequencies above a quarter of a cycle a pixel; s: "
        "processor seconds of training. IGA: the paper's settings (largest cotangent, one "
        f"sample, reach points), end {preset.end}. Group-wise IGA: random sampling, two samples, "
        f"reach mean, end {preset.half}, half of the groups.",
        tuning(study),
        "The settings of both adjustments come from earlier comparisons, of `end` on kodim01 of "
        "the Kodak set and of the rest on photographs of scikit-image; they are the same for all "
        "networks. FR and BN are as published: FR's alpha is not tuned, as under Adam it "
        "only multiplies the learning rate.",
        "Paper: PSNR that arXiv 2410.13271 reports for Kodak photographs of 768 x 512, width 256, "
        "10,000 steps, the maximum over training; taken from a public note on it, see "
        "`published.py`. The two tables are not of the same size: compare the order.",
    )
    for schedule, words in SCHEDULES.items():
        lines += [f"## Learning rate: {words}", ""]
        lines += markdown(
            ["network", "method", "rate", "median of last 100", "gain", "maximum", "SSIM",
             "fine", "s", "paper"],
            [_image_line(runs, rates, row, schedule) for row in rows],
        )  # fmt: skip
    lines += ["## What holds", "", "Of both schedules, for every method the better one here:", ""]
    lines += _verdicts(runs, rows, "psnr_median", "dB", 1)
    figure = drawing.images(runs, rows, study.reported[0])
    return Output("\n".join(lines), figure, as_csv(trials, runs), rates)


def shapes(study: Study, command: str, networks: Sequence[str]) -> Output:
    """Make the table of solids."""
    wanted = within(networks, ["relu", "pe", "siren"])
    rows = [row for row in shape_rows(study.preset) if row.network in wanted]
    trials = study.trials(rows, ["cosine"])
    rates = study.chosen(trials)
    runs = study.reports(rows, rates, ["cosine"])
    preset = study.preset
    floor = value(runs[:1], "chamfer_floor").text(4, "unknown")
    lines = heading(
        "Solids",
        command,
        f"Occupancy on a grid of {preset.solid}^3, groups of {preset.block} consecutive voxels, "
        f"{preset.batch} random groups a step, {preset.steps:,} steps, width {preset.width}, "
        "cosine schedule (the paper's decays smoothly too, to a tenth). IGA: "
        f"the middle voxel of each group, end {preset.block_end}. IoU at level 0.5, the median of "
        "ten looks over the last 100 steps and the maximum of all looks. Chamfer distance at the "
        "end, the mean of both directions, in units of half the grid's side, and of its square; "
        f"two samplings of the truth are {floor} apart.",
        tuning(study),
        "Paper: IoU that arXiv 2410.13271 reports, the maximum over training, on grids of 512^3; "
        "taken from a public note on it, see `published.py`.",
    )
    lines += markdown(
        ["network", "method", "rate", "IoU", "gain", "maximum", "Chamfer", "squared", "s", "paper"],
        [_shape_line(runs, rates, row, "cosine") for row in rows],
    )
    lines += ["## What holds", "", *_verdicts(runs, rows, "iou_median", "", 3)]
    figure = drawing.shapes(runs, rows, study.reported[0])
    return Output("\n".join(lines), figure, as_csv(trials, runs), rates)


def optimizers(study: Study, command: str, networks: Sequence[str]) -> Output:
    """Make the table of optimizers, at equal steps and at equal seconds."""
    preset = study.preset
    adjustments = {
        "plain": None, "iga": settings(end=preset.end), "groupwise": groupwise(preset.half),
    }  # fmt: skip
    rows = [
        Row(network, method, _rates(optimizer, network, method), adjustment, optimizer=optimizer)
        for network in within(networks, ["pe", "siren"])
        for optimizer in ("sgd", "adam", "muon")
        for method, adjustment in adjustments.items()
    ]
    adam = [row for row in rows if row.optimizer == "adam"]
    plans = [(rows, ["cosine"]), (adam, ["step"])]
    trials = [run for some, schedules in plans for run in study.trials(some, schedules)]
    rates = study.chosen(trials)
    runs = [run for some, plan in plans for run in study.reports(some, rates, plan)]
    costs = _costs(study, rows)
    short: list[Finished] = []
    lines = heading(
        "Optimizers",
        command,
        f"{image_sizes(preset)}. PSNR in dB, median of the last 100 steps. At equal seconds: the "
        "method is given only as many steps as it can take in the time of the plain run's "
        f"{preset.steps:,}, its schedule ending there; step times measured in turn on one core.",
        tuning(study),
    )
    table = []
    for some, plan in plans:
        for row in some:
            for schedule in plan:
                cost = costs[row.name] / costs[_plain(row).name]
                equal = _at_equal_seconds(study, row, rates, schedule, cost)
                short += equal
                table.append(_optimizer_line(runs, equal, rates, row, schedule, cost))
    lines += markdown(
        ["network", "method", "optimizer", "rate", "median", "gain", "step", "equal seconds",
         "gain"],
        table,
    )  # fmt: skip
    lines += ["## What holds", "", *_gains_and_losses(table)]
    figure = drawing.optimizers(runs, rows)
    once = {key(run.case): run for run in [*runs, *short]}
    return Output("\n".join(lines), figure, as_csv(trials, once.values()), rates)


def _gains_and_losses(table: Sequence[Sequence[str]]) -> list[str]:
    """Say in which rows the adjustment gains at equal seconds, and in which it does not."""
    rows = [(f"{line[0]} {line[1]} ({line[2]})", line[-1]) for line in table if line[-1]]
    better = [name for name, gain in rows if float(gain) > 0]
    others = [f"{name} {gain}" for name, gain in rows if float(gain) <= 0]
    lines = [f"- At equal seconds it gains in {len(better)} of {len(rows)} rows."]
    if others:
        lines.append(f"- It does not gain in: {', '.join(others)}.")
    return [*(fill(line, "  ") for line in lines), ""]


def _rates(optimizer: str, network: str, method: str) -> tuple[float, float, float]:
    if optimizer == "sgd":
        return SGD_RATES[network, method]
    return (MUON_RATES if optimizer == "muon" else RATES)[network]


def _power(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.1e}"


def _rate(rates: Rates, row: Row, schedule: str) -> str:
    """Return the chosen rate, marked where it is the lowest or the highest of those tried."""
    rate = rates[name_of(row, schedule)]
    marks = {min(row.rates): " ↓", max(row.rates): " ↑"}
    return f"{rate:g}{marks.get(rate, '')}"


def _image_line(runs: Sequence[Finished], rates: Rates, row: Row, schedule: str) -> list[str]:
    found = of_row(runs, row, schedule)
    published = IMAGES.get((row.network, row.method))
    return [
        *labels(row.network, row.method),
        _rate(rates, row, schedule),
        value(found, "psnr_median").text(),
        _gain(runs, row, schedule, "psnr_median", 1),
        value(found, "psnr_max").text(),
        value(found, "ssim").text(3).partition(" ")[0],
        value(found, "fine").text(2).partition(" ")[0],
        value(found, "seconds").text(1).partition(" ")[0],
        "" if published is None else f"{published:.2f}",
    ]


def _shape_line(runs: Sequence[Finished], rates: Rates, row: Row, schedule: str) -> list[str]:
    found = of_row(runs, row, schedule)
    published = SHAPES.get((row.network, row.method))
    return [
        *labels(row.network, row.method),
        _rate(rates, row, schedule),
        value(found, "iou_median").text(3),
        _gain(runs, row, schedule, "iou_median", 3),
        value(found, "iou_max").text(3),
        value(found, "chamfer").text(4, "no surface").partition(" ")[0],
        _power(value(found, "chamfer_squared").middle),
        value(found, "seconds").text(1).partition(" ")[0],
        "" if published is None else f"{published:.3f}",
    ]


def _optimizer_line(
    runs: Sequence[Finished],
    equal: Sequence[Finished],
    rates: Rates,
    row: Row,
    schedule: str,
    cost: float,
) -> list[str]:
    plain = value(of_row(runs, _plain(row), schedule), "psnr_median").middle
    reached = value(equal, "psnr_median")
    network, method = labels(row.network, row.method)
    gain = ""
    if row.method != "plain" and plain is not None and reached.middle is not None:
        gain = f"{reached.middle - plain:+.1f}"
    return [
        network,
        method,
        f"{OPTIMIZERS[row.optimizer]}, {schedule}",
        _rate(rates, row, schedule),
        value(of_row(runs, row, schedule), "psnr_median").text(),
        _gain(runs, row, schedule, "psnr_median", 1),
        f"{cost:.2f}",
        reached.text(),
        gain,
    ]


def _costs(study: Study, rows: Sequence[Row]) -> dict[str, float]:
    """Return seconds of a step of each row, measured in turn with those it is compared with."""
    found: dict[str, float] = {}
    for plain in (row for row in rows if row.method == "plain"):
        together = [row for row in rows if _plain(row).name == plain.name]
        case = {
            "task": "seconds",
            "cases": {
                row.name: study.case(row, study.tuned, row.rates[1], "cosine", 0)
                for row in together
            },
        }
        found |= study.runs([case])[0].result
    return found


def _at_equal_seconds(
    study: Study, row: Row, rates: Rates, schedule: str, cost: float
) -> list[Finished]:
    steps = study.preset.steps if row.method == "plain" else int(study.preset.steps / cost)
    shorter = with_steps(study, max(1, min(steps, study.preset.steps)))
    return shorter.reports([row], rates, [schedule])


def _plain(row: Row) -> Row:
    return dataclasses.replace(row, method="plain", adjustment=None)


def _gain(runs: Sequence[Finished], row: Row, schedule: str, name: str, digits: int) -> str:
    """Return the difference to the plain row."""
    if row.method == "plain":
        return ""
    mine = value(of_row(runs, row, schedule), name).middle
    plain = value(of_row(runs, _plain(row), schedule), name).middle
    return "" if mine is None or plain is None else f"{mine - plain:+.{digits}f}"


def _verdicts(
    runs: Sequence[Finished], rows: Sequence[Row], name: str, unit: str, digits: int
) -> list[str]:
    """Say of each network what every method gains over the best that plain training reached."""
    lines = []
    for network in dict.fromkeys(row.network for row in rows):
        best: dict[str, float] = {}
        for row in (row for row in rows if row.network == network):
            found = [value(of_row(runs, row, s), name).middle for s in SCHEDULES]
            best[row.method] = max((f for f in found if f is not None), default=float("nan"))
        others = ", ".join(
            f"{labels(network, method)[1]} {figure - best['plain']:+.{digits}f}"
            for method, figure in best.items()
            if method != "plain"
        )
        reached = f"{best['plain']:.{digits}f} {unit}".rstrip()
        line = f"- {labels(network, '')[0]}, over plain ({reached})"
        lines.append(fill(f"{line}: {others}", "  "))
    return [*lines, ""]
