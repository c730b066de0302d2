"""A signal cut into pieces, and passes over them on several threads."""

import contextlib
import ctypes
import functools
import math
import operator
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy
from array_api_compat import device, is_numpy_array

from iga_array.passes import LayerTape, Passes
from iga_core import Grouping
from iga_core.arrays import Array, common_namespace, on_host, require_count
from iga_core.batches import batch_of
from iga_core.sampling import Largest

HOST_LAYER_BYTES = 2**21
ACCELERATOR_LAYER_BYTES = 2**28
"""Activations of a hidden layer in one piece: what a core's cache holds, or what fills a GPU."""

Result = TypeVar("Result")

_ONE_RUN_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Piece:
    """Columns of all groups; or, not `grouped`, a slice of the points in no group.

    Both in one piece where all points must stand together; then nothing asks for its groups.
    """

    start: int
    stop: int
    grouped: bool


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A piece after its forward pass: its cotangent, (r, C), and the tape behind it."""

    piece: Piece
    error: Array
    cotangent: Array
    tape: list[LayerTape]


@dataclass
class Sums:
    """What some pieces add up to."""

    error: Array = 0
    gradients: list[Array] | None = None
    cotangent: Array | None = None
    largest: Largest | None = None

    def __iadd__(self, later: "Sums") -> "Sums":
        """Add pieces whose columns follow."""
        self.error = self.error + later.error
        if self.gradients is None:
            self.gradients = later.gradients
        elif later.gradients is not None:
            # In place where arrays can be changed, and right where they cannot.
            self.gradients = list(map(operator.iadd, self.gradients, later.gradients))
        if self.cotangent is None:
            self.cotangent = later.cotangent
        elif later.cotangent is not None:
            self.cotangent = self.cotangent + later.cotangent
        if self.largest is None:
            self.largest = later.largest
        elif later.largest is not None:
            self.largest += later.largest
        return self


def total(parts: Iterable[Sums]) -> Sums:
    """Add up pieces, in their order."""
    return functools.reduce(operator.iadd, parts, Sums())


class Pieces:
    """The points of a signal: all groups times some columns at a time, then those in no group.

    Consecutive pieces form a share, which one thread works through in order: sums over shares
    do not depend on the threads' timing.

    With a batch, "all groups" are those of the step last turned to. Their errors then weigh as
    much as those of all groups would, so that a step's loss is, on average, that of all points.
    """

    def __init__(
        self,
        coords: Array,
        targets: Array,
        grouping: Grouping,
        layer_width: int,
        columns: int | None,
        workers: int | None,
        batch: int | None = None,
        seed: int = 0,
        whole: bool = False,
    ) -> None:
        self.xp = common_namespace(coords=coords, targets=targets)
        self.coords, self.targets, self.grouping = coords, targets, grouping
        self.groups = grouping.groups if batch is None else batch
        self.batch, self._seed = batch, seed
        self.origins, self.offsets, self.rest = (
            self.xp.asarray(part, device=device(coords))
            for part in (grouping.origins, grouping.offsets, grouping.rest)
        )
        self._all_origins = self.origins
        self.cotangent_scale = 2 / math.prod(targets.shape)
        self.group_weight = grouping.groups / self.groups
        blas = _blas_of(coords)
        if workers is None:
            workers = 1 if blas is None else max(lib.num_threads for lib in blas.lib_controllers)
        workers = require_count("workers", workers, 1)
        if columns is None:
            columns = self._columns(layer_width, workers)
        pieces = _cut(grouping, self.groups, require_count("columns", columns, 1))
        self.whole = whole
        if whole:
            pieces = [Piece(0, grouping.points, grouped=False)]
        self.shares = [
            [pieces[k] for k in share]
            for share in numpy.array_split(range(len(pieces)), min(workers, len(pieces)))
        ]
        several = len(self.shares) > 1
        if is_numpy_array(coords):
            _keep_freed_memory()
        # A share keeps to its thread, and so to memory that this thread has touched before.
        self._pools = [ThreadPoolExecutor(1) for _ in self.shares] if several else None
        self._blas = blas if several else None

    @property
    def count(self) -> int:
        """Points of a step."""
        return self.groups * self.grouping.points + len(self.grouping.rest)

    def turn_to(self, step: int) -> None:
        """Take the groups of a step from here on."""
        if self.batch is not None:
            chosen = batch_of(self.grouping.groups, self.batch, self._seed, step)
            index = self.xp.asarray(chosen, device=device(self.coords))
            self.origins = self.xp.take(self._all_origins, index, axis=0)

    def map(
        self,
        function: Callable[[Any], Result],
        shares: Iterable[Any] | None = None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> list[Result]:
        """Call a function on each share, in its own thread, and `meanwhile` in this one."""
        shares = self.shares if shares is None else shares
        if self._pools is None:
            meanwhile()
            return list(map(function, shares))
        futures = [
            pool.submit(_quietly, function, share)
            for pool, share in zip(self._pools, shares, strict=True)
        ]
        meanwhile()
        return [future.result() for future in futures]

    @contextlib.contextmanager
    def threads(self) -> Iterator[None]:
        """Keep the linear algebra library from adding threads to ours, one run at a time."""
        if self._blas is None:
            yield
        else:
            with _ONE_RUN_AT_A_TIME, self._blas.limit(limits=1):
                yield

    def evaluate(self, passes: Passes, piece: Piece) -> Evaluated:
        """Run a piece forward, to the cotangent of the mean squared error over all points."""
        index, weight = self._members(piece)
        coords, targets = self._rows(index)
        cotangent, tape = passes.forward(coords)
        cotangent -= targets
        error = self.xp.sum(weight * (cotangent * cotangent))
        cotangent *= weight * self.cotangent_scale
        return Evaluated(piece, error, cotangent, tape)

    def _members(self, piece: Piece) -> tuple[Array, Any]:
        """Return the points of a piece, and the weight of their errors, a number or (r, 1)."""
        xp, part = self.xp, slice(piece.start, piece.stop)
        if not (piece.grouped or self.whole):
            return self.rest[part], 1.0
        grouped = xp.reshape(self.origins[:, None] + self.offsets[None, part], (-1,))
        if not self.whole:
            return grouped, self.group_weight
        like = {"dtype": self.coords.dtype, "device": device(self.coords)}
        weights = [
            xp.full((grouped.shape[0], 1), self.group_weight, **like),
            xp.ones((self.rest.shape[0], 1), **like),
        ]
        return xp.concat([grouped, self.rest]), xp.concat(weights)

    def grouped(self, cotangent: Array) -> Array:
        """Arrange the cotangent of a grouped piece as (n, b, C)."""
        return self.xp.reshape(cotangent, (self.groups, -1, cotangent.shape[1]))

    def coords_at(self, positions: Array) -> Array:
        """Coordinates at some positions of each group, (n, s, inputs)."""
        return self._at(positions)[0]

    def means_at(self, passes: Passes, positions: Array) -> Array:
        """Mean cotangent of the points at some positions of each group, (n, C)."""
        xp = self.xp
        coords, targets = self._at(positions)
        predictions = passes.predict(xp.reshape(coords, (-1, coords.shape[-1])))
        errors = xp.reshape(predictions, targets.shape) - targets
        return self.group_weight * self.cotangent_scale * xp.mean(errors, axis=1)

    def _at(self, positions: Array) -> tuple[Array, Array]:
        xp = self.xp
        offsets = xp.take(self.offsets, xp.reshape(positions, (-1,)), axis=0)
        found = self._rows(self.origins[:, None] + xp.reshape(offsets, positions.shape))
        coords, targets = (xp.reshape(rows, (*positions.shape, -1)) for rows in found)
        return coords, targets

    def _rows(self, index: Array) -> tuple[Array, Array]:
        flat = self.xp.reshape(index, (-1,))
        return (
            self.xp.take(self.coords, flat, axis=0),
            self.xp.take(self.targets, flat, axis=0),
        )

    def _columns(self, layer_width: int, workers: int) -> int:
        """Choose pieces of cache size, as many for each worker."""
        budget = HOST_LAYER_BYTES if on_host(self.coords) else ACCELERATOR_LAYER_BYTES
        item = int(self.xp.finfo(self.coords.dtype).bits) // 8
        fit = max(1, budget // (self.groups * layer_width * item))
        count = workers * math.ceil(self.grouping.points / (fit * workers))
        return math.ceil(self.grouping.points / count)


def overflow_is_seen_later() -> Any:
    """Return a context in which NumPy does not warn; what is not finite raises at the loss."""
    return numpy.errstate(over="ignore", invalid="ignore")


def _keep_freed_memory() -> None:
    """Have the GNU C library reuse the arrays of the last piece.

    By default it may give their pages back to the system as each piece ends; taking them again
    was seen to cost up to half of a step. At most 64 MB a thread stay with the process.
    """
    trim_threshold, mmap_threshold = -1, -3
    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(trim_threshold, 2**26)
        library.mallopt(mmap_threshold, 2**25)


def _quietly(function: Callable[..., Result], *arguments: Any) -> Result:
    with overflow_is_seen_later():
        return function(*arguments)


def _cut(grouping: Grouping, groups: int, columns: int) -> list[Piece]:
    rows = columns * groups
    spans = ((grouping.points, columns, True), (len(grouping.rest), rows, False))
    return [
        Piece(first, min(first + step, length), grouped)
        for length, step, grouped in spans
        for first in range(0, length, step)
    ]


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
