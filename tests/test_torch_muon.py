"""`iga_torch.Muon` against the core's."""

import copy
import math

import numpy as np
import pytest

import iga_core
from tests.support.oracle import close

torch = pytest.importorskip("torch")

from iga_torch.muon import Muon  # noqa: E402

SHAPES = [(6, 3), (6,), (3, 6), (3,), (1, 3), (), (2, 3, 2)]


def parameters_of(shapes=SHAPES, dtype=torch.float64):
    generator = np.random.default_rng(0)
    return [torch.nn.Parameter(torch.tensor(generator.normal(size=s), dtype=dtype)) for s in shapes]


def some_gradients(steps, seed=1):
    generator = np.random.default_rng(seed)
    return [[np.asarray(generator.normal(size=shape)) for shape in SHAPES] for _ in range(steps)]


def give(parameters, gradients):
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(gradient, dtype=parameter.dtype)


def run(optimizer, parameters, gradients, scheduler=None):
    for gradient in gradients:
        give(parameters, gradient)
        optimizer.step()
        if scheduler:
            scheduler.step()


def values(parameters):
    return [p.detach().numpy().copy() for p in parameters]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_the_core_s_muon_under_any_scheduler(schedule):
    steps, wanted = 40, iga_core.Muon(3e-2, schedule)
    parameters, gradients = parameters_of(), some_gradients(steps)
    reference = values(parameters)
    moments = wanted.initial(reference)
    for step, gradient in enumerate(gradients):
        reference, moments = wanted.update(reference, gradient, moments, step, steps)
    optimizer = Muon(parameters, lr=3e-2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: wanted.decay(t, steps))
    run(optimizer, parameters, gradients, scheduler)
    for got, expected in zip(values(parameters), reference, strict=True):
        close(got, expected, 1e-11)


def test_matrices_and_others_are_groups_of_their_own():
    parameters = parameters_of()
    optimizer = Muon(parameters, lr=0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 1e-3]
    assert [p.ndim for p in optimizer.param_groups[0]["params"]] == [2, 2, 2]
    names = torch.nn.Linear(3, 2).named_parameters()
    assert [g["param_names"] for g in Muon(names).param_groups] == [["weight"], ["bias"]]
    layers = [torch.nn.Linear(3, 2), torch.nn.Linear(2, 4)]
    groups = [{"params": layers[0].parameters(), "lr": 0.1}, {"params": layers[1].weight}]
    optimizer = Muon(groups, lr=0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 1e-3, 0.2]
    optimizer.add_param_group({"params": [layers[1].bias]})
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 1e-3, 0.2, 1e-3]


def test_a_parameter_without_a_gradient_rests():
    parameters, other = parameters_of(), parameters_of()
    one, two = Muon(parameters), Muon(other)
    gradients = some_gradients(4)
    run(one, parameters, gradients[:2])
    before = values(parameters)
    one.zero_grad()
    versions = [p._version for p in parameters]
    one.step()
    assert [p._version for p in parameters] == versions
    for got, expected in zip(values(parameters), before, strict=True):
        np.testing.assert_array_equal(got, expected)
    run(one, parameters, gradients[2:])
    run(two, other, gradients)
    for got, expected in zip(values(parameters), values(other), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_it_updates_in_place():
    parameters = parameters_of()
    places = [p.data_ptr() for p in parameters]
    versions = [p._version for p in parameters]
    optimizer = Muon(parameters)
    run(optimizer, parameters, some_gradients(1))
    assert [p.data_ptr() for p in parameters] == places
    assert all(p._version > v for p, v in zip(parameters, versions, strict=True))


def test_a_step_reads_nothing_from_its_device():
    """Tensors on "meta" hold no data."""
    parameters = [torch.nn.Parameter(p.detach().to("meta")) for p in parameters_of()]
    optimizer = Muon(parameters)
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    for _ in range(2):
        optimizer.step()


def test_a_restored_optimizer_goes_on_to_the_bit(tmp_path):
    gradients = some_gradients(9)
    unbroken = parameters_of()
    optimizer = Muon(unbroken, lr=0.1)
    run(optimizer, unbroken, gradients[:4])
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    resumed = copy.deepcopy(unbroken)
    run(optimizer, unbroken, gradients[4:])
    fresh = Muon(resumed)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt"))
    run(fresh, resumed, gradients[4:])
    assert [group["lr"] for group in fresh.param_groups] == [0.1, 1e-3]
    for got, expected in zip(values(resumed), values(unbroken), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_closure_is_evaluated_with_gradients():
    layer = torch.nn.Linear(2, 1)
    optimizer = Muon(layer.parameters())

    def closure():
        optimizer.zero_grad()
        loss = layer(torch.ones(3, 2)).square().mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(30)]
    assert losses[-1] < losses[0]
    assert optimizer.step() is None


def test_a_gradient_scaler_skips_what_overflowed():
    parameters = parameters_of(dtype=torch.float32)
    optimizer, scaler = Muon(parameters), torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.zeros(()))
    gradients = some_gradients(2)
    give(parameters, [8 * g for g in gradients[0]])
    scaler.step(optimizer)
    scaler.update()
    other = parameters_of(dtype=torch.float32)
    run(Muon(other), other, gradients[:1])
    for got, expected in zip(values(parameters), values(other), strict=True):
        close(got, expected, 1e-6)
    before = values(parameters)
    give(parameters, gradients[1])
    parameters[0].grad[0, 0] = math.inf
    scaler.step(optimizer)
    for got, expected in zip(values(parameters), before, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_precision_stays(dtype):
    parameters = parameters_of(dtype=dtype)
    optimizer = Muon(parameters)
    run(optimizer, parameters, some_gradients(3))
    assert {p.dtype for p in parameters} == {dtype}
    assert all(torch.isfinite(p).all() for p in parameters)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"lr": -1.0}, ValueError, "lr: expected a finite number of at least 0, got -1.0"),
        ({"lr": math.nan}, ValueError, "lr: expected a finite number of at least 0, got nan"),
        ({"lr": "fast"}, TypeError, "lr: expected a number, got 'fast'"),
        ({"lr": True}, TypeError, "lr: expected a number, got True"),
        ({"params": [{"params": []}]}, ValueError, "params: expected at least one parameter"),
        ({"params": [{"params": set()}]}, TypeError, "params: expected an ordered collection"),
        ({"params": []}, ValueError, "empty parameter list"),
        ({"params": [3]}, TypeError, "can only optimize Tensors"),
    ],
)
def test_bad_values_say_what_to_do(arguments, error, message):
    with pytest.raises(error, match=message):
        Muon(**{"params": parameters_of()} | arguments)


def test_sparse_gradients_are_named():
    table = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = Muon(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="params: expected dense gradients, got a sparse one"):
        optimizer.step()
