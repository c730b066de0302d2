"""The wrapper that adjusts the gradient of any network's training.

It knows PyTorch's backward pass; what happens to a cotangent there, `iga_core.Adjuster` decides.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.graph import get_gradient_edge
from torch.utils._pytree import TreeSpec, tree_unflatten

from iga_core import Adjuster, Adjustment, Grouping, Transform
from iga_core.adjuster import Choose
from iga_torch.advice import Advice, mostly_zero
from iga_torch.around import Around, Once, passed
from iga_torch.before import Before
from iga_torch.checking import (
    require_dtype,
    require_graph,
    require_separate,
    require_separate_points,
    trained,
)
from iga_torch.functions import Function, Parameters
from iga_torch.kernel import require_device
from iga_torch.late import LateFlag
from iga_torch.layout import (
    Layout,
    leading_axes,
    require_numbers,
    running_along,
    sent,
)
from iga_torch.outputs import Outputs, apart, beside
from iga_torch.placing import Placing
from iga_torch.recording import COMPLEX, FLOATS
from iga_torch.replicas import require_whole
from iga_torch.report import KernelReport
from iga_torch.samples import Samples, replaced
from iga_torch.seen import Seen
from iga_torch.selecting import Selector, parameter_names, require_selector, selected
from iga_torch.stand_ins import standing_in
from iga_torch.tangents import Tangents
from iga_torch.watching import NO_BACKWARD, watched


@dataclass(eq=False)
class Begun:
    """What is known of a call before the network has been evaluated."""

    leaves: list[Any]
    spec: TreeSpec
    coords: int
    trained: dict[str, Tensor]
    before: Before


@dataclass(eq=False)
class Call:
    """A forward pass that is to be adjusted when its gradient comes back."""

    layout: Layout
    coords: int
    trained: dict[str, Tensor]
    transform: Transform | None = None
    """Made at the first backward pass through the call, and shared by all others."""


class IGA(nn.Module):
    """A network, or a function of one, whose training is adjusted: the identity but for gradients.

    In training mode the gradient of any loss with respect to the outputs is adjusted on its way
    back (Shi et al. 2025). In `eval()` mode, without gradients, with all parameters frozen and
    inside `plain()`, this is the network alone. All trained parameters are the network's, and so
    are all attributes and methods that are not named here, to be set too: ``model.density(x)`` is
    the network's own, and not adjusted.

    Every call stands for itself: its points are its groups, and its transform is its own. A
    transform, and the running average of kernels, are kept from call to call only where the points
    are known to be the same: on a CPU, if all arguments have the same values as in the last call
    that made one, at the representatives for those that are sampled; on an accelerator, which is
    not asked for values, if they are the same tensors, unchanged.

    Parameters
    ----------
    network : nn.Module or callable
        Gives a row of channels for each point, or a number, which depends on its own point only. A
        function may be whatever has that form and is made from a network: a renderer from rays to
        colours, or a derivative by the coordinates, taken inside it.
    grouping : Grouping or "rows", optional
        By default points come in any order and number, coordinates (..., d) of any leading axes,
        new ones at every call, and neighbours are grouped anew for new points. With a `Grouping`,
        data are all its points in their own order, (N, ...), or on several leading axes such as
        (H, W, d). With "rows" the first axis holds the groups: data are (n, p, ...).
    adjustment : Adjustment, optional
        The settings; `Adjustment()` by default. `refresh` counts calls.
    parameters : iterable of Tensor, optional
        Of a function, those that are trained: ``network.parameters()``, a mapping or pairs with
        names, or a module. A module in place of a function has its own.
    groups : int, optional
        How many groups of neighbours, about; by default as many as cost 3 % of a step by counted
        operations, but at least 64, of 4 points or more.
    coords, output : str, tuple, int or callable, optional
        Which tensor holds the coordinates, and which of those that are returned the outputs, where
        they come in dicts, tuples, lists or dataclasses: a name or key, looked for at any depth; a
        path such as ``("out", 0)``; or a function of the structure, which returns the tensor. By
        default the first tensor of numbers, and the only one. With a list of these, `output` is
        several tensors, whose channels are adjusted as one function: a value and its gradient, or
        coarse and fine colours.
    choose : callable, optional
        Chooses the representatives in place of the adjustment's sampling, see
        `iga_core.Adjuster`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another kind or out of its range, a function has no `parameters`,
        nothing is trained, or a part of the network is an `IGA` already.

    Notes
    -----
    **What the loop must know.** The adjusted gradient is shorter than the plain one, by 1 to 1,000
    times. Adam, Muon and SOAP do not mind, but their `eps`, weight decay that is added to the
    gradient, thresholds of clipping and the rate of gradient descent mean something else. A
    constant rate has a floor under the loss, to which training falls back in spikes, sooner than
    plain training does: let the rate decay, at least over the last fifth of the steps, or average
    the weights.

    **What is never silent.** A backward pass that reaches the parameters, and no adjusted call,
    warns once; so a loss on a returned tensor other than `output` is seen alone, but not beside an
    adjusted one, and trains plain there: name both in `output`. Derivatives of the adjusted
    gradient (`create_graph`) and transforms of `torch.func` around the model are refused; inside a
    function they are adjusted, with factors, as all else. A loss in which most points have no part
    warns once. `kernel_report` says which parameters take explicit rows, and why; rows that depend
    on each other are refused. Randomness in `forward` is evaluated as another draw.

    **Terms of a loss.** What comes through one call is adjusted as one function of all its
    outputs. A term outside of it keeps its plain gradient, which is longer, so that the weights of
    the terms mean something else: take terms on the same points from one call. One call does not
    keep all weights either: outputs that the kernel is large in are shortened more, so scale those
    that count inside the function.

    **Several processes.** Inside `DistributedDataParallel` or around it, the points of each process
    are its own groups, and its kernel its own; what is reduced are adjusted gradients. No process
    waits for another one for this, which may have no points, adjust nothing or accumulate. Where
    processes share the parameters out (FSDP, DeepSpeed), it is refused.

    **Cost.** A transform takes one evaluation of the network at `samples` points of each group, a
    backward pass of it, the kernel (see `empirical_ntk`) and its filter, ``O(n³)``; every backward
    pass, ``O(n²)`` for each channel of the groups' means, or for each number in a group with the
    reach "points". To group new points takes a sort an axis. Two backward passes through one call
    use one transform.

    On a GPU a call waits only where PyTorch's own `eigvalsh`, `eigh` and `solve` read back whether
    they succeeded, once in `refresh` calls; flags for warnings are read a step late. The network is
    evaluated a few times more on its first call, and once where a transform is made. Buffers,
    attributes and random numbers are left alone. Arguments that other networks made are taken as
    given: the kernel has no part of those.

    Examples
    --------
    Points may be others at every call:

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> model = IGA(net, groups=16)
    >>> x = torch.rand(320, 2)
    >>> loss = torch.mean((model(x) - torch.sin(9 * x[:, :1])) ** 2)
    >>> loss.backward()
    >>> model.transform.matrix().shape
    torch.Size([16, 16])

    A loss on a derivative, which a function returns:

    >>> def slope(x):
    ...     x = x.requires_grad_()
    ...     return torch.autograd.grad(net(x).sum(), x, create_graph=True)[0]
    >>> slopes = IGA(slope, parameters=net.parameters(), groups=16)
    >>> loss = torch.mean((slopes(x).norm(dim=-1) - 1) ** 2)
    >>> loss.backward()
    """

    def __init__(
        self,
        network: nn.Module | Callable[..., Any],
        grouping: Grouping | str | None = None,
        adjustment: Adjustment | None = None,
        *,
        parameters: Parameters | None = None,
        groups: int | None = None,
        coords: Selector | None = None,
        output: Selector | list[Selector] | None = None,
        choose: Choose | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            network = Function(network, parameters)
        elif parameters is not None:
            raise ValueError(
                "parameters: expected none beside a module, which has its own, got some; leave "
                "them out, or pass a function: network.forward with parameters="
            )
        inner = next((name for name, m in network.named_modules() if isinstance(m, IGA)), None)
        if inner is not None:
            raise ValueError(
                "network: expected one that is not adjusted yet, got an IGA "
                f"{f'as {inner!r} in it' if inner else 'itself'}; its gradient would be adjusted "
                "twice: wrap the bare network, once"
            )
        adjustment = Adjustment() if adjustment is None else adjustment
        if not isinstance(adjustment, Adjustment):
            raise TypeError(
                f"adjustment: expected an Adjustment, got {type(adjustment).__name__}; "
                "pass Adjustment() or Adjustment.paper(end=20)"
            )
        self._once = Once()
        self._placing = Placing(grouping, groups, adjustment, self._once)
        require_selector("coords", coords)
        self._coords, self._outputs = coords, Outputs(output)
        trained(network)
        require_whole(network)
        self.network = network
        self._names = parameter_names(network)
        centre = grouping.centre if isinstance(grouping, Grouping) else None
        self._adjuster = Adjuster(adjustment, centre=centre, choose=choose, send=sent)
        self._reached = not isinstance(network, Function)  # a module knows its parameters itself
        self._tangents = Tangents()
        self._shared: set[int] = set()
        self._changes: bool | None = None  # whether the network changes its arguments in place
        self._of_channels: dict[object, bool] = {}  # last axes in common, whether by chance
        self._seen: set[object] = set()
        self._not_finite, self._few = LateFlag(), LateFlag()
        self._around, self._advice = Around(), Advice()
        self._plain = 0

    def __setattr__(self, name: str, value: Any) -> None:
        # What is the network's own is set there, where its `forward` reads it; so are parameters
        # and modules, which `state_dict` would not have otherwise.
        ready = "_plain" in self.__dict__  # the last one of `__init__`
        ours = not ready or name == "network" or name in self.__dict__ or hasattr(IGA, name)
        if not ours and (
            isinstance(value, nn.Parameter | nn.Module) or hasattr(self.network, name)
        ):
            setattr(self.network, name, value)
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "network" or (name.startswith("__") and name.endswith("__")):
                raise
            return getattr(self.network, name)

    @property
    def adjustment(self) -> Adjustment:
        """The settings."""
        return self._adjuster.adjustment

    @property
    def grouping(self) -> Grouping | str | None:
        """How data in their own order fall into groups, "rows", or None where that is found."""
        return self._placing.grouping

    @property
    def transform(self) -> Transform | None:
        """The last transform made; None before any."""
        return self._adjuster.transform

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters as a module does; around a function, those that were given."""
        if isinstance(self.network, Function):
            yield from self.network.named_parameters(f"{prefix}.network".lstrip("."))
        else:
            yield from super().named_parameters(prefix, recurse, remove_duplicate)

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

        A loss on a derivative that was taken here trains the network unadjusted, beside what is
        adjusted. To have it adjusted, wrap the function that returns the derivative.
        """
        self._plain += 1
        self._around.meant()
        try:
            yield
        finally:
            self._plain -= 1

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return ``network(*args, **kwargs)``, of whatever structure; nothing of it is changed.

        Parameters
        ----------
        *args, **kwargs
            The coordinates, and what else the network takes. Tensors with the same leading axes
            are sampled along with the coordinates; those that have the first of these axes only
            belong to a group or a signal each; all else belongs to every point.

        Returns
        -------
        Tensor, or a structure of tensors
            With outputs (...) or (..., C) for coordinates (..., d).
        """
        if not torch.is_grad_enabled():
            return self.network(*args, **kwargs)
        begun = self._begins(args, kwargs)
        if torch.compiler.is_compiling():
            output = self.network(*args, **kwargs)
        else:
            output = self._evaluated(begun, args, kwargs)
        return output if begun is None else self._ends(output, begun)

    @torch.compiler.disable
    def _begins(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Begun | None:
        # With nothing to train, as while a generator trains through it, there is nothing to adjust.
        first = next((p for p in self.network.parameters() if _may_be_trained(p)), None)
        idle = not self.training or self._plain > 0
        if not idle:
            require_whole(self.network)
            idle = first is None
        if torch._C._are_functorch_transforms_active():
            if idle:
                return None  # such a transform hides the graph from a watch
            raise RuntimeError(NO_BACKWARD)
        self._around.watch(first)
        if idle:
            return None
        leaves = trained(self.network)
        require_separate(self.network)
        found, spec, place = selected("coords", self._coords, (args, kwargs), self._names)
        require_device("coords", found[place], leaves)
        before = Before.of(found, copied=self._changes is not False)
        return Begun(found, spec, place, leaves, before)

    def _evaluated(self, begun: Begun | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return self.network(*args, **kwargs)
        except RuntimeError as error:
            if begun is not None:
                call = Samples(tuple(begun.leaves), begun.spec, (begun.coords,), 0, 1)
                require_dtype(call, begun.trained, error)
            raise

    @torch.compiler.disable
    def _ends(self, output: Any, begun: Begun) -> Any:
        leaves, spec, places = self._outputs.taken(output)
        found: list[Tensor] = [leaves[place] for place in places]
        for tensor in found:
            require_numbers(tensor)
        if not any(tensor.requires_grad for tensor in found):
            return output
        if not self._reached:
            self._require_reached(found, begun.trained)
        call, tensors = self._called(begun, found)
        returned = functools.partial(self._returned, call)
        for place, tensor in zip(places, watched(found, tensors, returned), strict=True):
            leaves[place] = tensor
        return tree_unflatten(leaves, spec)

    def _require_reached(self, found: list[Tensor], leaves: dict[str, Tensor]) -> None:
        """Raise if a function's outputs depend on none of the parameters that were given."""
        require_graph(
            found, leaves, "parameters: expected some that the outputs depend on, got "
            f"{len(leaves)} that they do not; pass those of the network that the function calls",
        )  # fmt: skip
        self._reached = True

    def _called(self, begun: Begun, found: list[Tensor]) -> tuple[Call | None, list[Tensor]]:
        """Return the call that gave some outputs, and its tensors; None if it stays plain.

        Such a one is watched too, so that a backward pass through it counts as no pass around.
        """
        given, self._changes = begun.before.arguments()
        if given is None:
            self._once(
                "coords: expected a network that leaves its arguments as they are, as in the calls "
                "before, got one that changes them in place; this call is not adjusted"
            )
            return None, []
        begun = replace(begun, leaves=given)
        coords = begun.leaves[begun.coords]
        if not coords.numel():
            return None, []
        shape = self._placing.axes(coords) or min(
            (self._axes(begun, coords, tensor) for tensor in found), key=len
        )
        layout = self._layout(begun, shape)
        for tensor in found:
            layout.require_outputs(tensor)
        call = Call(layout, layout.sampled.index(begun.coords), begun.trained)
        return call, [begun.leaves[k] for k in layout.sampled]

    def _layout(self, begun: Begun, shape: tuple[int, ...]) -> Layout:
        places, along = running_along(
            begun.leaves, begun.coords, shape, self._placing.rows, self._shared
        )
        others = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in begun.leaves]
        return Layout(
            replaced(tuple(others), places, [None] * len(places)), begun.spec, places, along,
            shape, functools.partial(self._outputs.joined, len(shape)),
        )  # fmt: skip

    def _axes(self, begun: Begun, coords: Tensor, found: Tensor) -> tuple[int, ...]:
        """Return the points' leading axes: the last one in common may be channels by chance."""
        shape = leading_axes(coords, found)
        if found.ndim > len(shape) or len(shape) == 1:
            return shape
        form = coords.shape[len(shape) - 1 :]
        if form not in self._of_channels:
            layout = self._layout(begun, shape)
            tensors = [begun.leaves[k].detach() for k in layout.sampled]
            with standing_in(self.network, begun.trained):
                self._of_channels[form] = not layout.follows(self.network, tensors)
        return shape[:-1] if self._of_channels[form] else shape

    def _returned(
        self, call: Call | None, cotangents: list[Tensor], tensors: list[Tensor]
    ) -> list[Tensor]:
        """Adjust the cotangents of a call's outputs; of one that stays plain there is no call."""
        if call is None:
            passed()
            return cotangents
        axes = len(call.layout.shape)
        adjusted = self._adjusted(beside(cotangents, axes), call, tensors)
        return apart(adjusted, cotangents, axes)

    def _adjusted(self, cotangent: Tensor, call: Call, tensors: list[Tensor]) -> Tensor:
        passed()
        if self._plain:
            if torch.is_grad_enabled():
                self._once(
                    "derivative: taken inside plain(), a loss on it trains the network unadjusted, "
                    "beside what is adjusted; to have it adjusted, wrap the function that "
                    "returns the derivative: IGA(function, parameters=network.parameters())"
                )
            return cotangent
        if torch.is_grad_enabled():
            raise RuntimeError(
                "backward: expected no graph of the adjusted gradient, got create_graph=True; "
                "leave it out for the steps of an inner loop, which are of first order then; for a "
                "loss on a derivative, wrap the function that returns it: IGA(function, "
                "parameters=network.parameters()); or take it inside `with model.plain():`, where "
                "a loss on it is not adjusted"
            )
        if not any(_is_wanted(leaf) for leaf in call.trained.values()):
            return cotangent
        if call.transform is None:
            channels = cotangent.numel() // call.layout.count
            call.layout, same = self._placing.placed(
                call.layout, tensors, tensors[call.coords], channels, call.trained
            )
            if not same:
                self._adjuster.forget()
        layout = call.layout
        wide = cotangent if cotangent.dtype in (*FLOATS, *COMPLEX) else cotangent.float()
        grouped, rest = layout.split(wide)
        finite = torch.isfinite(grouped).all()
        if finite.device.type != "cpu":
            self._note(finite)
        elif not finite:
            # Nothing is learned from such a step, and `largest` could not choose.
            self._warn_not_finite("cotangent")
            return cotangent
        if call.transform is None:
            call.transform = self._make(call, grouped, tensors)
            self._advise(grouped)
            self._advice.seek(list(call.trained.values()))
        neighbours = layout.neighbours(grouped.device)
        adjusted = self._adjuster.with_rest(grouped, rest, neighbours, call.transform)
        return layout.joined(*adjusted, cotangent)

    def _kernel(
        self, call: Call, tensors: list[Tensor], positions: Tensor
    ) -> tuple[Layout, list[Tensor], Tensor]:
        """Return the kernel at positions (n, s), and the layout and tensors that it is of."""

        def of(layout: Layout, tensors: list[Tensor]) -> Tensor:
            with standing_in(self.network, call.trained) as leaves:
                return self._tangents.kernel(
                    self.network,
                    leaves,
                    layout.samples(tensors, positions),
                    outputs=self.adjustment.outputs,
                )

        layout = call.layout
        try:
            return layout, tensors, of(layout, tensors)
        except (IndexError, RuntimeError, ValueError):
            if len(tensors) == 1:
                raise
            # A tensor may have the points' leading axes by chance, and belong to every point.
            alone = layout.sharing(tensors, call.coords)
            coords = [tensors[call.coords]]
            try:
                kernel = of(alone, coords)
            except (IndexError, RuntimeError, ValueError):
                kernel = None
            if kernel is None:
                raise
        self._shared.update(set(layout.sampled) - set(alone.sampled))
        return alone, coords, kernel

    def _make(self, call: Call, cotangent: Tensor, given: list[Tensor]) -> Transform:
        adjuster = self._adjuster
        adjuster.look(cotangent)

        def kernel_at(positions: Tensor) -> Tensor:
            layout, tensors, kernel = self._kernel(call, given, positions)
            form = (
                layout.sampled, len(layout.shape), layout.along, *call.trained,
                *((t.shape[along:], t.dtype) for t, along in
                  zip(tensors, layout.along, strict=True)),
            )  # fmt: skip
            if form not in self._seen:
                points, axes = layout.neighbouring(tensors, positions)
                require_separate_points(self.network, points, axes)
                self._seen.add(form)
            self._placing.saw(layout, tensors, layout.samples(tensors, positions), positions)
            return kernel.to(cotangent.dtype)

        transform = adjuster.make(kernel_at)
        if isinstance(adjuster.finite, Tensor):
            self._note(adjuster.finite)
        return transform

    def _note(self, finite: Tensor) -> None:
        """Warn of what a GPU found not to be finite, once it has got so far."""
        if finite.is_cuda and self._not_finite.noted(~finite):
            self._warn_not_finite("cotangent or kernel")

    def _advise(self, cotangent: Tensor) -> None:
        """Warn of cotangents (n, p, C) that are nearly zero at most points."""
        few = mostly_zero(cotangent)
        if self._few.noted(few) if few.is_cuda else few:
            self._once(
                "loss: expected one that most outputs have a part in, got cotangents of nearly "
                "zero at more than half of the points; a group's mean is subtracted from those "
                "too, and gives them targets that nobody asked for: adjust what the loss is on, "
                "as IGA(render, parameters=network.parameters()) around a rendered colour, or "
                "leave out the points that do not count"
            )

    def _warn_not_finite(self, what: str) -> None:
        self._once(
            f"{what}: expected finite values, got NaN or infinity; the step was left unadjusted: "
            "lower the learning rate, unless a GradScaler is looking for its scale"
        )

    def adjustment_state(self) -> dict[str, Tensor]:
        """Return what the adjustment needs to go on elsewhere, by name; not copies.

        Returns
        -------
        dict of str to Tensor
            For `load_adjustment_state`; `state_dict()` is the bare network's.
        """
        state = {k: torch.as_tensor(v) for k, v in self._adjuster.state_dict().items()}
        seen = self._placing.seen
        return state if seen is None else state | seen.state()

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
        self._placing.load(points)

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


def _may_be_trained(parameter: Tensor) -> bool:
    """Say whether a parameter is trained, or a transform of `torch.func` hides whether it is."""
    known = parameter.requires_grad or is_functorch_wrapped_tensor(parameter)
    return known and parameter.numel() > 0


def _is_wanted(leaf: Tensor) -> bool:
    """Say whether the running backward pass reaches this parameter."""
    try:
        return bool(torch._C._will_engine_execute_node(get_gradient_edge(leaf).node))
    except RuntimeError:  # so torch says that `torch.autograd.grad` was asked for the leaf itself
        return True
