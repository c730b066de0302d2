"""How much memory there is, and a refusal before work that would take more."""

import os
import re
from pathlib import Path

from iga_lab.errors import InputError


def require_memory(name: str, needed: int, what: str, remedy: str) -> None:
    """Raise if `needed` bytes are more than this machine has free."""
    available = available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"{name}: expected to fit in {readable(available)} of free memory, got {what}, "
            f"which takes {readable(needed)}; {remedy}"
        )


def is_out_of_memory(error: Exception) -> bool:
    """Whether an array library says that memory, the host's or a device's, is exhausted."""
    # By name: PyTorch and CuPy have a type each, and neither may be imported for this.
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def available_memory() -> int | None:
    """Return the bytes a new array may take, or None where the system does not say."""
    # Inside a container /proc/meminfo is the host's, so the smaller of the two counts.
    limits = [_free_in_group()]
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        limits.append(1024 * int(re.findall(r"MemAvailable:\s+(\d+) kB", text)[0]))
    except (OSError, IndexError):
        limits.append(physical_memory())
    return min((limit for limit in limits if limit is not None), default=None)


def readable(size: int) -> str:
    """Return a number of bytes in decimal units."""
    # Decimal, as disks and `free --si` count; a size that someone typed may have any magnitude.
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} TB" if value < 1e6 else f"{value:.1e} TB"


def physical_memory() -> int | None:
    """Return the bytes of the machine, or None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _free_in_group() -> int | None:
    """Free bytes under the limit of a container (cgroup v2)."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = (folder / "memory.current").read_text(encoding="ascii").strip()
        return None if limit == "max" else max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return None
