"""Gives what one consumer reads to an observer, as long as it has the lease."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, NamedTuple

from trackside.app.storage._feeding.policy import FeedCounts, FeedPolicy
from trackside.app.storage._feeding.receiver import Receiver, Refusal
from trackside.app.storage._feeding.window import MOST_AHEAD, EventLane, InHand, Window
from trackside.app.storage._subscriptions.consumer import SubscriptionConsumer
from trackside.app.storage._subscriptions.records import OnFailure
from trackside.app.storage.errors import StorageError, SubscriptionLostError, SubscriptionPausedError
from trackside.harness.foreign.exits import interrupt_loop
from trackside.harness.foreign.failures import is_own_failure, text_of
from trackside.harness.foreign.timelimit import call_observer
from trackside.harness.observer import (
    PartlyTaken,
    RunLifecycleEvent,
    RunObserver,
    batches_of,
    observer_name,
)

logger = logging.getLogger("trackside.subscriptions")

ACKNOWLEDGE_EVERY: Final = 0.1
"""Seconds between two acknowledgements while there is more to deliver."""
LOOK_EVERY: Final = 5.0
"""Seconds after which a feed that waits looks for itself, in case it was not told."""
_RETRIES_EVERY: Final = 1.0
"""Seconds between two looks for parked events to be tried again, while there is more to deliver."""
_CHECK_EVERY: Final = 1.0
"""Seconds between two checks whether the subscription goes on, while there is no room to read more."""
_BREATHE_EVERY: Final = 0.005
"""Seconds after which an observer that never waits lets others have the event loop."""


class Offered(NamedTuple):
    """How many events an observer took from the front, and what it raised instead of taking the next."""

    taken: int
    raised: BaseException | None = None
    together: int = 1
    """How many failed together, if more than this one: the error does not say which of them was the reason."""


class Calls:
    """Calls an observer, each time for at most `limit` seconds, and counts what fails."""

    def __init__(self, observer: RunObserver, *, limit: float | None, counts: FeedCounts) -> None:
        self._on_event = observer.on_event
        self._on_events = batches_of(observer)
        self._label = observer_name(observer)
        self._limit = limit
        self._counts = counts

    @property
    def takes_batches(self) -> bool:
        """Whether it can be given several events at once."""
        return self._on_events is not None

    async def offer(self, events: Sequence[RunLifecycleEvent], *, singly: bool) -> Offered:
        """Give it these events, or the first of them alone if `singly`, and say what became of that."""
        try:
            if singly or self._on_events is None:
                await self._call(self._on_event(events[0]))
                return Offered(1)
            await self._call(self._on_events([*events]))  # a list of its own, to do with as it likes
        except PartlyTaken as part:
            # Of an event that was given alone, it can only say that it failed.
            taken = 0 if singly or self._on_events is None else part.taken_of(len(events))
            if taken < len(events):
                self._count(part.cause)
                return Offered(taken, part.cause)
        except KeyboardInterrupt as exc:
            interrupt_loop(exc)  # if the loop goes on, it was this observer's failure (I18)
            self._count(exc)
            return Offered(0, exc, together=1 if singly else len(events))
        except BaseException as exc:  # the observer's failure, which is its subscription's to show
            if not is_own_failure(exc):
                raise
            self._count(exc)
            return Offered(0, exc, together=1 if singly else len(events))
        return Offered(len(events))

    def _count(self, raised: BaseException) -> None:
        if not Refusal.of(raised).only_waits:
            self._counts.failed_calls += 1

    async def _call(self, call: Coroutine[Any, Any, None]) -> None:
        await call_observer(call, observer=self._label, limit=self._limit)


class LeasedDelivery:
    """One stretch of feeding, under one lease.

    A task reads ahead into the window, `concurrency` tasks deliver what its lanes have, one acknowledges the low-water mark
    (I25: an event is done when the observer has taken it, or it is parked; the cursor never gets past one that is not), and
    one keeps the lease. If one of them fails, all stop, and what was not acknowledged comes again.

    Args:
        consumer: reads, acknowledges, parks.
        calls: gives events to the observer.
        receiver: whoever is behind the observer; it may be away for longer than a lease.
        policy: how to feed it.
        counts: where to count what becomes of the events.
        wakeup: is set when there may be something to read.
        stopping: is set when nothing more should begin.
        pause: pauses the subscription, for a receiver that wants nothing any more.
        on_passed: is called when the consumer has passed more.
    """

    def __init__(
        self,
        consumer: SubscriptionConsumer,
        calls: Calls,
        receiver: Receiver,
        *,
        policy: FeedPolicy,
        counts: FeedCounts,
        wakeup: asyncio.Event,
        stopping: asyncio.Event,
        pause: Callable[[], Awaitable[None]],
        on_passed: Callable[[], object],
    ) -> None:
        self.window = Window(policy.order, room=policy.room, max_bytes=policy.max_bytes, passed=consumer.passed)
        self.paused = False
        self._consumer = consumer
        self._calls = calls
        self._receiver = receiver
        self._policy = policy
        self._counts = counts
        self._wakeup = wakeup
        self._stopping = stopping
        self._pause = pause
        self._on_passed = on_passed
        self._enough = max(1, min(policy.batch, policy.room // 2, MOST_AHEAD // 2))  # room that is worth a read
        self._wants_room = False
        self._has_read = False
        self._ready: deque[EventLane] = deque()
        self._ready_count = asyncio.Semaphore(0)
        self._at_work = 0
        self._waiting: dict[EventLane, asyncio.TimerHandle] = {}
        self._to_acknowledge = asyncio.Event()
        self._idle = asyncio.Event()
        self._at_end = False
        self._retries_at = self._check_at = self._breath_at = 0.0

    async def run(self) -> None:
        """Deliver until closed or paused; then wait for what the observer has in hand.

        Raises:
            SubscriptionLostError: the lease is another's now.
            StorageError: the store failed.
        """
        name = self._consumer.name
        tasks = [
            asyncio.create_task(self._keep_lease(), name=f"trackside-lease-{name}"),
            asyncio.create_task(self._read_on(), name=f"trackside-feeding-{name}"),
            asyncio.create_task(self._acknowledge_on(), name=f"trackside-acknowledging-{name}"),
            *(
                asyncio.create_task(self._deliver_on(), name=f"trackside-delivering-{name}-{number}")
                for number in range(self._policy.concurrency)
            ),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for timer in self._waiting.values():
                timer.cancel()
            self._counts.returned += self.window.in_hand
        for failure in [task.exception() for task in tasks if not task.cancelled()]:
            if failure is not None:
                raise failure

    async def acknowledge(self) -> None:
        """Move the cursor on to the low-water mark, if something was done since it last moved."""
        if not self._to_acknowledge.is_set():
            return
        self._to_acknowledge.clear()
        try:
            await self._consumer.acknowledge(self.window.low_water)
        except BaseException:
            self._to_acknowledge.set()
            raise
        self._on_passed()

    def stop_for_pause(self) -> None:
        """Begin nothing more, as the subscription was paused; not the rest of what was begun either."""
        self.paused = True
        self._wakeup.set()

    @property
    def _is_to_stop(self) -> bool:
        return self.paused or self._stopping.is_set()

    async def _keep_lease(self) -> None:
        """Renew the lease three times in its length; give it up when it may have ended because the store failed."""
        consumer, loop = self._consumer, asyncio.get_running_loop()
        until = loop.time() + consumer.lease_seconds
        while True:
            await asyncio.sleep(consumer.lease_seconds / 3)
            begun = loop.time()
            try:
                if await consumer.renew():
                    self.stop_for_pause()
                until = begun + consumer.lease_seconds
            except SubscriptionLostError:
                raise
            except StorageError as exc:
                if loop.time() + consumer.lease_seconds / 3 >= until:
                    raise
                logger.warning("the lease of subscription %s could not be renewed: %s", consumer.name, exc)

    async def _read_on(self) -> None:
        """Read whenever there is something and room for it, until closed or paused; then wait for calls under way."""
        try:
            while not self._is_to_stop:
                self._wakeup.clear()
                self._wants_room = self.window.room < self._enough
                if self._wants_room:
                    await self._check()
                    await self._wait(_CHECK_EVERY)
                elif not await self._read():
                    await self._wait(LOOK_EVERY)
        except SubscriptionPausedError:
            self.paused = True
        while self._at_work:
            self._wakeup.clear()
            await self._wakeup.wait()

    async def _read(self) -> bool:
        """Take in what comes next; returns whether there is more."""
        policy, window = self._policy, self.window
        limit = min(policy.batch, window.room)
        batch = await self._consumer.read(limit, ahead=self._has_read, max_bytes=window.room_bytes)
        self._has_read = True
        self._counts.read += len(batch.events)
        self._at_end = batch.at_end
        self._begin(window.add(batch))
        if not batch.events:
            self._on_passed()
        if not batch.at_end and asyncio.get_running_loop().time() < self._retries_at:
            return True
        retries = await self._consumer.read_retries(policy.batch, max_bytes=max(1, window.room_bytes))
        self._retries_at = asyncio.get_running_loop().time() + _RETRIES_EVERY
        before = window.in_hand
        self._begin(window.add_retries(retries))
        self._counts.read += window.in_hand - before
        return not batch.at_end

    def _begin(self, lanes: Sequence[EventLane]) -> None:
        for lane in lanes:
            self._line_up(lane)
        self._note_idle()

    async def _check(self) -> None:
        """Check now and then whether it may go on: without room for more, no read shows that."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._check_at:
            await self._consumer.check()
            self._check_at = loop.time() + _CHECK_EVERY

    async def _wait(self, at_most: float) -> None:
        """Wait until there may be something to do."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most):
                await self._wakeup.wait()

    async def _acknowledge_on(self) -> None:
        """Acknowledge what is done: now and then while there is more to do, otherwise at once."""
        loop = asyncio.get_running_loop()
        while True:
            await self._to_acknowledge.wait()
            await self.acknowledge()
            until = loop.time() + ACKNOWLEDGE_EVERY
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._idle.wait()

    async def _deliver_on(self) -> None:
        """Deliver what lanes have, one lane after another."""
        loop = asyncio.get_running_loop()
        while True:
            await self._ready_count.acquire()
            lane = self._ready.popleft()
            async with self._receiver.turn():
                if not self._is_to_stop:
                    await self._work_on(lane)
            if loop.time() >= self._breath_at:
                await asyncio.sleep(0)
                self._breath_at = loop.time() + _BREATHE_EVERY

    async def _work_on(self, lane: EventLane) -> None:
        self._at_work += 1
        try:
            await self._deliver(lane)
        finally:
            self._at_work -= 1
            if self._is_to_stop:
                self._wakeup.set()

    async def _deliver(self, lane: EventLane) -> None:
        """Deliver what a lane has now, unless something of it fails and has to be tried again later."""
        left = min(len(lane.events), self._policy.batch)
        while left and not self.paused:
            tries = self._receiver.tries
            offered = await self._offer(lane, left)
            left -= offered.taken
            for _ in range(offered.taken):
                await self._finish_handled(lane)
            if offered.taken:
                self._receiver.took(tries)
            if offered.raised is not None:
                if not await self._deal_with_failure(lane, offered.raised, tries, together=offered.together):
                    return
                left -= 1
            if self._receiver.is_away:
                break
        if self.window.has_more(lane):
            self._line_up(lane)

    async def _offer(self, lane: EventLane, left: int) -> Offered:
        """Give the observer what comes first in a lane: up to `left` events if it takes batches and all is well."""
        first = lane.events[0]
        is_alone = lane.singly > 0 or lane.tries > 0 or first.is_retry
        if is_alone or self._receiver.is_away or not self._calls.takes_batches:
            return await self._calls.offer([first.stored.event], singly=True)
        events: list[RunLifecycleEvent] = []
        for one in islice(lane.events, left):
            if one.is_retry:
                break
            events.append(one.stored.event)
        return await self._calls.offer(events, singly=False)

    async def _deal_with_failure(self, lane: EventLane, raised: BaseException, tries: int, *, together: int) -> bool:
        """Deal with a failure; returns whether that put the lane's first event aside, so that the lane goes on."""
        said, why, first = Refusal.of(raised), text_of(raised), lane.events[0]
        if said.disables:
            await self._disable(why, first.attempts + lane.attempts + 1)
            return False
        if said.away:
            if self._receiver.went_away(said, why, tries):
                await self._note_failure(why, self._receiver.tries)
            self._line_up(lane)
            return False
        if said.only_waits:
            lane.held_back += 1
            self._wait_with(lane, said)
            return False
        if together > 1:  # nothing counts against the first of them, which need not be the reason
            lane.singly = together
            await self._note_failure(why, max(1, lane.attempts))
            self._wait_with(lane, said)
            return False
        lane.attempts += 1
        if said.retryable:
            self._receiver.failed(tries)
        if self._is_hopeless(first, lane.attempts, said):
            await self._consumer.park(first.stored.position, why, attempts=first.attempts + lane.attempts)
            self._counts.parked += 1
            self._finish(lane)
            return True
        await self._note_failure(why, lane.attempts)
        self._wait_with(lane, said)
        return False

    def _wait_with(self, lane: EventLane, said: Refusal) -> None:
        """Try what comes first in a lane again, after a while."""
        tries = max(1, lane.tries)  # the failure of a batch counts against none of its events
        pause = max(self._policy.pause(tries), said.retry_after)
        self._waiting[lane] = asyncio.get_running_loop().call_later(pause, self._try_again, lane)

    def _is_hopeless(self, event: InHand, attempts: int, said: Refusal) -> bool:
        """Whether to park an event; one that was parked before is parked again at its next failure."""
        if event.is_retry:
            return True
        gives_up = attempts >= self._policy.attempts or not said.retryable
        return gives_up and self._consumer.on_failure is OnFailure.park

    async def _disable(self, why: str, attempts: int) -> None:
        """Pause the subscription, for somebody to decide what becomes of it."""
        name = self._consumer.name
        await self._note_failure(why, attempts)
        await self._pause()
        logger.error("subscription %s is paused until somebody resumes it, since its receiver is gone: %s", name, why)
        self.stop_for_pause()

    async def _note_failure(self, why: str, attempts: int) -> None:
        """Let operators see a failure until something more is handled; so acknowledge first what was handled before."""
        await self.acknowledge()
        await self._consumer.note_failure(why, attempts=attempts)

    def _line_up(self, lane: EventLane) -> None:
        self._ready.append(lane)
        self._ready_count.release()

    def _try_again(self, lane: EventLane) -> None:
        del self._waiting[lane]
        # The lane holds the cursor up: behind a whole window, it might not get its tries in one process's life.
        self._ready.appendleft(lane)
        self._ready_count.release()

    async def _finish_handled(self, lane: EventLane) -> None:
        first = lane.events[0]
        if first.is_retry:
            await self._consumer.settle_retry(first.stored.position)
        self._counts.handled += 1
        self._finish(lane)

    def _finish(self, lane: EventLane) -> None:
        before = self.window.low_water
        self.window.finish(lane)
        if self.window.low_water > before:
            self._to_acknowledge.set()
        if self._wants_room and self.window.room >= self._enough:
            self._wakeup.set()
        self._note_idle()

    def _note_idle(self) -> None:
        if self._at_end and not self.window.in_hand:
            self._idle.set()
        else:
            self._idle.clear()
