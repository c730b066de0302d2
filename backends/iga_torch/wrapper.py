"""The wrapper that adjusts the gradient of any network's training.

It knows PyTorch's backward pass; what happens to a cotangent there, `iga_core.Adjuster` decides.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from iga_core import Adjuster, Adjustment, Grouping, Transform
from iga_core.adjuster import Choose
from iga_torch.checking import (
    require_module,
    require_separate,
    require_separate_points,
    trained,
)
from iga_torch.kernel import require_device
from iga_torch.late import LateFlag
from iga_torch.layout import Index, Layout, Seen, layout_of, require_points, sent
from iga_torch.recording import FLOATS
from iga_torch.report import KernelReport
from iga_torch.tangents import Tangents


@dataclass(eq=False)
class Call:
    """A forward pass that is to be adjusted when its gradient comes back."""

    layout: Layout
    leaves: dict[str, Tensor]
    form: object = None
    transform: Transform | None = None
    """Made at the first backward pass through the call, and shared by all others."""


class IGA(nn.Module):
    """A network whose training is adjusted: the identity around it, but for its gradient.

    In training mode the gradient of any loss with respect to the outputs is adjusted on its way
    back (Shi et al. 2025). In `eval()` mode, without gradients and inside `plain()`, this is the
    network alone. All trained parameters are the network's.

    Every call stands for itself: its points are its groups, and its transform is its own. A
    transform, and the running average of kernels, are kept from call to call only where the points
    are known to be the same: on a CPU, if all arguments have the same values as in the last call
    that made one, at the representatives for those that are sampled; on an accelerator, which is
    not asked for values, if they are the same tensors, unchanged.

    Parameters
    ----------
    network : nn.Module
        Gives one real tensor of outputs, a row of channels a point, each of which depends on its
        own point only.
    grouping : Grouping or "rows"
        With a `Grouping`, data are all points in their own order, (N, ...) or (1, N, ...). With
        "rows" the first axis holds the groups: data are (n, p, ...), and n and p may change from
        call to call.
    adjustment : Adjustment, optional
        The settings; `Adjustment()` by default. `refresh` counts calls.
    choose : callable, optional
        Chooses the representatives in place of the adjustment's sampling, see
        `iga_core.Adjuster`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another kind or out of its range, nothing is trained, or a part of the
        network is an `IGA` already.

    Notes
    -----
    A transform costs one evaluation of the network at `samples` points of each group, a backward
    pass of it, the kernel (see `empirical_ntk`) and its filter, ``O(n³)``; every backward pass,
    ``O(n²)`` for each channel of the groups' means, or for each number in a group with the reach
    "points". Two backward passes through one call use one transform.

    The adjusted gradient is shorter than the plain one, by 1 to 1,000 times: Adam does not mind,
    but thresholds of clipping, weight decay and the rate of gradient descent mean something else.

    On a GPU a call waits only where PyTorch's own `eigvalsh`, `eigh` and `solve` read back whether
    they succeeded, once in `refresh` calls; flags for warnings are read a step late. The network is
    evaluated a few times more on its first call, and once where a transform is made. Buffers and
    random numbers of dropout are left alone; what else its `forward` does is done again. Arguments
    that other networks made are taken as given: the kernel has no part of those.

    Examples
    --------
    >>> import torch
    >>> from iga_core import Grouping
    >>> coords = torch.linspace(-1, 1, 64)[:, None]
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> model = IGA(net, Grouping.blocks(64, 8))
    >>> loss = torch.mean((model(coords) - torch.sin(9 * coords)) ** 2)
    >>> loss.backward()
    >>> model.transform.matrix().shape
    torch.Size([8, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        grouping: Grouping | str,
        adjustment: Adjustment | None = None,
        *,
        choose: Choose | None = None,
    ) -> None:
        super().__init__()
        require_module(network)
        inner = next((name for name, m in network.named_modules() if isinstance(m, IGA)), None)
        if inner is not None:
            raise ValueError(
                "network: expected one that is not adjusted yet, got an IGA "
                f"{f'as {inner!r} in it' if inner else 'itself'}; its gradient would be adjusted "
                "twice: wrap the bare network, once"
            )
        if not isinstance(grouping, Grouping) and grouping != "rows":
            raise TypeError(
                f"grouping: expected a Grouping or 'rows', got {type(grouping).__name__}; make one "
                "with Grouping.patches, blocks or nearest, or say that the first axis of the data "
                "holds the groups"
            )
        adjustment = Adjustment() if adjustment is None else adjustment
        if not isinstance(adjustment, Adjustment):
            raise TypeError(
                f"adjustment: expected an Adjustment, got {type(adjustment).__name__}; "
                "pass Adjustment() or Adjustment.paper(end=20)"
            )
        self._index = Index(grouping) if isinstance(grouping, Grouping) else None
        if isinstance(grouping, Grouping) and adjustment.samples > grouping.points:
            adjustment.require_fit(grouping.groups, grouping.points)
        trained(network)
        self.network = network
        centre = None if self._index is None else self._index.grouping.centre
        self._adjuster = Adjuster(adjustment, centre=centre, choose=choose, send=sent)
        self._tangents = Tangents()
        self._points: Seen | None = None
        self._seen: set[object] = set()
        self._warned: set[str] = set()
        self._not_finite = LateFlag()
        self._plain = 0

    @property
    def adjustment(self) -> Adjustment:
        """The settings."""
        return self._adjuster.adjustment

    @property
    def grouping(self) -> Grouping | str:
        """How data in their own order fall into groups, or "rows"."""
        return "rows" if self._index is None else self._index.grouping

    @property
    def transform(self) -> Transform | None:
        """The last transform made; None before any."""
        return self._adjuster.transform

    def kernel_report(self) -> KernelReport:
        """Return how the last kernel was made: which parameters have factors, which rows and why.

        Returns
        -------
        KernelReport
            Without entries before a kernel was made.
        """
        return self._tangents.report(trained(self.network))

    @contextlib.contextmanager
    def plain(self) -> Iterator[None]:
        """Adjust nothing in this context, neither calls made in it nor gradients taken in it.

        Losses on derivatives with respect to coordinates take those derivatives here.
        """
        self._plain += 1
        try:
            yield
        finally:
            self._plain -= 1

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``network(*args, **kwargs)``.

        Parameters
        ----------
        *args, **kwargs
            The first tensor is the coordinates; further tensors with the same leading axes are
            sampled along with them, all other arguments belong to every point.

        Returns
        -------
        Tensor, shape (N, C), (1, N, C) or (n, p, C)
        """
        if not self.training or self._plain or not torch.is_grad_enabled():
            found: Tensor = self.network(*args, **kwargs)
            return found
        call, tensors = self._begins(args, kwargs)
        return self._ends(self.network(*args, **kwargs), call, tensors)

    @torch.compiler.disable
    def _begins(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call, list[Tensor]]:
        require_separate(self.network)
        leaves = trained(self.network)
        layout, tensors = layout_of(args, kwargs, self._index)
        require_device("coords", tensors[0], leaves)
        return Call(layout, leaves), tensors

    @torch.compiler.disable
    def _ends(self, output: Any, call: Call, tensors: list[Tensor]) -> Tensor:
        require_points(call.layout, output, tensors[0])
        if not output.requires_grad:
            return output
        form = (call.layout.axes, *((t.shape, t.dtype) for t in tensors), *call.leaves)
        call.form = form
        found: Tensor = _Watch.apply(output, self, call, tensors)
        return found

    def _returned(self, cotangent: Tensor, call: Call, tensors: list[Tensor]) -> Tensor:
        """Adjust the cotangent of a call's outputs."""
        if self._plain:
            return cotangent
        if torch.is_grad_enabled():
            raise RuntimeError(
                "backward: expected no graph of the adjusted gradient, got create_graph=True; take "
                "derivatives with respect to coordinates inside `with model.plain():`"
            )
        if not any(_is_wanted(leaf) for leaf in call.leaves.values()):
            return cotangent
        layout = call.layout
        wide = cotangent if cotangent.dtype in FLOATS else cotangent.float()
        grouped, rest = layout.split(wide)
        finite = torch.isfinite(grouped).all()
        if finite.device.type != "cpu":
            self._note(finite)
        elif not finite:
            # Nothing is learned from such a step, and `largest` could not choose.
            self._warn("cotangent")
            return cotangent
        if call.transform is None:
            call.transform = self._make(call, grouped, tensors)
        neighbours = layout.neighbours(grouped.device)
        adjusted = self._adjuster.with_rest(grouped, rest, neighbours, call.transform)
        return layout.joined(*adjusted, cotangent)

    def _make(self, call: Call, cotangent: Tensor, tensors: list[Tensor]) -> Transform:
        adjuster, layout = self._adjuster, call.layout
        if self._points is not None and not self._points.again(layout, tensors):
            adjuster.forget()
        adjuster.look(cotangent)

        def kernel_at(positions: Tensor) -> Tensor:
            samples = layout.samples(tensors, positions)
            kernel = self._tangents.kernel(
                self.network,
                call.leaves,
                samples,
                outputs=adjuster.adjustment.outputs,
            )
            if call.form not in self._seen:
                points, axes = layout.neighbouring(tensors, positions)
                require_separate_points(self.network, points, axes)
                self._seen.add(call.form)
            self._points = Seen.of(layout, tensors, samples, positions)
            return kernel.to(cotangent.dtype)

        transform = adjuster.make(kernel_at)
        if isinstance(adjuster.finite, Tensor):
            self._note(adjuster.finite)
        return transform

    def _note(self, finite: Tensor) -> None:
        """Warn of what a GPU found not to be finite, once it has got so far."""
        if finite.is_cuda and self._not_finite.noted(~finite):
            self._warn("cotangent or kernel")

    def _warn(self, what: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(
                f"{what}: expected finite values, got NaN or infinity; the step was left "
                "unadjusted: lower the learning rate, unless a GradScaler is looking for its scale",
                stacklevel=2,
            )

    def adjustment_state(self) -> dict[str, Tensor]:
        """Return what the adjustment needs to go on elsewhere, by name; not copies.

        Returns
        -------
        dict of str to Tensor
            For `load_adjustment_state`; `state_dict()` is the bare network's.
        """
        state = {k: torch.as_tensor(v) for k, v in self._adjuster.state_dict().items()}
        return state if self._points is None else state | self._points.state()

    def load_adjustment_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on where another adjustment of the same settings stood.

        Parameters
        ----------
        state : mapping of str to Tensor
            What `adjustment_state` returned.

        Raises
        ------
        ValueError
            If it is no such mapping, or of other settings. Nothing is changed then.
        """
        like = next(iter(trained(self.network).values())).detach()
        points = Seen.read(state) if isinstance(state, Mapping) else None
        self._adjuster.load_state_dict(state, like)
        self._points = points

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the bare network's ``state_dict``, which takes the same arguments."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load the bare network's state, as its ``load_state_dict`` does."""
        return self.network.load_state_dict(*args, **kwargs)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Within a larger module the keys are the bare network's too, see `state_dict`.
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[f"{prefix}network.{key.removeprefix(prefix)}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class _Watch(torch.autograd.Function):
    """The identity, whose gradient goes through the adjustment."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, model: IGA, call: Call, tensors: list[Tensor]) -> Tensor:
        ctx.save_for_backward(*(tensor.detach() for tensor in tensors))
        ctx.model, ctx.call = model, call
        return output.clone()  # a view could not be changed in place by the caller

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        adjusted = _outside_compilation(ctx.model, cotangents[0], ctx.call, ctx.saved_tensors)
        return adjusted, None, None, None


@torch.compiler.disable
def _outside_compilation(
    model: IGA, cotangent: Tensor, call: Call, tensors: tuple[Tensor, ...]
) -> Tensor:
    return model._returned(cotangent, call, list(tensors))


def _is_wanted(leaf: Tensor) -> bool:
    """Say whether the running backward pass reaches this parameter."""
    try:
        return bool(torch._C._will_engine_execute_node(get_gradient_edge(leaf).node))
    except RuntimeError:  # so torch says that `torch.autograd.grad` was asked for the leaf itself
        return True
