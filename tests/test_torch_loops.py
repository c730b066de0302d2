"""`iga_torch.IGA` in the loops that people write."""

import copy
import warnings

import pytest

from iga_core import Adjustment, Grouping, Scale, Transform
from tests.support.oracle import close

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import iga_torch  # noqa: E402
from tests.support.torch_networks import Dense, clear, gradient, make, mlp, steep  # noqa: E402
from tests.support.wrapping import GROUPING, SMALL, data  # noqa: E402

# Plain gradient descent shows gradients as they are; what it is told is tested elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore:optimizer. the adjusted gradient is shorter")

EVERY = Adjustment(refresh=1)
PAPER = Adjustment.paper(end=5)


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=5e-3),
    "fused adam": lambda p: torch.optim.Adam(p, lr=5e-3, fused=True),
    "foreach adamw": lambda p: torch.optim.AdamW(p, lr=5e-3, foreach=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "muon": lambda p: iga_torch.Muon(p, lr=5e-3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
}


class ThroughData(torch.optim.Optimizer):
    """Changes parameters in a way that PyTorch does not count."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure=None):  # noqa: ARG002
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(parameter.grad.data, alpha=-group["lr"])


OPTIMIZERS["through .data"] = ThroughData
if hasattr(torch.optim, "Muon"):
    OPTIMIZERS["torch's muon"] = lambda p: torch.optim.Muon([q for q in p if q.ndim == 2], lr=5e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("refresh", [1, 5])
def test_every_optimizer(name, refresh, made):
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, Adjustment(refresh=refresh))
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(float(loss.detach()))
    assert len(made) == -(-8 // refresh)
    assert losses[-1] < losses[0]


def test_every_evaluation_of_lbfgs_is_a_call(made):
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, Adjustment(refresh=10**6))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=6)
    evaluations = []

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        evaluations.append(model.transform)
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert len(made) == 1
    assert int(model.adjustment_state()["step"]) == len(evaluations) > 9
    assert all(transform is evaluations[0] for transform in evaluations)


@pytest.mark.parametrize(
    "parts", [(range(12),), (range(5), range(5, 12)), (range(4),) * 3], ids=str
)
def test_accumulated_gradients_are_the_sum(parts):
    network = steep()
    (x, _), (y, _) = map(GROUPING.split, data())
    model, dense = iga_torch.IGA(network, "rows", EVERY), Dense(network, EVERY)
    want = 0
    for part in map(list, parts):
        loss = (model(x[part]) - y[part]).square().mean() / len(parts)
        loss.backward()
        if list(parts[0]) != list(parts[-1]):
            dense.afresh()
        cotangent = 2 * (network(x[part]) - y[part]).detach() / y[part].numel() / len(parts)
        want = want + dense.gradient(x[part], cotangent)
    close(gradient(network), want, 1e-11)


def test_an_exception_within_a_step_is_forgotten(made):
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, EVERY)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def closure():
        (model(x) - y).square().mean().backward()
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            optimizer.step(closure)
    for _ in range(3):
        (model(x) - y).square().mean().backward()
    assert len(made) == 5
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_an_exception_in_the_network_leaves_everything_as_it_was(made):
    class Fragile(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.fails = nn.Linear(2, 3), False

        def forward(self, x):
            if self.fails and len(x) < 100:
                raise RuntimeError("no memory")
            return self.inner(x)

    network = Fragile().double()
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, EVERY)
    network.fails = True
    with pytest.raises(RuntimeError, match="no memory"):
        (model(x) - y).square().mean().backward()
    assert model.transform is None
    assert int(model.adjustment_state()["step"]) == 0
    network.fails = False
    clear(network)
    (model(x) - y).square().mean().backward()
    want = Dense(network, EVERY, GROUPING)
    close(
        gradient(network),
        want.gradient(x, 2 * (network(x) - y).detach() / y.numel()),
        1e-11,
    )
    assert len(made) == 2


def test_an_exception_in_a_filter_leaves_everything_as_it_was():
    fails = [True]

    def fragile(kernel):
        if fails[0]:
            raise RuntimeError("no memory")
        return Transform(kernel / kernel.trace())

    network = make("residual")
    x, y = data()
    adjustment = Adjustment(fragile)
    model = iga_torch.IGA(network, GROUPING, adjustment)
    with pytest.raises(RuntimeError, match="no memory"):
        (model(x) - y).square().mean().backward()
    assert int(model.adjustment_state()["step"]) == 0
    fails.clear(), fails.append(False)
    clear(network)
    (model(x) - y).square().mean().backward()
    cotangent = 2 * (network(x) - y).detach() / y.numel()
    close(gradient(network), Dense(network, adjustment, GROUPING).gradient(x, cotangent), 1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    network = mlp(width=16).eval()
    x, y = (part.float() for part in data())
    adjustment = Adjustment(sampling="centre")
    model = iga_torch.IGA(network, GROUPING, adjustment)
    model.training = True
    with torch.autocast("cpu", dtype):
        prediction = model(x)
        loss = (prediction - y).square().mean()
    assert prediction.dtype == dtype
    loss.backward()
    assert model.transform.matrix().dtype == torch.float32
    got = gradient(network)
    reference = iga_torch.IGA(network, GROUPING, adjustment)
    reference.training = True
    clear(network)
    (reference(x) - y).square().mean().backward()
    close(model.transform.matrix(), reference.transform.matrix(), 1e-6)
    close(got, gradient(network), 0.05)


@pytest.mark.parametrize("adjustment", [EVERY, PAPER, Adjustment(Scale())], ids=str)
def test_a_gradient_scaler_can_skip_a_step(adjustment, made):
    network = mlp(width=16).eval()
    x, y = (part.float() for part in data())
    model = iga_torch.IGA(network, GROUPING, adjustment)
    model.training = True
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    before = copy.deepcopy(network.state_dict())

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                prediction = model(x)
            loss = (prediction - 1000 * y.half()).square().sum()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

    with pytest.warns(UserWarning, match="cotangent: expected finite values"):
        train(1)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert not made
    train(40)
    assert bool(made) == (adjustment.filter != Scale())
    assert not all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())


class Table(nn.Module):
    """A number of its own for each point, so that its gradient is the adjusted cotangent."""

    def __init__(self):
        super().__init__()
        self.values = nn.Parameter(torch.randn(GROUPING.count, 3).double())

    def forward(self, x):
        return self.values[x[..., 0].long()]


@pytest.mark.parametrize("place", [0, GROUPING.index[3, 4], GROUPING.rest[5]])
@pytest.mark.parametrize("value", [torch.inf, torch.nan, 1e308])
@pytest.mark.parametrize(
    "adjustment",
    [
        EVERY,
        PAPER,
        Adjustment(reach="points"),
        Adjustment(Scale()),
        Adjustment(Scale(), reach="points"),
    ],
    ids=str,
)
def test_one_infinite_cotangent_reaches_no_other_point(place, value, adjustment):
    network = Table()
    x = torch.arange(GROUPING.count).double()[:, None].expand(-1, 2).contiguous()
    model = iga_torch.IGA(network, GROUPING, adjustment)
    cotangent = data()[1]
    cotangent[place] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(x).backward(cotangent)
    found = network.values.grad
    others = torch.arange(GROUPING.count) != place
    assert bool(torch.isfinite(found[others]).all())
    assert bool(torch.isfinite(found[place]).all()) == (value == 1e308)


def test_checkpointed_training():
    network = make("checkpointed")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, PAPER)
    plain = copy.deepcopy(network)
    plain.forward = lambda x: plain.last(plain.first(x))
    reference = iga_torch.IGA(plain, GROUPING, PAPER)
    for wrapped in (model, reference):
        (wrapped(x) - y).square().mean().backward()
    close(gradient(network), gradient(plain), 1e-12)
    clear(network)
    found = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
    (found - y).square().mean().backward()
    close(gradient(network), gradient(plain), 1e-12)


@pytest.fixture
def eager_backend():
    yield "aot_eager"
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["network", "in place", "wrapper", "step"])
def test_compiled(what, eager_backend, made):
    bare = make("residual")
    x, y = data()
    reference = iga_torch.IGA(copy.deepcopy(bare), GROUPING, PAPER)
    if what == "network":
        model = iga_torch.IGA(torch.compile(bare, backend=eager_backend), GROUPING, PAPER)
    elif what == "in place":
        bare.compile(backend=eager_backend)
        model = iga_torch.IGA(bare, GROUPING, PAPER)
    else:
        model = iga_torch.IGA(bare, GROUPING, PAPER)
    call = torch.compile(model, backend=eager_backend) if what == "wrapper" else model

    def train(call, optimizer):
        optimizer.zero_grad()
        loss = (call(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    compiled = torch.compile(train, backend=eager_backend) if what == "step" else train
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    other = torch.optim.SGD(reference.parameters(), lr=0.1)
    for _ in range(3):
        compiled(call, optimizer)
        train(reference, other)
    assert len(made) == 6
    pairs = zip(model.parameters(), reference.parameters(), strict=True)
    for a, b in pairs:
        close(a.detach(), b.detach(), 1e-10)
    assert not model.kernel_report().explicit


def test_second_backward_through_a_freed_graph():
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, PAPER)
    loss = (model(x) - y).square().mean()
    loss.backward()
    transform = model.transform
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        loss.backward()
    assert model.transform is transform


def test_the_output_can_be_changed_in_place():
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, PAPER)
    ((model(x) * 2.0) - y).square().mean().backward()
    want = gradient(network)
    clear(network)
    model(x).mul_(2.0).sub_(y).square().mean().backward()
    close(gradient(network), want, 1e-12)


def test_trained_codes_beside_the_coordinates():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp(outputs=1)

        def forward(self, x, code):
            return self.inner(x * code)

    decoder, code = Decoder().double().eval(), torch.ones(1, 2, requires_grad=True)
    x, y = data(channels=1)
    model = iga_torch.IGA(decoder, GROUPING, PAPER)
    model.training = True
    (model(x, code) - y).square().mean().backward()
    assert code.grad is not None
    assert model.transform is not None


def test_nan_is_passed_through_with_one_warning():
    network = make("residual")
    x, y = data()
    y[5] = torch.nan
    model = iga_torch.IGA(network, GROUPING, PAPER)
    with pytest.warns(UserWarning, match="the step was left unadjusted"):
        (model(x) - y).square().mean().backward()
    (model(x) - y).square().mean().backward()
    assert model.transform is None
    assert torch.isnan(gradient(network)).all()


class Answer(nn.Module):
    def __init__(self, answer=lambda x: x):
        super().__init__()
        self.inner, self.answer = nn.Linear(2, 3), answer

    def forward(self, x):
        return self.answer(self.inner(x))


X = torch.rand(GROUPING.count, 2)


@pytest.mark.parametrize(
    ("network", "grouping", "x", "message"),
    [
        (Answer(lambda f: (f, f)), GROUPING, X, "output: expected one tensor, or to be told which one is meant, got 2"),
        (Answer(lambda f: f.long()), GROUPING, X, "output: expected float32 or float64, or complex .*, got torch.int64"),
        (Answer(lambda f: f.half()), GROUPING, X, "output: expected float32 or float64, or complex .*, got torch.float16"),
        (Answer(lambda f: f[:100]), GROUPING, X, r"output: expected shape \(143\) or \(143, channels\)"),
        (Answer(), GROUPING, X[:100], "coords: expected leading axes of 143 points"),
        (Answer(), "rows", X, r"coords: expected shape \(groups, points, ...\)"),
        (Answer(lambda f: f[0]), "rows", X[None, :100], r"output: expected shape \(1, 100\) or"),
        (Answer(lambda f: f.T), None, X, "output: expected the leading axes of the coordinates"),
        (Answer(), GROUPING, X.to("meta"), "coords: expected device cpu of the network, got meta"),
        (Answer(), GROUPING, [[1.0]], "coords: expected a tensor"),
        (Answer(lambda f: f.detach() + 1), GROUPING, X, None),
    ],
)  # fmt: skip
def test_bad_calls(network, grouping, x, message):
    model = iga_torch.IGA(network, grouping)
    if message is None:
        assert not model(x).requires_grad
        return
    with pytest.raises((TypeError, ValueError), match=message):
        model(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lambda x: x, GROUPING), "parameters: expected those that .*lambda.* depends on"),
        ((Answer(), (3, 4)), "grouping: expected a Grouping, 'rows' or None, got tuple"),
        ((Answer(), "columns"), "grouping: expected a Grouping, 'rows' or None, got str"),
        ((Answer(), GROUPING, 5), "adjustment: expected an Adjustment, got int"),
        ((Answer(), GROUPING, Scale()), "adjustment: expected an Adjustment, got Scale"),
        ((Answer().requires_grad_(False), "rows"), "network: expected a trainable parameter, got"),
        ((nn.Identity(), "rows"), "network: expected a trainable parameter, got none"),
        ((Answer().half(), "rows"), "network: expected parameters of float32 or float64"),
        ((Answer(), GROUPING, Adjustment(samples=10)), "samples: expected at most the 9 points"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        iga_torch.IGA(*arguments)


def test_few_groups_warn_once():
    model = iga_torch.IGA(Answer(), Grouping.patches((11, 13), 5), Adjustment.paper(end=20))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")  # once a place, as outside of tests
        for _ in range(3):
            model(X).square().mean().backward()
    (warning,) = said
    assert "end: expected less than the 4 groups, got 20" in str(warning.message)


@pytest.mark.parametrize("how", ["assigned data", "vector", "loaded", "new optimizers"])
def test_other_ways_to_change_parameters(how):
    """Every call reads the parameters as they are then."""
    network = steep()
    x, y = data(SMALL.count)
    model, dense = iga_torch.IGA(network, SMALL, EVERY), Dense(network, EVERY, SMALL)
    for _ in range(3):
        clear(network)
        prediction = model(x)
        (prediction - y).square().mean().backward()
        want = dense.gradient(x, 2 * (prediction - y).detach() / y.numel())
        close(gradient(network), want, 1e-11)
        moved = [p.detach() - 0.1 * p.grad for p in network.parameters()]
        if how == "assigned data":
            for parameter, value in zip(network.parameters(), moved, strict=True):
                parameter.data = value
        elif how == "vector":
            flat = nn.utils.parameters_to_vector(moved)
            nn.utils.vector_to_parameters(flat, network.parameters())
        elif how == "loaded":
            names = dict(network.named_parameters())
            network.load_state_dict(dict(zip(names, moved, strict=True)), assign=True)
        else:
            torch.optim.Adam(network.parameters(), fused=True).step()
