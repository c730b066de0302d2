"""Chamfer distances of surfaces whose distance is known."""

import numpy as np
import pytest

from iga_lab import metrics
from tests.support.measures import refused


def square(at=(0.0, 0.0, 0.0), cut=1):
    """A unit square across z, of 2 cut² triangles."""
    trimesh = pytest.importorskip("trimesh")
    ticks = np.linspace(0, 1, cut + 1)
    x, y = np.meshgrid(ticks, ticks, indexing="ij")
    corner = np.arange((cut + 1) ** 2).reshape(cut + 1, cut + 1)
    a, b, c, d = corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]
    faces = np.concatenate([np.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    vertices = np.stack([x, y, np.zeros_like(x)], -1).reshape(-1, 3) + at
    return trimesh.Trimesh(vertices, faces, process=False)


def together(*meshes):
    return pytest.importorskip("trimesh").util.concatenate(meshes)


def test_chamfer_of_concentric_spheres_is_the_difference_of_their_radii():
    trimesh = pytest.importorskip("trimesh")
    inner, outer = (trimesh.creation.icosphere(subdivisions=4, radius=r) for r in (1.0, 1.5))
    found = metrics.chamfer(inner, outer, samples=20_000)
    assert found.plain == pytest.approx(0.5, rel=3e-3)
    assert found.squared == pytest.approx(0.25, rel=6e-3)


def test_chamfer_of_parallel_squares_is_their_distance():
    found = metrics.chamfer(square(), square((0, 0, 0.4)), samples=20_000)
    assert found.plain == pytest.approx(0.4, rel=1e-3)
    assert found.squared == pytest.approx(0.16, rel=2e-3)


@pytest.mark.slow
def test_chamfer_weighs_by_area_and_not_by_faces():
    right = (100.0, 0.0, 0.0)
    low = together(square(cut=20), square(right))
    high = together(square((0, 0, 1.0)), square((*right[:2], 3.0), cut=9))
    found = metrics.chamfer(low, high, samples=20_000)
    assert found.plain == pytest.approx((1 + 3) / 2, rel=1e-2)
    assert found.squared == pytest.approx((1 + 9) / 2, rel=1e-2)


def test_chamfer_is_the_mean_of_its_two_directions():
    # From the second of the far pair, the first ends at x = 1: 10.5 away in the mean.
    near, pair = square(), together(square(), square((11.0, 0.0, 0.0)))
    expected, noise = (0 + 10.5 / 2) / 2, 0.5 / np.sqrt(20_000)
    for meshes in ((near, pair), (pair, near)):
        found = metrics.chamfer(*meshes, samples=20_000)
        assert found.plain == pytest.approx(expected, abs=2 * noise + 0.05)
        assert found.squared == pytest.approx((10.5**2 + 1 / 12) / 4, rel=2e-2)


def test_chamfer_of_equals_is_the_spacing_of_the_points():
    samples = 10_000
    found = metrics.chamfer(square(), square(), samples=samples)
    assert found.plain == pytest.approx(0.5 / np.sqrt(samples), rel=0.05)
    assert found.squared == pytest.approx(1 / (np.pi * samples), rel=0.1)


def test_chamfer_repeats_and_its_seed_matters():
    first, again, other = (
        metrics.chamfer(square(), square((0, 0, 0.1)), samples=500, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_chamfer_refuses_what_has_no_area():
    trimesh = pytest.importorskip("trimesh")
    empty = trimesh.Trimesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=int), process=False)
    flat = trimesh.Trimesh(np.zeros((3, 3)), [[0, 1, 2]], process=False)
    for mesh in (empty, flat):
        with refused("right: expected a surface with a finite area", "area of 0"):
            metrics.chamfer(square(), mesh)
    with refused("samples: expected at least 1, got 0"):
        metrics.chamfer(square(), square(), samples=0)
