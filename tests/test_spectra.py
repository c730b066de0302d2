"""Errors by frequency of signals that are sums of sines."""

import itertools

import numpy as np
import pytest

from iga_lab import metrics
from tests.support.measures import RNG, picture, refused


def wave(shape, *turns, phase=0.3):
    """A sine with whole turns along every axis of a grid, one channel."""
    axes = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
    angle = sum(2 * np.pi * t * a for t, a in zip(turns, axes, strict=True))
    return np.sin(angle + phase)[..., None]


EDGES = (0.0, 0.1, 0.2, 0.3, np.inf)


def test_a_sine_s_error_is_in_its_band_alone():
    shape = (32, 40)
    parts = [wave(shape, *turns) for turns in ((1, 2), (4, 4), (0, 10), (16, 20))]
    lengths = [np.hypot(a / 32, b / 40) for a, b in ((1, 2), (4, 4), (0, 10), (16, 20))]
    assert list(np.searchsorted(EDGES, lengths, side="right") - 1) == [0, 1, 2, 3]
    truth = sum(parts)
    for band, part in enumerate(parts):
        expected = np.zeros(4)
        expected[band] = 0.25
        found = metrics.band_errors(truth + 0.25 * part, truth, EDGES)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert np.all(found[expected == 0] == 0)


@pytest.mark.parametrize("shape", [(50,), (12, 15), (6, 7, 8)])
def test_one_band_of_all_frequencies_is_the_relative_error(shape):
    truth, prediction = RNG.normal(size=(2, *shape, 3))
    expected = np.linalg.norm(prediction - truth) / np.linalg.norm(truth)
    np.testing.assert_allclose(metrics.band_errors(prediction, truth, (0, np.inf)), expected)


def test_the_squares_of_the_bands_add_up():
    truth, prediction = RNG.normal(size=(2, 20, 24, 1))
    residual = metrics.band_errors(prediction, truth)
    assert residual.shape == (5,)
    power = np.abs(np.fft.fft2(truth[..., 0])) ** 2
    length = np.hypot(np.fft.fftfreq(20)[:, None], np.fft.fftfreq(24))
    edges = (0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, np.inf)
    inside = [power[(length >= a) & (length < b)].sum() for a, b in itertools.pairwise(edges)]
    whole = np.sum((prediction - truth) ** 2) * truth.size
    assert np.sum(residual**2 * inside) == pytest.approx(whole)


def test_a_band_without_truth_is_infinite_and_one_with_neither_is_nan():
    truth, extra = wave((64,), 2), wave((64,), 12)
    found = metrics.band_errors(truth + extra, truth, EDGES)
    np.testing.assert_array_equal(found[[0, 2, 3]], [0, np.nan, np.nan])
    assert found[1] == np.inf


def test_frequency_errors_of_a_sum_of_sines():
    amplitudes = {5: 1.0, 10: 2.0, 30: 0.5}
    truth = sum(a * wave((256,), k) for k, a in amplitudes.items())
    prediction = truth + 0.3 * wave((256,), 10, phase=1.0) - 0.5 * wave((256,), 30)
    found = metrics.frequency_errors(prediction, truth, [5, 10, 30])
    np.testing.assert_allclose(found, [0, 0.15, 1], rtol=1e-12)
    np.testing.assert_allclose(metrics.frequency_errors(truth, truth, [5, 10]), 0)
    assert np.isnan(metrics.frequency_errors(truth, truth, [7])[0])
    assert metrics.frequency_errors(truth + wave((256,), 7), truth, [7])[0] == np.inf


def test_frequency_errors_at_bins_are_those_of_the_fft():
    x = np.linspace(-1, 1, 101)
    truth, prediction = np.sin(2 * np.pi * 5 * x + 0.1), RNG.normal(size=101)
    bins = np.abs(np.fft.rfft(prediction - truth)) / np.abs(np.fft.rfft(truth))
    found = metrics.frequency_errors(prediction[:, None], truth[:, None], np.arange(51))
    np.testing.assert_allclose(found, bins, rtol=1e-10)


def test_frequency_errors_between_bins_are_the_sum_written_out():
    truth, prediction = RNG.normal(size=(2, 9, 2))

    def transform(values, f):
        return [sum(v * np.exp(-2j * np.pi * f * j / 9) for j, v in enumerate(c)) for c in values.T]

    for f in (0.25, 3.7):
        expected = np.linalg.norm(transform(prediction - truth, f)) / np.linalg.norm(
            transform(truth, f)
        )
        assert metrics.frequency_errors(prediction, truth, [f])[0] == pytest.approx(expected)


def test_bands_and_frequencies_that_cannot_be():
    truth = picture()
    for bands in ((0.0,), (0.2, 0.1), (-0.1, 0.2), (0.0, np.nan), 0.3):
        with refused("bands: expected increasing edges from 0 on", "cycles a sample"):
            metrics.band_errors(truth, truth, bands)
    with refused("truth: expected shape", "channels", r"got \(5,\)"):
        metrics.band_errors(np.ones(5), np.ones(5))
    with refused("truth: expected shape", r"\(n, channels\)", "use band_errors"):
        metrics.frequency_errors(truth, truth, [1])
    for frequencies in ([-1], [11], [np.nan], 3.0):
        with refused("frequencies: expected numbers from 0 to 10", "over the 20 samples"):
            metrics.frequency_errors(np.ones((20, 1)), np.ones((20, 1)), frequencies)
