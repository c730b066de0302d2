"""Loops of others' trainers: Lightning, and two processes under DistributedDataParallel."""

import logging
import math
import os
import pickle
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from benchmarks.loops.signals import grid, picture
from benchmarks.loops.training import Loop, Size, cooldown, decibel

PROCESSES = 2


class Encoded(nn.Module):
    """A network of ReLU on Fourier features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(26, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        waves = [f(x * 2.0**k * math.pi) for k in range(6) for f in (torch.sin, torch.cos)]
        return self.net(torch.cat([x, *waves], dim=-1))


def lightning(IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    warnings.filterwarnings("ignore", module="lightning")  # of workers, and of what it imports
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    import lightning.pytorch as pl  # seconds, of which only this loop should know

    coords, colours = grid(size.side), picture("coffee", size.side).reshape(-1, 3)

    class Picture(pl.LightningModule):
        """A network and how it is trained."""

        def __init__(self) -> None:
            super().__init__()
            self.net = Encoded(size.width)
            self.net = IGA(self.net)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, _: int) -> Tensor:
            x, y = batch
            return F.mse_loss(self(x), y)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=rate)
            schedule = {"scheduler": cooldown(optimizer, steps), "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": schedule}

        def on_train_batch_end(self, *_: Any) -> None:
            log(lambda: decibel(F.mse_loss(self(coords), colours)))

    pl.seed_everything(seed, verbose=False)
    data = TensorDataset(coords, colours)
    loader = DataLoader(data, batch_size=len(data) // 2, shuffle=True)
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Picture(), loader)


def processes(IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    with tempfile.TemporaryDirectory() as folder:
        given = (IGA, log, rate, seed, steps, size)
        spawn(started, (folder, torch.get_default_dtype(), given), nprocs=PROCESSES)
        found, logged = pickle.loads((Path(folder) / "found").read_bytes())
    IGA.found.update(found)
    log.__dict__.update(logged)


def started(rank: int, folder: str, dtype: torch.dtype, given: Any) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(dtype)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES
    )
    try:
        worker(rank, *given)
    finally:
        dist.destroy_process_group()
    IGA, log, *_ = given
    IGA.finish()
    if rank == 0:
        (Path(folder) / "found").write_bytes(pickle.dumps((IGA.found, vars(log))))


def worker(rank: int, IGA: Any, log: Any, rate: float, seed: int, steps: int, size: Size) -> None:
    torch.manual_seed(seed)
    coords, colours = grid(size.side), picture("chelsea", size.side).reshape(-1, 3)
    data = TensorDataset(coords, colours)
    sampler: Any = DistributedSampler(data, PROCESSES, rank, seed=seed)
    loader = DataLoader(data, batch_size=len(data) // PROCESSES, sampler=sampler)
    net = Encoded(size.width)
    net = IGA(net)
    model = DistributedDataParallel(net)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = cooldown(optimizer, steps)
    for epoch in range(steps):
        sampler.set_epoch(epoch)
        for x, y in loader:
            loss = F.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if rank == 0:
            log(lambda: decibel(F.mse_loss(net(coords), colours)))


LOOPS = {
    "Lightning": Loop(lightning, "Lightning", "PSNR", (1e-3, 3e-3)),
    "two processes": Loop(processes, "DistributedDataParallel", "PSNR", (1e-3, 3e-3),
                          steps=150, size=Size(40, 48)),
}  # fmt: skip
