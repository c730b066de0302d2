"""A photograph from random batches of pixels: other points at every step.

    python -m examples.random_pixels

It printed, in 19 seconds of one core that others used too:

                    dB    gain      loss   cost
    plain        27.08   +0.00    0.0019   1.00
    Scale(0.1)   28.17   +1.09    0.0014   1.24
    IGA          28.46   +1.37    0.0014   1.81

Each step finds groups of new points and a kernel of theirs, which a network of this width, 64, pays
for dearly; a batch of all pixels keeps a transform for ten steps.
"""

import time

import torch
from skimage import data
from torch import Tensor, nn

import iga_torch
from examples._compare import Trained, compare, decibels, siren
from iga_core import Adjustment


def picture(side: int) -> tuple[Tensor, Tensor]:
    """Return coordinates (N, 2) and colours (N, 3) of a photograph."""
    colours = torch.from_numpy(data.astronaut()).float() / 255
    colours = colours.reshape(side, 512 // side, side, 512 // side, 3).mean((1, 3))
    ticks = torch.linspace(-1, 1, side)
    x = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), -1)
    return x.reshape(-1, 2), colours.reshape(-1, 3)


def train(
    adjustment: Adjustment | None, network: nn.Module, steps: int, side: int, batch: int,
    lr: float, eps: float = 1e-8,
) -> Trained:  # fmt: skip
    """Train a network once; the figure is that of the whole picture."""
    x, colours = picture(side)
    model = network
    if adjustment is not None:
        model = iga_torch.IGA(network, None, adjustment)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, eps=eps)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    begun = time.process_time()
    for _ in range(steps):
        pixels = torch.randint(len(x), (batch,))
        loss = (model(x[pixels]) - colours[pixels]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    seconds = time.process_time() - begun
    with torch.no_grad():
        return Trained(decibels(network(x), colours, peak=1), loss.item(), seconds, model)


def main(steps: int = 600, side: int = 128, batch: int = 4096) -> dict[str, Trained]:
    """Compare the methods."""
    return compare(lambda it: train(it, siren(2, 3), steps, side, batch, lr=1e-3))


if __name__ == "__main__":
    main()
