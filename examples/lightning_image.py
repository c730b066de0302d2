"""A picture by random pixels in Lightning, plain and with the callback of IGA.

    pip install "iga-core[lightning]"
    python -m examples.lightning_image

The callback wraps `self.net` while the Trainer fits it, logs the spectrum of its kernel, and puts
what the adjustment carries into checkpoints, whose weights keep their names.

On two cores: plain 15.9 dB, IGA 25.3 dB after 400 steps, 3 and 5 s; at the
end `iga/leading` was 1.05e+03, `iga/condition` 60.4 and `iga/share` 0.312. Of the rates 1e-3, 2e-3,
5e-3 and 1e-2, this one is plain training's best.
"""

import logging
import time
import warnings
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from examples._picture import Network, picture
from iga_torch.lightning import IGACallback

SIZE, STEPS, BATCH, RATE = 128, 400, 2048, 5e-3


class Pixels(IterableDataset):
    """Random ones, a batch at a time."""

    def __iter__(self):
        coords, colours = picture(SIZE)
        while True:
            batch = torch.randint(len(coords), (BATCH,))
            yield coords[batch], colours[batch]


class Image(LightningModule):
    """Nothing in it knows of IGA."""

    def __init__(self):
        super().__init__()
        self.net = Network()

    def training_step(self, batch, _):
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def validation_step(self, batch, _):
        x, y = batch
        self.log("psnr", -10 * nn.functional.mse_loss(self.net(x), y).log10())

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def fitted(callbacks):
    seed_everything(0, verbose=False)
    trainer = Trainer(
        max_steps=STEPS, val_check_interval=STEPS, num_sanity_val_steps=0, callbacks=callbacks,
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    whole: Any = DataLoader([picture(SIZE)], batch_size=None)  # type: ignore[arg-type]  # a list will do
    trainer.fit(Image(), DataLoader(Pixels(), batch_size=None), whole)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    for name, callbacks in (("plain", []), ("IGA", [IGACallback("net")])):
        begin = time.perf_counter()
        found = fitted(callbacks)
        seconds = time.perf_counter() - begin
        print(f"{name:5}  {found.pop('psnr'):4.1f} dB after {STEPS} steps, {seconds:.0f} s")
    print("  ".join(f"{name} {value:.3g}" for name, value in found.items()))
