"""Evaluating a network at other parameters than its own, as `torch.func.functional_call` does."""

import contextlib
from collections.abc import Iterator, Mapping

from torch import Tensor, nn


@contextlib.contextmanager
def standing_in(network: nn.Module, leaves: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Put a call's parameters in place of the network's, where these are others by now.

    Fast weights of an inner loop are in place during the call only, and are results of operations.
    Give the parameters by name, those that stand in as leaves without a past.
    """
    now = dict(network.named_parameters())
    standing = {
        name: leaf if now.get(name) is leaf else leaf.detach().requires_grad_()
        for name, leaf in leaves.items()
    }
    others = {id(now[n]): leaf for n, leaf in standing.items() if n in now and now[n] is not leaf}
    # A tied parameter has one name and several places.
    places = [
        (module._parameters, attribute, parameter)
        for module in (network.modules() if others else ())
        for attribute, parameter in module._parameters.items()
        if id(parameter) in others
    ]
    try:
        for held, attribute, parameter in places:
            held[attribute] = others[id(parameter)]  # type: ignore[assignment]
        yield standing
    finally:
        for held, attribute, parameter in places:
            held[attribute] = parameter
