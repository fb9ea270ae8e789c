"""The command `top`: opens the records and shows them live. The screen itself is in `screen`, which needs Textual."""

from __future__ import annotations

import importlib.util
import sys
from typing import ClassVar

from trackside.app.cli.failures import ExitCode
from trackside.app.cli.places import Place, in_records
from trackside.app.cli.records.protocol import Records
from trackside.harness.errors import Fault, TracksideError


class TopError(TracksideError, code="top-not-shown"):
    """top cannot be shown: {why}."""

    fault: ClassVar[Fault] = "caller"


def top(place: Place, *, light: bool | None) -> ExitCode:
    """Show what goes on until somebody quits, or until the screen fails, which it reports.

    `light` is whether the background is light; None asks the terminal.

    Raises:
        TopError: Textual is not installed, or there is no terminal.
    """
    if importlib.util.find_spec("textual") is None:
        raise TopError(why="Textual is not installed; pip install 'trackside[top]' does it")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise TopError(why="it needs a terminal; `trackside tail` and `trackside runs` write to a pipe")
    from trackside.app.cli.top.background import is_light
    from trackside.app.cli.top.screen import TopApp

    on_light = is_light() if light is None else light

    async def watch(records: Records) -> int | None:
        app = TopApp(records, light=on_light)
        await app.run_async()
        return app.return_code

    return ExitCode.error if in_records(place, watch) else ExitCode.success
