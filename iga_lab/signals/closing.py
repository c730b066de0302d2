"""Faces that enclose something: each edge passed as often one way as the other, or no solid."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Faces = NDArray[np.int64]
LARGEST = 1000
"""Of the bodies, so many are looked at for one in which another lies."""


@dataclass(frozen=True, eq=False)
class Closed:
    """A surface that has an inside.

    Parameters
    ----------
    faces : ndarray of int, shape (n, 3)
        Wound so that bodies count +1, and what is a cavity in one -1.
    notes : tuple of str
        What was done to them.
    """

    faces: Faces
    notes: tuple[str, ...]


def closed(vertices: NDArray[np.float64], faces: Faces) -> Closed | None:
    """Return faces as a closed surface, or None if they have holes.

    Bodies may overlap, lie in one another and touch along edges, where any even number of faces
    meets; faces that are there several times are taken once where that closes the surface. Faces
    that wind otherwise than their neighbours are turned. A body that is turned inwards is a cavity
    of the one around it; where there is none around it, it is turned outwards.

    Parameters
    ----------
    vertices : ndarray, shape (m, 3)
        Each place once.
    faces : ndarray of int, shape (n, 3)
        Of three different vertices each.

    Examples
    --------
    >>> from trimesh.creation import box
    >>> cube = box()
    >>> closed(cube.vertices, cube.faces[1:]) is None
    True
    >>> closed(cube.vertices, cube.faces[[0, *range(12)]]).notes
    ('1 of 13 faces is there twice and taken once',)
    """
    candidates = (faces, *_without_copies(faces))
    balanced = next((some for some in candidates if not _unbalanced(some)), None)
    notes = []
    if balanced is None:
        turned = (_wound(vertices, some) for some in candidates if not odd_edges(some)[0])
        balanced = next(
            (some for some in turned if some is not None and not _unbalanced(some)), None
        )
        if balanced is None:
            return None
        notes.append("faces turned so that neighbours wind alike")
    copies = len(faces) - len(balanced)
    if copies:
        verb = "is" if copies == 1 else "are"
        notes.append(f"{copies:,} of {len(faces):,} faces {verb} there twice and taken once")
    outward, more = _outward(vertices, balanced)
    return Closed(outward, (*notes, *more))


def odd_edges(faces: Faces) -> tuple[int, int]:
    """Return how many edges an odd number of faces meets at, and how many there are."""
    _, uses = np.unique(_edges(faces)[0], return_counts=True)
    return int(np.sum(uses % 2)), len(uses)


def _edges(faces: Faces) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a number for each edge of each face in turn, and the sense in which it is passed."""
    ends = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    low, high = ends.min(axis=1), ends.max(axis=1)
    return low * (int(faces.max()) + 1) + high, np.where(ends[:, 0] == low, 1, -1)


def _unbalanced(faces: Faces) -> bool:
    """Whether an edge is passed more often one way than the other."""
    edges, senses = _edges(faces)
    _, which = np.unique(edges, return_inverse=True)
    return bool(np.any(np.bincount(which, senses)))


def _without_copies(faces: Faces) -> list[Faces]:
    """Return the faces without those that are there before: alike wound, and however wound."""
    turns = np.argmin(faces, axis=1)[:, None] + np.arange(3)
    first = np.take_along_axis(faces, turns % 3, axis=1)
    found = []
    for told in (first, np.sort(faces, axis=1)):
        _, once = np.unique(told, axis=0, return_index=True)
        if len(once) < len(faces):
            found.append(faces[np.sort(once)])
    return found


def _neighbours(faces: Faces) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the pairs of faces that alone share an edge, and whether they wind alike there."""
    edges, senses = _edges(faces)
    order = np.argsort(edges, kind="stable")
    starts = np.flatnonzero(np.diff(edges[order], prepend=-1))
    pairs = starts[np.diff([*starts, len(edges)]) == 2]
    one, other = order[pairs], order[pairs + 1]
    return one // 3, other // 3, senses[one] != senses[other]


def _components(count: int, one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.int64]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
    labels: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels


def _wound(vertices: NDArray[np.float64], faces: Faces) -> Faces | None:
    """Return the faces so that neighbours wind alike; None where they cannot (a Möbius strip)."""
    count = len(faces)
    one, other, alike = _neighbours(faces)
    # Every face twice, as it is and turned: neighbours that wind alike are joined as they are, and
    # those that do not, the one as it is to the other turned.
    crossed = np.where(alike, 0, count)
    labels = _components(
        2 * count,
        np.concatenate([one, one + count]),
        np.concatenate([other + crossed, other + count - crossed]),
    )
    straight, turned = labels[:count], labels[count:]
    if np.any(straight == turned):
        return None
    patch = np.unique(np.minimum(straight, turned), return_inverse=True)[1]
    flip = straight > turned
    wound = np.where(flip[:, None], faces[:, ::-1], faces)
    share = np.bincount(patch, flip) / np.bincount(patch)
    # A patch that was wound alike keeps its sense, which may say that it is a cavity.
    back = np.where((share == 0) | (share == 1), share == 1, _volumes(vertices, wound, patch) < 0)
    return np.where(back[patch][:, None], wound[:, ::-1], wound)


def _volumes(
    vertices: NDArray[np.float64], faces: Faces, body: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the volume of each body, negative where it is turned inwards."""
    a, b, c = (vertices[corner] for corner in faces.T)
    return np.asarray(np.bincount(body, np.sum(a * np.cross(b, c), axis=1) / 6), dtype=np.float64)


def _outward(vertices: NDArray[np.float64], faces: Faces) -> tuple[Faces, list[str]]:
    """Turn bodies outwards that are no cavities, and say what there is."""
    one, other, _ = _neighbours(faces)
    body = _components(len(faces), one, other)
    volumes = _volumes(vertices, faces, body)
    if volumes.sum() < 0:
        faces, volumes = faces[:, ::-1], -volumes
    inwards = np.flatnonzero(volumes < 0)
    if len(volumes) == 1:
        return faces, []
    low, high = np.full((2, len(volumes), 3), [[[np.inf]], [[-np.inf]]])
    for corner in faces.T:
        np.minimum.at(low, body, vertices[corner])
        np.maximum.at(high, body, vertices[corner])
    around = np.argsort(-volumes)[:LARGEST]
    around = around[volumes[around] > 0]
    alone = np.array([
        not np.any(np.all((low[around] <= low[k]) & (high[k] <= high[around]), axis=1))
        for k in inwards
    ], dtype=bool)  # fmt: skip
    flip = np.zeros(len(volumes), dtype=bool)
    flip[inwards[alone]] = True
    notes = [f"{len(volumes):,} closed bodies, of which what lies in any is inside"]
    cavities, turned = int(np.sum(~alone)), int(np.sum(alone))
    if cavities:
        notes.append(f"{cavities:,} of them turned inwards, taken as cavities")
    if turned:
        notes.append(f"{turned:,} of them turned outwards, as they lie in no other")
    return np.where(flip[body][:, None], faces[:, ::-1], faces), notes
