"""What a fit is to do: composed of the core's own descriptions, and chosen from what was said."""

from iga_lab.settings.choosing import choose
from iga_lab.settings.cutting import Cutting
from iga_lab.settings.naming import by_name, composed
from iga_lab.settings.requiring import require_usable
from iga_lab.settings.settings import ALL_METHODS, Place, Settings, adjusted

__all__ = [
    "ALL_METHODS", "Cutting", "Place", "Settings", "adjusted", "by_name", "choose", "composed",
    "require_usable",
]  # fmt: skip
