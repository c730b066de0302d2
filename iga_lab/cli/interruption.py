"""The signals that ask a command to end: Ctrl-C, and what the system and schedulers send."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Ended(BaseException):
    """A command ends at once; no Exception, so that nothing on the way takes it for a fault."""


class Ending:
    """What has been asked of a command by signals; it is their handler.

    Attributes
    ----------
    wished : int
        The signal that asked a patient command to end; 0 before.
    number : int
        The signal that ended the command at once; 0 before.
    """

    def __init__(self) -> None:
        self.wished = 0
        self.number = 0
        self._patient = False

    @contextlib.contextmanager
    def patience(self) -> Iterator[None]:
        """Only note a wish, which is asked for between steps; a second Ctrl-C ends at once."""
        # An exception would come in the middle of a step, and leave a network half updated.
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Take a signal in."""
        if self._patient and not self.wished:
            self.wished = number
            return
        # `timeout` and a closing terminal send theirs twice, to a process and to its group; only a
        # person who presses Ctrl-C again means something by it.
        if self.number or (self._patient and number != signal.SIGINT):
            return
        self.number = number
        raise Ended


@contextlib.contextmanager
def heard(by: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let `by` hear of the signals, but of none that is ignored, as after `nohup`."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # others cannot
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):
                before[number] = handler
                signal.signal(number, by)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def name(number: int) -> str:
    """Return what a person calls a signal.

    Examples
    --------
    >>> name(signal.SIGINT), name(signal.SIGTERM)
    ('Ctrl-C', 'SIGTERM')
    """
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
