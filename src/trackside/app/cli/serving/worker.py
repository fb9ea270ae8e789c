"""The command `worker`: executes what servers admit, from a start that can fail to an end that loses nothing."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trackside.app.cli.failures import ExitCode
from trackside.app.cli.leftovers import event_loop
from trackside.app.cli.serving import beginning_anew
from trackside.app.cli.serving.agents import with_agents
from trackside.app.cli.serving.isolated import IsolatedLife, Supervised, limits_by, supervised
from trackside.app.cli.serving.notifying import starting, tell_service_manager
from trackside.app.cli.serving.process import new_event_loop, prepared, take_signals
from trackside.app.cli.serving.process_words import notes_of, say_notes
from trackside.app.cli.serving.worker_life import SupervisorLife, WorkerLife
from trackside.app.cli.serving.worker_words import WorkerWords, left_out, say_all_is_well
from trackside.app.cli.views.output import JsonOutput
from trackside.app.settings import Settings, load_settings
from trackside.app.wiring import App, load_agents, open_app
from trackside.app.wiring.checking import check_app
from trackside.app.wiring.spooling import spool_folder
from trackside.harness.errors import TracksideError

if TYPE_CHECKING:
    from trackside.app.engine.supervisor import Isolation
    from trackside.app.server.worker_health import WorkerHealth


_CONCURRENCY: Final = "worker.concurrency"
_MAX_RUNNING: Final = "runs.max_running"
_STATM: Final = Path("/proc/self/statm")
_DRAINED: Final = "somebody is draining this worker"
_SUPERVISORS: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Variables by which a service manager talks to the supervisor, and not to its processes."""


class NotBegun(Exception):
    """The first process of a worker could not do its work, and has said why."""

    def __init__(self, code: ExitCode) -> None:
        super().__init__(code)
        self.code = code


class NoFleetError(TracksideError, code="no-engine"):
    """A worker executes what servers admit, and with the engine "inline" a server does that itself: say what moves runs between them, as `--engine postgres` or `--engine nats://host:4222`, or `url` under [engine] in trackside.toml, for servers and workers alike."""  # noqa: E501

    fault = "caller"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOptions:
    """The options that were typed; None for those that were not."""

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
        """The settings, overridden by the flags, with only those agents that were typed, if any were.

        Raises:
            SettingsError: one does not fit, or the engine cannot be used here.
            AgentReferenceError, ArgumentError: an agent does not exist, or two have the same name.
            NoAgentsError: there is no agent.
            NoFleetError: there is no engine that could bring runs to this worker.
        """
        flags = {
            "database.url": self.database,
            "engine.url": self.engine,
            "worker.pools": ",".join(self.pools) if self.pools else None,
            _CONCURRENCY: self.concurrency,
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
        chosen = with_agents(with_places(settings), self.agents)
        return replace(chosen, notes=(*chosen.notes, *left_out(chosen, named=bool(self.agents))))


def with_places(settings: Settings) -> Settings:
    """The settings, with the number of places decided.

    If each place is a process and nobody has set the number of places, there are as many as processors; in any case no
    more than `runs.max_running`, if that is set.

    Raises:
        SettingsError: runs cannot have processes of their own on this system, or their memory cannot be seen.
    """
    worker, places = settings.worker, settings.worker.concurrency
    if worker.isolation == "process":
        _check_isolation(settings)
        if _CONCURRENCY not in settings.sources:
            places = os.cpu_count() or 1
    notes = settings.notes
    if _MAX_RUNNING in settings.sources and settings.max_running < places:
        places = settings.max_running
        if _CONCURRENCY in settings.sources:
            beyond = f"{settings.place_of(_CONCURRENCY)} has no effect beyond {places:,}"
            notes = (*notes, f"{beyond}: {settings.place_of(_MAX_RUNNING)} does not allow a process more")
    return replace(settings, worker=replace(worker, concurrency=places), notes=notes)


def _check_isolation(settings: Settings) -> None:
    worker = settings.worker
    if not hasattr(os, "killpg"):
        raise settings.complaint("worker.isolation", "this system does not have the kind of processes that it needs")
    if worker.memory_limit is not None and not _STATM.exists():
        why = "this system does not say how much memory a process has; Linux does"
        raise settings.complaint("worker.memory_limit", why)


def check(options: WorkOptions) -> ExitCode:
    """Load what would be executed, and report what is wrong with it."""
    settings = options.settings()
    agents = load_agents(settings)
    say_notes(settings, agents)
    check_app(settings, agents)
    say_all_is_well(settings)
    return ExitCode.success


def work(options: WorkOptions) -> ExitCode:
    """Execute runs until a signal says to stop, or somebody drains this worker."""
    take_signals()
    supervisor = supervised(os.environ)
    beginning_anew.remember_start()
    try:
        with ExitStack() as stack:
            stack.enter_context(starting())
            if supervisor is not None:
                supervisor.live_no_longer()
            settings = options.settings()
            loaded = stack.enter_context(prepared())
            if supervisor is not None:
                _work(supervisor.settings(settings), [], loaded, json=False, supervisor=supervisor)
                return ExitCode.success
            sockets = [stack.enter_context(one) for one in _sockets(settings)]
            if _work(_bound_to(settings, sockets), sockets, loaded, json=options.json):
                beginning_anew.begin(sockets)
    except KeyboardInterrupt:  # it came before there was anything to stop
        pass
    except NotBegun as exc:
        return exc.code
    return ExitCode.success


def _sockets(settings: Settings) -> list[socket.socket]:
    """The sockets at which the worker answers how it is; none if no address for that was named."""
    from trackside.app.server.sockets import handed_over, listen_at

    if given := handed_over(os.environ):
        return given
    port = settings.worker.port
    return [] if port is None else listen_at(settings.worker.host, port)


def _bound_to(settings: Settings, sockets: Sequence[socket.socket]) -> Settings:
    """The settings, with the address at which the worker can be asked how it is, whoever chose that."""
    if not sockets or sockets[0].family not in {socket.AF_INET, socket.AF_INET6}:
        return settings
    host, port = sockets[0].getsockname()[:2]
    return replace(settings, worker=replace(settings.worker, host=host, port=port))


def _work(
    settings: Settings,
    sockets: Sequence[socket.socket],
    loaded: Callable[[], None],
    *,
    json: bool,
    supervisor: Supervised | None = None,
) -> bool:
    """Work to the end, and call `loaded` before the first run; returns whether to begin anew."""
    supervises = supervisor is None and settings.worker.isolation == "process"
    with ExitStack() as stack:
        output = stack.enter_context(JsonOutput()) if json else None
        # Before there is an event loop, as agents' modules expect.
        agents = {} if supervises else load_agents(settings)
        words = stack.enter_context(WorkerWords(output, settings))
        for note in notes_of(settings, agents) if supervisor is None else ():
            words.say(note, level="warning")
        runner = stack.enter_context(event_loop(new_event_loop))
        if supervises:
            return runner.run(_supervise_in_loop(settings, sockets, words, loaded))
        if supervisor is not None:
            return runner.run(_work_for(supervisor, settings, agents, words, loaded))
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
            worker = app.worker
            assert worker is not None, "a worker's app has one"
            worker.on_drain.append(partial(life.finish, _DRAINED))
            worker.on_outdated.append(life.finish)
            if not life.is_told_to_end:
                words.say_ready(app, worker.worker_id, sockets)
                tell_service_manager("READY=1")
            await life.until_told_to_end()
            await life.end(app, worker, health)
            await life.deliver(app)
        words.say("stopped")
    return life.begins_anew


async def _work_for(
    supervisor: Supervised, settings: Settings, agents: dict[str, Any], words: WorkerWords, loaded: Callable[[], None]
) -> bool:
    """Execute the runs of one place; the supervisor says what there is to say about the whole worker."""
    life = IsolatedLife(settings.drain_seconds, words.say_what_is_wrong)
    with life.signals():
        async with open_app(settings, agents, role="worker") as app, _health(app, []) as health:
            loaded()
            part, worker = app.fleet_part, app.worker
            assert part is not None
            assert worker is not None, "a worker's app has one"
            worker.on_drain.append(partial(life.finish, _DRAINED))
            supervisor.report(worker, app.manager, part.duties, limits_by(settings))
            await life.until_told_to_end()
            await life.end(app, worker, health)
            await life.deliver(app)
    return False


async def _supervise_in_loop(
    settings: Settings, sockets: Sequence[socket.socket], words: WorkerWords, loaded: Callable[[], None]
) -> bool:
    life = SupervisorLife(settings.drain_seconds, settings.shutdown_grace, words.say)
    with life.signals():
        async with open_app(settings, {}, role="supervisor") as app, _health(app, sockets) as health:
            loaded()
            supervisor = app.supervisor
            assert supervisor is not None, "a supervisor's app has one"
            supervisor.on_drain.append(partial(life.finish, _DRAINED))
            supervisor.on_outdated.append(life.finish)
            beginning = asyncio.create_task(supervisor.begin(_isolation(settings)), name="trackside-begin")
            code = await life.begin_unless_told_to_end(supervisor, beginning)
            if code:
                raise NotBegun(ExitCode(code))
            if code is not None:
                words.say_ready(app, supervisor.worker_id, sockets)
                tell_service_manager("READY=1")
            await life.until_told_to_end()
            await life.end_processes(app, supervisor, health)
            await life.deliver(app)
        words.say("stopped")
    return life.begins_anew


def _isolation(settings: Settings) -> Isolation:
    from trackside.app.engine.supervisor import Isolation

    environ = {name: value for name, value in os.environ.items() if name not in _SUPERVISORS}
    return Isolation(
        command=beginning_anew.command_of_this(),
        environ=environ,
        places=settings.worker.concurrency,
        memory_limit=settings.worker.memory_limit,
    )


@asynccontextmanager
async def _health(app: App, sockets: Sequence[socket.socket]) -> AsyncGenerator[WorkerHealth]:
    """What answers at the health port, if there is one."""
    from trackside.app.server.http import HttpServer
    from trackside.app.server.worker_health import WorkerHealth

    health = WorkerHealth(app.store, app.vitals, app.observers, [str(spool_folder(app.settings))])
    if not sockets:
        yield health
        return
    async with HttpServer(health, sockets):
        yield health
