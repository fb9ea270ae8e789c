"""Coordinator and stream in one process: their rules, and that they stay small."""

import asyncio
import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from tests.contract.ways_to_run import virtual
from tests.unit.set_clock import SetClock

from trackside.harness import (
    DuplicateRunError,
    InvalidSpecError,
    MultitaskStrategy,
    RunContext,
    RunManager,
    RunRecord,
    RunSpec,
    RunStatus,
    ThreadBusyError,
    ThreadStatus,
    UnknownRunError,
)
from trackside.harness.due_times import LOOK_EVERY
from trackside.harness.memory import MemoryCoordinator, MemoryStream
from trackside.harness.ports import Admission, IdempotencyKey, Release, Settlement, StreamGap, StreamPart
from trackside.harness.remembered import KEEP_THREADS, MemoryThreadStates
from trackside.harness.types import CancelAction, CancelMode
from trackside.testing import VirtualClock
from trackside.testing.loop import EPOCH

numbers = itertools.count()
IDLE, BUSY, ERROR = ThreadStatus.idle, ThreadStatus.busy, ThreadStatus.error


def record(run_id: str | None = None, thread_id: str = "t", multitask: str = "enqueue") -> RunRecord:
    return RunRecord(
        run_id=run_id or f"run-{next(numbers)}",
        thread_id=thread_id,
        agent="agent",
        status=RunStatus.pending,
        created_at=EPOCH,
        multitask=MultitaskStrategy(multitask),
    )


async def end(
    coordinator: MemoryCoordinator, run_id: str, status: RunStatus = RunStatus.success
) -> tuple[Settlement, Release]:
    settlement = await coordinator.settle(run_id, status)
    return settlement, await coordinator.release(run_id, settlement.status)


async def whole_run(coordinator: MemoryCoordinator, run: RunRecord, status: RunStatus = RunStatus.success) -> None:
    await coordinator.admit(run)
    assert await coordinator.claim(run.run_id)
    await end(coordinator, run.run_id, status)


async def test_only_the_head_of_a_thread_can_be_claimed_and_only_once() -> None:
    coordinator = MemoryCoordinator()
    first, second = record(), record()
    assert (await coordinator.admit(first)).ready
    assert not (await coordinator.admit(second)).ready
    assert await coordinator.claim(second.run_id) is None
    claim = await coordinator.claim(first.run_id)
    assert claim is not None
    assert (claim.record, claim.thread_status) == (first, IDLE)
    assert await coordinator.claim(first.run_id) is None
    settlement, release = await end(coordinator, first.run_id)
    assert settlement == Settlement(previous=BUSY, status=BUSY)
    assert release == Release(next_run_id=second.run_id)
    assert await coordinator.claim(second.run_id) is not None


async def test_a_thread_is_held_until_the_release() -> None:
    coordinator = MemoryCoordinator()
    first = record()
    await coordinator.admit(first)
    await coordinator.claim(first.run_id)
    await coordinator.settle(first.run_id, RunStatus.success)
    assert (await coordinator.get(first.run_id)).status is RunStatus.running  # type: ignore[union-attr]
    with pytest.raises(ThreadBusyError):
        await coordinator.admit(record(multitask="reject"))
    await coordinator.release(first.run_id, IDLE)
    assert (await coordinator.get(first.run_id)).status is RunStatus.success  # type: ignore[union-attr]
    assert (await coordinator.admit(record(multitask="reject"))).ready


async def test_a_withdrawn_run_keeps_its_place_until_its_release_and_is_withdrawn_by_one() -> None:
    coordinator = MemoryCoordinator()
    first, second, third = record(), record(), record()
    for run in (first, second, third):
        await coordinator.admit(run)
    assert [await coordinator.withdraw(second.run_id) for _ in range(3)] == [True, False, False]
    assert await coordinator.withdraw(first.run_id)
    assert await coordinator.claim(first.run_id) is None
    assert await end(coordinator, second.run_id, RunStatus.cancelled) == (
        Settlement(previous=IDLE, status=IDLE),
        Release(),
    )
    assert (await end(coordinator, first.run_id, RunStatus.cancelled))[1] == Release(next_run_id=third.run_id)
    assert not await coordinator.withdraw(first.run_id)


async def test_a_cancel_that_was_asked_for_wins_over_the_claim() -> None:
    coordinator = MemoryCoordinator()
    run = record()
    await coordinator.admit(run)
    asked = await coordinator.request_cancel(run.run_id, CancelAction.rollback)
    assert asked.cancel_requested is CancelAction.rollback
    assert (
        await coordinator.request_cancel(run.run_id, CancelAction.interrupt)
    ).cancel_requested is CancelAction.rollback
    assert await coordinator.claim(run.run_id) is None
    assert await coordinator.withdraw(run.run_id)
    await end(coordinator, run.run_id, RunStatus.cancelled)
    ended = await coordinator.get(run.run_id)
    assert await coordinator.request_cancel(run.run_id, CancelAction.interrupt) == ended
    with pytest.raises(UnknownRunError):
        await coordinator.request_cancel("nobody", CancelAction.interrupt)


async def test_making_room_names_what_was_displaced() -> None:
    coordinator = MemoryCoordinator()
    active, waiting, gone = record("active"), record("waiting"), record("gone")
    for run in (active, waiting, gone):
        await coordinator.admit(run)
    await coordinator.claim("active")
    await coordinator.withdraw("gone")
    admission = await coordinator.admit(record("new", multitask="rollback"))
    assert not admission.ready
    assert [(r.run_id, r.status, r.cancel_requested) for r in admission.displaced] == [
        ("active", RunStatus.running, CancelAction.rollback),
        ("waiting", RunStatus.pending, CancelAction.rollback),
    ]
    assert not await coordinator.withdraw("waiting"), "its end is the admitting caller's to announce"


class Host:
    """Records what it is told."""

    agents = ()

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_ready(self, run_id: str) -> None:
        self.told.append(("ready", run_id))

    def on_displaced(self, displaced: Sequence[RunRecord], mode: CancelMode) -> None:
        self.told.append((mode.value, [run.run_id for run in displaced]))

    def on_cancel(self, run_id: str, action: CancelAction) -> None: ...
    def on_lost(self, run_id: str) -> None: ...
    def on_adopted(self, record: RunRecord, spec: RunSpec, *, ready: bool) -> None: ...


def due_in(seconds: float, run: RunRecord) -> RunRecord:
    return replace(run, due_at=EPOCH + timedelta(seconds=seconds))


@virtual
async def test_a_run_that_is_due_takes_its_place_and_its_host_hears_of_it() -> None:
    coordinator, host = MemoryCoordinator(clock=VirtualClock()), Host()
    coordinator.attach(host)
    for run in (due_in(30, record("c", multitask="rollback")), due_in(10, record("a")), due_in(20, record("b"))):
        assert await coordinator.admit(run) == Admission(record=run, ready=False, displaced=[])
        assert await coordinator.claim(run.run_id) is None
    await asyncio.sleep(15)
    assert host.told == [("ready", "a")]
    assert await coordinator.claim("a")
    await asyncio.sleep(20)
    assert host.told[1:] == [("rollback", ["a", "b"])], "b waits for its thread, and then has to make room"
    assert (await end(coordinator, "a"))[1] == Release(next_run_id="c")
    await asyncio.sleep(1_000)
    assert len(host.told) == 2


@virtual
async def test_a_run_that_is_cancelled_before_it_is_due_displaces_nobody() -> None:
    coordinator, host = MemoryCoordinator(clock=VirtualClock()), Host()
    coordinator.attach(host)
    await coordinator.admit(record("active"))
    await coordinator.admit(due_in(10, record("withdrawn", multitask="interrupt")))
    assert await coordinator.withdraw("withdrawn")
    await coordinator.admit(due_in(10, record("asked to stop", multitask="interrupt")))
    await coordinator.request_cancel("asked to stop", CancelAction.interrupt)
    await asyncio.sleep(20)
    assert host.told == []
    assert await coordinator.withdraw("asked to stop")
    for run_id in ("withdrawn", "asked to stop"):
        assert await end(coordinator, run_id, RunStatus.cancelled) == (Settlement(IDLE, IDLE), Release())
    assert await coordinator.claim("active")
    await end(coordinator, "active")
    assert coordinator._runs == coordinator._threads == coordinator._delayed == {}


@virtual
async def test_a_run_is_due_by_a_clock_that_is_set_meanwhile() -> None:
    clock = SetClock()
    coordinator, host = MemoryCoordinator(clock=clock), Host()
    coordinator.attach(host)
    for n in range(3):
        await coordinator.admit(due_in(36_000, record(str(n), thread_id=str(n))))
    await coordinator.withdraw("1")
    clock.ahead = timedelta(hours=10)
    await asyncio.sleep(LOOK_EVERY)
    assert host.told == [("ready", "0"), ("ready", "2")]


@virtual
async def test_a_run_that_was_due_while_the_process_was_busy_is_due_at_once() -> None:
    coordinator = MemoryCoordinator(clock=VirtualClock())
    await coordinator.admit(due_in(-10, record("late")))
    await asyncio.sleep(0.001)
    assert await coordinator.claim("late")


async def test_when_nobody_waits_any_more_the_status_has_to_be_announced_first() -> None:
    coordinator = MemoryCoordinator()
    first, second = record(), record()
    await coordinator.admit(first)
    await coordinator.claim(first.run_id)
    await coordinator.admit(second)
    settlement = await coordinator.settle(first.run_id, RunStatus.error)
    assert settlement.status is BUSY
    await coordinator.withdraw(second.run_id)
    release = await coordinator.release(first.run_id, BUSY)
    assert release == Release(settlement=Settlement(previous=BUSY, status=ERROR))
    third = record()
    assert not (await coordinator.admit(third)).ready, "it still holds its thread"
    assert await coordinator.release(first.run_id, ERROR) == Release(next_run_id=third.run_id)
    assert (await coordinator.claim(third.run_id)).thread_status is ERROR  # type: ignore[union-attr]


async def test_a_thread_remembers_a_status_that_is_not_idle() -> None:
    coordinator = MemoryCoordinator()
    await whole_run(coordinator, record(), RunStatus.interrupted)
    await whole_run(coordinator, record(thread_id="u"), RunStatus.error)
    for thread_id, status in (("t", ThreadStatus.interrupted), ("u", ERROR), ("v", IDLE)):
        run = record(thread_id=thread_id)
        await coordinator.admit(run)
        assert (await coordinator.claim(run.run_id)).thread_status is status  # type: ignore[union-attr]


@virtual
async def test_the_record_of_an_ended_run_has_its_facts_and_times() -> None:
    clock = VirtualClock()
    coordinator = MemoryCoordinator(clock=clock)
    run = record()
    await coordinator.admit(run)
    await asyncio.sleep(1)
    await coordinator.claim(run.run_id)
    await coordinator.settle(run.run_id, RunStatus.error, error="no", title="Title", completion_data={"n": 1})
    running = await coordinator.get(run.run_id)
    assert running is not None
    assert (running.status, running.error, running.ended_at) == (RunStatus.running, None, None)
    await asyncio.sleep(1)
    await coordinator.release(run.run_id, ERROR)
    ended = await coordinator.get(run.run_id)
    assert ended is not None
    assert (ended.status, ended.error, ended.title, ended.completion_data) == (RunStatus.error, "no", "Title", {"n": 1})
    assert ended.started_at is not None
    assert ended.ended_at is not None
    assert (ended.started_at - EPOCH).total_seconds() == 1
    assert (ended.ended_at - EPOCH).total_seconds() == 2


async def test_ids_and_keys_are_known_while_their_run_is_kept() -> None:
    coordinator = MemoryCoordinator(keep_ended=2)
    key = IdempotencyKey("k", "body")
    run = record("one")
    await coordinator.admit(run, idempotency=key)
    with pytest.raises(DuplicateRunError):
        await coordinator.admit(record("one", "other"))
    again = await coordinator.admit(record("two"), idempotency=key)
    assert (again.existing, again.ready, again.record.run_id) == (True, False, "one")
    with pytest.raises(InvalidSpecError):
        await coordinator.admit(record("two"), idempotency=IdempotencyKey("k", "other body"))
    await coordinator.claim("one")
    await end(coordinator, "one")
    for _ in range(2):
        assert (await coordinator.admit(record("two"), idempotency=key)).existing
        await whole_run(coordinator, record())
    assert not (await coordinator.admit(record("one"), idempotency=key)).existing, "forgotten by now"


async def test_what_has_ended_is_kept_only_while_there_is_room() -> None:
    coordinator = MemoryCoordinator(keep_ended=10)
    for i in range(KEEP_THREADS + 50):
        run = record(thread_id=f"t{i}")
        await coordinator.admit(run, idempotency=IdempotencyKey(run.run_id, ""))
        await coordinator.claim(run.run_id)
        await end(coordinator, run.run_id, RunStatus.error)
    assert len(coordinator._ended) == len(coordinator._keys) == 10
    assert len(coordinator._resting) == KEEP_THREADS
    assert coordinator._runs == coordinator._threads == {}
    assert await coordinator.get("run-0") is None


@virtual
async def test_followers_that_left_leave_nothing() -> None:
    stream = MemoryStream()
    stream.publish("r", "custom", 1)
    followers = []
    for _ in range(100):
        parts = stream.follow("r")
        await anext(parts)
        followers.append(asyncio.create_task(anext(parts)))  # type: ignore[arg-type]
    await asyncio.sleep(1)
    for follower in followers:
        follower.cancel()
    await asyncio.wait(followers)
    assert len(stream._channels["r"].wakers) == 0


@virtual
async def test_live_output_is_kept_within_bytes_and_who_comes_late_is_told_what_is_missing() -> None:
    stream = MemoryStream(keep_bytes=1_000_000, keep_ended_bytes=2_000_000)
    for run_id in ("a", "b", "c"):
        for number in range(20):
            stream.publish(run_id, "custom", {"number": number, "said": "x" * 150_000})
        stream.close(run_id)
    assert list(stream._ended) == ["b", "c"]
    for run_id in ("b", "c"):
        parts = [part async for part in stream.follow(run_id)]
        assert parts[0] == StreamGap(1, 14)
        assert [part.data["number"] for part in parts[1:] if isinstance(part, StreamPart)] == [14, 15, 16, 17, 18, 19]


@virtual
async def test_the_part_that_was_said_last_is_kept_however_large_it_is() -> None:
    stream = MemoryStream(keep_bytes=1_000, keep_ended_bytes=1_000)
    for number in range(3):
        stream.publish("r", "values", [number, "x" * 10_000])
    stream.close("r")
    parts = [part async for part in stream.follow("r")]
    assert parts == [StreamGap(1, 2), StreamPart(3, "values", [2, "x" * 10_000])]
    stream.begin(record("r"), RunSpec("a"), started=True)
    stream.close("r")
    stream.close("silent")
    assert stream._ended_bytes == 0


@virtual
async def test_what_is_said_after_the_end_leaves_nothing_and_is_not_heard_unless_the_run_begins_anew() -> None:
    stream = MemoryStream()
    stream.publish("r", "custom", 1)
    for run_id in ("r", "silent"):
        stream.close(run_id)
        stream.publish(run_id, "custom", "too late")
    assert stream._channels == {}
    assert [part.data async for part in stream.follow("r") if isinstance(part, StreamPart)] == [1]
    stream.begin(record("r"), RunSpec("a"), started=True)
    stream.publish("r", "custom", 2)
    stream.close("r")
    assert [part.data async for part in stream.follow("r") if isinstance(part, StreamPart)] == [2]


def one_of_every_kind(agent: Any, number: int) -> RunSpec:
    """A run that differs from its neighbours in its thread, its time, its strategy and its key."""
    return RunSpec(
        agent,
        number,
        thread_id=f"t{number % 7}" if number % 3 else None,
        timeout=0.01 if number % 10 == 3 else None,
        multitask=("enqueue", "interrupt", "rollback")[number % 101 % 3 if number % 11 == 0 else 0],
        idempotency_key=str(number) if number % 5 == 0 else None,
    )


@virtual
async def test_ten_thousand_runs_leave_nothing_behind_but_what_is_meant_to_be_kept() -> None:
    """A finished run leaves the process: threads, queues, places, buffers, tasks, streams."""
    coordinator, stream, states = (
        MemoryCoordinator(keep_ended=100),
        MemoryStream(keep_runs=50),
        MemoryThreadStates(keep_threads=20),
    )
    waiting = asyncio.Event()

    async def agent(input: int, run: RunContext) -> Any:
        run.send(input)
        kind = input % 10
        if kind == 1:
            raise ValueError
        if kind == 2:
            run.interrupt("?")
        if kind in {3, 4}:
            await waiting.wait()
        if kind == 5:
            run.message({"type": "human", "content": "more"})
            await asyncio.sleep(0.001)
        return {"n": input}

    async def watch(event: Any) -> None: ...

    manager = RunManager(coordinator=coordinator, stream=stream, states=states, max_running=64, clock=VirtualClock())
    manager.observers.add(watch)
    manager.observers.add(watch, required=True)
    for first in range(0, 10_000, 100):
        handles = [await manager.start(one_of_every_kind(agent, number)) for number in range(first, first + 100)]
        for i, handle in enumerate(handles):
            if i % 10 == 4:
                await handle.cancel()
        for handle in handles:
            await handle.result()
    await manager.observers.flush(1_000)

    assert manager._runs.all() == []
    places = manager._runs._places
    assert places.waiting == places.taken == len(manager._runs._tasks) == 0
    assert coordinator._runs == coordinator._threads == {}
    assert len(coordinator._ended) == 100
    assert len(coordinator._keys) <= 100
    assert len(coordinator._resting) <= KEEP_THREADS
    assert stream._channels == {}
    assert len(stream._ended) == 50
    assert len(states._states) + len(states._asking) == 20
    for _, observer in manager.observers._wrapped.values():
        stats = getattr(observer, "stats", None)
        assert stats is None or stats().pending == 0
        assert getattr(observer, "_held", {}) == getattr(observer, "_missed", {}) == {}
    names = {task.get_name()[:16] for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    assert names == {"trackside-guard", "trackside-buffer"}, "those that wait for more"
    await manager.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}
