"""The small problem of `training` in PyTorch, and data for the wrapper."""

import torch

from iga_core import SGD
from iga_torch.networks import from_network
from iga_torch.training import Trainer
from tests.support.training import COORDS, GROUPING, TARGETS, flat


def trainer(network, dtype=torch.float64, optimizer=None, **settings):
    return Trainer(
        from_network(network, dtype=dtype),
        torch.tensor(COORDS, dtype=dtype),
        torch.tensor(TARGETS, dtype=dtype),
        **{"grouping": GROUPING, "optimizer": optimizer or SGD(1.0)} | settings,
    )


def arrays(run):
    return [p.numpy().copy() for p in run.parameters]


def stepped(run):
    """The gradient that one step of SGD at rate 1 has followed."""
    before = flat(arrays(run))
    run.step()
    return before - flat(arrays(run))
