"""If optional observers fall behind, their events wait in the store; each comes, equal to what it was."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from trackside import ObserverBinding, RunLifecycleEvent, RunManager, RunSpec, RunStatus
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.harness import RunHandle
from trackside.harness.observing.buffered import BufferedObserver, EventGap
from trackside.harness.ports import EventSpan
from trackside.testing import RecordingObserver

RUNS = 1_000


class Hangs(RecordingObserver):
    """Hangs in its first call until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()
        self.gaps: list[EventGap] = []

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await self.released.wait()
        await super().on_event(event)

    async def on_gap(self, gap: EventGap) -> None:
        self.gaps.append(gap)


class TakesItsTime(RecordingObserver):
    async def on_event(self, event: RunLifecycleEvent) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        await super().on_event(event)


class Raises(RecordingObserver):
    """Notes each event, and fails on some."""

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await super().on_event(event)
        if len(self.events) % 500 == 0:
            raise OSError("no")


class Floods(RecordingObserver):
    """Starts its own runs in the middle of all this."""

    def __init__(self) -> None:
        super().__init__()
        self.manager: RunManager
        self.started: list[RunHandle] = []
        self._ends = 0

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await super().on_event(event)
        self._ends += event.event_type == "run_completed"
        if event.event_type == "run_completed" and self._ends % 5 == 0 and len(self.started) < RUNS // 10:
            self.started.append(await self.manager.start(RunSpec("agent", "again")))


def keep_secret(event_type: str, payload: dict[str, Any]) -> dict[str, Any]:
    return payload | {"secret": "withheld"} if event_type == "run_started" else payload


@asynccontextmanager
async def manager_of(store: Store, *observers: Any, **options: Any) -> AsyncIterator[RunManager]:
    async def agent(input: Any) -> Any:
        await asyncio.sleep(0)
        return input

    storage = ObserverBinding(StorageObserver(store), required=True)
    async with RunManager(
        {"agent": agent},
        observers=[storage, *observers],
        coordinator=store.coordinator(),
        log=store.run_log(),
        **options,
    ) as manager:
        yield manager


async def every_event(store: Store) -> list[RunLifecycleEvent]:
    events: list[RunLifecycleEvent] = []
    position = 0
    while page := await store.events(position):
        events += [stored.event for stored in page]
        position = page[-1].position
    return events


def by_run(events: list[RunLifecycleEvent]) -> dict[str, list[RunLifecycleEvent]]:
    runs: dict[str, list[RunLifecycleEvent]] = defaultdict(list)
    for event in events:
        runs[event.run_id].append(event)
    return runs


@pytest.mark.timeout(280)  # thousands of runs, on however busy a machine
async def test_thousands_of_runs_wait_for_no_observer_and_each_observer_gets_every_event_once_and_in_order(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    hangs, _, _, floods = observers = [Hangs(), TakesItsTime(), Raises(), Floods()]
    buffers = [BufferedObserver(observer, capacity=500, call_limit=None, log=store.run_log()) for observer in observers]
    async with manager_of(store, *buffers) as manager:
        floods.manager = manager
        handles = [await manager.start(RunSpec("agent", f"number {number}")) for number in range(RUNS)]
        results = [await handle.result() for handle in handles]
        while_it_hung = manager.observers.stats()["Hangs"]
        hangs.released.set()
        await manager.observers.flush(120)
        for handle in floods.started:
            await handle.result()
        await manager.observers.flush(120)
    stats = manager.observers.stats()

    assert {result.status for result in results} == {RunStatus.success}
    assert (while_it_hung.delivered, while_it_hung.dropped) == (0, {})
    assert while_it_hung.deferred > 1_000
    assert stats["Hangs"].reread_total >= while_it_hung.deferred
    assert floods.started
    log = by_run(await every_event(store))
    assert len(log) == RUNS + len(floods.started)
    for observer in observers:
        assert by_run(observer.events) == log, type(observer)
    assert max(Counter(event.event_id for event in hangs.events).values()) == 1
    assert not [record for record in caplog.records if "misses" in record.getMessage()]


STRANGE = {
    "float": 0.1 + 0.2,
    "tiny": 5e-324,
    "minus": -0.0,
    "large": 2**53 + 1,
    "huge": 10**400,
    "nan": float("nan"),
    "when": datetime(2026, 1, 31, 9, 30, 0, 123456, UTC),
    "bytes": b"\x00\xff",
    "text": "日本 é 👩‍🔬 \u2028 a\0b \ud800",
    "nested": [{"": [None, True, {"k": [1.5, []]}]}],
}


async def test_what_is_read_again_equals_what_was_accepted_in_every_field(store: Store) -> None:
    accepted = RecordingObserver()
    late = Hangs()
    buffer = BufferedObserver(late, capacity=1, terminal_reserve=0, log=store.run_log())
    async with manager_of(store, accepted, buffer, redact=keep_secret) as manager:
        for _ in range(3):
            spec = RunSpec(
                "agent", {"messages": [{"role": "user", "content": STRANGE["text"]}]}, metadata={"s": STRANGE}
            )
            await (await manager.start(spec)).result()
        late.released.set()
        await buffer.flush(60)
        stats = buffer.stats()
        await buffer.aclose()

    assert stats.reread_total == stats.delivered - 1
    assert late.events == accepted.events
    for read, first in zip(late.events, accepted.events, strict=True):
        assert repr(read.payload) == repr(dict(first.payload))  # `repr` tells 1 from 1.0, and -0.0 from 0.0
        assert read.occurred_at == first.occurred_at
    assert any("'sanitized': True" in repr(event.payload) for event in late.events)
    assert any(event.payload.get("secret") for event in late.events)
    assert any(event.occurred_at.microsecond % 1000 for event in late.events)


async def test_what_was_pruned_meanwhile_is_told_as_a_gap(store: Store) -> None:
    late = Hangs()
    buffer = BufferedObserver(late, capacity=1, terminal_reserve=0, log=store.run_log())
    async with manager_of(store, buffer) as manager:
        await (await manager.start(RunSpec("agent", "gone"))).result()
        gone = await every_event(store)
        await store.prune(older_than=None)
        kept = await (await manager.start(RunSpec("agent", "kept"))).result()
        late.released.set()
        await buffer.flush(60)
        stats = buffer.stats()
        await buffer.aclose()

    assert late.events == [gone[0], *await every_event(store)]
    assert {event.run_id for event in late.events[1:]} == {kept.run_id}
    (gap,) = late.gaps
    assert (gap.reason, gap.count) == ("not_in_log", len(gone) - 1)
    assert stats.dropped == {"not_in_log": len(gone) - 1}


async def test_spans_of_runs_are_read_with_both_ends_and_without_what_is_not_there(store: Store, script: Any) -> None:
    one, two = script().whole(), script().whole()
    await store.append([*one, *two])
    log = store.run_log()

    spans = [EventSpan(two[0].run_id, 4, 9), EventSpan(one[0].run_id, 2, 2), EventSpan("nobody", 1, 5)]
    assert await log.read(spans) == [two[3], two[4], one[1]]
    assert await log.read([]) == []
