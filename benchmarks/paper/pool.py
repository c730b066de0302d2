"""Doing the runs that are missing, several at a time."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.paper.store import Description, Finished, Store
from iga_lab.cli.terminal import console
from iga_lab.errors import InputError

TASKS = {
    "training": ("benchmarks.paper.training", "run"),
    "seconds": ("benchmarks.paper.training", "seconds_a_step"),
    "functions": ("benchmarks.paper.functions", "finished"),
}
"""Where each kind of case is run."""
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

QUIETLY_INTERRUPTED = (signal.SIGINT, signal.SIG_DFL)
"""What Ctrl-C does to the processes of a pool; this one says that it stopped."""

Runs = Callable[[Sequence[Description]], list[Finished]]
"""Gives the finished runs of some cases, in their order."""


def execute(case: Description) -> Finished:
    """Do one run; called in a process of its own."""
    module, name = TASKS[case["task"]]
    found: Finished = getattr(import_module(module), name)(case)
    return found


@contextmanager
def pool(store: Store, jobs: int) -> Iterator[Runs]:
    """Return what does the missing runs, each on one thread, and keeps them in a store.

    Parameters
    ----------
    store : Store
        What lies there is not run again.
    jobs : int
        Runs at a time.
    """
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    executor = ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=signal.signal, initargs=QUIETLY_INTERRUPTED
    )
    try:
        yield lambda cases: _runs(executor, store, cases)
    except BrokenProcessPool:
        raise InputError(
            "jobs: expected runs that fit in memory together, got one that was ended by the "
            "system; lower --jobs. Finished runs are kept"
        ) from None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _runs(
    executor: ProcessPoolExecutor, store: Store, cases: Sequence[Description]
) -> list[Finished]:
    missing = store.missing(cases)
    with _progress() as progress:
        bar = progress.add_task("", total=len(missing), completed=0)
        futures: dict[Future[Finished], Description] = {
            executor.submit(execute, case): case for case in missing
        }
        for future in as_completed(futures):
            case = futures[future]
            words = (case.get(k) for k in ("signal", "network", "optimizer", "method"))
            store.add(future.result())
            progress.update(bar, advance=1, description=" ".join(str(w) for w in words if w))
    return [store.read(case) for case in cases]


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:36.36}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console(stderr=True),
    )
