"""What a network is to a kernel: left as it was, drawn from as it draws, judged by derivatives."""

import copy

import numpy as np
import pytest

from iga_core import Adjustment, Grouping
from tests.support.oracle import close

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import iga_torch  # noqa: E402
from iga_torch import explicit  # noqa: E402
from tests.support.torch_networks import NETWORKS, dense_kernel, jacobian, make, mlp  # noqa: E402


def explicit_in(network):
    return {row.name for row in iga_torch.kernel_report(network).explicit}


def tensors_of(module):
    return {name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor)}


def slots(network):
    """Every tensor of every module, by place: the objects, their numbers and hooks."""
    return {
        (path, name): (t, t.detach().clone(), dict(t._backward_hooks or {}))
        for path, module in network.named_modules(remove_duplicate=False)
        for held in (module._parameters, module._buffers, tensors_of(module))
        for name, t in held.items()
        if t is not None
    }


def unchanged(before, after):
    assert before.keys() == after.keys()
    for key, (tensor, values, hooks) in before.items():
        assert after[key][0] is tensor, key
        assert torch.equal(after[key][1], values), key
        assert after[key][2] == hooks, key


def hooks_of(network):
    return [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in network.modules()]


def hooked(network, calls):
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda g: calls.append(1) or g)


@pytest.mark.parametrize("room", [1, 2**27])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_never_changed(name, room, monkeypatch):
    monkeypatch.setattr(explicit, "ROW_BYTES", room)
    network, calls = make(name), []
    hooked(network, calls)
    before, forward_hooks = slots(network), hooks_of(network)
    x = torch.randn(5, 2).double()
    held = x.clone()
    iga_torch.empirical_ntk(network, x)
    unchanged(before, slots(network))
    assert torch.equal(x, held)
    assert not x.requires_grad
    assert not calls
    assert hooks_of(network) == forward_hooks
    copy.deepcopy(network)


@pytest.mark.parametrize("fails_at", [0, 1, 2, 3, 4])
def test_an_exception_anywhere_leaves_nothing_behind(fails_at):
    class Fragile(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.PReLU()
            self.inner = nn.Sequential(nn.Linear(2, 4), self.act, nn.Linear(4, 3), self.act)
            self.register_buffer("seen", torch.zeros(()))
            self.calls, self.step = [], 0

        def forward(self, x):
            self.seen += 1
            self.seen = self.seen + 1  # another tensor in its place
            self.step += 1
            self.calls.append(1)
            if len(self.calls) > fails_at:
                raise KeyboardInterrupt
            return self.inner(x + torch.rand(2))

    network, calls = Fragile(), []
    hooked(network, calls)
    before, state = slots(network), torch.get_rng_state()
    # One evaluation of all samples, three of one for a check, and one for the rows.
    with pytest.raises(KeyboardInterrupt):
        iga_torch.empirical_ntk(network, torch.randn(5, 2, generator=torch.Generator()))
    unchanged(before, slots(network))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.overrides._get_current_function_mode_stack()
    assert torch.is_grad_enabled()
    assert network.step == 0


class Noisy(nn.Module):
    """Coordinates that are moved at random, and noise on what is in between."""

    def __init__(self, kind=nn.Tanh, generator=None):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(2, 6), kind(), nn.Linear(6, 3)
        self.generator = generator

    def forward(self, x):
        x = x + 0.1 * torch.rand(x.shape, dtype=x.dtype, generator=self.generator)
        h = self.first(x)
        return self.last(self.act(h + 0.1 * torch.randn_like(h)))


def test_a_random_network_has_the_kernel_of_its_next_draw():
    network, x = Noisy().double(), torch.randn(7, 2).double()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    got = iga_torch.empirical_ntk(network, x)
    assert torch.equal(torch.get_rng_state(), state)
    outputs = network(x).sum(dim=1)  # one draw for all samples
    rows = [torch.autograd.grad(f, list(network.parameters()), retain_graph=True) for f in outputs]
    J = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    close(got, J @ J.T / 3, 1e-12)
    assert not explicit_in(network)


@pytest.mark.slow
@pytest.mark.parametrize("room", [1, 2**27])
def test_random_networks_with_explicit_rows(room, monkeypatch):
    monkeypatch.setattr(explicit, "ROW_BYTES", room)
    network, x = Noisy(nn.PReLU).double(), torch.randn(7, 2).double()
    kernels = []
    for seed in range(300):
        torch.manual_seed(seed)
        kernels.append(iga_torch.empirical_ntk(network, x))
    assert explicit_in(network) == {"act.weight"}
    assert bool((torch.linalg.eigvalsh(kernels[0]) > -1e-12).all())
    wanted = torch.zeros(7, 7).double()
    for _ in range(300):
        J = torch.cat([jacobian(network, x[i : i + 1]) for i in range(7)])
        wanted += dense_kernel(J, J, "sum") / 300
    close(torch.stack(kernels).mean(dim=0), wanted, 0.05)


@pytest.mark.parametrize("own", [False, True])
def test_adjusted_and_plain_runs_of_a_random_network_see_equal_draws(own):
    x = torch.randn(64, 2).double()
    draws = []
    for adjust in (False, True):
        generator = torch.Generator().manual_seed(5) if own else None
        torch.manual_seed(0)
        network = Noisy(generator=generator).double()
        model = iga_torch.IGA(network, Grouping.blocks(64, 8), Adjustment(refresh=1))
        seen = []
        for _ in range(3):
            found = model(x) if adjust else network(x)
            seen.append(found.detach())
            found.square().mean().backward()
        assert (model.transform is not None) == adjust
        draws.append(torch.stack(seen))
    close(draws[0], draws[1], 0)


class Mixing(nn.Module):
    def __init__(self, mix):
        super().__init__()
        self.inner, self.mix = nn.Linear(2, 3), mix

    def forward(self, x):
        return self.mix(self.inner, x)


MIXED = {
    "mean of outputs": lambda inner, x: inner(x) - inner(x).mean(dim=0),
    "mean of inputs": lambda inner, x: inner(x - 1e-3 * x.mean(dim=0)),
    "neighbour": lambda inner, x: inner(x) + 0.01 * inner(x).roll(1, 0),
    "random and mixed": lambda inner, x: inner(x + torch.rand_like(x)) + inner(x).mean(dim=0),
    "one for all": lambda inner, x: inner(x) + inner(x[2:3]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mix", MIXED.values(), ids=MIXED)
def test_mixing_is_judged_by_derivatives(mix, dtype):
    network, x = Mixing(mix).to(dtype), torch.randn(9, 2, dtype=dtype)
    with pytest.raises(ValueError, match="depend on that sample alone, got a derivative by other"):
        iga_torch.empirical_ntk(network, x)


def test_mixing_of_whole_numbers_is_judged_by_outputs():
    class Codes(nn.Module):
        def __init__(self, mixing):
            super().__init__()
            self.table, self.mixing = nn.Embedding(9, 3), mixing

        def forward(self, x):
            found = self.table(x[:, 0])
            return found - found.mean(dim=0) if self.mixing else found

    x = torch.arange(9)[:, None].repeat(1, 2)
    network = Codes(False).double()
    close(iga_torch.empirical_ntk(network, x), torch.eye(9).double(), 1e-14)
    with pytest.raises(ValueError, match=r"differs by .* among other samples"):
        iga_torch.empirical_ntk(Codes(True), x)


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(30 * x)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_steep_network_in_single_precision_has_factors(seed):
    """Rounding grows from layer to layer here, in every evaluation differently."""
    torch.manual_seed(seed)
    layers = [m for _ in range(3) for m in (nn.Linear(256, 256), Sine())]
    network = nn.Sequential(nn.Linear(2, 256), Sine(), *layers, nn.Linear(256, 3))
    iga_torch.empirical_ntk(network, torch.rand(64, 2) * 2 - 1)
    assert not explicit_in(network)


def test_a_steep_network_in_single_precision_batches_its_explicit_rows():
    torch.manual_seed(0)
    layers = [m for _ in range(3) for m in (nn.Linear(256, 256), Sine())]
    network = nn.Sequential(nn.Linear(2, 256), nn.PReLU(), Sine(), *layers, nn.Linear(256, 3))
    iga_torch.empirical_ntk(network, torch.rand(64, 2) * 2 - 1)
    assert explicit_in(network) == {"1.weight"}
    assert not iga_torch.kernel._KNOWN[network]._rows._one_by_one


class Counting(nn.Module):
    def __init__(self, act):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 8), act, nn.Linear(8, 3))
        self.seen, self.step = [], 0

    def forward(self, x):
        self.step += 1
        # Under vmap a sample has no axis of samples.
        self.seen.append(1 if x.ndim == 1 else len(x))
        return self.inner(x)


@pytest.mark.parametrize("outputs", ["sum", "trace"])
@pytest.mark.parametrize(("act", "first", "then"), [(nn.Tanh(), 1, 1), (nn.PReLU(), 5, 2)])
def test_evaluations_of_a_network_are_few(act, first, then, outputs):
    network, x = Counting(act), torch.randn(16, 2)
    counts = []
    for _ in range(3):
        network.seen.clear()
        iga_torch.empirical_ntk(network, x, outputs=outputs)
        counts.append(len(network.seen))
    assert counts == [first, then, then]
    assert network.step == 0  # a schedule is the caller's


@pytest.mark.parametrize("room", [2**k for k in (27, 14, 10, 0)])
def test_every_explicit_row_is_computed_once(room, monkeypatch):
    monkeypatch.setattr(explicit, "ROW_BYTES", room)
    network = Counting(nn.PReLU()).double()
    x = torch.randn(64, 2).double()
    first = iga_torch.empirical_ntk(network, x)
    J = jacobian(network, x)
    close(first, dense_kernel(J, J, "sum"), 1e-12)
    network.seen.clear()
    iga_torch.empirical_ntk(network, x)
    # 64 for the factors; the rows are one evaluation, batched or through one graph.
    assert sum(network.seen) in (65, 128)


def test_what_cannot_be_differentiated_twice_goes_in_blocks(monkeypatch):
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # noqa: ARG004
            return 2 * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):  # noqa: ARG004
            return 2 * g

    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(2, 4), nn.PReLU(), nn.Linear(4, 3))

        def forward(self, x):
            return Once.apply(self.inner(x))

    monkeypatch.setattr(explicit, "ROW_BYTES", 40)
    network, x, x2 = Doubled().double(), torch.randn(7, 2).double(), torch.randn(4, 2).double()
    left, right = jacobian(network, x), jacobian(network, x2)
    for outputs in ("sum", "trace", "full"):
        got = iga_torch.empirical_ntk(network, x, outputs=outputs)
        close(got, dense_kernel(left, left, outputs), 1e-12)
        got = iga_torch.empirical_ntk(network, x, x2, outputs=outputs)
        close(got, dense_kernel(left, right, outputs), 1e-12)


@pytest.mark.filterwarnings("ignore:loss. expected one that most outputs have a part in")
def test_a_mask_that_keeps_no_sampled_point():
    network = make("nothing inside")
    assert not iga_torch.empirical_ntk(network, torch.rand(5, 2).double()).any()
    model = iga_torch.IGA(network, Grouping.blocks(64, 8), Adjustment(refresh=1))
    x = torch.rand(64, 2).double() * 2 - 1
    for size, moves in ((0.0, False), (0.6, True), (0.0, False)):
        network.size = size
        network.zero_grad()
        model(x).square().sum().backward()
        assert any(bool(p.grad.any()) for p in network.parameters()) == moves
        S = model.transform.matrix()
        assert bool(torch.isfinite(S).all())
        if not moves and size == 0 and model.adjustment.average == 0:
            close(S, torch.eye(8), 0)


def test_masked_points_have_factors_whichever_they_are():
    network = make("masked")
    for seed in range(5):
        torch.manual_seed(seed)
        x = torch.randn(9, 2).double()
        J = jacobian(network, x)
        close(iga_torch.empirical_ntk(network, x), dense_kernel(J, J, "sum"), 1e-12)
        assert not explicit_in(network)


def test_a_mask_of_as_many_rows_that_moves():
    """Every second point of two samples, then the points of one: equal shapes, other owners."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 3)

        def forward(self, x):
            out = torch.zeros(*x.shape[:-1], 3, dtype=x.dtype)
            inside = x[..., 0] > 0
            out[inside] = torch.tanh(self.inner(x[inside]))
            return out

    network = Two().double()
    for signs in ([[1, -1], [1, -1]], [[1, 1], [-1, -1]]):
        x = torch.rand(2, 2, 2).double()
        x[..., 0] *= torch.tensor(signs)
        J = jacobian(network, x)
        close(iga_torch.empirical_ntk(network, x), dense_kernel(J, J, "sum"), 1e-12)


@pytest.mark.parametrize(
    ("network", "x", "message"),
    [
        (mlp(), torch.rand(4, 2).double(), r"expected torch.float32 as the network has, got torch.float64; convert"),
        (mlp().double(), torch.rand(4, 2), r"expected torch.float64 as the network has, got torch.float32; convert"),
    ],
)  # fmt: skip
def test_coordinates_of_another_dtype(network, x, message):
    with pytest.raises(TypeError, match=message):
        iga_torch.empirical_ntk(network, x)


def test_a_network_that_converts_its_coordinates():
    class Converting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()

        def forward(self, x):
            return self.inner(x.float())

    network, x = Converting(), torch.rand(5, 2).double()
    J = jacobian(network, x)
    close(iga_torch.empirical_ntk(network, x), dense_kernel(J, J, "sum"), 1e-5)


def test_inference_mode():
    network = make("mlp")
    x = torch.rand(5, 2).double()
    want = iga_torch.empirical_ntk(network, x)
    with torch.inference_mode():
        close(iga_torch.empirical_ntk(network, x), want, 1e-14)
        close(iga_torch.empirical_ntk(network, x.clone()), want, 1e-14)
        made_inside = mlp()
    with pytest.raises(ValueError, match=r"made under torch.inference_mode; build or load"):
        iga_torch.empirical_ntk(made_inside, x.float())


def test_the_report():
    network = make("weight norm")
    assert str(iga_torch.kernel_report(network)) == "no kernel was made yet"
    iga_torch.empirical_ntk(network, torch.rand(5, 2).double())
    report = iga_torch.kernel_report(network)
    rows = {row.name: row for row in report.parameters}
    assert rows.keys() == dict(network.named_parameters()).keys()
    assert rows["4.weight"].how == "factors"
    assert rows["4.weight"].why == ""
    weighed = rows["2.weight_orig"]  # of a spectral norm
    assert (weighed.shape, weighed.how) == ((6, 6), "explicit rows")
    assert "read by" in weighed.why
    assert "explicit rows  read by" in str(report)
    assert not iga_torch.IGA(network, "rows").kernel_report().parameters


def test_the_report_of_a_share_that_differs():
    class Doubled(torch.autograd.Function):
        """What no one sees is done with the weight."""

        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x)
            return x @ w.T

        @staticmethod
        def backward(ctx, g):
            return None, g.T @ ctx.saved_tensors[0]

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 3)

        def forward(self, x):
            return self.inner(x) + Doubled.apply(x.detach(), self.inner.weight)

    network, x = Hidden().double(), torch.rand(5, 2).double()
    J = jacobian(network, x)
    close(iga_torch.empirical_ntk(network, x), dense_kernel(J, J, "sum"), 1e-12)
    (row,) = iga_torch.kernel_report(network).explicit
    assert row.name == "inner.weight"
    assert row.why == "its share of the factors differs from autograd's gradient"


def test_guarded_normals_work_like_the_others():
    x = torch.rand(64, 2).double()
    found = []
    for name in ("normals", "guarded normals"):
        network = make(name)
        model = iga_torch.IGA(network, Grouping.blocks(64, 8), Adjustment.paper(end=4))
        for _ in range(2):
            network.zero_grad()
            model(x.clone()).square().sum().backward()
        found.append(np.concatenate([p.grad.numpy().ravel() for p in network.parameters()]))
    close(found[0], found[1], 0)
