"""Processes that are killed, that meet in one folder, or are handed what no memory holds."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from iga_core import Network
from iga_lab.runs import folders, models
from iga_lab.signals import Form
from tests.support.forging import file_of
from tests.support.lab import FILES, TINY, names, result_of, same_models

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="there is no kill -9"),
]

COMMAND = [sys.executable, "-c", "from iga_lab.cli import main; main()"]
PEAK = """
import atexit
def peak():
    with open("/proc/self/status") as status:
        print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
atexit.register(peak)
from iga_lab.cli import main
main()
"""
"""Prints the kilobytes that it held at most, in its own life: `ru_maxrss` is that of a process's
parent too, which by the end of a suite is large."""
SAVING = """
from iga_lab.cli import main
from iga_lab.runs import course as courses
courses.CHECKPOINT_SECONDS, courses.CHECKPOINT_SHARE = 0.0, float("inf")
main()
"""
"""A checkpoint after every step, so that a kill at any moment mostly meets one being written."""
STEPPED = """
from pathlib import Path
from iga_lab.cli import main
from iga_lab.runs import course as courses
step = courses.Course.step
courses.Course.step = lambda course: (step(course), Path("stepped").touch())
main()
"""
KILLS, KILLED_STEPS = 20, 150


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PROCESSES.clear()
    yield
    for process in PROCESSES:
        if process.returncode is None:
            process.kill()
            process.communicate()


PROCESSES = []


def started(command, *arguments):
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    PROCESSES.append(process)
    return process


def until(happened, seconds=60):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def written(path):
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # between two renames
        return None


def goes_on(folder):
    return any((folder / name).exists() for name in (folders.CHECKPOINT, folders.BEFORE))


def test_twenty_kills_and_resumed_is_unbroken():
    """At moments anywhere in a process's life, its start and its end among them."""
    fit = ["fit", *TINY, "--steps", KILLED_STEPS]
    begun = time.monotonic()
    unbroken = started([sys.executable, "-c", SAVING], *fit, "--output", "unbroken")
    _, errors = unbroken.communicate(timeout=100)
    assert unbroken.returncode == 0, errors
    whole = time.monotonic() - begun
    chance = random.Random(5)
    kills, run, ended = 0, 0, True
    while kills < KILLS or not ended:
        run += ended
        folder = Path(f"run{run}")
        # Killed before it had anything to go on from, it is begun again.
        again = goes_on(folder)
        arguments = ["fit", "--resume", folder] if again else [*fit, "--output", folder]
        process = started([sys.executable, "-c", SAVING], *arguments)
        try:
            process.communicate(timeout=chance.uniform(0, whole) if kills < KILLS else 100)
        except subprocess.TimeoutExpired:
            process.kill()
        _, errors = process.communicate(timeout=10)
        assert "Traceback" not in errors
        if process.returncode == -signal.SIGKILL:
            kills += 1
            # It may have been at its very end, with nothing left to do.
            ended = (folder / folders.RESULT).exists() and not goes_on(folder)
            if not ended:
                continue
        else:
            assert process.returncode == 0, errors
            assert names(folder) == FILES
            ended = True
        assert result_of(folder)["methods"]["iga"]["steps"] == KILLED_STEPS
        same_models(folder, Path("unbroken"))
        for method in ("plain", "iga"):
            file = f"model-{method}.safetensors"
            assert Path(folder, file).read_bytes() == Path("unbroken", file).read_bytes()


def test_two_processes_in_one_folder():
    fit = ["fit", *TINY, "--steps", 10**6, "--output", "run"]
    first = started(COMMAND, *fit)
    until(Path("run", folders.CHECKPOINT).exists)
    before = Path("run", folders.CHECKPOINT).read_bytes()
    for arguments, said in (
        (fit, "holds another run"),
        (["fit", "--resume", "run"], "in which another `iga fit` is at work"),
    ):
        second = started(COMMAND, *arguments)
        _, errors = second.communicate(timeout=60)
        assert second.returncode == 2
        (line,) = errors.splitlines()
        assert "'run'" in line
        assert said in line
    assert Path("run", folders.CHECKPOINT).read_bytes() == before
    first.kill()
    first.communicate(timeout=10)
    # The lock is gone with its process, and what was left there is no obstacle.
    third = started([sys.executable, "-c", STEPPED], "fit", "--resume", "run")
    until(Path("stepped").exists)
    third.send_signal(signal.SIGINT)
    _, errors = third.communicate(timeout=60)
    assert third.returncode == 130, errors
    assert result_of(Path("run"))["status"] == "interrupted"


@pytest.mark.parametrize("named", [True, False])
def test_processes_that_start_together(named):
    fit = ["fit", *TINY, "--steps", 20, "--method", "plain"]
    together = [started(COMMAND, *fit, *["--output", "run"] * named) for _ in range(3)]
    ends = [(process.communicate(timeout=100), process.returncode) for process in together]
    refused = [errors for (_, errors), code in ends if code == 2]
    assert sum(code == 0 for _, code in ends) == (1 if named else 3)
    assert all(len(errors.splitlines()) == 1 and "'run'" in errors for errors in refused)
    made = [Path("run")] if named else list(folders.RUNS.iterdir())
    assert len(made) == (1 if named else 3)
    for folder in made:
        assert names(folder) == FILES - {"model-iga.safetensors"}


def _large(hole):
    """A header of an honest network, whose arrays are a hole or nothing."""
    network = Network("relu", width=40_000, depth=2).folded
    entries, end = {}, 0
    for k, shape in enumerate(network.shapes):
        begin, end = end, end + 4 * int(np.prod(shape))
        name = f"layers.{k // 2}.{'bias' if k % 2 else 'weight'}"
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    small = Network("relu", width=4, depth=2).folded
    arrays = [np.zeros(shape, np.float32) for shape in small.shapes]
    start = bytes(models.model_file(models.Model(small, arrays, Form("image", (8, 8), 3)), {})[0])
    words = start[start.index(b'"__metadata__":') + 15 : start.index(b"},") + 1]
    words = words.replace(rb"\"width\": 4", rb"\"width\": 40000")
    content = file_of(b'{"__metadata__":%s,%s' % (words, json.dumps(entries).encode()[1:]))
    with Path("model").open("wb") as file:
        file.write(content)
        if hole:
            file.truncate(len(content) + end)


def _touched(name):
    Path(name).touch()
    return name


HOSTILE = {
    "a hole of 6 GB": lambda: _large(True),
    "cut after its header": lambda: _large(False),
    "a hole of 30 GB": lambda: os.truncate(_touched("model"), 30 * 10**9),
    "a million empty arrays": lambda: Path("model").write_bytes(
        file_of({str(k): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(10**6)})
    ),
    "as many as are read": lambda: Path("model").write_bytes(
        file_of({str(k): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(10**5)})
    ),
    "deep": lambda: Path("model").write_bytes(file_of(b"[" * 16_000_000)),
    "wide": lambda: Path("model").write_bytes(file_of(b"[" + b"[]," * 5_000_000 + b"1]")),
    "an endless device": lambda: Path("model").symlink_to("/dev/zero"),
}  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("command", ["render", "resume"])
def test_what_no_memory_holds(make, command):
    make()
    arguments = ["render", "model"]
    if command == "resume":
        Path("run").mkdir()
        Path("model").rename(Path("run", folders.CHECKPOINT))
        arguments = ["fit", "--resume", "run"]
    before = {path: path.lstat().st_mtime_ns for path in Path().rglob("*")}
    started_at = time.monotonic()
    process = started([sys.executable, "-c", PEAK], *arguments)
    output, errors = process.communicate()
    assert process.returncode == 2
    (line,) = errors.splitlines()
    assert line.startswith("Error: ")
    assert int(output) < 10**6
    assert time.monotonic() - started_at < 60  # 20 s where nothing else runs
    assert {path: path.lstat().st_mtime_ns for path in Path().rglob("*")} == before


# signals

IGA = [sys.executable, "-m", "iga_lab"]
LONG_RUN = ["fit", *TINY, "--steps", 10**6, "--method", "plain", "--output", "run"]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def begun(*prefix):
    """Start a run, and wait until it trains."""
    process = started([*prefix, *IGA], *LONG_RUN)
    until(Path("run", folders.CHECKPOINT).exists)
    time.sleep(0.3)
    return process


@pytest.mark.parametrize("number", CODES)
def test_signals_end_a_run_with_its_results(number):
    process = begun()
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == CODES[number], errors
    assert "Traceback" not in errors
    assert "Continue with  iga fit --resume run" in output
    result = result_of(Path("run"))
    assert result["status"] == "interrupted"
    steps = result["methods"]["plain"]["steps"]
    assert names("run") >= FILES - {"model-iga.safetensors"}
    # What was trained until the signal is not lost.
    resumed = started(IGA, "fit", "--resume", "run")
    time.sleep(2)
    resumed.send_signal(number)
    _, errors = resumed.communicate(timeout=60)
    assert resumed.returncode == CODES[number], errors
    assert result_of(Path("run"))["methods"]["plain"]["steps"] >= steps


def test_timeout_sends_its_signal_twice():
    process = started(["timeout", "4", *IGA], *LONG_RUN)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 124, errors
    assert "Continue with  iga fit --resume run" in output, errors


def test_nohup_outlives_its_terminal():
    process = begun("nohup")
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors


@pytest.mark.parametrize("number", CODES)
def test_a_terminal_that_is_gone_loses_no_run(number):
    """Its streams fail then, bars are drawn in it, and a signal says so."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*IGA, *map(str, LONG_RUN)], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )  # fmt: skip
    os.close(theirs)
    until(Path("run", folders.CHECKPOINT).exists)
    time.sleep(1)
    os.close(ours)
    process.send_signal(number)
    assert process.wait(timeout=60) in (CODES[number], 1)
    assert result_of(Path("run"))["status"] == "interrupted"


def caught(pid, number):
    """Whether a process has a handler of a signal; before, Python itself starts up."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return int(mask, 16) >> (number - 1) & 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it is read what is caught")
@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("command", [["--help"], ["backends"], LONG_RUN])
def test_a_signal_in_the_first_moments_says_no_more_than_that(number, command):
    chance = random.Random(number)
    for _ in range(8):
        process = started(IGA, *command)
        until(lambda process=process: caught(process.pid, signal.SIGTERM))
        time.sleep(chance.uniform(0, 0.6))
        process.send_signal(number)
        try:
            _, errors = process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            # An import may swallow what is raised inside a callback of its own: a person asks again.
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        # By the signal itself, where Python has taken its handlers down at the end.
        assert process.returncode in (0, CODES[number], -number), errors
        assert "Traceback" not in errors
        assert "Error" not in errors
        shutil.rmtree("run", ignore_errors=True)
