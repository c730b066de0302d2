"""The core's networks as ordinary PyTorch modules.

It knows `Network` and `KINDS` of the core and decides nothing about them: activations are the
core's own functions, differentiated by autograd.
"""

import math
from typing import Any

import array_api_compat.torch as xp
import torch
from torch import Tensor, nn

from iga_core import Network
from iga_core.kinds import KINDS
from iga_torch.layers import FourierLinear, Normalisation


def from_network(
    network: Network,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | int | None = None,
) -> "CoordinateNetwork":
    """Make a module of a description, with the initial parameters of every backend.

    Parameters
    ----------
    network : Network
        The description.
    seed : int
        Of the initial parameters, the same for every backend.
    dtype : torch.dtype, optional
        float32 (the default) or float64.
    device : torch.device, str or int, optional
        Where the parameters live; the default is PyTorch's.

    Returns
    -------
    CoordinateNetwork
        (..., inputs) -> (..., outputs), of `nn.Linear` or `FourierLinear`, activations and, where
        normalised, `Normalisation`. Its parameters are of the shapes ``network.shapes``, in that
        order.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another kind, or the device is not to be had.

    Examples
    --------
    >>> model = from_network(Network("siren", inputs=2, outputs=3, width=8))
    >>> model(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """
    if not isinstance(network, Network):
        raise TypeError(
            f"network: expected a Network, got {type(network).__name__}; "
            "pass iga_core.Network(kind), or use your own module as it is"
        )
    dtype = torch.float32 if dtype is None else dtype
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"dtype: expected torch.float32 or torch.float64, got {dtype!r}; "
            "for lower precision wrap the training step in torch.autocast"
        )
    initial = network.initial(seed)
    place = None if device is None else _usable(device)
    return CoordinateNetwork(
        network, [torch.tensor(values, dtype=dtype, device=place) for values in initial]
    )


class CoordinateNetwork(nn.Module):
    """A `Network` with parameters; made by `from_network`.

    Parameters
    ----------
    network : Network
        The description.
    parameters : list of Tensor
        Of the shapes ``network.shapes``, one dtype and one device; not copied.

    Attributes
    ----------
    layers : nn.ModuleList of nn.Linear and FourierLinear
        The names of a plain network's parameters are those in the model files of ``iga fit``. A
        normalised layer has a `normalisation`.
    """

    def __init__(self, network: Network, parameters: list[Tensor]) -> None:
        super().__init__()
        self.network = network
        encodes = KINDS[network.kind].encodes
        self.encoding = Encoding(network.frequencies, parameters[0]) if encodes else None
        self.activation = Activation(network.kind)
        self.layers = nn.ModuleList()
        for number, (weight, *others) in enumerate(network.by_layer(parameters)):
            bias, gain_and_shift = (others, []) if len(others) == 1 else (others[:-2], others[-2:])
            layer: nn.Module
            if number in network.reparameterised:
                layer = FourierLinear(network, weight, *bias)
            else:
                layer = _linear(weight, *bias)
            if gain_and_shift:
                layer.normalisation = Normalisation(*gain_and_shift)
            self.layers.append(layer)

    def forward(self, coords: Tensor) -> Tensor:
        """Evaluate points (..., inputs) -> (..., outputs).

        In training mode a normalised network takes mean and variance over all points of the call,
        in `eval()` mode those of the last call in training mode.
        """
        if coords.shape[-1] != self.network.inputs:
            raise ValueError(
                f"coords: expected shape (..., {self.network.inputs}), got {tuple(coords.shape)}; "
                "pass one row a point"
            )
        values = coords if self.encoding is None else self.encoding(coords)
        *hidden, last = self.layers
        for layer in hidden:
            values = layer(values)
            if not self.network.normalised:
                values = self.activation(values)
                continue
            normalise = layer.get_submodule("normalisation")
            if self.network.normalises_activations:
                values = normalise(self.activation(values))
            else:
                values = self.activation(normalise(values))
        outputs: Tensor = last(values)
        return outputs

    @property
    def statistics(self) -> list[tuple[Tensor, Tensor]] | None:
        """Mean and variance of each hidden layer in `eval()` mode; None if not normalised."""
        if not self.network.normalised:
            return None
        parts = [layer.get_submodule("normalisation") for layer in self.layers[:-1]]
        return [(part.get_buffer("mean"), part.get_buffer("variance")) for part in parts]

    @torch.no_grad()
    def measure(self, coords: Tensor) -> None:
        """Replace the statistics of a normalised network by those of some points.

        Parameters
        ----------
        coords : Tensor, shape (..., inputs)
            All that the network is to be normalised by, evaluated at once.

        Raises
        ------
        ValueError
            If the network is not normalised.
        """
        if not self.network.normalised:
            raise ValueError(
                f"network: expected a normalised one, got {self.network.label}; only "
                "Network(..., normalised=True) has statistics"
            )
        before = self.training
        self.train()(coords)
        self.train(before)

    @torch.no_grad()
    def fold(self) -> "CoordinateNetwork":
        """Return the plain network that computes the same in `eval()` mode.

        Returns
        -------
        CoordinateNetwork
            Of ``network.folded``, without `Fourier` and normalisation; its parameters are copies.
        """
        parameters = [parameter.detach() for parameter in self.parameters()]
        folded = self.network.fold(parameters, self.statistics)
        return CoordinateNetwork(self.network.folded, [values.clone() for values in folded])


class Encoding(nn.Module):
    """What `Network.encode` returns for pe, without a transfer from the host."""

    powers: Tensor

    def __init__(self, frequencies: int, like: Tensor) -> None:
        super().__init__()
        # Powers of two stay exact when the module is moved to another precision.
        octaves = torch.arange(frequencies, dtype=like.dtype, device=like.device)
        self.register_buffer("powers", torch.exp2(octaves)[:, None], persistent=False)

    def forward(self, coords: Tensor) -> Tensor:
        """Append the sines and cosines of ``2^k π x``, octave by octave."""
        angles = ((math.pi * coords)[..., None, :] * self.powers).flatten(-2)
        return torch.cat([coords, torch.sin(angles), torch.cos(angles)], dim=-1)


class Activation(nn.Module):
    """``φ(s x)`` of a kind of network, element by element.

    Parameters
    ----------
    kind : str
        A name in `iga_core.kinds.KINDS`.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind  # its name, because the functions of a kind need not be picklable

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to pre-activations of any shape."""
        kind = KINDS[self.kind]
        z = x if kind.scale == 1 else kind.scale * x
        activated: Tensor = kind.value(xp, z, Tensor.detach)
        return activated

    def extra_repr(self) -> str:
        """Return what `print(model)` shows of it."""
        return self.kind


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    fan_out, fan_in = weight.shape
    layer = nn.Linear(fan_in, fan_out, bias is not None, device="meta")  # draws no random numbers
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


def _usable(device: Any) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"device: expected one that this PyTorch can use, got {device!r} ({reason}); "
            "pass 'cpu', or install a build of PyTorch for your accelerator"
        ) from None
    return place
