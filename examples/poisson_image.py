"""A picture from its gradients alone (the Poisson equation): a loss on a derivative.

    python -m examples.poisson_image

It printed, in 12 seconds of one core that others used too:

                    dB    gain      loss   cost
    plain        29.22   +0.00      0.45   1.00
    Scale(0.1)   20.80   -8.42      0.47   1.34
    IGA          25.06   -4.15      0.42   1.12

IGA lowers the loss and loses the picture. The likely reason: a picture is integrated from the
means of its gradients over groups, and those are what is shortened, so that its large forms come
last; the control, which shortens them all alike, loses more. Train such a loss plain.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.interpolate import RectBivariateSpline
from skimage import data
from torch import Tensor, nn

import iga_torch
from examples._compare import Trained, compare, decibels, siren
from iga_core import Adjustment


def picture(side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return coordinates, a grey photograph (side, side) from 0 to 1, and a spline's gradients."""
    grey = data.astronaut().mean(-1) / 255
    grey = grey.reshape(side, 512 // side, side, 512 // side).mean((1, 3))
    ticks = np.linspace(-1, 1, side)
    spline = RectBivariateSpline(ticks, ticks, grey)
    slopes = np.stack([spline(ticks, ticks, dx=1), spline(ticks, ticks, dy=1)], -1)
    x = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), -1)
    return torch.tensor(x).float(), torch.tensor(grey).float(), torch.tensor(slopes).float()


def train(adjustment: Adjustment | None, steps: int, side: int) -> Trained:
    """Train once; the figure is that of the picture, of which the loss knows nothing."""
    x, image, target = picture(side)
    network = siren(2, 1, omega=15)

    def slope(x: Tensor) -> Tensor:
        x = x.requires_grad_()
        return torch.autograd.grad(network(x).sum(), x, create_graph=True)[0]

    field: Callable[[Tensor], Tensor] = slope
    model: nn.Module | None = None
    if adjustment is not None:
        field = model = iga_torch.IGA(slope, None, adjustment, parameters=network.parameters())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    begun = time.process_time()
    for _ in range(steps):
        loss = (field(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    seconds = time.process_time() - begun
    with torch.no_grad():
        found = network(x)[..., 0]
    found = found - found.mean() + image.mean()  # gradients say nothing of the mean
    return Trained(decibels(found, image, peak=1), loss.item(), seconds, model or network)


def main(steps: int = 200, side: int = 64) -> dict[str, Trained]:
    """Compare the methods."""
    return compare(lambda adjustment: train(adjustment, steps, side))


if __name__ == "__main__":
    main()
