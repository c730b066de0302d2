"""The distance between two surfaces."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from iga_lab.errors import InputError

if TYPE_CHECKING:
    from trimesh import Trimesh

SAMPLES = 100_000


@dataclass(frozen=True)
class Chamfer:
    """Two Chamfer distances between surfaces; both are 0 for equal ones.

    Each is the mean of its two directions. Others take their sum, twice as much.

    Parameters
    ----------
    plain : float
        ``½ (mean_a min_b |a − b| + mean_b min_a |a − b|)``, in the unit of the coordinates.
    squared : float
        The same of ``|a − b|²``.
    """

    plain: float
    squared: float


def chamfer(left: "Trimesh", right: "Trimesh", samples: int = SAMPLES, seed: int = 0) -> Chamfer:
    """Return the Chamfer distances between two surfaces, from points drawn uniformly by area.

    Parameters
    ----------
    left, right : Trimesh
        Surfaces with an area; their order does not matter in the limit of many points.
    samples : int, optional
        Points on each. Those of equal surfaces still lie about ``½ √(area / samples)`` apart.
    seed : int, optional
        Of the points.

    Returns
    -------
    Chamfer

    Raises
    ------
    InputError
        If a surface has no area, or `samples` is not positive.

    Notes
    -----
    Two KD-trees: ``O(samples log samples)``.
    """
    if samples < 1:
        raise InputError(f"samples: expected at least 1, got {samples}; give more")
    for name, mesh in (("left", left), ("right", right)):
        if not (len(mesh.faces) and 0 < mesh.area < np.inf):
            raise InputError(
                f"{name}: expected a surface with a finite area, got {len(mesh.faces)} faces with "
                f"an area of {float(mesh.area):g}; a network that is nowhere inside has none"
            )
    from scipy.spatial import KDTree

    seeds = np.random.SeedSequence(seed).spawn(2)
    a, b = (_points(m, samples, s) for m, s in zip((left, right), seeds, strict=True))
    # Boxes shrunk to their points are flat on faces along the axes, where queries from afar took
    # four times as long: more than 20 s for a network that has hardly begun.
    trees = [KDTree(points, compact_nodes=False) for points in (a, b)]
    distances = np.concatenate([trees[1].query(a)[0], trees[0].query(b)[0]])
    return Chamfer(float(np.mean(distances)), float(np.mean(distances**2)))


def _points(mesh: "Trimesh", count: int, seed: np.random.SeedSequence) -> Any:
    from trimesh.sample import sample_surface

    return sample_surface(mesh, count, seed=seed)[0]
