"""The closed forms against integrals, wide networks and step-by-step training."""

import numpy as np
import pytest

from benchmarks.paper.theory import linear_residuals, two_layer_kernel
from iga_core import Damp, Equalise, Transform
from tests.support.oracle import close
from tests.support.selection import slow


def circle(count, offset=0.0):
    angle = offset + 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def sphere(count, dimension, seed=0):
    points = np.random.default_rng(seed).normal(size=(count, dimension))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def both_active(x, z):
    """The share of directions of the plane on the right side of two points, each an arc."""
    cuts = np.concatenate([np.arctan2(p[1], p[0]) + np.array([-0.5, 0.5]) * np.pi for p in (x, z)])
    cuts = np.sort(np.concatenate([np.mod(cuts, 2 * np.pi), [0, 2 * np.pi]]))
    middles = (cuts[1:] + cuts[:-1]) / 2
    directions = np.stack([np.cos(middles), np.sin(middles)], axis=1)
    inside = (directions @ x > 0) & (directions @ z > 0)
    return np.sum(np.diff(cuts)[inside]) / (2 * np.pi)


class Wide:
    """The two-layer network itself; parameters are one flat vector of w and b."""

    def __init__(self, width, dimension, seed):
        generator = np.random.default_rng(seed)
        self.width = width
        self.start = np.concatenate([generator.normal(size=width * dimension), np.zeros(width)])
        self.outer = generator.choice([-1.0, 1.0], size=width)

    def __call__(self, parameters, x):
        weights = parameters[: -self.width].reshape(self.width, -1)
        before = (x @ weights.T + parameters[-self.width :]) / np.sqrt(2)
        return np.where(before.real > 0, before, 0) @ self.outer / np.sqrt(self.width)

    def jacobian(self, x):
        """By complex steps at the start, exact to rounding."""
        columns = []
        for k in range(len(self.start)):
            stepped = self.start.astype(complex)
            stepped[k] += 1e-30j
            columns.append(self(stepped, x).imag / 1e-30)
        return np.stack(columns, axis=1)


def test_the_kernel_is_the_integral_over_directions(backend):
    x, z = circle(24, 0.1), circle(7, 0.7)
    got = two_layer_kernel(backend.array(x), backend.array(z))
    backend.check(got)
    wanted = [[(p @ q + 1) / 2 * both_active(p, q) for q in z] for p in x]
    close(backend.to_numpy(got), wanted, 10 * backend.eps)


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [2, *slow([5])])
def test_it_is_the_limit_of_wide_networks(dimension):
    x, kernels = sphere(6, dimension), []
    for seed in range(40):
        jacobian = Wide(200, dimension, seed).jacobian(x)
        kernels.append(jacobian @ jacobian.T)
    kernels = np.array(kernels)
    uncertainty = np.std(kernels, axis=0) / np.sqrt(len(kernels) - 1)
    difference = np.abs(two_layer_kernel(x) - np.mean(kernels, axis=0))
    assert np.all(difference < 4 * uncertainty + 1e-12)
    assert np.max(uncertainty) < 0.01


def test_equal_and_opposite_points_are_exact_to_rounding(backend):
    x = sphere(200, 3)
    kernel = backend.to_numpy(two_layer_kernel(backend.array(x)))
    close(kernel, kernel.T, 4 * backend.eps)
    close(np.diagonal(kernel), np.full(200, 0.5), 4 * backend.eps)
    opposite = backend.to_numpy(two_layer_kernel(backend.array(x), backend.array(-x)))
    assert np.all(np.abs(np.diagonal(opposite)) < 4 * backend.eps)


@pytest.mark.slow
def test_on_the_circle_its_eigenvalues_are_a_fourier_series():
    count = 1024
    values = np.linalg.eigvalsh(two_layer_kernel(circle(count)) / count)[::-1][:21]
    triangle = {k: 1 / k**2 if k % 2 else 0.0 for k in range(-1, 12)} | {0: np.pi**2 / 4}
    series = [triangle[k] + (triangle[k - 1] + triangle[k + 1]) / 2 for k in range(11)]
    wanted = np.sort(np.repeat(series, 2)[1:])[::-1] / (2 * np.pi**2)
    close(values, wanted, 1e-5)


def stepped(kernel, residual, rate, count, matrix):
    for _ in range(count):
        residual = residual - rate * kernel @ (matrix @ residual)
    return residual


def random_kernel(count, seed):
    rows = np.random.default_rng(seed).normal(size=(count, count + 3))
    rows *= 1.3 ** -np.arange(count)[:, None]
    return rows @ rows.T / count


TRANSFORMS = {
    "plain": lambda _: None,
    "own": lambda kernel: Equalise(4, start=1)(kernel),
    "raising": lambda kernel: Equalise(4, level="start")(kernel),
    "damping": lambda kernel: Damp()(kernel),
    "of another": lambda _: Equalise(5)(random_kernel(12, 9)),
    "of groups": lambda kernel: Equalise(2)(kernel[1::3, 1::3]),
}


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_residuals_are_those_of_step_by_step_training(kind, backend):
    kernel = random_kernel(12, 1)
    residual = np.random.default_rng(2).normal(size=(12, 3))
    transform = TRANSFORMS[kind](kernel)
    if transform is None:
        matrix = np.eye(12)
    else:
        S = transform.matrix()
        matrix = np.kron(S, np.eye(12 // len(S)))
        transform = Transform(backend.array(S))
    rate = 1 / np.max(np.linalg.eigvals(kernel @ matrix).real)
    got = linear_residuals(
        backend.array(kernel), backend.array(residual), rate, [0, 1, 2, 30], transform
    )
    backend.check(got)
    wanted = [stepped(kernel, residual, rate, count, matrix) for count in (0, 1, 2, 30)]
    close(backend.to_numpy(got), wanted, 1e3 * backend.eps)


def test_equalised_modes_decay_alike():
    kernel = two_layer_kernel(circle(32))
    values, vectors = (np.flip(found, axis=-1) for found in np.linalg.eigh(kernel))
    transform = Equalise(7, level="start")(kernel)
    modes = vectors.T @ linear_residuals(kernel, vectors, 0.1, [3], transform)[0]
    decays = np.where(np.arange(32) < 7, values[0], values)
    close(modes, np.diag((1 - 0.1 * decays) ** 3), 1e-10)


def test_a_wide_network_trains_as_predicted():
    x, network = circle(16), Wide(2000, 2, 3)
    target = x[:, 0] * x[:, 1]
    parameters, rate = network.start.copy(), 0.1
    transform = Equalise(5, level="start")(two_layer_kernel(x))
    predicted = linear_residuals(
        two_layer_kernel(x), network(parameters, x) - target, rate, [40], transform
    )[0]
    for _ in range(40):
        weights = parameters[:4000].reshape(2000, 2)
        active = (x @ weights.T + parameters[4000:] > 0) * network.outer / np.sqrt(4000)
        adjusted = transform(network(parameters, x) - target)
        gradient = np.concatenate(
            [((active * adjusted[:, None]).T @ x).ravel(), active.T @ adjusted]
        )
        parameters -= rate * gradient
    trained = network(parameters, x) - target
    start = network(network.start, x) - target
    assert np.linalg.norm(trained) < 0.5 * np.linalg.norm(start)
    assert np.linalg.norm(trained - predicted) < 0.05 * np.linalg.norm(start)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: two_layer_kernel(np.ones((3, 2))), "x: expected points of length 1"),
        (lambda: two_layer_kernel(np.ones(3)), r"x: expected shape \(n, d\)"),
        (lambda: two_layer_kernel(np.full((1, 2), np.nan)), "x: expected finite values"),
        (lambda: two_layer_kernel(np.eye(2), np.eye(3)), r"z: expected shape \(n', 2\)"),
        (lambda: two_layer_kernel(np.eye(2), 2 * np.eye(2)), "z: expected points of length 1"),
        (lambda: linear_residuals(np.ones((2, 3)), np.ones(2), 0.1, [1]), "kernel: expected shape"),
        (lambda: linear_residuals(np.eye(2), np.ones(3), 0.1, [1]), "residual: expected shape"),
        (lambda: linear_residuals(np.eye(2), np.ones(2), 2.0, [1]), "rate: expected less than 2"),
        (lambda: linear_residuals(np.eye(2), np.ones(2), 0.0, [1]), "rate: expected a positive"),
        (lambda: linear_residuals(np.eye(2), np.ones(2), 0.1, [-1]), "steps: expected at least 0"),
        (
            lambda: linear_residuals(
                np.eye(3), np.ones(3), 0.1, [1], Transform(np.eye(2))
            ),
            "transform: expected one whose groups divide the 3 points, got 2",
        ),
        (
            lambda: linear_residuals(
                np.eye(2), np.ones(2), 0.1, [1], Transform(np.diag([1.0, 0.0]))
            ),
            "transform: expected a positive definite one",
        ),
    ],
)  # fmt: skip
def test_bad_values_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
