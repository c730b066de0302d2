"""The settings of a fit: their defaults, and what follows from them."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from iga_core import (
    SGD,
    Adam,
    Adjustment,
    Damp,
    Equalise,
    Fourier,
    Grouping,
    Muon,
    Network,
    Scale,
)
from iga_core.filters import Filter, needs_kernel
from iga_core.kinds import KINDS
from iga_core.network import nyquist_frequencies
from iga_core.optimizers import Optimizer, Schedule
from iga_lab.errors import InputError
from iga_lab.hardware import require_memory
from iga_lab.signals import UNIT, Signal, measured
from iga_lab.signals import Kind as SignalKind

SIGNAL = "astronaut"
NETWORK = "pe"
FREQUENCIES = 6
METHODS = ("plain", "iga")
ALL_METHODS = ("plain", "fr", "bn", "iga", "iga+fr")
STEPS = 500
WIDTH = 128
DEPTH = 3
GROUPS = {1: 256, 2: 256, 3: 512}
"""About as many patches are cut of a signal of so many axes."""
BLOCK = 256
"""Points of a block."""
BATCH = {1: math.inf, 2: math.inf, 3: 64}
"""Most groups a step for a signal of so many axes."""
GROUPING = "patches"
FILTER = "damp"
SCALE = Damp().scale
FACTOR = Scale().factor
END_SHARE = 0.5
"""Of the groups' eigenvalues, as many are equalised."""
START = 0
LEVEL = "next"
REACH = Adjustment().reach
SAMPLING = Adjustment().sampling
SAMPLES = Adjustment().samples
OUTPUTS = Adjustment().outputs
REFRESH = Adjustment().refresh
AVERAGE = Adjustment().average
OPTIMIZER = "adam"
SCHEDULE = "cosine"
LEARNING_RATES = {
    "sgd": dict.fromkeys(KINDS, 1e-1),
    "adam": dict.fromkeys(KINDS, 1e-3) | {"pe": 5e-3, "relu": 2e-3},
    "muon": dict.fromkeys(KINDS, 2e-3) | {"pe": 2e-2, "relu": 2e-2},
}
SEED = 0
DTYPE = "float32"
BACKEND = "numpy"

FILTERS: dict[str, Any] = {"damp": Damp, "equalise": Equalise, "scale": Scale}
OWN = {
    name: tuple(field.name for field in dataclasses.fields(kind)) for name, kind in FILTERS.items()
}
"""The settings of each filter, None for the others."""
OF_A_KERNEL = ("sampling", "samples", "outputs", "refresh", "average")
"""The settings that mean nothing to a filter without a kernel."""
OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "muon": Muon}
MOST_FREQUENCIES = 32
KERNEL_COPIES = 10
"""Arrays of float64 of the kernel's size that making a transform takes: 7 to 10 were measured, for
Damp and Equalise of 3,000 groups, on NumPy and PyTorch."""
PARAMETER_COPIES = 6
"""Of a method: parameters, the two versions before, gradients and two moments."""


@dataclass(frozen=True)
class Settings:
    """All that a fit needs beside the pixels; see `choose`.

    Parameters
    ----------
    signal, kind, rate
        Name, kind and rate of the `Signal`.
    shape : tuple of int
        Its points along each axis.
    channels : int
        1 or 3.
    network, frequencies, width, depth
        Of the `Network`.
    method : tuple of str
        Some of `ALL_METHODS`.
    steps, optimizer, learning_rate, schedule
        Of the training.
    grouping : {"patches", "blocks"}
        Whether groups are patches of the grid, or consecutive points.
    patch : int
        Points of a patch along each axis, or of a block.
    batch : int or None
        Groups a step; None takes all.
    filter : {"damp", "equalise", "scale"}
        Of the `Adjustment`.
    scale, factor, end, start, level
        Of the filters; None for those of another.
    sampling, samples, reach, outputs, refresh, average
        Of the `Adjustment`.
    columns : int or None
        Positions of every group in one piece; None leaves it to the backend.
    seed : int
        Of the initial parameters and of the sampling.
    dtype, backend, device : str
        Where it runs.
    lpips_weights : str or None
        File of the weights of LPIPS, where a picture shall be measured with it.
    """

    signal: str
    kind: SignalKind
    rate: int | None
    shape: tuple[int, ...]
    channels: int
    network: Any
    frequencies: int
    method: tuple[str, ...]
    steps: int
    width: int
    depth: int
    grouping: str
    patch: int
    batch: int | None
    filter: str
    scale: float | None
    factor: float | None
    end: int | None
    start: int | None
    level: Any
    sampling: Any
    samples: int
    reach: Any
    outputs: Any
    refresh: int
    average: float
    optimizer: str
    learning_rate: float
    schedule: Schedule
    columns: int | None
    seed: int
    dtype: str
    backend: str
    device: str
    lpips_weights: str | None

    def architecture(self, method: str) -> Network:
        """Return the network that a method trains."""
        return Network(
            self.network,
            len(self.shape),
            self.channels,
            self.width,
            self.depth,
            self.frequencies,
            fourier=Fourier() if method.endswith("fr") else None,
            normalised=method == "bn",
        )

    @property
    def groups(self) -> Grouping:
        """The signal's points in groups."""
        if self.grouping == "blocks":
            return Grouping.blocks(math.prod(self.shape), self.patch)
        return Grouping.patches(self.shape, self.patch)

    @property
    def counts(self) -> tuple[int, int]:
        """Groups, and points of a group; found without making them."""
        return _counts(self.grouping, self.patch, self.shape)

    @property
    def together(self) -> int:
        """Groups of one step."""
        return self.counts[0] if self.batch is None else self.batch

    @property
    def adjustment(self) -> Adjustment:
        """The adjustment of the methods with IGA."""
        names = [field.name for field in dataclasses.fields(Adjustment) if field.name != "filter"]
        return Adjustment(self.spectral, **{name: getattr(self, name) for name in names})

    @property
    def spectral(self) -> Filter:
        """The adjustment's filter."""
        own = {name: getattr(self, name) for name in OWN[self.filter]}
        found: Filter = FILTERS[self.filter](**own)
        return found

    @property
    def filtering(self) -> str:
        """What the adjustment does, in a phrase."""
        if self.filter == "equalise":
            return f"eigenvalues {self.start} to {(self.end or 0) - 1} equalised"
        if self.filter == "scale":
            what = f"Scale {self.factor:g}"
        else:
            what = "Damp" if self.scale == SCALE else f"Damp with scale {self.scale:g}"
        return f"{what}, {self.together:,} group{'s' if self.together > 1 else ''}"

    @property
    def update(self) -> Optimizer:
        """The optimizer."""
        return OPTIMIZERS[self.optimizer](self.learning_rate, self.schedule)


def adjusted(method: str) -> bool:
    """Whether a method has an adjustment."""
    return method.startswith("iga")


def choose(given: Mapping[str, Any], signal: Signal) -> Settings:
    """Fill in the defaults that depend on other settings, and check everything.

    Parameters
    ----------
    given : mapping
        Fields of `Settings`; `patch`, `batch`, `frequencies`, `learning_rate`, those of `OWN` and
        of `OF_A_KERNEL` may be None, and `frequencies` "nyquist".
    signal : Signal
        To be fitted.

    Returns
    -------
    Settings

    Raises
    ------
    InputError
        If they cannot be used.
    """
    *shape, channels = signal.values.shape
    full = dict(given) | {
        "signal": signal.name, "kind": signal.kind, "rate": signal.rate, "shape": tuple(shape),
        "channels": channels,
    }  # fmt: skip
    axes, count = len(shape), math.prod(shape)
    if full["patch"] is None:
        if full["grouping"] == "blocks":
            full["patch"] = min(BLOCK, max(1, count // 2))
        else:
            side = round((count / GROUPS[axes]) ** (1 / axes))
            full["patch"] = min(max(1, side), *shape)
    _require_patch(full["grouping"], full["patch"], signal.kind, tuple(shape))
    groups, _ = _counts(full["grouping"], full["patch"], tuple(shape))
    if full["batch"] is None and groups > BATCH[axes]:
        full["batch"] = BATCH[axes]
    _require_belonging(full)
    batched = full["batch"] is not None
    usual = {
        "scale": SCALE, "factor": FACTOR, "start": START, "level": LEVEL,
        "end": max(1, int((full["batch"] or groups) * END_SHARE)),
        "sampling": SAMPLING, "samples": SAMPLES, "outputs": OUTPUTS,
        # The transform of one batch does not serve the next.
        "refresh": 1 if batched else REFRESH, "average": 0.0 if batched else AVERAGE,
    }  # fmt: skip
    for name in (*OWN[full["filter"]], *OF_A_KERNEL):
        if full[name] is None:
            full[name] = usual[name]
    if full["learning_rate"] is None:
        full["learning_rate"] = LEARNING_RATES[full["optimizer"]][full["network"]]
    if full["frequencies"] is None:
        full["frequencies"] = "nyquist" if axes == 1 else FREQUENCIES
    if full["frequencies"] == "nyquist":
        full["frequencies"] = nyquist_frequencies(max(shape))
    settings = Settings(**full)
    require_usable(settings)
    return settings


def require_usable(settings: Settings) -> None:
    """Raise InputError if settings are out of their ranges, or need more memory than there is."""
    try:
        _ = [settings.architecture(method) for method in settings.method], settings.update
        _require_at_least_one("steps", settings.steps)
        _require_patch(settings.grouping, settings.patch, settings.kind, settings.shape)
        _require_batch(settings)
        if settings.columns is not None:
            _require_at_least_one("columns", settings.columns)
        if settings.frequencies > MOST_FREQUENCIES:
            raise InputError(
                f"frequencies: expected at most {MOST_FREQUENCIES} octaves, got "
                f"{settings.frequencies}; lower it"
            )
        if any(map(adjusted, settings.method)):
            _require_adjustable(settings)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None
    item = np.dtype(settings.dtype).itemsize
    count = _parameter_count(settings)
    require_memory(
        "width",
        PARAMETER_COPIES * count * item,
        f"{count:,} parameters",
        "lower --width or --depth",
    )


def _require_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{name}: expected at least 1, got {value}; raise it")


def _counts(grouping: str, patch: int, shape: tuple[int, ...]) -> tuple[int, int]:
    if grouping == "blocks":
        return math.prod(shape) // patch, patch
    return math.prod(side // patch for side in shape), patch ** len(shape)


def _require_patch(grouping: str, patch: int, kind: SignalKind, shape: tuple[int, ...]) -> None:
    _require_at_least_one("patch", patch)
    most = math.prod(shape) if grouping == "blocks" else min(shape)
    if patch > most:
        what = "the signal's" if grouping == "blocks" or len(shape) == 1 else "the shorter side's"
        raise InputError(
            f"patch: expected at most {what} {most} {UNIT[kind]}s, got {patch}; "
            "lower --patch or raise --size"
        )


def _require_belonging(given: Mapping[str, Any]) -> None:
    """Raise if a setting is given that another filter has."""
    chosen = given["filter"]
    for name, own in OWN.items():
        others = [setting for setting in own if given[setting] is not None]
        if name != chosen and others:
            raise _not_belonging(others, f"--filter {name}", chosen)
    others = [setting for setting in OF_A_KERNEL if given[setting] is not None]
    if not needs_kernel(FILTERS[chosen]) and others:
        raise _not_belonging(others, "a filter that has a kernel", chosen)


def _not_belonging(others: list[str], whose: str, chosen: str) -> InputError:
    options = ", ".join(f"--{name}" for name in others)
    return InputError(
        f"filter: expected {whose} with {options}, got {chosen!r}; choose it or leave out {options}"
    )


def _require_batch(settings: Settings) -> None:
    if settings.batch is None:
        return
    _require_at_least_one("batch", settings.batch)
    groups, _ = settings.counts
    if settings.batch > groups:
        raise InputError(
            f"batch: expected at most the {groups} groups, got {settings.batch}; "
            "lower --batch or --patch"
        )


def _require_adjustable(settings: Settings) -> None:
    adjustment = settings.adjustment
    has_kernel = needs_kernel(adjustment.filter)
    groups, points = settings.counts
    if has_kernel and groups < 2:
        raise InputError(
            f"size: expected room for two groups of {points} points, got "
            f"{measured(settings.kind, settings.shape)}; raise --size, or choose --method plain"
        )
    if settings.end is not None and settings.end >= settings.together:
        what = "groups" if settings.batch is None else "groups of a batch"
        raise InputError(
            f"end: expected less than the {settings.together} {what}, got {settings.end}; "
            f"lower --end {'or --patch' if settings.batch is None else 'or raise --batch'}"
        )
    for name, alone in (("refresh", 1), ("average", 0)):
        value = getattr(settings, name)
        if settings.batch is not None and value > alone:
            raise InputError(
                f"{name}: expected {alone} with --batch, got {value}; leave it out: the "
                "transform of one batch does not serve the next"
            )
    if settings.samples > points:
        raise InputError(
            f"samples: expected at most the {points} points of a group, got "
            f"{settings.samples}; lower --samples or raise --patch"
        )
    if has_kernel:
        require_memory(
            "patch", KERNEL_COPIES * settings.together**2 * np.dtype(np.float64).itemsize,
            f"the transform of {settings.together:,} groups",
            "raise --patch to have fewer groups, or give a smaller --batch",
        )  # fmt: skip


def _parameter_count(settings: Settings) -> int:
    """Count without listing the layers, however many there are; those of all methods together."""
    width, channels, inputs = settings.width, settings.channels, len(settings.shape)
    if settings.network == "pe":
        inputs *= 1 + 2 * settings.frequencies
    count = 0
    for method in settings.method:
        inner = Fourier().count if method.endswith("fr") else width
        count += (inputs + 1) * width + (settings.depth - 1) * (inner + 1) * width
        count += (width + 1) * channels
    return count
