"""What a server says of itself: a few lines to whoever sits there, lines of JSON to whatever reads them elsewhere."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self

from trackside._version import __version__
from trackside.app.cli.formatting import one_line
from trackside.app.cli.output import JsonOutput, OutputConsole, standard_error
from trackside.app.cli.places import home_of
from trackside.app.cli.suggesting import suggest_at
from trackside.app.settings import Settings
from trackside.app.wiring import App
from trackside.app.wiring.projects import missing_packages
from trackside.harness.types import JsonObject

_REQUEST: Final = "request"


def notes_of(settings: Settings) -> Iterator[str]:
    """What whoever starts a server should know of its settings, a sentence for each."""
    yield from settings.notes
    yield from missing_packages(settings)


def say_notes(settings: Settings) -> None:
    """Say them where no server is started."""
    for note in notes_of(settings):
        standard_error().print(f"warning: {one_line(note)}", soft_wrap=True)


def say_all_is_well(settings: Settings) -> None:
    """Say what would be served."""
    from trackside.app.server.sockets import address_of

    host, port = settings.server.host, settings.server.port
    where = f"http://{address_of(host, port)}" if port else f"any free port of {host}"
    agents = ", ".join(sorted(settings.agents))
    what = f"All is well: would serve {agents} at {where} on {settings.database_shown}"
    standard_error().print(one_line(what), soft_wrap=True)


class ServerWords:
    """Says what happens, while its `with` block goes on.

    Args:
        output: gets one line when the server answers; None: nobody waits for it.
        settings: what is served.
    """

    def __init__(self, output: JsonOutput | None, settings: Settings) -> None:
        from trackside.app.server.log import ServerLog

        self._output = output
        self._settings = settings
        self._console: OutputConsole | None = standard_error() if sys.stderr.isatty() else None
        self._log = ServerLog(sys.stderr)
        self._stack = ExitStack()
        self.note: Callable[[Mapping[str, Any]], None] | None = self._note if settings.server.log else None
        """Takes what there is to say of a request; None if nothing shall be said."""

    def __enter__(self) -> Self:
        self._stack.enter_context(self._log)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def say(self, event: str, *, level: str = "info", **facts: Any) -> None:
        """Say what happens. Safe in a signal's handler."""
        self._log.say(event, facts, level=level)

    def say_nobody_has_a_key(self) -> None:
        """Say that the server lets nobody in yet, and what to do about it."""
        make = suggest_at(home_of(self._settings).flags, "`trackside auth create NAME` makes one")
        self.say(f"no API key is good here, so nobody is let in; {make}", level="warning")

    def say_ready(self, app: App, sockets: Sequence[socket.socket]) -> None:
        """Say that the server answers, where, and what with."""
        facts = self._facts(sockets[0])
        if self._console is None:
            self.say("ready", **facts)
        else:
            self._show(self._console, facts)
        if self._output is not None:
            self._output.print({**facts, "pid": os.getpid(), "version": __version__})
        earlier = app.recorder.delivered_at_start
        if earlier.delivered or earlier.refused:
            self.say("delivered what the spool had kept", runs=earlier.delivered, refused=earlier.refused)

    def _note(self, facts: Mapping[str, Any]) -> None:
        self._log.say(_REQUEST, facts)

    def _facts(self, at: socket.socket) -> JsonObject:
        from trackside.app.server.sockets import address_of

        host, port = at.getsockname()[:2]
        return {
            "url": f"http://{address_of(host, port)}",
            "host": host,
            "port": port,
            "database": self._settings.database_shown,
            "agents": sorted(self._settings.agents),
            "auth": self._settings.access.auth,
        }

    def _show(self, console: OutputConsole, facts: JsonObject) -> None:
        lines = [
            f"Trackside {__version__} answers at {facts['url']}",
            f"  API       {facts['url']}/docs",
            f"  database  {self._settings.database_shown}",
            f"  agents    {', '.join(sorted(self._settings.agents))}",
            f"  access    {suggest_at(home_of(self._settings).flags, _access(self._settings.access.auth))}",
            "  Ctrl-C stops it",
        ]
        for line in lines:
            console.print(one_line(line) if line[0] != " " else line, soft_wrap=True)


def _access(auth: str) -> str:
    match auth:
        case "none":
            return "anybody on this machine"
        case "keys":
            return "whoever has a key (`trackside auth create` makes one)"
        case "jwt":
            return "whoever has a token"
        case _:
            return f"as {auth} says"
