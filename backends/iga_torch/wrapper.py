"""The wrapper that adjusts the gradient of any network's training."""

import contextlib
import dataclasses
import difflib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from iga_core import Adjustment, AdjustmentState, Grouping, SpectralTransform, adjust
from iga_torch.checking import require_module, require_separate, trained
from iga_torch.choosing import Candidates, Chooser, at, chosen
from iga_torch.kernel import require_device
from iga_torch.late import LateFlag
from iga_torch.layout import Index, Layout, layout_of, require_points
from iga_torch.recording import FLOATS
from iga_torch.state import read, written
from iga_torch.tangents import Tangents
from iga_torch.versions import version


@dataclass(frozen=True, eq=False)
class Call:
    """A forward pass that is to be adjusted when its gradient comes back."""

    layout: Layout
    leaves: dict[str, Tensor]
    version: object
    form: object = None
    witness: Tensor | None = None
    """The outputs, where this form of call is seen for the first time."""


@dataclass(eq=False)
class Pass:
    """All calls at one version of the parameters."""

    version: object
    groups: int
    transform: SpectralTransform | None
    candidates: Candidates | None
    """Of data in pieces: of this version or, where none are looked for, of an earlier one."""
    looking: bool


class IGA(nn.Module):
    """A network whose training is adjusted: the identity around it, but for its gradient.

    In training mode the gradient of any loss with respect to the outputs is transformed on its way
    back (Shi et al. 2025). In `eval()` mode, without gradients and inside `plain()`, this is the
    network alone. All trained parameters are the network's.

    Parameters
    ----------
    network : nn.Module
        Gives one real tensor of outputs, a row of channels a point, each of which depends on its
        own point only.
    grouping : Grouping, optional
        With it, data are all points in their own order, (N, ...) or (1, N, ...), and points in no
        group keep their plain gradient. Without it, data come in groups, (n, p, ...), whole or as
        pieces of columns that share one transform; `n` may change from call to call.
    **adjustment
        Settings of `iga_core.Adjustment`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another kind or out of its range, or nothing is trained.

    Notes
    -----
    The transform is made at the first backward pass after the parameters changed. That costs one
    evaluation of the network at `samples` points of each group, a backward pass of it, the kernel
    (see `empirical_ntk`) and its eigenpairs, ``O(n³)``; and every backward pass ``O(n end)`` for
    each number in a group.

    With data in pieces, the representatives are those of the pass before, once there was one, and
    ``reach="mean"`` takes the means over the columns of each piece. All calls of as many groups at
    one version of the parameters are taken for pieces of the same groups, and with ``refresh > 1``
    those of the versions between too: accumulate one batch of groups a step.

    A version ends with a step of a `torch.optim.Optimizer` or a change that PyTorch counts; all of
    a ``step(closure)`` has one transform. A loop of your own that writes ``p.data`` in place
    escapes notice: write ``p`` under `torch.no_grad` instead.

    On a GPU a running step waits once, where PyTorch reads back whether the eigenpairs of an
    (end + 11)-square matrix were found; flags for warnings are read a step late.

    The network is evaluated once more in each version, and a few times on its first call. Buffers
    and random numbers of dropout are left alone; what else its `forward` does is done again.
    Arguments that other networks made are taken as given: the kernel has no part of those.
    """

    def __init__(
        self, network: nn.Module, grouping: Grouping | None = None, **adjustment: Any
    ) -> None:
        super().__init__()
        require_module(network)
        if grouping is not None and not isinstance(grouping, Grouping):
            raise TypeError(
                f"grouping: expected a Grouping, got {type(grouping).__name__}; "
                "make one with Grouping.patches or Grouping.blocks"
            )
        self.adjustment = _settings(adjustment)
        if grouping is not None and self.adjustment.samples > grouping.points:
            raise ValueError(
                f"samples: expected at most the {grouping.points} points of a group, got "
                f"{self.adjustment.samples}; lower samples or choose larger groups"
            )
        trained(network)
        self.network = network
        self._index = None if grouping is None else Index(grouping)
        self._tangents = Tangents()
        self._chooser = Chooser(self.adjustment)
        self._state = AdjustmentState()
        self._pass: Pass | None = None
        self._columns = 0
        self._seen: set[object] = set()
        self._warned: set[str] = set()
        self._not_finite = LateFlag()
        self._plain = 0

    @property
    def grouping(self) -> Grouping | None:
        """How data in their own order fall into groups."""
        return None if self._index is None else self._index.grouping

    @property
    def transform(self) -> SpectralTransform | None:
        """The last transform made; None before any."""
        return self._state.transform

    @property
    def eigenvalues(self) -> Tensor | None:
        """The leading ``end + 1`` eigenvalues of the last kernel, descending; None before any."""
        transform = self.transform
        return None if transform is None else transform.eigenvalues

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
        return Call(layout, leaves, version(leaves.values())), tensors

    @torch.compiler.disable
    def _ends(self, output: Any, call: Call, tensors: list[Tensor]) -> Tensor:
        require_points(call.layout, output, tensors[0])
        if not output.requires_grad:
            return output
        form = (call.layout.axes, *((t.shape, t.dtype) for t in tensors), *call.leaves)
        if form not in self._seen:
            call = dataclasses.replace(call, form=form, witness=output.detach())
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
        grouped = call.layout.grouped(cotangent)
        grouped = grouped if grouped.dtype in FLOATS else grouped.float()
        finite = torch.isfinite(grouped).all()
        on_host = cotangent.device.type == "cpu"
        if on_host and not finite:
            self._warn("cotangent")
            return cotangent
        transform = self._transform(call, grouped, tensors)
        if transform is None:
            return cotangent
        grouped = grouped.to(transform.vectors.dtype)
        if self.adjustment.reach == "mean":
            change = transform.change(grouped.mean(dim=1))[:, None]
        else:
            change = transform.change(grouped)
        if not on_host:
            finite = finite & torch.isfinite(change).all()
            change = torch.where(finite, change, torch.zeros_like(change))
            if finite.is_cuda and self._not_finite.noted(~finite):
                self._warn("cotangent")
        return call.layout.plus(cotangent, change.to(cotangent.dtype))

    def _transform(
        self, call: Call, cotangent: Tensor, tensors: list[Tensor]
    ) -> SpectralTransform | None:
        """Return the transform of the call's version, made at the first call of it."""
        last = self._pass
        if last is None or (last.version, last.groups) != (call.version, call.layout.groups):
            self._pass = self._begun(call, cotangent, tensors, last)
            return self._pass.transform
        seen = last.candidates if last.looking else None
        if seen is not None and [t.shape[2:] for t in seen.tensors] == [
            t.shape[2:] for t in tensors
        ]:
            step = self._state.step
            self._chooser.add(seen, call.layout, tensors, cotangent, step, self._columns)
        return last.transform

    def _begun(
        self, call: Call, cotangent: Tensor, tensors: list[Tensor], last: Pass | None
    ) -> Pass:
        layout, groups, state = call.layout, call.layout.groups, self._state
        before = None if last is None else last.candidates
        adjustment = self._clipped(groups)
        if adjustment is None:
            return Pass(call.version, groups, None, before, False)
        held = state.held(adjustment)
        if held is not None and (len(held.vectors), held.vectors.device) == (
            groups,
            cotangent.device,
        ):
            self._state = state.skipped()
            return Pass(call.version, groups, held, before, False)
        witness, own = call.witness, None
        if layout.index is not None:
            positions = self._choose(cotangent)
            samples = layout.samples(tensors, positions)
        else:
            in_pieces = before is not None and before.calls > 1
            self._columns = before.columns if before is not None and in_pieces else 0
            step = state.step
            positions, own = self._chooser.begin(layout, tensors, cotangent, step, self._columns)
            samples = layout.samples(tensors, positions).with_tensors(chosen(own, before))
            witness = None if in_pieces else witness
        if witness is not None:
            witness = at(layout.grouped(witness), positions)
        kernel = self._tangents.kernel(
            self.network,
            call.leaves,
            samples,
            outputs=adjustment.outputs,
            witness=witness,
        )
        if witness is not None:
            self._seen.add(call.form)
        if kernel.device.type == "cpu" and not torch.isfinite(kernel).all():
            self._warn("kernel")
            return Pass(call.version, groups, None, own, own is not None)
        transform, self._state = adjust(kernel, adjustment, state)
        return Pass(call.version, groups, transform, own, own is not None)

    def _choose(self, cotangent: Tensor) -> Tensor:
        """Return the positions (n, samples) of the representatives of a grouping's groups."""
        centre = 0 if self.grouping is None else self.grouping.centre
        samples, step = self.adjustment.samples, self._state.step
        return self._chooser.positions(cotangent, samples, centre, step)

    def _clipped(self, groups: int) -> Adjustment | None:
        """Return the settings for this many groups; None where nothing can be equalised."""
        adjustment = self.adjustment
        if adjustment.end < groups:
            return adjustment
        self._warn(
            "end",
            f"end: expected less than the {groups} groups, got {adjustment.end}; it is taken as "
            f"{groups - 1} here: lower end or make more groups",
        )
        if adjustment.start >= groups - 1:
            return None
        return dataclasses.replace(adjustment, end=groups - 1)

    def _warn(self, what: str, message: str = "") -> None:
        if what not in self._warned:
            self._warned.add(what)
            message = message or (
                f"{what}: expected finite values, got NaN or infinity; the step was left "
                "unadjusted: lower the learning rate, unless a GradScaler is looking for its scale"
            )
            warnings.warn(message, stacklevel=2)

    def adjustment_state(self) -> dict[str, Tensor]:
        """Return what the adjustment needs to go on elsewhere, by name; not copies.

        Returns
        -------
        dict of str to Tensor
            For `load_adjustment_state`; `state_dict()` is the bare network's.
        """
        return written(self._state, None if self._pass is None else self._pass.candidates)

    def load_adjustment_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on where another adjustment of the same settings stood.

        Parameters
        ----------
        state : mapping of str to Tensor
            What `adjustment_state` returned.

        Raises
        ------
        ValueError
            If it is of other settings. Nothing is changed then.
        """
        like = next(iter(trained(self.network).values()))
        self._state, candidates = read(state, self.adjustment, like.device)
        self._pass = Pass(None, -1, None, candidates, False)

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


def _settings(adjustment: Mapping[str, Any]) -> Adjustment:
    names = [field.name for field in dataclasses.fields(Adjustment)]
    for name in adjustment:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"they are {', '.join(names)}"
            raise TypeError(f"{name}: expected a setting of Adjustment, got {name!r}; {hint}")
    return Adjustment(**adjustment)


def _is_wanted(leaf: Tensor) -> bool:
    """Say whether the running backward pass reaches this parameter."""
    try:
        return bool(torch._C._will_engine_execute_node(get_gradient_edge(leaf).node))
    except RuntimeError:  # so torch says that `torch.autograd.grad` was asked for the leaf itself
        return True
