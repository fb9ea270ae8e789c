"""How a process takes part in a fleet: the engine, what it is to the others, what it does for all of them."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from trackside.app.process_name import process_name
from trackside.app.settings import Settings, WorkerSettings
from trackside.app.streams import StreamHub
from trackside.app.vitals import EngineVitals, Vitals
from trackside.app.wiring.scheduling import scheduling
from trackside.harness import RunManager

if TYPE_CHECKING:
    from trackside.app.engine import Engine
    from trackside.app.engine.nats import NatsOptions
    from trackside.app.engine.supervisor import Supervisor
    from trackside.app.engine.worker import FleetWorker
    from trackside.app.storage import Store
    from trackside.app.storage.coordinator import StoredCoordinator
    from trackside.app.storage.fleet import FleetMember, QueueNews
    from trackside.app.streams.mirror import Mirrors

_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104  # where a worker listens, if told so
_CRONS_EVERY: Final = 1.0  # seconds between two looks at what other processes have changed

type Role = Literal["server", "worker", "supervisor"]
"""What a process of a fleet does: let runs in, execute them, or have them executed in child processes, as one worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What a process has of its fleet, from before its manager exists until after that has closed."""

    engine: Engine
    member: FleetMember
    role: Role
    mirrors: Mirrors | None
    """For a server: what it hears of runs that others execute."""


@asynccontextmanager
async def joined(
    settings: Settings, store: Store, streams: StreamHub, *, role: Role, agents: Mapping[str, Any]
) -> AsyncGenerator[Membership]:
    """Be a server or a worker of the fleet that the settings name.

    Raises:
        SettingsError: the engine cannot be used as it is set.
        MissingExtraError: it needs a package that is not installed.
    """
    from trackside.app.server.failed_runs import FailedRuns
    from trackside.app.server.run_ends import RunEnds
    from trackside.app.streams.mirror import Mirrors
    from trackside.app.streams.relay import Relay

    member = await asyncio.to_thread(_member, settings, role, agents)
    async with _engine_of(settings, store, role) as engine, AsyncExitStack() as stack:
        tell = partial(_tell, engine)
        store.fleet.on_news.append(tell)
        stack.callback(store.fleet.on_news.remove, tell)
        mirrors = None
        # A server has a relay, too: it changes and removes threads, and executes what no other process can.
        stack.push_async_callback(Relay(streams, engine.live).aclose)
        if role == "server":
            mirrors = Mirrors(streams, engine.live, RunEnds(store))
            stack.push_async_callback(mirrors.aclose)
        elif role == "worker":
            failed = FailedRuns()
            streams.on_end = failed.note
            stack.callback(failed.say_rest)
        yield Membership(engine=engine, member=member, role=role, mirrors=mirrors)


class FleetPart:
    """A member's part while its manager is open: duties for all, if they fall to it, and a worker's runs; `async with`."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        membership: Membership,
        manager: RunManager,
        coordinator: StoredCoordinator,
    ) -> None:
        from trackside.app.engine.duties import Duties
        from trackside.app.engine.upkeep import SCHEDULER, FleetUpkeep
        from trackside.app.engine.worker import FleetWorker

        self.membership = membership
        engine, member = membership.engine, membership.member
        self.upkeep = FleetUpkeep(
            store.fleet, engine, coordinator.worker_id, trusts_leases=coordinator.trusts_leases, tidy=[engine.tidy]
        )
        self.duties = Duties(store.fleet, coordinator.worker_id, self.upkeep.duties(_duties_of(membership)))
        self.crons = scheduling(settings, store, manager)(
            look_every=_CRONS_EVERY,
            on_duty=partial(self.duties.holds, SCHEDULER),
            # Only servers, which are few: whoever makes a cron asks one that has its agent.
            agents_on_duty=partial(self.upkeep.agents_on_duty, SCHEDULER) if membership.role == "server" else None,
        )
        self.worker: FleetWorker | None = None
        self.supervisor: Supervisor | None = None
        if membership.role == "supervisor":
            self.supervisor = _supervisor(settings, store, engine, coordinator)
        elif member.kind == "worker":
            self.worker = FleetWorker(
                manager,
                coordinator,
                engine,
                pools=member.pools,
                places=member.capacity,
                is_choosy=bool(member.most),
            )

    async def __aenter__(self) -> Self:
        await self.duties.__aenter__()
        if self.supervisor is None:
            self.crons.begin()
        if self.worker is not None:
            self.worker.begin()
        return self

    async def retire(self) -> None:
        """Leave its duties to others: a process whose manager closes starts no run of a cron. May be called again."""
        await self.crons.aclose()
        await self.duties.__aexit__()

    async def __aexit__(self, *exc_info: object) -> None:
        if self.worker is not None:
            await self.worker.stop()
        if self.supervisor is not None:
            await self.supervisor.aclose()
        await self.retire()

    def standing(self) -> dict[str, bool]:
        """Whether this process, or one of its child processes, has each duty, as far as it knows; from any thread."""
        of_children = {} if self.supervisor is None else self.supervisor.standing()
        return {**self.duties.standing(), **of_children}


def with_fleet(vitals: Vitals, part: FleetPart) -> Vitals:
    """The numbers of an app with those of its part in a fleet."""
    engine, worker = part.membership.engine, part.worker or part.supervisor
    return replace(
        vitals,
        engine=lambda: EngineVitals(engine.name, engine.status(), engine.stats()),
        worker=(lambda: None) if worker is None else worker.stats,
        duties=part.standing,
        queue=part.upkeep.queue,
    )


def _duties_of(membership: Membership) -> frozenset[str]:
    """The duties that a process may have.

    Child processes, which nobody can ask and whose agents may block them, have only those for which their supervisor
    lacks the agents.
    """
    from trackside.app.engine.upkeep import DUTIES, OF_AGENTS

    if membership.role == "supervisor":
        return DUTIES - OF_AGENTS
    return DUTIES if membership.member.isolated_in is None else OF_AGENTS


def _supervisor(settings: Settings, store: Store, engine: Engine, coordinator: StoredCoordinator) -> Supervisor:
    from trackside.app.engine.sentencing import Overdue
    from trackside.app.engine.supervisor import Supervisor

    return Supervisor(
        store.fleet,
        coordinator.worker_id,
        Overdue(lease=settings.engine.lease),
        lease=settings.engine.lease,
        note_gone=engine.note_gone,
        note_running=coordinator.note_running,
        note_leaving=coordinator.note_leaving,
        on_drain=coordinator.on_drain,
    )


def _tell(engine: Engine, news: QueueNews) -> None:
    """Have others hear of what was committed here."""
    if news.ready:
        engine.announce(news.ready)
    for stop in news.stops:
        engine.ask_to_stop(stop.worker_id, stop.run_id)


def _member(settings: Settings, role: Role, agents: Mapping[str, Any]) -> FleetMember:
    from trackside.app.storage.fleet import FleetMember

    worker = settings.worker
    is_worker = role != "server"
    return FleetMember(
        kind="worker" if is_worker else "server",
        pool_of=settings.pool_of,
        version=settings.engine.agents_version,
        pools=worker.pools if is_worker else (),
        capacity=worker.concurrency if is_worker else 0,
        agents=_executed(settings, settings.agents if role == "supervisor" else agents, role),
        address=_address(worker) if is_worker else None,
        isolated_in=worker.isolated_in if role == "worker" else None,
        most=_most(settings, agents) if role == "worker" else {},
    )


def _most(settings: Settings, agents: Iterable[str]) -> dict[str, int]:
    """How many runs of an agent a worker executes at once, where that is less than it has places.

    In a process that is one of its places, that may always be so.
    """
    worker = settings.worker
    places = math.inf if worker.isolated_in is not None else worker.concurrency
    limits = {agent: settings.limits_of(agent).max_running for agent in agents}
    return {agent: most for agent, most in limits.items() if most is not None and most < places}


def _executed(settings: Settings, agents: Iterable[str], role: Role) -> tuple[str, ...]:
    """The agents that a process has; for a worker, those whose runs come to its pools."""
    return tuple(agents if role == "server" else settings.of_own_pools(agents))


def _address(worker: WorkerSettings) -> str | None:
    """Where others can ask a worker how it is, if anywhere."""
    if not worker.port:
        return None
    host = socket.gethostname() if worker.host in _EVERYWHERE else worker.host
    return f"http://[{host}]:{worker.port}" if ":" in host else f"http://{host}:{worker.port}"


@asynccontextmanager
async def _engine_of(settings: Settings, store: Store, role: Role) -> AsyncGenerator[Engine]:
    if settings.engine.kind == "postgres":
        from trackside.app.engine.postgres import open_postgres

        async with open_postgres(store) as postgres:
            yield postgres
        return
    from trackside.app.engine.nats import open_nats

    with _blaming_engine(settings):
        async with open_nats(nats_options(settings, role, f"{role} {process_name()}")) as nats:
            yield nats


def check_engine_access(settings: Settings) -> None:
    """See that the engine can be used as it is set, by doing what its start does before it connects. Blocks.

    Raises:
        SettingsError: it cannot.
    """
    if settings.engine.kind != "nats":
        return
    from trackside.app.engine.nats import load_access

    with _blaming_engine(settings):
        load_access(nats_options(settings, "worker", "check"))


@contextmanager
def _blaming_engine(settings: Settings) -> Generator[None]:
    """Adds to an error of the engine's options who set them."""
    from trackside.app.engine.nats import EngineOptionError

    try:
        yield
    except EngineOptionError as exc:
        raise settings.complaint(f"engine.{exc.details['option']}", str(exc.details["why"])) from exc


def nats_options(settings: Settings, role: Role, name: str) -> NatsOptions:
    """How NATS is reached with these settings; `name` is what it shows of this process in its own lists.

    Raises:
        EngineOptionError: a value does not fit.
    """
    from trackside.app.engine.nats import NatsOptions

    engine = settings.engine
    return NatsOptions(
        url=engine.url,
        role="server" if role == "server" else "worker",
        name=f"trackside {name}",
        credentials=engine.credentials,
        ca=engine.ca,
        certificate=engine.certificate,
        key=engine.key,
    )
