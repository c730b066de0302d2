"""What `iga_core.testing` and `iga validate` ask of `iga_torch`, answered by what users use."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from iga_core import SGD, Adjustment, Network
from iga_core.adjuster import Choose
from iga_core.optimizers import Optimizer
from iga_core.testing import DType, Floats, Positions, Problem
from iga_torch.kernel import empirical_ntk
from iga_torch.networks import CoordinateNetwork, from_network
from iga_torch.training import Trainer
from iga_torch.wrapper import IGA


@dataclass(frozen=True)
class TorchBackend:
    """`iga_torch` on one device and dtype.

    The methods are those of `iga_core.testing.Backend`.

    Parameters
    ----------
    device : str
        "cpu", "cuda:0", ...
    dtype : {"float32", "float64"}
        Of all tensors.
    """

    name: str = field(default="torch", init=False)
    device: str = "cpu"
    dtype: DType = "float64"

    def evaluate(self, network: Network, parameters: list[Floats], coords: Floats) -> Floats:  # noqa: D102
        with _one_thread(), torch.no_grad():
            model, points = self._model(network, parameters), self._tensor(coords)
            if network.normalised:
                model.measure(points)
            return _host(model.eval()(points))

    def gradients(  # noqa: D102
        self,
        problem: Problem,
        parameters: list[Floats],
        adjustment: Adjustment | None = None,
        positions: Positions | None = None,
    ) -> tuple[Floats, list[Floats]]:
        with _one_thread():
            told = None if positions is None else positions[None]
            network = self._model(problem.network, parameters)
            if problem.columns is None:
                model: nn.Module = network
                if adjustment is not None:
                    choose = self._chooser(told)
                    model = IGA(network, problem.grouping, adjustment, choose=choose)
                loss = mse_loss(model(self._tensor(problem.coords)), self._tensor(problem.targets))
                loss.backward()
            else:
                loss = self._trainer(problem, network, SGD(1e-30), adjustment, told).step()
            return _host(loss), [_host(p.grad) for p in network.parameters() if p.grad is not None]

    def kernel(  # noqa: D102
        self,
        network: Network,
        parameters: list[Floats],
        points: Floats,
        outputs: Literal["sum", "trace"],
    ) -> Floats:
        with _one_thread():
            model = self._model(network, parameters)
            return _host(empirical_ntk(model, self._tensor(points), outputs=outputs))

    def transform(self, kernel: Floats, adjustment: Adjustment, cotangent: Floats) -> Floats:  # noqa: D102
        with _one_thread():
            transform = adjustment.filter(self._tensor(kernel))
            apply = transform.on_means if adjustment.reach == "mean" else transform
            return _host(apply(self._tensor(cotangent)))

    def train(  # noqa: D102
        self,
        problem: Problem,
        parameters: list[Floats],
        optimizer: Optimizer,
        adjustment: Adjustment | None,
        positions: Positions,
    ) -> list[Floats]:
        with _one_thread():
            network = self._model(problem.network, parameters)
            trainer = self._trainer(problem, network, optimizer, adjustment, positions)
            for _ in range(len(positions)):
                trainer.step()
            return list(map(_host, network.parameters()))

    def _trainer(
        self,
        problem: Problem,
        network: CoordinateNetwork,
        optimizer: Optimizer,
        adjustment: Adjustment | None,
        positions: Positions | None,
    ) -> Trainer:
        return Trainer(
            network,
            self._tensor(problem.coords),
            self._tensor(problem.targets),
            grouping=problem.grouping,
            adjustment=adjustment,
            optimizer=optimizer,
            columns=problem.columns,
            choose=self._chooser(positions),
        )

    def _chooser(self, positions: Positions | None) -> Choose | None:
        """Return what chooses the positions (steps, n, s) that are told."""
        if positions is None:
            return None
        told = torch.as_tensor(positions, device=self.device)
        return lambda _, __, step: told[step]

    def _model(self, network: Network, parameters: list[Floats]) -> CoordinateNetwork:
        model = from_network(network, dtype=self._dtype, device=self.device)
        with torch.no_grad():
            for parameter, values in zip(model.parameters(), parameters, strict=True):
                parameter.copy_(self._tensor(values))
        return model

    def _tensor(self, values: Floats) -> Tensor:
        return torch.as_tensor(values, dtype=self._dtype, device=self.device)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == "float64" else torch.float32


def backends() -> list[TorchBackend]:
    """Return one for every device that can be used here, and both dtypes.

    Returns
    -------
    list of TorchBackend
        The CPU first.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a driver that is missing or too old
        cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = ["cpu", *(f"cuda:{index}" for index in range(cuda))]
    dtypes: tuple[DType, ...] = ("float64", "float32")
    return [TorchBackend(device, dtype) for device in devices for dtype in dtypes]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run on one thread of the CPU: what is this small only waits for others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _host(tensor: Tensor) -> numpy.ndarray[Any, Any]:
    return tensor.detach().cpu().numpy()
