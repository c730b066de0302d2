"""`iga_torch.Trainer` against dense matrices and `iga_array`, and what it refuses."""

import contextlib
import math
from dataclasses import replace

import numpy as np
import pytest

import iga_array
from iga_core import SGD, Adam, Adjustment, Damp, Equalise, Fourier, Grouping, Muon, Scale
from iga_core.optimizers import Optimizer
from tests.support.networks import KINDS
from tests.support.oracle import close, evaluate, jacobian
from tests.support.training import (
    ADJUSTMENTS,
    COORDS,
    GROUPING,
    LASTING,
    TARGETS,
    Dense,
    flat,
    network_of,
)

torch = pytest.importorskip("torch")

from iga_torch.networks import from_network  # noqa: E402
from iga_torch.training import Trainer  # noqa: E402
from tests.support.torch_training import arrays, stepped, trainer  # noqa: E402

RANDOM = Adjustment(Equalise(4), samples=3, refresh=1, average=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [None, 4])
def test_the_plain_gradient(kind, columns):
    network = network_of(kind)
    run = trainer(network, columns=columns)
    parameters = arrays(run)
    g = 2 / TARGETS.size * (evaluate(network, parameters, COORDS) - TARGETS)
    wanted = np.tensordot(g, jacobian(network, parameters, COORDS), axes=([0, 1], [0, 1]))
    close(stepped(run), wanted, 1e-11)
    error = np.mean((evaluate(network, parameters, COORDS) - TARGETS) ** 2)
    assert run.loss.item() == pytest.approx(error, rel=1e-12)
    assert not run.loss.requires_grad


@pytest.mark.parametrize("kind", ["siren", "pe", "finer"])
@pytest.mark.parametrize("adjustment", ADJUSTMENTS, ids=str)
@pytest.mark.parametrize("columns", [None, 3, 4])
def test_the_adjusted_gradient(kind, adjustment, columns):
    network = network_of(kind)
    run = trainer(network, adjustment=adjustment, columns=columns)
    for step in range(2):
        wanted = Dense(network, arrays(run), adjustment, GROUPING, step, columns)
        close(stepped(run), wanted.gradient(), 1e-8)


@pytest.mark.parametrize("spectral", [Damp(), Equalise(4), Scale(0.1)], ids=str)
@pytest.mark.parametrize("reach", ["mean", "points"])
@pytest.mark.parametrize("columns", [None, 2, 4])
def test_pieces_are_those_of_numpy(spectral, reach, columns):
    """They differed by 29 to 43 % of the step."""
    grouping = Grouping.nearest(COORDS, 8)  # 7 groups of 9 points
    network = network_of("siren", width=8)
    settings = {
        "grouping": grouping, "columns": columns, "optimizer": SGD(1.0),
        "adjustment": Adjustment(spectral, reach=reach),
    }  # fmt: skip
    reference = iga_array.Trainer(
        iga_array.MLP(network, dtype=np.float64), COORDS, TARGETS, **settings
    )
    run = trainer(network, **settings)
    start = flat(arrays(run))
    reference.step()
    close(stepped(run), start - flat(reference.parameters), 1e-12)


@pytest.mark.parametrize("spectral", [Damp(), Equalise(4), Scale(0.1)], ids=str)
@pytest.mark.parametrize("reach", ["mean", "points"])
@pytest.mark.parametrize("cut", [{"columns": 9}, {"columns": 9, "batch": 5}], ids=str)
def test_steps_in_pieces_are_those_of_numpy(spectral, reach, cut):
    """Nine columns of 36 in pieces, over a refresh and its average."""
    axis = np.linspace(-1, 1, 19)
    coords = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    data = coords, np.random.default_rng(5).uniform(0, 1, (len(coords), 2))
    network = network_of("siren", width=8)
    settings = {
        "grouping": Grouping.patches((19, 19), 6), "optimizer": SGD(1e-2),
        "adjustment": Adjustment(spectral, samples=3, reach=reach, refresh=2, average=0.7), **cut,
    }  # fmt: skip
    reference = iga_array.Trainer(iga_array.MLP(network, dtype=np.float64), *data, **settings)
    own = from_network(network, dtype=torch.float64)
    run = Trainer(own, *map(torch.tensor, data), **settings)
    for _ in range(5):
        before = flat(reference.parameters)
        reference.step(), run.step()
        close(flat(arrays(run)) - before, flat(reference.parameters) - before, 1e-11)


def test_an_exception_within_a_step_is_forgotten():
    settings = {"adjustment": RANDOM, "columns": 3}
    run, unbroken = (trainer(network_of("siren"), **settings) for _ in range(2))

    def fragile(*_):
        if run.transform is not None:  # made with the first piece, so that this is the second
            raise KeyboardInterrupt

    hook = run.network.register_forward_pre_hook(fragile)
    with pytest.raises(KeyboardInterrupt):
        run.step()
    hook.remove()
    assert run.transform is None
    np.testing.assert_array_equal(stepped(run), stepped(unbroken))


ADAM = Adam(5e-3, "cosine")


@pytest.mark.parametrize("adjustment", [None, RANDOM], ids=str)
@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [*((kind, ADAM) for kind in KINDS), ("pe", SGD(0.05, "step")), ("siren", Muon(1e-2, "cosine"))],
)
def test_twenty_steps_are_those_of_numpy(kind, adjustment, optimizer):
    network = network_of(kind)
    settings = {"grouping": GROUPING, "adjustment": adjustment, "steps": 20}
    reference = iga_array.Trainer(
        iga_array.MLP(network, dtype=np.float64), COORDS, TARGETS, optimizer=optimizer, **settings
    )
    run = trainer(network, optimizer=optimizer, **settings)
    for _ in range(20):
        assert run.step().item() == pytest.approx(float(reference.step()), rel=1e-7)
    for got, wanted in zip(run.parameters, reference.parameters, strict=True):
        close(got, wanted, 1e-6)
    close(run.predict(), reference.predict(), 1e-6)


def test_float32_follows_float64():
    runs = [trainer(network_of("siren"), dtype, SGD(1e-2), adjustment=RANDOM, steps=5)
            for dtype in (torch.float32, torch.float64)]  # fmt: skip
    for _ in range(5):
        losses = [run.step() for run in runs]
    assert losses[0].dtype == runs[0].transform.S.dtype == torch.float32
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-4)


@pytest.mark.parametrize(
    ("optimizer", "adjustment"),
    [
        *((ADAM, a) for a in (None, *ADJUSTMENTS, *LASTING)),
        (SGD(0.1), ADJUSTMENTS[0]),
        (Muon(1e-2, "step"), RANDOM),
    ],
    ids=str,
)
@pytest.mark.parametrize("columns", [2, None])
def test_a_resumed_run_is_the_unbroken_one(optimizer, adjustment, columns):
    settings = {"adjustment": adjustment, "steps": 9, "columns": columns}
    unbroken, first, second = (
        trainer(network_of("siren"), torch.float32, optimizer, **settings) for _ in range(3)
    )
    losses = [unbroken.step().item() for _ in range(9)]
    second.step()
    for before in (0, 4):
        for _ in range(before):
            first.step()
        second.load_state_dict({k: v.numpy().copy() for k, v in first.state_dict().items()})
        assert [second.step().item() for _ in range(9 - before)] == losses[before:]
    np.testing.assert_array_equal(flat(arrays(second)), flat(arrays(unbroken)))


@pytest.mark.filterwarnings("ignore:end. not all")  # of a network that has exploded
@pytest.mark.parametrize("adjustment", [None, ADJUSTMENTS[0], RANDOM], ids=str)
@pytest.mark.parametrize("columns", [2, None])
def test_divergence_keeps_the_last_finite_network(adjustment, columns):
    settings = {"adjustment": adjustment, "steps": 50, "columns": columns}
    run = trainer(network_of("relu"), optimizer=SGD(1e12), **settings)
    seen = [flat(arrays(run))]

    def diverge():
        for _ in range(50):
            run.step()
            seen.append(flat(arrays(run)))

    with pytest.raises(FloatingPointError, match=r"non-finite at step .* lower the learning rate"):
        diverge()
    np.testing.assert_array_equal(flat(arrays(run)), seen[-2])
    run.restore()
    np.testing.assert_array_equal(flat(arrays(run)), seen[-2])


@pytest.mark.parametrize("resumed", [False, True])
def test_where_the_loss_is_read_later_it_is_restored_later(resumed, monkeypatch):
    monkeypatch.setattr(Trainer, "_require_still_finite", lambda *_: None)
    run = trainer(network_of("siren"), optimizer=SGD(1e-2))
    run.step()
    evaluated = flat(arrays(run))
    run.step()
    if resumed:
        fresh = trainer(network_of("siren"), optimizer=SGD(1e-2))
        fresh.load_state_dict(run.state_dict())
        run = fresh
    with torch.no_grad():
        next(run.network.parameters()).fill_(math.inf)
    assert math.isnan(run.step())
    run.restore()
    np.testing.assert_array_equal(flat(arrays(run)), evaluated)


def test_numpy_restores_later_too(monkeypatch):
    monkeypatch.setattr(iga_array.Trainer, "_require_still_finite", lambda *_: None)
    model = iga_array.MLP(network_of("siren"), dtype=np.float64)
    run = iga_array.Trainer(model, COORDS, TARGETS, grouping=GROUPING, optimizer=SGD(1e-2))
    run.step()
    evaluated = flat(run.parameters)
    run.step()
    model.parameters = [np.full_like(p, np.nan) for p in model.parameters]
    assert math.isnan(run.step())
    run.restore()
    np.testing.assert_array_equal(flat(run.parameters), evaluated)


@pytest.mark.parametrize("adjustment", [None, ADJUSTMENTS[0], RANDOM], ids=str)
@pytest.mark.parametrize("cut", [{}, {"columns": 2}, {"batch": 5}], ids=str)
@pytest.mark.parametrize("fourier", [None, Fourier(2, 2, 2)])
def test_a_step_reads_nothing_from_its_device(adjustment, cut, fourier, monkeypatch):
    """Tensors on "meta" hold no data; the first pass's check and late flags do read."""
    monkeypatch.setattr("iga_torch.tangents.Tangents._is_new", lambda *_: False)
    monkeypatch.setattr("iga_torch.training.require_separate_points", lambda *_, **__: None)
    monkeypatch.setattr("iga_torch.late.LateFlag.noted", lambda *_: False)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    network = from_network(replace(network_of("pe"), fourier=fourier), device="meta")
    coords, targets = (torch.empty(63, 2, device="meta") for _ in range(2))
    settings = {"grouping": GROUPING, "adjustment": adjustment, **cut}
    run = Trainer(network, coords, targets, optimizer=Muon(1e-2), **settings)
    for _ in range(3):
        assert run.step().device.type == "meta"


def test_a_budget_of_bytes_decides_the_pieces():
    network, adjustment = network_of("siren"), ADJUSTMENTS[4]
    column = 8 * network.numbers * GROUPING.groups
    for memory, columns in ((2 * column, 2), (4 * column - 1, 3), (6 * column, 6), (1, 1)):
        for dtype in (torch.float64, torch.float32):  # the same pieces
            pair = [
                trainer(network, dtype, adjustment=adjustment, **settings)
                for settings in ({"memory": memory}, {"columns": columns})
            ]
            np.testing.assert_array_equal(*(stepped(run) for run in pair))


def test_of_another_network_it_is_measured_what_is_held():
    def own(depth):
        torch.manual_seed(0)
        layers = [torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)]
        return torch.nn.Sequential(*layers[:2], *([torch.nn.Linear(4, 4), torch.nn.Tanh()] * depth),
                                   layers[2]).double()  # fmt: skip

    def run(network, **settings):
        data = (torch.tensor(COORDS), torch.tensor(TARGETS))
        return Trainer(network, *data, grouping=GROUPING, optimizer=SGD(1.0), **settings)

    for depth, numbers in ((0, 2 + 4), (1, 2 + 4 + 4)):  # inputs, and what Tanh and Linear share
        column = 8 * numbers * GROUPING.groups
        for memory, columns in ((6 * column, 6), (6 * column - 1, 3)):
            pair = [run(own(depth), **s) for s in ({"memory": memory}, {"columns": columns})]
            np.testing.assert_array_equal(*(stepped(each) for each in pair))


def test_a_network_of_one_s_own():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(2, 6), torch.nn.LayerNorm(6), torch.nn.Tanh(), torch.nn.Linear(6, 2)
    ).double()
    network[0].bias.requires_grad_(False)
    coords = torch.tensor(COORDS)
    run = Trainer(
        network, coords, torch.sin(3 * coords), grouping=GROUPING, steps=300, optimizer=ADAM,
        adjustment=Adjustment(reach="points"),
    )  # fmt: skip
    losses = [run.step().item() for _ in range(300)]
    assert losses[-1] < 0.3 * losses[0]
    assert len(run.parameters) == 5


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"coords": COORDS[:-1]}, ValueError, r"coords: expected shape \(63, inputs\), got"),
        ({"targets": TARGETS[:-1]}, ValueError, r"targets: expected shape \(63, outputs\)"),
        (
            {"targets": TARGETS[:, :1]},
            ValueError,
            r"network's outputs, of shape \(63, 2\) .* got \(63, 1\)",
        ),
        ({"coords": COORDS.astype(int)}, TypeError, "coords: expected float32 or float64"),
        ({"coords": COORDS.astype(np.float32)}, TypeError, "expected one dtype"),
        ({"targets": TARGETS + np.nan}, ValueError, "targets: expected finite values"),
        ({"grouping": Grouping.blocks(60, 6)}, ValueError, "coords: expected shape"),
        ({"grouping": None}, TypeError, "grouping: expected Grouping, got NoneType"),
        ({"adjustment": 3}, TypeError, "adjustment: expected Adjustment or None, got int"),
        (
            {"adjustment": Adjustment.paper(end=9)},
            ValueError,
            "filter: expected at least 10 groups",
        ),
        ({"adjustment": Adjustment(samples=7)}, ValueError, "samples: expected at most the 6"),
        ({"optimizer": "adam"}, TypeError, "optimizer: expected SGD, Adam or Muon"),
        ({"optimizer": Optimizer(0.1)}, TypeError, "optimizer: expected SGD, Adam or Muon"),
        ({"steps": 0}, ValueError, "steps: expected at least 1"),
        ({"columns": 0}, ValueError, "columns: expected at least 1"),
        ({"network": 3}, TypeError, "network: expected Module, got int"),
    ],
)
def test_bad_values_say_what_to_do(change, error, message):
    network = from_network(network_of("relu"), dtype=torch.float64)
    given = {
        "network": network,
        "coords": COORDS,
        "targets": TARGETS,
        "grouping": GROUPING,
    } | change
    given |= {name: torch.tensor(given[name]) for name in ("coords", "targets")}
    with pytest.raises(error, match=message):
        Trainer(given.pop("network"), given.pop("coords"), given.pop("targets"), **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"done": None}, "torch.int64 of shape .* as done, got nothing"),
        ({"done": np.asarray(-5)}, "state: expected an adjusted run of at most 1000 steps"),
        ({"done": np.asarray(1001)}, "state: expected an adjusted run of at most 1000 steps"),
        ({"adjustment.step": None}, "state: expected settings, step and age"),
        ({"adjustment.S": np.zeros((9, 2))}, "state: expected counts from 0 and square matrices"),
        ({"finite.0": None}, r"as finite\.0, got nothing"),
        ({"network.layers.0.weight": None}, r"shape \(4, 2\) as network.layers.0.weight, got noth"),
        ({"network.layers.0.weight": np.zeros((4, 2), np.float32)}, "torch.float64 of shape"),
        ({"optimizer.1.exp_avg": np.zeros(5)}, r"shape \(4,\) as optimizer.1.exp_avg, got .*5"),
    ],
)
def test_a_damaged_state_is_refused_whole(change, message):
    settings = {"adjustment": RANDOM, "optimizer": Adam(1e-3)}
    donor, run = (trainer(network_of("siren"), **settings) for _ in range(2))
    donor.step()
    before = flat(arrays(run))
    state = {k: v for k, v in (donor.state_dict() | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        run.load_state_dict(state)
    np.testing.assert_array_equal(flat(arrays(run)), before)
    assert run.done == 0
    assert run.transform is None


def test_plain_and_adjusted_states_do_not_mix():
    plain, adjusted = trainer(network_of("siren")), trainer(network_of("siren"), adjustment=RANDOM)
    for run, other in ((plain, adjusted), (adjusted, plain)):
        with pytest.raises(ValueError, match="state: expected a"):
            run.load_state_dict(other.state_dict())
