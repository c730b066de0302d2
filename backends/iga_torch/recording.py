"""What an evaluation does with the trained parameters, read while it runs."""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from iga_torch.graph import Reader, Step, Used, form_of, readers_in_graph, uses_of_readers
from iga_torch.operations import Use, uses_of
from iga_torch.replicas import alone
from iga_torch.weights import Weights, tensors_in

DROPOUTS = frozenset(
    {
        F.dropout,
        F.dropout1d,
        F.dropout2d,
        F.dropout3d,
        F.alpha_dropout,
        F.feature_alpha_dropout,
        torch.dropout,
        torch.alpha_dropout,
        torch.feature_dropout,
        torch.feature_alpha_dropout,
    }
)
SELECTIONS = frozenset(
    {
        torch.masked_select,
        Tensor.masked_select,
        torch.nonzero,
        Tensor.nonzero,
        torch.argwhere,
        Tensor.argwhere,
        torch.unique,
        Tensor.unique,
        torch.argsort,
        Tensor.argsort,
        torch.sort,
        Tensor.sort,
        torch.topk,
        Tensor.topk,
        torch.randperm,
    }
)
INDEXING = frozenset({Tensor.__getitem__, Tensor.__setitem__})
IN_PLACE = frozenset({Tensor.__setitem__})
FLOATS = (torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)


class WithoutDropout(TorchFunctionMode):
    """Dropout does nothing here: the kernel is that of the whole network.

    Attributes
    ----------
    dropped : bool
        Whether there was any.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dropped = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in DROPOUTS:
            self.dropped = True
            return args[0] if args else kwargs["input"]
        if func is F.multi_head_attention_forward:
            given = inspect.signature(func).bind(*args, **kwargs)
            self.dropped |= given.arguments["training"] and given.arguments["dropout_p"] > 0
            given.arguments["dropout_p"] = 0.0
            args, kwargs = given.args, given.kwargs
        return self._call(func, args, kwargs)

    def _call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        return func(*args, **kwargs)


class Recording(WithoutDropout):
    """Sees every operation that reads a trained leaf, and keeps those that have factors.

    Attributes
    ----------
    uses : list of Used
        In the order of the evaluation.
    others : dict of str to callable
        Parameters that were read by any other operation too, and the first of these.
    selects : bool
        Whether rows were chosen by values, so that those of a layer are not those of the samples.
    """

    def __init__(self, leaves: Mapping[str, Tensor], data: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self._weights = Weights(leaves)
        self._weights.note_data(list(data))
        self.uses: list[Used] = []
        self._steps: list[Step] = []
        self._readers: list[Reader] = []
        self.others: dict[str, Callable[..., Any]] = {}
        self.selects = False

    def _call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        if torch._C._are_functorch_transforms_active():
            return func(*args, **kwargs)  # its tensors stand for others; the graph has what it did
        weights = self._weights
        given = tensors_in((args, kwargs) if kwargs else args)
        read = [tensor for tensor in given if weights.of(tensor) is not None]
        data = any(weights.is_data(tensor) for tensor in given)
        self.selects |= func in SELECTIONS or (
            func in INDEXING and any(tensor.dtype == torch.bool for tensor in given[1:])
        )
        nodes = tuple(tensor.grad_fn for tensor in given) if read else ()  # before it is changed
        result = func(*args, **kwargs)
        if read:
            if isinstance(result, Tensor):
                self._steps.append(Step(result.grad_fn, nodes))
            result, used = self._reads(func, args, kwargs, read, result)
            data |= used
        if data:
            weights.note_data((result, args[0] if func in IN_PLACE else None))
        return result

    def _reads(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        read: list[Tensor],
        result: Any,
    ) -> tuple[Any, bool]:
        """Keep what an operation did with weights; return its result, and whether that is data."""
        weights = self._weights
        names = {n for t in read if (weight := weights.of(t)) is not None for n in weight.names}
        changed = any(weights.is_changed(tensor) for tensor in read)
        if not changed and result is not None:
            if not any(tensor.requires_grad for tensor in tensors_in(result)):
                return result, False  # as of `detach`: nothing comes back through it
            if len(read) == 1 and not kwargs and weights.follow(func, args, result):
                return result, False
            if not kwargs and weights.follow_made(func, args, result):
                return result, False
        uses: list[Use] = []
        whole = isinstance(result, Tensor) and result.dtype in (*FLOATS, *COMPLEX)
        if whole and not changed:
            uses = uses_of(func, args, dict(kwargs), result, weights)
        if uses:
            edge = get_gradient_edge(result)
            self.uses += [Used(use, edge, func) for use in uses]
            # An operation in place on a view would lead its gradient around the edge.
            result = result.clone() if result._is_view() else result
        for name in names.difference(*(use.weight.names for use in uses)):
            self.others.setdefault(name, func)
        return result, bool(uses)

    def read(self, outputs: Tensor) -> tuple[object, ...]:
        """Look for uses in the outputs' graph beyond those seen, and return the form of these."""
        self._readers = readers_in_graph(outputs, self._weights, self._steps)
        return form_of(self._readers, self._weights)

    def from_graph(self) -> tuple[list[Used], dict[str, str]]:
        """Return the uses that `read` has found, see `uses_of_readers`."""
        return uses_of_readers(self._readers, self._weights)


@dataclass
class Traces:
    """What an evaluation would have left behind: whether another one gives the same."""

    changed: bool = False
    """Whether it changed a buffer."""
    drew: bool = False
    """Whether it drew random numbers."""


@contextlib.contextmanager
def eagerly(*kinds: str) -> Iterator[None]:
    """Evaluate operations one by one, uncompiled, and on these kinds of device without autocast."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for kind in kinds:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[Traces]:
    """Evaluate a network without autocast, compilation and the hooks of its parameters.

    Parameters, buffers, hooks, attributes of modules and the state of random numbers are left as
    they were, whatever happens inside; so equal evaluations have equal draws, and a schedule that
    counts calls in an attribute counts the caller's alone. What is changed inside an object that a
    module holds, such as a list, stays so. No other device or process is waited for, see `alone`.
    Gives what is known at the end.
    """
    traces, modules = Traces(), list(network.modules())
    # Those of scripted modules are not PyTorch's dictionaries, and cannot be replaced.
    slots: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (own, dict(own))
        for module in modules
        for own in (vars(module), module._parameters, module._buffers)
        if isinstance(own, dict)
    ]
    hooks = [(p._backward_hooks, dict(p._backward_hooks)) for p in network.parameters()
             if p._backward_hooks]  # fmt: skip
    kept = [(buffer, buffer._version, buffer.detach().clone()) for buffer in network.buffers()]
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_same_random_numbers(modules, traces))
        try:
            stack.enter_context(eagerly("cpu", "cuda"))
            for registered, _ in hooks:
                registered.clear()
            with alone(modules):
                yield traces
        finally:
            for registered, before in hooks:
                registered.clear()
                registered.update(before)
            for own, held in slots:
                if own.keys() != held.keys() or any(own[name] is not t for name, t in held.items()):
                    own.clear()
                    own.update(held)
                    traces.changed = True
            with torch.no_grad():
                for buffer, version, values in kept:
                    if buffer._version != version or _differs_on_host(buffer, values):
                        buffer.copy_(values)
                        traces.changed = True


@contextlib.contextmanager
def _same_random_numbers(modules: list[nn.Module], traces: Traces) -> Iterator[None]:
    """Leave the generators of PyTorch, and those that a module holds, in their present state."""
    held = [t for m in modules for t in m._parameters.values() if t is not None]
    devices = {t.device for t in held if t.device.type == "cuda"}
    own = [v for m in modules for v in vars(m).values() if isinstance(v, torch.Generator)]
    generators = [
        torch.default_generator,
        *(torch.cuda.default_generators[d.index] for d in devices),
        *own,
    ]
    states = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            traces.drew |= not torch.equal(generator.get_state(), state)
            generator.set_state(state)


def _differs_on_host(buffer: Tensor, before: Tensor) -> bool:
    # Running statistics change without PyTorch counting it.
    return buffer.device.type == "cpu" and not torch.equal(buffer, before)
