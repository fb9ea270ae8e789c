"""A fleet to measure: PostgreSQL and NATS of our own, worker processes, and a server in this process.

Everything is as users have it: the database flushes its commits, leases have their default length, and workers are
`trackside worker`. The server is the app without its HTTP, which `http` measures.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

from _fleet_book import Book

from trackside.app.settings import EngineSettings, Settings
from trackside.app.wiring import App, open_app

sys.path.append(str(Path(__file__).parents[1] / "tests" / "servers"))
from nats_server import NatsServer
from postgres_server import PostgresServer
from trackside_server import TracksideProcess

HERE: Final = Path(__file__).parent
AGENTS: Final = ("noop", "sleeping", "talking")
_PLACES_OF_BOOK: Final = 200_000
_LOOK_AGAIN: Final = 0.002  # seconds
_TICKS: Final = os.sysconf("SC_CLK_TCK")

type EngineName = Literal["nats", "postgres"]


class TookTooLongError(Exception):
    """Something did not happen in time."""


@dataclass(slots=True)
class Place:
    """Where fleets are measured, one after another; its stores stay."""

    folder: Path
    postgres: PostgresServer
    nats: NatsServer
    book: Book
    _databases: Iterable[int] = field(default_factory=count)
    _free: Any = field(default_factory=count)

    def places(self, number: int) -> list[int]:
        """This many places of the book that nobody has used."""
        return [next(self._free) for _ in range(number)]

    @asynccontextmanager
    async def database(self) -> AsyncGenerator[str]:
        """A database for one fleet."""
        name = f"fleet_{next(iter(self._databases))}"
        url = await asyncio.to_thread(self.postgres.create_database, name)
        yield url
        await asyncio.to_thread(self.postgres.drop_database, name)

    def store_cpu(self) -> dict[str, float]:
        """Seconds of CPU time that PostgreSQL and NATS have used."""
        main = int((self.postgres.data / "postmaster.pid").read_text().split()[0])
        assert self.nats._keeper is not None
        return {"PostgreSQL": cpu_of([main, *children_of(main)]), "NATS": cpu_of(children_of(self.nats._keeper.pid))}


@asynccontextmanager
async def place() -> AsyncGenerator[Place]:
    """Start the stores."""
    with tempfile.TemporaryDirectory(prefix="trackside-bench-") as name:
        folder = Path(name)
        settings = {"max_connections": "400"}
        postgres = await asyncio.to_thread(partial(PostgresServer, settings=settings))
        try:
            nats = await asyncio.to_thread(NatsServer)
            try:
                yield Place(folder, postgres, nats, Book(folder / "book", _PLACES_OF_BOOK))
            finally:
                await asyncio.to_thread(nats.close)
        finally:
            await asyncio.to_thread(postgres.close)


@dataclass(slots=True)
class Runs:
    """Runs in a database, whoever executes them."""

    place: Place
    database: str

    @property
    def database_name(self) -> str:
        """What the database is called on its server."""
        return self.database.partition("?")[0].rpartition("/")[2]

    async def until_rest(self, seconds: float = 60.0) -> None:
        """Wait until every run has ended, as the database says.

        Raises:
            TookTooLongError: they have not ended in time.
        """
        connection = await asyncio.to_thread(self.place.postgres.connect, self.database_name)
        try:
            async with asyncio.timeout(seconds):
                while (await asyncio.to_thread(connection.execute, "SELECT 1 FROM active_runs LIMIT 1")).fetchone():  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_AGAIN)
        except TimeoutError:
            raise TookTooLongError("not all runs have ended") from None
        finally:
            await asyncio.to_thread(connection.close)

    async def until_noted(self, places: Sequence[int], seconds: float = 60.0) -> None:
        """Wait until agents have been called for these places of the book.

        Raises:
            TookTooLongError: they were not called in time.
        """
        book = self.place.book
        noted = 0
        try:
            async with asyncio.timeout(seconds):
                while (noted := book.noted(places, after=noted)) < len(places):  # noqa: ASYNC110  # by another process
                    await asyncio.sleep(_LOOK_AGAIN)
        except TimeoutError:
            missing = sum(not book.at(one) for one in places)
            raise TookTooLongError(f"{missing} of {len(places)} runs have not begun in {seconds:g} s") from None


@dataclass(slots=True)
class Fleet(Runs):
    """A server in this process, and workers in processes of their own."""

    engine: EngineName
    app: App
    stack: AsyncExitStack
    workers: list[TracksideProcess] = field(default_factory=list)
    options: Mapping[str, str] = field(default_factory=dict)

    async def add_workers(self, number: int) -> None:
        """Start this many more, two at a time; returns when they take runs."""
        for first in range(0, number, 2):
            some = [self._worker() for _ in range(min(2, number - first))]
            await asyncio.gather(*[asyncio.to_thread(one.start) for one in some])

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU time that the whole fleet has used, by kind of process."""
        workers = cpu_of([one.pid for one in self.workers if not one.has_ended])
        return {**self.place.store_cpu(), "server": cpu_of([os.getpid()]), "workers": workers}

    def _worker(self) -> TracksideProcess:
        agents = [f"{HERE / '_fleet_agents.py'}:{name}" for name in AGENTS]
        worker = TracksideProcess(
            self.place.folder,
            ["worker", *agents, "--json", "--database", self.database],
            name=f"worker-{os.urandom(4).hex()}",
            env={
                "FLEET_BOOK": str(self.place.folder / "book"),
                "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
                "TRACKSIDE_ENGINE_URL": self.engine_url,
                **self.options,
            },
        )
        self.workers.append(worker)
        self.stack.callback(worker.kill)
        return worker

    @property
    def engine_url(self) -> str:
        """The setting that names the engine."""
        return self.place.nats.url if self.engine == "nats" else "postgres"


@asynccontextmanager
async def fleet(place: Place, engine: EngineName, *, workers: int = 2, **options: str) -> AsyncGenerator[Fleet]:
    """A fleet with a database of its own; `options` are environment variables of the workers."""
    async with place.database() as database, AsyncExitStack() as stack:
        url = place.nats.url if engine == "nats" else "postgres"
        settings = Settings(database_url=database, engine=EngineSettings(url=url))
        app = await stack.enter_async_context(open_app(settings, dict.fromkeys(AGENTS, _elsewhere), role="server"))
        found = Fleet(place, database, engine, app, stack, options=options)
        await found.add_workers(workers)
        yield found
        for one in found.workers:  # the server goes last
            await asyncio.to_thread(one.kill)


async def _elsewhere(input: Any) -> None:
    """Stands in for the agents on a server, which executes none."""


def children_of(pid: int) -> list[int]:
    """The direct children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def cpu_of(pids: Iterable[int]) -> float:
    """Seconds of CPU time that these processes have used, and their children that have ended."""
    return sum(map(_cpu, pids))


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # the process is gone
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS
