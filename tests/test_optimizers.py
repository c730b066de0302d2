"""SGD, Adam, Muon and the schedules against their formulas, on every library."""

import math

import numpy as np
import pytest

from iga_core import SGD, Adam, Muon
from iga_core.optimizers import orthogonalise
from tests.support.oracle import by_svd, close


def run(optimizer, backend, gradients, steps=None):
    """Parameters after one update a gradient."""
    parameters = [backend.array(np.ones_like(g)) for g in gradients[0]]
    moments = optimizer.initial(parameters)
    for step, gradient in enumerate(gradients):
        parameters, moments = optimizer.update(
            parameters, list(map(backend.array, gradient)), moments, step, steps or len(gradients)
        )
    for parameter in parameters:
        backend.check(parameter)
    return [backend.to_numpy(p) for p in parameters]


def some_gradients(shapes, steps, seed=0):
    generator = np.random.default_rng(seed)
    return [[generator.normal(size=shape) for shape in shapes] for _ in range(steps)]


def adam_by_hand(gradients, rate):
    x, first, second = 1.0, 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        first = 0.9 * first + 0.1 * g
        second = 0.999 * second + 0.001 * g**2
        x -= rate * (first / (1 - 0.9**t)) / (math.sqrt(second / (1 - 0.999**t)) + 1e-8)
    return x


def test_sgd(backend):
    gradients = some_gradients([(2, 3), (2,)], 3)
    got = run(SGD(0.1), backend, gradients)
    for k in range(2):
        close(got[k], 1 - 0.1 * sum(g[k] for g in gradients), 10 * backend.eps)


def test_adam(backend):
    gradients = some_gradients([(1,)], 6)
    wanted = adam_by_hand([float(g[0][0]) for g in gradients], 0.01)
    close(run(Adam(0.01), backend, gradients)[0], [wanted], 10 * backend.eps)


def test_muon_moves_matrices_along_orthogonal_directions(backend):
    gradients = some_gradients([(6, 3), (3, 6), (6,)], 4)
    got = run(Muon(0.02), backend, gradients)
    momentum = np.zeros((6, 3))
    wide = np.ones((6, 3))
    for g in gradients:
        momentum = 0.95 * momentum + 0.05 * g[0]
        wide -= 0.02 * math.sqrt(2) * by_svd(0.95 * momentum + 0.05 * g[0])
    close(got[0], wide, 1e-5 if "32" in str(backend.dtype) else 1e-12)
    assert abs(got[1] - 1).max() < 0.02 * 1.3 * 4
    close(got[2][:1], [adam_by_hand([g[2][0] for g in gradients], 1e-3)], 10 * backend.eps)


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (1, 4), (4, 1)])
def test_orthogonalise(backend, shape):
    matrix = np.random.default_rng(0).normal(size=shape)
    got = orthogonalise(backend.array(matrix))
    backend.check(got)
    close(backend.to_numpy(got), by_svd(matrix), 1e-4 if "32" in str(backend.dtype) else 1e-12)


@pytest.mark.parametrize("size", [1e-30, 1e-18, 1e18, 1e30])
def test_orthogonalise_at_any_size(size):
    matrix = np.random.default_rng(0).normal(size=(4, 6))
    got = orthogonalise((size * matrix).astype(np.float32))
    close(got, by_svd(matrix), 1e-4)


def test_a_numpy_rate_does_not_promote():
    for optimizer in (SGD, Adam, Muon):
        rate = optimizer(np.float64(1e-3))
        parameters = [np.ones((2, 2), np.float32), np.ones(2, np.float32)]
        new, _ = rate.update(parameters, parameters, rate.initial(parameters), 0, 1)
        assert {p.dtype for p in new} == {np.dtype("float32")}
    for wrong in ("1e-3", True, None, np.zeros(9999)):
        with pytest.raises(TypeError, match="learning_rate: expected a number") as raised:
            Adam(wrong)
        assert len(str(raised.value)) < 200


def test_a_zero_momentum_stays_zero(backend):
    got = backend.to_numpy(orthogonalise(backend.array(np.zeros((3, 4)))))
    np.testing.assert_array_equal(got, np.zeros((3, 4)))


def test_schedules():
    assert [SGD(1.0).decay(t, 10) for t in (0, 9)] == [1, 1]
    assert [SGD(1.0, "step").decay(t, 10) for t in (0, 2, 3, 9)] == [1, 1, 0.1, 0.1]
    cosine = [SGD(1.0, "cosine").decay(t, 10) for t in (0, 5, 10)]
    np.testing.assert_allclose(cosine, [1, 0.5, 0], atol=1e-15)
    cooldown = [SGD(1.0, "cooldown").decay(t, 10) for t in (0, 7, 8, 9, 10, 12)]
    np.testing.assert_allclose(cooldown, [1, 1, 1, 0.5, 0, 0], atol=1e-15)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_is_positive_and_finite(rate):
    with pytest.raises(ValueError, match="learning_rate: expected a positive finite number"):
        Adam(rate)


def test_a_schedule_has_a_name():
    with pytest.raises(ValueError, match="schedule: expected one of constant, step, cosine"):
        Adam(1e-3, "linear")
    with pytest.raises(ValueError, match=r"got ndarray of shape \(9999,\)"):
        Adam(1e-3, np.zeros(9999))
