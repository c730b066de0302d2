"""Coordinate networks with hand-written Jacobians on any array namespace."""

from iga_array.mlp import MLP, empirical_ntk
from iga_array.training import Trainer, train

__all__ = ["MLP", "Trainer", "empirical_ntk", "train"]
