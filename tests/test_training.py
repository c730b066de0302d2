"""`iga_array.Trainer` against dense matrices, on every library, and what it refuses."""

import math

import numpy as np
import pytest

import iga_array
from iga_array.passes import Passes
from iga_array.tiles import Sums, total
from iga_core import SGD, Adam, Adjustment, Damp, Equalise, Grouping, Muon, Scale
from tests.support.networks import KINDS, LABELS
from tests.support.oracle import close, evaluate, jacobian
from tests.support.training import (
    ADJUSTMENTS,
    COORDS,
    FRESH,
    GROUPING,
    LASTING,
    SHAPE,
    TARGETS,
    Dense,
    flat,
    network_of,
    refused_whole,
    stepped,
    trainer,
)


@pytest.mark.parametrize("label", [*KINDS, *LABELS])
def test_the_plain_gradient(label):
    network = network_of(label)
    run = trainer(network)
    J, parameters = jacobian(network, run.model.parameters, COORDS), run.model.parameters
    g = 2 / TARGETS.size * (evaluate(network, parameters, COORDS) - TARGETS)
    close(stepped(run), np.tensordot(g, J, axes=([0, 1], [0, 1])), 1e-11)
    error = np.mean((evaluate(network, parameters, COORDS) - TARGETS) ** 2)
    assert float(run.loss) == pytest.approx(error, rel=1e-12)


@pytest.mark.parametrize("kind", ["siren", "pe", "finer", "pe+fr", "siren+fr"])
@pytest.mark.parametrize("adjustment", ADJUSTMENTS, ids=str)
@pytest.mark.parametrize("columns", [3, 4, 6])
def test_the_adjusted_gradient(kind, adjustment, columns):
    network = network_of(kind)
    run = trainer(network, adjustment=adjustment, columns=columns, workers=2)
    for step in range(2):
        wanted = Dense(network, run.model.parameters, adjustment, GROUPING, step, columns)
        close(stepped(run), wanted.gradient(), wanted.tolerance())


NEAREST = Grouping.nearest(COORDS, 31)  # of 2 points each, one in none


@pytest.mark.parametrize("spectral", [Damp(), Equalise(4), Scale(0.1)], ids=str)
@pytest.mark.parametrize("reach", ["mean", "points"])
@pytest.mark.parametrize(("grouping", "columns"), [(GROUPING, None), (GROUPING, 2), (NEAREST, 1)])
def test_pieces_share_the_transform_of_the_first(spectral, reach, grouping, columns):
    """Well-conditioned kernels, of representatives asked for once: to rounding."""
    assert len(grouping.rest) > 0
    positions = np.random.default_rng(1).integers(0, grouping.points, (grouping.groups, 2))
    asked = []

    def choose(cotangent, columns, step):
        asked.append((cotangent, columns, step))
        return positions

    network, adjustment = network_of("siren", width=8), Adjustment(spectral, reach=reach, **FRESH)
    settings = {"adjustment": adjustment, "grouping": grouping, "columns": columns}
    run = trainer(network, choose=choose, **settings)
    wanted = Dense(network, run.model.parameters, adjustment, grouping, 0, columns)
    wanted.positions = lambda: positions
    close(stepped(run), wanted.gradient(), 1e-12)
    if isinstance(spectral, Scale):
        assert asked == []
    else:
        ((cotangent, seen, step),) = asked
        np.testing.assert_array_equal(seen, wanted.pieces[0])
        close(cotangent, wanted.g[grouping.index[:, seen]], 1e-12)
        assert step == 0


@pytest.mark.parametrize("spectral", [Damp(), Equalise(4), Scale(0.1)], ids=str)
@pytest.mark.parametrize(("reach", "columns"), [("mean", None), ("mean", 2), ("points", 2)])
def test_a_transform_is_kept_and_its_kernel_averaged(spectral, reach, columns):
    adjustment = Adjustment(spectral, "largest", reach=reach, refresh=3, average=0.8)
    network, wanted = network_of("siren"), None
    run = trainer(network, adjustment=adjustment, columns=columns)
    for step in range(8):
        parameters = run.model.parameters
        wanted = Dense(network, parameters, adjustment, GROUPING, step, columns, wanted)
        close(stepped(run), wanted.gradient(), wanted.tolerance())


def test_a_budget_of_bytes_decides_the_pieces():
    network, adjustment = network_of("siren"), ADJUSTMENTS[4]
    column = 8 * network.numbers * GROUPING.groups
    for memory, columns in ((2 * column, 2), (4 * column - 1, 3), (6 * column, 6), (1, 1)):
        pair = [
            trainer(network, adjustment=adjustment, **settings)
            for settings in ({"memory": memory}, {"columns": columns})
        ]
        np.testing.assert_array_equal(*(stepped(run) for run in pair))


@pytest.mark.parametrize("adjustment", [None, *ADJUSTMENTS[:5]], ids=str)
def test_tiles_and_workers_decide_nothing(adjustment, monkeypatch):
    settings = {"adjustment": adjustment, "columns": 4}
    wanted = stepped(trainer(network_of("siren"), workers=1, **settings))
    monkeypatch.setattr("iga_array.tiles.HOST_LAYER_BYTES", 1)
    for workers in (1, 2, 5):
        run = trainer(network_of("siren"), workers=workers, **settings)
        close(stepped(run), wanted, 1e-12)


@pytest.mark.parametrize("adjustment", [None, *ADJUSTMENTS], ids=str)
def test_every_backend_takes_the_same_steps(backend, adjustment):
    network = network_of("siren")
    settings = {"adjustment": adjustment, "optimizer": SGD(1e-3)}
    run, reference = (trainer(network, b, **settings) for b in (backend, None))
    for _ in range(3):
        loss = run.step()
        reference.step()
    backend.check(loss)
    tolerance = 1e-9 if "64" in str(backend.dtype) else 2e-3
    for got, wanted in zip(run.model.parameters, reference.model.parameters, strict=True):
        backend.check(got)
        close(backend.to_numpy(got), wanted, tolerance)


@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(1e-2, "cosine"), Muon(1e-2, "step")], ids=str)
@pytest.mark.parametrize("adjustment", [None, *ADJUSTMENTS, *LASTING], ids=str)
def test_a_resumed_run_is_the_unbroken_one(optimizer, adjustment):
    settings = {"optimizer": optimizer, "adjustment": adjustment, "steps": 9, "columns": 2}
    unbroken, first, second = (trainer(network_of("siren"), **settings) for _ in range(3))
    losses = [float(unbroken.step()) for _ in range(9)]
    for _ in range(4):
        first.step()
    second.load_state_dict({k: np.array(v) for k, v in first.state_dict().items()})
    assert [float(second.step()) for _ in range(5)] == losses[4:]
    np.testing.assert_array_equal(flat(second.model.parameters), flat(unbroken.model.parameters))


def test_the_run_repeats_to_the_bit_with_threads():
    settings = {"adjustment": ADJUSTMENTS[3], "columns": 1, "workers": 3}
    runs = [trainer(network_of("siren"), **settings) for _ in range(2)]
    for run in runs:
        for _ in range(5):
            run.step()
    np.testing.assert_array_equal(*(flat(run.model.parameters) for run in runs))


def test_refresh_keeps_the_transform():
    run = trainer(network_of("siren"), adjustment=Adjustment(refresh=3))
    transforms = []
    for _ in range(7):
        run.step()
        transforms.append(run.transform)
    assert transforms[0] is transforms[1] is transforms[2]
    assert transforms[2] is not transforms[3]
    assert transforms[3] is transforms[5]
    assert transforms[6] is not transforms[5]


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("call", [1, 4])
@pytest.mark.parametrize("columns", [1, None])
@pytest.mark.parametrize("place", ["_evaluate", "factors", "make", "gradients"])
@pytest.mark.parametrize(
    "adjustment", [ADJUSTMENTS[3], Adjustment(refresh=2), Adjustment(Scale())], ids=str
)
def test_a_step_that_fails_changes_nothing(call, columns, place, adjustment, monkeypatch):
    """In the first of its pieces, and in a later one."""
    settings = {"adjustment": adjustment, "columns": columns, "workers": 2, "steps": 6}
    unbroken, run = (trainer(network_of("siren"), **settings) for _ in range(2))
    losses = [float(unbroken.step()) for _ in range(6)]
    got, calls = [float(run.step()) for _ in range(2)], []
    owner = {"_evaluate": run, "make": run._adjuster}.get(place, Passes)
    right = getattr(owner, place)

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise Interrupted
        return right(*arguments)

    with monkeypatch.context() as broken:
        broken.setattr(owner, place, fail)
        try:
            got.append(float(run.step()))
        except Interrupted:
            assert len(calls) >= call
        else:  # a step of few calls
            assert len(calls) < call
    got += [float(run.step()) for _ in range(6 - len(got))]
    assert got == losses
    np.testing.assert_array_equal(flat(run.parameters), flat(unbroken.parameters))


def test_an_update_that_fails_changes_nothing(monkeypatch):
    settings = {"adjustment": Adjustment(refresh=2), "columns": 1, "steps": 6}
    unbroken, run = (trainer(network_of("siren"), **settings) for _ in range(2))
    losses = [float(unbroken.step()) for _ in range(6)]
    got = [float(run.step()) for _ in range(3)]

    def fail(*_):
        raise Interrupted

    with monkeypatch.context() as broken:
        broken.setattr(SGD, "update", fail)
        with pytest.raises(Interrupted):
            run.step()
    assert got + [float(run.step()) for _ in range(3)] == losses


def test_gradients_of_arrays_that_cannot_be_changed_are_summed():
    parts = [Sums(error=1, gradients=[1.0, 2.0]), Sums(error=2, gradients=[10.0, 20.0])]
    assert total(parts).gradients == [11.0, 22.0]


def test_train_calls_back_and_stops():
    seen = []
    settings = {"grouping": GROUPING, "steps": 20, "optimizer": Adam(1e-3)}
    model = iga_array.MLP(network_of("siren"), dtype=np.float64)
    run = iga_array.train(
        model,
        COORDS,
        TARGETS,
        **settings,
        callback=lambda t: seen.append(float(t.loss)) or t.done == 6,
    )
    assert run.done == len(seen) == 6
    assert seen[-1] < seen[0]
    assert run.model is model
    model = iga_array.MLP(network_of("siren"), dtype=np.float64)
    assert iga_array.train(model, COORDS, TARGETS, **settings).done == 20


@pytest.mark.filterwarnings("ignore:end. not all")  # of a network that has exploded
@pytest.mark.parametrize("adjustment", [None, ADJUSTMENTS[0], Adjustment()], ids=str)
def test_divergence_keeps_the_last_finite_model(adjustment):
    run = trainer(network_of("relu"), optimizer=SGD(1e12), adjustment=adjustment, steps=50)

    def diverge():
        for _ in range(50):
            run.step()

    with pytest.raises(FloatingPointError, match=r"non-finite at step .* lower the learning rate"):
        diverge()
    predictions = run.model(COORDS)
    assert np.all(np.isfinite(flat(run.model.parameters)))
    assert math.isfinite(float(np.mean(predictions**2)))


def test_single_patch_and_an_all_zero_cotangent():
    one = Grouping.patches(SHAPE, SHAPE)
    with pytest.raises(ValueError, match="filter: expected at least 2 groups for Equalise"):
        trainer(network_of("relu"), grouping=one, adjustment=Adjustment.paper(end=1))
    assert np.all(np.isfinite(stepped(trainer(network_of("relu"), grouping=one,
                                              adjustment=Adjustment()))))  # fmt: skip
    network = network_of("siren")
    model = iga_array.MLP(network, dtype=np.float64)
    run = iga_array.Trainer(
        model, COORDS, model(COORDS), grouping=GROUPING, adjustment=Adjustment.paper(end=4),
        optimizer=SGD(1.0),
    )  # fmt: skip
    before = flat(model.parameters)
    assert float(run.step()) < 1e-30
    close(flat(model.parameters), before, 1e-12)


def test_evaluation_in_blocks(monkeypatch):
    model = iga_array.MLP(network_of("siren"), dtype=np.float64)
    whole = model(COORDS)
    monkeypatch.setattr("iga_array.mlp.EVALUATION_BYTES", 5 * 4 * 8)
    close(model(COORDS), whole, 1e-14)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"coords": COORDS[:-1]}, ValueError, r"coords: expected shape \(63, 2\), got \(62, 2\)"),
        ({"targets": TARGETS[:, :1]}, ValueError, r"targets: expected shape \(63, 2\)"),
        ({"coords": COORDS.astype(int)}, TypeError, "coords: expected float32 or float64"),
        ({"coords": COORDS.astype(np.float32)}, TypeError, "expected one dtype"),
        ({"targets": TARGETS + np.nan}, ValueError, "targets: expected finite values"),
        ({"grouping": Grouping.blocks(60, 6)}, ValueError, "coords: expected shape"),
        (
            {"adjustment": Adjustment.paper(end=9)},
            ValueError,
            "filter: expected at least 10 groups",
        ),
        ({"adjustment": Adjustment(samples=7)}, ValueError, "samples: expected at most the 6"),
        (
            {"targets": np.ma.masked_greater(TARGETS, 0.9)},
            TypeError,
            "targets: expected an array without",
        ),
        ({"coords": COORDS.view(np.matrix)}, TypeError, "coords: expected an array, got numpy.mat"),
        ({"coords": np.ma.masked_array(COORDS)}, TypeError, "coords: expected an array without"),
        (
            {"targets": TARGETS.view(np.matrix)},
            TypeError,
            "targets: expected an array, got numpy.mat",
        ),
        ({"memory": 1e9}, TypeError, "memory: expected a whole number"),
        ({"memory": 0}, ValueError, "memory: expected at least 1"),
        ({"steps": 0}, ValueError, "steps: expected at least 1"),
        ({"columns": 0}, ValueError, "columns: expected at least 1"),
        ({"workers": 0}, ValueError, "workers: expected at least 1"),
    ],
)
def test_bad_values_say_what_to_do(change, error, message):
    arguments = {"coords": COORDS, "targets": TARGETS, "grouping": GROUPING, "steps": 2} | change
    model = iga_array.MLP(network_of("relu"), dtype=np.float64)
    with pytest.raises(error, match=message):
        iga_array.train(model, arguments.pop("coords"), arguments.pop("targets"), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"done": None}, "state: expected a number of steps as done, got None"),
        ({"done": np.asarray(-5)}, "state: expected a number of steps as done"),
        ({"done": np.asarray(1001)}, "state: expected an adjusted run of at most 1000 steps"),
        ({"adjustment.step": None}, "state: expected settings, step and age"),
        ({"adjustment.settings": None}, "state: expected settings, step and age"),
        ({"adjustment.S": np.zeros((9, 2))}, "state: expected counts from 0 and square matrices"),
        ({"adjustment.kernel": np.zeros((8, 8))}, "state: expected counts from 0 and square"),
        ({"parameters.0": None}, "as parameters.0, got nothing"),
    ],
)
def test_a_damaged_state_is_refused_whole(change, message):
    donor, run = (trainer(network_of("siren"), adjustment=Adjustment()) for _ in range(2))
    donor.step()
    refused_whole(run, donor.state_dict() | change, message)


@pytest.mark.parametrize("done", [0, 2])
@pytest.mark.parametrize(
    "other",
    [
        Adjustment(seed=1),
        Adjustment(refresh=4),
        Adjustment(average=0.7),
        Adjustment(reach="points"),
        Adjustment(samples=2),
        Adjustment(Damp(2)),
        Adjustment(Equalise(3)),
        Adjustment(Scale(0.1)),
    ],
    ids=str,
)
def test_a_state_of_other_settings_is_refused_whole(other, done):
    for mine, theirs in ((Adjustment(), other), (other, Adjustment())):
        run, donor = (trainer(network_of("siren"), adjustment=a) for a in (mine, theirs))
        for _ in range(done):
            run.step()
        donor.step()
        refused_whole(run, donor.state_dict(), "state: expected that of .*, got that of ")


def test_plain_and_adjusted_states_do_not_mix():
    plain = trainer(network_of("siren"))
    adjusted = trainer(network_of("siren"), adjustment=ADJUSTMENTS[0])
    for run, other in ((plain, adjusted), (adjusted, plain)):
        with pytest.raises(ValueError, match="state: expected a"):
            run.load_state_dict(other.state_dict())


@pytest.mark.parametrize("change", [
    {"grouping": None}, {"adjustment": {"end": 2}}, {"adjustment": Damp()}, {"optimizer": "adam"}, {"callback": 3},
])  # fmt: skip
def test_arguments_of_another_kind_are_named(change):
    arguments = {"grouping": GROUPING, "steps": 2} | change
    model = iga_array.MLP(network_of("relu"), dtype=np.float64)
    with pytest.raises(TypeError, match=f"{next(iter(change))}: expected"):
        iga_array.train(model, COORDS, TARGETS, **arguments)


def test_a_state_of_another_run_is_refused():
    run = trainer(network_of("siren"), optimizer=Adam(1e-3))
    before = flat(run.model.parameters)
    other = trainer(network_of("siren", width=5), optimizer=Adam(1e-3)).state_dict()
    with pytest.raises(
        ValueError, match=r"state: expected float64 of shape \(4, 2\) as parameters.0"
    ):
        run.load_state_dict(other)
    adjusted = trainer(network_of("siren"), adjustment=ADJUSTMENTS[0])
    with pytest.raises(ValueError, match="state: expected that of filter=Equalise"):
        adjusted.load_state_dict(
            trainer(network_of("siren"), adjustment=ADJUSTMENTS[4]).state_dict()
        )
    sgd = trainer(network_of("siren")).state_dict()
    with pytest.raises(ValueError, match=r"as first\.0, got nothing"):
        run.load_state_dict(sgd)
    np.testing.assert_array_equal(flat(run.model.parameters), before)
