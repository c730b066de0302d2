"""An adjustment's state as tensors by name."""

from collections.abc import Mapping

import torch
from torch import Tensor

from iga_core import Adjustment, AdjustmentState, SpectralTransform
from iga_torch.choosing import Candidates

PARTS = ("eigenvalues", "vectors", "weights")


def written(state: AdjustmentState, candidates: Candidates | None) -> dict[str, Tensor]:
    """Return a state, and the candidates of data in pieces, by name."""
    found: dict[str, Tensor | None] = {"step": torch.tensor(state.step), "tracked": state.vectors}
    if state.transform is not None:
        found |= {name: getattr(state.transform, name) for name in PARTS}
    if candidates is not None and candidates.calls > 1:
        found |= {f"candidates.{k}": tensor for k, tensor in enumerate(candidates.tensors)}
        found |= {
            "scores": candidates.scores,
            "anchor": candidates.anchor,
            "columns": torch.tensor(candidates.columns),
            "calls": torch.tensor(candidates.calls),
        }
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def read(
    state: Mapping[str, Tensor], adjustment: Adjustment, device: torch.device
) -> tuple[AdjustmentState, Candidates | None]:
    """Return what `written` was given, on a device, or raise ValueError if it does not fit."""
    found = {name: torch.as_tensor(tensor).to(device) for name, tensor in state.items()}
    step = _count(found, "step")
    transform = candidates = None
    if any(name in found for name in PARTS):
        transform = _transform(found, adjustment)
    if "calls" in found:
        tensors = [
            found[f"candidates.{k}"] for k in range(len(found)) if f"candidates.{k}" in found
        ]
        if not tensors or "scores" not in found or "anchor" not in found:
            raise _other("the candidates of a pass in pieces", sorted(found))
        candidates = Candidates(
            tensors,
            found["scores"],
            found["anchor"],
            _count(found, "columns"),
            _count(found, "calls"),
        )
    return AdjustmentState(step, transform, found.get("tracked")), candidates


def _transform(found: Mapping[str, Tensor], adjustment: Adjustment) -> SpectralTransform:
    equalised = adjustment.end - adjustment.start
    missing = [name for name in PARTS if name not in found]
    if missing:
        raise _other(", ".join(PARTS), sorted(found))
    values, vectors, weights = (found[name] for name in PARTS)
    # A batch of few groups has clipped `end`: then there are fewer of all.
    k = weights.shape[0] if weights.ndim == 1 else -1
    if (
        vectors.ndim != 2
        or vectors.shape[1] != k
        or values.shape != (k + adjustment.start + 1,)
        or k > equalised
    ):
        raise _other(
            f"up to {equalised} eigenvectors with their eigenvalues and weights",
            [tuple(found[name].shape) for name in PARTS],
        )
    return SpectralTransform(values, vectors, weights)


def _count(found: Mapping[str, Tensor], name: str) -> int:
    tensor = found.get(name)
    if tensor is None or tensor.numel() != 1 or tensor.is_floating_point() or int(tensor) < 0:
        raise _other(f"a number of steps or columns as {name}", tensor)
    return int(tensor)


def _other(wanted: str, got: object) -> ValueError:
    return ValueError(
        f"state: expected {wanted}, got {got}; load the adjustment_state() of the same settings"
    )
