"""The array namespaces that every test of arrays runs on."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import array_api_strict
import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=40)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@dataclass(frozen=True)
class Backend:
    """An array namespace, the device that its arrays shall stay on, and a float dtype."""

    xp: Any
    device: Any
    dtype: Any
    to_numpy: Callable[[Any], np.ndarray]

    def array(self, values: Any) -> Any:
        """Floats on this backend."""
        return self.xp.asarray(np.asarray(values), dtype=self.dtype, device=self.device)

    def integers(self, values: Any) -> Any:
        return self.xp.asarray(np.asarray(values), dtype=self.xp.int64, device=self.device)

    @property
    def eps(self) -> float:
        return float(self.xp.finfo(self.dtype).eps)

    def check(self, array: Any) -> None:
        """Namespace, dtype and device must be those that went in."""
        assert array.dtype == self.dtype
        if self.device is not None:
            assert array.device == self.device
        assert type(array).__module__.partition(".")[0] == self.xp.__name__


def _cupy_reason() -> str | None:
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    import cupy

    try:
        return None if cupy.cuda.runtime.getDeviceCount() else "no CUDA device"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA device: {error}"


def _strict_to_numpy(array: Any) -> np.ndarray:
    return np.asarray(array.to_device(array_api_strict.Device("CPU_DEVICE")))


def _make(name: str, dtype: str) -> Backend:
    if name == "numpy":
        return Backend(np, "cpu", getattr(np, dtype), np.asarray)
    if name == "array-api-strict":
        device = array_api_strict.Device("device1")
        return Backend(array_api_strict, device, getattr(array_api_strict, dtype), _strict_to_numpy)
    reason = _cupy_reason()
    if reason:
        pytest.skip(reason)
    import cupy

    return Backend(cupy, cupy.cuda.Device(), getattr(cupy, dtype), cupy.asnumpy)


NAMES = ("numpy", "array-api-strict", "cupy")


@pytest.fixture(params=[f"{n}-{d}" for n in NAMES for d in ("float64", "float32")])
def backend(request: pytest.FixtureRequest) -> Backend:
    name, _, dtype = request.param.rpartition("-")
    return _make(name, dtype)


@pytest.fixture(params=NAMES)
def backend64(request: pytest.FixtureRequest) -> Backend:
    return _make(request.param, "float64")
