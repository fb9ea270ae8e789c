"""The lines whose growth is measured: each is one figure beside data of several sizes, and how fast it must grow."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, cycle

import _growth_data as data
from _long_log import BUSY_THREAD, DAYS, EVENTS_PER_RUN, events
from _rounds import Work
from append import produce
from big import LAST_DAY, PAGES, TOTALS, Ask, places
from follow import Arrivals, followed_by
from runs import at_once

from trackside import LifecycleEventType, ObserverBinding, RunLifecycleEvent, RunManager, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.app.storage.fleet import DEFAULT_POOL, FleetMember
from trackside.app.storage.threads import ThreadQuery
from trackside.harness.ids import new_id

MEMORY, SQLITE, POSTGRES = "in memory", "SQLite", "PostgreSQL"
AGENT = "agent"
PLACES = 20
"""Reads are at this many places in the log, one after another."""
SHORT_PAGE = 20
"""A page that the busy thread fills even in the smallest log."""
OLD_RUNS = 100
PRODUCERS, APPENDED = 16, 160
CALLERS, EXECUTED = 32, 96
"""Work that shares transactions is done by this many, this often: if time decided, the shares would differ."""
FLAT, LINEAR = 0.0, 1.0

type Open = Callable[[str, int], AbstractAsyncContextManager[Work]]
"""Opens the work beside the data at an address; the number is the data's size."""


@dataclass(frozen=True, slots=True)
class Line:
    """One figure; `must` is the exponent with which it has to grow because there is more to do, and no faster."""

    name: str
    open: Open
    must: float = FLAT


@dataclass(frozen=True, slots=True)
class DataSet:
    """Data of several sizes, in things called `what`, and the lines that are measured beside it, each group in a plot.

    `fill` makes it in a database with empty tables. The sizes in `more` are measured when everything is asked for.
    """

    what: str
    sizes: Sequence[int]
    groups: Sequence[tuple[str, Sequence[Line]]]
    fill: Callable[[str, int], Awaitable[None]] = data.nothing
    more: Sequence[int] = ()
    on: Sequence[str] = (SQLITE, POSTGRES)


def again(do: Callable[[], Awaitable[object]]) -> Work:
    """Do it again and again, one after another."""

    async def work(times: int) -> None:
        for _ in range(times):
            await do()

    return work


@asynccontextmanager
async def manager_at(
    url: str, agent: Callable[[object], Awaitable[None]], max_running: int = 256
) -> AsyncGenerator[RunManager]:
    """A manager on a store that is its observer and its coordinator; without an address, a manager in memory."""
    # Thousands of runs that go on at the same moment hold up the loop for longer than the usual warning allows.
    managed = partial(RunManager, {AGENT: agent}, max_running=max_running, block_warning_after=None)
    if not url:
        async with managed() as manager:
            yield manager
        return
    async with (
        Store.open(url) as store,
        managed(
            observers=[ObserverBinding(StorageObserver(store), required=True)], coordinator=store.coordinator()
        ) as manager,
    ):
        yield manager


async def noop(value: object) -> None:
    """Do nothing."""


async def to_its_end(manager: RunManager, thread_id: str | None = None) -> None:
    """One run, from its start to its result."""
    result = await (await manager.start(RunSpec(AGENT, thread_id=thread_id))).result()
    assert result.error is None, result.error


@asynccontextmanager
async def appending(url: str, size: int) -> AsyncGenerator[Work]:
    async with Store.open(url) as store:
        append = produce(StorageObserver(store).on_event, PRODUCERS)
        yield again(lambda: append(APPENDED))


@asynccontextmanager
async def running(url: str, size: int, *, thread_id: str | None = None) -> AsyncGenerator[Work]:
    async with manager_at(url, noop) as manager:
        yield again(lambda: to_its_end(manager, thread_id))


@asynccontextmanager
async def running_at_once(url: str, size: int) -> AsyncGenerator[Work]:
    async with manager_at(url, noop) as manager:
        run = at_once(partial(to_its_end, manager), CALLERS)
        yield again(lambda: run(EXECUTED))


def _old_runs() -> list[RunLifecycleEvent]:
    """Runs that ended before any run in the log, on threads of their own."""
    earlier = timedelta(days=2 * DAYS)
    return [
        replace(event, thread_id=f"old {event.thread_id}", occurred_at=event.occurred_at - earlier)
        for event in events(OLD_RUNS)
    ]


@asynccontextmanager
async def pruning(url: str, size: int) -> AsyncGenerator[Work]:
    """Prune, which needs something to remove: the same number of old runs is appended before each time."""
    async with Store.open(url) as store:

        async def append_and_prune() -> None:
            await store.append(_old_runs())
            report = await store.prune(older_than=timedelta(days=DAYS * 1.5))
            assert report.events == OLD_RUNS * EVENTS_PER_RUN

        yield again(append_and_prune)


@asynccontextmanager
async def reading(url: str, size: int, *, ask: Ask) -> AsyncGenerator[Work]:
    async with Store.open(url) as store:
        at = cycle(await places(store, PLACES))
        yield again(lambda: ask(store, next(at)))


@asynccontextmanager
async def searching(url: str, size: int) -> AsyncGenerator[Work]:
    chance, customers = random.Random(1), data.customers(size)
    async with Store.open(url) as store:
        threads = store.threads_of(None)

        async def search() -> None:
            wanted = {"customer": f"customer {chance.randrange(customers)}"}
            assert (await threads.search(ThreadQuery(metadata=wanted))).threads

        yield again(search)


@asynccontextmanager
async def listing_threads(url: str, size: int) -> AsyncGenerator[Work]:
    async with Store.open(url) as store:
        yield again(lambda: store.threads(limit=50))


@asynccontextmanager
async def taking(url: str, size: int) -> AsyncGenerator[Work]:
    """Let a run in, and execute the one that has waited longest: the same number wait all the time."""

    def pool_of(agent: str) -> str:
        return DEFAULT_POOL

    async with Store.open(url) as store:
        told = [ObserverBinding(StorageObserver(store), required=True)]
        server = store.coordinator(fleet=FleetMember(kind="server", pool_of=pool_of))
        member = FleetMember(kind="worker", pool_of=pool_of, pools=(DEFAULT_POOL,), capacity=1, agents=(AGENT,))
        worker = store.coordinator(fleet=member)
        async with (
            RunManager({AGENT: noop}, observers=told, coordinator=server) as lets_in,
            RunManager({AGENT: noop}, observers=told, coordinator=worker) as executes,
        ):

            async def take() -> None:
                await lets_in.start(RunSpec(AGENT))
                (run_id,) = await worker.take_any(1)
                await executes.result(run_id)

            yield again(take)


@asynccontextmanager
async def asking(url: str, size: int, *, ask: Callable[[Store], Awaitable[object]]) -> AsyncGenerator[Work]:
    async with Store.open(url) as store:
        yield again(lambda: ask(store))


@asynccontextmanager
async def putting(url: str, size: int) -> AsyncGenerator[Work]:
    numbers = count(size)
    async with Store.open(url) as store:
        saver = store.checkpointer()

        async def put() -> None:
            number = next(numbers)
            await saver.aput(data.at_newest(), data.checkpoint(number), {"step": number}, {"messages": number})

        yield again(put)


@asynccontextmanager
async def getting(url: str, size: int) -> AsyncGenerator[Work]:
    async with Store.open(url) as store:
        saver = store.checkpointer()

        async def get() -> None:
            assert await saver.aget_tuple(data.at_newest()) is not None

        yield again(get)


@asynccontextmanager
async def together(url: str, size: int) -> AsyncGenerator[Work]:
    """This many runs, none of which ends before all of them are running."""
    all_there = asyncio.Barrier(size)

    async def meet(value: object) -> None:
        await all_there.wait()

    async with manager_at(url, meet, max_running=size) as manager:

        async def wave() -> None:
            await asyncio.gather(*(to_its_end(manager) for _ in range(size)))

        yield again(wave)


def _one_run(run_id: str) -> Iterator[RunLifecycleEvent]:
    started = LifecycleEventType.RUN_STARTED, {"agent": AGENT, "metadata": {}}
    said = LifecycleEventType.HUMAN_MESSAGE, {"message": {"id": "1", "type": "human", "content": "What is it?"}}
    for sequence in count(1):
        event_type, payload = started if sequence == 1 else said
        yield RunLifecycleEvent(new_id(), event_type, run_id, run_id, sequence, datetime.now(UTC), payload)


@asynccontextmanager
async def followed(url: str, size: int) -> AsyncGenerator[Work]:
    """This many followers of one run: an event has arrived when all of them have it."""
    run_id = new_id()
    source, arrivals = _one_run(run_id), Arrivals(size)
    async with Store.open(url) as store:
        (started,) = await store.append([next(source)])

        async def follow() -> None:
            async for _ in store.follow(started.position, run_id=run_id):
                arrivals.one()

        async with followed_by(follow, size):
            yield arrivals.work(lambda: store.append([next(source)]))


def _page(name: str) -> Line:
    return Line(f"page: {name}", partial(reading, ask=PAGES[name]))


WRITES = (
    Line(f"append {APPENDED} events, {PRODUCERS} producers", appending),
    Line(f"{EXECUTED} runs, {CALLERS} at once", running_at_once),
    Line("a run on a new thread", running),
    Line("a run on a thread with 1 % of the runs", partial(running, thread_id=BUSY_THREAD)),
    Line(f"append and prune {OLD_RUNS} runs", pruning),
)
EVENT_READS = (
    _page("events after a position"),
    _page("events of a run"),
    Line("how many go on and wait", partial(asking, ask=lambda store: store.live_counts())),
    # One sum for each hour with runs of an agent and a status: there are more until every hour has all of them.
    Line(f"totals: {LAST_DAY}", partial(reading, ask=TOTALS[LAST_DAY]), 0.5),
)
RUN_READS = (
    _page("runs, the first page"),  # which the console requests
    _page("runs before a cursor"),
    _page("runs by thread"),
    Line(
        "page: runs by a thread with 1 % of the runs",
        partial(reading, ask=lambda store, _: store.runs(thread_id=BUSY_THREAD, limit=SHORT_PAGE)),
    ),
    _page("runs by status"),
    Line(
        "runs of a thread with a status, as clients ask for them",
        partial(
            reading, ask=lambda store, at: store.threads_of(None).runs(at.thread_id, status="success", limit=SHORT_PAGE)
        ),
    ),
    Line(
        "totals: stats of a thread with a status",
        partial(reading, ask=lambda store, at: store.stats(thread_id=at.thread_id, status="success")),
    ),
    _page("threads, the first page"),
)
DATA_SETS = (
    DataSet(
        "events",
        (10_000, 100_000, 1_000_000),
        [("written beside a log", WRITES), ("read from a log", EVENT_READS), ("listed from a log", RUN_READS)],
        fill=data.log,
        more=(10_000_000,),
    ),
    DataSet(
        "threads",
        (1_000, 10_000, 100_000),
        [
            (
                "beside many threads",
                (
                    Line("threads by metadata, and how many they are", searching),
                    Line("threads, the first page", listing_threads),
                    Line("a run on a new thread, beside others", running),
                ),
            )
        ],
        fill=data.threads,
        more=(1_000_000,),
    ),
    DataSet(
        "waiting runs",
        (100, 1_000, 10_000),
        [
            (
                "beside many waiting runs",
                (
                    Line("let in, claim the next, execute it", taking),
                    Line("how many wait", partial(asking, ask=lambda store: store.live_counts()), LINEAR),
                    Line("what waits in each pool", partial(asking, ask=lambda store: store.fleet.queue()), LINEAR),
                ),
            )
        ],
        fill=data.waiting,
        more=(100_000,),
    ),
    DataSet(
        "checkpoints",
        (100, 1_000, 10_000),
        [("on a thread with many checkpoints", (Line("put", putting), Line("get the newest", getting)))],
        fill=data.checkpoints,
        more=(100_000,),
    ),
    DataSet(
        "runs at once",
        (1, 10, 100, 1_000, 10_000),
        [("many runs at once", (Line("all runs, from the first start to the last result", together, LINEAR),))],
        on=(MEMORY, SQLITE),
    ),
    DataSet(
        "followers",
        (1, 10, 100, 1_000),
        [("many followers of one run", (Line("an event, until the last has it", followed, LINEAR),))],
    ),
)
