"""A third party's backend that shares nothing with the library: explicit Jacobians, dense S."""

import numpy as np

from iga_core import SGD, Adam, Damp, Equalise, Scale
from tests.support import oracle
from tests.support.oracle import by_svd


class Dense:
    """What `iga_core.testing.Backend` asks, by the formulas."""

    name, device, dtype = "dense", "cpu", "float64"

    def evaluate(self, network, parameters, coords):
        return oracle.evaluate(network, parameters, coords)

    def kernel(self, network, parameters, points, outputs):
        J = oracle.jacobian(network, parameters, points.reshape(-1, points.shape[-1]))
        means = J.reshape(*points.shape[:2], *J.shape[1:]).mean(axis=1)
        return oracle.kernel(means, means, outputs)

    def transform(self, kernel, adjustment, cotangent):
        return adjusted(dense(adjustment.filter, kernel), adjustment.reach, cotangent)

    def gradients(self, problem, parameters, adjustment=None, positions=None):
        self.average = None
        loss, gradients, _ = self.step(problem, parameters, adjustment, positions, None, 0)
        return loss, gradients

    def step(self, problem, parameters, adjustment, positions, S, step):
        """Loss, gradients and S, made of the representatives unless it is given."""
        network, grouping = problem.network, problem.grouping
        errors = self.evaluate(network, parameters, problem.coords) - problem.targets
        cotangent = 2 / errors.size * errors
        if adjustment is not None:
            if S is None:
                S = self.made(problem, parameters, adjustment, positions)
            own, rest = cotangent.copy(), grouping.rest
            for k, columns in enumerate(problem.pieces(step)):
                members = grouping.index[:, columns]
                served = self.of_piece(S, columns, problem, parameters, adjustment, positions)
                cotangent[members] = adjusted(served, adjustment.reach, own[members])
                if k == 0 and adjustment.reach == "mean":
                    change = (served - np.eye(len(S))) @ own[members].mean(axis=1)
                    cotangent[rest] += change[grouping.neighbours]
        flat = np.tensordot(cotangent, oracle.jacobian(network, parameters, problem.coords), 2)
        parts = np.split(flat, np.cumsum([p.size for p in parameters])[:-1])
        gradients = [part.reshape(p.shape) for part, p in zip(parts, parameters, strict=True)]
        return np.mean(errors**2), gradients, S

    def of_piece(self, S, *_):
        """All pieces share the step's."""
        return S

    def made(self, problem, parameters, adjustment, positions):
        kernel = None
        if not isinstance(adjustment.filter, Scale):
            points = np.take_along_axis(problem.grouping.index, positions, axis=1)
            points = problem.coords[points]
            kernel = self.kernel(problem.network, parameters, points, adjustment.outputs)
            if adjustment.average and self.average is not None:
                share = adjustment.average
                kernel = share * self.average + (1 - share) * kernel
            self.average = kernel
        return dense(adjustment.filter, kernel, problem.grouping.groups)

    average = None

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
        S = self.average = None
        for step, chosen in enumerate(positions):
            if adjustment is not None and step % adjustment.refresh == 0:
                S = None
            _, gradients, S = self.step(problem, parameters, adjustment, chosen, S, step)
            parameters = [
                p + move.send(g) for p, move, g in zip(parameters, moves, gradients, strict=True)
            ]
        self.average = None
        return parameters


def dense(spectral, kernel, groups=None):
    """S by its formula."""
    if isinstance(spectral, Scale):
        return spectral.factor * np.eye(len(kernel) if groups is None else groups)
    if isinstance(spectral, Damp):
        return oracle.damp(kernel, spectral.scale)
    assert isinstance(spectral, Equalise)
    return oracle.dense_transform(kernel, spectral.start, spectral.end, spectral.level)


def adjusted(S, reach, cotangent):
    if reach == "points":
        return np.einsum("ij,jpc->ipc", S, cotangent)
    change = (S - np.eye(len(S))) @ cotangent.mean(axis=1)
    return cotangent + change[:, None, :]


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
