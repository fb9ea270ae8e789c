"""A buffer in front of an observer: whoever announces an event does not wait for the observer (I13).

`BufferedObserver` takes events at once and gives them on, in order, from a task of its own. Events that it has no room
for wait in the log, if there is one, and are read again at their turn. Without a log, it holds up whoever announces
more, for a bounded time and only while the observer takes events; those that it still cannot hold, it counts and
reports to the observer as an `EventGap`. What became of every event can be read off at any moment (I22):

    accepted == delivered + failed + sum(dropped.values()) + pending

What waits is bounded twice, by the number of events and by the bytes of their payloads. Events are weighed, by a look
at their texts, only when several wait; the first `backlog.UNWEIGHED` wait whatever their size, which is bounded where a
payload is made (`payload.MAX_CHARS`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from functools import partial
from weakref import WeakSet

from trackside.harness.amounts import is_count, is_seconds
from trackside.harness.errors import ClosedError, InvalidBufferError, ObserverStuckError, OtherLoopError
from trackside.harness.foreign.timelimit import let_drop
from trackside.harness.observer import (
    ObserverBinding,
    PartlyTaken,
    RunEventCallback,
    RunLifecycleEvent,
    RunObserver,
    batches_of,
    observer_name,
)
from trackside.harness.observing.backlog import (
    Backlog,
    BufferStats,
    Deferred,
    DropReason,
    EventGap,
    FlushReport,
    GapObserver,
    OpenGap,
    Pending,
)
from trackside.harness.observing.offering import MAX_LEFT_BEHIND, Offers
from trackside.harness.observing.rereading import Rereading
from trackside.harness.ports import RunLog

__all__ = [
    "MAX_LEFT_BEHIND",
    "BufferStats",
    "BufferedObserver",
    "DropReason",
    "EventGap",
    "FlushReport",
    "GapObserver",
    "InvalidBufferError",
    "ObserverStuckError",
    "OtherLoopError",
]

_PATIENCE = 0.25  # seconds; an observer that takes nothing for this long is not slow, it hangs
_TURNS = 3  # of the event loop
_PAUSE = 1.0  # seconds, after a failure that is not the observer's

logger = logging.getLogger("trackside.buffer")


class BufferedObserver:
    """Takes events for an observer without ever waiting for it, and passes them on in order.

    An observer that takes batches (`on_events`) gets up to `batch_size` events at once. If it fails on a batch, it gets
    the events one by one, so that a bad one fails alone. A failure is logged and counted, and the event is not given
    again; of failures that recur, only the first few are logged in full (`recurring.IN_FULL`). A call that takes longer
    than `call_limit` seconds (None: no limit) is cancelled and left behind.

    The observer is called in the `contextvars` context in which the event was accepted; for a batch of one run, in that
    of its first event. A batch of several runs belongs to none of them: it is given in the context in which the buffer
    was made, where `current_run()` is None.

    The buffer is full with `capacity` events pending (and `terminal_reserve` more that end their run), or with payloads
    of about `max_bytes` (and as much again of those that end their run). An event gets in if there is room, whatever
    its size: it may take the buffer past `max_bytes` by one payload.

    With a `log` that has every event before it comes here, events that find no room wait there. Nobody is held up, and
    nothing is lost except what the log no longer has at its turn, which is dropped and counted. Events of up to
    `max_deferred_runs` runs can wait so. Order is kept within each run, but perhaps not between runs. They are given in
    the context in which the first of their run was accepted or, beyond `backlog.CONTEXTS` runs, in an empty one.

    Without a log, or beyond that, events are dropped and counted. Without one, before that, whoever announces them waits
    for room: for at most `max_wait` seconds each time the buffer fills up, and only while the observer takes any. Where
    events are missing, the observer's `on_gap` is called, or a warning logged.

    A buffer belongs to the event loop that it is used on. In a forked child its copy is empty (I24).

    Raises:
        NotAnObserverError: (a `TypeError`) `observer` cannot take events.
        InvalidBufferError: (a `ValueError`) a number does not fit; the message names it.
    """

    def __init__(
        self,
        observer: RunObserver | RunEventCallback,
        *,
        capacity: int = 10_000,
        terminal_reserve: int = 1_000,
        max_bytes: int = 64 * 1_048_576,
        batch_size: int = 256,
        call_limit: float | None = 10.0,
        max_wait: float = 5.0,
        max_deferred_runs: int = 100_000,
        log: RunLog | None = None,
        name: str | None = None,
    ) -> None:
        for option, value, least in (
            ("capacity", capacity, 1),
            ("terminal_reserve", terminal_reserve, 0),
            ("max_bytes", max_bytes, 1),
            ("batch_size", batch_size, 1),
            ("max_deferred_runs", max_deferred_runs, 1),
        ):
            if not is_count(value, least):
                raise InvalidBufferError(option=option, value=value, why=f"it is a whole number from {least} up")
        if call_limit is not None and not (is_seconds(call_limit) and call_limit):
            raise InvalidBufferError(option="call_limit", value=call_limit, why="it is a number of seconds above 0")
        if not is_seconds(max_wait):
            raise InvalidBufferError(option="max_wait", value=max_wait, why="it is a number of seconds from 0 up")
        observer = ObserverBinding(observer).observer  # unlike `ensure_observer`, this refuses None
        self.observer: RunObserver = observer
        self.name = name or observer_name(observer)
        self._on_event = observer.on_event
        self._on_events = batches_of(observer)
        self._on_gap = observer.on_gap if isinstance(observer, GapObserver) else None
        self._batch_size = batch_size
        self._max_wait = max_wait if log is None else min(max_wait, _PATIENCE)
        self._holds_up = log is None and max_wait > 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._gave_up = self._closed = self._stopped = False
        self._watch: asyncio.TimerHandle | None = None
        self._context = copy_context()
        self._backlog = Backlog(capacity, terminal_reserve, max_bytes, 0 if log is None else max_deferred_runs)
        self._rereading = None if log is None else Rereading(log, observer=self.name, context=self._context)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._consumer: asyncio.Task[None] | None = None
        self._consumer_deaths = 0
        self._push: asyncio.Future[None] | None = None
        self._offers = Offers(observer, name=self.name, limit=call_limit)
        if batches_of(self) is None:  # a subclass does something with each event
            self.on_events = self._one_by_one  # type: ignore[method-assign]
        _buffers.add(self)

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Accept an event. As long as there is room, this returns at once, whatever the observer does.

        Raises:
            ClosedError: the buffer has been closed.
        """
        if self._holds_up and not self._backlog.has_room_for(event):
            await self._wait_for_room(event)
        self._accept(event)

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Accept several events, as `on_event` does."""
        for event in events:
            if self._holds_up and not self._backlog.has_room_for(event):
                await self._wait_for_room(event)
            self._accept(event)

    async def _one_by_one(self, events: Sequence[RunLifecycleEvent]) -> None:
        for event in events:
            await self.on_event(event)

    def has_room_for(self, events: Sequence[RunLifecycleEvent]) -> bool:
        """Whether the buffer accepts these events without waiting."""
        return not self._holds_up or self._gave_up or self._closed or self._backlog.has_room_for_all(events)

    def stats(self) -> BufferStats:
        """What became of all events so far; exact at any moment, also while the observer is being called."""
        backlog = self._backlog
        return BufferStats(
            accepted=backlog.accepted,
            delivered=backlog.delivered,
            failed=backlog.failed,
            dropped=dict(backlog.dropped),
            pending=backlog.pending,
            pending_bytes=backlog.pending_bytes,
            oldest_at=backlog.oldest_at,
            left_behind=self._offers.left_behind,
            consumer_deaths=self._consumer_deaths,
            deferred=backlog.deferred,
            reread_total=backlog.reread,
        )

    async def catch_up(self) -> None:
        """Wait until the observer has been given all that was accepted before, as long as it takes events.

        This is bounded as waiting for room is: an observer that hangs, or takes longer than `max_wait` (with a log 0.25
        seconds, if that is less), is not waited for, nor again before it has caught up half or, with a log, all but one
        call.
        """
        backlog = self._backlog
        if not backlog.items or self._gave_up or self._closed or not self._max_wait or backlog.deferred:
            return
        self._rouse()
        goal = backlog.passed + len(backlog.items)
        for _ in range(_TURNS):  # enough for an observer that waits for nothing, and cheaper than being woken
            await asyncio.sleep(0)
            if backlog.passed >= goal:
                return
        follower: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        backlog.followers.append((backlog.passed + len(backlog.items), follower))
        if self._watch is None:
            self._look_after_followers(-1, asyncio.get_running_loop().time() + self._max_wait)
        await follower

    def _look_after_followers(self, passed: int, deadline: float) -> None:
        """Release those who wait for an observer that has taken nothing for a while, or takes too long."""
        loop, backlog = asyncio.get_running_loop(), self._backlog
        self._watch = None
        if not backlog.followers:
            return
        if backlog.passed == passed or loop.time() >= deadline:
            self._gave_up = True
            backlog.release_followers()
            return
        wait = min(_PATIENCE, self._max_wait)
        self._watch = loop.call_later(wait, self._look_after_followers, backlog.passed, deadline)

    async def flush(self, timeout: float) -> FlushReport:
        """Wait, for at most `timeout` seconds, until the observer has been given all that was accepted before (I23).

        Raises:
            OtherLoopError: the buffer is in use on another running event loop.
        """
        self._check_the_loop()
        before = self.stats()
        goal = self._backlog.seal()
        if self._backlog.items and timeout > 0:
            await self._until(goal, asyncio.get_running_loop().time() + timeout)
        return self._report(before, goal)

    async def aclose(self, timeout: float = 5.0) -> FlushReport:
        """Accept nothing more, `flush` for at most `timeout` seconds, drop and count the rest. May be called again."""
        self._check_the_loop()
        self._closed = True
        before = self.stats()
        try:
            await self.flush(timeout)
        finally:
            await self._stop()
        return self._report(before, self._backlog.passed)

    def _accept(self, event: RunLifecycleEvent) -> None:
        if self._closed:
            raise ClosedError(what=f"buffer of observer {self.name}")
        consumer = self._consumer
        waits = self._push is not None or consumer is None or consumer.done()
        if waits or asyncio.get_running_loop() is not self._loop:
            self._rouse()
        self._backlog.push(event)

    async def _wait_for_room(self, event: RunLifecycleEvent) -> None:
        """Wait for room while the observer takes events; not if it hangs, nor again before the buffer is half empty."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._max_wait
        while not (self._backlog.has_room_for(event) or self._gave_up or self._closed):
            self._rouse()
            passed = self._backlog.passed
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.append(waiter)
            try:
                await asyncio.wait((waiter,), timeout=min(_PATIENCE, self._max_wait))
            finally:
                if not waiter.done():
                    self._waiters.remove(waiter)
            if self._backlog.passed == passed or loop.time() >= deadline:
                self._gave_up = True

    def _settle(self, backlog: Backlog, count: int, *, delivered: bool) -> None:
        """Settle the oldest events, whose outcome is known, and let waiting callers in as far as there is room."""
        backlog.settle(count, delivered=delivered)
        if self._gave_up and self._has_recovered():
            self._gave_up = False
        for _ in range(min(len(self._waiters), max(0, self._backlog.room))):
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def _has_recovered(self) -> bool:
        """Whether callers may again wait for the observer that was given up."""
        if self._rereading is None:
            return self._backlog.is_half_empty
        return self._backlog.pending <= (1 if self._on_events is None else self._batch_size)

    def _rouse(self) -> asyncio.Task[None]:
        """See to it that there is a consumer on this event loop and that it will look at the backlog."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._check_the_loop()
            self._start_over(self._backlog.copy())
            self._loop = loop
        push, self._push = self._push, None
        if push is not None and not push.done():
            push.set_result(None)
        consumer = self._consumer
        if consumer is None or consumer.done():
            # Not by `create_task`: a task factory could start it eagerly, here, inside whoever announces the event.
            consumer = self._consumer = asyncio.Task(
                self._consume(self._backlog), loop=loop, name=f"trackside-buffer-{self.name}", context=self._context
            )
            consumer.add_done_callback(partial(self._consumer_ended, self._backlog), context=self._context)
            let_drop(consumer)  # with its observer, once nobody refers to that any more
        return consumer

    def _check_the_loop(self) -> None:
        if (own := self._loop) is not None and own is not asyncio.get_running_loop() and own.is_running():
            raise OtherLoopError(observer=self.name)

    def _start_over(self, backlog: Backlog) -> None:
        """Leave to itself what belongs to another event loop or process, and whatever that still does."""
        self._backlog = backlog
        self._loop = self._consumer = self._push = None
        self._offers.start_over()
        self._waiters = deque()
        self._watch = None
        if self._rereading is not None:
            self._rereading.start_over()

    async def _until(self, goal: int, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        consumer = self._rouse()
        if self._rereading is not None:
            self._rereading.hurry()
        reached: asyncio.Future[None] = loop.create_future()
        flushes = self._backlog.flushes
        flushes[reached] = goal
        try:
            while not reached.done() and (left := deadline - loop.time()) > 0:
                await asyncio.wait({reached, consumer}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if consumer.done() and not reached.done():  # somebody else ended it
                    consumer = self._rouse()
        finally:
            del flushes[reached]
            reached.cancel()

    def _report(self, before: BufferStats, goal: int) -> FlushReport:
        now = self.stats()
        dropped = Counter(now.dropped)
        dropped.subtract(before.dropped)
        return FlushReport(
            complete=self._backlog.passed >= goal,
            delivered=now.delivered - before.delivered,
            failed=now.failed - before.failed,
            dropped=dict(+dropped),
            pending=self._backlog.pending_until(goal),
        )

    async def _stop(self) -> None:
        self._stopped = True
        consumer = self._consumer
        if consumer is not None and not consumer.done() and self._loop is asyncio.get_running_loop():
            consumer.cancel()
            await asyncio.wait({consumer})
        self._offers.say_rest()
        self._drop_rest()

    def _drop_rest(self) -> None:
        self._backlog.release_followers()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
        for gap in self._backlog.drop_all("closed"):
            self._offers.warn_of_gap(gap)

    def _consumer_ended(self, backlog: Backlog, consumer: asyncio.Task[None]) -> None:
        cause = None if consumer.cancelled() else consumer.exception()
        if backlog is not self._backlog:
            return  # the consumer of a backlog that `_start_over` has left
        if self._stopped:
            self._drop_rest()
            return
        self._consumer_deaths += 1
        if pending := self._backlog.pending:
            text = "the task %s was ended from outside; %d events wait for the next event, flush or close"
            logger.warning(text, consumer.get_name(), pending, exc_info=cause)

    async def _consume(self, backlog: Backlog) -> None:
        turn = 0
        while True:
            try:
                if not backlog.items:
                    await self._next_push()
                    turn = backlog.passed + len(backlog.items)
                elif isinstance(backlog.items[0], OpenGap):
                    await self._give_gap(backlog, backlog.items[0])
                elif isinstance(backlog.items[0], Deferred):
                    await self._read_again(backlog, backlog.items[0])
                else:
                    await self._give(backlog, backlog.batch(self._batch_size))
            except Exception:  # our own failure, or the log's: else events would wait for ever, or fail again at once
                self._consumer_deaths += 1
                logger.exception("observer %s cannot be given what waits for it; trying again", self.name)
                await asyncio.sleep(_PAUSE)
            if backlog.items and backlog.passed >= turn:
                # All that was there has been given on. An observer that never waits must not keep all others waiting.
                await asyncio.sleep(0)
                turn = backlog.passed + len(backlog.items)

    async def _next_push(self) -> None:
        push = self._push = asyncio.get_running_loop().create_future()
        try:
            await push
        finally:
            if self._push is push:
                self._push = None

    async def _give(self, backlog: Backlog, batch: Sequence[Pending]) -> None:
        if self._on_events is not None and len(batch) > 1:
            events = [pending.event for pending in batch]
            failure = await self._call(backlog, self._on_events, events, self._context_of(batch), len(batch))
            if failure is None:
                self._settle(backlog, len(batch), delivered=True)
                return
            if isinstance(failure, PartlyTaken):
                taken = failure.taken_of(len(batch))
                self._settle(backlog, taken, delivered=True)
                batch = batch[taken:]
        for event, context, _ in batch:
            failure = await self._call(backlog, self._on_event, event, context, 1)
            self._settle(backlog, 1, delivered=failure is None)
            if failure is not None:
                self._offers.warn_of(event, failure)
            del failure  # its traceback refers to this frame: a cycle

    def _context_of(self, batch: Sequence[Pending]) -> Context:
        first, context, _ = batch[0]
        one_run = all(pending.event.run_id == first.run_id for pending in batch)
        return context if one_run else self._context.copy()

    async def _read_again(self, backlog: Backlog, head: Deferred) -> None:
        """Move the next of the events that wait in the log here, ahead of the others that wait there."""
        if not head.count:
            backlog.leave_place(head)
            return
        assert self._rereading is not None, "only a backlog that has a log defers"
        head.grows = False
        spans, found = await self._rereading.read(head)
        if backlog is not self._backlog:
            raise asyncio.CancelledError  # as in `_call`
        backlog.fill(head, spans, found)

    async def _give_gap(self, backlog: Backlog, head: OpenGap) -> None:
        gap, failure = head.closed(), None
        try:
            if self._on_gap is not None:
                failure = await self._call(backlog, self._on_gap, gap, head.context, 0)
        finally:
            backlog.settle_gap()
        if self._on_gap is None or failure is not None:
            self._offers.warn_of_gap(gap, failure)

    async def _call[A](
        self, backlog: Backlog, take: Callable[[A], Awaitable[None]], given: A, context: Context, events: int
    ) -> BaseException | None:
        """What the observer raised instead of taking what it was given, if anything.

        What this raises itself is not the observer's failure, and ends the consumer. The `events` then count as failed,
        unless the call had just ended: nobody will know what it did with them.
        """
        if backlog is not self._backlog:
            raise asyncio.CancelledError  # I24: this is the copy, in a forked child, of the parent's consumer
        try:
            return await self._offers.make(take, given, context)
        except BaseException:
            backlog.settle(events, delivered=self._offers.was_taken)
            raise

    def _after_fork(self) -> None:
        self._start_over(self._backlog.copy())
        self._offers.after_fork()
        self._backlog.drop_all("fork")
        self._backlog.forget_log()  # it is read over the parent's connections


_buffers: WeakSet[BufferedObserver] = WeakSet()


def _empty_in_child() -> None:
    for buffer in list(_buffers):
        buffer._after_fork()  # noqa: SLF001  # this module's own class


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_empty_in_child)
