import numpy as np
import pytest

import iga_array
from iga_core import LayerFactors, Network, gram
from tests.oracle import close, differences, evaluate, jacobian, kernel
from tests.test_network import KINDS

TOLERANCE = {"float64": 1e-10, "float32": 2e-4}


def small(kind, outputs=3, depth=2):
    return Network(kind, inputs=2, outputs=outputs, width=5, depth=depth, frequencies=2)


def model_on(backend, network, seed=0):
    return iga_array.MLP(
        network, xp=backend.xp, seed=seed, dtype=backend.dtype, device=backend.device
    )


def points(n, samples=None, seed=0):
    shape = (n, 2) if samples is None else (n, samples, 2)
    return np.random.default_rng(seed).uniform(-1, 1, shape)


def tolerance_of(backend):
    return TOLERANCE["float64" if "64" in str(backend.dtype) else "float32"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [1, 3])
def test_values(backend, kind, depth):
    network = small(kind, depth=depth)
    coords = points(7)
    got = model_on(backend, network)(backend.array(coords))
    backend.check(got)
    close(
        backend.to_numpy(got), evaluate(network, network.initial(0), coords), tolerance_of(backend)
    )


def test_leading_axes_are_kept(backend):
    model = model_on(backend, small("siren"))
    coords = points(6, 4)
    got = backend.to_numpy(model(backend.array(coords)))
    flat = backend.to_numpy(model(backend.array(coords.reshape(-1, 2))))
    close(got, flat.reshape(6, 4, 3), 10 * backend.eps)


@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_agrees_with_finite_differences(kind):
    network = small(kind)
    args = network, network.initial(0), points(6)
    close(jacobian(*args), differences(*args), 1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("rule", ["sum", "trace"])
@pytest.mark.parametrize("samples", [None, 1, 4])
def test_the_kernel_is_that_of_the_explicit_jacobian(backend, kind, outputs, rule, samples):
    network = small(kind, outputs)
    model = model_on(backend, network)
    left, right = points(6, samples), points(4, samples, 1)
    J, J_right = (
        jacobian(network, network.initial(0), x.reshape(-1, 2))
        .reshape(len(x), samples or 1, outputs, -1)
        .mean(axis=1)
        for x in (left, right)
    )
    got = iga_array.empirical_ntk(model, backend.array(left), outputs=rule)
    backend.check(got)
    close(backend.to_numpy(got), kernel(J, J, rule), tolerance_of(backend))
    got = iga_array.empirical_ntk(model, backend.array(left), backend.array(right), rule)
    close(backend.to_numpy(got), kernel(J, J_right, rule), tolerance_of(backend))


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_without_biases(backend64, kind):
    network = small(kind)
    model = model_on(backend64, network)
    coords = points(6)
    J = jacobian(network, network.initial(0), coords)
    weights = np.concatenate([np.full(np.prod(s), len(s) == 2) for s in network.shapes])
    factors = [
        LayerFactors(f.inputs, f.cotangents, bias=False)
        for f in model.factors(backend64.array(coords))
    ]
    wanted = kernel(J[..., weights], J[..., weights], "sum")
    close(backend64.to_numpy(gram(factors)), wanted, 1e-10)


def test_all_points_of_a_group_give_the_kernel_of_the_group_means(backend64):
    network = small("siren")
    groups = points(5, 9)
    means = (
        jacobian(network, network.initial(0), groups.reshape(-1, 2))
        .reshape(5, 9, 3, -1)
        .mean(axis=1)
    )
    got = iga_array.empirical_ntk(model_on(backend64, network), backend64.array(groups))
    close(backend64.to_numpy(got), kernel(means, means, "sum"), 1e-10)


def test_every_backend_starts_from_the_same_parameters(backend):
    network = small("gabor")
    for got, wanted in zip(
        model_on(backend, network, 3).parameters, network.initial(3), strict=True
    ):
        backend.check(got)
        np.testing.assert_allclose(backend.to_numpy(got), wanted, rtol=backend.eps)


def test_float32_is_the_default():
    assert {p.dtype for p in iga_array.MLP(small("relu")).parameters} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("coords", "error", "message"),
    [
        (np.ones((3, 2), int), TypeError, "coords: expected float32 or float64, got int64"),
        (np.ones((3, 2), np.float32), TypeError, "coords, parameters: expected one dtype"),
        (np.ones((3, 3)), ValueError, r"coords: expected shape \(..., 2\)"),
        (np.ones(2), ValueError, r"coords: expected shape \(..., 2\)"),
        (np.full((3, 2), np.nan), ValueError, "coords: expected finite values"),
        ([[0.0, 0.0]], TypeError, "coords: expected an array"),
    ],
)
def test_bad_coordinates_say_what_to_do(coords, error, message):
    with pytest.raises(error, match=message):
        iga_array.MLP(small("relu"), dtype=np.float64)(coords)


def test_other_bad_values_say_what_to_do():
    model = iga_array.MLP(small("relu"), dtype=np.float64)
    with pytest.raises(ValueError, match="outputs: expected 'sum' or 'trace', got 'full'"):
        model.factors(np.zeros((2, 2)), "full")
    with pytest.raises(ValueError, match=r"x: expected shape \(n, samples, 2\)"):
        model.factors(np.zeros((2, 2, 2, 2)))
    with pytest.raises(TypeError, match="float32 or float64"):
        iga_array.MLP(small("relu"), dtype=np.float16)
