"""Patches, blocks and neighbours, their pieces, batches and the points in no group."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from iga_core import Grouping
from iga_core.grouping import batch_of, pieces, require_batch

grids = st.lists(
    st.integers(1, 7).flatmap(lambda side: st.tuples(st.just(side), st.integers(1, side))),
    min_size=1,
    max_size=3,
)


@st.composite
def clouds(draw):
    """Points on few values, so that many coordinates tie, and a number of groups."""
    count, axes, values = (
        draw(st.integers(1, 150)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 9)),
    )
    stretch = np.array(draw(st.lists(st.sampled_from([0.5, 1, 3]), min_size=axes, max_size=axes)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.integers(values, size=(count, axes)) * stretch, draw(st.integers(1, count))


def is_partition(grouping, count):
    """Every point once; what the parts promise of each other."""
    everything = np.concatenate([grouping.index.ravel(), grouping.rest])
    np.testing.assert_array_equal(np.sort(everything), np.arange(count))
    assert grouping.count == count
    assert np.all(np.diff(grouping.rest) > 0)
    assert grouping.neighbours.shape == grouping.rest.shape
    assert np.all((grouping.neighbours >= 0) & (grouping.neighbours < grouping.groups))
    assert grouping.centre.shape == (grouping.groups,)
    for name in ("index", "rest", "neighbours", "centre"):
        array = getattr(grouping, name)
        assert array.dtype == np.int64
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    return True


def share(rank, count, groups):
    return rank * count // groups


def ranked(coords, members):
    """Members along the axis in which they reach furthest; equal ones by index."""
    reach = np.ptp(coords[members], axis=0)
    return sorted(members, key=lambda i: (coords[i, np.argmax(reach)], i))


def inside(coords, members):
    if len(members) == 1:
        return members
    order, half = ranked(coords, members), len(members) // 2
    return inside(coords, order[:half]) + inside(coords, order[half:])


def leaves(coords, members, first, last, groups):
    """The leaves of a k-d tree, one split after another, each as its sorted members."""
    if last - first == 1:
        return [sorted(members)]
    middle, count = (first + last) // 2, len(coords)
    left = share(middle, count, groups) - share(first, count, groups)
    order = ranked(coords, members)
    return leaves(coords, order[:left], first, middle, groups) + leaves(
        coords, order[left:], middle, last, groups
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
    assert is_partition(grouping, grid.size)


@given(grids)
def test_the_neighbour_of_a_point_is_the_patch_nearest_it(axes):
    shape, size = zip(*axes, strict=True)
    grouping = Grouping.patches(shape, size)
    places = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), axis=-1)
    grouped = places[grouping.index]
    for point, neighbour in zip(places[grouping.rest], grouping.neighbours, strict=True):
        steps = np.abs(grouped - point).sum(axis=-1).min(axis=1)
        assert np.flatnonzero(steps == steps.min()).tolist() == [neighbour]


@given(grids)
def test_centre_of_a_patch_is_nearest_its_middle(axes):
    shape, size = zip(*axes, strict=True)
    places = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1).reshape(-1, len(size))
    distances = np.sum((places - (np.array(size) - 1) / 2) ** 2, axis=1)
    assert set(Grouping.patches(shape, size).centre) == {np.argmin(distances)}


def test_one_size_serves_all_axes_and_blocks_are_consecutive():
    np.testing.assert_array_equal(
        Grouping.patches((4, 6), 2).index, Grouping.patches((4, 6), (2, 2)).index
    )
    blocks = Grouping.blocks(10, 4)
    np.testing.assert_array_equal(blocks.index, [[0, 1, 2, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(blocks.rest, [8, 9])
    np.testing.assert_array_equal(blocks.neighbours, [1, 1])
    np.testing.assert_array_equal(Grouping.patches(10, 4).index, blocks.index)
    assert repr(blocks) == "Grouping(groups=2, points=4, rest=2)"


@given(clouds())
def test_nearest_makes_equal_groups_and_leaves_few_points(cloud):
    coords, wanted = cloud
    grouping = Grouping.nearest(coords, wanted)
    count = len(coords)
    assert is_partition(grouping, count)
    assert grouping.points == count // grouping.groups
    assert len(grouping.rest) == count % grouping.groups <= 0.02 * count
    # None of the numbers of groups in between would have done.
    assert all(count % n > 0.02 * count for n in range(grouping.groups + 1, wanted + 1))


@given(clouds())
@example((np.random.default_rng(0).integers(99, size=(1999, 2)), 90))  # 19 leaves with one more
def test_nearest_is_the_tree_of_one_split_after_another(cloud):
    coords, wanted = cloud
    grouping = Grouping.nearest(coords, wanted)
    tree = leaves(coords, list(range(len(coords))), 0, grouping.groups, grouping.groups)
    left_out = {}
    for group, members in enumerate(tree):
        kept = members[: grouping.points]
        left_out |= dict.fromkeys(members[grouping.points :], group)
        assert grouping.index[group].tolist() == inside(coords, kept)
    assert dict(zip(grouping.rest, grouping.neighbours, strict=True)) == left_out


@given(clouds())
def test_centre_of_neighbours_is_nearest_their_mean(cloud):
    coords, wanted = cloud
    grouping = Grouping.nearest(coords, wanted)
    for members, centre in zip(grouping.index, grouping.centre, strict=True):
        distances = np.sum((coords[members] - coords[members].mean(axis=0)) ** 2, axis=1)
        # Up to rounding of the mean: which of equally near points it is must not be asked here.
        assert distances[centre] <= distances.min() + 1e-12


def test_of_equally_near_points_the_lower_is_the_centre():
    assert Grouping.nearest(np.arange(8.0)[:, None], 2).centre.tolist() == [1, 1]


@given(clouds(), st.randoms(use_true_random=False))
def test_the_order_of_distinct_points_does_not_matter(cloud, random):
    coords, wanted = cloud
    coords = coords + np.random.default_rng(0).random(coords.shape)  # no two are equal
    assume(len(coords) % Grouping.nearest(coords, wanted).groups == 0)  # rest goes by the index
    order = np.array(random.sample(range(len(coords)), len(coords)))
    np.testing.assert_array_equal(
        order[Grouping.nearest(coords[order], wanted).index], Grouping.nearest(coords, wanted).index
    )


def test_equal_points_are_grouped_by_index():
    grouping = Grouping.nearest(np.ones((103, 3)), 17)
    members = np.setdiff1d(np.arange(103), grouping.rest).reshape(17, 6)
    np.testing.assert_array_equal(grouping.index, members)
    # The leaves are the consecutive ones of proportional ranks, and the last of a longer one is out.
    wanted = [share(i + 1, 103, 17) - 1 for i in range(17)]
    sizes = np.diff([-1, *wanted])
    assert grouping.rest.tolist() == [w for w, size in zip(wanted, sizes, strict=True) if size == 7]


def test_a_grid_falls_into_its_patches():
    grid = np.stack(np.meshgrid(np.arange(32), np.arange(32), indexing="ij"), -1).reshape(-1, 2)
    found = Grouping.nearest(grid, 64)
    assert {frozenset(row) for row in found.index} == {
        frozenset(row) for row in Grouping.patches((32, 32), 4).index
    }
    # A column is at one place of every group.
    offsets = grid[found.index] - grid[found.index].min(axis=1, keepdims=True)
    np.testing.assert_array_equal(offsets, np.broadcast_to(offsets[0], offsets.shape))


def test_every_library_has_the_same_groups(backend):
    coords = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    grouping = Grouping.nearest(backend.array(coords), 12)
    for name in ("index", "rest", "neighbours", "centre"):
        np.testing.assert_array_equal(
            getattr(grouping, name), getattr(Grouping.nearest(coords, 12), name)
        )


def test_coordinates_of_any_real_dtype():
    torch = pytest.importorskip("torch")
    coords = np.random.default_rng(0).permutation(60).reshape(30, 2)
    wanted = Grouping.nearest(coords.astype(float), 5).index
    tensor = torch.asarray(coords)
    for same in (coords, coords.astype(np.uint8), tensor.half(), tensor.bfloat16()):
        np.testing.assert_array_equal(Grouping.nearest(same, 5).index, wanted)
    leaf = tensor.double().requires_grad_()
    np.testing.assert_array_equal(Grouping.nearest(leaf, 5).index, wanted)


@given(grids, st.randoms(use_true_random=False))
def test_some_are_those_groups(axes, random):
    shape, size = zip(*axes, strict=True)
    grouping = Grouping.patches(shape, size)
    of = range(grouping.groups)
    chosen = np.array(sorted(random.sample(of, random.randint(1, len(of)))))
    some = grouping.some(chosen)
    np.testing.assert_array_equal(some.index, grouping.index[chosen])
    np.testing.assert_array_equal(some.centre, grouping.centre[chosen])
    np.testing.assert_array_equal(some.rest, grouping.rest)
    for whole, renumbered in zip(grouping.neighbours, some.neighbours, strict=True):
        assert chosen[renumbered] == whole if renumbered >= 0 else whole not in chosen


def test_some_of_some():
    grouping = Grouping.patches((7, 7), 2)
    twice = grouping.some(np.array([0, 2, 5, 8])).some(np.array([1, 3]))
    once = grouping.some(np.array([2, 8]))
    for name in ("index", "rest", "neighbours", "centre"):
        np.testing.assert_array_equal(getattr(twice, name), getattr(once, name))
    assert set(once.neighbours) == {-1, 0, 1}


@pytest.mark.parametrize(
    "make", [lambda _: Grouping.patches((5, 5), 2), lambda c: Grouping.nearest(c, 3)]
)
def test_split_and_join_stay_on_their_backend(backend, make):
    flat = backend.array(np.random.default_rng(0).permutation(50).reshape(25, 2))
    grouping = make(flat)
    groups, rest = grouping.split(flat)
    n, p, m = grouping.groups, grouping.points, 25 - grouping.groups * grouping.points
    assert (groups.shape, rest.shape) == ((n, p, 2), (m, 2))
    np.testing.assert_array_equal(backend.to_numpy(groups), backend.to_numpy(flat)[grouping.index])
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


sizes = st.integers(1, 200)


@given(sizes, st.integers(1, 64), st.integers(1, 50), st.integers(1, 10**6), st.integers(0, 9))
def test_pieces_are_nearly_equal_parts_of_the_columns(points, groups, numbers, memory, step):
    made = pieces(points, groups, numbers, memory=memory, step=step)
    np.testing.assert_array_equal(np.sort(np.concatenate(made)), np.arange(points))
    lengths = [len(piece) for piece in made]
    assert max(lengths) - min(lengths) <= 1
    column = 8 * groups * numbers
    assert max(lengths) * column <= max(memory, column)
    # No more of them than the budget asks for.
    assert (len(made) - 1) * max(1, memory // column) < points
    for piece in made:
        assert piece.dtype == np.int64
        assert np.all(np.diff(piece) > 0)


@given(sizes, st.integers(1, 250), st.integers(1, 10**6))
def test_columns_win_over_memory(points, columns, memory):
    made = pieces(points, 4, 10, memory=memory, columns=columns)
    assert max(map(len, made)) <= columns
    assert len(made) == -(-points // columns)


def test_a_signal_within_the_budget_is_one_piece_in_order():
    (whole,) = pieces(256, 256, 1000, step=3)
    np.testing.assert_array_equal(whole, np.arange(256))
    assert len(pieces(256, 256, 1025)) == 2  # 2**29 bytes are 256 * 256 * 1024 numbers of 8


def test_pieces_follow_from_seed_and_step_alone():
    def of(**settings):
        return np.concatenate(pieces(100, 4, 1, columns=30, **settings)).tolist()

    first = of(seed=2, step=5)
    np.random.default_rng([2, 5]).permutation(9)
    assert of(seed=2, step=5) == first
    others = [of(seed=2, step=6), of(seed=3, step=5), of(seed=5, step=2)]
    assert all(other != first for other in others)


def test_pieces_hold_columns_from_all_over_a_group():
    means = [
        piece.mean() for step in range(20) for piece in pieces(1000, 1, 1, columns=250, step=step)
    ]
    # The standard deviation of the mean of 250 of 1,000 without replacement is 16.
    np.testing.assert_allclose(means, 499.5, atol=5 * 16)
    assert np.std(means) > 8


def test_no_two_draws_share_a_stream():
    steps = range(6)
    drawn = [
        *(
            tuple(np.concatenate(pieces(40, 1, 1, columns=1, seed=s, step=k)))
            for s in steps
            for k in steps
        ),
        *(
            tuple(np.concatenate([batch_of(40, 1, s, 40 * e + k) for k in range(40)]))
            for s in steps
            for e in steps
        ),
        *(tuple(np.random.default_rng([s, k]).permutation(40)) for s in steps for k in steps),
    ]
    assert len(set(drawn)) == 3 * 36


@pytest.mark.parametrize(("groups", "batch"), [(12, 4), (13, 4), (5, 5), (7, 6)])
def test_an_epoch_takes_each_group_once(groups, batch):
    steps = groups // batch
    epochs = [
        np.concatenate([batch_of(groups, batch, 3, epoch * steps + k) for k in range(steps)])
        for epoch in range(400)
    ]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == steps * batch
    times = np.bincount(np.concatenate(epochs), minlength=groups)
    wanted = 400 * steps * batch / groups
    assert np.abs(times - wanted).max() <= 5 * np.sqrt(wanted * (1 - steps * batch / groups))
    assert (groups == batch) == all(np.array_equal(epoch, epochs[0]) for epoch in epochs)


def test_a_batch_is_drawn_from_its_seed_and_step_alone():
    first = batch_of(100, 10, 0, 57)
    batch_of(100, 10, 1, 3)
    again = batch_of(100, 10, 0, 57)
    np.testing.assert_array_equal(first, again)
    assert again.dtype == np.int64
    assert not np.array_equal(first, batch_of(100, 10, 1, 57))
    assert np.all(np.diff(first) > 0)


def test_a_batch_is_a_whole_number_or_none():
    assert require_batch(None, 0, 9) is None
    batch = require_batch(np.int32(9), 0, 9)
    assert (batch, type(batch)) == (9, int)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grouping.patches((4, 4), 5), r"size: expected a patch no larger .* choose"),
        (lambda: Grouping.patches((4, 4), (2, 2, 2)), r"size: expected one number or 2"),
        (lambda: Grouping.patches((4, 0), 1), r"shape: expected at least 1, got 0"),
        (lambda: Grouping.patches((), 1), r"shape: expected from 1 to 32 axes, got 0"),
        (lambda: Grouping.patches((1,) * 70, 1), r"shape: expected from 1 to 32 axes, got 70"),
        (
            lambda: Grouping.patches((2**40, 2**40), 2**40),
            r"shape: expected at most 4294967296 points",
        ),
        (lambda: Grouping.blocks(2**32 + 1, 1), r"shape: expected at most 4294967296 points"),
        (lambda: Grouping.blocks(3, 4), r"size: expected"),
        (lambda: Grouping.blocks(3, 0), r"size: expected at least 1, got 0"),
        (lambda: Grouping.blocks(4, 2).split(np.zeros((5, 1))), r"flat: expected shape \(4, ...\)"),
        (lambda: Grouping.blocks(4, 2).join(np.zeros((2, 3)), np.zeros(0)), r"groups: expected"),
        (lambda: Grouping.blocks(5, 2).join(np.zeros((2, 2)), np.zeros(0)), r"rest: expected"),
        (lambda: Grouping.nearest(np.zeros(5), 2), r"coords: expected shape \(points, axes\)"),
        (lambda: Grouping.nearest(np.zeros((5, 0)), 2), r"coords: expected at least one number"),
        (lambda: Grouping.nearest(np.zeros((0, 2)), 2), r"coords: expected at least one number"),
        (lambda: Grouping.nearest(np.array([[0.0], [np.nan]]), 1), r"coords: expected finite"),
        (lambda: Grouping.nearest(np.zeros((5, 2)), 6), r"groups: expected at most the 5 points"),
        (lambda: Grouping.nearest(np.zeros((5, 2)), 0), r"groups: expected at least 1, got 0"),
        (lambda: pieces(4, 4, 1, columns=0), r"columns: expected at least 1, got 0"),
        (lambda: pieces(4, 4, 0), r"numbers: expected at least 1, got 0"),
        (lambda: pieces(4, 4, 1, memory=0), r"memory: expected at least 1, got 0"),
        (lambda: pieces(0, 4, 1), r"points: expected at least 1, got 0"),
        (lambda: pieces(4, 0, 1), r"groups: expected at least 1, got 0"),
        (
            lambda: require_batch(10, 0, 9),
            r"batch: expected at most the 9 groups, got 10; lower it",
        ),
        (lambda: require_batch(0, 0, 9), r"batch: expected at least 1, got 0"),
        (lambda: require_batch(None, -1, 9), r"seed: expected at least 0"),
    ],
)
def test_bad_values_say_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("size", [2.0, "2", True, None])
def test_sizes_are_whole_numbers(size):
    with pytest.raises(TypeError, match="size: expected a whole number"):
        Grouping.blocks(4, size)
    with pytest.raises(TypeError, match="groups: expected a whole number"):
        Grouping.nearest(np.zeros((4, 1)), size)
    if size is not None:
        with pytest.raises(TypeError, match="batch: expected a whole number"):
            require_batch(size, 0, 9)
        with pytest.raises(TypeError, match="columns: expected a whole number"):
            pieces(4, 4, 1, columns=size)


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        ([[0.0, 1.0]], "coords: expected an array, got list"),
        (np.ma.zeros((4, 2)), "coords: expected an array without a mask"),
        (np.zeros((4, 2), complex), "coords: expected real numbers, got complex128"),
        (np.zeros((4, 2), bool), "coords: expected real numbers, got bool"),
        (np.full((4, 2), "1.0"), "coords: expected real numbers, got <U3"),
        (np.zeros((4, 2), object), "coords: expected real numbers, got object"),
    ],
)
def test_coordinates_are_real_numbers(coords, message):
    with pytest.raises(TypeError, match=message):
        Grouping.nearest(coords, 2)


@pytest.mark.parametrize(("columns", "lengths"), [(4, [6]), (1, [6]), (6, [6]), (3, [6])])
def test_a_piece_has_as_many_columns_as_are_sampled(columns, lengths):
    found = pieces(6, 10, 1, columns=columns, least=4)
    assert [len(piece) for piece in found] == lengths
    assert [len(piece) for piece in pieces(9, 10, 1, memory=1, least=4)] == [5, 4]
