"""What a step costs: python -m benchmarks.step_time [--rounds 12].

A 512 x 768 x 3 image, patch 32 (384 groups of 1024), three hidden layers of 256, float32, all
cores. In every round each variant takes one step, in turn; a ratio is the median over the rounds
of the quotients within a round, its spread the middle half of them. Writes
``results/step-time.md`` and ``.json``.
"""

import argparse
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks._report import alternate, environment, ratio, write_json, write_text
from iga_array import MLP, Trainer
from iga_array.correcting import Corrector
from iga_array.pieces import Piece
from iga_core import Adam, Adjustment, Grouping, Network, gram
from iga_lab.signals import coordinates

HEIGHT, WIDTH, PATCH = 512, 768, 32
VARIANTS = {
    "paper": (Adjustment(), 1.01),
    "group-wise, 2 samples": (Adjustment(sampling="random", samples=2, reach="mean"), 1.03),
    "group-wise, 8 samples": (Adjustment(sampling="random", samples=8, reach="mean"), 1.10),
    "half of the groups, 2 samples": (
        Adjustment(end=192, sampling="random", samples=2, reach="mean"),
        None,
    ),
}
PRODUCTS = {"pe": 1.25, "siren": 1.6}
"""Most that a plain step may take, as a multiple of its matrix products alone."""


def trainer(kind: Any, adjustment: Adjustment | None, times: int = 1) -> Trainer:
    """Make a run on noise in an image of `times` as many pixels a side."""
    height, width = times * HEIGHT, times * WIDTH
    targets = np.random.default_rng(0).random((height * width, 3), dtype=np.float32)
    return Trainer(
        MLP(Network(kind)),
        coordinates((height, width)).astype(np.float32),
        targets,
        grouping=Grouping.patches((height, width), times * PATCH),
        adjustment=adjustment,
        optimizer=Adam(1e-3),
    )


class Products:
    """The matrix products of a plain step, and nothing else, in the same pieces."""

    def __init__(self, run: Trainer, ours: bool) -> None:
        self.pieces, self.ours = run._pieces, ours
        passes = run.model.passes()
        generator = np.random.default_rng(0)
        self.layers = [
            (
                weight,
                {
                    id(share): (
                        generator.random((self.rows(share[0]), weight.shape[1]), np.float32),
                        generator.random((self.rows(share[0]), weight.shape[0]), np.float32),
                    )
                    for share in self.pieces.shares
                },
            )
            for weight, _ in passes.layers
        ]

    def rows(self, piece: Piece) -> int:
        return (piece.stop - piece.start) * self.pieces.grouping.groups

    def step(self) -> None:
        if self.ours:
            with self.pieces.threads():
                self.pieces.map(self.work)
        else:
            for share in self.pieces.shares:
                self.work(share)

    def work(self, share: list[Piece]) -> None:
        for piece in share:
            rows = self.rows(piece)
            for layer, (weight, arrays) in enumerate(self.layers):
                inputs, cotangents = (array[:rows] for array in arrays[id(share)])
                _ = inputs @ weight.T
                _ = cotangents.T @ inputs
                if layer:
                    _ = cotangents @ weight


def step_times(kind: str, rounds: int) -> list[dict[str, Any]]:
    plain = trainer(kind, None)
    products = {
        "products, a thread each": Products(plain, ours=True).step,
        "products, threads of the library": Products(plain, ours=False).step,
    }
    runs = {name: trainer(kind, adjustment).step for name, (adjustment, _) in VARIANTS.items()}
    seconds = alternate({"plain": plain.step, **products, **runs}, rounds)
    best = min(products, key=lambda name: float(np.median(seconds[name])))
    rows = [
        {"what": "plain / " + best, "most": PRODUCTS[kind], **ratio(seconds, "plain", best)}
    ] + [
        {
            "what": f"{name} / plain",
            "most": most,
            "accounted_percent": accounted(kind, adjustment),
            **ratio(seconds, name, "plain"),
        }
        for name, (adjustment, most) in VARIANTS.items()
    ]
    plain_seconds = float(np.median(seconds["plain"]))
    return [{"network": kind, "plain_seconds": plain_seconds, **row} for row in rows]


def accounted(kind: str, adjustment: Adjustment, steps: int = 3) -> float:
    """Return the processor time of the adjustment's own parts, per cent of the rest of the step.

    Both come from the same steps, so that what else the machine does weighs on both.
    """
    spent = [0.0]

    def timed(function: Any) -> Any:
        def wrapper(*arguments: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*arguments)
            finally:
                spent.append(time.thread_time() - start)

        return wrapper

    parts = [(Corrector, name) for name in ("from_last_pass", "look", "remember", "_correction")]
    kept = [(owner, name, getattr(owner, name)) for owner, name in parts]

    def timed_correction(self: Any, *arguments: Any) -> Any:
        return timed(kept[-1][2](self, *arguments))

    run = trainer(kind, adjustment)
    try:
        for owner, name, function in kept[:-1]:
            setattr(owner, name, timed(function))
        Corrector._correction = timed_correction  # type: ignore[assignment, method-assign]
        run.step()
        spent.clear()
        start = time.process_time()
        for _ in range(steps):
            run.step()
        whole = time.process_time() - start
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)
    return 100 * sum(spent) / (whole - sum(spent))


def kernel_times(rounds: int) -> dict[str, Any]:
    """Compare the kernel of 384 points with forming the explicit Jacobian of one output a row."""
    model = MLP(Network("siren"))
    points = np.random.default_rng(0).uniform(-1, 1, (384, 2)).astype(np.float32)

    def explicit() -> Any:
        rows = [
            np.concatenate(
                [
                    np.einsum("no,ni->noi", f.cotangents, f.inputs).reshape(384, -1),
                    f.cotangents,
                ],
                axis=1,
            )
            for f in model.factors(points)
        ]
        jacobian = np.concatenate(rows, axis=1)
        return jacobian @ jacobian.T

    factored = gram(model.factors(points))
    error = float(np.abs(factored - explicit()).max() / np.abs(factored).max())
    seconds = alternate(
        {"factors": lambda: gram(model.factors(points)), "explicit": explicit}, 4 * rounds
    )
    return {"what": "explicit Jacobian / factors", "least": 20, "difference": error,
            "factors_seconds": float(np.median(seconds["factors"])),
            **ratio(seconds, "explicit", "factors")}  # fmt: skip


def peak_memory(times: int) -> dict[str, float]:
    """Resident memory of a fit, in MB, and that of its pixels: coordinates and values."""
    code = f"from benchmarks.step_time import memory_of_a_fit; memory_of_a_fit({times})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, pixels = map(float, done.stdout.split())
    return {"times": times, "peak_mb": peak, "pixels_mb": pixels}


def memory_of_a_fit(times: int) -> None:
    run = trainer("pe", VARIANTS["group-wise, 8 samples"][0], times)
    for _ in range(2):
        run.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pixels = run._pieces.coords.nbytes + run._pieces.targets.nbytes
    print(peak / 1e6, pixels / 1e6)


def percent(row: dict[str, Any]) -> str:
    return f"{row['accounted_percent']:+.2f} %" if "accounted_percent" in row else ""


def table(steps: list[dict[str, Any]], kernel: dict[str, Any], memory: list[Any]) -> str:
    lines = [
        "# What a step costs",
        "",
        f"`python -m benchmarks.step_time`: {environment()}".replace("'", ""),
        "",
        "| network | ratio | median (middle half) | of minima | accounted | wanted |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['network']} | {r['what']} | {r['median']:.3f} ({r['low']:.3f} to {r['high']:.3f}) "
        f"| {r['of_minima']:.3f} | {percent(r)} "
        f"| {'at most ' + str(r['most']) if r['most'] else ''} |"
        for r in steps
    ]
    plain = {row["network"]: row["plain_seconds"] for row in steps}
    ask = ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in plain.items())
    growth = memory[1]["peak_mb"] - memory[1]["pixels_mb"]
    base = memory[0]["peak_mb"] - memory[0]["pixels_mb"]
    lines += [
        "",
        f"A plain step: {ask} (median). Accounted: processor time of the adjustment's own parts "
        "(representatives, kernel, eigenpairs, application, means), per cent of the rest of the "
        "same steps; where the middle half of the wall-clock ratios is wider than the figure, this "
        "is the one to read.",
        "",
        f"Kernel of 384 points, width 256: the explicit Jacobian takes {kernel['median']:.0f} "
        f"times as long ({kernel['low']:.0f} to {kernel['high']:.0f}; wanted: at least 20); the "
        f"factors take {1e3 * kernel['factors_seconds']:.1f} ms; largest relative difference "
        f"{kernel['difference']:.1g}.",
        "",
        f"Peak memory of the whole process, group-wise with 8 samples: {memory[0]['peak_mb']:.0f} "
        f"MB (wanted: under 600); with four times the pixels {memory[1]['peak_mb']:.0f} MB. Beyond "
        f"the pixels ({memory[0]['pixels_mb']:.0f} and {memory[1]['pixels_mb']:.0f} MB) it grows "
        f"by {100 * (growth / base - 1):.1f} % (wanted: under 5 %).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    given = parser.parse_args()
    memory = [peak_memory(times) for times in (1, 2)]
    kernel = kernel_times(given.rounds)
    steps = [row for kind in PRODUCTS for row in step_times(kind, given.rounds)]
    text = table(steps, kernel, memory)
    print(text)
    write_text("step-time.md", text)
    write_json("step-time.json", {"steps": steps, "kernel": kernel, "memory": memory})
