"""The pictures of `iga fit`, really drawn: in few pixels, and as they are where time allows."""

from pathlib import Path

import pytest
from PIL import Image

from iga_lab.figures import style
from tests.support.lab import KINDS, iga, signal_of
from tests.support.selection import slow


@pytest.mark.parametrize("kind", ["image", *slow(KINDS)])
@pytest.mark.parametrize("dpi", [20, *slow([style.DPI])])
def test_every_kind_has_its_pictures(kind, dpi, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(style, "DPI", dpi)
    small = ["--network", "relu", "--width", "8", "--depth", "2", "--steps", "6"]
    outcome = iga("fit", *signal_of(kind)[0], *small, "--output", "run")
    assert outcome.exit_code == 0, outcome.output
    found = sorted(Path("run").glob("*.png"))
    assert [path.stem for path in found] == ["comparison", "curves", "spectrum"]
    for path in found:
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 2 * dpi
            assert len(set(image.convert("L").tobytes())) > 10
