"""Pictures that cost nothing, for runs whose pictures are not the point."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from iga_lab.runs import run

DRAWN = ("curves", "spectra", "comparison")


@contextlib.contextmanager
def nothing_drawn():
    """A run writes one pixel where it would draw."""
    content = io.BytesIO()
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(content, "png")
    with pytest.MonkeyPatch.context() as instead:
        for name in DRAWN:
            instead.setattr(run, name, lambda *_: content.getvalue())
        yield


@pytest.fixture
def undrawn():
    """For one test; fixtures of a whole module ask for `nothing_drawn` themselves."""
    with nothing_drawn():
        yield
