"""What every benchmark writes beside its figures."""

import datetime
import json
import os
import platform
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"


def environment() -> dict[str, Any]:
    """Date, hardware and versions."""
    config: Any = np.show_config(mode="dicts")
    blas = config["Build Dependencies"]["blas"]
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": f"{blas['name']} {blas['version']}",
        "iga-core": version("iga-core"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def median_spread(values: list[float]) -> tuple[float, float]:
    """Median, and half of the distance between the extremes."""
    return float(np.median(values)), float(max(values) - min(values)) / 2


def alternate(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each, a call of every one in each round, begun by another each time."""
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        steps[name]()
    for turn in range(rounds):
        for k in range(len(names)):
            name = names[(turn + k) % len(names)]
            start = clock()
            steps[name]()
            seconds[name].append(clock() - start)
        print(f"round {turn + 1}/{rounds}", end="\r", file=sys.stderr, flush=True)
    return seconds


def ratio(seconds: dict[str, list[float]], over: str, under: str) -> dict[str, float]:
    """Quotients within each round: their median and middle half, and that of the least times."""
    quotients = [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
    low, middle, high = np.quantile(quotients, [0.25, 0.5, 0.75])
    return {
        "median": float(middle),
        "low": float(low),
        "high": float(high),
        "of_minima": min(seconds[over]) / min(seconds[under]),
    }


def fill(text: str, indent: str = "") -> str:
    """Wrap a paragraph."""
    return textwrap.fill(text, 96, subsequent_indent=indent, break_on_hyphens=False)


def write_json(name: str, content: dict[str, Any], folder: Path = RESULTS) -> None:
    text = json.dumps({"environment": environment(), **content}, indent=1)
    write_text(name, f"{text}\n", folder)


def write_text(name: str, text: str, folder: Path = RESULTS) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    print(f"wrote {path}")
