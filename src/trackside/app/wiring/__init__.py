"""The only place where an app is assembled: a store, the observers on it, and a manager that runs agents.

It reads settings, so that nothing below has to. Storage and frameworks are imported when something is opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackside.app.pricing import GenaiPrices
from trackside.app.settings import Settings, SettingsError
from trackside.app.spool import Spool
from trackside.app.streams import StreamHub
from trackside.app.vitals import Vitals
from trackside.app.wiring.access import authenticator_of, streams_of
from trackside.app.wiring.agents import AgentReference, load_agent
from trackside.app.wiring.checkpointers import opened_checkpointer
from trackside.app.wiring.database import blaming, open_store
from trackside.app.wiring.delivering import Deliveries
from trackside.app.wiring.errors import MissingExtraError, NothingRecordedError
from trackside.app.wiring.fleet import FleetPart, Membership, Role, joined, with_fleet
from trackside.app.wiring.forgetting import forgotten_by, forgotten_by_agents
from trackside.app.wiring.loopback import Loopback, answering_clients
from trackside.app.wiring.observers import ConfiguredObserver, build_observers
from trackside.app.wiring.projects import enter_project
from trackside.app.wiring.recorder import Recorder
from trackside.app.wiring.redaction import load_redaction
from trackside.app.wiring.scheduling import scheduling
from trackside.app.wiring.secrets import webhook_secret_of
from trackside.app.wiring.spooling import spool_folder
from trackside.harness import CompositeObserver, ObserverBinding, RunEventCallback, RunManager, RunObserver
from trackside.harness.managing.arguments import check_agents
from trackside.harness.types import AgentLimits

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from trackside.app.engine import Engine
    from trackside.app.engine.supervisor import Supervisor
    from trackside.app.engine.worker import FleetWorker
    from trackside.app.server import ServerParts
    from trackside.app.server.auth import Authenticator
    from trackside.app.server.guest import Guest
    from trackside.app.server.run_webhooks import RunWebhooks
    from trackside.app.storage import Store
    from trackside.app.storage.dispatcher import Dispatcher
    from trackside.app.storage.sweeping import Sweeper
    from trackside.app.streams.mirror import Mirrors
    from trackside.harness.redaction import Redact

__all__ = ["App", "MissingExtraError", "NothingRecordedError", "blaming", "load_agents", "open_app", "open_store"]


DELIVERY_SECONDS = 5.0
"""How many seconds a process that ends waits until durable observers have what is in the log; the next process
continues from there.
"""

RESULTS_LINGER = 120.0
"""How many seconds the memory of a thread that is gone with its run is kept. From there another process reads the
result for a caller that waits for it, and so does a server that was killed meanwhile and is back. Clocks may differ by
a minute.
"""


@dataclass(frozen=True)
class App:
    """Everything that one process runs with."""

    manager: RunManager
    store: Store
    recorder: Recorder
    checkpointer: Any
    """Keeps the threads of graphs that have no checkpointer of their own; None if nobody needs it."""
    observers: Sequence[ConfiguredObserver]
    """The observers that the settings name."""
    deliveries: Deliveries
    """What the durable observers among them get."""
    vitals: Vitals
    streams: StreamHub
    """The live output of this process's runs."""
    settings: Settings
    authenticator: Authenticator | None
    """Identifies the clients of the server."""
    closing: AsyncExitStack
    """What is closed with this app, before its manager."""
    loopback: Loopback
    """The app as LangGraph's clients without an address see it."""
    fleet_part: FleetPart | None = None
    """What this process does in its fleet; None: it executes the runs that it lets in."""

    @property
    def worker(self) -> FleetWorker | None:
        """Takes the runs that a worker of a fleet executes."""
        return None if self.fleet_part is None else self.fleet_part.worker

    @property
    def supervisor(self) -> Supervisor | None:
        """Keeps up the child processes of a worker that executes nothing itself."""
        return None if self.fleet_part is None else self.fleet_part.supervisor

    @property
    def membership(self) -> Membership | None:
        """This process's membership in its fleet; None: it executes the runs that it lets in."""
        return None if self.fleet_part is None else self.fleet_part.membership

    @property
    def engine(self) -> Engine | None:
        """The engine that moves runs between the processes of the fleet."""
        return None if self.membership is None else self.membership.engine

    @cached_property
    def parts(self) -> ServerParts:
        """What the HTTP server of this app answers with. Once this has been read, the app does what servers do without
        being asked: it starts the runs of crons, and tells webhooks how runs have ended.

        Raises:
            SettingsError: `server.webhook_secret` signs nothing, or the environment does not have it.
        """
        from trackside.app.server import ServerOptions, ServerParts
        from trackside.app.wiring.system import system_sources

        secret = webhook_secret_of(self.settings)
        if self.fleet_part is None:  # else they are among its duties
            self._begin_crons()
        webhooks = self._begun_webhooks(secret)
        server, access = self.settings.server, self.settings.access
        return ServerParts(
            manager=self.manager,
            store=self.store,
            streams=self.streams,
            mirrors=self._mirrors,
            checkpointer=self.checkpointer,
            vitals=self.vitals,
            observers=self.observers,
            authenticator=self.authenticator,
            system=system_sources(self.settings),
            expect_webhook=webhooks.expect if self.settings.redact is None else None,
            options=ServerOptions(
                heartbeat=server.heartbeat,
                max_body_bytes=server.max_body,
                hosts=access.hosts,
                origins=access.origins,
                rate=access.rate,
                max_streams=streams_of(access),
                item_kinds=access.item_kinds,
                configurable_headers=server.configurable_headers,
                descriptions=self.settings.project.descriptions,
                console=server.console,
                folders=_folders(self.settings),
            ),
        )

    async def retire(self) -> None:
        """Leave to others what this process does for all of its fleet. May be called again."""
        if self.fleet_part is not None:
            await self.fleet_part.retire()

    @property
    def _mirrors(self) -> Mirrors | None:
        return None if self.membership is None else self.membership.mirrors

    def _begin_crons(self) -> None:
        crons = scheduling(self.settings, self.store, self.manager)()
        crons.begin()
        self.closing.push_async_callback(crons.aclose)

    def _begun_webhooks(self, secret: str | None) -> RunWebhooks:
        from trackside.app.server.run_webhooks import RunWebhooks

        webhooks = RunWebhooks(
            self.store,
            self.manager,
            self.streams,
            mirrors=self._mirrors,
            checkpointer=self.checkpointer,
            secret=secret,
            private=self.settings.server.private_webhooks,
        )
        webhooks.begin()
        self.deliveries.others.append(webhooks.stats)
        self.closing.push_async_callback(webhooks.aclose)
        return webhooks

    @cached_property
    def asgi(self) -> Starlette:
        """The HTTP server as an ASGI app, to serve or to mount into another one. It ends with this app."""
        return self._served()

    def asgi_before(self, guest: Guest) -> Starlette:
        """The same with another ASGI app behind it, which gets the requests that are not ours, and whose middleware
        comes before everything.
        """
        return self._served(guest)

    def _served(self, guest: Guest | None = None) -> Starlette:
        from trackside.app import dashboard
        from trackside.app.server import create_app
        from trackside.app.server.routes import GROUPS

        auth_first = self.settings.server.middleware_order == "auth_first"
        if self.settings.server.console:
            asks = self.authenticator is not None
            groups, before = (*GROUPS, *dashboard.GROUPS), [dashboard.browsing(asks=asks)]
            app = create_app(self.parts, groups, guest=guest, auth_first=auth_first, before=before)
        else:
            app = create_app(self.parts, guest=guest, auth_first=auth_first)
        self.closing.callback(app.state.failed_runs.say_rest)
        self.loopback.serve(app)
        return app

    @property
    def dispatcher(self) -> Dispatcher:
        """Feeds the durable observers."""
        return self.deliveries.dispatcher


def load_agents(settings: Settings) -> dict[str, Any]:
    """The agents that the settings name, by name.

    Raises:
        AgentReferenceError, AgentImportError: one of them cannot be loaded.
    """
    enter_project(settings)
    references = {name: AgentReference.parse(name, settings.agents) for name in settings.agents}
    return {
        name: load_agent(reference, makes_graphs=settings.agents[name] in settings.project.graphs)
        for name, reference in references.items()
    }


def _check(settings: Any, agents: Any) -> None:
    if not isinstance(settings, Settings):
        why = f"it takes what load_settings() reads from files and variables, or Settings(…), not {settings!r:.60}"
        raise SettingsError(where="open_app", why=why)
    check_agents(agents)


@asynccontextmanager
async def open_app(
    settings: Settings,
    agents: Mapping[str, Any] | None = None,
    *,
    observers: Sequence[RunObserver | RunEventCallback] = (),
    hands_over: bool = True,
    one_run: bool = False,
    role: Role = "server",
) -> AsyncGenerator[App]:
    """Open the database, a manager that records into it, and the observers that the settings name; close them all in
    the end.

    Events of runs that the database cannot take are spooled on this machine's disk. What earlier processes left there
    is delivered before anything else happens.

    * `agents` are objects by name; those that the settings name if left out.
    * `observers` come after storage and the observers of the settings, so they never see what is not stored.
    * `hands_over` says whether runs that have not started are left to other processes in the end, and theirs taken
      over.
    * With `one_run`, nobody asks its server anything. The list of prices is then read when the first price is asked
      for, and costs nothing if none is; otherwise it is read before anything runs, so that no other run has to wait for
      it.
    * `role` is what this process is in the fleet if the settings name an engine, unless it is there for `one_run`.

    Raises:
        SettingsError: these are not settings; or the database, an observer or the hook that redacts events cannot be
            used.
        AgentReferenceError, AgentImportError: an agent of the settings cannot be loaded.
        NotAgentsError, NotAnAgentError, NotObserversError, NotAnObserverError: an argument is not what it has to be.
        InvalidSpecError: an agent has a name that no database can keep.
        MissingExtraError: an agent needs a package that is not installed.
    """
    _check(settings, agents)
    given = CompositeObserver(observers).bindings
    agents, redact, configured = await _imported(settings, agents)
    async with AsyncExitStack() as stack:
        live, unfed = await _to_be_closed(configured, stack)
        store, spool, recorder = await _opened_log(settings, stack)
        checkpointer = await opened_checkpointer(settings, agents, store, stack)
        prices = await _prices(settings, at_once=not one_run)
        deliveries = await _fed(configured, store, unfed, stack)
        streams = StreamHub()
        store.on_removal(streams.threads.forget)
        membership = None if one_run else await _membership(settings, stack, store, streams, role, agents)
        member = None if membership is None else membership.member
        coordinator = store.coordinator(
            lease_seconds=settings.engine.lease, hands_over=hands_over, keeps_requests=redact is None, fleet=member
        )
        manager = RunManager(
            agents,
            stream=streams,
            observers=[ObserverBinding(recorder, required=True), *_bound(live), *given],
            coordinator=coordinator,
            states=store.thread_states(),
            log=store.run_log(),
            checkpointer=checkpointer,
            items=store.items,
            max_running=settings.max_running if member is None else max(1, member.capacity),
            limits={name: _limits_of(name, settings, outlives=hands_over) for name in agents},
            stopping=settings.stopping,
            prices=prices,
            redact=redact,
            shutdown_grace=settings.shutdown_grace,
        )
        fleet_part = None if membership is None else FleetPart(settings, store, membership, manager, coordinator)
        vitals = _vitals(manager, store, deliveries, spool, fleet_part)
        _show(configured, vitals, store, membership)
        authenticator = None
        if not one_run:
            authenticator = await asyncio.to_thread(authenticator_of, settings, store)
            await stack.enter_async_context(_sweeper(settings, store, checkpointer, manager.agents))
        loopback = await stack.enter_async_context(answering_clients(manager, serves=role == "server" and not one_run))
        await stack.enter_async_context(manager)
        if fleet_part is not None:
            await stack.enter_async_context(fleet_part)
        yield App(
            manager,
            store,
            recorder,
            checkpointer,
            configured,
            deliveries,
            vitals,
            streams,
            settings,
            authenticator,
            stack,
            loopback,
            fleet_part,
        )


async def _imported(
    settings: Settings, agents: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], Redact | None, Sequence[ConfiguredObserver]]:
    """The code of others: agents, the hook that redacts, observers. Importing it may take long, and start loops."""
    enter_project(settings)
    if agents is None:
        agents = await asyncio.to_thread(load_agents, settings)
    redact = await asyncio.to_thread(load_redaction, settings)
    configured = await asyncio.to_thread(build_observers, settings) if settings.observers else []
    return agents, redact, configured


async def _opened_log(settings: Settings, stack: AsyncExitStack) -> tuple[Store, Spool, Recorder]:
    """The log, the spool for when it is away, and what writes to either; what was spooled is delivered."""
    store = await stack.enter_async_context(open_store(settings))
    spool = Spool(spool_folder(settings), max_bytes=settings.database_spool_size)
    recorder = Recorder(store, spool=spool)
    stack.push_async_callback(recorder.aclose)
    await recorder.deliver_spooled()
    return store, spool, recorder


async def _membership(
    settings: Settings, stack: AsyncExitStack, store: Store, streams: StreamHub, role: Role, agents: Mapping[str, Any]
) -> Membership | None:
    """What this process is in the fleet of the engine that the settings name, if they name one."""
    if settings.engine_kind == "inline":
        return None
    return await stack.enter_async_context(joined(settings, store, streams, role=role, agents=agents))


def _sweeper(settings: Settings, store: Store, checkpointer: Any, agents: Mapping[str, object]) -> Sweeper:
    """What removes expired items and, once nobody asks for results any more, what threads that are gone have left."""
    elsewhere = None if settings.checkpoints_saver == "store" else checkpointer
    forget = [*forgotten_by(elsewhere), *forgotten_by_agents(agents)]
    return store.sweeper(forget=forget, linger=RESULTS_LINGER)


async def _prices(settings: Settings, *, at_once: bool) -> GenaiPrices:
    """The list of prices, read at once or when the first price is asked for."""
    prices = GenaiPrices(settings.prices)
    if at_once:
        await asyncio.to_thread(prices.load)
    return prices


def _bound(live: Sequence[ConfiguredObserver]) -> list[ObserverBinding]:
    """Live observers as a manager takes them; those that gate runs come first."""
    return [observer.binding() for observer in sorted(live, key=lambda observer: not observer.settings.required)]


def _show(
    configured: Sequence[ConfiguredObserver], vitals: Vitals, store: Store, membership: Membership | None
) -> None:
    """Have observers see how the app does, and hear of the ends that it announces for others.

    A supervisor's do not hear these: they are not told of its processes' other runs, and would count failures alone.
    """
    hears = membership is None or membership.role != "supervisor"
    for observer in configured:
        observer.watch(vitals)
        if hears:
            observer.hear_ends(store)


async def _to_be_closed(
    configured: Sequence[ConfiguredObserver], stack: AsyncExitStack
) -> tuple[Sequence[ConfiguredObserver], AsyncExitStack]:
    """The live observers, closed in the end even if nothing else can be opened, and what closes the durable ones until
    they are fed.
    """
    live = [observer for observer in configured if not observer.is_durable]
    stack.push_async_callback(_close_all, live)
    unfed = await stack.enter_async_context(AsyncExitStack())
    unfed.push_async_callback(_close_all, [observer for observer in configured if observer.is_durable])
    return live, unfed


async def _fed(
    configured: Sequence[ConfiguredObserver], store: Store, unfed: AsyncExitStack, stack: AsyncExitStack
) -> Deliveries:
    """What feeds the durable observers, delivers in the end what it can, and closes them."""
    deliveries = Deliveries(configured, store)
    unfed.pop_all()
    await stack.enter_async_context(deliveries)
    stack.push_async_callback(deliveries.drain, DELIVERY_SECONDS)
    return deliveries


async def _close_all(observers: Sequence[ConfiguredObserver]) -> None:
    await asyncio.gather(*(observer.aclose() for observer in observers))


def _vitals(
    manager: RunManager,
    store: Store,
    deliveries: Deliveries,
    spool: Spool,
    fleet_part: FleetPart | None,
) -> Vitals:
    vitals = Vitals(
        manager=manager.stats,
        observers=manager.observers.stats,
        writer=store.writer_stats,
        reads=store.reads_total,
        feeds=deliveries.stats,
        spooled=lambda: spool.waiting,
        agents=[*manager.agents],
    )
    return vitals if fleet_part is None else with_fleet(vitals, fleet_part)


def _folders(settings: Settings) -> list[str]:
    """Where files grow, which may not be there yet."""
    folders = [spool_folder(settings)]
    if settings.sqlite_file is not None:
        folders.append(Path(settings.sqlite_file).absolute().parent)
    return [str(folder) for folder in folders]


def _limits_of(name: str, settings: Settings, *, outlives: bool) -> AgentLimits:
    """What the runs of an agent may take; a run that does not outlive this process has one attempt."""
    limits = settings.limits_of(name)
    return limits if outlives else replace(limits, max_attempts=1)
