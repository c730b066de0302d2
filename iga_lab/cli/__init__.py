"""The command `iga`."""

import signal as signals_of_system
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self, get_args

try:
    import click
except ModuleNotFoundError:
    raise SystemExit(
        'Error: click: expected to be installed, got nothing; run pip install "iga-core[lab]"'
    ) from None
from click.core import ParameterSource

from iga_core.cost import MOST
from iga_core.kinds import KINDS
from iga_core.optimizers import Schedule
from iga_core.sampling import SamplingRule
from iga_core.testing import NETWORKS
from iga_lab import settings as defaults
from iga_lab.cli.parameters import (
    DEVICE,
    FILE,
    FOLDER,
    FREQUENCIES,
    NUMBER,
    SIZE,
    WHOLE,
    Grouped,
    Heading,
    Named,
    OneLineErrors,
    ParamType,
    Several,
)
from iga_lab.errors import InputError
from iga_lab.hardware import BACKENDS, require_lab
from iga_lab.settings.cutting import STEP_SHARE
from iga_lab.signals import Size

if TYPE_CHECKING:
    from iga_lab.runs.run import Run

    Command = Callable[..., int]
    Decorator = Callable[[Command], Command]

INTERRUPTED = 130


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="iga-core", prog_name="iga")
def main() -> None:
    """Fit coordinate networks to signals, with and without inductive gradient adjustment."""


def _option(name: str, kind: ParamType, default: Any, text: str, shown_as: str = "") -> "Decorator":
    words = shown_as or ("" if default is None else str(default))
    note = f"  [default: {words}]" if words else ""
    return click.option(
        name, cls=Heading, type=kind, metavar=kind.name, default=default, help=text + note
    )


OPTIONS: dict[str, list["Decorator"]] = {
    "Signal and result": [
        _option("--size", SIZE, None, "Side S of the centre square after resizing, or WxH, WxHxD "
                "of a whole picture or volume; samples from the middle of a sound, of a function; "
                "points along each axis of a shape.",
                "image 128, shape 64, function 1024, sound at most 16384, volume as it is"),
        _option("--output", FOLDER, None, "New folder for all files.",
                "iga-runs/SIGNAL-NETWORK-TIME"),
        _option("--resume", FOLDER, None, "Continue the interrupted run in a folder, with its "
                "own settings."),
        _option("--lpips-weights", FILE, None, "Measure a picture with LPIPS too, with the weights "
                "in this file: the state of lpips.LPIPS(net='alex')."),
    ],
    "Network": [
        _option("--network", Named(*KINDS), defaults.NETWORK, "Family of the network."),
        _option("--frequencies", FREQUENCIES, None, "Octaves of the encoding of pe, or nyquist: as "
                "many as the signal can show.", f"{defaults.FREQUENCIES}; nyquist for one axis"),
        _option("--width", WHOLE, defaults.WIDTH, "Units of a hidden layer."),
        _option("--depth", WHOLE, defaults.DEPTH, "Hidden layers."),
    ],
    "Training": [
        _option("--method", Several(*defaults.ALL_METHODS), defaults.METHODS, "Trainings to run: "
                "plain, with Fourier reparameterisation (fr), batch normalisation (bn), "
                "adjustment (iga), or the control without a kernel (scale).",
                ",".join(defaults.METHODS)),
        _option("--steps", WHOLE, defaults.STEPS, "Steps of each method."),
        _option("--grouping", Named("patches", "blocks"), defaults.GROUPING, "Groups are segments, "
                "squares or bricks; or blocks of consecutive points."),
        _option("--patch", WHOLE, None, "Side of a group in points; or points of a block.",
                f"so that the groups add {MOST:.0%} to a step"),
        _option("--batch", WHOLE, None, "Groups a step.",
                f"all; one in {STEP_SHARE[3]} of three axes"),
        _option("--optimizer", Named(*defaults.OPTIMIZERS), defaults.OPTIMIZER, "Of every method."),
        _option("--learning-rate", NUMBER, None, "At the first step.", "by network and optimizer"),
        _option("--schedule", Named(*get_args(Schedule)), defaults.SCHEDULE,
                "Of the learning rate; cooldown: constant, then linear to zero over the last "
                "fifth."),
        _option("--average-weights", NUMBER, None, "Evaluate an exponential moving average of the "
                "weights, with this share of the old, such as 0.99.", "none"),
        _option("--seed", WHOLE, defaults.SEED, "Of the initial parameters and of the sampling."),
    ],
    "Adjustment, of the methods iga and iga+fr": [
        _option("--filter", Named(*defaults.FILTERS), defaults.FILTER, "Damp the kernel's large "
                "eigenvalues, equalise the leading ones, or scale the means of the groups, without "
                "a kernel."),
        _option("--scale", NUMBER, None, "Of damp: factor on the level from which on it damps; "
                "less damps more.", f"{defaults.SCALE:g}"),
        _option("--factor", NUMBER, None, "Of the filter and of the method scale: what the means "
                "are multiplied by.",
                f"{defaults.FACTOR:g}"),
        _option("--end", WHOLE, None, "Of equalise: the eigenvalues before this one.",
                f"{defaults.END_SHARE:.0%} of the groups of a step"),
        _option("--start", WHOLE, None, "Of equalise: the first of them.", f"{defaults.START}"),
        _option("--level", Named("next", "start"), None, "Of equalise: bring them to eigenvalue "
                "END (next) or START (start).", defaults.LEVEL),
        _option("--reach", Named("points", "mean"), defaults.REACH, "Transform the gradient at "
                "every point, or its group means only."),
        _option("--sampling", Named(*get_args(SamplingRule)), None,
                "Which points represent a group in the kernel.", defaults.SAMPLING),
        _option("--samples", WHOLE, None, "Points of a group whose tangents are averaged.",
                f"{defaults.SAMPLES}"),
        _option("--outputs", Named("sum", "trace"), None, "Kernel of the channels' sum, or mean of "
                "their kernels.", defaults.OUTPUTS),
        _option("--refresh", WHOLE, None, "Make a new transform every so many steps.",
                f"{defaults.REFRESH}, or 1 in batches"),
        _option("--average", NUMBER, None, "Share of the old kernels in the new one, below 1.",
                f"{defaults.AVERAGE:g}, or 0 in batches"),
    ],
    "Machine": [
        _option("--columns", WHOLE, None, "Positions of every group worked on at a time.",
                "what suits the backend"),
        _option("--dtype", Named("float32", "float64"), defaults.DTYPE, "Of all arrays."),
        _option("--backend", Named(*BACKENDS), defaults.BACKEND, "Array library; the command "
                "`iga backends` lists them."),
        _option("--device", DEVICE, None, "cpu, or cuda, cuda:1, ... for cupy and torch.",
                "the backend's first"),
    ],
}  # fmt: skip


def _with_options(command: "Command") -> "Command":
    for heading, options in reversed(OPTIONS.items()):
        for option in reversed(options):
            command = option(command)
            command.__click_params__[-1].heading = heading  # type: ignore[attr-defined]
    return command


@main.command(cls=Grouped)
@click.argument("signal", default=defaults.SIGNAL)
@_with_options
@click.pass_context
def fit(
    context: click.Context,
    /,
    signal: str,
    resume: str | None,
    output: str | None,
    **given: Any,
) -> int:
    """Fit a network to SIGNAL with and without adjustment, and compare.

    SIGNAL is a file: an image, an array (.npy) of a picture or a volume, a sound (.wav), or a
    watertight mesh (.obj, .ply, .stl); or a name: of a photograph that scikit-image ships,
    astronaut (the default), coffee, chelsea, camera, rocket, ..., or sines, also as sines:5,20,80
    (cycles). Ctrl-C ends a run with the results so far, and --resume continues it.
    """
    require_lab()
    from iga_lab.runs import run as runs

    if resume is not None:
        _refuse_other_settings(context)
        if runs.finished(Path(resume)):
            click.echo(f"The run in {resume} is finished; there is nothing to resume.")
            return 0
        return _follow(runs.resume(Path(resume)))
    size: Size | None = given.pop("size")
    from iga_lab.cli.display import Filling

    with Filling() as bar:
        run = runs.begin(signal, size, given, output, bar.watch)
    return _follow(run)


@main.command(cls=Grouped)
@click.argument("model")
@_option(
    "--size", SIZE, None, "Points along each axis; S makes a square or a cube.", "as it was trained"
)
@_option("--output", FILE, None, "New file: .png for an image, .wav for a sound, .ply for a shape, "
         ".npy for a function or a volume.", "MODEL-SIZE, beside MODEL")  # fmt: skip
def render(model: str, size: Size | None, output: str | None) -> int:
    """Evaluate MODEL, a model-*.safetensors of `iga fit`, at any size, and write a file."""
    require_lab()
    from iga_lab.runs.rendering import render as rendered

    path = rendered(Path(model), size, None if output is None else Path(output))
    click.echo(f"Wrote {path}")
    return 0


@main.command(cls=Grouped)
@_option("--network", Several(*NETWORKS), NETWORKS, "Networks.", "all")
@_option("--seed", WHOLE, defaults.SEED, "Of the initial parameters.")
@_option(
    "--only",
    Several(*BACKENDS, "array-api-strict"),
    (),
    "Backends to validate.",
    "all that can be used here",
)
@_option("--json", FILE, None, "New file for every difference, bound and verdict; what is infinite "
         "is null.")  # fmt: skip
def validate(network: tuple[str, ...], seed: int, only: tuple[str, ...], json: str | None) -> int:
    """Compare every backend and device of this machine with NumPy in float64.

    The same small problems on each: values, gradients, kernels, transforms, adjusted gradients of
    every filter, whole and in pieces, and 25 training steps. The exit code is 0 if no answer is
    further off than its bound.
    """
    from iga_lab import validation
    from iga_lab.cli import display

    if json is not None:
        validation.require_new_json(Path(json))
    asked, suite = validation.found(only), validation.suite(network, seed)
    with display.Answers(asked, len(suite)) as answers:
        rows = validation.validate(asked, suite, answers.watch)
    console = display.console()
    console.print(display.validation_table(validation.lines(rows), network, seed))
    for remark in display.remarks(rows):
        console.print(remark, markup=False)
    if json is not None:
        validation.write_json(Path(json), rows, seed)
    return int(any(row.status == "fail" for row in rows))


@main.command()
def backends() -> int:
    """Say which array libraries and devices can be used here."""
    from iga_lab import hardware
    from iga_lab.cli import display

    display.console().print(display.backends_table(hardware.backends()))
    return 0


def _refuse_other_settings(context: click.Context) -> None:
    others = [
        parameter.opts[0] if isinstance(parameter, click.Option) else "SIGNAL"
        for parameter in context.command.params
        if parameter.name not in (None, "resume")
        and context.get_parameter_source(parameter.name or "") == ParameterSource.COMMANDLINE
    ]
    if others:
        raise InputError(
            f"--resume: expected no other setting, got {', '.join(others)}; "
            "leave it out: the folder has its own"
        )


def _follow(run: "Run") -> int:
    """Train a run to its end or to Ctrl-C, and report."""
    from iga_lab.cli import display
    from iga_lab.runs.course import race

    for note in run.notes:
        click.echo(note, err=True)
    with _Interruption() as interruption:
        run.start()  # within, so that Ctrl-C ends a run with results as soon as it has a folder
        with display.Bars(run.courses) as bars:
            race(
                run.courses,
                wished=lambda: interruption.wished,
                watch=bars.watch,
                save=run.save,
                note=bars.note,
            )
        if interruption.wished:
            click.echo("Stopped; writing the results so far (Ctrl-C again: abort).", err=True)
        result = run.report()
    console = display.console()
    for line in run.settings.about:
        click.echo(line)
    if run.settings.about:
        click.echo()
    console.print(display.results_table(result))
    console.print()
    console.print(display.bands_table(result))
    console.print()
    return _say_where(run, result)


def _say_where(run: "Run", result: Mapping[str, Any]) -> int:
    for name, numbers in result["methods"].items():
        if numbers["message"]:
            click.echo(f"{name}: {numbers['message']}", err=True)
    click.echo(f"Files are in {run.folder}")
    click.echo(f"Look at  {run.folder / 'comparison.png'}")
    if result["status"] == "interrupted":
        click.echo(f"Continue with  iga fit --resume {run.folder}")
        return INTERRUPTED
    return 0 if result["status"] == "finished" else 1


class _Interruption:
    """Ctrl-C as a wish that is asked for between steps; a second one aborts at once."""

    def __init__(self) -> None:
        self.wished = False

    def __enter__(self) -> Self:
        self._before = signals_of_system.signal(signals_of_system.SIGINT, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signals_of_system.signal(signals_of_system.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.wished:
            raise KeyboardInterrupt
        self.wished = True
