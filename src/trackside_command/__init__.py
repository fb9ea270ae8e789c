"""The program `trackside`: listens for Ctrl-C before it imports anything, and then is what `trackside.app.cli` says.

A package of its own, because a module of `trackside` would import the whole harness first, and Ctrl-C in that moment would
show where Python was.
"""

import os

INTERRUPTED = 130
"""The exit code of what Ctrl-C broke off, as `trackside.app.cli` has it, which is not imported yet."""


def main() -> int:
    """Run the command that was typed; its exit code."""
    try:
        import signal

        # Whoever starts it with Ctrl-C ignored, as `nohup` does, has that kept.
        heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if heard:
            signal.signal(signal.SIGINT, _leave)
        import unicodedata as unicodedata  # as compiling a character's name does, to which Ctrl-C in it is a SyntaxError

        from trackside.app.cli import main as command

        if heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return command()
    except KeyboardInterrupt:  # before the first line above, or after the last
        return INTERRUPTED


def _leave(*_: object) -> None:
    """End at once: nothing was begun yet, and an exception at any import could be one that somebody takes for another."""
    os._exit(INTERRUPTED)
