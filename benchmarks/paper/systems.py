"""What is compared: networks, methods, and the sizes of each preset."""

from dataclasses import dataclass
from typing import Any

from benchmarks.paper.published import FOURIER, IMAGE_SETTINGS, SHAPE_SETTINGS
from benchmarks.paper.signals import Kind
from benchmarks.paper.store import Description

NETWORKS = {
    "relu": "ReLU", "pe": "PE", "siren": "SIREN", "finer": "FINER", "gabor": "Gabor",
    "gauss": "Gauss",
}  # fmt: skip
METHODS = {
    "plain": "plain", "fr": "FR", "bn": "BN", "iga": "IGA", "groupwise": "group-wise IGA",
}  # fmt: skip
OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "muon": "Muon"}
SCHEDULES = {"cosine": "cosine", "step": "dropped to a tenth at 30 %"}


@dataclass(frozen=True)
class Preset:
    """The size of everything.

    Parameters
    ----------
    name : str
        Of the preset.
    image, solid : tuple of int
        Width and height of a photograph, equal ones for its centre square; side of a grid.
    patch : int
        Side of a group of pixels; `end` and `half` are out of its groups.
    end : int
        Eigenvalues that the paper's IGA equalises, where no table says otherwise.
    half : int
        Those that group-wise IGA equalises: half of the groups.
    block, batch, block_end : int
        Consecutive voxels of a group, groups of a step, and `end` there.
    width, depth, frequencies : int
        Of the networks.
    steps : int
        Of every run.
    trials : int
        Learning rates tried, the same number for every method.
    reported : int
        Signals reported, beside the one that the rates are chosen on.
    seeds : int
        Of each reported run.
    """

    name: str
    image: tuple[int, int]
    solid: int
    patch: int
    end: int
    half: int
    block: int
    batch: int
    block_end: int
    width: int
    depth: int
    frequencies: int
    steps: int
    trials: int
    reported: int
    seeds: int


PRESETS = {
    "smoke": Preset(
        "smoke", (16, 16), 12, 4, 4, 8, 16, 24, 3, 16, 3, 3, 12, 1, 1, 1
    ),
    "small": Preset("small", (64, 64), 48, 8, 10, 32, 64, 128, 7, 64, 3, 6, 800, 3, 2, 2),
    "full": Preset("full", (768, 512), 256, 32, 20, 192, 256, 512, 7, 256, 3, 6, 10_000, 1, 8, 1),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A line of a table: a network, how it is trained, and the learning rates to be tried.

    Parameters
    ----------
    network : str
        See `NETWORKS`.
    method : str
        See `METHODS`; or what a sweep calls it.
    rates : tuple of float
        Three; a preset that tries one takes the middle one.
    adjustment : dict, optional
        Of `Adjustment.paper`.
    control : {"", "vectors", "kernel"}
        What S is made of instead of the eNTK.
    optimizer : str
        "sgd", "adam" or "muon".
    patch : int, optional
        Side of a group, where it is not the preset's.
    """

    network: str
    method: str
    rates: tuple[float, float, float]
    adjustment: tuple[tuple[str, Any], ...] | None = None
    control: str = ""
    optimizer: str = "adam"
    patch: int | None = None

    @property
    def name(self) -> str:
        """Of the row, in files."""
        return f"{self.network} {self.optimizer} {self.method}"


RATES = {
    "relu": (2e-3, 5e-3, 1e-2),
    "pe": (5e-3, 1e-2, 2e-2),
    "siren": (1e-3, 2e-3, 4e-3),
    "finer": (1e-3, 2e-3, 4e-3),
    "gabor": (2e-3, 4e-3, 8e-3),
    "gauss": (2e-3, 4e-3, 8e-3),
}
OWN_RATES = {
    ("relu", "fr"): (4e-3, 8e-3, 1.6e-2),
    ("pe", "fr"): (6e-4, 1.2e-3, 2.5e-3),
    ("siren", "fr"): (6e-4, 1.2e-3, 2.5e-3),
    ("relu", "bn"): (1e-3, 2e-3, 5e-3),
}
"""Where a method wants others than its network: three around the best of wider trials, as all."""


def settings(**given: Any) -> tuple[tuple[str, Any], ...]:
    """Return the settings of an adjustment in a form that can be compared."""
    return tuple(sorted(given.items()))


def groupwise(end: int, samples: int = 2) -> tuple[tuple[str, Any], ...]:
    """Return the settings of group-wise IGA."""
    return settings(end=end, sampling="random", samples=samples, reach="mean")


def image_row(preset: Preset, network: str, method: str) -> Row:
    """Return a row of the table `images`."""
    adjustments = {"iga": settings(end=preset.end), "groupwise": groupwise(preset.half)}
    return Row(network, method, _rates(network, method), adjustments.get(method))


def image_rows(preset: Preset) -> list[Row]:
    """Return the rows of the table `images`; BN is not for SIREN."""
    rows = [
        image_row(preset, network, method)
        for network in ("relu", "pe", "siren")
        for method in METHODS
        if (network, method) != ("siren", "bn")
    ]
    return rows + [
        image_row(preset, network, method)
        for network in ("finer", "gabor", "gauss")
        for method in ("plain", "iga")
    ]


def shape_rows(preset: Preset) -> list[Row]:
    """Return the rows of the table `shapes`; IGA with the middle voxel, as the paper has it."""
    adjustment = settings(end=preset.block_end, sampling="centre")
    return [
        Row(
            network,
            method,
            _rates(network, method),
            adjustment if method == "iga" else None,
        )
        for network in ("relu", "pe", "siren")
        for method in ("plain", "fr", "bn", "iga")
        if (network, method) != ("siren", "bn")
    ]


def fourier_of(preset: Preset, network: str, kind: Kind) -> dict[str, Any]:
    """Return the `Fourier` of the authors' scripts, cut down for the smallest preset."""
    if preset.name == "smoke":
        return {"low": 4, "high": 4, "phases": 4}
    settings_of = IMAGE_SETTINGS if kind == "image" else SHAPE_SETTINGS
    return {**FOURIER[kind], "alpha": settings_of[network, "fr"]["alpha"]}


def _rates(network: str, method: str) -> tuple[float, float, float]:
    return OWN_RATES.get((network, method), RATES[network])


def described(
    preset: Preset,
    row: Row,
    kind: Kind,
    signal: dict[str, str],
    rate: float,
    schedule: str,
    seed: int,
    place: dict[str, Any],
) -> Description:
    """Describe one run.

    Parameters
    ----------
    preset, row, kind
        Of the table.
    signal : dict
        Its name, source and digest.
    rate, schedule, seed
        Of the run.
    place : dict
        Backend, device and tf32.
    """
    image = kind == "image"
    fourier = fourier_of(preset, row.network, kind) if row.method == "fr" else None
    return {
        "task": "training",
        **signal,
        "kind": kind,
        "size": list(preset.image if image else (preset.solid,) * 3),
        "network": row.network,
        "width": preset.width,
        "depth": preset.depth,
        "frequencies": preset.frequencies,
        "method": row.method,
        "fourier": fourier,
        "normalised": row.method == "bn",
        "adjustment": None if row.adjustment is None else dict(row.adjustment),
        "control": row.control,
        "optimizer": row.optimizer,
        "rate": rate,
        "schedule": schedule,
        "steps": preset.steps,
        "seed": seed,
        "patch": (row.patch or preset.patch) if image else None,
        "blocks": None if image else preset.block,
        "batch": None if image else preset.batch,
        **place,
    }
