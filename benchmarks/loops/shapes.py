"""A loop in the manner of DeepSDF: several shapes, a trained latent for each."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from benchmarks.loops.signals import solids
from benchmarks.loops.training import Loop, Size, decibel

CLAMP, LATENT = 0.1, 8


class Decoder(nn.Module):
    """Layers with normalised weights; the input comes in once more in the middle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.ModuleList([self.layer(LATENT + 3, width), self.layer(width, width)])
        self.second = nn.ModuleList(
            [self.layer(width + LATENT + 3, width), self.layer(width, width)]
        )
        self.head = nn.Linear(width, 1)

    @staticmethod
    def layer(inputs: int, outputs: int) -> nn.Module:
        return weight_norm(nn.Linear(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for layer in self.first:
            out = torch.relu(layer(out))
        out = torch.cat([out, x], dim=1)
        for layer in self.second:
            out = torch.relu(layer(out))
        return torch.tanh(self.head(out))


def deep_sdf(IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    torch.manual_seed(seed)
    lat_vecs = nn.Embedding(4, LATENT)
    nn.init.normal_(lat_vecs.weight, 0.0, 1 / math.sqrt(LATENT))
    decoder = Decoder(size.width)
    decoder = IGA(decoder)
    groups = [{"params": decoder.parameters(), "lr": rate},
              {"params": lat_vecs.parameters(), "lr": 2 * rate}]  # fmt: skip
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, max(1, 2 * steps // 5), gamma=0.5)
    count = size.side**2 // 4
    held_out = samples(1000, torch.Generator().manual_seed(1))
    for _ in range(steps):
        indices, xyz, sdf_gt = samples(count)
        batch_vecs = lat_vecs(indices)
        pred_sdf = decoder(torch.cat([batch_vecs, xyz], dim=1)).clamp(-CLAMP, CLAMP)
        chunk_loss = (pred_sdf - sdf_gt.clamp(-CLAMP, CLAMP)).abs().sum() / len(sdf_gt)
        code_loss = 1e-4 * lat_vecs.weight.norm(dim=1).sum()
        optimizer.zero_grad()
        (chunk_loss + code_loss).backward()
        optimizer.step()
        schedule.step()
        log(lambda: quality(decoder, lat_vecs, held_out))


def samples(count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return random points of each shape, half of them inside: whose, where, and how far."""
    found = []
    for k in range(4):
        x = torch.rand(32 * count, 3, generator=generator) * 2 - 1
        sdf = solids(x)[k]
        # Of points anywhere so few are inside that all outputs leave the clamp, for good.
        sides = [torch.nonzero(side[:, 0])[: count // 2, 0] for side in (sdf < 0, sdf.abs() < 0.2)]
        chosen = torch.cat(sides)
        found.append((torch.full((len(chosen),), k), x[chosen], sdf[chosen]))
    indices, points, distances = zip(*found, strict=True)
    return torch.cat(indices), torch.cat(points), torch.cat(distances)


def quality(decoder: Any, lat_vecs: nn.Embedding, held_out: tuple[Tensor, Tensor, Tensor]) -> float:
    indices, xyz, sdf_gt = held_out
    found = decoder(torch.cat([lat_vecs(indices), xyz], dim=1)).clamp(-CLAMP, CLAMP)
    return decibel((found - sdf_gt.clamp(-CLAMP, CLAMP)).square().mean(), 2 * CLAMP)


LOOPS = {
    "DeepSDF, latents": Loop(deep_sdf, "DeepSDF", "PSNR of the clamped distance, held out",
                             (5e-4, 1.5e-3), steps=250, size=Size(48, 64), small=Size(12, 24)),
}  # fmt: skip
