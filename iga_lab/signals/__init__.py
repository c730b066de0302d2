"""What can be fitted, a file a kind; and what all kinds share, which is all that others see."""

from iga_lab.signals.exporting import SUFFIXES, exported, suffixes
from iga_lab.signals.loading import load
from iga_lab.signals.signal import (
    AXES,
    HALF,
    MOST_SIDE,
    Form,
    Kind,
    Progress,
    Signal,
    Size,
    Values,
    coordinates,
)

__all__ = [
    "AXES", "HALF", "MOST_SIDE", "SUFFIXES", "Form", "Kind", "Progress", "Signal", "Size", "Values",
    "coordinates", "exported", "load", "suffixes",
]  # fmt: skip
