"""The command `trackside`: reads settings and arguments, has the wiring assemble things, shows what happens.

Exit codes are 2 if what was typed is wrong, and 1 if it could not be done all the same: whether a `TracksideError` is the
one or the other, its `fault` says.

Only what a command needs is imported when it is used, so that `trackside --help` is quick.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections.abc import Sequence

DEBUG_VARIABLE = "TRACKSIDE_DEBUG"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors become one line each.

    Without arguments it is the program that runs, with those of `sys.argv`, and ends when this returns.
    """
    code = _run(arguments)
    if arguments is None and (threading.active_count() > 1 or "trackside.app.cli.leftovers" in sys.modules):
        from trackside.app.cli.leftovers import expect_threads, has_no_end, leave

        if has_no_end():
            leave(code)
        expect_threads(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        from trackside.app.cli.streams import fill_closed_streams

        fill_closed_streams()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a character that the terminal lacks is no reason to fail
                stream.reconfigure(errors="replace")
        from trackside.app.cli.commands import app

        # What Trackside's own parts tell operators; what concerns whoever sits here is said otherwise.
        shown = bool(os.environ.get(DEBUG_VARIABLE))
        logging.getLogger("trackside").addHandler(logging.StreamHandler() if shown else logging.NullHandler())
        code = app(arguments, prog_name="trackside", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except BaseException as failure:  # noqa: BLE001  # the top of the program: whatever ends it is reported
        from trackside.app.cli.failures import report

        return int(report(failure))
