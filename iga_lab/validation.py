"""The conformance suite on every backend and device of this machine."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iga_array import conformance
from iga_core.testing import STEPS, Backend, Case, Row, cases
from iga_lab.errors import InputError
from iga_lab.files import PROGRAM, as_json, write_whole
from iga_lab.hardware import backends, machine, versions

COLUMNS = ("forward", "gradient", "kernel", "transform", "adjusted", "steps")
"""What the cases' names begin with."""


@dataclass(frozen=True)
class Line:
    """What one backend, device and dtype came to.

    Parameters
    ----------
    backend, device, dtype : str
        As in `Row`.
    worst : dict of str to Row
        For each of `COLUMNS` that has cases the one of largest difference, a failed one before
        all others and an ill-posed one only where there is no other.
    seconds_per_step : float
        Median over the trainings.
    counts : dict of str to int
        Cases of each status.
    """

    backend: str
    device: str
    dtype: str
    worst: dict[str, Row]
    seconds_per_step: float
    counts: dict[str, int]


def found(only: Sequence[str]) -> list[Backend]:
    """Return what can be validated here, the reference first.

    Parameters
    ----------
    only : sequence of str
        Names of backends; all that can be used, if empty.

    Raises
    ------
    InputError
        If one of `only` cannot be used.
    """
    here: list[Backend] = [*conformance.backends(), *_torch_backends()]
    for name in only:
        if name not in {backend.name for backend in here}:
            raise InputError(
                f"only: expected backends that can be used here, got {name!r}; {_note(name)}"
            )
    return [backend for backend in here if not only or backend.name in only]


def suite(networks: Sequence[str], seed: int) -> list[Case]:
    """Return the cases, with NumPy in float64 as the reference.

    Raises
    ------
    InputError
        If the seed is none.
    """
    try:
        return cases(conformance.ArrayBackend(), networks, seed)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None


def validate(
    asked: Sequence[Backend], suite: Sequence[Case], watch: Callable[[Row], object]
) -> list[Row]:
    """Ask every backend every case, one backend after the other.

    Parameters
    ----------
    asked : sequence of Backend
        See `found`.
    suite : sequence of Case
        See `suite`.
    watch : callable
        Told of every answer.

    Returns
    -------
    list of Row
    """
    rows = []
    for backend in asked:
        for case in suite:
            rows.append(case.check(backend))
            watch(rows[-1])
    return rows


def lines(rows: Sequence[Row]) -> list[Line]:
    """Return what each backend, device and dtype came to, in the order of the rows."""
    together: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        together.setdefault((row.backend, row.device, row.dtype), []).append(row)
    return [_line(*of, group) for of, group in together.items()]


def require_new_json(path: Path) -> None:
    """Raise InputError unless a file of this name can be made."""
    if path.exists():
        raise InputError(
            f"json: expected a new file, got {str(path)!r}, which exists; choose another name"
        )
    if not path.absolute().parent.is_dir():
        raise InputError(
            f"json: expected a folder that exists, got {str(path.parent)!r}; make it first"
        )


def write_json(path: Path, rows: Sequence[Row], seed: int) -> None:
    """Write the rows and where they were made; what is infinite or NaN becomes null.

    A difference of null is that of no answer, a bound of null that of an ill-posed case.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    content = {
        "program": PROGRAM,
        "seed": seed,
        "rows": [_plain(row) for row in rows],
        "versions": versions(),
        "machine": machine("numpy", "cpu"),
        "backends": [dataclasses.asdict(one) for one in backends()],
    }
    write_whole(path, as_json(content))


def _torch_backends() -> list[Backend]:
    try:
        from iga_torch.conformance import backends
    except (ImportError, OSError):  # what `iga backends` explains
        return []
    return list(backends())


def _note(name: str) -> str:
    notes = [one.note for one in backends() if one.name == name]
    return notes[0] if notes else "see `iga backends`"


def _line(backend: str, device: str, dtype: str, rows: list[Row]) -> Line:
    rank = {"fail": 2, "pass": 1, "ill-posed": 0}
    asked = {column: [r for r in rows if r.case.partition("/")[0] == column] for column in COLUMNS}
    worst = {
        column: max(some, key=lambda row: (rank[row.status], row.difference))
        for column, some in asked.items()
        if some
    }
    seconds = [row.seconds / STEPS for row in rows if row.case.startswith("steps/")]
    counts = {status: sum(row.status == status for row in rows) for status in rank}
    return Line(backend, device, dtype, worst, statistics.median(seconds), counts)


def _plain(row: Row) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in dataclasses.asdict(row).items()
    }
