"""A coordinate network's description, and the parameters every backend starts from.

It knows shapes and initial values. What is special about a kind of network is in `kinds.py`; how
one is evaluated and differentiated is the backends' affair.
"""

import difflib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from iga_core.arrays import Array, common_namespace, require_count, require_shape, short
from iga_core.fourier import MOST_NUMBERS, Fourier, coefficient_bounds
from iga_core.kinds import KINDS

NORMALISATION_EPSILON = 1e-5
MOST_DEPTH = 10_000
MOST_FREQUENCIES = 64
"""Float64 coordinates have 53 digits, so that later octaves tell no points apart; from the 128th
on float32 overflows."""


@dataclass(frozen=True)
class Network:
    """A multilayer perceptron on coordinates in [-1, 1].

    Hidden layers compute ``φ(s (W a + b))``, the last one ``W a + b``. With ``z`` the scaled
    pre-activation, ``φ(z)`` is ``max(z, 0)`` for relu and pe (which sees the coordinates through
    a positional encoding), ``sin z`` for siren (s = 30; Sitzmann et al. 2020),
    ``sin((|z| / 30 + 1) z)`` for finer (s = 30; Liu et al. 2024), ``cos(z) exp(−(z / 2)²)`` for
    gabor, the real Gabor wavelet (Saragadam et al. 2023) with frequency s = 20 and decay 10, and
    ``exp(−z²)`` for gauss (Ramasinghe and Lucey 2022; s = 10). The numbers of these two are ours.
    `iga_core.kinds.KINDS` takes further kinds.

    Parameters
    ----------
    kind : str
        The family: "relu", "pe", "siren", "gabor", "finer", "gauss", or a further kind.
    inputs : int
        Coordinates of a point.
    outputs : int
        Channels of the signal.
    width : int
        Units of a hidden layer.
    depth : int
        Hidden layers, at most 10,000.
    frequencies : int
        Octaves of the positional encoding, at most 64; used by pe only.
    fourier : Fourier, optional
        With it the weights between hidden layers are ``Λ B``, see `Fourier`.
    normalised : bool or "anyway"
        Whether each hidden layer has a batch normalisation (Ioffe and Szegedy 2015), as Cai et
        al. (CVPR 2024) use it: ``BN(φ(W a + b))`` for relu and ``φ(BN(W a))`` for pe. In training
        its mean and biased variance are those of the points at hand, epsilon is 1e-5. "anyway"
        allows it to the other kinds, as ``φ(s BN(W a))``.

    Raises
    ------
    TypeError, ValueError
        If a value is out of its range, or there are more than 2^31 parameters in all.

    Examples
    --------
    >>> network = Network("pe", inputs=2, outputs=3, width=64, depth=2, frequencies=4)
    >>> network.shapes
    [(64, 18), (64,), (64, 64), (64,), (3, 64), (3,)]
    >>> Network("relu", normalised=True).label
    'relu+bn'
    """

    kind: str
    inputs: int = 2
    outputs: int = 3
    width: int = 256
    depth: int = 3
    frequencies: int = 6
    fourier: Fourier | None = None
    normalised: bool | Literal["anyway"] = False

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            near = difflib.get_close_matches(str(self.kind)[:20].lower(), KINDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "name one of them"
            raise ValueError(
                f"kind: expected one of {', '.join(KINDS)}, got {short(self.kind)}; {hint}"
            )
        for name in ("inputs", "outputs", "width", "depth", "frequencies"):
            count = require_count(name, getattr(self, name), 1)
            object.__setattr__(self, name, count)
            most = {"depth": MOST_DEPTH, "frequencies": MOST_FREQUENCIES}.get(name, MOST_NUMBERS)
            if count > most:
                raise ValueError(f"{name}: expected at most {most}, got {count}; lower it")
        self._require_fourier()
        self._require_normalised()
        parameters = sum(map(math.prod, self.shapes))
        if parameters > MOST_NUMBERS:
            raise ValueError(
                f"width, depth: expected at most {MOST_NUMBERS} parameters in all, got "
                f"{parameters}; lower them"
            )

    def _require_fourier(self) -> None:
        if self.fourier is None:
            return
        if not isinstance(self.fourier, Fourier):
            raise TypeError(
                f"fourier: expected a Fourier or None, got {type(self.fourier).__name__}; "
                "pass iga_core.Fourier()"
            )
        if self.depth == 1:
            raise ValueError(
                "fourier: expected None for depth 1, got one; only weights between hidden layers "
                "are reparameterised: raise the depth"
            )
        if self.fourier.alpha is None and KINDS[self.kind].alpha is None:
            published = ", ".join(name for name, kind in KINDS.items() if kind.alpha is not None)
            raise ValueError(
                f"fourier: expected an alpha for {self.kind}, got None; the published ones are of "
                f"{published}: pass Fourier(alpha=...)"
            )

    def _require_normalised(self) -> None:
        # The type first: an array compares with a word element by element.
        if not isinstance(self.normalised, bool | str) or self.normalised not in (
            False, True, "anyway",
        ):  # fmt: skip
            raise ValueError(
                f"normalised: expected False, True or 'anyway', got {short(self.normalised)}; "
                "name one of them"
            )
        if KINDS[self.kind].normalises is not None:
            object.__setattr__(self, "normalised", bool(self.normalised))
        elif self.normalised is True:
            raise ValueError(
                f"normalised: expected False for {self.kind}, got True; its layers need the scale "
                "and the phases that they start from, and normalised pre-activations lose both: "
                "pass 'anyway' to try, or train relu or pe"
            )

    @property
    def label(self) -> str:
        """The kind and what training adds to it: "relu", "pe+fr", "relu+bn", "pe+fr+bn"."""
        return self.kind + "+fr" * (self.fourier is not None) + "+bn" * bool(self.normalised)

    @property
    def scale(self) -> float:
        """The factor s on every hidden pre-activation."""
        return KINDS[self.kind].scale

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(fan-in, fan-out) of every linear layer, the last one included."""
        encoded = 1 + 2 * self.frequencies * KINDS[self.kind].encodes
        widths = [self.inputs * encoded, *[self.width] * self.depth, self.outputs]
        return list(itertools.pairwise(widths))

    @property
    def numbers(self) -> int:
        """How many numbers of a point a backward pass needs: layers' inputs and slopes."""
        return 2 * sum(fan_in for fan_in, _ in self.layers)

    @property
    def reparameterised(self) -> range:
        """Numbers of the layers whose weight is ``Λ B``."""
        return range(1, self.depth if self.fourier else 1)

    @property
    def basis(self) -> NDArray[np.float64] | None:
        """The ``B`` of those layers, (count, width), read-only; None if there is none."""
        if self.fourier is None:
            return None
        alpha = self.fourier.alpha or KINDS[self.kind].alpha
        return None if alpha is None else self.fourier.basis(self.width, alpha)

    @property
    def normalises_activations(self) -> bool:
        """Whether a normalised layer is ``BN(φ(W a + b))``, and not ``φ(s BN(W a))``."""
        return KINDS[self.kind].normalises == "after"

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the parameters, layer by layer.

        Each layer's weight, (fan-out, fan-in), or Λ, (fan-out, count), then its bias, unless a
        normalisation would take it off again, and a normalised one's gain and shift, all
        (fan-out,).
        """
        found: list[tuple[int, ...]] = []
        for layer, (length, (fan_in, fan_out)) in enumerate(
            zip(self._lengths, self.layers, strict=True)
        ):
            if self.fourier is not None and layer in self.reparameterised:
                fan_in = self.fourier.count
            found += [(fan_out, fan_in), *[(fan_out,)] * (length - 1)]
        return found

    @property
    def _lengths(self) -> list[int]:
        """How many parameters each layer has."""
        normalised = 4 if self.normalises_activations else 3
        return [normalised if self.normalised else 2] * self.depth + [2]

    def by_layer(
        self, parameters: Sequence[Array], basis: Array | None = None
    ) -> list[list[Array]]:
        """Return a list of parameters as one list a layer.

        Parameters
        ----------
        parameters : sequence of array
            Of the shapes `shapes`, or anything else that there is of each parameter.
        basis : array, shape (count, width), optional
            With it each Λ is replaced by ``Λ B``.

        Returns
        -------
        list of list of array
            What `shapes` lists of each: two arrays, or up to four of a normalised layer.
        """
        rest = iter(parameters)
        layers = [list(itertools.islice(rest, length)) for length in self._lengths]
        if basis is not None:
            for layer in self.reparameterised:
                layers[layer][0] = layers[layer][0] @ basis
        return layers

    def initial(self, seed: int) -> list[NDArray[np.float64]]:
        """Draw the initial parameters, on the host.

        Parameters
        ----------
        seed : int
            The same seed gives the same parameters on every machine.

        Returns
        -------
        list of ndarray of float64
            Of shapes `shapes`, weights and biases uniform with mean 0. Bounds: PyTorch's default
            ``1/√fan_in``, but ``√(6/width)`` for the last weight of relu and pe, and for siren and
            finer ``1/inputs`` for the first and ``√(6/width)/30`` for every other weight.
            Column j of Λ is uniform within ``√(6/count)/‖b_j‖``, for siren and finer a 30th of
            that, and 0 where row j of B vanishes; the bias beside it is 0. Gains are ``1/s``,
            shifts 0.

        Raises
        ------
        TypeError, ValueError
            If the seed is no whole number from 0.

        Examples
        --------
        >>> weight, *_ = Network("siren", inputs=2).initial(seed=0)
        >>> bool(abs(weight).max() <= 1 / 2)
        True
        """
        generator = np.random.default_rng(require_count("seed", seed, 0))
        bounds, basis = KINDS[self.kind].bounds, self.basis
        weight_bounds = [bounds.first, *[bounds.hidden] * (self.depth - 1), bounds.last]
        columns = None if basis is None else coefficient_bounds(basis) / bounds.divisor
        parameters: list[NDArray[np.float64]] = []
        for layer, (fan_in, fan_out) in enumerate(self.layers):
            if columns is not None and layer in self.reparameterised:
                drawn = generator.uniform(-1, 1, (fan_out, columns.size))
                parameters += [columns * drawn, np.zeros(fan_out)]
            else:
                bound = weight_bounds[layer](fan_in)
                parameters.append(generator.uniform(-bound, bound, (fan_out, fan_in)))
                bound = 1 / math.sqrt(fan_in)
                parameters.append(generator.uniform(-bound, bound, fan_out))
            if self.normalised and layer < self.depth:
                if not self.normalises_activations:
                    parameters.pop()  # the normalisation would take the bias off again
                parameters += [np.full(fan_out, 1 / self.scale), np.zeros(fan_out)]
        return parameters

    @property
    def folded(self) -> "Network":
        """The plain network that `fold` returns the parameters of."""
        return replace(self, fourier=None, normalised=False)

    def fold(
        self,
        parameters: Sequence[Array],
        statistics: Sequence[tuple[Array, Array]] | None = None,
    ) -> list[Array]:
        """Return the parameters of the plain network that computes the same.

        Parameters
        ----------
        parameters : sequence of array
            Of the shapes `shapes`.
        statistics : sequence of (array, array), optional
            For a normalised network: mean and biased variance, each (width,), of what each hidden
            layer normalises.

        Returns
        -------
        list of array
            Weight and bias of each layer of `folded`, of the parameters' namespace, dtype and
            device.

        Raises
        ------
        TypeError, ValueError
            If there are others, or of other shapes; if a normalised network is given no
            statistics, or another network is.

        Notes
        -----
        The multiplication of ``Λ B`` costs ``O(width² count)`` a layer.

        Examples
        --------
        >>> network = Network("relu", width=4, depth=1, normalised=True)
        >>> folded = network.fold(network.initial(0), [(np.zeros(4), np.ones(4))])
        >>> [parameter.shape for parameter in folded] == network.folded.shapes
        True
        """
        xp = self._require_parameters(parameters)
        pairs = self._require_statistics(statistics, parameters[0])
        basis = self.basis
        if basis is not None:
            like = parameters[0]
            # A copy, because PyTorch takes no array that is read-only.
            basis = xp.asarray(basis, dtype=like.dtype, device=device(like), copy=True)
        layers = self.by_layer(parameters, basis)
        for layer, (mean, variance) in enumerate(pairs):
            weight, *bias, gain, shift = layers[layer]
            factor = gain / xp.sqrt(variance + NORMALISATION_EPSILON)
            offset = shift - factor * mean
            if self.normalises_activations:
                following, following_bias, *others = layers[layer + 1]
                moved = following_bias + following @ offset
                layers[layer + 1] = [following * factor, moved, *others]
                layers[layer] = [weight, *bias]
            else:
                layers[layer] = [factor[:, None] * weight, offset]
        return [parameter for layer in layers for parameter in layer]

    def _require_statistics(
        self, statistics: Sequence[tuple[Array, Array]] | None, like: Array
    ) -> Sequence[tuple[Array, Array]]:
        pairs = [] if statistics is None else statistics
        if len(pairs) != (self.depth if self.normalised else 0):
            wanted = f"{self.depth} pairs of mean and variance" if self.normalised else "None"
            raise ValueError(
                f"statistics: expected {wanted} for {self.label}, got "
                f"{'None' if statistics is None else len(pairs)}; a normalised network is folded "
                "with those of its training points, one pair a hidden layer"
            )
        for layer, pair in enumerate(pairs):
            for part, values in zip(("mean", "variance"), pair, strict=True):
                name = f"statistics[{layer}] ({part})"
                common_namespace(**{name: values, "parameters": like})
                require_shape(name, values, (self.width,), "give one number a unit")
        return pairs

    def _require_parameters(self, parameters: Sequence[Array]) -> Any:
        if len(parameters) != len(self.shapes):
            raise ValueError(
                f"parameters: expected {len(self.shapes)} arrays for {self.label}, got "
                f"{len(parameters)}; pass those of this network, see Network.shapes"
            )
        named = {f"parameters[{k}]": parameter for k, parameter in enumerate(parameters)}
        xp = common_namespace(**named)
        for (name, parameter), shape in zip(named.items(), self.shapes, strict=True):
            require_shape(name, parameter, shape, "pass those of this network, see Network.shapes")
        return xp

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

        Examples
        --------
        >>> Network("pe", inputs=1, frequencies=1).encode(np.asarray([[0.5]])).round(3).tolist()
        [[0.5, 1.0, 0.0]]
        """
        if not KINDS[self.kind].encodes:
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
    return max(1, (int(samples) - 1).bit_length() - 1)
