"""What may be given on the command line, and how `--help` and errors speak of it."""

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.exceptions import NoArgsIsHelpError

from iga_lab.errors import InputError, unknown
from iga_lab.hardware import INSTALL, LAB_MODULES
from iga_lab.signals import Size

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType


class Parsed(ParamType):
    """A value that a function reads; what it cannot read is named with what was expected."""

    def __init__(self, name: str, expected: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self.expected = expected
        self.read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read a value of the command line; one that is read already stays."""
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except (ValueError, OverflowError):
            return self.fail(f"expected {self.expected}, got {value!r}", param, ctx)


class Named(ParamType):
    """One of some names; of another, the nearest is offered."""

    def __init__(self, *choices: str) -> None:
        self.name = "|".join(choices)
        self.choices = choices

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,  # noqa: ARG002
    ) -> Any:
        """Return a known name."""
        if value in self.choices:
            return value
        raise unknown(_name_of(param), str(value), self.choices)


class Several(ParamType):
    """Some of the choices, separated by commas; given back in the choices' order."""

    def __init__(self, *choices: str) -> None:
        self.name = ",".join(choices)
        self.choices = choices

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,  # noqa: ARG002
    ) -> Any:
        """Return a tuple of known names."""
        if not isinstance(value, str):
            return value
        given = [part.strip() for part in value.split(",")]
        for name in given:
            if name not in self.choices:
                raise unknown(_name_of(param), name, self.choices)
        return tuple(name for name in self.choices if name in given)


class Heading(click.Option):
    """An option that `--help` lists under a heading."""

    heading = "Options"


class Grouped(click.Command):
    """A command whose options are listed under their headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a section a heading, in the order of their first."""
        sections = defaultdict(list)
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None and isinstance(option, click.Option):
                sections[getattr(option, "heading", "Other")].append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class OneLineErrors(click.Group):
    """A group that says what is wrong in one line and ends with exit code 2."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **others: Any
    ) -> NoReturn:
        """Run the command line; what a command returns is the exit code."""
        others["standalone_mode"] = False
        try:
            sys.exit(super().main(args, prog_name, **others) or 0)
        except NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except (click.exceptions.Abort, KeyboardInterrupt):
            click.echo("Aborted.", err=True)
            sys.exit(130)
        except InputError as error:
            _fail(str(error))
        except click.UsageError as error:
            _fail(_usage(error))
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            if module not in LAB_MODULES:
                raise
            _fail(f"{module}: expected to be installed, got nothing; run {INSTALL['lab']}")


def read_size(text: str) -> Size:
    """Read "96" as (96, None), "128x96" as (128, 96), and so three numbers."""
    if re.fullmatch(r"\d+([xX×]\d+){0,2}", text.strip()) is None:
        raise ValueError(text)
    sides = [int(number) for number in re.split("[xX×]", text)]
    return (sides[0], None) if len(sides) == 1 else tuple(sides)


def read_frequencies(text: str) -> int | str:
    """Read a number of octaves, or "nyquist"."""
    return text if text == "nyquist" else int(text)


FOLDER = Parsed("FOLDER", "a folder", str)
FILE = Parsed("FILE", "a file", str)
DEVICE = Parsed("NAME", "a device", str)
WHOLE = Parsed("N", "a whole number", int)
NUMBER = Parsed("X", "a number", float)
SIZE = Parsed(
    "S|WxH|WxHxD", "a side such as 96, or WIDTHxHEIGHT such as 768x512, or x DEPTH", read_size
)
FREQUENCIES = Parsed("N|nyquist", "a whole number or 'nyquist'", read_frequencies)


def _name_of(param: click.Parameter | None) -> str:
    return param.opts[0] if param else "name"


def _usage(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx else "iga"
    message = " ".join(error.format_message().split()).rstrip(".")
    if isinstance(error, click.BadParameter) and error.param is not None:
        message = f"{error.param.opts[0]}: {error.message}"
    return f"{message}; see {command} --help"


def _fail(message: str) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    sys.exit(2)
