"""What a solid looks like from three sides."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from iga_lab.signals.solids import crossings

if TYPE_CHECKING:
    from trimesh import Trimesh

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
    for _, (rows, columns, depths, faces, _) in crossings([towards, -up, right], mesh.faces, fine):
        np.maximum.at(nearest, (rows, columns), depths)
        # Exact: the largest of the same numbers.
        front = nearest[rows, columns] == depths
        seen[rows[front], columns[front]] = faces[front]
    # Of the corners, averaged: a face's own normal would show every facet of a round thing.
    normals = np.asarray(mesh.vertex_normals)[mesh.faces].mean(axis=1)
    shaded = np.clip(normals @ (axes.T @ LIGHT), 0, 1)
    brightness = np.append(AMBIENT + (1 - AMBIENT) * shaded, 0.0)[seen]
    picture = np.stack([brightness, seen >= 0], axis=-1)
    # Premultiplied, so that what is behind the solid has no part in the means at its rim.
    picture[..., 0] *= picture[..., 1]
    fewer: NDArray[np.float64] = picture.reshape(side, FINER, side, FINER, 2).mean(axis=(1, 3))
    fewer[..., 0] /= np.maximum(fewer[..., 1], 1e-12)
    return fewer
