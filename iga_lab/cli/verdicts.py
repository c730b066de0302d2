"""The table and the remarks of a validation. They know its rows, not how they came about."""

import math
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from iga_core.testing import ILL_POSED, STEPS, Row
from iga_lab.cli.terminal import LINES
from iga_lab.validation import COLUMNS, Line


def table(lines: Sequence[Line], networks: Sequence[str], seed: int) -> Table:
    """Return the table of what each backend came to, see `validation.lines`."""
    title = (
        "Largest relative difference from numpy, cpu, float64, over its bound\n"
        f"of {', '.join(networks)}; seed {seed}"
    )
    found = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    found.add_column("backend")
    found.add_column("device\ndtype")
    headings = {"adjusted": "adjusted\ngradient", "steps": f"{STEPS}\nsteps"}
    for name in COLUMNS:
        found.add_column(headings.get(name, name), justify="right")
    found.add_column("ms\na step", justify="right")
    found.add_column("")
    for line in lines:
        found.add_row(
            line.backend,
            f"{line.device}\n{line.dtype}",
            *(_worst(line.worst.get(name)) for name in COLUMNS),
            f"{1000 * line.seconds_per_step:.3g}",
            _verdict(line.counts),
        )
    return found


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
