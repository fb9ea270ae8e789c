"""What giving one event to 1, 4 and 16 observers that do nothing costs, beside peers that do the same."""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

from _report import Budget, Report, figure, options_of, publish, table, times
from _rounds import Contender, Effort, Race, Work, race
from blinker import Signal
from langchain_core.callbacks import AsyncCallbackHandler, AsyncCallbackManager
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
from openlineage.client.transport.composite import CompositeConfig, CompositeTransport

from trackside import CompositeObserver, LifecycleEventType, RunLifecycleEvent

OBSERVERS = {"1 observer": 1, "4 observers": 4, "16 observers": 16}
EFFORT = Effort(rounds=31, seconds=0.02)
OURS = "CompositeObserver.on_event"
BARE = "bare loop"
LANGCHAIN = "LangChain on_custom_event, inline handlers"

EVENT = RunLifecycleEvent(
    event_id=str(uuid4()),
    event_type=LifecycleEventType.RUN_STARTED,
    run_id=str(uuid4()),
    thread_id=str(uuid4()),
    sequence=1,
    occurred_at=datetime.now(UTC),
    payload={"agent": "agent", "metadata": {}},
)


class NoOp:
    """An observer that does nothing."""

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Do nothing."""


class NoOpHandler(AsyncCallbackHandler):
    """A LangChain handler that does nothing. Inline ones are called one after another, others in tasks side by side."""

    def __init__(self, *, inline: bool) -> None:
        self.run_inline = inline

    async def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        """Do nothing."""

    async def on_chain_start(self, serialized: dict[str, Any], inputs: dict[str, Any], **kwargs: Any) -> None:
        """Do nothing."""


def bare_loop(count: int) -> Work:
    """The loop of somebody who needs neither isolation nor an order that holds while it changes."""
    observers = [NoOp() for _ in range(count)]

    async def dispatch(event: RunLifecycleEvent) -> None:
        for observer in observers:
            await observer.on_event(event)

    async def work(times: int) -> None:
        for _ in range(times):
            await dispatch(EVENT)

    return work


def composite(count: int) -> Work:
    observer = CompositeObserver([NoOp() for _ in range(count)])

    async def work(times: int) -> None:
        for _ in range(times):
            await observer.on_event(EVENT)

    return work


def openlineage_transport(count: int) -> Work:
    """OpenLineage's fan-out alone, which is synchronous."""
    transport = CompositeTransport(CompositeConfig(transports=[{"type": "noop"}] * count))
    event = openlineage_event()

    async def work(times: int) -> None:
        for _ in range(times):
            transport.emit(event)

    return work


def openlineage_client(count: int) -> Work:
    """What a user of OpenLineage calls: it adds facets and filters, then fans out."""
    client = OpenLineageClient(config={"transport": {"type": "composite", "transports": [{"type": "noop"}] * count}})
    event = openlineage_event()

    async def work(times: int) -> None:
        for _ in range(times):
            client.emit(event)

    return work


def openlineage_event() -> RunEvent:
    return RunEvent(
        eventTime=EVENT.occurred_at.isoformat(),
        producer="https://example.org/benchmark",
        eventType=RunState.START,
        run=Run(runId=EVENT.run_id),
        job=Job(namespace="benchmark", name="agent"),
    )


def blinker(count: int) -> Work:
    signal = Signal()

    def receiver() -> Callable[[RunLifecycleEvent], Awaitable[None]]:
        async def receive(event: RunLifecycleEvent) -> None:
            pass

        return receive

    for _ in range(count):
        signal.connect(receiver(), weak=False)

    async def work(times: int) -> None:
        for _ in range(times):
            await signal.send_async(EVENT)

    return work


def langchain_custom_event(count: int, *, inline: bool = False) -> Work:
    """The least that LangChain's callbacks can do: an event of the app's own, for a run that is known."""
    manager = AsyncCallbackManager([NoOpHandler(inline=inline) for _ in range(count)])
    run_id = uuid4()

    async def work(times: int) -> None:
        for _ in range(times):
            await manager.on_custom_event("run_started", EVENT.payload, run_id=run_id)

    return work


def langchain_chain_start(count: int) -> Work:
    """How LangChain itself announces a run; on the way it makes the run's own callback manager."""
    manager = AsyncCallbackManager([NoOpHandler(inline=False) for _ in range(count)])
    run_id = uuid4()

    async def work(times: int) -> None:
        for _ in range(times):
            await manager.on_chain_start({"name": "agent"}, {}, run_id=run_id)

    return work


WAYS: dict[str, Callable[[int], Work]] = {
    OURS: composite,
    BARE: bare_loop,
    "OpenLineage CompositeTransport.emit": openlineage_transport,
    "OpenLineage client.emit": openlineage_client,
    "blinker Signal.send_async": blinker,
    LANGCHAIN: partial(langchain_custom_event, inline=True),
    "LangChain on_custom_event": langchain_custom_event,
    "LangChain on_chain_start": langchain_chain_start,
}


def contender(name: str, case: str) -> Contender:
    return Contender(name, case, lambda: nullcontext(WAYS[name](OBSERVERS[case])))


def table_of(result: Race) -> str:
    def row(name: str) -> list[str]:
        ways = [result.contender(name, case) for case in OBSERVERS]
        return [
            name,
            *(figure(result.cost(way, "cpu")) for way in ways),
            " / ".join(times(result.ratio(way, result.contender(BARE, way.case), "cpu").median) for way in ways),
        ]

    return table(
        ["one event to", *(f"{case}, ns" for case in OBSERVERS), "× bare loop"],
        map(row, WAYS),
    )


def budgets_of(result: Race) -> list[Budget]:
    budgets = []
    for case in OBSERVERS:
        ours, bare, langchain = (result.contender(name, case) for name in (OURS, BARE, LANGCHAIN))
        beside_bare, beside_langchain = partial(result.ratio, ours, bare), partial(result.ratio, langchain, ours)
        budgets += [
            Budget.of(f"{case}: at most 1.5 times a bare loop", 1.5, beside_bare, at_most=True),
            Budget.of(f"{case}: at least 20 times as fast as LangChain's fastest way", 20, beside_langchain),
        ]
    return budgets


def main() -> None:
    options = options_of(__doc__, EFFORT)
    result = race([contender(name, case) for case in OBSERVERS for name in WAYS], options.effort)
    report = Report(
        name="dispatch",
        unit="nanoseconds for one event",
        race=result,
        tables=[table_of(result)],
        budgets=budgets_of(result),
        ours=[OURS],
        packages=["openlineage-python", "blinker", "langchain-core"],
    )
    publish(report, options)


if __name__ == "__main__":
    main()
