"""The command `serve`: agents over HTTP, from a start that can fail in many ways to an end that loses nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from trackside.app.cli.failures import ExitCode
from trackside.app.cli.leftovers import event_loop
from trackside.app.cli.serving import beginning_anew
from trackside.app.cli.serving.agents import with_agents
from trackside.app.cli.serving.notifying import starting, tell_service_manager
from trackside.app.cli.serving.process import new_event_loop, prepared, take_signals
from trackside.app.cli.serving.process_words import notes_of, say_notes
from trackside.app.cli.serving.server_life import ServerLife
from trackside.app.cli.serving.server_words import ServerWords, say_all_is_well
from trackside.app.cli.serving.workers_watch import WorkersWatch
from trackside.app.cli.views.output import JsonOutput
from trackside.app.settings import Settings, load_settings
from trackside.app.wiring import App, load_agents, open_app
from trackside.app.wiring.checking import check_app
from trackside.app.wiring.guests import check_guest, load_guest
from trackside.app.wiring.secrets import webhook_secret_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What was typed."""

    agents: Sequence[str]
    host: str | None
    port: str | None
    database: str | None
    engine: str | None
    json: bool

    def settings(self) -> Settings:
        """The settings, overridden by the flags, with only those agents that were typed, if any were.

        Raises:
            SettingsError: one does not fit, or the engine cannot be used here.
            AgentReferenceError, ArgumentError: an agent does not exist, or two have the same name.
            NoAgentsError: there is no agent.
        """
        flags = {
            "database.url": self.database,
            "engine.url": self.engine,
            "server.host": self.host,
            "server.port": self.port,
        }
        settings = with_agents(load_settings(flags), self.agents)
        settings.check_engine()
        return settings


def check(options: ServeOptions) -> ExitCode:
    """Load what would be served, and report what is wrong with it."""
    from trackside.app.server.auth.exposure import check_exposure

    settings = options.settings()
    check_exposure([settings.server.host, *beginning_anew.taken_over(os.environ)], settings.access.auth)
    agents, guest = _loaded(settings)
    say_notes(settings, agents)
    check_app(settings, agents)
    webhook_secret_of(settings)
    check_guest(settings, guest)
    say_all_is_well(settings)
    return ExitCode.success


def serve(options: ServeOptions) -> ExitCode:
    """Serve until a signal says to stop."""
    take_signals()
    beginning_anew.remember_start()
    try:
        with ExitStack() as stack:
            stack.enter_context(starting())
            settings = options.settings()
            loaded = stack.enter_context(prepared())
            sockets = [stack.enter_context(one) for one in _sockets(settings)]
            if _serve(settings, sockets, loaded, json=options.json):
                beginning_anew.begin(sockets)
    except KeyboardInterrupt:  # it came before there was anything to stop
        pass
    return ExitCode.success


def _serve(settings: Settings, sockets: Sequence[socket.socket], loaded: Callable[[], None], *, json: bool) -> bool:
    """Serve to the end, and call `loaded` before the first request; returns whether to begin anew on the same sockets."""
    with ExitStack() as stack:
        output = stack.enter_context(JsonOutput()) if json else None
        # Before there is an event loop, as agents' modules expect.
        agents, guest = _loaded(settings)
        words = stack.enter_context(ServerWords(output, settings))
        for note in notes_of(settings, agents):
            words.say(note, level="warning")
        runner = stack.enter_context(event_loop(new_event_loop))
        return runner.run(_serve_in_loop(_Served(settings, agents, guest, sockets), words, loaded))


def _loaded(settings: Settings) -> tuple[dict[str, Any], Any]:
    """The agents by name, and the guest, if there is one."""
    return load_agents(settings), load_guest(settings)


def _sockets(settings: Settings) -> list[socket.socket]:
    from trackside.app.server.auth.exposure import check_exposure
    from trackside.app.server.sockets import handed_over, hosts_of, listen_at

    auth = settings.access.auth
    if given := handed_over(os.environ):
        check_exposure(hosts_of(given), auth)
        return given
    check_exposure([settings.server.host], auth)
    return listen_at(settings.server.host, settings.server.port)


@dataclass(frozen=True, slots=True)
class _Served:
    """What is served, and where."""

    settings: Settings
    agents: dict[str, Any]
    guest: Any
    sockets: Sequence[socket.socket]


async def _serve_in_loop(served: _Served, words: ServerWords, loaded: Callable[[], None]) -> bool:
    from trackside.app.server.front import Front
    from trackside.app.server.http import HttpServer
    from trackside.app.server.sockets import hosts_of

    settings, guest = served.settings, served.guest
    life = ServerLife(settings, words.say, hosts_of(served.sockets))
    with life.signals():
        async with open_app(settings, served.agents) as app, _asgi(app, guest, settings) as asgi:
            front = Front(asgi, note=words.note)
            async with HttpServer(front, served.sockets, websockets=guest is not None) as server:
                loaded()
                if settings.access.auth == "keys" and not await _has_keys(app):
                    words.say_nobody_has_a_key()
                if not life.is_told_to_end:
                    words.say_ready(app, served.sockets)
                    tell_service_manager("READY=1")
                async with WorkersWatch(app.store, settings, words.say):
                    await life.until_told_to_end()
                await life.end(app, front, server)
            await life.deliver(app)
        words.say("stopped")
    return life.begins_anew


async def _has_keys(app: App) -> bool:
    """Whether there is an API key that lets somebody in."""
    now = datetime.now(UTC)
    return any(key.is_good(now) for key in await app.store.api_keys.all())


@asynccontextmanager
async def _asgi(app: App, guest: Any, settings: Settings) -> AsyncGenerator[Any]:
    """The app that answers, with a guest behind it if there is one."""
    if guest is None:
        yield app.asgi
        return
    from trackside.app.server.guest import living

    async with living(guest, name=str(settings.server.app)) as one:
        yield app.asgi_before(one)
