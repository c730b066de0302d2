"""Settings by name: as they are said on the command line, and as they lie in files.

One name a value, whatever the settings are composed of, so that a file outlives the classes.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from iga_core import SGD, Adam, Adjustment, Damp, Equalise, Muon, Network, Scale
from iga_core.optimizers import Optimizer
from iga_lab.settings.cutting import Cutting
from iga_lab.settings.settings import Place, Settings
from iga_lab.signals import Form

FILTERS: dict[str, Any] = {"damp": Damp, "equalise": Equalise, "scale": Scale}
OWN = {
    name: tuple(field.name for field in dataclasses.fields(kind)) for name, kind in FILTERS.items()
}
"""The settings of each filter, None for the others."""
OF_A_KERNEL = ("sampling", "samples", "outputs", "refresh", "average")
"""The settings that mean nothing to a filter without a kernel."""
OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "muon": Muon}


def composed(named: Mapping[str, Any]) -> Settings:
    """Return settings from their names, which the core's classes check.

    Parameters
    ----------
    named : mapping
        What `by_name` returns; what belongs to a filter or its kernel may be None, and has the
        core's default then.

    Raises
    ------
    TypeError, ValueError
        If one is out of its range.
    KeyError
        If one is missing.
    """
    of_form = {field.name: named[field.name] for field in dataclasses.fields(Form)}
    form = Form(**of_form | {"shape": tuple(named["shape"])})
    return Settings(
        signal=named["signal"],
        form=form,
        network=network_of(named),
        methods=tuple(named["method"]),
        steps=named["steps"],
        optimizer=OPTIMIZERS[named["optimizer"]](
            named["learning_rate"], named["schedule"], named["average_weights"]
        ),
        cutting=Cutting(named["grouping"], named["patch"], form.shape, named["batch"]),
        adjustment=adjustment_of(named),
        control=Scale(**_said(named, OWN["scale"])) if "scale" in named["method"] else None,
        place=Place(named["backend"], named["device"], named["dtype"]),
        columns=named["columns"],
        seed=named["seed"],
        lpips_weights=named["lpips_weights"],
    )


def network_of(named: Mapping[str, Any]) -> Network:
    """Return the network that settings name."""
    inputs = len(named["shape"])
    size = (named["width"], named["depth"], named["frequencies"])
    return Network(named["network"], inputs, named["channels"], *size)


def adjustment_of(named: Mapping[str, Any]) -> Adjustment:
    """Return the adjustment that settings name."""
    chosen = named["filter"]
    return Adjustment(
        FILTERS[chosen](**_said(named, OWN[chosen])),
        reach=named["reach"],
        seed=named["seed"],
        **_said(named, OF_A_KERNEL),
    )


def by_name(settings: Settings) -> dict[str, Any]:
    """Return settings by name, ready for JSON; what belongs to another filter is None.

    The names are those of every `result.json`.
    """
    s, a = settings, settings.adjustment
    own: dict[str, Any] = dict.fromkeys(name for names in OWN.values() for name in names)
    if s.control is not None:
        own |= vars(s.control)
    own |= vars(a.filter)
    return {
        "signal": s.signal,
        **vars(s.form),
        "network": s.network.kind,
        "frequencies": s.network.frequencies,
        "method": s.methods,
        "steps": s.steps,
        "width": s.network.width,
        "depth": s.network.depth,
        "grouping": s.cutting.grouping,
        "patch": s.cutting.patch,
        "batch": s.cutting.batch,
        "filter": _name_of(a.filter, FILTERS),
        **own,
        "sampling": a.sampling,
        "samples": a.samples,
        "reach": a.reach,
        "outputs": a.outputs,
        "refresh": a.refresh,
        "average": a.average,
        "optimizer": _name_of(s.optimizer, OPTIMIZERS),
        **vars(s.optimizer),
        "columns": s.columns,
        "seed": s.seed,
        "dtype": s.place.dtype,
        "backend": s.place.backend,
        "device": s.place.device,
        "lpips_weights": s.lpips_weights,
    }


def _said(named: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: named[name] for name in names if named[name] is not None}


def _name_of(one: object, kinds: Mapping[str, Any]) -> str:
    return next(name for name, kind in kinds.items() if type(one) is kind)
