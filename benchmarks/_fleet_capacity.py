"""What a fleet of 10,000 workers and 1,000,000 queued runs asks of its database: measured where it can be, else calculated.

The rows of such a fleet are made in a PostgreSQL of our own, and each question that a fleet asks again and again is asked
there, through the store, beside the same question in a small fleet. The code's constants say how often each is asked.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from _databases import PostgresDatabases
from _report import table

from trackside import RunManager, RunSpec
from trackside.app.engine import duties, upkeep, worker
from trackside.app.storage import Store, _schema
from trackside.app.storage._coordination.enrolment import BEATS_PER_LEASE
from trackside.app.storage._coordination.membership import Register
from trackside.app.storage._coordination.recovery import ListOwned, Reap
from trackside.app.storage._coordination.taking import Take
from trackside.app.storage._rows.leases import DATABASE_CLOCK
from trackside.app.storage.fleet import FleetMember

LEASE_SECONDS: Final = 15.0
PLACES: Final = 16
_ASKED: Final = 15  # times, after a first one that does not count
_MOST_SECONDS: Final = 4.0  # for one question

_POOL: Final = "CASE WHEN n % 20 = 0 THEN 'io' WHEN n % 20 < 4 THEN 'gpu' ELSE 'default' END"
_AT: Final = (
    "to_char(now() - interval '2 hours' + n * interval '1 millisecond', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')||'+00:00'"
)
_ID: Final = "lpad(to_hex(n), 31, '0')"
_ROWS: Final = (
    f"""
    INSERT INTO threads (thread_id, status, created_at, updated_at)
    SELECT 't' || {_ID}, 'idle', {{at}}, {{at}} FROM generate_series({{first}}, {{last}}) AS n""",
    f"""
    INSERT INTO runs (run_id, thread_id, agent, status, created_at, last_sequence, metadata, request)
    SELECT 'r' || {_ID}, 't' || {_ID}, 'agent-' || n % 10, 'pending', {{at}}, 0, '{{{{}}}}', '{{{{"agent": "agent"}}}}'
    FROM generate_series({{first}}, {{last}}) AS n""",
    f"""
    INSERT INTO active_runs (run_id, thread_id, state, multitask, holds, owner, portable, pool)
    SELECT 'r' || {_ID}, 't' || {_ID}, {{state}}, 'enqueue', true, {{owner}}, true, {{pool}}
    FROM generate_series({{first}}, {{last}}) AS n""",
)
_WORKERS: Final = """
    INSERT INTO workers
        (worker_id, name, started_at, clock, lease_until, kind, pools, agents, capacity, running, release)
    SELECT 'w' || n, 'host-' || n || ':1', {at}, '{clock}', extract(epoch FROM clock_timestamp()) + 3000, 'worker',
        '["' || ({pool}) || '"]', '["agent-0", "agent-1"]', {places}, {places}, '0'
    FROM generate_series(1, {workers}) AS n"""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a fleet is, and how many runs wait for it."""

    workers: int
    ready: int

    @property
    def running(self) -> int:
        """All places are taken, since so many runs wait."""
        return self.workers * PLACES


SMALL, LARGE = Size(10, 1_000), Size(10_000, 1_000_000)
QUICK: Final = Size(100, 10_000)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question took: milliseconds until the answer, and milliseconds of the database's CPU time."""

    wall: float
    cpu: float


def fill(databases: PostgresDatabases, name: str, size: Size) -> None:
    """Make the rows of a fleet of this size, and have the server learn how many there are."""
    run = databases._server.connect(name)
    try:
        parts = [(1, size.running, "'claimed'", f"'w' || 1 + n % {size.workers}")]
        parts.append((size.running + 1, size.running + size.ready, "'pending'", "NULL"))
        for first, last, state, owner in parts:
            for rows in _ROWS:
                run.execute(rows.format(first=first, last=last, at=_AT, state=state, owner=owner, pool=_POOL))
        made = _WORKERS.format(at=_AT, clock=DATABASE_CLOCK, pool=_POOL, places=PLACES, workers=size.workers)
        run.execute(made)
        run.execute("VACUUM ANALYZE")
    finally:
        run.close()


def _take(store: Store, pools: Sequence[str], agents: Sequence[str], run_ids: list[str] | None = None) -> Take:
    return Take(
        owner="w1",
        pools=pools,
        agents=agents,
        version=None,
        unfit=(),
        most={},
        isolated_in=None,
        asked=run_ids,
        limit=PLACES,
        database="",
        schema=_schema.REVISIONS[-1],
    )


def questions(store: Store, manager: RunManager, size: Size) -> Mapping[str, Callable[[], Awaitable[object]]]:
    """The questions that a fleet asks again and again."""
    write, fleet = store._writer.write, store.fleet
    last = iter(range(size.running + size.ready, 0, -1))
    agents = [f"agent-{number}" for number in range(10)]
    beat = Register(worker_id="w1", name="w1", started_at="", lease_seconds=3_000.0, now={"running": 3})

    async def admit() -> None:
        await manager.start(RunSpec("agent-0"))

    return {
        "a run is let in": admit,
        "take one that was offered": lambda: write(_take(store, ["default"], agents, [f"r{next(last):031x}"])),
        "take 16, whatever is first": lambda: write(_take(store, ["default"], agents)),
        "the same, of three pools": lambda: write(_take(store, ["default", "gpu", "io"], agents)),
        "the same, of an agent that nothing waits for": lambda: write(_take(store, ["default"], ["another"])),
        "a sign of life": lambda: write(beat),
        "a worker's look at its runs": lambda: write(ListOwned(owner="w2")),
        "its look at what has ended": lambda: write(Reap(reaper="w2", whose="own")),
        "who has the duties": fleet.duties,
        "the scheduler's look": lambda: fleet.promote_due(limit=500),
        "the reaper's look": lambda: fleet.reap("w1"),
        "how deep the queue is": fleet.queue,
        "500 that were overlooked": lambda: fleet.ready(["default", "gpu"], older_than=2.0, limit=500),
        "the list of workers": fleet.workers,
        "versions that nobody has": fleet.loosen_versions,
    }


async def ask(databases: PostgresDatabases, size: Size) -> dict[str, Answer]:
    """Ask every question in a fleet of this size."""
    async with databases.new(with_tables=True) as url:
        begun = time.perf_counter()
        await asyncio.to_thread(fill, databases, url.partition("?")[0].rpartition("/")[2], size)
        print(f"{size.ready:,} rows were made in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        member = FleetMember(kind="server", pool_of=lambda _: "default")
        async with (
            Store.open(url) as store,
            RunManager({"agent-0": _nothing}, coordinator=store.coordinator(fleet=member)) as manager,
        ):
            return {what: await _asked(databases, do) for what, do in questions(store, manager, size).items()}


async def _nothing(input: Any) -> None:
    """Never executed here."""


async def _asked(databases: PostgresDatabases, do: Callable[[], Awaitable[object]]) -> Answer:
    await do()
    wall: list[float] = []
    cpu, begun = databases.cpu_ns(), time.perf_counter()
    while len(wall) < 2 or (len(wall) < _ASKED and time.perf_counter() - begun < _MOST_SECONDS):
        before = time.perf_counter()
        await do()
        wall.append((time.perf_counter() - before) * 1e3)
    return Answer(statistics.median(wall), (databases.cpu_ns() - cpu) / len(wall) / 1e6)


def rates(size: Size) -> list[tuple[str, float, str]]:
    """How often in a second a fleet of this size asks each question, and why."""
    beats = size.workers * BEATS_PER_LEASE / LEASE_SECONDS
    looks = size.workers / (duties.LEASE_SECONDS * 1.1)  # when a lease renewed just now would end, and a bit
    return [
        ("a sign of life", beats, f"{BEATS_PER_LEASE} in a lease of {LEASE_SECONDS:g} s"),
        ("a worker's look at its runs", beats, "as often"),
        ("its look at what has ended", beats, "as often"),
        ("who has the duties", looks, f"about one in a lease of {duties.LEASE_SECONDS:g} s"),
        (
            "take 16, whatever is first",
            size.workers / worker.LOOK_EVERY,
            f"each {worker.LOOK_EVERY:g} s, if it has room",
        ),
        ("the scheduler's look", 1 / upkeep._PROMOTE_EVERY, "one for all"),
        ("the reaper's look", 1 / upkeep._REAP_EVERY, "one for all"),
        ("how deep the queue is", 1 / upkeep._SWEEP_EVERY, "one for all, and who looks at the console"),
        ("500 that were overlooked", 1 / upkeep._SWEEP_EVERY, "one for all, if there is room"),
    ]


def tables_of(small: Mapping[str, Answer], large: Mapping[str, Answer], size: Size) -> list[str]:
    """What each question takes in both fleets; how often the large one asks it, and what that adds up to."""
    header = [
        "asked of the database, ms",
        f"{SMALL.ready:,} wait, its CPU",
        "until answered",
        f"{size.ready:,} wait, its CPU",
        "until answered",
    ]
    rows = [
        [what, *(f"{number:.2f}" for one in (small[what], large[what]) for number in (one.cpu, one.wall))]
        for what in large
    ]
    asked = [[what, f"{rate:,.1f}", f"{rate * large[what].cpu / 1e3:.2f}", why] for what, rate, why in rates(size)]
    total = sum(rate * large[what].cpu / 1e3 for what, rate, _ in rates(size))
    asked.append(["together", "", f"{total:.2f}", ""])
    per_second = [f"{size.workers:,} workers ask", "a second", "cores of the database", "as"]
    return [table(header, rows), table(per_second, asked, words=(0, 3))]


def measured(size: Size = LARGE) -> list[str]:
    """The tables."""
    with PostgresDatabases() as databases:
        small, large = (asyncio.run(ask(databases, one)) for one in (SMALL, size))
    return tables_of(small, large, size)
