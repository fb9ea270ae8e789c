"""What a server says about itself when it starts."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import Final

from trackside._version import __version__
from trackside.app.cli.formatting import one_line
from trackside.app.cli.places import home_of
from trackside.app.cli.serving.process_words import ProcessWords
from trackside.app.cli.suggesting import suggest_at
from trackside.app.cli.views.output import standard_error
from trackside.app.settings import Settings
from trackside.app.wiring import App
from trackside.harness.types import JsonObject

_DATABASE_VARIABLE: Final = "TRACKSIDE_DATABASE_URL"


def say_all_is_well(settings: Settings) -> None:
    """Say what would be served."""
    from trackside.app.server.sockets import address_of

    host, port = settings.server.host, settings.server.port
    where = f"http://{address_of(host, port)}" if port else f"any free port of {host}"
    agents = ", ".join(sorted(settings.agents))
    engine = "" if settings.engine_kind == "inline" else f", through {settings.engine.shown}"
    what = f"All is well: would serve {agents} at {where} on {settings.database_shown}{engine}"
    standard_error().print(one_line(what), soft_wrap=True)


class ServerWords(ProcessWords):
    """Says what happens to a server, while its `with` block lasts."""

    def say_nobody_has_a_key(self) -> None:
        """Say that the server lets nobody in yet, and what to do about it."""
        make = suggest_at(home_of(self.settings).flags, "`trackside auth create NAME` makes one")
        # The person who types it may have a different environment from the server's, as under systemd, and so another
        # database.
        source = self.settings.database_source
        given = f", if {source} is the same there" if source == _DATABASE_VARIABLE else ""
        where = f"at {one_line(self.settings.database_shown)}{given}"
        self.say(f"no API key is valid here, so nobody is let in; {make} {where}", level="warning")

    def say_ready(self, app: App, sockets: Sequence[socket.socket]) -> None:
        """Say that the server answers, where, and with what."""
        facts = self._facts(sockets[0])
        self.show_ready(facts, list(self._lines(str(facts["url"]))))
        self.say_spooled(app)

    def _facts(self, at: socket.socket) -> JsonObject:
        from trackside.app.server.sockets import place_of

        return {
            **place_of(at),
            "database": self.settings.database_shown,
            "engine": self.settings.engine.shown,
            "agents": sorted(self.settings.agents),
            "auth": self.settings.access.auth,
        }

    def _lines(self, url: str) -> Iterator[str]:
        settings = self.settings
        yield f"Trackside {__version__} answers at {url}"
        if not url.startswith("unix:"):
            yield f"  API       {url}/docs"
        yield f"  database  {settings.database_shown}"
        if settings.engine_kind != "inline":
            yield f"  engine    {settings.engine.shown}; runs are executed by workers (`trackside worker`), not here"
        yield f"  agents    {', '.join(sorted(settings.agents))}"
        yield f"  access    {suggest_at(home_of(settings).flags, _access(settings.access.auth))}"
        yield "  Ctrl-C stops it"


def _access(auth: str) -> str:
    match auth:
        case "none":
            return "anybody on this machine"
        case "keys":
            return "anybody with a key (`trackside auth create` makes one)"
        case "jwt":
            return "anybody with a token"
        case _:
            return f"as {auth} says"
