"""What `iga fit` takes where nobody has said anything, and the control and averages it offers."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from iga_core import Adam, Adjustment, Damp, Equalise, Network, Scale
from iga_core.cost import MOST, added_share, affordable_groups
from iga_lab.figures import captions, style
from iga_lab.settings import by_name, choose, composed, cutting
from iga_lab.settings.words import about
from iga_lab.signals import Signal
from tests.support.lab import fit, refuse, result_of

pytestmark = pytest.mark.usefixtures("undrawn")
GIVEN = {
    "network": "pe", "frequencies": None, "method": ("plain", "iga"), "steps": 5, "width": 128,
    "depth": 3, "patch": None, "filter": "damp", "scale": None, "factor": None, "end": None,
    "start": None, "level": None, "sampling": None, "samples": None, "reach": "mean",
    "outputs": None, "refresh": None, "average": None, "optimizer": "adam", "learning_rate": None,
    "schedule": "cosine", "average_weights": None, "columns": None, "seed": 0, "dtype": "float32",
    "backend": "numpy", "device": "cpu", "grouping": "patches", "batch": None,
    "lpips_weights": None,
}  # fmt: skip
SHAPES = [(8, 5), (8,), (3, 8), (3,)]


def chosen(shape, kind="image", **changes):
    channels = 3 if kind == "image" else 1
    signal = Signal(
        "noise", kind, np.zeros((*shape, channels)), rate=8000 if kind == "sound" else None
    )
    return choose(GIVEN | changes, signal)


def by_hand(adjustment, groups, points):
    """Multiply-adds of a transform and of each step, over those of a plain step."""
    parameters = 8 * 5 + 8 + 3 * 8 + 3
    cubes = 0 if isinstance(adjustment.filter, Scale) else 8 * groups**3
    samples = groups * adjustment.samples
    passes = 0 if isinstance(adjustment.filter, Scale) else 4 * parameters * samples
    products = 0 if isinstance(adjustment.filter, Scale) else (8 + 5 + 3 + 8) * samples**2
    renewal = (cubes + passes + products) / adjustment.refresh
    return (renewal + 250 * 3 * points) / (3 * parameters * points)


@pytest.mark.parametrize(
    "adjustment",
    [Adjustment(), Adjustment(samples=3, refresh=2), Adjustment(Equalise(4)), Adjustment(Scale(1))],
    ids=str,
)
def test_operations_are_counted(adjustment):
    for groups, points in ((16, 400), (100, 5000)):
        share = added_share(adjustment, SHAPES, groups, points)
        assert share == pytest.approx(by_hand(adjustment, groups, points))


@pytest.mark.parametrize("points", [1, 100, 10**4, 10**7])
def test_the_most_groups_that_can_be_afforded(points):
    shapes = Network("siren", width=64).shapes
    found = affordable_groups(Adjustment(), shapes, points)
    assert 2 <= found <= max(2, points)
    if found > 2:
        assert added_share(Adjustment(), shapes, found, points) <= MOST
    if found < points:
        assert added_share(Adjustment(), shapes, found + 1, points) > MOST


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((128, 128), "image"), ((96, 130), "image"), ((512, 768), "image"), ((16384,), "sound"),
     ((64, 64, 64), "shape")],
)  # fmt: skip
@pytest.mark.parametrize("grouping", ["patches", "blocks"])
def test_groups_cost_what_is_allowed_and_leave_few_points(shape, kind, grouping):
    settings = chosen(shape, kind, grouping=grouping)
    groups, points = settings.cutting.groups, settings.cutting.points
    assert settings.added_share <= MOST
    assert groups * points >= (1 - cutting.MOST_REST) * math.prod(shape)
    # The next smaller patch costs too much, or leaves more points.
    smaller, fewer = cutting.counts(grouping, settings.cutting.patch - 1, shape)
    step = math.prod(shape) // cutting.STEP_SHARE[len(shape)]
    cost = added_share(
        settings.adjustment, settings.architecture("iga").shapes,
        smaller // cutting.STEP_SHARE[len(shape)], step,
    )  # fmt: skip
    assert cost > MOST * 0.98 or smaller * fewer < (1 - cutting.MOST_REST) * math.prod(shape)


def test_a_large_picture_gets_more_groups_and_a_small_one_some():
    assert chosen((512, 768)).cutting.groups > 512
    assert (
        chosen((3, 3), width=8).cutting.groups == 9
    )  # two would do, but patches of 2 x 2 leave one
    assert chosen((8, 8), width=4).cutting.groups >= 2
    assert chosen((64, 64), filter="scale").cutting.groups == 16


def test_of_three_axes_a_step_takes_one_group_in_eight():
    settings = chosen((64, 64, 64), "shape")
    assert settings.cutting.batch == settings.cutting.groups // 8
    assert (settings.adjustment.refresh, settings.adjustment.average) == (1, 0)


def test_the_control_has_a_few_large_groups_and_no_kernel():
    settings = chosen((64, 64), method=("plain", "scale", "iga"), factor=0.2)
    assert settings.adjustment_of("scale") == Adjustment(Scale(0.2))
    assert settings.adjustment_of("plain") is None
    assert settings.adjustment_of("iga").filter == Damp()
    assert settings.grouping_of("scale").groups == cutting.CONTROL_GROUPS
    assert settings.grouping_of("iga").groups == settings.cutting.groups
    batches = chosen((64, 64), method=("plain", "scale"), patch=8, batch=5)
    assert batches.grouping_of("scale").groups == 64  # the same points as the others see
    assert "Scale 0.2, no kernel: 16 groups of 16 × 16" in about(settings)


def test_plain_the_control_and_iga_side_by_side(tmp_path):
    outcome = fit(tmp_path / "run", "--method", "plain,scale,iga", steps=3)
    assert outcome.exit_code == 0, outcome.output
    assert list(result_of(tmp_path / "run")["methods"]) == ["plain", "scale", "iga"]
    assert "Scale 0.1, no kernel: 16 groups of 4 × 4" in outcome.stdout
    assert set(captions.LABELS) == set(style.COLOURS)


def test_averaged_weights_are_what_is_evaluated_and_kept(tmp_path, monkeypatch):
    from iga_lab.runs import course

    trainers = []
    original = course._training

    def noted(*arguments):
        trainers.append(original(*arguments))
        return trainers[-1]

    monkeypatch.setattr(course, "_training", noted)
    options = ("--method", "iga", "--average-weights", "0.8", "--schedule", "cooldown")
    assert fit(tmp_path / "run", *options, steps=10).exit_code == 0
    (trainer,) = trainers
    assert trainer.optimizer == Adam(5e-3, "cooldown", 0.8)
    model = load_file(tmp_path / "run" / "model-iga.safetensors").values()
    assert sum(map(np.sum, model)) == pytest.approx(sum(map(np.sum, trainer.averaged)), rel=1e-6)
    assert any(np.any(a != b) for a, b in zip(trainer.averaged, trainer.parameters, strict=True))
    error = float(np.mean((trainer.predict() - trainer._targets) ** 2, dtype=np.float64))
    numbers = result_of(tmp_path / "run")["methods"]["iga"]
    assert numbers["psnr_final"] == pytest.approx(-10 * math.log10(error), abs=1e-4)


NAMES = {
    "signal", "kind", "rate", "shape", "channels", "layout", "low", "high", "network",
    "frequencies", "method", "steps", "width", "depth", "grouping", "patch", "batch", "filter", "scale", "factor", "end", "start",
    "level", "sampling", "samples", "reach", "outputs", "refresh", "average", "optimizer",
    "learning_rate", "schedule", "average_weights", "columns", "seed", "dtype", "backend", "device",
    "lpips_weights",
}  # fmt: skip
"""Of the settings in every result.json and checkpoint."""
METHODS = st.sampled_from(("plain", "fr", "scale", "iga", "iga+fr"))
FILTERS = st.sampled_from(({"filter": "damp", "scale": 0.5}, {"filter": "equalise", "start": 1},
                           {"filter": "scale"}, {"filter": "damp", "samples": 2}))  # fmt: skip


@hypothesis_settings(max_examples=20)
@given(
    shape=st.sampled_from((((16, 24), "image"), ((64,), "sound"), ((8, 9, 10), "volume"))),
    methods=st.lists(METHODS, min_size=1, unique=True),
    chosen_filter=FILTERS,
    network=st.sampled_from(("pe", "siren")),
    optimizer=st.sampled_from(("sgd", "adam", "muon")),
    batch=st.sampled_from((None, 4)),
    share=st.sampled_from((None, 0.9)),
)
def test_settings_survive_their_names(
    shape, methods, chosen_filter, network, optimizer, batch, share
):
    settings = chosen(
        *shape, **chosen_filter, method=tuple(methods), network=network, optimizer=optimizer,
        batch=batch, average_weights=share, patch=4 if len(shape[0]) < 3 else 2, width=8, depth=2,
    )  # fmt: skip
    names = json.loads(json.dumps(by_name(settings)))
    assert set(names) == NAMES
    assert composed(names) == settings


@pytest.mark.parametrize("share", ["0", "1", "-0.5", "nan", "inf"])
def test_a_share_of_averaged_weights_is_between_0_and_1(share):
    said = refuse("fit", "--average-weights", share)
    if share == "nan":  # which is in no range, but not outside of one either
        assert "--average-weights: expected a number from 0 to below 1, got nan" in said
    else:
        assert f"--average-weights: {float(share)} is not in the range 0<x<1" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scale", "0"], "scale: expected a positive number"),
        (["--scale", "-1"], "scale: expected a number from 0"),
        (["--end", "3"], "filter: expected --filter equalise with --end, got 'damp'"),
        (["--filter", "scale", "--end", "3"], "expected --filter equalise with --end"),
        (["--factor", "0.2"], "expected --filter scale with --factor"),
        (["--filter", "equalise", "--scale", "2"], "expected --filter damp with --scale"),
        (["--samples", "0"], "samples: expected"),
        (["--schedule", "linear"], "expected one of constant, step, cosine, cooldown"),
    ],
)
def test_what_does_not_belong_together_is_said_in_a_line(arguments, said):
    assert said in refuse("fit", *arguments)
