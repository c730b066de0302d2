"""A LightningModule as people write it, of either package; to ask for it takes seconds."""

import logging

import torch
from torch import nn
from torch.utils.data import DataLoader

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


def lightning_of(package="lightning"):
    """A LightningModule of one of the packages, its Trainer, and our callback."""
    if package == "lightning":
        import lightning.pytorch as lightning

        from iga_torch.lightning import IGACallback
    else:
        import pytorch_lightning as lightning

        from iga_torch.pytorch_lightning import IGACallback
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Fitted(lightning.LightningModule):
        def __init__(self, make, late=False, descends=False):
            super().__init__()
            self.make, self.late, self.descends = make, late, descends
            self.net = nn.Identity() if late else make()
            self.validated, self.keys = [], []

        def configure_model(self):
            if isinstance(self.net, nn.Identity):
                self.net = self.make()

        def training_step(self, batch, _):
            x, y = batch
            return (self.net(x) - y).square().mean()

        def on_train_end(self):
            self.keys = list(self.state_dict())

        def validation_step(self, batch, _):
            x, y = batch
            self.validated.append(float((self.net(x) - y).square().mean()))

        def configure_optimizers(self):
            kind = torch.optim.SGD if self.descends else torch.optim.Adam
            return kind(self.net.parameters(), lr=0.02)

    return Fitted, lightning.Trainer, IGACallback


def batches(pairs):
    return DataLoader(pairs, batch_size=None)
