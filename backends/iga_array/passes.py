"""Forward and backward passes through a network, by hand."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from iga_array.activations import activated
from iga_core import LayerFactors, Network
from iga_core.arrays import Array, require_choice

Outputs = Literal["sum", "trace"]
Statistics: TypeAlias = list[tuple[Array, Array]]
"""Mean and biased variance, each (width,), of what each hidden layer normalises."""


class Basis:
    """The fixed ``B`` of the weights ``Λ B``, as arrays like the parameters.

    Attributes
    ----------
    matrix : array, shape (m, width)
    """

    def __init__(self, values: NDArray[numpy.float64], like: Array) -> None:
        self._values, self._like = values, like
        self.matrix = self._array(values)

    @functools.cached_property
    def root(self) -> Array:
        """A matrix R of at most `width` rows with ``RᵀR = BᵀB``."""
        rows, columns = self._values.shape
        if rows <= columns:
            return self.matrix
        return self._array(numpy.asarray(numpy.linalg.qr(self._values, mode="r")))

    def _array(self, values: NDArray[numpy.float64]) -> Array:
        xp = array_namespace(self._like)
        # A copy, because PyTorch takes no array that is read-only.
        return xp.asarray(values, dtype=self._like.dtype, device=device(self._like), copy=True)


@dataclass(frozen=True, eq=False)
class LayerTape:
    """What the backward pass needs of one layer, for all points of a piece."""

    inputs: Array
    slope: Array | None
    """Derivative of the activation before this layer's inputs; none at the first layer."""
    scale: float
    normalised: Array = None
    """Of a normalisation before this layer's inputs: what the gain multiplies; else None."""
    deviation: Array = None
    """And by what that was divided, (width,)."""


class Passes:
    """Forward and backward passes at one version of a model's parameters.

    Weights ``Λ B`` are multiplied out once, and the scale of the pre-activations is folded into
    the weights, so a cotangent here is that of the scaled pre-activation: times `scale`, it is
    that of ``W a + b``.

    Parameters
    ----------
    network : Network
        The description.
    parameters : sequence of array
        Its parameters.
    basis : Basis, optional
        The network's, where it has one.
    """

    statistics: Statistics | None = None

    def __init__(
        self, network: Network, parameters: Sequence[Array], basis: Basis | None = None
    ) -> None:
        self.network, self.basis = network, basis
        self.xp = array_namespace(*parameters)
        scale = 1.0 if network.normalised else network.scale
        self.scales = [scale] * network.depth + [1.0]
        composed = network.by_layer(parameters, None if basis is None else basis.matrix)
        self.layers = [
            layer if s == 1 else [s * parameter for parameter in layer]
            for s, layer in zip(self.scales, composed, strict=True)
        ]

    def predict(self, coords: Array) -> Array:
        """Evaluate points (r, inputs) -> (r, outputs), keeping nothing."""
        values = self.network.encode(coords)
        for layer in range(len(self.layers)):
            values, _ = self._apply(layer, values)
        return values

    def forward(self, coords: Array) -> tuple[Array, list[LayerTape]]:
        """Evaluate points (r, inputs) -> (r, outputs), with the tape for `backward`."""
        values, slope = self.network.encode(coords), None
        tape = []
        for layer, scale in enumerate(self.scales):
            tape.append(LayerTape(values, slope, scale))
            values, slope = self._apply(layer, values)
        return values, tape

    def _apply(self, layer: int, inputs: Array) -> tuple[Array, Array | None]:
        """Return a layer's values, and the derivative of its activation if it has one."""
        weight, bias = self.layers[layer]
        product = inputs @ weight.T
        if layer < self.network.depth:
            return activated(self.xp, self.network.kind, product, bias)
        product += bias
        return product, None

    def backward(self, tape: Sequence[LayerTape], cotangent: Array) -> Iterator[Array]:
        """Yield the cotangents of the scaled pre-activations, (..., r, fan-out), last one first."""
        for layer, (weight, _) in zip(reversed(tape), reversed(self.layers), strict=True):
            yield cotangent
            if layer.slope is not None:
                cotangent = cotangent @ weight
                cotangent *= layer.slope

    def gradients(self, tape: Sequence[LayerTape], cotangent: Array) -> list[Array]:
        """Return the gradients of the folded parameters, in the parameters' order."""
        found: list[Array] = []
        for layer, signal in zip(reversed(tape), self.backward(tape, cotangent), strict=True):
            found += [self.xp.sum(signal, axis=0), signal.T @ layer.inputs]
        return found[::-1]

    def unfolded(self, gradients: Sequence[Array]) -> list[Array]:
        """Return the parameters' gradients from those of the folded ones."""
        found = []
        layers = self.network.by_layer(gradients)
        for number, (layer, scale) in enumerate(zip(layers, self.scales, strict=True)):
            weight, *others = layer if scale == 1 else [scale * gradient for gradient in layer]
            if self.basis is not None and number in self.network.reparameterised:
                weight = weight @ self.basis.matrix.T
            found += [weight, *others]
        return found

    def factors(self, x: Array, outputs: Outputs) -> list[LayerFactors]:
        """Return what `MLP.factors` does."""
        xp, channels = self.xp, self.network.outputs
        like = {"dtype": x.dtype, "device": device(x)}
        require_choice("outputs", outputs, get_args(Outputs))
        if outputs == "sum":
            seeds = xp.ones((1, 1, channels), **like)
        else:
            seeds = xp.eye(channels, **like)[:, None, :]
        _, tape = self.forward(xp.reshape(x, (-1, self.network.inputs)))
        points = tape[0].inputs.shape[0]
        share = 1 / (math.sqrt(channels) * math.prod(x.shape[1:-1]))
        seeds = xp.broadcast_to(share * seeds, (seeds.shape[0], points, channels))
        factors = []
        numbers = reversed(range(len(tape)))
        for number, cotangents in zip(numbers, self.backward(tape, seeds), strict=True):
            inputs = tape[number].inputs
            if self.basis is not None and number in self.network.reparameterised:
                # The layer is Λ (B a): of B a only the scalar products matter.
                inputs = inputs @ self.basis.root.T
            beside = xp.reshape(xp.permute_dims(cotangents, (1, 0, 2)), (points, -1))
            factors.append(
                LayerFactors(
                    xp.reshape(inputs, (*x.shape[:-1], -1)),
                    xp.reshape(tape[number].scale * beside, (*x.shape[:-1], -1)),
                )
            )
        return factors[::-1]
