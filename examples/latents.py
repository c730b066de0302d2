"""Signed distances of many shapes by one network, with a latent for each (DeepSDF).

    python -m examples.latents

It printed, in 13 seconds of one core that others used too:

                    dB    gain      loss   cost
    plain         1.46   +0.00    0.0016   1.00
    Scale(0.1)    2.44   +0.99    0.0012   1.43
    IGA           3.32   +1.86   0.00093   2.63

Coordinates (B, P, 2) are grouped within their own shape, and the latents' table has factors as
all layers have. Points clamped on both sides have no part in the loss. Where they are more than
half, as with points from all over the square, IGA warns; clamped inside, they do no harm. With the
*difference* clamped in the loss (one seed, 800 steps) plain training came to 17 dB and IGA went
astray to -30: nothing pulls back a point that the mean of its group has moved beyond the clamp.
The figure is dB of the distances' mean square over that of the error.
"""

import math
import time

import torch
from torch import Tensor, nn

import iga_torch
from examples._compare import Trained, compare, decibels
from iga_core import Adjustment

SHAPES, LATENT, NEAR = 12, 16, 0.1


def outlines() -> Tensor:
    """Return points (SHAPES, M, 2) on the outlines of rounded stars."""
    random = torch.Generator().manual_seed(7)
    angle = torch.linspace(0, 2 * math.pi, 721)[:-1]
    corners = torch.randint(3, 9, (SHAPES, 1), generator=random)
    size, depth, turn = torch.rand(3, SHAPES, 1, generator=random)
    radius = 0.45 + 0.2 * size + (0.08 + 0.12 * depth) * torch.cos(corners * angle + 7 * turn)
    return radius[..., None] * torch.stack([angle.cos(), angle.sin()], -1)


def samples(outline: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return points (SHAPES, count, 2) near the outlines, and clamped distances."""
    chosen = torch.randint(outline.shape[1], (SHAPES, count))
    x = outline[torch.arange(SHAPES)[:, None], chosen] + 0.05 * torch.randn(SHAPES, count, 2)
    away = torch.cdist(x, outline).amin(-1)
    turn = torch.atan2(x[..., 1], x[..., 0]) / (2 * math.pi) * outline.shape[1]
    radius = outline.norm(dim=-1).gather(1, turn.round().long() % outline.shape[1])
    return x, torch.where(x.norm(dim=-1) < radius, -away, away).clamp(-NEAR, NEAR)


class AutoDecoder(nn.Module):
    """One network for all shapes, and a latent each."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.latents = nn.Embedding(SHAPES, LATENT)
        nn.init.normal_(self.latents.weight, std=0.1)
        self.decoder = nn.Sequential(
            nn.Linear(2 + LATENT, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, x: Tensor, shape: Tensor) -> Tensor:
        """Return distances (B, P) of points (B, P, 2) to shapes (B,).

        They are clamped here, in what IGA wraps: a clamp in the loss would leave points without a
        part in it, and a group's mean would still move those.
        """
        latent = self.latents(shape)[:, None].expand(-1, x.shape[1], -1)
        found: Tensor = self.decoder(torch.cat([x, latent], -1))[..., 0]
        return found.clamp(-NEAR, NEAR)


def train(adjustment: Adjustment | None, steps: int, points: int) -> Trained:
    """Train once, on half of the shapes a step; the figure is that of other points."""
    outline = outlines()
    pool, targets = samples(outline, 20 * points)
    network = AutoDecoder()
    model: nn.Module = network
    if adjustment is not None:
        model = iga_torch.IGA(network, None, adjustment)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    begun = time.process_time()
    for _ in range(steps):
        shape = torch.randperm(SHAPES)[: SHAPES // 2]
        chosen = torch.randint(pool.shape[1], (points,))
        error = model(pool[shape][:, chosen], shape) - targets[shape][:, chosen]
        loss = error.square().mean() + 1e-4 * network.latents.weight.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    seconds = time.process_time() - begun
    x, truth = samples(outline, 2000)
    with torch.no_grad():
        found = decibels(network(x, torch.arange(SHAPES)), truth)
    return Trained(found, loss.item(), seconds, model)


def main(steps: int = 400, points: int = 500) -> dict[str, Trained]:
    """Compare the methods."""
    return compare(lambda adjustment: train(adjustment, steps, points))


if __name__ == "__main__":
    main()
