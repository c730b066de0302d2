"""What bad input gets: one line, exit code 2, and nothing written."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from iga_lab import hardware, memory
from iga_lab.cli import main
from tests.support.lab import refuse


def iga(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


EQUALISE = ["--filter", "equalise"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["astronat"], "did you mean 'astronaut'"),
        (["missing.png"], "'missing.png', which is neither"),
        (["."], "is a folder"),
        (["--network", "sirn"], "did you mean 'siren'"),
        (["--network", "zzz"], "relu, pe, siren, gabor, finer, gauss"),
        (["--method", "plain,iag"], "did you mean 'iga'"),
        (["--method", ""], "expected one of plain, fr, bn, scale, iga, iga+fr"),
        (["--optimizer", "adm"], "did you mean 'adam'"),
        (["--schedule", "cosin"], "did you mean 'cosine'"),
        (["--sampling", "larges"], "did you mean 'largest'"),
        (["--level", "nxt"], "did you mean 'next'"),
        (["--reach", "means"], "did you mean 'mean'"),
        (["--outputs", "sums"], "did you mean 'sum'"),
        (["--dtype", "float16"], "float32, float64, got 'float16'"),
        (["--backend", "nunpy"], "did you mean 'numpy'"),
        (["--device", "cuda:0"], "--backend cupy"),
        (["--stepz", "3"], "--steps"),
        (["--size", "0"], "got 0x0"),
        (["--size", "10x0"], "got 10x0"),
        (["--size", "-5"], "'-5'"),
        (["--size", "big"], "got 'big'"),
        (["--size", "99999999"], "free memory"),
        (["--size", "32", "--patch", "33"], "the shorter side's 32 pixels, got 33"),
        (["--size", "32x8", "--patch", "9"], "the shorter side's 8 pixels, got 9"),
        (["--patch", "0"], "patch: expected at least 1"),
        ([*EQUALISE, "--size", "16", "--patch", "4", "--end", "16"], "the 16 groups, got 16"),
        (["--size", "16", "--patch", "16"], "room for two groups of 256 points"),
        ([*EQUALISE, "--end", "0"], "end: expected at least 1"),
        ([*EQUALISE, "--end", "5", "--start", "5"], "less than end = 5, got 5"),
        ([*EQUALISE, "--start", "-1"], "start: expected at least 0"),
        (["--filter", "dmap"], "did you mean 'damp'"),
        (["--end", "5"], "filter: expected --filter equalise with --end, got 'damp'; "),
        (["--filter", "scale", "--start", "0", "--level", "next"],
         "--filter equalise with --start, --level, got 'scale'; choose it or leave out --start, "),
        ([*EQUALISE, "--scale", "1"], "--filter damp with --scale, got 'equalise'"),
        (["--factor", "0.1"], "--filter scale with --factor, got 'damp'"),
        (["--filter", "scale", "--samples", "2", "--average", "0"],
         "a filter that has a kernel with --samples, --average, got 'scale'"),
        (["--scale", "0"], "scale: expected a positive number, got 0"),
        (["--scale", "nan"], "got nan"),
        (["--filter", "scale", "--factor", "-1"], "factor: expected a number from 0"),
        (["--average", "1"], "average: expected a"),
        (["--average", "most"], "--average: 'most' is not a valid float"),
        (["--batch", "9", "--refresh", "2"], "refresh: expected 1 with --batch, got 2"),
        (["--batch", "9", "--average", "0.5"], "average: expected 0 with --batch, got 0.5"),
        (["--samples", "0"], "samples: expected at least 1"),
        (["--size", "16", "--patch", "2", "--samples", "5"], "the 4 points of a group, got 5"),
        (["--sampling", "centre", "--samples", "2"], "expected 1 with sampling='centre', got 2"),
        (["--refresh", "0"], "refresh: expected at least 1"),
        (["--learning-rate", "nan"], "got nan"),
        (["--learning-rate", "inf"], "got inf"),
        (["--learning-rate", "0"], "got 0"),
        (["--learning-rate", "fast"], "'fast' is not a valid float; see "),
        (["--steps", "0"], "steps: expected at least 1"),
        (["--steps", "1.5"], "--steps: '1.5' is not a valid integer"),
        (["--width", "0"], "width: expected at least 1"),
        (["--depth", "-1"], "depth: expected at least 1"),
        (["--width", "9999999"], "at most 2147483648 parameters in all, got 200000279999973"),
        (["--depth", "9999999999"], "depth: expected at most 10000"),
        (["--frequencies", "0"], "frequencies: expected at least 1"),
        (["--frequencies", "33"], "at most 32"),
        (["--frequencies", "many"], "'nyquist', got 'many'"),
        (["--columns", "0"], "columns: expected at least 1"),
        (["--seed", "-1"], "seed: expected at least 0"),
        (["--resume", "."], "has no checkpoint"),
        (["--resume", "nowhere"], "has no checkpoint"),
    ],
)  # fmt: skip
def test_settings(arguments, said):
    assert said in refuse("fit", *arguments)


def test_kernel_that_does_not_fit_in_memory(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 50_000_000)
    line = refuse("fit", "--size", "96", "--patch", "1")
    assert "50 MB" in line
    assert f"{10 * 8 * 9216**2 / 1e9:.3g} GB" in line
    assert "9,216 groups" in line


@pytest.mark.parametrize("given", [("--width", 9999), ("--depth", 9999)])
def test_network_that_does_not_fit_in_memory(monkeypatch, given):
    monkeypatch.setattr(memory, "available_memory", lambda: 1_000_000_000)
    line = refuse("fit", *given)
    assert "width: expected to fit in 1 GB of free memory" in line
    assert "parameters, which takes" in line


def test_missing_library_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(hardware, "LAB_MODULES", ("click", "nothing_of_this_name"))
    line = refuse("fit")
    assert "nothing_of_this_name" in line
    assert 'pip install "iga-core[lab]"' in line


def test_output_folder():
    Path("file").write_text("text")
    assert "is not a folder" in refuse("fit", "--output", "file/run")
    assert "is not a folder" in refuse("fit", "--output", "file")
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    assert "other files" in refuse("fit", "--output", "full")
    Path("run").mkdir()
    Path("run/result.json").write_text("{}")
    assert "holds another run" in refuse("fit", "--output", "run")


def test_output_folder_that_cannot_be_made(monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    assert "Permission denied" in refuse("fit", "--size", "8", "--patch", "2", "--output", "x/y")


def test_what_is_missing_is_named():
    assert refuse("render") == "Error: MODEL: expected a value, got none; see iga render --help"
