"""The callback for `pytorch_lightning`, whose base class is another than that of `lightning`."""

try:
    from pytorch_lightning import Callback
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "pytorch_lightning: expected to be installed, got nothing; run pip install "
        "pytorch-lightning, or import iga_torch.lightning where the package is lightning"
    ) from None

from iga_torch.callback import Adjusting

__all__ = ["IGACallback"]


class IGACallback(Adjusting, Callback):
    """The same as `iga_torch.lightning.IGACallback`, for a Trainer of `pytorch_lightning`."""
