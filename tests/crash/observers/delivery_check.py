"""What has to hold of deliveries, whatever died over them. Written from the promise (I25, I26), without any of our code."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from delivery_receivers import Arrival, event_in
from log_check import look_into

_COLUMNS = "position, event_id, run_id, thread_id, sequence, event_type, payload"


class Event(NamedTuple):
    """A row of the log."""

    position: int
    event_id: str
    run_id: str
    thread_id: str
    sequence: int
    event_type: str
    payload: str


class Sample(NamedTuple):
    """How a subscription stood in the database directly after a kill."""

    cursor: int
    parked: frozenset[int]
    by: int
    """The time by which all that it has passed had arrived: that of the kill, if the killed process fed it."""


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What a subscription has to deliver, and how."""

    types: frozenset[str] | None = None
    """None means all types."""
    in_order: bool = False
    """Whether the events of a run arrive in order, at first."""
    once: bool = False
    """Whether the receiver keeps nothing twice."""
    may_park: Callable[[str], bool] = lambda event_id: False
    """Whether the receiver refuses an event for good, by the event's id."""

    def wants(self, event: Event) -> bool:
        """Whether the subscription has to deliver an event."""
        return self.types is None or event.event_type in self.types


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a subscription's events."""

    arrivals: Sequence[Arrival]
    """In the order in which they arrived."""
    samples: Sequence[Sample]
    """In the order in which they were taken, the last one when all was over."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many events were wanted, deliveries arrived, and so on."""

    events: int
    deliveries: int
    duplicates: int
    parked: int
    lost: int


def events_of(url: str) -> list[Event]:
    """The events of the log."""
    with look_into(url) as database:
        rows = database.execute(f"SELECT {_COLUMNS} FROM events ORDER BY position").fetchall()
    return [Event(*row) for row in rows]


def samples_in(url: str, *, dead: str | None, died_at: int, now: Callable[[], int]) -> dict[str, Sample]:
    """How all subscriptions stand; `dead` is the name of the consumer that died, at `died_at`."""
    with look_into(url) as database:
        rows = database.execute(
            "SELECT s.name, s.cursor, s.consumer, p.position "
            "FROM subscriptions s LEFT JOIN parked_events p ON p.subscription = s.name"
        ).fetchall()
    read_at = now()
    parked: dict[str, set[int]] = {}
    for name, _, _, position in rows:
        parked.setdefault(name, set()).update([] if position is None else [position])
    standings = {name: (cursor, consumer) for name, cursor, consumer, _ in rows}
    return {
        name: Sample(cursor, frozenset(parked[name]), died_at if consumer == dead else read_at)
        for name, (cursor, consumer) in standings.items()
    }


def count_of(promise: Promise, events: Sequence[Event], outcome: Outcome) -> Counts:
    """What became of the events, in numbers."""
    wanted = [event for event in events if promise.wants(event)]
    arrived = {arrival.event_id for arrival in outcome.arrivals}
    parked = outcome.samples[-1].parked
    return Counts(
        events=len(wanted),
        deliveries=len(outcome.arrivals),
        duplicates=len(outcome.arrivals) - len(arrived),
        parked=len(parked),
        lost=sum(event.event_id not in arrived and event.position not in parked for event in wanted),
    )


def found_wrong(promise: Promise, events: Sequence[Event], outcome: Outcome) -> list[str]:
    """What is wrong, a sentence each."""
    wanted = [event for event in events if promise.wants(event)]
    return [
        *_lost(wanted, outcome),
        *_parked(promise, wanted, outcome),
        *_told(wanted, outcome),
        *_duplicates(promise, outcome),
        *(_disorder(wanted, outcome) if promise.in_order else ()),
        *_passed(wanted, outcome),
    ]


def _lost(wanted: Sequence[Event], outcome: Outcome) -> Iterator[str]:
    arrived = {arrival.event_id for arrival in outcome.arrivals}
    last = outcome.samples[-1]
    for event in wanted:
        if event.event_id not in arrived and event.position not in last.parked:
            yield f"the event at {event.position} was lost"
        if event.position > last.cursor:
            yield f"the cursor ended at {last.cursor}, before the event at {event.position}"


def _parked(promise: Promise, wanted: Sequence[Event], outcome: Outcome) -> Iterator[str]:
    ids = {event.position: event.event_id for event in wanted}
    for position in outcome.samples[-1].parked:
        if position not in ids:
            yield f"what is parked at {position} is no event that was wanted"
        elif not promise.may_park(ids[position]):
            yield f"the event at {position} is parked, and the receiver would take it"


def _told(wanted: Sequence[Event], outcome: Outcome) -> Iterator[str]:
    """The receiver was told what is in the log."""
    by_id = {event.event_id: event for event in wanted}
    for arrival in outcome.arrivals:
        event = by_id.get(arrival.event_id)
        if event is None:
            yield f"{arrival.event_id} arrived, and is no event that was wanted"
        elif (said := _as_told(event_in(arrival.body))) != _as_logged(event):
            yield f"the event at {event.position} arrived as {said}"


def _as_told(said: Mapping[str, Any]) -> list[Any]:
    return [said[name] for name in ("event_id", "run_id", "thread_id", "sequence", "event_type", "payload")]


def _as_logged(event: Event) -> list[Any]:
    told = event.event_id, event.run_id, event.thread_id, event.sequence, event.event_type
    return [*told, json.loads(event.payload)]


def _duplicates(promise: Promise, outcome: Outcome) -> Iterator[str]:
    times = Counter(arrival.event_id for arrival in outcome.arrivals)
    for event_id, bodies in Counter(event_id for _, event_id, _ in {(0, *a[1:]) for a in outcome.arrivals}).items():
        if bodies > 1:
            yield f"{event_id} arrived {times[event_id]} times, with {bodies} bodies"
    for event_id, number in times.items():
        if promise.once and number > 1:
            yield f"{event_id} is kept {number} times"


def _disorder(wanted: Sequence[Event], outcome: Outcome) -> Iterator[str]:
    """First deliveries of a run's events that did not come in order."""
    by_id = {event.event_id: event for event in wanted}
    runs: dict[str, list[int]] = {}
    for event_id in dict.fromkeys(arrival.event_id for arrival in outcome.arrivals):
        if event_id in by_id:
            runs.setdefault(by_id[event_id].run_id, []).append(by_id[event_id].sequence)
    for run_id, sequences in runs.items():
        if any(later < earlier for earlier, later in pairwise(sequences)):
            yield f"of run {run_id} arrived, in this order, {sequences}"


def _passed(wanted: Sequence[Event], outcome: Outcome) -> Iterator[str]:
    """Events that a cursor had passed before they had arrived."""
    first: dict[str, int] = {}
    for at, event_id, _ in outcome.arrivals:
        first.setdefault(event_id, at)
    samples = [*outcome.samples]
    if any(later.cursor < earlier.cursor for earlier, later in pairwise(samples)):
        yield f"the cursor went back: {[sample.cursor for sample in samples]}"
    # What one sample says of an event, later samples would only repeat.
    upcoming = iter(wanted)
    event = next(upcoming, None)
    for sample in samples:
        while event is not None and event.position <= sample.cursor:
            arrived_at = first.get(event.event_id)
            if event.position not in sample.parked and (arrived_at is None or arrived_at > sample.by):
                when = "never" if arrived_at is None else f"{(arrived_at - sample.by) / 1e6:.3f} ms later"
                yield f"the cursor stood at {sample.cursor}, and the event at {event.position} arrived {when}"
            event = next(upcoming, None)
