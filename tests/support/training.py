"""A small problem, adjustments of every sort, and the adjusted gradient by dense matrices."""

import functools

import numpy as np
import pytest

import iga_array
from iga_core import SGD, Adjustment, Damp, Equalise, Grouping, Scale, representatives
from iga_core.grouping import pieces
from tests.support.dense import adjusted, dense
from tests.support.networks import LABELS
from tests.support.networks import network_of as network_with
from tests.support.oracle import evaluate, jacobian, kernel

SHAPE = (7, 9)  # patches of 2 x 3: 9 groups of 6 points, 9 points in none
GROUPING = Grouping.patches(SHAPE, (2, 3))
COORDS = np.stack(
    np.meshgrid(np.linspace(-1, 1, 7), np.linspace(-1, 1, 9), indexing="ij"), -1
).reshape(-1, 2)
TARGETS = np.random.default_rng(5).uniform(0, 1, (63, 2))
NORMALISED = [label for label in LABELS if label.endswith("bn")]


def network_of(label, width=4):
    return network_with(label, outputs=2, width=width, depth=2, frequencies=2)


def trainer(network, backend=None, grouping=GROUPING, optimizer=None, **settings):
    dtype = backend.dtype if backend else np.float64
    array = backend.array if backend else np.asarray
    model = iga_array.MLP(
        network,
        xp=backend.xp if backend else np,
        dtype=dtype,
        device=backend.device if backend else None,
    )
    return iga_array.Trainer(
        model,
        array(COORDS),
        array(TARGETS),
        grouping=grouping,
        optimizer=optimizer or SGD(1.0),
        **settings,
    )


def flat(parameters):
    return np.concatenate([np.asarray(p).ravel() for p in parameters])


def stepped(run):
    """The gradient that one step of SGD at rate 1 has followed."""
    before = flat(run.model.parameters)
    run.step()
    return before - flat(run.model.parameters)


class Dense:
    """The adjusted gradient by dense matrices, at given parameters, whole or in pieces.

    `before` is the same of the step before: what is kept or averaged comes from there.
    """

    def __init__(
        self, network, parameters, adjustment, grouping=GROUPING, step=0, columns=None, before=None
    ):
        self.before = before
        self.J = jacobian(network, parameters, COORDS)
        self.g = 2 / TARGETS.size * (evaluate(network, parameters, COORDS) - TARGETS)
        self.adjustment, self.grouping, self.step = adjustment, grouping, step
        columns = grouping.points if columns is None else columns
        self.pieces = pieces(grouping.points, grouping.groups, 1, columns=columns, step=step)

    def positions(self):
        """Representatives among the first piece's columns; the centre may be in any."""
        a, columns = self.adjustment, self.pieces[0]
        if a.sampling == "centre":
            return self.grouping.centre[:, None]
        seen = self.g[self.grouping.index[:, columns]]
        return columns[representatives(seen, a.sampling, a.samples, seed=[a.seed, self.step])]

    @functools.cached_property
    def served(self):
        """S, the average of the kernel, and how many steps S has served with this one."""
        a, before = self.adjustment, self.before
        if isinstance(a.filter, Scale):
            return a.filter.factor * np.eye(self.grouping.groups), None, 0
        S, average, age = (None, None, a.refresh) if before is None else before.served
        if age < a.refresh:
            return S, average, age + 1
        points = np.take_along_axis(self.grouping.index, self.positions(), axis=1)
        means = self.J[points].mean(axis=1)
        new = kernel(means, means, a.outputs)
        average = new if average is None else a.average * average + (1 - a.average) * new
        return dense(a.filter, average), average, 1

    def tolerance(self):
        """1e-12 of a well-conditioned kernel, else ten times eps times its condition."""
        average, eps = self.served[1], np.finfo(float).eps
        if average is None:
            return 1e-12
        values = np.linalg.eigvalsh(average)
        condition = values[-1] / min(values[values > 4 * eps * values[-1]], default=1)
        return 1e-12 if condition <= 1e3 else max(1e-12, 10 * eps * condition)

    def gradient(self):
        S, g, reach = self.served[0], self.g.copy(), self.adjustment.reach
        for k, columns in enumerate(self.pieces):
            members = self.grouping.index[:, columns]
            g[members] = adjusted(S, reach, self.g[members])
            if k == 0 and reach == "mean":
                change = (S - np.eye(len(S))) @ self.g[members].mean(axis=1)
                there = self.grouping.neighbours >= 0
                g[self.grouping.rest[there]] += change[self.grouping.neighbours[there]]
        return np.tensordot(g, self.J, axes=([0, 1], [0, 1]))


FRESH = {"refresh": 1, "average": 0}
ADJUSTMENTS = [
    Adjustment.paper(end=4),
    Adjustment(Equalise(5, 1, "start"), "centre", outputs="trace", reach="points", **FRESH),
    Adjustment(Equalise(4), samples=3, **FRESH),
    Adjustment(Equalise(3), sampling="largest", samples=2, **FRESH),
    Adjustment(Damp(), **FRESH),
    Adjustment(Damp(0.3), "largest", reach="points", outputs="trace", seed=3, **FRESH),
    Adjustment(Damp(3), "centre", **FRESH),
    Adjustment(Scale(0.1)),
    Adjustment(Scale(0.3), reach="points"),
]
LASTING = [Adjustment(), Adjustment(Equalise(4), refresh=3, average=0.5, reach="points")]


def refused_whole(run, state, message):
    before = {name: np.array(array) for name, array in run.state_dict().items()}
    transform = run.transform
    with pytest.raises(ValueError, match=message):
        run.load_state_dict({k: v for k, v in state.items() if v is not None})
    after = run.state_dict()
    assert after.keys() == before.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    assert run.transform is transform
