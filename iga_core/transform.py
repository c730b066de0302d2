"""The transform S: the identity plus a matrix of low rank."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from array_api_compat import array_namespace, device

from iga_core.arrays import (
    Array,
    Namespace,
    common_namespace,
    require_finite,
    require_nonempty,
    require_shape,
)

if TYPE_CHECKING:
    from iga_core.adjustment import Adjustment


@dataclass(frozen=True, eq=False)
class SpectralTransform:
    """``S = I − V diag(w) Vᵀ``, applied along the group axis and never formed.

    Make one with `spectral_transform`.

    Parameters
    ----------
    eigenvalues : array, shape (end + 1,)
        The leading eigenvalues of the kernel it was made from, descending.
    vectors : array, shape (n, k)
        The eigenvectors V whose eigenvalues are equalised.
    weights : array, shape (k,)
        ``w_i = 1 − λ_ref / λ_i``, or 0 where the eigenvalue is left alone.
    """

    eigenvalues: Array
    vectors: Array
    weights: Array
    _projection: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_projection", -self.weights[:, None] * self.vectors.T)

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
        ``O(n k)`` for each number in a group.
        """
        self._require_fitting(cotangent)
        return cotangent + self.change(cotangent)

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

    def change(self, cotangent: Array) -> Array:
        """Return ``(S − I) g`` of an array (n, ...) that is known to fit the transform."""
        xp = array_namespace(cotangent)
        flat = xp.reshape(cotangent, (cotangent.shape[0], -1))
        return xp.reshape(self.vectors @ (self._projection @ flat), cotangent.shape)

    def matrix(self) -> Array:
        """Return S as a dense matrix.

        Returns
        -------
        array, shape (n, n)
        """
        xp = array_namespace(self.vectors)
        place = device(self.vectors)
        return self(xp.eye(self.vectors.shape[0], dtype=self.vectors.dtype, device=place))

    def _require_fitting(self, cotangent: Array) -> Namespace:
        xp = common_namespace(cotangent=cotangent, transform=self.vectors)
        n = self.vectors.shape[0]
        require_shape("cotangent", cotangent, (n, "..."), f"this transform is of {n} groups")
        require_nonempty("cotangent", cotangent)
        return xp


def spectral_transform(
    values: Array, vectors: Array, adjustment: "Adjustment"
) -> SpectralTransform:
    """Make S from leading eigenpairs of the kernel (Shi et al. 2025).

    Parameters
    ----------
    values : array, shape (k,)
        Eigenvalues, descending; at least ``adjustment.end + 1``, of which the first are used.
    vectors : array, shape (n, k)
        Their eigenvectors.
    adjustment : Adjustment
        `start`, `end` and `level`.

    Returns
    -------
    SpectralTransform
        Eigenvalues ``start <= i < end`` are brought to the reference level. One is safe if it
        exceeds ``n * eps * values[0]``; unsafe ones are left alone, and the reference of level
        "next" is the safe one of largest index ``<= end``. A zero kernel gives the identity.

    Raises
    ------
    TypeError, ValueError
        If there are too few pairs, they do not match or, on a CPU, are not finite.
    """
    common_namespace(values=values, vectors=vectors)
    needed = adjustment.end + 1
    if values.ndim != 1 or values.shape[0] < needed:
        raise ValueError(
            f"values: expected at least end + 1 = {needed} eigenvalues, got shape "
            f"{tuple(values.shape)}; ask leading_eigenpairs for {needed}, or lower end"
        )
    require_shape("vectors", vectors, ("n", values.shape[0]), "one column an eigenvalue")
    require_finite("values", values, "skip this step")
    require_finite("vectors", vectors, "skip this step")
    return equalised(values, vectors, adjustment)


def equalised(values: Array, vectors: Array, adjustment: "Adjustment") -> SpectralTransform:
    """Return what `spectral_transform` does, of arguments that are known to be right."""
    xp = array_namespace(values)
    values = values[: adjustment.end + 1]
    chosen = slice(adjustment.start, adjustment.end)
    safe = values > vectors.shape[0] * float(xp.finfo(values.dtype).eps) * xp.abs(values[0])
    if adjustment.level == "next":
        reference = xp.min(xp.where(safe, values, xp.abs(values[0])))
    else:
        reference = values[adjustment.start]
    ones = xp.ones_like(values)
    weights = xp.where(safe, 1 - reference / xp.where(safe, values, ones), xp.zeros_like(values))
    return SpectralTransform(values, vectors[:, chosen], weights[chosen])
