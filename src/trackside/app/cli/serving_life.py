"""How a server ends: what signals ask of it, and in which order it stops."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from trackside.app.cli.stopping import stop_signals
from trackside.app.settings import Settings

if TYPE_CHECKING:
    from trackside.app.server.http import HttpServer
    from trackside.app.wiring import App


class ServerLife:
    """The life of one server, as signals shape it."""

    def __init__(self, app: App, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._told = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @contextmanager
    def signals(self) -> Generator[None]:
        """Take signals."""
        before = [(number, signal.signal(number, self._take)) for number in stop_signals()]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._told.set)

    async def until_told_to_end(self) -> None:
        """Until a signal comes."""
        await self._told.wait()

    async def end(self, server: HttpServer) -> None:
        """Stop, in order."""
        server.stop_accepting()
        await self._app.manager.aclose()
        await server.finish(self._settings.server.graceful)
