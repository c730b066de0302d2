"""What every benchmark writes beside its figures."""

import datetime
import json
import os
import platform
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


def write_json(name: str, content: dict[str, Any]) -> None:
    write_text(name, json.dumps({"environment": environment(), **content}, indent=1) + "\n")


def write_text(name: str, text: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / name
    path.write_text(text)
    print(f"wrote {path}")
