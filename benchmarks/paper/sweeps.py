"""The tables `end`, `groups` and `sampling`: one setting at a time, at the rates of `images`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchmarks.paper import drawing
from benchmarks.paper.report import Output, as_csv, heading, labels, markdown
from benchmarks.paper.store import Finished
from benchmarks.paper.systems import Preset, Row, groupwise, image_row, settings
from benchmarks.paper.tables import Study, image_sizes, name_of, of_row, value, within

SWEPT = ("pe", "siren")
BASES = ("plain", "iga", "groupwise")
SCHEDULE = "cosine"
SHARES = (1 / 16, 3 / 4)
"""Of the groups: values of `end`, beside those of both adjustments."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """A row, the base whose learning rate it is run at, and its place on the axis."""

    row: Row
    base: str
    x: float
    label: str


def end(study: Study, command: str, networks: Sequence[str]) -> Output:
    """Sweep the number of equalised eigenvalues."""
    preset = study.preset
    shares = {max(1, round(_groups(preset) * share)) for share in SHARES}
    ends = sorted(shares | {preset.end, preset.half})
    found = []
    for network in _swept(networks):
        for base in ("iga", "groupwise"):
            for count in ends:
                made = settings(end=count) if base == "iga" else groupwise(count)
                row = _row(study, network, base, f"{base} end {count}", made)
                found.append(Setting(row, base, count, f"{count}"))
    title = "How many eigenvalues to equalise"
    return _swept_table(study, command, found, title, "end", networks)


def groups(study: Study, command: str, networks: Sequence[str]) -> Output:
    """Sweep the size of the groups."""
    preset, found = study.preset, []
    for network in _swept(networks):
        for base in ("iga", "groupwise"):
            for patch in (preset.patch // 2, preset.patch, preset.patch * 2):
                count = _groups(dataclasses.replace(preset, patch=patch))
                equalised = min(preset.end, count // 2) if base == "iga" else count // 2
                made = settings(end=equalised) if base == "iga" else groupwise(equalised)
                row = _row(study, network, base, f"{base} patch {patch}", made, patch=patch)
                label = f"{patch} x {patch}, {count} groups, end {equalised}"
                found.append(Setting(row, base, patch**2, label))
    title = "How large a group is"
    return _swept_table(study, command, found, title, "group (points)", networks)


def sampling(study: Study, command: str, networks: Sequence[str]) -> Output:
    """Compare representatives, samples and reach, beside two controls without the eNTK."""
    preset = study.preset
    variants: dict[str, tuple[str, dict[str, Any], str]] = {
        "largest, 1, points (paper)": ("iga", {}, ""),
        "centre, 1, points": ("iga", {"sampling": "centre"}, ""),
        "random, 1, points": ("iga", {"sampling": "random"}, ""),
        "random, 2, points": ("iga", {"sampling": "random", "samples": 2}, ""),
        "random, 8, points": ("iga", {"sampling": "random", "samples": 8}, ""),
        "all, points": ("iga", {"sampling": "random", "samples": preset.patch**2}, ""),
        "largest, 1, mean": ("iga", {"reach": "mean"}, ""),
        "random, 2, mean": ("iga", {"sampling": "random", "samples": 2, "reach": "mean"}, ""),
        "random, 8, mean": ("iga", {"sampling": "random", "samples": 8, "reach": "mean"}, ""),
        "paper, random vectors": ("iga", {}, "vectors"),
        "paper, random kernel": ("iga", {}, "kernel"),
        "group-wise, end half": ("groupwise", {}, ""),
        "group-wise, random vectors": ("groupwise", {}, "vectors"),
        "group-wise, random kernel": ("groupwise", {}, "kernel"),
    }
    found = []
    for network in _swept(networks):
        for k, (label, (base, changes, control)) in enumerate(variants.items()):
            standard = dict(settings(end=preset.end) if base == "iga" else groupwise(preset.half))
            row = _row(study, network, base, label, settings(**standard | changes))
            found.append(Setting(dataclasses.replace(row, control=control), base, k, label))
    title = "Which points speak for a group, and does the eNTK matter"
    remark = (
        "All, points: the kernel of whole groups, which is in effect that of the authors' code. "
        "Random vectors: orthonormal, with the eNTK's own gains at every step; the vectors alone "
        "differ. Random kernel: a Gram matrix of random features, with its own gains. Both are "
        "drawn once a run."
    )
    axis = "sampling, samples, reach"
    return _swept_table(study, command, found, title, axis, networks, remark)


def _swept_table(
    study: Study,
    command: str,
    found: Sequence[Setting],
    title: str,
    axis: str,
    networks: Sequence[str],
    remark: str = "",
) -> Output:
    bases = [image_row(study.preset, n, base) for n in _swept(networks) for base in BASES]
    controls = [setting.row for setting in found if setting.row.control]
    trials = study.trials([*bases, *controls], [SCHEDULE])
    rates = study.chosen(trials)
    plain = [row for row in bases if row.method == "plain"]
    for setting in (setting for setting in found if not setting.row.control):
        base = image_row(study.preset, setting.row.network, setting.base)
        rates[name_of(setting.row, SCHEDULE)] = rates[name_of(base, SCHEDULE)]
    rows = [*plain, *(setting.row for setting in found)]
    runs = study.reports(rows, rates, [SCHEDULE])
    lines = heading(
        title,
        command,
        f"{image_sizes(study.preset)}, cosine. PSNR in dB, median of the last 100 steps, and the "
        "lowest of them: the mean over "
        f"{' and '.join(signal['signal'] for signal in study.reported)} of the median over "
        f"{study.preset.seeds} seeds, ± half of the range over seeds. Learning rates are those "
        "chosen for plain, IGA and group-wise IGA in the table `images`; controls choose their own "
        "of the same three. " + remark,
    )
    table = [_line(runs, plain, setting) for setting in found]
    lines += markdown(["network", "method", axis, "median of last 100", "gain", "lowest"], table)
    references = "; ".join(
        f"{labels(row.network, '')[0]} "
        f"{value(of_row(runs, row, SCHEDULE), 'psnr_median').text()} dB"
        for row in plain
    )
    lines += [f"Plain training: {references}.", ""]
    figure = drawing.sweep(runs, plain, found, axis)
    return Output("\n".join(lines), figure, as_csv(trials, runs), study.chosen(trials))


def _line(runs: Sequence[Finished], plain: Sequence[Row], setting: Setting) -> list[str]:
    mine = of_row(runs, setting.row, SCHEDULE)
    reference = next(row for row in plain if row.network == setting.row.network)
    without = value(of_row(runs, reference, SCHEDULE), "psnr_median").middle
    median = value(mine, "psnr_median")
    gain = "" if None in (without, median.middle) else f"{median.middle - without:+.1f}"  # type: ignore[operator]
    lowest = value(mine, "psnr_lowest").text().partition(" ")[0]
    network, method = labels(setting.row.network, setting.base)
    return [network, method, setting.label, median.text(), gain, lowest]


def _row(
    study: Study,
    network: str,
    base: str,
    method: str,
    adjustment: tuple[tuple[str, Any], ...],
    patch: int | None = None,
) -> Row:
    standard = image_row(study.preset, network, base)
    return dataclasses.replace(standard, method=method, adjustment=adjustment, patch=patch)


def _groups(preset: Preset) -> int:
    return (preset.image[0] // preset.patch) * (preset.image[1] // preset.patch)


def _swept(networks: Sequence[str]) -> list[str]:
    return within(networks, SWEPT)
