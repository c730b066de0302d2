"""Tiles of cache size, worked through on several threads; no result depends on either.

A tile is some of a step's points that are evaluated at once. Consecutive tiles form a share, which
one thread works through in order: sums over shares do not depend on the threads' timing.
"""

import contextlib
import ctypes
import functools
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy
from array_api_compat import is_numpy_array

from iga_core.arrays import Array, on_host, require_count

HOST_LAYER_BYTES = 2**21
ACCELERATOR_LAYER_BYTES = 2**28
"""Activations of a hidden layer in one tile: what a core's cache holds, or what fills a GPU."""

Item = TypeVar("Item")
Result = TypeVar("Result")

_ONE_RUN_AT_A_TIME = threading.Lock()


@dataclass
class Sums:
    """What some tiles add up to."""

    error: Array = 0
    gradients: list[Array] | None = None

    def __iadd__(self, later: "Sums") -> "Sums":
        """Add tiles that follow."""
        self.error = self.error + later.error
        if self.gradients is None:
            self.gradients = later.gradients
        elif later.gradients is not None:
            # In place where arrays can be changed, and right where they cannot.
            self.gradients = list(map(operator.iadd, self.gradients, later.gradients))
        return self


def total(parts: Iterable[Sums]) -> Sums:
    """Add up tiles, in their order."""
    return functools.reduce(operator.iadd, parts, Sums())


def rows_of_a_tile(width: int, like: Array) -> int:
    """Return how many points a tile has, of layers of this width in the arrays' dtype."""
    budget = HOST_LAYER_BYTES if on_host(like) else ACCELERATOR_LAYER_BYTES
    return max(1, budget // (width * int(like.dtype.itemsize if is_numpy_array(like) else 4)))


class Workers:
    """Threads that work through shares of tiles.

    Parameters
    ----------
    count : int, optional
        By default one a core for NumPy arrays, where threadpoolctl is installed to give each one
        thread of the linear algebra library, else 1.
    like : array
        Of the signal's library.
    """

    def __init__(self, count: int | None, like: Array) -> None:
        self._blas = _blas_of(like)
        if count is None:
            libraries = () if self._blas is None else self._blas.lib_controllers
            count = max((library.num_threads for library in libraries), default=1)
        self.count = require_count("workers", count, 1)
        # A share keeps to its thread, and so to memory that this thread has touched before.
        self._pools = [ThreadPoolExecutor(1) for _ in range(self.count)] if self.count > 1 else []
        if is_numpy_array(like):
            _keep_freed_memory()

    def shares(self, items: Sequence[Item]) -> list[list[Item]]:
        """Cut a list into as many nearly equal shares as there are workers, none empty."""
        count = min(self.count, len(items))
        return [[items[k] for k in part] for part in numpy.array_split(range(len(items)), count)]

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Keep the linear algebra library from adding threads to ours, one run at a time.

        For all of a step: threads that it keeps would spin, beside ours, after each call.
        """
        if not self._pools or self._blas is None:
            yield
        else:
            with _ONE_RUN_AT_A_TIME, self._blas.limit(limits=1):
                yield

    def map(self, function: Callable[[Any], Result], shares: Sequence[Any]) -> list[Result]:
        """Call a function on each share, in its own thread."""
        if len(shares) == 1 or not self._pools:
            return [_quietly(function, share) for share in shares]
        futures = [
            pool.submit(_quietly, function, share)
            for pool, share in zip(self._pools, shares, strict=False)
        ]
        return [future.result() for future in futures]


def overflow_is_seen_later() -> Any:
    """Return a context in which NumPy does not warn; what is not finite raises at the loss."""
    return numpy.errstate(over="ignore", invalid="ignore")


def _quietly(function: Callable[..., Result], *arguments: Any) -> Result:
    with overflow_is_seen_later():
        return function(*arguments)


def _keep_freed_memory() -> None:
    """Have the GNU C library reuse the arrays of the last step.

    By default it gives their pages back to the system as each step ends; taking them again was seen
    to cost up to half of a step. A piece's worth of memory may stay with the process.
    """
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8
    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        # One arena for all threads: those of threads give back 64 MB at a time, whatever is set.
        library.mallopt(arena_max, 1)
        library.mallopt(trim_threshold, 2**29)
        library.mallopt(mmap_threshold, 2**25)


def _blas_of(array: Array) -> Any:
    """Return the control of the linear algebra library's threads, where there is one."""
    if not is_numpy_array(array):
        return None
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    blas = ThreadpoolController().select(user_api="blas")
    return blas if blas.lib_controllers else None
