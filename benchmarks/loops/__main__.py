"""Loops in the manner of public codebases, with one line more: python -m benchmarks.loops.

Each is trained plain, adjusted, and by the control without a kernel, at two rates; one small step
of it is compared with dense algebra; and it is timed. Runs are kept in ``loops-runs.jsonl``, so
that a later call does the missing ones only; the page goes to ``loops.md``.
"""

import argparse
from pathlib import Path

from benchmarks._report import RESULTS, write_text
from benchmarks._runs import Runs
from benchmarks.loops.page import page
from benchmarks.loops.running import CASE, LOOPS, METHODS, SEEDS, done


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.loops", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", choices=LOOPS, action="append", help="run these alone, no page")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    path, names = given.output / "loops-runs.jsonl", given.only or list(LOOPS)
    Runs(path, given.jobs, CASE, done)(
        [(name, "dense", LOOPS[name].rates[0], 0) for name in names]
        + [("siren SDF", "balance", LOOPS["siren SDF"].rates[0], 0)]
        + [
            (name, method, rate, seed)
            for name in names
            for rate in LOOPS[name].rates
            for seed in SEEDS
            for method in METHODS
        ]
    )
    # One at a time, so that no other run is in the way.
    runs = Runs(path, 1, CASE, done)
    runs([(name, "cost", LOOPS[name].rates[0], 0) for name in names])
    if given.only is None:
        text = page(runs)
        print(text)
        write_text("loops.md", text, given.output)


if __name__ == "__main__":
    main()
