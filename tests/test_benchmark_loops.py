"""The loops of `benchmarks.loops`: each differs by one line, and their page says what was found."""

import math

import pytest

pytest.importorskip("torch")

from benchmarks._report import RESULTS
from benchmarks.loops import dense
from benchmarks.loops.page import BOUND, page
from benchmarks.loops.running import LOOPS, compared, trained
from benchmarks.loops.training import Size, lines_of

SMALL = Size(12, 10)


def known(figure):
    """Runs whose figures are known beforehand."""

    def runs(cases):
        return [
            {"median": figure(*case), "maximum": figure(*case) + 1, "explicit": [["a.w", "read by f.g"]],
             "groups": 64, "parameters": 8, "plain_ms": 1.0,
             **{key: {"all": 2.0, "sdf": size, "eikonal": 1.0}
                for key, size in (("plain", 8.0), ("one function", 4.0), ("value", 1.0))}}
            for case in cases
        ]  # fmt: skip

    return runs


def figures(name, method, _, seed):
    """IGA loses by 2 dB on wire, is above the control by 1 elsewhere, and gains 3."""
    level = {"dense": 1e-14, "cost": 1.5}.get(method, 20.0 + seed)
    gain = {"iga": -2.0 if name == "wire image" else 3.0, "scale 0.2": 2.0, "scale 0.5": math.nan}
    return level + gain.get(method, 0.0)


def rows_of(text):
    """The cells of the first table, by loop."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    end = next(k for k, line in enumerate(lines) if line.startswith("| loop, rate"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:end]]
    return {row[0]: row[1:] for row in cells}


def test_the_page_has_every_loop():
    rows = rows_of((RESULTS / "loops.md").read_text())
    assert list(rows) == list(LOOPS)
    assert len(rows) >= 12
    for name, (lines, difference, *gains, cost, _) in rows.items():
        assert lines.split(",")[0] == "1", name
        assert 0 < float(difference) <= BOUND, name
        assert [float(gains[0]), float(gains[3])] == list(LOOPS[name].rates), name
        for gain in (*gains[1:3], *gains[4:6]):
            assert gain == "diverged" or len(list(map(float, gain.split(" ± ")))) == 2, name
        assert float(cost) > 0


def test_each_loop_changes_by_one_line():
    for name, loop in LOOPS.items():
        changed, moved = loop.lines()
        assert changed == 1, name
        assert moved == (3 if name in ("siren SDF", "siren Poisson") else 0)
    source = "def loop(IGA):\n    a = IGA(\n        1,\n    )\n    return IGA(b())\n\ndef b():\n    c = 1  # moved\n"
    assert lines_of(source, "loop") == (4, 1)


def test_what_the_page_says():
    text = page(known(figures))
    assert max(map(len, (line for line in text.splitlines() if line[:1] != "|"))) <= 100
    rows = rows_of(text)
    assert rows["siren audio"][3:5] == ["+3.0 ± 0.0", "+2.0 ± 0.0"]
    assert rows["siren audio"][-2:] == ["1.50", ""]
    assert rows["wire image"][3] == "-2.0 ± 0.0"
    assert rows["wire image"][-1] == "loses; the control is better"
    assert "0.50 of what it did" in text
    assert "alone wrapped, 0.12," in text


def test_a_loop_runs():
    run = trained(LOOPS["siren image"], "iga", 1e-4, 0, steps=3, size=SMALL)
    assert 0 < run["median"] <= run["maximum"] < 20
    assert run["groups"] == 36
    assert run["explicit"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LOOPS if name != "two processes"])
def test_a_loop_agrees_with_dense_algebra(name):
    if name == "Lightning":
        pytest.importorskip("lightning")
    assert compared(LOOPS[name])["median"] <= BOUND


@pytest.mark.slow
def test_the_comparison_sees_another_filter(monkeypatch):
    monkeypatch.setattr(dense, "damped", lambda K: K.new_ones(len(K)).diag() * 0.5)
    assert compared(LOOPS["siren image"])["median"] > 1e-3
