"""LPIPS: the distance of two pictures in the features of AlexNet."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iga_lab.errors import InputError
from iga_lab.hardware import array_library, to_host
from iga_lab.metrics.pairs import require_pictures

SMALLEST = 31
"""Pixels a side that AlexNet's five stages need."""
STAGES = (
    ("net.slice1.0", (64, 3, 11, 11), 4, 2),
    ("net.slice2.3", (192, 64, 5, 5), 1, 2),
    ("net.slice3.6", (384, 192, 3, 3), 1, 1),
    ("net.slice4.8", (256, 384, 3, 3), 1, 1),
    ("net.slice5.10", (256, 256, 3, 3), 1, 1),
)
"""Name, weight's shape, stride and padding of each convolution."""
POOLED = (1, 2)
"""Stages whose input is pooled, 3 x 3 with stride 2."""
MAKE = """torch.save(lpips.LPIPS(net="alex").state_dict(), "alex.pt")"""


def lpips(prediction: NDArray[np.float64], truth: NDArray[np.float64], weights: Path) -> float:
    """Return the learned perceptual distance of two pictures (Zhang et al. 2018, version 0.1).

    Parameters
    ----------
    prediction, truth : ndarray of float64, shape (height, width, 1 or 3)
        The unclipped prediction, and values in [0, 1]; they are scaled to [-1, 1], as the network
        expects. At least 31 pixels a side.
    weights : Path
        The state of ``lpips.LPIPS(net="alex")``, backbone and heads, as ``torch.save`` wrote it.

    Returns
    -------
    float
        0 for equal pictures; lower is better. Computed in float64.

    Raises
    ------
    InputError
        If the pictures or the weights cannot be used, or PyTorch is not installed.
    """
    require_pictures(prediction, truth, SMALLEST, "LPIPS")
    torch, _, _ = array_library("torch", "cpu")
    state = _load(torch, weights)
    with torch.no_grad():
        left, right = (_features(torch, state, picture) for picture in (prediction, truth))
        return sum(
            float((state[f"lin{i}.model.1.weight"] * (a - b) ** 2).sum(1).mean())
            for i, (a, b) in enumerate(zip(left, right, strict=True))
        )


def _features(torch: Any, state: dict[str, Any], picture: NDArray[np.float64]) -> list[Any]:
    """Return the feature maps of every stage, each position's of length 1."""
    functional = torch.nn.functional
    # A grey picture is one whose colours are equal; the copy is one that can be written to.
    colours = torch.asarray(np.broadcast_to(picture, (*picture.shape[:2], 3)).copy())
    maps = 2 * colours.permute(2, 0, 1)[None] - 1
    maps = (maps - state["scaling_layer.shift"]) / state["scaling_layer.scale"]
    found = []
    for i, (name, _, stride, padding) in enumerate(STAGES):
        if i in POOLED:
            maps = functional.max_pool2d(maps, 3, 2)
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        maps = functional.conv2d(maps, weight, bias, stride, padding).relu()
        found.append(maps / (torch.linalg.vector_norm(maps, dim=1, keepdim=True) + 1e-10))
    return found


def _load(torch: Any, path: Path) -> dict[str, Any]:
    """Return the arrays of a weights file by name, in float64."""
    if not path.is_file():
        # A pipe would be waited for, and a device can have no end.
        what = "a folder" if path.is_dir() else "no regular file" if path.exists() else "no file"
        raise _unusable(path, what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the file's format, which is checked below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file can raise anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise _unusable(path, f"what cannot be read ({reason})") from None
    if not isinstance(content, dict):
        raise _unusable(path, f"a {type(content).__name__}")
    state = {}
    for name, shape in _shapes().items():
        array = content.get(name)
        if not isinstance(array, torch.Tensor):
            raise _unusable(path, f"a state without {name!r}")
        if tuple(array.shape) != shape:
            raise _unusable(path, f"{name!r} of shape {tuple(array.shape)} instead of {shape}")
        state[name] = array.to(torch.float64)
        if not np.all(np.isfinite(to_host(state[name]))):
            raise _unusable(path, f"NaN or infinity in {name!r}")
    return state


def _shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of every array of the state that takes part."""
    shapes: dict[str, tuple[int, ...]] = {
        "scaling_layer.shift": (1, 3, 1, 1),
        "scaling_layer.scale": (1, 3, 1, 1),
    }
    for i, (name, shape, _, _) in enumerate(STAGES):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]
        shapes[f"lin{i}.model.1.weight"] = (1, shape[0], 1, 1)
    return shapes


def _unusable(path: Path, got: str) -> InputError:
    return InputError(
        'lpips-weights: expected the state of lpips.LPIPS(net="alex") as torch.save wrote it, '
        f"got {got} in {str(path)!r}; make the file where lpips is installed: {MAKE}"
    )
