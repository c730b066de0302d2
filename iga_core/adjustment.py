"""The settings of an adjustment, its state, and the path from kernel to transform."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from array_api_compat import array_namespace, device

from iga_core.arrays import Array, common_namespace, on_host, require_count, require_square
from iga_core.grouping import Grouping
from iga_core.sampling import SamplingRule
from iga_core.spectrum import eigenpairs, require_symmetric
from iga_core.transform import SpectralTransform, equalised

GUARD_VECTORS = 10


@dataclass(frozen=True)
class Adjustment:
    """The settings of an inductive gradient adjustment; the defaults are the paper's.

    Parameters
    ----------
    end : int
        Eigenvalues ``start <= i < end`` of the kernel are equalised; less than the groups.
    start : int
        The first of them, from 0.
    level : {"next", "start"}
        What they are brought to: eigenvalue `end` (large ones are lowered; the paper's choice
        under Adam) or eigenvalue `start` (small ones are raised; for plain gradient descent).
    sampling : {"largest", "centre", "random"}
        Which points represent a group, see `representatives`.
    outputs : {"sum", "trace"}
        The kernel of ``Σ_c f_c / √C`` (the paper's), or the mean over outputs of their kernels.
    samples : int
        Points of a group whose tangents are averaged; 1 is the paper's.
    reach : {"points", "mean"}
        Whether S acts at every position of the groups (the paper's) or on their means only.
    refresh : int
        A new transform is made for every `refresh`-th version of the parameters.
    seed : int
        Of the random sampling.

    Raises
    ------
    TypeError, ValueError
        If a setting is out of its range.
    """

    end: int = 20
    start: int = 0
    level: Literal["next", "start"] = "next"
    sampling: SamplingRule = "largest"
    outputs: Literal["sum", "trace"] = "sum"
    samples: int = 1
    reach: Literal["points", "mean"] = "points"
    refresh: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("end", 1), ("start", 0), ("samples", 1), ("refresh", 1), ("seed", 0)):
            object.__setattr__(self, name, require_count(name, getattr(self, name), least))
        for name in ("level", "sampling", "outputs", "reach"):
            choices = get_args(Adjustment.__annotations__[name])
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}; "
                    "name one of them"
                )
        if self.start >= self.end:
            raise ValueError(
                f"start: expected less than end = {self.end}, got {self.start}; lower start"
            )
        if self.sampling == "centre" and self.samples > 1:
            raise ValueError(
                f"samples: expected 1 with sampling='centre', got {self.samples}; "
                "use sampling='random'"
            )


@dataclass(frozen=True, eq=False)
class AdjustmentState:
    """What an adjustment carries from step to step; `adjust` takes one and returns the next.

    Parameters
    ----------
    step : int
        Versions of the parameters seen so far.
    transform : SpectralTransform, optional
        The last one made.
    vectors : array, shape (n, k), optional
        Its eigenvectors and guard vectors, from which the next are tracked on an accelerator.
    """

    step: int = 0
    transform: SpectralTransform | None = None
    vectors: Array | None = None

    def held(self, adjustment: Adjustment) -> SpectralTransform | None:
        """Say whether the last transform still serves.

        Parameters
        ----------
        adjustment : Adjustment
            Its `refresh` counts.

        Returns
        -------
        SpectralTransform or None
            None where a new one is due.
        """
        return self.transform if self.step % adjustment.refresh else None

    def skipped(self) -> "AdjustmentState":
        """Pass over one version of the parameters with the transform as it is.

        Returns
        -------
        AdjustmentState
            For the next version.
        """
        return replace(self, step=self.step + 1)


def require_fit(adjustment: Adjustment, grouping: Grouping) -> None:
    """Raise unless a grouping has more groups than `end`, and as many points as `samples`."""
    if adjustment.end >= grouping.groups:
        raise ValueError(
            f"end: expected less than the {grouping.groups} groups, got {adjustment.end}; "
            "lower end or choose smaller groups"
        )
    if adjustment.samples > grouping.points:
        raise ValueError(
            f"samples: expected at most the {grouping.points} points of a group, got "
            f"{adjustment.samples}; lower samples or choose larger groups"
        )


def adjust(
    kernel: Array, adjustment: Adjustment, state: AdjustmentState | None = None
) -> tuple[SpectralTransform, AdjustmentState]:
    """Make the transform of a kernel: its leading eigenpairs, equalised.

    Parameters
    ----------
    kernel : array, shape (n, n)
        As `gram` gives it.
    adjustment : Adjustment
        The settings; ``end < n``.
    state : AdjustmentState, optional
        What the last call returned; none at the first.

    Returns
    -------
    transform : SpectralTransform
        Of this kernel.
    state : AdjustmentState
        For the next call.

    Raises
    ------
    TypeError, ValueError
        If the kernel is not square, has no more groups than `end` or, on a CPU, is not finite.

    Notes
    -----
    Every call makes a transform. To honour `refresh`, ask ``state.held(adjustment)`` first; where
    that gives a transform, use it, and go on with ``state.skipped()``.

    On a CPU the eigenpairs come from `eigh`; on an accelerator, from the state's vectors, after
    the first call and while the number of groups stays the same.
    """
    if not isinstance(adjustment, Adjustment):
        raise TypeError(
            f"adjustment: expected an Adjustment, got {type(adjustment).__name__}; "
            "pass Adjustment(...)"
        )
    common_namespace(kernel=kernel)
    n = require_square("kernel", kernel)
    if adjustment.end >= n:
        raise ValueError(
            f"end: expected less than the {n} groups, got {adjustment.end}; "
            "lower end or make more groups"
        )
    state = state or AdjustmentState()
    require_symmetric(kernel)
    if on_host(kernel):
        values, vectors = eigenpairs(kernel, adjustment.end + 1, None)
        tracked = None
    else:
        start = state.vectors
        if start is not None and start.shape[0] != n:
            start = None
        count = min(n, adjustment.end + 1 + GUARD_VECTORS)
        values, vectors = eigenpairs(kernel, count, start)
        tracked = _still_finite(vectors, start)
    transform = equalised(values, vectors, adjustment)
    return transform, AdjustmentState(state.step + 1, transform, tracked)


def _still_finite(vectors: Array, start: Array | None) -> Array:
    """Return vectors to track from, those before where these are not finite: by a mask."""
    xp = array_namespace(vectors)
    if start is None:
        n, count = vectors.shape
        start = xp.eye(n, count, dtype=vectors.dtype, device=device(vectors))
    return xp.where(xp.all(xp.isfinite(vectors)), vectors, start)
