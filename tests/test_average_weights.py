"""Averaged weights against the sum by its definition, in both trainers."""

import math

import numpy as np
import pytest

import iga_array
from iga_core import SGD, Adam, Adjustment, Fourier, Grouping, Muon, Network

torch = pytest.importorskip("torch")

import iga_torch  # noqa: E402

COORDS = np.random.default_rng(0).uniform(-1, 1, (24, 2))
TARGETS = np.sin(5 * COORDS)
GROUPING = Grouping.blocks(24, 4)
PLAIN = Network("siren", outputs=2, width=6, depth=2)
FOURIER = Network("pe", outputs=2, width=6, depth=2, frequencies=2, fourier=Fourier())
NORMALISED = Network("relu", outputs=2, width=6, depth=2, normalised=True)


def of_numpy(network, **settings):
    model = iga_array.MLP(network, dtype=np.float64)
    return iga_array.Trainer(model, COORDS, TARGETS, grouping=GROUPING, **settings)


def of_torch(network, **settings):
    model = iga_torch.from_network(network, dtype=torch.float64)
    data = map(torch.tensor, (COORDS, TARGETS))
    return iga_torch.Trainer(model, *data, grouping=GROUPING, **settings)


def host(arrays):
    return [np.asarray(array).copy() for array in arrays]


def by_definition(iterates, a):
    """``Σ aᵗ⁻ᵏ θ_k / Σ aᵗ⁻ᵏ`` of the parameters after each step."""
    weights = [a ** (len(iterates) - 1 - k) for k in range(len(iterates))]
    return [
        sum(w * layer for w, layer in zip(weights, layers, strict=True)) / sum(weights)
        for layers in zip(*iterates, strict=True)
    ]


def to_the_end(run):
    while run.done < run.steps:
        run.step()


def numpy_at(network, parameters):
    model = iga_array.MLP(network, dtype=np.float64)
    model.parameters = parameters
    if network.normalised:
        model.measure(COORDS)
    return model


each_trainer = pytest.mark.parametrize("make", [of_numpy, of_torch])


@each_trainer
@pytest.mark.parametrize("network", [PLAIN, FOURIER, NORMALISED], ids=lambda n: n.label)
@pytest.mark.parametrize("optimizer", [SGD, Adam, Muon])
def test_it_is_the_weighted_mean_of_what_was_trained(make, network, optimizer):
    adjustment = None if network.normalised else Adjustment()
    settings = {"adjustment": adjustment, "steps": 9}
    run = make(network, optimizer=optimizer(1e-2, "cosine", 0.8), **settings)
    without = make(network, optimizer=optimizer(1e-2, "cosine"), **settings)
    iterates = []
    for _ in range(7):
        run.step()
        without.step()
        iterates.append(host(run.parameters))
    for mine, theirs in zip(iterates[-1], host(without.parameters), strict=True):
        np.testing.assert_array_equal(mine, theirs)  # what is trained does not change
    wanted = by_definition(iterates, 0.8)
    for mine, right in zip(host(run.averaged), wanted, strict=True):
        np.testing.assert_allclose(mine, right, rtol=1e-12, atol=1e-14)
    model = numpy_at(network, wanted)
    np.testing.assert_allclose(host([run.predict()])[0], model(COORDS), atol=1e-12)
    for mine, right in zip(host(run.folded()), model.fold().parameters, strict=True):
        np.testing.assert_allclose(mine, right, atol=1e-12)
    for mine, last in zip(host(run.parameters), iterates[-1], strict=True):
        np.testing.assert_array_equal(mine, last)  # and stands where it stood
    assert host(without.averaged)[0] is not None
    np.testing.assert_array_equal(host(without.averaged)[0], host(without.parameters)[0])


@each_trainer
def test_a_resumed_run_has_the_average_of_the_unbroken_one(make):
    optimizer = Adam(1e-2, "cooldown", 0.9)
    unbroken, first, second = (make(PLAIN, optimizer=optimizer, steps=8) for _ in range(3))
    to_the_end(unbroken)
    for _ in range(3):
        first.step()
    second.load_state_dict({k: np.asarray(v).copy() for k, v in first.state_dict().items()})
    to_the_end(second)
    for mine, right in zip(host(second.averaged), host(unbroken.averaged), strict=True):
        np.testing.assert_array_equal(mine, right)


@each_trainer
def test_a_state_without_an_average_is_refused(make):
    run = make(PLAIN, optimizer=Adam(1e-2, average_weights=0.9))
    state = make(PLAIN, optimizer=Adam(1e-2)).state_dict()
    with pytest.raises(ValueError, match=r"averaged\.0"):
        run.load_state_dict(state)


@each_trainer
def test_a_run_that_diverges_has_the_last_finite_parameters(make):
    run = make(PLAIN, optimizer=SGD(1e200, average_weights=0.9), steps=20)
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError):
        to_the_end(run)
    for mine, last in zip(host(run.averaged), host(run.parameters), strict=True):
        np.testing.assert_array_equal(mine, last)
    assert np.isfinite(host([run.predict()])[0]).all()


@pytest.mark.parametrize("wrong", [-0.1, 1.0, math.nan, math.inf])
def test_a_share_is_below_one(wrong):
    with pytest.raises(ValueError, match="average_weights: expected a number from 0 to below 1"):
        Adam(1e-3, average_weights=wrong)
    with pytest.raises(TypeError, match="average_weights: expected a number"):
        Adam(1e-3, average_weights="0.9")
