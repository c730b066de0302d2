"""The command `iga backends`."""

import click


@click.command()
def backends() -> int:
    """Say which array libraries and devices can be used here."""
    from rich.table import Table
    from rich.text import Text

    from iga_lab import hardware
    from iga_lab.cli.terminal import console

    table = Table()
    for heading in ("backend", "version", "devices", "use or install"):
        table.add_column(heading, overflow="fold")
    for one in hardware.backends():
        devices = "\n".join(one.devices)
        # As texts, for in a plain string `pip install "iga-core[lab]"` would lose its brackets.
        table.add_row(*(Text(cell or "-") for cell in (one.name, one.version, devices, one.note)))
    console().print(table)
    return 0
