"""The tables of `benchmarks.defaults` and `.batches`: what is run, and what is made of it."""

import json
import math

import numpy as np
import pytest

from benchmarks import defaults
from benchmarks._runs import Runs
from iga_core import Adjustment, Damp, Equalise, Scale

pytest.importorskip("torch")

from benchmarks import batches, derivatives


class Known:
    """Runs whose figures are known beforehand; what was asked is noted."""

    def __init__(self, figure):
        self.figure, self.asked = figure, []

    def __call__(self, cases):
        self.asked += cases
        return [
            {"median": self.figure(case), "averaged": self.figure(case) + 1, "maximum": 0.0}
            for case in cases
        ]


def decibels(case):
    """Each photograph, seed and schedule has its own level; methods differ by known amounts."""
    _, photograph, schedule, method, seed = case
    level = 30 + len(photograph) + seed % 7 + len(schedule)
    gain = {"plain": -8.0, "scale 0.1 of 16": -2.0, "paper 20 of 64": -1.0}.get(method, -3.0)
    return level + (0.0 if method.startswith("damp") else gain)


def test_every_method_is_what_its_name_says():
    for method, wanted, groups in (
        ("plain", None, 256),
        ("damp 1 0.9 5 1", Adjustment(refresh=5, seed=3), 256),
        ("damp 2 0.5 1 0.3",
         Adjustment(Damp(0.3), samples=2, average=0.5, refresh=1, seed=3), 256),
        ("scale 0.2 of 16", Adjustment(Scale(0.2)), 16),
        ("paper 20 of 64", Adjustment.paper(20), 64),
        ("half of 256", Adjustment(Equalise(128), samples=2, refresh=1, average=0, seed=3), 256),
    ):  # fmt: skip
        assert defaults.setting(method, 3) == (wanted, groups)
    assert defaults.damp(**dict.fromkeys(["refresh"], Adjustment().refresh)) == defaults.CHOSEN
    samples, average, refresh, scale = map(float, defaults.CHOSEN.split()[1:])
    chosen = Adjustment(Damp(scale), samples=int(samples), average=average, refresh=int(refresh))
    assert chosen == Adjustment()  # the table's choice is the library's default


def test_the_page_of_the_defaults():
    runs = Known(decibels)
    page, figures = defaults.report(runs)
    assert max(map(len, page.splitlines())) <= 100
    assert all(best["control"] == "scale 0.1 of 16" for best in figures["tuned"].values())
    assert all(best["paper"] == "paper 20 of 64" for best in figures["tuned"].values())
    # Chosen on one photograph and its seeds, reported on others.
    chosen_on = {(case[1], case[4]) for case in runs.asked if case[3] in defaults.CONTROLS
                 and case[3] != "scale 0.1 of 16"}  # fmt: skip
    assert chosen_on == {(defaults.CHOSEN_ON, defaults.CHOICE_SEEDS[0])}
    over_the_control = page.split("### Over the control")[1]
    assert "| plain | -6.00 ± 0.00 | -6.00 ± 0.00 | -6.00 ± 0.00 | -6.00 ± 0.00 |" in page
    assert f"| {defaults.CHOSEN} | +2.00 ± 0.00" in over_the_control
    assert "| scale 3 | +0.00 | +0.00 | +0.00 | +0.00 ± 0.00 |" in page


def test_a_diverged_run_is_never_the_best():
    bad = Known(lambda case: math.nan if "scale 0.05 of 1" in case else 20.0)
    best = defaults.tuned(bad)
    assert all(found["control"] != "scale 0.05 of 1" for found in best.values())


def test_mean_and_standard_error():
    values = np.asarray([1.0, 2.0, 3.0, 6.0])
    error = math.sqrt(((values - 3) ** 2).sum() / 3 / 4)
    assert defaults.mean_error(values) == f"+3.00 ± {error:.2f}"


def test_a_run_is_that_of_its_settings(monkeypatch):
    for name, value in {"SIDE": 16, "WIDTH": 8, "STEPS": 40, "LAST": 10, "EVERY": 5}.items():
        monkeypatch.setattr(defaults, name, value)
    run = defaults.train(("siren", "coffee", "cooldown", "damp 1 0.9 5 1", 0))
    assert 5 < run["median"] <= run["maximum"] < 40
    assert abs(run["averaged"] - run["median"]) < 5
    monkeypatch.setitem(defaults.RATES, "siren", 1e30)
    with np.errstate(all="ignore"):
        assert math.isnan(defaults.train(("siren", "coffee", "constant", "plain", 0))["median"])


@pytest.mark.slow
def test_random_batches(monkeypatch):
    for name, value in {"SIDE": 24, "WIDTH": 8, "STEPS": 20, "BATCH": 256, "LAST": 10}.items():
        monkeypatch.setattr(batches, name, value)
    runs = {method: batches.train(("pe", "coffee", method, 0)) for method in batches.METHODS}
    assert all(5 < run["median"] < 40 for run in runs.values())
    assert len({run["median"] for run in runs.values()}) == len(runs)
    figures = Known(lambda case: 20.0 + ("plain" not in case))
    page = batches.table(figures)
    assert max(map(len, page.splitlines())) <= 100
    assert page.count("21.00 (+1.00 ± 0.00)") == 2 * (len(batches.METHODS) - 1)


def made(case):
    return {"median": float(case[0])}


@pytest.mark.slow
def test_runs_are_kept_and_only_those_missing_are_done(tmp_path, capsys):
    path = tmp_path / "runs.jsonl"
    assert [run["median"] for run in Runs(path, 1, ("k",), made)([(1,), (2,)])] == [1, 2]
    capsys.readouterr()
    again = Runs(path, 1, ("k",), made)
    assert [run["k"] for run in again([(2,), (3,), (2,)])] == [2, 3, 2]
    assert capsys.readouterr().out.count("dB") == 1
    assert [json.loads(line)["k"] for line in path.read_text().splitlines()] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of PyTorch's own forward mode
def test_the_page_of_derivatives(tmp_path):
    derivatives.main(["--smoke", "--output", str(tmp_path)])
    page = (tmp_path / "derivatives.md").read_text()
    kept = json.loads((tmp_path / "derivatives.json").read_text())
    assert [row["back"] for row in kept["rows"]] == [False, True, False, True]
    assert all(row["difference"] < 1e-12 for row in kept["rows"])  # in float64
    assert all(row["explicit"] == {"ours": 0, "autograd": 0} for row in kept["kernels"])
    assert page.count("| tanh | 8 x 2 | 2 -> 1 |") == 6
