"""The command `iga fit`: what may be said, and what is said in return."""

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from iga_core import Adjustment, Damp, Equalise, Scale
from iga_core.adjustment import Outputs, Reach
from iga_core.cost import MOST
from iga_core.filters import Level
from iga_core.kinds import KINDS
from iga_core.optimizers import Schedule
from iga_core.sampling import SamplingRule
from iga_lab.cli.interruption import Ending, name
from iga_lab.cli.parameters import (
    SIZE,
    Grouped,
    Named,
    Several,
    read_frequencies,
    read_path,
    read_size,
    section,
    spoken,
)
from iga_lab.cli.streams import say
from iga_lab.cli.terminal import quoted
from iga_lab.errors import InputError
from iga_lab.hardware import BACKENDS, require_lab
from iga_lab.settings import ALL_METHODS, choose, defaults, words
from iga_lab.settings.cutting import GROUPINGS, STEP_SHARE
from iga_lab.settings.naming import FILTERS, OPTIMIZERS
from iga_lab.settings.settings import DTYPES
from iga_lab.signals import Size, load

if TYPE_CHECKING:
    from iga_lab.runs.run import Run

USUAL = Adjustment()

signal_and_result = section("Signal and result")
network = section("Network")
training = section("Training")
adjustment = section("Adjustment, of the methods iga and iga+fr")
machine = section("Machine")

OPTIONS = [
    signal_and_result(
        "--size", type=read_size, metavar=SIZE,
        show_default="image 128, shape 64, function 1024, sound at most 16384, volume as it is",
        help="Side S of the centre square after resizing, or WxH, WxHxD of a whole picture, "
        "video's frames or volume; samples from the middle of a sound, of a function; points along "
        "each axis of a shape."),
    signal_and_result(
        "--axes", metavar="LETTERS", show_default="known from the shape where it can be",
        help="What the axes of an array hold, a letter each: H, W (or Y, X) a picture, with D (or "
        "Z) a volume, with T a video; C the channels; such as HWC, CHW, DHW, TYXC. THWC takes all "
        "frames of an animated picture."),
    signal_and_result(
        "--output", type=read_path, metavar="FOLDER", show_default="iga-runs/SIGNAL-NETWORK-TIME",
        help="New folder for all files."),
    signal_and_result(
        "--resume", type=read_path, metavar="FOLDER",
        help="Continue the interrupted run in a folder, with its own settings."),
    signal_and_result(
        "--lpips-weights", type=read_path, metavar="FILE",
        help="Measure a picture with LPIPS too, with the weights in this file: the state of "
        "lpips.LPIPS(net='alex')."),
    network(
        "--network", type=Named(tuple(KINDS)), default=defaults.NETWORK,
        help="Family of the network."),
    network(
        "--frequencies", type=read_frequencies, metavar="N|nyquist",
        show_default=f"{defaults.FREQUENCIES}; nyquist for one axis",
        help="Octaves of the encoding of pe, or nyquist: as many as the signal can show."),
    network("--width", type=int, default=defaults.WIDTH, help="Units of a hidden layer."),
    network("--depth", type=int, default=defaults.DEPTH, help="Hidden layers."),
    training(
        "--method", type=Several(*ALL_METHODS), metavar=",".join(ALL_METHODS),
        default=",".join(defaults.METHODS),
        help="Trainings to run: plain, with Fourier reparameterisation (fr), batch normalisation "
        "(bn), adjustment (iga), or the control without a kernel (scale)."),
    training("--steps", type=int, default=defaults.STEPS, help="Steps of each method."),
    training(
        "--grouping", type=Named(GROUPINGS), default=defaults.GROUPING,
        help="Groups are segments, squares or bricks; or blocks of consecutive points."),
    training(
        "--patch", type=int, show_default=f"so that the groups add {MOST:.0%} to a step",
        help="Side of a group in points; or points of a block."),
    training(
        "--batch", type=int, show_default=f"all; one in {STEP_SHARE[3]} of three axes",
        help="Groups a step."),
    training(
        "--optimizer", type=Named(tuple(OPTIMIZERS)), default=defaults.OPTIMIZER,
        help="Of every method."),
    training(
        "--learning-rate", type=float, show_default="by network and optimizer",
        help="At the first step."),
    training(
        "--schedule", type=Named(get_args(Schedule)), default=defaults.SCHEDULE,
        help="Of the learning rate; cooldown: constant, then linear to zero over the last fifth."),
    training(
        "--average-weights", type=click.FloatRange(0, 1, min_open=True, max_open=True),
        show_default="none",
        help="Evaluate an exponential moving average of the weights, with this share of the old, "
        "such as 0.99."),
    training(
        "--seed", type=int, default=defaults.SEED,
        help="Of the initial parameters and of the sampling."),
    adjustment(
        "--filter", type=Named(tuple(FILTERS)), default=defaults.FILTER,
        help="Damp the kernel's large eigenvalues, equalise the leading ones, or scale the means "
        "of the groups, without a kernel."),
    adjustment(
        "--scale", type=float, show_default=f"{Damp.scale:g}",
        help="Of damp: factor on the level from which on it damps; less damps more."),
    adjustment(
        "--factor", type=float, show_default=f"{Scale.factor:g}",
        help="Of the filter and of the method scale: what the means are multiplied by."),
    adjustment(
        "--end", type=int, show_default=f"{defaults.END_SHARE:.0%} of the groups of a step",
        help="Of equalise: the eigenvalues before this one."),
    adjustment(
        "--start", type=int, show_default=str(Equalise.start),
        help="Of equalise: the first of them."),
    adjustment(
        "--level", type=Named(get_args(Level)), show_default=Equalise.level,
        help="Of equalise: bring them to eigenvalue END (next) or START (start)."),
    adjustment(
        "--reach", type=Named(get_args(Reach)), default=USUAL.reach,
        help="Transform the gradient at every point, or its group means only."),
    adjustment(
        "--sampling", type=Named(get_args(SamplingRule)), show_default=USUAL.sampling,
        help="Which points represent a group in the kernel."),
    adjustment(
        "--samples", type=int, show_default=str(USUAL.samples),
        help="Points of a group whose tangents are averaged."),
    adjustment(
        "--outputs", type=Named(get_args(Outputs)), show_default=USUAL.outputs,
        help="Kernel of the channels' sum, or mean of their kernels."),
    adjustment(
        "--refresh", type=int, show_default=f"{USUAL.refresh}, or 1 in batches",
        help="Make a new transform every so many steps."),
    adjustment(
        "--average", type=float, show_default=f"{USUAL.average:g}, or 0 in batches",
        help="Share of the old kernels in the new one, below 1."),
    machine(
        "--columns", type=int, show_default="what suits the backend",
        help="Positions of every group worked on at a time."),
    machine("--dtype", type=Named(DTYPES), default=defaults.DTYPE, help="Of all arrays."),
    machine(
        "--backend", type=Named(BACKENDS), default=defaults.BACKEND,
        help="Array library; the command `iga backends` lists them."),
    machine(
        "--device", metavar="NAME", show_default="the backend's first",
        help="cpu, or cuda, cuda:1, ... for cupy and torch."),
]  # fmt: skip


def _with_options(command: Callable[..., int]) -> Callable[..., int]:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command(cls=Grouped)
@click.argument("signal", default=defaults.SIGNAL)
@_with_options
@click.pass_context
def fit(
    context: click.Context,
    /,
    signal: str,
    size: Size | None,
    axes: str | None,
    output: Path | None,
    resume: Path | None,
    **given: Any,
) -> int:
    """Fit a network to SIGNAL with and without adjustment, and compare.

    SIGNAL is a file: an image, an array (.npy) of a picture, a volume or a video, a sound (.wav),
    or a watertight mesh (.obj, .ply, .stl); or a name: of a photograph that scikit-image ships,
    astronaut (the default), coffee, chelsea, camera, rocket, ..., or sines, also as sines:5,20,80
    (cycles). Ctrl-C ends a run with the results so far, and --resume continues it.
    """
    require_lab()
    # What draws, writes and trains is loaded only here, so that `iga --help` does not wait for it.
    from iga_lab.runs import folders
    from iga_lab.runs import run as runs

    if resume is None:
        run = _begun(signal, size, axes, output, given)
    else:
        _refuse_other_settings(context)
        if folders.finished(resume):
            say(f"The run in {quoted(resume)} is finished; there is nothing to resume.")
            return 0
        run = runs.resume(resume)
    ending = context.ensure_object(Ending)
    with closing(run):
        result, unwritten = _trained(run, ending)
    _reported(run, result)
    if unwritten is not None:
        raise InputError(f"{unwritten}, then run iga fit --resume {quoted(run.folder)}")
    if result["status"] == "interrupted":
        say(f"Continue with  iga fit --resume {quoted(run.folder)}")
        return 128 + ending.wished  # as a shell says that a signal has ended a command
    return 0 if result["status"] == "finished" else 1


def _begun(
    signal: str,
    size: Size | None,
    axes: str | None,
    output: Path | None,
    given: Mapping[str, Any],
) -> "Run":
    """Read the signal, choose what was left open, and prepare the run; nothing is written yet."""
    from iga_lab.cli.progress import Filling
    from iga_lab.runs.run import begin

    with Filling() as bar:
        loaded = load(signal, size, bar.watch, axes)
    settings = choose(given, loaded)
    run = begin(settings, loaded.values, output)
    for note in (*loaded.notes, *words.advice(given, settings)):
        say(note, error=True)
    return run


def _refuse_other_settings(context: click.Context) -> None:
    others = [
        spoken(parameter)
        for parameter in context.command.params
        if parameter.name not in (None, "resume")
        and context.get_parameter_source(parameter.name or "") == ParameterSource.COMMANDLINE
    ]
    if others:
        raise InputError(
            f"--resume: expected no other setting, got {', '.join(others)}; "
            "leave it out: the folder has its own"
        )


def _trained(run: "Run", ending: Ending) -> tuple[dict[str, Any], InputError | None]:
    """Train a run to its end or to a signal, and write its files, see `Run.report`."""
    from iga_lab.cli.progress import Bars
    from iga_lab.runs.course import race

    with ending.patience():
        run.start()  # within, so that a run ends with results as soon as it has a folder
        for note in run.notes:
            say(note, error=True)
        with Bars(run.courses) as bars:
            race(
                run.courses,
                wished=lambda: bool(ending.wished),
                watch=bars.watch,
                save=run.save,
                note=bars.note,
            )
        if ending.wished:
            say(
                f"Stopped by {name(ending.wished)}; writing the results so far. Ctrl-C now ends at "
                "once, and the run can still be continued.",
                error=True,
            )
        return run.report()


def _reported(run: "Run", result: Mapping[str, Any]) -> None:
    """Say what came of a run and where it lies."""
    from iga_lab.cli import tables
    from iga_lab.cli.terminal import console

    for line in (about := words.about(run.settings)):
        say(line)
    if about:
        say("")
    terminal = console()
    for table in (tables.results(result), tables.bands(result)):
        terminal.print(table)
        terminal.print()
    for method, numbers in result["methods"].items():
        if numbers["message"]:
            say(f"{method}: {numbers['message']}", error=True)
    say(f"Files are in {quoted(run.folder)}")
    say(f"Look at  {quoted(run.folder / 'comparison.png')}")
