"""The command `serve`: agents over HTTP, from a start that can fail in many ways to an end that loses nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from trackside._version import __version__
from trackside.app.cli.arguments import ArgumentError
from trackside.app.cli.failures import ExitCode
from trackside.app.cli.leftovers import event_loop
from trackside.app.cli.output import JsonOutput, standard_error
from trackside.app.cli.serving_life import ServerLife
from trackside.app.cli.stopping import interrupt_on_stop_signals
from trackside.app.settings import Settings, load_settings
from trackside.app.wiring import load_agents, open_app
from trackside.app.wiring.agents import AgentReference
from trackside.harness.errors import TracksideError


class NoAgentsError(TracksideError, LookupError):
    """there is no agent to serve: name one (`trackside serve path/file.py:name`), or those under [agents] in trackside.toml."""  # noqa: E501


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What was typed."""

    agents: Sequence[str]
    host: str | None
    port: str | None
    database: str | None
    json: bool

    def settings(self) -> Settings:
        """The settings, with the flags on top and those agents alone that were typed, if any were.

        Raises:
            SettingsError: one does not fit.
            AgentReferenceError, ArgumentError: an agent is not there, or two have one name.
            NoAgentsError: there is none.
        """
        flags = {"database.url": self.database, "server.host": self.host, "server.port": self.port}
        settings = load_settings(flags)
        if self.agents:
            settings = replace(settings, agents=_named(self.agents, settings))
        if not settings.agents:
            raise NoAgentsError
        return settings


def check(options: ServeOptions) -> ExitCode:
    """Load what would be served, and say what is wrong with it."""
    settings = options.settings()
    load_agents(settings)
    return ExitCode.success


def serve(options: ServeOptions) -> ExitCode:
    """Serve until a signal says to stop."""
    from trackside.app.server.sockets import handed_over, listen_at

    interrupt_on_stop_signals()
    settings = options.settings()
    sockets = handed_over(os.environ) or listen_at(settings.server.host, settings.server.port)
    with JsonOutput() if options.json else nullcontext() as output:
        agents = load_agents(settings)  # before there is an event loop, as agents' modules expect
        with event_loop(_loop_factory()) as runner:
            return runner.run(_serve(settings, agents, sockets, output))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


async def _serve(
    settings: Settings, agents: dict[str, Any], sockets: Sequence[socket.socket], output: JsonOutput | None
) -> ExitCode:
    from trackside.app.server.http import HttpServer

    async with open_app(settings, agents) as app:
        life = ServerLife(app, settings)
        async with HttpServer(app.asgi, sockets) as server:
            with life.signals():
                _say_ready(settings, sockets[0], output)
                await life.until_told_to_end()
                await life.end(server)
    return ExitCode.success


def _named(typed: Sequence[str], settings: Settings) -> dict[str, str]:
    """The references that were typed, by the names that their agents go by."""
    named: dict[str, str] = {}
    for text in typed:
        reference = AgentReference.parse(text, settings.agents)
        if text in settings.agents:
            name, target = text, settings.agents[text]
        else:
            name, target = reference.attribute.rpartition(".")[2], text
        if name in named:
            why = (
                f"{named[name]} and {target} would both be called {name!r}; name them in trackside.toml under [agents]"
            )
            raise ArgumentError(name="AGENT", why=why)
        named[name] = target
    return named


def _say_ready(settings: Settings, at: socket.socket, output: JsonOutput | None) -> None:
    from trackside.app.server.sockets import address_of

    host, port = at.getsockname()[:2]
    url = f"http://{address_of(host, port)}"
    if output is not None:
        facts = {"url": url, "host": host, "port": port, "pid": os.getpid(), "database": settings.database_shown}
        output.print({**facts, "agents": sorted(settings.agents), "version": __version__})
        return
    console = standard_error()
    console.print(f"Trackside {__version__} answers at {url}", soft_wrap=True)
    console.print(f"  database  {settings.database_shown}", soft_wrap=True)
    console.print(f"  agents    {', '.join(sorted(settings.agents))}", soft_wrap=True)
