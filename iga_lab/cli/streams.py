"""What the command says it says to streams that may break, and that may know few letters."""

import codecs
import errno
import io
import select
import sys
from types import TracebackType
from typing import Any, Self, TextIO

from iga_lab.errors import printable

PLAIN = {"×": "x", "≤": "<=", "─": "-", "━": "=", "…": "...", "≈": "~", "·": "."}
"""What stands for a letter that a stream has not."""
READABLE = "iga-readable"
"""Name of the rule by which letters are written that a stream has not."""


class Talk:
    """Standard output and error of this process, which end with the first failure to write.

    The command goes on then: what it makes are files, and what it says of them is less than they.

    Examples
    --------
    >>> with Talk() as talk:
    ...     print("16 × 16")
    16 × 16
    >>> talk.code(0)
    0
    """

    def __init__(self) -> None:
        codecs.register_error(READABLE, _readable)
        self._ends: dict[str, _End] = {}
        self._before: dict[str, TextIO] = {}

    def __enter__(self) -> Self:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            # A stream that was closed before the command began is None; one of a test has no file;
            # a console of Windows is no file of bytes.
            windows = sys.platform == "win32" and stream is not None and stream.isatty()
            if not isinstance(stream, io.TextIOWrapper) or windows:
                continue
            try:
                end = _End(stream.fileno())
            except OSError:
                continue
            stream.flush()
            self._before[name], self._ends[name] = stream, end
            text = io.TextIOWrapper(
                io.BufferedWriter(end), stream.encoding, READABLE, line_buffering=True
            )
            setattr(sys, name, text)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name, before in self._before.items():
            getattr(sys, name).flush()
            setattr(sys, name, before)

    def code(self, code: Any) -> Any:
        """Return the exit code of a command that ended with `code`, and say what was not said.

        A reader who has left, as `head` does, has read what it wanted. A file that took no more, on
        a full disk, is missing what was asked for.
        """
        end = self._ends.get("stdout")
        if end is None or end.failure is None or end.failure.errno == errno.EPIPE:
            return code
        say(
            f"Error: stdout: expected to be written, got {end.failure.strerror}; the command has "
            "done its work, but could not say all of it: write to another file",
            error=True,
        )
        return code or 1


class _End(io.FileIO):
    """The end of a stream, which takes what is written and, once it is broken, drops it."""

    failure: OSError | None = None

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, content: Any, /) -> int:
        """Write some of the content, or none, and return how much of it is done with."""
        while self.failure is None:
            try:
                written: int | None = super().write(content)
            except OSError as error:
                self.failure = error
                break
            if written is not None:
                return written
            select.select([], [self], [])  # another program has made it one that does not wait
        return memoryview(content).nbytes


def say(text: str, error: bool = False) -> None:
    """Say lines to standard output or standard error, with no character that moves a terminal."""
    stream = sys.stderr if error else sys.stdout
    if stream is not None:  # as it is where the stream was closed before the command began
        print(*map(printable, text.split("\n")), sep="\n", file=stream, flush=True)


def _readable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or ascii(c)[1:-1] for c in letters), error.end
