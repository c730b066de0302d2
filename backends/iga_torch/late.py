"""Flags that are raised on an accelerator and read without waiting for it."""

from typing import Any

import torch
from torch import Tensor


class LateFlag:
    """A flag that the host learns of when the accelerator has got there, a step or so later."""

    def __init__(self) -> None:
        self._raised: Tensor | None = None
        self._sent: tuple[Tensor, torch.cuda.Event] | None = None

    def noted(self, flag: Tensor) -> bool:
        """Add a flag, () of bool on a GPU, and say whether an earlier one is known to be raised."""
        known = False
        if self._sent is not None and self._sent[1].query():
            known, self._sent = bool(self._sent[0]), None
        self._raised = flag if self._raised is None else self._raised | flag
        if self._sent is None:
            host = torch.empty((), dtype=torch.bool, pin_memory=True)
            host.copy_(self._raised, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._sent = (host, event)
        return known

    def __getstate__(self) -> dict[str, Any]:
        return {"_raised": None, "_sent": None}
