"""Weights as combinations of fixed cosines: the basis, and how large its coefficients start.

It knows NumPy only: a basis is made on the host, in float64.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from iga_core.arrays import require_count, require_number

MOST_NUMBERS = 2**31
"""Of one basis, and of the parameters of one network: 16 GiB of float64."""
VANISHING = 1e-9
"""A row of a basis that is so small beside the largest is zero but for rounding."""


@dataclass(frozen=True)
class Fourier:
    """Fourier reparameterised training: weights ``W = Λ B`` of which Λ is trained.

    The rows of B are cosines (Shi, Zhou and Gu, CVPR 2024, arXiv 2401.07402).

    Parameters
    ----------
    low : int
        Frequencies ``1/low, 2/low, ..., 1``; none if 0.
    high : int
        Frequencies ``1, 2, ..., high``; none if 0.
    phases : int
        Phases ``2πk/phases`` of each frequency.
    alpha : float, optional
        Amplitude of the cosines, from 1e-30 to 1e30; by default the one published for the kind of
        network: 0.001 for relu, 0.05 for pe, 0.004 for siren.

    Raises
    ------
    TypeError, ValueError
        If a value is out of its range.

    Examples
    --------
    >>> fourier = Fourier(low=2, high=3, phases=4)
    >>> fourier.count, fourier.basis(fan_in=8, alpha=0.05).shape
    (20, (20, 8))
    """

    low: int = 128
    high: int = 128
    phases: int = 32
    alpha: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("low", 0), ("high", 0), ("phases", 1)):
            object.__setattr__(self, name, require_count(name, getattr(self, name), least))
        if self.low + self.high == 0:
            raise ValueError(
                "low, high: expected at least one frequency, got 0 and 0; raise one of them"
            )
        if self.alpha is not None:
            object.__setattr__(self, "alpha", _require_alpha(self.alpha))

    @property
    def count(self) -> int:
        """How many cosines there are, the columns of Λ."""
        return (self.low + self.high) * self.phases

    def basis(self, fan_in: int, alpha: float) -> NDArray[np.float64]:
        """Return B, of at most 2^31 numbers.

        Parameters
        ----------
        fan_in : int
            Inputs of the layer.
        alpha : float
            Amplitude.

        Returns
        -------
        ndarray of float64, shape (count, fan_in)
            ``alpha cos(ω z + φ)`` at points z spaced evenly over one period of the lowest
            frequency, from end to end, around 0: low frequencies first, each with all its
            phases. Read-only, and kept for the next call.

        Raises
        ------
        TypeError, ValueError
            If a value is out of its range.
        """
        fan_in = require_count("fan_in", fan_in, 1)
        if self.count * fan_in > MOST_NUMBERS:
            raise ValueError(
                f"low, high, phases: expected a basis of at most {MOST_NUMBERS} numbers, got "
                f"{self.count} x {fan_in}; lower them"
            )
        return _basis(self.low, self.high, self.phases, fan_in, _require_alpha(alpha))


@functools.lru_cache(maxsize=8)
def _basis(low: int, high: int, phases: int, fan_in: int, alpha: float) -> NDArray[np.float64]:
    frequencies = np.concatenate([np.arange(1, low + 1) / max(low, 1), np.arange(1, high + 1)])
    half = math.pi / frequencies[0]
    points = np.linspace(-half, half, fan_in)
    shifts = 2 * math.pi * np.arange(phases) / phases
    angles = frequencies[:, None, None] * points + shifts[:, None]
    basis: NDArray[np.float64] = alpha * np.cos(angles).reshape(-1, fan_in)
    basis.flags.writeable = False
    return basis


def coefficient_bounds(basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the bounds of the columns of an initial Λ.

    Parameters
    ----------
    basis : ndarray of float64, shape (m, fan_in)
        ``B``.

    Returns
    -------
    ndarray of float64, shape (m,)
        ``√(6/m) / ‖b_j‖``, which makes ``Λ B`` as large as He et al. (2015) would; 0 where a row
        vanishes.
    """
    norms = np.linalg.norm(basis, axis=1)
    kept = norms > VANISHING * norms.max()
    bounds = np.zeros(norms.size)
    bounds[kept] = math.sqrt(6 / norms.size) / norms[kept]
    return bounds


def _require_alpha(alpha: float) -> float:
    # Wider, and float32 would lose the basis to overflow or to zeros.
    return require_number("alpha", alpha, 1e-30, 1e30, "0.05")
