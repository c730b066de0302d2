"""The machine: its array libraries and their devices. A framework is imported when asked for."""

import functools
import gc
import importlib.util
import os
import platform
import re
import warnings
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError, unknown
from iga_lab.memory import physical_memory

BACKENDS = ("numpy", "cupy", "torch")
INSTALL = {
    "lab": 'pip install "iga-core[lab]"',
    "cupy": 'pip install "iga-core[cupy]"',
    "torch": 'pip install "iga-core[torch]"',
    "measures": 'pip install "iga-core[measures]"',
    "test": 'pip install "iga-core[test]"',
}
LAB_MODULES = (
    "click", "matplotlib", "PIL", "rich", "scipy", "skimage", "threadpoolctl", "trimesh",
)  # fmt: skip


@dataclass(frozen=True)
class Usable:
    """Whether an array library can be used here."""

    name: str
    version: str
    devices: tuple[str, ...]
    note: str
    """What it is for, or how to make it usable."""


def require_lab() -> None:
    """Raise unless every library of the extra `lab` is installed."""
    missing = [name for name in LAB_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{', '.join(missing)}: expected to be installed, got nothing; run {INSTALL['lab']}"
        )


def array_library(backend: str, device: str | None) -> tuple[Any, Any, str]:
    """Return the namespace of a backend, the device there, and the device's name.

    Parameters
    ----------
    backend : {"numpy", "cupy", "torch"}
        Imported only now.
    device : str, optional
        ``"cpu"`` for numpy and torch; ``"cuda:0"``, ``"cuda:1"``, ... for cupy and torch, of which
        ``"cuda"`` is the first; by default the backend's first.

    Raises
    ------
    InputError
        If either is not to be had here.
    """
    if backend == "numpy":
        if device not in (None, "cpu"):
            raise InputError(
                f"device: expected 'cpu' for numpy, got {device!r}; "
                "choose --backend cupy or --backend torch"
            )
        return np, "cpu", "cpu"
    if backend == "cupy":
        index = _cuda_index(device or "cuda", _cupy_devices())
        import cupy

        chosen = cupy.cuda.Device(index)
        chosen.use()
        return cupy, chosen, f"cuda:{index}"
    if backend == "torch":
        torch, name = _torch(), "cpu"
        if device is not None and device != "cpu":
            name = f"cuda:{_cuda_index(device, _torch_devices(torch))}"
        return torch, torch.device(name), name
    raise unknown("backend", backend, BACKENDS)


def to_host(array: Any) -> NDArray[Any]:
    """Return an array of any backend as a NumPy array in C order."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
    return np.asarray(array.get() if hasattr(array, "get") else array, order="C")


def backends() -> list[Usable]:
    """Return what can be used here, in the order of `BACKENDS`, and what else there is."""
    return [
        Usable("numpy", np.__version__, (f"cpu ({_cores()} cores)",), "iga fit --backend numpy"),
        _usable_cupy(),
        _usable_torch(),
        _strict(),
    ]


def machine(backend: str, device: str) -> dict[str, object]:
    """Return what a result should say about where it was made."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": _cores(),
        "memory_bytes": physical_memory(),
        "device": device if device == "cpu" else f"{device} {_cuda_name(backend, device)}",
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of every distribution that takes part."""
    names = (
        "iga-core", "array-api-compat", "numpy", "cupy", "click", "matplotlib", "pillow",
        "rich", "scikit-image", "scipy", "threadpoolctl", "torch", "trimesh",
    )  # fmt: skip
    found = {"python": platform.python_version()}
    for name in names:
        number = _cupy_version() if name == "cupy" else version(name)
        if number:
            found[name] = number
    return found


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return str(re.findall(r"model name\s*: (.*)", text)[0])
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def version(distribution: str) -> str:
    """Return the version of what is installed, or nothing."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _cuda_index(device: str, names: list[str]) -> int:
    """Return the number of a CUDA device, of which there are `names`."""
    match = re.fullmatch(r"cuda|(?:cuda:)?(\d+)", device)
    index = int(match[1] or 0) if match else len(names)
    if index < len(names):
        return index
    if names:
        expected, remedy = f"cuda:0 to cuda:{len(names) - 1}", "see `iga backends`"
    else:
        expected = "cpu, there being no CUDA device"
        remedy = "choose --device cpu, or install a PyTorch that can use your GPU"
    raise InputError(f"device: expected {expected}, got {device!r}; {remedy}")


def _cupy_devices() -> list[str]:
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except ImportError:
        raise InputError(
            f"cupy: expected to be installed, got nothing that loads; run {INSTALL['cupy']}, "
            "or choose --backend numpy"
        ) from None
    except Exception as error:  # cupy raises its own type, which needs cupy to be named
        raise InputError(
            f"cupy: expected a CUDA device, got {_one_line(error)}; choose --backend numpy"
        ) from None
    if count == 0:
        raise InputError("cupy: expected a CUDA device, got none; choose --backend numpy")
    properties = [cupy.cuda.runtime.getDeviceProperties(index) for index in range(count)]
    return [p["name"].decode() for p in properties]


def _torch() -> Any:
    collects = gc.isenabled()
    try:
        # An import makes many objects, which all stay. To look for garbage among them again and
        # again took a seventh of its processor time, and `iga backends` does little else.
        gc.disable()
        import torch
    except (ImportError, OSError):
        raise InputError(
            f"torch: expected to be installed, got nothing that loads; run {INSTALL['torch']}, "
            "or choose --backend numpy"
        ) from None
    finally:
        if collects:
            gc.enable()
    return torch


def _torch_devices(torch: Any) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a driver that is missing or too old
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_name(index) for index in range(count)]


def _cuda_name(backend: str, device: str) -> str:
    names = _cupy_devices() if backend == "cupy" else _torch_devices(_torch())
    return names[int(device.removeprefix("cuda:"))]


def _usable_cupy() -> Usable:
    if importlib.util.find_spec("cupy") is None:
        return Usable("cupy", "", (), f"not installed: {INSTALL['cupy']}")
    try:
        devices = _numbered(_cupy_devices())
    except InputError as error:
        return Usable("cupy", _cupy_version(), (), f"not usable: {error}")
    return Usable("cupy", _cupy_version(), devices, "iga fit --backend cupy")


def _usable_torch() -> Usable:
    if importlib.util.find_spec("torch") is None:
        return Usable("torch", "", (), f"not installed: {INSTALL['torch']}")
    try:
        torch = _torch()
    except InputError as error:
        return Usable("torch", version("torch"), (), f"not usable: {error}")
    cuda = _torch_devices(torch)
    devices = (f"cpu ({torch.get_num_threads()} threads)", *_numbered(cuda))
    note = "iga fit --backend torch" + (" --device cuda" if cuda else "")
    return Usable("torch", str(torch.__version__), devices, note)


def _numbered(names: list[str]) -> tuple[str, ...]:
    return tuple(f"cuda:{index} ({name})" for index, name in enumerate(names))


@functools.cache  # it looks at all that is installed, and every file of a run asks
def _cupy_version() -> str:
    """Return it without loading the library; its distribution is named by the CUDA version."""
    found = metadata.packages_distributions().get("cupy", [])
    return version(found[0]) if found else ""


def _strict() -> Usable:
    found = version("array-api-strict")
    note = "for tests of the array API only"
    if not found:
        return Usable("array-api-strict", "", (), f"{note}, not installed: {INSTALL['test']}")
    return Usable("array-api-strict", found, ("cpu",), note)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
