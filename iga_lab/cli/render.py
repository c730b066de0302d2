"""The command `iga render`."""

from pathlib import Path

import click

from iga_lab.cli.parameters import SIZE, read_path, read_size
from iga_lab.cli.streams import say
from iga_lab.cli.terminal import quoted
from iga_lab.hardware import require_lab
from iga_lab.signals import Size


@click.command(short_help="Evaluate a model of `iga fit` at any size, and write a file.")
@click.argument("model", type=read_path)
@click.option(
    "--size",
    type=read_size,
    metavar=SIZE,
    show_default="as it was trained",
    help="Points along each axis; S makes a square or a cube.",
)
@click.option("--output", type=read_path, metavar="FILE",
              show_default="MODEL-SIZE, beside MODEL",
              help="New file: .png for an image, .wav for a sound, .ply for a shape, .npy for a "
              "function or a volume.")  # fmt: skip
def render(model: Path, size: Size | None, output: Path | None) -> int:
    """Evaluate MODEL, a model-*.safetensors of `iga fit`, at any size, and write a file."""
    require_lab()
    from iga_lab.runs import rendering

    say(f"Wrote {quoted(rendering.render(model, size, output))}")
    return 0
