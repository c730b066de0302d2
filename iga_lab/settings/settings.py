"""The settings of a fit, composed of the core's own descriptions, which check themselves."""

from dataclasses import dataclass, replace

from iga_core import Adjustment, Fourier, Grouping, Network, Scale
from iga_core.arrays import require_choice, require_count, short
from iga_core.cost import added_share
from iga_core.optimizers import Optimizer
from iga_lab.hardware import BACKENDS
from iga_lab.settings.cutting import Cutting, control_patch
from iga_lab.signals import Form

ALL_METHODS = ("plain", "fr", "bn", "scale", "iga", "iga+fr")
DTYPES = ("float32", "float64")
MOST_STEPS = 10**9
"""Each leaves its loss and its seconds in memory."""


@dataclass(frozen=True)
class Place:
    """Where a fit runs.

    Parameters
    ----------
    backend, device : str
        As `array_library` takes them.
    dtype : {"float32", "float64"}
        Of all arrays.
    """

    backend: str
    device: str
    dtype: str

    def __post_init__(self) -> None:
        require_choice("dtype", self.dtype, DTYPES)
        require_choice("backend", self.backend, BACKENDS)
        _require_text("device", self.device)


@dataclass(frozen=True)
class Settings:
    """All that a fit needs beside the values of its signal; see `choose`.

    Parameters
    ----------
    signal : str
        Its name.
    form : Form
        Of the signal.
    network : Network
        That of the method "plain".
    methods : tuple of str
        Some of `ALL_METHODS`.
    steps : int
        Of each method.
    optimizer : Optimizer
        Of every method.
    cutting : Cutting
        The groups, of all methods but the control.
    adjustment : Adjustment
        Of the methods with IGA.
    control : Scale or None
        Of the method "scale", where it takes part.
    place : Place
        Where it runs.
    columns : int or None
        Positions of every group in one piece; None leaves it to the backend.
    seed : int
        Of the initial parameters and of the sampling.
    lpips_weights : str or None
        File of the weights of LPIPS, where a picture shall be measured with it.
    """

    signal: str
    form: Form
    network: Network
    methods: tuple[str, ...]
    steps: int
    optimizer: Optimizer
    cutting: Cutting
    adjustment: Adjustment
    control: Scale | None
    place: Place
    columns: int | None
    seed: int
    lpips_weights: str | None

    def __post_init__(self) -> None:
        # Settings come out of files too, where anything may stand.
        for method in self.methods:
            require_choice("method", method, ALL_METHODS)
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(
                f"method: expected some of {', '.join(ALL_METHODS)}, each once, got "
                f"{short(self.methods)}; name at least one"
            )
        if require_count("steps", self.steps, 1) > MOST_STEPS:
            raise ValueError(f"steps: expected at most {MOST_STEPS:,}, got {self.steps}; lower it")
        if self.columns is not None:
            require_count("columns", self.columns, 1)
        require_count("seed", self.seed, 0)
        _require_text("signal", self.signal)
        if self.lpips_weights is not None:
            _require_text("lpips_weights", self.lpips_weights)

    def architecture(self, method: str) -> Network:
        """Return the network that a method trains."""
        return architecture(self.network, method)

    def cutting_of(self, method: str) -> Cutting:
        """Return the groups of a method.

        The control "scale" has a few of its own, as it gains most with them; in batches it has
        those of the other methods, so that all see the same points.
        """
        if method == "scale" and self.cutting.batch is None:
            return Cutting("patches", control_patch(self.form.shape), self.form.shape)
        return self.cutting

    def grouping_of(self, method: str) -> Grouping:
        """Return the points of a method in their groups."""
        return self.cutting_of(method).made()

    def adjustment_of(self, method: str) -> Adjustment | None:
        """Return the adjustment of a method; None where it has none."""
        if method == "scale" and self.control is not None:
            # On the means of its groups, whatever the other methods do: that is what it controls.
            return Adjustment(self.control)
        return self.adjustment if adjusted(method) else None

    @property
    def added_share(self) -> float:
        """What IGA adds to a step by counted operations, as a share of a plain one."""
        cutting, shapes = self.cutting, self.network.shapes
        return added_share(self.adjustment, shapes, cutting.together, cutting.step_points)


def _require_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected text, got {short(value)}; name one")


def adjusted(method: str) -> bool:
    """Whether a method has the adjustment that is set, as the control "scale" has not."""
    return method.startswith("iga")


def architecture(network: Network, method: str) -> Network:
    """Return the network that a method trains, from that of "plain"."""
    fourier = Fourier() if method.endswith("fr") else None
    return replace(network, fourier=fourier, normalised=method == "bn")
