"""Solids: a watertight mesh as an occupancy grid, and a surface as a mesh again."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError
from iga_lab.hardware import readable, require_memory

if TYPE_CHECKING:
    from trimesh import Trimesh

Crossings: TypeAlias = tuple[
    NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]
]
"""Row, column, depth and face of each, (n,), the depth in the grid's units."""

MESHES = (".obj", ".ply", ".stl")
FIT = 0.9
"""Half the longest side of a mesh's bounding box, so that space is left around it."""
LOADING = 12
"""Bytes of memory that one byte of a mesh's file takes at most, until it is checked."""
BYTES_A_FACE = 1000
"""While a mesh is loaded and checked."""
MANY_FACES = 1_000_000
FACES_A_PIECE = 20_000
LIGHT = np.array([0.3, 0.5, 1.0]) / np.linalg.norm([0.3, 0.5, 1.0])
"""Towards the lamp: to the right, up, and to the viewer."""
AMBIENT = 0.25
FINER = 2
"""Rays a pixel of a view, along each axis."""
FROM = (
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[0, 0, -1], [0, 1, 0], [1, 0, 0]],
    [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
)
"""To the right, up, and to the viewer: of the view from the front, the right and above."""


def load_mesh(path: str | Path) -> "Trimesh":
    """Read a watertight mesh, centred and scaled uniformly to fit into [-1, 1]^3.

    Parameters
    ----------
    path : str or Path
        An ``.obj``, ``.ply`` or ``.stl`` file; its materials are not read.

    Returns
    -------
    Trimesh
        Its bounding box is centred at 0 and `FIT` long from there on its longest side; vertices
        at one place are one. ``metadata["notes"]`` says what else was noticed, a line each.

    Raises
    ------
    InputError
        If it cannot be read, has no faces, NaN or a hole, or takes more memory than there is.
    """
    path = Path(path)
    size = path.stat().st_size
    require_memory("signal", LOADING * size, f"a mesh file of {readable(size)}", "simplify it")
    loaded = _read(path)
    vertices = np.asarray(loaded.vertices, dtype=np.float64)
    faces = np.asarray(loaded.faces, dtype=np.int64)
    count = len(faces)
    memory = count * BYTES_A_FACE
    require_memory("signal", memory, f"a mesh of {count:,} faces", "simplify it")
    if not np.all(np.isfinite(vertices)):
        raise InputError(
            f"signal: expected finite vertices, got NaN or infinity in {path.name!r}; repair it"
        )
    used = vertices[faces.reshape(-1)]
    lowest, highest = used.min(axis=0), used.max(axis=0)
    half = (highest - lowest).max() / 2
    if not 0 < half < np.inf:
        raise InputError(
            f"signal: expected a mesh with an extent, got {path.name!r}, whose vertices are all at "
            "one place or too far apart; repair it"
        )
    mesh = _merged(FIT * (vertices - (lowest / 2 + highest / 2)) / half, faces)
    _require_closed(path, mesh)
    mesh.metadata["notes"] = (
        [f"{count:,} faces take about {readable(memory)}"] if count >= MANY_FACES else []
    )
    return mesh


def occupancy(
    mesh: "Trimesh", side: int, progress: Callable[[int, int], object] | None = None
) -> NDArray[np.bool_]:
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
    for done, (rows, columns, depths, _) in _crossings([x, y, z], mesh.faces, side):
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

    padded = np.pad(values.astype(np.float32), 1, constant_values=min(0.0, 2 * level - 1))
    if not padded.min() < level < padded.max():
        return Trimesh()
    vertices, faces, _, _ = marching_cubes(padded, level)  # type: ignore[no-untyped-call]
    last = np.maximum(np.array(values.shape) - 1, 1)
    coordinates = 2 * (vertices - 1) / last - 1
    return Trimesh(coordinates[:, ::-1], faces, process=True)


def views(mesh: "Trimesh", side: int) -> NDArray[np.float64]:
    """Draw a mesh from three sides, seen from far away, with a lamp above the viewer's shoulder.

    Parameters
    ----------
    mesh : Trimesh
        Within [-1, 1]^3.
    side : int
        Of a picture, in pixels.

    Returns
    -------
    ndarray of float64, shape (3, side, side, 2)
        From the front (along z), the right (along x) and above (along y): brightness and opacity
        in [0, 1].
    """
    return np.stack([_view(mesh, np.array(axes), side) for axes in FROM])


def _view(mesh: "Trimesh", axes: NDArray[np.int64], side: int) -> NDArray[np.float64]:
    fine = FINER * side
    right, up, towards = axes @ np.asarray(mesh.vertices, dtype=np.float64).T
    nearest = np.full((fine, fine), -np.inf)
    seen = np.full((fine, fine), -1)
    for _, (rows, columns, depths, faces) in _crossings([towards, -up, right], mesh.faces, fine):
        np.maximum.at(nearest, (rows, columns), depths)
        front = nearest[rows, columns] == depths
        seen[rows[front], columns[front]] = faces[front]
    normals = np.asarray(mesh.vertex_normals)[mesh.faces].mean(axis=1)
    shaded = np.clip(normals @ (axes.T @ LIGHT), 0, 1)
    brightness = np.append(AMBIENT + (1 - AMBIENT) * shaded, 0.0)[seen]
    picture = np.stack([brightness, seen >= 0], axis=-1)
    picture[..., 0] *= picture[..., 1]
    fewer: NDArray[np.float64] = picture.reshape(side, FINER, side, FINER, 2).mean(axis=(1, 3))
    fewer[..., 0] /= np.maximum(fewer[..., 1], 1e-12)
    return fewer


def _crossings(
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


def _read(path: Path) -> "Trimesh":
    from trimesh import Trimesh, load_mesh

    kind = path.suffix.lower()
    if kind not in MESHES:
        raise InputError(
            f"signal: expected a mesh ({', '.join(MESHES)}), got {path.name!r}; convert it first"
        )
    try:
        with path.open("rb") as file:  # and no path, so that nothing beside it is read
            loaded = load_mesh(file, file_type=kind[1:], process=False, skip_materials=True)
    except Exception as error:  # a damaged file makes readers fail in every way there is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"signal: expected a whole mesh, got {path.name!r}, which cannot be read ({reason}); "
            "it may be truncated or empty: get it anew"
        ) from None
    if not isinstance(loaded, Trimesh) or len(loaded.faces) == 0:
        raise InputError(
            f"signal: expected a mesh with faces, got {path.name!r}, which has none; "
            "make a surface of its points first"
        )
    return loaded


def _merged(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> "Trimesh":
    """Make vertices at one place one, and drop the faces that this leaves with two corners."""
    from trimesh import Trimesh

    mesh = Trimesh(vertices, faces, process=False)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    a, b, c = mesh.faces.T
    mesh.update_faces((a != b) & (b != c) & (c != a))
    return mesh


def _require_closed(path: Path, mesh: "Trimesh") -> None:
    _, uses = np.unique(mesh.edges_sorted, axis=0, return_counts=True)
    wrong = int(np.sum(uses != 2))
    if wrong:
        raise InputError(
            f"signal: expected a watertight mesh, got {path.name!r}, in which {wrong:,} of "
            f"{len(uses):,} edges do not join two faces (holes, or faces that meet others inside); "
            "close it first, with MeshLab, or in Python with trimesh.repair.fill_holes"
        )
