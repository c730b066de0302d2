"""What a step costs in PyTorch: python -m benchmarks.torch_step [--device cuda] [--columns 64].

A 512 x 768 x 3 image, patch 32 (384 groups of 1024), three hidden layers of 256, float32 with tf32
off, Adam, a fresh transform every step; the full batch in data order under a `grouping`, or, with
``--columns``, pieces of so many columns. In every round each variant takes one step, in turn; a
ratio is the median over the rounds of the quotients within a round, its spread the middle half of
them. On a GPU also with a compiled network on both sides. Then the Python that an adjusted step
runs, on a signal so small that arithmetic does not count. Writes ``results/torch-step.md`` and
``.json``; ``torch-step-cuda`` and ``torch-step-pieces`` on a GPU and of pieces.
"""

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._report import alternate, environment, fill, ratio, write_json, write_text
from iga_core import Grouping, Network
from iga_lab.signals import coordinates
from iga_torch import IGA, from_network

HEIGHT, WIDTH, PATCH = 512, 768, 32
KINDS = ("pe", "siren")
GROUP_WISE = {"sampling": "random", "reach": "mean"}
VARIANTS: dict[str, tuple[dict[str, Any], float]] = {
    "paper": ({}, 1.02),
    "2 samples": ({**GROUP_WISE, "samples": 2}, 1.04),
    "8 samples": ({**GROUP_WISE, "samples": 8}, 1.10),
}
MOST_ON_CUDA = 1.10
PYTHON_MILLISECONDS = 2.0
OWN_PARTS = ("_begins", "_ends", "_returned")
"""Methods of `IGA` in which all of an adjusted step's additional work is done."""


class Run:
    """Training on noise, a step at a time.

    Parameters
    ----------
    network : Network
        What is trained.
    shape, patch : tuple of int, int
        Of the signal.
    adjustment : dict, optional
        Settings; plain without.
    columns : int, optional
        Columns in a piece; all points at once, in their own order, without.
    """

    def __init__(
        self,
        network: Network,
        shape: tuple[int, int],
        patch: int,
        adjustment: dict[str, Any] | None,
        *,
        device: str = "cpu",
        columns: int | None = None,
        compiled: bool = False,
    ) -> None:
        grouping = Grouping.patches(shape, patch)
        module: torch.nn.Module = from_network(network, device=device)
        self.device = device
        self.optimizer = torch.optim.Adam(module.parameters(), 1e-3)
        if compiled:
            module = torch.compile(module)  # type: ignore[assignment]
        if adjustment is not None:
            module = IGA(module, None if columns else grouping, **adjustment)
        self.model = module
        targets = np.random.default_rng(0).random((grouping.count, network.outputs))
        data = [
            torch.as_tensor(values, dtype=torch.float32, device=device)
            for values in (coordinates(shape), targets)
        ]
        if columns:
            assert not len(grouping.rest)
            index = torch.from_numpy(grouping.index).to(device)
            pieces = [torch.split(values[index], columns, dim=1) for values in data]
            self.pieces = [
                tuple(part.contiguous() for part in p) for p in zip(*pieces, strict=True)
            ]
        else:
            self.pieces = [tuple(data)]
        self.scale = 1 / data[1].numel()

    def step(self) -> None:
        self.optimizer.zero_grad()
        for coords, targets in self.pieces:
            loss = self.scale * (self.model(coords) - targets).square().sum()
            loss.backward()
        self.optimizer.step()
        if self.device != "cpu":
            torch.cuda.synchronize()


def step_times(kind: Any, given: argparse.Namespace, compiled: bool) -> list[dict[str, Any]]:
    def run(adjustment: dict[str, Any] | None) -> Run:
        place = {"device": given.device, "columns": given.columns, "compiled": compiled}
        return Run(Network(kind), (HEIGHT, WIDTH), PATCH, adjustment, **place)

    runs = {name: run(adjustment) for name, (adjustment, _) in VARIANTS.items()}
    steps = {"plain": run(None).step, **{name: each.step for name, each in runs.items()}}
    seconds = alternate(steps, given.rounds)
    rows = []
    for name, (_, most) in VARIANTS.items():
        row = {
            "network": kind,
            "compiled": compiled,
            "variant": name,
            "most": most if given.device == "cpu" else MOST_ON_CUDA,
            "plain_seconds": float(np.median(seconds["plain"])),
            **ratio(seconds, name, "plain"),
        }
        if given.device == "cpu":
            row["accounted_percent"] = accounted(runs[name])
        rows.append(row)
    return rows


def accounted(run: Run, steps: int = 3) -> float:
    """Return the processor time of the wrapper's own parts, per cent of the rest of the step.

    Of the thread that runs both passes, and of the same steps, so that what else the machine does
    weighs on both.
    """
    spent = 0.0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any) -> Any:
            nonlocal spent
            start = time.thread_time()
            try:
                return function(*arguments)
            finally:
                spent += time.thread_time() - start

        return wrapper

    kept = {name: getattr(IGA, name) for name in OWN_PARTS}
    try:
        for name, function in kept.items():
            setattr(IGA, name, timed(function))
        start = time.thread_time()
        for _ in range(steps):
            run.step()
        whole = time.thread_time() - start
    finally:
        for name, function in kept.items():
            setattr(IGA, name, function)
    return 100 * spent / (whole - spent)


def python_cost(rounds: int = 300) -> dict[str, Any]:
    """Return the milliseconds that a step grows by where arithmetic does not count, and where.

    Processor time of one thread on a CPU: waiting for others would be counted.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network, settings = Network("siren", width=8), {"end": 8}
    plain, adjusted = (Run(network, (8, 8), 2, adjustment) for adjustment in (None, settings))
    steps = {"plain": plain.step, "adjusted": adjusted.step}
    seconds = alternate(steps, rounds, time.thread_time)
    growth = [a - b for a, b in zip(seconds["adjusted"], seconds["plain"], strict=True)]
    low, middle, high = 1e3 * np.quantile(growth, [0.25, 0.5, 0.75])
    functions = profile(adjusted, rounds)
    operations = in_operations(adjusted, rounds) - in_operations(plain, rounds)
    torch.set_num_threads(threads)
    return {
        "plain": 1e3 * float(np.median(seconds["plain"])),
        "added": float(middle),
        "low": float(low),
        "high": float(high),
        "operations": operations,
        "functions": functions,
    }


def in_operations(run: Run, steps: int) -> float:
    """Milliseconds a step within PyTorch's operations, under its profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            run.step()
    found = [row for row in profiler.key_averages() if row.key.startswith("aten::")]
    return float(sum(row.self_cpu_time_total for row in found)) / 1e3 / steps


def profile(run: Run, steps: int, count: int = 14) -> list[dict[str, Any]]:
    """Milliseconds a step within each function of ours, those it calls included and without."""
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(steps):
        run.step()
    profiler.disable()
    found = [
        {
            "function": f"{Path(file).parent.name}.{Path(file).stem}.{name}",
            "calls": calls / steps,
            "inside": 1e3 * inside / steps,
            "within": 1e3 * within / steps,
        }
        for (file, _, name), (_, calls, inside, within, _) in pstats.Stats(profiler).stats.items()  # type: ignore[attr-defined]
        if Path(file).parent.name in ("iga_torch", "iga_core") and not name.startswith("<")
    ]
    return sorted(found, key=lambda row: -row["within"])[:count]


def line(row: dict[str, Any]) -> str:
    own = f"{row['accounted_percent']:+.2f} %" if "accounted_percent" in row else ""
    return (
        f"| {row['network']}{', compiled' if row['compiled'] else ''} | {row['variant']} "
        f"| {row['plain_seconds']:.3g} | {row['median']:.3f} ({row['low']:.3f} to "
        f"{row['high']:.3f}) | {row['of_minima']:.3f} | {own} | {row['most']} |"
    )


def table(
    rows: list[dict[str, Any]], python: dict[str, Any], where: dict[str, Any], how: str
) -> str:
    lines = [
        "# What a step costs in PyTorch",
        "",
        fill(
            f"`python -m benchmarks.torch_step{how}`: "
            + ", ".join(f"{name} {value}" for name, value in where.items())
        ),
        "",
        "| network | variant | plain, s | adjusted / plain (middle half) | of minima | accounted "
        "| most |",
        "|---|---|---|---|---|---|---|",
        *map(line, rows),
        "",
        "paper: `end=20`, the point of largest cotangent of each group. The others are group-wise,",
        '`sampling="random", reach="mean"`. Accounted: processor time of the wrapper\'s own parts',
        "(representatives, kernel, eigenpairs, application), per cent of the rest of the same",
        "steps; where the middle half of the wall-clock ratios is wider than the figure, this is",
        "the one to read. Most: what is wanted of the ratio.",
        "",
        "## Python",
        "",
        fill(
            "16 groups of 4 points, width 8, where arithmetic does not count: a plain step takes "
            f"{python['plain']:.2f} ms of the processor, an adjusted one {python['added']:.2f} ms "
            f"more (middle half {python['low']:.2f} to {python['high']:.2f}), of which PyTorch's "
            f"profiler sees {python['operations']:.2f} ms within its own operations; wanted: at "
            f"most {PYTHON_MILLISECONDS} ms beside the arithmetic. Under cProfile, which makes all "
            "of it slower, a step spends in our functions, in ms:"
        ),
        "",
        "| function | calls | with what it calls | in itself |",
        "|---|---|---|---|",
        *(
            f"| {f['function']} | {f['calls']:.3g} | {f['within']:.3f} | {f['inside']:.3f} |"
            for f in python["functions"]
        ),
        "",
    ]
    return "\n".join(lines)


def main(given: argparse.Namespace) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    where = {**environment(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    if given.device != "cpu":
        where["gpu"] = torch.cuda.get_device_name()
    name = "torch-step" + ("" if given.device == "cpu" else "-cuda")
    how = "" if given.device == "cpu" else f" --device {given.device}"
    if given.columns:
        name, how = f"{name}-pieces", f"{how} --columns {given.columns}"
    python = python_cost()
    rows = [
        row
        for compiled in ((False,) if given.device == "cpu" else (False, True))
        for kind in KINDS
        for row in step_times(kind, given, compiled)
    ]
    text = table(rows, python, where, how)
    print(text)
    write_text(f"{name}.md", text)
    write_json(f"{name}.json", {"torch": where, "steps": rows, "python": python})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--columns", type=int)
    main(parser.parse_args())
