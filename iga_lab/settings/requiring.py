"""What settings have to be beside one another and on this machine; each alone checks itself."""

import math
from collections.abc import Iterable

import numpy as np

from iga_core import Equalise, Network
from iga_core.filters import needs_kernel
from iga_core.kinds import KINDS
from iga_lab.errors import InputError
from iga_lab.memory import require_memory
from iga_lab.settings.settings import Settings, adjusted, architecture
from iga_lab.signals import Form

MOST_FREQUENCIES = 32
"""The core's bound is where octaves tell no points apart in float64; half is enough for pixels."""
KERNEL_COPIES = 10
"""Arrays of float64 of the kernel's size that making a transform takes: 7 to 10 were measured, for
Damp and Equalise of 3,000 groups, on NumPy and PyTorch."""
PUBLISHED = {
    "bn": ("normalises", "its layers need the scale and the phases that normalising takes away"),
    "fr": ("alpha", "nobody has published what it takes"),
}
"""Of the methods that are not for every network: the field of `iga_core.kinds.Kind` that says so,
and why."""
PARAMETER_COPIES = 6
"""Of a method: parameters, the two versions before, gradients and two moments."""


def require_usable(settings: Settings) -> None:
    """Raise InputError if settings do not fit together, or need more memory than there is."""
    cutting, frequencies = settings.cutting, settings.network.frequencies
    require_networks(settings.network, settings.methods, settings.place.dtype)
    require_patch(cutting.grouping, cutting.patch, settings.form)
    if cutting.batch is not None and not 1 <= cutting.batch <= cutting.groups:
        bound, remedy = f"at most the {cutting.groups} groups", "lower --batch or --patch"
        if cutting.batch < 1:
            bound, remedy = "at least 1", "raise it"
        raise InputError(f"batch: expected {bound}, got {cutting.batch}; {remedy}")
    if frequencies > MOST_FREQUENCIES:
        raise InputError(
            f"frequencies: expected at most {MOST_FREQUENCIES} octaves, got {frequencies}; lower it"
        )
    if any(map(adjusted, settings.methods)):
        _require_adjustable(settings)


def require_networks(network: Network, methods: Iterable[str], dtype: str) -> None:
    """Raise unless the methods' networks can be made, and their parameters fit in memory."""
    for method in methods:
        _require_kind(network, method)
    try:
        networks = [architecture(network, method) for method in methods]
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None
    count = sum(math.prod(shape) for each in networks for shape in each.shapes)
    require_memory(
        "width",
        PARAMETER_COPIES * count * np.dtype(dtype).itemsize,
        f"{count:,} parameters",
        "lower --width or --depth",
    )


def _require_kind(network: Network, method: str) -> None:
    """Raise for what the core would refuse in words for those who write Python."""
    for part in PUBLISHED.keys() & set(method.split("+")):
        field, why = PUBLISHED[part]
        kinds = [name for name, kind in KINDS.items() if getattr(kind, field) is not None]
        if network.kind not in kinds:
            raise InputError(
                f"method: expected --network {' or '.join(kinds)} with {method}, got "
                f"{network.kind!r}: {why}; choose another network, or leave {method} out"
            )
    if "fr" in method.split("+") and network.depth == 1:
        raise InputError(
            f"depth: expected at least 2 with {method}, which changes the weights between hidden "
            f"layers, got 1; raise --depth, or leave {method} out"
        )


def require_patch(grouping: str, patch: int, form: Form) -> None:
    """Raise InputError unless a signal of this form has a patch or block of this size."""
    if patch < 1:
        raise InputError(f"patch: expected at least 1, got {patch}; raise it")
    blocks, shape = grouping == "blocks", form.shape
    most = math.prod(shape) if blocks else min(shape)
    if patch > most:
        what = "the signal's" if blocks or len(shape) == 1 else "the shorter side's"
        raise InputError(
            f"patch: expected at most {what} {most} {form.unit}s, got {patch}; "
            "lower --patch or raise --size"
        )


def _require_adjustable(settings: Settings) -> None:
    cutting, adjustment = settings.cutting, settings.adjustment
    has_kernel = needs_kernel(adjustment.filter)
    if has_kernel and cutting.groups < 2:
        raise InputError(
            f"size: expected room for two groups of {cutting.points} points, got "
            f"{settings.form}; raise --size, or choose --method plain"
        )
    # The trainer would refuse it too, but in words that are not those of the command line.
    if isinstance(adjustment.filter, Equalise) and adjustment.filter.end >= cutting.together:
        what = "groups" if cutting.batch is None else "groups of a batch"
        raise InputError(
            f"end: expected less than the {cutting.together} {what}, got {adjustment.filter.end}; "
            f"lower --end {'or --patch' if cutting.batch is None else 'or raise --batch'}"
        )
    for name, alone in (("refresh", 1), ("average", 0)):
        value = getattr(adjustment, name)
        if cutting.batch is not None and value > alone:
            raise InputError(
                f"{name}: expected {alone} with --batch, got {value}; leave it out: the "
                "transform of one batch does not serve the next"
            )
    if adjustment.samples > cutting.points:
        raise InputError(
            f"samples: expected at most the {cutting.points} points of a group, got "
            f"{adjustment.samples}; lower --samples or raise --patch"
        )
    if has_kernel:
        require_memory(
            "patch", KERNEL_COPIES * cutting.together**2 * np.dtype(np.float64).itemsize,
            f"the transform of {cutting.together:,} groups",
            "raise --patch to have fewer groups, or give a smaller --batch",
        )  # fmt: skip
