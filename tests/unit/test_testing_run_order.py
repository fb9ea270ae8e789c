"""`assert_run_order` accepts what the contract allows, and catches each thing that it forbids."""

import random
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from trackside.harness.errors import EventOrderError
from trackside.harness.lifecycle import RunFold
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus
from trackside.testing import assert_run_order, make_event, make_run

FINAL = [s for s in RunStatus if s not in {RunStatus.pending, RunStatus.running}]
EVENT = {kind.name: kind for kind in LifecycleEventType}
SHORT = {
    "start": (EVENT["RUN_STARTED"], {}),
    "busy": (EVENT["THREAD_STATUS_UPDATED"], {"status": "busy", "previous": "idle"}),
    "idle": (EVENT["THREAD_STATUS_UPDATED"], {"status": "idle", "previous": "busy"}),
    "still idle": (EVENT["THREAD_STATUS_UPDATED"], {"status": "idle", "previous": "idle"}),
    "error": (EVENT["THREAD_STATUS_UPDATED"], {"status": "error", "previous": "busy"}),
    "error to idle": (EVENT["THREAD_STATUS_UPDATED"], {"status": "idle", "previous": "error"}),
    "no status": (EVENT["THREAD_STATUS_UPDATED"], {"previous": "busy"}),
    "no previous": (EVENT["THREAD_STATUS_UPDATED"], {"status": "idle"}),
    "odd status": (EVENT["THREAD_STATUS_UPDATED"], {"status": "asleep", "previous": "busy"}),
    "human": (EVENT["HUMAN_MESSAGE"], {}),
    "success": (EVENT["RUN_COMPLETED"], {"status": "success"}),
    "completed": (EVENT["RUN_COMPLETED"], {}),
    "failed": (EVENT["RUN_FAILED"], {"status": "error"}),
    "cancelled": (EVENT["RUN_CANCELLED"], {"cancel_mode": "interrupt"}),
    "completed with error": (EVENT["RUN_COMPLETED"], {"status": "error"}),
    "failed with success": (EVENT["RUN_FAILED"], {"status": "success"}),
}


def run_of(*names: str, **fields: Any) -> list[RunLifecycleEvent]:
    """The events of a run by their short names, numbered from 1."""
    return [
        make_event(SHORT[name][0], sequence=number, payload=SHORT[name][1], **fields)
        for number, name in enumerate(names, 1)
    ]


@pytest.mark.parametrize("status", FINAL)
@pytest.mark.parametrize("messages", [0, 1, 3])
def test_complete_run_is_right(status: RunStatus, messages: int) -> None:
    assert_run_order(make_run(messages=messages, status=status))


@pytest.mark.parametrize(
    "names",
    [
        ["start", "success"],
        ["start", "busy", "human", "completed"],
        ["start", "human", "failed"],
        ["start", "busy", "human", "cancelled", "idle"],
        ["start", "busy", "failed", "error", "error to idle"],
        ["failed"],
        ["cancelled"],
        ["cancelled", "idle"],
    ],
    ids=" ".join,
)
def test_what_the_contract_allows_is_right(names: list[str]) -> None:
    assert_run_order(run_of(*names))


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["busy", "start", "success"], "the first event is thread_status_updated"),
        (["human", "success"], "the first event is human_message"),
        (["busy", "cancelled"], "ends without a start, and the end is not its first event"),
        (["start", "start", "success"], "run_started comes late or twice"),
        (["success", "start"], "run_started comes late or twice"),
        (["start", "success", "failed"], "it ends 2 times"),
        (["start", "success", "success", "cancelled"], "it ends 3 times"),
        (["start", "busy", "human"], "it does not end"),
        (["start", "success", "human"], "after its end comes human_message"),
        (["cancelled", "human"], "after its end comes human_message"),
        (["start", "still idle", "success"], "from 'idle' to the same"),
        (["start", "busy", "success", "still idle"], "from 'idle' to the same"),
        (["start", "busy", "success", "error to idle"], "from 'error' although it was 'busy'"),
        (["start", "idle", "success"], "the thread becomes 'idle' while the run runs"),
        (["start", "busy", "idle", "success"], "the thread becomes 'idle' while the run runs"),
        (["start", "human", "busy", "success"], "the thread becomes 'busy' while the run runs"),
        (["start", "success", "no status"], "from 'busy' to None"),
        (["start", "success", "no previous"], "from None to 'idle'"),
        (["start", "success", "odd status"], "from 'busy' to 'asleep'"),
        (["start", "completed with error"], "run_completed has status 'error'"),
        (["start", "failed with success"], "run_failed has status 'success'"),
    ],
    ids=str,
)
def test_what_the_contract_forbids_is_seen(names: list[str], why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        assert_run_order(run_of(*names))


@pytest.mark.parametrize(
    "sequences",
    [[1, 2, 4, 5, 6], [1, 2, 2, 3, 4], [0, 1, 2, 3, 4], [2, 3, 4, 5, 6], [1, 3, 2, 4, 5]],
    ids=["gap", "repeat", "from zero", "from two", "swapped"],
)
def test_sequences_are_one_to_n_in_order(sequences: list[int]) -> None:
    events = [replace(event, sequence=n) for event, n in zip(make_run(), sequences, strict=True)]

    with pytest.raises(AssertionError, match="sequences are"):
        assert_run_order(events)


def test_repeated_event_id_is_seen_also_across_runs() -> None:
    one, other = make_run("a"), make_run("b")
    other[0] = replace(other[0], event_id=one[0].event_id)

    with pytest.raises(AssertionError, match="not unique"):
        assert_run_order([*one, *other])


def test_run_on_two_threads_is_seen() -> None:
    run = make_run()
    run[-1] = replace(run[-1], thread_id="elsewhere")

    with pytest.raises(AssertionError, match="more than one thread"):
        assert_run_order(run)


@pytest.mark.parametrize("zone", [None, timezone(timedelta(hours=1))])
def test_time_that_is_not_aware_utc_is_seen(zone: timezone | None) -> None:
    run = make_run()
    run[2] = replace(run[2], occurred_at=datetime(2026, 1, 1, tzinfo=zone))

    with pytest.raises(AssertionError, match="aware UTC"):
        assert_run_order(run)


def test_unknown_event_type_is_seen() -> None:
    run = make_run()
    run[2] = replace(run[2], event_type="run_paused")  # type: ignore[arg-type]

    with pytest.raises(AssertionError, match="unknown event types: run_paused"):
        assert_run_order(run)


def test_interleaved_runs_are_checked_each_by_itself() -> None:
    one, other = make_run("a"), make_run("b", status=RunStatus.error)
    mixed = [event for pair in zip(one, other, strict=True) for event in pair]
    assert_run_order(mixed)

    with pytest.raises(AssertionError, match="run b:") as caught:
        assert_run_order([event for event in mixed if (event.run_id, event.sequence) != ("b", 2)])
    assert "1 run_started" in str(caught.value)
    assert "4 run_failed (error)" in str(caught.value)


def test_unfinished_run_is_right_where_it_may_be_unfinished() -> None:
    assert_run_order(make_run()[:3], ended=False)
    with pytest.raises(AssertionError, match="it ends 2 times"):
        assert_run_order(run_of("start", "success", "failed"), ended=False)


def test_no_events_are_in_order() -> None:
    assert_run_order([])


def follows_the_tables(events: list[RunLifecycleEvent]) -> bool:
    fold = RunFold("run-1")
    try:
        for event in events:
            fold = fold.apply(event.event_type, event.sequence, event.payload)
    except EventOrderError:
        return False
    return True


def test_checker_and_tables_agree_on_random_runs_wherever_both_have_a_say() -> None:
    # The checker also knows threads and complete runs; the tables also take the logs of other people's harnesses, in
    # which a run may end as completed without a start.
    draw = random.Random(7)
    right = 0
    for _ in range(3_000):
        names = draw.choices(["start", "human", "success", "failed", "cancelled"], k=draw.randint(1, 4))
        if draw.random() < 0.8:
            names[0] = "start"
        run = run_of(*names)
        try:
            assert_run_order(run, ended=False)
        except AssertionError:
            assert not follows_the_tables(run), names
        else:
            right += 1
            assert follows_the_tables(run), names
    assert right > 300
