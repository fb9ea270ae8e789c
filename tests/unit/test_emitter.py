"""The emitter: numbers without a gap, one end, nothing spent on what cannot be announced."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from trackside.harness import LifecycleEventType, PayloadError, RunLifecycleEvent
from trackside.harness.emitter import Draft, RunEmitter
from trackside.harness.errors import EventOrderError
from trackside.testing import assert_run_order
from trackside.testing.loop import EPOCH

STARTED = LifecycleEventType.RUN_STARTED
HUMAN = LifecycleEventType.HUMAN_MESSAGE
THREAD = LifecycleEventType.THREAD_STATUS_UPDATED
ENDS = [LifecycleEventType.RUN_COMPLETED, LifecycleEventType.RUN_FAILED, LifecycleEventType.RUN_CANCELLED]


class Stopped:
    """A clock."""

    def now(self) -> datetime:
        return EPOCH

    def monotonic(self) -> float:
        return 0.0


class Unreadable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def emitter_to(batches: list[Sequence[RunLifecycleEvent]], fails: list[BaseException] | None = None) -> RunEmitter:
    async def deliver(events: Sequence[RunLifecycleEvent]) -> None:
        batches.append(events)
        if fails:
            raise fails.pop()

    return RunEmitter("r", "t", deliver=deliver, clock=Stopped())


async def test_events_get_their_identity_number_and_time() -> None:
    batches: list[Sequence[RunLifecycleEvent]] = []
    emitter = emitter_to(batches)
    await emitter.emit(Draft(STARTED, {"agent": "a"}), Draft(HUMAN, {"message": {}}))
    await emitter.emit(Draft(ENDS[0], {"status": "success"}))
    assert [len(batch) for batch in batches] == [2, 1], "what is emitted together is delivered together"
    events = [event for batch in batches for event in batch]
    assert_run_order(events)
    assert {(e.run_id, e.thread_id, e.occurred_at) for e in events} == {("r", "t", EPOCH)}
    assert EPOCH.tzinfo is UTC
    assert [e.event_id for e in events] == sorted({e.event_id for e in events})


@pytest.mark.parametrize("first", ENDS, ids=str)
@pytest.mark.parametrize("second", [STARTED, HUMAN, *ENDS], ids=str)
async def test_after_the_end_only_the_threads_status_may_change(
    first: LifecycleEventType, second: LifecycleEventType
) -> None:
    batches: list[Sequence[RunLifecycleEvent]] = []
    emitter = emitter_to(batches)
    await emitter.emit(Draft(first, {}))
    for drafts in ([Draft(second, {})], [Draft(THREAD, {}), Draft(second, {})]):
        with pytest.raises(EventOrderError) as caught:
            await emitter.emit(*drafts)
        assert caught.value.details["sequence"] == 2
    await emitter.emit(Draft(THREAD, {"status": "idle"}))
    assert [e.sequence for batch in batches for e in batch] == [1, 2], "what was refused took no number"


async def test_two_ends_in_one_go_are_refused_and_neither_happens() -> None:
    batches: list[Sequence[RunLifecycleEvent]] = []
    emitter = emitter_to(batches)
    with pytest.raises(EventOrderError):
        await emitter.emit(Draft(ENDS[0], {}), Draft(ENDS[1], {}))
    assert (batches, emitter.ended) == ([], False)
    await emitter.emit(Draft(ENDS[1], {}))
    assert emitter.ended


@pytest.mark.parametrize("kind", [STARTED, *ENDS], ids=str)
async def test_a_payload_that_cannot_be_kept_spends_no_number_and_ends_nothing(kind: LifecycleEventType) -> None:
    batches: list[Sequence[RunLifecycleEvent]] = []
    emitter = emitter_to(batches)
    with pytest.raises(PayloadError):
        await emitter.emit(Draft(HUMAN, {}), Draft(kind, {"x": Unreadable()}))
    assert (batches, emitter.ended) == ([], False)
    await emitter.emit(Draft(kind, {}))
    assert [e.sequence for e in batches[0]] == [1]


async def test_a_failed_delivery_keeps_its_numbers_and_the_end() -> None:
    batches: list[Sequence[RunLifecycleEvent]] = []
    emitter = emitter_to(batches, [OSError()])
    with pytest.raises(OSError):
        await emitter.emit(Draft(ENDS[0], {}))
    assert emitter.ended
    await emitter.emit(Draft(THREAD, {}))
    assert [e.sequence for batch in batches for e in batch] == [1, 2]


async def test_payloads_are_made_plain_unless_they_are() -> None:
    batches: list[Sequence[RunLifecycleEvent]] = []
    emitter = emitter_to(batches)
    shared: dict[str, Any] = {"items": {3, 1}}
    await emitter.emit(Draft(STARTED, shared))
    plain = {"x": 1}
    await emitter.emit(Draft(HUMAN, plain, plain=True))
    shared["items"] = "changed"
    assert batches[0][0].payload == {"items": [1, 3], "sanitized": True}
    assert batches[1][0].payload == plain
