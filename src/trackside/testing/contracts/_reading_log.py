"""Writing to a store and looking into it, for the stories of a `StoreContract`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Sequence
from dataclasses import fields
from itertools import cycle
from typing import Any

from trackside.harness.errors import TracksideError
from trackside.harness.observer import RunLifecycleEvent
from trackside.testing.contracts.stores import EventStore, PlacedEvent

_PAGE = 100


async def whole_log(store: EventStore) -> list[PlacedEvent]:
    """Everything that is in the log, read page by page."""
    log: list[PlacedEvent] = []
    while page := await store.events(log[-1].position if log else 0, limit=_PAGE):
        log.extend(page)
    return log


async def check_log(store: EventStore, expected: Sequence[RunLifecycleEvent]) -> None:
    """The log has these events, at positions without a gap, and nothing else."""
    log = await whole_log(store)
    check_positions(log)
    stored = {placed.event.event_id: placed.event for placed in log}
    assert len(stored) == len(log), f"{len(log) - len(stored)} events are stored more than once"
    missing = [event for event in expected if event.event_id not in stored]
    assert not missing, f"{len(missing)} of {len(expected)} events are not there, the first {name(missing[0])}"
    more = stored.keys() - {event.event_id for event in expected}
    assert not more, f"{len(more)} events are there that nobody has been told are stored"
    for event in expected:
        check_same(stored[event.event_id], event)


def check_positions(log: Sequence[PlacedEvent]) -> None:
    """Positions are 1, 2, 3 … and sequences follow them."""
    positions = [placed.position for placed in log]
    assert positions == [*range(1, len(log) + 1)], f"positions are {positions}, not 1 to {len(log)}"
    sequences: dict[str, int] = {}
    for placed in log:
        before = sequences.get(placed.event.run_id, 0)
        assert placed.event.sequence == before + 1, f"{name(placed.event)} comes after {before} at {placed.position}"
        sequences[placed.event.run_id] = placed.event.sequence


def check_same(stored: RunLifecycleEvent, given: RunLifecycleEvent) -> None:
    """An event is stored as it was given."""
    for field in fields(given):
        if field.name != "payload":
            was, now = getattr(given, field.name), getattr(stored, field.name)
            assert now == was, f"{field.name} of {name(given)} was {was!r} and is {now!r}"
    assert text(stored.payload) == text(given.payload), f"the payload of {name(given)} is {text(stored.payload)}"


async def append_singly(store: EventStore, events: Sequence[RunLifecycleEvent]) -> None:
    """Append one event after the other, as a run that goes on does."""
    for event in events:
        await store.append([event])


def appending_by_turns(
    several: Sequence[EventStore], runs: Sequence[Sequence[RunLifecycleEvent]]
) -> Awaitable[list[None]]:
    """All runs at once, the first through the first store, the next one through the next, and so on."""
    return asyncio.gather(*(append_singly(store, run) for store, run in zip(cycle(several), runs, strict=False)))


async def check_reading(store: EventStore, writing: Awaitable[object], total: int) -> None:
    """A reader with a cursor sees so many events, each in its place, while they are written."""
    cursor, writers = 0, asyncio.ensure_future(writing)
    try:
        while cursor < total:
            done = writers.done()
            for placed in await store.events(cursor, limit=7):
                assert placed.position == cursor + 1, f"after position {cursor} a reader saw {placed.position}"
                cursor = placed.position
            assert not done or cursor == total or await store.events(cursor), f"a reader was left at {cursor}"
            await asyncio.sleep(0)
    finally:
        await writers


async def check_all_or_none(store: EventStore, *batches: Sequence[RunLifecycleEvent]) -> None:
    """Of each batch, which was or is being given to one append, a reader sees all or nothing."""
    seen = {placed.event.event_id for placed in await store.events()}
    for batch in batches:
        there = sum(event.event_id in seen for event in batch)
        assert there in {0, len(batch)}, f"of the {len(batch)} events of one append a reader sees {there}"


async def check_refused(store: EventStore, events: Sequence[Any], what: str) -> None:
    """An append is refused with an error that says so, and leaves the log as it was."""
    before = len(await whole_log(store))
    try:
        await store.append(events)
    except Exception as exc:
        if wrong := _wrong_with(exc):
            raise AssertionError(f"{what} raised {type(exc).__name__}, {wrong}: {exc}") from exc
    else:
        raise AssertionError(f"{what} was stored")
    after = len(await whole_log(store))
    assert after == before, f"{what} was refused, and left {after - before} events"


def _wrong_with(refusal: Exception) -> str:
    if not isinstance(refusal, TracksideError):
        return "which is no TracksideError"
    if not isinstance(refusal, ValueError):
        return (
            "which is no ValueError, as it has to be where the log will never take the events: they would wait for ever"
        )
    return ""


def text(value: Any) -> str:
    """A payload as text that tells True from 1 and 1 from 1.0."""
    return json.dumps(dict(value), sort_keys=True, ensure_ascii=False, allow_nan=False)


def name(event: RunLifecycleEvent) -> str:
    """An event in a few words."""
    return f"{event.event_type} {event.sequence} of {event.run_id}"
