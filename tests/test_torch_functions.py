"""`iga_torch.IGA` around functions: derivatives, several outputs, whatever depends on its own row.

The oracle is a module of the same function, differentiated one sample at a time.
"""

import copy
import functools
import weakref

import pytest

from iga_core import Adjustment, Equalise, Network, Scale
from tests.support.oracle import close

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import iga_torch  # noqa: E402
from iga_torch import graph  # noqa: E402
from iga_torch.functions import modules_of  # noqa: E402
from iga_torch.neighbours import nearest  # noqa: E402
from tests.support.torch_networks import Dense, found_grouping, gradient  # noqa: E402

PAPER = Adjustment.paper(end=3)
# Of PyTorch's own, when it first loads its rules for forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


def smooth(inputs=2, outputs=1, bias=True, activation=nn.Tanh):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(inputs, 7), activation(), nn.Linear(7, 6, bias=bias), nn.SiLU(),
        nn.Linear(6, outputs),
    ).double()  # fmt: skip


def rows(count=32, inputs=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, inputs, generator=generator, dtype=torch.float64) * 2 - 1


def slope(u, x):
    return torch.autograd.grad(u.sum(), x, create_graph=True)[0]


def ready(x):
    return x if x.requires_grad else x.requires_grad_(True)


def first_order(network, x):
    return slope(network(ready(x)), x)


def eikonal(network, x):
    return first_order(network, x).norm(dim=-1)


def laplacian(network, x):
    g = first_order(network, x)
    return sum(slope(g[..., k], x)[..., k] for k in range(x.shape[-1]))


def residual(network, x):
    """Of a wave equation, with the last coordinate for time, and a term that is not linear."""
    u = network(ready(x))
    g = slope(u, x)
    space, time = (slope(g[..., k], x)[..., k, None] for k in (0, -1))
    return torch.cat([time - 4 * space, u**3 + g[..., :1] * u], dim=-1)


def value_and_slope(network, x):
    u = network(ready(x))
    return torch.cat([u, slope(u, x)], dim=-1)


def by_jacrev(network, x):
    return torch.func.vmap(torch.func.jacrev(lambda p: network(p).sum()))(x)


def by_hessian(network, x):
    return torch.func.vmap(torch.func.hessian(lambda p: network(p).sum()))(x).flatten(1)


def by_jvp(network, x):
    return torch.func.jvp(network, (x,), (torch.ones_like(x),))[1]


def detached(network, x):
    x = x.detach().requires_grad_()
    return slope(network(x), x)


FUNCTIONS = {
    f.__name__: f
    for f in (first_order, eikonal, laplacian, residual, value_and_slope, by_jacrev, by_hessian,
              by_jvp, detached)
}  # fmt: skip


class Wrapped(nn.Module):
    """What the oracle differentiates."""

    def __init__(self, network, function):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, x):
        found = self.function(self.network, x)
        return found[..., None] if found.ndim == 1 else found


def loss_of(f):
    return ((f - 0.3) ** 2).mean() + f.sin().mean()


def dense_gradient(network, function, x, groups, adjustment=PAPER, loss=loss_of):
    """Jᵀ(S ⊗ I)g of a loss on the function's outputs."""
    module = Wrapped(network, function)
    f = module(x.clone()).detach().requires_grad_(True)
    (g,) = torch.autograd.grad(loss(f), f)
    dense = Dense(module, adjustment, found_grouping(nearest(x, groups)))
    return dense.gradient(x, g.reshape(len(x), -1))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_loss_on_a_derivative_is_adjusted(name):
    network, function, x = smooth(outputs=1), FUNCTIONS[name], rows()
    model = iga_torch.IGA(
        functools.partial(function, network), None, PAPER, parameters=network.parameters(), groups=4
    )
    loss_of(model(x.clone())).backward()
    close(gradient(network), dense_gradient(network, function, x, 4), 1e-10)


@pytest.mark.parametrize("later", [laplacian, eikonal])
def test_a_function_that_turns_to_a_derivative_later(later):
    """By the same calls of its network, as a schedule of losses does."""
    network, x, turns = smooth(), rows(), []

    def function(x):
        return later(network, x)[..., None] if turns else network(x)

    model = iga_torch.IGA(function, None, PAPER, parameters=network.parameters(), groups=4)
    loss_of(model(x.clone())).backward()
    network.zero_grad()
    turns.append(True)
    loss_of(model(x.clone())).backward()
    want = dense_gradient(network, lambda n, x: later(n, x)[..., None], x, 4)
    close(gradient(network), want, 1e-10)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 2)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_keep_the_factors(name, inputs, outputs, bias):
    network, x = smooth(inputs, outputs, bias), rows(9, inputs)
    module = Wrapped(network, FUNCTIONS[name])
    kernel = iga_torch.empirical_ntk(module, x, outputs="trace")
    close(kernel, dense_kernel(module, x), 1e-12)
    explicit = {row.name for row in iga_torch.kernel_report(module).explicit}
    batched = name == "by_hessian" and outputs > 1  # a product of a batch of matrices
    assert not explicit or (batched and explicit <= {"network.4.weight"})


def dense_kernel(module, x):
    blocks = []
    for row in x:
        outputs = module(row[None].clone()).reshape(-1)
        gradients = [
            torch.autograd.grad(o, list(module.parameters()), retain_graph=True, allow_unused=True)
            for o in outputs
        ]
        blocks.append(
            torch.stack([
                torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1)
                           for p, g in zip(module.parameters(), of, strict=True)])
                for of in gradients
            ])
        )  # fmt: skip
    J = torch.stack(blocks)
    return torch.einsum("icq,jcq->ij", J, J) / J.shape[1]


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Linear(2, 5), nn.Softplus(10), nn.PReLU(), nn.Linear(5, 1)),
        nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 5)), nn.Tanh(),
                      nn.Linear(5, 1)).eval(),
        nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 1)),
    ],
    ids=["prelu", "spectral norm", "layer norm"],
)  # fmt: skip
def test_what_has_no_factors_takes_explicit_rows(network):
    module, x = Wrapped(network.double(), value_and_slope), rows(7)
    close(iga_torch.empirical_ntk(module, x, outputs="trace"), dense_kernel(module, x), 1e-12)


def test_a_weight_normed_distance_keeps_its_factors():
    """As signed distances are mostly built."""
    network = smooth()
    for k in (0, 2, 4):
        nn.utils.parametrizations.weight_norm(network[k])
    module, x = Wrapped(network, value_and_slope), rows(9)
    close(iga_torch.empirical_ntk(module, x, outputs="trace"), dense_kernel(module, x), 1e-12)
    assert not iga_torch.kernel_report(module).explicit


def test_nodes_of_another_pytorch_take_explicit_rows(monkeypatch):
    """Their attributes are no promise of PyTorch's."""
    named = {kind: (*of[:2], "first", "second") for kind, of in graph.OPERANDS.items()}
    monkeypatch.setattr(graph, "OPERANDS", named)
    module, x = Wrapped(smooth(), value_and_slope), rows(7)
    close(iga_torch.empirical_ntk(module, x, outputs="trace"), dense_kernel(module, x), 1e-12)
    assert iga_torch.kernel_report(module).explicit


def test_a_tied_weight_and_a_derivative_by_a_weight():
    """The same matrix on both sides of a nonlinearity, and a term that it is in by itself."""
    matrix = nn.Linear(2, 2).double()

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = matrix

        def forward(self, x):
            u = matrix(torch.tanh(matrix(ready(x)))) @ matrix.weight + matrix.bias
            return slope(u.sin(), x)

    module, x = Tied(), rows(6)
    close(iga_torch.empirical_ntk(module, x, outputs="trace"), dense_kernel(module, x), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steep_networks_keep_the_factors(dtype):
    """A Laplacian of ω = 30 in float32: rounding is told from a wrong share."""
    network = iga_torch.from_network(
        Network("siren", outputs=1, width=16, depth=3), seed=0, dtype=dtype
    )
    module = Wrapped(network, laplacian)
    iga_torch.empirical_ntk(module, rows(9).to(dtype))
    assert not iga_torch.kernel_report(module).explicit


class TestSeveralOutputs:
    @staticmethod
    def both(network, x):
        u = network(ready(x))
        return {"value": u[..., 0], "slope": slope(u, x), "other": u.detach()}

    def test_they_are_adjusted_as_one(self):
        network, x = smooth(), rows()

        def loss(value, gradient):
            return (value - 0.3).square().mean() + (gradient.norm(dim=-1) - 1).square().mean() * 0.1

        model = iga_torch.IGA(
            lambda x: self.both(network, x), None, PAPER, groups=4,
            parameters=network.parameters(), output=["value", "slope"],
        )  # fmt: skip
        found = model(x.clone())
        assert found["value"].shape == (32,)
        loss(found["value"], found["slope"]).backward()
        want = dense_gradient(
            network, value_and_slope, x, 4, loss=lambda f: loss(f[..., 0], f[..., 1:])
        )
        close(gradient(network), want, 1e-10)

    def test_an_output_that_the_loss_leaves_out(self):
        network, x = smooth(), rows()
        model = iga_torch.IGA(
            lambda x: self.both(network, x), None, PAPER, groups=4,
            parameters=network.parameters(), output=["value", "slope"],
        )  # fmt: skip
        model(x.clone())["slope"].square().sum().backward()
        want = dense_gradient(
            network, value_and_slope, x, 4, loss=lambda f: f[..., 1:].square().sum()
        )
        close(gradient(network), want, 1e-10)

    def test_of_several_axes_kinds_and_dtypes(self):
        """(H, W, d) to numbers, complex channels and float32, with points' axes in common."""
        network, x = smooth(outputs=3), rows(24).reshape(6, 4, 2)

        class Three(nn.Module):
            def __init__(self):
                super().__init__()
                self.network = network

            def forward(self, x):
                f = self.network(x)
                return f[..., 0], [torch.complex(f[..., 1], f[..., 2]).reshape(*x.shape[:-1], 1)]

        model = iga_torch.IGA(Three(), None, PAPER, groups=4, output=[(0,), (1, 0)])
        a, (b,) = model(x)
        assert (a.shape, b.shape, b.dtype) == ((6, 4), (6, 4, 1), torch.complex128)
        (a.square().mean() + (b - 0.5j).abs().square().mean()).backward()

        def loss(f):
            return (
                f[..., 0].square().mean() + (f[..., 1].square() + (f[..., 2] - 0.5).square()).mean()
            )

        want = dense_gradient(network, lambda n, x: n(x), x.reshape(-1, 2), 4, loss=loss)
        close(gradient(network), want, 1e-10)

    def test_the_error_of_several_names_the_list(self):
        network = smooth()
        model = iga_torch.IGA(lambda x: self.both(network, x), parameters=network.parameters())
        with pytest.raises(ValueError, match="or a list of these, which are adjusted as one"):
            model(rows())


class TestWhatAFunctionIs:
    def test_modules_are_found(self):
        network, other = smooth(), smooth()

        class Renderer:
            def __init__(self):
                self.field, self.note = network, "a word"

            def query(self, x):
                return self.field(x)

            def __call__(self, x):
                return self.query(x)

        nets = {"a": [network]}

        def outer(x):
            return inner(x)

        def inner(x):
            return network(x)

        for function, name in (
            (outer, "network"), (functools.partial(first_order, network), "argument0"),
            (Renderer(), "field"), (Renderer().query, "field"), (network.forward, "network"),
            (lambda x: network(x) + other(x), "network"),
            (lambda x: nets["a"][0](x), "nets_a0"),
        ):  # fmt: skip
            assert modules_of(function)[name] is network

    def test_two_modules_behind_one_name_are_both_found(self):
        """As two functions have it that each call theirs `network`."""

        def field(network):
            return lambda x: network(x)

        one, other = smooth(), smooth()
        first, second = field(one), field(other)
        found = modules_of(lambda x: first(x) + second(x))
        assert {id(module) for module in found.values()} == {id(one), id(other)}
        given = [*one.parameters(), *other.parameters()]
        model = iga_torch.IGA(lambda x: first(x) + second(x), None, PAPER, parameters=given)
        assert all(name.startswith("network.network") for name, _ in model.named_parameters())

    def test_parameters_in_any_form(self):
        network, x = smooth(), rows()
        loss_of(iga_torch.IGA(network, None, PAPER, groups=4)(x)).backward()
        want = gradient(network)
        hidden = weakref.ref(network)  # behind which nothing is looked for
        for form in (
            lambda: network, network.parameters, network.named_parameters,
            lambda: list(network.parameters()), lambda: dict(network.named_parameters()),
        ):  # fmt: skip
            for function in (network.forward, lambda x: hidden()(x)):
                network.zero_grad()
                model = iga_torch.IGA(function, None, PAPER, parameters=form(), groups=4)
                loss_of(model(x)).backward()
                close(gradient(network), want, 1e-12)
                assert not model.kernel_report().explicit

    def test_tensors_that_are_no_parameters(self):
        table = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
        model = iga_torch.IGA(lambda x: (x @ table).sin(), parameters=[table], groups=4)
        model(rows()).sum().backward()
        assert model.kernel_report().parameters[0].name == "parameter0"
        assert table.grad is not None

    def test_a_free_parameter_that_the_first_sample_does_not_reach(self):
        """Explicit rows of it cannot be batched, which that sample does not tell."""
        network, x = smooth(), rows(12)
        x = x[x[:, 0].argsort()]
        free = nn.Parameter(torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 2, 2))

        def function(x):
            added = torch.einsum("ijk,ni,nj,nk->n", free, x, x, x)
            return network(x) + torch.where(x[:, :1] > 0, added[:, None], 0.0)

        class Both(nn.Module):
            def __init__(self):
                super().__init__()
                self.network, self.free = network, free

            def forward(self, x):
                return function(x)

        model = iga_torch.IGA(function, None, PAPER, parameters=[*network.parameters(), free],
                              groups=4)  # fmt: skip
        f = model(x)
        loss_of(f).backward()
        assert [row.name for row in model.kernel_report().explicit] == ["parameter6"]
        want = dense_gradient(Both(), lambda n, x: n(x), x, 4)
        close(torch.cat([free.grad.flatten(), gradient(network)]), want, 1e-10)

    def test_a_part_of_the_parameters(self):
        """The kernel is theirs alone, and all others train along."""
        network, x = smooth(), rows()
        part = list(network[4].parameters())
        model = iga_torch.IGA(lambda x: network(x), None, PAPER, parameters=part, groups=4)
        loss_of(model(x)).backward()
        assert [row.name for row in model.kernel_report().parameters] == [
            "network.4.weight", "network.4.bias",
        ]  # fmt: skip
        want = gradient(network)
        network.zero_grad()
        for p in network[:4].parameters():
            p.requires_grad_(False)
        loss_of(iga_torch.IGA(network, None, PAPER, groups=4)(x)).backward()
        close(want[-7:], gradient(network), 1e-12)

    def test_the_models_parameters_are_those_that_were_given(self):
        network, free = smooth(), nn.Parameter(torch.ones(1, dtype=torch.float64))
        given = [*network[4].parameters(), free]
        model = iga_torch.IGA(lambda x: free * network(x), parameters=given)
        assert [id(p) for p in model.parameters()] == [id(p) for p in given]
        assert [name for name, _ in model.named_parameters()] == [
            "network.network.4.weight", "network.network.4.bias", "network.parameter2",
        ]  # fmt: skip
        assert "parameter2" in model.state_dict()
        assert dict(iga_torch.IGA(network).named_parameters()).keys() == {
            f"network.{name}" for name, _ in network.named_parameters()
        }

    @pytest.mark.parametrize("layers", [(4,), (0, 2, 4)])
    def test_parameters_that_take_the_places_of_others(self, layers):
        """As `load_state_dict` with `assign`, and some forms of `to`, put them there."""
        network, x = smooth(), rows()
        model = iga_torch.IGA(
            lambda x: network(x), None, PAPER, parameters=network.parameters(), groups=4
        )
        loss_of(model(x)).backward()
        for k in layers:
            for name, parameter in list(network[k].named_parameters()):
                setattr(network[k], name, nn.Parameter(1.5 * parameter.detach()))
        network.zero_grad()
        loss_of(model(x)).backward()
        close(gradient(network), dense_gradient(network, lambda n, x: n(x), x, 4), 1e-10)

    def test_parameters_that_are_there_no_more(self):
        network, x = smooth(), rows()
        model = iga_torch.IGA(lambda x: network(x), parameters=network.parameters(), groups=4)
        nn.utils.parametrizations.weight_norm(network[2])
        with pytest.raises(ValueError, match=r"got none at network.2.weight any more; change"):
            model(x)

    def test_modes_and_buffers_are_the_networks_own(self):
        network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
        model = iga_torch.IGA(lambda x: network(x), parameters=network.parameters())
        with pytest.raises(ValueError, match="no batch normalisation in training mode"):
            model(rows())
        model.eval()
        assert not network.training
        assert model.state_dict().keys() == {f"network.{k}" for k in network.state_dict()}

    def test_methods_can_be_copied_and_closures_not(self):
        network, x = smooth(), rows()
        twin = copy.deepcopy(iga_torch.IGA(network.forward, parameters=network, groups=4))
        twin(x).sum().backward()
        assert all(p.grad is None for p in network.parameters())
        assert any(p.grad is not None for p in twin.parameters())
        with pytest.raises(TypeError, match="copy: expected a model around a module"):
            copy.deepcopy(iga_torch.IGA(lambda x: network(x), parameters=network))

    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            ({}, TypeError, r"parameters: expected those that .*alone depends on, got none; pass"),
            ({"parameters": []}, ValueError, "expected at least one tensor, got none; an iterator"),
            ({"parameters": 3}, TypeError, "expected an iterable of tensors, got int"),
            ({"parameters": torch.zeros(3)}, TypeError, "expected an iterable of tensors, got Ten"),
            ({"parameters": ["a"]}, TypeError, "expected tensors, got 'a' at place 0"),
            ({"parameters": [torch.ones(2, requires_grad=True) * 2]}, ValueError,
             "got the result of an operation at place 0"),
            ({"parameters": [torch.ones(2)]}, ValueError, "expected a trainable parameter"),
        ],
    )  # fmt: skip
    def test_wrong_parameters(self, arguments, error, words):
        def alone(x):
            return x

        with pytest.raises(error, match=words):
            iga_torch.IGA(alone, **arguments)

    def test_what_is_no_function(self):
        with pytest.raises(TypeError, match=r"expected a torch.nn.Module or a function, got int"):
            iga_torch.IGA(3, parameters=smooth())
        with pytest.raises(ValueError, match="parameters: expected none beside a module"):
            iga_torch.IGA(smooth(), parameters=smooth().parameters())
        network = smooth()
        model = iga_torch.IGA(network)
        with pytest.raises(ValueError, match="adjusted yet, got an IGA as 'model' in it"):
            iga_torch.IGA(lambda x: model(x), parameters=network.parameters())

    def test_parameters_that_are_not_reached(self):
        network, other = smooth(), smooth()
        model = iga_torch.IGA(lambda x: network(x), parameters=other.parameters(), groups=4)
        with pytest.raises(ValueError, match="got 6 that they do not; pass those of the network"):
            model(rows())


def test_rows_that_are_sorted_by_value():
    """In order at the first call, by chance, and in another order later."""
    network, x = smooth(), rows(9)

    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            order = x[:, 1].argsort()
            return self.network(x[order])[order.argsort()]

    module = Sorted()
    for points in (x[x[:, 1].argsort()], x):
        kernel = iga_torch.empirical_ntk(module, points, outputs="trace")
        close(kernel, dense_kernel(network, points), 1e-12)


class TestOutsideOfTheFunction:
    def test_a_derivative_taken_outside(self):
        """Warned once, with what to write instead."""
        network, x = smooth(), rows().requires_grad_()
        model = iga_torch.IGA(lambda x: network(x), parameters=network.parameters(), groups=4)
        u = model(x)
        with model.plain(), pytest.warns(UserWarning, match=r"IGA\(function, parameters=network"):
            g = slope(u, x)
        g.square().mean().backward()
        with pytest.raises(RuntimeError, match=r"wrap the function that returns it: IGA\(function"):
            slope(model(x), x)

    def test_the_network_itself(self):
        network, x = smooth(), rows()
        model = iga_torch.IGA(lambda x: network(x), parameters=network.parameters(), groups=4)
        model(x).sum().backward()
        with pytest.warns(UserWarning, match=r"backward: .*IGA\(function, parameters="):
            network(x).sum().backward()


def test_cotangents_that_are_mostly_zero_warn_once():
    network, x = smooth(outputs=2), rows(60)
    model = iga_torch.IGA(network, None, Adjustment(filter=Scale(0.1)), groups=4)
    weights = torch.where(torch.arange(60) % 5 == 0, 1.0, 1e-5)[:, None]
    with pytest.warns(UserWarning, match=r"loss: .*more than half of the points.*IGA\(render"):
        (weights * model(x)).square().mean().backward()
    (weights * model(x)).square().mean().backward()
    other = iga_torch.IGA(network, None, Adjustment(filter=Equalise(2)), groups=4)
    (other(x) - x).square().mean().backward()
    (0 * other(x)).sum().backward()


def test_a_renderer():
    """One row a ray: samples along it, composed into a colour, with weights of a density."""
    network = smooth(3, 4)

    def render(origins, directions, near):
        depths = torch.linspace(0, 1, 5, dtype=origins.dtype) + near
        points = origins[:, None] + depths[..., None] * directions[:, None]
        raw = network(points)
        alpha = 1 - torch.exp(-nn.functional.softplus(raw[..., 3]))
        through = torch.cumprod(1 - alpha + 1e-10, dim=-1)
        weights = alpha * torch.cat([torch.ones_like(through[:, :1]), through[:, :-1]], dim=-1)
        return {"rgb": (weights[..., None] * raw[..., :3].sigmoid()).sum(dim=1), "weights": weights}

    origins, directions, near = rows(32, 3), rows(32, 3, 1), rows(32, 1, 2)
    model = iga_torch.IGA(
        render, None, PAPER, parameters=network.parameters(), groups=4, coords="directions",
        output="rgb",
    )  # fmt: skip
    loss_of(model(origins, directions, near)["rgb"]).backward()
    assert not model.kernel_report().explicit

    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, rays):
            return render(rays[:, :3], rays[:, 3:6], rays[:, 6:])["rgb"]

    rays = torch.cat([origins, directions, near], dim=-1)
    f = Joined()(rays).detach().requires_grad_()
    (g,) = torch.autograd.grad(loss_of(f), f)
    dense = Dense(Joined(), PAPER, found_grouping(nearest(directions, 4)))
    close(gradient(network), dense.gradient(rays, g), 1e-10)
