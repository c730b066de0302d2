import subprocess
import sys

PROBE = """
import sys
before = set(sys.modules)
import {package}
loaded = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(" ".join(sorted(loaded & set("torch cupy jax tensorflow scipy skimage matplotlib".split()))))
"""


def loaded_by(package):
    code = PROBE.format(package=package)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_core_loads_no_framework():
    assert loaded_by("iga_core") == []


def test_the_backend_and_the_command_load_nothing_before_it_is_used():
    assert loaded_by("iga_array") == []
    assert loaded_by("iga_lab.cli") == []
