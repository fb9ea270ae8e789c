"""Puts a fleet together: PostgreSQL and an engine first, then servers and workers; takes it apart the other way round."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Self

from trackside.app.engine.local.children import Child, Guard, Launch
from trackside.app.engine.local.errors import DataFolderError
from trackside.app.engine.local.members import Happening, Keeper, Member, MemberKind, MemberState
from trackside.app.engine.local.nats import LocalNats
from trackside.app.engine.local.postgres import LocalPostgres
from trackside.app.engine.local.programs import LOOPBACK, free_ports

_NOT_INHERITED: Final = ("LISTEN_", "NOTIFY_SOCKET", "TRACKSIDE_SERVER_PORT", "TRACKSIDE_WORKER_PORT")
"""Variables that are meant for one process."""
_PROCESSES: Final = (MemberKind.worker, MemberKind.server)
_STORES: Final = (MemberKind.nats, MemberKind.postgres)
"""In the order in which they are stopped."""
_PATIENCE: Final = 600.0
"""Seconds for a process to stop: one that waits for runs has a limit of its own, and is only killed if that fails."""
_STORE_PATIENCE: Final = 20.0
_SHORT_PATIENCE: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """The plan of a fleet on this machine.

    Args:
        folder: the folder for everything that the fleet keeps; it exists, and is empty or an earlier fleet's.
        kept: whether the folder outlives the fleet.
        agents: the agents to serve, as on the command line; none: what the settings name.
        servers: how many servers.
        workers: how many workers.
        children: how many processes each worker has for its runs; none: it executes them itself.
        engine: what moves work between them.
        pools: the pools whose runs each worker takes; none: what the settings say.
        first_port: the port of the first server, the others follow; None: any free ones.
        env: more variables for servers and workers.
        cwd: where servers and workers run; None: here.
        pause: how many seconds pass before a process that died is started again.
    """

    folder: Path
    kept: bool = False
    agents: Sequence[str] = ()
    servers: int = 2
    workers: int = 3
    children: int = 0
    engine: Literal["nats", "postgres"] = "nats"
    pools: Sequence[str] = ()
    first_port: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    pause: float = 1.0

    @property
    def server_ports(self) -> range:
        """The ports of the servers; empty: any free ones."""
        return range(0) if self.first_port is None else range(self.first_port, self.first_port + self.servers)

    @property
    def processes(self) -> int:
        """How many processes use the database, including the one that starts them."""
        return 1 + self.servers + self.workers * (1 + self.children)


class LocalFleet:
    """A fleet whose processes are children of this one. Open it with `async with`, which stops all that are still up.

        async with LocalFleet(FleetPlan(folder=folder, agents=["agents.py:chat"])) as fleet:
            await fleet.start_stores()
            await fleet.start_processes()
            print(fleet.server_urls)
            await fleet.drain()
            await fleet.stop_stores()

    Args:
        plan: the plan of the fleet.
        on_happening: called with what happens to its processes.
    """

    def __init__(self, plan: FleetPlan, on_happening: Callable[[Happening], object] = lambda happening: None) -> None:
        self.plan = plan
        self._say = on_happening
        self._guard = Guard()
        self._stack = AsyncExitStack()
        self._keepers: list[Keeper] = []
        self._patience = _PATIENCE
        self._postgres: LocalPostgres | None = None
        self._nats: LocalNats | None = None
        self._ports: list[int] = []
        """Free ones, for servers and workers."""

    @property
    def members(self) -> list[Member]:
        """The fleet's processes, in the order in which they were started."""
        return [keeper.member for keeper in self._keepers]

    @property
    def database_url(self) -> str:
        """The address of the fleet's database, with the password."""
        assert self._postgres is not None, "it is not open"
        return self._postgres.url

    @property
    def shell_database_url(self) -> str:
        """The address of its database for a shell, between quotation marks: with the file that has the password."""
        assert self._postgres is not None, "it is not open"
        return self._postgres.shell_url

    @property
    def engine_url(self) -> str:
        """The address by which its processes find each other, with the password."""
        return "postgres" if self._nats is None else self._nats.url

    @property
    def server_urls(self) -> list[str]:
        """The addresses at which its servers answer."""
        return [f"http://{LOOPBACK}:{one.port}" for one in self.members if one.kind is MemberKind.server]

    async def __aenter__(self) -> Self:
        """Take the folder; this starts nothing.

        Raises:
            NotInstalledError: the programs are not installed.
            DataFolderError: another fleet has the folder.
            LocalServerError: too few ports are free.
        """
        async with AsyncExitStack() as stack:
            await asyncio.to_thread(self._prepare, stack)
            await stack.enter_async_context(self._guard)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            for kind in (*_PROCESSES, *_STORES):
                await self._stop(kind, patience=_SHORT_PATIENCE)
        finally:
            await self._stack.aclose()

    async def start_stores(self) -> None:
        """Start PostgreSQL and, if it is the engine, NATS.

        Raises:
            DataFolderError: the folder cannot be used.
            LocalServerError: one does not start.
        """
        starting: list[Keeper] = []
        for kind, store in ((MemberKind.postgres, self._postgres), (MemberKind.nats, self._nats)):
            if store is not None:
                await store.prepare()
                starting.append(self._keeper(Member(kind, kind, store.port), store.launch(), store.until_ready))
        await self._begin(starting)

    async def start_processes(self) -> None:
        """Start the servers and the workers. The first one finds the tables there, or creates them.

        Raises:
            LocalServerError: one does not start.
        """
        count, ports = self.plan.servers, self._ports
        to_ask = self.plan.server_ports or ports[:count]
        servers = [self._process(MemberKind.server, number, port) for number, port in enumerate(to_ask, 1)]
        to_watch = ports[count : count + self.plan.workers]
        workers = [self._process(MemberKind.worker, number, port) for number, port in enumerate(to_watch, 1)]
        await self._begin([*servers, *workers])

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send one of the processes a signal, to see what happens then."""
        next(keeper for keeper in self._keepers if keeper.member.name == name).signal(number)

    async def drain(self) -> None:
        """Stop the workers, which finish what they execute while servers still tell their clients; then stop the
        servers.
        """
        for kind in _PROCESSES:
            await self._stop(kind, patience=self._patience)

    async def stop_stores(self) -> None:
        """Stop what is left."""
        for kind in _STORES:
            await self._stop(kind, patience=_STORE_PATIENCE)

    def hurry(self) -> None:
        """Make servers and workers that are being stopped stop quickly: they cancel what runs."""
        for keeper in self._keepers:
            keeper.hurry()

    def kill(self) -> None:
        """Have no patience with servers and workers that are being stopped, or will be."""
        self._patience = 0.0
        for keeper in self._keepers:
            if keeper.member.kind in _PROCESSES and keeper.member.state is MemberState.stopping:
                keeper.signal(signal.SIGKILL)

    async def _begin(self, keepers: Sequence[Keeper]) -> None:
        self._keepers += keepers
        begun = await asyncio.gather(*[keeper.begin() for keeper in keepers], return_exceptions=True)
        for failure in begun:
            if failure is not None:
                raise failure

    async def _stop(self, kind: MemberKind, *, patience: float) -> None:
        await asyncio.gather(*[keeper.stop(patience) for keeper in self._keepers if keeper.member.kind is kind])

    def _keeper(self, member: Member, launch: Launch, until_ready: Callable[[Child], Awaitable[None]]) -> Keeper:
        return Keeper(member, launch, until_ready, guard=self._guard, say=self._say, pause=self.plan.pause)

    def _process(self, kind: MemberKind, number: int, port: int) -> Keeper:
        """A server or a worker."""
        name = f"{kind}-{number}"
        where = ["serve", "--host", LOOPBACK, "--port", str(port)] if kind is MemberKind.server else ["worker"]
        launch = Launch(
            command=[sys.executable, "-m", "trackside", *where, *self.plan.agents, "--json"],
            log=self.plan.folder / f"{name}.log",
            cwd=self.plan.cwd or Path.cwd(),
            env=self._environment(kind, port),
            speaks=True,
        )
        return self._keeper(Member(name, kind, port), launch, _until_it_speaks)

    def _environment(self, kind: MemberKind, port: int) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
        # Not on the command line, where everybody on this machine could read the passwords.
        own = {"TRACKSIDE_DATABASE_URL": self.database_url, "TRACKSIDE_ENGINE_URL": self.engine_url}
        if kind is MemberKind.worker:
            own |= {"TRACKSIDE_WORKER_HOST": LOOPBACK, "TRACKSIDE_WORKER_PORT": str(port)}
            if self.plan.pools:
                own["TRACKSIDE_WORKER_POOLS"] = ",".join(self.plan.pools)
        return {**inherited, **own, **self.plan.env}

    def _prepare(self, stack: AsyncExitStack) -> None:
        """Find the programs, and have the folder for ourselves until we are gone."""
        plan = self.plan
        postgres, broker, *self._ports = free_ports(2 + plan.servers + plan.workers, without=plan.server_ports)
        self._postgres = LocalPostgres(
            plan.folder / "postgres", port=postgres, kept=plan.kept, processes=plan.processes
        )
        if plan.engine == "nats":
            self._nats = LocalNats(plan.folder / "nats", port=broker)
        lock = stack.enter_context((plan.folder / "lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataFolderError(folder=plan.folder, why="another fleet uses it") from None


async def _until_it_speaks(child: Child) -> None:
    """Wait until a process of ours says that it can be used, or has ended."""
    if not await child.first_line():
        await child.wait()
