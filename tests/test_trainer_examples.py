"""The examples for trainers of others run, with a few steps of their hundreds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "lightning_image", "accelerate_image"])
def test_an_example_says_what_it_gained(name, tmp_path):
    text = (EXAMPLES / f"{name}.py").read_text()
    script = tmp_path / f"{name}.py"
    script.write_text(
        text.replace("= 2, 128, 400,", "= 2, 16, 4,").replace("= 128, 400,", "= 16, 4,")
    )
    paths = [str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    plain, adjusted = done.stdout.splitlines()[:2]
    for line, begins in ((plain, "plain"), (adjusted, "IGA")):
        assert line.startswith(begins)
        assert " dB after 4 steps" in line
    assert len(text.splitlines()) < 130
