"""`python -m pytest --require`: a backend that is missing is not skipped."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import conftest
from tests.conftest import missing

ROOT = Path(__file__).parent.parent
USAGE_ERROR = 4


@pytest.fixture(autouse=True)
def _asked_anew():
    missing.cache_clear()
    yield
    missing.cache_clear()


def configured(required):
    conftest.pytest_configure(SimpleNamespace(getoption={"--require": required}.get))


def refused(required):
    with pytest.raises(pytest.UsageError) as raised:
        configured(required)
    return str(raised.value)


def test_what_is_here_is_accepted():
    configured(", ".join(n for n in ("numpy", "array-api-strict", "torch") if not missing(n)))


@pytest.mark.parametrize("name", ["array-api-strict", "torch"])
def test_a_missing_backend_is_an_error(name, monkeypatch):
    module = name.replace("-", "_")
    monkeypatch.setitem(sys.modules, module, None)
    line = refused(f"numpy,{name}")
    assert f"--require: expected {name}, but {module} is not installed (import of" in line


def test_no_gpu_is_an_error(monkeypatch):
    cuda = SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, __version__="2"))
    runtime = SimpleNamespace(CUDARuntimeError=RuntimeError, getDeviceCount=lambda: 0)
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert refused("cupy") == "--require: expected cupy, but cupy sees no CUDA device"
    assert refused("cuda").startswith("--require: expected cuda, but torch 2 sees no CUDA device")


def test_an_unknown_name_is_an_error():
    assert "got 'troch'; did you mean 'torch'?" in refused("numpy,troch")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("numpy", 0), ("numpy,troch", USAGE_ERROR)])
def test_a_whole_call_says_it_in_one_line(name, code):
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "--require", name, "--collect-only", "-q",
            "-p", "no:cacheprovider", "tests/test_imports.py",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert ("test_imports" in done.stdout) == (code == 0)
    said = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(said) == (code != 0)
