import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iga_core import Adjustment, AdjustmentState, adjust, leading_eigenpairs, spectral_transform
from tests.oracle import close, dense_transform
from tests.test_spectrum import kernel_with

SPECTRA = {
    "distinct": [8, 5, 3, 2, 1.5, 1, 0.5, 0.25],
    "repeated": [4, 4, 4, 2, 2, 1, 1, 1],
    "of low rank": [4, 3, 1, 0, 0, 0, 0, 0],
    "unsafe": [4, 3, 1, 1e-17, 1e-18, 1e-18, 1e-19, 1e-19],
    "slightly negative": [4, 3, 1, 0.5, 1e-18, -1e-17, -2e-17, -3e-17],
    "one": [1, 0, 0, 0, 0, 0, 0, 0],
}
RANGES = [(0, 1), (0, 3), (1, 4), (2, 3), (0, 7), (4, 6)]


def transform_of(kernel, start, end, level):
    return adjust(kernel, Adjustment(end=end, start=start, level=level))[0]


def is_determined(values, start, end, level):
    """Whether equal eigenvalues are treated alike; else S depends on how their vectors are chosen."""
    reference = values[start] if level == "start" else values[end]
    levels = [reference if start <= i < end else value for i, value in enumerate(values)]
    return len(set(zip(values, levels, strict=True))) == len(set(values))


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize(("start", "end"), RANGES)
@pytest.mark.parametrize("level", ["next", "start"])
def test_against_the_dense_formula(backend64, name, start, end, level):
    backend = backend64
    kernel = kernel_with(SPECTRA[name])
    wanted = dense_transform(kernel, start, end, level)
    transform = transform_of(backend.array(kernel), start, end, level)
    S = backend.to_numpy(transform.matrix())
    # Rounding decides which of the eigenvalues near zero are safe: there, only the law counts.
    values = np.linalg.eigvalsh(kernel)[::-1]
    border = 8 * np.finfo(float).eps * values[0]
    if np.all((values > 3 * border) | (values < border / 3)):
        if name != "repeated" or is_determined(SPECTRA[name], start, end, level):
            close(S, wanted, 1e-9)
        close(np.linalg.eigvalsh(S), np.linalg.eigvalsh(wanted), 1e-9)
        close(S @ kernel, kernel @ S, 1e-9)
    cotangent = np.random.default_rng(0).normal(size=(8, 3, 2))
    got = transform(backend.array(cotangent))
    backend.check(got)
    close(backend.to_numpy(got), np.einsum("ij,jpc->ipc", S, cotangent), 1e-12)
    means = cotangent.mean(axis=1)
    on_means = cotangent + ((S - np.eye(8)) @ means)[:, None, :]
    close(backend.to_numpy(transform.on_means(backend.array(cotangent))), on_means, 1e-12)


def test_levels_by_hand():
    kernel = np.diag([8.0, 4.0, 2.0, 1.0])
    close(transform_of(kernel, 0, 2, "next").matrix(), np.diag([1 / 4, 1 / 2, 1, 1]), 1e-15)
    close(transform_of(kernel, 0, 2, "start").matrix(), np.diag([1, 2, 1, 1]), 1e-15)
    close(transform_of(kernel, 1, 3, "start").matrix(), np.diag([1, 1, 2, 1]), 1e-15)
    close(transform_of(kernel, 1, 3, "next").matrix(), np.diag([1, 1 / 4, 1 / 2, 1]), 1e-15)


def test_the_reference_is_the_last_safe_eigenvalue():
    kernel = np.diag([8.0, 4.0, 2.0, 0.0, 0.0])
    close(transform_of(kernel, 0, 4, "next").matrix(), np.diag([1 / 4, 1 / 2, 1, 1, 1]), 1e-15)


def test_a_zero_kernel_gives_the_identity(backend):
    for level in ("next", "start"):
        transform = transform_of(backend.array(np.zeros((4, 4))), 0, 3, level)
        np.testing.assert_array_equal(backend.to_numpy(transform.matrix()), np.eye(4))


@given(st.integers(0, 99), st.integers(2, 9), st.data())
def test_laws(seed, n, data):
    end = data.draw(st.integers(1, n - 1))
    start = data.draw(st.integers(0, end - 1))
    level = data.draw(st.sampled_from(["next", "start"]))
    kernel = kernel_with(np.sort(np.random.default_rng(seed).uniform(0.1, 9, n))[::-1], seed)
    S = transform_of(kernel, start, end, level).matrix()
    close(S, S.T, 1e-12)
    values, vectors = np.linalg.eigh(kernel)
    values, vectors = values[::-1], vectors[:, ::-1]
    outside = [i for i in range(n) if not start <= i < end]
    close(S @ vectors[:, outside], vectors[:, outside], 1e-9)
    adjusted = np.diag(vectors.T @ S @ kernel @ vectors)
    reference = values[end] if level == "next" else values[start]
    close(adjusted[start:end], np.full(end - start, reference), 1e-9)
    assert np.linalg.eigvalsh((S + S.T) / 2).min() > 0


def test_float32_agrees_with_float64():
    kernel = kernel_with(2.0 ** -np.arange(10))
    cotangent = np.random.default_rng(0).normal(size=(10, 4))
    got = transform_of(kernel.astype(np.float32), 0, 4, "next")(cotangent.astype(np.float32))
    assert got.dtype == np.float32
    close(got, transform_of(kernel, 0, 4, "next")(cotangent), 1e-5)


def test_more_pairs_than_needed_change_nothing():
    kernel = kernel_with(SPECTRA["distinct"])
    adjustment = Adjustment(end=3)
    S = [spectral_transform(*leading_eigenpairs(kernel, k), adjustment).matrix() for k in (4, 8)]
    np.testing.assert_array_equal(*S)


def test_the_state_counts_and_holds():
    kernel = kernel_with(SPECTRA["distinct"])
    adjustment = Adjustment(end=3, refresh=3)
    state = AdjustmentState()
    assert state.held(adjustment) is None
    transform, state = adjust(kernel, adjustment, state)
    for _ in range(2):
        assert state.held(adjustment) is transform
        state = state.skipped()
    assert state.step == 3
    assert state.held(adjustment) is None


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: adjust(np.eye(4), Adjustment(end=4)), ValueError, "end: expected less than the 4 groups, got 4"),
        (lambda: adjust(np.eye(1), Adjustment(end=1)), ValueError, "end: expected less than the 1 groups"),
        (lambda: adjust(np.ones((4, 3)), Adjustment(end=2)), ValueError, "kernel: expected"),
        (lambda: adjust(np.eye(4, dtype=int), Adjustment(end=2)), TypeError, "kernel: expected float32 or float64"),
        (lambda: spectral_transform(np.ones(3), np.ones((5, 3)), Adjustment(end=3)), ValueError, "values: expected at least end"),
        (lambda: spectral_transform(np.ones(4), np.ones((5, 3)), Adjustment(end=3)), ValueError, "vectors: expected"),
        (lambda: spectral_transform(np.full(4, np.nan), np.ones((5, 4)), Adjustment(end=3)), ValueError, "values: expected finite"),
        (lambda: transform_of(np.eye(4), 0, 2, "next")(np.ones((3, 2))), ValueError, "this transform is of 4 groups"),
        (lambda: transform_of(np.eye(4), 0, 2, "next")(np.ones((4, 2), np.float32)), TypeError, "expected one dtype"),
        (lambda: transform_of(np.eye(4), 0, 2, "next").on_means(np.ones(4)), ValueError, "cotangent: expected shape"),
    ],
)  # fmt: skip
def test_bad_values_say_what_to_do(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_settings_are_plain_numbers():
    import dataclasses
    import json

    adjustment = Adjustment(end=np.uint8(255), samples=np.int64(3))
    assert adjustment.end + 1 == 256
    assert json.loads(json.dumps(dataclasses.asdict(adjustment)))["samples"] == 3


def test_a_large_finite_kernel_is_finite():
    kernel = np.full((2, 2), 1.5e38, np.float32)
    close(transform_of(kernel, 0, 1, "next").matrix(), np.eye(2), 1e-6)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"end": 0}, ValueError, "end: expected at least 1"),
        ({"end": 2.0}, TypeError, "end: expected a whole number"),
        ({"start": 20}, ValueError, "start: expected less than end = 20, got 20"),
        ({"start": -1}, ValueError, "start: expected at least 0"),
        ({"level": "last"}, ValueError, "level: expected one of next, start, got 'last'"),
        ({"sampling": "worst"}, ValueError, "sampling: expected one of"),
        ({"sampling": "centre", "samples": 2}, ValueError, "use sampling='random'"),
        ({"outputs": "full"}, ValueError, "outputs: expected one of sum, trace"),
        ({"reach": "all"}, ValueError, "reach: expected one of"),
        ({"samples": 0}, ValueError, "samples: expected at least 1"),
        ({"refresh": 0}, ValueError, "refresh: expected at least 1"),
    ],
)
def test_bad_settings_say_what_to_do(settings, error, message):
    with pytest.raises(error, match=message):
        Adjustment(**settings)


def test_tracking_recovers_from_a_kernel_that_is_not_finite(monkeypatch):
    for room in ("adjustment", "arrays", "spectrum"):
        monkeypatch.setattr(f"iga_core.{room}.on_host", lambda _: False)
    monkeypatch.setattr("numpy.linalg.eigh", _eigh_that_gives_nan)
    generator = np.random.default_rng(0)
    vectors = np.linalg.qr(generator.normal(size=(30, 30)))[0]
    kernel = vectors @ np.diag(0.5 ** np.arange(30)) @ vectors.T
    adjustment, state = Adjustment(end=4), None
    for K in (kernel, kernel * np.nan, kernel, kernel, kernel):
        transform, state = adjust(K, adjustment, state)
        assert np.all(np.isfinite(state.vectors))
    exact = dense_transform(kernel, 0, 4, "next")
    np.testing.assert_allclose(transform.matrix(), exact, atol=1e-4)
    _, state = adjust(kernel * np.nan, adjustment, None)
    for _ in range(6):
        transform, state = adjust(kernel, adjustment, state)
    np.testing.assert_allclose(transform.matrix(), exact, atol=1e-4)


EIGH = np.linalg.eigh


def _eigh_that_gives_nan(matrix):
    """As on a GPU, where nothing is raised."""
    if not np.all(np.isfinite(matrix)):
        return np.full(len(matrix), np.nan), np.full_like(matrix, np.nan)
    return EIGH(matrix)
