"""A picture by random pixels in two processes of DistributedDataParallel, plain and with IGA.

    pip install "iga-core[torch]"
    python -m examples.ddp

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

from examples._picture import Network, picture
from iga_torch import IGA

PROCESSES, SIZE, STEPS, BATCH, RATE = 2, 128, 400, 2048, 5e-3


def train(rank, adjusted):
    torch.manual_seed(0)  # DDP sends the first process's parameters to all, in any case
    network = Network()
    model = DistributedDataParallel(IGA(network) if adjusted else network)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    coords, colours = picture(SIZE)
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
