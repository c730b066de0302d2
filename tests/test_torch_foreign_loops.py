"""`iga_torch.IGA` in the manner of public codebases: what was tried on it and once went wrong."""

import dataclasses
import gc
import warnings
import weakref

import pytest

from iga_core import Adjustment
from tests.support.oracle import close

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import iga_torch  # noqa: E402
from iga_torch.neighbours import nearest  # noqa: E402
from tests.support.torch_networks import Dense, clear, gradient, steep  # noqa: E402
from tests.test_torch_any_points import found_grouping, points  # noqa: E402

# Forward mode has PyTorch load what warns of itself.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script")

CENTRE = Adjustment(sampling="centre", refresh=1, average=0)


def mlp(inputs=2, outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs)).double()


class Bound(nn.Module):
    """A function of a network whose parameters are that one's."""

    def __init__(self, inner, function):
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self, *args, **kwargs):
        return self.function(self.inner, *args, **kwargs)


def dense_gradient(network, x, found, middle=None, groups=6):
    """Of the mean square of what was found for points x, (N, ...), in groups of neighbours."""
    index = nearest(x if middle is None else middle, groups)
    dense = Dense(network, CENTRE, found_grouping(index))
    return dense.gradient(x, (2 * found.detach() / found.numel()).reshape(len(x), -1))


def adjusted_gradient(network, *args, **kwargs):
    """Of the mean square of the outputs, and these."""
    clear(network)
    found = iga_torch.IGA(network, None, CENTRE, groups=6)(*args, **kwargs)
    found.square().mean().backward()
    return gradient(network), found


class TestNothingToTrain:
    """Frozen networks that others train through are called as they are."""

    def test_a_generator_trains_through_a_frozen_discriminator(self):
        generator, critic = mlp(2, 2), iga_torch.IGA(mlp(2, 1), groups=4)
        for _ in range(2):
            critic.requires_grad_(True)
            fake = generator(points(20, 2)).detach()
            (critic(points(20, 2)) - critic(fake)).mean().backward()
            critic.requires_grad_(False)
            clear(generator)
            critic(generator(points(20, 2))).mean().backward()
            got = gradient(generator)
            clear(generator)
            critic.network(generator(points(20, 2))).mean().backward()
            close(got, gradient(generator), 1e-15)

    def test_a_latent_is_found_for_a_decoder_that_is_done(self):
        model, code = iga_torch.IGA(mlp(5, 1)), torch.zeros(1, 3, dtype=torch.float64)
        model.requires_grad_(False)
        code.requires_grad_(True)
        x = torch.cat([code.expand(20, 3), points(20, 2)], dim=1)
        model(x).square().mean().backward()
        assert code.grad.abs().max() > 0
        assert model.transform is None


SLOPES = {
    "grad": lambda model, x: torch.func.grad(lambda x: model(x).sum())(x),
    "jacrev": lambda model, x: torch.func.vmap(torch.func.jacrev(model))(x),
    "jvp": lambda model, x: torch.func.jvp(model, (x,), (x,))[1],
    "ensemble": lambda model, x: torch.func.vmap(
        lambda values: torch.func.functional_call(model, values, (x,))
    )({name: torch.stack([p, 2 * p]) for name, p in model.named_parameters()}),
    "parameters": lambda model, x: torch.func.grad(
        lambda values: torch.func.functional_call(model, values, (x,)).sum()
    )(dict(model.named_parameters())),
}


@pytest.mark.parametrize("name", SLOPES)
def test_functional_derivatives(name):
    """Where nothing is adjusted they work; else they are refused in words that fit."""
    model, x = iga_torch.IGA(mlp()), points(6, 2)
    with pytest.raises(RuntimeError, match=r"call: expected none inside a transform of torch.func"):
        SLOPES[name](model, x)
    with model.plain():
        plain = SLOPES[name](model, x)
    found = SLOPES[name](model.eval(), x)
    if name not in ("parameters", "ensemble"):
        want = SLOPES[name](model.network, x).detach()
        close(found.detach(), want, 1e-15)
        close(plain.detach(), want, 1e-15)


def test_forward_mode():
    from torch.autograd import forward_ad

    model, x = iga_torch.IGA(mlp()), points(6, 2)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match="under forward-mode differentiation"):
            model(dual)
        assert forward_ad.unpack_dual(model.eval()(dual)).tangent is not None


class TestFastWeights:
    """Parameters of the call that are not the network's any more when its gradient comes back."""

    def test_gradients_are_of_these(self):
        network = steep()
        model, x = iga_torch.IGA(network, None, CENTRE, groups=6), points(60, 2)
        values = {name: 0.9 * value for name, value in model.named_parameters()}
        found = torch.func.functional_call(model, values, (x,))
        got = torch.autograd.grad(found.square().mean(), list(values.values()))
        assert model.kernel_report().explicit == ()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter *= 0.9
        want = dense_gradient(network, x, found)
        close(torch.cat([g.reshape(-1) for g in got]), want, 1e-10)

    def test_steps_of_an_inner_loop_are_one_form(self):
        """Checks are made once, and nothing is kept of weights that are gone."""
        network, calls = mlp(), []
        model, x = iga_torch.IGA(network, None, CENTRE, groups=6), points(60, 2)
        network.register_forward_hook(lambda *_: calls.append(1))
        values = {name: value.clone() for name, value in model.named_parameters()}
        counts = []
        for _ in range(4):
            calls.clear()
            found = torch.func.functional_call(model, values, (x,))
            slopes = torch.autograd.grad(found.square().mean(), list(values.values()))
            values = {n: v - 0.01 * g for (n, v), g in zip(values.items(), slopes, strict=True)}
            counts.append(len(calls))
        assert counts[1:] == [2, 2, 2]

    @pytest.mark.slow
    def test_a_loop_of_first_order(self):
        """As in MAML: two steps on each task's points, and a step along the gradients behind them.

        The oracle takes the steps with a network of its own, by what `Dense` says of it.
        """
        network, rate = steep(), 0.02
        model = iga_torch.IGA(network, None, CENTRE, groups=6)
        tasks = [[points(60, 2, seed=3 * task + k) for k in range(3)] for task in range(2)]
        got, want = 0, 0
        for inner, again, query in tasks:
            values, alone = dict(model.named_parameters()), steep()
            for x in (inner, again, query):
                found = torch.func.functional_call(model, values, (x,))
                slopes = torch.autograd.grad(found.square().mean(), list(values.values()))
                values = {n: v - rate * g for (n, v), g in zip(values.items(), slopes, strict=True)}
                flat = dense_gradient(alone, x, alone(x))
                moved = nn.utils.parameters_to_vector(alone.parameters()) - rate * flat
                nn.utils.vector_to_parameters(moved.detach(), alone.parameters())
            got = got + torch.cat([g.reshape(-1) for g in slopes])
            want = want + flat
        close(got, want, 1e-9)
        assert all(p.grad is None for p in network.parameters())

    def test_values_by_the_names_of_the_bare_network(self):
        network, x = mlp(), points(60, 2)
        model = iga_torch.IGA(network, None, CENTRE, groups=6)
        values = {name: 0.9 * value for name, value in network.named_parameters()}
        found = torch.func.functional_call(model, values, (x,))
        torch.autograd.grad(found.sum(), list(values.values()))
        assert model.transform is not None
        assert torch.equal(found, torch.func.functional_call(network, values, (x,)))

    def test_the_second_order_is_refused(self):
        model = iga_torch.IGA(mlp(), groups=4)
        values = {name: value.clone() for name, value in model.named_parameters()}
        loss = torch.func.functional_call(model, values, (points(20, 2),)).square().mean()
        with pytest.raises(
            RuntimeError, match="got create_graph=True; leave it out for the steps of"
        ):
            torch.autograd.grad(loss, list(values.values()), create_graph=True)


def test_a_frozen_network_under_a_transform_is_called_as_it_is():
    model, x = iga_torch.IGA(mlp()), points(6, 2)
    model.requires_grad_(False)
    close(torch.func.vmap(model)(x), model.network(x), 1e-15)


class TestArguments:
    def test_whole_numbers_that_index_a_table(self):
        """As in DINER: there are no coordinates but positions."""
        table = nn.Parameter(points(60, 2))

        def looked_up(net, places):
            return net(table[places])

        network = Bound(steep(), looked_up)
        network.table = table
        places = torch.randperm(60, generator=torch.Generator().manual_seed(0))
        got, found = adjusted_gradient(network, places)
        close(got, dense_gradient(network, places, found, places[:, None]), 1e-10)

    def test_coordinates_that_the_network_scales_in_place(self):
        def scaled(net, x):
            x *= 3
            return net(x)

        inner, x = steep(), points(60, 2)
        network = Bound(inner, scaled)
        model = iga_torch.IGA(network, None, CENTRE, groups=6)
        for _ in range(2):
            clear(network)
            found = model(x.clone())
            found.square().mean().backward()
            want = dense_gradient(Bound(inner, lambda net, x: net(x * 3)), x, found)
            close(gradient(network), want, 1e-10)

    def test_a_network_that_begins_to_change_its_arguments_says_so(self):
        def later(net, x, change):
            return net(x.mul_(3) if change else x)

        model = iga_torch.IGA(Bound(mlp(), later), groups=4)
        model(points(20, 2), False).sum().backward()
        with pytest.warns(UserWarning, match="coords: expected a network that leaves its arg"):
            found = model(points(20, 2), True)
        found.sum().backward()  # without a second warning
        model(points(20, 2), True).sum().backward()

    def test_coordinates_made_under_inference_mode(self):
        with torch.inference_mode():
            x = points(60, 2)
        network = Bound(mlp(), lambda net, x: net(torch.sin(3 * x)))
        got, found = adjusted_gradient(network, x)
        close(got, dense_gradient(network, x.clone(), found), 1e-8)

    @pytest.mark.parametrize("samples", [3, 4])
    def test_as_many_samples_of_a_ray_as_colours(self, samples):
        def rendered(net, x):
            found = net(x)
            return (torch.sigmoid(found[..., :1]) * found[..., 1:]).sum(dim=-2)

        network, x = Bound(mlp(3, 4), rendered), points(60, samples, 3)
        got, found = adjusted_gradient(network, x)
        close(got, dense_gradient(network, x, found, x.mean(dim=1)), 1e-8)

    def test_as_many_points_as_others_have_samples(self):
        """Of the same shapes as a ray's colours, but a number for each point."""
        inner, x = steep(), points(20, 3, 2)
        network = Bound(inner, lambda net, x: net(x)[..., 0])
        got, found = adjusted_gradient(network, x)
        flat = Bound(inner, lambda net, x: net(x)[..., :1])
        close(got, dense_gradient(flat, x.reshape(60, 2), found.reshape(60)), 1e-10)


def test_a_dataclass_is_given_back_as_it_was():
    """With what is no field, and without keeping anything alive."""

    @dataclasses.dataclass
    class Samples:
        positions: torch.Tensor
        weights: torch.Tensor | None = None

        def __post_init__(self):
            self.made = True

    seen = []

    def noting(net, samples):
        seen.append((type(samples), samples.made))
        return {"out": Samples(net(samples.positions))}

    model = iga_torch.IGA(Bound(mlp(), noting), groups=4, output="positions")
    x = points(20, 2)
    found = model(Samples(x))["out"]
    assert found.made
    assert found.weights is None
    found.positions.sum().backward()
    assert set(seen) == {(Samples, True)}
    held = weakref.ref(x)
    del x, found
    assert held() is None


class TestAttributes:
    """What is set on the model is the network's, as what is read is."""

    def test_of_the_network(self):
        network = Bound(mlp(), lambda net, x: net(x))
        network.progress = 0.0
        model = iga_torch.IGA(network)
        model.progress, model.network_note = 0.5, "here"
        assert network.progress == 0.5
        assert not hasattr(network, "network_note")

    def test_new_parameters_are_saved(self):
        network = mlp()
        model = iga_torch.IGA(network)
        model.codes = nn.Parameter(torch.zeros(3))
        assert "codes" in model.state_dict()
        assert model.codes is network.codes

    def test_of_the_wrapper(self):
        network = mlp()
        network.training_note, network._points = 1, "theirs"
        model = iga_torch.IGA(network)
        model(points(20, 2)).sum().backward()
        model.eval()
        assert network._points == "theirs"
        assert not model.training


def test_no_hook_for_optimizers_outlives_its_model():
    from torch.optim import optimizer

    gc.collect()
    before = len(optimizer._global_optimizer_pre_hooks)
    for _ in range(3):
        model = iga_torch.IGA(mlp())
        model(points(20, 2)).sum().backward()
    del model
    gc.collect()
    assert len(optimizer._global_optimizer_pre_hooks) == before


def weight_decay_in_the_loss(model, x, _):
    penalty = sum(p.square().sum() for p in model.parameters())
    (model(x).square().mean() + penalty).backward()


def a_penalty_on_another_network(model, x, other):
    fake = model(x).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(other(fake).sum(), fake, create_graph=True)
    ((slope.norm(dim=1) - 1) ** 2).mean().backward()
    other(model(x)).mean().backward()


def validation(model, x, _):
    model(x).square().mean().backward()
    model.eval()
    x = x.clone().requires_grad_(True)
    torch.autograd.grad(model(x).sum(), x)
    model.train()


def a_plain_part(model, x, _):
    with model.plain():
        regulariser = model(x).mean()
    (model(x).square().mean() + regulariser).backward()


def checkpointed(model, x, _):
    from torch.utils.checkpoint import checkpoint

    x = x.clone().requires_grad_(True)
    for reentrant in (False, True):
        checkpoint(model, x, use_reentrant=reentrant).square().mean().backward()


QUIET = [weight_decay_in_the_loss, a_penalty_on_another_network, validation, a_plain_part,
         checkpointed]  # fmt: skip


@pytest.mark.parametrize("loop", QUIET)
def test_nothing_is_said_where_nothing_is_wrong(loop):
    model, other = iga_torch.IGA(mlp(2, 2), groups=4), mlp(2, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(2):
            loop(model, points(20, 2, seed=seed), other)
