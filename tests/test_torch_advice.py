"""What is said, once, of an optimizer to which adjusted gradients mean something else."""

import copy
import gc
import warnings
import weakref

import pytest

torch = pytest.importorskip("torch")

import iga_torch  # noqa: E402
from tests.support.torch_networks import steep  # noqa: E402

X = torch.linspace(-1, 1, 64, dtype=torch.float64)[:, None].expand(64, 2).contiguous()


def steps(model, optimizer, count=3, factor=1.0):
    """What is warned of in a few steps."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(count):
            optimizer.zero_grad()
            (factor * model(X).square().mean()).backward()
            optimizer.step()
    return [str(w.message) for w in said]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: torch.optim.SGD(p, lr=1e-3), "the rate of SGD means another one"),
        (lambda p: torch.optim.Adam(p, weight_decay=0.1), "weight decay that is added to it"),
        (lambda p: torch.optim.RMSprop(p, weight_decay=0.1), "weight decay that is added to it"),
        (lambda p: torch.optim.Adam(p, eps=1.0), "near eps=1, which then decides the step"),
    ],
)
def test_it_is_said_once(make, words):
    model = iga_torch.IGA(steep(), groups=8)
    other = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    other.param_groups[0]["params"][0].grad = torch.ones(2)
    assert steps(model, other, 1) == []  # an optimizer of other parameters
    (said,) = steps(model, make(model.parameters()))
    assert words in said
    assert "shorter than the plain one" in said


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p),
        lambda p: torch.optim.AdamW(p, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, weight_decay=0.1, decoupled_weight_decay=True),
        lambda p: torch.optim.RMSprop(p),
    ],
)
def test_nothing_is_said_of_those_that_do_not_mind(make):
    model = iga_torch.IGA(steep(), groups=8)
    assert steps(model, make(model.parameters())) == []


def test_no_hook_stays_behind():
    from torch.optim.optimizer import _global_optimizer_pre_hooks as hooks

    before = len(hooks)
    model = iga_torch.IGA(steep(), groups=8)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        x = torch.rand(64, 2, dtype=torch.float64)
        model(x).square().mean().backward()
        optimizer.step()
    assert len(hooks) == before
    copy.deepcopy(model)
    alive = weakref.ref(model)
    del model, optimizer, x
    gc.collect()
    assert alive() is None
