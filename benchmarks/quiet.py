"""Groups whose tangents are nearly zero: what Damp's guard against them is worth.

    python -m benchmarks.quiet

A photograph, `astronaut` at 48 x 48, is fitted by ``mask(x) * network(x)``, of which the mask is
small on the right third, as of rays that see little. Compared under Adam and a cosine schedule, in
PSNR of the masked picture (median of the last 100 of 600 steps): plain training; `Damp`; `Damp`
with the quiet groups left plain; and with μ from all safe eigenvalues, the quiet groups' too.
"""

import argparse
import math
import statistics
from typing import Any

import torch
from torch import Tensor, nn

import iga_torch
from benchmarks._report import environment, write_text
from iga_core import Adjustment, Damp, Grouping, Network, Transform
from iga_core.filters import QUIET, SAFE, Filter
from iga_lab.signals import load

SIZE, PATCH, WIDTH = 48, 4, 64
RATES = {"pe": 5e-3, "siren": 1e-3}
DIMMED = (0.05, 0.01)
SEEDS = (0, 1)


def left_plain(kernel: Tensor) -> Transform:
    """`Damp`, with the identity in the rows and columns of quiet groups."""
    transform = Damp()(kernel)
    diagonal = kernel.diagonal()
    quiet = diagonal < QUIET * diagonal.mean()
    S = transform.S.clone()
    S[quiet, :] = S[:, quiet] = 0
    S.diagonal()[quiet] = 1
    return Transform(S)


def unguarded(kernel: Tensor) -> Transform:
    """Tikhonov's filter with the geometric mean of all safe eigenvalues."""
    wide = kernel.double()
    values = torch.linalg.eigvalsh(wide)
    mu = values[values > SAFE * torch.finfo(kernel.dtype).eps * values[-1]].log().mean().exp()
    return Transform(torch.linalg.inv(wide / mu + torch.eye(len(wide))).to(kernel.dtype))


FILTERS: dict[str, Filter | None] = {
    "plain": None, "Damp": Damp(), "quiet groups plain": left_plain, "no guard": unguarded,
}  # fmt: skip


class Dimmed(nn.Module):
    """A network whose outputs are small where x > 1/3."""

    def __init__(self, network: nn.Module, low: float) -> None:
        super().__init__()
        self.network, self.low = network, low

    def forward(self, coords: Tensor) -> Tensor:
        """Evaluate points (N, 2)."""
        outputs: Tensor = self.network(coords)
        return self.mask(coords) * outputs

    def mask(self, coords: Tensor) -> Tensor:
        """Return the factor on each point's outputs, (N, 1)."""
        return torch.where(coords[:, :1] > 1 / 3, self.low, 1.0)


def psnr(kind: str, low: float, seed: int, spectral: Filter | None, steps: int) -> float:
    """Train once."""
    axis = torch.linspace(-1, 1, SIZE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    coords = torch.stack([x.ravel(), y.ravel()], dim=1)
    network = Dimmed(iga_torch.from_network(Network(kind, width=WIDTH), seed), low)
    picture = torch.as_tensor(load("astronaut", (SIZE, None)).values, dtype=torch.float32)
    targets = network.mask(coords) * picture.reshape(-1, 3)
    model: nn.Module = network
    if spectral is not None:
        grouping = Grouping.patches((SIZE, SIZE), PATCH)
        model = iga_torch.IGA(network, grouping, Adjustment(spectral, seed=seed))
    optimizer = torch.optim.Adam(network.parameters(), lr=RATES[kind])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(coords), targets)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        found.append(-10 * math.log10(loss.item()))
    return statistics.median(found[-100:])


def main(arguments: Any = None) -> None:
    """Run all and write the table."""
    parser = argparse.ArgumentParser(description="What Damp's guard against quiet groups is worth.")
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lines = [f"| network, mask, seed | {' | '.join(FILTERS)} |", "|---" * (len(FILTERS) + 1) + "|"]
    print(*lines, sep="\n")
    for kind in RATES:
        for low in DIMMED:
            for seed in SEEDS:
                row = [psnr(kind, low, seed, f, options.steps) for f in FILTERS.values()]
                numbers = " | ".join(f"{value:.1f}" for value in row)
                lines.append(f"| {kind}, {low}, {seed} | {numbers} |")
                print(lines[-1], flush=True)
    measured = ", ".join(f"{name} {value}" for name, value in environment().items())
    what = (__doc__ or "").strip()
    write_text("quiet.md", "\n".join([f"# {what}", "", measured, "", *lines, ""]))


if __name__ == "__main__":
    main()
