"""What a log takes, what it refuses, and in which order it has what it took."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from trackside.harness.errors import TracksideError
from trackside.harness.ids import new_id
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus
from trackside.testing.contracts import _events
from trackside.testing.contracts._cutting import cancelled
from trackside.testing.contracts._promise import Contract, promise
from trackside.testing.contracts._reading_log import (
    appending_by_turns,
    check_all_or_none,
    check_log,
    check_positions,
    check_reading,
    check_refused,
    name,
    whole_log,
)
from trackside.testing.contracts.stores import EventStore, Stores
from trackside.testing.events import make_event, make_run

_LOOK_ALIKE = ["run", "Run", "run ", " run", "r_n", "r%n", "r*n", "r\u00fcn", "ru\u0308n", "\uff52un", "0", "00"]
"""Ids that are different texts, and that a database may compare as the same, or take for patterns or numbers."""

_KINDS_OF_RUNS = [LifecycleEventType.RUN_STARTED, LifecycleEventType.HUMAN_MESSAGE]
_ENDS = [LifecycleEventType.RUN_COMPLETED, LifecycleEventType.RUN_FAILED, LifecycleEventType.RUN_CANCELLED]


def _next(run: Sequence[RunLifecycleEvent], kind: LifecycleEventType, *, skip: int = 0) -> RunLifecycleEvent:
    return make_event(kind, run_id=run[0].run_id, thread_id=run[0].thread_id, sequence=len(run) + 1 + skip)


_MISFITS: Mapping[str, Callable[[list[RunLifecycleEvent]], RunLifecycleEvent]] = {
    "a gap in the sequence": lambda run: _next(run, LifecycleEventType.HUMAN_MESSAGE, skip=1),
    "a sequence number for the second time": lambda run: replace(run[-1], event_id=new_id()),
    "a sequence number that is past": lambda run: replace(run[0], event_id=new_id()),
    "a second start": lambda run: _next(run, LifecycleEventType.RUN_STARTED),
    "the run on another thread": lambda run: replace(
        _next(run, LifecycleEventType.HUMAN_MESSAGE), thread_id="another thread"
    ),
    "the first event of a run that neither starts nor ends it": lambda run: make_event(run_id=new_id()),
    "the second event of a run that is not there": lambda run: make_event(
        LifecycleEventType.RUN_COMPLETED, run_id=new_id(), sequence=2
    ),
}


def _altered(event: RunLifecycleEvent, **fields: Any) -> RunLifecycleEvent:
    return RunLifecycleEvent(**{**vars(event), **fields})


_INVALID: Mapping[str, Callable[[RunLifecycleEvent], Any]] = {
    "a dict": vars,
    "None": lambda event: None,
    "an empty event_id": lambda event: _altered(event, event_id=""),
    "a run_id that is no text": lambda event: _altered(event, run_id=7),
    "a thread_id with NUL in it": lambda event: _altered(event, thread_id="a\0b"),
    "an event_id with half a character": lambda event: _altered(event, event_id="\ud800"),
    "an id of 10,000 characters": lambda event: _altered(event, run_id="x" * 10_000),
    "sequence 0": lambda event: _altered(event, sequence=0),
    "sequence True": lambda event: _altered(event, sequence=True),
    "sequence '1'": lambda event: _altered(event, sequence="1"),
    "a time without a zone": lambda event: _altered(event, occurred_at=datetime(2026, 1, 1)),  # noqa: DTZ001  # the point
    "a time that is text": lambda event: _altered(event, occurred_at="2026-01-01"),
    "an unknown event_type": lambda event: _altered(event, event_type="run_exploded"),
    "a payload that is a list": lambda event: _altered(event, payload=[1]),
}


class LogPromises(Contract):
    """The part of a `StoreContract` that is about appending."""

    @promise("log")
    async def test_what_was_appended_is_there_as_it_was_given(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        runs = [run for kind in LifecycleEventType for run in _events.each_kind(kind)]
        runs += [*_events.with_strange_payloads(), _events.never_started()]
        for run in runs:
            placed = await store.append(run)
            assert [p.event.event_id for p in placed] == [e.event_id for e in run], "append gave other events back"
        await check_log(store, [event for run in runs for event in run])

    @promise("log")
    async def test_ids_that_look_alike_name_different_events_runs_and_threads(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        runs = [
            [replace(event, event_id=f"{event.sequence}{called}") for event in make_run(called, thread_id=called)]
            for called in _LOOK_ALIKE
        ]
        for run in runs:
            await store.append(run)
        await check_log(store, [event for run in runs for event in run])
        for called, run in zip(_LOOK_ALIKE, runs, strict=True):
            expected = [event.event_id for event in run]
            for found in (await store.events(run_id=called), await store.events(thread_id=called)):
                seen = [placed.event.event_id for placed in found]
                assert seen == expected, f"of a run and a thread {called!r} a reader found {seen}, not {expected}"

    @promise("log")
    async def test_an_append_of_nothing_is_nothing(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        assert not await store.append([]), "appending nothing gave something back"
        assert not await whole_log(store), "a new log is not empty"

    @promise("log")
    async def test_times_keep_their_microseconds_and_come_back_in_utc(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        when = datetime(2026, 1, 31, 9, 30, 0, 123_456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
        run = [replace(event, occurred_at=when) for event in _events.run_of(1)]
        await store.append(run)
        for placed in await whole_log(store):
            at = placed.event.occurred_at
            assert at == when, f"{when} was stored as {at}"
            assert at.tzinfo is not None, f"{at} has no time zone"
            assert at.utcoffset() == UTC.utcoffset(None), f"{at} is not UTC"

    @promise("log")
    async def test_what_is_stored_does_not_change_with_what_its_emitter_still_holds(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        payload: dict[str, Any] = {"agent": "chat", "metadata": {"team": "blue"}}
        event = make_event(LifecycleEventType.RUN_STARTED, payload=payload)
        placed = await store.append([event])
        payload["metadata"]["team"] = "changed"
        for seen in [*placed, *await whole_log(store)]:
            assert seen.event.payload["metadata"] == {"team": "blue"}, f"it changed to {dict(seen.event.payload)}"

    @promise("I1")
    async def test_events_of_a_run_may_come_one_by_one_or_together(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        one_by_one, together = _events.run_of(1), _events.run_of(2)
        for event in one_by_one:
            await store.append([event])
        await store.append(together[:2])
        await store.append(together[2:])
        await check_log(store, [*one_by_one, *together])

    @pytest.mark.parametrize("misfit", _MISFITS)
    @promise("I1")
    async def test_an_event_that_cannot_follow_is_refused(self, stores: Stores, misfit: str) -> None:
        store: EventStore = await stores.store()
        run = _events.run_of(1)
        await store.append(run[:3])
        await check_refused(store, [_MISFITS[misfit](run[:3])], misfit)
        await store.append(run[3:])
        await check_log(store, run)

    @pytest.mark.parametrize("kind", _KINDS_OF_RUNS, ids=str)
    @promise("I5")
    async def test_a_run_that_has_ended_takes_no_further_event(self, stores: Stores, kind: LifecycleEventType) -> None:
        store: EventStore = await stores.store()
        run = _events.run_of(1)
        await store.append(run)
        await check_refused(store, [_next(run, kind)], f"{kind} after the end of a run")
        await check_log(store, run)

    @pytest.mark.parametrize("end", _ENDS, ids=str)
    @promise("I5")
    async def test_a_run_ends_once(self, stores: Stores, end: LifecycleEventType) -> None:
        store: EventStore = await stores.store()
        for status in (RunStatus.success, RunStatus.error, RunStatus.cancelled):
            run = _events.run_of(1, status=status)[:-1]
            await store.append(run)
            await check_refused(store, [_next(run, end)], f"{end} after a run had ended as {status}")

    @promise("I5")
    async def test_of_many_that_end_a_run_at_once_one_does(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        run = _events.run_of(1)[:3]
        await store.append(run)
        ends = [[_next(run, end)] for end in _ENDS * 3]
        outcomes = await asyncio.gather(*map(store.append, ends), return_exceptions=True)
        stored = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert len(stored) == 1, f"{len(stored)} of {len(ends)} ends of one run were stored"

    @promise("I1")
    async def test_after_the_end_of_a_run_its_thread_may_change(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        run = _events.run_of(1)
        alone = _events.never_started()
        after = _next(alone, LifecycleEventType.THREAD_STATUS_UPDATED)
        await store.append(run)
        await store.append(alone)
        await store.append([after])
        await check_log(store, [*run, *alone, after])

    @promise("log")
    async def test_an_append_with_one_event_that_cannot_follow_stores_none(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        good, run = _events.run_of(1), _events.run_of(2)
        bad = _next(run, LifecycleEventType.HUMAN_MESSAGE)
        await check_refused(store, [*good, *run, bad], "a batch whose last event cannot follow")
        await check_refused(store, [*run[:2], *run[3:]], "a batch with a gap in it")
        await store.append([*good, *run])
        await check_log(store, [*good, *run])

    @promise("log")
    async def test_a_bad_append_among_good_ones_fails_alone(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        runs = [_events.run_of(number) for number in range(12)]
        appends = [
            run if number % 3 else [*run, run[1], _next(run, LifecycleEventType.HUMAN_MESSAGE)]
            for number, run in enumerate(runs)
        ]
        outcomes = await asyncio.gather(*map(store.append, appends), return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            if number % 3:
                assert not isinstance(outcome, BaseException), f"a good append failed with a bad one: {outcome!r}"
            else:
                assert isinstance(outcome, TracksideError), f"a bad append gave {outcome!r}"
        await check_log(store, [event for number, run in enumerate(runs) if number % 3 for event in run])

    @promise("log")
    async def test_a_reader_beside_an_append_sees_all_of_its_events_or_none(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        runs = _events.runs_of_each_end(8)
        appends = asyncio.gather(*map(store.append, runs))
        try:
            while not appends.done():
                await check_all_or_none(store, *runs)
                await asyncio.sleep(0)
        finally:
            await appends
        await check_log(store, [event for run in runs for event in run])

    @pytest.mark.parametrize("turns", [1, 2, 4, 16])
    @promise("log")
    async def test_an_append_that_was_cut_off_leaves_all_of_its_events_or_none(
        self, stores: Stores, turns: int
    ) -> None:
        store: EventStore = await stores.store()
        runs = _events.runs_of_each_end(3)
        cut_off, _ = await cancelled(store.append(runs[0]), turns, "append")
        if not cut_off.cancelled():
            cut_off.result()
        for _ in range(turns):
            await check_all_or_none(store, *runs)  # at once, and what it began may be stored later
            await asyncio.sleep(0)
        for run in runs[1:]:
            await store.append(run)
            await check_all_or_none(store, *runs)
        await store.append(_events.copies(runs[0]))
        await check_log(store, [event for run in runs for event in run])

    @promise("I4")
    async def test_an_event_that_comes_again_is_not_stored_again(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        run = _events.run_of(1)
        first = [*await store.append(run[:3])]
        again = await store.append(_events.copies(run[:3]))
        assert _places(again) == _places(first), f"it was at {_places(first)} and came back at {_places(again)}"
        mixed = await store.append([*_events.copies(run[1:4]), run[4], *_events.copies(run)])
        expected = {event.event_id: position for position, event in enumerate(run, 1)}
        seen = dict(_places(mixed))
        assert seen == expected, f"events were given back at {[*seen.values()]}"
        await check_log(store, run)

    @promise("I4")
    async def test_an_append_whose_reply_was_lost_may_be_repeated_by_many_at_once(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        run = _events.run_of(1)
        answers = await asyncio.gather(*(store.append(_events.copies(run)) for _ in range(8)))
        places = {tuple(_places(answer)) for answer in answers}
        assert len(places) == 1, f"the same append was answered in {len(places)} ways"
        await check_log(store, run)

    @pytest.mark.parametrize("differs", ["payload", "time", "run"])
    @promise("I4")
    async def test_an_event_id_names_one_event(self, stores: Stores, differs: str) -> None:
        store: EventStore = await stores.store()
        run, other = _events.run_of(1), _events.run_of(2)
        await store.append(run)
        taken = run[2]
        another = {
            "payload": replace(taken, payload={"message": {"content": "something else"}}),
            "time": replace(taken, occurred_at=taken.occurred_at + timedelta(seconds=1)),
            "run": replace(other[0], event_id=taken.event_id),
        }[differs]
        await check_refused(store, [another], f"another event under the id of {name(taken)}")
        await store.append(other)
        await check_log(store, [*run, *other])

    @promise("I2")
    async def test_positions_have_no_gap_however_many_append_at_once(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        runs = [_events.run_of(number) for number in range(24)]
        told: dict[str, int] = {}

        async def write(run: Sequence[RunLifecycleEvent]) -> None:
            for event in run:
                (placed,) = await store.append([event])
                told[event.event_id] = placed.position

        await asyncio.gather(*map(write, runs))
        log = await whole_log(store)
        check_positions(log)
        seen = {placed.event.event_id: placed.position for placed in log}
        assert seen == told, "an event is at another position than its append was told"

    @promise("I2")
    async def test_a_refused_append_uses_no_position(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        runs = [_events.run_of(number) for number in range(4)]
        for run in runs:
            await store.append(run)
            await check_refused(store, [_next(run, LifecycleEventType.HUMAN_MESSAGE)], "an event after the end")
        check_positions(await whole_log(store))

    @promise("I2")
    async def test_a_reader_with_a_cursor_misses_nothing_while_others_write(self, stores: Stores) -> None:
        store: EventStore = await stores.store()
        runs = [_events.run_of(number) for number in range(16)]
        await check_reading(store, appending_by_turns([store], runs), sum(map(len, runs)))

    @promise("log")
    async def test_what_an_append_has_returned_is_there_to_be_read(self, stores: Stores) -> None:
        store: EventStore = await stores.store()

        async def write_and_look(number: int) -> None:
            run = _events.run_of(number)
            for sequence, event in enumerate(run, 1):
                await store.append([event])
                seen = [placed.event.sequence for placed in await store.events(run_id=event.run_id)]
                assert seen == [*range(1, sequence + 1)], f"event {sequence} was stored, and a reader sees {seen}"

        await asyncio.gather(*map(write_and_look, range(8)))

    @pytest.mark.parametrize("invalid", _INVALID)
    @promise("arguments")
    async def test_what_is_no_event_is_refused(self, stores: Stores, invalid: str) -> None:
        store: EventStore = await stores.store()
        run = _events.run_of(1)
        await check_refused(store, [_INVALID[invalid](run[0])], invalid)
        await store.append(run)
        await check_log(store, run)


def _places(placed: Sequence[Any]) -> list[tuple[str, int]]:
    return [(p.event.event_id, p.position) for p in placed]
