"""How derivatives by coordinates pass through each operation of PyTorch.

A rule is given the mode, the operation, and its arguments by their names in PyTorch, and returns
the `Jet` of the result, or several, or something constant. A form of a call that a rule's signature
does not have is a `TypeError`, which the mode words.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.func import vjp

from iga_torch.elementary import LIKE_ANOTHER, Function, attributes, named
from iga_torch.taylor import Bend, Jet, Operation, Taylor, constant, is_inexact, products


def _through(operation: Operation, function: Callable[[Tensor], Any]) -> Any:
    """Let the derivatives of one tensor go through what is linear in it."""
    jet, value = operation.jets[min(operation.jets)], operation()
    if not is_inexact(value) and not isinstance(value, list | tuple):
        return constant(value)
    first = [function(along) for along in jet.first]
    second = None if jet.second is None else [function(of) for of in jet.second]
    if isinstance(value, Tensor):
        return Jet(value, first, second)
    return tuple(
        Jet(part, [of[k] for of in first], None if second is None else [of[k] for of in second])
        for k, part in enumerate(value)
    )


def _alike(_: Taylor, operation: Operation, *__: Any, **___: Any) -> Any:
    """Pass a linear function of one tensor, whatever its other arguments are."""
    place = min(operation.jets)
    if operation.func in LIKE_ANOTHER:
        if place:
            return constant(operation())  # not of the coordinates but of their shape
    elif len(operation.jets) > 1:
        raise operation.refused(" of several tensors with derivatives")
    return _through(operation, lambda along: operation({place: along}))


def _joint(taylor: Taylor, operation: Operation, *_: Any, **__: Any) -> Jet:
    """Pass a linear function of several tensors together, some of which may be constant."""
    zeros = {
        place: torch.zeros_like(leaf)
        for place, leaf in enumerate(operation.leaves)
        if is_inexact(leaf) and place not in operation.jets
    }
    return taylor.linear(
        operation(),
        list(operation.jets.values()),
        lambda *of: operation({**zeros, **dict(zip(operation.jets, of, strict=True))}),
    )


def _product(taylor: Taylor, operation: Operation, *_: Any, **__: Any) -> Any:
    """Pass a function that is linear in each of two tensors, by Leibniz' rule."""
    places = list(operation.jets)
    if len(places) == 1:
        return _through(operation, lambda of: operation({places[0]: of}))
    if len(places) > 2:
        raise operation.refused(" of more than two tensors with derivatives")
    a, b = operation.jets.values()

    def times(left: Tensor, right: Tensor) -> Any:
        return operation(dict(zip(places, (left, right), strict=True)))

    first = [times(x, b.value) + times(a.value, y) for x, y in zip(a.first, b.first, strict=True)]
    second = []
    for k, group in enumerate(taylor.groups):
        found = 2 * sum(times(a.first[i], b.first[i]) for i in group)
        found = found if a.second is None else found + times(a.second[k], b.value)
        second.append(found if b.second is None else found + times(a.value, b.second[k]))
    return Jet(operation(), first, second or None)


def _entrywise(taylor: Taylor, operation: Operation, *_: Any, **__: Any) -> Jet:
    """Pass a function of the entries of some tensors, which autograd differentiates."""
    value, places = operation(), list(operation.jets)
    if any(jet.value.is_complex() for jet in operation.jets.values()):
        raise operation.refused(" of complex numbers")
    if not taylor.directions:
        return Jet(value, [], None)
    jets = [_expanded(jet, value.shape) for jet in operation.jets.values()]
    given = [jet.value for jet in jets]

    def function(*of: Tensor) -> Any:
        return operation(dict(zip(places, of, strict=True)))

    def bends(i: int) -> tuple[Tensor, ...]:
        return _slopes(lambda *of: _slopes(function, *of)[i], *given)

    slopes = _slopes(function, *given)
    first = [_sum_of(slopes, of) for of in zip(*(jet.first for jet in jets), strict=True)]
    if not taylor.groups:
        return Jet(value, first, None)
    second = [_sum_of(slopes, of) for of in zip(*map(taylor.second, jets), strict=True)]
    for i, left in enumerate(jets):
        bend = bends(i)
        for k, group in enumerate(taylor.groups):
            second[k] = second[k] + _sum_of(bend, [products(left, of, group) for of in jets])
    return Jet(value, first, second)


def _slopes(function: Function, *given: Tensor) -> tuple[Tensor, ...]:
    pulled: Any = vjp(function, *given)
    value, back = pulled
    found: tuple[Tensor, ...] = back(torch.ones_like(value))
    return found


def _sum_of(factors: Sequence[Tensor], tensors: Sequence[Tensor]) -> Tensor:
    found = factors[0] * tensors[0]
    for factor, tensor in zip(factors[1:], tensors[1:], strict=True):
        found = torch.addcmul(found, factor, tensor)
    return found


def _expanded(jet: Jet, shape: torch.Size) -> Jet:
    def to(tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.expand(shape) for tensor in tensors]

    second = None if jet.second is None else to(jet.second)
    return Jet(jet.value.expand(shape), to(jet.first), second)


def _sum(signs: tuple[int, int]) -> Function:
    """Make the rule of a sum of two; the second is multiplied by `alpha` too."""

    def rule(taylor: Taylor, operation: Operation, x: Any, other: Any, *, alpha: float = 1) -> Jet:
        value = operation()
        terms = [
            (jet, sign)
            for side, sign in ((x, signs[0]), (other, signs[1] * alpha))
            if (jet := taylor.of(side)) is not None
        ]

        def added(*of: Tensor) -> Tensor:
            scaled: list[Tensor] = [
                t if c == 1 else c * t for t, (_, c) in zip(of, terms, strict=True)
            ]
            found = scaled[0] + scaled[1] if len(scaled) == 2 else scaled[0]
            return found.to(value.dtype).expand(value.shape)

        return taylor.linear(value, [jet for jet, _ in terms], added)

    return rule


def _difference_turned(taylor: Taylor, operation: Operation, x: Any, other: Any) -> Any:
    return _sum((-1, 1))(taylor, operation, x, other)


def _quotient(taylor: Taylor, operation: Operation, x: Any, other: Any) -> Any:
    if taylor.of(other) is None:
        return _through(operation, lambda of: torch.div(of, other))
    with taylor:
        return x * other.reciprocal()


def _power(taylor: Taylor, operation: Operation, x: Any, exponent: Any) -> Any:
    if taylor.of(x) is None or not isinstance(exponent, int | float):
        return _entrywise(taylor, operation)
    return _of_one(_whole_power)(taylor, operation, x, exponent)


def _whole_power(u: Tensor, _: Tensor, n: float) -> tuple[Tensor, Bend]:
    # Zero times an infinity at zero would be no number.
    slope = torch.zeros_like(u) if n == 0 else n * u ** (n - 1)
    return slope, None if n in (0, 1) else lambda: n * (n - 1) * u ** (n - 2)


def _layer(taylor: Taylor, operation: Operation, _: Tensor, weight: Tensor,
           bias: Tensor | None = None, *settings: Any, **more: Any) -> Any:  # fmt: skip
    """Pass a linear layer or a convolution, without its bias."""
    if taylor.of(weight) is not None or taylor.of(bias) is not None:
        raise operation.refused(" with a weight that depends on the coordinates")
    return _through(operation, lambda of: operation.func(of, weight, None, *settings, **more))


def _where(taylor: Taylor, operation: Operation, condition: Tensor, x: Any, other: Any) -> Jet:
    value, jets = operation(), [taylor.of(side) for side in (x, other)]

    def chosen(*of: Tensor) -> Tensor:
        given = iter(of)
        a, b = (0.0 if jet is None else next(given) for jet in jets)
        return torch.where(condition, a, b).to(value.dtype).expand(value.shape)

    return taylor.linear(value, [jet for jet in jets if jet is not None], chosen)


def _where_it_is(
    taylor: Taylor, operation: Operation, x: Tensor, condition: Tensor, other: Any
) -> Jet:
    return _where(taylor, operation, condition, x, other)


def _pad(_: Taylor, operation: Operation, __: Tensor, pad: Any, mode: str = "constant",
         value: Any = None) -> Any:  # noqa: ARG001  # fmt: skip
    return _through(operation, lambda of: F.pad(of, pad, mode))


def _absolute(taylor: Taylor, operation: Operation, x: Tensor) -> Any:
    if not x.is_complex():
        return _of_one(lambda u, _: (torch.sign(u), None))(taylor, operation, x)
    with taylor:
        return _root_of_squares(_squares(x))


def _of_one(formula: Callable[..., tuple[Tensor, Bend]]) -> Function:
    """Make the rule of a function f of one tensor's entries, given f' and f'' in closed form.

    The formula is given u, f(u) and settings; f'' is asked for where it is needed, None is zero.
    """

    def rule(taylor: Taylor, operation: Operation, x: Any, *settings: Any, **more: Any) -> Jet:
        jet = taylor.of(x)
        if jet is None or len(operation.jets) > 1:
            raise TypeError
        value = operation()
        return taylor.composed(jet, value, *formula(x, value, *settings, **more))

    return rule


def _tanh(_: Tensor, v: Tensor) -> tuple[Tensor, Bend]:
    slope = 1 - v * v
    return slope, lambda: -2 * v * slope


def _sigmoid(_: Tensor, v: Tensor) -> tuple[Tensor, Bend]:
    slope = v * (1 - v)
    return slope, lambda: slope * (1 - 2 * v)


def _log(u: Tensor, _: Tensor) -> tuple[Tensor, Bend]:
    slope = u.reciprocal()
    return slope, lambda: -slope * slope


def _sqrt(u: Tensor, v: Tensor) -> tuple[Tensor, Bend]:
    slope = 0.5 / v
    return slope, lambda: -0.5 * slope / u


def _softplus(u: Tensor, _: Tensor, beta: float = 1, threshold: float = 20) -> tuple[Tensor, Bend]:
    scaled = u if beta == 1 else beta * u
    slope = torch.sigmoid(scaled).masked_fill(scaled > threshold, 1.0)  # beyond it PyTorch's is u
    return slope, lambda: beta * slope * (1 - slope)


def _leaky_relu(
    u: Tensor, _: Tensor, negative_slope: float = 0.01, *__: Any
) -> tuple[Tensor, None]:
    return torch.full_like(u, negative_slope).masked_fill(u > 0, 1.0), None


def _silu(u: Tensor, _: Tensor, *__: Any) -> tuple[Tensor, Bend]:
    gate = torch.sigmoid(u)
    rest = 1 - gate
    return gate * (1 + u * rest), lambda: gate * rest * (2 + u * (rest - gate))


def _gelu(u: Tensor, _: Tensor) -> tuple[Tensor, Bend]:
    density = torch.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)
    share = 0.5 * (1 + torch.erf(u * math.sqrt(0.5)))
    return share + u * density, lambda: density * (2 - u * u)


def _gelu_of_kind(
    taylor: Taylor, operation: Operation, x: Tensor, approximate: str = "none"
) -> Jet:
    rule = _entrywise if approximate != "none" else _of_one(_gelu)
    found: Jet = rule(taylor, operation, x)
    return found


CLOSED: dict[str, Callable[..., tuple[Tensor, Bend]]] = {
    "sin": lambda u, v: (torch.cos(u), lambda: -v),
    "cos": lambda u, v: (-torch.sin(u), lambda: -v),
    "sinh": lambda u, v: (torch.cosh(u), lambda: v),
    "cosh": lambda u, v: (torch.sinh(u), lambda: v),
    "tanh": _tanh,
    "exp": lambda _, v: (v, lambda: v),
    "log": _log,
    "sqrt": _sqrt,
    "square": lambda u, _: (2 * u, lambda: 2.0),
    "reciprocal": lambda _, v: (-v * v, lambda: 2 * v * v * v),
    "sigmoid expit": _sigmoid,
    "softplus": _softplus,
    "relu": lambda u, *_: ((u > 0).to(u.dtype), None),
    "leaky_relu": _leaky_relu,
    "silu": _silu,
}
"""f' and f'' of u and f(u)."""


def _composition(formula: Function) -> Function:
    """Make the rule of what is made of operations that have rules."""

    def rule(taylor: Taylor, _: Operation, *args: Any, **kwargs: Any) -> Any:
        with taylor:
            return formula(*args, **kwargs)

    return rule


def _root_of_squares(squares: Tensor) -> Tensor:
    """Return a root whose derivatives at zero are zero, as the first one of PyTorch's norms is."""
    positive = squares > 0
    return torch.where(positive, torch.sqrt(torch.where(positive, squares, 1.0)), 0.0)


def _squares(x: Tensor) -> Tensor:
    return x.real.square() + x.imag.square() if x.is_complex() else x.square()


def _norm(
    x: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: None = None
) -> Tensor:
    if p not in (None, "fro", 2) or dtype is not None:
        raise TypeError
    squares = _squares(x)
    return _root_of_squares(squares.sum() if dim is None else squares.sum(dim, keepdim))


def _vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False,  # noqa: A002
                 *, dtype: None = None) -> Tensor:  # fmt: skip
    return _norm(x, ord, dim, keepdim, dtype)


def _any_norm(x: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False,  # noqa: A002
              *, dtype: None = None) -> Tensor:  # fmt: skip
    axes = x.ndim if dim is None else len(dim) if isinstance(dim, list | tuple) else 1
    if ord is not None and axes > 1:
        raise TypeError  # of matrices
    return _norm(x, ord, dim, keepdim, dtype)


def _normalize(x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    return x / _norm(x, p, dim, True).clamp_min(eps)


def _softmax(x: Tensor, dim: int, *settings: Any, **more: Any) -> Tensor:
    given = (*settings, *more.values())
    if dim is None or any(isinstance(setting, torch.dtype) for setting in given):
        raise TypeError
    shares = torch.exp(x - x.detach().amax(dim, True))
    return shares / shares.sum(dim, True)


def _layer_norm(x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
                bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:  # fmt: skip
    dims = tuple(range(-len(normalized_shape), 0))
    centred = x - x.mean(dims, True)
    found = centred / torch.sqrt(centred.square().mean(dims, True) + eps)
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _rms_norm(x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
              eps: float | None = None) -> Tensor:  # fmt: skip
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    found = x / torch.sqrt(x.square().mean(tuple(range(-len(normalized_shape), 0)), True) + eps)
    return found if weight is None else found * weight


def _batch_norm(x: Tensor, mean: Tensor | None, variance: Tensor | None,
                weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,
                momentum: float = 0.1, eps: float = 1e-5) -> Tensor:  # noqa: ARG001  # fmt: skip
    if training or mean is None or variance is None:
        raise ValueError(
            "network: expected no batch normalisation in training mode, got one; with it each "
            "output depends on all points of a call: put BatchNorm into eval mode"
        )
    shape = (1, -1, *[1] * (x.ndim - 2))
    found = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + eps)
    found = found if weight is None else found * weight.view(shape)
    return found if bias is None else found + bias.view(shape)


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, *_: Any) -> Tensor:
    # One draw for the value and all derivatives.
    return x * F.dropout(torch.ones_like(x), p) if training else x


def _gated(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = x.chunk(2, dim)
    return value * torch.sigmoid(gate)


RULES: dict[Function, Function] = {
    **dict.fromkeys(
        named(
            """clone contiguous to float double half bfloat16 type type_as cpu cuda neg negative
            positive __neg__ __pos__ conj conj_physical resolve_conj resolve_neg view_as_real
            view_as_complex reshape reshape_as view view_as flatten unflatten ravel squeeze
            unsqueeze transpose swapaxes swapdims movedim moveaxis permute t adjoint expand
            expand_as broadcast_to repeat repeat_interleave tile flip fliplr flipud roll rot90
            narrow select __getitem__ index_select gather take take_along_dim masked_select
            diagonal diag_embed tril triu unfold chunk split tensor_split split_with_sizes unbind
            hsplit vsplit dsplit sum mean cumsum trace atleast_1d atleast_2d atleast_3d real
            imag"""
        )
        + attributes("T mT H mH real imag"),
        _alike,
    ),
    **dict.fromkeys(
        named(
            """cat concat concatenate stack hstack vstack dstack column_stack row_stack complex""",
            torch,
        ),
        _joint,
    ),
    **dict.fromkeys(
        named(
            """mul multiply __mul__ __rmul__ matmul __matmul__ __rmatmul__ mm bmm mv dot inner outer
            ger kron cross tensordot einsum vecdot"""
        ),
        _product,
    ),
    **dict.fromkeys(
        named(
            """tan asin acos atan arcsin arccos arctan asinh acosh atanh arcsinh arccosh arctanh
            exp2 expm1 log2 log10 log1p rsqrt logit sinc erf erfc erfinv lgamma digamma i0 i0e i1
            i1e erfcx ndtr log_ndtr atan2 arctan2 hypot logaddexp logaddexp2 xlogy maximum minimum
            fmax fmin clamp clip clamp_min clamp_max fmod remainder __mod__ frac
            __rpow__ copysign lerp addcmul addcdiv nan_to_num deg2rad rad2deg elu celu selu mish
            hardswish hardtanh relu6 hardshrink softshrink tanhshrink softsign logsigmoid threshold
            prelu"""
        ),
        _entrywise,
    ),
    **dict.fromkeys(named("add __add__ __radd__"), _sum((1, 1))),
    **dict.fromkeys(named("sub subtract __sub__"), _sum((1, -1))),
    **dict.fromkeys(named("rsub __rsub__"), _difference_turned),
    **dict.fromkeys(named("div divide true_divide __truediv__ __div__"), _quotient),
    **dict.fromkeys(named("pow __pow__"), _power),
    **dict.fromkeys(named("linear conv1d conv2d conv3d", F), _layer),
    torch.where: _where,
    Tensor.where: _where_it_is,
    **dict.fromkeys(named("pad", F), _pad),
    **dict.fromkeys(named("abs absolute __abs__"), _absolute),
    **dict.fromkeys(named("gelu", F), _gelu_of_kind),
    **{
        function: _of_one(formula) for names, formula in CLOSED.items() for function in named(names)
    },
    **{
        function: _composition(formula)
        for functions, formula in (
            (named("__rtruediv__ __rdiv__"), lambda x, other: other * x.reciprocal()),
            (named("addmm baddbmm"), lambda x, a, b: x + torch.matmul(a, b)),
            (named("masked_fill"), lambda x, mask, value: torch.where(mask, value, x)),
            (named("norm", torch, Tensor), _norm),
            (named("norm", torch.linalg), _any_norm),
            (named("vector_norm", torch.linalg), _vector_norm),
            (named("normalize", F), _normalize),
            (named("softmax"), _softmax),
            (named("layer_norm", F), _layer_norm),
            (named("rms_norm", F), _rms_norm),
            (named("batch_norm", F), _batch_norm),
            (named("dropout", torch, F), _dropout),
            (named("hardsigmoid", F), lambda x, *_: F.relu6(x + 3) / 6),
            (named("glu", F), _gated),
        )
        for function in functions
    },
}
