"""What `iga_core.testing` asks, and whom."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from iga_core.adjustment import Adjustment
from iga_core.grouping import Grouping, pieces
from iga_core.network import Network
from iga_core.optimizers import SGD, Adam, Muon

Floats: TypeAlias = NDArray[Any]
"""Of the backend's dtype as an answer, float64 as an argument."""
Positions: TypeAlias = NDArray[np.int64]
DType = Literal["float32", "float64"]


@dataclass(frozen=True, eq=False)
class Problem:
    """A network, the signal that it is fitted to, and the groups of the signal's points.

    Parameters
    ----------
    network : Network
        The description.
    coords : ndarray of float64, shape (N, inputs)
        Coordinates of the points in their own order; exact in float32, as are the targets.
    targets : ndarray of float64, shape (N, outputs)
        The signal there.
    grouping : Grouping
        Of the N points; some are in no group.
    columns : int, optional
        Columns of a piece at most; None where all points are one piece.
    """

    network: Network
    coords: Floats
    targets: Floats
    grouping: Grouping
    columns: int | None = None

    def pieces(self, step: int = 0) -> list[Positions]:
        """Return the columns of each piece of a step, ascending.

        Parameters
        ----------
        step : int
            From 0.

        Returns
        -------
        list of ndarray of int64
            The transform is of the first one's columns, and points in no group come with it; means
            are taken over the columns of each.
        """
        columns = self.columns or self.grouping.points
        return pieces(self.grouping.points, self.grouping.groups, 1, columns=columns, step=step)


class Backend(Protocol):
    """What a backend has to answer.

    All methods are pure and keep nothing from call to call. Arrays come as NumPy float64, whose
    values a backend converts to its own precision, and are returned as NumPy arrays of `dtype`.
    `parameters` are of the shapes ``network.shapes``, weight and bias of each layer in turn unless
    the network is reparameterised or normalised; what they are to compute, `Network` says. The loss
    is the mean squared error over all points and outputs.

    A normalised network is evaluated as in training, with the statistics of the points that are
    given, and is asked for values, plain gradients and plain training only.

    Attributes
    ----------
    name : str
        For the table, as are the others: "torch".
    device : str
        "cpu", "cuda:0".
    dtype : {"float32", "float64"}
        Of all arithmetic and of every answer.
    """

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> DType: ...

    def evaluate(self, network: Network, parameters: list[Floats], coords: Floats) -> Floats:
        """Evaluate the network.

        Parameters
        ----------
        network : Network
            The description.
        parameters : list of ndarray
            Its parameters.
        coords : ndarray, shape (N, inputs)
            Points; a normalised network takes mean and variance over them.

        Returns
        -------
        ndarray, shape (N, outputs)
        """
        ...

    def gradients(
        self,
        problem: Problem,
        parameters: list[Floats],
        adjustment: Adjustment | None = None,
        positions: Positions | None = None,
    ) -> tuple[Floats, list[Floats]]:
        """Return the loss and its gradients, plain or adjusted.

        Parameters
        ----------
        problem : Problem
            The network and the signal.
        parameters : list of ndarray
            The network's.
        adjustment : Adjustment, optional
            With it, the cotangent is adjusted before it is back-propagated: that of each of the
            `Problem.pieces`, and that of the points in no group with the first, see
            `iga_core.Adjuster`.
        positions : ndarray of int64, shape (n, samples), optional
            Given with an adjustment: the representatives, as positions in their groups, whatever
            its `sampling`.

        Returns
        -------
        loss : ndarray, shape ()
            Of all points.
        gradients : list of ndarray
            Of the parameters' shapes.
        """
        ...

    def kernel(
        self,
        network: Network,
        parameters: list[Floats],
        points: Floats,
        outputs: Literal["sum", "trace"],
    ) -> Floats:
        """Return the empirical neural tangent kernel of groups.

        Parameters
        ----------
        network : Network
            The description.
        parameters : list of ndarray
            Its parameters.
        points : ndarray, shape (n, samples, inputs)
            Representatives, whose tangents are averaged over each group's samples.
        outputs : {"sum", "trace"}
            Of ``Σ_c f_c / √C``, or the mean of the outputs' kernels.

        Returns
        -------
        ndarray, shape (n, n)
        """
        ...

    def transform(self, kernel: Floats, adjustment: Adjustment, cotangent: Floats) -> Floats:
        """Apply the transform of a kernel.

        Parameters
        ----------
        kernel : ndarray, shape (n, n)
            Symmetric, possibly singular or zero.
        adjustment : Adjustment
            Its `filter` and `reach`.
        cotangent : ndarray, shape (n, p, C)
            What S is applied to, at every position or, with reach "mean", on the groups' means.

        Returns
        -------
        ndarray, shape (n, p, C)
            The adjusted cotangent.
        """
        ...

    def train(
        self,
        problem: Problem,
        parameters: list[Floats],
        optimizer: SGD | Adam | Muon,
        adjustment: Adjustment | None,
        positions: Positions,
    ) -> list[Floats]:
        """Take some steps over all points, in the `Problem.pieces` of each.

        Parameters
        ----------
        problem : Problem
            The network and the signal.
        parameters : list of ndarray
            The network's at the start.
        optimizer : SGD, Adam or Muon of iga_core
            To be followed at its constant `learning_rate`.
        adjustment : Adjustment, optional
            See `gradients`; its `refresh` and `average` hold over the steps. Without one the steps
            are plain.
        positions : ndarray of int64, shape (steps, n, samples)
            The representatives of each step, for those steps that make a transform; of plain steps,
            of which there are as many, none: samples is 0.

        Returns
        -------
        list of ndarray
            The parameters after the last step.
        """
        ...
