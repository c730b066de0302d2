"""What infinite width predicts: a kernel in closed form, and training as a linear recurrence."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from array_api_compat import array_namespace, device

from iga_core import Transform
from iga_core.arrays import (
    Array,
    Namespace,
    common_namespace,
    on_host,
    require_count,
    require_finite,
    require_nonempty,
    require_shape,
    require_square,
)

LENGTH_TOLERANCE = 1e-5
"""Points of float32 may come as float64."""


def two_layer_kernel(x: Array, z: Array | None = None) -> Array:
    """Return the neural tangent kernel of a wide two-layer ReLU network on the unit sphere.

    Parameters
    ----------
    x : array, shape (n, d)
        Points of length 1, float32 or float64.
    z : array, shape (n', d), optional
        The other side; by default the same.

    Returns
    -------
    array, shape (n, n) or (n, n')
        ``(x·z + 1)(π − arccos x·z) / 4π``.

    Raises
    ------
    TypeError, ValueError
        If the points are of another kind or shape or, on a CPU, not of length 1.

    Notes
    -----
    The network is ``f(x) = Σ_r a_r max(0, (w_r·x + b_r)/√2) / √m``: `w_r` standard normal and
    trained, `b_r` zero at the start and trained, `a_r` ±1 and fixed. The derivatives with respect
    to `w_r` and `b_r` are ``a_r [w_r·x > 0] / √2m`` times `x` and 1, so the kernel is
    ``(x·z + 1)/2`` times the share of units active at both points, ``(π − arccos x·z) / 2π`` as
    `m` grows (Cho and Saul 2009; Basri et al. 2019). ``O(n n' d)``.
    """
    xp = _require_points("x", x)
    if z is None:
        z = x
    else:
        _require_points("z", z)
        common_namespace(x=x, z=z)
        require_shape("z", z, ("n'", x.shape[1]), "give both sides one dimension")
    # An arccos loses half of the digits near 1; the two sides of the rhombus lose none.
    apart = sum((x[:, None, k] - z[None, :, k]) ** 2 for k in range(x.shape[1]))
    together = sum((x[:, None, k] + z[None, :, k]) ** 2 for k in range(x.shape[1]))
    angle = 2 * xp.atan2(xp.sqrt(apart), xp.sqrt(together))
    return (x @ z.T + 1) * (math.pi - angle) / (4 * math.pi)


def linear_residuals(
    kernel: Array,
    residual: Array,
    rate: float,
    steps: Sequence[int],
    transform: Transform | None = None,
) -> Array:
    """Return the residuals of gradient descent under a kernel that does not change.

    Parameters
    ----------
    kernel : array, shape (N, N)
        ``J Jᵀ`` at all points, group by group: those of a group stand together.
    residual : array, shape (N, ...)
        ``r_0``: outputs less targets before the first step.
    rate : float
        Of steps ``θ ← θ − rate Jᵀ S r``. Under the mean squared error over N points it is ``2/N``
        times the learning rate.
    steps : sequence of int
        Numbers of steps taken.
    transform : Transform, optional
        `S`, positive definite, of as many groups as divide N; it acts alike at every position of a
        group. Without one, training is plain.

    Returns
    -------
    array, shape (len(steps), N, ...)
        ``(I − rate K S)^t r_0`` for each t of `steps`.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not belong together or, on a CPU, training does not converge.

    Notes
    -----
    The outputs move by ``J Δθ = −rate J Jᵀ S r``, so it is ``K S`` and not ``S K``. With ``A``
    the root of S, ``K S = A⁻¹ (A K A) A``, whatever S was made from: one `eigh`, ``O(N^3)``, and
    ``O(N^2)`` for each of the steps.
    """
    xp = common_namespace(kernel=kernel, residual=residual)
    count = require_square("kernel", kernel)
    require_nonempty("kernel", kernel)
    require_finite("kernel", kernel, "start from a finite one")
    require_shape("residual", residual, (count, "..."), "give it one row a point of the kernel")
    require_nonempty("residual", residual)
    require_finite("residual", residual, "start from finite outputs")
    numbers = [require_count("steps", number, 0) for number in steps]
    one = xp.ones((1, 1), dtype=kernel.dtype, device=device(kernel))
    root, inverse = _roots(Transform(one) if transform is None else transform, kernel)
    balanced = _applied(root, _applied(root, kernel).T)
    values, vectors = xp.linalg.eigh((balanced + balanced.T) / 2)
    rate = _converging(rate, values)
    times = xp.asarray(numbers, dtype=kernel.dtype, device=device(kernel))
    decays = (1 - rate * values) ** times[:, None]
    modes = vectors.T @ _applied(root, xp.reshape(residual, (count, -1)))
    found = xp.matmul(_applied(inverse, vectors), decays[:, :, None] * modes)
    return xp.reshape(found, (len(numbers), *residual.shape))


def _applied(transform: Transform, array: Array) -> Array:
    """Return the product of ``S ⊗ I_p`` with an array (N, k)."""
    groups = transform.matrix().shape[0]
    xp = array_namespace(array)
    return xp.reshape(transform(xp.reshape(array, (groups, -1))), array.shape)


def _roots(transform: Transform, kernel: Array) -> tuple[Transform, Transform]:
    """Return ``S^½`` and ``S^-½``, or raise where they are known not to be."""
    S, count = transform.matrix(), kernel.shape[0]
    xp = common_namespace(kernel=kernel, transform=S)
    groups = S.shape[0]
    if count % groups:
        raise ValueError(
            f"transform: expected one whose groups divide the {count} points, got {groups} groups; "
            "make it of a point of each group"
        )
    values, V = xp.linalg.eigh(S)
    if on_host(kernel) and not float(values[0]) > 0:
        raise ValueError(
            "transform: expected a positive definite one, got one with an eigenvalue of "
            f"{float(values[0]):.2g}; make it with a filter that takes no direction away"
        )
    return Transform((V * values**0.5) @ V.T), Transform((V * values**-0.5) @ V.T)


def _require_points(name: str, points: Array) -> Namespace:
    xp = common_namespace(**{name: points})
    require_shape(name, points, ("n", "d"), "pass one row a point")
    require_nonempty(name, points)
    require_finite(name, points, "clean the data first")
    if on_host(points):
        largest = float(xp.max(xp.abs(xp.sum(points * points, axis=1) - 1)))
        if largest > LENGTH_TOLERANCE:
            raise ValueError(
                f"{name}: expected points of length 1, got squared lengths that differ from it by "
                f"{largest:.2g}; divide each point by its length"
            )
    return xp


def _converging(rate: Any, values: Array) -> float:
    """Return the rate as a Python float, which promotes nothing, else raise."""
    if not isinstance(rate, Real) or not 0 < float(rate) < math.inf:
        raise ValueError(f"rate: expected a positive finite number, got {rate!r}; 0.1 is a start")
    if on_host(values) and float(rate) * float(values[-1]) >= 2:
        raise ValueError(
            f"rate: expected less than {2 / float(values[-1]):.3g}, two over the largest "
            f"eigenvalue of kernel and transform, got {rate}; lower it, or training diverges"
        )
    return float(rate)
