"""Reparameterised and normalised networks in PyTorch."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest

import iga_array
from iga_core import SGD, Adam, Adjustment, Fourier, Network
from tests.support import training
from tests.support.oracle import close, evaluate, jacobian
from tests.support.training import ADJUSTMENTS, COORDS, GROUPING, TARGETS, Dense, flat

torch = pytest.importorskip("torch")

import iga_torch  # noqa: E402
from iga_torch.networks import from_network  # noqa: E402
from tests.support.torch_networks import dense_kernel, make  # noqa: E402
from tests.support.torch_networks import jacobian as torch_jacobian  # noqa: E402
from tests.support.torch_training import arrays, stepped, trainer  # noqa: E402

FOURIER = Fourier(low=3, high=3, phases=4, alpha=0.1)


def network_of(kind, *additions):
    return Network(
        kind, outputs=2, width=5, depth=3, frequencies=2,
        fourier=FOURIER if "fr" in additions else None,
        normalised="anyway" if "bn" in additions else False,
    )  # fmt: skip


REPARAMETERISED = [network_of(kind, "fr") for kind in ("relu", "pe", "siren")]
NORMALISED = [
    *(network_of(kind, "bn") for kind in ("relu", "pe", "siren")),
    *(network_of(kind, "fr", "bn") for kind in ("relu", "pe")),
]
BOTH = pytest.mark.parametrize("network", REPARAMETERISED + NORMALISED, ids=lambda n: n.label)
ONLY_NORMALISED = pytest.mark.parametrize("network", NORMALISED, ids=lambda n: n.label)


def coords(count=11, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 2))


def numpy(tensor):
    return tensor.detach().numpy()


@BOTH
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-4)])
def test_values(network, dtype, tolerance):
    model = from_network(network, 3, getattr(torch, dtype))
    x = coords()
    got = model(torch.tensor(x, dtype=getattr(torch, dtype)))
    close(numpy(got), evaluate(network, network.initial(3), x), tolerance)
    array = iga_array.MLP(network, seed=3, dtype=getattr(np, dtype))
    close(numpy(got), array.passes().predict(x.astype(dtype)), tolerance)


@BOTH
def test_parameters_are_the_core_s_in_its_order(network):
    model = from_network(network, 4, torch.float64)
    assert [tuple(p.shape) for p in model.parameters()] == network.shapes
    for got, wanted in zip(model.parameters(), network.initial(4), strict=True):
        np.testing.assert_array_equal(numpy(got), wanted)
    names = [name for name, _ in model.named_parameters()]
    assert names[0] == "layers.0.weight"
    assert ("layers.0.normalisation.gain" in names) == bool(network.normalised)
    buffers = [name for name in model.state_dict() if name not in names]
    assert len(buffers) == (6 if network.normalised else 0)


@BOTH
def test_the_plain_gradient(network):
    run, reference = trainer(network), training.trainer(network)
    parameters = arrays(run)
    g = 2 / TARGETS.size * (evaluate(network, parameters, COORDS) - TARGETS)
    J = jacobian(network, parameters, COORDS)
    got = stepped(run)
    close(got, np.tensordot(g, J, axes=([0, 1], [0, 1])), 1e-10)
    close(got, training.stepped(reference), 1e-12)
    assert run.loss.item() == pytest.approx(float(reference.loss), rel=1e-12)


@pytest.mark.parametrize("network", REPARAMETERISED, ids=lambda n: n.label)
@pytest.mark.parametrize("adjustment", ADJUSTMENTS, ids=str)
def test_the_adjusted_gradient_of_a_reparameterised_network(network, adjustment):
    run = trainer(network, adjustment=adjustment)
    for step in range(2):
        dense = Dense(network, arrays(run), adjustment, GROUPING, step)
        close(stepped(run), dense.gradient(), 1e-8)


def test_reparameterised_in_float32_follows_float64():
    settings = {"adjustment": ADJUSTMENTS[2], "steps": 5}
    runs = [
        trainer(REPARAMETERISED[1], dtype, SGD(1e-2), **settings)
        for dtype in (torch.float32, torch.float64)
    ]
    for _ in range(5):
        losses = [run.step().item() for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@BOTH
@pytest.mark.parametrize("batch", [None, 4])
def test_steps_predictions_and_what_is_folded_are_those_of_numpy(network, batch):
    settings = {"grouping": GROUPING, "steps": 10, "optimizer": Adam(5e-3), "batch": batch}
    reference = training.trainer(network, **settings)
    run = trainer(network, **settings)
    for _ in range(10):
        assert run.step().item() == pytest.approx(float(reference.step()), rel=1e-7)
    close(numpy(run.predict()), reference.predict(), 1e-6)
    for got, wanted in zip(run.folded(), reference.folded(), strict=True):
        close(numpy(got), wanted, 1e-6)
    plain = iga_array.MLP(network.folded, dtype=np.float64)
    plain.parameters = [numpy(values) for values in run.folded()]
    close(plain(COORDS), numpy(run.predict()), 1e-10)


@BOTH
def test_a_resumed_run_is_the_unbroken_one(network):
    settings = {"steps": 8, "optimizer": Adam(1e-2)}
    unbroken, first, second = (trainer(network, torch.float32, **settings) for _ in range(3))
    losses = [unbroken.step().item() for _ in range(8)]
    for _ in range(3):
        first.step()
    second.load_state_dict({k: v.numpy().copy() for k, v in first.state_dict().items()})
    assert [second.step().item() for _ in range(5)] == losses[3:]
    np.testing.assert_array_equal(flat(arrays(second)), flat(arrays(unbroken)))


@BOTH
def test_fold(network):
    model, x = from_network(network, dtype=torch.float64), torch.tensor(coords(30))
    if network.normalised:
        model.measure(torch.tensor(coords(50, seed=1)))
    folded = model.fold()
    assert folded.network == network.folded
    close(numpy(folded(x)), numpy(model.eval()(x)), 1e-12)
    before = numpy(folded(x)).copy()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(numpy(folded(x)), before)


def test_a_plain_network_folds_to_a_copy():
    model = from_network(network_of("pe"))
    folded = model.fold()
    pairs = zip(model.parameters(), folded.parameters(), strict=True)
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in pairs)
    with pytest.raises(ValueError, match="network: expected a normalised one, got pe; only"):
        model.measure(torch.zeros(3, 2))


@ONLY_NORMALISED
def test_outside_training_the_last_pass_counts(network):
    model, x = from_network(network, dtype=torch.float64), torch.tensor(coords(30))
    for seed in (1, 2):
        last = torch.tensor(coords(20, seed=seed))
        within = model(last.reshape(4, 5, 2))
        assert within.shape == (4, 5, 2)
        close(numpy(within).reshape(20, 2), numpy(model(last)), 1e-12)
    model.eval()
    close(numpy(model(last)), numpy(within).reshape(20, 2), 1e-12)
    close(numpy(model(x)[3:4]), numpy(model(x[3:4])), 1e-12)
    array = iga_array.MLP(network, dtype=np.float64)
    array.measure(numpy(last))
    for got, wanted in zip(model.statistics, array.statistics, strict=True):
        close(numpy(got[0]), wanted[0], 1e-12)
        close(numpy(got[1]), wanted[1], 1e-12)


def test_statistics_recover_from_a_pass_that_was_not_finite():
    model = from_network(NORMALISED[0])
    model(torch.full((4, 2), np.nan))
    model(torch.tensor(coords()).float())
    assert all(torch.isfinite(t).all() for pair in model.statistics for t in pair)


@BOTH
@pytest.mark.slow
def test_tracing(network):
    model, x = from_network(network, 2), torch.tensor(coords()).float()
    wanted = model(x)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    close(numpy(compiled(x)), numpy(wanted), 1e-6)


@BOTH
def test_copies(network):
    model, x = from_network(network, 2), torch.tensor(coords()).float()
    wanted = model(x)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(x), wanted)
        assert torch.equal(copied.eval()(x), model.eval()(x))
        model.train()
    fresh = from_network(network, 5)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(x), model.eval()(x))


@BOTH
def test_autocast(network):
    model, x = from_network(network), torch.tensor(coords()).float()
    with torch.autocast("cpu", torch.bfloat16):
        got = model(x)
    assert torch.isfinite(got).all()
    got.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_the_basis_is_exact_in_another_precision():
    network, x = REPARAMETERISED[1], coords()
    model = from_network(network).double()
    parameters = [p.astype(np.float32).astype(np.float64) for p in network.initial(0)]
    close(numpy(model(torch.tensor(x))), evaluate(network, parameters, x), 1e-12)
    assert "layers.1.basis" not in model.state_dict()


def test_the_default_basis_costs_no_explicit_rows(monkeypatch):
    monkeypatch.setattr("iga_torch.explicit.ExplicitRows.kernel", None)
    network = Network("siren", outputs=1, width=16, depth=3, fourier=Fourier())
    model, x = from_network(network, dtype=torch.float64), torch.tensor(coords(4))
    J = torch_jacobian(model, x)
    assert J.shape[-1] > 2 * 16 * 8192
    close(numpy(iga_torch.empirical_ntk(model, x)), numpy(dense_kernel(J, J, "sum")), 1e-10)


def adjusted(network):
    return iga_torch.IGA(network, GROUPING, Adjustment.paper(end=4))


@pytest.mark.parametrize(
    ("make_network", "name"),
    [
        (lambda: from_network(NORMALISED[1], dtype=torch.float64), "layers.0.normalisation"),
        (lambda: make("batch norm in eval mode").train(), "1"),
        (
            lambda: (
                torch.nn.Sequential(
                    torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3, track_running_stats=False)
                )
                .double()
                .eval()
            ),
            "1",
        ),
    ],
)
def test_an_adjustment_refuses_statistics_of_the_data_at_hand(make_network, name):
    network, x = make_network(), torch.tensor(COORDS)
    message = f"network: expected no batch normalisation in training mode, got .*{name!r}; with it"
    model = adjusted(network)
    with pytest.raises(ValueError, match=message):
        model(x)
    with pytest.raises(ValueError, match=message):
        iga_torch.empirical_ntk(network, x)
    model.eval()(x)


@ONLY_NORMALISED
def test_fixed_statistics_can_be_adjusted(network):
    model = from_network(network, dtype=torch.float64)
    model.measure(torch.tensor(COORDS))
    model.eval()
    x = torch.tensor(coords(6))
    J = torch_jacobian(model, x)
    close(numpy(iga_torch.empirical_ntk(model, x)), numpy(dense_kernel(J, J, "sum")), 1e-11)
    wrapped = adjusted(model)
    wrapped(torch.tensor(COORDS)).square().mean().backward()
    assert wrapped.transform is not None


@pytest.mark.parametrize(
    ("network", "change", "error", "message"),
    [
        (
            NORMALISED[0],
            {"adjustment": Adjustment.paper(end=3)},
            ValueError,
            "no batch normalisation in",
        ),
        (NORMALISED[0], {"columns": 2}, ValueError, "columns: expected None, because a normalised"),
    ],
)
def test_what_a_normalised_network_cannot_be_trained_with(network, change, error, message):
    with pytest.raises(error, match=message):
        trainer(network, **change)


def test_a_trainer_measures_nothing_before_its_first_step():
    run = trainer(NORMALISED[0])
    for mean, variance in run.network.statistics:
        assert torch.equal(mean, torch.zeros(5).double())
        assert torch.equal(variance, torch.ones(5).double())


def test_only_our_networks_fold():
    network = torch.nn.Linear(2, 2).double()
    run = iga_torch.Trainer(network, torch.tensor(COORDS), torch.tensor(TARGETS), grouping=GROUPING)
    with pytest.raises(TypeError, match="network: expected one made by from_network, got Linear"):
        run.folded()


def test_one_point_has_no_variance():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        from_network(replace(NORMALISED[0], depth=1, fourier=None))(torch.zeros(1, 2))


def test_a_diverged_network_is_restored_with_its_statistics():
    run = trainer(NORMALISED[0], torch.float32, SGD(1e30), steps=9)
    with pytest.raises(FloatingPointError):
        _ = [run.step() for _ in range(9)]
    run.restore()
    statistics = run.network.statistics
    assert all(torch.isfinite(part).all() for pair in statistics for part in pair)
    assert torch.isfinite(run.predict()).all()
    assert torch.isfinite(run.network.eval()(run._coords)).all()
