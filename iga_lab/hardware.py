"""The machine: its array libraries, their devices, and its memory."""

import importlib.util
import os
import platform
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError, unknown

BACKENDS = ("numpy", "cupy")
INSTALL = {
    "lab": 'pip install "iga-core[lab]"',
    "cupy": 'pip install "iga-core[cupy]"',
    "test": 'pip install "iga-core[test]"',
}
LAB_MODULES = ("click", "matplotlib", "PIL", "rich", "safetensors", "skimage", "threadpoolctl")


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
    backend : {"numpy", "cupy"}
        Imported only now.
    device : str, optional
        ``"cpu"`` for numpy; ``"cuda:0"``, ``"cuda:1"``, ... for cupy; the first by default.

    Raises
    ------
    InputError
        If either is not to be had here.
    """
    if backend == "numpy":
        if device not in (None, "cpu"):
            raise InputError(
                f"device: expected 'cpu' for numpy, got {device!r}; choose --backend cupy"
            )
        return np, "cpu", "cpu"
    if backend != "cupy":
        raise unknown("backend", backend, BACKENDS)
    count = len(_cuda_devices())
    match = re.fullmatch(r"(?:cuda:)?(\d+)", device or "cuda:0")
    if match is None or int(match[1]) >= count:
        raise InputError(
            f"device: expected cuda:0 to cuda:{count - 1}, got {device!r}; see `iga backends`"
        )
    import cupy

    chosen = cupy.cuda.Device(int(match[1]))
    chosen.use()
    return cupy, chosen, f"cuda:{match[1]}"


def to_host(array: Any) -> NDArray[Any]:
    """Return an array of any backend as a NumPy array in C order."""
    return np.asarray(array.get() if hasattr(array, "get") else array, order="C")


def backends() -> list[Usable]:
    """Return what can be used here, in the order of `BACKENDS`, and what else there is."""
    return [
        Usable("numpy", np.__version__, (f"cpu ({_cores()} cores)",), "iga fit --backend numpy"),
        _cupy(),
        _strict(),
    ]


def machine(backend: str, device: str) -> dict[str, object]:
    """Return what a result should say about where it was made."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": _cores(),
        "memory_bytes": _physical_memory(),
        "device": device if backend == "numpy" else f"{device} {_cuda_name(device)}",
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of every distribution that takes part."""
    names = (
        "iga-core", "array-api-compat", "numpy", "cupy", "click", "matplotlib", "pillow",
        "rich", "safetensors", "scikit-image", "threadpoolctl",
    )  # fmt: skip
    found = {"python": platform.python_version()}
    for name in names:
        version = _cupy_version() if name == "cupy" else _version(name)
        if version:
            found[name] = version
    return found


def require_memory(name: str, needed: int, what: str, remedy: str) -> None:
    """Raise if `needed` bytes are more than this machine has free."""
    available = available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"{name}: expected to fit in {readable(available)} of free memory, got {what}, "
            f"which takes {readable(needed)}; {remedy}"
        )


def available_memory() -> int | None:
    """Return the bytes a new array may take, or None where the system does not say."""
    limits = [_free_in_group()]
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        limits.append(1024 * int(re.findall(r"MemAvailable:\s+(\d+) kB", text)[0]))
    except (OSError, IndexError):
        limits.append(_physical_memory())
    return min((limit for limit in limits if limit is not None), default=None)


def readable(size: int) -> str:
    """Return a number of bytes in decimal units."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} TB" if value < 1e6 else f"{value:.1e} TB"


def _free_in_group() -> int | None:
    """Free bytes under the limit of a container (cgroup v2)."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = (folder / "memory.current").read_text(encoding="ascii").strip()
        return None if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return None


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


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


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _cuda_devices() -> list[str]:
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
    return [f"cuda:{i} ({p['name'].decode()})" for i, p in enumerate(properties)]


def _cuda_name(device: str) -> str:
    name = _cuda_devices()[int(device.removeprefix("cuda:"))]
    return name.partition("(")[2].rstrip(")")


def _cupy() -> Usable:
    if importlib.util.find_spec("cupy") is None:
        return Usable("cupy", "", (), f"not installed: {INSTALL['cupy']}")
    try:
        devices = tuple(_cuda_devices())
    except InputError as error:
        return Usable("cupy", _cupy_version(), (), f"not usable: {error}")
    return Usable("cupy", _cupy_version(), devices, "iga fit --backend cupy")


def _cupy_version() -> str:
    """Return it without loading the library; its distribution is named by the CUDA version."""
    found = metadata.packages_distributions().get("cupy", [])
    return _version(found[0]) if found else ""


def _strict() -> Usable:
    version = _version("array-api-strict")
    note = "for tests of the array API only"
    if not version:
        return Usable("array-api-strict", "", (), f"{note}, not installed: {INSTALL['test']}")
    return Usable("array-api-strict", version, ("cpu",), note)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
