"""Noticing that a backward pass trains a network around its adjustment."""

import collections
import warnings
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

WORDS = (
    "backward: expected the gradient to come through the adjusted outputs, got a pass that reached "
    "the parameters around them, and trained plain; call the model itself, in training mode, and "
    "where the loss is on a derivative or another function of the network, wrap that: "
    "IGA(function, parameters=network.parameters()); what is meant to be plain belongs into "
    "`with model.plain():`"
)


class Once:
    """Warns of each kind of thing once; the words before the first colon are its kind."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, words: str) -> None:
        """Say it, unless something of this kind was said."""
        kind = words.partition(":")[0]
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(words, stacklevel=3)


_passes: collections.deque[int] = collections.deque(maxlen=16)
"""Numbers of the last backward passes through adjusted calls."""


class Around:
    """Warns once when a backward pass reaches a parameter and no adjusted call.

    It hooks into the node of the graph that adds up a parameter's gradient, and not into the
    parameter, which stays as it is.
    """

    def __init__(self) -> None:
        self._node: Any = None
        self._silent = False

    def watch(self, leaf: Tensor | None) -> None:
        """See the backward passes that reach a parameter from now on."""
        if self._silent or leaf is None:
            return
        node = get_gradient_edge(leaf).node
        if node is not self._node:
            self._node = node
            # The node would keep what it calls alive, and that the node.
            this = weakref.ref(self)
            node.register_prehook(lambda _: _reached(this))

    def meant(self) -> None:
        """Say no more: what is not adjusted is not adjusted on purpose."""
        self._silent = True

    def __getstate__(self) -> dict[str, Any]:
        return {"_node": None, "_silent": self._silent}


def passed() -> None:
    """Note that the running backward pass goes through an adjusted call, of whichever wrapper."""
    _passes.append(torch._C._current_graph_task_id())


def _reached(around: "weakref.ref[Around]") -> None:
    this = around()
    if this is None or this._silent or torch._C._current_graph_task_id() in _passes:
        return
    this._silent = True
    warnings.warn(WORDS, stacklevel=2)
