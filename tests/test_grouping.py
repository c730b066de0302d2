import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iga_core import Grouping

grids = st.lists(
    st.integers(1, 7).flatmap(lambda side: st.tuples(st.just(side), st.integers(1, side))),
    min_size=1,
    max_size=3,
)


@given(grids, st.integers(0, 2))
def test_join_inverts_split_for_any_shape(axes, channels):
    shape, size = zip(*axes, strict=True)
    grouping = Grouping.patches(shape, size)
    flat = np.random.default_rng(0).normal(size=(np.prod(shape),) + (3,) * channels)
    np.testing.assert_array_equal(grouping.join(*grouping.split(flat)), flat)


@given(grids)
def test_patches_are_the_patches_of_the_grid(axes):
    shape, size = zip(*axes, strict=True)
    grouping = Grouping.patches(shape, size)
    grid = np.arange(np.prod(shape)).reshape(shape)
    counts = [s // p for s, p in axes]
    wanted = [
        grid[tuple(slice(i * p, (i + 1) * p) for i, p in zip(cell, size, strict=True))].ravel()
        for cell in itertools.product(*map(range, counts))
    ]
    np.testing.assert_array_equal(grouping.index, wanted)
    assert grouping.index.dtype == np.int64
    np.testing.assert_array_equal(grouping.rest, np.setdiff1d(grid, wanted))
    assert grouping.count == grid.size
    np.testing.assert_array_equal(grouping.columns(0, 1), grouping.index[:, :1])


@given(grids)
def test_centre_is_nearest_the_middle(axes):
    shape, size = zip(*axes, strict=True)
    places = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1).reshape(-1, len(size))
    distances = np.sum((places - (np.array(size) - 1) / 2) ** 2, axis=1)
    assert Grouping.patches(shape, size).centre == np.argmin(distances)


def test_one_size_serves_all_axes_and_blocks_are_consecutive():
    np.testing.assert_array_equal(
        Grouping.patches((4, 6), 2).index, Grouping.patches((4, 6), (2, 2)).index
    )
    blocks = Grouping.blocks(10, 4)
    np.testing.assert_array_equal(blocks.index, [[0, 1, 2, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(blocks.rest, [8, 9])
    np.testing.assert_array_equal(Grouping.patches(10, 4).index, blocks.index)


def test_split_and_join_stay_on_their_backend(backend):
    grouping = Grouping.patches((5, 5), 2)
    flat = backend.array(np.arange(50).reshape(25, 2))
    groups, rest = grouping.split(flat)
    assert (groups.shape, rest.shape) == ((4, 4, 2), (9, 2))
    joined = grouping.join(groups, rest)
    for array in (groups, rest, joined):
        backend.check(array)
    np.testing.assert_array_equal(backend.to_numpy(joined), backend.to_numpy(flat))


def test_arrays_name_shapes_and_dtypes_do_not_mix():
    grouping = Grouping.patches(np.array([4, 6]), np.array([2, 3]))
    np.testing.assert_array_equal(grouping.index, Grouping.patches((4, 6), (2, 3)).index)
    with pytest.raises(TypeError, match="groups, rest: expected one dtype"):
        grouping.join(np.zeros((4, 6), np.float32), np.zeros(0))
    with pytest.raises(TypeError, match="flat: expected an array, got list"):
        grouping.split([0] * 24)


def test_a_large_volume_costs_little():
    grouping = Grouping.patches((512, 512, 512), 8)
    assert grouping.groups * grouping.points == 512**3
    assert grouping.columns(0, 2).shape == (64**3, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grouping.patches((4, 4), 5), r"size: expected a patch no larger .* choose"),
        (lambda: Grouping.patches((4, 4), (2, 2, 2)), r"size: expected one number or 2"),
        (lambda: Grouping.patches((4, 0), 1), r"shape: expected at least 1, got 0"),
        (lambda: Grouping.patches((), 1), r"shape: expected at least one axis"),
        (lambda: Grouping.blocks(3, 4), r"size: expected"),
        (lambda: Grouping.blocks(3, 0), r"size: expected at least 1, got 0"),
        (lambda: Grouping.blocks(4, 2).split(np.zeros((5, 1))), r"flat: expected shape \(4, ...\)"),
        (lambda: Grouping.blocks(4, 2).join(np.zeros((2, 3)), np.zeros(0)), r"groups: expected"),
        (lambda: Grouping.blocks(5, 2).join(np.zeros((2, 2)), np.zeros(0)), r"rest: expected"),
    ],
)
def test_bad_values_say_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("size", [2.0, "2", True, None])
def test_sizes_are_whole_numbers(size):
    with pytest.raises(TypeError, match="size: expected a whole number"):
        Grouping.blocks(4, size)
