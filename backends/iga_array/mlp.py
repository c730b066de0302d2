"""Multilayer perceptrons with hand-written derivatives, on any array namespace."""

from typing import Any

import numpy
from array_api_compat import array_namespace

from iga_array.normalising import NormalisedPasses
from iga_array.passes import Basis, Outputs, Passes, Statistics
from iga_core import LayerFactors, Network, gram
from iga_core.arrays import (
    Array,
    Namespace,
    common_namespace,
    require_finite,
    require_nonempty,
    require_shape,
    short,
)

EVALUATION_BYTES = 2**24


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
        Of the shapes ``network.shapes``: weight (fan-out, fan-in) and bias (fan-out,) of each
        layer in turn, unless the network is reparameterised or normalised. Training replaces them
        and never changes one in place.
    statistics : list of (array, array)
        Of a normalised network: the mean and the variance that each hidden layer had in the last
        pass over the training data, or over those of `measure`; None before any.
    """

    def __init__(
        self,
        network: Network,
        xp: Any = numpy,
        seed: int = 0,
        dtype: Any = None,
        device: Any = None,
    ) -> None:
        if not isinstance(network, Network):
            raise TypeError(
                f"network: expected a Network, got {short(network)}; pass iga_core.Network(kind)"
            )
        self.network = network
        namespace = array_namespace(xp.empty(0))
        dtype = namespace.float32 if dtype is None else dtype
        self.parameters: list[Array] = [
            namespace.asarray(parameter, dtype=dtype, device=device)
            for parameter in network.initial(seed)
        ]
        common_namespace(parameters=self.parameters[0])
        self.statistics: Statistics | None = None
        basis = network.basis
        self._basis = None if basis is None else Basis(basis, self.parameters[0])

    def passes(self) -> Passes:
        """Return forward and backward passes at the present parameters, as training runs them."""
        kind = NormalisedPasses if self.network.normalised else Passes
        return kind(self.network, self.parameters, self._basis)

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
            If the coordinates are of another kind or shape or, on a CPU, not finite; if a
            normalised network has no `statistics`.

        Notes
        -----
        A layer's activations are held for `EVALUATION_BYTES` of points at a time. A normalised
        network is folded first, so that what a point is given does not depend on the others.
        """
        if self.network.normalised:
            return self.fold()(coords)
        xp = self._namespace_of("coords", coords)
        flat = xp.reshape(coords, (-1, self.network.inputs))
        point_bytes = self.network.width * int(xp.finfo(coords.dtype).bits) // 8
        step = max(1, EVALUATION_BYTES // point_bytes)
        passes, count = self.passes(), flat.shape[0]
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
            As a call does; if `x` or `outputs` has another form; if the network is normalised.
        """
        self._namespace_of("x", x)
        if x.ndim != 2:
            require_shape(
                "x", x, ("n", "samples", self.network.inputs), "pass one row a representative"
            )
        return self.passes().factors(x, outputs)

    def measure(self, coords: Array) -> None:
        """Replace the statistics of a normalised network by those of some points.

        Parameters
        ----------
        coords : array, shape (..., inputs)
            All that the network is to be normalised by; training gives it its own.

        Raises
        ------
        TypeError, ValueError
            As a call does; if the network is not normalised.

        Notes
        -----
        One forward pass, in one piece.
        """
        xp = self._namespace_of("coords", coords)
        if not self.network.normalised:
            raise ValueError(
                f"network: expected a normalised one, got {self.network.label}; only "
                "Network(..., normalised=True) has statistics"
            )
        passes = self.passes()
        passes.predict(xp.reshape(coords, (-1, self.network.inputs)))
        self.statistics = passes.statistics

    def fold(self) -> "MLP":
        """Return the plain model that computes the same.

        Returns
        -------
        MLP
            Of ``network.folded``, without `Fourier` and normalisation.

        Raises
        ------
        ValueError
            If a normalised network has no `statistics`.
        """
        if self.network.normalised and self.statistics is None:
            raise ValueError(
                f"statistics: expected those of some points for {self.network.label}, got None; "
                "train the model, or call measure(coords), first"
            )
        folded = object.__new__(MLP)
        folded.network = self.network.folded
        folded.parameters = self.network.fold(self.parameters, self.statistics)
        folded.statistics = folded._basis = None
        return folded

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
    if not isinstance(model, MLP):
        raise TypeError(f"model: expected an MLP, got {short(model)}; construct one first")
    return gram(model.factors(x, outputs), None if x2 is None else model.factors(x2, outputs))
