"""Pictures to measure, how measures refuse, and LPIPS weights by chance."""

import functools
from pathlib import Path

import numpy as np
import pytest

from iga_lab.errors import InputError

RNG = np.random.default_rng(5)


def picture(height=40, width=44, channels=3):
    return RNG.uniform(size=(height, width, channels))


def refused(*words):
    return pytest.raises(InputError, match=".*".join(words))


LAYERS = (
    ("net.slice1.0", (64, 3, 11, 11), 4, 2, False),
    ("net.slice2.3", (192, 64, 5, 5), 1, 2, True),
    ("net.slice3.6", (384, 192, 3, 3), 1, 1, True),
    ("net.slice4.8", (256, 384, 3, 3), 1, 1, False),
    ("net.slice5.10", (256, 256, 3, 3), 1, 1, False),
)


@functools.cache
def state():
    """Of LPIPS's network, by chance."""
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
