"""A fleet of real processes for tests: PostgreSQL, with or without NATS, servers, workers; and LangGraph SDK clients.

    async with Fleet(folder, postgres, servers=2, workers=2) as fleet:
        run = await fleet.clients[0].runs.create(None, "talks", input={"token": "a", "parts": 50, "pause": 0.1})
        worker = await fleet.executor_of(run["run_id"])
        await worker.kill()
        …
        await fleet.check(words)

Everything waits for conditions, for `PATIENCE` seconds at most, and whatever happens no process outlives the test. The
agents are those of `fleet_agents`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final, Literal, Self

from fenced_journal import Entry, FencedJournal
from fleet_check import Counts, Words, assert_sound
from forking import Forkery
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from log_check import look_into
from nats_server import NatsServer
from postgres_server import PostgresServer
from raw_postgres import GONE, RawConnection
from trackside_server import EXECUTABLE, PATIENCE, TracksideProcess, TracksideServer

AGENTS: Final = Path(__file__).with_name("fleet_agents.py")
NAMES: Final = ("talks", "tries", "fails", "asks", "blocks")
ATTEMPTS: Final = 3
SHORT_LEASE: Final = 2.0
"""Seconds, for tests that lose processes or cut them off: others must not lose any, however slow the machine is."""
_LOOK_AGAIN: Final = 0.02  # seconds
SETTINGS: Final = f"""
[agents]
{"\n".join(f'{name} = "{AGENTS}:{name}"' for name in NAMES)}

[server]
log = false
"""

type EngineName = Literal["nats", "postgres"]


class FleetProcess:
    """A server or a worker that tests ill-treat. It keeps its name and its port for all its lives.

    Args:
        process: the process that is ill-treated.
        journal: where its agents write down what they do.
    """

    def __init__(self, process: TracksideProcess, journal: FencedJournal) -> None:
        self.process = process
        self.name = process.name
        self._journal = journal
        self.pids: set[int] = set()
        """The process ids of all its lives."""

    @property
    def pid(self) -> int:
        """The process id of its current life, or of the last one."""
        return self.process.pid

    @property
    def url(self) -> str:
        """Where a server answers, or where a worker tells its status."""
        return str(self.process.ready["url"])

    @property
    def is_up(self) -> bool:
        """Whether there is a process."""
        return not self.process.has_ended

    @property
    def log(self) -> str:
        """What it has written, in all its lives."""
        return self.process.log

    async def start(self) -> None:
        """Start it; returns when it can be used."""
        await asyncio.to_thread(self.process.start)
        self.pids.add(self.pid)

    async def kill(self) -> None:
        """End it as a power cut would."""
        await asyncio.to_thread(self.process.kill)

    async def restart(self) -> None:
        """Kill it, if it is up, and start it again."""
        await self.kill()
        await self.start()

    async def terminate(self) -> int:
        """Tell it to stop, and wait until it has; its exit code."""
        return await asyncio.to_thread(self.process.terminate)

    def stop(self) -> None:
        """Freeze it, as on a machine that sleeps; not while it writes to the journal, where others would wait."""
        with self._journal.held():
            self.process.stop()

    def resume(self) -> None:
        """Let it go on, unaware that time has gone by."""
        self.process.signal(signal.SIGCONT)


class Fleet:
    """All processes of a fleet, for the length of an `async with` block.

    Args:
        folder: where they run; settings, logs and the journal are there.
        postgres: a server that the fleet may restart; the fleet gets a database of its own there.
        engine: what moves the work.
        servers: how many there are in the beginning; likewise `workers`.
        lease: seconds for which a silent process is believed to live.
        concurrency: how many runs a worker executes at once.
        attempts: how many the runs of `tries` have.
        settings: further text of `trackside.toml`, with tables of its own.
        env: further environment variables of all processes.
        forkery: forks the processes.
    """

    def __init__(
        self,
        folder: Path,
        postgres: PostgresServer,
        *,
        engine: EngineName = "nats",
        servers: int = 2,
        workers: int = 2,
        lease: float = 60.0,
        concurrency: int = 8,
        attempts: int = ATTEMPTS,
        settings: str = "",
        env: dict[str, str] | None = None,
        forkery: Forkery | None = None,
    ) -> None:
        self.folder = folder
        self.postgres = postgres
        self.engine = engine
        self.nats: NatsServer | None = None
        self.journal = FencedJournal(folder)
        self.servers: list[FleetProcess] = []
        self.workers: list[FleetProcess] = []
        self._clients: dict[str, LangGraphClient] = {}
        self.frozen: set[int] = set()
        """Pids of processes that stood still past their leases: they may go on with work that is another's by then."""
        self._numbers = servers, workers
        self._lease = lease
        self._concurrency = concurrency
        self._settings = f"\n[limits.tries]\nmax_attempts = {attempts}\n{settings}"
        self._env = env or {}
        self._forkery = forkery
        self._asked: RawConnection | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        (self.folder / "trackside.toml").write_text(f"{SETTINGS}{self._settings}", "utf-8")
        async with AsyncExitStack() as stack:
            name = f"fleet_{uuid.uuid4().hex}"
            self.database = await asyncio.to_thread(self.postgres.create_database, name)
            stack.push_async_callback(asyncio.to_thread, self.postgres.drop_database, name)
            stack.callback(self._ask_no_more)
            if self.engine == "nats":
                self.nats = await asyncio.to_thread(self._make_nats)
                stack.push_async_callback(asyncio.to_thread, self.nats.close)
            stack.push_async_callback(self._end_all)
            servers, workers = self._numbers
            started = [self.add_server() for _ in range(servers)] + [self.add_worker() for _ in range(workers)]
            await asyncio.gather(*started)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def clients(self) -> list[LangGraphClient]:
        """One for each server, in their order."""
        return [self._clients[server.name] for server in self.servers if server.name in self._clients]

    @property
    def processes(self) -> list[FleetProcess]:
        """Servers and workers."""
        return [*self.servers, *self.workers]

    async def add_server(self, **env: str) -> FleetProcess:
        """Start one more server, and make a client of it; `env` is more of its environment."""
        name = f"server-{len(self.servers) + 1}"
        server = TracksideServer(
            self.folder, database=self.database, env=self._environment(env), name=name, forkery=self._forkery
        )
        process = FleetProcess(server, self.journal)
        self.servers.append(process)
        await process.start()
        self._clients[name] = get_client(url=server.url, api_key=None, timeout=PATIENCE)
        return process

    async def add_worker(self, *agents: str, **env: str) -> FleetProcess:
        """Start one more worker: of these agents, or of all."""
        name = f"worker-{len(self.workers) + 1}"
        arguments = ["worker", *agents, "--json", "--database", self.database]
        process = TracksideProcess(self.folder, arguments, name=name, env=self._environment(env), forkery=self._forkery)
        worker = FleetProcess(process, self.journal)
        self.workers.append(worker)
        await worker.start()
        return worker

    def open(self, gate: str) -> None:
        """Let go on whoever waits at this gate."""
        (self.folder / gate).touch()

    async def kill_nats(self) -> None:
        """Take NATS away, as a power cut would."""
        assert self.nats is not None
        await asyncio.to_thread(self.nats.stop, "KILL")

    async def start_nats(self, *, empty_disk: bool = False) -> None:
        """Start NATS again at the same address, with the data it had, or with nothing."""
        assert self.nats is not None
        if empty_disk:
            await asyncio.to_thread(shutil.rmtree, self.nats.data)
            await asyncio.to_thread(self.nats.data.mkdir)
        await asyncio.to_thread(self.nats.start)

    async def restart_postgres(self, mode: Literal["fast", "immediate"] = "immediate") -> None:
        """Stop the database and start it again; `immediate` is like a power cut."""
        await asyncio.to_thread(self.postgres.restart, mode)

    async def until[T](
        self, look: Callable[[], T | None] | Callable[[], Awaitable[T | None]], what: str, seconds: float = PATIENCE
    ) -> T:
        """Look until there is something to be seen, and return that; `what` names it in the error if it does not come.

        Raises:
            TimeoutError: it does not come; the message has the ends of all logs.
        """
        try:
            async with asyncio.timeout(seconds):
                while True:
                    found: Any = look()
                    if asyncio.iscoroutine(found):
                        found = await found
                    if found:
                        seen: T = found
                        return seen
                    await asyncio.sleep(_LOOK_AGAIN)
        except TimeoutError:
            raise TimeoutError(f"{what}: not within {seconds:g} s\n{self.logs()}") from None

    async def until_entered(self, run_id: str) -> Entry:
        """Wait until an agent is called for a run; returns its first line in the journal."""

        def look() -> Entry | None:
            entered = (one for one in self.journal.entries() if one.run_id == run_id and one.what == "enter")
            return next(entered, None)

        return await self.until(look, f"run {run_id} is executed")

    async def executor_of(self, run_id: str) -> FleetProcess:
        """Wait until a run is executed; returns the worker that executes it."""
        entry = await self.until_entered(run_id)

        def look() -> FleetProcess | None:
            pids = {entry.pid, *_ancestors_of(entry.pid)}
            return next((worker for worker in self.workers if worker.pids & pids), None)

        return await self.until(look, f"run {run_id} is executed by a worker, and not by {entry.pid}")

    async def until_rest(self) -> None:
        """Wait until everything that was let in has ended, however much that is, as long as something goes on."""
        seen: tuple[int, int] | None = None

        def moved() -> tuple[int, int] | None:
            [found] = self.ask("SELECT (SELECT count(*) FROM active_runs), value FROM counters WHERE name = 'position'")
            return found if found != seen else None

        while (seen := await self.until(moved, f"something goes on after {seen} active runs and events"))[0]:
            pass

    async def run_row(self, run_id: str) -> dict[str, Any] | None:
        """What the database says of a run."""
        names = ("status", "error_type", "attempt", "retry_of", "started_at", "ended_at")
        rows = self.ask(f"SELECT {', '.join(names)} FROM runs WHERE run_id = '{run_id}'")
        return dict(zip(names, rows[0], strict=True)) if rows else None

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the database, bypassing our code, on one connection: new ones would cost twenty times as much."""
        if self._asked is not None:
            with suppress(*GONE):
                return self._asked.execute(sql)
            self._ask_no_more()  # the server was stopped since the last question
        self._asked = RawConnection(self.database)
        return self._asked.execute(sql)

    def change(self, sql: str) -> None:
        """Change the database, bypassing our code."""
        with look_into(self.database) as database:
            database.execute(sql)

    async def command(self, *arguments: str) -> str:
        """What `trackside` prints for this command, run as the fleet's operator would run it."""
        program = await asyncio.create_subprocess_exec(
            EXECUTABLE,
            *arguments,
            "--database",
            self.database,
            cwd=self.folder,
            env={**os.environ, **self._environment({})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await program.communicate()
        assert program.returncode == 0, said.decode()
        return said.decode()

    async def check(self, words: Words | None = None) -> Counts:
        """Wait until all has ended, and check that nothing is wrong with what is left; returns the counts."""
        await self.until_rest()
        try:
            return await asyncio.to_thread(assert_sound, self.database, self.journal, words or Words())
        except AssertionError as exc:
            exc.add_note(self.logs())
            raise

    def logs(self, characters: int = 1_500) -> str:
        """The ends of the logs of all processes."""
        parts = [f"--- {one.name} ({'up' if one.is_up else 'gone'})\n{one.log[-characters:]}" for one in self.processes]
        return "\n".join(parts)

    def _make_nats(self) -> NatsServer:
        return NatsServer()

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        return {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "FLEET_JOURNAL": str(self.folder),
            "TRACKSIDE_ENGINE_URL": "postgres" if self.nats is None else self.nats.url,
            "TRACKSIDE_ENGINE_LEASE": f"{self._lease:g}s",
            "TRACKSIDE_WORKER_CONCURRENCY": str(self._concurrency),
            "TRACKSIDE_WORKER_PORT": "0",
            **self._env,
            **more,
        }

    def _ask_no_more(self) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            with suppress(*GONE):
                asked.close()

    async def _end_all(self) -> None:
        await asyncio.gather(*[one.kill() for one in self.processes])
        for client in self.clients:
            await client.http.client.aclose()


def _ancestors_of(pid: int) -> Iterator[int]:
    """The ancestors of a process: an isolated agent's process has the worker above it."""
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[1])
        except FileNotFoundError:
            return
        yield pid
