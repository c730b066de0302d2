"""What the loops are trained on: bundled photographs, and sounds, shapes and scenes made here."""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from iga_lab.signals import load


@functools.lru_cache
def picture(name: str, side: int, channels: int = 3) -> Tensor:
    """Return a photograph in [-1, 1], (side, side, channels); one channel is its grey."""
    values = load(name, (side, None)).values
    values = np.broadcast_to(values, (*values.shape[:2], 3))
    if channels == 1:
        values = values.mean(axis=2, keepdims=True)
    return torch.as_tensor(2 * values - 1, dtype=torch.get_default_dtype())


def grid(side: int, bound: float = 1.0) -> Tensor:
    """Return pixels' coordinates in [-bound, bound], rows of (y, x)."""
    line = torch.linspace(-bound, bound, side)
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).reshape(-1, 2)


def sound(samples: int) -> Tensor:
    """Return four notes of five partials each, in [-1, 1], (samples, 1)."""
    t = torch.linspace(0, 1, samples)
    found = torch.zeros(samples)
    for note, cycles in enumerate((33, 44, 50, 66)):
        since = (t - note / 4).clamp_min(0)
        envelope = (since * 60).clamp_max(1) * torch.exp(-6 * since)
        for partial in range(1, 6):
            found += envelope * torch.sin(2 * math.pi * partial * cycles * since + note) / partial
    return (found / found.abs().max())[:, None]


RING, TUBE = 0.5, 0.22


def torus(x: Tensor) -> Tensor:
    """Return the signed distance of a torus about the third axis, (..., 1)."""
    ring = x[..., :2].norm(dim=-1) - RING
    return torch.stack([ring, x[..., 2]], dim=-1).norm(dim=-1, keepdim=True) - TUBE


def on_the_torus(count: int) -> tuple[Tensor, Tensor]:
    """Return random points of its surface, and the normals there."""
    u, v = (torch.rand(count) * 2 * math.pi for _ in range(2))
    normals = torch.stack([v.cos() * u.cos(), v.cos() * u.sin(), v.sin()], dim=-1)
    middle = torch.stack([u.cos(), u.sin(), torch.zeros(count)], dim=-1)
    return RING * middle + TUBE * normals, normals


def solids(x: Tensor) -> list[Tensor]:
    """Return the signed distances of four shapes, each (..., 1)."""
    box = x.abs() - torch.tensor([0.5, 0.3, 0.4])
    outside = box.clamp_min(0).norm(dim=-1, keepdim=True)
    column = torch.stack([x[..., :2].norm(dim=-1) - 0.3, x[..., 2].abs() - 0.6], dim=-1)
    return [
        x.norm(dim=-1, keepdim=True) - 0.55,
        outside + box.amax(dim=-1, keepdim=True).clamp_max(0),
        torus(x),
        column.clamp_min(0).norm(dim=-1, keepdim=True)
        + column.amax(dim=-1, keepdim=True).clamp_max(0),
    ]


def field(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return colours in [0, 1] and densities of a scene: a striped ball on a chequered slab."""
    ball = 0.4 - (x - torch.tensor([0.0, 0.0, 0.1])).norm(dim=-1, keepdim=True)
    slab = 0.12 - (x[..., 2:] + 0.45).abs() - (x[..., :2].abs().amax(-1, keepdim=True) - 0.7).relu()
    stripes = 0.5 + 0.5 * torch.sin(18 * x[..., 2:] + 3 * x[..., :1])
    tiles = 0.5 + 0.5 * torch.sin(9 * x[..., :1]) * torch.sin(9 * x[..., 1:2])
    colour = torch.where(
        ball > slab,
        torch.cat([stripes, 0.4 * stripes + 0.1, 0.9 - 0.7 * stripes], dim=-1),
        torch.cat([0.2 + 0.1 * tiles, tiles, 0.8 * tiles], dim=-1),
    )
    return colour, 40 * torch.sigmoid(40 * torch.maximum(ball, slab))


def camera(angle: float, side: int) -> Tensor:
    """Return the rays of a view from a circle about the scene: origins and directions, (N, 6)."""
    origin = torch.tensor([1.8 * math.cos(angle), 1.8 * math.sin(angle), 0.7])
    forward = -origin / origin.norm()
    right = torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0]))
    right = right / right.norm()
    up = torch.linalg.cross(right, forward)
    yx = grid(side, 0.5)
    directions = forward + yx[:, :1] * up + yx[:, 1:] * right
    directions = directions / directions.norm(dim=-1, keepdim=True)
    return torch.cat([origin.expand_as(directions), directions], dim=-1)
