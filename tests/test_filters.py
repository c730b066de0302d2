"""Filters and their transforms against the dense formulas."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iga_array import MLP, empirical_ntk
from iga_core import Adjustment, Damp, Equalise, LayerFactors, Network, Rows, Scale, Transform, gram
from iga_core.filters import SAFE
from tests.support import oracle
from tests.support.oracle import close, dense_transform

SPECTRA = {
    "distinct": [8, 5, 3, 2, 1.5, 1, 0.5, 0.25],
    "repeated": [4, 4, 4, 2, 2, 1, 1, 1],
    "of low rank": [4, 3, 1, 0, 0, 0, 0, 0],
    "unsafe": [4, 3, 1, 1e-17, 1e-18, 1e-18, 1e-19, 1e-19],
    "slightly negative": [4, 3, 1, 0.5, 1e-18, -1e-17, -2e-17, -3e-17],
    "one": [1, 0, 0, 0, 0, 0, 0, 0],
}
RANGES = [(0, 1), (0, 3), (1, 4), (2, 3), (0, 7), (4, 6)]


def kernel_with(values, seed=0):
    n = len(values)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
    kernel = (basis * np.asarray(values)) @ basis.T
    return (kernel + kernel.T) / 2


def quietly(spectral, kernel):
    """A filter's transform, without the word that fewer are equalised than asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spectral(kernel)


def is_determined(values, start, end, level):
    """Whether equal eigenvalues are treated alike; else S depends on how their vectors are chosen."""
    reference = values[start] if level == "start" else values[end]
    levels = [reference if start <= i < end else value for i, value in enumerate(values)]
    return len(set(zip(values, levels, strict=True))) == len(set(values))


def is_applied(backend, transform, S, groups=8):
    """Whether the transform does to arrays what S says."""
    cotangent = np.random.default_rng(0).normal(size=(groups, 3, 2))
    got = transform(backend.array(cotangent))
    backend.check(got)
    close(backend.to_numpy(got), np.einsum("ij,jpc->ipc", S, cotangent), 1e-12)
    on_means = cotangent + ((S - np.eye(groups)) @ cotangent.mean(axis=1))[:, None, :]
    close(backend.to_numpy(transform.on_means(backend.array(cotangent))), on_means, 1e-12)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize(("start", "end"), RANGES)
@pytest.mark.parametrize("level", ["next", "start"])
def test_equalise_against_the_dense_formula(backend64, name, start, end, level):
    kernel = kernel_with(SPECTRA[name])
    transform = quietly(Equalise(end, start, level), backend64.array(kernel))
    S = backend64.to_numpy(transform.matrix())
    wanted = dense_transform(kernel, start, end, level)
    if name != "repeated" or is_determined(SPECTRA[name], start, end, level):
        close(S, wanted, 1e-9)
    close(np.linalg.eigvalsh(S), np.linalg.eigvalsh(wanted), 1e-9)
    close(S @ kernel, kernel @ S, 1e-9)
    close(backend64.to_numpy(transform.eigenvalues), np.linalg.eigvalsh(kernel)[::-1], 1e-12)
    is_applied(backend64, transform, S)


def test_levels_by_hand():
    kernel = np.diag([8.0, 4.0, 2.0, 1.0])
    close(Equalise(2)(kernel).matrix(), np.diag([1 / 4, 1 / 2, 1, 1]), 1e-15)
    close(Equalise(2, level="start")(kernel).matrix(), np.diag([1, 2, 1, 1]), 1e-15)
    close(Equalise(3, 1, "start")(kernel).matrix(), np.diag([1, 1, 2, 1]), 1e-15)
    close(Equalise(3, 1)(kernel).matrix(), np.diag([1, 1 / 4, 1 / 2, 1]), 1e-15)


@given(st.integers(0, 99), st.integers(2, 9), st.data())
def test_laws_of_equalise(seed, n, data):
    end = data.draw(st.integers(1, n - 1))
    start = data.draw(st.integers(0, end - 1))
    level = data.draw(st.sampled_from(["next", "start"]))
    kernel = kernel_with(np.sort(np.random.default_rng(seed).uniform(0.1, 9, n))[::-1], seed)
    S = Equalise(end, start, level)(kernel).matrix()
    close(S, S.T, 1e-12)
    values, vectors = np.linalg.eigh(kernel)
    values, vectors = values[::-1], vectors[:, ::-1]
    outside = [i for i in range(n) if not start <= i < end]
    close(S @ vectors[:, outside], vectors[:, outside], 1e-9)
    adjusted = np.diag(vectors.T @ S @ kernel @ vectors)
    reference = values[end] if level == "next" else values[start]
    close(adjusted[start:end], np.full(end - start, reference), 1e-9)
    assert np.linalg.eigvalsh((S + S.T) / 2).min() > 0


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_damp_against_the_dense_formula(backend64, name, scale):
    kernel = kernel_with(SPECTRA[name])
    transform = Damp(scale)(backend64.array(kernel))
    S = backend64.to_numpy(transform.matrix())
    close(S, oracle.damp(kernel, scale), 1e-9)
    close(backend64.to_numpy(transform.eigenvalues)[:3], np.linalg.eigvalsh(kernel)[::-1][:3], 1e-9)
    is_applied(backend64, transform, S)


@given(st.integers(0, 99), st.integers(1, 9), st.floats(0.1, 10), st.floats(1e-6, 1e6))
def test_laws_of_damp(seed, n, scale, factor):
    values = np.random.default_rng(seed).uniform(0.5, 9, n)
    kernel = kernel_with(values, seed)
    S = Damp(scale)(kernel).matrix()
    close(S, S.T, 1e-12)
    close(S @ kernel, kernel @ S, 1e-9)
    mu = scale * np.exp(np.mean(np.log(values)))
    close(np.sort(np.linalg.eigvalsh(S)), np.sort(mu / (values + mu)), 1e-9)
    close(Damp(scale)(factor * kernel).matrix(), S, 1e-9)
    order = np.random.default_rng(seed).permutation(n)
    close(Damp(scale)(kernel[np.ix_(order, order)]).matrix(), S[np.ix_(order, order)], 1e-9)


@pytest.mark.parametrize("share", [0.0, 1e-6, 1e-3])
def test_quiet_groups_have_no_part_in_mu(share):
    loud = kernel_with([5.0, 2.0, 1.0, 0.5])
    quiet = share * np.eye(3)
    kernel = np.block([[loud, np.zeros((4, 3))], [np.zeros((3, 4)), quiet]])
    S = Damp()(kernel).matrix()
    close(S[:4, :4], Damp()(loud).matrix(), 1e-12)
    close(np.diag(S)[4:], np.full(3, 5**0.25 / (share + 5**0.25)), 1e-12)


@pytest.mark.parametrize("spectral", [Damp(), Equalise(3), Equalise(3, 1, "start")])
def test_a_zero_kernel_gives_the_identity(backend, spectral):
    transform = spectral(backend.array(np.zeros((4, 4))))
    np.testing.assert_array_equal(backend.to_numpy(transform.matrix()), np.eye(4))


def test_a_single_group():
    close(Damp()(np.full((1, 1), 4.0)).matrix(), [[0.5]], 1e-15)
    with pytest.warns(UserWarning, match="end: expected less than the 1 groups, got 3"):
        np.testing.assert_array_equal(Equalise(3)(np.full((1, 1), 4.0)).matrix(), [[1.0]])


def kernels(kind, width, groups, dtype):
    model = MLP(Network(kind, width=width), seed=0, dtype=np.float32)
    points = np.random.default_rng(0).uniform(-1, 1, (groups, 2)).astype(np.float32)
    model.parameters = [p.astype(dtype) for p in model.parameters]
    return empirical_ntk(model, points.astype(dtype))


def test_float32_equalises_as_many_of_a_large_kernel():
    """`n eps` as the bound left 73 of 192."""
    cotangent = np.random.default_rng(1).normal(size=(384, 3))
    single, double = (
        quietly(Equalise(192), kernels("relu", 128, 384, dtype)) for dtype in ("float32", "float64")
    )
    count = np.sum(
        single.eigenvalues[:192] > SAFE * np.finfo("float32").eps * single.eigenvalues[0]
    )
    assert count == 192
    a, b = single(cotangent.astype("float32")), double(cotangent)
    assert np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b) > 0.99


@pytest.mark.parametrize(("kind", "width", "groups"), [("relu", 8, 256), ("siren", 8, 256)])
def test_rounding_of_a_singular_kernel_does_not_drag_mu_down(kind, width, groups):
    """μ was 9e-7 and 1e-11 of the largest eigenvalue, and the gradient gone."""
    single, double = (kernels(kind, width, groups, dtype) for dtype in ("float32", "float64"))
    wanted = oracle.damp(double, eps=np.finfo("float32").eps)
    close(Damp()(single).matrix(), wanted, 0.05)
    cotangent = np.random.default_rng(1).normal(size=(groups, 1))
    assert np.linalg.norm(Damp()(double)(cotangent)) > 0.1 * np.linalg.norm(cotangent)


def test_it_is_said_where_fewer_are_equalised_than_asked():
    kernel = np.diag([8.0, 4.0, 2.0, 0.0, 0.0])
    with pytest.warns(UserWarning, match="end: not all of the 4 leading eigenvalues exceed 4 eps"):
        S = Equalise(4)(kernel).matrix()
    close(S, np.diag([1 / 4, 1 / 2, 1, 1, 1]), 1e-15)
    with pytest.warns(
        UserWarning, match=r"end: expected less than the 5 groups, got 9; it is taken as 4"
    ):
        close(Equalise(9)(np.diag([5.0, 4.0, 3.0, 2.0, 1.0])).matrix().diagonal()[3], 0.5, 1e-15)


@given(st.floats(0, 5), st.integers(1, 9))
def test_scale_is_a_multiple_of_the_identity(factor, groups):
    cotangent = np.random.default_rng(0).normal(size=(groups, 4, 2))
    transform = Scale(factor)()
    assert transform.uniform
    assert transform.matrix() == factor
    close(transform(cotangent), factor * cotangent, 1e-15)
    means = cotangent.mean(axis=1, keepdims=True)
    close(transform.on_means(cotangent), cotangent - means + factor * means, 1e-12)


def test_float32_agrees_with_float64():
    kernel = kernel_with(2.0 ** -np.arange(10))
    cotangent = np.random.default_rng(0).normal(size=(10, 4))
    for spectral in (Equalise(4), Damp()):
        got = spectral(kernel.astype(np.float32))(cotangent.astype(np.float32))
        assert got.dtype == np.float32
        close(got, spectral(kernel)(cotangent), 1e-5)


def test_where_there_is_no_float64():
    strict = pytest.importorskip("array_api_strict")
    place = strict.Device("no_float64")
    kernel = strict.asarray(kernel_with([4.0, 2.0, 1.0]), dtype=strict.float32, device=place)
    for spectral in (Damp(), Equalise(2)):
        S = spectral(kernel).matrix()
        assert (S.dtype, S.device) == (strict.float32, place)
        S = np.asarray(S.to_device(strict.Device("CPU_DEVICE")))
        close(S, spectral(kernel_with([4.0, 2.0, 1.0])).matrix(), 1e-5)


@pytest.mark.parametrize("spectral", [Damp(), Equalise(3), Scale(0.1)])
def test_without_shapes_that_depend_on_data(spectral):
    strict = pytest.importorskip("array_api_strict")
    with strict.ArrayAPIStrictFlags(data_dependent_shapes=False, boolean_indexing=False):
        kernel = strict.asarray(kernel_with(SPECTRA["of low rank"]))
        cotangent = strict.ones((8, 3, 2), dtype=strict.float64)
        transform = quietly(spectral, kernel)
        assert transform(cotangent).shape == transform.on_means(cotangent).shape == (8, 3, 2)


def test_a_large_finite_kernel_is_finite():
    kernel = np.full((2, 2), 1.5e38, np.float32)
    close(Equalise(1)(kernel).matrix(), np.eye(2), 1e-6)
    assert np.all(np.isfinite(Damp()(kernel).matrix()))


def test_a_third_partys_filter():
    """As the documentation says: a function of a kernel, in a few lines."""

    def clip(kernel):  # eigenvalues above the median become the median
        values, V = np.linalg.eigh(kernel)
        gains = np.minimum(1, np.median(values) / np.maximum(values, 1e-12))
        return Transform((V * gains) @ V.T)

    adjustment = Adjustment(filter=clip)
    close(adjustment.filter(np.diag([4.0, 2.0, 1.0])).matrix(), np.diag([0.5, 1, 1]), 1e-15)
    assert "clip" in adjustment.describe()
    assert " at 0x" not in adjustment.describe()


BAD_CALLS = [
    (lambda: Damp()(np.ones((4, 3))), ValueError, r"kernel: expected shape \(n, n\)"),
    (lambda: Damp()(np.ones((0, 0))), ValueError, "kernel: expected at least one number"),
    (lambda: Damp()(np.eye(4, dtype=int)), TypeError, "kernel: expected float32 or float64"),
    (lambda: Damp()(np.array([[1.0, 2.0], [0.0, 1.0]])), ValueError, "kernel: expected a symmetric"),
    (lambda: Damp()(np.array([[1.0, np.nan], [np.nan, 1.0]])), ValueError, "kernel: expected finite"),
    (lambda: Equalise(1)(np.array([[np.inf, 0.0], [0.0, 1.0]])), ValueError, "kernel: expected finite"),
    (lambda: Damp()(np.ma.masked_array(np.eye(2))), TypeError, "kernel: expected an array without a mask"),
    (lambda: Damp()(np.eye(2).view(np.matrix)), TypeError, "kernel: expected an array, got numpy.matrix"),
    (lambda: Damp()(None), TypeError, "kernel: expected an array, got NoneType"),
    (lambda: Damp()(np.eye(4))(np.ones((3, 2))), ValueError, "this transform is of 4 groups"),
    (lambda: Damp()(np.eye(4))(np.ones((4, 2), np.float32)), TypeError, "expected one dtype"),
    (lambda: Damp()(np.eye(4)).on_means(np.ones(4)), ValueError, "cotangent: expected shape"),
    (lambda: Damp()(np.eye(4))(np.ma.ones((4, 2))), TypeError, "cotangent: expected an array without"),
    (lambda: LayerFactors(np.eye(2).view(np.matrix), np.eye(2).view(np.matrix)), TypeError, "numpy.matrix"),
    (lambda: LayerFactors(np.eye(2), np.eye(2), bias="no"), TypeError, "bias: expected True or False"),
    (lambda: Rows(np.ma.ones((2, 2))), TypeError, "jacobian: expected an array without a mask"),
    (lambda: gram(None), TypeError, "factors: expected a list of factors, got None"),
    (lambda: Damp(0), ValueError, "scale: expected a positive number, got 0"),
    (lambda: Damp("1"), TypeError, "scale: expected a number, got '1'"),
    (lambda: Damp(np.inf), ValueError, "scale: expected a number from 0 to below inf"),
    (lambda: Scale(-0.1), ValueError, "factor: expected a number from 0"),
    (lambda: Scale(np.nan), ValueError, "factor: expected a number from 0"),
    (lambda: Equalise(0), ValueError, "end: expected at least 1"),
    (lambda: Equalise(2.0), TypeError, "end: expected a whole number"),
    (lambda: Equalise(3, 3), ValueError, "start: expected less than end = 3, got 3"),
    (lambda: Equalise(3, -1), ValueError, "start: expected at least 0"),
    (lambda: Equalise(3, level="last"), ValueError, "level: expected one of next, start, got 'last'"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "message"), BAD_CALLS)
def test_bad_values_say_what_to_do(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"filter": Damp}, TypeError, "filter: expected a filter such as"),
        ({"filter": "damp"}, TypeError, "filter: expected a filter such as"),
        ({"sampling": "worst"}, ValueError, "sampling: expected one of"),
        ({"sampling": "centre", "samples": 2}, ValueError, "use sampling='random'"),
        ({"outputs": "full"}, ValueError, "outputs: expected one of sum, trace"),
        ({"reach": "all"}, ValueError, "reach: expected one of"),
        ({"samples": 0}, ValueError, "samples: expected at least 1"),
        ({"refresh": 0}, ValueError, "refresh: expected at least 1"),
        ({"average": 1}, ValueError, "average: expected a number from 0 to below 1, got 1"),
        ({"average": True}, TypeError, "average: expected a number, got True"),
        ({"seed": np.arange(9)}, TypeError, r"seed: expected a whole number, got ndarray of shape \(9,\)"),
    ],
)  # fmt: skip
def test_bad_settings_say_what_to_do(settings, error, message):
    with pytest.raises(error, match=message):
        Adjustment(**settings)


def test_the_papers_settings():
    paper = Adjustment.paper(15, 1, "start", outputs="trace")
    assert paper == Adjustment(
        Equalise(15, 1, "start"), sampling="largest", samples=1, reach="points", outputs="trace",
        refresh=1, average=0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="filter: expected at least 16 groups for Equalise"):
        paper.require_fit(15, 9)
    with pytest.raises(
        ValueError, match="samples: expected at most the 3 points of a group, got 4"
    ):
        Adjustment(samples=4).require_fit(9, 3)
