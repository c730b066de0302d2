"""When the parameters change."""

import itertools
import sys
from collections.abc import Collection
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.weak import WeakIdKeyDictionary

_COUNT = itertools.count()
_RUNNING: "WeakKeyDictionary[Optimizer, int]" = WeakKeyDictionary()
"""Optimizers that began a step, and have not ended it unless by an exception: which step it is."""
_STEPPED: Any = WeakIdKeyDictionary()
"""The last step of each parameter."""


def version(parameters: Collection[Tensor]) -> tuple[object, ...]:
    """Return what stays equal while these parameters are the same version.

    A version ends with a step of an optimizer that holds one of them, and with every change that
    PyTorch counts. (It counts neither those of fused optimizers nor those in place of `.data`.)
    All of a ``step(closure)`` is one version, however often the closure is called.
    """
    known = frozenset(map(id, parameters))
    for optimizer, step in _RUNNING.items():
        held = (p for group in optimizer.param_groups for p in group["params"])
        if any(id(p) in known for p in held) and _is_on_stack(optimizer):
            return ("within", step)
    return tuple((id(p), p.data_ptr(), p._version, _STEPPED.get(p)) for p in parameters)


def _is_on_stack(optimizer: Optimizer) -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "step" and frame.f_locals.get("self") is optimizer:
            return True
        frame = frame.f_back
    return False


def _begins(optimizer: Optimizer, *_: object) -> None:
    _RUNNING[optimizer] = next(_COUNT)


def _ends(optimizer: Optimizer, *_: object) -> None:
    _RUNNING.pop(optimizer, None)
    step = next(_COUNT)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            _STEPPED[parameter] = step


register_optimizer_step_pre_hook(_begins)
register_optimizer_step_post_hook(_ends)
