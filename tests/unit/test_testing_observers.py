"""`RecordingObserver` takes, refuses, hangs and is stubborn exactly as planned."""

import asyncio
from typing import Any

import msgspec
import pytest

from trackside.harness.lifecycle import run_status_of
from trackside.harness.observer import BatchRunObserver, RunLifecycleEvent, RunObserver
from trackside.harness.payloads import PAYLOADS
from trackside.harness.types import LifecycleEventType, RunStatus
from trackside.testing import (
    InvalidTestError,
    Misbehaviour,
    RecordingBatchObserver,
    RecordingObserver,
    make_event,
    make_run,
    run_virtual,
)

MESSAGE = LifecycleEventType.HUMAN_MESSAGE


async def wants_to_wait(event: RunLifecycleEvent) -> bool:
    return True


async def offer(observer: RunObserver, events: list[RunLifecycleEvent]) -> list[int]:
    """Which of the events, counted from 1, the observer refused."""
    refused = []
    for number, event in enumerate(events, 1):
        try:
            await observer.on_event(event)
        except BaseException:
            refused.append(number)
    return refused


async def test_without_a_plan_everything_is_kept_in_order() -> None:
    observer = RecordingObserver()
    run = make_run()

    assert await offer(observer, run) == []
    assert observer.events == observer.offered == run


@pytest.mark.parametrize(
    ("plan", "refused"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"nth": 2}, [2]),
        ({"on": MESSAGE}, [3, 4]),
        ({"on": "human_message"}, [3, 4]),
        ({"on": MESSAGE, "nth": 2}, [4]),
        ({"on": MESSAGE, "nth": 3}, []),
        ({"on": lambda event: event.sequence > 4}, [5, 6]),
        ({"on": lambda event: event.sequence > 4, "nth": 1}, [5]),
        ({"times": 0}, []),
    ],
)
async def test_plan_hits_the_events_it_means_and_no_other(plan: dict[str, Any], refused: list[int]) -> None:
    observer = RecordingObserver(Misbehaviour(how=ValueError("no"), **plan))
    run = make_run(messages=2)

    assert await offer(observer, run) == refused
    assert observer.offered == run
    assert observer.events == [event for number, event in enumerate(run, 1) if number not in refused]


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("how", ["Hang", OSError, None, 5, [], print]),
        ("on", ["run_strated", "", 5, [MESSAGE], wants_to_wait]),
        ("nth", [0, -1, 1.0, True, "1", []]),
        ("times", [-1, 1.0, True, "1", []]),
    ],
)
def test_plan_that_would_never_happen_or_another_way_is_refused_by_name(argument: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidTestError, match=f"^A test cannot be made with {argument} = "):
            Misbehaviour(**{"how": OSError("no"), argument: value})


@pytest.mark.parametrize("kind", [RecordingObserver, RecordingBatchObserver])
@pytest.mark.parametrize("plan", [OSError("no"), "hang", None], ids=repr)
def test_observer_of_what_is_no_plan_is_refused(kind: Any, plan: Any) -> None:
    with pytest.raises(InvalidTestError, match=r"plan = .*: pass what to do, as Misbehaviour\(how="):
        kind(Misbehaviour(how="hang"), plan)


@pytest.mark.parametrize("status", ["pending", RunStatus.running, "done", None, [], 5], ids=repr)
def test_run_does_not_end_with_a_status_that_is_none_of_an_end(status: Any) -> None:
    with pytest.raises(InvalidTestError, match="status = .*: a run ends with one of success, error, timeout, "):
        make_run(status=status)


@pytest.mark.parametrize("messages", [-1, 1.0, "2", None, True], ids=repr)
def test_run_has_no_such_number_of_messages(messages: Any) -> None:
    with pytest.raises(InvalidTestError, match="messages = "):
        make_run(messages=messages)


def test_run_ends_with_a_status_by_its_name() -> None:
    by_name: Any = "timeout"

    assert make_run(status=by_name)[-2].payload["status"] == RunStatus.timeout


async def test_exception_is_raised_as_it_is() -> None:
    error = SystemExit(7)

    with pytest.raises(SystemExit) as caught:
        await RecordingObserver(Misbehaviour(how=error)).on_event(make_event())
    assert caught.value is error


async def test_event_that_is_given_again_is_the_same_event_and_fails_so_many_times() -> None:
    observer = RecordingObserver(Misbehaviour(how=OSError("locked"), nth=2, times=2))
    one, two, three = make_event(), make_event(), make_event()

    assert await offer(observer, [one, two, two, two, three]) == [2, 3]
    assert observer.events == [one, two, three]


async def test_several_plans_hold_beside_each_other() -> None:
    observer = RecordingObserver(Misbehaviour(how=ValueError("a"), nth=1), Misbehaviour(how=ValueError("b"), nth=3))

    assert await offer(observer, [make_event() for _ in range(4)]) == [1, 3]


def test_observer_that_hangs_waits_until_it_is_cancelled() -> None:
    async def main() -> None:
        observer = RecordingObserver(Misbehaviour(how="hang"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await observer.on_event(make_event())
        assert observer.events == []

    run_virtual(main())


def test_observer_that_swallows_cancellation_waits_until_it_is_released() -> None:
    async def main() -> None:
        observer = RecordingObserver(Misbehaviour(how="swallow"))
        event = make_event()
        call = asyncio.create_task(observer.on_event(event))
        for _ in range(3):
            await asyncio.sleep(1)
            call.cancel()
        await asyncio.sleep(1)
        assert not call.done()

        observer.release()
        await call
        assert observer.events == [event]

    run_virtual(main())


async def test_batch_is_taken_whole_or_not_at_all() -> None:
    observer = RecordingBatchObserver(Misbehaviour(how=ValueError("no"), on=MESSAGE, nth=3))
    good, bad = make_run(messages=2), make_run(messages=2)
    await observer.on_events(good)
    with pytest.raises(ValueError, match="no"):
        await observer.on_events(bad)
    await observer.on_event(bad[0])

    assert isinstance(observer, BatchRunObserver)
    assert observer.batches == [good]
    assert observer.events == [*good, bad[0]]
    assert observer.offered == [*good, *bad, bad[0]]


@pytest.mark.parametrize("status", [s for s in RunStatus if s not in {RunStatus.pending, RunStatus.running}])
def test_made_run_ends_with_the_status_asked_for(status: RunStatus) -> None:
    run = make_run("r", thread_id="t", messages=2, status=status)

    assert [event.event_type.value for event in run[:4]] == [
        "run_started",
        "thread_status_updated",
        "human_message",
        "human_message",
    ]
    assert run_status_of(run[4].event_type, run[4].payload) == status
    assert {(event.run_id, event.thread_id) for event in run} == {("r", "t")}


@pytest.mark.parametrize(
    ("status", "more"),
    [
        (RunStatus.success, {"status", "title"}),
        (RunStatus.interrupted, {"status", "interrupts", "title"}),
        (RunStatus.error, {"status", "error", "error_type", "traceback"}),
        (RunStatus.timeout, {"status", "error", "error_type"}),
        (RunStatus.cancelled, {"cancel_mode"}),
    ],
)
def test_made_run_says_what_a_real_one_does(status: RunStatus, more: set[str]) -> None:
    run = make_run(messages=2, status=status)

    for event in run:
        msgspec.convert(event.payload, PAYLOADS[event.event_type])
    end = run[-2].payload
    assert set(end) == {"agent", "completion_data", *more}
    assert (end["completion_data"]["message_count"], end["completion_data"]["first_human_message"]) == (2, "hello 0")
