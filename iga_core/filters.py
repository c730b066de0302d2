"""From a kernel to S: the filters of its spectrum, and the transform that they give.

A filter maps each eigenvalue λ of the training dynamics to another, γ: with the eigenvectors v of
the kernel, ``S = Σ (γ/λ) v vᵀ`` (Shi et al. 2025, Theorem 4.1 in the words of section 4.2; Geifman
et al. 2023). Three are here. A third party's is any function of a kernel that gives a `Transform`.
"""

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

from array_api_compat import array_namespace, device

from iga_core.arrays import (
    Array,
    Namespace,
    common_namespace,
    on_host,
    register_tree,
    require_choice,
    require_count,
    require_finite,
    require_nonempty,
    require_number,
    require_shape,
    require_square,
    widest,
)

Level = Literal["next", "start"]

SAFE = 4
"""An eigenvalue is safe if it exceeds so many eps of the kernel's dtype times the largest one.

The rounding of a float32 Gram matrix was seen to move eigenvalues by 0.2 to 3.5 eps, and to make
those of a rank-deficient one no more negative than -0.05 eps (256 to 1,024 groups, width 8 to 128).
"""

QUIET = 1e-2
"""A group is quiet if the kernel's diagonal has less than this share of its mean there."""


@dataclass(frozen=True, eq=False)
class Transform:
    """A linear map S over the groups, by which the gradient is adjusted; what a filter returns.

    Parameters
    ----------
    S : array, shape (n, n), or float
        The map; a number s stands for ``s I``, of as many groups as there are.
    eigenvalues : array, shape (n,), optional
        Those of the kernel it was made from, descending.

    Notes
    -----
    Under JAX a transform is a pytree.

    Examples
    --------
    >>> import numpy as np
    >>> halve = Transform(0.5 * np.eye(2))
    >>> halve(np.asarray([[2.0], [4.0]])).tolist()
    [[1.0], [2.0]]
    >>> halve.on_means(np.asarray([[[1.0], [3.0]], [[4.0], [4.0]]])).tolist()
    [[[0.0], [2.0]], [[2.0], [2.0]]]
    """

    S: Array
    eigenvalues: Array | None = None

    def __post_init__(self) -> None:
        register_tree(Transform, "S", "eigenvalues")

    def __call__(self, cotangent: Array) -> Array:
        """Return ``S g``, alike for every position and channel.

        Parameters
        ----------
        cotangent : array, shape (n, ...)
            `g`, of the transform's namespace, dtype and device.

        Returns
        -------
        array, shape (n, ...)

        Raises
        ------
        TypeError, ValueError
            If it is of another kind than the transform or of another number of groups.

        Notes
        -----
        ``O(n²)`` for each number in a group.
        """
        self._require_fitting(cotangent)
        return self.applied(cotangent)

    def on_means(self, cotangent: Array) -> Array:
        """Return ``g + 1_p ⊗ (S − I) ḡ``: only the group's mean is transformed.

        Parameters
        ----------
        cotangent : array, shape (n, p, ...)
            `g`, of the transform's namespace, dtype and device.

        Returns
        -------
        array, shape (n, p, ...)

        Raises
        ------
        TypeError, ValueError
            As a call does; and if there is no axis of points.
        """
        xp = self._require_fitting(cotangent)
        if cotangent.ndim < 2:
            require_shape("cotangent", cotangent, ("groups", "points", "..."), "group it first")
        return cotangent + self.change(xp.mean(cotangent, axis=1))[:, None, ...]

    def matrix(self) -> Array:
        """Return S: an array (n, n), or the number that stands for its multiple of I."""
        return self.S

    @property
    def uniform(self) -> bool:
        """Whether S is a multiple of I, which fits any number of groups."""
        return getattr(self.S, "ndim", 0) == 0

    def applied(self, cotangent: Array) -> Array:
        """Return ``S g`` of an array (n, ...) that is known to fit."""
        if self.uniform:
            return self.S * cotangent
        xp = array_namespace(cotangent)
        flat = xp.reshape(cotangent, (cotangent.shape[0], -1))
        return xp.reshape(self.S @ flat, cotangent.shape)

    def change(self, means: Array) -> Array:
        """Return ``(S − I) ḡ`` of an array (n, ...) that is known to fit."""
        return self.applied(means) - means

    def _require_fitting(self, cotangent: Array) -> Namespace:
        if self.uniform:
            xp = common_namespace(cotangent=cotangent)
        else:
            xp = common_namespace(cotangent=cotangent, transform=self.S)
            n = self.S.shape[0]
            require_shape("cotangent", cotangent, (n, "..."), f"this transform is of {n} groups")
        require_nonempty("cotangent", cotangent)
        return xp


@runtime_checkable
class Filter(Protocol):
    """What a third party's filter must give: a call that makes a transform of a kernel.

    A plain function serves. A filter may further have ``needs_kernel = False``: it is then given
    None, and nothing is evaluated; and ``least_groups``, what the trainers ask of a grouping.
    Adjustments that shall be told apart by a saved state want a filter with a telling `repr`.

    The kernel comes as an array (n, n) of the data's dtype, finite and symmetric, possibly zero,
    singular or, by rounding, slightly indefinite. Nothing of it may be read on the host.

    Examples
    --------
    A filter that lowers what is above the mean eigenvalue, in the manner of Geifman et al.:

    >>> import numpy as np
    >>> from iga_core import Adjustment, Transform
    >>> def flatten_the_top(kernel):
    ...     values, V = np.linalg.eigh(kernel)
    ...     gains = np.minimum(1, values.mean() / np.maximum(values, 1e-12))
    ...     return Transform((V * gains) @ V.T)
    >>> flatten_the_top(np.diag([3.0, 1.0])).matrix().diagonal().round(2).tolist()
    [0.67, 1.0]
    >>> settings = Adjustment(filter=flatten_the_top)
    """

    def __call__(self, kernel: Array, /) -> Transform:
        """Make the transform of a kernel."""
        ...


def needs_kernel(filter: Filter) -> bool:  # noqa: A002
    """Say whether a filter wants a kernel; it does unless it says otherwise."""
    return bool(getattr(filter, "needs_kernel", True))


@dataclass(frozen=True)
class Equalise:
    """The paper's filter: eigenvalues ``start <= i < end`` are brought to one level.

    ``S = I − Σ (1 − λ_level/λ_i) v_i v_iᵀ`` (Shi et al. 2025, equation 6). The others stay. An
    eigenvalue that is not safe (see `SAFE`) stays too, and the level "next" is the safe one of
    largest index ``<= end``; where fewer than asked can be equalised, a warning says so.

    Parameters
    ----------
    end : int
        Behind the last of them, counted from the largest, which has index 0.
    start : int
        The first of them.
    level : {"next", "start"}
        What they are brought to: eigenvalue `end` (large ones are lowered: the paper's choice
        under Adam) or eigenvalue `start` (small ones are raised: for plain gradient descent).

    Raises
    ------
    TypeError, ValueError
        If a setting is out of its range.

    Notes
    -----
    A call costs an `eigh`, ``O(n³)``, about ten times a factorisation.

    Examples
    --------
    >>> import numpy as np
    >>> Equalise(end=1)(np.diag([4.0, 1.0])).matrix().tolist()
    [[0.25, 0.0], [0.0, 1.0]]
    """

    end: int
    start: int = 0
    level: Level = "next"
    needs_kernel: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "end", require_count("end", self.end, 1))
        object.__setattr__(self, "start", require_count("start", self.start, 0))
        require_choice("level", self.level, get_args(Level))
        if self.start >= self.end:
            raise ValueError(
                f"start: expected less than end = {self.end}, got {self.start}; lower start"
            )

    @property
    def least_groups(self) -> int:
        """How many groups there have to be: `end` is the index of one."""
        return self.end + 1

    def __call__(self, kernel: Array) -> Transform:
        """Make the transform of a kernel.

        Parameters
        ----------
        kernel : array, shape (n, n)
            As `gram` gives it. With no more than `end` groups, `end` is taken as n − 1, and a
            warning says so.

        Returns
        -------
        Transform
            In the kernel's dtype; the identity where the kernel is zero.

        Raises
        ------
        TypeError, ValueError
            If the kernel is not square or, on a CPU, not finite and symmetric.
        """
        n = _require_kernel(kernel)
        if n < self.least_groups:
            warnings.warn(
                f"end: expected less than the {n} groups, got {self.end}; it is taken as {n - 1} "
                "here: lower end or make more groups",
                stacklevel=2,
            )
        end = min(self.end, n - 1)
        transform, safe = equalised(kernel, min(self.start, end), end, self.level)
        if on_host(kernel) and 0 < int(safe) < end:
            # Of constant words, so that a run says it once.
            warnings.warn(
                f"end: not all of the {self.end} leading eigenvalues exceed {SAFE} eps of the "
                f"largest in {kernel.dtype}; the others stay as they are: lower end, or use "
                "float64",
                stacklevel=2,
            )
        return transform


def equalised(kernel: Array, start: int, end: int, level: Level) -> tuple[Transform, Array]:
    """Return what `Equalise` does, ``end < n``, and how many of the leading `end` are safe."""
    xp = array_namespace(kernel)
    values, vectors = xp.linalg.eigh(xp.astype(kernel, widest(kernel)))
    values, vectors = xp.flip(values), xp.flip(vectors, axis=1)
    safe = _safe(xp, values, kernel)
    if level == "next":
        # The smallest safe one of those up to `end`, without an index that depends on data.
        reference = xp.min(xp.where(safe, values, xp.max(values))[: end + 1])
    else:
        reference = values[start]
    gains = xp.where(safe, reference / xp.where(safe, values, xp.ones_like(values)), 1.0)
    chosen = slice(start, end)
    V = vectors[:, chosen]
    S = _identity(xp, values) - (V * (1 - gains[chosen])) @ V.T
    count = xp.sum(xp.astype(safe[:end], xp.int32), dtype=xp.int32)
    return _transform(xp, S, values, kernel), count


@dataclass(frozen=True)
class Damp:
    """The default: ``S = μ (K + μI)⁻¹``, Tikhonov's filter, ``γ = λμ/(λ + μ)``.

    It equalises what is above μ and leaves what is below, without an edge between the two, so that
    there is no `end` to choose. μ is the geometric mean of the kernel's eigenvalues that are safe
    (see `SAFE`) and belong to groups that are not quiet (`QUIET`): the rounding noise of a singular
    kernel, and rays or masked points whose tangents are nearly zero, would otherwise drag it down
    until S is all but zero. Quiet groups have no part in μ but are adjusted like all others: to
    leave them plain was tried, and changed nothing (`python -m benchmarks.quiet`).

    Parameters
    ----------
    scale : float
        Factor on μ: less damps more.

    Raises
    ------
    TypeError, ValueError
        If it is not a positive finite number.

    Notes
    -----
    A call costs the eigenvalues, without vectors, and an inverse: ``O(n³)``.

    Examples
    --------
    >>> import numpy as np
    >>> Damp()(np.diag([4.0, 1.0])).matrix().diagonal().round(3).tolist()  # μ = 2
    [0.333, 0.667]
    """

    scale: float = 1.0
    needs_kernel: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _positive("scale", self.scale, "1"))

    def __call__(self, kernel: Array) -> Transform:
        """Make the transform of a kernel.

        Parameters
        ----------
        kernel : array, shape (n, n)
            As `gram` gives it.

        Returns
        -------
        Transform
            In the kernel's dtype; the identity where the kernel is zero.

        Raises
        ------
        TypeError, ValueError
            If the kernel is not square or, on a CPU, not finite and symmetric.
        """
        _require_kernel(kernel)
        return damped(kernel, self.scale)


def damped(kernel: Array, scale: float) -> Transform:
    """Return what `Damp` does, of a kernel that is known to be right."""
    xp = array_namespace(kernel)
    wide = xp.astype(kernel, widest(kernel))
    diagonal = xp.linalg.diagonal(wide)
    # Masked and not cut out: no shape may depend on data. What is masked becomes eigenvalues of
    # zero, which are not safe.
    loud = xp.astype(diagonal >= QUIET * xp.mean(diagonal), wide.dtype)
    values = xp.flip(xp.linalg.eigvalsh(loud[:, None] * wide * loud))
    safe = _safe(xp, values, kernel)
    ones = xp.ones_like(values)
    logarithms = xp.log(xp.where(safe, values, ones))  # 0 where not safe
    count = xp.sum(xp.astype(safe, wide.dtype))
    mu = scale * xp.exp(xp.sum(logarithms) / xp.maximum(count, xp.ones_like(count)))
    # Below that, K + μI could be singular by rounding. A zero kernel has μ = scale, whence S = I.
    mu = xp.maximum(mu, _threshold(xp, values, kernel))
    eye = _identity(xp, values)
    S = xp.linalg.solve(wide / mu + eye, eye)
    return _transform(xp, (S + S.T) / 2, values, kernel)


@dataclass(frozen=True)
class Scale:
    """The control: ``S = factor I``. It needs no kernel and costs nothing.

    On the means of a few large groups (reach "mean") it takes back what plain training is
    dominated by, the direction of the mean of all residuals; a kernel has to gain more than that.

    Parameters
    ----------
    factor : float
        Of the groups' means; from 0 to below 1 to shrink them.

    Raises
    ------
    TypeError, ValueError
        If it is not a finite number of at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> Scale(0.5)().on_means(np.asarray([[[1.0], [3.0]]])).tolist()
    [[[0.0], [2.0]]]
    """

    factor: float = 0.1
    needs_kernel: ClassVar[bool] = False

    def __post_init__(self) -> None:
        number = require_number("factor", self.factor, 0.0, float("inf"), "0.1")
        object.__setattr__(self, "factor", number)

    def __call__(self, kernel: Any = None) -> Transform:  # noqa: ARG002
        """Make the transform, of any kernel or none, in no time."""
        return Transform(self.factor)


def _positive(name: str, value: Any, example: str) -> float:
    number = require_number(name, value, 0.0, float("inf"), example)
    if number == 0:
        raise ValueError(f"{name}: expected a positive number, got 0; {example} is a start")
    return number


def _require_kernel(kernel: Array) -> int:
    """Return the number of groups; raise where a kernel is known not to be finite and symmetric."""
    common_namespace(kernel=kernel)
    n = require_square("kernel", kernel)
    require_finite("kernel", kernel, "skip this step, or lower the learning rate")
    if on_host(kernel):
        xp = array_namespace(kernel)
        skew = float(xp.max(xp.abs(kernel - kernel.T)))
        largest = float(xp.max(xp.abs(kernel)))
        if skew > float(xp.finfo(kernel.dtype).eps) ** 0.5 * largest:
            raise ValueError(
                "kernel: expected a symmetric matrix, got one that differs from its transpose "
                f"by {skew:.2g}; pass gram(factors) of one list"
            )
    return n


def _threshold(xp: Namespace, values: Array, kernel: Array) -> Array:
    """Return what an eigenvalue has to exceed to be safe, of values that are descending.

    The algebra is done in float64, but the kernel was rounded to its own dtype before.
    """
    return SAFE * float(xp.finfo(kernel.dtype).eps) * xp.abs(values[0])


def _safe(xp: Namespace, values: Array, kernel: Array) -> Array:
    return values > _threshold(xp, values, kernel)


def _identity(xp: Namespace, values: Array) -> Array:
    return xp.eye(values.shape[0], dtype=values.dtype, device=device(values))


def _transform(xp: Namespace, S: Array, values: Array, kernel: Array) -> Transform:
    return Transform(xp.astype(S, kernel.dtype), xp.astype(values, kernel.dtype))
