"""What `iga_core.testing` and `iga validate` ask of `iga_array`, answered by what users use."""

import contextlib
import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy
from array_api_compat import array_namespace

from iga_array.mlp import MLP, empirical_ntk
from iga_array.training import Trainer
from iga_core import Adjustment, Network
from iga_core.arrays import Array, sent
from iga_core.optimizers import Moments, Optimizer
from iga_core.testing import DType, Floats, Positions, Problem


@dataclass(frozen=True)
class ArrayBackend:
    """`iga_array` on one library, device and dtype; by default what the others are compared with.

    The methods are those of `iga_core.testing.Backend`.

    Parameters
    ----------
    name : {"numpy", "array-api-strict", "cupy"}
        The library, imported when first asked.
    device : str
        "cpu" for numpy, "device1" for array-api-strict, "cuda:0", ... for cupy.
    dtype : {"float32", "float64"}
        Of all arrays.
    """

    name: str = "numpy"
    device: str = "cpu"
    dtype: DType = "float64"

    def evaluate(self, network: Network, parameters: list[Floats], coords: Floats) -> Floats:  # noqa: D102
        with self._current_device():
            model, points = self._model(network, parameters), self._array(coords)
            if network.normalised:
                model.measure(points)
            return self._host(model(points))

    def gradients(  # noqa: D102
        self,
        problem: Problem,
        parameters: list[Floats],
        adjustment: Adjustment | None = None,
        positions: Positions | None = None,
    ) -> tuple[Floats, list[Floats]]:
        with self._current_device():
            kept = _Kept()
            steps = None if positions is None else positions[None, ...]
            trainer = self._trainer(problem, parameters, kept, adjustment, steps)
            loss = trainer.step()
            return self._host(loss), list(map(self._host, kept.gradients))

    def kernel(  # noqa: D102
        self,
        network: Network,
        parameters: list[Floats],
        points: Floats,
        outputs: Literal["sum", "trace"],
    ) -> Floats:
        with self._current_device():
            model = self._model(network, parameters)
            return self._host(empirical_ntk(model, self._array(points), outputs=outputs))

    def transform(self, kernel: Floats, adjustment: Adjustment, cotangent: Floats) -> Floats:  # noqa: D102
        with self._current_device():
            transform = adjustment.filter(self._array(kernel))
            apply = transform.on_means if adjustment.reach == "mean" else transform
            return self._host(apply(self._array(cotangent)))

    def train(  # noqa: D102
        self,
        problem: Problem,
        parameters: list[Floats],
        optimizer: Optimizer,
        adjustment: Adjustment | None,
        positions: Positions,
    ) -> list[Floats]:
        with self._current_device():
            trainer = self._trainer(problem, parameters, optimizer, adjustment, positions)
            for _ in range(len(positions)):
                trainer.step()
            return list(map(self._host, trainer.model.parameters))

    def _trainer(
        self,
        problem: Problem,
        parameters: list[Floats],
        optimizer: Optimizer,
        adjustment: Adjustment | None,
        positions: Positions | None,
    ) -> Trainer:
        return Trainer(
            self._model(problem.network, parameters),
            self._array(problem.coords),
            self._array(problem.targets),
            grouping=problem.grouping,
            adjustment=adjustment,
            optimizer=optimizer,
            columns=problem.columns or problem.grouping.points,
            workers=1,
            choose=None
            if positions is None
            else lambda cotangent, _, step: sent(positions[step], cotangent),
        )

    def _model(self, network: Network, parameters: list[Floats]) -> MLP:
        model = MLP(network, self._library, dtype=self._dtype, device=self._place)
        model.parameters = list(map(self._array, parameters))
        return model

    def _array(self, values: Floats) -> Array:
        return self._namespace.asarray(values, dtype=self._dtype, device=self._place)

    def _host(self, array: Array) -> Floats:
        if self.name == "cupy":
            return numpy.asarray(array.get())
        if self.name == "array-api-strict":
            array = array.to_device(self._library.Device("CPU_DEVICE"))
        return numpy.asarray(array)

    def _current_device(self) -> contextlib.AbstractContextManager[Any]:
        return self._place if self.name == "cupy" else contextlib.nullcontext()

    @property
    def _library(self) -> Any:
        return importlib.import_module(self.name.replace("-", "_"))

    @property
    def _namespace(self) -> Any:
        return array_namespace(self._library.empty(0))

    @property
    def _dtype(self) -> Any:
        return getattr(self._namespace, self.dtype)

    @property
    def _place(self) -> Any:
        if self.name == "cupy":
            return self._library.cuda.Device(int(self.device.removeprefix("cuda:")))
        return self.device if self.name == "numpy" else self._library.Device(self.device)


def backends() -> list[ArrayBackend]:
    """Return one for every library and device that can be used here, and both dtypes.

    Returns
    -------
    list of ArrayBackend
        NumPy in float64 first.
    """
    places = [("numpy", "cpu")]
    if importlib.util.find_spec("array_api_strict"):
        places.append(("array-api-strict", "device1"))
    places += [("cupy", f"cuda:{index}") for index in range(_cuda_devices())]
    dtypes: tuple[DType, ...] = ("float64", "float32")
    return [ArrayBackend(name, device, dtype) for name, device in places for dtype in dtypes]


def _cuda_devices() -> int:
    if importlib.util.find_spec("cupy") is None:
        return 0
    try:
        return int(importlib.import_module("cupy").cuda.runtime.getDeviceCount())
    except Exception:  # a library that does not load, or one of CuPy's own types
        return 0


@dataclass(frozen=True)
class _Kept(Optimizer):
    """An optimizer that keeps the gradients and moves nothing."""

    learning_rate: float = 1.0
    gradients: list[Array] = field(default_factory=list)

    def initial(self, parameters: list[Array]) -> Moments:  # noqa: ARG002
        return {}

    def update(
        self,
        parameters: list[Array],
        gradients: list[Array],
        moments: Moments,
        step: int,  # noqa: ARG002
        steps: int,  # noqa: ARG002
    ) -> tuple[list[Array], Moments]:
        self.gradients.extend(gradients)
        return parameters, moments
