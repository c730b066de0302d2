"""The process of the command `iga`, also as `python -m iga_lab`.

It knows signals and streams, which have to be in order before anything large is imported; what the
command does is in `iga_lab.cli`.
"""

# No more than these, for until `main` has begun Ctrl-C is answered by a traceback.
import os
import signal
import sys

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""That end a command; the last is not known everywhere."""


def main() -> None:
    """Run the command line of this process, and end it."""
    for name in SIGNALS:
        number = getattr(signal, name, None)
        # What is ignored stays so: `nohup` and the shell's `&` start commands that shall go on.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _quit)
    # A file that is opened later would get the number of a stream that was closed, and then what a
    # library says there.
    while (free := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(free)

    from iga_lab.cli import main as command
    from iga_lab.cli.streams import Talk

    with Talk() as talk:
        try:
            command()
        except SystemExit as end:
            code = end.code
    sys.exit(talk.code(code))


def _quit(number: int, frame: object) -> None:  # noqa: ARG001
    """End at once, before anything has been begun or after all is done."""
    # An exception could come in the middle of an import, and be taken for that of a broken library.
    try:
        os.write(2, b"Aborted.\n")
    finally:
        os._exit(128 + number)


if __name__ == "__main__":
    main()
