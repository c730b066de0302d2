"""Tables in Markdown, every run as CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks._report import environment, fill
from benchmarks.paper.store import Finished
from benchmarks.paper.systems import METHODS, NETWORKS
from benchmarks.paper.tables import Rates

CASE_COLUMNS = (
    "signal", "digest", "size", "network", "method", "adjustment", "control", "optimizer",
    "schedule", "rate", "seed", "steps", "width", "patch", "blocks", "batch", "backend", "device",
    "tf32",
)  # fmt: skip
RESULT_COLUMNS = (
    "status", "psnr_median", "psnr_lowest", "psnr_max", "psnr_end", "ssim", "bands", "iou",
    "ms_ssim", "iou_median", "iou_max", "chamfer", "chamfer_squared", "seconds",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Output:
    """What a table leaves behind.

    Parameters
    ----------
    text : str
        Markdown.
    figure : bytes
        A PNG file.
    csv : str
        A line for every run.
    rates : dict of str to float
        Chosen, for a later preset.
    """

    text: str
    figure: bytes
    csv: str
    rates: Rates = field(default_factory=dict)


def heading(title: str, command: str, *paragraphs: str) -> list[str]:
    """Return the lines above a table: what was run where, and what the figures mean."""
    place = ", ".join(f"{k}: {v}" for k, v in environment().items())
    lines = [f"# {title}", "", f"`{command}`", "", fill(place), ""]
    for paragraph in paragraphs:
        lines += [fill(paragraph), ""]
    return lines


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table; the columns after the first two are aligned to the right."""
    lines = [f"| {' | '.join(columns)} |"]
    lines.append("|" + "|".join(["---"] * 2 + ["--:"] * (len(columns) - 2)) + "|")
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return [*lines, ""]


def labels(network: str, method: str) -> tuple[str, str]:
    """Return how a table calls a network and a method."""
    return NETWORKS.get(network, network), METHODS.get(method, method)


def as_csv(trials: Iterable[Finished], reports: Iterable[Finished]) -> str:
    """Return a line for every run, trials first; lists as numbers with spaces between."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *CASE_COLUMNS, *RESULT_COLUMNS])
    for kind, runs in (("trial", trials), ("report", reports)):
        for run in runs:
            figures = [run.case.get(k) for k in CASE_COLUMNS]
            figures += [_rounded(run.result.get(k)) for k in RESULT_COLUMNS]
            writer.writerow([kind, *figures])
    return text.getvalue()


def _rounded(figure: object) -> object:
    if isinstance(figure, float):
        return f"{figure:.5g}"
    if isinstance(figure, list):
        return " ".join(f"{part:.4g}" for part in figure)
    return figure
