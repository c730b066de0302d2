"""Every measure on a case whose answer is known otherwise."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from iga_lab import metrics
from tests.support.measures import RNG, picture, refused

# psnr, ssim


def test_psnr_of_a_known_error():
    np.testing.assert_allclose(metrics.psnr([1.0, 0.01, 0.0]), [0, 20, math.inf])


def test_ssim_of_equals_is_1():
    truth = picture()
    assert metrics.ssim(truth, truth) == pytest.approx(1, abs=1e-12)


def test_ssim_of_a_constant_shift_is_its_luminance_term():
    truth = np.full((16, 20, 1), 0.5)
    expected = (2 * 0.5 * 0.7 + 0.01**2) / (0.5**2 + 0.7**2 + 0.01**2)
    assert metrics.ssim(truth + 0.2, truth) == pytest.approx(expected, rel=1e-9)


# ms_ssim

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def defined_ms_ssim(a, b):
    """Wang, Simoncelli and Bovik 2003, of one channel whose sides are multiples of 16."""
    ticks = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(ticks, ticks) / ticks.sum() ** 2

    def mean(values):
        views = np.lib.stride_tricks.sliding_window_view(values, (11, 11))
        return np.tensordot(views, window, 2)

    value = 1.0
    for scale, weight in enumerate(WEIGHTS):
        va, vb = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2
        both = mean(a * b) - mean(a) * mean(b)
        structure = (2 * both + 0.03**2) / (va + vb + 0.03**2)
        luminance = (2 * mean(a) * mean(b) + 0.01**2) / (mean(a) ** 2 + mean(b) ** 2 + 0.01**2)
        last = scale == len(WEIGHTS) - 1
        value *= np.mean(structure * luminance if last else structure) ** weight
        a, b = (
            (v.reshape(v.shape[0] // 2, 2, -1, 2).mean((1, 3)) for v in (a, b))
            if not last
            else (a, b)
        )
    return value


def require_ms_ssim():
    pytest.importorskip("pytorch_msssim", exc_type=ImportError)


def test_ms_ssim_is_its_definition():
    require_ms_ssim()
    smooth = np.cumsum(np.cumsum(RNG.normal(size=(176, 192, 3)), axis=0), axis=1)
    truth = (smooth - smooth.min()) / np.ptp(smooth)
    prediction = truth + 0.05 * RNG.normal(size=truth.shape)
    expected = np.mean([defined_ms_ssim(prediction[..., c], truth[..., c]) for c in range(3)])
    assert 0.1 < expected < 0.99
    # The library draws its window in float32.
    assert metrics.ms_ssim(prediction, truth) == pytest.approx(expected, rel=1e-6)


def test_ms_ssim_of_equals_and_of_a_constant_shift():
    require_ms_ssim()
    truth = np.full((176, 176, 1), 0.5)
    assert metrics.ms_ssim(truth, truth) == pytest.approx(1, abs=1e-6)
    luminance = (2 * 0.5 * 0.7 + 0.01**2) / (0.5**2 + 0.7**2 + 0.01**2)
    # The sum of that window differs from 1 by rounding, which appears as a variance.
    assert metrics.ms_ssim(truth + 0.2, truth) == pytest.approx(luminance ** WEIGHTS[-1], rel=1e-5)


def test_ms_ssim_without_its_library_names_the_command(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "pytorch_msssim", None)
    with refused("pytorch-msssim: expected to be installed", r'pip install "iga-core\[measures\]"'):
        metrics.ms_ssim(picture(161, 161), picture(161, 161))


def test_ms_ssim_needs_a_side_of_161():
    with refused("at least 161 pixels a side", "got 200 x 160", "give a larger picture"):
        metrics.ms_ssim(picture(160, 200), picture(160, 200))
    require_ms_ssim()
    assert 0 <= metrics.ms_ssim(picture(161, 161), picture(161, 161)) <= 1


# iou


def box(*corners):
    solid = np.zeros((10, 10, 10), dtype=bool)
    solid[tuple(slice(low, high) for low, high in corners)] = True
    return solid


def test_iou_of_two_offset_boxes():
    left, right = box((0, 4), (0, 4), (0, 4)), box((1, 5), (1, 5), (2, 6))
    both = 3 * 3 * 2
    assert metrics.iou(left, right) == both / (2 * 64 - both)
    assert metrics.iou(right, left) == metrics.iou(left, right)
    assert metrics.iou(left, left) == 1
    assert metrics.iou(left, box((5, 9), (0, 4), (0, 4))) == 0
    assert metrics.iou(left & False, left) == 0


def test_iou_counts_the_level_as_inside():
    truth = np.array([0.0, 0.0, 1.0, 1.0])
    assert metrics.iou(np.array([0.49, 0.5, 0.5, 0.49]), truth) == 1 / 3
    assert metrics.iou(np.array([0.49, 0.5, 0.5, 0.49]), truth, level=0.4) == 2 / 4


def test_iou_refuses_an_empty_truth():
    with refused("truth: expected something at or above the level 0.5", "at most 0.2", "lower"):
        metrics.iou(np.ones(3), np.full(3, 0.2))
    with refused("truth: expected something", "at most 0;"):
        metrics.iou(np.ones(3), np.zeros(3, dtype=bool))


# what cannot be compared


MEASURES = {
    "ms_ssim": (metrics.ms_ssim, (170, 170, 3)),
    "lpips": (lambda a, b: metrics.lpips(a, b, Path("unread.pt")), (40, 40, 3)),
    "iou": (metrics.iou, (4, 4, 4)),
    "band_errors": (metrics.band_errors, (8, 8, 3)),
    "frequency_errors": (lambda a, b: metrics.frequency_errors(a, b, [1]), (8, 3)),
}


@pytest.mark.parametrize(("measure", "shape"), MEASURES.values(), ids=MEASURES)
def test_arrays_that_cannot_be_compared(measure, shape):
    truth = RNG.uniform(size=shape)
    with refused("prediction: expected the truth's shape", "compare a signal with its own fit"):
        measure(truth[1:], truth)
    for bad in (np.nan, np.inf):
        spoilt = truth.copy()
        spoilt[1, 1] = bad
        with refused("prediction: expected finite values", "NaN or infinite", "learning rate"):
            measure(spoilt, truth)
        with refused("truth: expected finite values", "repair the signal"):
            measure(truth, spoilt)
    with refused("truth: expected values"):
        measure(truth[:0], truth[:0])


@pytest.mark.parametrize("shape", [(200, 200), (200, 200, 2), (200, 200, 4), (5, 200, 200, 3)])
def test_pictures_have_one_or_three_channels(shape):
    values = RNG.uniform(size=shape)
    for measure in (metrics.ms_ssim, lambda a, b: metrics.lpips(a, b, Path("unread.pt"))):
        with refused("truth: expected shape", "height, width, 1 or 3", "give a grey or a colour"):
            measure(values, values)
