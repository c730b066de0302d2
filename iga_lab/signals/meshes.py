"""Mesh files: read without trust, closed, and filled into a grid."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError
from iga_lab.memory import readable, require_memory
from iga_lab.signals.closing import closed, odd_edges
from iga_lab.signals.signal import Progress, Signal, Size
from iga_lab.signals.sizes import SIZES, target
from iga_lab.signals.solids import occupancy, surface

if TYPE_CHECKING:
    from trimesh import Trimesh

MESHES = (".obj", ".ply", ".stl")
FIT = 0.9
"""Half the longest side of a mesh's bounding box, so that space is left around it."""
LOADING = 12
"""Bytes of memory that one byte of a mesh's file takes at most, until it is checked."""
BYTES_A_FACE = 1000
"""While a mesh is loaded and checked."""
MANY_FACES = 1_000_000
INSIDE = 0.5
"""A value from which on a point is inside."""
STL_HEAD, STL_FACE = 84, 50
"""Bytes of a binary STL file before its faces, the last four their number, and of each."""


def shape(path: Path, size: Size | None, progress: Progress | None) -> Signal:
    """Read a mesh and fill it."""
    (side, _, _), centred = target("shape", size or (SIZES["shape"], None))
    if not centred:
        raise InputError("size: expected one side for a shape, got several; give --size S")
    mesh = load_mesh(path)
    inside = occupancy(mesh, side, progress)
    if not inside.any():
        raise InputError(
            f"size: expected points inside of {path.name!r}, got none of {side} a side; "
            "raise --size"
        )
    notes = [*mesh.metadata["notes"], f"{len(mesh.faces):,} faces, {inside.mean():.4g} of the "
             f"{side} × {side} × {side} points inside"]  # fmt: skip
    said = tuple(f"{path.name}: {note}" for note in notes)
    return Signal(path.stem, "shape", inside[..., None].astype(np.float64), said)


def occupied(values: NDArray[np.float64]) -> float:
    """Return the share of a grid that is inside of a shape."""
    return float(np.mean(values >= INSIDE))


def load_mesh(path: str | Path) -> "Trimesh":
    """Read a closed mesh, centred and scaled uniformly to fit into [-1, 1]^3.

    Parameters
    ----------
    path : str or Path
        An ``.obj``, ``.ply`` or ``.stl`` file; its materials are not read.

    Returns
    -------
    Trimesh
        Its bounding box is centred at 0 and `FIT` long from there on its longest side; vertices
        at one place are one, and its faces are wound as `closed` says. ``metadata["notes"]`` says
        what else was noticed, a line each.

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
    if vertices.shape[1:] != (3,):  # readers of text take as many numbers as the lines have
        raise InputError(
            f"signal: expected three numbers a vertex, got {vertices.shape[-1]} in {path.name!r}; "
            "it is damaged: get it anew"
        )
    faces = _faces(path, loaded)
    count = len(faces)
    memory = count * BYTES_A_FACE
    require_memory("signal", memory, f"a mesh of {count:,} faces", "simplify it")
    if not np.all(np.isfinite(vertices)):
        raise InputError(
            f"signal: expected finite vertices, got NaN or infinity in {path.name!r}; repair it"
        )
    # Files carry vertices that no face has, and they have no part in the size.
    used = vertices[faces.reshape(-1)]
    lowest, highest = used.min(axis=0), used.max(axis=0)
    half = (highest - lowest).max() / 2
    if not 0 < half < np.inf:
        raise InputError(
            f"signal: expected a mesh with an extent, got {path.name!r}, whose vertices are all at "
            "one place or too far apart; repair it"
        )
    # Halved before they are added, as coordinates may be so large that their sum overflows.
    merged = _merged(FIT * (vertices - (lowest / 2 + highest / 2)) / half, faces)
    mesh, notes = _closed(path, merged)
    many = [f"{count:,} faces take about {readable(memory)}"] if count >= MANY_FACES else []
    mesh.metadata["notes"] = [*many, *notes]
    return mesh


def ply_file(values: NDArray[Any]) -> bytes:
    """Return the surface of a volume, (depth, height, width), as a PLY file.

    Raises
    ------
    InputError
        If there is none.
    """
    mesh = surface(values)
    if len(mesh.faces) == 0:
        raise InputError(
            f"model: expected a shape, got values from {values.min():.3g} to {values.max():.3g}, "
            "nowhere above 1/2 beside others; train it for longer"
        )
    content: bytes = mesh.export(file_type="ply")  # type: ignore[assignment]
    return content


def _read(path: Path) -> "Trimesh":
    from trimesh import Trimesh, load_mesh

    kind = path.suffix.lower()
    if kind not in MESHES:
        raise InputError(
            f"signal: expected a mesh ({', '.join(MESHES)}), got {path.name!r}; convert it first"
        )
    _require_whole(path, kind)
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
            f"signal: expected a mesh with faces, got {path.name!r}, which has none, or is cut "
            "before them; get it anew, or make a surface of its points first"
        )
    return loaded


def _faces(path: Path, loaded: "Trimesh") -> NDArray[np.int64]:
    """Return the corners of the faces, each of which is a vertex."""
    # Readers take the numbers as they stand; some are more than any array can be asked for.
    count = len(loaded.vertices)
    stored = np.asarray(loaded.faces)
    lowest, highest = stored.min(), stored.max()
    if lowest < 0 or highest >= count:
        raise InputError(
            f"signal: expected faces of the {count:,} vertices, got numbers {int(lowest)} to "
            f"{int(highest)} (from 0) in {path.name!r}; it is damaged: get it anew"
        )
    return stored.astype(np.int64)


def _merged(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> "Trimesh":
    """Make vertices at one place one, and drop the faces that this leaves with two corners."""
    from trimesh import Trimesh

    mesh = Trimesh(vertices, faces, process=False)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    # They have no area, but they would count as faces at their edges.
    a, b, c = mesh.faces.T
    mesh.update_faces((a != b) & (b != c) & (c != a))
    return mesh


def _closed(path: Path, mesh: "Trimesh") -> tuple["Trimesh", tuple[str, ...]]:
    """Return a mesh as a surface that has an inside, and what was done for it."""
    from trimesh import Trimesh

    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    found = closed(vertices, faces) if len(faces) else None
    if found is not None:
        return Trimesh(vertices, found.faces, process=False), found.notes
    odd, edges = odd_edges(faces) if len(faces) else (0, 0)
    what = (
        f"{odd:,} of {edges:,} edges do not join two faces, or another even number (holes)" if odd
        else "its faces cannot be wound so that they have two sides"
    )  # fmt: skip
    raise InputError(
        f"signal: expected a watertight mesh, got {path.name!r}, in which {what}; close it first, "
        "with MeshLab, or in Python with trimesh.repair.fill_holes"
    )


def _require_whole(path: Path, kind: str) -> None:
    """Raise if a file is cut, as far as its head says how long it has to be."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(2**16)
        file.seek(max(0, size - 2**10))
        tail = file.read()
    if kind == ".ply":
        counts = re.findall(rb"^element\s+(\w+)\s+(\d+)", head.partition(b"end_header")[0], re.M)
        for name, count in counts:
            if int(count) > size:
                raise _cut(path, f"{int(count):,} of element {name.decode()}", f"{size:,} bytes")
    elif kind == ".stl" and b"\0" in head:
        # Text has no zero bytes; and a binary file may begin with "solid" as text does.
        if size < STL_HEAD:
            raise _cut(path, f"a head of {STL_HEAD} bytes", f"{size}")
        said = int.from_bytes(head[STL_HEAD - 4 : STL_HEAD], "little")
        present = (size - STL_HEAD) // STL_FACE
        if STL_HEAD + said * STL_FACE > size:
            raise _cut(path, f"the {said:,} faces of its head", f"{present:,}")
        if STL_HEAD + said * STL_FACE < size:
            raise InputError(
                f"signal: expected a whole mesh, got {path.name!r}, which says it has {said:,} "
                f"faces and goes on after them, with room for {present:,}; get it anew"
            )
    elif kind == ".stl" and head.lstrip().startswith(b"solid") and b"endsolid" not in tail:
        raise _cut(path, "a last line with endsolid", "none")


def _cut(path: Path, expected: str, got: str) -> InputError:
    return InputError(
        f"signal: expected {expected}, got {got} in {path.name!r}: the file is cut or damaged; "
        "get it anew"
    )
