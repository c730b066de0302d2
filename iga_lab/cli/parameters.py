"""What click does not have: some kinds of values, headings in `--help`, and errors in one line."""

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
    # Only their annotations are generic, in some versions of click and not in others.
    Choice = click.Choice[str]
    ParamType = click.ParamType[Any]
else:
    Choice, ParamType = click.Choice, click.ParamType

SIZE = "S|WxH|WxHxD"
"""How `--help` shows what `read_size` reads."""


class Named(Choice):
    """One of some names; of another, the nearest is offered."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a known name."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            raise unknown(param.opts[0] if param else "name", str(value), self.choices) from None


class Several(ParamType):
    """Some of the choices, separated by commas; given back in the choices' order."""

    def __init__(self, *choices: str) -> None:
        self.name = ",".join(choices)
        self._one = Named(choices)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a tuple of known names."""
        if not isinstance(value, str):  # a default
            return value
        given = {self._one.convert(part.strip(), param, ctx) for part in value.split(",")}
        return tuple(name for name in self._one.choices if name in given)


def read_size(text: str) -> Size:
    """Read "96" as (96, None), "128x96" as (128, 96), and so three numbers."""
    if re.fullmatch(r"\d+([xX×]\d+){0,2}", text.strip()) is None:
        raise click.BadParameter(
            f"expected a side such as 96, or WIDTHxHEIGHT such as 768x512, or x DEPTH, got {text!r}"
        )
    sides = [int(number) for number in re.split("[xX×]", text)]
    return (sides[0], None) if len(sides) == 1 else tuple(sides)


def read_frequencies(text: str) -> int | str:
    """Read a number of octaves, or "nyquist"."""
    try:
        return text if text == "nyquist" else int(text)
    except ValueError:
        raise click.BadParameter(f"expected a whole number or 'nyquist', got {text!r}") from None


def section(heading: str) -> Callable[..., Callable[[Callable[..., int]], Callable[..., int]]]:
    """Return `click.option` for options that `--help` lists under a heading."""

    class Headed(click.Option):
        section = heading

    return lambda *names, **about: click.option(*names, cls=Headed, **about)


class Grouped(click.Command):
    """A command whose options are listed under their headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a section a heading, in the order of their first."""
        sections = defaultdict(list)
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None and isinstance(option, click.Option):
                sections[getattr(option, "section", "Options")].append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class OneLineErrors(click.Group):
    """A group that says what is wrong in one line and ends with exit code 2."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **others: Any
    ) -> NoReturn:
        """Run the command line; what a command returns is the exit code."""
        # In which click would print the usage before every error, and end with codes of its own.
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


def _usage(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx else "iga"
    message = " ".join(error.format_message().split()).rstrip(".")
    # A missing parameter has no message of its own beside what click makes of it.
    if isinstance(error, click.BadParameter) and error.param is not None and error.message:
        message = f"{error.param.opts[0]}: {error.message.rstrip('.')}"
    return f"{message}; see {command} --help"


def _fail(message: str) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    sys.exit(2)
