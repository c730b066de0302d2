"""What the axes of an array hold, in letters: said by a person, or known from its shape."""

from typing import Any

from numpy.typing import NDArray

LETTERS = {"T": "T", "D": "D", "Z": "D", "H": "H", "Y": "H", "W": "W", "X": "W", "C": "C"}
"""Frames; slices, rows and columns, each by either of its names; and channels."""
GRIDS = {"HW": "image", "DHW": "volume", "THW": "video"}
"""Kinds by their axes without the channels, in the order in which a signal has them."""
COLOURS = (1, 3)
"""Channels that an axis is taken to hold, where nobody said what it holds."""
FEW = 4
"""An axis of at most so many points may hold channels."""


def kind_of(layout: str) -> str:
    """Return the kind of signal that an array of some axes holds.

    Parameters
    ----------
    layout : str
        A letter an axis: H and W (or Y and X), once each; D (or Z) or T where there are slices or
        frames; C where there are channels. In any order, upper or lower case.

    Raises
    ------
    ValueError
        If it is none of a picture, a volume or a video.

    Examples
    --------
    >>> kind_of("CHW"), kind_of("zyx"), kind_of("TYXC")
    ('image', 'volume', 'video')
    """
    plain = canonical(layout)
    grid = "".join(letter for letter in "TDHW" if letter in plain)
    if sorted(plain.replace("C", "", 1)) != sorted(grid) or grid not in GRIDS:
        raise ValueError(
            "expected a letter an axis, each once: H and W (or Y, X), with T for the frames or D "
            f"(or Z) for the slices, and C for the channels, got {layout!r}; write it so, as in "
            "HWC, CHW, DHW or TYXC"
        )
    return GRIDS[grid]


def canonical(layout: str) -> str:
    """Return a layout with one letter a meaning; what is no letter of one becomes "?"."""
    return "".join(LETTERS.get(letter, "?") for letter in layout.upper())


def order(layout: str) -> tuple[int, ...]:
    """Return where the axes of a signal, (*axes, channels), lie in an array of a layout.

    Examples
    --------
    >>> order("CHW"), order("XYZ")
    ((1, 2, 0), (2, 1, 0))
    """
    plain = canonical(layout)
    return tuple(plain.index(letter) for letter in "TDHWC" if letter in plain)


def laid_out(values: NDArray[Any], layout: str) -> NDArray[Any]:
    """Return a signal, (*axes, channels), with the axes of a layout in their order."""
    found = values if "C" in canonical(layout) else values[..., 0]
    places = order(layout)
    return found.transpose([places.index(axis) for axis in range(len(places))])


def guessed(shape: tuple[int, ...]) -> tuple[str, str]:
    """Return the layout of an array of which nobody said it, and what else it may be.

    Parameters
    ----------
    shape : tuple of int
        Of two to four axes.

    Returns
    -------
    layout : str
        "" where nothing is more likely than something else.
    others : str
        What `--axes` would say otherwise; "" where there is no doubt.

    Examples
    --------
    >>> guessed((512, 768, 3)), guessed((64, 64, 64)), guessed((3, 512, 768))
    (('HWC', ''), ('DHW', ''), ('', 'CHW or DHW'))
    """
    if len(shape) == 2:
        return "HW", ""
    first, last = shape[0], shape[-1]
    if len(shape) == 3:
        if last in COLOURS and first not in COLOURS:
            return "HWC", "" if first > FEW else "DHW"
        if last <= FEW or first in COLOURS:
            others = [word for word, at in (("HWC", last), ("CHW", first)) if at <= FEW]
            return "", ", ".join(others) + " or DHW"
        return "DHW", "CHW" if first <= FEW else ""
    if last in COLOURS:
        return "DHWC", "THWC"
    if last <= FEW:
        return "", "DHWC or THWC"
    return "", "CDHW or CTHW" if first <= FEW else "DHWC, THWC, TCHW or another"
