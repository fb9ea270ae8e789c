"""Coordinator and stream in one process: the embedded default, and the double that tests use.

Everything is bounded by number, and what may be large also by size. What has ended is kept for late questions only
while there is room, so a million runs do not grow the process. Nothing here is shared between event loops.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from trackside.harness.due_times import DueTimes
from trackside.harness.errors import DuplicateRunError, InvalidSpecError, ThreadBusyError, UnknownRunError
from trackside.harness.lifecycle import thread_status_after
from trackside.harness.observing.weighing import size_of
from trackside.harness.payload import whole
from trackside.harness.ports import (
    Admission,
    Claim,
    Clock,
    IdempotencyKey,
    Release,
    RunHost,
    Settlement,
    StreamGap,
    StreamPart,
    SystemClock,
)
from trackside.harness.remembered import KEEP_THREADS
from trackside.harness.types import (
    CancelAction,
    CancelMode,
    MultitaskStrategy,
    RunRecord,
    RunSpec,
    RunStatus,
    ThreadStatus,
)

KEEP_ENDED_RUNS = 256
KEEP_STREAMS = 256
KEEP_STREAMS_BYTES = 64 * 1_048_576
KEEP_PARTS = 1_000
KEEP_PARTS_BYTES = 8 * 1_048_576


@dataclass(slots=True, eq=False)
class _Run:
    """A run as the coordinator knows it; `record` is the run as it was admitted, the rest is what happened since."""

    record: RunRecord
    thread: _Thread
    """Until the run is due, this is one of its own that nobody else knows."""
    status: RunStatus = RunStatus.pending
    withdrawn: bool = False
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cancel_requested: CancelAction | None = None
    stuck_since: datetime | None = None
    settled_as: RunStatus | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    idempotency: IdempotencyKey | None = None

    def snapshot(self) -> RunRecord:
        return replace(
            self.record,
            status=self.status,
            started_at=self.started_at,
            ended_at=self.ended_at,
            cancel_requested=self.cancel_requested,
            stuck_since=self.stuck_since if self.ended_at is None else None,
            **({} if self.ended_at is None else self.facts),
        )

    @property
    def claimable(self) -> bool:
        return self.status is RunStatus.pending and not self.withdrawn and self.thread.head is self


@dataclass(slots=True, eq=False)
class _Thread:
    """A thread: the run that holds it, the runs that wait behind it, and the status that was announced last.

    `at_rest` is the status that the last run left, for the case that no run waits behind it after all.
    """

    thread_id: str
    status: ThreadStatus = ThreadStatus.idle
    at_rest: ThreadStatus = ThreadStatus.idle
    head: _Run | None = None
    queue: deque[_Run] | None = None

    def wait(self, run: _Run) -> None:
        if self.queue is None:
            self.queue = deque()
        self.queue.append(run)


class MemoryCoordinator:
    """Admission, claims and cancels for one process; see `ports.RunCoordinator` for what each method promises.

    Methods never wait, so each is atomic between two awaits of its caller. A run has its id and idempotency key while it
    is active or among the `keep_ended` that ended last; then they are free again. It knows of a thread only what the
    runs active on it need, and once it rests, only its last status unless that is idle: at most that of `KEEP_THREADS`
    such threads, the last to rest. Of a spec, `owner`, `any_owner`, `thread_exists`, `thread_ends`, `thread_metadata`
    and `thread_ttl` are for coordinators that keep threads, and are not looked at here.
    """

    durable = False
    immediate = True

    def __init__(self, *, clock: Clock | None = None, keep_ended: int = KEEP_ENDED_RUNS) -> None:
        self._now = (clock or SystemClock()).now
        self._keep_ended = keep_ended
        self._runs: dict[str, _Run] = {}
        self._ended: OrderedDict[str, _Run] = OrderedDict()
        self._threads: dict[str, _Thread] = {}
        self._resting: OrderedDict[str, _Thread] = OrderedDict()
        self._delayed: dict[str, dict[_Run, None]] = {}
        self._due_times = DueTimes(self._on_due, now=self._now)
        self._keys: dict[str, _Run] = {}
        self._host: RunHost | None = None

    async def holder(self, thread_id: str) -> str | None:
        """The run that has a thread, from its admission on."""
        thread = self._threads.get(thread_id)
        return None if thread is None or thread.head is None else thread.head.record.run_id

    def attach(self, host: RunHost) -> None:
        """Name the manager that executes what is admitted here from now on."""
        self._host = host

    async def admit(
        self, record: RunRecord, *, spec: RunSpec | None = None, idempotency: IdempotencyKey | None = None
    ) -> Admission:
        """Let a run in, at the head of its thread or behind those that are there.

        `spec` is not kept: what is here ends with the process, and nobody else could execute it.
        """
        if idempotency is not None and (known := self._keys.get(idempotency.key)) is not None:
            if known.idempotency != idempotency:
                why = f"run {known.record.run_id} was started with this key and asked for something else"
                raise InvalidSpecError(field="idempotency_key", value=idempotency.key, why=why)
            return Admission(record=known.snapshot(), ready=False, existing=True)
        if record.run_id in self._runs or record.run_id in self._ended:
            raise DuplicateRunError(run_id=record.run_id)
        delayed = self._delayed.get(record.thread_id, ())
        if record.due_at is not None:
            displaced = self._make_room(delayed, record.multitask) if delayed else []
            run = self._delay(record, record.due_at)
        else:
            thread = self._threads.get(record.thread_id)
            if thread is not None and thread.head is not None and record.multitask is MultitaskStrategy.reject:
                raise ThreadBusyError(thread_id=record.thread_id, run_id=thread.head.record.run_id)
            run = _Run(record, thread or self._wake(record.thread_id))
            displaced = self._take_place(run)
            if delayed:
                displaced = [*displaced, *self._make_room(delayed, record.multitask)]
        self._runs[record.run_id] = run
        if idempotency is not None:
            run.idempotency = idempotency
            self._keys[idempotency.key] = run
        return Admission(record=record, ready=run.thread.head is run, displaced=displaced)

    def _delay(self, record: RunRecord, due_at: datetime) -> _Run:
        run = _Run(record, _Thread(record.thread_id))
        self._due_times.add(run, due_at)
        self._delayed.setdefault(record.thread_id, {})[run] = None
        return run

    def _on_due(self, run: _Run) -> None:
        """Let a delayed run in, as if it came now."""
        self._delay_no_more(run)
        if run.cancel_requested is not None:
            return  # whoever asked for that is about to withdraw it
        run.thread = self._threads.get(run.thread.thread_id) or self._wake(run.thread.thread_id)
        displaced = self._take_place(run)
        if self._host is None:
            return
        if displaced:
            self._host.on_displaced(displaced, CancelMode(run.record.multitask.value))
        if run.claimable:
            self._host.on_ready(run.record.run_id)

    def _delay_no_more(self, run: _Run) -> None:
        delayed = self._delayed[run.record.thread_id]
        del delayed[run]
        if not delayed:
            del self._delayed[run.record.thread_id]

    def _wake(self, thread_id: str) -> _Thread:
        """Take a thread that nobody holds; it is held from now on."""
        resting = self._resting.pop(thread_id, None)
        thread = self._threads[thread_id] = _Thread(thread_id) if resting is None else resting
        return thread

    def _take_place(self, run: _Run) -> list[RunRecord]:
        """Put a run on its thread, at the head if that is free; returns the runs that have to make room for it."""
        thread = run.thread
        if thread.head is None:
            thread.head = run
            return []
        displaced = self._make_room([thread.head, *(thread.queue or ())], run.record.multitask)
        thread.wait(run)
        return displaced

    def _make_room(self, present: Iterable[_Run], strategy: MultitaskStrategy) -> list[RunRecord]:
        displaced: list[RunRecord] = []
        if (action := strategy.displaces) is None:
            return displaced
        for run in [*present]:
            if run.withdrawn:
                continue
            run.cancel_requested = run.cancel_requested or action
            if run.status is RunStatus.pending:
                self._withdraw(run)
            displaced.append(run.snapshot())
        return displaced

    async def claim(self, run_id: str) -> Claim | None:
        """Take the pending run at the head of its thread."""
        run = self._runs.get(run_id)
        if run is None or not run.claimable or run.cancel_requested is not None:
            return None
        run.status = RunStatus.running
        run.started_at = self._now()
        before, run.thread.status = run.thread.status, ThreadStatus.busy
        return Claim(record=run.record, thread_status=before)

    async def withdraw(self, run_id: str) -> bool:
        """Take a pending run out of the queue; True for exactly one caller."""
        run = self._runs.get(run_id)
        if run is None or run.status is not RunStatus.pending or run.withdrawn:
            return False
        self._withdraw(run)
        return True

    def _withdraw(self, run: _Run) -> None:
        run.withdrawn = True
        if run in self._due_times:
            self._due_times.discard(run)
            self._delay_no_more(run)
        if run.thread.queue and run.thread.head is not run:
            run.thread.queue.remove(run)

    async def settle(
        self,
        run_id: str,
        status: RunStatus,
        *,
        at_rest: ThreadStatus | None = None,
        error: str | None = None,
        title: str | None = None,
        completion_data: Mapping[str, Any] | None = None,
        shut_down: bool = False,
    ) -> Settlement:
        """Record how a run ends; the thread stays held. Nothing here outlives the process, so no run is started anew."""
        run = self._held(run_id)
        run.settled_as = status
        run.facts = {"error": error, "title": title, "completion_data": completion_data or {}}
        thread = run.thread
        if run.withdrawn:  # it was never the thread's business
            return Settlement(previous=thread.status, status=thread.status)
        thread.at_rest = at_rest or thread_status_after(status, another_waits=False)
        return Settlement(previous=thread.status, status=ThreadStatus.busy if thread.queue else thread.at_rest)

    async def release(self, run_id: str, announced: ThreadStatus) -> Release:
        """Give the thread to the next run, if there is one."""
        run = self._held(run_id)
        thread = run.thread
        if thread.head is not run:  # withdrawn from the queue: the thread, and what is said of it, is up to others
            self._end(run)
            return Release()
        thread.status = announced
        if announced is ThreadStatus.busy and not thread.queue:
            return Release(settlement=Settlement(previous=announced, status=thread.at_rest))
        self._end(run)
        thread.head = thread.queue.popleft() if thread.queue else None
        if thread.head is None:
            del self._threads[thread.thread_id]
            self._rest(thread)
            return Release()
        return Release(next_run_id=thread.head.record.run_id)

    async def request_cancel(self, run_id: str, action: CancelAction) -> RunRecord:
        """Record that a run should stop; an ended one stays as it is."""
        run = self._runs.get(run_id)
        if run is None:
            ended = self._ended.get(run_id)
            if ended is None:
                raise UnknownRunError(run_id=run_id)
            return ended.snapshot()
        run.cancel_requested = run.cancel_requested or action
        return run.snapshot()

    async def note_stuck(self, run_id: str, since: datetime) -> None:
        """Record that a run was cancelled and does not stop."""
        if (run := self._runs.get(run_id)) is not None:
            run.stuck_since = since

    async def get(self, run_id: str) -> RunRecord | None:
        """What is known about a run, if it is active or ended lately."""
        run = self._runs.get(run_id) or self._ended.get(run_id)
        return None if run is None else run.snapshot()

    def _held(self, run_id: str) -> _Run:
        run = self._runs.get(run_id)
        if run is None:
            raise UnknownRunError(run_id=run_id)
        return run

    def _end(self, run: _Run) -> None:
        run.status = run.settled_as or RunStatus.error
        run.ended_at = self._now()
        del self._runs[run.record.run_id]
        self._ended[run.record.run_id] = run
        while len(self._ended) > self._keep_ended:
            _, oldest = self._ended.popitem(last=False)
            if oldest.idempotency is not None:
                self._keys.pop(oldest.idempotency.key, None)

    def _rest(self, thread: _Thread) -> None:
        # An idle thread is like one that nobody has heard of.
        if thread.status is not ThreadStatus.idle:
            self._resting[thread.thread_id] = thread
            if len(self._resting) > KEEP_THREADS:
                self._resting.popitem(last=False)


class _Channel:
    """One run's parts, the oldest dropped beyond `keep` and `keep_bytes`, and the followers that wait for more."""

    __slots__ = ("_keep", "_keep_bytes", "_sizes", "closed", "parts", "published", "size", "wakers")

    def __init__(self, keep: int, keep_bytes: int) -> None:
        self._keep = keep
        self._keep_bytes = keep_bytes
        self.parts: deque[StreamPart] = deque()
        self._sizes: deque[int] = deque()
        self.size = 0
        self.published = 0
        self.closed = False
        self.wakers: set[asyncio.Future[None]] = set()

    def add(self, mode: str, data: Any, namespace: tuple[str, ...], size: int) -> None:
        self.published += 1
        self.parts.append(StreamPart(self.published, mode, data, namespace))
        self._sizes.append(size)
        self.size += size
        while len(self.parts) > self._keep or (self.size > self._keep_bytes and len(self.parts) > 1):
            self.parts.popleft()
            self.size -= self._sizes.popleft()
        if self.wakers:
            self.wake()

    def wake(self) -> None:
        wakers, self.wakers = self.wakers, set()
        for waker in wakers:
            if not waker.done():
                waker.set_result(None)


class MemoryStream:
    """The live output of one event loop's runs, in a ring for each run, which keeps the last part however large."""

    local = True

    def __init__(
        self,
        *,
        keep_parts: int = KEEP_PARTS,
        keep_bytes: int = KEEP_PARTS_BYTES,
        keep_runs: int = KEEP_STREAMS,
        keep_ended_bytes: int = KEEP_STREAMS_BYTES,
    ) -> None:
        self._keep = (keep_parts, keep_bytes)
        self._keep_runs = keep_runs
        self._keep_ended_bytes = keep_ended_bytes
        self._channels: dict[str, _Channel] = {}
        self._ended: OrderedDict[str, _Channel | None] = OrderedDict()
        self._ended_bytes = 0

    def begin(self, run: RunRecord, spec: RunSpec, *, started: bool) -> None:
        """Note that a run begins, as it may once more after it was given up here."""
        self._forget(self._ended.pop(run.run_id, None))

    def publish(self, run_id: str, mode: str, data: Any, namespace: tuple[str, ...] = ()) -> None:
        """Append a part, as plain JSON that is the stream's own, and wake those who wait for it."""
        channel = self._channels.get(run_id)
        if channel is None:
            if run_id in self._ended:  # nobody hears what comes after the end
                return
            channel = self._channels[run_id] = _Channel(*self._keep)
        data = whole(data)  # before it is counted: the value's own code may fail
        size = size_of(data if type(data) is dict else {"": data}, self._keep_ended_bytes)
        channel.add(mode, data, namespace, size)

    def close(self, run_id: str, *, end: Mapping[str, Any] | None = None) -> None:
        """Let every follower get to the end; keep the parts while there is room."""
        channel = self._channels.pop(run_id, None)
        if channel is not None:
            channel.closed = True
            channel.wake()
            self._ended_bytes += channel.size
        elif run_id in self._ended:
            return
        ended = self._ended
        ended[run_id] = channel
        while len(ended) > self._keep_runs or (self._ended_bytes > self._keep_ended_bytes and len(ended) > 1):
            self._forget(ended.popitem(last=False)[1])

    def _forget(self, channel: _Channel | None) -> None:
        if channel is not None:
            self._ended_bytes -= channel.size

    async def follow(
        self, run_id: str, *, after: int | None = None, modes: Collection[str] | None = None
    ) -> AsyncIterator[StreamPart | StreamGap]:
        """What is kept, then what comes, to the end; what was dropped in between is a `StreamGap`."""
        channel = self._channels.get(run_id)
        if channel is None:
            if run_id in self._ended:
                channel = self._ended[run_id]
                if channel is None:
                    return
            else:
                channel = self._channels[run_id] = _Channel(*self._keep)
        seen = after or 0
        while True:
            if channel.published > seen:
                for part in _parts_after(channel, seen):
                    seen = part.last if isinstance(part, StreamGap) else part.sequence
                    if isinstance(part, StreamGap) or modes is None or part.mode in modes:
                        yield part
            elif channel.closed:
                return
            else:
                waker = asyncio.get_running_loop().create_future()
                channel.wakers.add(waker)
                try:
                    await waker
                finally:
                    channel.wakers.discard(waker)


def _parts_after(channel: _Channel, seen: int) -> list[StreamPart | StreamGap]:
    first_kept = channel.published - len(channel.parts) + 1
    if seen + 1 < first_kept:
        return [StreamGap(seen + 1, first_kept - 1), *channel.parts]
    fresh = channel.published - seen
    return [channel.parts[i] for i in range(len(channel.parts) - fresh, len(channel.parts))]
