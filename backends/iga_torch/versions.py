"""When the parameters change."""

import sys
from collections.abc import Iterable
from types import FrameType
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

_TURNS: "WeakKeyDictionary[Optimizer, int]" = WeakKeyDictionary()
"""Grows as each optimizer begins and ends a step; odd in between."""


def version(parameters: Iterable[Tensor]) -> tuple[object, ...]:
    """Return what stays equal while these parameters are the same version.

    A version ends with a step of an optimizer that holds one of them, and with every change in
    place that PyTorch counts. (It counts neither those of fused optimizers nor those through
    `.data`.) All of a ``step(closure)`` is one version, however often the closure is called.
    """
    parameters = list(parameters)
    known = frozenset(map(id, parameters))
    turns = {optimizer: turn for optimizer, turn in _TURNS.items() if _holds(optimizer, known)}
    for optimizer, turn in turns.items():
        if _within_step(optimizer):
            return ("within", id(optimizer), turn)
    return ("between", sum(turns.values()), sum(parameter._version for parameter in parameters))


def _holds(optimizer: Optimizer, known: frozenset[int]) -> bool:
    return any(id(p) in known for group in optimizer.param_groups for p in group["params"])


def _within_step(optimizer: Optimizer) -> bool:
    # The stack knows it even where an exception has ended the last step.
    if _TURNS[optimizer] % 2 == 0:
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "step" and frame.f_locals.get("self") is optimizer:
            return True
        frame = frame.f_back
    return False


def _begins(optimizer: Optimizer, *_: object) -> None:
    turn = _TURNS.get(optimizer, 0)
    _TURNS[optimizer] = turn + 1 + turn % 2


def _ends(optimizer: Optimizer, *_: object) -> None:
    turn = _TURNS.get(optimizer, 0)
    _TURNS[optimizer] = turn + 2 - turn % 2


register_optimizer_step_pre_hook(_begins)
register_optimizer_step_post_hook(_ends)
