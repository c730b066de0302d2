"""Solids on a grid: where a closed surface has its inside, and a surface from a grid again."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError
from iga_lab.memory import require_memory
from iga_lab.signals.signal import Progress

if TYPE_CHECKING:
    from trimesh import Trimesh

Crossings: TypeAlias = tuple[
    NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]
]
"""Row, column, depth and face of each, (n,), the depth in the grid's units."""
FACES_A_PIECE = 20_000


def occupancy(mesh: "Trimesh", side: int, progress: Progress | None = None) -> NDArray[np.bool_]:
    """Return which points of a grid lie inside a mesh.

    Parameters
    ----------
    mesh : Trimesh
        Watertight; which way its faces wind does not matter.
    side : int
        Points along each axis, from -1 to 1, both ends included; at least 2.
    progress : callable, optional
        Told of the faces done and of all faces, a few times.

    Returns
    -------
    ndarray of bool, shape (side, side, side)
        Axes z, y, x: the point (x, y, z) is ``[z, y, x]``. Inside is where a ray along x has met
        the surface an odd number of times. Costs O(faces + crossings + side³); exact up to the
        rounding of where a ray crosses a face.

    Raises
    ------
    InputError
        If the side is less than 2, or the grid does not fit in memory.
    """
    if side < 2:
        raise InputError(f"size: expected at least 2 points a side, got {side}; raise --size")
    require_memory("size", 2 * side**3, f"{side}x{side}x{side} points", "lower --size")
    flips = np.zeros((side, side, side), dtype=bool)
    x, y, z = np.asarray(mesh.vertices).T
    for done, (rows, columns, depths, _) in crossings([x, y, z], mesh.faces, side):
        # A crossing flips all points behind it, so it is noted at the first of them, and the sums
        # below carry it on. Unbuffered, for two crossings may fall between the same two points.
        first = np.maximum(np.ceil(depths).astype(np.int64), 0)
        within = first < side
        np.logical_xor.at(flips, (columns[within], rows[within], first[within]), True)
        if progress is not None:
            progress(done, len(mesh.faces))
    return np.logical_xor.accumulate(flips, axis=-1)


def surface(values: NDArray[Any], level: float = 0.5) -> "Trimesh":
    """Return the surface on which a volume crosses a level, by marching cubes.

    Parameters
    ----------
    values : ndarray, shape (depth, height, width)
        At points from -1 to 1 along each axis; outside of them it counts as below the level.
    level : float
        The surface encloses what is above it.

    Returns
    -------
    Trimesh
        Closed, in the coordinates of the points; without faces where nothing crosses the level.
    """
    from skimage.measure import marching_cubes
    from trimesh import Trimesh

    # A layer of outside all around: a solid that touches the border has a surface there too.
    padded = np.pad(values.astype(np.float32), 1, constant_values=min(0.0, 2 * level - 1))
    if not padded.min() < level < padded.max():
        return Trimesh()
    vertices, faces, _, _ = marching_cubes(padded, level)  # type: ignore[no-untyped-call]
    last = np.maximum(np.array(values.shape) - 1, 1)
    coordinates = 2 * (vertices - 1) / last - 1
    # From the array's axes, z first, to x, y, z.
    return Trimesh(coordinates[:, ::-1], faces, process=True)


def crossings(
    points: Sequence[NDArray[np.float64]], faces: NDArray[np.int64], side: int
) -> Iterator[tuple[int, Crossings]]:
    """Yield where rays through a grid of rows and columns cross the faces, some at a time.

    An edge crosses the rows ``[lower end, upper end)``, at a column that is computed from its
    vertices in the order of their numbers, so that both its faces find the same; between its two
    edges a face covers the columns ``[left, right)``. A ray therefore meets a closed surface an
    even number of times, also where it runs through a vertex or along a face.
    """
    depth, row, column = ((np.asarray(p, dtype=np.float64) + 1) * (side - 1) / 2 for p in points)
    for first in range(0, len(faces), FACES_A_PIECE):
        piece = np.asarray(faces[first : first + FACES_A_PIECE])
        edges = np.sort(piece[:, [[0, 1], [1, 2], [2, 0]]], axis=-1).reshape(-1, 2)
        ends = row[edges]
        low, high = (
            np.clip(np.ceil(e), 0, side).astype(np.int64) for e in (ends.min(-1), ends.max(-1))
        )
        edge, rows = _ranges(low, high)
        a, b = edges[edge].T
        share = (rows - row[a]) / (row[b] - row[a])
        columns = column[a] + share * (column[b] - column[a])
        depths = depth[a] + share * (depth[b] - depth[a])
        # A row crosses none or two edges of a face: pairs, once sorted.
        order = np.lexsort((columns, rows, edge // 3))
        (left, right), (near, far) = (v[order].reshape(-1, 2).T for v in (columns, depths))
        pair, pixels = _ranges(
            *(np.clip(np.ceil(e), 0, side).astype(np.int64) for e in (left, right))
        )
        share = (pixels - left[pair]) / (right[pair] - left[pair])
        found = near[pair] + share * (far[pair] - near[pair])
        one = order[::2][pair]
        yield first + len(piece), (rows[one], pixels, found, first + edge[one] // 3)


def _ranges(
    start: NDArray[np.int64], stop: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return every whole number from `start` up to before `stop`, and of which pair it is."""
    lengths = np.maximum(stop - start, 0)
    of = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(len(of)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return of, start[of] + within
