"""The array namespaces that every test of arrays runs on, what is slow, and `--require`."""

import contextlib
import difflib
import functools
import importlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from tests.support.selection import redundant

with contextlib.suppress(ImportError):  # without the extra `lab` its tests are not collected either
    from tests.support.drawing import undrawn  # noqa: F401

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=40)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@dataclass(frozen=True)
class Backend:
    """An array namespace, the device that its arrays shall stay on, and a float dtype."""

    xp: Any
    device: Any
    dtype: Any
    to_numpy: Callable[[Any], np.ndarray]

    frozen: bool = False

    def array(self, values: Any) -> Any:
        """Floats on this backend."""
        return self._made(values, self.dtype)

    def integers(self, values: Any) -> Any:
        return self._made(values, self.xp.int64)

    def _made(self, values: Any, dtype: Any) -> Any:
        array = self.xp.asarray(np.array(values), dtype=dtype, device=self.device)
        if self.frozen:
            array.flags.writeable = False
        return array

    @property
    def eps(self) -> float:
        return float(self.xp.finfo(self.dtype).eps)

    def check(self, array: Any) -> None:
        """Namespace, dtype and device must be those that went in."""
        assert array.dtype == self.dtype
        if self.device is not None:
            assert array.device == self.device
        assert type(array).__module__.partition(".")[0] == self.xp.__name__.rpartition(".")[2]


NAMES = ("numpy", "read-only-numpy", "array-api-strict", "torch", "torch-cuda", "cupy")
REQUIRABLE = ("numpy", "array-api-strict", "torch", "jax", "cupy", "cuda")


def module_of(name: str) -> str:
    """The module of a library, by the name that its cases bear."""
    return name.removeprefix("read-only-").removesuffix("-cuda").replace("-", "_")


@functools.cache
def missing(name: str) -> str:
    """Why a backend cannot be used here; empty where it can."""
    if name == "cuda":
        reasons = [missing("torch-cuda"), missing("cupy")]
        installed = [reason for reason in reasons if "not installed" not in reason]
        return ", ".join(filter(None, installed or reasons))
    library = module_of(name)
    try:
        module = importlib.import_module(library)
    except ImportError as error:
        return f"{library} is not installed ({error})"
    if name == "torch-cuda" and not module.cuda.is_available():
        return f"torch {module.__version__} sees no CUDA device"
    if name == "cupy":
        try:
            return "" if module.cuda.runtime.getDeviceCount() else "cupy sees no CUDA device"
        except module.cuda.runtime.CUDARuntimeError as error:
            return f"cupy sees no CUDA device ({error})"
    return ""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        default="",
        metavar="NAMES",
        help=f"fail unless these can be used, separated by commas: {', '.join(REQUIRABLE)}",
    )


def pytest_configure(config: pytest.Config) -> None:
    for name in filter(None, map(str.strip, config.getoption("--require").split(","))):
        if name not in REQUIRABLE:
            near = difflib.get_close_matches(name, REQUIRABLE, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "name one of them"
            raise pytest.UsageError(
                f"--require: expected one of {', '.join(REQUIRABLE)}, got {name!r}; {hint}"
            )
        if reason := missing(name):
            raise pytest.UsageError(f"--require: expected {name}, but {reason}")


@pytest.fixture(scope="session", autouse=True)
def _signals_as_in_a_terminal() -> None:
    """Hear the signals that `nohup` and a script's `&` have ignored, as do processes of tests."""
    for name, handler in (
        ("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL),
        ("SIGTERM", signal.SIG_DFL),
    ):  # fmt: skip
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in redundant(items):
        item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices on several threads only wait for each other; a benchmark may have set more."""
    if not missing("torch"):
        importlib.import_module("torch").set_num_threads(1)
    if missing("threadpoolctl"):
        yield
        return
    with importlib.import_module("threadpoolctl").threadpool_limits(1):
        yield


def _strict_to_numpy(array: Any) -> np.ndarray:
    import array_api_strict

    return np.asarray(array.to_device(array_api_strict.Device("CPU_DEVICE")))


def _make(name: str, dtype: str) -> Backend:
    name, _, place = name.partition("@")
    # CuPy's own functions do not take a device.
    xp = importlib.import_module("array_api_compat.cupy" if name == "cupy" else module_of(name))
    device, to_numpy = {
        "numpy": lambda: ("cpu", np.asarray),
        "read-only-numpy": lambda: ("cpu", np.asarray),
        "array-api-strict": lambda: (xp.Device(place or "device1"), _strict_to_numpy),
        "torch": lambda: (xp.device("cpu"), np.asarray),
        "torch-cuda": lambda: (xp.device("cuda:0"), lambda array: np.asarray(array.cpu())),
        "cupy": lambda: (importlib.import_module("cupy").cuda.Device(), lambda array: array.get()),
    }[name]()
    return Backend(xp, device, getattr(xp, dtype), to_numpy, name.startswith("read-only"))


collect_ignore = ["test_torch_cuda.py"] if missing("torch-cuda") else []

# Only what can be used here: a case that would be skipped on every run says nothing.
USABLE = [name for name in NAMES if not missing(name)]


CASES = [f"{name}-float64" for name in USABLE]
SINGLE = [f"{name}-float32" for name in USABLE if not name.startswith("read-only")]
if "array-api-strict" in USABLE:
    SINGLE.append("array-api-strict@no_float64-float32")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with every kernel that `iga_torch.IGA` makes."""
    from iga_torch.wrapper import Tangents

    calls: list[int] = []
    kernel = Tangents.kernel
    monkeypatch.setattr(Tangents, "kernel", lambda *a, **k: calls.append(1) or kernel(*a, **k))
    return calls


@contextlib.contextmanager
def strictly(name: str) -> Iterator[None]:
    """Let array-api-strict refuse, besides, shapes that depend on data."""
    if not name.startswith("array-api-strict"):
        yield
        return
    strict = importlib.import_module("array_api_strict")
    with strict.ArrayAPIStrictFlags(data_dependent_shapes=False, boolean_indexing=False):
        yield


@pytest.fixture(params=[*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SINGLE)])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    name, _, dtype = request.param.rpartition("-")
    with strictly(name):
        yield _make(name, dtype)


@pytest.fixture(params=USABLE)
def backend64(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with strictly(request.param):
        yield _make(request.param, "float64")
