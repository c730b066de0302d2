"""One entry of `KINDS` is a kind of network on every array library and in every framework."""

import dataclasses
import math
import pickle

import array_api_strict
import numpy as np
import pytest
from array_api_compat import array_namespace

from iga_array import MLP
from iga_array.activations import activated
from iga_core import Fourier, Network, gram
from iga_core.kinds import KINDS, Bounds, Kind
from tests.conftest import missing
from tests.support.oracle import close

# What a third party writes, whole:


def swish(xp, z, hold):  # noqa: ARG001
    return z / (1 + xp.exp(-z))


def swish_and_slope(xp, z):
    gate = 1 / (1 + xp.exp(-z))
    return z * gate, gate * (1 + z * (1 - gate))


SWISH = Kind(swish, swish_and_slope, scale=2.0, encodes=True, bounds=Bounds(hidden=lambda n: 2 / n))


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setitem(KINDS, "swish", SWISH)
    return Network("swish", width=5, depth=2, frequencies=2)


COORDS = np.random.default_rng(0).uniform(-1, 1, (7, 2))


def evaluate(network, parameters):
    """Outputs at COORDS by the differentiable form, complex parameters welcome."""
    kind, a = KINDS[network.kind], network.encode(COORDS)
    *hidden, (last, last_bias) = network.by_layer(parameters)
    for weight, bias in hidden:
        a = kind.value(np, kind.scale * (a @ weight.T + bias), np.real)
    return a @ last.T + last_bias


def jacobian(network, parameters):
    """Derivatives (points, outputs, parameters) by steps along the imaginary axis."""
    columns = []
    for index, parameter in enumerate(parameters):
        for place in np.ndindex(parameter.shape):
            stepped = [p.astype(complex) for p in parameters]
            stepped[index][place] += 1e-30j
            columns.append(evaluate(network, stepped).imag / 1e-30)
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("xp", [np, array_api_strict], ids=["numpy", "strict"])
def test_a_kind_of_a_third_party_on_arrays(network, xp):
    model, parameters = MLP(network, xp=xp, dtype=xp.float64), network.initial(0)
    coords, J = xp.asarray(COORDS), jacobian(network, parameters)
    values, tape = model.passes().forward(coords)
    close(np.asarray(values), evaluate(network, parameters), 1e-12)
    close(np.asarray(model(coords)), evaluate(network, parameters), 1e-12)
    passes = model.passes()
    gradients = passes.unfolded(passes.gradients(tape, xp.asarray(np.cos(np.asarray(values)))))
    wanted = np.einsum("nc,ncq->q", np.cos(np.asarray(values)), J)
    close(np.concatenate([np.asarray(g).ravel() for g in gradients]), wanted, 1e-11)
    rows = J.sum(axis=1) / math.sqrt(3)
    close(np.asarray(gram(model.factors(coords))), rows @ rows.T, 1e-11)


def test_a_kind_of_a_third_party_in_torch(network):
    torch = pytest.importorskip("torch")
    from iga_torch import from_network

    model, coords = from_network(network, dtype=torch.float64), torch.tensor(COORDS)
    model = pickle.loads(pickle.dumps(model))
    values = model(coords)
    close(values.detach().numpy(), MLP(network, dtype=np.float64)(COORDS), 1e-12)
    torch.compiler.reset()  # it compiles one function so many times in a process
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    close(compiled(coords).detach().numpy(), values.detach().numpy(), 1e-12)
    torch.compiler.reset()
    gradients = torch.autograd.grad(values, list(model.parameters()), torch.cos(values.detach()))
    J = jacobian(network, network.initial(0))
    wanted = np.einsum("nc,ncq->q", np.cos(values.detach().numpy()), J)
    close(np.concatenate([g.numpy().ravel() for g in gradients]), wanted, 1e-11)


def test_its_parameters_are_as_it_says(network):
    first, _, hidden, _, last, _ = network.initial(0)
    assert network.shapes[0] == (5, 10)
    for weight, bound in ((first, 10**-0.5), (hidden, 2 / 5), (last, 5**-0.5)):
        assert 0.8 * bound < np.abs(weight).max() <= bound
    with pytest.raises(ValueError, match=r"fourier: expected an alpha for swish.*relu, pe, siren"):
        Network("swish", fourier=Fourier())
    with pytest.raises(ValueError, match="normalised: expected False for swish"):
        Network("swish", normalised=True)


# Away from 0, where relu has no derivative.
POINTS = np.concatenate([np.linspace(-6, -0.05, 60), np.linspace(0.05, 6, 60)]).reshape(40, 3)


@pytest.mark.parametrize("name", KINDS)
def test_the_two_forms_of_a_kind_agree(backend, name):
    kind, z = KINDS[name], 1.0 * backend.array(POINTS)  # it may be used as storage
    xp = array_namespace(z)
    zero = backend.array(np.zeros(3))
    tolerance = 50 * backend.eps
    held = backend.to_numpy(kind.value(xp, z, lambda a: a))
    value, slope = map(backend.to_numpy, activated(xp, name, z, zero))
    np.testing.assert_allclose(held, value, rtol=0, atol=tolerance)
    points = backend.to_numpy(backend.array(POINTS)).astype(float)
    wanted = kind.value(np, points + 1e-30j, np.real).imag / 1e-30
    np.testing.assert_allclose(slope, wanted, rtol=0, atol=tolerance)


@pytest.mark.skipif(bool(missing("torch")), reason="torch is not installed")
@pytest.mark.parametrize("name", KINDS)
def test_derivatives_in_torch(name):
    import torch

    from iga_torch.networks import Activation

    kind, activation = KINDS[name], Activation(name)
    x = torch.linspace(-1, 1, 41, dtype=torch.float64, requires_grad=True)  # 0 among them
    (first,) = torch.autograd.grad(activation(x).sum(), x, create_graph=True)
    z = kind.scale * x.detach().numpy()
    slope = kind.scale * kind.value_and_slope(np, z)[1]
    np.testing.assert_allclose(first.detach().numpy(), slope, atol=1e-12)
    one = torch.func.vmap(torch.func.grad(activation))(x.detach())
    np.testing.assert_allclose(one.numpy(), slope, atol=1e-12)
    if name not in ("relu", "pe"):
        (second,) = torch.autograd.grad(first.sum(), x)
        # FINER's factor is constant in the second derivative too.
        assert torch.isfinite(second).all()
        assert second.abs().max() > 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"value": "sin"}, TypeError, "value: expected a function of .*, got 'sin'; see"),
        ({"value_and_slope": None}, TypeError, "value_and_slope: expected a function"),
        ({"scale": 0}, ValueError, "scale: expected a number from"),
        ({"scale": "30"}, TypeError, "scale: expected a number"),
        ({"bounds": 0.1}, TypeError, "bounds: expected Bounds, got 0.1; see"),
        ({"normalises": True}, TypeError, "normalises: expected before, after or None, got True"),
    ],
)
def test_a_bad_kind_says_what_to_do(change, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(SWISH, **change)
