"""What click does not have: some kinds of values, headings in `--help`, and errors in one line."""

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.exceptions import NoArgsIsHelpError

from iga_lab.cli.interruption import Ending, heard
from iga_lab.cli.streams import say
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
LONGEST = 300
"""Letters of a word that an error repeats; longer than the names that systems allow for files."""


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
    """A group that says what is wrong in one line and ends with exit code 2.

    Ended by a signal it says so, and its exit code is that which a shell gives.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the commands in the order in which they were added."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; of another name, the nearest is offered."""
        if not args[0].startswith("-") and args[0] not in self.commands:
            raise unknown("command", args[0], self.commands)
        return super().resolve_command(ctx, args)

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **others: Any
    ) -> NoReturn:
        """Run the command line; what a command returns is the exit code."""
        # Whatever the file of the process is called, the command is what a person types.
        prog_name = "iga"
        # In standalone mode click would print the usage before every error, and end with codes of
        # its own.
        others |= {"standalone_mode": False, "obj": (ending := Ending())}
        said = list(sys.argv[1:] if args is None else args)
        try:
            with heard(ending):
                code = super().main(said, prog_name, **others) or 0
        except BaseException as error:
            # Not by its kind: in the middle of an import it may have become an error of that.
            if ending.number or isinstance(error, click.exceptions.Abort | KeyboardInterrupt):
                say("Aborted.", error=True)
                code = 128 + (ending.number or 2)
            elif isinstance(error, NoArgsIsHelpError):
                error.show()
                code = error.exit_code
            else:
                say(f"Error: {_shortened(self._line(error, said))}", error=True)
                code = 2
        sys.exit(code)

    def _line(self, error: BaseException, said: Sequence[str]) -> str:
        """Return what a person has to change, or raise what is a fault of ours."""
        # Errors of the parser do not know their command.
        name = next((word for word in said if word in self.commands), "")
        shown = f"iga {name}".strip()
        if isinstance(error, InputError):
            return _with_option(str(error), self.commands.get(name))
        if isinstance(error, click.UsageError):
            return f"{_usage(error, shown)}; see {shown} --help"
        if isinstance(error, ModuleNotFoundError):
            module = (error.name or "").partition(".")[0]
            if module in LAB_MODULES:
                return f"{module}: expected to be installed, got nothing; run {INSTALL['lab']}"
        elif isinstance(error, MemoryError):
            return (
                f"memory: expected enough for `{shown}`, got no more from the system; "
                "lower --size, or end other programs"
            )
        elif isinstance(error, OSError) and error.filename is not None:
            return (
                f"{error.filename!r}: expected a file or folder that can be used, got "
                f"{error.strerror}; name another"
            )
        raise error


def read_path(text: str) -> Path:
    """Read the name of a file or folder."""
    if not text:
        raise click.BadParameter("expected the name of a file or folder, got an empty one")
    return Path(text)


def _usage(error: click.UsageError, command: str) -> str:
    """Return click's errors in the words of ours."""
    if isinstance(error, click.NoSuchOption):
        near = f"; did you mean {error.possibilities[0]}?" if error.possibilities else ""
        return f"{error.option_name}: expected an option of `{command}`, got another word{near}"
    if isinstance(error, click.BadOptionUsage):
        return f"{error.option_name}: expected a value behind it, got none"
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"{error.param.human_readable_name}: expected a value, got none"
    message = " ".join(error.format_message().split()).rstrip(".")
    if more := re.search(r"unexpected extra arguments? \((.*)\)", message):
        return (
            f"{command}: expected no more words, got {more[1]!r}; "
            "put a name that has spaces in quotes"
        )
    if isinstance(error, click.BadParameter) and error.param is not None:
        message = f"{spoken(error.param)}: {error.message.rstrip('.')}"
    return message


def spoken(parameter: click.Parameter) -> str:
    """Return an option or argument as a person types it."""
    if isinstance(parameter, click.Option):
        return parameter.opts[0]
    return parameter.human_readable_name


def _with_option(message: str, command: click.Command | None) -> str:
    """Return a message that begins with the name of a setting as a person types it."""
    name, colon, rest = message.partition(": ")
    options = {
        parameter.name: spoken(parameter) for parameter in (command.params if command else ())
    }
    return options.get(name.replace("-", "_"), name) + colon + rest


def _shortened(message: str) -> str:
    """Leave out the middle of words that no person reads to their end."""
    return re.sub(rf"\S{{{LONGEST},}}", lambda word: f"{word[0][:80]}...{word[0][-40:]}", message)
