"""What a run asks of its arguments."""

from typing import Any

from iga_array.mlp import MLP
from iga_core import Adjustment, Grouping
from iga_core.adjustment import require_fit
from iga_core.arrays import Array, require_finite, require_shape
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


def require_data(
    model: MLP, coords: Array, targets: Array, grouping: Grouping, adjustment: Adjustment | None
) -> None:
    """Raise unless the data, their groups and the adjustment are for this model."""
    network = model.network
    if network.normalised and adjustment is not None:
        raise ValueError(
            f"adjustment: expected None for {network.label}, got one; with batch normalisation a "
            "point's output depends on all others, so that the kernel of a few representatives is "
            "not defined: train it plainly, or fold() it first"
        )
    remedy = "give one row a point"
    require_shape("coords", coords, (grouping.count, network.inputs), remedy)
    require_shape("targets", targets, (grouping.count, network.outputs), remedy)
    require_finite("coords", coords, "clean the data first")
    require_finite("targets", targets, "clean the data first")
    if adjustment is not None:
        require_fit(adjustment, grouping)
