"""Reading and following a log, its rows, and what is left of it after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from trackside.harness.errors import TracksideError
from trackside.harness.lifecycle import run_status_of, thread_status_of
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus, ThreadStatus
from trackside.testing.contracts import _events
from trackside.testing.contracts._cutting import taken_again
from trackside.testing.contracts._promise import Contract, promise
from trackside.testing.contracts._reading_log import (
    append_singly,
    appending_by_turns,
    check_log,
    check_positions,
    check_reading,
    check_refused,
    whole_log,
)
from trackside.testing.contracts.stores import EventStore, FollowedStore, PlacedEvent, RowStore, Stores
from trackside.testing.events import make_event

_SQL = "x' OR '1'='1'; DROP TABLE events; --"

_BAD_QUESTIONS: Mapping[str, Callable[[Any], Coroutine[Any, Any, Any]]] = {
    "after=-1": lambda store: store.events(-1),
    "after='1'": lambda store: store.events("1"),
    "after=2**70": lambda store: store.events(2**70),
    "limit=0": lambda store: store.events(limit=0),
    "limit=-1": lambda store: store.events(limit=-1),
    "an unknown type": lambda store: store.events(types=["run_exploded"]),
    "a run_id that is no text": lambda store: store.events(run_id=7),
}


_ENDS = [status for status in RunStatus if status not in {RunStatus.pending, RunStatus.running}]


class ReaderPromises(Contract):
    """The part of a `StoreContract` that is about reading, and about the claims of a store."""

    @pytest.mark.parametrize("limit", [1, 3, 1000])
    @promise("reading")
    async def test_pages_give_every_event_once_and_in_order(self, stores: Stores, limit: int) -> None:
        store: EventStore = await stores.store()
        written = await _write(store)
        for filters, wanted in _filters(written):
            seen = [placed.event.event_id async for placed in _paged(store, limit, filters)]
            expected = [event.event_id for event in written if wanted(event)]
            assert seen == expected, f"of {len(expected)} events that fit {filters} pages of {limit} gave {len(seen)}"

    @promise("reading")
    async def test_a_cursor_is_where_a_reader_goes_on(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        written = await _write(store)
        for cursor in range(len(written) + 1):
            page = await store.events(cursor, limit=2)
            seen = [placed.position for placed in page]
            expected = [*range(cursor + 1, min(cursor + 2, len(written)) + 1)]
            assert seen == expected, f"after position {cursor} a reader saw positions {seen}"

    @promise("reading")
    async def test_nothing_is_found_where_nothing_is(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        written = await _write(store)
        for found in (
            await store.events(run_id="nobody"),
            await store.events(thread_id=_SQL),
            await store.events(run_id=written[0].run_id, thread_id="another thread"),
            await store.events(len(written)),
        ):
            assert not found, f"{len(found)} events were found where there are none"

    @promise("arguments")
    async def test_text_that_looks_like_sql_is_text(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        run = [
            make_event(
                kind, run_id=_SQL, thread_id=f"{_SQL}%_", sequence=sequence, payload={"agent": _SQL, "title": _SQL}
            )
            for sequence, kind in enumerate([LifecycleEventType.RUN_STARTED, LifecycleEventType.RUN_COMPLETED], 1)
        ]
        await store.append(run)
        await store.append(_events.run_of(1))
        seen = [placed.event.event_id for placed in await store.events(run_id=_SQL, thread_id=f"{_SQL}%_")]
        assert seen == [event.event_id for event in run], f"{len(seen)} events were found instead of {len(run)}"

    @pytest.mark.parametrize("question", _BAD_QUESTIONS)
    @promise("arguments")
    async def test_a_question_that_makes_no_sense_is_refused(self, stores: Stores, question: str) -> None:
        store: EventStore = await stores.store()
        await _write(store)
        try:
            answer = await _BAD_QUESTIONS[question](store)
        except TracksideError:
            return
        except Exception as exc:
            raise AssertionError(f"{question} raised {type(exc).__name__}, no TracksideError: {exc}") from exc
        raise AssertionError(f"{question} was answered with {len(answer)} events")

    @pytest.mark.parametrize("status", _ENDS, ids=str)
    @promise("I6", claim="rows")
    async def test_the_rows_of_run_and_thread_follow_each_event(self, stores: Stores, status: RunStatus) -> None:
        store: RowStore = await stores.store()
        run = _events.run_of(1, status=status)
        run_id, thread_id = run[0].run_id, run[0].thread_id
        assert await store.run(run_id) is None, "a run is there before its first event"
        assert await store.thread(thread_id) is None, "a thread is there before its first event"
        await _check_rows(store, run, ThreadStatus.idle)

    @promise("I6", claim="rows")
    async def test_the_rows_follow_events_that_say_no_status_or_nothing(self, stores: Stores) -> None:
        store: RowStore = await stores.store()
        thread_status = ThreadStatus.idle
        for run in _events.with_strange_payloads():
            thread_status = await _check_rows(store, run, thread_status)

    @pytest.mark.parametrize("claim", [None, "shared", "durable"])
    @promise("I6", claim="rows")
    async def test_the_rows_follow_whole_runs_in_one_append_for_everybody(
        self, stores: Stores, claim: str | None
    ) -> None:
        if claim is not None and not getattr(self, claim):
            pytest.skip(f"{type(self).__name__} does not claim {claim}")
        store: RowStore = await stores.store()
        looking: RowStore = await stores.store() if claim == "shared" else store
        runs = [_events.run_of(number, status=status) for number, status in enumerate(_ENDS)]
        await store.append(_events.round_robin(runs))
        if claim == "durable":
            looking = await stores.reopened(store)
        for run in runs:
            await _check_whole(looking, run)

    @promise("I6", claim="rows")
    async def test_a_refused_append_leaves_the_rows_as_they_were(self, stores: Stores) -> None:
        store: RowStore = await stores.store()
        run = _events.run_of(1)
        await store.append(run[:3])
        await check_refused(store, [run[3], run[4], replace(run[4], event_id="x", sequence=9)], "a gap")
        row, thread = await store.run(run[0].run_id), await store.thread(run[0].thread_id)
        assert row is not None, "the run is gone"
        assert (row.status, row.last_sequence) == (RunStatus.running, 3), (
            f"the run is {row.status} at {row.last_sequence}"
        )
        assert thread is not None, "the thread is gone"
        assert thread.status is ThreadStatus.busy, f"the thread is {thread.status}"

    @pytest.mark.parametrize("turns", [1, 2, 4, 16])
    @promise("I6", claim="rows")
    async def test_an_append_that_was_cut_off_and_is_taken_again_has_its_rows(self, stores: Stores, turns: int) -> None:
        store: RowStore = await stores.store()
        run = _events.run_of(1)
        await store.append(run[:3])
        await taken_again(turns, "append", lambda: store.append(_events.copies(run[3:])))
        await check_log(store, run)
        await _check_whole(store, run)

    @promise("follow", claim="follows")
    async def test_a_follower_gets_what_is_there_and_then_what_comes(self, stores: Stores) -> None:
        store: FollowedStore = await stores.store()
        before, after = _events.run_of(1), _events.run_of(2)
        await store.append(before)
        async with aclosing(_closable(store.follow(2))) as follower:
            seen = [await anext(follower) for _ in range(3)]
            for event in after:
                await store.append([event])
                seen.append(await anext(follower))
        positions = [placed.position for placed in seen]
        assert positions == [*range(3, 11)], f"a follower after 2 saw {positions}, not 3 to 10"

    @promise("follow", claim="follows")
    async def test_followers_miss_nothing_while_others_write(self, stores: Stores) -> None:
        store: FollowedStore = await stores.store()
        runs = [_events.run_of(number) for number in range(12)]
        total = sum(map(len, runs))

        async def follow(after: int, turns: int) -> list[int]:
            seen: list[int] = []
            async with aclosing(_closable(store.follow(after))) as follower:
                async for placed in follower:
                    seen.append(placed.position)
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    if placed.position == total:
                        return seen
            raise AssertionError(f"a follower was sent away after {len(seen)} of {total} events")

        async with asyncio.TaskGroup() as tasks:
            followers = [tasks.create_task(follow(0, turns)) for turns in (0, 1, 20)]
            for run in runs:
                tasks.create_task(append_singly(store, run))
        late = await follow(7, 0)
        for seen in (follower.result() for follower in followers):
            assert seen == [*range(1, total + 1)], f"of {total} events a follower saw {_wrong(seen)}"
        assert late == [*range(8, total + 1)], f"a follower after 7 saw {_wrong(late)}"

    @pytest.mark.parametrize("by", ["run_id", "types", "both"])
    @promise("follow", claim="follows")
    async def test_a_follower_gets_only_what_fits(self, stores: Stores, by: str) -> None:
        store: FollowedStore = await stores.store()
        runs = [_events.run_of(number) for number in range(4)]
        run_id = None if by == "types" else runs[2][0].run_id
        types = None if by == "run_id" else [LifecycleEventType.HUMAN_MESSAGE, LifecycleEventType.RUN_COMPLETED]
        events = _events.round_robin(runs)
        fit = [
            (position, e.event_id)
            for position, e in enumerate(events, 1)
            if run_id in {None, e.run_id} and (types is None or e.event_type in types)
        ]
        async with aclosing(_closable(store.follow(run_id=run_id, types=types))) as follower:
            first = asyncio.ensure_future(anext(follower))
            await store.append(events)
            seen = [await first, *[await anext(follower) for _ in fit[1:]]]
        assert [(p.position, p.event.event_id) for p in seen] == fit, "it got other events than those that fit"
        for after in (fit[0][0], len(events) // 2):
            rest = [each for each in fit if each[0] > after]
            async with aclosing(_closable(store.follow(after, run_id=run_id, types=types))) as follower:
                late = [await anext(follower) for _ in rest]
            found = [(p.position, p.event.event_id) for p in late]
            assert found == rest, f"after {after} it got positions {[position for position, _ in found]}"

    @promise("log", claim="durable")
    async def test_what_was_stored_is_there_after_a_restart(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        written = await _write(store)
        for _ in range(2):
            store = await stores.reopened(store)
            await check_log(store, written)
            more = _events.run_of(3)
            await store.append(more)
            written += more
        await check_log(store, written)

    @promise("I5", claim="durable")
    async def test_a_restart_forgets_no_end_and_no_event_id(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        run, open_run = _events.run_of(1), _events.run_of(2)
        await store.append(run)
        await store.append(open_run[:3])
        store = await stores.reopened(store)
        late = make_event(run_id=run[0].run_id, thread_id=run[0].thread_id, sequence=6)
        await check_refused(store, [late], "an event after the end of a run, after a restart")
        places = [placed.position for placed in await store.append(_events.copies(run))]
        assert places == [1, 2, 3, 4, 5], f"the same events came back at {places} after a restart"
        await store.append(open_run[3:])
        await check_log(store, [*run, *open_run])

    @promise("I2", claim="shared")
    async def test_stores_on_one_log_number_their_events_together(self, stores: Stores) -> None:
        several: list[EventStore] = [await stores.store() for _ in range(3)]
        runs = [_events.run_of(number) for number in range(9)]
        await appending_by_turns(several, runs)
        for store in several:
            check_positions(await whole_log(store))
            await check_log(store, [event for run in runs for event in run])

    @promise("I2", claim="shared")
    async def test_a_reader_with_a_cursor_misses_nothing_while_other_stores_write(self, stores: Stores) -> None:
        several: list[EventStore] = [await stores.store() for _ in range(3)]
        runs = [_events.run_of(number) for number in range(9)]
        await check_reading(several[0], appending_by_turns(several, runs), sum(map(len, runs)))

    @promise("I4", claim="shared")
    async def test_an_event_that_comes_again_through_another_store_is_not_stored_again(self, stores: Stores) -> None:
        one: EventStore = await stores.store()
        other: EventStore = await stores.store()
        run = _events.run_of(1)
        await one.append(run)
        places = [placed.position for placed in await other.append(_events.copies(run))]
        assert places == [1, 2, 3, 4, 5], f"the same events came back at {places} through another store"
        await check_log(one, run)

    @promise("I5", claim="shared")
    async def test_of_many_stores_that_end_a_run_one_does(self, stores: Stores) -> None:
        several: list[EventStore] = [await stores.store() for _ in range(3)]
        run = _events.run_of(1)[:3]
        await several[0].append(run)
        ends = [
            make_event(LifecycleEventType.RUN_FAILED, run_id=run[0].run_id, thread_id=run[0].thread_id, sequence=4)
            for _ in several
        ]
        outcomes = await asyncio.gather(
            *(store.append([end]) for store, end in zip(several, ends, strict=True)), return_exceptions=True
        )
        stored = sum(not isinstance(outcome, BaseException) for outcome in outcomes)
        assert stored == 1, f"{stored} of {len(several)} stores could end the same run"

    @promise("I5", claim="shared")
    async def test_a_run_that_another_store_has_ended_takes_no_further_event(self, stores: Stores) -> None:
        mine: EventStore = await stores.store()
        other: EventStore = await stores.store()
        run = _events.run_of(1)
        await mine.append(run[:3])
        await other.append(run[3:4])  # by a process that takes the other one for dead
        for kind, sequence in ((LifecycleEventType.RUN_FAILED, 4), (LifecycleEventType.HUMAN_MESSAGE, 5)):
            late = make_event(kind, run_id=run[0].run_id, thread_id=run[0].thread_id, sequence=sequence)
            await check_refused(mine, [late], f"{kind} {sequence} of a run that another store had ended")
        await mine.append(run[4:])
        await check_log(other, run)

    @promise("follow", claim="follows")
    async def test_a_follower_hears_of_what_another_store_of_the_log_appends(self, stores: Stores) -> None:
        if not getattr(self, "shared", False):
            pytest.skip(f"{type(self).__name__} does not claim shared")
        mine: FollowedStore = await stores.store()
        other: EventStore = await stores.store()
        run = _events.run_of(1)
        async with aclosing(_closable(mine.follow())) as follower:
            first = asyncio.ensure_future(anext(follower))
            await other.append(run)
            seen = [await first, *[await anext(follower) for _ in run[1:]]]
        assert [placed.position for placed in seen] == [1, 2, 3, 4, 5], "it missed what another store appended"


async def _check_rows(store: RowStore, run: Sequence[RunLifecycleEvent], thread_status: ThreadStatus) -> ThreadStatus:
    """Append a run event by event, and look at the rows each time.

    `thread_status` is what its thread's status was before; returns what that becomes.
    """
    expected = RunStatus.pending
    for event in run:
        await store.append([event])
        expected = run_status_of(event.event_type, event.payload) or expected
        thread_status = thread_status_of(event.event_type, event.payload) or thread_status
        row, thread = await store.run(event.run_id), await store.thread(event.thread_id)
        assert row is not None, f"there is no run after its event {event.sequence}"
        assert row.status is expected, f"after {event.event_type} the run is {row.status}, not {expected}"
        assert row.last_sequence == event.sequence, f"after event {event.sequence} the row says {row.last_sequence}"
        assert row.thread_id == event.thread_id, f"the run is on {event.thread_id}, and the row says {row.thread_id}"
        assert thread is not None, f"there is no thread after event {event.sequence}"
        assert thread.status is thread_status, f"the thread is {thread.status}, not {thread_status}"
    return thread_status


async def _check_whole(store: RowStore, run: Sequence[RunLifecycleEvent]) -> None:
    """Look at the rows of a run whose events are all stored, its end included."""
    last = run[-1]
    status = next(said for event in run[::-1] if (said := run_status_of(event.event_type, event.payload)) is not None)
    thread_status = thread_status_of(last.event_type, last.payload)
    row, thread = await store.run(last.run_id), await store.thread(last.thread_id)
    assert row is not None, "there is no run whose events are stored"
    assert thread is not None, "there is no thread whose events are stored"
    seen = (row.status, row.last_sequence, row.thread_id, thread.status)
    expected = (status, last.sequence, last.thread_id, thread_status)
    assert seen == expected, f"the rows say {seen}, not {expected}"


async def _write(store: EventStore) -> list[RunLifecycleEvent]:
    """Write runs of two threads, side by side."""
    runs = [_events.run_of(number % 2) for number in range(4)]
    written = [*_events.round_robin(runs), *_events.never_started()]
    await store.append(written)
    return written


def _filters(
    written: Sequence[RunLifecycleEvent],
) -> list[tuple[dict[str, Any], Callable[[RunLifecycleEvent], bool]]]:
    run_id, thread_id = written[1].run_id, written[1].thread_id
    types = [LifecycleEventType.RUN_STARTED, LifecycleEventType.RUN_COMPLETED]
    return [
        ({}, lambda event: True),
        ({"run_id": run_id}, lambda event: event.run_id == run_id),
        ({"thread_id": thread_id}, lambda event: event.thread_id == thread_id),
        ({"types": types}, lambda event: event.event_type in types),
        (
            {"thread_id": thread_id, "types": types[:1]},
            lambda event: event.thread_id == thread_id and event.event_type is types[0],
        ),
    ]


async def _paged(store: EventStore, limit: int, filters: dict[str, Any]) -> AsyncIterator[PlacedEvent]:
    cursor = 0
    while page := await store.events(cursor, limit=limit, **filters):
        assert len(page) <= limit, f"a page of {limit} has {len(page)} events"
        for placed in page:
            assert placed.position > cursor, f"position {placed.position} comes after {cursor}"
            cursor = placed.position
            yield placed


async def _closable(follower: AsyncIterator[PlacedEvent]) -> AsyncGenerator[PlacedEvent]:
    """A follower as an async generator, closed when the story is over."""
    try:
        async for placed in follower:
            yield placed
    finally:
        close = getattr(follower, "aclose", None)
        if close is not None:
            await close()


def _wrong(seen: Sequence[int]) -> str:
    out_of_order = [after for before, after in zip([0, *seen], seen, strict=False) if after <= before]
    gaps = [after for before, after in zip([0, *seen], seen, strict=False) if after > before + 1]
    return f"{len(seen)}, with {len(gaps)} gaps and {len(out_of_order)} out of order"
