import numpy as np
import pytest

from iga_core import leading_eigenpairs
from tests.oracle import close


def kernel_with(values, seed=0):
    n = len(values)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
    kernel = (basis * np.asarray(values)) @ basis.T
    return (kernel + kernel.T) / 2


def test_pairs_are_the_leading_ones(backend):
    kernel = kernel_with(2.0 ** -np.arange(12))
    values, vectors = leading_eigenpairs(backend.array(kernel), 5)
    backend.check(values)
    backend.check(vectors)
    V, tolerance = backend.to_numpy(vectors), 100 * backend.eps
    close(backend.to_numpy(values), 2.0 ** -np.arange(5), tolerance)
    close(V.T @ V, np.eye(5), tolerance)
    close(kernel @ V, V * backend.to_numpy(values), tolerance)


def test_tracking_finds_pairs_from_nearby_vectors(backend):
    kernel = kernel_with(1.5 ** -np.arange(30))
    near = np.linalg.eigh(kernel + 1e-3 * kernel_with(np.ones(30) * 0.1, 1))[1][:, ::-1][:, :16]
    noisy = near + 0.02 * np.random.default_rng(2).normal(size=near.shape)
    values, vectors = leading_eigenpairs(backend.array(kernel), 6, backend.array(noisy))
    backend.check(vectors)
    V = backend.to_numpy(vectors)
    close(backend.to_numpy(values), 1.5 ** -np.arange(6), 1e-3)
    close(V.T @ V, np.eye(6), 100 * backend.eps)
    projector = np.linalg.eigh(kernel)[1][:, ::-1][:, :6]
    close(V @ V.T, projector @ projector.T, 1e-2)


def test_tracking_from_exact_vectors_is_exact():
    kernel = kernel_with(1.5 ** -np.arange(30))
    start = leading_eigenpairs(kernel, 12)[1]
    values, _ = leading_eigenpairs(kernel, 8, start)
    close(values, 1.5 ** -np.arange(8), 1e-12)


def test_a_zero_kernel_and_a_single_group():
    values, vectors = leading_eigenpairs(np.zeros((3, 3)), 2)
    np.testing.assert_array_equal(values, [0, 0])
    close(vectors.T @ vectors, np.eye(2), 1e-15)
    values, vectors = leading_eigenpairs(np.zeros((3, 3)), 2, np.eye(3))
    np.testing.assert_array_equal(values, [0, 0])
    assert np.all(np.isfinite(vectors))
    assert leading_eigenpairs(np.full((1, 1), 4.0), 1)[0] == [4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 3)), 1), r"kernel: expected shape \(n, n\)"),
        ((np.ones(4), 1), r"kernel: expected shape \(n, n\)"),
        ((np.eye(3), 4), "count: expected at most 3"),
        ((np.eye(3), 0), "count: expected at least 1"),
        ((np.eye(3), 2, np.ones((3, 1))), "start: expected 2 to 3 columns, got 1"),
        ((np.eye(3), 2, np.ones((4, 2))), r"start: expected shape \(3, k\)"),
        ((np.array([[1.0, 2.0], [0.0, 1.0]]), 1), "kernel: expected a symmetric matrix"),
        ((np.array([[1.0, np.nan], [np.nan, 1.0]]), 1), "kernel: expected finite values"),
        ((np.array([[np.inf, 0.0], [0.0, 1.0]]), 1), "kernel: expected finite values"),
    ],
)
def test_bad_values_say_what_to_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        leading_eigenpairs(*arguments)
