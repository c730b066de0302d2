"""What an evaluation does with the trained parameters, read while it runs."""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

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
PRODUCTS = frozenset({torch.matmul, torch.mm, Tensor.matmul, Tensor.mm})
FLOATS = (torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class LinearUse:
    """One ``z = x Wᵀ + b``: whose weight and bias, at what `x`, and where the gradient of z is.

    With a `basis` B, W is the product of the weight, trained, and B, which is not.
    """

    weight: str | None
    bias: str | None
    inputs: Tensor
    edge: GradientEdge
    basis: Tensor | None = None

    @property
    def parameters(self) -> set[str]:
        """Names of the trained parameters read."""
        return {name for name in (self.weight, self.bias) if name is not None}


@dataclass(frozen=True, eq=False)
class LookupUse:
    """One reading of the rows `indices` of a table."""

    table: str
    shape: torch.Size
    indices: Tensor
    edge: GradientEdge
    padding: int | None

    @property
    def parameters(self) -> set[str]:
        """Names of the trained parameters read."""
        return {self.table}


@dataclass(frozen=True, eq=False)
class Product:
    """A trained weight times a fixed basis; it is kept so that no other tensor gets its id."""

    weight: str
    basis: Tensor
    result: Tensor


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
    uses : list of LinearUse or LookupUse
        In the order of the evaluation.
    others : set of str
        Parameters that were read by any other operation too.
    """

    def __init__(self, leaves: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {id(leaf): name for name, leaf in leaves.items()}
        self._products: dict[int, Product] = {}
        self.uses: list[LinearUse | LookupUse] = []
        self.others: set[str] = set()

    def _call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        read = set(self._read((args, kwargs)))
        result = func(*args, **kwargs)
        product = self._product(func, args, result) if read else None
        if product is not None:
            self._products[id(result)] = product
        elif read and _holds_tensor(result):
            use = self._understood(func, args, kwargs, result)
            if use is not None:
                self.uses.append(use)
                read -= use.parameters
                # An operation in place on a view would lead its gradient around the edge.
                result = result.clone() if result._is_view() else result
            self.others |= read
        return result

    def _read(self, tree: Any) -> Iterator[str]:
        if isinstance(tree, Tensor):
            if id(tree) in self._names:
                yield self._names[id(tree)]
            elif id(tree) in self._products:
                yield self._products[id(tree)].weight
        elif isinstance(tree, list | tuple):
            for branch in tree:
                yield from self._read(branch)
        elif isinstance(tree, Mapping):
            yield from self._read(list(tree.values()))

    def _product(
        self, func: Callable[..., Any], args: tuple[Any, ...], result: Any
    ) -> "Product | None":
        """Read a product of a trained matrix and one that is not, which may serve as a weight."""
        if func not in PRODUCTS or len(args) != 2 or id(args[0]) not in self._names:
            return None
        basis = args[1]
        fixed = isinstance(basis, Tensor) and basis.ndim == 2 and not basis.requires_grad
        if not fixed or result.ndim != 2 or result.dtype not in FLOATS:
            return None
        return Product(self._names[id(args[0])], basis, result)

    def _understood(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
    ) -> LinearUse | LookupUse | None:
        if not isinstance(result, Tensor) or not result.requires_grad or result.dtype not in FLOATS:
            return None
        if func is F.linear:
            return self._linear(result, *args, **kwargs)
        if func is F.embedding:
            return self._embedding(result, *args, **kwargs)
        if func is Tensor.__getitem__:
            return self._rows_of_table(result, *args)
        return None

    def _linear(
        self,
        result: Tensor,
        input: Tensor,  # noqa: A002
        weight: Tensor,
        bias: Tensor | None = None,
    ) -> LinearUse | None:
        w, b, basis = self._names.get(id(weight)), self._names.get(id(bias)), None
        if id(weight) in self._products:
            w, basis = self._products[id(weight)].weight, self._products[id(weight)].basis
        if set(self._read(input)) or weight.ndim != 2 or w is b is None:
            return None
        return LinearUse(w, b, input.detach(), get_gradient_edge(result), basis)

    def _embedding(
        self,
        result: Tensor,
        input: Tensor,  # noqa: A002
        weight: Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,  # noqa: ARG002
        scale_grad_by_freq: bool = False,
        sparse: bool = False,  # noqa: ARG002
    ) -> LookupUse | None:
        if id(weight) not in self._names or scale_grad_by_freq or max_norm is not None:
            return None
        padding = None if padding_idx is None else padding_idx % weight.shape[0]
        name = self._names[id(weight)]
        return LookupUse(name, weight.shape, input, get_gradient_edge(result), padding)

    def _rows_of_table(self, result: Tensor, table: Tensor, index: Any) -> LookupUse | None:
        whole = isinstance(index, Tensor) and index.dtype in (torch.int64, torch.int32)
        if not whole or id(table) not in self._names or table.ndim != 2 or index.ndim == 0:
            return None
        rows = torch.remainder(index, table.shape[0])
        name = self._names[id(table)]
        return LookupUse(name, table.shape, rows, get_gradient_edge(result), None)


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[list[Tensor]]:
    """Evaluate a network without autocast, compilation and the hooks of its parameters.

    Its buffers are left as they were. Gives a list that holds, at the end, those that it changed.
    """
    changed: list[Tensor] = []
    hooks = [(p._backward_hooks, dict(p._backward_hooks)) for p in network.parameters()
             if p._backward_hooks]  # fmt: skip
    kept = [(buffer, buffer._version, buffer.detach().clone()) for buffer in network.buffers()]
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            for kind in ("cpu", "cuda"):
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            for registered, _ in hooks:
                registered.clear()
            yield changed
    finally:
        for registered, own in hooks:
            registered.update(own)
        with torch.no_grad():
            for buffer, version, before in kept:
                if buffer._version != version or _differs_on_host(buffer, before):
                    buffer.copy_(before)
                    changed.append(buffer)


def _differs_on_host(buffer: Tensor, before: Tensor) -> bool:
    # Running statistics change without PyTorch counting it.
    return buffer.device.type == "cpu" and not torch.equal(buffer, before)


def _holds_tensor(result: Any) -> bool:
    if isinstance(result, list | tuple):
        return any(map(_holds_tensor, result))
    return isinstance(result, Tensor)
