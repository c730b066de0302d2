"""A photograph in a multiresolution hash grid with a small network behind it.

    python -m examples.hash_grid

It printed, in 40 seconds of one core that others used too:

                    dB    gain      loss   cost
    plain        28.45   +0.00    0.0014   1.00
    Scale(0.1)   29.19   +0.75    0.0012   1.06
    IGA          29.48   +1.03    0.0011   1.74

The loop is that of `random_pixels`. Nearly all of the gain is the control's, which costs little: a
hash grid learns fine detail early. All of its tables have factors.
"""

import torch
from torch import Tensor, nn

from examples._compare import Trained, compare
from examples.random_pixels import train

CORNERS = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
PRIME = 2_654_435_761


class HashGrid(nn.Module):
    """Levels of grids whose corners share a table by a hash (Müller et al. 2022), and an MLP."""

    def __init__(self, levels: int = 8, entries: int = 2**10, width: int = 64) -> None:
        super().__init__()
        self.entries = entries
        self.sizes = [int(8 * 1.4**k) for k in range(levels)]
        self.tables = nn.ModuleList(nn.Embedding(entries, 2) for _ in self.sizes)
        for table in self.tables.parameters():
            nn.init.uniform_(table, -1e-4, 1e-4)
        self.mlp = nn.Sequential(
            nn.Linear(2 * levels, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return colours of points (N, 2) in [-1, 1]."""
        found = []
        for size, table in zip(self.sizes, self.tables, strict=True):
            place = (x + 1) / 2 * size
            low = place.floor()
            corner = low.long()[:, None] + CORNERS
            index = (corner[..., 0] ^ (corner[..., 1] * PRIME)) % self.entries
            beside = (place - low)[:, None]
            weight = torch.where(CORNERS == 1, beside, 1 - beside).prod(-1, keepdim=True)
            found.append((weight * table(index)).sum(1))
        colours: Tensor = self.mlp(torch.cat(found, -1))
        return colours


def main(steps: int = 400, side: int = 128, batch: int = 4096) -> dict[str, Trained]:
    """Compare the methods."""
    return compare(lambda it: train(it, HashGrid(), steps, side, batch, lr=1e-2, eps=1e-15))


if __name__ == "__main__":
    main()
