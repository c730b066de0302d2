"""Leading eigenpairs of a kernel, from nothing or from those of the step before."""

from array_api_compat import array_namespace, device

from iga_core.arrays import (
    Array,
    common_namespace,
    on_host,
    require_count,
    require_finite,
    require_nonempty,
    require_shape,
    require_square,
)

TRACKING_ITERATIONS = 2


def leading_eigenpairs(
    kernel: Array, count: int, start: Array | None = None
) -> tuple[Array, Array]:
    """Return the largest eigenvalues of a symmetric matrix and their eigenvectors.

    Parameters
    ----------
    kernel : array, shape (n, n)
        Symmetric, float32 or float64.
    count : int
        Pairs wanted, 1 to n.
    start : array, shape (n, k), optional
        Vectors near the leading ones, ``k >= count``: those of the last step and a few guard
        vectors. Then two rounds of subspace iteration and one of Rayleigh-Ritz give approximate
        pairs; without it they are exact.

    Returns
    -------
    values : array, shape (count,)
        Descending.
    vectors : array, shape (n, count)
        Orthonormal, a column an eigenvector, of arbitrary sign.

    Raises
    ------
    TypeError, ValueError
        If an argument has another form or, on a CPU, the kernel is not finite or not symmetric.

    Notes
    -----
    ``O(n^3)`` by `eigh`, ``O(n^2 k)`` from a start.
    """
    common_namespace(kernel=kernel)
    n = require_square("kernel", kernel)
    require_nonempty("kernel", kernel)
    if require_count("count", count, 1) > n:
        raise ValueError(f"count: expected at most {n} for this kernel, got {count}; lower it")
    require_symmetric(kernel)
    if start is not None:
        common_namespace(kernel=kernel, start=start)
        require_shape("start", start, (n, "k"), "pass vectors of an earlier call")
        if not count <= start.shape[1] <= n:
            raise ValueError(
                f"start: expected {count} to {n} columns, got {start.shape[1]}; "
                "pass the vectors of an earlier call with as large a count"
            )
        require_finite("start", start, "leave it out")
    return eigenpairs(kernel, count, start)


def eigenpairs(kernel: Array, count: int, start: Array | None) -> tuple[Array, Array]:
    """Return what `leading_eigenpairs` does, of arguments that are known to be right."""
    xp = array_namespace(kernel)
    if start is None:
        values, vectors = xp.linalg.eigh(kernel)
    else:
        values, vectors = _rayleigh_ritz(kernel, start)
    found = values.shape[0]
    descending = xp.arange(found - 1, found - 1 - count, -1, device=device(kernel))
    return xp.take(values, descending), xp.take(vectors, descending, axis=1)


def _rayleigh_ritz(kernel: Array, basis: Array) -> tuple[Array, Array]:
    xp = array_namespace(kernel)
    for _ in range(TRACKING_ITERATIONS):
        basis = xp.linalg.qr(kernel @ basis)[0]
    small = basis.T @ (kernel @ basis)
    values, rotation = xp.linalg.eigh((small + small.T) / 2)
    return values, basis @ rotation


def require_symmetric(kernel: Array) -> None:
    """Raise where a kernel is known not to be finite and symmetric, see `on_host`."""
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
