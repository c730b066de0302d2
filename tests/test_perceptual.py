"""LPIPS with random weights against its definition, and weights that cannot be used."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from iga_lab import metrics
from tests.test_metrics import RNG, picture, refused

LAYERS = (
    ("net.slice1.0", (64, 3, 11, 11), 4, 2, False),
    ("net.slice2.3", (192, 64, 5, 5), 1, 2, True),
    ("net.slice3.6", (384, 192, 3, 3), 1, 1, True),
    ("net.slice4.8", (256, 384, 3, 3), 1, 1, False),
    ("net.slice5.10", (256, 256, 3, 3), 1, 1, False),
)


@pytest.fixture(scope="module")
def state():
    rng = np.random.default_rng(11)
    values = {
        "scaling_layer.shift": np.array([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1),
        "scaling_layer.scale": np.array([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1),
    }
    for i, (name, shape, *_) in enumerate(LAYERS):
        fan_in = np.prod(shape[1:])
        values[f"{name}.weight"] = rng.normal(size=shape) * np.sqrt(2 / fan_in)
        values[f"{name}.bias"] = 0.1 * rng.normal(size=shape[0])
        values[f"lin{i}.model.1.weight"] = rng.uniform(size=(1, shape[0], 1, 1))
    return {name: value.astype(np.float32) for name, value in values.items()}


def saved(folder: Path, content) -> Path:
    torch = pytest.importorskip("torch")
    if isinstance(content, dict):
        content = {k: torch.asarray(v.copy()) for k, v in content.items()}
    torch.save(content, folder / "alex.pt")
    return folder / "alex.pt"


@pytest.fixture
def weights(tmp_path, state):
    return saved(tmp_path, state)


def windows(maps, size, stride):
    views = np.lib.stride_tricks.sliding_window_view(maps, (size, size), axis=(1, 2))
    return views[:, ::stride, ::stride]


def defined_lpips(state, left, right):
    """Zhang et al. 2018, equation 1, written out in NumPy."""
    shift, scale = (
        state[f"scaling_layer.{n}"].reshape(3, 1, 1).astype(float) for n in ("shift", "scale")
    )
    maps = [(2 * np.moveaxis(p, 2, 0) - 1 - shift) / scale for p in (left, right)]
    total = 0.0
    for i, (name, shape, stride, padding, pooled) in enumerate(LAYERS):
        kernel, bias = (state[f"{name}.{n}"].astype(float) for n in ("weight", "bias"))
        for j, m in enumerate(maps):
            m = windows(m, 3, 2).max((3, 4)) if pooled else m
            m = np.pad(m, ((0, 0), (padding, padding), (padding, padding)))
            m = np.einsum("oiyx,ihwyx->ohw", kernel, windows(m, shape[2], stride))
            maps[j] = np.maximum(m + bias[:, None, None], 0)
        a, b = (m / (np.sqrt((m**2).sum(0)) + 1e-10) for m in maps)
        head = state[f"lin{i}.model.1.weight"].reshape(-1, 1, 1)
        total += (head * (a - b) ** 2).sum(0).mean()
    return total


def test_lpips_is_its_definition(weights, state):
    left, right = picture(), picture()
    expected = defined_lpips(state, left, right)
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


def test_lpips_refuses_another_state(tmp_path, state):
    for content, words in (
        ([1.0, 2.0], ("got a list",)),
        ({k: v for k, v in state.items() if "lin3" not in k}, ("without 'lin3.model.1.weight'",)),
        (state | {"net.slice2.3.bias": np.zeros(7)}, ("net.slice2.3.bias", r"\(7,\)", r"\(192,\)")),
        (state | {"lin0.model.1.weight": np.full((1, 64, 1, 1), np.nan)}, ("NaN", "lin0")),
    ):
        with refused("weights: expected the state of lpips", *words, MAKE):
            metrics.lpips(picture(), picture(), saved(tmp_path, content))
