"""A picture by random pixels in two processes of DistributedDataParallel, plain and with IGA.

    pip install "iga-core[torch]"
    python examples/ddp.py

`DDP(IGA(network))` and `IGA(DDP(network))` are the same: each process groups its own points, has
its own kernel and adjusts its own gradient; DDP takes the mean of these, as ever. No process waits
for another's kernel: one that has no points, skips the adjustment or accumulates holds up nobody.

On two cores: plain 16.6 dB, IGA 25.2 dB after 400 steps, 3 and 6 s. Of the
rates 1e-3, 2e-3, 5e-3 and 1e-2, this one is plain training's best.
"""

import tempfile
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from iga_torch import IGA

PROCESSES, SIZE, STEPS, BATCH, RATE = 2, 128, 400, 2048, 5e-3


def picture():
    """Rings that become finer outwards, an edge through them, and a checkerboard."""
    axis = torch.linspace(-1, 1, SIZE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    rings = torch.sin(24 * (x.square() + y.square()))
    board = torch.sign(torch.sin(20 * x) * torch.sin(20 * y))
    colours = torch.stack([rings, torch.where(x > y, rings, -board), board * (x * y).abs()], dim=-1)
    return torch.stack([x, y], dim=-1).reshape(-1, 2), (0.5 + 0.5 * colours).reshape(-1, 3)


class Network(nn.Sequential):
    """A positional encoding of six octaves, and four layers."""

    def __init__(self, width=128):
        super().__init__(
            nn.Linear(26, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3),
        )  # fmt: skip

    def forward(self, x):
        phases = (x[..., None] * torch.pi * 2.0 ** torch.arange(6, device=x.device)).flatten(-2)
        return super().forward(torch.cat([x, phases.sin(), phases.cos()], dim=-1))


def train(rank, adjusted):
    torch.manual_seed(0)  # DDP sends the first process's parameters to all, in any case
    network = Network()
    model = DistributedDataParallel(IGA(network) if adjusted else network)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    coords, colours = picture()
    generator = torch.Generator().manual_seed(rank)
    for _ in range(STEPS):
        batch = torch.randint(len(coords), (BATCH // PROCESSES,), generator=generator)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(coords[batch]), colours[batch]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return -10 * nn.functional.mse_loss(network(coords), colours).log10().item()


def process(rank, store):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES
    )  # fmt: skip
    for name, adjusted in (("plain", False), ("IGA", True)):
        begin = time.perf_counter()
        found = train(rank, adjusted)
        if rank == 0:
            seconds = time.perf_counter() - begin
            print(f"{name:5}  {found:4.1f} dB after {STEPS} steps, {seconds:.0f} s")
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        spawn(process, (f"{folder}/store",), nprocs=PROCESSES)
