"""The Helmholtz equation Δu + k²u = q on a square, u = 0 on its border: a loss on a Laplacian.

    python -m examples.helmholtz

It printed, in 25 seconds of one core that others used too:

                    dB    gain      loss   cost
    plain         6.81   +0.00    0.0013   1.00
    Scale(0.1)    5.89   -0.92   0.00044   0.97
    IGA           5.71   -1.10   0.00048   2.53

The loss ends at a third, with the control as with IGA, and the solution is no better: functions
that the residual hardly sees carry the error, and what IGA shortens is the border's pull on those.
With other draws of points plain training came to 5.8 dB, the control to 6.2 and IGA to 11.3, and at
half the frequency to 36.6, 17.0 and 22.2: so much depends on chance and on the terms' weights. With
100 times the border's weight there, 1.1, 5.6 and 6.3.

Both terms as one function at all points came to 9.4 dB where two calls came to 22.2. Points inside
have no part in the border's term, and still its groups' means were subtracted from their values.
Take terms from one call where they are of the same points.
"""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import iga_torch
from examples._compare import Trained, compare, decibels, siren
from iga_core import Adjustment

A, B, K = math.pi, 8 * math.pi, 1.0
Function = Callable[[Tensor], Tensor]


def truth(x: Tensor) -> Tensor:
    """Return the solution."""
    return (A * x[:, 0]).sin() * (B * x[:, 1]).sin()


def border(count: int) -> Tensor:
    """Return random points of the border of [-1, 1]²."""
    x = torch.rand(count, 2) * 2 - 1
    x[torch.arange(count), torch.randint(2, (count,))] = torch.randint(2, (count,)) * 2.0 - 1
    return x


def train(adjustment: Adjustment | None, steps: int, points: int) -> Trained:
    """Train once; the figure is that of the solution."""
    network = siren(2, 1, omega=6)

    def residual(x: Tensor) -> Tensor:
        x = x.requires_grad_()
        u = network(x)[:, 0]
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        bent = [torch.autograd.grad(s.sum(), x, create_graph=True)[0] for s in slope.unbind(-1)]
        source = (K**2 - A**2 - B**2) * truth(x.detach())
        # Of the size of u: a Laplacian is 640 times larger, and the border would not count.
        return (bent[0][:, 0] + bent[1][:, 1] + K**2 * u - source) / (A**2 + B**2)

    inside: Function = residual
    on_border: Function = network
    model: nn.Module | None = None
    if adjustment is not None:
        # Two calls, for the terms have other points: in one function of both, points that have no
        # part in a term would get its group's mean subtracted all the same.
        inside = model = iga_torch.IGA(residual, None, adjustment, parameters=network.parameters())
        on_border = iga_torch.IGA(network, None, adjustment)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    begun = time.process_time()
    for _ in range(steps):
        loss = inside(torch.rand(points, 2) * 2 - 1).square().mean()
        loss = loss + on_border(border(points // 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    seconds = time.process_time() - begun
    x = torch.rand(20000, 2) * 2 - 1
    with torch.no_grad():
        found = decibels(network(x)[:, 0], truth(x))
    return Trained(found, loss.item(), seconds, model or network)


def main(steps: int = 600, points: int = 512) -> dict[str, Trained]:
    """Compare the methods."""
    return compare(lambda adjustment: train(adjustment, steps, points))


if __name__ == "__main__":
    main()
