"""From what a person said to the settings of a fit: what was left open depends on the signal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iga_core import Adjustment
from iga_core.cost import affordable_groups
from iga_core.filters import needs_kernel
from iga_core.network import nyquist_frequencies
from iga_lab.errors import InputError
from iga_lab.hardware import array_library
from iga_lab.settings import defaults
from iga_lab.settings.cutting import (
    CONTROL_GROUPS,
    STEP_SHARE,
    control_patch,
    counts,
    default_patch,
)
from iga_lab.settings.naming import FILTERS, OF_A_KERNEL, OWN, composed, network_of
from iga_lab.settings.requiring import require_networks, require_patch, require_usable
from iga_lab.settings.settings import Settings
from iga_lab.signals import Signal


def choose(given: Mapping[str, Any], signal: Signal) -> Settings:
    """Fill in the defaults that depend on the signal or on other settings, and check everything.

    Parameters
    ----------
    given : mapping
        What the options of `iga fit` say, by their names; `frequencies`, `learning_rate`,
        `average_weights`, `patch`, `batch`, `device`, and what belongs to a filter or its kernel
        may be None, and `frequencies` "nyquist".
    signal : Signal
        To be fitted.

    Returns
    -------
    Settings

    Raises
    ------
    InputError
        If they cannot be used.
    """
    _require_belonging(given)
    try:
        settings = composed(_complete(given, signal))
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None
    require_usable(settings)
    return settings


def _complete(given: Mapping[str, Any], signal: Signal) -> dict[str, Any]:
    """Return what `composed` takes, in the order in which one default follows from another."""
    form = signal.form
    full = dict(given) | {"signal": signal.name, **vars(form)}
    full["device"] = array_library(given["backend"], given["device"])[2]
    if full["frequencies"] is None:
        full["frequencies"] = "nyquist" if len(form.shape) == 1 else defaults.FREQUENCIES
    if full["frequencies"] == "nyquist":
        full["frequencies"] = nyquist_frequencies(max(form.shape))
    if full["learning_rate"] is None:
        full["learning_rate"] = defaults.LEARNING_RATES[full["optimizer"]][full["network"]]
    full["average_weights"] = full["average_weights"] or 0.0
    if full["lpips_weights"] is not None:
        # A run that is resumed from elsewhere shall find the same file.
        full["lpips_weights"] = str(Path(full["lpips_weights"]).absolute())
    # The groups depend on what a step of the network costs, so it has to be possible first.
    require_networks(network_of(full), full["method"], full["dtype"])
    share = STEP_SHARE[len(form.shape)]
    if full["patch"] is None:
        full["patch"] = _patch(full, batched=full["batch"] is not None or share > 1)
    require_patch(full["grouping"], full["patch"], form)
    groups, _ = counts(full["grouping"], full["patch"], form.shape)
    if full["batch"] is None and share > 1 and groups >= 2 * share:
        full["batch"] = groups // share
    full |= _of_batches(full, full["batch"] is not None)
    if full["filter"] == "equalise" and full["end"] is None:
        full["end"] = max(1, int((full["batch"] or groups) * defaults.END_SHARE))
    return full


def _of_batches(full: Mapping[str, Any], batched: bool) -> dict[str, Any]:
    """Return refresh and average; the transform of one batch does not serve the next."""
    alone = {"refresh": 1, "average": 0.0} if batched else {}
    return {name: value for name, value in alone.items() if full[name] is None}


def _patch(full: Mapping[str, Any], batched: bool) -> int:
    """Return the patch or block of as many groups as a step can afford."""
    grouping, shape = full["grouping"], full["shape"]
    if not needs_kernel(FILTERS[full["filter"]]):
        # Without a kernel any number of groups is free; the best is the control's.
        return (
            control_patch(shape)
            if grouping == "patches"
            else default_patch("blocks", shape, lambda _: CONTROL_GROUPS)
        )
    said = dict(full) | _of_batches(full, batched)
    costs = {name: said[name] for name in ("samples", "refresh") if said[name] is not None}
    adjustment, shapes = Adjustment(**costs), network_of(full).shapes
    return default_patch(grouping, shape, lambda n: affordable_groups(adjustment, shapes, n))


def _require_belonging(given: Mapping[str, Any]) -> None:
    """Raise if a setting is given that another filter has."""
    chosen = given["filter"]
    for name, own in OWN.items():
        others = [setting for setting in own if given[setting] is not None]
        control = name == "scale" and "scale" in given["method"]
        if name != chosen and others and not control:
            raise _not_belonging(others, f"--filter {name}", chosen)
    others = [setting for setting in OF_A_KERNEL if given[setting] is not None]
    if not needs_kernel(FILTERS[chosen]) and others:
        raise _not_belonging(others, "a filter that has a kernel", chosen)


def _not_belonging(others: list[str], whose: str, chosen: str) -> InputError:
    options = ", ".join(f"--{name}" for name in others)
    return InputError(
        f"filter: expected {whose} with {options}, got {chosen!r}; choose it or leave out {options}"
    )
