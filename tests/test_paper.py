"""The paper's tables and the other benchmarks at their smallest, and what they are made of."""

import dataclasses
import importlib
import json
import statistics
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import quality
from benchmarks.paper import systems, trained, training
from benchmarks.paper.__main__ import TABLES, main
from benchmarks.paper.signals import SOLIDS, sample, sources, split
from benchmarks.paper.store import ABOUT, Finished, Store, key
from benchmarks.paper.tables import Study, name_of, of_row, run_name, value
from iga_core import Adjustment, Equalise, Scale
from iga_lab.errors import InputError
from tests.support.selection import slow

NAMES = ["functions", *TABLES]


def described(preset, row, source, rate, schedule="cosine", seed=0, backend="numpy"):
    kind = "shape" if source in SOLIDS else "image"
    signal = {"signal": source, "source": source, "digest": ""}
    place = {"backend": backend, "device": "cpu", "tf32": False}
    return systems.described(preset, row, kind, signal, rate, schedule, seed, place)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Every table of the preset, made once."""
    folder = tmp_path_factory.mktemp("paper")
    assert main(["all", "--preset", "smoke", "--jobs", "2", "--output", str(folder)]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_table_leaves_its_text_its_figure_and_every_run(smoke, name):
    text = (smoke / f"{name}.md").read_text()
    assert f"python -m benchmarks.paper {name} --preset smoke" in text
    assert max(map(len, text.splitlines())) <= 100
    assert (smoke / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert len((smoke / f"{name}.csv").read_text().splitlines()) > 3


@pytest.mark.slow
def test_every_system_has_its_row(smoke):
    lines = (smoke / "images.md").read_text().splitlines()
    rows = {tuple(cell.strip() for cell in line.split("|")[1:3]) for line in lines if "|" in line}
    for network in ("ReLU", "PE", "SIREN"):
        assert {(network, m) for m in ("plain", "FR", "IGA", "group-wise IGA")} <= rows
    assert {("ReLU", "BN"), ("PE", "BN")} <= rows
    assert ("SIREN", "BN") not in rows
    for network in ("FINER", "Gabor", "Gauss"):
        assert {(network, "plain"), (network, "IGA")} <= rows


@pytest.mark.slow
def test_a_second_call_runs_nothing_again_and_a_stopped_one_goes_on(smoke):
    runs = sorted((smoke / "runs").glob("training-*.json"))
    stamps = {run: run.stat().st_mtime_ns for run in runs}
    before = (smoke / "end.csv").read_text()
    gone = runs[0]
    content = json.loads(gone.read_text())
    gone.unlink()
    arguments = ["--preset", "smoke", "--jobs", "1", "--output", str(smoke)]
    for name in ("images", "shapes", "end"):
        assert main([name, *arguments]) == 0
    assert all(run.stat().st_mtime_ns == stamps[run] for run in runs if run != gone)
    again = json.loads(gone.read_text()) if gone.exists() else content
    assert again["result"]["psnr_end"] == content["result"]["psnr_end"]
    assert (smoke / "end.csv").read_text() == before


@pytest.mark.slow
def test_rates_are_kept_for_the_large_preset(smoke):
    rates = json.loads((smoke / "rates-images.json").read_text())
    assert rates["pe adam iga cosine"] == systems.RATES["pe"][1]
    assert all((smoke / f"rates-{name}.json").exists() for name in ("shapes", "optimizers"))


def test_the_large_preset_asks_for_rates(tmp_path, capsys):
    arguments = ["images", "--preset", "full", "--output", str(tmp_path)]
    assert main([*arguments, "--rates", str(tmp_path)]) == 2
    assert "rates: expected a folder with the rates-images.json" in capsys.readouterr().err
    (tmp_path / "rates-images.json").write_text('{"pe adam plain cosine": 0.01}')
    assert main([*arguments, "--rates", str(tmp_path)]) == 2
    assert "got none for relu adam plain" in capsys.readouterr().err


class TestStore:
    def test_a_finished_run_is_never_overwritten(self, tmp_path):
        store, case = Store(tmp_path), {"task": "training", "rate": 1.0}
        store.add(Finished(case, {"psnr": 1.0}, np.ones(3, np.float16)))
        store.add(Finished(case, {"psnr": 2.0}))
        found = store.read(case)
        assert found.result == {"psnr": 1.0}
        np.testing.assert_array_equal(found.prediction, np.ones(3))
        assert store.missing([case, {"task": "training", "rate": 2.0}]) == [
            {"task": "training", "rate": 2.0}
        ]

    def test_names_and_places_are_no_part_of_what_was_run(self):
        case = {"task": "training", "digest": "1", "signal": "a", "source": "/a", "method": "iga"}
        assert key(case) == key({**case, "signal": "b", "source": "/b", "method": "end 10"})
        assert key(case) != key({**case, "digest": "2"})

    def test_no_file_says_where_the_data_lay(self, tmp_path):
        store = Store(tmp_path)
        store.add(Finished({"task": "training", "source": "/home/someone"}, {}))
        assert all("someone" not in file.read_text() for file in tmp_path.glob("*.json"))

    def test_a_folder_of_another_format_is_refused(self, tmp_path):
        (tmp_path / "format.json").write_text(json.dumps(ABOUT | {"format": ABOUT["format"] + 1}))
        with pytest.raises(InputError, match=r"expected runs of format 2.*, got format 3"):
            Store(tmp_path)

    def test_a_folder_of_other_files_is_refused(self, tmp_path):
        (tmp_path / "result.json").write_text("{}")
        with pytest.raises(InputError, match="output: expected a folder of runs"):
            Store(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == ["result.json"]

    def test_a_damaged_run_is_named(self, tmp_path):
        store, case = Store(tmp_path), {"task": "training"}
        store.add(Finished(case, {"psnr": 1.0}))
        (tmp_path / f"{key(case)}.json").write_text("{")
        with pytest.raises(InputError, match="delete that file"):
            store.read(case)


class TestSignals:
    def test_a_broken_picture_is_named_and_skipped_on_request(self, tmp_path, capsys):
        from PIL import Image

        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "whole.png")
        (tmp_path / "broken.png").write_bytes(b"no picture")
        with pytest.raises(InputError, match=r"got 'broken.png'.*--skip-broken"):
            sources("image", str(tmp_path), (16, 16), skip=False, most=9)
        assert list(sources("image", str(tmp_path), (16, 16), skip=True, most=9)) == ["whole"]
        assert "skipped broken.png" in capsys.readouterr().out

    def test_a_folder_without_any_is_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"expected files ending in \.obj"):
            sources("shape", str(tmp_path), (8, 8, 8), skip=False, most=9)
        with pytest.raises(InputError, match="expected a folder"):
            sources("shape", str(tmp_path / "none"), (8, 8, 8), skip=False, most=9)

    def test_an_upright_picture_stays_upright(self, tmp_path):
        from PIL import Image

        Image.fromarray(np.zeros((60, 40, 3), np.uint8)).save(tmp_path / "portrait.png")
        assert sample(str(tmp_path / "portrait.png"), "image", (24, 16)).values.shape == (24, 16, 3)
        assert sample("astronaut", "image", (24, 16)).values.shape == (16, 24, 3)

    def test_rates_are_chosen_on_a_signal_that_is_not_reported(self):
        assert split({"a": "", "b": "", "c": ""}, 1) == ("a", ["b"])
        assert split({"a": ""}, 2) == ("a", ["a"])

    @pytest.mark.parametrize("name", SOLIDS)
    def test_solids_lie_within_the_grid(self, name):
        filled = sample(name, "shape", (24, 24, 24)).values[..., 0]
        assert 0.02 < filled.mean() < 0.5
        for axis in range(3):
            assert not np.take(filled, [0, -1], axis=axis).any()


class TestFigures:
    ROW = systems.Row("pe", "iga", (1.0, 2.0, 3.0))

    def runs(self, **figures):
        return [
            Finished(self.case(signal=signal), {"psnr": figure})
            for signal, some in figures.items()
            for figure in some
        ]

    def case(self, **changes):
        return {
            "network": "pe", "optimizer": "adam", "method": "iga", "schedule": "cosine",
            "signal": "a", "rate": 1.0, **changes,
        }  # fmt: skip

    def test_a_value_is_the_mean_over_signals_of_the_median_over_seeds(self):
        found = value(self.runs(a=[1.0, 2.0, 9.0], b=[4.0, 4.0, 5.0]), "psnr")
        assert found.middle == statistics.mean([2.0, 4.0])
        assert found.spread == statistics.mean([4.0, 0.5])
        assert found.text() == "3.0 ± 2.2"

    def test_one_diverged_run_is_not_hidden_by_the_others(self):
        assert value(self.runs(a=[1.0, None], b=[4.0]), "psnr").text() == "diverged"

    def test_runs_are_found_by_their_row(self):
        assert run_name(self.case()) == name_of(self.ROW, "cosine")
        assert len(of_row(self.runs(a=[1.0], b=[2.0]), self.ROW, "cosine")) == 2
        assert of_row(self.runs(a=[1.0]), self.ROW, "step") == []

    def test_the_best_trial_gives_the_rate_and_a_diverged_one_never_does(self):
        study = Study(None, "image", *[None] * 4, {})
        figures = {1.0: 20.0, 2.0: 30.0, 3.0: None}
        trials = [
            Finished(self.case(rate=rate), {"psnr_median": psnr}) for rate, psnr in figures.items()
        ]
        assert study.chosen(trials) == {"pe adam iga cosine": 2.0}

    def test_every_method_tries_as_many_rates(self):
        preset = systems.PRESETS["small"]
        rows = [*systems.image_rows(preset), *systems.shape_rows(preset)]
        assert {len(set(row.rates)) for row in rows} == {preset.trials}
        assert {len(set(r)) for r in (trained.SGD_RATES | trained.MUON_RATES).values()} == {3}


class TestAdjustments:
    KERNEL = np.diag(np.arange(12.0, 0.0, -1.0))
    PRESET = systems.PRESETS["small"]

    def adjustment(self, method, control=""):
        row = systems.image_row(self.PRESET, "pe", method)
        row = dataclasses.replace(row, control=control)
        case = described(self.PRESET, row, "astronaut", 1e-3, seed=7)
        return training.adjustment(case)

    def test_a_row_has_the_settings_that_its_table_says(self):
        assert self.adjustment("plain") is None
        assert self.adjustment("iga") == Adjustment(
            Equalise(10), "largest", 1, "points", refresh=1, average=0, seed=7
        )
        assert self.adjustment("groupwise") == Adjustment(
            Equalise(32), "random", 2, "mean", refresh=1, average=0, seed=7
        )

    @pytest.mark.parametrize("control", training.CONTROLS)
    def test_a_control_is_another_filter_and_nothing_else(self, control):
        controlled, plain = self.adjustment("iga", control), self.adjustment("iga")
        assert controlled.filter == training.CONTROLS[control](plain.filter, 7)
        assert dataclasses.replace(controlled, filter=plain.filter) == plain

    def test_random_vectors_keep_the_gains(self):
        true = Equalise(4)(self.KERNEL).matrix()
        made = training.RandomVectors(Equalise(4), 0)(self.KERNEL).matrix()
        gains = np.diagonal(true)
        Q = np.linalg.qr(np.random.default_rng([0, 12]).normal(size=(12, 12)))[0]
        np.testing.assert_allclose(made, (Q * gains) @ Q.T, atol=1e-12)
        assert np.abs(made - true).max() > 0.1

    def test_a_random_kernel_does_not_depend_on_the_network(self):
        control = training.RandomKernel(Equalise(4), 0)
        made, other = control(self.KERNEL).matrix(), control(2 * self.KERNEL).matrix()
        np.testing.assert_array_equal(made, other)
        features = np.random.default_rng([0, 12]).normal(size=(12, 12))
        assert np.abs(made - Equalise(4)(self.KERNEL).matrix()).max() > 0.1
        spectrum = np.sort(np.linalg.eigvals(made @ features @ features.T).real)
        np.testing.assert_allclose(spectrum[-5:], spectrum[-1])


@pytest.mark.parametrize("name", systems.PRESETS)
def test_every_row_is_the_system_that_it_says(name):
    preset = systems.PRESETS[name]
    data = SimpleNamespace(coords=np.zeros((256, 2)), values=np.zeros((16, 16, 3)))
    labels = {"fr": "+fr", "bn": "+bn"}
    for row in systems.image_rows(preset):
        case = described(preset, row, "astronaut", 1e-3)
        made = training.network(case, data)
        assert made.label == row.network + labels.get(row.method, "")
        assert (made.width, made.outputs) == (preset.width, 3)
        assert (case["adjustment"] is not None) == (row.method in ("iga", "groupwise"))


def test_a_run_that_diverges_is_reported_as_that():
    preset = systems.PRESETS["smoke"]
    row = systems.Row("pe", "plain", (1.0, 1.0, 1.0), optimizer="sgd")
    result = training.run(described(preset, row, "astronaut", 1e30, "cosine")).result
    assert result["status"] == "diverged"
    assert result["psnr_median"] is None
    assert np.isfinite(result["psnr_end"])


def test_the_last_update_may_be_the_one_that_overflows():
    preset = dataclasses.replace(systems.PRESETS["smoke"], steps=1)
    row = systems.Row("pe", "plain", (1.0, 1.0, 1.0), optimizer="sgd")
    result = training.run(described(preset, row, "astronaut", 1e30, "constant")).result
    assert result["status"] == "diverged"
    assert np.isfinite(result["psnr_end"])


@pytest.mark.parametrize("kind", ["image", "shape"])
@pytest.mark.parametrize(
    ("method", "control"),
    [("iga", "kernel"), *slow([("bn", ""), ("iga", ""), ("iga", "vectors")])],
)
def test_both_backends_give_a_run_the_same_figures(kind, method, control):
    pytest.importorskip("torch")
    preset = systems.PRESETS["smoke"]
    rows = systems.image_rows(preset) if kind == "image" else systems.shape_rows(preset)
    row = dataclasses.replace(next(r for r in rows if r.method == method), control=control)
    source = "astronaut" if kind == "image" else "torus"
    found = [
        training.run(described(preset, row, source, 1e-3, backend=backend)).result
        for backend in ("numpy", "torch")
    ]
    for name in ("psnr_median", "psnr_end"):
        assert found[0][name] == pytest.approx(found[1][name], abs=0.02)


def test_an_accelerator_is_waited_for_once_a_block():
    case = {"device": "cuda:0", "steps": 250}
    assert list(training._blocks(case, {120})) == [100, 20, 80, 50]
    assert list(training._blocks({"device": "cpu", "steps": 3}, set())) == [1, 1, 1]


def test_seeds_reach_the_batches():
    preset, start, losses = systems.PRESETS["smoke"], None, []
    row = next(row for row in systems.shape_rows(preset) if row.method == "iga")
    for seed in (0, 1, 0):
        case = described(preset, row, "torus", 1e-3, seed=seed)
        trainer = training.training(case, sample("torus", "shape", (12, 12, 12)))
        start = trainer.parameters if start is None else start
        trainer.model.parameters = start
        losses.append(float(trainer.step()))
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize("name", ["optimizers", "end"])
def test_a_table_without_the_network_says_which_it_has(tmp_path, capsys, name):
    arguments = [name, "--preset", "smoke", "--network", "relu", "--output", str(tmp_path)]
    assert main(arguments) == 2
    assert "network: expected some of this table's, pe, siren" in capsys.readouterr().err


def test_the_command_names_a_broken_folder_and_writes_nothing(tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["images", "--preset", "smoke", "--data", str(tmp_path / "none")]
    assert main([*arguments, "--output", str(output)]) == 2
    assert "data: expected a folder" in capsys.readouterr().err
    assert not list(Path(output).glob("images*"))


def test_a_folder_of_both_kinds_serves_both(tmp_path):
    from benchmarks.paper.__main__ import _data

    (tmp_path / "meshes").mkdir()
    assert _data(str(tmp_path), "shape", False) == str(tmp_path / "meshes")
    assert _data(str(tmp_path), "image", False) == str(tmp_path)
    assert _data(str(tmp_path), "image", True) is None
    assert _data(None, "image", False) is None


class TestQuality:
    @pytest.mark.slow
    def test_a_stopped_call_goes_on_and_makes_its_table(self, tmp_path):
        arguments = ["--smoke", "--jobs", "1", "--output", str(tmp_path)]
        quality.main([*arguments, "--seeds", "1"])
        kept = tmp_path / "quality-curves.jsonl"
        lines = kept.read_text().splitlines()
        # Tuning, and two of all methods, but one of those that do not depend on the patch.
        assert len(lines) == 3 * (4 * 4 + 2 * 2 + 2)
        kept.write_text("\n".join(lines[:-1]) + "\n")
        quality.main([*arguments, "--seeds", "1"])
        again = kept.read_text().splitlines()
        assert again[:-1] == lines[:-1]
        assert json.loads(again[-1]) == json.loads(lines[-1])
        table = (tmp_path / "quality.md").read_text()
        assert [table.count(f"| {method}") for method in quality.METHODS] == [8, 8, 8, 6]
        rows = json.loads((tmp_path / "quality.json").read_text())["rows"]
        assert len(rows) == 3 * 2 * len(quality.METHODS)

    def test_methods_are_what_the_table_says(self):
        half = Adjustment(Equalise(72), "random", 2, "mean", refresh=1, average=0)
        assert quality.adjustment("half", 144) == half
        assert quality.adjustment("scale 0.2", 144) == Adjustment(Scale(0.2))
        assert quality.adjustment("damp", 144) == Adjustment()
        assert quality.adjustment("plain", 144) is None
        full = quality.SIZES["full"]
        assert [full.groups(patch) for patch in full.tuned] == [1, 16, 144, 576]

    def test_scale_is_tuned_on_a_seed_of_its_own_and_never_to_one_that_diverged(self):
        figures = {"scale 0.05": float("nan"), "scale 0.1": 1.0, "scale 0.2": 3.0, "scale 0.5": 2.0}

        def runs(cases):
            assert {case[4] for case in cases} == {quality.TUNING_SEED}
            return [dict(zip(quality.CASE, c, strict=True), median=figures[c[3]]) for c in cases]

        best = quality.tuned("smoke", runs)
        assert {run["method"] for run in best.values()} == {"scale 0.2"}
        assert best.keys() == quality.RATES.keys()

    def test_differences_are_of_the_same_seed(self):
        gains = {"pe": [1.0, 2.0, 3.0], "siren": [0.0, 0.0, 0.0], "relu": [-1.0, 1.0, 0.0]}
        rows = [
            {"network": network, "patch": 8, "method": method,
             "median": [10 * k + g * (method == "damp") for k, g in enumerate(gain)]}
            for network, gain in gains.items() for method in quality.METHODS
        ]  # fmt: skip
        found = {(r["over"], r["network"]): r for r in quality.differences(rows)}
        for other in quality.COMPARED:
            for network, gain in gains.items():
                row = found[other, network]
                assert row["gain"] == pytest.approx(statistics.mean(gain))
                assert row["error"] == pytest.approx(statistics.stdev(gain) / 3**0.5)
            means = [statistics.mean(of_a_seed) for of_a_seed in zip(*gains.values(), strict=True)]
            assert found[other, "mean"]["gain"] == pytest.approx(statistics.mean(means))
            assert found[other, "mean"]["error"] == pytest.approx(statistics.stdev(means) / 3**0.5)


class TestStepTimes:
    @pytest.fixture
    def step_time(self):
        pytest.importorskip("torch")
        return importlib.import_module("benchmarks.step_time")

    @pytest.mark.slow
    def test_cases_that_are_not_asked_for_stay(self, step_time, tmp_path):
        arguments = ["--smoke", "--output", str(tmp_path), "--only"]
        step_time.main([*arguments, "small"])
        small = json.loads((tmp_path / "step-time.json").read_text())
        step_time.main([*arguments, "large"])
        both = json.loads((tmp_path / "step-time.json").read_text())
        assert both["rows"][:8] == small["rows"]
        assert len(small["rows"]) == 8
        assert list(both["cases"]) == ["small", "numpy", "torch", "loop"]
        assert (tmp_path / "step-time.md").read_text().count("| 1.03 |") == 6

    def test_every_round_has_as_many_transforms(self, step_time):
        found = step_time.adjustments(256)
        for case in step_time.CASES.values():
            assert all(case.steps % found[variant].refresh == 0 for variant in case.variants)
