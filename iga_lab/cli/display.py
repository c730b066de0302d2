"""What a person sees in the terminal."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from iga_core.testing import ILL_POSED, STEPS, Backend, Row
from iga_lab.hardware import Usable
from iga_lab.metrics import psnr
from iga_lab.runs.course import Course
from iga_lab.validation import COLUMNS as SUITE_COLUMNS
from iga_lab.validation import Line

COLUMNS = 100
"""Of a table, and of what is not a terminal."""
MEASURES = {
    "ssim": ("SSIM", ".4f"),
    "ms_ssim": ("MS-\nSSIM", ".4f"),
    "lpips": ("LPIPS", ".4f"),
    "iou": ("IoU", ".4f"),
}
"""Heading and form of those beside PSNR."""
DISTANCES = {"chamfer": ("\nChamfer", ".2e"), "chamfer_squared": ("\nsquared", ".2e")}
"""Of those beside the errors by frequency."""
ENDS = {"finished": "", "interrupted": "\nof {:,}", "stopped": "\nstopped"}
"""What follows the steps taken, by a method's status."""
LINES = 10
"""That a method writes where there is no terminal to draw a bar in; of a list of failures."""


def console(stderr: bool = False) -> Console:
    """Return the terminal as it is now; a file or a pipe is taken to be `COLUMNS` wide."""
    found = Console(stderr=stderr, highlight=False)
    if not found.is_terminal or found.width > COLUMNS:
        found = Console(stderr=stderr, highlight=False, width=COLUMNS)
    return found


class _Shown:
    """A progress bar where there is a terminal, shown within a context."""

    _progress: Progress | None

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress:
            self._progress.stop()


class Bars(_Shown):
    """One progress bar a method; where there is no terminal, a line every tenth of the way."""

    def __init__(self, courses: Sequence[Course]) -> None:
        self._console = console(stderr=True)
        self._progress: Progress | None = None
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description:>6}"),
                BarColumn(None, table_column=Column(ratio=1)),
                MofNCompleteColumn(),
                _Numbers(Column(no_wrap=True)),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._tasks = {
                course.name: self._progress.add_task(
                    course.name,
                    total=course.trainer.steps,
                    completed=len(course.losses),
                    course=course,
                )
                for course in courses
            }

    def watch(self, course: Course) -> None:
        """Show a course after a step."""
        if self._progress:
            self._progress.update(self._tasks[course.name], completed=len(course.losses))
            return
        step, steps = len(course.losses), course.trainer.steps
        if step * LINES // steps > (step - 1) * LINES // steps or course.message:
            line = f"{course.name:>6} {step:>{len(str(steps))}}/{steps}  {_numbers(course)}"
            self._console.print(line, markup=False)

    def note(self, text: str) -> None:
        """Say something, above the bars if there are any."""
        self._console.print(text, markup=False)


class _Numbers(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_numbers(task.fields["course"]))


class Filling(_Shown):
    """A progress bar of the filling of a mesh, shown from its first news on."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._progress: Progress | None = None
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("filling the mesh"),
                BarColumn(None, table_column=Column(ratio=1)),
                MofNCompleteColumn(),
                TextColumn("faces"),
                console=self._console,
                transient=True,
            )

    def watch(self, done: int, faces: int) -> None:
        """Show how many faces are done."""
        if self._progress is None:
            return
        if not self._progress.task_ids:
            self._progress.add_task("", total=faces)
        self._progress.update(self._progress.task_ids[0], completed=done)


class Answers(_Shown):
    """A progress bar of a validation; where there is no terminal, a line a backend."""

    def __init__(self, asked: Sequence[Backend], cases: int) -> None:
        self._console = console(stderr=True)
        self._cases, self._answered = cases, 0
        self._progress: Progress | None = None
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(None, table_column=Column(ratio=1)),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task("", total=len(asked) * cases)

    def watch(self, row: Row) -> None:
        """Show that a case was answered."""
        name = f"{row.backend} {row.device} {row.dtype}"
        self._answered += 1
        if self._progress:
            self._progress.update(self._task, advance=1, description=f"{name:<32}")
        elif self._answered % self._cases == 0:
            self._console.print(f"{name}: {self._cases} cases", markup=False)


def validation_table(lines: Sequence[Line], networks: Sequence[str], seed: int) -> Table:
    """Return the table of what each backend came to, see `validation.lines`."""
    title = (
        "Largest relative difference from numpy, cpu, float64, over its bound\n"
        f"of {', '.join(networks)}; seed {seed}"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    table.add_column("backend")
    table.add_column("device\ndtype")
    headings = {"adjusted": "adjusted\ngradient", "steps": f"{STEPS}\nsteps"}
    for name in SUITE_COLUMNS:
        table.add_column(headings.get(name, name), justify="right")
    table.add_column("ms\na step", justify="right")
    table.add_column("")
    for line in lines:
        table.add_row(
            line.backend,
            f"{line.device}\n{line.dtype}",
            *(_worst(line.worst.get(name)) for name in SUITE_COLUMNS),
            f"{1000 * line.seconds_per_step:.3g}",
            _verdict(line.counts),
        )
    return table


def remarks(rows: Sequence[Row]) -> list[str]:
    """Return a line for every failed case, up to `LINES`, and for every ill-posed one."""
    failed = [
        f"failed: {row.backend} {row.device} {row.dtype}, {row.network} {row.case}: "
        + (row.message or f"differs by {row.difference:.1e}, bound {row.bound:.1e}")
        for row in rows
        if row.status == "fail"
    ]
    if len(failed) > LINES:
        failed[LINES:] = [f"failed: {len(failed) - LINES} more; --json FILE has them all"]
    ill_posed = [
        f"ill-posed: {row.dtype}, {row.network} {row.case}: {_why_ill_posed(row)}"
        for row in rows
        if row.status == "ill-posed"
    ]
    return [*failed, *dict.fromkeys(ill_posed)]


def _why_ill_posed(row: Row) -> str:
    if math.isinf(row.bound):
        return f"other eigenvalues of its kernel are safe in {row.dtype} than in float64"
    return (
        f"rounding the parameters alone changes it by {row.sensitivity:.1e}, so its bound would be "
        f"{row.bound:.1e}, above {ILL_POSED}"
    )


def results_table(result: Mapping[str, Any]) -> Table:
    """Return the table of a fit's numbers, see `results.result`."""
    methods, batch = result["methods"], result["settings"]["batch"]
    steps = result["settings"]["steps"]
    measured = _present(MEASURES, methods)
    batches = "" if batch is None else "; but for the final one, of the batches"
    table = _table(f"PSNR in dB, of the unclipped prediction{batches}")
    table.add_column("method")
    for heading in (
        "PSNR\nfinal",
        "median,\nlast 100",
        "PSNR\nmaximum",
        "at equal\nseconds",
        *(MEASURES[name][0] for name in measured),
        "ms\na step",
        "overhead\nin %",
        "steps",
    ):
        table.add_column(heading, justify="right")
    for name, numbers in methods.items():
        status = numbers["status"]
        seconds = numbers["seconds_per_step"]
        short = seconds is None or seconds < 1
        table.add_row(
            name,
            _number(numbers["psnr_final"], ".2f"),
            _number(numbers["psnr_median"], ".2f"),
            _number(numbers["psnr_max"], ".2f"),
            _number(numbers["psnr_equal_seconds"], ".2f"),
            *(_number(numbers[measure], MEASURES[measure][1]) for measure in measured),
            _number(None if seconds is None else 1000 * seconds, ".4g" if short else ",.0f"),
            _number(numbers.get("overhead_percent"), "+.1f"),
            f"{numbers['steps']:,}" + ENDS[status].format(steps),
        )
    return table


def bands_table(result: Mapping[str, Any]) -> Table:
    """Return the table of errors by frequency, see `results.bands`, and of Chamfer distances."""
    settings, edges = result["settings"], result["bands_in_cycles_a_sample"]
    measured = _present(DISTANCES, result["methods"])
    unit, factor = "cycles a point", 1.0
    if settings["kind"] == "sound":
        unit, factor = "Hz", float(settings["rate"])
    elif settings["kind"] == "function":
        unit, factor = "cycles from -1 to 1", float(settings["shape"][0] - 1)
    table = _table(f"Relative error by frequency, in {unit}")
    table.add_column("method")
    for low, high in itertools.pairwise(edges):
        upper = "and above" if high is None else f"to {factor * high:.4g}"
        table.add_column(f"{factor * low:.4g}\n{upper}", justify="right")
    for measure in measured:
        table.add_column(DISTANCES[measure][0], justify="right")
    for name, numbers in result["methods"].items():
        table.add_row(
            name,
            *(_number(error, ".3g") for error in numbers["band_errors"]),
            *(_number(numbers[measure], DISTANCES[measure][1]) for measure in measured),
        )
    return table


def _present(measures: Iterable[str], methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [name for name in measures if any(name in numbers for numbers in methods.values())]


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        min_width=len(title),
    )


def backends_table(found: Sequence[Usable]) -> Table:
    """Return the table of what can be used here."""
    table = Table()
    for heading in ("backend", "version", "devices", "use or install"):
        table.add_column(heading, overflow="fold")
    for one in found:
        table.add_row(
            *(Text(cell) for cell in (one.name, one.version or "-",
                                      "\n".join(one.devices) or "-", one.note))
        )  # fmt: skip
    return table


def _numbers(course: Course) -> str:
    if course.message:
        return "stopped: the loss became non-finite"
    if not course.losses:
        return "waiting"
    loss = course.losses[-1]
    return f"{course.speed:6.1f} steps/s  loss {loss:.2e}  {float(psnr(loss)):5.2f} dB"


def _worst(row: Row | None) -> Text:
    """Return a difference over its bound; nothing where nothing was asked."""
    if row is None:
        return Text()
    if row.status == "ill-posed":
        return Text("ill-\nposed", "yellow")
    style = "bold red" if row.status == "fail" else ""
    if row.message:
        return Text("error", style)
    return Text(f"{row.difference:.1e}", style) + Text(f"\n≤ {row.bound:.0e}", "dim")


def _verdict(counts: Mapping[str, int]) -> Text:
    said = []
    if counts["fail"]:
        said.append(Text(f"FAIL {counts['fail']}", "bold red"))
    elif counts["pass"]:
        said.append(Text("pass", "green"))
    if counts["ill-posed"]:
        said.append(Text(f"{counts['ill-posed']} ill-posed", "yellow"))
    return Text("\n").join(said)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
