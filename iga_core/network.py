"""A coordinate network's description, and the parameters every backend starts from."""

import difflib
import itertools
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from iga_core._arrays import Array, require_count

Kind = Literal["relu", "pe", "siren", "gabor", "finer", "gauss"]

FREQUENCY_SCALES: dict[str, float] = {
    "relu": 1.0, "pe": 1.0, "siren": 30.0, "gabor": 20.0, "finer": 30.0, "gauss": 10.0,
}  # fmt: skip
GABOR_DECAY = 0.5


@dataclass(frozen=True)
class Network:
    """A multilayer perceptron on coordinates in [-1, 1].

    Hidden layers compute ``φ(s (W a + b))``, the last one ``W a + b``. With ``z`` the scaled
    pre-activation, ``φ(z)`` is ``max(z, 0)`` for relu and pe (which sees the coordinates through
    a positional encoding), ``sin z`` for siren (s = 30; Sitzmann et al. 2020),
    ``sin((|z| / 30 + 1) z)`` for finer (s = 30; Liu et al. 2024), ``cos(z) exp(−(z / 2)²)`` for
    gabor, the real Gabor wavelet (Saragadam et al. 2023) with frequency s = 20 and decay 10, and
    ``exp(−z²)`` for gauss (Ramasinghe and Lucey 2022; s = 10). The numbers of these two are ours.

    Parameters
    ----------
    kind : {"relu", "pe", "siren", "gabor", "finer", "gauss"}
        The family.
    inputs : int
        Coordinates of a point.
    outputs : int
        Channels of the signal.
    width : int
        Units of a hidden layer.
    depth : int
        Hidden layers.
    frequencies : int
        Octaves of the positional encoding; used by pe only.

    Raises
    ------
    TypeError, ValueError
        If a value is out of its range.
    """

    kind: Kind
    inputs: int = 2
    outputs: int = 3
    width: int = 256
    depth: int = 3
    frequencies: int = 6

    def __post_init__(self) -> None:
        kinds = get_args(Kind)
        if not isinstance(self.kind, str) or self.kind not in kinds:
            near = difflib.get_close_matches(str(self.kind), kinds, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "name one of them"
            raise ValueError(f"kind: expected one of {', '.join(kinds)}, got {self.kind!r}; {hint}")
        for name in ("inputs", "outputs", "width", "depth", "frequencies"):
            object.__setattr__(self, name, require_count(name, getattr(self, name), 1))

    @property
    def scale(self) -> float:
        """The factor s on every hidden pre-activation."""
        return FREQUENCY_SCALES[self.kind]

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(fan-in, fan-out) of every linear layer, the last one included."""
        first = self.inputs * (1 + 2 * self.frequencies) if self.kind == "pe" else self.inputs
        widths = [first, *[self.width] * self.depth, self.outputs]
        return list(itertools.pairwise(widths))

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the parameters: each layer's weight, (fan-out, fan-in), then its bias."""
        return [shape for i, o in self.layers for shape in ((o, i), (o,))]

    def initial(self, seed: int) -> list[NDArray[np.float64]]:
        """Draw the initial parameters, on the host.

        Parameters
        ----------
        seed : int
            The same seed gives the same parameters on every machine.

        Returns
        -------
        list of ndarray of float64
            Weight and bias of each layer in turn, of shapes `shapes`, all uniform with mean 0.
            Bounds: PyTorch's default ``1/√fan_in``, but ``√(6/width)`` for the last weight of
            relu and pe, and for siren and finer ``1/inputs`` for the first and
            ``√(6/width)/30`` for every other weight.
        """
        generator = np.random.default_rng(require_count("seed", seed, 0))
        parameters = []
        for layer, (fan_in, fan_out) in enumerate(self.layers):
            bound = self._weight_bound(layer, fan_in)
            parameters.append(generator.uniform(-bound, bound, (fan_out, fan_in)))
            bound = 1 / math.sqrt(fan_in)
            parameters.append(generator.uniform(-bound, bound, fan_out))
        return parameters

    def _weight_bound(self, layer: int, fan_in: int) -> float:
        if self.kind in ("siren", "finer"):
            return 1 / fan_in if layer == 0 else math.sqrt(6 / fan_in) / self.scale
        if self.kind in ("relu", "pe") and layer == self.depth:
            return math.sqrt(6 / fan_in)
        return 1 / math.sqrt(fan_in)

    def encode(self, coords: Array) -> Array:
        """Return what the first layer is given.

        Parameters
        ----------
        coords : array, shape (..., inputs)
            Coordinates in [-1, 1].

        Returns
        -------
        array, shape (..., fan-in of the first layer)
            For pe the coordinates, then the sines and the cosines of ``2^k π x``, octave by
            octave, ``k < frequencies`` (Mildenhall et al. 2020); else the coordinates.
        """
        if self.kind != "pe":
            return coords
        xp = array_namespace(coords)
        octaves = xp.asarray(
            [2.0**k * math.pi for k in range(self.frequencies)],
            dtype=coords.dtype,
            device=device(coords),
        )
        shape = (*coords.shape[:-1], self.frequencies * self.inputs)
        angles = xp.reshape(coords[..., None, :] * octaves[:, None], shape)
        return xp.concat([coords, xp.sin(angles), xp.cos(angles)], axis=-1)


def nyquist_frequencies(samples: int) -> int:
    """Return how many octaves of the encoding a sampled axis can tell apart.

    Parameters
    ----------
    samples : int
        Points along the axis, from -1 to 1.

    Returns
    -------
    int
        At least 1. ``cos(2^k π x)`` has period ``2^(1-k)``, which must be at least two of the
        ``2/(samples - 1)`` between neighbours.
    """
    return max(1, math.floor(math.log2(max(1, samples - 1) / 2)) + 1)
