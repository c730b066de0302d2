"""LPIPS with random weights against its definition, and weights that cannot be used."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from iga_lab import metrics
from tests.support.measures import LAYERS, RNG, picture, refused, saved, state


@pytest.fixture
def weights(tmp_path):
    return saved(tmp_path, state())


def windows(maps, size, stride):
    views = np.lib.stride_tricks.sliding_window_view(maps, (size, size), axis=(1, 2))
    return views[:, ::stride, ::stride]


def defined_lpips(values, left, right):
    """Zhang et al. 2018, equation 1, written out in NumPy."""
    shift, scale = (
        values[f"scaling_layer.{n}"].reshape(3, 1, 1).astype(float) for n in ("shift", "scale")
    )
    maps = [(2 * np.moveaxis(p, 2, 0) - 1 - shift) / scale for p in (left, right)]
    total = 0.0
    for i, (name, shape, stride, padding, pooled) in enumerate(LAYERS):
        kernel, bias = (values[f"{name}.{n}"].astype(float) for n in ("weight", "bias"))
        for j, m in enumerate(maps):
            m = windows(m, 3, 2).max((3, 4)) if pooled else m
            m = np.pad(m, ((0, 0), (padding, padding), (padding, padding)))
            m = np.einsum("oiyx,ihwyx->ohw", kernel, windows(m, shape[2], stride))
            maps[j] = np.maximum(m + bias[:, None, None], 0)
        a, b = (m / (np.sqrt((m**2).sum(0)) + 1e-10) for m in maps)
        head = values[f"lin{i}.model.1.weight"].reshape(-1, 1, 1)
        total += (head * (a - b) ** 2).sum(0).mean()
    return total


def test_lpips_is_its_definition(weights):
    left, right = picture(), picture()
    expected = defined_lpips(state(), left, right)
    assert expected > 0.1
    assert metrics.lpips(left, right, weights) == pytest.approx(expected, rel=1e-10)


def test_lpips_of_equals_is_0_and_order_does_not_matter(weights):
    left, right = picture(), picture()
    assert metrics.lpips(left, left, weights) == 0
    assert metrics.lpips(left, right, weights) == pytest.approx(metrics.lpips(right, left, weights))


def test_lpips_of_a_grey_picture_is_that_of_three_equal_channels(weights):
    left, right = picture(channels=1), picture(channels=1)
    coloured = [np.repeat(p, 3, axis=2) for p in (left, right)]
    assert metrics.lpips(left, right, weights) == metrics.lpips(*coloured, weights)


def test_lpips_needs_a_side_of_31(weights):
    assert metrics.lpips(picture(31, 31), picture(31, 31), weights) > 0
    with refused("at least 31 pixels a side for LPIPS", "got 40 x 30"):
        metrics.lpips(picture(30, 40), picture(30, 40), weights)


MAKE = r'torch.save\(lpips.LPIPS\(net="alex"\).state_dict'


def test_lpips_refuses_a_file_that_is_not_there(tmp_path):
    pytest.importorskip("torch")
    with refused("weights: expected the state of lpips", "nowhere.pt", MAKE):
        metrics.lpips(picture(), picture(), tmp_path / "nowhere.pt")
    with refused("weights: expected the state of lpips", MAKE):
        metrics.lpips(picture(), picture(), tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x04}.", RNG.bytes(500)])
def test_lpips_refuses_a_file_of_something_else(tmp_path, content):
    pytest.importorskip("torch")
    (tmp_path / "alex.pt").write_bytes(content)
    with refused("weights: expected the state of lpips", "alex.pt", MAKE):
        metrics.lpips(picture(), picture(), tmp_path / "alex.pt")


def test_lpips_waits_for_no_pipe(tmp_path):
    pytest.importorskip("torch")
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes in folders")
    os.mkfifo(tmp_path / "pipe")
    with refused("weights: expected the state of lpips", "no regular file"):
        metrics.lpips(picture(), picture(), tmp_path / "pipe")


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def test_lpips_runs_nothing_that_a_file_holds(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    Path("alex.pt").write_bytes(pickle.dumps(Trap()))
    with refused("weights: expected the state of lpips"):
        metrics.lpips(picture(), picture(), Path("alex.pt"))
    assert not Path("touched").exists()


def test_lpips_refuses_another_state(tmp_path):
    for content, words in (
        ([1.0, 2.0], ("got a list",)),
        ({k: v for k, v in state().items() if "lin3" not in k}, ("without 'lin3.model.1.weight'",)),
        (
            state() | {"net.slice2.3.bias": np.zeros(7)},
            ("net.slice2.3.bias", r"\(7,\)", r"\(192,\)"),
        ),
        (state() | {"lin0.model.1.weight": np.full((1, 64, 1, 1), np.nan)}, ("NaN", "lin0")),
    ):
        with refused("weights: expected the state of lpips", *words, MAKE):
            metrics.lpips(picture(), picture(), saved(tmp_path, content))
