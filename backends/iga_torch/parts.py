"""Uses of trained leaves by all samples, and the factors of the Jacobian that they make."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iga_core import LayerFactors, Lookup, Rows
from iga_core.ntk import Factor
from iga_torch.operations import MatrixUse, TableUse, Use, VectorUse
from iga_torch.weights import reduced


@dataclass(frozen=True, eq=False)
class Cut:
    """How the rows of an operation belong to samples: in order, or as the `owners` say.

    Parameters
    ----------
    count : int
        Samples.
    owners : Tensor, optional
        Of each row, its sample; negative where it has none.
    """

    count: int
    owners: Tensor | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """Return rows (..., m, d) as (..., n, u, d), zeros where a sample has fewer than others."""
        if self.owners is None:
            return rows.reshape(*rows.shape[:-2], self.count, -1, rows.shape[-1])
        has_one = self.owners >= 0
        owners, kept = torch.sort(self.owners[has_one], stable=True)
        number = torch.bincount(owners, minlength=self.count)
        first = (number.cumsum(0) - number)[owners]
        place = torch.arange(len(owners), device=owners.device) - first
        width = max(1, int(number.max()))
        found = rows.new_zeros((*rows.shape[:-2], self.count, width, rows.shape[-1]))
        found[..., owners, place, :] = rows[..., has_one, :][..., kept, :]
        return found


@dataclass(frozen=True, eq=False)
class Part:
    """One use of a leaf by all samples: what it was given, and the gradients of its result.

    Parameters
    ----------
    use : MatrixUse, VectorUse or TableUse
        It.
    operand : Tensor, shape (n, u, d_in), optional
        Inputs of a matrix, the factor of a vector, or indices (n, u, 1).
    signals : Tensor, shape (heads, n, u, d)
        Gradients of the operation's result; of one tensor for all parts of that result.
    """

    use: Use
    operand: Tensor | None
    signals: Tensor

    @property
    def kind(self) -> object:
        """What the uses of one leaf must have in common to be added up."""
        is_complex = self.signals.is_complex() or self.use.weight.leaf.is_complex()
        if self.use.weight.made is not None:
            made = self.use.weight.made
            return type(self.use), is_complex, made.names, *map(id, made.leaves)
        if not isinstance(self.use, MatrixUse) or self.operand is None:
            return type(self.use), is_complex
        sizes = {}
        used = (self.signals.shape[-1], self.operand.shape[-1])
        for side, size in zip(self.use.sides, used, strict=True):
            basis = self.use.weight.bases[side]
            sizes[side] = size if basis is None else basis.shape[0]
        return MatrixUse, is_complex, sizes[0], sizes[1]

    @property
    def scaled(self) -> Tensor:
        """The gradients of the leaf's own result, but for fixed matrices."""
        scale = self.use.weight.scale
        if isinstance(scale, int) and scale == 1:
            return self.signals
        return self.signals * (scale.conj() if isinstance(scale, Tensor) else scale.conjugate())

    def matrices(self, whole: bool) -> tuple[Tensor, Tensor]:
        """Return inputs (n, u, d_in) and cotangents (heads, n, u, d_out) of the leaf itself.

        Unless the `whole` is asked for, they are something with the same scalar products.
        """
        assert isinstance(self.use, MatrixUse)
        assert self.operand is not None
        rows, columns = (self.use.weight.bases[side] for side in self.use.sides)
        rows = None if rows is None else rows.conj()
        return reduced(self.operand, columns, whole), reduced(self.scaled, rows, whole)

    def rows(self) -> Tensor:
        """Return the gradients of a vector, (heads, n, d)."""
        found = self.scaled
        if isinstance(self.use.factor, int):  # type: ignore[union-attr]
            found = found * self.use.factor  # type: ignore[union-attr]
        elif self.operand is not None:
            found = found * self.operand.conj()
        if not self.use.weight.leaf.is_complex() and found.is_complex():
            found = found.real
        return found.sum(dim=2)

    def layer(self, head: int) -> tuple[Tensor, Tensor]:
        """Return inputs (n, u, d_in) and cotangents (n, u, d_out) of the leaf, turned back."""
        inputs, cotangents = self.matrices(whole=True)
        turned = self.use.sides != (0, 1)  # type: ignore[union-attr]
        return (cotangents[head], inputs) if turned else (inputs, cotangents[head])

    def shares(self, weights: Tensor) -> dict[str, Tensor]:
        """Return the gradients of all leaves that are in it, by their names; see `share`."""
        share, made = self.share(weights), self.use.weight.made
        return {self.use.name: share} if made is None else made.pulled(share)

    def share(self, weights: Tensor) -> Tensor:
        """Return the gradient of the leaf, summed over heads and, with weights, over samples."""
        leaf = self.use.weight.leaf
        if isinstance(self.use, VectorUse):
            rows = self.rows().sum(dim=0)
            return (weights.to(rows.dtype) @ rows).reshape(leaf.shape)
        if isinstance(self.use, TableUse):
            assert self.operand is not None
            signals = (self.scaled.sum(dim=0) * weights[:, None, None]).flatten(0, 1)
            table = signals.new_zeros(leaf.shape)
            return table.index_add_(0, self.operand.flatten(), signals)
        inputs, cotangents = self.matrices(whole=True)
        summed = (cotangents.sum(dim=0) * weights[:, None, None]).flatten(0, 1)
        found = summed.T @ inputs.flatten(0, 1).conj()
        if self.use.sides == (1, 0):
            found = found.T
        return found.reshape(leaf.shape)


def part_of(use: Use, signals: Tensor, shape: torch.Size, cut: Cut) -> Part:
    """Cut what a use was given as the signals, gradients of a result of this shape, are cut."""
    if isinstance(use, MatrixUse):
        operand = cut(use.inputs.reshape(-1, use.inputs.shape[-1])).to(signals.dtype)
        return Part(use, operand, signals)
    if isinstance(use, VectorUse):
        if not isinstance(use.factor, Tensor):
            return Part(use, None, signals)
        return Part(use, cut(rows_of(use.factor.expand(shape), use.channel)), signals)
    indices = cut(use.indices.reshape(-1, 1))
    if use.padding is not None:
        signals = signals * (indices != use.padding)
    return Part(use, indices, signals)


def factors_of(
    parts: Sequence[Part], explicit: set[str], full: bool, joined: bool = True
) -> dict[tuple[str, ...], Factor]:
    """Return the factors of all leaves that have some, by the names of their leaves.

    With "full" each sample has a row for every head; otherwise the heads are summed over. Those
    under "less", the last word of a key, are taken away.
    """
    of: dict[str, list[Part]] = {}
    for part in parts:
        if explicit.isdisjoint(part.use.weight.names):
            of.setdefault(part.use.name, []).append(part)
    vectors = {name: uses for name, uses in of.items() if isinstance(uses[0].use, VectorUse)}
    found: dict[tuple[str, ...], Factor] = {}
    for name, uses in of.items():
        made = uses[0].use.weight.made
        if made is not None:
            heads = range(uses[0].signals.shape[0])
            more, less = made.factors([[part.layer(k) for part in uses] for k in heads], full)
            found |= {(name, "more", str(k)): factor for k, factor in enumerate(more)}
            found |= {(name, str(k), "less"): factor for k, factor in enumerate(less)}
        elif isinstance(uses[0].use, MatrixUse):
            bias = _bias_of(uses, vectors) if joined else None
            if bias is not None:
                del vectors[bias]
            for k, factor in enumerate(_of_matrix(uses, bias is not None, full)):
                found[(name, bias or "", str(k))] = factor
        elif isinstance(uses[0].use, TableUse):
            found[(name,)] = _of_table(uses, full)
    for name, uses in vectors.items():
        rows = sum((part.rows() for part in uses[1:]), start=uses[0].rows())
        rows = torch.view_as_real(rows.resolve_conj()).flatten(2) if rows.is_complex() else rows
        # Beside each other, heads are summed over; below each other, they are rows.
        rows = rows.movedim(0, 1)
        found[(name,)] = Rows(rows.flatten(0, 1) if full else rows.flatten(1))
    return found


def _bias_of(uses: list[Part], vectors: dict[str, list[Part]]) -> str | None:
    """Return the vector that is added wherever a matrix is used, and nowhere else."""
    plain = all(
        part.scaled is part.signals
        and part.use.weight.bases[part.use.sides[0]] is None  # type: ignore[union-attr]
        and not part.signals.is_complex()
        for part in uses
    )
    if not plain or len({part.use.sides for part in uses}) > 1:  # type: ignore[union-attr]
        return None
    signals = {id(part.signals) for part in uses}
    for name, others in vectors.items():
        added = all(
            part.use.factor is None and part.scaled is part.signals  # type: ignore[union-attr]
            for part in others
        )
        # As often as the matrix, with the same gradients.
        if added and len(others) == len(uses) and {id(o.signals) for o in others} == signals:
            leaf = others[0].use.weight.leaf
            if leaf.numel() == uses[0].signals.shape[-1]:
                return name
    return None


def _of_matrix(uses: list[Part], bias: bool, full: bool) -> list[Factor]:
    bases = {tuple(map(id, part.use.weight.bases)) for part in uses}
    # Something with the same scalar products will do where nothing else meets it.
    cut = [part.matrices(whole=len(bases) > 1) for part in uses]
    heads = cut[0][1].shape[0]
    turned = [part.use.sides != uses[0].use.sides for part in uses]  # type: ignore[union-attr]
    if full:
        layouts = [
            [(a.repeat_interleave(heads, dim=0), b.transpose(0, 1).flatten(0, 1)) for a, b in cut]
        ]
    elif any(turned):
        layouts = [[(a, b[head]) for a, b in cut] for head in range(heads)]
    else:
        # The Gram matrix sums over heads that lie side by side.
        layouts = [[(a, _beside(b)) for a, b in cut]]
    found: list[Factor] = []
    for pairs in layouts:
        # Of a matrix that is used as its own transpose too, rows meet rows.
        alike = [
            _real_uses(b.conj(), a.conj()) if turn else _real_uses(a, b)
            for (a, b), turn in zip(pairs, turned, strict=True)
        ]
        inputs, cotangents = map(_together, zip(*alike, strict=True))
        found.append(LayerFactors(inputs, cotangents, bias=bias))
    return found


def _of_table(uses: list[Part], full: bool) -> Factor:
    pairs = []
    for part in uses:
        assert part.operand is not None
        indices, signals = part.operand[..., 0], part.scaled
        if full:
            pairs.append(
                (
                    indices.repeat_interleave(len(signals), dim=0),
                    signals.transpose(0, 1).flatten(0, 1),
                )
            )
        else:
            pairs.append((indices, _beside(signals)))
    return Lookup(*map(_together, zip(*pairs, strict=True)))


def _beside(signals: Tensor) -> Tensor:
    """Put heads (heads, n, u, d) side by side, (n, u, heads d)."""
    return signals[0] if len(signals) == 1 else signals.movedim(0, 2).flatten(2)


def _together(tensors: Sequence[Tensor]) -> Tensor:
    """Put the uses of several parts side by side."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors), dim=1)


def _real_uses(inputs: Tensor, cotangents: Tensor) -> tuple[Tensor, Tensor]:
    """Return a complex layer as a real one of the same kernel, that is used twice as often.

    Its gradient ``b āᵀ``, real part above imaginary, is ``[b_r; b_i] a_rᵀ + [b_i; -b_r] a_iᵀ``.
    """
    if not cotangents.is_complex():
        return inputs, cotangents
    upper = torch.cat([cotangents.real, cotangents.imag], dim=-1)
    lower = torch.cat([cotangents.imag, -cotangents.real], dim=-1)
    return torch.cat([inputs.real, inputs.imag], dim=1), torch.cat([upper, lower], dim=1)


def rows_of(values: Tensor, channel: int | None) -> Tensor:
    """Return the entries along a channel as rows, (m, d); of a number, all as columns of one."""
    if channel is None:
        return values.reshape(-1, 1)
    moved = values if channel == -1 else values.movedim(channel, -1)
    return moved.reshape(-1, moved.shape[-1])
