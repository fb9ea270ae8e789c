"""The check of deliveries finds each thing that may be wrong: each case changes one thing in a record that is right."""

import json
from collections.abc import Sequence

import pytest
from delivery_check import Counts, Event, Outcome, Promise, Sample, count_of, found_wrong
from delivery_receivers import Arrival


def event_at(position: int, kind: str = "human_message") -> Event:
    """An event of one of two runs that take turns: odd positions and even ones."""
    sequence = (position + 1) // 2
    return Event(position, f"e{position}", f"run-{position % 2}", "thread", sequence, kind, '{"message": "ä"}')


def arrival_of(event: Event, at: int, **others: object) -> Arrival:
    said = event._asdict() | {"payload": json.loads(event.payload)} | others
    del said["position"]
    return Arrival(at, event.event_id, json.dumps({"data": said}).encode())


EVENTS = [*map(event_at, range(1, 7)), event_at(7, "run_completed")]
ARRIVALS = [arrival_of(event, 10 * event.position) for event in EVENTS if event.position != 4]
SAMPLES = [Sample(0, frozenset(), 5), Sample(3, frozenset(), 35), Sample(3, frozenset({4}), 45)]
SAMPLES += [Sample(5, frozenset({4}), 55), Sample(7, frozenset({4}), 75)]
PROMISE = Promise(in_order=True, once=True, may_park="e4".__eq__)


def wrong_if(
    arrivals: Sequence[Arrival] = ARRIVALS, samples: Sequence[Sample] = SAMPLES, promise: Promise = PROMISE
) -> str:
    return "; ".join(found_wrong(promise, EVENTS, Outcome(arrivals=arrivals, samples=samples)))


def test_what_is_right_is_right() -> None:
    outcome = Outcome(arrivals=ARRIVALS, samples=SAMPLES)
    assert found_wrong(PROMISE, EVENTS, outcome) == []
    assert count_of(PROMISE, EVENTS, outcome) == Counts(events=7, deliveries=6, duplicates=0, parked=1, lost=0)


def test_an_event_that_never_arrives_is_lost() -> None:
    arrivals = [arrival for arrival in ARRIVALS if arrival.event_id != "e2"]
    assert wrong_if(arrivals) == ("the event at 2 was lost; the cursor stood at 3, and the event at 2 arrived never")
    assert count_of(PROMISE, EVENTS, Outcome(arrivals=arrivals, samples=SAMPLES)).lost == 1


def test_a_cursor_that_does_not_come_to_the_end_is_found() -> None:
    assert wrong_if(samples=SAMPLES[:-1]) == (
        "the cursor ended at 5, before the event at 6; the cursor ended at 5, before the event at 7"
    )


@pytest.mark.parametrize("by", [29, 0])
def test_a_cursor_that_has_passed_what_arrived_later_is_found(by: int) -> None:
    assert "the cursor stood at 3, and the event at 3 arrived" in wrong_if(
        samples=[Sample(3, frozenset(), by), *SAMPLES[2:]]
    )


def test_a_cursor_that_has_passed_what_is_parked_later_is_found() -> None:
    assert wrong_if(samples=[SAMPLES[0], Sample(5, frozenset(), 55), *SAMPLES[3:]]) == (
        "the cursor stood at 5, and the event at 4 arrived never"
    )


def test_a_cursor_that_goes_back_is_found() -> None:
    assert "the cursor went back" in wrong_if(samples=[*SAMPLES[:2], SAMPLES[0], *SAMPLES[2:]])


def test_what_is_parked_and_would_be_taken_is_found() -> None:
    assert wrong_if(samples=[*SAMPLES[:-1], Sample(7, frozenset({4, 6}), 75)]) == (
        "the event at 6 is parked, and the receiver would take it"
    )


def test_what_nobody_wants_is_found() -> None:
    ends = Promise(types=frozenset({"run_completed"}))
    samples = [Sample(7, frozenset(), 75)]
    assert wrong_if(ARRIVALS[-1:], samples, ends) == ""
    assert wrong_if(ARRIVALS[-2:], samples, ends) == "e6 arrived, and is no event that was wanted"


@pytest.mark.parametrize("change", [{"payload": {"message": "a"}}, {"sequence": 9}, {"event_type": "run_failed"}])
def test_what_arrives_otherwise_than_it_is_in_the_log_is_found(change: dict[str, object]) -> None:
    assert "the event at 1 arrived as" in wrong_if([arrival_of(EVENTS[0], 10, **change), *ARRIVALS[1:]])


def test_a_duplicate_is_found_where_there_is_to_be_none_and_one_with_other_bytes_everywhere() -> None:
    again = ARRIVALS[0]._replace(at=80)
    twice = Promise(in_order=True, may_park=PROMISE.may_park)
    assert wrong_if([*ARRIVALS, again]) == "e1 is kept 2 times"
    assert wrong_if([*ARRIVALS, again], promise=twice) == ""
    other = again._replace(body=again.body.replace(b'": ', b'":'))
    assert wrong_if([*ARRIVALS, other], promise=twice) == "e1 arrived 2 times, with 2 bodies"


def test_first_deliveries_in_another_order_are_found() -> None:
    turned = [ARRIVALS[2]._replace(at=10), ARRIVALS[0]._replace(at=11), *ARRIVALS[1:2], *ARRIVALS[3:]]
    assert wrong_if(turned) == "of run run-1 arrived, in this order, [2, 1, 3, 4]"
    assert wrong_if(turned, promise=Promise(may_park=PROMISE.may_park)) == ""
