"""The page of the loops: a row each, the levels behind it, the kernels, and why where it loses."""

import math
from typing import Any

import numpy as np
import torch

from benchmarks._report import environment, fill
from benchmarks._runs import Runs
from benchmarks.loops.running import BLOCK, CONTROLS, FACTORS, LOOPS, SEEDS
from benchmarks.loops.training import EVERY, LAST, Loop

BOUND = 1e-9
"""On the difference from dense algebra."""
WHY = {
    "siren image": "At 3e-4 all adjusted forms end beyond 60 dB, where the two seeds of the "
    "control differ by 7 dB: no difference can be told there.",
    "siren SDF": "Equal within the errors. The kernel of value and gradient together is nearly "
    "flat from the first step on (its largest eigenvalue is 4 % of the trace, the median one a "
    "third of the largest), so that S halves all means alike and there is no dominating direction "
    "to take back. The control fits that: a factor of 0.1 loses 3 to 4 dB.",
    "siren Poisson": "It loses, and every control loses, the more the stronger it is. The loss is "
    "on the gradient, which weighs high frequencies up by itself, and the kernel is as flat as "
    "for the SDF (4 % at the start). What is halved is the mean of ∇f over a group, and that is "
    "the coarse picture, which the metric asks for: at 1e-4 the error of the gradient differs "
    "by 1.7 dB (32.4 against 34.1) but its share in groups' means is 68 % against 27 %, and the "
    "picture's error below 2 cycles doubles, while that above 10 cycles stays.",
    "wire image": "The control at 0.5 is as good: the largest eigenvalue is 12 % of the trace, and "
    "S takes about half of the overall mean too. A kernel of new points at every call costs time "
    "and has no average of its own.",
    "DINER": "Each pixel has trained inputs of its own, so no frequency is learned late and there "
    "is nothing to mend; the control loses too at its own rate. At first all inputs are "
    "within 1e-4 of each other, the kernel is of rank one (99.96 % of the trace), and S takes "
    "the whole mean away. More groups lose more: 29.0 dB with 16, 27.2 with 144, 23.1 with 576.",
    "hash grid": "Most is in the overall mean (99.9 % of the trace at first, a third later), which "
    "the control takes as well; the rest of the kernel is local, as the features are.",
    "BACON": "Its filters are drawn over the whole band, so that the kernel is flat (4 %) and S is "
    "close to a half of I, which is what the control does at 0.5; the kernel of each output "
    'by itself (`outputs="trace"`) gives the same.',
    "multiplicative filters": "Equal within the errors: here too the overall mean is what holds "
    "training back (90 % of the trace at first, 20 % later), and the control takes it.",
    "DeepSDF, latents": "The control gains 4 dB and IGA 1.5, on one seed nothing. S leaves 2e-4"
    " of the overall mean (92 % of the trace), and with it goes the balance between inside and "
    "outside, which a clamped L1 loss gives by signs alone: `Scale(0.001)` ends at 14.8 dB and "
    "`Scale(0)` at 14.7, as IGA does (15.1; plain 15.3), but `Scale(0.03)` at 19.1 (5e-4, seed "
    "0). The wrapper warns of this loss: most cotangents are zero behind the clamp. By default "
    "the latents come first and decide the groups, which are then points of one shape in any "
    "order; grouped by place alone, over several shapes, one representative speaks for all of "
    "them and training fails (8.6 dB).",
}


def page(runs: Runs) -> str:
    where = ", ".join(f"{key} {value}" for key, value in environment().items())
    found = {name: Rows(runs, name, loop) for name, loop in LOOPS.items()}
    parts = [
        "# Loops in the manner of public codebases, one line changed",
        fill(f"`python -m benchmarks.loops`: {where}, torch {torch.__version__}"),
        *(fill(text) for text in conditions()),
        "\n".join(summary(found)),
        *(fill(text) for text in reading(found)),
        "## Where it loses, or gains no more than the control, and why",
        *(fill(f"- **{name}.** {WHY[name]}", "  ") for name in found if name in WHY),
        "## The levels",
        fill(f"Means over the seeds, in dB: the median over the last {LAST} steps / the maximum "
             "over all steps. The control's factor in brackets."),
        "\n".join(levels(found)),
        "## What the kernels were made of",
        "\n".join(kernels(found)),
        "## The balance of a mixed loss",
        *balance(runs),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


class Rows:
    """The runs of one loop.

    Parameters
    ----------
    runs : Runs
    name : str
    loop : Loop
    """

    def __init__(self, runs: Runs, name: str, loop: Loop) -> None:
        self.loop = loop
        self.lines, self.moved = loop.lines()
        (self.dense,) = runs([(name, "dense", loop.rates[0], 0)])
        (self.cost,) = runs([(name, "cost", loop.rates[0], 0)])
        self.runs = {
            (method, rate): runs([(name, method, rate, seed) for seed in SEEDS])
            for rate in loop.rates
            for method in ("plain", "iga", *CONTROLS)
        }
        # The best at that rate on the very runs that are reported, which favours it.
        self.control = {
            rate: max(CONTROLS, key=lambda method: _rank(self(method, rate).mean()))
            for rate in loop.rates
        }

    def __call__(self, method: str, rate: float, figure: str = "median") -> Any:
        """Return a figure of each seed; of "control", that of the best factor."""
        method = self.control[rate] if method == "control" else method
        return np.asarray([run[figure] for run in self.runs[method, rate]])

    def gain(self, method: str, rate: float, over: str = "plain") -> Any:
        """Return what a method has over another, of each seed."""
        return self(method, rate) - self(over, rate)

    def verdict(self) -> str:
        """Return in words whether the adjustment loses, or gains less than the control."""
        rates = self.loop.rates
        said = []
        for words, over in (("loses", "plain"), ("the control is better", "control")):
            where = [f"{rate:g}" for rate in rates if not self.gain("iga", rate, over).mean() > 0]
            if where:
                said.append(words + ("" if len(where) == len(rates) else f" at {where[0]}"))
        return "; ".join(said)


def _rank(mean: float) -> tuple[bool, float]:
    return not math.isnan(mean), mean


def mean_error(values: Any) -> str:
    """Return mean and standard error; a run that diverged makes it no number."""
    mean = float(np.mean(values))
    if math.isnan(mean):
        return "diverged"
    return f"{mean:+.1f} ± {np.std(values, ddof=1) / math.sqrt(len(values)):.1f}"


def conditions() -> list[str]:
    factors = ", ".join(f"{factor:g}" for factor in FACTORS)
    return [
        "Every loop is written as such code is (its layouts, data sets, initial weights, optimizer "
        "and schedule, or else a constant rate that falls linearly to zero over the last fifth, "
        f"for all methods alike), and trained {loop_steps()} steps on a signal of 24 to 56 points "
        "a side, with 32 to 64 units a layer, as `benchmarks/loops/` says. The adjusted loop has "
        "the line `model = IGA(model)` more, the import aside, with nothing set but, where a "
        "structure is returned, `output=`, and for DINER, whose inputs are row numbers, a "
        "grouping. *Lines*: those that call IGA; *moved*: lines of a loss that becomes a function, "
        "because a derivative has to be taken inside of what is wrapped.",
        "*Dense*: the largest difference between the adjusted gradient and Jᵀ(S ⊗ I)g, formed one "
        "sample at a time in float64, over the largest entry; three steps of a small instance of "
        "the same loop (9 to 16 groups, a fresh transform at each step).",
        f"*Gains*: in dB of the loop's own metric over plain training at equal steps and seeds "
        f"(0 and 1), the median over the last {LAST} steps, evaluated "
        f"every {EVERY}; mean ± standard error of the pairs, which with two seeds is rough. The "
        "first rate is the codebase's own, the second two to three times more or less; both are "
        f"the same for all methods. *Control*: `Scale` on the means of 16 groups, the best of "
        f"{factors} at each rate, chosen on the very runs that are reported; IGA has nothing "
        "tuned.",
        "*Cost*: processor time of an adjusted step over a plain one, medians of times of "
        f"{BLOCK} steps, both in turn in one run, on one thread; the machine was shared, and "
        "the networks are small.",
    ]


def loop_steps() -> str:
    steps = sorted({loop.steps for loop in LOOPS.values()})
    return " or ".join(map(str, steps))


def summary(found: dict[str, Rows]) -> list[str]:
    lines = [
        "| loop | lines | dense | rate | IGA | control | rate | IGA | control | cost | remark |",
        "|---" * 11 + "|",
    ]
    for name, rows in found.items():
        changed = f"{rows.lines}" + (f", {rows.moved} moved" if rows.moved else "")
        cells = [name, changed, f"{rows.dense['median']:.0e}"]
        for rate in rows.loop.rates:
            cells += [f"{rate:g}", mean_error(rows.gain("iga", rate)),
                      mean_error(rows.gain("control", rate))]  # fmt: skip
        cells += [f"{rows.cost['median']:.2f}", rows.verdict()]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def reading(found: dict[str, Rows]) -> list[str]:
    gains = [rows.gain("iga", rate) for rows in found.values() for rate in rows.loop.rates]
    over = [
        rows.gain("iga", rate, "control") for rows in found.values() for rate in rows.loop.rates
    ]
    wins, beats = (sum(float(g.mean()) > 0 for g in some) for some in (gains, over))
    middle, above = (float(np.nanmedian([g.mean() for g in some])) for some in (gains, over))
    metrics = "; ".join(f"{name}: {rows.loop.metric}" for name, rows in found.items()
                        if rows.loop.metric != "PSNR")  # fmt: skip
    return [
        f"IGA gains over plain in {wins} of {len(gains)} (the median of the means is {middle:+.1f} "
        f"dB), and over the control at its best factor in {beats} of {len(over)} (median "
        f"{above:+.1f} dB).",
        f"The metric is the PSNR of the picture, but {metrics}.",
        "The cost is lowest where the same points come at every call, which make one kernel in ten "
        "calls, and highest where points are new at every call and the networks are small, or "
        "parameters take explicit rows. All of this is at equal steps: what gains little and "
        "costs much may lose at equal seconds.",
    ]


def levels(found: dict[str, Rows]) -> list[str]:
    lines = ["| loop, rate | plain | IGA | control |", "|---" * 4 + "|"]
    for name, rows in found.items():
        for rate in rows.loop.rates:
            cells = [
                f"{rows(m, rate).mean():.1f} / {rows(m, rate, 'maximum').mean():.1f}"
                for m in ("plain", "iga", "control")
            ]
            factor = rows.control[rate].split()[1]
            lines.append(f"| {name}, {rate:g} | {' | '.join(cells)} ({factor}) |")
    return lines


def kernels(found: dict[str, Rows]) -> list[str]:
    lines = [
        "| loop | groups | parameters | of these with explicit rows | plain step, ms |",
        "|---" * 5 + "|",
    ]
    for name, rows in found.items():
        cost, explicit = rows.cost, rows.cost["explicit"]
        words = "none"
        if explicit:
            names = sorted({row[0].split(".")[-1] for row in explicit})
            reasons = sorted({row[1].rpartition(".")[2].rpartition(" ")[2] for row in explicit})
            words = f"{len(explicit)}: {', '.join(names)}, read by {', '.join(reasons)}"
        lines.append(
            f"| {name} | {cost['groups']} | {cost['parameters']} | {words} "
            f"| {cost['plain_ms']:.1f} |"
        )
    return lines


def balance(runs: Runs) -> list[str]:
    (run,) = runs([("siren SDF", "balance", LOOPS["siren SDF"].rates[0], 0)])
    terms = list(run["plain"])
    lines = [f"| the gradient of | {' | '.join(terms)} |", "|---" * (1 + len(terms)) + "|"]
    for key, words in (
        ("plain", "plain training"),
        ("one function", "value and gradient as one function"),
        ("value", "the value alone wrapped"),
    ):
        cells = [f"{run[key][t]:.0f} ({run[key][t] / run['plain'][t]:.2f})" for t in terms]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    one, value, plain = run["one function"], run["value"], run["plain"]
    share = [(r["sdf"] / r["eikonal"]) / (plain["sdf"] / plain["eikonal"]) for r in (one, value)]
    return [
        fill("Lengths of the gradients of the terms of the SDF loop after 100 plain steps, and in "
             "brackets their share of the plain ones; one call and one transform for all terms."),
        "\n".join(lines),
        fill(f"As one function, the term on the distance weighs {share[0]:.2f} of what it did "
             f"beside the eikonal term; with the value alone wrapped, {share[1]:.2f}, and the "
             "terms on the derivative keep their plain gradient. One function does not keep all "
             "weights either: what is shortened are means over groups, in which the cotangent of a "
             "distance, much the same at neighbours, has more of its length than that of a "
             "derivative."),
    ]  # fmt: skip
