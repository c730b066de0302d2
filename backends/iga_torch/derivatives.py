"""Derivatives of a network by its coordinates, made of operations that keep the kernel's factors.

It knows which way of having them is the fastest; how they pass through operations, `taylor` knows.
"""

import contextlib
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import has_torch_function
from torch.utils.checkpoint import CheckpointError

from iga_torch.checking import (
    chosen_half,
    full_precision,
    require_module,
    require_separate_rows,
    require_tensor,
)
from iga_torch.recording import WithoutDropout, eagerly, evaluating
from iga_torch.taylor import Taylor
from iga_torch.taylor_rules import RULES
from iga_torch.wrapper import IGA

_CHANNELS: "WeakKeyDictionary[nn.Module, dict[object, int | None]]" = WeakKeyDictionary()
"""Of networks that were looked at, the numbers a point; by the form of the call."""


class Derivatives(NamedTuple):
    """Values of a network, and their derivatives by the coordinates.

    Attributes
    ----------
    value : Tensor, shape (..., C)
        As the network returns it.
    gradient : Tensor, shape (..., C, d)
        First derivatives.
    laplacian : Tensor, shape (..., C), optional
        Sums of the second derivatives along all axes; None with order 1.
    diagonal : Tensor, shape (..., C, d), optional
        The second derivatives along each axis; None where they were not asked for.

    Examples
    --------
    >>> import torch
    >>> found = derivatives(torch.nn.Linear(3, 2), torch.rand(5, 3), 1)
    >>> found.gradient.shape, found.laplacian
    (torch.Size([5, 2, 3]), None)
    """

    value: Tensor
    gradient: Tensor
    laplacian: Tensor | None = None
    diagonal: Tensor | None = None


@torch.compiler.disable
def derivatives(
    network: nn.Module, x: Tensor, order: int, *args: Any, diagonal: bool = False, **kwargs: Any
) -> Derivatives:
    """Return a network's outputs and their derivatives by its coordinates.

    They are what `torch.autograd.grad` gives, and differentiable by parameters as often as one
    likes. Unlike there, every use of a weight is seen by `IGA` and `empirical_ntk` around a module
    that returns these, so that it keeps its factors.

    Parameters
    ----------
    network : nn.Module
        Gives a row of channels, or a number, for each point, which depends on its own point only.
    x : Tensor, shape (..., d)
        Coordinates.
    order : {1, 2}
        Of the highest derivatives.
    *args, **kwargs
        What else the network takes; held constant.
    diagonal : bool
        Whether to return second derivatives along each axis too, as wave equations have them. They
        cost d - 1 evaluations more.

    Returns
    -------
    Derivatives
        A tuple of value, gradient, Laplacian and diagonal.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another kind, outputs depend on other points, or the network does
        something to the coordinates whose derivatives are not known here.

    Notes
    -----
    Derivatives are carried forward through every operation, beside the value (Taylor mode). Where
    one evaluation of a network of C channels costs 1, value and gradient cost ``1 + d`` so, and
    with the Laplacian ``2 + d``; backward passes cost ``1 + C``, and ``1 + C (1 + 2 d)``. So the
    gradient of fewer channels than axes is left to autograd, but where its operations are looked
    at, as for a kernel.

    What the network detaches is constant, as it is to autograd; the "finer" kind of `from_network`
    does that. Autocast is switched off. At the first call of each form the network is evaluated
    once more, to see that points are separate. Third derivatives of `torch.nn.LayerNorm`, which
    the gradient of a Laplacian takes, are right here, and were not in autograd of PyTorch 2.13.

    Examples
    --------
    The residual of ``Δu + u = 0``, whose adjusted gradient a module gives:

    >>> import torch
    >>> class Helmholtz(torch.nn.Module):
    ...     def __init__(self, net):
    ...         super().__init__()
    ...         self.net = net
    ...
    ...     def forward(self, x):
    ...         u, _, laplacian, _ = derivatives(self.net, x, 2)
    ...         return laplacian + u
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> model = IGA(Helmholtz(net), groups=16)
    >>> model(torch.rand(320, 2)).square().mean().backward()
    >>> len(model.kernel_report().explicit)
    0
    """
    _require(network, x, order, diagonal)
    channels = _looked_at(network, x, args, kwargs)
    with eagerly(x.device.type):
        # Where a mode watches operations, as the kernel's does, they must be there to be seen.
        unseen = not has_torch_function((x,)) and not torch.is_inference_mode_enabled()
        if order == 1 and channels is not None and channels < x.shape[-1] and unseen:
            return _pulled_back(network, x, args, kwargs)
        return _carried(network, x, order, diagonal, args, kwargs)


def _require(network: Any, x: Any, order: Any, diagonal: Any) -> None:
    require_module(network)
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor, got {type(x).__name__}; use torch.as_tensor first")
    if x.ndim < 1 or not x.is_floating_point() or not x.shape[-1]:
        raise ValueError(
            f"x: expected real coordinates of shape (..., d), got {x.dtype} of {tuple(x.shape)}; "
            "pass one row a point"
        )
    if order not in (1, 2) or isinstance(order, bool):
        raise ValueError(
            f"order: expected 1 or 2, got {order!r}; for higher ones take torch.autograd.grad of "
            "these by x"
        )
    if diagonal and order == 1:
        raise ValueError(
            "diagonal: expected False with order 1, got True; pass order=2 for second derivatives"
        )
    if any(isinstance(module, IGA) and module.training for module in network.modules()):
        raise ValueError(
            "network: expected one that is not adjusted, got an IGA in training mode; pass the "
            "network in it, or put it into eval mode; to adjust a loss on derivatives, wrap a "
            "module that returns them"
        )


def _looked_at(
    network: nn.Module, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> int | None:
    """Return the real channels of a network, once it is known that points are separate.

    None where they are complex, or nothing is known: of a single point, and inside transforms of
    `torch.func`.
    """
    count = x.shape[:-1].numel()
    if count < 2 or torch._C._are_functorch_transforms_active():
        return None
    modes = tuple(module.training for module in network.modules())
    form = (x.ndim, x.shape[-1], len(args), frozenset(kwargs), modes)
    known = _CHANNELS.setdefault(network, {})
    if form not in known:
        known[form] = _require_separate(network, x, args, kwargs)
    return known[form]


def _require_separate(
    network: nn.Module, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> int | None:
    lead = x.shape[:-1]
    with contextlib.ExitStack() as stack:
        with torch._C.DisableTorchFunction():  # to another mode it would be a use of weights
            stack.enter_context(evaluating(network))
        stack.enter_context(full_precision())
        own = x.detach().clone().requires_grad_()
        taylor = Taylor(RULES, watching=True)
        started = taylor.start(own)
        with WithoutDropout(), taylor:
            found = network(started, *args, **kwargs)
        _require_output(found, lead)
        taylor.end(found)
        rows = torch.view_as_real(found.resolve_conj()) if found.is_complex() else found
        rows = rows.reshape(*lead, -1)
        # No sum of channels that may be the same for every point.
        weights = torch.arange(1, rows.shape[-1] + 1, dtype=rows.dtype, device=rows.device)
        half = chosen_half(lead.numel(), x.device).reshape(lead)
        for chosen in (half, ~half) if found.requires_grad else ():
            scalar = (rows[chosen] * weights).sum()
            try:
                (slope,) = torch.autograd.grad(scalar, own, retain_graph=True, allow_unused=True)
            except CheckpointError as error:
                raise ValueError(
                    "network: expected no checkpoint in its forward pass, got one, which does not "
                    "see derivatives; put it around derivatives(...)"
                ) from error
            if slope is not None:
                require_separate_rows(slope, chosen, torch.finfo(x.dtype).eps)
    return None if found.is_complex() else rows.shape[-1]


def _require_output(found: Any, lead: torch.Size) -> None:
    require_tensor(found)
    if found.shape[: len(lead)] != lead:
        wanted = ", ".join(map(str, lead))
        raise ValueError(
            f"network: expected outputs of shape ({wanted}, channels) for these coordinates, got "
            f"{tuple(found.shape)}; return one row of channels a point"
        )


def _carried(
    network: nn.Module,
    x: Tensor,
    order: int,
    diagonal: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Derivatives:
    """Carry derivatives forward."""
    axes = range(x.shape[-1])
    groups = [[k] for k in axes] if diagonal else [list(axes)]
    taylor = Taylor(RULES, len(axes), groups if order == 2 else [])
    started = taylor.start(x)
    with taylor:
        found = network(started, *args, **kwargs)
    _require_output(found, x.shape[:-1])
    jet = taylor.end(found)
    gradient = torch.stack(jet.first, dim=-1)
    if order == 1:
        return Derivatives(found, gradient)
    second = torch.stack(taylor.second(jet), dim=-1)
    if diagonal:
        return Derivatives(found, gradient, second.sum(dim=-1), second)
    return Derivatives(found, gradient, second[..., 0])


def _pulled_back(
    network: nn.Module, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Derivatives:
    """Have autograd take the gradient, of one channel after another."""
    kept = torch.is_grad_enabled()
    with torch.enable_grad():
        # Of its own, so that what else was made of x is constant.
        own = x.view_as(x) if kept and x.requires_grad else x.detach().requires_grad_()
        value = network(own, *args, **kwargs)
        _require_output(value, x.shape[:-1])
        channels = value.reshape(*x.shape[:-1], -1).unbind(-1)
        slopes = [
            torch.autograd.grad(
                channel.sum(), own, create_graph=kept, retain_graph=True, materialize_grads=True
            )[0]
            for channel in (channels if value.requires_grad else ())
        ]
    gradient = torch.stack(slopes, dim=-2) if slopes else value.new_zeros(())
    gradient = gradient.expand(*x.shape[:-1], len(channels), x.shape[-1])
    gradient = gradient.reshape(*value.shape, x.shape[-1])
    return Derivatives(value if kept else value.detach(), gradient)
