"""Keeps the last lines of a screen up to date while something goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live

from trackside.app.cli.views.output import OutputConsole

_SECONDS = 0.1


class LiveLines:
    """The last lines of a console, redrawn ten times a second, even while something blocks the event loop.

    Anything printed meanwhile goes above them, including what others print with `print`. `lines` returns what they are
    now; any thread may call it.
    """

    def __init__(self, console: OutputConsole, lines: Callable[[], RenderableType]) -> None:
        self._console = console
        self._lines = lines
        self._live = Live(self, console=console, auto_refresh=False, transient=True)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_drawing, name="trackside-cli-live", daemon=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Called for each drawing, so that lines that have just been printed no longer appear here.
        yield self._lines()

    def start(self) -> None:
        """Show them."""
        with self._console.guard:
            self._live.start(refresh=True)
        self._thread.start()

    def stop(self) -> None:
        """Remove them; may be called again."""
        self._ended.set()
        with self._console.guard:
            self._live.stop()

    def _keep_drawing(self) -> None:
        while not self._ended.wait(_SECONDS):
            # Rich computes where the lines are and then writes there; between the two steps, nobody else may print.
            with self._console.guard:
                if not self._ended.is_set():
                    self._live.refresh()
