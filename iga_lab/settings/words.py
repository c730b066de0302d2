"""Settings in words, for the terminal and the figures."""

from collections.abc import Mapping
from typing import Any

from iga_core import Damp, Equalise, Scale
from iga_lab.settings.settings import Settings, adjusted

FOURIER_RATE = (
    "fr: trained at the learning rate of all methods, {:g}; a rate moves its weights further than "
    "those of others, and pe wants about a tenth with it: see --learning-rate"
)


def about(settings: Settings) -> list[str]:
    """Return what each adjusted method does in which groups, and what it costs, a line each."""
    found = []
    if settings.control is not None:
        groups = settings.cutting_of("scale")
        found.append(f"Scale {settings.control.factor:g}, no kernel: {groups}")
    if any(map(adjusted, settings.methods)):
        found.append(
            f"IGA, {filtering(settings)}: {settings.cutting}, counted to add "
            f"{100 * settings.added_share:.1f} % to a step"
        )
    return found


def filtering(settings: Settings) -> str:
    """Return what the filter does, in a phrase."""
    chosen = settings.adjustment.filter
    if isinstance(chosen, Equalise):
        return f"eigenvalues {chosen.start} to {chosen.end - 1} equalised"
    if isinstance(chosen, Scale):
        return f"Scale {chosen.factor:g}"
    scale = chosen.scale if isinstance(chosen, Damp) else Damp.scale
    return "Damp" if scale == Damp.scale else f"Damp with scale {scale:g}"


def advice(given: Mapping[str, Any], settings: Settings) -> list[str]:
    """Return what a person should be told of settings that were not given, a line each."""
    if {"fr", "iga+fr"} & set(settings.methods) and given["learning_rate"] is None:
        return [FOURIER_RATE.format(settings.optimizer.learning_rate)]
    return []
