"""Ctrl-C while a run trains."""

import signal
from types import FrameType, TracebackType
from typing import Self


class Interruption:
    """Ctrl-C as a wish that is asked for between steps; a second one aborts at once.

    Attributes
    ----------
    wished : bool
        Whether it was pressed.
    """

    def __init__(self) -> None:
        self.wished = False

    def __enter__(self) -> Self:
        # An exception would come in the middle of a step, and leave a network half updated.
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.wished:
            raise KeyboardInterrupt
        self.wished = True
