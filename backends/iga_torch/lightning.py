"""The callback for `lightning.pytorch`; for `pytorch_lightning`, see the module of that name.

Nothing else of `iga_torch` imports Lightning.
"""

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        'lightning: expected to be installed, got nothing; run pip install "iga-core[lightning]", '
        "or import iga_torch.pytorch_lightning where the package is pytorch_lightning"
    ) from None

from iga_torch.callback import Adjusting

__all__ = ["IGACallback"]


class IGACallback(Adjusting, Callback):
    """Adjusts the training of a module of a LightningModule, and logs the kernel's spectrum.

    The module is wrapped in an `iga_torch.IGA` while `Trainer.fit` runs, and is itself again after
    that. Checkpoints keep their keys: those of plain runs load, and those of this one load without
    it. What the adjustment carries from step to step is in them too, so that a run that goes on has
    the numbers of one that was never broken off.

    Parameters
    ----------
    module : str
        The name of a part of the LightningModule, as ``"net"`` for what it has as ``self.net``, or
        ``"model.decoder"``. An `IGA` is left as it is, and logged.
    *args, **kwargs
        As `iga_torch.IGA` takes them behind the network.
    prefix : str
        Of what is logged: ``iga/leading``, ``iga/condition`` and ``iga/share``, see
        `iga_torch.spectrum.spectrum`. A second callback wants another one.

    Attributes
    ----------
    model : IGA or None
        The wrapper, from the beginning of the training on.

    Raises
    ------
    ValueError
        As the training begins, if there is no such module, or `IGA` refuses it, as it does where
        processes share parameters out (FSDP, DeepSpeed).

    Notes
    -----
    With several processes each adjusts its own points by its own kernel, and waits for no other;
    the first one's spectrum is logged, and its state is what a checkpoint has.

    Where the loop needs no checkpoint of the adjustment and no log, ``self.net = IGA(network)`` in
    the LightningModule is enough.

    Examples
    --------
    >>> import torch
    >>> from lightning.pytorch import LightningModule, Trainer
    >>> class Image(LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.net = torch.nn.Sequential(
    ...             torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    ...     def training_step(self, batch):
    ...         x, y = batch
    ...         return (self.net(x) - y).square().mean()
    ...     def configure_optimizers(self):
    ...         return torch.optim.Adam(self.parameters(), lr=1e-3)
    >>> x = torch.rand(256, 2)
    >>> loader = torch.utils.data.DataLoader([(x, torch.sin(9 * x[:, :1]))], batch_size=None)
    >>> callback = IGACallback("net", groups=16)
    >>> trainer = Trainer(max_steps=4, callbacks=[callback], log_every_n_steps=2, logger=False,
    ...     accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
    ...     enable_model_summary=False)
    >>> trainer.fit(Image(), loader)
    >>> callback.model.transform.matrix().shape, sorted(trainer.callback_metrics)
    (torch.Size([16, 16]), ['iga/condition', 'iga/leading', 'iga/share'])
    """
