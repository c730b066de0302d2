"""Data for `iga_torch.IGA`."""

import torch

from iga_core import Grouping

GROUPING = Grouping.patches((11, 13), 3)  # 12 groups of 9 points, and 35 in none
SMALL = Grouping.patches((7, 9), 2)  # 12 groups of 4 points, and 15 in none


def data(points=GROUPING.count, seed=0, channels=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(points, 2, generator=generator, dtype=torch.float64) * 2 - 1
    return x, torch.rand(points, channels, generator=generator, dtype=torch.float64)
