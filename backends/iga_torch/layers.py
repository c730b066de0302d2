"""What a layer of a coordinate network may have beside `nn.Linear` and its activation.

It knows PyTorch and the core's description of a network.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from iga_core import Network
from iga_core.network import NORMALISATION_EPSILON


class FourierLinear(nn.Module):
    """``x (Λ B)ᵀ + b`` with a fixed B, see `iga_core.Fourier`.

    Parameters
    ----------
    network : Network
        Its `basis` is B, which is no part of `state_dict`.
    coefficients : Tensor, shape (fan-out, count)
        Λ, trained as `weight`; not copied.
    bias : Tensor, shape (fan-out,), optional
        Trained; not copied.
    """

    basis: Tensor
    bias: Tensor | None

    def __init__(self, network: Network, coefficients: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(coefficients)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))
        self._network = network
        self.register_buffer("basis", self._rounded(), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply it to rows (..., fan-in)."""
        return F.linear(inputs, self.weight @ self.basis, self.bias)

    def _rounded(self) -> Tensor:
        return torch.tensor(self._network.basis, dtype=self.weight.dtype, device=self.weight.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FourierLinear":
        before = self.weight.dtype
        super()._apply(fn, recurse)
        if self.weight.dtype != before:  # what was rounded to float32 is not the B of float64
            self.basis = self._rounded()
        return self


class Normalisation(nn.Module):
    """Batch normalisation of rows (..., width) by the mean and biased variance of all of them.

    Outside training it takes the statistics of the last pass in training; 0 and 1 before any.

    Parameters
    ----------
    gain, shift : Tensor, shape (width,)
        Trained; not copied.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, gain: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.gain, self.shift = nn.Parameter(gain), nn.Parameter(shift)
        self.register_buffer("mean", torch.zeros_like(gain))
        self.register_buffer("variance", torch.ones_like(gain))

    def forward(self, values: Tensor) -> Tensor:
        """Apply it to rows (..., width)."""
        rows = values.reshape(-1, values.shape[-1])
        if self.training:
            variance, mean = torch.var_mean(rows.detach().to(self.mean.dtype), 0, correction=0)
            with torch.no_grad():
                self.mean.copy_(mean)
                self.variance.copy_(variance)
        found = F.batch_norm(
            rows,
            None if self.training else self.mean,
            None if self.training else self.variance,
            self.gain,
            self.shift,
            training=self.training,
            eps=NORMALISATION_EPSILON,
        )
        return found.reshape(values.shape)


def normalising(network: nn.Module) -> str | None:
    """Return the name of a part that takes statistics of the data at hand; None if none does."""
    for name, module in network.named_modules():
        if isinstance(module, Normalisation) and module.training:
            return name
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
            module.training or module.running_mean is None
        ):
            return name
    return None
