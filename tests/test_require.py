"""`python -m pytest --require`: a backend that is missing is not skipped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import missing

ROOT = Path(__file__).parent.parent
USAGE_ERROR = 4


def pytest_with(required, folder, **environment):
    """Collect a small test file; modules in `folder` hide installed ones."""
    return subprocess.run(
        [
            sys.executable, "-m", "pytest", "--require", required, "--collect-only", "-q",
            "-p", "no:cacheprovider", "tests/test_imports.py",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
    )  # fmt: skip


def refused(*arguments, **environment):
    done = pytest_with(*arguments, **environment)
    assert done.returncode == USAGE_ERROR, done.stdout
    assert "test_imports" not in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    return line


def test_what_is_here_is_accepted(tmp_path):
    here = [name for name in ("numpy", "array-api-strict", "torch") if not missing(name)]
    done = pytest_with(", ".join(here), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_imports" in done.stdout


@pytest.mark.parametrize("name", ["array-api-strict", "torch"])
def test_a_missing_backend_is_an_error(name, tmp_path):
    module = name.replace("-", "_")
    (tmp_path / f"{module}.py").write_text("raise ImportError('nothing here')")
    line = refused(f"numpy,{name}", tmp_path)
    assert f"--require: expected {name}, but {module} is not installed (nothing here)" in line


def test_no_gpu_is_an_error(tmp_path):
    line = refused("cuda", tmp_path, CUDA_VISIBLE_DEVICES="")
    assert "--require: expected cuda, but " in line
    (tmp_path / "cupy.py").write_text(
        "class runtime:\n"
        "    CUDARuntimeError = RuntimeError\n"
        "    getDeviceCount = staticmethod(lambda: 0)\n"
        "class cuda:\n"
        "    runtime = runtime\n"
    )
    line = refused("cupy", tmp_path)
    assert "--require: expected cupy, but cupy sees no CUDA device" in line


def test_an_unknown_name_is_an_error(tmp_path):
    line = refused("numpy,troch", tmp_path)
    assert "got 'troch'; did you mean 'torch'?" in line
