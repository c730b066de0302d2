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
    NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]
]
"""Row, column, depth, face and sense of each, (n,): the depth in the grid's units, the sense 1
where the face is seen from one side, and -1 from the other."""
FACES_A_PIECE = 20_000
CROSSINGS_A_PIECE = 2**20
"""At most, unless a single face has more: a face may cover the whole grid."""
BYTES_A_POINT = 6
"""Of a winding number in int32, where it is inside, and a copy of that."""


def occupancy(mesh: "Trimesh", side: int, progress: Progress | None = None) -> NDArray[np.bool_]:
    """Return which points of a grid lie inside a mesh.

    Parameters
    ----------
    mesh : Trimesh
        Closed: each edge is passed as often in one direction as in the other. Whether all faces
        wind one way or the other does not matter.
    side : int
        Points along each axis, from -1 to 1, both ends included; at least 2.
    progress : callable, optional
        Told of the faces done and of all faces, a few times.

    Returns
    -------
    ndarray of bool, shape (side, side, side)
        Axes z, y, x: the point (x, y, z) is ``[z, y, x]``. Inside is where the winding number is
        positive: in any of several bodies that overlap, but not in one turned inwards within
        another. Costs O(faces + crossings + side³); exact up to the rounding of where a ray crosses
        a face.

    Raises
    ------
    InputError
        If the side is less than 2, or the grid does not fit in memory.

    Examples
    --------
    >>> from trimesh.creation import box
    >>> int(occupancy(box([1, 1, 1]), 9).sum())
    64
    """
    if side < 2:
        raise InputError(f"size: expected at least 2 points a side, got {side}; raise --size")
    needed = BYTES_A_POINT * side**3
    require_memory("size", needed, f"{side}x{side}x{side} points", "lower --size")
    winding = np.zeros((side, side, side), dtype=np.int32)
    x, y, z = np.asarray(mesh.vertices).T
    for done, (rows, columns, depths, _, senses) in crossings([x, y, z], mesh.faces, side):
        # A crossing changes the number of all points behind it, so it is noted at the first of
        # them. Unbuffered, for two crossings may fall between the same two points.
        first = np.maximum(np.ceil(depths).astype(np.int64), 0)
        within = first < side
        places = (columns[within], rows[within], first[within])
        np.add.at(winding, places, senses[within].astype(np.int32))
        if progress is not None:
            progress(done, len(mesh.faces))
    # The winding number changes by one at each crossing, up or down, on the way along a ray.
    np.cumsum(winding, axis=-1, out=winding)
    outwards = int(winding.sum(dtype=np.int64)) >= 0
    return winding > 0 if outwards else winding < 0


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
    edges a face covers the columns ``[left, right)``. Its sense is whether its left edge, as the
    face passes it, leads up or down. So each passage of an edge counts once, with its direction,
    for all columns from there on: where an edge is passed as often up as down, whatever the number
    of its faces, a ray leaves with the winding number 0, also where it runs through a vertex or
    along a face.
    """
    depth, row, column = ((np.asarray(p, dtype=np.float64) + 1) * (side - 1) / 2 for p in points)
    for first, last in _pieces(row, column, faces, side):
        piece = np.asarray(faces[first:last])
        passed = piece[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
        edges = np.sort(passed, axis=-1)
        ends = row[edges]
        low, high = (
            np.clip(np.ceil(e), 0, side).astype(np.int64) for e in (ends.min(-1), ends.max(-1))
        )
        edge, rows = _ranges(low, high)
        up = np.where(row[passed[:, 1]] > row[passed[:, 0]], 1, -1)[edge]
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
        yield last, (rows[one], pixels, found, first + edge[one] // 3, up[one])


def _pieces(
    row: NDArray[np.float64], column: NDArray[np.float64], faces: NDArray[np.int64], side: int
) -> Iterator[tuple[int, int]]:
    """Yield the first and the last faces that are worked on together."""
    for first in range(0, len(faces), FACES_A_PIECE):
        piece = np.asarray(faces[first : first + FACES_A_PIECE])
        covered = np.ones(len(piece))
        for places in (row, column):
            corners = np.clip(places[piece], 0, side)
            covered *= np.ptp(corners, axis=-1) + 1
        # Those whose boxes reach the same multiple of the most go together.
        groups = (np.cumsum(covered) // CROSSINGS_A_PIECE).astype(np.int64)
        starts = np.flatnonzero(np.diff(groups, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(piece)], strict=True):
            yield first + int(start), first + int(stop)


def _ranges(
    start: NDArray[np.int64], stop: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return every whole number from `start` up to before `stop`, and of which pair it is."""
    lengths = np.maximum(stop - start, 0)
    of = np.repeat(np.arange(len(lengths)), lengths)
    within = np.arange(len(of)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return of, start[of] + within
