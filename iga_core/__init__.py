"""Inductive gradient adjustment on the Python array API standard.

The mathematics of Shi, Chen, Zhang and Gu, ICML 2025 (arXiv 2410.13271): grouping, sampling, the
empirical neural tangent kernel, filters of its spectrum, and the adjusted step. No framework is
imported; arrays of any library that follows the standard go in, and the same kind comes out.
"""

from iga_core.adjuster import Adjuster
from iga_core.adjustment import Adjustment
from iga_core.filters import Damp, Equalise, Scale, Transform
from iga_core.fourier import Fourier
from iga_core.grouping import Grouping
from iga_core.network import Network
from iga_core.ntk import LayerFactors, Lookup, Rows, gram
from iga_core.optimizers import SGD, Adam, Muon
from iga_core.sampling import representatives

__all__ = [
    "SGD",
    "Adam",
    "Adjuster",
    "Adjustment",
    "Damp",
    "Equalise",
    "Fourier",
    "Grouping",
    "LayerFactors",
    "Lookup",
    "Muon",
    "Network",
    "Rows",
    "Scale",
    "Transform",
    "gram",
    "representatives",
]
