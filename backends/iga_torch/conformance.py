"""What `iga_core.testing` and `iga validate` ask of `iga_torch`, answered by what users use."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from iga_core import SGD, Adam, Adjustment, Network, adjust
from iga_core import Muon as CoreMuon
from iga_core.testing import DType, Floats, Positions, Problem
from iga_torch.kernel import empirical_ntk
from iga_torch.muon import Muon
from iga_torch.networks import CoordinateNetwork, from_network
from iga_torch.wrapper import IGA

OPTIMIZERS = {SGD: torch.optim.SGD, Adam: torch.optim.Adam, CoreMuon: Muon}


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
            network = self._model(problem.network, parameters)
            model: nn.Module = network
            if adjustment is not None:
                model = _Told(network, grouping=problem.grouping, **asdict(adjustment))
                model.tell(torch.as_tensor(positions, device=self.device))
            loss = mse_loss(model(self._tensor(problem.coords)), self._tensor(problem.targets))
            loss.backward()
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

    def equalise(  # noqa: D102
        self, kernel: Floats, adjustment: Adjustment, cotangent: Floats
    ) -> tuple[Floats, Floats]:
        with _one_thread():
            transform, _ = adjust(self._tensor(kernel), adjustment)
            apply = transform.on_means if adjustment.reach == "mean" else transform
            return _host(transform.eigenvalues), _host(apply(self._tensor(cotangent)))

    def train(  # noqa: D102
        self,
        problem: Problem,
        parameters: list[Floats],
        optimizer: SGD | Adam | CoreMuon,
        adjustment: Adjustment | None,
        positions: Positions,
    ) -> list[Floats]:
        with _one_thread():
            network = self._model(problem.network, parameters)
            model: nn.Module = network
            if adjustment is not None:
                model = _Told(network, grouping=problem.grouping, **asdict(adjustment))
            update = OPTIMIZERS[type(optimizer)](model.parameters(), lr=optimizer.learning_rate)
            coords, targets = self._tensor(problem.coords), self._tensor(problem.targets)
            for chosen in torch.as_tensor(positions, device=self.device):
                if isinstance(model, _Told):
                    model.tell(chosen)
                update.zero_grad()
                mse_loss(model(coords), targets).backward()
                update.step()
            return list(map(_host, network.parameters()))

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


class _Told(IGA):
    """A wrapper that is told its representatives, and does not track."""

    def tell(self, positions: Tensor) -> None:
        self._positions = positions
        self._state = replace(self._state, vectors=None)

    def _choose(self, cotangent: Tensor) -> Tensor:  # noqa: ARG002
        return self._positions


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
