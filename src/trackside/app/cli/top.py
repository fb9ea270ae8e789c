"""The command `top`: opens the records and shows them live. What it looks like is in `top_screen`, which needs Textual."""

from __future__ import annotations

import importlib.util
import sys
from typing import ClassVar

from trackside.app.cli.failures import ExitCode
from trackside.app.cli.places import Place, in_records
from trackside.harness.errors import Fault, TracksideError


class TopError(TracksideError, code="top-not-shown"):
    """top cannot be shown: {why}."""

    fault: ClassVar[Fault] = "caller"


def top(place: Place, *, light: bool | None) -> ExitCode:
    """Show what goes on until somebody quits; `light` where the background is, None if the terminal is to be asked.

    Raises:
        TopError: Textual is not installed, or there is no terminal.
    """
    if importlib.util.find_spec("textual") is None:
        raise TopError(why="Textual is not installed; pip install 'trackside[top]' does it")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise TopError(why="it needs a terminal; `trackside tail` and `trackside runs` write to a pipe")
    from trackside.app.cli.terminal_background import is_light
    from trackside.app.cli.top_screen import TopApp

    on_light = is_light() if light is None else light
    in_records(place, lambda records: TopApp(records, light=on_light).run_async())
    return ExitCode.success
