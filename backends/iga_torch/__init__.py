"""Inductive gradient adjustment of any PyTorch network, by one line."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        'torch: expected to be installed, got nothing; run pip install "iga-core[torch]"'
    ) from None

from iga_torch.derivatives import Derivatives, derivatives
from iga_torch.kernel import empirical_ntk, kernel_report
from iga_torch.muon import Muon
from iga_torch.networks import from_network
from iga_torch.training import Trainer
from iga_torch.wrapper import IGA

__all__ = [
    "IGA",
    "Derivatives",
    "Muon",
    "Trainer",
    "derivatives",
    "empirical_ntk",
    "from_network",
    "kernel_report",
]
