"""`from_network`: the networks of the core as PyTorch modules."""

import copy
import pickle

import numpy as np
import pytest

import iga_array
from iga_core import Network
from tests.support.networks import KINDS
from tests.support.oracle import close, evaluate, jacobian

torch = pytest.importorskip("torch")

from iga_torch.networks import from_network  # noqa: E402


def small(kind, depth=2):
    return Network(kind, outputs=3, width=5, depth=depth, frequencies=2)


def points(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (*shape, 2))


def numpy(tensor):
    return tensor.detach().numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
def test_values(kind, depth, dtype, tolerance):
    network, coords = small(kind, depth), points(7)
    model = from_network(network, 3, getattr(torch, dtype))
    got = model(torch.tensor(coords, dtype=model.layers[0].weight.dtype))
    assert got.dtype == getattr(torch, dtype)
    close(numpy(got), evaluate(network, network.initial(3), coords), tolerance)
    array = iga_array.MLP(network, seed=3, dtype=getattr(np, dtype))
    close(numpy(got), array(coords.astype(dtype)), tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_one_point_at_a_time(kind):
    network, coords = small(kind), points(6)
    model = from_network(network, dtype=torch.float64)
    parameters = dict(model.named_parameters())

    def evaluated(parameters, point):
        return torch.func.functional_call(model, parameters, (point,))

    one = torch.func.jacrev(evaluated)
    rows = torch.func.vmap(one, (None, 0))(parameters, torch.tensor(coords))
    got = np.concatenate([numpy(rows[name]).reshape(6, 3, -1) for name in parameters], axis=-1)
    close(got, jacobian(network, network.initial(0), coords), 1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_derivative_along_the_coordinates(kind):
    network, coords = small(kind), points(6)
    inputs = torch.tensor(coords, requires_grad=True)
    from_network(network, dtype=torch.float64)(inputs).sum().backward()
    stepped = coords + 1e-30j * np.array([1, 0])
    parameters = [p.astype(complex) for p in network.initial(0)]
    wanted = evaluate(network, parameters, stepped).imag / 1e-30
    close(numpy(inputs.grad)[:, 0], wanted.sum(axis=1), 1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_the_core_s_in_its_order(kind):
    network = small(kind)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model = from_network(network, 4)
    assert torch.equal(torch.get_rng_state(), before)
    wanted = network.initial(4)
    assert [name for name, _ in model.named_parameters()] == [
        f"layers.{k}.{part}" for k in range(3) for part in ("weight", "bias")
    ]
    assert list(model.state_dict()) == [name for name, _ in model.named_parameters()]
    for got, expected in zip(model.parameters(), wanted, strict=True):
        assert got.dtype == torch.float32
        assert got.requires_grad
        np.testing.assert_array_equal(numpy(got), expected.astype(np.float32))


def test_leading_axes_are_kept():
    model, coords = from_network(small("pe"), dtype=torch.float64), torch.tensor(points(4, 3, 2))
    got = model(coords)
    assert got.shape == (4, 3, 2, 3)
    close(numpy(got).reshape(-1, 3), numpy(model(coords.reshape(-1, 2))), 1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_traced_whole(kind):
    model, coords = from_network(small(kind)), torch.tensor(points(6)).float()
    torch.compiler.reset()  # it compiles one function so many times in a process
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    close(numpy(compiled(coords)), numpy(model(coords)), 1e-6)
    torch.compiler.reset()


@pytest.mark.parametrize("kind", KINDS)
def test_copies(kind):
    model, coords = from_network(small(kind), 2), torch.tensor(points(6)).float()
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(coords), model(coords))
    fresh = from_network(small(kind), 5)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(coords), model(coords))


@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind):
    model, coords = from_network(small(kind)), torch.tensor(points(6)).float()
    with torch.autocast("cpu", torch.bfloat16):
        got = model(coords)
    assert got.dtype == torch.bfloat16
    assert torch.isfinite(got).all()


def test_the_encoding_is_exact_in_another_precision():
    network = Network("pe", outputs=1, width=4, depth=1, frequencies=12)
    model = from_network(network).double()
    parameters = [p.astype(np.float32).astype(np.float64) for p in network.initial(0)]
    coords = points(9)
    close(numpy(model(torch.tensor(coords))), evaluate(network, parameters, coords), 1e-11)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"network": "siren"}, TypeError, "network: expected a Network, got str; pass"),
        ({"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
        ({"seed": 0.5}, TypeError, "seed: expected a whole number"),
        (
            {"dtype": torch.float16},
            TypeError,
            r"dtype: expected torch.float32 or torch.float64, got",
        ),
        ({"dtype": np.float32}, TypeError, "dtype: expected torch.float32"),
        ({"device": "gpu"}, ValueError, r"device: expected one that .* got 'gpu'"),
        ({"device": "cuda:99"}, ValueError, "device: expected one that .* got 'cuda:99'"),
        ({"device": 1.5}, ValueError, "device: expected one that"),
    ],
)
def test_bad_values_say_what_to_do(change, error, message):
    with pytest.raises(error, match=message):
        from_network(**{"network": small("relu")} | change)


def test_coordinates_of_another_dimension():
    with pytest.raises(ValueError, match=r"coords: expected shape \(..., 2\), got \(4, 3\)"):
        from_network(small("relu"))(torch.zeros(4, 3))
