"""Training with batch normalisation: `iga_array` against the oracle's statistics."""

import numpy as np
import pytest

import iga_array
from iga_core import SGD, Adam, Adjustment, Grouping, Muon
from iga_core.grouping import batch_of
from tests.support.oracle import close, evaluate, jacobian
from tests.support.training import COORDS, GROUPING, NORMALISED, TARGETS, flat, network_of, trainer


def statistics_of(network, parameters, coords=COORDS):
    found = []
    evaluate(network, parameters, coords, statistics=found)
    return found


@pytest.mark.parametrize("label", NORMALISED)
@pytest.mark.parametrize("settings", [{"columns": 1, "workers": 2}, {}], ids=str)
def test_pieces_and_threads_change_nothing(label, settings):
    runs = [trainer(network_of(label), optimizer=SGD(0.1), **s) for s in (settings, {"workers": 1})]
    for run in runs:
        for _ in range(3):
            run.step()
    np.testing.assert_array_equal(*(flat(run.parameters) for run in runs))


@pytest.mark.parametrize("label", NORMALISED)
def test_predictions_are_those_that_the_next_loss_measures(backend, label):
    run = trainer(network_of(label), backend, optimizer=Adam(1e-2))
    for _ in range(3):
        run.step()
    predictions = run.predict()
    backend.check(predictions)
    predictions = backend.to_numpy(predictions)
    parameters = [backend.to_numpy(p).astype(float) for p in run.parameters]
    tolerance = 1e-10 if "64" in str(backend.dtype) else 1e-3
    close(predictions, evaluate(run.model.network, parameters, COORDS), tolerance)
    close(backend.to_numpy(run.model(backend.array(COORDS))), predictions, tolerance)
    folded = [backend.to_numpy(p).astype(float) for p in run.folded()]
    close(evaluate(run.model.network.folded, folded, COORDS), predictions, tolerance)
    error = np.mean((predictions - TARGETS) ** 2)
    assert float(run.step()) == pytest.approx(error, rel=100 * tolerance)


@pytest.mark.parametrize("label", ["relu+bn", "pe+bn"])
def test_a_step_leaves_the_statistics_of_its_pass(label):
    run = trainer(network_of(label), optimizer=Adam(1e-2))
    for _ in range(2):
        before = run.parameters
        run.step()
    close(np.array(run.model.statistics), np.array(statistics_of(run.model.network, before)), 1e-12)
    run.folded()
    now = statistics_of(run.model.network, run.parameters)
    close(np.array(run.model.statistics), np.array(now), 1e-12)


@pytest.mark.parametrize("label", ["relu+bn", "pe+fr+bn"])
def test_training_ends_with_the_statistics_of_all_points(label):
    model = iga_array.MLP(network_of(label), dtype=np.float64)
    run = iga_array.train(model, COORDS, TARGETS, grouping=GROUPING, steps=3, batch=4)
    close(model(COORDS), evaluate(model.network, model.parameters, COORDS), 1e-11)
    assert run.done == 3


@pytest.mark.parametrize("label", ["relu+bn", "pe+bn", "siren+bn"])
def test_a_batch_has_its_own_statistics(label):
    network = network_of(label)
    run = trainer(network, batch=4, seed=3)
    parameters, before = run.parameters, flat(run.parameters)
    run.step()
    chosen = GROUPING.index[batch_of(9, 4, 3, 0)].ravel()
    points = np.concatenate([chosen, GROUPING.rest])
    weights = np.repeat([9 / 4, 1.0], [len(chosen), len(GROUPING.rest)])[:, None]
    errors = evaluate(network, parameters, COORDS[points]) - TARGETS[points]
    assert float(run.loss) == pytest.approx(np.sum(weights * errors**2) / TARGETS.size, rel=1e-12)
    J = jacobian(network, parameters, COORDS[points])
    wanted = np.tensordot(2 / TARGETS.size * weights * errors, J, 2)
    close(before - flat(run.parameters), wanted, 1e-10)


@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(1e-2, "cosine"), Muon(1e-2, "step")], ids=str)
@pytest.mark.parametrize("label", ["relu+bn", "pe+fr+bn", "gauss+bn", "siren+fr"])
@pytest.mark.parametrize("batch", [None, 4])
def test_a_resumed_run_is_the_unbroken_one(optimizer, label, batch):
    settings = {"optimizer": optimizer, "steps": 9, "columns": 2, "batch": batch}
    unbroken, first, second = (trainer(network_of(label), **settings) for _ in range(3))
    losses = [float(unbroken.step()) for _ in range(9)]
    for _ in range(4):
        first.step()
    second.load_state_dict({k: np.array(v) for k, v in first.state_dict().items()})
    np.testing.assert_array_equal(second.model(COORDS), first.predict())
    assert [float(second.step()) for _ in range(5)] == losses[4:]
    np.testing.assert_array_equal(flat(second.parameters), flat(unbroken.parameters))
    np.testing.assert_array_equal(second.predict(), unbroken.predict())


def test_divergence_leaves_a_model_that_can_be_called():
    run = trainer(network_of("relu+bn"), optimizer=SGD(1e200), steps=50)

    def diverge():
        for _ in range(50):
            run.step()

    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        diverge()
    close(run.model(COORDS), evaluate(run.model.network, run.parameters, COORDS), 1e-8)


def test_an_adjustment_is_refused_in_training_and_taken_after_the_fold():
    settings = {"grouping": Grouping.patches((7, 9), (2, 3)), "adjustment": Adjustment()}
    model = iga_array.MLP(network_of("relu+bn"), dtype=np.float64)
    with pytest.raises(
        ValueError, match=r"adjustment: expected None for relu.bn.*all others.*fold"
    ):
        iga_array.Trainer(model, COORDS, TARGETS, **settings)
    model.measure(COORDS)
    run = iga_array.train(model.fold(), COORDS, TARGETS, steps=2, **settings)
    assert run.transform is not None
