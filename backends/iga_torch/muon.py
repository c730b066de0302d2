"""The core's Muon as a PyTorch optimizer."""

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.adam import adam

from iga_core import optimizers as core


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): matrices move along their orthogonalised momentum.

    Nesterov momentum 0.95, no weight decay; a matrix of more rows than columns moves
    ``√(rows/columns)`` times as far. Every other parameter is Adam's, at 1e-3. It is
    `iga_core.Muon`, updating in place.

    Parameters
    ----------
    params : iterable of Tensor, of (str, Tensor) or of dict
        Parameters, named parameters, or groups. Each group becomes two in `param_groups`, the
        matrices and the others, so that a scheduler scales both learning rates alike.
    lr : float
        Of the matrices; a group's own "lr" overrides it.

    Raises
    ------
    TypeError, ValueError
        If there is no parameter, or a learning rate is negative or not finite.

    Notes
    -----
    A step reads nothing from the device. Unlike `torch.optim.Muon` it takes parameters of any
    shape and keeps their precision.
    """

    def __init__(self, params: Iterable[Any], lr: float = 2e-2) -> None:
        super().__init__(params, {"lr": lr})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the matrices of a group, and what else it holds, as groups of their own.

        Parameters
        ----------
        param_group : dict
            Its "params", and optionally an "lr".
        """
        rate = param_group.get("lr", self.defaults["lr"])
        if isinstance(rate, bool) or not isinstance(rate, Real):
            raise TypeError(f"lr: expected a number, got {rate!r}; 2e-2 is a start")
        rate = float(rate)
        if not 0 <= rate < math.inf:
            raise ValueError(
                f"lr: expected a finite number of at least 0, got {rate}; 2e-2 is a start"
            )
        params = param_group["params"]
        if isinstance(params, set):
            raise TypeError("params: expected an ordered collection, got a set; pass a list")
        params = [params] if isinstance(params, Tensor) else list(params)
        if not params:
            raise ValueError("params: expected at least one parameter, got none; pass some")
        matrices = [p for p in params if _is_matrix(p)]
        others = [p for p in params if not _is_matrix(p)]
        if matrices:
            super().add_param_group({**param_group, "lr": rate, "params": matrices})
        if others:
            slow = core.BIAS_LEARNING_RATE
            super().add_param_group({**param_group, "lr": slow, "params": others})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step with every parameter that has a gradient.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the loss and its gradients anew.

        Returns
        -------
        float, Tensor or None
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            given = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if any(gradient.is_sparse for _, gradient in given):
                raise TypeError(
                    "params: expected dense gradients, got a sparse one; make the embedding with "
                    "sparse=False"
                )
            for p, gradient in given:
                if p.ndim == 2:
                    self._move(p, gradient, group["lr"])
            self._adam([(p, gradient) for p, gradient in given if p.ndim != 2], group["lr"])
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, rate: float) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        weight = 1 - core.Muon.momentum
        buffer = state["momentum"].lerp_(gradient, weight)
        reach = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
        direction = core.orthogonalise(buffer.lerp(gradient, weight))
        parameter.add_(direction, alpha=-rate * reach)

    def _adam(self, given: list[tuple[Tensor, Tensor]], rate: float) -> None:
        parameters = [p for p, _ in given]
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros((), device="cpu"),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        names = ("exp_avg", "exp_avg_sq", "step")
        firsts, seconds, steps = ([self.state[p][name] for p in parameters] for name in names)
        adam(
            parameters,
            [gradient for _, gradient in given],
            firsts,
            seconds,
            [],
            steps,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )


def _is_matrix(item: Any) -> bool:
    return getattr(item[1] if isinstance(item, tuple) else item, "ndim", 0) == 2
