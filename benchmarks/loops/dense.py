"""An adjusted step compared with the definition: explicit Jacobians, K, S and Jᵀ(S ⊗ I)g.

It knows the public face of `iga_torch`, how neighbours are grouped there, and which point of a
group the core draws; all algebra is here, one backward pass a sample.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._pytree import tree_flatten, tree_map

import iga_torch
from iga_core import Adjustment, Grouping, representatives
from iga_torch.neighbours import nearest

GROUPS = 9
"""So few that a small network's kernel of them is far from singular."""


@dataclass
class Compared:
    """Wraps as `iga_torch.IGA` does, and compares the gradients at each step of an optimizer.

    Each step's largest difference stands in ``found["differences"]``, over the largest entry.
    """

    found: dict[str, Any] = field(default_factory=lambda: {"differences": []})

    def __call__(
        self, network: Any, grouping: Grouping | None = None, *, output: Any = None, **named: Any
    ) -> Any:
        adjustment = Adjustment(refresh=1, average=0)  # so that each call stands for itself
        few = GROUPS if grouping is None else None
        model = iga_torch.IGA(network, grouping, adjustment, output=output, groups=few, **named)
        calls: list[Any] = []
        leaves: list[Tensor] = [p for p in model.network.parameters() if p.requires_grad]

        def called(_: Any, args: Any, kwargs: Any, returned: Any) -> None:
            if not torch.is_grad_enabled():
                return
            chosen = [_taken(returned, one) for one in _listed(output)]
            cotangents = [torch.zeros_like(tensor) for tensor in chosen]
            for tensor, place in zip(chosen, cotangents, strict=True):
                tensor.register_hook(place.copy_)
            # As they are now: the step that is compared will have changed them.
            before = [p.detach().clone() for p in leaves]
            calls.append((tree_map(_copied, (args, kwargs)), cotangents, before))

        def stepped(*_: Any) -> None:
            want = [torch.zeros_like(p) for p in leaves]
            for given, cotangents, before in calls:
                after = [p.detach().clone() for p in leaves]
                _set(leaves, before)
                one = dense(model.network, leaves, given, output, cotangents, grouping, self.drawn)
                _set(leaves, after)
                want = [a + b for a, b in zip(want, one, strict=True)]
                self.drawn += 1
            calls.clear()
            if dist.is_initialized():
                for part in want:
                    dist.all_reduce(torch.view_as_real(part) if part.is_complex() else part)
                    part /= dist.get_world_size()
            largest = max(float(part.abs().max()) for part in want)
            off = max(
                float(((0 if p.grad is None else p.grad) - part).abs().max())
                for p, part in zip(leaves, want, strict=True)
            )
            # A gradient of zero would agree with anything.
            self.found["differences"].append(off / largest if largest > 0 else math.inf)

        model.register_forward_hook(called, with_kwargs=True)
        self.hooks = register_optimizer_step_post_hook(stepped)
        return model

    drawn = 0

    def finish(self) -> None:
        """Look no more."""
        hooks = self.__dict__.pop("hooks", None)
        if hooks is not None:
            hooks.remove()


def dense(
    network: Any,
    leaves: list[Tensor],
    given: Any,
    output: Any,
    cotangents: list[Tensor],
    grouping: Grouping | None,
    step: int,
) -> list[Tensor]:
    """Return Jᵀ(S ⊗ I)g of one call, a tensor a parameter."""
    shape = cotangents[0].shape[:-1]
    count = shape.numel()
    g = torch.cat([part.reshape(count, -1) for part in cotangents], dim=-1)
    if grouping is None:
        coords = next(t for t in tree_flatten(given)[0] if _is_real(t))
        placed = nearest(coords.reshape(count, -1), GROUPS)
        index, rest, near = placed.index, placed.rest, placed.neighbours
    else:
        index, rest, near = (
            torch.as_tensor(part) for part in (grouping.index, grouping.rest, grouping.neighbours)
        )

    def row(i: int) -> Tensor:
        args, kwargs = tree_map(lambda t: _of_point(t, shape, i), given)
        returned = network(*args, **kwargs)
        return torch.cat([_taken(returned, one).reshape(-1) for one in _listed(output)])

    def pulled(i: int, by: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            found = torch.autograd.grad(row(i), leaves, by, allow_unused=True)
        return [torch.zeros_like(p) if t is None else t for t, p in zip(found, leaves, strict=True)]

    drawn = representatives(g[index], "random", 1, seed=[0, step])[:, 0]
    chosen = index[torch.arange(len(index)), drawn]
    ones = torch.full(g.shape[1:], g.shape[1] ** -0.5, dtype=g.dtype)
    J = torch.stack([torch.cat([_flat(t) for t in pulled(int(i), ones)]) for i in chosen])
    S = damped(J @ J.T)
    change = (S - torch.eye(len(S), dtype=S.dtype)) @ g[index].mean(dim=1)
    moved = g.clone()
    moved[index] += change[:, None]
    moved[rest] += change[near]
    total = [torch.zeros_like(p) for p in leaves]
    for i in range(count):
        total = [a + b for a, b in zip(total, pulled(i, moved[i]), strict=True)]
    return total


def damped(K: Tensor) -> Tensor:
    """Return μ(K + μI)⁻¹ by eigenvectors, μ the geometric mean of the safe eigenvalues."""
    loud = K.diagonal() >= 1e-2 * K.diagonal().mean()
    values = torch.linalg.eigvalsh(K[loud][:, loud])
    safe = values[values > 4 * torch.finfo(K.dtype).eps * values.max()]
    mu = safe.log().mean().exp()
    values, V = torch.linalg.eigh(K)
    return (V * (mu / (values + mu))) @ V.T


def _set(leaves: list[Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        for leaf, value in zip(leaves, values, strict=True):
            leaf.copy_(value)


def _listed(output: Any) -> list[Any]:
    return output if isinstance(output, list) else [output]


def _taken(returned: Any, path: Any) -> Tensor:
    """Return a tensor of what a network returned, by a name, a path or no word."""
    for key in () if path is None else path if isinstance(path, tuple) else (path,):
        returned = returned[key]
    assert isinstance(returned, Tensor)
    return returned


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _of_point(value: Any, shape: torch.Size, i: int) -> Any:
    """Return the row of one point of what runs along with the points, and all else as it is."""
    if not isinstance(value, Tensor) or value.shape[: len(shape)] != shape:
        return value
    flat = value.reshape(shape.numel(), *value.shape[len(shape) :])
    return flat[i].reshape(*(1,) * len(shape), *flat.shape[1:])


def _flat(value: Tensor) -> Tensor:
    return torch.view_as_real(value).flatten() if value.is_complex() else value.flatten()
