"""What a run asks of its arguments."""

from collections.abc import Mapping
from typing import Any

from iga_array.mlp import MLP
from iga_core import Adjustment, Grouping
from iga_core.arrays import Array, require_finite, require_shape, short
from iga_core.optimizers import Optimizer


def require_kinds(model: Any, grouping: Any, adjustment: Any, optimizer: Any) -> None:
    """Raise unless each is what its name says."""
    for name, value, kind in (
        ("model", model, MLP),
        ("grouping", grouping, Grouping),
        ("adjustment", adjustment, Adjustment),
        ("optimizer", optimizer, Optimizer),
    ):
        optional = kind in (Adjustment, Optimizer)
        if not isinstance(value, kind) and not (optional and value is None):
            raise TypeError(
                f"{name}: expected {kind.__name__}{' or None' if optional else ''}, got "
                f"{type(value).__name__}; construct one first"
            )
    if adjustment is not None and model.network.normalised:
        raise ValueError(
            f"adjustment: expected None for {model.network.label}, got one; with batch "
            "normalisation a point's output depends on all others, so that the kernel of a few "
            "representatives is not defined: train it plainly, or fold() it first"
        )


def require_data(model: MLP, coords: Array, targets: Array, grouping: Grouping) -> None:
    """Raise unless the data and their groups are for this model."""
    network = model.network
    remedy = "give one row a point"
    require_shape("coords", coords, (grouping.count, network.inputs), remedy)
    require_shape("targets", targets, (grouping.count, network.outputs), remedy)
    require_finite("coords", coords, "clean the data first")
    require_finite("targets", targets, "clean the data first")


def taken_count(state: Mapping[str, Any], name: str) -> int:
    """Return a number of steps of a state, else raise ValueError."""
    try:
        count = int(state[name])
    except (KeyError, TypeError, ValueError):
        count = -1
    if count < 0:
        raise ValueError(
            f"state: expected a number of steps as {name}, got {short(state.get(name))}; "
            "load it into a run of the same settings"
        )
    return count
