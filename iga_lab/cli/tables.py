"""The tables of a fit. They know the content of a `result.json`, not how it came about."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.table import Table

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


def results(result: Mapping[str, Any]) -> Table:
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


def bands(result: Mapping[str, Any]) -> Table:
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


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
