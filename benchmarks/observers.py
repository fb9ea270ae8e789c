"""What live observers cost: each of them for one event, and durable runs with all of them, and with three broken ones.

Beside them stands what the libraries below them cost by hand: no observer can cost less than that.
"""

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from _databases import Databases, SqliteFiles
from _raw_observers import RawKept, RawLines, RawMetrics, RawObserver, RawSpans, StorageAndByHand
from _report import Budget, Report, figure, options_of, publish, rate_and_cpu, table
from _rounds import Contender, Effort, Race, Spread, Work, race
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from runs import at_once, start_and_wait

from trackside import LifecycleEventType, NullObserver, ObserverBinding, RunContext, RunLifecycleEvent, RunManager
from trackside.app.observers.live import LiveObserver
from trackside.app.observers.logging import LoggingObserver
from trackside.app.observers.metrics import MetricsObserver
from trackside.app.observers.storage import StorageObserver
from trackside.app.observers.tracing import TracingObserver
from trackside.app.storage import Store
from trackside.harness.ids import new_id
from trackside.harness.observer import BatchRunObserver, RunObserver
from trackside.harness.observing.buffered import BufferedObserver

EFFORT = Effort(rounds=5, seconds=0.7)
CONCURRENT = (32, 256)
BATCH = 64
MOST = 1.3
NOBODY = "nobody"
ALONE, BY_HAND = "storage alone", "storage, the rest by hand"
ALL, SOME, BROKEN = "all live observers", "all, three of them broken", "all, and three more, broken"
RAISES, HANGS, IS_SLOW = "storage and one that raises", "storage and one that hangs", "storage and one that is slow"
ONE_EVENT = "one event of a run with four calls"

_CALLS = [
    {"kind": kind, "name": name, "caller": "lead_agent", "at": at, "seconds": 0.4}
    for at, (kind, name) in enumerate([("chat", "small"), ("execute_tool", "search")] * 2)
]
_USAGE = {"input_tokens": 812, "output_tokens": 64, "total_tokens": 876, "cost_usd": 0.002}
_END = {
    "total_input_tokens": 812,
    "total_output_tokens": 64,
    "total_tokens": 876,
    "llm_call_count": 2,
    "tool_call_count": 2,
    "message_count": 6,
    "token_usage_by_model": {"small": _USAGE},
    "token_usage_by_caller": {"lead_agent": _USAGE},
    "first_human_message": "What is in the README?",
    "last_ai_message": "A seam.",
    "duration_seconds": 4.2,
    "cost_usd": 0.002,
    "calls": _CALLS,
}
_RUN: Sequence[tuple[LifecycleEventType, dict[str, Any]]] = (
    (LifecycleEventType.RUN_STARTED, {"agent": "research", "metadata": {"user": "somebody"}}),
    (LifecycleEventType.THREAD_STATUS_UPDATED, {"status": "busy", "previous": "idle"}),
    (LifecycleEventType.HUMAN_MESSAGE, {"message": {"id": "1", "type": "human", "content": "What is in the README?"}}),
    (
        LifecycleEventType.RUN_COMPLETED,
        {"agent": "research", "status": "success", "title": None, "completion_data": _END},
    ),
    (LifecycleEventType.THREAD_STATUS_UPDATED, {"status": "idle", "previous": "busy"}),
)


class Discarding(SpanExporter):
    """Takes the spans that a collector would get: what the SDK does with them before that is measured."""

    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def spans_to_nowhere() -> TracerProvider:
    """A provider as apps have it, except for the collector."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Discarding()))
    return provider


def tracing(folder: Path) -> TracingObserver:
    return TracingObserver(tracer_provider=spans_to_nowhere())


def logging_to_a_file(folder: Path) -> LoggingObserver:
    return LoggingObserver(format="json", file=str(folder / "runs.jsonl"))


LIVE: dict[str, Callable[[Path], RunObserver]] = {
    "MetricsObserver": lambda folder: MetricsObserver(),
    "TracingObserver": tracing,
    "LoggingObserver, JSON to a file": logging_to_a_file,
    "LiveObserver": lambda folder: LiveObserver(),
}

RAW: dict[str, Callable[[Path], RawObserver]] = {
    "by hand: prometheus_client": lambda folder: RawMetrics(),
    "by hand: OpenTelemetry's SDK": lambda folder: RawSpans(spans_to_nowhere()),
    "by hand: json.dumps to a file": lambda folder: RawLines(folder / "runs.jsonl"),
    "by hand: a deque": lambda folder: RawKept(),
}
KEPT_WHOLE = "TracingObserver"
"""The observer that still works when three of them are broken: the one that costs most."""


class Raising:
    """Fails on every event."""

    def __init__(self, is_over: asyncio.Event) -> None:
        pass

    async def on_event(self, event: RunLifecycleEvent) -> None:
        raise ConnectionError("nobody is there")


class Hanging:
    """Never comes back from its first event."""

    def __init__(self, is_over: asyncio.Event) -> None:
        self._is_over = is_over

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await self._is_over.wait()


class Slow:
    """Takes a hundred events a second, of the thousands that come."""

    def __init__(self, is_over: asyncio.Event) -> None:
        self._is_over = is_over

    async def on_event(self, event: RunLifecycleEvent) -> None:
        if not self._is_over.is_set():
            await asyncio.sleep(0.01)


def events() -> Iterator[RunLifecycleEvent]:
    """One run after another, each on a thread of its own."""
    while True:
        run_id, thread_id = new_id(), new_id()
        for sequence, (event_type, payload) in enumerate(_RUN, 1):
            yield RunLifecycleEvent(new_id(), event_type, run_id, thread_id, sequence, datetime.now(UTC), payload)


async def close(observer: RunObserver) -> None:
    aclose: Callable[[], Awaitable[object]] | None = getattr(observer, "aclose", None)
    if aclose is not None:
        await aclose()


async def written(observer: RunObserver) -> None:
    """Wait for what an observer still does after it has returned to its caller."""
    if isinstance(observer, LoggingObserver):
        await observer.flush(60.0)


@asynccontextmanager
async def given(make: Callable[[Path], RunObserver]) -> AsyncGenerator[Work]:
    """Events as a buffer gives them: in batches to an observer that takes batches, else one by one."""
    with tempfile.TemporaryDirectory() as folder:
        observer = make(Path(folder))

        async def work(count: int) -> None:
            stream = islice(events(), count)
            while batch := list(islice(stream, BATCH)):
                if isinstance(observer, BatchRunObserver):
                    await observer.on_events(batch)
                else:
                    for event in batch:
                        await observer.on_event(event)
            await written(observer)

        yield work
        await close(observer)


async def agent(input: Any, run: RunContext) -> None:
    """Report usage as if it had called a model and a tool."""
    run.record_usage("small", input_tokens=812, output_tokens=64, cost_usd=0.002)
    run.record_tool_call("search")


type Faulty = Callable[[asyncio.Event], RunObserver]
BROKEN_WAYS: Sequence[Faulty] = (Raising, Hanging, Slow)


@asynccontextmanager
async def durable(
    databases: Databases, concurrent: int, *, live: Sequence[str] = (), faulty: Sequence[Faulty] = (), raw: bool = False
) -> AsyncGenerator[Work]:
    """Runs on a store, until the observers that work have received all of their events."""
    is_over = asyncio.Event()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = await stack.enter_async_context(databases.new(with_tables=True))
        store = await stack.enter_async_context(Store.open(url))
        working = [LIVE[name](folder) for name in live]
        by_hand = [make(folder) for make in RAW.values()] if raw else []
        for observer in (*working, *by_hand):
            stack.push_async_callback(close, observer)
        buffers = [BufferedObserver(observer, log=store.run_log()) for observer in working]
        storage = StorageAndByHand(StorageObserver(store), by_hand) if raw else StorageObserver(store)
        manager = RunManager(
            {"agent": agent},
            observers=[ObserverBinding(storage, required=True), *buffers, *(make(is_over) for make in faulty)],
            coordinator=store.coordinator(),
            log=store.run_log(),
        )
        await stack.enter_async_context(manager)
        stack.callback(is_over.set)
        runs = at_once(start_and_wait(manager), concurrent)
        await runs(concurrent)  # until the hanging one is known: that costs the first runs a quarter of a second

        async def work(count: int) -> None:
            await runs(count)
            for buffer in buffers:
                assert (await buffer.flush(60.0)).complete
                await written(buffer.observer)

        yield work


WAYS: Mapping[str, Callable[[Databases, int], AbstractAsyncContextManager[Work]]] = {
    ALONE: durable,
    BY_HAND: partial(durable, raw=True),
    ALL: partial(durable, live=[*LIVE]),
    SOME: partial(durable, live=[KEPT_WHOLE], faulty=BROKEN_WAYS),
    BROKEN: partial(durable, live=[*LIVE], faulty=BROKEN_WAYS),
    RAISES: partial(durable, faulty=[Raising]),
    HANGS: partial(durable, faulty=[Hanging]),
    IS_SLOW: partial(durable, faulty=[Slow]),
}


def case_of(concurrent: int) -> str:
    return f"durable runs on SQLite, {concurrent} at once"


def event_table(result: Race) -> str:
    nobody = result.contender(NOBODY, ONE_EVENT)

    def row(name: str) -> list[str]:
        observer = result.contender(name, ONE_EVENT)
        more = (result.difference(observer, nobody, clock).scaled(1e-3) for clock in ("cpu", "wall"))
        return [name, *(figure(each, digits=1) for each in more)]

    header = [ONE_EVENT, "µs of CPU time", "µs by wall clock"]
    made = (result.cost(nobody, clock).scaled(1e-3) for clock in ("cpu", "wall"))
    return table(header, [*map(row, [*LIVE, *RAW]), ["(to make it)", *(figure(each, digits=1) for each in made)]])


def run_table(result: Race, case: str) -> str:
    alone = result.contender(ALONE, case)

    def row(name: str) -> list[str]:
        way = result.contender(name, case)
        return [
            name,
            *rate_and_cpu(result, way),
            *(f"{result.ratio(way, alone, clock).median:.2f}" for clock in ("wall", "cpu")),
        ]

    return table([case, "runs/s by wall clock", "µs of CPU time", "× storage alone, wall", "CPU"], map(row, WAYS))


def budgets_of(result: Race, cases: Sequence[str]) -> list[Budget]:
    def beside(name: str, case: str) -> Callable[[Any], Spread]:
        return partial(result.ratio, result.contender(name, case), result.contender(ALONE, case))

    return [
        Budget.of(f"{case}: {name}: at most {MOST} times storage alone", MOST, beside(name, case), at_most=True)
        for case in cases
        for name in (ALL, SOME, BROKEN)
    ]


def main() -> None:
    options = options_of(__doc__, EFFORT)
    # An observer that raises costs its program, which logs: the text of the first tracebacks, and a write.
    logging.basicConfig(stream=open(os.devnull, "w"))  # noqa: SIM115, PTH123  # for as long as the process lives
    sizes = CONCURRENT[:1] if options.quick else CONCURRENT
    contenders = [Contender(NOBODY, ONE_EVENT, partial(given, lambda folder: NullObserver()))]
    contenders += [Contender(name, ONE_EVENT, partial(given, make)) for name, make in {**LIVE, **RAW}.items()]
    files = SqliteFiles()
    contenders += [
        Contender(name, case_of(size), partial(way, files, size)) for size in sizes for name, way in WAYS.items()
    ]
    result = race(contenders, options.effort)
    cases = [case_of(size) for size in sizes]
    report = Report(
        name="observers",
        unit="nanoseconds for one event, or one run",
        race=result,
        tables=[event_table(result), *(run_table(result, case) for case in cases)],
        budgets=budgets_of(result, cases),
        ours=[*LIVE, *(name for name in WAYS if name not in {ALONE, BY_HAND})],
        packages=["prometheus-client", "opentelemetry-sdk", "sqlalchemy"],
    )
    publish(report, options)


if __name__ == "__main__":
    main()
