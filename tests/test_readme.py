"""The README's programs run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_programs():
    assert len(PROGRAMS) == 5


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_runs(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    if "run" in names:
        assert float(names["run"].loss) < 0.05
        assert names["model"](names["coords"]).shape == (48 * 64, 1)
    elif "surface" in names:
        assert names["loss"].item() < 0.5
        assert not names["model"].kernel_report().explicit
    elif "optimizer" in names:
        assert names["loss"].item() < 0.05
        assert (tmp_path / "network.pt").exists()
    elif "rows" in names:
        assert [row.status for row in names["rows"]] == 5 * ["pass"]
    else:
        assert names["adjusted"].shape == names["cotangent"].shape
