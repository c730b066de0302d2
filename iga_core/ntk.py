"""The empirical neural tangent kernel from factors of the Jacobian, which is never formed."""

import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from array_api_compat import array_namespace, device, is_jax_array

from iga_core.arrays import (
    Array,
    common_namespace,
    on_host,
    require_array,
    require_nonempty,
    require_shape,
    same_device,
    short,
)

BLOCK_BYTES = 32 * 2**20
"""No temporary array of `gram` exceeds this, unless ``n * n'`` or ``n * d_out`` numbers do."""

HOST_ROWS = 256
"""A symmetric matrix is computed so many rows at a time on a CPU: half of it, in its cache."""

Share: TypeAlias = Callable[[slice, slice], Array]
"""Some rows and columns of a share of the Gram matrix, counted use by use."""


@dataclass(frozen=True, eq=False)
class LayerFactors:
    """The share of a linear layer ``z = W a + b`` in the Jacobian of n outputs.

    A layer used `u` times in one output contributes the sum over its uses. For several outputs
    a row, lay their cotangents side by side in the last axis: the Gram matrix is then the sum
    over the outputs.

    Parameters
    ----------
    inputs : array, shape (n, d_in) or (n, u, d_in)
        What the layer was given.
    cotangents : array, shape (n, d_out) or (n, u, d_out)
        Gradient of the output with respect to `z`.
    weight, bias : bool
        Whether the weight, and whether the bias, is trained.

    Raises
    ------
    TypeError, ValueError
        If the arrays do not belong together or nothing is trained.
    """

    inputs: Array
    cotangents: Array
    weight: bool = True
    bias: bool = True

    def __post_init__(self) -> None:
        common_namespace(inputs=self.inputs, cotangents=self.cotangents)
        _require_uses("cotangents", self.cotangents)
        require_nonempty("inputs", self.inputs)
        require_nonempty("cotangents", self.cotangents)
        require_shape(
            "inputs",
            self.inputs,
            (*self.cotangents.shape[:-1], "d_in"),
            "use the leading axes of the cotangents",
        )
        for name in ("weight", "bias"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(
                    f"{name}: expected True or False, got {short(getattr(self, name))}; "
                    "say whether it is trained"
                )
        if not (self.weight or self.bias):
            raise ValueError(
                "weight, bias: expected at least one to be trained, got neither; "
                "leave the layer out"
            )

    def _signature(self) -> tuple[object, ...]:
        return self.inputs.shape[-1], self.cotangents.shape[-1], self.weight, self.bias

    def _gram(self, right: "LayerFactors | None") -> Array:
        other = right or self
        n, u, d_in = self.inputs.shape[0], _uses(self), self.inputs.shape[-1]
        n_right, u_right, d_out = other.inputs.shape[0], _uses(other), other.cotangents.shape[-1]
        pairs = n * n_right * u * u_right * (d_in + d_out)
        rows = (n * n_right + n * u + n_right * u_right) * d_in * d_out
        if self.weight and rows < pairs:
            return self._gram_of_rows(other)
        return _sum_over_uses(self._share(right), self, right)

    def _share(self, right: "LayerFactors | None") -> Share:
        """Give ``(A_s A_tᵀ + 1) ∘ (B_s B_tᵀ)`` of the uses s and t."""
        other = right or self
        a, b = _use_major(self.inputs), _use_major(self.cotangents)
        a_right, b_right = (
            (a, b) if right is None else (_use_major(other.inputs), _use_major(other.cotangents))
        )

        def share(rows: slice, columns: slice) -> Array:
            product = b[rows, :] @ b_right[columns, :].T
            if self.weight:
                weights = a[rows, :] @ a_right[columns, :].T
                if self.bias:
                    weights += 1
                product *= weights
            return product

        return share

    def _gram_of_rows(self, right: "LayerFactors") -> Array:
        """Contract the rows ``Σ_s A_s ⊗ B_s``, a block of the inputs' columns at a time."""
        xp = array_namespace(self.inputs)
        sides = [self] if right is self else [self, right]
        inputs = [_with_uses(side.inputs) for side in sides]
        cotangents = [_with_uses(side.cotangents) for side in sides]
        if self.bias:
            sums = [xp.sum(b, axis=1) for b in cotangents]
            total = sums[0] @ sums[-1].T
        else:
            total = _zeros(self.inputs, right.inputs)
        row_bytes = max(b.shape[0] * b.shape[2] for b in cotangents) * _itemsize(self.inputs)
        step = max(1, BLOCK_BYTES // row_bytes)
        d_in = self.inputs.shape[-1]
        for first in range(0, d_in, step):
            part = slice(first, min(first + step, d_in))
            rows = [
                xp.reshape(xp.matmul(xp.matrix_transpose(b), a[:, :, part]), (a.shape[0], -1))
                for a, b in zip(inputs, cotangents, strict=True)
            ]
            total += rows[0] @ rows[-1].T
        return total


@dataclass(frozen=True, eq=False)
class Lookup:
    """The share of a table whose rows are looked up: embeddings, hash and feature grids.

    Parameters
    ----------
    indices : array of integers, shape (n, u)
        Rows of the table that each output reads.
    cotangents : array, shape (n, u, d)
        Gradient of the output with respect to each row read.

    Raises
    ------
    TypeError, ValueError
        If the arrays do not belong together.
    """

    indices: Array
    cotangents: Array

    def __post_init__(self) -> None:
        xp = common_namespace(cotangents=self.cotangents)
        require_shape("cotangents", self.cotangents, ("n", "u", "d"), "one row an output")
        require_nonempty("cotangents", self.cotangents)
        require_array("indices", self.indices)
        if array_namespace(self.indices) is not xp:
            raise TypeError(
                "indices: expected an array of the cotangents' library, got "
                f"{type(self.indices).__module__}; convert them first"
            )
        if not xp.isdtype(self.indices.dtype, "integral"):
            raise TypeError(
                f"indices: expected integers, got {self.indices.dtype}; convert them first"
            )
        if not same_device(self.indices, self.cotangents):
            raise ValueError(
                f"indices: expected device {device(self.cotangents)}, got {device(self.indices)}; "
                "move them first"
            )
        require_shape("indices", self.indices, self.cotangents.shape[:2], "one index a cotangent")

    def _signature(self) -> tuple[object, ...]:
        return (self.cotangents.shape[-1],)

    def _gram(self, right: "Lookup | None") -> Array:
        return _sum_over_uses(self._share(right), self, right)

    def _share(self, right: "Lookup | None") -> Share:
        """Give ``[i_s = j_t] ∘ (B_s B_tᵀ)`` of the uses s and t."""
        other = right or self
        xp = array_namespace(self.cotangents)
        b, b_right = _use_major(self.cotangents), _use_major(other.cotangents)
        i, i_right = (xp.reshape(side.indices.T, (-1,)) for side in (self, other))

        def share(rows: slice, columns: slice) -> Array:
            same = i[rows, None] == i_right[None, columns]
            return (b[rows, :] @ b_right[columns, :].T) * xp.astype(same, b.dtype)

        return share


@dataclass(frozen=True, eq=False)
class Rows:
    """The share of parameters whose Jacobian is given explicitly.

    Parameters
    ----------
    jacobian : array, shape (n, q)
        Gradient of each output with respect to q parameters.

    Raises
    ------
    TypeError, ValueError
        If this is not a matrix of float32 or float64.
    """

    jacobian: Array

    def __post_init__(self) -> None:
        common_namespace(jacobian=self.jacobian)
        require_shape("jacobian", self.jacobian, ("n", "q"), "one row an output")
        require_nonempty("jacobian", self.jacobian)

    @property
    def cotangents(self) -> Array:
        """The Jacobian, under the name that all factors share."""
        return self.jacobian

    def _signature(self) -> tuple[object, ...]:
        return (self.jacobian.shape[-1],)

    def _gram(self, right: "Rows | None") -> Array:
        return self.jacobian @ (right or self).jacobian.T

    def _share(self, right: "Rows | None") -> Share:
        other = (right or self).jacobian
        return lambda rows, columns: self.jacobian[rows, :] @ other[columns, :].T


Factor: TypeAlias = LayerFactors | Lookup | Rows


def gram(factors: Sequence[Factor], right: Sequence[Factor] | None = None) -> Array:
    """Return the Gram matrix ``J J'ᵀ`` of Jacobians given by their factors (Jacot et al. 2018).

    Parameters
    ----------
    factors : sequence of LayerFactors, Lookup or Rows
        One entry a parameter, or a weight with its bias; n rows each.
    right : sequence of the same kinds, optional
        The other Jacobian, of n' rows; by default the same, of which half is computed.

    Returns
    -------
    array, shape (n, n) or (n, n')
        In the namespace, dtype and device of the factors.

    Raises
    ------
    TypeError, ValueError
        If the factors do not belong together.

    Notes
    -----
    A layer costs the smaller of ``n n' u u' (d_in + d_out)`` and ``n n' d_in d_out``. Besides
    copies of its arguments and ``(n, n')`` matrices, memory is bounded by `BLOCK_BYTES`.
    """
    factors = _listed("factors", factors)
    _require_side("factors", factors)
    if right is None:
        return _symmetric(factors)
    right = _listed("right", right)
    _require_side("right", right)
    common_namespace(factors=factors[0].cotangents, right=right[0].cotangents)
    signatures = [[(type(f).__name__, *f._signature()) for f in side] for side in (factors, right)]
    if signatures[0] != signatures[1]:
        raise ValueError(
            f"right: expected factors of the same parameters {signatures[0]}, "
            f"got {signatures[1]}; list both sides in one order"
        )
    return _total(factor._gram(other) for factor, other in zip(factors, right, strict=True))  # type: ignore[arg-type]


def _symmetric(factors: list[Factor]) -> Array:
    # Of several uses, the pairs of different ones are halved.
    shares = [factor._gram(None) for factor in factors if _uses(factor) > 1]
    once = [factor._share(None) for factor in factors if _uses(factor) == 1]
    if once:
        shares.append(_half(once, factors[0].cotangents))
    return _total(shares)


def _half(shares: list[Share], like: Array) -> Array:
    """Sum symmetric shares: on a CPU, rows up to the diagonal's end, and their mirror image."""
    xp, n = array_namespace(like), like.shape[0]
    in_place = on_host(like) and not is_jax_array(like)  # JAX's cannot be written to
    count = math.ceil(n / HOST_ROWS) if in_place else 1
    if count == 1:
        return _total(share(slice(0, n), slice(0, n)) for share in shares)
    total = xp.empty((n, n), dtype=like.dtype, device=device(like))
    for k in range(count):
        start, stop = n * k // count, n * (k + 1) // count
        block = _total(share(slice(start, stop), slice(0, stop)) for share in shares)
        total[start:stop, :stop] = block
        total[:start, start:stop] = block[:, :start].T
    return total


def _total(shares: Iterable[Array]) -> Array:
    return functools.reduce(operator.iadd, shares)


def _listed(name: str, factors: Sequence[Factor]) -> list[Factor]:
    if isinstance(factors, Factor):
        raise TypeError(
            f"{name}: expected a list of factors, got one {type(factors).__name__}; "
            "put it into a list"
        )
    if not isinstance(factors, Iterable):
        raise TypeError(
            f"{name}: expected a list of factors, got {short(factors)}; give one a parameter"
        )
    return list(factors)


def _require_side(name: str, factors: Sequence[Factor]) -> None:
    if not factors:
        raise ValueError(f"{name}: expected at least one factor, got none; give one a parameter")
    for factor in factors:
        if not isinstance(factor, Factor):
            raise TypeError(
                f"{name}: expected LayerFactors, Lookup or Rows, got {type(factor).__name__}; "
                "wrap an explicit Jacobian in Rows"
            )
    common_namespace(**{f"{name}[{k}]": factor.cotangents for k, factor in enumerate(factors)})
    rows = sorted({factor.cotangents.shape[0] for factor in factors})
    if len(rows) > 1:
        raise ValueError(
            f"{name}: expected one number of rows, got {rows}; give every factor one row an output"
        )


def _require_uses(name: str, array: Array) -> None:
    if array.ndim not in (2, 3):
        require_shape(name, array, ("n", "u", "d"), "one row an output, with or without uses")


def _uses(factor: Factor) -> int:
    return 1 if factor.cotangents.ndim == 2 else int(factor.cotangents.shape[1])


def _with_uses(array: Array) -> Array:
    return array if array.ndim == 3 else array[:, None, :]


def _use_major(array: Array) -> Array:
    """(n, u, d) as (u n, d): all rows of one use stand together."""
    if array.ndim == 2:
        return array
    if array.shape[1] == 1:
        return array[:, 0, :]
    xp = array_namespace(array)
    return xp.reshape(xp.permute_dims(array, (1, 0, 2)), (-1, array.shape[-1]))


def _itemsize(array: Array) -> int:
    return int(array_namespace(array).finfo(array.dtype).bits) // 8


def _zeros(left: Array, right: Array) -> Array:
    xp = array_namespace(left)
    shape = (left.shape[0], right.shape[0])
    return xp.zeros(shape, dtype=left.dtype, device=device(left))


def _sum_over_uses(share: Share, left: Factor, right: Factor | None) -> Array:
    """Sum the ``(n, n')`` shares of all pairs of uses, as many at a time as memory allows.

    `share` takes rows and columns of the use-major matrices. Without `right` the sum is
    symmetric: each pair of different uses is computed once, and added with its transpose.
    """
    other = right or left
    n, uses = left.cotangents.shape[0], _uses(left)
    n_right, uses_right = other.cotangents.shape[0], _uses(other)
    if uses == uses_right == 1:
        return share(slice(0, n), slice(0, n_right))
    xp = array_namespace(left.cotangents)
    step = max(1, BLOCK_BYTES // (n * n_right * _itemsize(left.cotangents)))
    total = _zeros(left.cotangents, other.cotangents)
    for s in range(uses):
        rows = slice(s * n, (s + 1) * n)
        if right is None:
            total += share(rows, rows)
        for t in range(s + 1 if right is None else 0, uses_right, step):
            columns = slice(t * n_right, min(t + step, uses_right) * n_right)
            block = xp.sum(xp.reshape(share(rows, columns), (n, -1, n_right)), axis=1)
            total += block if right is not None else block + block.T
    return total
