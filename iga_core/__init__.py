"""Inductive gradient adjustment on the Python array API standard.

The mathematics of Shi, Chen, Zhang and Gu, ICML 2025 (arXiv 2410.13271): grouping, sampling, the
empirical neural tangent kernel, its spectrum, and the transform of the gradient. No framework is
imported; arrays of any library that follows the standard go in, and the same kind comes out.
"""

from iga_core.adjustment import Adjustment, AdjustmentState, adjust
from iga_core.fourier import Fourier
from iga_core.grouping import Grouping
from iga_core.network import Network
from iga_core.ntk import LayerFactors, Lookup, Rows, gram
from iga_core.optimizers import SGD, Adam, Muon
from iga_core.sampling import representatives
from iga_core.spectrum import leading_eigenpairs
from iga_core.transform import SpectralTransform, spectral_transform

__all__ = [
    "SGD",
    "Adam",
    "Adjustment",
    "AdjustmentState",
    "Fourier",
    "Grouping",
    "LayerFactors",
    "Lookup",
    "Muon",
    "Network",
    "Rows",
    "SpectralTransform",
    "adjust",
    "gram",
    "leading_eigenpairs",
    "representatives",
    "spectral_transform",
]
