"""Training runs of a benchmark, kept in a file, so that a later call does the missing ones only."""

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Run = dict[str, Any]
Case = tuple[Any, ...]


class Runs:
    """Runs in a file of JSON lines; those missing are done, each in a process of one thread.

    Parameters
    ----------
    path : Path
        Of the file; a line is added as a run ends.
    jobs : int
        Processes.
    keys : tuple of str
        Names of the entries of a case, by which its run is found.
    train : callable
        From a case to what is to be kept of its run, with a ``median`` in dB; of a module, for
        other processes import it.
    """

    def __init__(
        self, path: Path, jobs: int, keys: tuple[str, ...], train: Callable[[Case], Run]
    ) -> None:
        self.path, self.jobs, self.keys, self.train = path, jobs, keys, train
        runs = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self.found = {tuple(run[k] for k in keys): run for run in runs}

    def __call__(self, cases: Sequence[Case]) -> list[Run]:
        """Return the run of each case."""
        missing = [case for case in dict.fromkeys(cases) if case not in self.found]
        # In fresh processes: the linear algebra library reads this once.
        os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}
        start = time.perf_counter()
        with ProcessPoolExecutor(self.jobs, get_context("spawn")) as pool, self.path.open("a") as f:
            futures = {pool.submit(self.train, case): case for case in missing}
            for done, future in enumerate(as_completed(futures), 1):
                case = futures[future]
                run = dict(zip(self.keys, case, strict=True)) | future.result()
                self.found[case] = run
                print(json.dumps(run), file=f, flush=True)
                left = (time.perf_counter() - start) * (len(missing) / done - 1) / 60
                words = f"{', '.join(map(str, case))}: {run['median']:.2f} dB"
                print(f"{done}/{len(missing)}  {words}, {left:.0f} min left", flush=True)
        return [self.found[case] for case in cases]
