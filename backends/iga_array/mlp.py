"""Multilayer perceptrons with hand-written derivatives, on any array namespace."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy
from array_api_compat import array_namespace, device

from iga_array.activations import activated
from iga_core import LayerFactors, Network, gram
from iga_core._arrays import (
    Array,
    Namespace,
    common_namespace,
    require_finite,
    require_nonempty,
    require_shape,
)

EVALUATION_BYTES = 2**24

Outputs = Literal["sum", "trace"]


class MLP:
    """A `Network` with parameters, and the factors of its Jacobian.

    Parameters
    ----------
    network : Network
        The description.
    xp : array namespace
        Where the parameters live: numpy, cupy, array_api_strict, ...
    seed : int
        Of the initial parameters, the same for every backend.
    dtype : dtype, optional
        float32 (the default) or float64 of `xp`.
    device : device, optional
        Of `xp`, whose default is the default.

    Attributes
    ----------
    parameters : list of array
        Weight (fan-out, fan-in) and bias (fan-out,) of each layer in turn. Training replaces
        them and never changes one in place.
    """

    def __init__(
        self,
        network: Network,
        xp: Any = numpy,
        seed: int = 0,
        dtype: Any = None,
        device: Any = None,
    ) -> None:
        self.network = network
        namespace = array_namespace(xp.empty(0))
        dtype = namespace.float32 if dtype is None else dtype
        self.parameters: list[Array] = [
            namespace.asarray(parameter, dtype=dtype, device=device)
            for parameter in network.initial(seed)
        ]
        common_namespace(parameters=self.parameters[0])

    def __call__(self, coords: Array) -> Array:
        """Evaluate the network.

        Parameters
        ----------
        coords : array, shape (..., inputs)
            Coordinates in [-1, 1], of the parameters' namespace, dtype and device.

        Returns
        -------
        array, shape (..., outputs)

        Raises
        ------
        TypeError, ValueError
            If the coordinates are of another kind or shape or, on a CPU, not finite.

        Notes
        -----
        A layer's activations are held for `EVALUATION_BYTES` of points at a time.
        """
        xp = self._namespace_of("coords", coords)
        flat = xp.reshape(coords, (-1, self.network.inputs))
        point_bytes = self.network.width * int(xp.finfo(coords.dtype).bits) // 8
        step = max(1, EVALUATION_BYTES // point_bytes)
        passes, count = Passes(self), flat.shape[0]
        blocks = [
            passes.predict(flat[first : min(first + step, count), :])
            for first in range(0, count, step)
        ]
        shape = (*coords.shape[:-1], self.network.outputs)
        return xp.reshape(xp.concat(blocks), shape)

    def factors(self, x: Array, outputs: Outputs = "sum") -> list[LayerFactors]:
        """Return the factors of the Jacobian at some points.

        Parameters
        ----------
        x : array, shape (n, inputs) or (n, s, inputs)
            Points; or `s` points a row, whose tangents are averaged.
        outputs : {"sum", "trace"}
            Of ``Σ_c f_c / √C``; or of every ``f_c / √C`` side by side, whose Gram matrix is the
            mean of the outputs'.

        Returns
        -------
        list of LayerFactors
            One a layer, for `iga_core.gram`.

        Raises
        ------
        TypeError, ValueError
            As a call does; and if `x` or `outputs` has another form.
        """
        self._namespace_of("x", x)
        if x.ndim != 2:
            require_shape(
                "x", x, ("n", "samples", self.network.inputs), "pass one row a representative"
            )
        return Passes(self).factors(x, outputs)

    def _namespace_of(self, name: str, coords: Array) -> Namespace:
        xp = common_namespace(**{name: coords, "parameters": self.parameters[0]})
        if coords.ndim < 2 or coords.shape[-1] != self.network.inputs:
            raise ValueError(
                f"{name}: expected shape (..., {self.network.inputs}) of two axes or more, "
                f"got {tuple(coords.shape)}; pass one row a point"
            )
        require_nonempty(name, coords)
        require_finite(name, coords, "clean the data first")
        return xp


def empirical_ntk(model: MLP, x: Array, x2: Array | None = None, outputs: Outputs = "sum") -> Array:
    """Return the empirical neural tangent kernel of a model (Jacot et al. 2018).

    Parameters
    ----------
    model : MLP
        At its present parameters.
    x : array, shape (n, inputs) or (n, s, inputs)
        Points; or `s` points a row, whose tangents are averaged.
    x2 : array, shape (n', inputs) or (n', s', inputs), optional
        The other side; by default the same, of which half is computed.
    outputs : {"sum", "trace"}
        Of ``Σ_c f_c / √C``, or the mean of the outputs' kernels.

    Returns
    -------
    array, shape (n, n) or (n, n')

    Raises
    ------
    TypeError, ValueError
        If the points are of another kind or shape or, on a CPU, not finite.

    Notes
    -----
    The Jacobian is not formed; see `iga_core.gram` for the cost.
    """
    return gram(model.factors(x, outputs), None if x2 is None else model.factors(x2, outputs))


@dataclass(frozen=True, eq=False)
class LayerTape:
    """What the backward pass needs of one layer, for all points of a piece."""

    inputs: Array
    slope: Array | None
    """Derivative of the activation before this layer's inputs; none at the first layer."""
    scale: float


class Passes:
    """Forward and backward passes at one version of a model's parameters.

    The scale of the pre-activations is folded into the weights once, so a cotangent here is that
    of the scaled pre-activation: times `scale`, it is that of ``W a + b``.
    """

    def __init__(self, model: MLP) -> None:
        self.network = model.network
        weights, biases = model.parameters[::2], model.parameters[1::2]
        self.scales = [self.network.scale] * self.network.depth + [1.0]
        self.layers = [
            (w, b) if s == 1 else (s * w, s * b)
            for s, w, b in zip(self.scales, weights, biases, strict=True)
        ]
        self.xp = array_namespace(*model.parameters)

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

    def backward(self, tape: list[LayerTape], cotangent: Array) -> Iterator[Array]:
        """Yield the cotangents of the scaled pre-activations, (..., r, fan-out), last one first."""
        for layer, (weight, _) in zip(reversed(tape), reversed(self.layers), strict=True):
            yield cotangent
            if layer.slope is not None:
                cotangent = cotangent @ weight
                cotangent *= layer.slope

    def gradients(self, tape: list[LayerTape], cotangent: Array) -> list[Array]:
        """Return the gradients of the folded parameters, in the parameters' order."""
        found: list[Array] = []
        for layer, signal in zip(reversed(tape), self.backward(tape, cotangent), strict=True):
            found += [self.xp.sum(signal, axis=0), signal.T @ layer.inputs]
        return found[::-1]

    def unfolded(self, gradients: list[Array]) -> list[Array]:
        """Return the parameters' gradients from those of the folded ones."""
        return [
            gradient if scale == 1 else scale * gradient
            for gradient, scale in zip(
                gradients, (s for s in self.scales for _ in range(2)), strict=True
            )
        ]

    def factors(self, x: Array, outputs: Outputs) -> list[LayerFactors]:
        """Return what `MLP.factors` does."""
        xp, channels = self.xp, self.network.outputs
        like = {"dtype": x.dtype, "device": device(x)}
        if outputs == "sum":
            seeds = xp.ones((1, 1, channels), **like)
        elif outputs == "trace":
            seeds = xp.eye(channels, **like)[:, None, :]
        else:
            raise ValueError(f"outputs: expected 'sum' or 'trace', got {outputs!r}; name one")
        _, tape = self.forward(xp.reshape(x, (-1, self.network.inputs)))
        points = tape[0].inputs.shape[0]
        share = 1 / (math.sqrt(channels) * math.prod(x.shape[1:-1]))
        seeds = xp.broadcast_to(share * seeds, (seeds.shape[0], points, channels))
        factors = []
        for layer, cotangents in zip(reversed(tape), self.backward(tape, seeds), strict=True):
            beside = xp.reshape(xp.permute_dims(cotangents, (1, 0, 2)), (points, -1))
            factors.append(
                LayerFactors(
                    xp.reshape(layer.inputs, (*x.shape[:-1], -1)),
                    xp.reshape(layer.scale * beside, (*x.shape[:-1], -1)),
                )
            )
        return factors[::-1]
