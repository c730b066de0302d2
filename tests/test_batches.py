"""Steps on some of the groups."""

import numpy as np
import pytest

import iga_array
from iga_core import SGD, Adam, Adjustment, Grouping
from iga_core.grouping import batch_of
from tests.support.oracle import close, evaluate, jacobian
from tests.support.training import (
    ADJUSTMENTS,
    COORDS,
    GROUPING,
    TARGETS,
    Dense,
    flat,
    network_of,
    stepped,
    trainer,
)

BATCH = 5
FITTING = [a for a in ADJUSTMENTS if getattr(a.filter, "least_groups", 1) <= BATCH]


def torch_trainer(network, **settings):
    pytest.importorskip("torch")
    from tests.support import torch_training

    return torch_training.trainer(network, **settings)


def torch_stepped(run):
    from tests.support import torch_training

    return torch_training.stepped(run)


BACKENDS = {"numpy": (trainer, stepped), "torch": (torch_trainer, torch_stepped)}


def arrays(run):
    return [np.asarray(parameter) for parameter in run.parameters]


class DenseBatch(Dense):
    """The gradient of one batch by dense matrices; the plain one without an adjustment."""

    def __init__(self, network, parameters, adjustment, step, seed=0, columns=None):
        chosen = batch_of(GROUPING.groups, BATCH, seed, step)
        grouping = GROUPING.some(chosen)
        super().__init__(network, parameters, adjustment, grouping, step, columns)
        errors = evaluate(network, parameters, COORDS) - TARGETS
        of_rest, share = errors[GROUPING.rest], BATCH / GROUPING.groups
        count = (BATCH * GROUPING.points + share * len(GROUPING.rest)) * 2
        self.loss = (np.sum(errors[grouping.index] ** 2) + share * np.sum(of_rest**2)) / count
        self.g = np.zeros_like(errors)
        self.g[grouping.index] = 2 * errors[grouping.index] / count
        self.g[GROUPING.rest] = 2 * share * of_rest / count

    def gradient(self):
        if self.adjustment is None:
            return np.tensordot(self.g, self.J, axes=([0, 1], [0, 1]))
        return super().gradient()


@pytest.mark.filterwarnings("ignore:end. not all")  # steps of rate 1 kill units
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("adjustment", [None, *FITTING], ids=str)
@pytest.mark.parametrize("kind", ["siren", "pe"])
def test_the_gradient_of_a_batch(backend, adjustment, kind):
    make, step_of = BACKENDS[backend]
    network = network_of(kind)
    run = make(network, adjustment=adjustment, batch=BATCH, seed=2)
    for step in range(3):
        dense = DenseBatch(network, arrays(run), adjustment, step, seed=2)
        close(step_of(run), dense.gradient(), 1e-10)
        assert float(run.loss) == pytest.approx(dense.loss, rel=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("adjustment", [None, *FITTING], ids=str)
@pytest.mark.parametrize("columns", [3, 4])
def test_pieces_of_a_batch(backend, adjustment, columns):
    make, step_of = BACKENDS[backend]
    network = network_of("siren")
    run = make(network, adjustment=adjustment, batch=BATCH, columns=columns)
    for step in range(3):
        dense = DenseBatch(network, arrays(run), adjustment, step, columns=columns)
        close(step_of(run), dense.gradient(), 1e-10)


@pytest.mark.parametrize("adjustment", [None, *FITTING], ids=str)
def test_backends_take_the_same_steps(adjustment):
    settings = {"adjustment": adjustment, "batch": BATCH, "optimizer": Adam(2e-3), "steps": 10}
    reference = trainer(network_of("siren"), **settings)
    run = torch_trainer(network_of("siren"), **settings)
    for _ in range(10):
        assert run.step().item() == pytest.approx(float(reference.step()), rel=1e-9)
    for got, wanted in zip(run.parameters, reference.parameters, strict=True):
        close(got, wanted, 1e-10)


@pytest.mark.parametrize("adjustment", [None, *FITTING[:3]], ids=str)
def test_every_library_takes_the_same_steps(backend, adjustment):
    settings = {"adjustment": adjustment, "batch": BATCH, "optimizer": SGD(1e-3)}
    run, reference = (trainer(network_of("siren"), b, **settings) for b in (backend, None))
    for _ in range(3):
        backend.check(run.step())
        reference.step()
    tolerance = 1e-9 if "64" in str(backend.dtype) else 2e-3
    for got, wanted in zip(run.model.parameters, reference.model.parameters, strict=True):
        close(backend.to_numpy(got), wanted, tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_gradients_of_an_epoch_add_up_to_the_whole(backend, batch):
    make, step_of = BACKENDS[backend]
    network = network_of("pe")
    run = make(network, batch=batch)
    J = jacobian(network, network.initial(0), COORDS)
    g = 2 / TARGETS.size * (evaluate(network, network.initial(0), COORDS) - TARGETS)
    wanted = np.tensordot(g, J, axes=([0, 1], [0, 1]))
    start = run.state_dict()
    start = {name: np.asarray(array).copy() for name, array in start.items()}
    gradients, losses = [], []
    for step in range(9 // batch):
        run.load_state_dict(start | {"done": np.asarray(step)})
        gradients.append(step_of(run))
        losses.append(float(run.loss))
    close(np.mean(gradients, axis=0), wanted, 1e-10)
    whole = np.mean((evaluate(network, network.initial(0), COORDS) - TARGETS) ** 2)
    assert np.mean(losses) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("adjustment", [None, *FITTING[:4]], ids=str)
def test_a_resumed_run_is_the_unbroken_one(backend, adjustment):
    make, _ = BACKENDS[backend]
    settings = {
        "optimizer": Adam(1e-2),
        "adjustment": adjustment,
        "steps": 9,
        "batch": 4 if adjustment is None else BATCH,
    }
    unbroken, first, second = (make(network_of("siren"), **settings) for _ in range(3))
    losses = [float(unbroken.step()) for _ in range(9)]
    for _ in range(4):
        first.step()
    second.load_state_dict({k: np.asarray(v).copy() for k, v in first.state_dict().items()})
    assert [float(second.step()) for _ in range(5)] == losses[4:]
    for got, wanted in zip(second.parameters, unbroken.parameters, strict=True):
        np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_transform_serves_one_batch(backend):
    """Whatever refresh and average say: the groups of the next are others."""
    make, _ = BACKENDS[backend]
    lasting, fresh = (
        make(network_of("siren"), adjustment=adjustment, batch=BATCH, optimizer=SGD(1e-2))
        for adjustment in (Adjustment(), Adjustment(refresh=1, average=0))
    )
    for _ in range(4):
        assert float(lasting.step()) == float(fresh.step())


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_groups_in_a_batch_are_a_full_step(backend):
    make, step_of = BACKENDS[backend]
    runs = [make(network_of("pe"), adjustment=ADJUSTMENTS[0], batch=batch) for batch in (None, 9)]
    close(*(step_of(run) for run in runs), 1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("grouping", [Grouping.blocks(63, 7), Grouping.blocks(63, 1)])
def test_without_points_in_no_group(backend, grouping):
    make, _ = BACKENDS[backend]
    run = make(network_of("siren"), grouping=grouping, batch=4, optimizer=SGD(1e-2))
    chosen = batch_of(grouping.groups, 4, 0, 0)
    errors = evaluate(network_of("siren"), arrays(run), COORDS) - TARGETS
    assert float(run.step()) == pytest.approx(np.mean(errors[grouping.index[chosen]] ** 2))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch": 10}, ValueError, "batch: expected at most the 9 groups, got 10; lower it"),
        ({"batch": 0}, ValueError, "batch: expected at least 1, got 0"),
        ({"batch": 2.5}, TypeError, "batch: expected a whole number"),
        ({"seed": -1}, ValueError, "seed: expected at least 0"),
        (
            {"batch": 4, "adjustment": Adjustment.paper(end=4)},
            ValueError,
            "filter: expected at least 5 groups for Equalise",
        ),
    ],
)
def test_bad_values_say_what_to_do(backend, change, error, message):
    make, _ = BACKENDS[backend]
    with pytest.raises(error, match=message):
        make(network_of("relu"), **change)


def test_train_takes_a_batch():
    model = iga_array.MLP(network_of("siren"), dtype=np.float64)
    run = iga_array.train(
        model, COORDS, TARGETS, grouping=GROUPING, steps=3, batch=2, seed=7, optimizer=SGD(1e-3)
    )
    again = trainer(network_of("siren"), batch=2, seed=7, steps=3, optimizer=SGD(1e-3))
    for _ in range(3):
        again.step()
    np.testing.assert_array_equal(flat(run.parameters), flat(again.parameters))
