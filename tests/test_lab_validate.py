"""`iga validate` from the outside: its table, its JSON and its exit code."""

import importlib
import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from iga_array import conformance
from iga_array.conformance import ArrayBackend
from iga_core.testing import Row, cases
from iga_lab import validation
from iga_lab.cli import main, verdicts
from iga_lab.cli.terminal import console as new_console
from tests.conftest import missing
from tests.support.lab import refuse
from tests.support.networks import KINDS
from tests.support.selection import slow

REFERENCE = ("numpy", "cpu", "float64")


CASES = 36
"""Of each network that is not normalised."""


def iga(*arguments):
    return CliRunner().invoke(main, ["validate", *map(str, arguments)])


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Off(ArrayBackend):
    def kernel(self, *arguments):
        return 1.5 * super().kernel(*arguments)


class Broken(ArrayBackend):
    def evaluate(self, *_):
        raise RuntimeError("no [such] kernel\nimage")


def instead(monkeypatch, *backends):
    monkeypatch.setattr(validation, "found", lambda _: list(backends))


@pytest.mark.parametrize("networks", ["pe+bn,siren+bn", *slow(["relu,siren"])])
def test_numpy_passes(networks):
    outcome = iga("--only", "numpy", "--network", networks, "--seed", 2, "--json", "rows.json")
    assert outcome.exit_code == 0, outcome.output
    content = json.loads(Path("rows.json").read_text())
    rows = content["rows"]
    wanted = [
        ("numpy", "cpu", dtype, case.network, case.name)
        for dtype in ("float64", "float32")
        for case in cases(ArrayBackend(), networks.split(","))
    ]
    keys = ("backend", "device", "dtype", "network", "case")
    assert [tuple(row[key] for key in keys) for row in rows] == wanted
    for row in rows:
        assert row["status"] == "pass"
        assert 0 <= row["difference"] <= row["bound"] <= 1e-2
        assert row["seconds"] > 0
    assert any(row["difference"] > 0 for row in rows)
    assert content["seed"] == 2
    assert content["versions"]["numpy"]
    for word in ("numpy", "cpu", "float32", "kernel", "steps", "pass", "seed 2"):
        assert word in outcome.stdout
    assert f"numpy cpu float32: {len(rows) // 2} cases" in outcome.stderr


def test_what_is_wrong_is_said_and_the_exit_code_is_1(monkeypatch):
    instead(monkeypatch, Off(), Broken(dtype="float32"))
    outcome = iga("--network", "relu", "--json", "rows.json")
    assert outcome.exit_code == 1
    rows = json.loads(Path("rows.json").read_text())["rows"]
    failed = [(row["case"], row["difference"]) for row in rows if row["status"] == "fail"]
    off = [(name, pytest.approx(0.5)) for name in failed_names("kernel")]
    assert failed == [*off, ("forward", None)]
    assert rows[-CASES]["message"] == "RuntimeError: no [such] kernel image"
    words = " ".join(outcome.stdout.split())
    assert "FAIL 4" in words
    assert "FAIL 1" in words
    assert "failed: numpy cpu float64, relu kernel/sum/1: differs by 5.0e-01, bound 1e-10" in (
        words.replace("1.0e-10", "1e-10")
    )
    assert "relu forward: RuntimeError: no [such] kernel image" in words


def failed_names(column):
    return [case.name for case in cases(ArrayBackend(), ["relu"]) if case.name.startswith(column)]


def some_rows(name, device, dtype, change=lambda _: {}):
    """Rows as the suite gives them, of whatever numbers."""
    return [
        Row(
            **{
                "backend": name, "device": device, "dtype": dtype, "network": case.network,
                "case": case.name, "difference": 1e-7, "bound": 1e-5, "sensitivity": 1e-9,
                "status": "pass", "seconds": 0.5,
            }
            | change(case)
        )
        for case in cases(ArrayBackend())
    ]  # fmt: skip


def printed(rows):
    console = new_console()
    with console.capture() as captured:
        console.print(verdicts.table(validation.lines(rows), KINDS, 0))
        for remark in verdicts.remarks(rows):
            console.print(remark, markup=False)
    return captured.get()


def test_the_table_fits_a_hundred_columns():
    wrong = {"difference": 123.4, "status": "fail"}
    rows = some_rows("array-api-strict", "device1", "float64", lambda _: wrong)
    rows += some_rows("torch", "cuda:15", "float32", lambda _: {"status": "ill-posed"})
    some = {"adjusted/damp": wrong, "steps/adam": {"status": "ill-posed"}}
    rows += some_rows("cupy", "cuda:0", "float64", lambda case: some.get(case.name, {}))
    text = printed(rows)
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("1.2e+02") == len(validation.COLUMNS) + 1 + 10
    every = len(KINDS) * CASES
    wanted = ("array-api-strict", f"FAIL {every}", f"{every} ill-posed", "FAIL 6", "6 ill-posed")
    for words in wanted:
        assert words in text
    assert f"{every - 4} more; --json FILE has them all" in text


def test_a_cell_is_the_largest_difference_and_a_failure_comes_first():
    def change(case):
        if case.name == "kernel/sum/1" and case.network == "pe":
            return {"difference": 3e-6, "bound": 2e-5}
        if case.name == "kernel/sum/4" and case.network == "pe":
            return {"difference": 9e-1, "bound": 2e-1, "status": "ill-posed"}
        if case.name == "adjusted/damp" and case.network == "relu":
            return {"difference": 2e-4, "status": "fail"}
        if case.name == "adjusted/damp" and case.network == "gauss":
            return {"difference": 8e-4, "bound": 9e-4}
        if case.name == "steps/adam":
            return {"seconds": 2.5}
        return {}

    rows = some_rows(*REFERENCE, change)
    (line,) = validation.lines(rows)
    assert (line.worst["kernel"].network, line.worst["kernel"].difference) == ("pe", 3e-6)
    assert line.worst["adjusted"].difference == 2e-4
    assert line.counts == {"fail": 1, "pass": len(KINDS) * CASES - 2, "ill-posed": 1}
    assert line.seconds_per_step == 0.5 / 25
    text = printed(rows)
    for word in ("3.0e-06", "≤ 2e-05", "2.0e-04", "FAIL 1", "1 ill-posed", "20"):
        assert word in text
    assert "ill-posed: float64, pe kernel/sum/4: rounding the parameters alone changes it" in text


def test_ill_posed_cases_do_not_fail_and_are_listed_once(monkeypatch):
    strict = ArrayBackend("array-api-strict", "device1", "float32")
    instead(monkeypatch, ArrayBackend(dtype="float32"), strict)
    monkeypatch.setattr("iga_core.testing.ILL_POSED", 1e-9)
    outcome = iga("--network", "relu+bn")
    assert outcome.exit_code == 0
    assert f"{len(cases(ArrayBackend(), ['relu+bn']))} ill-posed" in outcome.stdout
    assert outcome.stdout.count("ill-posed: float32, relu+bn forward") == 1


def test_every_usable_backend_is_found():
    names = {backend.name for backend in validation.found(())}
    usable = {n for n in ("numpy", "array-api-strict", "torch", "cupy") if not missing(n)}
    assert names == usable
    first = validation.found(())[0]
    assert (first.name, first.device, first.dtype) == REFERENCE
    for name in usable:
        found = validation.found((name,))
        assert {backend.name for backend in found} == {name}
        assert {backend.dtype for backend in found} == {"float64", "float32"}


def test_cupy_that_does_not_load_is_left_out(monkeypatch):
    def fail(name):
        if name == "cupy":
            raise OSError("libcuda.so: cannot open shared object file")
        return importlib.__import__(name)

    monkeypatch.setattr(conformance.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(conformance.importlib, "import_module", fail)
    assert {b.name for b in conformance.backends()} == {"numpy", "array-api-strict"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--network", "relu,sirn"], "did you mean 'siren'"),
        (["--only", "nunpy"], "did you mean 'numpy'"),
        (["--only", "troch"], "did you mean 'torch'"),
        (["--seed", "-1"], "seed: expected at least 0, got -1"),
        (["--seed", "one"], "--seed: 'one' is not a valid integer"),
        (["--json", "nowhere/rows.json"], "a folder that exists"),
        (["--json", "."], "which exists"),
        (["--jsn", "rows.json"], "did you mean --json?"),
    ],
)
def test_bad_settings(arguments, said):
    assert said in refuse("validate", *arguments)


def test_a_backend_that_cannot_be_used_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(validation, "_torch_backends", list)
    assert "--only" not in refuse("validate", "--only", "torch").replace("only:", "")
    line = refuse("validate", "--only", "numpy,torch")
    assert "only: expected backends that can be used here, got 'torch'; " in line


def test_a_file_is_never_overwritten():
    Path("rows.json").write_text("mine")
    assert "which exists" in refuse("validate", "--json", "rows.json")
    assert Path("rows.json").read_text() == "mine"


def test_an_interrupted_validation_writes_nothing(monkeypatch):
    class Interrupted(ArrayBackend):
        def train(self, *_):
            raise KeyboardInterrupt

    instead(monkeypatch, Interrupted())
    outcome = iga("--network", "relu", "--json", "rows.json")
    assert outcome.exit_code == 130
    assert list(Path().iterdir()) == []


def test_infinity_is_null(tmp_path):
    names = ("difference", "bound", "sensitivity")
    rows = some_rows(*REFERENCE, lambda _: dict.fromkeys(names, math.inf))
    validation.write_json(tmp_path / "rows.json", rows, 0)
    (row, *_) = json.loads((tmp_path / "rows.json").read_text(), parse_constant=pytest.fail)["rows"]
    assert [row[name] for name in names] == [None, None, None]


@pytest.mark.slow
def test_a_kernel_of_other_safe_eigenvalues_is_said_to_be_ill_posed():
    """Gabor networks of fewer parameters than groups: in float32 another S is right."""
    outcome = iga("--only", "numpy", "--network", "gabor", "--json", "rows.json")
    assert outcome.exit_code == 0
    rows = json.loads(Path("rows.json").read_text(), parse_constant=pytest.fail)["rows"]
    ill_posed = [row for row in rows if row["status"] == "ill-posed"]
    assert [(row["dtype"], row["case"]) for row in ill_posed] == [
        ("float32", "adjusted/narrow/damp")
    ]
    assert ill_posed[0]["bound"] is None
    assert "other eigenvalues of its kernel are safe in float32" in " ".join(outcome.stdout.split())


def test_what_a_normalised_network_is_not_asked_stays_empty():
    outcome = iga("--only", "numpy", "--network", "relu+bn", "--json", "rows.json")
    assert outcome.exit_code == 0
    rows = json.loads(Path("rows.json").read_text())["rows"]
    assert {row["case"].partition("/")[0] for row in rows} == {"forward", "gradient", "steps"}
    assert {row["network"] for row in rows} == {"relu+bn"}
