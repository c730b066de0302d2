"""What the examples of trainers of others share: a picture of formulas, and a network for it."""

import torch
from torch import Tensor, nn


def picture(side: int) -> tuple[Tensor, Tensor]:
    """Return coordinates (N, 2) and colours (N, 3) of finer and finer rings and a checkerboard."""
    axis = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    rings = torch.sin(24 * (x.square() + y.square()))
    board = torch.sign(torch.sin(20 * x) * torch.sin(20 * y))
    colours = torch.stack([rings, torch.where(x > y, rings, -board), board * (x * y).abs()], dim=-1)
    return torch.stack([x, y], dim=-1).reshape(-1, 2), (0.5 + 0.5 * colours).reshape(-1, 3)


class Network(nn.Sequential):
    """A positional encoding of six octaves, and four layers."""

    def __init__(self, width: int = 128) -> None:
        super().__init__(
            nn.Linear(26, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return colours of points in [-1, 1]."""
        phases = (x[..., None] * torch.pi * 2.0 ** torch.arange(6, device=x.device)).flatten(-2)
        encoded = torch.cat([x, phases.sin(), phases.cos()], dim=-1)
        return super().forward(encoded)
