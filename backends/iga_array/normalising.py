"""Passes in training mode through a network with batch normalisation."""

from collections.abc import Sequence

from iga_array.activations import activated
from iga_array.passes import Basis, LayerTape, Outputs, Passes, Statistics
from iga_core import LayerFactors, Network
from iga_core.arrays import Array
from iga_core.network import NORMALISATION_EPSILON


class NormalisedPasses(Passes):
    """Passes that normalise by the statistics of the points at hand, which come in one piece.

    The scale is folded into gain and shift, which the pre-activations end with.

    Attributes
    ----------
    statistics : list of (array, array)
        Of the last forward pass.
    """

    def __init__(
        self, network: Network, parameters: Sequence[Array], basis: Basis | None = None
    ) -> None:
        super().__init__(network, parameters, basis)
        self.statistics: Statistics = []
        self._scaled = [
            (network.scale * gain, network.scale * shift) for *_, gain, shift in self.layers[:-1]
        ]
        self.layers[:-1] = [layer[:-2] for layer in self.layers[:-1]]

    def predict(self, coords: Array) -> Array:
        """Evaluate points (r, inputs) -> (r, outputs) with their own statistics."""
        return self.forward(coords)[0]

    def forward(self, coords: Array) -> tuple[Array, list[LayerTape]]:
        """Evaluate points (r, inputs) -> (r, outputs), with the tape for `gradients`."""
        self.statistics = []
        values, tape = self.network.encode(coords), []
        slope = normalised = deviation = None
        for layer in range(self.network.depth):
            tape.append(LayerTape(values, slope, 1.0, normalised, deviation))
            values, slope, normalised, deviation = self._hidden(layer, values)
        tape.append(LayerTape(values, slope, 1.0, normalised, deviation))
        return self._apply(self.network.depth, values)[0], tape

    def _hidden(self, layer: int, inputs: Array) -> tuple[Array, Array, Array, Array]:
        """Return a layer's values, the activation's derivative, and what `_normalise` does."""
        gain, shift = self._scaled[layer]
        if self.network.normalises_activations:
            activations, slope = self._apply(layer, inputs)
            normalised, deviation = self._normalise(activations)
            return gain * normalised + shift, slope, normalised, deviation
        (weight,) = self.layers[layer]
        normalised, deviation = self._normalise(inputs @ weight.T)
        values, slope = activated(self.xp, self.network.kind, gain * normalised, shift)
        return values, slope, normalised, deviation

    def _normalise(self, values: Array) -> tuple[Array, Array]:
        """Return values of mean 0 and variance 1, and by what they were divided."""
        xp = self.xp
        mean = xp.mean(values, axis=0)
        centred = values - mean
        variance = xp.mean(centred * centred, axis=0)
        self.statistics.append((mean, variance))
        deviation = xp.sqrt(variance + NORMALISATION_EPSILON)
        centred /= deviation
        return centred, deviation

    def gradients(self, tape: Sequence[LayerTape], cotangent: Array) -> list[Array]:
        """Return the gradients of the folded parameters, in the parameters' order."""
        xp, scale, found = self.xp, self.network.scale, []
        scaled = [None, *self._scaled]
        for layer, (weight, *bias), before in zip(
            reversed(tape), reversed(self.layers), reversed(scaled), strict=True
        ):
            found += [xp.sum(cotangent, axis=0) for _ in bias]
            found.append(cotangent.T @ layer.inputs)
            if before is not None:
                cotangent = cotangent @ weight
                if not self.network.normalises_activations:
                    cotangent *= layer.slope
                along_gain = xp.sum(cotangent * layer.normalised, axis=0)
                along_shift = xp.sum(cotangent, axis=0)
                found += [scale * along_shift, scale * along_gain]
                # The statistics move against the mean, and the part along the normalised values.
                points = cotangent.shape[0]
                cotangent -= along_shift / points
                cotangent -= layer.normalised * (along_gain / points)
                cotangent *= before[0] / layer.deviation
                if self.network.normalises_activations:
                    cotangent *= layer.slope
        return found[::-1]

    def factors(self, x: Array, outputs: Outputs) -> list[LayerFactors]:  # noqa: ARG002
        """Raise ValueError."""
        raise ValueError(
            f"model: expected a network without batch normalisation, got {self.network.label}; "
            "each of its outputs depends on all points in training, so that the kernel of a few "
            "is not defined: fold() it first"
        )
