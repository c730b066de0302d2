"""What an optimizer should know of adjusted gradients, said once where it can be seen."""

import warnings
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

SHORT = "the adjusted gradient is shorter than the plain one, by 1 to 1,000 times"
ADDED = {getattr(torch.optim, name) for name in ("SGD", "Adam", "RMSprop", "Adagrad", "Adadelta",
                                                 "NAdam", "RAdam", "Adamax", "ASGD")}  # fmt: skip
"""Optimizers that add weight decay to the gradient, unless they are told otherwise."""
NEAR = 10.0
"""So many times `eps` an average entry of a gradient should be, or `eps` decides the step."""

NEARLY_ZERO = 1e-3
"""Of the mean size of a cotangent: below it, the loss hardly asks anything of a point."""


def mostly_zero(cotangent: Tensor) -> Tensor:
    """Say whether a loss has nothing to do with most outputs, () of bool where the cotangent is.

    So it is with the samples of rays behind a surface, or points under a mask.
    """
    size = cotangent.abs().sum(dim=-1)
    return (size < NEARLY_ZERO * size.mean()).double().mean() > 0.5


class Advice:
    """Looks once at the optimizer of some parameters, at its first step after an adjustment.

    It hears of the step by PyTorch's hook for all optimizers, which is taken away at the next
    adjustment, since a hook cannot remove itself.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._given = False

    def seek(self, leaves: list[Tensor]) -> None:
        """Look at the next step of an optimizer that has any of these parameters."""
        if self._handle is None and not self._given:
            ids = frozenset(map(id, leaves))
            this = weakref.ref(self)  # a hook for all optimizers must keep no network alive
            self._handle = register_optimizer_step_pre_hook(
                lambda optimizer, *_: _looked(this(), optimizer, ids)
            )
            # Nor stay for good where nobody steps, or nobody adjusts after that.
            weakref.finalize(self, self._handle.remove)
        elif self._handle is not None and self._given:
            self._handle.remove()
            self._handle = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_handle": None, "_given": self._given}


def _looked(advice: Advice | None, optimizer: torch.optim.Optimizer, ids: frozenset[int]) -> None:
    if advice is None or advice._given or torch.compiler.is_compiling():
        return  # a compiled step would break where a value is read
    for group in optimizer.param_groups:
        if any(id(parameter) in ids for parameter in group["params"]):
            advice._given = True
            found = seen(optimizer, group)
            if found:
                warnings.warn(f"optimizer: {SHORT}: {'; '.join(found)}", stacklevel=3)
            return


def seen(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> list[str]:
    """Return what of an optimizer means something else under an adjustment."""
    found = []
    scaled = "eps" in group  # those that divide by the gradient's size have one
    if type(optimizer) is torch.optim.SGD:
        found.append("the rate of SGD means another one; raise it, or take Adam")
    added = type(optimizer) in ADDED and not group.get("decoupled_weight_decay")
    if added and group.get("weight_decay"):
        found.append(
            "weight decay that is added to it weighs as much more; take AdamW, or lower it"
        )
    gradients = [p.grad for p in group["params"] if p.grad is not None]
    on_host = [g for g in gradients if g.device.type == "cpu" and not g.is_sparse]
    if scaled and on_host:  # an accelerator is not waited for
        size = max(float(g.abs().mean()) for g in on_host)
        if 0 < size < NEAR * group["eps"]:
            found.append(
                f"its entries are of {size:.0e}, near eps={group['eps']:g}, which then decides the "
                "step; lower eps to 1e-15"
            )
    return found
