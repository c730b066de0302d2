"""Derivatives by coordinates as `torch.autograd` gives them, by a backward pass in another."""

import torch
from torch import nn


def by_autograd(network, x, order=2):
    """Value (..., C), first derivatives and second ones along each axis, both (..., C, d)."""
    if not x.requires_grad:
        x = x.detach().clone().requires_grad_()
    value = network(x)
    real = torch.view_as_real(value) if value.is_complex() else value
    first, second = [], []
    for channel in real.reshape(*x.shape[:-1], -1).unbind(-1):
        slope = _gradient(channel, x)
        first.append(slope)
        if order == 2:
            along = [_gradient(part, x)[..., k] for k, part in enumerate(slope.unbind(-1))]
            second.append(torch.stack(along, dim=-1))
    return value, *(_like(found, value) for found in (first, second) if found)


def _gradient(values, x):
    if not values.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(values.sum(), x, create_graph=True, materialize_grads=True)[0]


def _like(found, value):
    stacked = torch.stack(found, dim=-2)
    if value.is_complex():
        parts = stacked.unflatten(-2, (-1, 2))
        stacked = torch.complex(parts[..., 0, :], parts[..., 1, :])
    return stacked.reshape(*value.shape, stacked.shape[-1])


class Residuals(nn.Module):
    """Channels made of a network's derivatives: all of them, or its gradient alone.

    Parameters
    ----------
    network : nn.Module
        Of the coordinates.
    order : {1, 2}
        Of the highest derivatives.
    derivatives : callable, optional
        (network, x, order) -> value, gradient, diagonal if the order is 2; `by_autograd` without.
    """

    def __init__(self, network, order, derivatives=by_autograd, whole=True):
        super().__init__()
        self.network, self.order, self.derivatives, self.whole = network, order, derivatives, whole

    def forward(self, x):
        with torch.enable_grad():
            value, first, *second = self.derivatives(self.network, x, self.order)
        parts = [first, *second, value[..., None]] if self.whole else [first]
        return torch.cat([part.flatten(-2) for part in parts], dim=-1)
