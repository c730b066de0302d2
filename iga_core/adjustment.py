"""The settings of an adjustment, nothing else."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from iga_core.arrays import require_choice, require_count, require_number, short
from iga_core.filters import Damp, Equalise, Filter, Level
from iga_core.sampling import SamplingRule

Reach = Literal["mean", "points"]
Outputs = Literal["sum", "trace"]


@dataclass(frozen=True)
class Adjustment:
    """The settings of an inductive gradient adjustment; there is nothing that has to be set.

    Parameters
    ----------
    filter : callable
        Makes the transform S of a kernel: `Damp` (the default), `Equalise`, `Scale`, or your own,
        see `iga_core.filters.Filter`.
    sampling : {"random", "largest", "centre"}
        Which points represent a group, see `representatives`.
    samples : int
        Points of a group whose tangents are averaged.
    reach : {"mean", "points"}
        Whether S acts on the mean of a group only, so that the detail inside it keeps its full
        gradient, or alike at every position (the paper's).
    outputs : {"sum", "trace"}
        The kernel of ``Σ_c f_c / √C`` (the paper's), or the mean over outputs of their kernels.
    refresh : int
        A transform serves so many steps, where the groups stay the same.
    average : float
        Share of the old in a running average of the kernel over its refreshes,
        ``K ← average K + (1 − average) K_new``, from 0 to below 1.
    seed : int
        Of the random sampling.

    Raises
    ------
    TypeError, ValueError
        If a setting is out of its range.

    Notes
    -----
    The adjusted gradient is shorter than the plain one, by 1 to 1,000 times. Adam does not mind;
    thresholds of clipping, weight decay and the rate of gradient descent mean something else.

    Examples
    --------
    >>> Adjustment(samples=2).filter
    Damp(scale=1.0)
    >>> Adjustment.paper(end=25).reach
    'points'
    """

    filter: Filter = field(default_factory=Damp)
    sampling: SamplingRule = "random"
    samples: int = 1
    reach: Reach = "mean"
    outputs: Outputs = "sum"
    refresh: int = 10
    average: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.filter, type) or not callable(self.filter):
            raise TypeError(
                f"filter: expected a filter such as Damp(), got {short(self.filter)}; pass an "
                "instance, or a function of a kernel that returns a Transform"
            )
        for name, least in (("samples", 1), ("refresh", 1), ("seed", 0)):
            object.__setattr__(self, name, require_count(name, getattr(self, name), least))
        for name, choices in (("sampling", SamplingRule), ("reach", Reach), ("outputs", Outputs)):
            require_choice(name, getattr(self, name), get_args(choices))
        object.__setattr__(self, "average", require_number("average", self.average, 0, 1, "0.9"))
        if self.sampling == "centre" and self.samples > 1:
            raise ValueError(
                f"samples: expected 1 with sampling='centre', got {self.samples}; "
                "use sampling='random'"
            )

    @classmethod
    def paper(
        cls, end: int = 20, start: int = 0, level: Level = "next", **others: Any
    ) -> "Adjustment":
        """Return the settings of the paper.

        The eigenvalues before `end` equalised, one sample a group, that of largest cotangent, S at
        every position, and a fresh transform at every step.

        Parameters
        ----------
        end, start, level
            Of `Equalise`.
        **others
            Settings of `Adjustment` that shall differ from the paper's.

        Returns
        -------
        Adjustment

        Examples
        --------
        >>> Adjustment.paper(end=15, samples=2).samples
        2
        """
        form: dict[str, Any] = {
            "filter": Equalise(end, start, level),
            "sampling": "largest",
            "reach": "points",
            "refresh": 1,
            "average": 0.0,
        }
        return cls(**(form | others))

    def describe(self) -> str:
        """Return a line that is alike for equal settings, in every process."""
        settings = {**vars(self), "filter": _stable_name(self.filter)}
        return ", ".join(f"{name}={value}" for name, value in settings.items())

    def require_fit(self, groups: int, points: int) -> None:
        """Raise ValueError unless as many groups of as many points serve these settings.

        Parameters
        ----------
        groups, points : int
            Of a step.
        """
        least = getattr(self.filter, "least_groups", 1)
        if groups < least:
            raise ValueError(
                f"filter: expected at least {least} groups for {short(self.filter)}, got {groups}; "
                "choose smaller groups, or a lower end"
            )
        if self.samples > points:
            raise ValueError(
                f"samples: expected at most the {points} points of a group, got {self.samples}; "
                "lower samples or choose larger groups"
            )


def _stable_name(filter: Callable[..., Any]) -> str:  # noqa: A002
    """Return the repr of a filter, or the name of its code where that has an address in it."""
    text = repr(filter)
    if " at 0x" not in text:
        return text
    code = filter if hasattr(filter, "__qualname__") else type(filter)
    return f"{code.__module__}.{getattr(code, '__qualname__', '')}"
