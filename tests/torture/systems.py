"""What is tortured: a server on an SQLite file, two servers on PostgreSQL, a fleet with its broker.

All have the same interface, parts of which may be missing: workers and a broker are a fleet's; SQLite has no server.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import hosts
import poor_machine
from fenced_journal import FencedJournal
from fleet import Fleet, FleetProcess
from forking import Forkery
from log_check import look_into
from nats_server import NatsServer
from poor_machine import Machine
from postgres_server import PostgresServer
from spread_fleet import CLIENTS, SERVICES, SpreadFleet
from trackside_server import TracksideServer
from webhook_receiver import NEW

TESTS: Final = Path(__file__).resolve().parent.parent
CAST: Final = TESTS / "crash/server/served_cast.py"
AGENTS: Final = ("talks", "tries", "fails", "asks", "counts", "pauses")
LEASE: Final = 2.0
"""Seconds for which a silent process is believed to live."""
ATTEMPTS: Final = 50
"""Attempts of the agent that has more than one: no run comes to an end because its workers are killed."""
_DISK: Final = "512m"
_ENDS: Final = ("run_completed", "run_failed", "run_cancelled")


class System:
    """A system, for the length of an `async with` block.

    Args:
        folder: where all of it is.
        is_plain: its processes are forked, which takes a tenth of the CPU time of a start; they are on this host and
            load no library first, so that their clocks, disks and networks stay as they are.
    """

    name: ClassVar[str]

    def __init__(self, folder: Path, *, is_plain: bool = False) -> None:
        self.folder = folder
        self.is_plain = is_plain
        self.forkery: Forkery | None = None
        self.journal = FencedJournal(folder)
        self.url = ""
        """The address of the database, for those who look into it."""
        self.postgres: PostgresServer | None = None
        self.machine: Machine | None = None
        """The state of its machines; None where they cannot be made poor."""
        self.small_disk = True
        """Whether a database that is a file gets a small disk of its own, so that the disk can be full."""
        self.disk: Path | None = None
        """A separate file system for the database; None where there can be none, or where a server has the database."""
        self.listens_at = "127.0.0.1"
        """The address on which a receiver of webhooks has to listen."""
        self._stack = AsyncExitStack()

    @property
    def servers(self) -> list[FleetProcess]:
        """The servers that clients ask."""
        raise NotImplementedError

    @property
    def workers(self) -> list[FleetProcess]:
        """The processes that execute runs, apart from servers."""
        return []

    @property
    def nats(self) -> NatsServer | None:
        """The broker."""
        return None

    @property
    def processes(self) -> list[FleetProcess]:
        """The processes of the product."""
        return [*self.servers, *self.workers]

    async def prepare(self) -> None:
        """Start what the system needs around it."""
        if self.is_plain:
            self.forkery = self._stack.enter_context(Forkery())
        elif poor_machine.why_not() is None:
            self.machine = await asyncio.to_thread(Machine, self.folder)

    async def start(self, receiver: str) -> None:
        """Start it; a receiver at this address is told what happens."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._stack = stack
            await self.prepare()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(process.kill() for process in self.processes))
        await self._stack.aclose()

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the database, bypassing our code."""
        with look_into(self.url) as database:
            rows: list[tuple[Any, ...]] = database.execute(sql).fetchall()
        return rows

    def keep(self) -> None:
        """Copy what would be gone with the system, for those who look into a finding."""

    def env(self) -> dict[str, str]:
        """The environment variables of its processes."""
        return {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "FLEET_JOURNAL": str(self.folder),
            "TRACKSIDE_ENGINE_LEASE": f"{LEASE:g}s",
            **(self.machine.env if self.machine is not None else {}),
        }


def _observer(receiver: str) -> str:
    """The settings of a webhook that is told of all ends."""
    return f"""
[[observers]]
type = "webhook"
name = "told"
url = "{receiver}/told"
secret = "{NEW}"
events = {json.dumps(_ENDS)}
allow_private_addresses = true
"""


def _settings(receiver: str) -> str:
    """The text of `trackside.toml`."""
    agents = "\n".join(f'{name} = "{CAST}:{name}"' for name in AGENTS)
    return f"""
[agents]
{agents}

[limits.tries]
max_attempts = {ATTEMPTS}

[server]
private_webhooks = true
log = false
{_observer(receiver)}"""


class _Served(System):
    """Servers that execute the runs themselves."""

    def __init__(self, folder: Path, *, is_plain: bool = False) -> None:
        super().__init__(folder, is_plain=is_plain)
        self._servers: list[FleetProcess] = []

    @property
    def servers(self) -> list[FleetProcess]:
        return self._servers

    async def _start(self, number: int, receiver: str) -> None:
        for place in range(1, number + 1):
            server = TracksideServer(
                self.folder,
                database=self.url,
                settings=_settings(receiver),
                env=self.env(),
                name=f"server-{place}",
                forkery=self.forkery,
            )
            self._servers.append(FleetProcess(server, self.journal))
        await asyncio.gather(*(server.start() for server in self._servers))


class OnSqlite(_Served):
    """A server on an SQLite file, which is on a small disk of its own where one can be mounted."""

    name = "sqlite"

    async def prepare(self) -> None:
        await super().prepare()
        place = self.folder / "disk"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(place)]
        if (
            self.small_disk
            and shutil.which("mount")
            and not subprocess.run(command, capture_output=True, check=False).returncode
        ):
            self.disk = place
            self._stack.callback(subprocess.run, ["umount", "-l", str(place)], check=False)
        self.url = f"sqlite:///{place}/runs.db"

    async def start(self, receiver: str) -> None:
        await self._start(1, receiver)

    def keep(self) -> None:
        if self.disk is not None:
            shutil.copytree(self.disk, self.folder / "database", dirs_exist_ok=True)


class _OnPostgres(System):
    """A system with a database server of its own."""

    async def prepare(self) -> None:
        await super().prepare()
        settings = {"max_connections": "300"}
        self.postgres = await asyncio.to_thread(PostgresServer, settings=settings, guests=self._guests())
        self._stack.push_async_callback(asyncio.to_thread, self.postgres.close)

    def _guests(self) -> str | None:
        return None

    def keep(self) -> None:
        folder = self.folder / "database"
        folder.mkdir(exist_ok=True)
        for (table,) in self.ask("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
            rows = self.ask(f'SELECT to_jsonb(t)::text FROM "{table}" t')
            (folder / f"{table}.jsonl").write_text("".join(f"{row}\n" for (row,) in rows), "utf-8")


class OnPostgres(_OnPostgres, _Served):
    """Two servers on PostgreSQL, each of which executes what the other leaves."""

    name = "postgres"

    async def start(self, receiver: str) -> None:
        assert self.postgres is not None
        self.url = await asyncio.to_thread(self.postgres.create_database, "torture")
        await self._start(2, receiver)


class OnFleet(_OnPostgres):
    """Two servers and three workers, with NATS to move the work; each on its own host where there can be hosts."""

    name = "fleet"

    def __init__(self, folder: Path, *, is_plain: bool = False) -> None:
        super().__init__(folder, is_plain=is_plain)
        self.fleet: Fleet | None = None
        self._hosts: hosts.Hosts | None = None

    @property
    def spread(self) -> SpreadFleet | None:
        """The fleet, if its processes are on hosts of their own."""
        return self.fleet if isinstance(self.fleet, SpreadFleet) else None

    @property
    def servers(self) -> list[FleetProcess]:
        return [] if self.fleet is None else self.fleet.servers

    @property
    def workers(self) -> list[FleetProcess]:
        return [] if self.fleet is None else self.fleet.workers

    @property
    def nats(self) -> NatsServer | None:
        return None if self.fleet is None else self.fleet.nats

    async def prepare(self) -> None:
        if not self.is_plain and await asyncio.to_thread(hosts.why_not) is None:
            self._hosts = self._stack.enter_context(hosts.Hosts(*SERVICES))
            self.listens_at = self._hosts.address(CLIENTS)
        await super().prepare()

    def _guests(self) -> str | None:
        return None if self._hosts is None else hosts.NETWORK

    async def start(self, receiver: str) -> None:
        assert self.postgres is not None
        names: Mapping[str, str] = {f"TRACKSIDE_AGENTS_{name.upper()}": f"{CAST}:{name}" for name in AGENTS}
        options: dict[str, Any] = {
            "servers": 2,
            "workers": 3,
            "lease": LEASE,
            "attempts": ATTEMPTS,
            "settings": _observer(receiver),
            "env": {**self.env(), **names, "TRACKSIDE_SERVER_PRIVATE_WEBHOOKS": "true"},
        }
        if self._hosts is None:
            fleet = Fleet(self.folder, self.postgres, forkery=self.forkery, **options)
        else:
            fleet = SpreadFleet(self.folder, self.postgres, self._hosts, **options)
        self.fleet = await self._stack.enter_async_context(fleet)
        self.url = self.fleet.database


SYSTEMS: Final[Mapping[str, type[System]]] = {kind.name: kind for kind in (OnSqlite, OnPostgres, OnFleet)}
