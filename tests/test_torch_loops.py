"""`iga_torch.IGA` in the loops that people write."""

import copy
import sys
import warnings

import pytest
import torch
from oracle import close
from test_torch_iga import GROUPING, clear, data, gradient
from torch import nn
from torch_networks import make, mlp

import iga_torch
from iga_core import Grouping
from iga_torch import wrapper


@pytest.fixture
def made(monkeypatch):
    """A list that grows with every kernel made."""
    calls = []
    kernel = wrapper.Tangents.kernel
    monkeypatch.setattr(
        wrapper.Tangents, "kernel", lambda *a, **k: calls.append(1) or kernel(*a, **k)
    )
    return calls


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
def test_every_optimizer_gets_a_transform_a_step(name, made):
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, end=5)
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        for _ in range(2):
            loss = (model(x) - y).square().mean()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(float(loss.detach()))
    assert len(made) == 8
    assert losses[-1] < losses[0]


def test_lbfgs_holds_its_transform_for_a_step(made):
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, end=5)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=6)
    evaluations = []

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        evaluations.append(model.transform)
        return loss

    for step in range(3):
        evaluations.clear()
        optimizer.step(closure)
        assert len(evaluations) > 3
        assert all(transform is evaluations[0] for transform in evaluations)
        assert len(made) == step + 1
    (model(x) - y).square().mean().backward()
    assert len(made) == 4


def test_an_exception_within_a_step_is_forgotten(made):
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, end=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def closure():
        (model(x) - y).square().mean().backward()
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            optimizer.step(closure)
    for _ in range(3):
        (model(x) - y).square().mean().backward()
        with torch.no_grad():
            network.last.bias.mul_(1.0)
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
    model = iga_torch.IGA(network, GROUPING, end=2)
    network.fails = True
    with pytest.raises(RuntimeError, match="no memory"):
        (model(x) - y).square().mean().backward()
    assert model.transform is None
    assert int(model.adjustment_state()["step"]) == 0
    network.fails = False
    clear(network)
    (model(x) - y).square().mean().backward()
    assert len(made) == 2
    assert model.transform is not None


def test_other_optimizers_do_not_count(made):
    network, other = make("residual"), make("mlp")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, end=5)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    for _ in range(3):
        (model(x) - y).square().mean().backward()
        other(x).sum().backward()
        optimizer.step()
    assert len(made) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    network = mlp(width=16).eval()
    x, y = (part.float() for part in data())
    model = iga_torch.IGA(network, GROUPING, end=5, sampling="centre")
    model.training = True
    with torch.autocast("cpu", dtype):
        prediction = model(x)
        loss = (prediction - y).square().mean()
    assert prediction.dtype == dtype
    loss.backward()
    assert model.eigenvalues.dtype == torch.float32
    got = gradient(network)
    reference = iga_torch.IGA(network, GROUPING, end=5, sampling="centre")
    reference.training = True
    clear(network)
    (reference(x) - y).square().mean().backward()
    close(model.transform.matrix(), reference.transform.matrix(), 1e-6)
    close(got, gradient(network), 0.05)


def test_a_gradient_scaler_can_skip_a_step(made):
    network = mlp(width=16).eval()
    x, y = (part.float() for part in data())
    model = iga_torch.IGA(network, GROUPING, end=5)
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
    assert made
    assert not all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())


def test_checkpointed_training():
    network = make("checkpointed")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, end=5)
    plain = copy.deepcopy(network)
    plain.forward = lambda x: plain.last(plain.first(x))
    reference = iga_torch.IGA(plain, GROUPING, end=5)
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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["network", "in place", "wrapper", "step"])
def test_compiled(what, eager_backend, made):
    bare = make("residual")
    x, y = data()
    reference = iga_torch.IGA(copy.deepcopy(bare), GROUPING, end=5)
    if what == "network":
        model = iga_torch.IGA(torch.compile(bare, backend=eager_backend), GROUPING, end=5)
    elif what == "in place":
        bare.compile(backend=eager_backend)
        model = iga_torch.IGA(bare, GROUPING, end=5)
    else:
        model = iga_torch.IGA(bare, GROUPING, end=5)
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
    assert not model._tangents._explicit


def test_second_backward_through_a_freed_graph():
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, end=5)
    loss = (model(x) - y).square().mean()
    loss.backward()
    transform = model.transform
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        loss.backward()
    assert model.transform is transform


def test_the_output_can_be_changed_in_place():
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, end=5)
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
    model = iga_torch.IGA(decoder, GROUPING, end=5)
    model.training = True
    (model(x, code) - y).square().mean().backward()
    assert code.grad is not None
    assert model.transform is not None


def test_nan_is_passed_through_with_one_warning():
    network = make("residual")
    x, y = data()
    y[5] = torch.nan
    model = iga_torch.IGA(network, GROUPING, end=5)
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
        (Answer(lambda f: (f, f)), GROUPING, X, "network: expected it to return one tensor, got tuple"),
        (Answer(lambda f: f.long()), GROUPING, X, "output: expected float32 or float64, got torch.int64"),
        (Answer(lambda f: f.half()), GROUPING, X, "output: expected float32 or float64, got torch.float16"),
        (Answer(lambda f: f[:, 0]), GROUPING, X, r"output: expected shape \(143, channels\)"),
        (Answer(lambda f: f[:100]), GROUPING, X, r"output: expected shape \(143, channels\)"),
        (Answer(), GROUPING, X[:100], r"coords: expected shape \(143, ...\) or \(1, 143, ...\)"),
        (Answer(), None, X, r"coords: expected shape \(groups, points, ...\)"),
        (Answer(lambda f: f[..., 0]), None, X[None, :100], r"output: expected shape \(1, 100, channels\)"),
        (Answer(), GROUPING, X.to("meta"), "coords: expected device cpu of the network, got meta"),
        (Answer(), GROUPING, [[1.0]], "coords: expected a tensor"),
        (Answer(lambda f: f.detach() + 1), GROUPING, X, None),
    ],
)  # fmt: skip
def test_bad_calls(network, grouping, x, message):
    model = iga_torch.IGA(network, grouping, end=3)
    if message is None:
        assert not model(x).requires_grad
        return
    with pytest.raises((TypeError, ValueError), match=message):
        model(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((lambda x: x,), "network: expected a torch.nn.Module, got function"),
        ((Answer(), (3, 4)), "grouping: expected a Grouping, got tuple"),
        ((Answer().requires_grad_(False),), "network: expected a trainable parameter, got none"),
        ((nn.Identity(),), "network: expected a trainable parameter, got none"),
        ((Answer().half(),), "network: expected parameters of float32 or float64"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        iga_torch.IGA(*arguments)


def test_more_samples_than_points():
    with pytest.raises(
        ValueError, match="samples: expected at most the 9 points of a group, got 10"
    ):
        iga_torch.IGA(Answer(), GROUPING, samples=10)
    model = iga_torch.IGA(Answer(), end=3, samples=10)
    with pytest.raises(ValueError, match="samples: expected at most the 9 points"):
        model(GROUPING.split(X)[0]).sum().backward()


def test_frozen_later():
    network = Answer()
    model = iga_torch.IGA(network, GROUPING, end=3)
    network.requires_grad_(False)
    with pytest.raises(ValueError, match="network: expected a trainable parameter, got none"):
        model(X)


def test_few_groups_warn_once():
    network = Answer()
    model = iga_torch.IGA(network, Grouping.patches((11, 13), 5), end=20)
    x = torch.rand(143, 2)
    with pytest.warns(UserWarning, match="end: expected less than the 4 groups, got 20"):
        model(x).square().mean().backward()
    for _ in range(2):
        network.inner.bias.grad = None
        model(x).square().mean().backward()


def test_importing_the_core_loads_no_torch():
    assert "torch" in sys.modules  # here, but see tests/test_imports.py for a fresh interpreter
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = Answer()
        iga_torch.IGA(network, GROUPING, end=3)(X).square().mean().backward()


@pytest.mark.parametrize("how", ["assigned data", "vector", "loaded", "new optimizers"])
def test_other_ways_to_change_parameters(how, made):
    network = make("residual")
    x, y = data()
    model = iga_torch.IGA(network, GROUPING, end=5)
    for _ in range(4):
        model.zero_grad()
        (model(x) - y).square().mean().backward()
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
    assert len(made) == 4
