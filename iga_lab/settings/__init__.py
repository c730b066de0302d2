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
from iga_core.cost import added_share, affordable_groups
from iga_core.filters import needs_kernel
from iga_core.kinds import KINDS
from iga_core.network import nyquist_frequencies
from iga_core.optimizers import Optimizer, Schedule
from iga_lab.errors import InputError
from iga_lab.hardware import require_memory
from iga_lab.settings.cutting import (
    CONTROL_GROUPS,
    STEP_SHARE,
    control_patch,
    counts,
    cut,
    default_patch,
    described,
    require_patch,
)
from iga_lab.signals import Kind as SignalKind
from iga_lab.signals import Signal, measured

SIGNAL = "astronaut"
NETWORK = "pe"
FREQUENCIES = 6
METHODS = ("plain", "iga")
ALL_METHODS = ("plain", "fr", "bn", "scale", "iga", "iga+fr")
STEPS = 500
WIDTH = 128
DEPTH = 3
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
SCHEDULE = "cooldown"
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
    steps, optimizer, learning_rate, schedule, average_weights
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
    average_weights: float
    columns: int | None
    seed: int
    dtype: str
    backend: str
    device: str
    lpips_weights: str | None

    def architecture(self, method: str) -> Network:
        """Return the network that a method trains."""
        return _network(vars(self), method)

    @property
    def counts(self) -> tuple[int, int]:
        """Groups, and points of a group; found without making them."""
        return counts(self.grouping, self.patch, self.shape)

    def grouping_of(self, method: str) -> Grouping:
        """Return the points in groups; in patches of its own for the control "scale".

        In batches it has the groups of the other methods, so that all see the same points.
        """
        if method == "scale" and self.batch is None:
            return cut("patches", control_patch(self.shape), self.shape)
        return cut(self.grouping, self.patch, self.shape)

    @property
    def together(self) -> int:
        """Groups of one step."""
        return self.counts[0] if self.batch is None else self.batch

    @property
    def adjustment(self) -> Adjustment:
        """The adjustment of the methods with IGA."""
        names = [field.name for field in dataclasses.fields(Adjustment) if field.name != "filter"]
        own = {name: getattr(self, name) for name in OWN[self.filter]}
        return Adjustment(
            FILTERS[self.filter](**own), **{name: getattr(self, name) for name in names}
        )

    def adjustment_of(self, method: str) -> Adjustment | None:
        """Return the adjustment of a method; None where it has none."""
        if method == "scale":
            return Adjustment(Scale(FACTOR if self.factor is None else self.factor))
        return self.adjustment if adjusted(method) else None

    @property
    def about(self) -> list[str]:
        """What each adjusted method does in which groups, and what that costs, a line each."""
        found, at_once = [], f", {self.batch} a step" if self.batch else ""
        if "scale" in self.method:
            own = self.batch is None
            patch = control_patch(self.shape) if own else self.patch
            groups = described("patches" if own else self.grouping, patch, self.shape)
            found.append(f"Scale {FACTOR if self.factor is None else self.factor:g}, no kernel: "
                         f"{groups}{at_once}")  # fmt: skip
        if any(map(adjusted, self.method)):
            groups = described(self.grouping, self.patch, self.shape)
            found.append(
                f"IGA, {self.filtering}: {groups}{at_once}, counted to add "
                f"{100 * self.added_share:.1f} % to a step"
            )
        return found

    @property
    def filtering(self) -> str:
        """What the filter does, in a phrase."""
        if self.filter == "equalise":
            return f"eigenvalues {self.start} to {(self.end or 0) - 1} equalised"
        if self.filter == "scale":
            return f"Scale {self.factor:g}"
        return "Damp" if self.scale == SCALE else f"Damp with scale {self.scale:g}"

    @property
    def added_share(self) -> float:
        """What IGA adds to a step by counted operations, as a share of a plain one."""
        groups, points = self.counts
        step = math.prod(self.shape) - (groups - self.together) * points
        shapes = self.architecture("plain").shapes
        return added_share(self.adjustment, shapes, self.together, step)

    @property
    def update(self) -> Optimizer:
        """The optimizer."""
        return OPTIMIZERS[self.optimizer](self.learning_rate, self.schedule, self.average_weights)


def adjusted(method: str) -> bool:
    """Whether a method has the adjustment that is set, as the control "scale" has not."""
    return method.startswith("iga")


def choose(given: Mapping[str, Any], signal: Signal) -> Settings:
    """Fill in the defaults that depend on other settings, and check everything.

    Parameters
    ----------
    given : mapping
        Fields of `Settings`; `patch`, `batch`, `frequencies`, `learning_rate`, `average_weights`,
        those of `OWN` and of `OF_A_KERNEL` may be None, and `frequencies` "nyquist".
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
    _require_belonging(full)
    _fill_training(full)
    _require_networks(full)
    if full["patch"] is None:
        full["patch"] = _patch(full)
    require_patch(full["grouping"], full["patch"], signal.kind, full["shape"])
    groups, _ = counts(full["grouping"], full["patch"], full["shape"])
    if full["batch"] is None and groups >= 2 * STEP_SHARE[len(shape)] > 2:
        full["batch"] = groups // STEP_SHARE[len(shape)]
    for name, value in _usual(full, full["batch"] is not None).items():
        if full[name] is None:
            full[name] = value
    if full["filter"] == "equalise" and full["end"] is None:
        full["end"] = max(1, int((full["batch"] or groups) * END_SHARE))
    settings = Settings(**full)
    require_usable(settings)
    return settings


def _fill_training(full: dict[str, Any]) -> None:
    """Fill in what does not depend on groups."""
    if full["frequencies"] is None:
        full["frequencies"] = "nyquist" if len(full["shape"]) == 1 else FREQUENCIES
    if full["frequencies"] == "nyquist":
        full["frequencies"] = nyquist_frequencies(max(full["shape"]))
    if full["learning_rate"] is None:
        full["learning_rate"] = LEARNING_RATES[full["optimizer"]][full["network"]]
    share = full["average_weights"]
    if share is not None and not 0 < share < 1:
        raise InputError(
            f"average-weights: expected a number between 0 and 1, got {share:g}; 0.99 is a start, "
            "and without the option no average is kept"
        )
    full["average_weights"] = share or 0.0


def _usual(full: Mapping[str, Any], batched: bool) -> dict[str, Any]:
    """Return the defaults of the settings that the filter has."""
    usual = {
        "scale": SCALE, "factor": FACTOR, "start": START, "level": LEVEL, "end": None,
        "sampling": SAMPLING, "samples": SAMPLES, "outputs": OUTPUTS,
        # The transform of one batch does not serve the next.
        "refresh": 1 if batched else REFRESH, "average": 0.0 if batched else AVERAGE,
    }  # fmt: skip
    own = {*OWN[full["filter"]], *OF_A_KERNEL, *(["factor"] if "scale" in full["method"] else [])}
    return {name: usual[name] for name in own}


def _patch(full: Mapping[str, Any]) -> int:
    """Return the patch or block of as many groups as cost `MOST` of a step."""
    shape: tuple[int, ...] = full["shape"]
    if not needs_kernel(FILTERS[full["filter"]]):
        return (
            control_patch(shape)
            if full["grouping"] == "patches"
            else default_patch("blocks", shape, lambda _: CONTROL_GROUPS)
        )
    usual = _usual(full, full["batch"] is not None or STEP_SHARE[len(shape)] > 1)
    samples, refresh = (
        usual[name] if full[name] is None else full[name] for name in ("samples", "refresh")
    )
    try:
        adjustment = Adjustment(samples=samples, refresh=refresh)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None
    shapes = _network(full, "plain").shapes
    return default_patch(
        full["grouping"], shape, lambda n: affordable_groups(adjustment, shapes, n)
    )


def require_usable(settings: Settings) -> None:
    """Raise InputError if settings are out of their ranges, or need more memory than there is."""
    _require_networks(vars(settings))
    try:
        _ = settings.update
        _require_at_least_one("steps", settings.steps)
        require_patch(settings.grouping, settings.patch, settings.kind, settings.shape)
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


def _require_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{name}: expected at least 1, got {value}; raise it")


def _network(given: Mapping[str, Any], method: str) -> Network:
    return Network(
        given["network"],
        len(given["shape"]),
        given["channels"],
        given["width"],
        given["depth"],
        given["frequencies"],
        fourier=Fourier() if method.endswith("fr") else None,
        normalised=method == "bn",
    )


def _require_belonging(given: Mapping[str, Any]) -> None:
    """Raise if a setting is given that another filter has."""
    chosen = given["filter"]
    for name, own in OWN.items():
        others = [setting for setting in own if given[setting] is not None]
        control = name == "scale" and "scale" in given["method"]
        if name != chosen and others and not control:
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


def _require_networks(given: Mapping[str, Any]) -> None:
    """Raise unless the methods' networks can be made, and their parameters fit in memory.

    These are counted without listing the layers, however many there are.
    """
    try:
        for method in given["method"]:
            _network(given, method)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None
    width, channels, inputs = given["width"], given["channels"], len(given["shape"])
    if given["network"] == "pe":
        inputs *= 1 + 2 * given["frequencies"]
    count = 0
    for method in given["method"]:
        inner = Fourier().count if method.endswith("fr") else width
        count += (inputs + 1) * width + (given["depth"] - 1) * (inner + 1) * width
        count += (width + 1) * channels
    require_memory(
        "width",
        PARAMETER_COPIES * count * np.dtype(given["dtype"]).itemsize,
        f"{count:,} parameters",
        "lower --width or --depth",
    )
