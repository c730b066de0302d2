"""The settings of a fit: their defaults, and what follows from them."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from iga_core import SGD, Adam, Adjustment, Grouping, Muon, Network
from iga_core.network import Kind, nyquist_frequencies
from iga_core.optimizers import Optimizer, Schedule
from iga_lab.errors import InputError
from iga_lab.hardware import require_memory
from iga_lab.signals import Size

SIGNAL = "astronaut"
NETWORK = "pe"
FREQUENCIES = 6
METHODS = ("plain", "iga")
STEPS = 500
SIZE: Size = (128, None)
WIDTH = 128
DEPTH = 3
GROUPS = 256
"""About as many patches are cut."""
END_SHARE = 0.5
"""Of the groups' eigenvalues, as many are equalised."""
START = 0
LEVEL = "next"
SAMPLING = "random"
SAMPLES = 2
REACH = "mean"
REFRESH = 1
OUTPUTS = "sum"
OPTIMIZER = "adam"
SCHEDULE = "cosine"
LEARNING_RATES = {
    "sgd": dict.fromkeys(get_args(Kind), 1e-1),
    "adam": dict.fromkeys(get_args(Kind), 1e-3) | {"pe": 5e-3, "relu": 2e-3},
    "muon": dict.fromkeys(get_args(Kind), 2e-3) | {"pe": 2e-2, "relu": 2e-2},
}
SEED = 0
DTYPE = "float32"
BACKEND = "numpy"

OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "muon": Muon}
MOST_FREQUENCIES = 32
KERNEL_COPIES = 5
"""Arrays of the kernel's size that its eigenpairs take."""
PARAMETER_COPIES = 12
"""Of two methods: parameters, the two versions before, gradients and two moments."""


@dataclass(frozen=True)
class Settings:
    """All that a fit needs beside the pixels; see `choose`.

    Parameters
    ----------
    signal : str
        Its name.
    size : tuple of int
        Width and height of the picture, in pixels.
    channels : int
        1 or 3.
    network, frequencies, width, depth
        Of the `Network`.
    method : tuple of str
        "plain", "iga" or both.
    steps, optimizer, learning_rate, schedule
        Of the training.
    patch : int
        Side of a group, in pixels.
    end, start, level, sampling, samples, reach, refresh, outputs
        Of the `Adjustment`.
    columns : int or None
        Positions of every group in one piece; None leaves it to the backend.
    seed : int
        Of the initial parameters and of the sampling.
    dtype, backend, device : str
        Where it runs.
    """

    signal: str
    size: tuple[int, int]
    channels: int
    network: Any
    frequencies: int
    method: tuple[str, ...]
    steps: int
    width: int
    depth: int
    patch: int
    end: int
    start: int
    level: Any
    sampling: Any
    samples: int
    reach: Any
    refresh: int
    outputs: Any
    optimizer: str
    learning_rate: float
    schedule: Schedule
    columns: int | None
    seed: int
    dtype: str
    backend: str
    device: str

    @property
    def architecture(self) -> Network:
        """The network to be trained."""
        return Network(self.network, 2, self.channels, self.width, self.depth, self.frequencies)

    @property
    def grouping(self) -> Grouping:
        """The picture's pixels in patches."""
        return Grouping.patches((self.size[1], self.size[0]), self.patch)

    @property
    def adjustment(self) -> Adjustment:
        """The adjustment of the method "iga"."""
        names = [field.name for field in dataclasses.fields(Adjustment)]
        return Adjustment(**{name: getattr(self, name) for name in names})

    @property
    def update(self) -> Optimizer:
        """The optimizer."""
        return OPTIMIZERS[self.optimizer](self.learning_rate, self.schedule)


def choose(given: Mapping[str, Any], signal: str, shape: tuple[int, int, int]) -> Settings:
    """Fill in the defaults that depend on other settings, and check everything.

    Parameters
    ----------
    given : mapping
        Fields of `Settings`; `patch`, `end`, `samples` and `learning_rate` may be None, and
        `frequencies` "nyquist".
    signal : str
        Its name.
    shape : tuple of int
        (height, width, channels) of its pixels.

    Returns
    -------
    Settings

    Raises
    ------
    InputError
        If they cannot be used.
    """
    height, width, channels = shape
    full = dict(given) | {"signal": signal, "size": (width, height), "channels": channels}
    if full["patch"] is None:
        side = round(math.sqrt(width * height / GROUPS))
        full["patch"] = min(max(1, side), width, height)
    _require_patch(full["patch"], width, height)
    groups = (width // full["patch"]) * (height // full["patch"])
    if full["end"] is None:
        full["end"] = max(1, int(groups * END_SHARE))
    if full["samples"] is None:
        full["samples"] = 1 if full["sampling"] == "centre" else min(SAMPLES, full["patch"] ** 2)
    if full["learning_rate"] is None:
        full["learning_rate"] = LEARNING_RATES[full["optimizer"]][full["network"]]
    if full["frequencies"] == "nyquist":
        full["frequencies"] = nyquist_frequencies(max(width, height))
    settings = Settings(**full)
    require_usable(settings)
    return settings


def require_usable(settings: Settings) -> None:
    """Raise InputError if settings are out of their ranges, or need more memory than there is."""
    try:
        _ = settings.architecture, settings.update
        _require_at_least_one("steps", settings.steps)
        if settings.columns is not None:
            _require_at_least_one("columns", settings.columns)
        if settings.frequencies > MOST_FREQUENCIES:
            raise InputError(
                f"frequencies: expected at most {MOST_FREQUENCIES} octaves, got "
                f"{settings.frequencies}; lower it"
            )
        if "iga" in settings.method:
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


def _require_patch(patch: int, width: int, height: int) -> None:
    _require_at_least_one("patch", patch)
    if patch > min(width, height):
        raise InputError(
            f"patch: expected at most the picture's shorter side, {min(width, height)} pixels, "
            f"got {patch}; lower --patch or raise --size"
        )


def _require_adjustable(settings: Settings) -> None:
    _ = settings.adjustment
    groups = (settings.size[0] // settings.patch) * (settings.size[1] // settings.patch)
    if groups < 2:
        raise InputError(
            f"size: expected room for two patches of {settings.patch}, got {settings.size[0]}x"
            f"{settings.size[1]} pixels; raise --size, or choose --method plain"
        )
    if settings.end >= groups:
        raise InputError(
            f"end: expected less than the {groups} groups, got {settings.end}; "
            "lower --end or --patch"
        )
    if settings.samples > settings.patch**2:
        raise InputError(
            f"samples: expected at most the {settings.patch**2} points of a group, got "
            f"{settings.samples}; lower --samples or raise --patch"
        )
    kernel = groups**2 * np.dtype(settings.dtype).itemsize
    require_memory(
        "patch", KERNEL_COPIES * kernel, f"the kernel of {groups:,} groups with its eigenvectors",
        "raise --patch to have fewer groups",
    )  # fmt: skip


def _parameter_count(settings: Settings) -> int:
    """Count without listing the layers, however many there are."""
    width, channels = settings.width, settings.channels
    inputs = 2 * (1 + 2 * settings.frequencies) if settings.network == "pe" else 2
    hidden = (inputs + 1) * width + (settings.depth - 1) * (width + 1) * width
    return hidden + (width + 1) * channels
