"""Two processes that train together, in which a hang is a failure and not the end of the tests."""

import contextlib
import datetime
import faulthandler
import gc
import os
import tempfile
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

WAITING = 30
"""Seconds that a process waits for another one before it fails."""


def together(function, *args, processes=2, seconds=180):
    """What a function returns in each of some processes, called with the rank and arguments.

    It has to be found by its name in a module. What is raised in one is raised here.
    """
    with tempfile.TemporaryDirectory() as folder:
        context = torch.multiprocessing.get_context("spawn")
        given = [(rank, processes, folder, seconds, function, args) for rank in range(processes)]
        running = [context.Process(target=_inside, args=each) for each in given]
        for process in running:
            process.start()
        end = time.monotonic() + seconds
        for process in running:
            process.join(max(0, end - time.monotonic()))
        stuck = [rank for rank, process in enumerate(running) if process.is_alive()]
        for process in running:
            process.kill()
            process.join()
        stores = [path for path in Path(folder).iterdir() if not path.suffix]
        last = max(stores, key=lambda path: path.stat().st_mtime, default="nothing")
        found, errors = [], []
        for rank, process in enumerate(running):
            path = Path(folder, str(rank))
            if path.exists():
                error, result = torch.load(path, weights_only=False)
                found.append(result)
            elif rank in stuck:
                where = Path(folder, f"{rank}.where").read_text()
                error = f"process {rank} did not end within {seconds} s, behind {last}: {where}"
            else:
                error = f"process {rank} ended with {process.exitcode}, behind {last}"
            errors += [error] if error else []
    assert not errors, "\n".join(errors)
    return found


def _inside(rank, processes, folder, seconds, function, args):
    where = Path(folder, f"{rank}.where").open("w")  # noqa: SIM115  # as long as the process
    faulthandler.dump_traceback_later(0.5 * seconds, file=where)
    torch.set_num_threads(1)
    count = str(processes)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": count}
    # Trainers of others ask for these too, though the group that they find has met in a file.
    os.environ |= {"LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    error = result = None
    try:
        result = function(rank, folder, *args)
    except BaseException:
        error = f"process {rank}: {traceback.format_exc()}"
    torch.save((error, result), Path(folder, f"{rank}.part"))
    Path(folder, f"{rank}.part").rename(Path(folder, str(rank)))


@contextlib.contextmanager
def group(rank, processes, store):
    """Be one of a group of processes that meet in a file.

    No name may be left that holds a part of it: what dies behind it waits for a thread that waits
    for Python.
    """
    waiting, found = datetime.timedelta(seconds=WAITING), dist.FileStore(str(store), processes)
    found.set_timeout(waiting)
    dist.init_process_group("gloo", store=found, rank=rank, world_size=processes, timeout=waiting)
    try:
        yield
    finally:
        gc.collect()
        dist.destroy_process_group()
