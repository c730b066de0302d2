"""What the examples share: plain training, the control and IGA side by side, and a SIREN.

It knows PyTorch and `iga_core`'s settings; the line that wraps a network stays in each example.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from iga_core import Adjustment, Scale

Methods = Mapping[str, Adjustment | None]
METHODS: Methods = {"plain": None, "Scale(0.1)": Adjustment(filter=Scale(0.1)), "IGA": Adjustment()}
"""The second one shrinks the groups' means by a constant, without a kernel: the control."""


@dataclass(frozen=True)
class Trained:
    """What a training run gives: dB of the truth over the error, and what it took."""

    decibels: float
    loss: float
    seconds: float
    model: nn.Module


def compare(
    train: Callable[[Adjustment | None], Trained], methods: Methods = METHODS
) -> dict[str, Trained]:
    """Train once by each method and print what it gained over plain, and at which cost.

    Seconds are the processor's, of all threads: others that run beside count for less so.
    """
    found: dict[str, Trained] = {}
    print(f"{'':10}  {'dB':>6}  {'gain':>6}  {'loss':>8}  {'cost':>5}")
    for name, adjustment in methods.items():
        torch.manual_seed(0)  # equal parameters, and equal draws in the loop
        run = found[name] = train(adjustment)
        plain = found["plain"]
        print(
            f"{name:10}  {run.decibels:6.2f}  {run.decibels - plain.decibels:+6.2f}  "
            f"{run.loss:8.2g}  {run.seconds / plain.seconds:5.2f}",
            flush=True,
        )
    return found


def decibels(estimate: Tensor, truth: Tensor, peak: float | None = None) -> float:
    """PSNR of a peak; without one, the truth's own mean square takes its place."""
    signal = truth.square().mean() if peak is None else peak**2
    return 10 * math.log10(float(signal / (estimate - truth).square().mean()))


class Sine(nn.Module):
    """The sine of `omega` times its input."""

    def __init__(self, omega: float) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return torch.sin(self.omega * x)


def siren(
    inputs: int, outputs: int, width: int = 64, hidden: int = 2, omega: float = 30
) -> nn.Sequential:
    """Return a SIREN with its own initialisation (Sitzmann et al. 2020)."""
    sizes = [inputs] + [width] * (hidden + 1)
    layers = [nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise([*sizes, outputs])]
    for k, layer in enumerate(layers):
        bound = math.sqrt(6 / layer.in_features) / omega if k else 1 / layer.in_features
        nn.init.uniform_(layer.weight, -bound, bound)
    return nn.Sequential(*[part for layer in layers for part in (layer, Sine(omega))][:-1])
