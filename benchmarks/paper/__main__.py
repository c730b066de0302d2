"""The paper's tables: python -m benchmarks.paper TABLE --preset smoke|small|full.

Writes TABLE.md, TABLE.png and TABLE.csv (a line for every run) below ``results/paper/PRESET``, and
every finished run below ``runs`` there: what lies there is not run again, so a call that was
stopped goes on where it stood.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._report import RESULTS
from benchmarks.paper.functions import as_csv, cases, figure, table
from benchmarks.paper.pool import Runs, pool
from benchmarks.paper.report import Output
from benchmarks.paper.signals import Kind, files
from benchmarks.paper.store import Store
from benchmarks.paper.sweeps import end, groups, sampling
from benchmarks.paper.systems import NETWORKS, PRESETS
from benchmarks.paper.tables import Rates, study
from benchmarks.paper.trained import images, optimizers, shapes
from iga_lab.errors import InputError
from iga_lab.files import write_whole
from iga_lab.hardware import array_library

TABLES: dict[str, tuple[Kind, Callable[..., Output]]] = {
    "images": ("image", images),
    "shapes": ("shape", shapes),
    "end": ("image", end),
    "groups": ("image", groups),
    "sampling": ("image", sampling),
    "optimizers": ("image", optimizers),
}
FOLDER = RESULTS / "paper"
RATES = "rates-{}.json"


def main(arguments: list[str] | None = None) -> int:
    """Make the tables asked for; returns the exit code."""
    given = _parser().parse_args(arguments)
    folder = FOLDER / given.preset if given.output is None else Path(given.output)
    names = ["functions", *TABLES] if given.table == "all" else [given.table]
    try:
        with pool(Store(folder / "runs"), given.jobs or _jobs(given.device)) as runs:
            for name in names:
                _make(name, given, folder, runs)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; finished runs are kept, and the same command goes on", file=sys.stderr)
        return 130
    return 0


def _make(name: str, given: argparse.Namespace, folder: Path, runs: Runs) -> None:
    command = _command(name, given)
    if name == "functions":
        results = [{**run.case, **run.result} for run in runs(cases(given.preset))]
        output = Output(table(results, command), figure(results), as_csv(results))
    else:
        kind, make = TABLES[name]
        preset, family = PRESETS[given.preset], _family(name)
        chosen = _rates(given.rates, family) if given.preset == "full" else {}
        data = _data(given.data, kind, given.table == "all")
        studied = study(
            preset, kind, runs, _place(given), data, given=chosen,
            skip=given.skip_broken, most=given.limit,
        )  # fmt: skip
        output = make(studied, command, given.network or list(NETWORKS))
        if not chosen:
            _keep_rates(folder / RATES.format(family), output.rates)
        name = "-".join(
            [name, *(given.network or []), *([str(given.limit)] if given.limit else [])]
        )
    for ending, content in (
        (".md", output.text.encode()), (".png", output.figure), (".csv", output.csv.encode()),
    ):  # fmt: skip
        write_whole(folder / f"{name}{ending}", content)
    print(output.text)
    print(f"Wrote {folder / name}.md, .png and .csv")


def _command(name: str, given: argparse.Namespace) -> str:
    """Return what was typed, but for where things lie and how many runs go at a time."""
    words = ["python", "-m", "benchmarks.paper", name, "--preset", given.preset]
    if name != "functions":
        words += ["--data", Path(given.data).name] if given.data else []
        words += [word for network in given.network or [] for word in ("--network", network)]
        words += ["--limit", str(given.limit)] if given.limit else []
        words += ["--device", given.device] if given.device != "cpu" else []
        words += ["--backend", given.backend] if given.backend else []
        words += ["--skip-broken"] if given.skip_broken else []
        words += ["--tf32"] if given.tf32 else []
    return shlex.join(words)


def _jobs(device: str) -> int:
    """Return a run a core, or one for an accelerator."""
    if device != "cpu":
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _family(name: str) -> str:
    """Return the table whose learning rates another one uses."""
    return name if name in ("shapes", "optimizers") else "images"


def _data(folder: str | None, kind: Kind, optional: bool) -> str | None:
    """Return the folder for a kind of signal: itself, or the subfolder that has its name.

    With `optional`, none where the folder has no such files.
    """
    if folder is None:
        return None
    inside = Path(folder) / {"image": "images", "shape": "meshes"}[kind]
    found = inside if inside.is_dir() else Path(folder)
    if optional and found.is_dir() and not files(kind, found):
        print(f"no files of the kind {kind} in {folder}: taking the built-in ones")
        return None
    return str(found)


def _place(given: argparse.Namespace) -> dict[str, Any]:
    backend = given.backend or ("numpy" if given.device == "cpu" else "torch")
    device = array_library(backend, given.device)[2]
    return {"backend": backend, "device": device, "tf32": given.tf32}


def _rates(folder: str | None, family: str) -> Rates:
    file = (FOLDER / "small" if folder is None else Path(folder)) / RATES.format(family)
    try:
        found: Rates = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"rates: expected a folder with the {file.name} that the preset small writes, got "
            f"{str(file.parent)!r} ({error}); run that preset first, or name its folder with "
            "--rates"
        ) from None
    return found


def _keep_rates(file: Path, rates: Rates) -> None:
    known: Rates = json.loads(file.read_text()) if file.exists() else {}
    write_whole(file, (json.dumps(known | rates, indent=1, sort_keys=True) + "\n").encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("table", choices=["functions", *TABLES, "all"])
    parser.add_argument("--preset", choices=list(PRESETS), default="small")
    parser.add_argument(
        "--data", help="folder of photographs or meshes; by default scikit-image's photographs "
        "and solids made of formulas",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    parser.add_argument("--backend", choices=["numpy", "torch"], help="numpy on a cpu, else torch")
    parser.add_argument(
        "--jobs", type=_count, help="runs at a time; one a core, or one on an accelerator"
    )
    parser.add_argument("--output", help="folder to write to and to go on in")
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="only these")
    parser.add_argument("--limit", type=_count, help="report at most so many signals")
    parser.add_argument(
        "--rates", help="results of the preset small, whose learning rates the preset full takes"
    )
    parser.add_argument("--skip-broken", action="store_true", help="leave out unreadable files")
    parser.add_argument("--tf32", action="store_true", help="let CUDA round matrix products to it")
    return parser


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {count}")
    return count


if __name__ == "__main__":
    sys.exit(main())
