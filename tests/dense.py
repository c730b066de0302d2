"""A third party's backend that shares nothing with the library: explicit Jacobians, dense S."""

import numpy as np

from iga_core import SGD, Adam
from tests import oracle
from tests.test_optimizers import by_svd


class Dense:
    """What `iga_core.testing.Backend` asks, by the formulas."""

    name, device, dtype = "dense", "cpu", "float64"

    def evaluate(self, network, parameters, coords):
        return oracle.evaluate(network, parameters, coords)

    def kernel(self, network, parameters, points, outputs):
        J = oracle.jacobian(network, parameters, points.reshape(-1, points.shape[-1]))
        means = J.reshape(*points.shape[:2], *J.shape[1:]).mean(axis=1)
        return oracle.kernel(means, means, outputs)

    def equalise(self, kernel, adjustment, cotangent):
        a = adjustment
        S = oracle.dense_transform(kernel, a.start, a.end, a.level)
        values = np.linalg.eigvalsh(kernel)[::-1][: a.end + 1]
        if a.reach == "points":
            return values, np.einsum("ij,jpc->ipc", S, cotangent)
        change = (S - np.eye(len(S))) @ cotangent.mean(axis=1)
        return values, cotangent + change[:, None, :]

    def gradients(self, problem, parameters, adjustment=None, positions=None):
        network, index = problem.network, problem.grouping.index
        errors = self.evaluate(network, parameters, problem.coords) - problem.targets
        cotangent = 2 / errors.size * errors
        if adjustment is not None:
            points = problem.coords[np.take_along_axis(index, positions, axis=1)]
            kernel = self.kernel(network, parameters, points, adjustment.outputs)
            cotangent[index] = self.equalise(kernel, adjustment, cotangent[index])[1]
        flat = np.tensordot(cotangent, oracle.jacobian(network, parameters, problem.coords), 2)
        parts = np.split(flat, np.cumsum([p.size for p in parameters])[:-1])
        gradients = [part.reshape(p.shape) for part, p in zip(parts, parameters, strict=True)]
        return np.mean(errors**2), gradients

    def train(self, problem, parameters, optimizer, adjustment, positions):
        if isinstance(optimizer, SGD):
            moves = [descend(optimizer.learning_rate) for _ in parameters]
        elif isinstance(optimizer, Adam):
            moves = [adam(optimizer.learning_rate) for _ in parameters]
        else:
            rate = optimizer.learning_rate
            moves = [muon(rate) if p.ndim == 2 else adam(1e-3) for p in parameters]
        for move in moves:
            next(move)
        for chosen in positions:
            gradients = self.gradients(problem, parameters, adjustment, chosen)[1]
            parameters = [
                p + move.send(g) for p, move, g in zip(parameters, moves, gradients, strict=True)
            ]
        return parameters


def descend(rate):
    move = None
    while True:
        gradient = yield move
        move = -rate * gradient


def adam(rate):
    first, second, step, move = 0.0, 0.0, 0, None
    while True:
        gradient = yield move
        step += 1
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        size = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        move = -rate * first / (1 - 0.9**step) / size


def muon(rate):
    momentum, move = 0.0, None
    while True:
        gradient = yield move
        momentum = 0.95 * momentum + 0.05 * gradient
        rows, columns = gradient.shape
        direction = by_svd(0.95 * momentum + 0.05 * gradient)
        move = -rate * np.sqrt(max(1, rows / columns)) * direction
