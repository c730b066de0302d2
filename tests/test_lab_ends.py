"""Ends of all kinds, in this process: signals, names, environments, and words read aloud."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from iga_lab.cli import streams
from iga_lab.cli.interruption import SIGNALS, Ending, heard
from iga_lab.cli.terminal import quoted
from iga_lab.errors import a, readable
from iga_lab.figures import style
from iga_lab.runs import run as runs
from tests.support.drawing import nothing_drawn
from tests.support.lab import (
    FILES,
    STEPS,
    TINY,
    UNFINISHED,
    fit,
    iga,
    names,
    refuse,
    result_of,
    same_models,
    step_hook,
)
from tests.support.selection import slow


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def picture(name):
    path = Path(name)
    Image.fromarray(np.arange(12 * 12 * 3, dtype=np.uint8).reshape(12, 12, 3)).save(path, "png")
    return path


# signals

ASKED = [
    pytest.param(
        number,
        id=signal.Signals(number).name,
        marks=[] if number == signal.SIGTERM else pytest.mark.slow,
    )
    for number in SIGNALS
]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    with nothing_drawn():
        assert fit(folder).exit_code == 0
    return folder


@pytest.mark.parametrize("number", ASKED)
def test_a_signal_ends_a_run_with_its_results(unbroken, undrawn, monkeypatch, number):  # noqa: ARG001
    before = signal.getsignal(number)
    with monkeypatch.context() as hook:
        if number != signal.SIGINT:
            # `timeout` sends its signal twice: to the process, and to the group that it is in.
            step_hook(hook, "iga", 9, lambda: signal.raise_signal(number))
            step_hook(hook, "plain", 9, lambda: signal.raise_signal(number))
        else:
            step_hook(hook, "plain", 9, lambda: signal.raise_signal(number))
        stopped = fit("run")
    assert stopped.exit_code == 128 + number
    assert "Continue with  iga fit --resume run" in stopped.stdout
    called = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    assert f"Stopped by {called}; " in stopped.stderr
    assert result_of(Path("run"))["status"] == "interrupted"
    assert signal.getsignal(number) is before
    assert iga("fit", "--resume", "run").exit_code == 0
    assert names("run") == FILES
    same_models(Path("run"), unbroken)


@pytest.mark.parametrize("number", ASKED)
def test_a_signal_that_is_ignored_stays_so(monkeypatch, undrawn, number):  # noqa: ARG001
    """As of what `nohup` or a script's `&` has started."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        step_hook(monkeypatch, "plain", 9, lambda: signal.raise_signal(number))
        assert fit("run").exit_code == 0
    finally:
        signal.signal(number, before)
    assert result_of(Path("run"))["methods"]["plain"]["steps"] == STEPS


@pytest.mark.parametrize("number", ASKED)
def test_a_signal_before_a_run_begins_leaves_nothing(monkeypatch, number):
    monkeypatch.setattr(runs, "begin", lambda *_: signal.raise_signal(number))
    ended = fit("run")
    assert (ended.exit_code, ended.stdout, ended.stderr) == (128 + number, "", "Aborted.\n")
    assert names(".") == set()


def test_ctrl_c_after_another_signal_ends_at_once(monkeypatch):
    def twice():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)

    step_hook(monkeypatch, "plain", 3, twice)
    ended = fit("run")
    assert ended.exit_code == 130
    assert ended.stderr.endswith("Aborted.\n")
    assert names("run") == UNFINISHED


def test_what_an_import_makes_of_a_signal_is_no_error(monkeypatch):
    def imported(*_):
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        raise ImportError("numpy._core.multiarray failed to import")

    monkeypatch.setattr(runs, "begin", imported)
    ended = fit("run")
    assert (ended.exit_code, ended.stderr) == (143, "Aborted.\n")


def test_a_second_signal_while_the_first_ends_the_command_is_not_heard():
    ending = Ending()
    with heard(ending), pytest.raises(BaseException, match=r"^$"):  # noqa: PT012
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
    assert ending.number == signal.SIGTERM


# streams


def started(*arguments, prefix="", **others):
    command = [sys.executable, "-m", "iga_lab", *map(str, arguments)]
    shell = " ".join(map(shlex.quote, command))
    return subprocess.run(
        ["bash", "-c", prefix.replace("IGA", shell) or shell], capture_output=True, text=True, **others
    )  # fmt: skip


BROKEN = {
    "IGA > /dev/full": (1, "Error: stdout: expected to be written, got No space left on device"),
    "IGA | head -c 1; exit ${PIPESTATUS[0]}": (0, ""),
    "IGA 2>&1 | head -c 1; exit ${PIPESTATUS[0]}": (0, ""),
    "IGA >&-": (0, ""),
    "IGA >&- 2>&- <&-": (0, ""),
    "IGA 2> /dev/full": (0, ""),
    "IGA > /dev/full 2>&1": (1, ""),
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("prefix", BROKEN)
@pytest.mark.parametrize("command", ["fit", "--help"])
def test_broken_streams_end_the_talking(prefix, command):
    code, said = BROKEN[prefix]
    arguments = ["--help"]
    if command == "fit":
        arguments = ["fit", *TINY, "--steps", 9, "--output", "run"]
    done = started(*arguments, prefix=prefix)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert said in done.stderr
    if command == "fit":
        assert names("run") == FILES
        assert result_of(Path("run"))["status"] == "finished"


def full():
    return Path("/dev/full").open("w")


def left():
    """A pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


@pytest.mark.parametrize(("make", "code"), [(full, 1), (left, 0)])
def test_a_stream_that_breaks_is_given_up(monkeypatch, make, code):
    stream = make()
    try:
        with monkeypatch.context() as hook:
            hook.setattr(sys, "stdout", stream)
            with streams.Talk() as talk:
                streams.say("one line")
                print("another")
            assert sys.stdout is stream
        assert talk.code(0) == code
        assert talk.code(2) == 2
    finally:
        stream.close()


def test_what_a_stream_cannot_say_it_says_plainly(monkeypatch):
    with Path("said").open("w", encoding="ascii") as file, monkeypatch.context() as hook:
        hook.setattr(sys, "stdout", file)
        with streams.Talk():
            streams.say("16 × 16 ≤ 漢\udcff\x1b[2J\nnext")
    assert Path("said").read_text() == "16 x 16 <= \\u6f22\\udcff\\x1b[2J\nnext\n"


def test_closed_streams_say_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with streams.Talk() as talk:
        streams.say("nobody")
        streams.say("hears", error=True)
    assert talk.code(0) == 0


# names

ODD = {
    "mathematics": b"a$b_$.png",
    "half of it": b"5$ \\frac{.png",
    "Chinese": "漢字.png".encode(),
    "no UTF-8": b"gr\xff\xf6.png",
    "escape codes": b"a\x1b[31mred\nb.png",
    "turned": "\u202eab.png".encode(),
    "markup": b"[bold]{0}%s.png",
    "quotes": b'it\'s "so".png',
    "long": b"x" * 240 + b".png",
    "dash": b"-x.png",
    "nothing but": b".png",
}
QUICK = ("mathematics", "no UTF-8", "escape codes", "dash")
NAMES = [
    pytest.param(name, id=what, marks=[] if what in QUICK else pytest.mark.slow)
    for what, name in ODD.items()
]


def texts(name):
    """A figure of nothing but what is written in them all."""
    from iga_lab.figures import captions, comparisons

    shown = types.SimpleNamespace(signal=readable(name))
    monkey = pytest.MonkeyPatch()
    with monkey.context() as hook:
        hook.setattr(captions, "description", lambda settings: [style.drawable(settings.signal)])
        hook.setattr(comparisons, "description", captions.description)
        hook.setattr(comparisons, "groups", lambda _: [])
        figure = style.new_figure(3, 2)
        comparisons._caption(figure, shown)
        comparisons._describe(figure.add_subplot(), shown)
        return style.png(figure)


@pytest.mark.parametrize("name", NAMES)
def test_figures_take_names_as_text(name):
    with warnings.catch_warnings(), style.house_style():
        warnings.simplefilter("error")
        assert texts(os.fsdecode(name)) != texts("another")


@pytest.mark.parametrize("drawn", [False, *slow([True])])
@pytest.mark.parametrize("name", NAMES)
def test_names_are_text(monkeypatch, name, drawn):
    """In the terminal and in the files, and in a run that is resumed; and in all figures."""
    path, folder = os.fsdecode(name), os.fsdecode(name[:40] + b" run")
    picture(path)
    step_hook(monkeypatch, "plain", 2, lambda: signal.raise_signal(signal.SIGINT))
    with warnings.catch_warnings(), contextlib.nullcontext() if drawn else nothing_drawn():
        warnings.simplefilter("error")
        size = ["--size", 8, "--width", 4, "--depth", 1, "--patch", 4, "--steps", 3]
        stopped = iga("fit", *size, "--method", "plain", "--output", folder, "--", path)
        assert stopped.exit_code == 130, stopped.output
        resumed = iga("fit", "--resume", folder)
    assert resumed.exit_code == 0, resumed.output
    assert names(folder) == FILES - {"model-iga.safetensors"}
    for output in (stopped.output, resumed.output):
        assert all(line.isprintable() for line in output.splitlines())
    signal_name = result_of(Path(folder))["settings"]["signal"]
    assert signal_name.isprintable()
    if name.isascii() and b"\x1b" not in name:
        assert signal_name == Path(path).stem
    rendered = iga("render", "--", Path(folder, "model-plain.safetensors"))
    assert rendered.exit_code == 0, rendered.output


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_run_can_be_pasted(name):
    path = Path(os.fsdecode(name))
    shown = quoted(path)
    assert shown.isprintable()
    said = subprocess.run(["bash", "-c", f"printf %s {shown}"], capture_output=True, check=True)
    assert said.stdout == os.fsencode(path)


@pytest.mark.slow
@pytest.mark.parametrize("utf8", ["0", "1"])
@pytest.mark.parametrize("name", ["größe.png", "漢字.png"])
def test_names_in_a_locale_without_letters(monkeypatch, utf8, name):
    for key, value in (("LC_ALL", "C"), ("PYTHONUTF8", utf8), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(key, value)
    picture(name)
    done = started("fit", name, *TINY, "--steps", 9)
    assert done.returncode == 0, done.stderr
    (folder,) = Path("iga-runs").iterdir()
    assert names(folder) == FILES
    assert result_of(folder)["settings"]["signal"] == Path(name).stem


def test_figures_show_what_their_font_has():
    assert style.drawable("größe $x_1$") == "größe $x_1$"
    assert style.drawable("漢\x1b\udcff") == r"\u6f22\x1b\udcff"
    for long in ("x" * 300, "漢" * 300, "é" * 300):
        shown = style.drawable(long)
        assert 30 < len(shown) <= style.LONGEST
        assert "…" in shown


# environments and faults

RUN = ["--size", 8, "--width", 4, "--depth", 1, "--patch", 4, "--steps", 3, "--output", "run"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [{"MPLBACKEND": "nonsense"}, {"MATPLOTLIBRC": "rc"}, {"MPLBACKEND": "tkagg"}, {"TERM": "dumb"}],
)
def test_what_a_person_has_set_up_for_figures_plays_no_part(monkeypatch, environment):
    Path("rc").write_text("text.usetex: True\nfont.family: nonsense\nsavefig.bbox: tight\n")
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    done = started("fit", *RUN)
    assert done.returncode == 0, done.stderr
    assert names("run") == FILES
    assert all("steps/s" in line for line in done.stderr.splitlines())
    with Image.open("run/curves.png") as image:
        assert image.size == (1650, 675)


def test_a_figure_that_cannot_be_drawn_loses_itself_alone(undrawn, monkeypatch):  # noqa: ARG001
    def broken(*_):
        raise RuntimeError("no such\nglyph \x1b[2J")

    with monkeypatch.context() as hook:
        hook.setattr(runs, "comparison", broken)
        outcome = iga("fit", *RUN)
    assert outcome.exit_code == 2
    last = outcome.stderr.splitlines()[-1]
    assert last.startswith("Error: comparison.png: expected to be made, got RuntimeError: no such ")
    assert last.endswith("iga fit --resume run")
    assert last.isprintable()
    assert names("run") >= FILES - {"comparison.png"}
    assert result_of(Path("run"))["status"] == "finished"
    assert iga("fit", "--resume", "run").exit_code == 0
    assert names("run") == FILES


@pytest.mark.parametrize(
    ("error", "said"),
    [(MemoryError(), "Error: memory: expected enough for `iga fit`"),
     (PermissionError(13, "Permission denied", "there"), "Error: 'there': expected a file or")],
)  # fmt: skip
def test_what_the_system_refuses_is_one_line(monkeypatch, error, said):
    def refused(*_):
        raise error

    monkeypatch.setattr(runs, "begin", refused)
    outcome = fit("run")
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith(said)
    assert len(outcome.stderr.splitlines()) == 1


def test_a_fault_of_ours_stays_one(monkeypatch):
    monkeypatch.setattr(runs, "begin", lambda *_: 1 / 0)
    assert isinstance(fit("run").exception, ZeroDivisionError)


# words

LONG = "a" * 5000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([""], "command: expected one of fit, render, validate, backends, got ''"),
        (["ft"], "got 'ft'; did you mean 'fit'?"),
        (["render"], "MODEL: expected a value, got none; see iga render --help"),
        (["fit", "--size"], "--size: expected a value behind it, got none; see iga fit --help"),
        (["fit", "--netwrk", "pe"], "--netwrk: expected an option of `iga fit`, got another word; did you mean --network?"),
        (["fit", "a", "b"], "iga fit: expected no more words, got 'b'"),
        (["fit", ""], "SIGNAL: expected a file"),
        (["fit", "--output", ""], "--output: expected the name of a file or folder, got an empty"),
        (["fit", "--resume", ""], "--resume: expected the name of a file or folder, got an empty"),
        (["fit", "--lpips-weights", ""], "--lpips-weights: expected the name"),
        (["fit", "--lpips-weights", "nowhere"], "--lpips-weights: expected the state of lpips"),
        (["validate", "--json", ""], "--json: expected the name of a file or folder, got an empty"),
        (["render", ""], "MODEL: expected the name of a file or folder, got an empty"),
        (["fit", "--size", "0"], "--size: expected at least 1"),
        (["fit", "--average-weights", "nan"], "--average-weights: expected"),
        (["fit", "--learning-rate", "nan"], "--learning-rate: expected"),
        (["fit", "--method", "bn", "--network", "siren"], "relu or pe with bn, got 'siren': its layers"),
        (["fit", "--method", "plain,iga+fr", "--network", "gauss"], "siren with iga+fr, got 'gauss'"),
        (["fit", "--method", "fr", "--depth", "1"], "--depth: expected at least 2 with fr"),
        (["fit", LONG], "SIGNAL: expected a file"),
        (["fit", "--output", LONG], "File name too long"),
        (["fit", "--resume", LONG], "which has no checkpoint"),
        (["fit", "--lpips-weights", LONG], "File name too long"),
        (["fit", "--network", LONG], "--network: expected one of"),
        (["fit", "--" + LONG], "expected an option"),
        (["fit", "sines:" + LONG], "SIGNAL: expected frequencies"),
        (["render", LONG], "File name too long"),
        (["validate", "--json", LONG], "File name too long"),
        ([LONG], "command: expected one of"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)  # fmt: skip
def test_what_is_wrong_is_named_as_it_is_typed(arguments, said):
    line = refuse(*arguments)
    assert said in line
    assert len(line) < 600
    assert "anyway" not in line
    assert "Fourier(" not in line


@pytest.mark.parametrize("kind", ["image", "sound", "shape", "volume", "function"])
def test_articles(kind):
    assert a(kind) == ("an image" if kind == "image" else f"a {kind}")


def test_commands_are_listed_in_the_order_in_which_they_are_needed():
    listed = iga("--help").stdout.partition("Commands:\n")[2]
    commands = [line.split()[0] for line in listed.splitlines()]
    assert commands == ["fit", "render", "validate", "backends"]
    assert "..." not in listed  # no sentence is cut
