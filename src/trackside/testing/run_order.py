"""A second opinion on the order of events in a run.

Written from the contract's text and not from `trackside.harness.lifecycle`, on purpose: each shows a mistake in the
rules of the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from trackside.harness.observer import RunLifecycleEvent

_STATUSES_OF_END = {
    "run_completed": {"success", "interrupted"},
    "run_failed": {"error", "timeout"},
    "run_cancelled": {"cancelled"},
}
_TYPES = {"run_started", "human_message", "thread_status_updated", *_STATUSES_OF_END}
_THREAD_STATUSES = {"idle", "busy", "interrupted", "error"}


def assert_run_order(events: Iterable[RunLifecycleEvent], *, ended: bool = True) -> None:
    """Check that the events of each run are in the order that the contract promises.

    Events of several runs may be interleaved in any way. With `ended=False`, runs may be unfinished.

    Raises:
        AssertionError: they are not; the message lists what is wrong and the run's events.
    """
    events = list(events)
    runs: dict[str, list[RunLifecycleEvent]] = {}
    for event in events:
        runs.setdefault(event.run_id, []).append(event)
    for run_id, of_run in runs.items():
        if wrong := [*_violations(of_run, ended=ended)]:
            raise AssertionError("\n".join([f"run {run_id}:", *wrong, "its events:", *map(_line, of_run)]))
    if repeated := [event_id for event_id, count in Counter(e.event_id for e in events).items() if count > 1]:
        raise AssertionError(f"event ids that are not unique: {', '.join(repeated)}")


def _violations(events: Sequence[RunLifecycleEvent], *, ended: bool) -> Iterator[str]:
    types = [str(event.event_type) for event in events]
    if unknown := set(types) - _TYPES:
        yield f"unknown event types: {', '.join(sorted(unknown))}"
    if (sequences := [event.sequence for event in events]) != list(range(1, len(events) + 1)):
        yield f"sequences are {sequences}, not 1, 2, 3 …"
    if len({event.thread_id for event in events}) > 1:
        yield "it is on more than one thread"
    if any(event.occurred_at.utcoffset() != timedelta(0) for event in events):
        yield "times are not all aware UTC"
    yield from _violations_of_start_and_end(types, ended=ended)
    yield from _violations_of_statuses(events, types)


def _violations_of_start_and_end(types: Sequence[str], *, ended: bool) -> Iterator[str]:
    ends = [i for i, kind in enumerate(types) if kind in _STATUSES_OF_END]
    if types[0] != "run_started" and types[0] not in _STATUSES_OF_END:
        yield f"the first event is {types[0]}"
    if "run_started" in types[1:]:
        yield "run_started comes late or twice"
    if types[0] != "run_started" and ends and ends[0] > 0:
        yield "it ends without a start, and the end is not its first event"
    if len(ends) > 1:
        yield f"it ends {len(ends)} times"
    if ended and not ends:
        yield "it does not end"
    if ends and (late := set(types[ends[0] + 1 :]) - _STATUSES_OF_END.keys() - {"thread_status_updated"}):
        yield f"after its end comes {', '.join(sorted(late))}"


def _violations_of_statuses(events: Sequence[RunLifecycleEvent], types: Sequence[str]) -> Iterator[str]:
    last: object = None
    has_ended = False
    for i, (event, kind) in enumerate(zip(events, types, strict=True)):
        status = event.payload.get("status")
        if kind in _STATUSES_OF_END:
            has_ended = True
            if status is not None and status not in _STATUSES_OF_END[kind]:
                yield f"{kind} has status {status!r}"
        elif kind == "thread_status_updated":
            previous = event.payload.get("previous")
            if {status, previous} - _THREAD_STATUSES:
                yield f"a thread's status changes from {previous!r} to {status!r}"
            if status == previous:
                yield f"a thread's status changes from {previous!r} to the same"
            if last is not None and previous != last:
                yield f"a thread's status changes from {previous!r} although it was {last!r}"
            if not has_ended and (status != "busy" or i != 1):
                yield f"the thread becomes {status!r} while the run runs"
            last = status


def _line(event: RunLifecycleEvent) -> str:
    status = event.payload.get("status")
    return f"  {event.sequence} {event.event_type}{'' if status is None else f' ({status})'}"
