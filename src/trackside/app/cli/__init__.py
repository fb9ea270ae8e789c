"""The command `trackside`: reads settings and arguments, has the wiring assemble things, and shows what happens.

The exit code is 2 if the command line is wrong, and 1 if it is right and the command failed all the same. The `fault` of
a `TracksideError` decides between the two.

A command imports what it needs only when it runs, so that `trackside --help` is quick.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C interrupted: 128 + SIGINT."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors become one line each.

    Called without arguments, this is the program itself: it takes those of `sys.argv`, and the process ends when it returns.
    """
    try:
        code = _run(arguments)
        if arguments is None:
            _ignore_interrupts()
    except KeyboardInterrupt:  # import nothing more: Ctrl-C may have come during any import
        code = INTERRUPTED
        if arguments is None:
            _ignore_interrupts()
        warnings.simplefilter("ignore")  # objects left half-used may complain when they are discarded
    if arguments is None:
        _expect_the_end(code)
        _look_for_garbage_once()
        _say_what_keeps_it()
    return code


def _expect_the_end(code: int) -> None:
    """Have Ctrl-C end a process that has done its work, in case something keeps it from ending by itself."""
    if threading.active_count() > 1 or "trackside.app.cli.leftovers" in sys.modules:
        from trackside.app.cli.leftovers import expect_threads, has_no_end, leave

        if has_no_end():
            leave(code)
        expect_threads(code)


def _look_for_garbage_once() -> None:
    """Collect garbage once: Python would search all imports several times at exit, a fifth of a short command's run."""
    gc.collect()
    gc.freeze()


def _say_what_keeps_it() -> None:
    """Called this late because Python itself exits next, and that also ends threads that have nothing to do."""
    if "trackside.app.cli.leftovers" in sys.modules:
        from trackside.app.cli.leftovers import say_what_is_left_soon

        say_what_is_left_soon()


def _ignore_interrupts() -> None:
    """Ignore Ctrl-C: from here until Python itself has ended, nothing would catch a `KeyboardInterrupt`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        from trackside.app.cli.streams import fill_closed_streams, spell_out

        fill_closed_streams()
        spell_out()
        from trackside.app.cli.commands.parser import parser_of
        from trackside.app.settings.variables import DEBUG_VARIABLE

        # These are messages from Trackside's own parts to operators; the person at the terminal is told in other ways.
        shown = bool(os.environ.get(DEBUG_VARIABLE))
        handler = logging.StreamHandler() if shown else logging.NullHandler()
        logging.getLogger("trackside").addHandler(handler)
        try:
            typed = sys.argv[1:] if arguments is None else arguments
            code = parser_of(typed)(arguments, prog_name="trackside", standalone_mode=False)
        finally:
            if arguments is not None:  # otherwise this is the program itself, which also hears messages during its exit
                logging.getLogger("trackside").removeHandler(handler)
        sys.stdout.flush()
        return int(code or 0)
    except KeyboardInterrupt:
        raise
    except BaseException as failure:  # noqa: BLE001  # the top of the program: whatever ends it is reported
        from trackside.app.cli.failures import report

        return int(report(failure))
