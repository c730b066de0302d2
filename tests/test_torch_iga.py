"""`iga_torch.IGA`: its gradients against ``Jᵀ (S ⊗ I) g``, formed densely."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from oracle import close, dense_transform
from torch import nn
from torch_networks import NETWORKS, dense_kernel, jacobian, make

import iga_torch
from iga_core import Adjustment, Grouping, representatives
from iga_torch import wrapper

GROUPING = Grouping.patches((11, 13), 3)  # 12 groups of 9 points, and 35 in none
SMALL = Grouping.patches((7, 9), 2)  # 12 groups of 4 points, and 15 in none
SETTINGS = {
    "paper": {"end": 5},
    "group-wise": {"end": 5, "sampling": "random", "samples": 4, "reach": "mean"},
    "trace": {"end": 6, "start": 1, "outputs": "trace", "level": "start", "sampling": "centre"},
    "several largest": {"end": 4, "samples": 3, "reach": "mean"},
}


def gradient(network):
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


def data(points=GROUPING.count, seed=0, channels=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(points, 2, generator=generator, dtype=torch.float64) * 2 - 1
    return x, torch.rand(points, channels, generator=generator, dtype=torch.float64)


def dense_gradient(network, x, cotangent, grouping, settings, step=0, chosen=None):
    """The definition, by explicit Jacobians; groups (n, p, ...) in, if there is no grouping."""
    adjustment = Adjustment(**settings)
    if grouping is not None:
        (groups, rest), (points, others) = grouping.split(cotangent), grouping.split(x)
        centre = grouping.centre
    else:
        groups, points = cotangent, x
        rest, others = cotangent.new_zeros(0, cotangent.shape[-1]), x.new_zeros(0, x.shape[-1])
        centre = (x.shape[1] - 1) // 2
    n, p, channels = groups.shape
    if chosen is None:
        where = representatives(
            groups, adjustment.sampling, adjustment.samples, centre=centre,
            seed=[adjustment.seed, step],
        )  # fmt: skip
        chosen = points[torch.arange(n)[:, None], where]
    at = torch.stack([jacobian(network, row).mean(dim=0) for row in chosen])
    K = dense_kernel(at, at, adjustment.outputs)
    S = torch.from_numpy(
        dense_transform(K.numpy(), adjustment.start, adjustment.end, adjustment.level)
    )
    if adjustment.reach == "points":
        adjusted = torch.einsum("ij,jpc->ipc", S, groups)
    else:
        shift = (S - torch.eye(n, dtype=S.dtype)) @ groups.mean(dim=1)
        adjusted = groups + shift[:, None]
    J = jacobian(network, torch.cat([points.reshape(n * p, -1), others]))
    return torch.einsum("ncq,nc->q", J, torch.cat([adjusted.reshape(n * p, channels), rest]))


@pytest.mark.parametrize("form", ["flat", "row", "groups"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_adjusted_gradient(settings, form):
    network = make("residual")
    x, y = data(SMALL.count)
    grouping = SMALL
    if form == "groups":
        (x, _), (y, _), grouping = SMALL.split(x), SMALL.split(y), None
    elif form == "row":
        x, y = x[None], y[None]
    model = iga_torch.IGA(network, grouping, **settings)
    for step in range(2):
        clear(network)
        prediction = model(x)
        close(prediction.detach(), network(x).detach(), 0)
        (prediction - y).abs().pow(3).mean().backward()
        difference = (prediction - y).detach()
        cotangent = 3 * difference * difference.abs() / y.numel()
        flat = (x[0], cotangent[0]) if form == "row" else (x, cotangent)
        want = dense_gradient(network, *flat, grouping, settings, step)
        close(gradient(network), want, 1e-11)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.01 * parameter.grad
    assert model._tangents._explicit == set()
    assert not model._tangents._rows._one_by_one
    assert model.eigenvalues.shape == (settings["end"] + 1,)
    assert model.transform.matrix().shape == (12, 12)


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("one output",)])
def test_any_network(name):
    network = make(name)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x, y = data(SMALL.count, channels=4 if name == "tied" else 3)
    model = iga_torch.IGA(network, SMALL, end=5, sampling="centre")
    if name == "weight norm":
        network.eval()  # the spectral norm moves at every evaluation in training mode
        model.training = True
    want = dense_gradient(
        network, x, 2 * (network(x) - y).detach() / y.numel(), SMALL,
        {"end": 5, "sampling": "centre"},
    )  # fmt: skip
    (model(x) - y).square().mean().backward()
    close(gradient(network), want, 1e-9)


def test_pieces_share_one_transform_and_add_up():
    network = make("mlp").eval()
    x, y = (part for part, _ in map(GROUPING.split, data()))
    whole = iga_torch.IGA(network, end=5)
    whole.train(), network.eval()
    pieces = iga_torch.IGA(network, end=5)
    network.eval()
    worst = (network(x) - y).detach().abs().sum(-1).argmax(dim=1)
    (whole(x) - y).square().sum().backward()
    want = gradient(network)
    # The first pass can only take its representatives from its first piece, the second from all.
    for round_ in range(2):
        clear(network)
        with torch.no_grad():
            network[0].bias.mul_(1)  # another version, the same values
        made = []
        for part in (slice(0, 4), slice(4, 5), slice(5, 9)):
            (pieces(x[:, part]) - y[:, part]).square().sum().backward()
            made.append(pieces.transform)
        assert made[0] is made[1] is made[2]
        if round_ == 0:
            S = whole.transform.matrix()
            assert not torch.allclose(made[0].matrix(), S) or (worst < 4).all()
    assert torch.equal(worst < 4, torch.zeros(12, dtype=torch.bool)) is False
    close(made[0].matrix(), whole.transform.matrix(), 1e-9)
    close(gradient(network), want, 1e-9)
    # Other groups, as many: their own representatives.
    clear(network)
    with torch.no_grad():
        network[0].bias.mul_(1)
    other = torch.rand_like(x) * 2 - 1
    (pieces(other[:, :4]) - y[:, :4]).square().sum().backward()
    cotangent = 2 * (network(other[:, :4]) - y[:, :4]).detach()
    close(
        gradient(network), dense_gradient(network, other[:, :4], cotangent, None, {"end": 5}), 1e-9
    )


@pytest.mark.parametrize("sampling", ["random", "centre"])
def test_pieces_of_other_rules_choose_among_all_columns(sampling):
    network = make("mlp").eval()
    x, y = (part for part, _ in map(GROUPING.split, data()))
    samples = 2 if sampling == "random" else 1
    model = iga_torch.IGA(network, end=5, sampling=sampling, samples=samples)
    network.eval()
    seen = set()
    for _ in range(30):
        for part in (slice(0, 2), slice(2, 3), slice(3, 9)):
            (model(x[:, part]) - y[:, part]).square().sum().backward()
        with torch.no_grad():
            network[0].bias.mul_(1)
        chosen = model._pass.candidates.tensors[0]
        assert chosen.shape == (12, samples, 2)
        where = (chosen[:, :, None] == x[:, None]).all(-1).double().argmax(dim=-1)
        assert samples == 1 or (where[:, 0] != where[:, 1]).all()
        seen = {4} if seen == {0} else seen  # the first pass did not know how many there are
        seen |= set(where.reshape(-1).tolist())
    assert seen == (set(range(9)) if sampling == "random" else {4})


def test_the_random_choice_is_even_over_pieces():
    network = nn.Linear(2, 1)
    x = torch.rand(400, 6, 2)
    x[..., 0] = torch.arange(6)
    model = iga_torch.IGA(network, end=1, sampling="random", samples=2)
    counts = torch.zeros(6)
    for _ in range(20):
        for part in (slice(0, 3), slice(3, 4), slice(4, 6)):
            model(x[:, part]).square().sum().backward()
        with torch.no_grad():
            network.bias.mul_(1)
        counts += model._pass.candidates.tensors[0][..., 0].long().reshape(-1).bincount(minlength=6)
    assert (counts / counts.sum() - 1 / 6).abs().max() < 0.01


def test_batches_of_groups_of_other_sizes():
    network = make("residual")
    x, y = (part for part, _ in map(GROUPING.split, data()))
    model = iga_torch.IGA(network, end=4)
    for n in (12, 7, 12):
        clear(network)
        (model(x[:n]) - y[:n]).square().sum().backward()
        cotangent = 2 * (network(x[:n]) - y[:n]).detach()
        want = dense_gradient(network, x[:n], cotangent, None, {"end": 4})
        close(gradient(network), want, 1e-10)
    clear(network)
    with pytest.warns(
        UserWarning, match="end: expected less than the 3 groups, got 4; it is taken"
    ):
        (model(x[:3]) - y[:3]).square().sum().backward()
    cotangent = 2 * (network(x[:3]) - y[:3]).detach()
    close(gradient(network), dense_gradient(network, x[:3], cotangent, None, {"end": 2}), 1e-10)
    clear(network)
    (model(x[:1]) - y[:1]).square().sum().backward()  # no second warning; nothing to equalise
    plain = gradient(network)
    clear(network)
    (network(x[:1]) - y[:1]).square().sum().backward()
    close(plain, gradient(network), 0)


def test_further_arguments_are_sampled_along():
    class Directed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x, code, direction=None, gain=1.0):
            code = code.expand(*x.shape[:-1], -1)
            h = torch.cat([x, direction, code[..., :1]], dim=-1)
            return gain * self.last(torch.tanh(self.first(h)))

    class Joined(nn.Module):
        def __init__(self, inner, code):
            super().__init__()
            self.inner, self.code = inner, code

        def forward(self, x):
            return self.inner(x[..., :2], self.code, direction=x[..., 2:], gain=2.0)

    torch.manual_seed(0)
    inner, code = Directed().double(), torch.randn(1, 3).double()
    x, y = data()
    direction = torch.randn_like(x)
    model = iga_torch.IGA(inner, GROUPING, end=5)
    (model(x, code, direction=direction, gain=2.0) - y).square().sum().backward()
    joined = Joined(inner, code)
    both = torch.cat([x, direction], dim=1)
    cotangent = 2 * (joined(both) - y).detach()
    close(gradient(inner), dense_gradient(joined, both, cotangent, GROUPING, {"end": 5}), 1e-10)


def test_refresh_counts_versions():
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, end=5, refresh=3)
    made = []
    for _ in range(7):
        for _ in range(2):
            (model(x) - y).square().mean().backward()
        made.append(model.transform)
        with torch.no_grad():
            network.last.bias += 0.1
    new = [k for k in range(7) if k == 0 or made[k] is not made[k - 1]]
    assert new == [0, 3, 6]


def test_where_it_does_nothing():
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, end=5)
    (network(x) - y).square().mean().backward()
    plain = gradient(network)

    def plainly(predict):
        clear(network)
        (predict(x) - y).square().mean().backward()
        close(gradient(network), plain, 0)
        assert model.transform is None

    model.eval()
    plainly(model)
    model.train()
    with model.plain():
        plainly(model)
    with model.plain(), model.plain():
        pass
    with torch.no_grad():
        assert not model(x).requires_grad
    clear(network)
    loss = (model(x) - y).square().mean()
    with model.plain():
        loss.backward()  # made outside, taken inside
    close(gradient(network), plain, 0)
    assert model.transform is None
    (model(x) - y).square().mean().backward()
    assert model.transform is not None


def test_gradients_of_coordinates_alone_are_the_networks():
    network = make("residual")
    x, _ = data()
    x.requires_grad_()
    model = iga_torch.IGA(network, GROUPING, end=5)
    (got,) = torch.autograd.grad(model(x).sum(), x)
    (want,) = torch.autograd.grad(network(x).sum(), x)
    close(got, want, 1e-14)
    assert model.transform is None


def test_an_eikonal_loss():
    network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x, _ = data()
    x.requires_grad_()
    model = iga_torch.IGA(network, GROUPING, end=5)

    def eikonal(found):
        (slope,) = torch.autograd.grad(found.sum(), x, create_graph=True)
        return (slope.norm(dim=-1) - 1).square().mean()

    def data_term(found):
        return (found[:, 0] - 0.3 * x[:, 1]).abs().mean()

    with model.plain():
        inside = eikonal(model(x))
    (inside + data_term(model(x))).backward()
    both = gradient(network)
    clear(network)
    eikonal(network(x)).backward()
    derivative_part = gradient(network)
    clear(network)
    data_term(model(x)).backward()
    close(both, derivative_part + gradient(network), 1e-12)
    found = model(x)
    with pytest.raises(RuntimeError, match=r"with model.plain\(\)"):
        eikonal(found)
    with model.plain():
        eikonal(found).backward()


def test_state_is_the_networks():
    network = make("residual")
    model = iga_torch.IGA(network, GROUPING, end=5)
    state = model.state_dict()
    assert list(state) == list(network.state_dict())
    other = make("residual", seed=1)
    other.load_state_dict(state)
    wrapped = iga_torch.IGA(make("residual", seed=2), GROUPING, end=5)
    wrapped.load_state_dict(state)
    larger = nn.Sequential(nn.Flatten(2), iga_torch.IGA(make("residual", seed=3), GROUPING))
    assert "1.first.weight" in larger.state_dict()
    larger.load_state_dict({f"1.{name}": tensor for name, tensor in state.items()})
    for found in (other, wrapped.network, larger[1].network):
        for name, tensor in found.state_dict().items():
            assert torch.equal(tensor, state[name])
    with pytest.raises(RuntimeError, match="Missing key"):
        wrapped.load_state_dict({})


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("how", ["copy", "pickle", "state"])
def test_continuing_elsewhere(how, pieces, tmp_path):
    network = make("residual")
    grouping = None if pieces else GROUPING
    x, y = data()
    if pieces:
        x, y = (part for part, _ in map(GROUPING.split, (x, y)))
    settings = {"end": 5, "refresh": 2, "sampling": "random", "samples": 2}

    def train(model, steps):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
        for _ in range(steps):
            optimizer.zero_grad()
            if pieces:
                for part in (slice(0, 4), slice(4, 9)):
                    (model(x[:, part]) - y[:, part]).square().sum().backward()
            else:
                (model(x) - y).square().sum().backward()
            optimizer.step()
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    model = iga_torch.IGA(network, grouping, **settings)
    train(model, 3)
    if how == "copy":
        other = copy.deepcopy(model)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        torch.save((model.state_dict(), model.adjustment_state()), tmp_path / "state.pt")
        bare, state = torch.load(tmp_path / "state.pt")
        other = iga_torch.IGA(make("residual", seed=9), grouping, **settings)
        other.load_state_dict(bare)
        other.load_adjustment_state(state)
    assert other.network is not network
    want = train(model, 4)
    assert torch.equal(train(other, 4), want)


def test_a_state_of_other_settings():
    network = make("residual")
    model = iga_torch.IGA(network, GROUPING, end=5)
    x, y = data()
    (model(x) - y).square().mean().backward()
    state = model.adjustment_state()
    other = iga_torch.IGA(network, GROUPING, end=3)
    for bad in (
        state,
        {},
        state | {"step": torch.tensor(-1)},
        {"step": 1, "vectors": state["vectors"]},
    ):
        with pytest.raises(ValueError, match="state: expected"):
            other.load_adjustment_state(bad)
        assert other.transform is None
    other = iga_torch.IGA(network, GROUPING, end=5)
    other.load_adjustment_state(state)
    assert torch.equal(other.eigenvalues, model.eigenvalues)


def test_the_settings_are_the_cores():
    model = iga_torch.IGA(make("mlp"), GROUPING, **dataclasses.asdict(Adjustment(end=3, seed=4)))
    assert model.adjustment == Adjustment(end=3, seed=4)
    assert model.grouping is GROUPING
    with pytest.raises(
        TypeError, match=r"samplng: expected a setting of Adjustment.* mean sampling"
    ):
        iga_torch.IGA(make("mlp"), GROUPING, samplng="random")


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 3)

    def forward(self, x):
        return self.inner(x - x.mean(dim=1, keepdim=True))


def test_values_that_no_batch_would_give():
    """A network that mixes the points of a group gives other values for few of them."""

    x, _ = GROUPING.split(data()[0])
    model = iga_torch.IGA(Mixing().double(), end=3)
    with pytest.raises(ValueError, match="depend on that sample alone"):
        model(x).square().sum().backward()
    assert model.transform is None


def test_dropout_keeps_its_noise():
    network = make("mlp")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, end=3)
    torch.manual_seed(1)
    a = model(x)
    torch.manual_seed(1)
    close(a.detach(), network(x).detach(), 0)
    (a - y).square().mean().backward()
    network.eval()
    J = jacobian(network, GROUPING.split(x)[0][:, 0])
    assert model.transform is not None
    assert J.shape[0] == 12


def test_no_one_waits_for_the_wrapper(monkeypatch):
    """The kernel is made once a version, however many losses and backward passes there are."""
    calls = []
    kernel = wrapper.Tangents.kernel
    monkeypatch.setattr(
        wrapper.Tangents, "kernel", lambda *a, **k: calls.append(1) or kernel(*a, **k)
    )
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, end=3)
    found = model(x)
    (found - y).square().mean().backward(retain_graph=True)
    (found - y).abs().mean().backward()
    (model(x) - y).abs().mean().backward()
    assert len(calls) == 1
    assert np.isfinite(gradient(network).numpy()).all()


def test_gradients_asked_for_by_name():
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, end=5)
    (model(x) - y).square().mean().backward()
    want = gradient(network)
    got = torch.autograd.grad((model(x) - y).square().mean(), list(network.parameters()))
    close(torch.cat([g.reshape(-1) for g in got]), want, 1e-14)
    (one,) = torch.autograd.grad((model(x) - y).square().mean(), network.last.weight)
    close(one, network.last.weight.grad, 1e-14)


def test_mixing_is_found_after_a_look_at_the_output():
    x, _ = GROUPING.split(data()[0])
    model = iga_torch.IGA(Mixing().double(), end=3)
    assert model(x).shape == (12, 9, 3)
    with pytest.raises(ValueError, match="depend on that sample alone"):
        model(x).square().sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        found = iga_torch.IGA(Mixing(), end=3)(x.float())
    with pytest.raises(ValueError, match="depend on that sample alone"):
        found.square().sum().backward()


def test_arguments_that_belong_to_a_group_and_codes_with_a_graph():
    class Rays(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.inner = nn.Linear(2, 2), nn.Linear(6, 3)

        def forward(self, x, view, code):
            along = [x, view.expand(-1, x.shape[1], -1), code.expand(*x.shape[:2], -1)]
            return self.inner(torch.tanh(torch.cat(along, dim=-1)))

    network = Rays().double()
    (x, _), (y, _) = map(GROUPING.split, data())
    view = torch.rand(12, 1, 2).double()
    model = iga_torch.IGA(network, end=5)
    code = network.encode(torch.ones(1, 2).double())
    (model(x, view, code) - y).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())

    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.rays = network

        def forward(self, x):
            return network(x[..., :2], x[..., :1, 2:], code.detach())

    got = network.inner.weight.grad.clone()
    network.encode.requires_grad_(False)
    clear(network)
    other = iga_torch.IGA(Joined(), end=5)
    both = torch.cat([x, view.expand(-1, 9, -1)], dim=-1)
    (other(both) - y).square().sum().backward()
    close(got, network.inner.weight.grad, 1e-12)
    close(model.transform.matrix(), other.transform.matrix(), 1e-12)
    pieces = iga_torch.IGA(network, end=5, samples=2)
    for _ in range(2):
        for part in (slice(0, 4), slice(4, 9)):
            pieces(x[:, part], view, code.detach()).square().sum().backward()
        with torch.no_grad():
            network.inner.bias.mul_(1)
    assert pieces.transform.matrix().shape == (12, 12)
