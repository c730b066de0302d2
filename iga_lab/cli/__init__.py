"""The command `iga`: a file a command.

A command's file has its options and what it says; what it does is done in the other rooms, which
are entered when it runs, so that `iga --help` does not wait for them.
"""

try:
    import click
except ModuleNotFoundError:
    raise SystemExit(
        'Error: click: expected to be installed, got nothing; run pip install "iga-core[lab]"'
    ) from None

from iga_lab.cli import backends, fit, render, validate
from iga_lab.cli.parameters import OneLineErrors

__all__ = ["main"]


@click.group(
    cls=OneLineErrors,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(package_name="iga-core", prog_name="iga")
def main() -> None:
    """Fit coordinate networks to signals, with and without inductive gradient adjustment."""


for command in (fit.fit, render.render, validate.validate, backends.backends):
    main.add_command(command)
