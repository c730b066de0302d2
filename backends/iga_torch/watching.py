"""Outputs of which somebody hears the gradient, and may hand on another one.

It knows autograd's backward pass, and nothing of what becomes of a gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

NO_BACKWARD = (
    "call: expected none inside a transform of torch.func or under forward-mode differentiation, "
    "got one (grad, vmap, jvp, jacrev, ...), which has no backward pass to adjust; take gradients "
    "by backward() or torch.autograd.grad; for a loss on a derivative, wrap the function that "
    "returns it, IGA(function, parameters=network.parameters()), with the transform inside; or "
    "call the model in eval() mode or inside `with model.plain():`, where it is not adjusted"
)
"""What an error says to those who differentiate in other ways."""

Returned: TypeAlias = Callable[[list[Tensor], list[Tensor]], list[Tensor]]
"""From the outputs' cotangents and the tensors that were kept to the cotangents handed on."""


def watched(
    outputs: Sequence[Tensor], tensors: Sequence[Tensor], returned: Returned
) -> tuple[Tensor, ...]:
    """Return outputs as they are, whose gradients go through `returned`.

    Parameters
    ----------
    outputs : sequence of Tensor
        Of one call.
    tensors : sequence of Tensor
        Kept for it as autograd keeps them, so that their change in place is noticed.
    returned : callable
        Called once in each backward pass that reaches any of the outputs, not compiled; zeros
        stand for those that it does not reach.
    """
    found: tuple[Tensor, ...] = _Watch.apply(returned, tensors, *outputs)
    return found


class _Watch(torch.autograd.Function):
    """The identity, but for its gradient."""

    @staticmethod
    def forward(
        ctx: Any, returned: Returned, tensors: Sequence[Tensor], *outputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*(_savable(tensor.detach()) for tensor in tensors))
        ctx.returned = returned
        # A view could not be changed in place by the caller.
        return tuple(output.clone() for output in outputs)

    @staticmethod
    def jvp(_: Any, *__: Any) -> Tensor:
        raise RuntimeError(NO_BACKWARD)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *_outside_compilation(ctx.returned, cotangents, ctx.saved_tensors)


@torch.compiler.disable
def _outside_compilation(
    returned: Returned, cotangents: tuple[Tensor, ...], tensors: tuple[Tensor, ...]
) -> list[Tensor]:
    return returned(list(cotangents), list(tensors))


def _savable(tensor: Tensor) -> Tensor:
    """Return a tensor that autograd can save: one made under inference mode cannot be."""
    return tensor.clone() if tensor.is_inference() else tensor
