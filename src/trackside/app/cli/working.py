"""The command `worker`: executes what servers let in, from a start that can fail to an end that loses nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from trackside.app.cli import beginning_anew
from trackside.app.cli.failures import ExitCode
from trackside.app.cli.leftovers import event_loop
from trackside.app.cli.notifying import tell_service_manager
from trackside.app.cli.output import JsonOutput
from trackside.app.cli.process_life import ProcessLife
from trackside.app.cli.process_words import notes_of, say_notes
from trackside.app.cli.served_agents import with_agents
from trackside.app.cli.serving_process import loop_factory, prepared, take_signals
from trackside.app.cli.working_words import WorkerWords, say_all_is_well
from trackside.app.settings import Settings, load_settings
from trackside.app.wiring import App, load_agents, open_app
from trackside.app.wiring.checking import check_app
from trackside.app.wiring.spooling import spool_folder
from trackside.harness.errors import TracksideError

if TYPE_CHECKING:
    from trackside.app.engine.worker import FleetWorker
    from trackside.app.server.worker_health import WorkerHealth


class NoFleetError(TracksideError):
    """A worker executes what servers let in, and with the engine "inline" a server does that itself: say what moves runs between them, as `--engine postgres` or `--engine nats://host:4222`, or `url` under [engine] in trackside.toml, for servers and workers alike."""  # noqa: E501

    fault = "caller"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOptions:
    """What was typed; None: nothing."""

    agents: Sequence[str]
    pools: Sequence[str]
    concurrency: str | None
    engine: str | None
    database: str | None
    host: str | None
    port: str | None
    isolation: str | None
    memory_limit: str | None
    drain: str | None
    json: bool

    def settings(self) -> Settings:
        """The settings, with the flags on top and those agents alone that were typed, if any were.

        Raises:
            SettingsError: one does not fit, or the engine cannot be used here.
            AgentReferenceError, ArgumentError: an agent is not there, or two have one name.
            NoAgentsError: there is none.
            NoFleetError: there is no engine that could bring runs here.
        """
        flags = {
            "database.url": self.database,
            "engine.url": self.engine,
            "worker.pools": ",".join(self.pools) if self.pools else None,
            "worker.concurrency": self.concurrency,
            "worker.host": self.host,
            "worker.port": self.port,
            "worker.isolation": self.isolation,
            "worker.memory_limit": self.memory_limit,
            "worker.drain": self.drain,
        }
        settings = load_settings(flags)
        if settings.engine_kind == "inline":
            raise NoFleetError
        settings.check_engine()
        return with_agents(settings, self.agents)


def check(options: WorkOptions) -> ExitCode:
    """Load what would be executed, and say what is wrong with it."""
    settings = options.settings()
    agents = load_agents(settings)
    say_notes(settings)
    check_app(settings, agents)
    say_all_is_well(settings)
    return ExitCode.success


def work(options: WorkOptions) -> ExitCode:
    """Execute runs until a signal, or somebody who drains this worker, says to stop."""
    take_signals()
    try:
        with ExitStack() as stack:
            settings = options.settings()
            loaded = stack.enter_context(prepared())
            sockets = [stack.enter_context(one) for one in _sockets(settings)]
            if _work(_bound_to(settings, sockets), sockets, loaded, json=options.json):
                beginning_anew.begin(sockets)
    except KeyboardInterrupt:  # before there was anything to stop
        pass
    return ExitCode.success


def _sockets(settings: Settings) -> list[socket.socket]:
    """Where the worker can be asked how it is; none, if nobody has said where."""
    from trackside.app.server.sockets import handed_over, listen_at

    if given := handed_over(os.environ):
        return given
    port = settings.worker.port
    return [] if port is None else listen_at(settings.worker.host, port)


def _bound_to(settings: Settings, sockets: Sequence[socket.socket]) -> Settings:
    """The settings with the place where the worker can be asked, whoever has chosen it."""
    if not sockets or sockets[0].family not in {socket.AF_INET, socket.AF_INET6}:
        return settings
    host, port = sockets[0].getsockname()[:2]
    return replace(settings, worker=replace(settings.worker, host=host, port=port))


def _work(settings: Settings, sockets: Sequence[socket.socket], loaded: Callable[[], None], *, json: bool) -> bool:
    """Work to the end, and call `loaded` before the first run; whether to begin anew."""
    with ExitStack() as stack:
        output = stack.enter_context(JsonOutput()) if json else None
        # Before there is an event loop, as agents' modules expect.
        agents = load_agents(settings)
        words = stack.enter_context(WorkerWords(output, settings))
        for note in notes_of(settings):
            words.say(note, level="warning")
        runner = stack.enter_context(event_loop(loop_factory()))
        return runner.run(_work_in_loop(settings, agents, sockets, words, loaded))


async def _work_in_loop(
    settings: Settings,
    agents: dict[str, Any],
    sockets: Sequence[socket.socket],
    words: WorkerWords,
    loaded: Callable[[], None],
) -> bool:
    life = WorkerLife(settings.drain_seconds, words.say)
    with life.signals():
        async with open_app(settings, agents, role="worker") as app, _health(app, sockets) as health:
            loaded()
            worker = app.fleet
            assert worker is not None, "a worker's app has one"
            worker.on_drain.append(partial(life.tell_to_end, "somebody has this worker drained"))
            if not life.is_told_to_end:
                words.say_ready(app, worker.worker_id, sockets)
                tell_service_manager("READY=1")
            await life.until_told_to_end()
            await life.end(app, worker, health)
            await life.deliver(app)
        words.say("stopped")
    return life.begins_anew


@asynccontextmanager
async def _health(app: App, sockets: Sequence[socket.socket]) -> AsyncGenerator[WorkerHealth]:
    """What is answered at the health port, if there is one."""
    from trackside.app.server.http import HttpServer
    from trackside.app.server.worker_health import WorkerHealth

    health = WorkerHealth(app.store, app.vitals, app.observers, [str(spool_folder(app.settings))])
    if not sockets:
        yield health
        return
    async with HttpServer(health, sockets):
        yield health


class WorkerLife(ProcessLife):
    """The life of one worker."""

    async def end(self, app: App, worker: FleetWorker, health: WorkerHealth) -> None:
        """Stop: take no more runs, let those that were taken end, and leave. Whoever asks how it is hears of that."""
        tell_service_manager("RELOADING=1" if self.begins_anew else "STOPPING=1")
        health.begin_ending("it begins anew" if self.begins_anew else "it takes no more runs, and leaves")
        await worker.stop()
        await self.close_runs(app)
        await self.unless_hurried(worker.until_idle())
