"""From rows to rates, runs and the figures of each cell."""

import dataclasses
import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.paper.pool import Runs
from benchmarks.paper.signals import Kind, sample, sources, split
from benchmarks.paper.store import Description, Finished
from benchmarks.paper.systems import Preset, Row, described
from iga_lab.errors import InputError
from iga_lab.hardware import machine, versions

Rates = dict[str, float]
"""Chosen learning rate by "network optimizer method schedule"."""


@dataclass(frozen=True)
class Study:
    """One kind of signal under one preset, with the means to run it.

    Parameters
    ----------
    preset : Preset
        Sizes.
    kind : {"image", "shape"}
        Of the signals.
    runs : callable
        See `pool`.
    place : dict
        Backend, device and tf32 of every run.
    tuned : dict
        Name, source and digest of the signal that rates are chosen on.
    reported : tuple of dict
        Those of the signals reported.
    given : dict of str to float
        Rates that were chosen before, by `name_of`; where there are any, none is tried.
    """

    preset: Preset
    kind: Kind
    runs: Runs
    place: dict[str, Any]
    tuned: dict[str, str]
    reported: tuple[dict[str, str], ...]
    given: Rates

    def case(self, row: Row, signal: dict[str, str], rate: float, schedule: str, seed: int) -> Any:
        """Describe one run."""
        return described(self.preset, row, self.kind, signal, rate, schedule, seed, self.place)

    def trials(self, rows: Sequence[Row], schedules: Collection[str]) -> list[Finished]:
        """Try the learning rates of all rows, on the one signal and seed."""
        missing = [row.name for row in rows for s in schedules if name_of(row, s) not in self.given]
        if self.given and missing:
            raise InputError(
                f"rates: expected one for every row, got none for {', '.join(missing)}; run the "
                "preset small without --network first"
            )
        return self.runs([
            self.case(row, self.tuned, rate, schedule, 0)
            for schedule in schedules
            for row in rows
            for rate in ([] if self.given else self._rates(row))
        ])  # fmt: skip

    def reports(
        self, rows: Sequence[Row], rates: Rates, schedules: Iterable[str]
    ) -> list[Finished]:
        """Run all rows at their chosen rates on the other signals, over seeds."""
        return self.runs([
            self.case(row, signal, rates[name_of(row, schedule)], schedule, seed)
            for seed in range(self.preset.seeds)
            for schedule in schedules
            for row in rows
            for signal in self.reported
        ])  # fmt: skip

    def chosen(self, trials: Sequence[Finished]) -> Rates:
        """Return the rate of the best trial of each row, by the median of the last 100 steps."""
        measure = "psnr_median" if self.kind == "image" else "iou_median"
        found = dict(self.given)
        best: dict[str, float] = {}
        for run in trials:
            name = run_name(run.case)
            value = run.result[measure]
            value = float("-inf") if value is None else value
            if name not in best or value > best[name]:
                best[name], found[name] = value, run.case["rate"]
        return found

    def _rates(self, row: Row) -> tuple[float, ...]:
        if self.preset.trials == 1:
            return (row.rates[1],)
        return row.rates[: self.preset.trials]


def study(
    preset: Preset,
    kind: Kind,
    runs: Runs,
    place: dict[str, Any],
    data: str | None,
    *,
    given: Rates,
    skip: bool = False,
    most: int | None = None,
) -> Study:
    """Find the signals; see `sources` and `Study`."""
    size = tuple(preset.image) if kind == "image" else (preset.solid,) * 3
    wanted = preset.reported if most is None else most
    found = sources(kind, data, size, skip, 1 + wanted)
    signals = {
        name: {"signal": name, "source": source, "digest": sample(source, kind, size).digest}
        for name, source in found.items()
    }
    tuned, reported = split(found, wanted)
    return Study(
        preset, kind, runs, place, signals[tuned], tuple(signals[n] for n in reported), given
    )


def name_of(row: Row, schedule: str) -> str:
    """Return the name under which a chosen rate is kept."""
    return f"{row.name} {schedule}"


def run_name(case: Description) -> str:
    """Return what `name_of` gives for the row of a run."""
    return f"{case['network']} {case['optimizer']} {case['method']} {case['schedule']}"


@dataclass(frozen=True)
class Value:
    """A figure over signals and seeds.

    Parameters
    ----------
    middle : float or None
        The mean over signals of the median over seeds; None if a run has none.
    spread : float
        The mean over signals of half the range over seeds.
    """

    middle: float | None
    spread: float = 0.0

    def text(self, digits: int = 1, missing: str = "diverged") -> str:
        """Return it for a table."""
        if self.middle is None:
            return missing
        spread = f" ± {self.spread:.{digits}f}" if self.spread else ""
        return f"{self.middle:.{digits}f}{spread}"


def value(runs: Iterable[Finished], name: str) -> Value:
    """Gather a figure of some runs, which differ in signal and seed only."""
    by_signal: dict[str, list[float]] = {}
    for run in runs:
        figure = run.result.get(name)
        if figure is None:
            return Value(None)
        by_signal.setdefault(run.case["signal"], []).append(float(figure))
    if not by_signal:
        return Value(None)
    return Value(
        statistics.mean(statistics.median(v) for v in by_signal.values()),
        statistics.mean((max(v) - min(v)) / 2 for v in by_signal.values()),
    )


def of_row(runs: Iterable[Finished], row: Row, schedule: str) -> list[Finished]:
    """Return the runs of one row and schedule."""
    return [run for run in runs if run_name(run.case) == name_of(row, schedule)]


def with_steps(study_: Study, steps: int) -> Study:
    """Return the same study with another number of steps."""
    return dataclasses.replace(study_, preset=dataclasses.replace(study_.preset, steps=steps))


def tuning(study_: Study) -> str:
    """Say how the learning rates were chosen, and what the figures are taken over."""
    preset = study_.preset
    reported = " and ".join(signal["signal"] for signal in study_.reported)
    seeds = "one seed" if preset.seeds == 1 else f"{preset.seeds} seeds"
    rates = (
        "Learning rates are those that the preset small chose."
        if study_.given
        else f"Every method has the same number of steps and seeds and tries {preset.trials} "
        f"learning rates, on {study_.tuned['signal']} with one seed; the best by the median of the "
        "last 100 steps is in the table, ↓ and ↑ where it is the lowest or highest tried."
    )
    return (
        f"{rates} Reported on {reported}: the mean over signals of the median over {seeds}, "
        f"± half of the range over seeds. Trained by {_place(study_.place)}."
    )


def _place(place: dict[str, Any]) -> str:
    backend, device = str(place["backend"]), str(place["device"])
    words = f"{backend} {versions()[backend]} on {machine(backend, device)['device']}"
    return words + ", in TF32, whose effect was not measured" * bool(place["tf32"])


def image_sizes(preset: Preset) -> str:
    """Say what is trained on what."""
    width, height = preset.image
    count = (width // preset.patch) * (height // preset.patch)
    return (
        f"Photographs at {width} x {height}, patch {preset.patch} ({count} groups), "
        f"{preset.depth} hidden layers of {preset.width}, {preset.steps:,} steps"
    )


def within(networks: Sequence[str], table: Sequence[str]) -> list[str]:
    """Return the networks of a table that are asked for, or raise if there is none."""
    found = [network for network in table if network in networks]
    if not found:
        raise InputError(
            f"network: expected some of this table's, {', '.join(table)}, got "
            f"{', '.join(networks)}; name one of them"
        )
    return found
