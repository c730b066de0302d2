"""Networks of every kind that trains parameters in its own way, and the definition, densely."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from iga_core import Damp, Equalise, Fourier, Grouping, Network, Scale, representatives
from iga_torch.networks import from_network
from tests.support.dense import dense


class Residual(nn.Module):
    """One layer used twice, with an activation in place."""

    def __init__(self):
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(2, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        h = torch.sin(self.first(x))
        h = h + torch.sin(self.shared(h))
        return self.last(self.relu(self.shared(h)))


class Ray(nn.Module):
    """A sequence of points along a ray for each sample, weighed by one of the outputs."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 4))
        self.register_buffer("steps", torch.linspace(0, 1, 4)[:, None])

    def forward(self, x):
        along = x[..., None, :] * (1 + self.steps)
        found = self.inner(along)
        return (torch.sigmoid(found[..., :1]) * found[..., 1:]).sum(dim=-2)


class Grid(nn.Module):
    """Two tables of features, one embedding (with padding) and one indexed parameter."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 4, padding_idx=0)
        self.table = nn.Parameter(torch.randn(7, 4))
        self.decoder = nn.Linear(4, 3)

    def forward(self, x):
        cell = (x.abs() * 50).long()
        near = self.embedding(cell[..., 0] % 9) * x[..., :1] + self.embedding(cell[..., 1] % 9)
        return self.decoder(torch.tanh(near + self.table[cell.sum(-1) % 7 - 7]))


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.convolution, self.last = nn.Linear(2, 16), nn.Conv2d(1, 2, 3), nn.Linear(8, 3)

    def forward(self, x):
        image = torch.sin(self.up(x)).reshape(-1, 1, 4, 4)
        return self.last(torch.tanh(self.convolution(image)).reshape(*x.shape[:-1], 8))


class Tied(nn.Module):
    """A weight shared by an embedding and a layer, and a bias by two layers."""

    def __init__(self):
        super().__init__()
        self.embedding, self.first, self.last = (
            nn.Embedding(4, 4),
            nn.Linear(4, 4),
            nn.Linear(4, 4),
        )
        self.first.weight = self.embedding.weight
        self.last.bias = self.first.bias

    def forward(self, x):
        h = self.embedding((x[..., 0].abs() * 50).long() % 4) * x[..., 1:]
        return self.last(torch.tanh(self.first(h)))


class Lora(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(2, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.layer.requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(5, 2))

    def forward(self, x):
        weight = self.layer.weight + self.up @ self.down
        h = nn.functional.linear(torch.tanh(self.first(x)), weight, self.layer.bias)
        return self.last(torch.tanh(h))


class Reparameterised(nn.Module):
    """A layer whose weight is a trained matrix times a fixed one, used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 5), nn.Linear(5, 3)
        self.coefficients, self.bias = nn.Parameter(torch.randn(5, 12)), nn.Parameter(torch.ones(5))
        self.register_buffer("basis", torch.randn(12, 5) / 12)

    def forward(self, x):
        weight = torch.matmul(self.coefficients, self.basis)
        h = torch.sin(nn.functional.linear(torch.tanh(self.first(x)), weight, self.bias))
        return self.last(torch.sin(nn.functional.linear(h, weight)))


class TwoBases(nn.Module):
    """One trained matrix times two fixed ones, of the same shape."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 5), nn.Linear(5, 3)
        self.coefficients = nn.Parameter(torch.randn(5, 8))
        self.register_buffer("bases", torch.randn(2, 8, 5) / 8)

    def forward(self, x):
        h = self.first(x)
        for basis in self.bases:
            h = torch.tanh(nn.functional.linear(h, self.coefficients @ basis))
        return self.last(h)


class Scaled(nn.Module):
    """A product with a fixed matrix that is used as a weight, and otherwise."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 5), nn.Linear(5, 3)
        self.coefficients = nn.Parameter(torch.randn(5, 4))
        self.register_buffer("basis", torch.randn(4, 5))

    def forward(self, x):
        weight = self.coefficients.mm(self.basis)
        h = torch.tanh(nn.functional.linear(self.first(x), weight))
        return self.last(h @ weight.T / weight.norm())


class Custom(nn.Module):
    """A layer by hand, learnable frequencies, LayerNorm, and a parameter that nothing reads."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(6))
        self.frequency = nn.Parameter(torch.tensor(3.0))
        self.norm, self.last = nn.LayerNorm(6), nn.Linear(6, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.last(self.norm(torch.sin(self.frequency * (x @ self.weight + self.bias))))


class Transposed(nn.Module):
    """Samples are not the leading axis of what the layer sees."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x):
        pair = torch.stack([x, x.square()])
        return self.last(torch.tanh(self.first(pair)).sum(dim=0))


class Hyper(nn.Module):
    """A trained code, the same for all samples, makes the weight of a layer."""

    def __init__(self):
        super().__init__()
        self.code, self.make, self.last = (
            nn.Parameter(torch.randn(1, 3)),
            nn.Linear(3, 8),
            nn.Linear(4, 3),
        )

    def forward(self, x):
        weight = self.make(self.code).reshape(4, 2)
        return self.last(torch.tanh(x @ weight.T))


class Complex(nn.Module):
    """As in WIRE: complex weights, real outputs."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 4)
        self.last = nn.Linear(4, 3, dtype=torch.complex128)

    def forward(self, x):
        h = self.first(x)
        return self.last(torch.exp(1j * 2 * h - h.square())).real


class Square(torch.autograd.Function):
    """Without a rule for batching."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0] * g


class Unbatched(nn.Module):
    """Control flow that depends on data, and a function that cannot be batched."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(2, 4), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x):
        if not bool(torch.isfinite(x).all()):
            raise AssertionError
        return self.last(Square.apply(self.norm(self.first(x))))


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.LayerNorm(5))
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        return self.last(checkpoint(self.first, x, use_reentrant=False))


class Attention(nn.Module):
    """Over the sequence of one sample."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 3)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        flat = x.reshape(-1, 2)
        h = torch.tanh(self.first(torch.stack([flat, flat.square(), 1 - flat], dim=1)))
        found = self.attention(h, h, h, need_weights=False)[0]
        return self.last(found.sum(dim=1)).reshape(*x.shape[:-1], 3)


class Spelled(nn.Module):
    """A layer between two others, of a weight of this shape and a bias, written in some way."""

    def __init__(self, shape, spelling, bias=(5,), **fixed):
        super().__init__()
        self.first, self.last = nn.Linear(2, 4), nn.Linear(5, 3)
        self.weight, self.bias = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(bias))
        self.spelling = spelling
        for name, size in fixed.items():
            self.register_buffer(name, torch.randn(size) / 3)

    def forward(self, x):
        return self.last(torch.sin(self.spelling(self, torch.sin(self.first(x)))))


def as_siren_does(m, x):
    weight = m.weight.permute(*range(m.weight.ndim - 2), -1, -2)
    return x.matmul(weight) + m.bias.unsqueeze(-2)


def by_addmm(m, x):
    return torch.addmm(m.bias, x.reshape(-1, 4), m.weight.t()).reshape(*x.shape[:-1], 5)


def by_baddbmm(m, x):
    return torch.baddbmm(m.bias[None, None], x.reshape(1, -1, 4), m.weight[None]).reshape(
        *x.shape[:-1], 5
    )


def from_the_left(m, x):
    return (m.weight @ x.reshape(-1, 4).T).T.reshape(*x.shape[:-1], 5) + m.bias


def by_conv1d(m, x):
    return F.conv1d(x.reshape(1, -1, 4).mT, m.weight, m.bias).mT.reshape(*x.shape[:-1], 5)


def by_conv2d(m, x):
    return F.conv2d(x.reshape(-1, 4, 1, 1), m.weight, m.bias).reshape(*x.shape[:-1], 5)


def in_place(m, x):
    z = x @ m.weight
    z += m.bias
    return z


# Shape of the weight, and how it is used.
SPELLINGS = {
    "matmul T": ((5, 4), lambda m, x: x.matmul(m.weight.T) + m.bias),
    "at": ((4, 5), lambda m, x: m.bias + x @ m.weight),
    "t": ((5, 4), lambda m, x: torch.matmul(x, m.weight.t()).add(m.bias)),
    "mT": ((5, 4), lambda m, x: torch.add(x @ m.weight.mT, m.bias)),
    "siren": ((5, 4), as_siren_does),
    "siren with tasks": ((1, 5, 4), lambda m, x: as_siren_does(m, x.reshape(1, -1, 4)).reshape(*x.shape[:-1], 5)),
    "left": ((5, 4), from_the_left),
    "addmm": ((5, 4), by_addmm),
    "baddbmm": ((4, 5), by_baddbmm),
    "conv1d": ((5, 4, 1), by_conv1d),
    "conv2d": ((5, 4, 1, 1), by_conv2d),
    "einsum": ((5, 4), lambda m, x: torch.einsum("...i,oi->...o", x, m.weight) + m.bias),
    "einsum, weight first": ((4, 5), lambda m, x: torch.einsum("io,ni->no", m.weight, x.reshape(-1, 4)).reshape(*x.shape[:-1], 5) - m.bias),
    "view": ((20,), lambda m, x: x @ m.weight.view(5, 4).T + m.bias),
    "contiguous": ((5, 4), lambda m, x: x @ m.weight.T.contiguous() + m.bias),
    "linear of a copy": ((4, 5), lambda m, x: F.linear(x, m.weight.clone().T.to(x.dtype), m.bias)),
    "scaled": ((5, 4), lambda m, x: F.linear(x, m.weight * 0.3) + m.bias * 2),
    "negative over": ((5, 4), lambda m, x: x @ (-m.weight / 3).T + m.bias),
    "in place": ((4, 5), in_place),
    "both ways": ((5, 4), lambda m, x: x @ m.weight.T + torch.tanh(torch.sin(x @ m.weight.T) @ m.weight) @ m.weight.T + m.bias),
    "entry by entry": ((5, 4), lambda m, x: (F.linear(x, m.weight) + m.bias) * m.bias),
}  # fmt: skip
FIXED = {
    "FR-INR": ((5, 9), lambda m, x: x @ (m.weight @ m.basis).T + m.bias, {"basis": (9, 4)}),
    "basis on the left": ((9, 4), lambda m, x: x @ (m.basis @ m.weight).T + m.bias, {"basis": (5, 9)}),
    "both sides": ((3, 6), lambda m, x: x @ (m.left @ m.weight @ m.right).T + m.bias, {"left": (5, 3), "right": (6, 4)}),
    "transposed inside": ((9, 5), lambda m, x: x @ (m.basis.T @ m.weight) + m.bias, {"basis": (9, 4)}),
    "plain and with a basis": ((5, 4), lambda m, x: x @ m.weight.T + torch.sin(x) @ (m.weight @ m.basis).T + m.bias, {"basis": (4, 4)}),
}  # fmt: skip


class ComplexLayers(nn.Module):
    """Complex weights with complex outputs, and one used as its own transpose too."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 4)
        self.weight = nn.Parameter(torch.randn(4, 5, dtype=torch.complex128))
        self.bias = nn.Parameter(torch.randn(5, dtype=torch.complex128))
        self.scale = nn.Parameter(torch.randn(1, dtype=torch.complex128))
        self.register_buffer("basis", torch.randn(3, 5, dtype=torch.complex128))
        self.last = nn.Parameter(torch.randn(2, 3, dtype=torch.complex128))

    def forward(self, x):
        h = torch.sin(self.first(x)).to(torch.complex128)
        z = torch.sin(0.3 * h @ (2j * self.weight) + self.bias)
        z = torch.sin(0.3 * z @ self.weight.T) @ self.weight * self.scale
        return F.linear(z, self.last @ self.basis)


class Masked(nn.Module):
    """Points outside a box are zero, and no layer sees them."""

    def __init__(self, size=0.7):
        super().__init__()
        self.inner, self.size = mlp(), size

    def forward(self, x):
        out = torch.zeros(*x.shape[:-1], 3, dtype=x.dtype)
        inside = x.abs().amax(dim=-1) < self.size
        out[inside] = self.inner(x[inside])
        return out


class Normals(nn.Module):
    """A distance and its derivative, which the network takes itself."""

    def __init__(self, guarded):
        super().__init__()
        self.guarded = guarded
        self.inner = nn.Sequential(nn.Linear(2, 4), nn.Softplus(), nn.Linear(4, 1))

    def forward(self, x):
        with torch.enable_grad():
            if not self.guarded or not x.requires_grad:
                x.requires_grad_(True)
            distance = self.inner(x)
            (normal,) = torch.autograd.grad(distance.sum(), x, create_graph=True)
        return torch.cat([distance, normal], dim=-1)


class TwoNames(nn.Module):
    """A module under two names, a parameter in two modules, and both in a list."""

    def __init__(self):
        super().__init__()
        self.block = parametrizations.weight_norm(nn.Linear(2, 4))
        self.again = self.block
        self.act = nn.PReLU()
        self.layers = nn.ModuleList([self.block, self.act, nn.LayerNorm(4), self.act])
        self.other = nn.LayerNorm(4)
        self.other.weight = self.layers[2].weight
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.last(self.other(torch.sin(x)))


def mlp(outputs=3, width=6, inplace=False):
    return nn.Sequential(
        nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.ReLU(inplace=inplace),
        nn.Dropout(0.5), nn.Linear(width, outputs),
    )  # fmt: skip


def weight_norm():
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(2, 6)), nn.Tanh(),
        torch.nn.utils.spectral_norm(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 3),
    )  # fmt: skip


NORMED = {"parametrizations.weight.original0", "parametrizations.weight.original1"}


class WeightNorms(nn.Module):
    """A weight-normed layer that is used twice, and once as its transpose."""

    def __init__(self, lengths=True, directions=True, more=False):
        super().__init__()
        self.layer = parametrizations.weight_norm(nn.Linear(2, 2))
        self.other = parametrizations.weight_norm(nn.Linear(2, 4), dim=1)
        self.last, self.more = nn.Linear(4, 3), more
        length, direction = self.layer.parametrizations.weight.parameters()
        length.requires_grad_(lengths)
        direction.requires_grad_(directions)

    def forward(self, x):
        x = torch.tanh(self.layer(torch.sin(2 * self.layer(x)))) @ self.layer.weight
        if self.more:  # the lengths have another part in it
            x = x * self.layer.parametrizations.weight.original0[:, 0]
        return self.last(torch.tanh(self.other(x)))


def partly_frozen():
    network = mlp()
    network[0].weight.requires_grad_(False)
    network[2].bias.requires_grad_(False)
    network[5].requires_grad_(False)
    return network


def batch_norm():
    network = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    network[1].eval()
    return network


def fourier():
    described = Network("pe", width=6, depth=3, frequencies=2, fourier=Fourier(2, 3, 4, alpha=0.3))
    return from_network(described)


LAYER = {"first.weight", "first.bias", "weight", "bias", "last.weight", "last.bias"}
# What makes it, and the parameters that must not need explicit rows.
NETWORKS = {
    "mlp": (mlp, {"0.weight", "0.bias", "2.weight", "2.bias", "5.weight", "5.bias"}),
    "in place": (lambda: mlp(inplace=True), {"0.weight", "2.weight", "5.weight"}),
    "one output": (lambda: mlp(outputs=1), {"0.weight", "2.weight", "5.weight"}),
    "residual": (Residual, {"first.weight", "shared.weight", "shared.bias", "last.weight"}),
    "ray": (Ray, {"inner.0.weight", "inner.0.bias", "inner.2.weight"}),
    "grid": (Grid, {"embedding.weight", "table", "decoder.weight"}),
    "convolution": (Convolution, {"up.weight", "last.weight"}),
    "weight norm": (weight_norm, {"4.weight", "4.bias", "0.bias", *map("0.{}".format, NORMED)}),
    "weight norm twice": (WeightNorms, {"last.weight", *map("layer.{}".format, NORMED)}),
    "weight norm of fixed lengths": (
        partial(WeightNorms, lengths=False),
        {"layer.parametrizations.weight.original1"},
    ),
    "weight norm of fixed directions": (
        partial(WeightNorms, directions=False),
        {"layer.parametrizations.weight.original0"},
    ),
    "weight norm and more": (partial(WeightNorms, more=True), {"last.weight"}),
    "tied": (Tied, {"last.weight", "first.bias"}),
    "lora": (Lora, {"first.weight", "last.weight"}),
    "reparameterised": (Reparameterised, {"first.weight", "coefficients", "bias", "last.weight"}),
    "fourier": (fourier, {f"layers.{k}.{part}" for k in range(4) for part in ("weight", "bias")}),
    "two bases": (TwoBases, {"first.weight", "coefficients", "last.weight"}),
    "scaled": (Scaled, {"first.weight", "last.weight"}),
    "custom": (Custom, {"weight", "bias", "frequency", "last.weight", "last.bias"}),
    "transposed": (Transposed, {"first.weight", "first.bias", "last.weight", "last.bias"}),
    "hyper": (Hyper, {"last.weight"}),
    "complex": (Complex, {"first.weight", "first.bias", "last.weight", "last.bias"}),
    "unbatched": (Unbatched, {"first.weight", "last.weight"}),
    "checkpointed": (Checkpointed, {"first.0.weight", "last.weight"}),
    "attention": (Attention, {"first.weight", "last.weight"}),
    "partly frozen": (partly_frozen, {"0.bias", "2.weight"}),
    "complex layers": (ComplexLayers, {"first.weight", "weight", "bias", "scale", "last"}),
    "masked": (Masked, {"inner.0.weight", "inner.2.weight", "inner.2.bias", "inner.5.weight"}),
    "nothing inside": (lambda: Masked(0), {"inner.0.weight", "inner.2.weight", "inner.2.bias"}),
    "normals": (lambda: Normals(False), {"inner.0.weight", "inner.0.bias", "inner.2.weight"}),
    "guarded normals": (lambda: Normals(True), {"inner.0.weight", "inner.0.bias"}),
    "two names": (TwoNames, {"last.weight", "last.bias"}),
    **{f"layer: {name}": (partial(Spelled, *of), LAYER) for name, of in SPELLINGS.items()},
    **{
        f"layer: {name}": (partial(Spelled, shape, spelling, **fixed), LAYER)
        for name, (shape, spelling, fixed) in FIXED.items()
    },
    "batch norm in eval mode": (batch_norm, {"0.weight", "3.weight"}),
}


def make(name, seed=0):
    torch.manual_seed(seed)
    return NETWORKS[name][0]().double()


def steep():
    """A network whose kernel of a dozen groups is well conditioned."""
    network = make("residual")
    with torch.no_grad():
        network.first.weight *= 12
        network.shared.weight *= 3
    return network


def jacobian(network, x):
    """One backward pass a sample and output: (n, C, q), float64; outputs averaged over points."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    training = {module: module.training for module in network.modules()}
    buffers = {name: b.clone() for name, b in network.named_buffers()}
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.training = False
    rows = []
    for i in range(len(x)):
        with torch.enable_grad():
            found = network(x[i : i + 1])
            found = found.reshape(-1, found.shape[-1]).mean(dim=0)
            found = torch.view_as_real(found).flatten() if found.is_complex() else found
        for name, buffer in network.named_buffers():
            if not torch.equal(buffer, buffers[name]):
                buffer.copy_(buffers[name])
        heads = []
        for output in found:
            gradients = torch.autograd.grad(
                output, parameters, retain_graph=True, allow_unused=True
            )
            flat = [
                torch.zeros_like(p) if g is None else g
                for p, g in zip(parameters, gradients, strict=True)
            ]
            real = [torch.view_as_real(g) if g.is_complex() else g for g in flat]
            heads.append(torch.cat([g.reshape(-1) for g in real]))
        rows.append(torch.stack(heads))
    for module, mode in training.items():
        module.training = mode
    return torch.stack(rows)


def dense_kernel(left, right, outputs):
    full = torch.einsum("icq,jdq->ijcd", left, right)
    channels = full.shape[-1]
    if outputs == "full":
        return full
    if outputs == "sum":
        return full.sum(dim=(2, 3)) / channels
    return full.diagonal(dim1=2, dim2=3).sum(dim=-1) / channels


def found_grouping(index):
    """The groups that the wrapper found, as the core has them."""
    parts = (part.numpy() for part in (index.index, index.rest, index.neighbours))
    return Grouping(*parts, centre=np.full(len(index.index), (index.index.shape[1] - 1) // 2))


class Dense:
    """The definition, call after call: explicit Jacobians, K, S and Jᵀ (S ⊗ I) g, in float64.

    Data come in their own order with a grouping, and else in groups, (n, p, ...).
    """

    def __init__(self, network, adjustment, grouping=None):
        self.network, self.adjustment, self.grouping = network, adjustment, grouping
        self.step = 0
        self.afresh()

    def afresh(self):
        self.age, self.K, self.S = 0, None, None

    def gradient(self, x, cotangent):
        a, grouping = self.adjustment, self.grouping
        if grouping is None:
            g, points, centre = cotangent, x, (x.shape[1] - 1) // 2
            rest, others = g.new_zeros(0, g.shape[-1]), x.new_zeros(0, *x.shape[2:])
        else:
            (g, rest), (points, others) = grouping.split(cotangent), grouping.split(x)
            centre = grouping.centre
        n, p, channels = g.shape
        if self.S is None or self.age == a.refresh:
            where = representatives(
                g, a.sampling, a.samples, centre=centre, seed=[a.seed, self.step]
            )
            self.renew(points[torch.arange(n)[:, None], where])
        self.age, self.step = self.age + 1, self.step + 1
        if a.reach == "points":
            moved = torch.einsum("ij,jpc->ipc", self.S, g)
        else:
            change = (self.S - torch.eye(n, dtype=g.dtype)) @ g.mean(dim=1)
            moved = g + change[:, None]
            if len(rest):
                rest = rest + change[torch.tensor(grouping.neighbours)]
        J = jacobian(self.network, torch.cat([points.reshape(n * p, *points.shape[2:]), others]))
        return torch.einsum("ncq,nc->q", J, torch.cat([moved.reshape(n * p, channels), rest]))

    def renew(self, chosen):
        a = self.adjustment
        J = torch.stack([jacobian(self.network, row).mean(dim=0) for row in chosen])
        K = dense_kernel(J, J, a.outputs)
        if self.K is not None:
            K = a.average * self.K + (1 - a.average) * K
        self.age, self.K = 0, K
        known = isinstance(a.filter, Damp | Equalise | Scale)
        S = dense(a.filter, K.numpy()) if known else a.filter(K.numpy()).matrix()
        self.S = torch.from_numpy(S)


def gradient(network):
    """All gradients of the trained parameters, one behind the other."""
    parts = [
        torch.zeros_like(p) if p.grad is None else p.grad
        for p in network.parameters()
        if p.requires_grad
    ]
    real = [torch.view_as_real(g) if g.is_complex() else g for g in parts]
    return torch.cat([g.reshape(-1) for g in real])


def clear(network):
    for parameter in network.parameters():
        parameter.grad = None
