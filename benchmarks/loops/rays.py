"""A loop in the manner of nerf: random rays, stratified samples, a colour for each ray."""

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.loops.signals import camera, field
from benchmarks.loops.training import Loop, Size, cooldown, decibel

NEAR, FAR, SAMPLES, VIEWS = 0.8, 2.8, 24, 8


def embedded(x: Tensor, frequencies: int) -> Tensor:
    waves = [f(x * 2.0**k * math.pi) for k in range(frequencies) for f in (torch.sin, torch.cos)]
    return torch.cat([x, *waves], dim=-1)


class Field(nn.Module):
    """Colours and densities of places seen from directions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(27, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(),
        )  # fmt: skip
        self.alpha = nn.Linear(width, 1)
        self.views = nn.Sequential(nn.Linear(width + 15, width // 2), nn.ReLU(),
                                   nn.Linear(width // 2, 3))  # fmt: skip

    def forward(self, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(embedded(x, 4))
        colour = self.views(torch.cat([h, embedded(d, 2)], dim=-1))
        return torch.sigmoid(colour), nn.functional.softplus(self.alpha(h))


def composite(colour: Tensor, density: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the colour of each ray on a white ground, and its depth."""
    width = torch.diff(t, dim=-1, append=torch.full_like(t[..., :1], FAR + (FAR - NEAR) / SAMPLES))
    passed = torch.exp(-density[..., 0] * width)
    before = torch.cumprod(torch.cat([torch.ones_like(passed[..., :1]), passed], dim=-1), dim=-1)
    weights = (1 - passed) * before[..., :-1]
    rgb = (weights[..., None] * colour).sum(-2) + (1 - weights.sum(-1, keepdim=True))
    return rgb, (weights * t).sum(-1)


def places(rays: Tensor, samples: int, perturb: bool) -> tuple[Tensor, Tensor]:
    """Return the places along some rays, and how far they are."""
    edges = torch.linspace(NEAR, FAR, samples + 1)
    t = edges[:-1].expand(len(rays), -1)
    part = torch.rand(t.shape) if perturb else torch.full(t.shape, 0.5)
    t = t + part * (FAR - NEAR) / samples
    return rays[:, None, :3] + t[..., None] * rays[:, None, 3:], t


@functools.lru_cache
def dataset(side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return rays and colours of some views, and of one that is held out."""
    found = []
    for angles in ([2 * math.pi * k / VIEWS for k in range(VIEWS)], [math.pi / VIEWS]):
        rays = torch.cat([camera(angle, side) for angle in angles])
        x, t = places(rays, 96, False)
        colour, density = field(x)
        width = (FAR - NEAR) / 96
        passed = torch.exp(-density[..., 0] * width)
        before = torch.cumprod(torch.cat([torch.ones_like(t[:, :1]), passed], dim=-1), dim=-1)
        weights = (1 - passed) * before[..., :-1]
        rgb = (weights[..., None] * colour).sum(1) + 1 - weights.sum(1, keepdim=True)
        found += [rays, rgb]
    return tuple(found)  # type: ignore[return-value]


def nerf(IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    torch.manual_seed(seed)
    all_rays, all_rgb, val_rays, val_rgb = dataset(size.side)
    network = Field(size.width)
    perturb = size.width > 16  # dense algebra has to see the same places twice

    def render(rays: Tensor, perturb: bool = perturb) -> dict[str, Tensor]:
        x, t = places(rays, SAMPLES, perturb)
        colour, density = network(x, rays[:, None, 3:].expand_as(x))
        rgb, depth = composite(colour, density, t)
        return {"rgb_map": rgb, "depth_map": depth}

    rendered = IGA(render, parameters=network.parameters(), output="rgb_map")
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.9, 0.999))
    schedule = cooldown(optimizer, steps)
    for _ in range(steps):
        batch = torch.randperm(len(all_rays))[: 16 * size.width // 4]
        loss = ((rendered(all_rays[batch])["rgb_map"] - all_rgb[batch]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        log(lambda: decibel(
            (render(val_rays, False)["rgb_map"] - val_rgb).square().mean(), 1))  # fmt: skip


LOOPS = {
    "ray batches": Loop(nerf, "nerf", "PSNR of a view that is held out", (5e-4, 1.5e-3),
                        steps=250, size=Size(24, 64)),
}  # fmt: skip
