"""The command `iga` in this process: small fits, what they leave, and what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import trimesh
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.numpy import load_file
from scipy.io import wavfile

from iga_lab.cli import main
from iga_lab.runs import course as courses

STEPS = 24
TINY = ["--size", "16", "--width", "8", "--depth", "2", "--patch", "4"]
FILES = {
    "comparison.png",
    "curves.csv",
    "curves.png",
    "model-iga.safetensors",
    "model-plain.safetensors",
    "result.json",
    "spectrum.png",
}
UNFINISHED = {"checkpoint.safetensors", ".iga-run"}
"""What the folder of a run holds from its start to its end; after a while the checkpoint before."""


def iga(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def fit(folder, *arguments, steps=STEPS):
    return iga("fit", *TINY, "--steps", steps, "--output", folder, *arguments)


def names(folder):
    return {path.name for path in Path(folder).iterdir()}


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def rows_of(folder, method):
    with (folder / "curves.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["method"] == method]


def step_hook(monkeypatch, method, step, action):
    """Do something after a method's step."""
    original = courses.Course.step

    def hooked(course):
        original(course)
        if course.name == method and len(course.losses) == step:
            action()

    monkeypatch.setattr(courses.Course, "step", hooked)


def saved_often(monkeypatch):
    """Have a checkpoint written after every step, however long it takes."""
    monkeypatch.setattr(courses, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(courses, "CHECKPOINT_SHARE", np.inf)


def same_models(one, other):
    for method in ("plain", "iga"):
        ours = load_file(one / f"model-{method}.safetensors")
        theirs = load_file(other / f"model-{method}.safetensors")
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])
        losses = [[row["loss"] for row in rows_of(folder, method)] for folder in (one, other)]
        assert losses[0] == losses[1]


def tree(folder):
    return {path: path.lstat().st_mtime_ns for path in Path(folder).rglob("*")}


def refuse(*arguments):
    """Run a command that must be refused, and return what it says."""
    before = tree(".")
    outcome = iga(*arguments)
    assert outcome.exit_code == 2, outcome.output
    assert outcome.stdout == ""
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("Error: ")
    # Ours say what was expected and what came, click's what is not among what may come.
    assert any(words in line for words in (" got ", "No such", " is not ", "Missing"))
    assert tree(".") == before
    return line


def metadata_of(path):
    with safe_open(path, framework="numpy") as file:
        return file.metadata()


RATE = 8000
KINDS = ("function", "sound", "volume", "shape")
"""Of signals, beside pictures."""


def signal_of(kind):
    """Make a signal of a kind here; the options that fit it, and the ending of what is written."""
    if kind == "image":
        return ["astronaut", "--size", "16", "--patch", "4"], None
    if kind == "function":
        return ["sines:2,5", "--size", "64", "--patch", "8"], None
    if kind == "sound":
        wavfile.write("sound.wav", RATE, np.sin(np.arange(200) ** 1.3 / 9).astype(np.float32))
        return ["sound.wav", "--size", "128", "--patch", "8"], ".wav"
    if kind == "volume":
        z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in (5, 6, 8)), indexing="ij")
        np.save("volume.npy", x * y + (1 - x) * z)
        return ["volume.npy", "--patch", "2", "--batch", "5"], ".npy"
    trimesh.creation.box([1, 1.5, 2]).export("box.stl")
    return ["box.stl", "--size", "8", "--patch", "2", "--batch", "16"], ".ply"
