"""Solids: occupancy against formulas, surfaces against volumes, and files that are none."""

import numpy as np
import pytest
import trimesh
from trimesh.creation import annulus, box, icosphere

from iga_lab import memory
from iga_lab.errors import InputError
from iga_lab.figures.views import views
from iga_lab.signals import coordinates, meshes, solids


def inside(mesh, side, formula):
    """Compare the occupancy with a formula of x, y, z at points where that is clear."""
    x, y, z = coordinates((side,) * 3).T
    value = formula(x, y, z).reshape((side,) * 3)
    clear = np.abs(value) > 1e-2
    found = solids.occupancy(mesh, side)
    assert found.dtype == bool
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found[clear], value[clear] > 0)
    return found


def turned(mesh):
    matrix = trimesh.transformations.euler_matrix(0.3, 0.7, 0.1)
    return mesh.copy().apply_transform(matrix), matrix[:3, :3]


def test_sphere_and_its_volume():
    found = inside(icosphere(5, 0.8), 41, lambda x, y, z: 0.8 - np.sqrt(x**2 + y**2 + z**2))
    volume = found.sum() * (2 / 40) ** 3
    assert volume == pytest.approx(4 / 3 * np.pi * 0.8**3, rel=0.01)


def test_which_axis_is_which():
    mesh = box([1.2, 0.8, 0.4])
    found = solids.occupancy(mesh, 24)
    widths = [int(found.any(axis=others).sum()) for others in ((0, 1), (0, 2), (1, 2))]
    assert widths == [14, 10, 4]


def test_rays_through_vertices_and_along_faces_count_right():
    """A box and an octahedron whose corners, edges and faces lie on the grid's own lines."""
    found = solids.occupancy(box([1, 1, 1]), 9)
    np.testing.assert_array_equal(found, np.pad(np.ones((4, 4, 4), bool), [(2, 3)] * 3))
    corners = np.concatenate([np.eye(3), -np.eye(3)]) * 0.75
    octahedron = trimesh.Trimesh(corners).convex_hull
    found = inside(octahedron, 17, lambda x, y, z: 0.75 - abs(x) - abs(y) - abs(z))
    assert found[8, 8, 8]
    assert not found[0].any()


def test_a_box_turned_anywhere():
    mesh, rotation = turned(box([1.2, 0.8, 0.4]))

    def formula(*point):
        x, y, z = np.abs(rotation.T @ np.stack(point))
        return np.minimum(np.minimum(0.6 - x, 0.4 - y), 0.2 - z)

    inside(mesh, 33, formula)


def test_holes_through_a_solid_and_the_winding_of_faces():
    mesh = annulus(0.3, 0.7, 0.8)

    def formula(x, y, z):
        radius = np.hypot(x, y)
        # The circles are polygons of 32 corners, which lie up to 0.004 within them.
        return np.minimum(np.minimum(radius - 0.298, 0.698 - radius), 0.4 - abs(z))

    found = inside(mesh, 24, formula)
    mesh.invert()
    np.testing.assert_array_equal(solids.occupancy(mesh, 24), found)


def test_pieces_make_no_difference(monkeypatch):
    mesh, told = turned(icosphere(3, 0.7))[0], []
    whole = solids.occupancy(mesh, 16)
    monkeypatch.setattr(solids, "FACES_A_PIECE", 100)
    np.testing.assert_array_equal(
        solids.occupancy(mesh, 16, lambda *news: told.append(news)), whole
    )
    count = len(mesh.faces)
    assert told == [(min(k, count), count) for k in range(100, count + 100, 100)]


def test_a_mesh_beyond_the_grid_is_cut():
    assert solids.occupancy(icosphere(3, 5.0), 8).all()


def test_surface_is_where_the_values_cross():
    x, y, z = coordinates((30, 40, 50)).T
    values = (1 - np.hypot(np.hypot(x / 0.8, y / 0.6), z / 0.4)).reshape(30, 40, 50)
    mesh = solids.surface(values, 0.0)
    assert mesh.is_watertight
    np.testing.assert_allclose(mesh.bounds, [[-0.8, -0.6, -0.4], [0.8, 0.6, 0.4]], atol=0.01)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.8 * 0.6 * 0.4, rel=0.02)
    assert len(solids.surface(values, 2.0).faces) == 0


def test_surface_of_what_touches_the_border_is_closed():
    mesh = solids.surface(np.ones((4, 5, 6)))
    assert mesh.is_watertight
    assert mesh.volume > 8


def test_there_and_back(tmp_path):
    turned(icosphere(3, 2.0))[0].export(tmp_path / "ball.stl")
    mesh = meshes.load_mesh(tmp_path / "ball.stl")
    again = solids.surface(solids.occupancy(mesh, 40))
    assert again.volume == pytest.approx(mesh.volume, rel=0.02)


def test_views_show_each_side():
    mesh = box([1.2, 0.8, 0.4])
    front, right, above = (view[..., 1] for view in views(mesh, 60))
    for seen, (width, height) in ((front, (1.2, 0.8)), (right, (0.4, 0.8)), (above, (1.2, 0.4))):
        assert seen.max(axis=0).sum() == pytest.approx(30 * width, abs=2)
        assert seen.max(axis=1).sum() == pytest.approx(30 * height, abs=2)
    drawn = views(mesh, 60)
    assert 0 < drawn[0, 30, 30, 0] <= 1
    assert drawn[..., 0][drawn[..., 1] == 0].max() == 0


def test_the_nearest_face_is_seen():
    """From the front, a bright plate at larger z hides a tilted one behind it."""
    near, behind = box([1, 1, 0.1]), turned(box([1, 1, 0.1]))[0]
    near.apply_translation([0, 0, 0.8])
    behind.apply_scale(0.3).apply_translation([0, 0, -0.5])
    alone, both = (views(m, 40) for m in (near, trimesh.util.concatenate([behind, near])))
    np.testing.assert_allclose(alone[0], both[0])
    assert not np.allclose(alone[1], both[1])


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl"])
def test_every_format_is_centred_and_scaled(tmp_path, suffix):
    mesh = box([1e-6, 2e-6, 4e-6])
    mesh.apply_translation([5, -3, 1])
    mesh.export(tmp_path / f"box.{suffix}", **({"digits": 12} if suffix == "obj" else {}))
    found = meshes.load_mesh(tmp_path / f"box.{suffix}")
    if suffix != "obj":
        assert found.metadata["notes"] == []
    np.testing.assert_allclose(found.bounds[1], -found.bounds[0], atol=1e-6)
    assert found.bounds[1, 2] == pytest.approx(meshes.FIT)


def refused(path):
    with pytest.raises(InputError) as caught:
        meshes.load_mesh(path)
    (line,) = str(caught.value).splitlines()
    return line


def test_meshes_with_holes(tmp_path):
    mesh = icosphere(2)
    trimesh.Trimesh(mesh.vertices, mesh.faces[1:]).export(tmp_path / "open.ply")
    line = refused(tmp_path / "open.ply")
    assert "watertight" in line
    assert "3 of 480 edges" in line
    assert "trimesh.repair" in line


def filled(mesh, path, side=24):
    """Write a mesh, fill it and return what is inside, and the notes."""
    mesh.export(path)
    loaded = meshes.load_mesh(path)
    return solids.occupancy(loaded, side), " ".join(loaded.metadata["notes"])


def moved(mesh, by):
    return mesh.copy().apply_translation([by] * 3)


def several(*some):
    return trimesh.util.concatenate(some)


def boxes_inside(*some, side=24):
    """Points within any of some boxes of (low, high), alike along each axis, in the unit of the grid."""
    x = np.linspace(-1, 1, side)
    within = [(low < x) & (x < high) for low, high in some]
    return np.any([np.einsum("i,j,k->ijk", w, w, w) for w in within], axis=0)


CUBE = box([1, 1, 1])


def test_bodies_that_overlap_are_one(tmp_path):
    found, notes = filled(several(CUBE, moved(CUBE, 0.5)), tmp_path / "two.stl")
    assert found.mean() == (2 * 2197 - 216) / 13824
    np.testing.assert_array_equal(found, boxes_inside((-0.9, 0.3), (-0.3, 0.9)))
    assert "2 closed bodies" in notes


@pytest.mark.parametrize("flips", [(), (0,), (1,), (0, 1)])
def test_which_way_bodies_wind_that_overlap_does_not_matter(tmp_path, flips):
    both = [CUBE.copy(), moved(CUBE, 0.5)]
    for k in flips:
        both[k].invert()
    found, _ = filled(several(*both), tmp_path / "two.stl")
    np.testing.assert_array_equal(found, boxes_inside((-0.9, 0.3), (-0.3, 0.9)))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("inwards", [False, True])
def test_a_shell_within_is_a_cavity_if_it_is_turned_inwards(tmp_path, inwards, whole):
    inner = CUBE.copy().apply_scale(0.5)
    if inwards:
        inner.invert()
    both = several(CUBE, inner)
    if whole:
        both.invert()
    found, notes = filled(both, tmp_path / "nested.ply")
    solid, hole = boxes_inside((-0.9, 0.9)), boxes_inside((-0.45, 0.45))
    np.testing.assert_array_equal(found, solid & ~hole if inwards else solid)
    assert ("1 of them turned inwards, taken as cavities" in notes) == inwards


def test_faces_that_are_there_twice_count_once(tmp_path):
    for name, more in {"alike": [0], "thrice": [0, 0], "turned": [0, 5]}.items():
        extra = CUBE.faces[more]
        extra = extra[:, ::-1] if name == "turned" else extra
        doubled = trimesh.Trimesh(CUBE.vertices, np.concatenate([CUBE.faces, extra]), process=False)
        found, notes = filled(doubled, tmp_path / f"{name}.ply")
        np.testing.assert_array_equal(found, boxes_inside((-0.9, 0.9)))
        assert "there twice" in notes


def test_an_edge_may_have_four_faces(tmp_path):
    """Two boxes that touch along an edge, and two with a wall between them."""
    edge = several(CUBE, CUBE.copy().apply_translation([1, 1, 0]))
    wall = several(CUBE, CUBE.copy().apply_translation([1, 0, 0]))
    x = np.linspace(-1, 1, 24)
    low, high, all_of_it = (x > -0.9) & (x < 0), (x > 0) & (x < 0.9), np.abs(x) < 0.9
    middle = np.abs(x) < 0.45
    found, _ = filled(edge, tmp_path / "edge.ply")
    corner = np.einsum("j,k->jk", low, low) | np.einsum("j,k->jk", high, high)
    np.testing.assert_array_equal(found, np.einsum("i,jk->ijk", middle, corner))
    found, _ = filled(wall, tmp_path / "wall.ply")
    np.testing.assert_array_equal(found, np.einsum("i,j,k->ijk", middle, middle, all_of_it))


def test_faces_that_wind_otherwise_are_turned(tmp_path):
    ball = icosphere(3)
    expected, notes = filled(ball, tmp_path / "ball.ply")
    assert "turned" not in notes
    some = np.random.default_rng(0).uniform(size=len(ball.faces)) < 0.3
    faces = np.where(some[:, None], ball.faces[:, ::-1], ball.faces)
    found, notes = filled(
        trimesh.Trimesh(ball.vertices, faces, process=False), tmp_path / "mixed.ply"
    )
    np.testing.assert_array_equal(found, expected)
    assert "turned so that neighbours wind alike" in notes


def test_faces_with_one_side_only_are_refused(tmp_path):
    """The real projective plane with six vertices: each edge has two faces, and there is no inside."""
    faces = np.array([[0, 1, 4], [0, 1, 5], [0, 2, 3], [0, 2, 5], [0, 3, 4], [1, 2, 3], [1, 2, 4],
                      [1, 3, 5], [2, 4, 5], [3, 4, 5]])  # fmt: skip
    corners = np.random.default_rng(0).uniform(size=(6, 3))
    trimesh.Trimesh(corners, faces, process=False).export(tmp_path / "plane.ply")
    assert "two sides" in refused(tmp_path / "plane.ply")


def test_cut_files_are_said_to_be_cut(tmp_path):
    ball = icosphere(1)
    ball.export(tmp_path / "whole.stl")
    content = (tmp_path / "whole.stl").read_bytes()
    for length, said in ((84 + 50 * 30 + 7, "the 80 faces of its head, got 30"), (50, "84 bytes")):
        (tmp_path / "cut.stl").write_bytes(content[:length])
        line = refused(tmp_path / "cut.stl")
        assert "the file is cut" in line
        assert said in line
        (tmp_path / "cut.stl").write_bytes(b"solid" + content[5:length])
        assert "the file is cut" in refused(tmp_path / "cut.stl")
    (tmp_path / "long.stl").write_bytes(content + bytes(500))
    assert "goes on after them" in refused(tmp_path / "long.stl")
    ball.export(tmp_path / "text.stl", file_type="stl_ascii")
    text = (tmp_path / "text.stl").read_text()
    assert len(meshes.load_mesh(tmp_path / "text.stl").faces) == 80
    (tmp_path / "text.stl").write_text(text[: len(text) // 2])
    assert "endsolid" in refused(tmp_path / "text.stl")


def test_large_faces_are_worked_on_a_few_at_a_time(monkeypatch):
    mesh = several(*(CUBE.copy().apply_scale(scale) for scale in np.linspace(0.5, 1.9, 8)))
    whole = solids.occupancy(mesh, 16)
    monkeypatch.setattr(solids, "CROSSINGS_A_PIECE", 300)
    pieces = [len(found[0]) for _, found in solids.crossings(mesh.vertices.T, mesh.faces, 16)]
    assert len(pieces) > 10
    assert max(pieces) <= 300 + 17**2
    np.testing.assert_array_equal(solids.occupancy(mesh, 16), whole)


def test_meshes_that_cannot_be_used(tmp_path):
    (tmp_path / "points.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    assert "faces" in refused(tmp_path / "points.obj")
    trimesh.PointCloud(np.eye(3)).export(tmp_path / "points.ply")
    assert "faces" in refused(tmp_path / "points.ply")
    for suffix in ("obj", "ply", "stl"):
        (tmp_path / f"empty.{suffix}").write_bytes(b"")
        refused(tmp_path / f"empty.{suffix}")
        (tmp_path / f"text.{suffix}").write_text("not a mesh\n" * 20)
        refused(tmp_path / f"text.{suffix}")
        icosphere(2).export(tmp_path / f"whole.{suffix}")
        content = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"half.{suffix}").write_bytes(content[: len(content) // 2])
        refused(tmp_path / f"half.{suffix}")
    (tmp_path / "wrong.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n")
    refused(tmp_path / "wrong.obj")
    (tmp_path / "nan.obj").write_text("v 0 0 0\nv 1 nan 0\nv 0 1 0\nf 1 2 3\n")
    assert "NaN" in refused(tmp_path / "nan.obj")
    (tmp_path / "point.obj").write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    assert "extent" in refused(tmp_path / "point.obj")
    (tmp_path / "huge.ply").write_text(
        "ply\nformat binary_little_endian 1.0\nelement vertex 999999999999\nproperty float x\n"
        "property float y\nproperty float z\nelement face 999999999999\n"
        "property list uchar int vertex_indices\nend_header\n"
    )
    refused(tmp_path / "huge.ply")


def test_memory_is_stated_before_the_work(tmp_path, monkeypatch):
    icosphere(3).export(tmp_path / "ball.ply")
    monkeypatch.setattr(memory, "available_memory", lambda: 1_000_000)
    assert "1,280 faces, which takes 1.28 MB" in refused(tmp_path / "ball.ply")
    monkeypatch.setattr(memory, "available_memory", lambda: 100_000)
    assert "a mesh file of" in refused(tmp_path / "ball.ply")
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    monkeypatch.setattr(meshes, "MANY_FACES", 1000)
    (note,) = meshes.load_mesh(tmp_path / "ball.ply").metadata["notes"]
    assert note == "1,280 faces take about 1.28 MB"
    monkeypatch.setattr(memory, "available_memory", lambda: 1_000_000)
    with pytest.raises(InputError, match="100x100x100 points, which takes 6 MB; lower --size"):
        solids.occupancy(icosphere(1), 100)
    with pytest.raises(InputError, match="at least 2 points"):
        solids.occupancy(icosphere(1), 1)


def test_what_lies_beside_a_file_is_not_read(tmp_path):
    icosphere(1).export(tmp_path / "ball.obj")
    text = (tmp_path / "ball.obj").read_text()
    (tmp_path / "ball.obj").write_text("mtllib other.mtl\nusemtl skin\n" + text)
    (tmp_path / "other.mtl").write_text("newmtl skin\nmap_Kd ../../etc/hostname\n")
    assert len(meshes.load_mesh(tmp_path / "ball.obj").faces) == 80
