"""The step that all backends are driven by, against the dense formulas."""

import importlib.util
from typing import get_args

import numpy as np
import pytest

from iga_core import (
    SGD,
    Adam,
    Adjuster,
    Adjustment,
    Damp,
    Equalise,
    Muon,
    Rows,
    Scale,
    Transform,
    gram,
)
from iga_core import representatives as chosen_by
from iga_core.optimizers import Schedule
from tests.support import oracle
from tests.support.oracle import close
from tests.support.selection import slow

N, P, C, Q = 6, 8, 3, 20
FILTERS = {"damp": Damp(), "equalise": Equalise(2), "scale": Scale(0.1)}


def draw(seed=0):
    """Cotangents (n, p, C), and a Jacobian of the outputs' sum at every point, (n, p, q)."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(N, P, C)), generator.normal(size=(N, P, Q))


def kernel_at(jacobian, positions):
    """K of the groups' mean tangents at some positions (n, s)."""
    J = np.take_along_axis(jacobian, positions[:, :, None], axis=1).mean(axis=1)
    return J @ J.T


def dense(spectral, kernel):
    if isinstance(spectral, Damp):
        return oracle.damp(kernel, spectral.scale)
    if isinstance(spectral, Equalise):
        return oracle.dense_transform(kernel, spectral.start, spectral.end, spectral.level)
    return spectral.factor * np.eye(len(kernel))


def wanted(S, reach, cotangent):
    if reach == "points":
        return np.einsum("ij,jpc->ipc", S, cotangent)
    return cotangent + ((S - np.eye(N)) @ cotangent.mean(axis=1))[:, None, :]


def factors_of(backend, jacobian):
    """What a backend hands in, and a list of the positions at which it was asked."""
    asked = []

    def factors_at(positions):
        host = backend.to_numpy(positions)
        assert host.dtype == np.int64
        asked.append(host)
        J = np.take_along_axis(jacobian, host[:, :, None], axis=1).mean(axis=1)
        return [Rows(backend.array(J[:, :7])), Rows(backend.array(J[:, 7:]))]

    return factors_at, asked


@pytest.mark.parametrize("spectral", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("reach", ["mean", "points"])
@pytest.mark.parametrize(("sampling", "samples"), [("random", 2), ("largest", 3), ("centre", 1)])
def test_one_piece_is_the_dense_formula(backend64, spectral, reach, sampling, samples):
    cotangent, jacobian = draw()
    centre = np.arange(N) % P
    settings = Adjustment(spectral, sampling, samples, reach, seed=7)
    adjuster = Adjuster(settings, P, centre=centre)
    factors_at, asked = factors_of(backend64, jacobian)
    given = backend64.array(cotangent)
    adjuster.look(given, np.arange(P))
    transform = adjuster.make(factors_at)
    got = adjuster(given)
    backend64.check(got)
    if isinstance(spectral, Scale):
        assert asked == []  # nothing is evaluated
        kernel = np.eye(N)
    else:
        positions = chosen_by(cotangent, sampling, samples, centre=centre, seed=[7, 0])
        np.testing.assert_array_equal(asked, [positions])
        kernel = kernel_at(jacobian, positions)
    S = dense(spectral, kernel)
    close(backend64.to_numpy(got), wanted(S, reach, cotangent), 1e-12)
    close(backend64.to_numpy(adjuster(given, transform)), wanted(S, reach, cotangent), 1e-12)


@pytest.mark.parametrize("order", ["piece by piece", "all looks first", "after a broken step"])
@pytest.mark.parametrize("reach", ["mean", "points"])
@pytest.mark.parametrize("sampling", ["random", "largest"])
def test_pieces_share_the_transform_of_the_first(backend64, order, reach, sampling):
    cotangent, jacobian = draw()
    pieces = [np.array([1, 4, 6]), np.array([0, 3, 7]), np.array([2, 5])]
    settings = Adjustment(sampling=sampling, reach=reach, refresh=1, average=0)
    adjuster = Adjuster(settings, P)
    factors_at, asked = factors_of(backend64, jacobian)
    parts = [backend64.array(cotangent[:, columns]) for columns in pieces]
    if order == "after a broken step":
        adjuster.look(parts[0], pieces[0])
        adjuster.make(lambda _: [Rows(backend64.array(np.eye(N)))])
        adjuster.look(parts[1], pieces[1])  # and then something raised
    if order == "all looks first":
        for part, columns in zip(parts, pieces, strict=True):
            adjuster.look(part, columns)
    got = []
    for part, columns in zip(parts, pieces, strict=True):
        if order != "all looks first":
            adjuster.look(part, columns)
        adjuster.make(factors_at)
        got.append(backend64.to_numpy(adjuster(part)))
    step = int(order == "after a broken step")
    within = chosen_by(cotangent[:, pieces[0]], sampling, 1, seed=[0, step])
    np.testing.assert_array_equal(asked, [pieces[0][within]])
    S = oracle.damp(kernel_at(jacobian, asked[0]))
    for found, columns in zip(got, pieces, strict=True):
        close(found, wanted(S, reach, cotangent[:, columns]), 1e-12)
    adjuster.look(parts[0], pieces[0])  # the next step begins
    adjuster.make(factors_at)
    assert len(asked) == 2


def steps(adjuster, jacobians, cotangent):
    """Take a step a Jacobian; the S of each, and at which steps factors were asked for."""
    found, asked = [], []
    for step, jacobian in enumerate(jacobians):

        def factors_at(positions, jacobian=jacobian, step=step):
            asked.append(step)
            return kernel_at(jacobian, positions)  # the kernel itself serves too

        adjuster.look(cotangent)
        found.append(adjuster.make(factors_at).matrix())
    return found, asked


def test_a_transform_serves_as_many_steps_as_refresh_says():
    cotangent, _ = draw()
    jacobians = [draw(seed)[1] for seed in range(8)]
    adjuster = Adjuster(
        Adjustment(refresh=3, average=0), choose=lambda _, __, step: np.full((N, 1), step % P)
    )
    found, asked = steps(adjuster, jacobians, cotangent)
    assert asked == [0, 3, 6]
    for step, S in enumerate(found):
        made = step - step % 3
        kernel = kernel_at(jacobians[made], np.full((N, 1), made % P))
        close(S, oracle.damp(kernel), 1e-12)


def test_the_average_begins_with_the_first_kernel():
    cotangent, _ = draw()
    jacobians = [draw(seed)[1] for seed in range(5)]
    adjuster = Adjuster(Adjustment(refresh=2, average=0.7, sampling="centre"))
    found, asked = steps(adjuster, jacobians, cotangent)
    assert asked == [0, 2, 4]
    K = None
    for step in asked:
        new = kernel_at(jacobians[step], np.full((N, 1), (P - 1) // 2))
        K = new if K is None else 0.7 * K + 0.3 * new
        close(found[step], oracle.damp(K), 1e-12)


def test_a_kernel_that_is_not_finite_leaves_the_step_plain_and_the_average_alone():
    cotangent, _ = draw()
    jacobians = [draw(seed)[1] for seed in range(4)]
    spoiled = [jacobians[0], jacobians[1] * np.nan, jacobians[2] * np.inf, jacobians[3]]
    adjuster = Adjuster(Adjustment(refresh=1, average=0.5, sampling="centre"))
    with np.errstate(invalid="ignore"), pytest.warns(UserWarning, match="kernel: exp") as warned:
        found, _ = steps(adjuster, spoiled, cotangent)
    assert len(warned) == 1
    assert found[1:3] == [1.0, 1.0]
    middle = np.full((N, 1), (P - 1) // 2)
    K = 0.5 * kernel_at(jacobians[0], middle) + 0.5 * kernel_at(jacobians[3], middle)
    close(found[3], oracle.damp(K), 1e-12)


def test_the_same_by_masks_where_nothing_may_be_read(monkeypatch):
    """As on an accelerator; nothing has entered before the second kernel."""
    monkeypatch.setattr("iga_core.adjuster.on_host", lambda _: False)
    monkeypatch.setattr("iga_core.filters.on_host", lambda _: False)
    cotangent, _ = draw()
    jacobians = [draw(seed)[1] for seed in range(4)]
    spoiled = [jacobians[0] * np.nan, jacobians[1], jacobians[2] * np.nan, jacobians[3]]
    adjuster = Adjuster(Adjustment(refresh=1, average=0.5, sampling="centre"))
    with np.errstate(invalid="ignore"):
        found, _ = steps(adjuster, spoiled, cotangent)
    middle = np.full((N, 1), (P - 1) // 2)
    K = kernel_at(jacobians[1], middle)
    close(found[0], np.eye(N), 1e-15)
    close(found[1], oracle.damp(K), 1e-12)
    close(found[2], np.eye(N), 1e-15)
    close(found[3], oracle.damp(0.5 * K + 0.5 * kernel_at(jacobians[3], middle)), 1e-12)


def test_other_groups_or_another_dtype_start_afresh():
    cotangent, jacobian = draw()
    adjuster = Adjuster(Adjustment(refresh=9, average=0.9, sampling="centre"))
    steps(adjuster, [jacobian], cotangent)
    single = jacobian.astype(np.float32)
    found, asked = steps(adjuster, [single], cotangent.astype(np.float32))
    assert asked == [0]
    middle = np.full((N, 1), (P - 1) // 2)
    close(found[0], oracle.damp(kernel_at(jacobian, middle)), 1e-4)
    found, asked = steps(adjuster, [jacobian[:4]], cotangent[:4])
    assert asked == [0]
    close(found[0], oracle.damp(kernel_at(jacobian[:4], middle[:4])), 1e-12)


def test_forgetting_keeps_the_stream_of_samples():
    cotangent, jacobian = draw()
    one, two = Adjuster(Adjustment()), Adjuster(Adjustment())
    steps(one, [jacobian], cotangent)
    one.forget()
    assert one.transform is None
    assert one.state.step == 1
    first, _ = steps(two, [jacobian], cotangent)
    second, asked = steps(one, [jacobian], cotangent)
    assert asked == [0]
    assert np.max(np.abs(first[0] - second[0])) > 1e-3


@pytest.mark.parametrize("reach", ["mean", "points"])
def test_points_in_no_group(backend64, reach):
    cotangent, jacobian = draw()
    rest = np.random.default_rng(5).normal(size=(4, C))
    neighbours = np.array([3, 0, -1, 3])
    adjuster = Adjuster(Adjustment(reach=reach, sampling="centre"))
    factors_at, asked = factors_of(backend64, jacobian)
    given = backend64.array(cotangent)
    adjuster.look(given)
    adjuster.make(factors_at)
    got, others = adjuster.with_rest(given, backend64.array(rest), backend64.integers(neighbours))
    S = oracle.damp(kernel_at(jacobian, asked[0]))
    close(backend64.to_numpy(got), wanted(S, reach, cotangent), 1e-12)
    if reach == "mean":
        change = (S - np.eye(N)) @ cotangent.mean(axis=1)
        rest[[0, 1, 3]] += change[[3, 0, 3]]
    close(backend64.to_numpy(others), rest, 1e-12)
    none = backend64.array(np.empty((0, C))), backend64.integers(np.empty(0, np.int64))
    assert adjuster.with_rest(given, *none)[1].shape == (0, C)


@pytest.mark.parametrize("reach", ["mean", "points"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_one_cotangent_that_is_not_finite_reaches_no_other_group(backend64, reach, bad):
    cotangent, jacobian = draw()
    adjuster = Adjuster(Adjustment(reach=reach))
    factors_at, _ = factors_of(backend64, jacobian)
    adjuster.look(backend64.array(cotangent))
    adjuster.make(factors_at)
    cotangent[2, 3, 1] = bad
    with np.errstate(invalid="ignore"):
        got = backend64.to_numpy(adjuster(backend64.array(cotangent)))
    np.testing.assert_array_equal(got, cotangent)


@pytest.mark.parametrize("spectral", FILTERS.values(), ids=FILTERS)
def test_a_state_goes_on_elsewhere(backend, spectral):
    cotangent, jacobian = draw()
    settings = Adjustment(spectral, refresh=2, average=0.5)
    factors_at, _ = factors_of(backend, jacobian)
    given = backend.array(cotangent)

    def step(adjuster):
        adjuster.look(given)
        adjuster.make(factors_at)
        return backend.to_numpy(adjuster(given))

    one, two = Adjuster(settings), Adjuster(settings)
    for _ in range(3):
        step(one)
    state = one.state_dict()
    host = {
        name: array if isinstance(array, np.ndarray) else backend.to_numpy(array)
        for name, array in state.items()
    }
    two.load_state_dict(host, given)
    for _ in range(3):
        np.testing.assert_array_equal(step(one), step(two))


def trace_of(kernel):
    """A filter whose transform is a multiple of I, and needs the kernel."""
    return Transform(1 / np.trace(kernel))


def test_a_uniform_transform_is_saved_too():
    cotangent, jacobian = draw()
    one, two = (Adjuster(Adjustment(trace_of)) for _ in range(2))
    (S,), _ = steps(one, [jacobian], cotangent)
    two.load_state_dict(one.state_dict(), cotangent)
    (again,), asked = steps(two, [jacobian], cotangent)
    assert (again, asked) == (S, [])


def test_a_state_of_other_settings_is_refused():
    cotangent, jacobian = draw()
    adjuster = Adjuster(Adjustment.paper(end=3))
    steps(adjuster, [jacobian], cotangent)
    state = adjuster.state_dict()
    for other in (Adjustment.paper(end=4), Adjustment(), Adjustment.paper(end=3, seed=1)):
        with pytest.raises(ValueError, match=r"state: expected that of .* load it into an adj"):
            Adjuster(other).load_state_dict(state)
    damaged = [
        None, [], {}, {**state, "step": np.asarray(-1)}, {**state, "S": np.eye(3)},
        {**state, "S": np.ones((N, 2))}, {**state, "eigenvalues": np.ones(2)},
        {**state, "settings": None}, {**state, "step": "many"}, {**state, "S": "abc"},
        {**state, "S": np.full((N, N), np.nan)}, {k: v for k, v in state.items() if k != "S"},
    ]  # fmt: skip
    for bad in damaged:
        with pytest.raises(ValueError, match="state: expected"):
            adjuster.load_state_dict(bad)
    np.testing.assert_array_equal(adjuster.transform.matrix(), state["S"])


def test_a_state_of_other_groups_or_without_its_average_is_refused():
    cotangent, jacobian = draw()
    adjuster = Adjuster(Adjustment())
    steps(adjuster, [jacobian], cotangent)
    state = adjuster.state_dict()
    with pytest.raises(ValueError, match="square matrices of 7 groups"):
        Adjuster(Adjustment()).load_state_dict(state, cotangent, 7)
    del state["kernel"]
    with pytest.raises(ValueError, match="state: expected counts"):
        Adjuster(Adjustment()).load_state_dict(state, cotangent, N)


def test_what_chooses_is_a_function():
    with pytest.raises(TypeError, match="choose: expected a function, got 3"):
        Adjuster(Adjustment(), choose=3)


def test_it_takes_an_adjustment():
    with pytest.raises(TypeError, match="adjustment: expected an Adjustment, got 20"):
        Adjuster(20)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
class TestJax:
    @pytest.fixture
    def kernel(self):
        import jax.numpy as jnp

        J = jnp.asarray(draw()[1][:, 0].astype(np.float32))
        return J @ J.T

    @pytest.mark.parametrize("name", ["scale", *slow(["damp", "equalise"])])
    def test_transforms_go_through_jit_and_grad(self, kernel, name):
        import jax
        import jax.numpy as jnp

        spectral = FILTERS[name]
        S = dense(spectral, np.asarray(kernel, np.float64))
        cotangent = draw()[0].astype(np.float32)
        g, transform = jnp.asarray(cotangent), spectral(kernel)
        on_means = wanted(S, "mean", cotangent)
        close(jax.jit(transform.on_means)(g), on_means, 1e-4)
        close(jax.jit(lambda t, x: t.on_means(x))(transform, g), on_means, 1e-4)
        close(jax.jit(lambda k: spectral(k).on_means(g))(kernel), on_means, 1e-4)
        slope = jax.grad(lambda x: jnp.sum(transform(x) * g))(g)
        close(slope, np.einsum("ij,ipc->jpc", S, cotangent), 1e-4)

    def test_a_kernel_on_a_cpu_is_looked_at(self, kernel):
        with pytest.raises(ValueError, match="kernel: expected finite values"):
            Damp()(kernel.at[0, 0].set(float("nan")))

    @pytest.mark.slow
    def test_a_step(self, kernel):
        import jax.numpy as jnp

        cotangent, jacobian = draw()
        g = jnp.asarray(cotangent.astype(np.float32))
        adjuster = Adjuster(Adjustment(sampling="largest"))
        adjuster.look(g)
        adjuster.make(lambda at: [Rows(jnp.take_along_axis(
            jnp.asarray(jacobian.astype(np.float32)), at[:, :, None], axis=1)[:, 0])])  # fmt: skip
        positions = chosen_by(cotangent.astype(np.float32), "largest")
        S = oracle.damp(kernel_at(jacobian, positions))
        close(adjuster(g), wanted(S, "mean", cotangent), 1e-4)
        assert gram([Rows(kernel)]).shape == (N, N)

    @pytest.mark.slow
    @pytest.mark.parametrize("schedule", get_args(Schedule))
    @pytest.mark.parametrize("kind", [SGD, Adam, Muon])
    def test_an_optimizer_takes_a_traced_step(self, kind, schedule):
        import jax
        import jax.numpy as jnp

        optimizer = kind(0.1, schedule)
        parameters = [jnp.ones((3, 2)), jnp.ones(3)]
        gradients = [jnp.full((3, 2), 0.5), jnp.full(3, -2.0)]
        moments = optimizer.initial(parameters)
        for step in (0, 4, 9, 12):
            traced, _ = jax.jit(lambda k: optimizer.update(parameters, gradients, moments, k, 10))(
                step
            )
            plain, _ = optimizer.update(parameters, gradients, moments, step, 10)
            for a, b in zip(traced, plain, strict=True):
                close(a, b, 1e-5)
