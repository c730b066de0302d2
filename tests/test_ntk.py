"""`gram`: products of factors against those of explicit Jacobians, on every library."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import iga_core.ntk
from iga_core import Grouping, LayerFactors, Lookup, Rows, gram
from tests.support.oracle import close


def random_factors(generator, n, uses, d_in, d_out):
    leading = (n,) if uses is None else (n, uses)
    return generator.normal(size=(*leading, d_in)), generator.normal(size=(*leading, d_out))


def layer_jacobian(inputs, cotangents, weight, bias):
    """Rows of the explicit Jacobian, one use after the other."""
    n = len(inputs)
    inputs = inputs.reshape(n, -1, inputs.shape[-1])
    cotangents = cotangents.reshape(n, -1, cotangents.shape[-1])
    rows = []
    for a, b in zip(inputs, cotangents, strict=True):
        parts = [sum(np.outer(t, s) for s, t in zip(a, b, strict=True)).ravel()] * weight
        rows.append(np.concatenate(parts + [b.sum(axis=0)] * bias))
    return np.stack(rows)


def table_jacobian(indices, cotangents, length):
    rows = np.zeros((len(indices), length, cotangents.shape[-1]))
    for row, places, values in zip(rows, indices, cotangents, strict=True):
        np.add.at(row, places, values)
    return rows.reshape(len(indices), -1)


@pytest.mark.parametrize("uses", [None, 1, 2, 4, 9])
@pytest.mark.parametrize("shape", [(3, 40), (40, 3), (5, 5), (1, 7)])
@pytest.mark.parametrize("trained", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("block", [1, 2**25])
def test_layers(backend, uses, shape, trained, block, monkeypatch):
    monkeypatch.setattr(iga_core.ntk, "BLOCK_BYTES", block)
    generator = np.random.default_rng(0)
    left = random_factors(generator, 6, uses, *shape)
    right = random_factors(generator, 4, uses and uses + 1, *shape)
    factors = [LayerFactors(*map(backend.array, side), *trained) for side in (left, right)]
    jacobians = [layer_jacobian(*side, *trained) for side in (left, right)]
    for got, wanted in (
        (gram(factors[:1]), jacobians[0] @ jacobians[0].T),
        (gram(factors[:1], factors[1:]), jacobians[0] @ jacobians[1].T),
        (gram(factors[:1], factors[:1]), jacobians[0] @ jacobians[0].T),
    ):
        backend.check(got)
        close(backend.to_numpy(got), wanted, 500 * backend.eps)


@pytest.mark.parametrize("block", [1, 2**25])
def test_tables(backend, block, monkeypatch):
    monkeypatch.setattr(iga_core.ntk, "BLOCK_BYTES", block)
    generator = np.random.default_rng(1)
    sides = [(generator.integers(0, 5, (n, 3)), generator.normal(size=(n, 3, 2))) for n in (6, 4)]
    lookups = [Lookup(backend.integers(i), backend.array(b)) for i, b in sides]
    jacobians = [table_jacobian(*side, 5) for side in sides]
    tolerance = 500 * backend.eps
    close(backend.to_numpy(gram(lookups[:1])), jacobians[0] @ jacobians[0].T, tolerance)
    rectangular = gram(lookups[:1], lookups[1:])
    backend.check(rectangular)
    close(backend.to_numpy(rectangular), jacobians[0] @ jacobians[1].T, tolerance)


def test_shares_of_all_parameters_are_summed():
    generator = np.random.default_rng(2)
    layer = random_factors(generator, 5, 2, 3, 4)
    rows = generator.normal(size=(5, 7))
    indices, values = generator.integers(0, 3, (5, 2)), generator.normal(size=(5, 2, 1))
    J = np.hstack([layer_jacobian(*layer, True, True), rows, table_jacobian(indices, values, 3)])
    factors = [LayerFactors(*layer), Rows(rows), Lookup(indices, values)]
    close(gram(factors), J @ J.T, 1e-13)


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("uses", [None, 2])
def test_half_of_a_symmetric_matrix_is_computed_in_blocks_of_rows(backend, rows, uses, monkeypatch):
    monkeypatch.setattr(iga_core.ntk, "HOST_ROWS", rows)
    generator = np.random.default_rng(3)
    layer = random_factors(generator, 7, uses, 3, 4)
    indices, values = (
        generator.integers(0, 3, (7, uses or 1)),
        generator.normal(size=(7, uses or 1, 2)),
    )
    more = generator.normal(size=(7, 5))
    J = np.hstack([layer_jacobian(*layer, True, True), table_jacobian(indices, values, 3), more])
    got = gram(
        [
            LayerFactors(*map(backend.array, layer)),
            Lookup(backend.integers(indices), backend.array(values)),
            Rows(backend.array(more)),
        ]
    )
    backend.check(got)
    close(backend.to_numpy(got), J @ J.T, 500 * backend.eps)


@given(
    st.integers(0, 99), st.integers(1, 6), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)
)
def test_a_gram_matrix_is_symmetric_and_positive(seed, n, uses, d_in, d_out):
    factors = [LayerFactors(*random_factors(np.random.default_rng(seed), n, uses, d_in, d_out))]
    kernel = gram(factors)
    np.testing.assert_array_equal(kernel, kernel.T)
    assert np.linalg.eigvalsh(kernel).min() >= -1e-12 * np.trace(kernel)


def test_arguments_are_left_as_they_were():
    inputs, cotangents = random_factors(np.random.default_rng(0), 4, 2, 3, 3)
    before = inputs.copy(), cotangents.copy()
    factors = [LayerFactors(inputs, cotangents), Rows(cotangents[:, 0])]
    first = gram(factors)
    np.testing.assert_array_equal(gram(factors), first)
    np.testing.assert_array_equal(inputs, before[0])
    np.testing.assert_array_equal(cotangents, before[1])


@pytest.mark.parametrize("uses", [None, 8])
def test_memory_is_bounded(uses):
    n, width = 300, 256
    factors = [
        LayerFactors(
            *(
                x.astype(np.float32)
                for x in random_factors(np.random.default_rng(0), n, uses, width, width)
            )
        )
    ]
    tracemalloc.start()
    gram(factors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    explicit = 4 * n * width * width
    assert peak < explicit / (20 if uses is None else 2)


numpy_factors = LayerFactors(np.ones((2, 3)), np.ones((2, 3)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LayerFactors(np.ones((2, 3)), np.ones((3, 3))), ValueError, r"inputs: expected shape \(3, d_in\)"),
        (lambda: LayerFactors(np.ones((2, 3)), np.ones((2, 1, 3))), ValueError, r"inputs: expected shape \(2, 1, d_in\)"),
        (lambda: LayerFactors(np.ones(2), np.ones(2)), ValueError, r"cotangents: expected"),
        (lambda: LayerFactors(np.ones((2, 3)), np.ones((2, 3), np.float32)), TypeError, "expected one dtype"),
        (lambda: LayerFactors(np.ones((2, 3)), np.ones((2, 3)), False, False), ValueError, "leave the layer out"),
        (lambda: LayerFactors(np.ones((2, 3)), np.ones((2, 3)), bias="no"), TypeError, "bias: expected True or False, got 'no'"),
        (lambda: LayerFactors(np.ones((2, 3)), np.ones((2, 3)), np.ones((99, 99))), TypeError, r"weight: expected True or False, got ndarray of shape \(99, 99\)"),
        (lambda: Lookup(np.ones((2, 3)), np.ones((2, 3, 1))), TypeError, "indices: expected integers"),
        (lambda: Lookup(np.ones((2, 2), int), np.ones((2, 3, 1))), ValueError, "indices: expected shape"),
        (lambda: Rows(np.ones(3)), ValueError, "jacobian: expected shape"),
        (lambda: LayerFactors(np.ones((0, 3)), np.ones((0, 3))), ValueError, "inputs: expected at least one number"),
        (lambda: Lookup([[1]], np.ones((1, 1, 1))), TypeError, "indices: expected an array, got list"),
        (lambda: gram(Rows(np.ones((2, 2)))), TypeError, "factors: expected a list of factors"),
        (lambda: gram(None), TypeError, "factors: expected a list of factors, got None"),
        (lambda: gram(np.ones((99, 99))), TypeError, "factors: expected LayerFactors, Lookup or Rows, got ndarray"),
        (lambda: gram([]), ValueError, "factors: expected at least one"),
        (lambda: gram([np.ones((2, 2))]), TypeError, "wrap an explicit Jacobian in Rows"),
        (lambda: gram([numpy_factors, Rows(np.ones((3, 1)))]), ValueError, "one number of rows"),
        (lambda: gram([numpy_factors], [Rows(np.ones((2, 3)))]), ValueError, "right: expected factors of the same"),
        (lambda: gram([numpy_factors, Rows(np.ones((2, 1), np.float32))]), TypeError, "expected one dtype"),
    ],
)  # fmt: skip
def test_bad_values_say_what_to_do(make, error, message):
    with pytest.raises(error, match=message) as raised:
        make()
    assert len(str(raised.value)) < 200


ONES = np.ones((2, 2))
UNLIKE_ARRAYS = {
    "without a mask, got numpy.ma.MaskedArray": np.ma.masked_array(ONES, ONES > 0),
    "got numpy.matrix": ONES.view(np.matrix),
}


@pytest.mark.parametrize("words", UNLIKE_ARRAYS)
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("inputs", lambda x: LayerFactors(x, ONES)),
        ("cotangents", lambda x: LayerFactors(ONES, x)),
        ("indices", lambda x: Lookup(x.astype(int), ONES[:, :, None])),
        ("jacobian", Rows),
        ("flat", lambda x: Grouping.blocks(2, 1).split(x)),
        ("groups", lambda x: Grouping.blocks(4, 2).join(x, np.ones(0))),
        ("rest", lambda x: Grouping.blocks(2, 1).join(ONES[:, :1], x)),
    ],
)
def test_what_computes_otherwise_than_an_array_is_refused(name, make, words):
    with pytest.raises(TypeError, match=f"{name}: expected an array,? {words}; "):
        make(UNLIKE_ARRAYS[words])


@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr"])
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_tensors_are_refused(layout):
    torch = pytest.importorskip("torch")
    sparse = getattr(torch.eye(3), layout)()
    for make in (lambda: LayerFactors(sparse, torch.eye(3)), lambda: Rows(sparse)):
        with pytest.raises(
            TypeError, match=r"expected a dense array, got a sparse one; .*to_dense"
        ):
            make()


def test_mixed_namespaces_and_devices_are_refused():
    import array_api_strict as strict

    with pytest.raises(
        TypeError, match="expected arrays of one library, got numpy, array_api_strict"
    ):
        LayerFactors(np.ones((2, 3)), strict.ones((2, 3)))
    other = strict.ones((2, 3), device=strict.Device("device1"))
    with pytest.raises(ValueError, match="expected one device"):
        LayerFactors(strict.ones((2, 3)), other)
