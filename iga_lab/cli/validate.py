"""The command `iga validate`."""

from pathlib import Path

import click

from iga_core.testing import NETWORKS
from iga_lab.cli.parameters import Several, read_path
from iga_lab.hardware import BACKENDS
from iga_lab.settings import defaults


@click.command(short_help="Compare every backend and device here with NumPy in float64.")
@click.option(
    "--network",
    type=Several(*NETWORKS),
    metavar=",".join(NETWORKS),
    default=",".join(NETWORKS),
    show_default="all",
    help="Networks to validate with.",
)
@click.option("--seed", type=int, default=defaults.SEED, help="Of the initial parameters.")
@click.option(
    "--only",
    type=Several(*BACKENDS, "array-api-strict"),
    metavar=",".join((*BACKENDS, "array-api-strict")),
    default=(),
    show_default="all that can be used here",
    help="Backends to validate.",
)
@click.option(
    "--json",
    "path",
    type=read_path,
    metavar="FILE",
    help="New file for every difference, bound and verdict; what is infinite is null.",
)
def validate(network: tuple[str, ...], seed: int, only: tuple[str, ...], path: Path | None) -> int:
    """Compare every backend and device of this machine with NumPy in float64.

    The same small problems on each: values, gradients, kernels, transforms, adjusted gradients of
    every filter, whole and in pieces, and 25 training steps. The exit code is 0 if no answer is
    further off than its bound.
    """
    from iga_lab import validation
    from iga_lab.cli import verdicts
    from iga_lab.cli.progress import Answers
    from iga_lab.cli.terminal import console

    if path is not None:
        validation.require_new_json(path)
    asked, suite = validation.found(only), validation.suite(network, seed)
    with Answers(asked, len(suite)) as answers:
        rows = validation.validate(asked, suite, answers.watch)
    terminal = console()
    terminal.print(verdicts.table(validation.lines(rows), network, seed))
    for remark in verdicts.remarks(rows):
        terminal.print(remark, markup=False)
    if path is not None:
        validation.write_json(path, rows, seed)
    return int(any(row.status == "fail" for row in rows))
