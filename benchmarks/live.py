"""How long after an event 1,000 readers of one run in the same process have it as JSON, beside a queue for each of them."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count

import msgspec
from _report import Budget, Report, figure, options_of, publish, table
from _rounds import Clock, Contender, Effort, Race, Spread, Work, race
from follow import EVENT, FOLLOWED, FOLLOWERS, LATENCIES, Arrivals, bare_event

from trackside import RunLifecycleEvent
from trackside.app.observers.live import LiveEvent, LiveObserver
from trackside.testing.events import make_event

EFFORT = Effort(rounds=11, seconds=0.3)
QUEUES = "asyncio.Queue for each"
LIVE = "LiveObserver"
WAYS = (EVENT, QUEUES, LIVE)

_SAYS = {"message": {"id": "1", "type": "human", "content": "What is in the README? " * 5}}


def event(sequence: int) -> RunLifecycleEvent:
    return make_event(sequence=sequence, payload=_SAYS)


@asynccontextmanager
async def queues() -> AsyncGenerator[Work]:
    """What somebody would write at first: each reader has a queue, and makes JSON of what it gets."""
    arrivals, sequences = Arrivals(FOLLOWERS), count(1)
    waiting: list[asyncio.Queue[RunLifecycleEvent]] = [asyncio.Queue() for _ in range(FOLLOWERS)]
    encode = msgspec.json.Encoder().encode

    async def send() -> None:
        new = event(next(sequences))
        arrivals.sent_at = time.perf_counter_ns()
        for queue in waiting:
            queue.put_nowait(new)

    async def read(queue: asyncio.Queue[RunLifecycleEvent]) -> None:
        while True:
            encode((await queue.get()).__dict__)
            arrivals.one()

    async with _reading([partial(read, queue) for queue in waiting]):
        yield arrivals.work(send)
    arrivals.keep(QUEUES)


@asynccontextmanager
async def live() -> AsyncGenerator[Work]:
    arrivals, sequences, observer = Arrivals(FOLLOWERS), count(1), LiveObserver()

    async def send() -> None:
        new = event(next(sequences))
        arrivals.sent_at = time.perf_counter_ns()
        await observer.on_event(new)

    async def read() -> None:
        async with observer.follow("run-1", expected=True) as events:
            async for item in events:
                assert isinstance(item, LiveEvent)
                assert item.data
                arrivals.one()

    async with _reading([read] * FOLLOWERS):
        yield arrivals.work(send)
    arrivals.keep(LIVE)
    await observer.aclose()


@asynccontextmanager
async def _reading(readers: list[Callable[[], Awaitable[None]]]) -> AsyncGenerator[None]:
    tasks = [asyncio.ensure_future(read()) for read in readers]
    await asyncio.sleep(0.1)  # until all of them wait
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def table_of(result: Race, rounds: int) -> str:
    def row(name: str) -> list[str]:
        measured = zip(*LATENCIES[name][-rounds:], strict=True)
        cost = result.cost(result.contender(name, FOLLOWED), "cpu")
        return [
            name,
            *(figure(Spread.of(values), digits=2) for values in measured),
            figure(cost.scaled(1e-3 / FOLLOWERS), digits=2),
        ]

    header = [FOLLOWED, "median, ms", "99th percentile, ms", "the last, ms", "µs of CPU time for each reader"]
    return table(header, map(row, WAYS))


def budgets_of(result: Race) -> list[Budget]:
    def beside(name: str, clock: Clock) -> Spread:
        return result.ratio(result.contender(LIVE, FOLLOWED), result.contender(name, FOLLOWED), clock)

    return [
        Budget.of(f"an event to all readers: at most what {QUEUES} takes", 1.0, partial(beside, QUEUES), at_most=True),
        Budget.of(f"an event to all readers: at most 3 times {EVENT}", 3.0, partial(beside, EVENT), at_most=True),
    ]


def main() -> None:
    options = options_of(__doc__, EFFORT)
    ways = {EVENT: bare_event, QUEUES: queues, LIVE: live}
    result = race([Contender(name, FOLLOWED, ways[name]) for name in WAYS], options.effort)
    report = Report(
        name="live",
        unit="nanoseconds for one event to all readers",
        race=result,
        tables=[table_of(result, options.effort.rounds)],
        budgets=budgets_of(result),
        ours=[LIVE],
        packages=["msgspec"],
        extra={"milliseconds": {name: values[-options.effort.rounds :] for name, values in LATENCIES.items()}},
    )
    publish(report, options)


if __name__ == "__main__":
    main()
