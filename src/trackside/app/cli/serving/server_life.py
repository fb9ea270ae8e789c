"""The order in which a server stops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, override

from trackside.app.cli.serving.notifying import tell_service_manager
from trackside.app.cli.serving.process_life import ProcessLife, Say
from trackside.app.settings import Settings

if TYPE_CHECKING:
    from trackside.app.server.front import Front
    from trackside.app.server.http import HttpServer
    from trackside.app.wiring import App

LINGER: Final = 1.0
"""Seconds for which a server that begins anew still takes requests on open connections, so that no request is in flight
when it closes them."""
_LAST_WORDS: Final = 0.2  # seconds


class ServerLife(ProcessLife):
    """The life of one server."""

    @override
    def __init__(self, settings: Settings, say: Say, hosts: Sequence[str]) -> None:
        super().__init__(settings.shutdown_grace, say, hosts)
        self._graceful = settings.server.graceful

    async def end(self, app: App, front: Front, server: HttpServer) -> None:
        """Stop: take nothing new, let runs end, then streams, then answers."""
        tell_service_manager("RELOADING=1" if self.begins_anew else "STOPPING=1")
        app.parts.health.begin_ending("it begins anew" if self.begins_anew else "it stops")
        front.begin_ending()
        if self.begins_anew:
            server.stop_accepting()
        else:
            await server.stop_accepting_for_good()
        server.close_after_answers()
        if self.begins_anew:
            await self.unless_hurried(server.wait_until_idle(LINGER))
        await self.close_runs(app)
        app.streams.end_all()  # streams that follow runs tell their clients about it
        await self.unless_hurried(server.wait_until_idle(_LAST_WORDS))
        front.end_streams()
        await self.unless_hurried(server.finish(self._graceful))
