"""What a step costs: python -m benchmarks.step_time [--only small large batches python ...].

Processor time of adjusted steps over that of plain ones, side by side: in every round each variant
takes some steps, a multiple of the default `refresh`. A ratio is the median over the rounds of the
quotients within a round, its spread the middle half of them. With another ``--device`` the cases in
PyTorch are timed there, by the clock on the wall. Writes ``results/step-time.md`` and ``.json``;
cases that are not asked for stay there as they were.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import iga_array
import iga_torch
from benchmarks._report import RESULTS, alternate, environment, fill, ratio, write_json, write_text
from iga_core import Adam, Adjustment, Equalise, Grouping, Network, Scale
from iga_lab.signals import coordinates

KINDS = ("pe", "siren")
RATE = 1e-3


@dataclass(frozen=True)
class Case:
    """What is timed.

    Parameters
    ----------
    backend : {"numpy", "torch", "loop", "batches"}
        The `Trainer` of either; or `iga_torch.IGA` in a loop of one's own, with the whole signal,
        or with as many new points at each step, which it groups itself.
    shape, patch : tuple of int
        Of the image, which is noise.
    width, threads : int
        Of the network, and of the processor.
    steps, rounds : int
        Steps of each variant in a round.
    most : float, optional
        What the ratio of the defaults is wanted to be at most.
    variants : tuple of str
        Of `adjustments`, beside plain.
    """

    backend: str
    shape: tuple[int, int]
    patch: tuple[int, int]
    width: int
    threads: int
    steps: int
    rounds: int
    most: float | None = None
    variants: tuple[str, ...] = ("damp",)


LARGE = Case("numpy", (512, 768), (16, 24), 256, 2, 10, 3, 1.03)
CASES = {
    "small": Case("numpy", (128, 128), (8, 8), 128, 1, 10, 20, 1.08,
                  ("scale", "damp", "damp, refresh 1", "half")),
    "numpy": LARGE,
    "torch": replace(LARGE, backend="torch"),
    "loop": replace(LARGE, backend="loop"),
    "batches": Case("batches", (128, 64), (8, 16), 256, 1, 10, 4),
    "python": Case("loop", (8, 8), (2, 2), 8, 1, 50, 40),
    "python, new points": Case("batches", (8, 8), (2, 2), 8, 1, 50, 40),
}  # fmt: skip
"""Those named python are so small that they show what Python takes."""
SEVERAL = {"large": ["numpy", "torch", "loop"]}


def adjustments(groups: int) -> dict[str, Adjustment | None]:
    return {
        "plain": None,
        "scale": Adjustment(Scale()),
        "damp": Adjustment(),
        "damp, refresh 1": Adjustment(refresh=1),
        "half": Adjustment(Equalise(groups // 2), samples=2, refresh=1, average=0),
    }


def stepper(case: Case, kind: Any, adjustment: Adjustment | None, device: str) -> Callable[[], Any]:
    """Return what takes a step."""
    network, grouping = Network(kind, width=case.width), Grouping.patches(case.shape, case.patch)
    coords = coordinates(case.shape).astype(np.float32)
    targets = np.random.default_rng(0).random((len(coords), 3), dtype=np.float32)
    if case.backend == "numpy":
        return iga_array.Trainer(
            iga_array.MLP(network), coords, targets, grouping=grouping, adjustment=adjustment,
            optimizer=Adam(RATE), workers=case.threads,
        ).step  # fmt: skip
    module: torch.nn.Module = iga_torch.from_network(network, device=torch.device(device))
    x, y = (torch.from_numpy(values).to(device) for values in (coords, targets))
    if case.backend == "torch":
        return iga_torch.Trainer(
            module, x, y, grouping=grouping, adjustment=adjustment, optimizer=Adam(RATE)
        ).step
    optimizer = torch.optim.Adam(module.parameters(), RATE)
    batches = case.backend == "batches"
    given = None if batches else grouping
    model = module if adjustment is None else iga_torch.IGA(module, given, adjustment)

    def step() -> None:
        optimizer.zero_grad()
        (model(torch.rand_like(x) if batches else x) - y).square().mean().backward()
        optimizer.step()

    return step


def step_times(name: str, case: Case, kind: str, device: str) -> list[dict[str, Any]]:
    """Time all variants of a case in turn, one row each."""
    found = adjustments(Grouping.patches(case.shape, case.patch).groups)

    def several(variant: str) -> Callable[[], None]:
        step = stepper(case, kind, found[variant], device)

        def steps() -> None:
            for _ in range(case.steps):
                step()
            if device != "cpu":
                torch.cuda.synchronize()

        return steps

    torch.set_num_threads(case.threads)
    with threadpool_limits(case.threads, "blas"):
        variants = {variant: several(variant) for variant in ("plain", *case.variants)}
        clock = time.process_time if device == "cpu" else time.perf_counter
        seconds = alternate(variants, case.rounds, clock)
    plain = np.median(seconds["plain"])
    return [
        {
            "case": name,
            "network": kind,
            "variant": variant,
            "most": case.most if variant == "damp" else None,
            "plain_seconds": float(plain) / case.steps,
            "added_seconds": float(np.median(seconds[variant]) - plain) / case.steps,
            **ratio(seconds, variant, "plain"),
        }
        for variant in case.variants
    ]


def line(row: dict[str, Any]) -> str:
    return (
        f"| {row['case']} | {row['network']} | {1e3 * row['plain_seconds']:.4g} | {row['variant']} "
        f"| {row['median']:.3f} ({row['low']:.3f} to {row['high']:.3f}) | {row['of_minima']:.3f} "
        f"| {1e3 * row['added_seconds']:+.3g} | {row['most'] or ''} |"
    )


def words(name: str, about: dict[str, Any]) -> str:
    """Say what a case is, and where it was measured."""
    case, where = about["case"], about["environment"]
    form = {"numpy": "`iga_array.Trainer`", "torch": "`iga_torch.Trainer`",
            "loop": "`iga_torch.IGA` in a loop, all points at once",
            "batches": "`iga_torch.IGA` in a loop"}[case["backend"]]  # fmt: skip
    (height, width), (tall, wide) = case["shape"], case["patch"]
    size = f"{height} x {width}, {height // tall * (width // wide)} groups"
    if case["backend"] == "batches":
        size = f"{height * width:,} new points at each step, which it groups itself"
    return fill(
        f"- {name}: {form}, {size}, three "
        f"hidden layers of {case['width']}, {case['threads']} threads, {case['rounds']} rounds of "
        f"{case['steps']} steps; {', '.join(f'{k} {v}' for k, v in where.items())}.",
        "  ",
    )


def table(rows: list[dict[str, Any]], cases: dict[str, Any]) -> str:
    lines = [
        "# What a step costs",
        "",
        "`python -m benchmarks.step_time`",
        "",
        "| case | network | plain, ms | variant | over plain (middle half) | of minima | added, ms "
        "| most |",
        "|---|---|---|---|---|---|---|---|",
        *map(line, rows),
        "",
        fill(
            "Processor time of a step, of all threads. damp: the defaults, `Adjustment()`, which "
            f"make a transform at every {Adjustment().refresh}th step, and at every one of new "
            "points; damp, refresh 1: at every step; half: half of "
            "the eigenvalues equalised, two samples, at every step; scale: no kernel. Most: what "
            "is wanted of the ratio."
        ),
        "",
        *(words(name, about) for name, about in cases.items()),
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*CASES, *SEVERAL], default=list(CASES))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--device", default="cpu", help="of the cases in PyTorch")
    parser.add_argument("--smoke", action="store_true", help="so small that it says nothing")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder")
    given = parser.parse_args(arguments)
    stem = "step-time" if given.device == "cpu" else "step-time-cuda"
    kept = given.output / f"{stem}.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    rows, cases = known.get("rows", []), known.get("cases", {})
    for name in [each for only in given.only for each in SEVERAL.get(only, [only])]:
        case = CASES[name]
        if given.smoke:
            shape = (4 * case.patch[0], 4 * case.patch[1])
            case = replace(case, shape=shape, width=8, rounds=2, steps=5)
        case = replace(case, rounds=given.rounds or case.rounds)
        device = "cpu" if case.backend == "numpy" else given.device
        new = [row for kind in KINDS for row in step_times(name, case, kind, device)]
        rows = [row for row in rows if row["case"] != name] + new
        where = {**environment(), "torch": torch.__version__}
        if device != "cpu":
            where["gpu"] = torch.cuda.get_device_name()
        cases[name] = {"case": asdict(case), "environment": where}
        # At once, so that a call that is stopped has not measured in vain.
        write_text(f"{stem}.md", table(rows, cases), given.output)
        write_json(f"{stem}.json", {"rows": rows, "cases": cases}, given.output)
    print(table(rows, cases))


if __name__ == "__main__":
    main()
