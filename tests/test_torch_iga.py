"""`iga_torch.IGA`: its gradients against ``Jᵀ (S ⊗ I) g``, formed densely."""

import copy
import pickle
import warnings

import pytest

from iga_core import Adjustment, Damp, Equalise, Grouping, Scale, Transform
from tests.support.oracle import close

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import iga_torch  # noqa: E402
from iga_torch.seen import storage_of as _storage  # noqa: E402
from tests.support.selection import slow  # noqa: E402
from tests.support.torch_networks import NETWORKS, Dense, clear, gradient, make, steep  # noqa: E402
from tests.support.wrapping import GROUPING, SMALL, data  # noqa: E402

# Plain gradient descent shows gradients as they are; what it is told is tested elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:optimizer. the adjusted gradient is shorter")

FRESH = {"refresh": 1, "average": 0}


def trace_filter(kernel):
    """A third party's filter."""
    return Transform(0.5 * kernel / kernel.trace())


SETTINGS = {
    "default": Adjustment(),
    "paper": Adjustment.paper(end=5),
    "several": Adjustment(Equalise(5), samples=4, **FRESH),
    "trace": Adjustment.paper(6, 1, "start", outputs="trace", sampling="centre"),
    "several largest": Adjustment(Equalise(4), sampling="largest", samples=3, **FRESH),
    "strong": Adjustment(Damp(0.1), reach="points", samples=2, outputs="trace", refresh=1),
    "refreshed": Adjustment(samples=2, refresh=2, average=0.6, seed=3),
    "scaled": Adjustment(Scale(0.2)),
    "scaled at points": Adjustment(Scale(0.2), reach="points"),
    "their own": Adjustment(trace_filter, sampling="centre", refresh=2, average=0.5),
}
QUICK = ["default", "paper", "refreshed", "scaled at points", "their own"]


def cubed(prediction, y):
    """A loss, and its gradient with respect to the prediction."""
    difference = (prediction - y).detach()
    return (prediction - y).abs().pow(3).mean(), 3 * difference * difference.abs() / y.numel()


@pytest.mark.parametrize("form", ["flat", "row", "rows", "nearest"])
@pytest.mark.parametrize("name", [*QUICK, *slow(name for name in SETTINGS if name not in QUICK)])
def test_the_adjusted_gradient(name, form):
    network, adjustment = steep(), SETTINGS[name]
    x, y = data(61 if form == "nearest" else SMALL.count)
    grouping = Grouping.nearest(x, 12) if form == "nearest" else SMALL
    if form == "rows":
        (x, _), (y, _), grouping = SMALL.split(x), SMALL.split(y), None
    dense = Dense(network, adjustment, grouping)
    model = iga_torch.IGA(network, grouping or "rows", adjustment)
    for _ in range(5):
        clear(network)
        prediction = model(x[None] if form == "row" else x)
        prediction = prediction[0] if form == "row" else prediction
        close(prediction.detach(), network(x).detach(), 0)
        loss, cotangent = cubed(prediction, y)
        loss.backward()
        close(gradient(network), dense.gradient(x, cotangent), 1e-12)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.01 * parameter.grad
    assert not model.kernel_report().explicit
    assert not model._tangents._rows._one_by_one
    if not isinstance(adjustment.filter, Scale):
        close(model.transform.matrix(), dense.S, 1e-12)


@pytest.mark.parametrize(
    "name", [n for n in NETWORKS if n not in ("one output", "complex layers", "nothing inside")]
)
@pytest.mark.parametrize("adjustment", [SETTINGS["their own"], *slow([SETTINGS["paper"]])])
def test_any_network(name, adjustment):
    network = make(name)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x, y = data(SMALL.count, channels=4 if name == "tied" else 3)
    model = iga_torch.IGA(network, SMALL, adjustment)
    if name == "weight norm":
        network.eval()  # the spectral norm moves at every evaluation in training mode
        model.training = True
    want = Dense(network, adjustment, SMALL).gradient(x, 2 * (network(x) - y).detach() / y.numel())
    (model(x) - y).square().mean().backward()
    close(gradient(network), want, 1e-11)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0)], ids=str)
@pytest.mark.parametrize("together", [False, True], ids=["in turn", "one backward pass"])
@pytest.mark.parametrize(
    "adjustment",
    [Adjustment.paper(4), *(SETTINGS[name] for name in ("default", "refreshed", "scaled"))],
    ids=["paper", "default", "refreshed", "scaled"],
)
def test_batches_of_groups_in_one_step_have_a_transform_each(order, together, adjustment):
    network = steep()
    (x, _), (y, _) = map(GROUPING.split, data())
    batches = (slice(0, 7), slice(7, 12))  # of different sizes
    model, dense = iga_torch.IGA(network, "rows", adjustment), Dense(network, adjustment)
    losses = []
    for k in order:
        losses.append((model(x[batches[k]]) - y[batches[k]]).square().mean())
        if not together:
            losses[-1].backward()
    if together:
        sum(losses).backward()
    want = 0
    # A backward pass goes through the last call first.
    for k in reversed(order) if together else order:
        dense.afresh()
        x_k, y_k = x[batches[k]], y[batches[k]]
        want = want + dense.gradient(x_k, 2 * (network(x_k) - y_k).detach() / y_k.numel())
    close(gradient(network), want, 1e-11)


def test_batches_add_up_in_either_order():
    """The case of the 24 and 17 per cent, A1."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    ).double()
    x = torch.rand(64, 16, 2).double() * 2 - 1
    y = torch.sin(9 * x[..., :1] * x[..., 1:])
    A, B = slice(0, 32), slice(32, 64)

    def grad(parts, together=False):
        model = iga_torch.IGA(net, "rows", Adjustment.paper(end=16))
        model.zero_grad()
        losses = [((model(x[i]) - y[i]) ** 2).mean() for i in parts]
        for loss in [sum(losses)] if together else losses:
            loss.backward()
        return gradient(net)

    want = grad([A]) + grad([B])
    for got in (grad([A, B]), grad([B, A]), grad([A, B], True), grad([B, A], True)):
        close(got, want, 1e-12)


def test_batches_of_groups_of_other_sizes():
    network = steep()
    x, y = (part for part, _ in map(GROUPING.split, data()))
    model = iga_torch.IGA(network, "rows", Adjustment.paper(4))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for n in (12, 7, 12, 3, 3):
            clear(network)
            (model(x[:n]) - y[:n]).square().sum().backward()
            cotangent = 2 * (network(x[:n]) - y[:n]).detach()
            served = Adjustment.paper(min(4, n - 1))
            close(gradient(network), Dense(network, served).gradient(x[:n], cotangent), 1e-10)
    assert [str(w.message)[:44] for w in said] == ["end: expected less than the 3 groups, got 4;"]


def test_passes_through_one_call_share_its_transform(made):
    """However many losses and backward passes there are, and whatever was called in between."""
    network, adjustment = steep(), Adjustment.paper(end=5)
    x, y = data()
    other, _ = data(seed=1)
    model, dense = (
        iga_torch.IGA(network, GROUPING, adjustment),
        Dense(network, adjustment, GROUPING),
    )
    found = model(x)
    (found - y).square().mean().backward(retain_graph=True)
    want = dense.gradient(x, 2 * (found - y).detach() / y.numel())
    close(gradient(network), want, 1e-11)
    model(other).sum().backward()
    clear(network)
    (found - y).abs().mean().backward(retain_graph=True)
    dense.age = 0  # the call's S again, where the settings would have a new one
    want = dense.gradient(x, (found - y).detach().sign() / y.numel())
    close(gradient(network), want, 1e-11)
    assert len(made) == 2
    clear(network)
    got = torch.autograd.grad((found - y).abs().mean(), list(network.parameters()))
    close(torch.cat([g.reshape(-1) for g in got]), want, 1e-11)
    assert len(made) == 2


def unchanged(x):
    while True:
        yield x


def copied(x):
    while True:
        yield x.clone()


def through_numpy(x):
    while True:
        yield torch.from_numpy(x.numpy().copy())


def views(x):
    both = torch.stack([x, x + 0.1])
    while True:
        yield both[0]


def at_random(x):
    while True:
        yield torch.rand_like(x)


def overwritten(x):
    while True:
        yield x
        x.uniform_()


def overwritten_in_secret(x):
    array = x.numpy()
    while True:
        yield x
        array += 0.01


def through_data(x):
    while True:
        yield x
        x.data.mul_(0.9)


def in_turn(x):
    both = torch.stack([x, x + 0.1])
    while True:
        yield from both


def of_other_dtypes(x):
    while True:
        yield x
        yield x.float()


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize(
    ("points", "same"),
    [
        *((points, True) for points in (unchanged, copied, through_numpy, views)),
        *((points, False) for points in (at_random, overwritten, overwritten_in_secret)),
        *((points, False) for points in (through_data, in_turn, of_other_dtypes)),
    ],
)
def test_a_transform_is_kept_where_the_points_are_known_to_be_the_same(points, same, rows, made):
    """Known from the points alone: a grouping does not say so."""

    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make("residual")

        def forward(self, x):
            return self.inner(x.double())

    network, x = Cast(), data()[0]
    if rows:
        x = GROUPING.split(x)[0]
    model = iga_torch.IGA(network, "rows" if rows else GROUPING, Adjustment(refresh=3))
    steps = 7
    for _, given in zip(range(steps), points(x), strict=False):
        model(given).square().mean().backward()
    assert len(made) == (3 if same else steps)
    assert int(model.adjustment_state()["step"]) == steps


def test_the_allocator_gives_an_address_again(made):
    network, adjustment = steep(), Adjustment(refresh=4)
    model, dense = (
        iga_torch.IGA(network, SMALL, adjustment),
        Dense(network, adjustment, SMALL),
    )
    y, places, steps = torch.zeros(SMALL.count, 3).double(), set(), 8
    for step in range(steps):
        clear(network)
        x = torch.rand(SMALL.count, 2, dtype=torch.float64)
        places.add(x.data_ptr())
        loss, cotangent = cubed(model(x), y)
        loss.backward()
        dense.afresh()
        close(gradient(network), dense.gradient(x, cotangent), 1e-11)
        del x, loss, cotangent
        assert len(made) == step + 1
    assert len(places) < steps


def test_a_storage_is_known_by_more_than_its_address():
    """What decides on an accelerator, where no value is read."""
    x = torch.rand(100, 2)
    first = _storage(x)
    assert _storage(x.detach()) == first
    assert _storage(x[:50]) != first
    assert _storage(x.T) != first
    assert _storage(x.clone()) != first
    x.mul_(1)
    assert _storage(x) != first
    # Another tensor at the address of one that is gone, as allocators hand them out.
    memory = torch.zeros(100, 2).numpy()
    gone = torch.from_numpy(memory)
    first, place = _storage(gone), gone.data_ptr()
    del gone
    there = torch.from_numpy(memory)
    assert there.data_ptr() == place
    assert _storage(there) != first
    with torch.inference_mode():
        x = torch.rand(100, 2)
    assert _storage(x) != _storage(x)


class Coded(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x, code, gain=1.0):
        return self.inner(torch.cat([torch.tanh(x), code.expand(*x.shape[:-1], -1)], -1)) * gain


CODES = {
    "one for all": (1, 2),
    "one a group": (12, 1, 2),
    "one a point": (12, 9, 2),
}


@pytest.mark.parametrize("shape", CODES.values(), ids=CODES)
@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda code, gain: (code, gain), True),
        (lambda code, gain: (code.clone(), gain), True),
        (lambda code, gain: (code + 1, gain), False),
        (lambda code, gain: (code.mul_(1.1), gain), False),
        (lambda code, gain: (code.data.mul_(1.1), gain), False),
        (lambda code, gain: (code, gain + 1), False),
        (lambda code, gain: (code.float(), gain), False),
    ],
    ids=["none", "copied", "another", "in place", "through data", "gain", "dtype"],
)
def test_another_code_is_another_set_of_points(shape, change, same, made):
    network = Coded().double()
    x, _ = GROUPING.split(data()[0])
    model = iga_torch.IGA(network, "rows", Adjustment(refresh=5))
    code, gain = torch.rand(shape, dtype=torch.float64), 2.0
    model(x, code, gain=gain).square().mean().backward()
    first = model.transform
    code, gain = change(code, gain)
    clear(network)
    model(x, code, gain=gain).square().mean().backward()
    assert len(made) == (1 if same else 2)
    assert (model.transform is first) == same
    model(x, code).square().mean().backward()  # without the gain
    assert len(made) == (2 if same else 3)


def test_refresh_and_the_average_count_calls():
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, Adjustment(refresh=3, average=0.5))
    made, kernels = [], []
    for _ in range(7):
        (model(x) - y).square().mean().backward()
        made.append(model.transform)
        kernels.append(model.adjustment_state()["kernel"])
        with torch.no_grad():
            network.last.bias += 0.1
    assert [k for k in range(7) if k == 0 or made[k] is not made[k - 1]] == [0, 3, 6]
    assert [k for k in range(1, 7) if not torch.equal(kernels[k], kernels[k - 1])] == [3, 6]


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
    adjustment = Adjustment.paper(end=5)
    model = iga_torch.IGA(inner, GROUPING, adjustment)
    (model(x, code, direction=direction, gain=2.0) - y).square().sum().backward()
    joined = Joined(inner, code)
    both = torch.cat([x, direction], dim=1)
    want = Dense(joined, adjustment, GROUPING).gradient(both, 2 * (joined(both) - y).detach())
    close(gradient(inner), want, 1e-10)


def test_arguments_that_belong_to_a_group_and_codes_with_a_graph():
    class Rays(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.inner = nn.Linear(2, 2), nn.Linear(6, 3)

        def forward(self, x, view, code):
            along = [x, view.expand(-1, x.shape[1], -1), code.expand(*x.shape[:2], -1)]
            return self.inner(torch.tanh(torch.cat(along, dim=-1)))

    network, adjustment = Rays().double(), Adjustment(samples=2)
    (x, _), (y, _) = map(GROUPING.split, data())
    view = torch.rand(12, 1, 2).double()
    model = iga_torch.IGA(network, "rows", adjustment)
    code = network.encode(torch.ones(1, 2).double())
    (model(x, view, code) - y).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())

    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network.inner

        def forward(self, x):
            x = x.reshape(-1, 1, 4)
            return network(x[..., :2], x[..., :1, 2:], code.detach())[:, 0]

    joined = Joined()
    both = torch.cat([x, view.expand(-1, 9, -1)], dim=-1)
    cotangent = 2 * (network(x, view, code) - y).detach()
    want = Dense(joined, adjustment).gradient(both, cotangent)
    close(gradient(joined), want, 1e-11)


def test_where_it_does_nothing():
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING)
    (network(x) - y).square().mean().backward()
    plain = gradient(network)

    def plainly(predict):
        clear(network)
        (predict(x) - y).square().mean().backward()
        close(gradient(network), plain, 0)
        assert model.transform is None

    model.eval()
    with pytest.warns(UserWarning, match="backward: expected .* around them, and trained plain"):
        plainly(model)
    plainly(model)  # it is said once
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
    model = iga_torch.IGA(network, GROUPING)
    (got,) = torch.autograd.grad(model(x).sum(), x)
    (want,) = torch.autograd.grad(network(x).sum(), x)
    close(got, want, 1e-14)
    assert model.transform is None


def test_an_eikonal_loss():
    network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x, _ = data()
    x.requires_grad_()
    model = iga_torch.IGA(network, GROUPING, Adjustment.paper(5))

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
    with model.plain(), pytest.warns(UserWarning, match="derivative: taken inside plain"):
        eikonal(found).backward()


def test_state_is_the_networks():
    network = make("residual")
    model = iga_torch.IGA(network, GROUPING)
    state = model.state_dict()
    assert list(state) == list(network.state_dict())
    other = make("residual", seed=1)
    other.load_state_dict(state)
    wrapped = iga_torch.IGA(make("residual", seed=2), GROUPING)
    wrapped.load_state_dict(state)
    larger = nn.Sequential(nn.Flatten(2), iga_torch.IGA(make("residual", seed=3), GROUPING))
    assert "1.first.weight" in larger.state_dict()
    larger.load_state_dict({f"1.{name}": tensor for name, tensor in state.items()})
    for found in (other, wrapped.network, larger[1].network):
        for name, tensor in found.state_dict().items():
            assert torch.equal(tensor, state[name])
    with pytest.raises(RuntimeError, match="Missing key"):
        wrapped.load_state_dict({})


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("how", ["copy", "pickle", "state"])
@pytest.mark.parametrize(
    "adjustment",
    [
        Adjustment(refresh=2, samples=2),
        Adjustment(refresh=5, average=0.5),
        Adjustment.paper(5, refresh=2),
        Adjustment(Scale(0.2)),
    ],
    ids=["averaged", "in use", "paper", "scaled"],
)
def test_continuing_elsewhere(how, adjustment, rows, tmp_path):
    network = make("residual")
    x, y = data()
    if rows:
        x, y = (part for part, _ in map(GROUPING.split, (x, y)))
    grouping = "rows" if rows else GROUPING

    def train(model, steps):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
        for _ in range(steps):
            optimizer.zero_grad()
            (model(x) - y).square().sum().backward()
            optimizer.step()
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    model = iga_torch.IGA(network, grouping, adjustment)
    train(model, 3)
    if how == "copy":
        other = copy.deepcopy(model)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        torch.save((model.state_dict(), model.adjustment_state()), tmp_path / "state.pt")
        bare, state = torch.load(tmp_path / "state.pt")
        other = iga_torch.IGA(make("residual", seed=9), grouping, adjustment)
        other.load_state_dict(bare)
        other.load_adjustment_state(state)
    assert other.network is not network
    want = train(model, 4)
    assert torch.equal(train(other, 4), want)


def adjusted_once(adjustment):
    model = iga_torch.IGA(make("residual"), GROUPING, adjustment)
    x, y = data()
    (model(x) - y).square().mean().backward()
    return model


OTHERS = [
    Adjustment(Damp(0.5)),
    Adjustment(Equalise(6)),
    Adjustment(Scale()),
    Adjustment(samples=2),
    Adjustment(reach="points"),
    Adjustment(refresh=4),
    Adjustment(average=0.8),
    Adjustment(seed=1),
    Adjustment(trace_filter),
]


@pytest.mark.parametrize("adjustment", OTHERS, ids=str)
def test_a_state_of_other_settings(adjustment):
    model, other = adjusted_once(Adjustment()), iga_torch.IGA(make("mlp"), GROUPING, adjustment)
    with pytest.raises(ValueError, match=r"state: expected that of .* got that of .*Damp\(scale=1"):
        other.load_adjustment_state(model.adjustment_state())
    assert other.transform is None
    assert int(other.adjustment_state()["step"]) == 0


def test_a_state_of_another_end():
    model, other = (adjusted_once(Adjustment.paper(end)) for end in (6, 7))
    before = other.adjustment_state()
    with pytest.raises(ValueError, match=r"state: expected that of .*end=7.* got that of .*end=6"):
        other.load_adjustment_state(model.adjustment_state())
    after = other.adjustment_state()
    assert before.keys() == after.keys()
    assert all(
        after[name] is before[name] or torch.equal(after[name], before[name]) for name in after
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda _: None,
        lambda _: [1, 2],
        lambda _: {},
        lambda state: {"step": state["step"]},
        lambda state: state | {"step": torch.tensor(-1)},
        lambda state: state | {"age": None},
        lambda state: state | {"S": state["S"][:-1]},
        lambda state: state | {"kernel": state["kernel"][:3, :3]},
        lambda state: state | {"eigenvalues": state["eigenvalues"][:3]},
        lambda state: state | {"positions": state["positions"] - 100},
        lambda state: state | {"positions": state["positions"].double()},
        lambda state: state | {"positions": state["positions"][0]},
    ],
)
def test_a_damaged_state(change):
    state = adjusted_once(Adjustment()).adjustment_state()
    other = iga_torch.IGA(make("residual"), GROUPING)
    with pytest.raises(ValueError, match="state: expected"):
        other.load_adjustment_state(change(state))
    assert other.transform is None
    assert other._placing.seen is None
    other.load_adjustment_state(state)
    assert torch.equal(other.transform.matrix(), state["S"])
    assert torch.equal(other.transform.eigenvalues, state["eigenvalues"])


def test_a_state_of_other_points_begins_afresh(made):
    model = adjusted_once(Adjustment())
    other = iga_torch.IGA(model.network, "rows")
    other.load_adjustment_state(model.adjustment_state())
    x, _ = GROUPING.split(data(seed=1)[0])
    for part in (x, x[:5], x[:, :1]):
        other(part).square().mean().backward()
    assert len(made) == 4


def test_the_settings():
    network, settings = make("mlp"), Adjustment.paper(end=3, seed=4)
    model = iga_torch.IGA(network, GROUPING, settings)
    assert model.adjustment is settings
    assert model.grouping is GROUPING
    assert iga_torch.IGA(network, "rows").grouping == "rows"
    assert iga_torch.IGA(network, GROUPING).adjustment == Adjustment()


def test_the_choice_of_representatives_is_an_argument():
    network, x = make("residual"), data()[0]
    asked = []

    def choose(cotangent, columns, step):
        asked.append((tuple(cotangent.shape), columns.tolist(), step))
        return torch.full((12, 2), step, dtype=torch.int64)

    model = iga_torch.IGA(network, GROUPING, Adjustment(**FRESH), choose=choose)
    for step in range(2):
        model(x).square().mean().backward()
        assert asked[-1] == ((12, 9, 3), list(range(9)), step)
        assert torch.equal(
            model._placing.seen.values[0], x[GROUPING.index[:, [step, step]]].flatten(0, 1)
        )


DEEP = nn.Sequential(nn.Linear(2, 2), nn.Sequential(iga_torch.IGA(nn.Linear(2, 3), GROUPING)))


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (iga_torch.IGA(nn.Linear(2, 3), GROUPING), "got an IGA itself"),
        (nn.Sequential(iga_torch.IGA(nn.Linear(2, 3), GROUPING)), "got an IGA as '0' in it"),
        (DEEP, r"got an IGA as '1\.0' in it"),
        (nn.ModuleDict({"a": DEEP}), r"got an IGA as 'a\.1\.0' in it"),
        (torch.compile(DEEP, backend="eager"), r"got an IGA as '_orig_mod\.1\.0' in it"),
    ],
)
def test_an_adjusted_network_is_not_adjusted_again(network, named):
    with pytest.raises(
        ValueError, match=f"network: expected one that is not adjusted yet, {named}"
    ):
        iga_torch.IGA(network, GROUPING)


class Mixing(nn.Module):
    """The points of a group have a part in each other's outputs."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 3)

    def forward(self, x):
        return self.inner(x - x.mean(dim=1, keepdim=True))


def test_mixing_is_found_after_a_look_at_the_output():
    x, _ = GROUPING.split(data()[0])
    model = iga_torch.IGA(Mixing().double(), "rows")
    found = model(x)
    assert found.shape == (12, 9, 3)
    with pytest.raises(ValueError, match="depend on that sample alone"):
        found.square().sum().backward()
    assert model.transform is None
    with torch.autocast("cpu", torch.bfloat16):
        found = iga_torch.IGA(Mixing(), "rows", Adjustment.paper(3))(x.float())
    with pytest.raises(ValueError, match="depend on that sample alone"):
        found.square().sum().backward()


def test_dropout_keeps_its_noise():
    network, adjustment = make("mlp"), Adjustment(trace_filter, samples=9)
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, adjustment)
    torch.manual_seed(1)
    a = model(x)
    torch.manual_seed(1)
    close(a.detach(), network(x).detach(), 0)
    after = torch.get_rng_state()
    (a - y).square().mean().backward()
    assert torch.equal(torch.get_rng_state(), after)
    network.eval()
    dense = Dense(network, adjustment, GROUPING)
    dense.gradient(x, torch.zeros_like(y))
    close(model.transform.matrix(), dense.S, 1e-11)  # of the network without dropout


def test_gradients_asked_for_by_name():
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, Adjustment.paper(5))
    (model(x) - y).square().mean().backward()
    want = gradient(network)
    got = torch.autograd.grad((model(x) - y).square().mean(), list(network.parameters()))
    close(torch.cat([g.reshape(-1) for g in got]), want, 1e-14)
    (one,) = torch.autograd.grad((model(x) - y).square().mean(), network.last.weight)
    close(one, network.last.weight.grad, 1e-14)


@pytest.mark.parametrize("adjustment", [SETTINGS["default"], SETTINGS["strong"]], ids=str)
def test_a_kernel_of_low_rank_and_points_that_are_equal(adjustment):
    """More groups than parameters, and groups of the same points: singular, and no error."""
    torch.manual_seed(0)
    network = nn.Linear(2, 1).double()
    x, _ = data()
    x[:60] = x[60:120]
    grouping = Grouping.blocks(143, 6)
    model, dense = (
        iga_torch.IGA(network, grouping, adjustment),
        Dense(network, adjustment, grouping),
    )
    loss, cotangent = cubed(model(x), torch.zeros(143, 1).double())
    loss.backward()
    close(gradient(network), dense.gradient(x, cotangent), 1e-11)


def test_a_kernel_that_is_zero_leaves_the_step_plain():
    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 3)

        def forward(self, x):
            return torch.relu(self.inner(x) - 100)

    model = iga_torch.IGA(Dead().double(), GROUPING)
    model(data()[0]).sum().backward()
    close(model.transform.matrix(), torch.eye(12), 0)
    assert not gradient(model).any()
