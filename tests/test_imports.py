"""What an import may load: no framework before it is used, one process for all."""

import json
import subprocess
import sys

import pytest

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
            "iga_lab.metrics", "iga_lab.runs"]  # fmt: skip
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
