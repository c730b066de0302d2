"""`iga_torch.derivatives` against `torch.autograd`, and what becomes of it in a kernel and a step."""

import copy
import warnings

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402, N812
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import iga_torch  # noqa: E402
from iga_core import Adjustment, Grouping, Network  # noqa: E402
from iga_core.kinds import KINDS  # noqa: E402
from tests.support.by_autograd import Residuals, by_autograd  # noqa: E402
from tests.support.oracle import close  # noqa: E402
from tests.support.selection import slow  # noqa: E402
from tests.support.torch_networks import (  # noqa: E402
    NETWORKS,
    Dense,
    dense_kernel,
    gradient,
    jacobian,
    make,
)

pytestmark = pytest.mark.filterwarnings("ignore:optimizer. the adjusted gradient is shorter")


def by_derivatives(network, x, order):
    """In the form of `by_autograd`."""
    found = iga_torch.derivatives(network, x, order, diagonal=order == 2)
    return found[:2] if order == 1 else (found.value, found.gradient, found.diagonal)


class Between(nn.Module):
    """Layers with something between them."""

    def __init__(self, between, outputs=2, inputs=2):
        super().__init__()
        self.first, self.second = nn.Linear(inputs, 6), nn.Linear(6, 6)
        self.last, self.between = nn.Linear(6, outputs), between
        self.double()

    def forward(self, x, *args, **kwargs):
        h = self.between(self.first(x), *args, **kwargs)
        return self.last(self.between(self.second(h), *args, **kwargs))


def points(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).double() * 2 - 1


def pulled(parts, network):
    """The gradient by parameters of a sum of everything with random weights."""
    generator, total = torch.Generator().manual_seed(3), 0.0
    for part in parts:
        real = torch.view_as_real(part) if part.is_complex() else part
        total = total + (real * torch.rand(real.shape, generator=generator).double()).sum()
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([torch.view_as_real(g).flatten() if g.is_complex() else g.flatten()
                      for g in found])  # fmt: skip


def agree(network, x, tolerance=1e-12, backward=True):
    """Hold all forms against autograd; also their gradients by the parameters."""
    wanted = value, first, second = by_autograd(network, x)
    laplacian = second.sum(dim=-1)
    found = iga_torch.derivatives(network, x, 2, diagonal=True)
    summed = iga_torch.derivatives(network, x, 2)
    assert summed.diagonal is None
    for got, want in (
        *zip(found, (value, first, laplacian, second), strict=True),
        *zip(summed[:3], (value, first, laplacian), strict=True),
        *zip(iga_torch.derivatives(network, x, 1)[:2], (value, first), strict=True),
    ):
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        close(got.detach(), want.detach(), tolerance)
    if backward:
        own = pulled((found.value, found.gradient, found.diagonal), network)
        close(own, pulled(wanted, network), 10 * tolerance)


ACTIVATIONS = {
    "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "relu": nn.ReLU(), "softplus": nn.Softplus(),
    "steep softplus": nn.Softplus(beta=100), "silu": nn.SiLU(), "gelu": nn.GELU(),
    "gelu by tanh": nn.GELU("tanh"), "elu": nn.ELU(), "selu": nn.SELU(), "celu": nn.CELU(),
    "leaky": nn.LeakyReLU(0.1), "mish": nn.Mish(), "softsign": nn.Softsign(),
    "tanhshrink": nn.Tanhshrink(), "logsigmoid": nn.LogSigmoid(), "hardtanh": nn.Hardtanh(),
    "hardswish": nn.Hardswish(), "relu6": nn.ReLU6(), "softshrink": nn.Softshrink(0.1),
    "hardshrink": nn.Hardshrink(0.1), "threshold": nn.Threshold(0.1, 0.3), "prelu": nn.PReLU(6),
    "softmax": nn.Softmax(-1), "rms norm": nn.RMSNorm(6), "glu": lambda u: F.glu(u.repeat(1, 2)),
    "dropout that is off": nn.Dropout().eval(), "identity": nn.Identity(),
}  # fmt: skip
FUNCTIONS = {
    "siren": lambda u: torch.sin(30 * u),
    "gauss": lambda u: torch.exp(-((3 * u) ** 2)),
    "gabor": lambda u: torch.cos(3 * u) * torch.exp(-(2 * u).square()),
    "finer": lambda u: torch.sin(3 * (u.abs() + 1) * u),
    "wire": lambda u: (torch.exp(3j * u - (2 * u).abs().square())).real,
    "complex wire": lambda u: torch.exp(
        1j * torch.complex(u, u.sin()) - torch.complex(u, u * u).abs().square()
    ).imag,
    "complex": lambda u: torch.view_as_real(torch.tanh(torch.complex(u, u.cos()))).sum(-1),
    "residual": lambda u: u + 0.5 * torch.sin(u),
    "encoding": lambda u: torch.cat([torch.sin(u[..., :3]), torch.cos(u[..., 3:])], dim=-1),
    "skip": lambda u: torch.cat([u[..., :3] * u[..., 3:], torch.ones_like(u[..., :3])], -1),
    "held": lambda u: torch.sin(u.detach() * u),
    "quotient": lambda u: torch.sin(u) / torch.exp(u) + u / 3 + 1 / (2 + u * u),
    "powers": lambda u: u**0 + u**1 + u**2 + u.pow(3) + (1 + u * u) ** -1.5 + 2**u,
    "powers of both": lambda u: (1 + u * u) ** torch.sin(u),
    "differences": lambda u: 1 - torch.sin(u) - torch.sub(u, u.cos(), alpha=2) + torch.rsub(u, u * u),
    "unit vectors": lambda u: F.normalize(u, dim=-1) + u / u.norm(dim=-1, keepdim=True),
    "lengths": lambda u: u * (torch.linalg.norm(u, dim=-1, keepdim=True)
                              + torch.linalg.vector_norm(u, 2, -1, True)),
    "angles": lambda u: torch.atan2(u[..., :1].sin(), 2 + u) + torch.hypot(u, 1 + u),
    "extremes": lambda u: torch.maximum(u.sin(), u * u).clamp(-0.3, 0.3) - torch.minimum(u, u * u),
    "choices": lambda u: torch.where(u > 0, u.sin(), 0.3) + u.where(u < 0, u * u),
    "masks": lambda u: u.sin().masked_fill(u > 0, 2.0),
    "rows": lambda u: torch.stack(list((u * u).unbind(-1)), -1) + torch.cat(u.sin().chunk(2, -1), -1),
    "outer": lambda u: torch.einsum("...i,...j->...ij", u, u.sin()).sum(-1),
    "matrices": lambda u: (u[..., None, :] @ u.sin()[..., None])[..., 0] * u,
    "transposed": lambda u: u.T.sin().permute(1, 0) + (u.mT * 2).mT,
    "shapes": lambda u: u.reshape(-1, 2, 3).sin().flatten(-2) + u[..., :1].exp().expand_as(u),
    "padded": lambda u: F.pad(u[..., :4].sin(), (1, 1), value=2.0),
    "convolution": lambda u: F.conv1d(u.T[None], torch.ones(6, 6, 1).double(), u.new_ones(6))[0].T.sin(),
    "addmm": lambda u: torch.addmm(u.new_ones(6), u, 2 * torch.eye(6).double()).square(),
    "roots": lambda u: torch.sqrt(1 + u * u) + torch.log(2 + u * u) + (2 + u * u).reciprocal(),
    "hyperbolic": lambda u: torch.sinh(u) + torch.cosh(u) + torch.expm1(u) + torch.log1p(u * u),
    "special": lambda u: torch.erf(u) + torch.sinc(u) + torch.atan(u) + torch.special.expit(u),
    "cells": lambda u: (3 * u - torch.floor(3 * u)) ** 2 + (u % 0.3) * u + u.round(),
    "broadcast": lambda u: torch.sin(u[..., :1]) + torch.arange(6.0) + u[..., :1] * u,
    "constants": lambda u: u * torch.rand_like(u).fill_(0.5) + u.shape[-1] + len(u),
}  # fmt: skip
QUICK = ["tanh", "steep softplus", "gelu", "mish", "softmax"], [
    "siren", "gabor", "complex wire", "encoding", "quotient", "powers", "unit vectors", "angles",
    "choices", "matrices", "broadcast",
]  # fmt: skip


def some_slow(of, quick):
    return [*quick, *slow(name for name in of if name not in quick)]


@pytest.mark.parametrize("name", some_slow(ACTIVATIONS, QUICK[0]))
def test_activations(name):
    torch.manual_seed(0)
    agree(Between(ACTIVATIONS[name]), points(7, 2))


@pytest.mark.parametrize("name", some_slow(FUNCTIONS, QUICK[1]))
def test_functions(name):
    torch.manual_seed(0)
    agree(Between(FUNCTIONS[name]), points(7, 2))


@pytest.mark.parametrize("kind", ["finer", *slow(kind for kind in KINDS if kind != "finer")])
@pytest.mark.parametrize("normalised", [False, *slow(["anyway"])])
def test_networks_of_the_library(kind, normalised):
    network = Network(kind, width=8, depth=3, frequencies=2, normalised=normalised)
    model = iga_torch.from_network(network, dtype=torch.float64)
    if normalised:
        model.measure(points(30, 2, seed=1))
        model.eval()
    agree(model, points(7, 2), 1e-11 if kind == "gabor" else 1e-12)


def test_layer_norm_by_differences():
    """Autograd's own gradient of a Laplacian is wrong here in PyTorch 2.13, by a fifth."""
    torch.manual_seed(0)
    network, x = Between(nn.LayerNorm(6)), points(5, 2)
    agree(network, x, backward=False)
    iga_torch.derivatives(network, x, 2).laplacian.square().sum().backward()
    weight, step = network.first.weight, 1e-5
    wanted = torch.zeros_like(weight)
    for k in range(weight.numel()):
        for sign in (1, -1):
            with torch.no_grad():
                weight.view(-1)[k] += sign * step
            found = by_autograd(network, x)[2].sum(dim=-1).square().sum().detach()
            with torch.no_grad():
                weight.view(-1)[k] -= sign * step
            wanted.view(-1)[k] += sign * found / (2 * step)
    close(weight.grad, wanted, 1e-7)


def test_what_autograd_does_not_differentiate_twice():
    network, x = Between(nn.Hardsigmoid()), points(7, 2)
    found = iga_torch.derivatives(network, x, 2)
    close(
        found.gradient.detach(), by_autograd(network, x, 1)[1].detach(), 1e-6
    )  # its 1/6 is float32
    assert not found.laplacian.any()


STEPS = {
    "sin": torch.sin, "tanh": torch.tanh, "softplus": F.softplus, "square": torch.square,
    "affine": lambda a: 1 - 0.5 * a, "gauss": lambda a: torch.exp(-a * a), "elu": F.elu,
    "abs": torch.abs, "over": lambda a: a / (1.5 + a.sin()), "root": lambda a: (1 + a * a) ** 0.5,
    "turn": lambda a: a.roll(1, -1), "half": lambda a: torch.cat([a[..., 2:], a[..., :2].cos()], -1),
}  # fmt: skip
TWO = {
    "times": torch.mul, "plus": torch.add, "minus": torch.sub, "angle": lambda a, b: torch.atan2(a, 2 + b.cos()),
    "greater": torch.maximum, "outer": lambda a, b: torch.einsum("ni,nj->nij", a, b).mean(-1),
}  # fmt: skip


@given(
    st.lists(st.one_of(st.sampled_from(sorted(STEPS)), st.sampled_from(sorted(TWO))), max_size=6)
)
@settings(max_examples=4, deadline=None)
def test_any_chain_of_operations(names):
    check_chain(names)


@pytest.mark.slow
@given(
    st.lists(st.one_of(st.sampled_from(sorted(STEPS)), st.sampled_from(sorted(TWO))), max_size=9)
)
@settings(max_examples=200, deadline=None)
def test_many_chains_of_operations(names):
    check_chain(names)


def check_chain(names):
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(2, 4)

        def forward(self, x):
            before = now = self.first(x)
            for name in names:
                before, now = now, STEPS[name](now) if name in STEPS else TWO[name](before, now)
            return now

    torch.manual_seed(0)
    network, x = Chain().double(), points(5, 2)
    wanted = by_autograd(network, x)
    found = by_derivatives(network, x, 2)
    for got, want in zip(found, wanted, strict=True):
        close(got.detach(), want.detach(), 1e-11)
    close(pulled(found, network), pulled(wanted, network), 1e-10)


# Layouts and modes.


@pytest.mark.parametrize("shape", [(2,), (5, 3), (4, 3, 2), (1, 5, 1), (2, 2, 3, 4)])
@pytest.mark.parametrize("outputs", [1, 3])
def test_layouts(shape, outputs):
    agree(Between(torch.sin, outputs, shape[-1]), points(*shape), backward=False)


def test_one_number_a_point_and_complex_ones():
    class Number(Between):
        def forward(self, x):
            return super().forward(x)[..., 0]

    class Complex(Between):
        def forward(self, x):
            z = torch.complex(*super().forward(x).chunk(2, -1))
            return torch.exp(1j * z) / (2 + z)

    agree(Number(torch.sin), points(7, 2))
    agree(Complex(torch.sin, 4), points(7, 2))


def test_coordinates_that_are_differentiated_by_once_more():
    network = Between(torch.sin, 1)
    for order in (1, 2):
        x = points(7, 2).requires_grad_()
        found = by_derivatives(network, x * 1, order)[-1].square().sum()
        y = x.detach().clone().requires_grad_()
        wanted = by_autograd(network, y * 1, order)[-1].square().sum()
        (got,), (want,) = torch.autograd.grad(found, x), torch.autograd.grad(wanted, y)
        close(got, want, 1e-11)


def test_derivatives_of_derivatives():
    class Laplacian(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            return iga_torch.derivatives(self.network, x, 2).laplacian

    network, x = Between(torch.sin, 1), points(5, 2).requires_grad_()
    found = iga_torch.derivatives(Laplacian(network), x, 2)
    laplacian = by_autograd(network, x)[2].sum(dim=-1)
    wanted = by_autograd(lambda _: laplacian, x)
    for got, want in zip(found[:3], (*wanted[:2], wanted[2].sum(dim=-1)), strict=True):
        close(got.detach(), want.detach(), 1e-11)


def test_what_else_a_network_takes_is_constant():
    class Conditioned(Between):
        def forward(self, x, latent, *, scale):
            return super().forward(x + scale * latent)

    network, x = Conditioned(torch.sin), points(7, 2)
    plain = Between(torch.sin)
    plain.load_state_dict(network.state_dict())
    moved, latent = x + 0.3 * x, x.clone().requires_grad_()
    wanted = by_autograd(plain, moved)
    for order in (1, 2):
        for given_latent in (latent, x):  # the coordinates themselves too
            found = iga_torch.derivatives(network, x, order, given_latent, scale=0.3)
            close(found.gradient.detach(), wanted[1].detach(), 1e-12)
    found = iga_torch.derivatives(network, latent, 1, latent * 1, scale=0.3)
    close(found.gradient.detach(), wanted[1].detach(), 1e-12)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("outputs", [1, 2])  # by autograd, and forward
def test_without_gradients_and_frozen(order, outputs):
    network, x = Between(torch.sin, outputs), points(7, 2)
    wanted = [part.detach() for part in by_autograd(network, x, order)]
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            found = by_derivatives(network, x, order)
        for got, want in zip(found, wanted, strict=True):
            close(got, want, 1e-12)
            assert not got.requires_grad
    network.requires_grad_(False)
    for got, want in zip(by_derivatives(network, x, order), wanted, strict=True):
        close(got.detach(), want, 1e-12)


def test_precision_is_the_networks_own():
    network = Between(torch.sin)
    wanted = by_autograd(network, points(7, 2))
    network.float()
    for context in (torch.autocast("cpu", enabled=False), torch.autocast("cpu", torch.bfloat16)):
        with context:
            found = by_derivatives(network, points(7, 2).float(), 2)
        for got, want in zip(found, wanted, strict=True):
            assert got.dtype == torch.float32
            close(got.detach(), want.detach(), 1e-5)


def test_a_constant_network_and_a_linear_one():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.ones(*x.shape[:-1], 1, dtype=x.dtype)

    for order in (1, 2):
        found = by_derivatives(Constant(), points(7, 2), order)
        assert found[1].shape == (7, 1, 2)
        assert not any(part.any() for part in found[1:])
    agree(nn.Linear(2, 3).double(), points(7, 2), backward=False)


def test_dropout_draws_once():
    torch.manual_seed(0)
    network, x = (
        nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Dropout(), nn.Linear(6, 1)).double(),
        points(9, 2),
    )
    iga_torch.derivatives(network, x, 2)
    for order in (1, 2):
        torch.manual_seed(1)
        wanted = by_autograd(network, x, order)
        torch.manual_seed(1)
        for got, want in zip(by_derivatives(network, x, order), wanted, strict=True):
            close(got.detach(), want.detach(), 1e-12)


def test_a_length_at_zero():
    """Where a norm has no derivative it is zero, as autograd has it."""

    class Distance(nn.Module):
        def forward(self, x):
            return x.norm(dim=-1, keepdim=True)

    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).double()
    found = iga_torch.derivatives(Distance(), x, 2)
    close(found.gradient[:, 0], [[0, 0], [0.6, 0.8]], 1e-15)
    close(found.laplacian[:, 0], [0, 0.2], 1e-15)


@pytest.mark.slow
def test_compiled_networks_are_evaluated_as_they_are():
    network = Between(torch.sin)
    network.compile(backend="eager")
    agree(network, points(7, 2))
    agree(torch.compile(Between(torch.sin), backend="eager"), points(7, 2))


def test_nothing_is_left_behind():
    class Counting(Between):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    network, x = Counting(lambda u: torch.sin(u + torch.rand(()))), points(7, 2)
    torch.manual_seed(0)
    network(x)
    wanted = torch.get_rng_state()
    torch.manual_seed(0)
    iga_torch.derivatives(network, x, 2)
    assert torch.equal(torch.get_rng_state(), wanted)
    assert network.calls == 2
    copy.deepcopy(network)


# Kernels and steps.


def normalised_weights():
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(2, 6)), nn.Softplus(10), nn.Linear(6, 1)
    )


def mixed():
    return nn.Sequential(
        nn.Linear(2, 5), nn.PReLU(), nn.Linear(5, 5), nn.RMSNorm(5), nn.Tanh(), nn.Linear(5, 2)
    )


def encoded():
    return iga_torch.from_network(Network("pe", width=6, depth=2, outputs=2, frequencies=2))


class ByHand(nn.Module):
    """Layers as siren's own code writes them, the first one too."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(1, 5))
        self.bias, self.frequency = nn.Parameter(torch.randn(5)), nn.Parameter(torch.ones(()))

    def forward(self, x):
        h = torch.sin(self.frequency * (x.matmul(self.first.permute(1, 0)) + self.bias))
        return h @ self.last.T


def steep():
    return iga_torch.from_network(Network("siren", width=6, depth=3, outputs=1))


# Whose parameters have no factors.
KERNELS = {
    "siren": (steep, set()),
    "encoded": (encoded, set()),
    "by hand": (ByHand, set()),
    "mixed": (mixed, {"network.1.weight"}),
    "weight norm": (normalised_weights, set()),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "order"),
    [("by hand", 2), *slow([(k, o) for k in KERNELS for o in (1, 2) if (k, o) != ("by hand", 2)])],
)
def test_the_kernel_of_derivatives(name, order):
    torch.manual_seed(0)
    network = KERNELS[name][0]().double()
    x, x2 = points(6, 2), points(4, 2, seed=1)
    for whole in (True, False):
        model = Residuals(network, order, by_derivatives, whole)
        left, right = (jacobian(Residuals(network, order, whole=whole), t) for t in (x, x2))
        for outputs in ("sum", "trace", "full"):
            close(iga_torch.empirical_ntk(model, x, outputs=outputs),
                  dense_kernel(left, left, outputs), 1e-10)  # fmt: skip
        close(iga_torch.empirical_ntk(model, x, x2), dense_kernel(left, right, "sum"), 1e-10)
        explicit = {row.name for row in iga_torch.kernel_report(model).explicit}
        assert explicit == KERNELS[name][1]


NOT_CARRIED = {"checkpointed", "residual", "masked", "nothing inside", "normals", "guarded normals", "in place",
               "attention", "layer: in place", "unbatched"}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in NOT_CARRIED])
def test_any_network(name):
    network, x = make(name).eval(), points(5, 2)
    normalises = any(isinstance(module, nn.LayerNorm) for module in network.modules())
    agree(network, x, 1e-11, backward=not normalises)  # whose third derivatives autograd has wrong
    order = 1 if normalises else 2
    wanted = jacobian(Residuals(network, order), x)
    model = Residuals(network, order, by_derivatives)
    close(iga_torch.empirical_ntk(model, x), dense_kernel(wanted, wanted, "sum"), 1e-10)
    explicit = {row.name for row in iga_torch.kernel_report(model).explicit}
    assert not explicit & {f"network.{parameter}" for parameter in NETWORKS[name][1]}


@pytest.mark.parametrize("name", sorted(NOT_CARRIED))
def test_other_networks_are_refused(name):
    network = make(name)
    with pytest.raises(ValueError, match="network: expected"):
        iga_torch.derivatives(network, points(5, 2), 2)


@pytest.mark.parametrize(
    ("order", "form"), [(2, "grid"), *slow([(1, "flat"), (1, "grid"), (2, "flat")])]
)
def test_an_adjusted_step_on_derivatives(order, form):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1)
    ).double()
    with torch.no_grad():
        network[0].weight *= 8
    grouping = Grouping.patches((7, 9), 2)
    x = points(63, 2)
    adjustment = Adjustment(refresh=1, average=0)
    plain = Residuals(network, order)
    model = iga_torch.IGA(Residuals(network, order, by_derivatives), grouping, adjustment)
    found = model(x if form == "flat" else x.reshape(7, 9, 2)).reshape(63, -1)
    cotangent = torch.cos(torch.arange(found.numel()).double()).reshape(found.shape)
    wanted = Dense(plain, adjustment, grouping).gradient(x, cotangent)
    (found * cotangent).sum().backward()
    close(gradient(network), wanted, 1e-11)
    assert not model.kernel_report().explicit


# What is refused.


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return u * u

    @staticmethod
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0] * g


class Unseen(Own):
    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return torch.from_numpy(u.detach().numpy() ** 2)


def without_gradients(u):
    with torch.no_grad():
        size = u.norm()
    return u / size


def set_in_place(u):
    found = torch.zeros_like(u)
    found[..., :2] = u[..., :2]
    return found


def changed_behind(u):
    u.detach().add_(1)
    return u * u


def scripted(u):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sigmoid())(u)


REFUSED = {
    "unknown": (lambda u: u.sort(-1)[0], "got torch.Tensor.sort; write it in others, or take the"),
    "sampled": (lambda u: F.grid_sample(u[None, None], u[None, :, None, :2])[0, 0], "grid_sample;"),
    "autograd": (lambda u: torch.autograd.grad(u.sum(), u)[0], "got torch.autograd.grad"),
    "no grad": (without_gradients, "norm where gradients are off"),
    "own": (Own.apply, "where gradients are off, under torch.no_grad or in an autograd.Function"),
    "unseen": (Unseen.apply, "a tensor that UnseenBackward made of the coordinates unseen"),
    "scripted": (scripted, "made of the coordinates unseen"),
    "in place": (lambda u: F.relu(u, inplace=True), "relu, in place; write it out of place"),
    "in place by position": (lambda u: F.relu(u, True), "relu, in place"),
    "added": (lambda u: u.add_(1), "add_, in place"),
    "set": (set_in_place, "__setitem__, in place"),
    "out": (lambda u: torch.sin(u, out=torch.zeros_like(u)), "sin, in place"),
    "behind": (changed_behind, "mul of a tensor that was changed in place"),
    "read": (lambda u: u * u.sum().item(), "item, which takes numbers out of tensors"),
    "asked": (lambda u: u if u.mean() else 2 * u, "__bool__, which takes numbers"),
    "data": (lambda u: u * u.data, "data.__get__, which takes"),
    "form": (lambda u: u / u.norm(p=3, dim=-1, keepdim=True), "torch.Tensor.norm in a form that is"),
    "matrix norm": (lambda u: u * torch.linalg.norm(u, 2), "norm in a form that is not"),
    "cast": (lambda u: u.softmax(-1, torch.float64), "softmax in a form that is not"),
    "complex": (lambda u: torch.tan(u + 0j).real, "torch.tan of complex numbers"),
    "weights": (lambda u: F.linear(u, u[:6]), "with a weight that depends on the coordinates"),
    "of three": (lambda u: torch.einsum("ni,ni,ni->ni", u, u, u), "of more than two tensors"),
    "centred": (lambda u: u - u.mean(dim=0), "depend on that sample alone"),
    "attention": (lambda u: torch.softmax(u @ u.T, -1) @ u, "depend on that sample alone"),
    "batch norm": (nn.BatchNorm1d(6), "put BatchNorm into eval mode"),
    "checkpoint": (lambda u: checkpoint(lambda v: v.tanh().sin(), u, use_reentrant=False), "put it around derivatives"),
    "reentrant": (lambda u: checkpoint(torch.sin, u, use_reentrant=True), "where gradients are off"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused(name):
    between, words = REFUSED[name]
    network = Between(between, 1)
    for context in (torch.enable_grad(), torch.no_grad()):
        with context, pytest.raises(ValueError, match="network: expected") as caught:
            iga_torch.derivatives(network, points(7, 2), 1)
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lambda x: x, points(7, 2), 1), "network: expected a torch.nn.Module"),
        ((nn.Linear(2, 1), [[1.0, 2.0]], 1), "x: expected a tensor, got list"),
        ((nn.Linear(2, 1), torch.ones(3, 2, dtype=torch.int64), 1), "x: expected real coordinates"),
        ((nn.Linear(2, 1), torch.ones(()), 1), "x: expected real coordinates"),
        ((nn.Linear(2, 1), torch.ones(3, 0), 1), "x: expected real coordinates"),
        ((nn.Linear(2, 1), torch.ones(3, 2), 3), "order: expected 1 or 2, got 3"),
        ((nn.Linear(2, 1), torch.ones(3, 2), True), "order: expected 1 or 2, got True"),
        ((nn.Flatten(0), torch.ones(3, 2), 1), r"network: expected outputs of shape \(3, channels\)"),
        ((nn.LSTM(2, 3), torch.ones(3, 2), 1), "lstm"),
    ],
)  # fmt: skip
def test_bad_input(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        iga_torch.derivatives(*arguments)
    with pytest.raises(ValueError, match="diagonal: expected False with order 1"):
        iga_torch.derivatives(nn.Linear(2, 1), torch.ones(3, 2), 1, diagonal=True)


def test_an_adjusted_network_is_no_network_in_training():
    network, x = Between(torch.sin, 1), points(320, 2)
    model = iga_torch.IGA(network)
    for whole in (model, nn.Sequential(model)):
        with pytest.raises(ValueError, match="network: expected one that is not adjusted, got an"):
            iga_torch.derivatives(whole, x, 1)
    agree(model.eval(), x, backward=False)
