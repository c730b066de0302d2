"""What may import what: no framework before it is used, and of the lab no room one behind it."""

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import iga_lab

LARGE = [
    "torch",
    "cupy",
    "jax",
    "tensorflow",
    "scipy",
    "skimage",
    "matplotlib",
    "trimesh",
    "pytorch_msssim",
]
PACKAGES = ["iga_core", "iga_array", "iga_core.testing", "iga_array.conformance", "iga_lab.cli",
            "iga_lab.metrics", "iga_lab.runs.run"]  # fmt: skip
PROBE = """
import importlib, json, sys
found = {}
for name in sys.argv[1].split():
    importlib.import_module(name)
    found[name] = [large for large in sys.argv[2].split() if large in sys.modules]
print(json.dumps(found))
"""


def probed(packages, large):
    """After each import, in this order: what the first ones load counts for all later ones."""
    command = [sys.executable, "-c", PROBE, " ".join(packages), " ".join(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def loaded():
    return probed(PACKAGES, LARGE)


@pytest.mark.parametrize("name", PACKAGES)
def test_nothing_large_is_loaded_before_it_is_used(name, loaded):
    assert loaded[name] == []


@pytest.mark.slow
def test_trainers_of_others_are_loaded_where_they_are_asked_for():
    trainers = ["lightning", "pytorch_lightning", "accelerate"]
    found = probed(["iga_torch", "iga_torch.callback", "iga_torch.lightning"], trainers)
    assert found["iga_torch"] == found["iga_torch.callback"] == []
    assert "lightning" in found["iga_torch.lightning"]


ROOMS = ["errors", "memory", "hardware", "files", "signals", "settings", "metrics", "figures",
         "runs", "validation", "cli", "__main__"]  # fmt: skip
"""Of the lab, from the ground up: each may know those before it, and none behind it."""
LAB = Path(iga_lab.__file__).parent


def modules():
    """Every module of the lab by its path, with the modules of the lab that it imports anywhere."""
    names = {}
    for path in LAB.rglob("*.py"):
        parts = path.relative_to(LAB.parent).with_suffix("").parts
        names[".".join(part for part in parts if part != "__init__")] = path
    found = {}
    for name, path in names.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & set(names)
            elif isinstance(node, ast.ImportFrom) and node.module in names:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                # What is no module of its own is the package's.
                found[name] |= (inner & set(names)) or {node.module}
    return found


def room(module):
    return module.split(".")[1]


def test_the_lab_has_rooms_whose_arrows_point_one_way():
    found = modules()
    del found["iga_lab"]
    assert {room(name) for name in found} == set(ROOMS)
    for name, imported in found.items():
        behind = {other for other in imported if ROOMS.index(room(other)) > ROOMS.index(room(name))}
        assert not behind, f"{name} imports {behind}, which lies behind it"


def test_no_module_of_the_lab_imports_itself_by_a_detour():
    TopologicalSorter(modules()).prepare()  # raises CycleError, which names the circle


def test_what_lies_below_does_not_know_the_lab():
    for folder in (LAB.parent / "iga_core", LAB.parent / "backends"):
        for path in folder.rglob("*.py"):
            assert "iga_lab" not in path.read_text(encoding="utf-8"), path
