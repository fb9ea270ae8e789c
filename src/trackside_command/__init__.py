"""The program `trackside`: listens for Ctrl-C before it imports anything, and then hands over to `trackside.app.cli`.

It is a package of its own because a module of `trackside` would import the whole harness first, and Ctrl-C in that
moment would show where Python was.
"""

import os

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C broke off, as in `trackside.app.cli`, which is not imported yet."""


def main() -> int:
    """Run the command that was typed; returns its exit code."""
    try:
        import signal

        # If this is started with Ctrl-C ignored, as by `nohup`, it stays ignored.
        heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if heard:
            signal.signal(signal.SIGINT, _leave)
        import unicodedata as unicodedata  # as compiling a character's name does: Ctrl-C in that is a SyntaxError

        from trackside.app.cli import main as command

        if heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return command()
    except KeyboardInterrupt:  # before the first line above, or after the last
        return INTERRUPTED


def _leave(*_: object) -> None:
    """End at once: nothing has begun yet, and code around any import could take an exception from here for another."""
    os._exit(INTERRUPTED)
