"""What is shown while something runs: bars in a terminal, a few lines anywhere else."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from iga_core.testing import Backend, Row
from iga_lab.cli.terminal import LINES, console
from iga_lab.metrics import psnr
from iga_lab.runs.course import Course


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
        # At the first step of every tenth.
        if step * LINES // steps > (step - 1) * LINES // steps or course.message:
            line = f"{course.name:>6} {step:>{len(str(steps))}}/{steps}  {_numbers(course)}"
            self._console.print(line, markup=False)

    def note(self, text: str) -> None:
        """Say something, above the bars if there are any."""
        self._console.print(text, markup=False)


class _Numbers(ProgressColumn):
    # Asked for when the terminal is drawn, ten times a second, and not at every step.
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
        # Most signals are no meshes, and show no bar at all.
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


def _numbers(course: Course) -> str:
    if course.message:
        return "stopped: the loss became non-finite"
    if not course.losses:
        return "waiting"
    loss = course.losses[-1]
    return f"{course.speed:6.1f} steps/s  loss {loss:.2e}  {float(psnr(loss)):5.2f} dB"
