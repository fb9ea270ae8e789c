"""A new database for each piece of work: a file, or a database on a PostgreSQL server of our own."""

import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Protocol, Self

from _report import Budget, Options
from _rounds import Contender, Race, Work, race

from trackside.app.storage import Store

sys.path.append(str(Path(__file__).parents[1] / "tests" / "servers"))
from postgres_server import PostgresServer


class Databases(Protocol):
    """Where databases come from; `name` is their kind."""

    name: str

    def new(self, *, with_tables: bool) -> AbstractAsyncContextManager[str]:
        """The address of a database that exists as long as the context, empty or with the store's tables."""
        ...

    def cpu_ns(self) -> int:
        """The CPU time that the server's processes have used so far."""
        ...


_OF_CHILDREN = 15
"""Fields of /proc/PID/stat after the name, up to the CPU time of children that have ended; see proc_pid_stat(5)."""
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class SqliteFiles:
    """SQLite files, each in a folder of its own."""

    name = "SQLite"

    @asynccontextmanager
    async def new(self, *, with_tables: bool) -> AsyncGenerator[str]:
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{folder}/log.db"
            if with_tables:
                async with Store.open(url):
                    pass
            yield url

    def cpu_ns(self) -> int:
        return 0


class PostgresDatabases:
    """Databases on a server that flushes its commits to disk, and runs as long as the context."""

    name = "PostgreSQL"

    def __init__(self) -> None:
        self._server = PostgresServer()
        self._numbers = count()
        self._template: str | None = None

    @asynccontextmanager
    async def new(self, *, with_tables: bool) -> AsyncGenerator[str]:
        name = f"bench_{next(self._numbers)}"
        url = self._server.create_database(name, template=await self._tables() if with_tables else None)
        yield url
        self._server.drop_database(name)

    def cpu_ns(self) -> int:
        main = int((self._server.data / "postmaster.pid").read_text().split()[0])
        processes = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        alive = sum(int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) for process in processes)
        *_, user, system = Path(f"/proc/{main}/stat").read_text().rpartition(")")[2].split()[:_OF_CHILDREN]
        return alive + (int(user) + int(system)) * _TICK_NS  # children that have ended count, else time would go back

    async def _tables(self) -> str:
        if self._template is None:
            self._template = "bench_tables"
            async with Store.open(self._server.create_database(self._template)):
                pass
        return self._template

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()


type Way = Callable[[Databases, int], AbstractAsyncContextManager[Work]]
"""One way to do the work on new databases, with this many at once."""


type Peer = Callable[[str, Databases, int], Contender]
"""What others do in a case, on new databases, with this many at once."""


def race_on_each(
    ways: Mapping[str, Way],
    sizes: Sequence[int],
    case_of: Callable[[str, int], str],
    options: Options,
    peers: Sequence[Peer] = (),
) -> tuple[Race, list[str]]:
    """Measure all ways on each database and at each size (only the first for a quick look); also gives the cases."""
    with PostgresDatabases() as server:
        some = sizes[:1] if options.quick else sizes
        cases = {case_of(of.name, size): (of, size) for of in (SqliteFiles(), server) for size in some}
        contenders = [
            Contender(name, case, partial(way, of, size), server_cpu_ns=of.cpu_ns)
            for case, (of, size) in cases.items()
            for name, way in ways.items()
        ]
        contenders += [peer(case, of, size) for case, (of, size) in cases.items() for peer in peers]
        return race(contenders, options.effort), [*cases]


def beside_by_hand(result: Race, cases: Iterable[str], *, by_hand: str, ours: str, least: float) -> list[Budget]:
    """Budgets that ours reaches this share of the rate by hand, in each case."""
    return [
        Budget.of(
            f"{case}: at least {least} of the rate of the same rows by hand",
            least,
            partial(result.ratio, result.contender(by_hand, case), result.contender(ours, case)),
        )
        for case in cases
    ]
