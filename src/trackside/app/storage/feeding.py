"""Feeds an observer from a durable subscription, across failures of the observer, of the store and of processes.

Any number of processes may feed the same subscription: one does, by a lease, and the others wait to take over.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Final, Self

from trackside.app.storage._feeding_policy import FeedCounts, FeedPolicy
from trackside.app.storage._subscription_records import Batch, OnFailure, ParkedEvent
from trackside.app.storage.errors import (
    StorageError,
    SubscriptionBusyError,
    SubscriptionLostError,
    SubscriptionPausedError,
    UnknownSubscriptionError,
)
from trackside.app.storage.subscriptions import SubscriptionConsumer, Subscriptions
from trackside.app.vitals import FeedStats
from trackside.harness.errors import ClosedError, TracksideError
from trackside.harness.failures import text_of
from trackside.harness.observer import (
    ObserverLike,
    PartlyTaken,
    RunLifecycleEvent,
    ensure_observer,
    is_own_failure,
    observer_name,
)
from trackside.harness.timelimit import call_observer

__all__ = ["FeedCounts", "FeedPolicy", "SubscriptionFeed"]

logger = logging.getLogger("trackside.subscriptions")

_ACKNOWLEDGE_EVERY: Final = 0.1
"""Seconds of handling that come again, at most, if the process dies between two events."""
_LOOK_EVERY: Final = 5.0
"""Seconds after which a feed that waits looks for itself, in case that it was not told."""
_STORE_PAUSE: Final = 1.0
"""Seconds before a feed whose store failed tries again."""


class SubscriptionFeed:
    """Gives the events of a subscription to an observer, in order, each at least once.

        async with SubscriptionFeed(store.subscriptions, "mail", observer):
            ...

    An observer that raises gets the event again, after a pause; if it goes on raising the event is parked, or blocks those
    after it, as the subscription says. Observers with `on_events` get batches; of one that failed, its events one by one. So
    the events of a run arrive in their order, except one that was parked and retried. What is delivered twice has the same
    `event_id`.

    Args:
        subscriptions: those of the store, as `store.subscriptions`.
        name: the subscription, which has to be there: `Subscriptions.open`.
        observer: whom to give events.
        policy: how.
        consumer: what others see of who feeds; this machine and process if left out.

    Raises:
        NotAnObserverError: (a `TypeError`) `observer` cannot take events.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        name: str,
        observer: ObserverLike,
        *,
        policy: FeedPolicy | None = None,
        consumer: str | None = None,
    ) -> None:
        self.name = name
        self.counts = FeedCounts()
        self.failure: TracksideError | None = None
        """Why it ended without being closed: its subscription was deleted, or the store closed."""
        self._subscriptions = subscriptions
        self._observer = ensure_observer(observer)
        self._on_events = getattr(self._observer, "on_events", None)
        self._label = observer_name(self._observer)
        self._policy = policy or FeedPolicy()
        self._consumer = consumer
        self._stopping = asyncio.Event()
        self._wakeup = asyncio.Event()
        self._held: SubscriptionConsumer | None = None
        self._paused = False
        self._is_away = False
        self._task: asyncio.Task[None] | None = None
        self._delivered = -1
        self._is_elsewhere = False
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Begin to feed.

        Raises:
            UnknownSubscriptionError: there is no such subscription.
        """
        await self._subscriptions.get(self.name)
        self._task = asyncio.create_task(self._run(), name=f"trackside-feed-{self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def stats(self) -> FeedStats:
        """How it goes. From any thread."""
        counts = self.counts
        return FeedStats(
            subscription=self.name,
            active=self._held is not None,
            paused=self._paused,
            read_total=counts.read,
            handled_total=counts.handled,
            parked_total=counts.parked,
            returned_total=counts.returned,
            failed_calls_total=counts.failed_calls,
            pending=max(0, counts.pending),
            behind_seconds=0.0,
        )

    async def reach(self, position: int) -> bool:
        """Wait until everything up to a position is delivered, parked or not wanted.

        False: it is not fed here, because another process does, it is paused, or it has failed or was closed.
        """
        while self._delivered < position:
            if self._is_elsewhere or self._task is None or self._task.done():
                return False
            await self._changed.wait()
        return True

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def aclose(self) -> None:
        """Finish the batch in hand, acknowledge it, and let others feed. May be called again.

        What is not handled after the policy's `grace`, or waits to be tried again, is left to whoever feeds next.
        """
        self._stopping.set()
        self._wakeup.set()
        if self._task is None:
            return
        try:
            await asyncio.wait([self._task], timeout=self._policy.grace)
        finally:
            self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        """Feed whenever it is this process's turn, until closed."""
        try:
            while not self._stopping.is_set():
                try:
                    await self._take_turn()
                except (UnknownSubscriptionError, ClosedError) as exc:
                    logger.warning("subscription %s is fed no more: %s", self.name, exc)
                    self.failure = exc
                    return
                except SubscriptionLostError as exc:
                    self._held = None
                    logger.info("%s", exc)
                except StorageError as exc:
                    self._say_away(exc)
                    await self._pause(_STORE_PAUSE)
                except Exception:  # our own failure: what is not fed is said, and tried again
                    logger.exception("subscription %s could not be fed", self.name)
                    await self._pause(_STORE_PAUSE)
        finally:
            self._tell_changed()
            if self._held is not None:
                with suppress(TracksideError):  # then its lease ends by itself
                    await self._held.release()

    def _say_away(self, failure: StorageError) -> None:
        """Say what keeps the store from being read, once for each time; what does not pass is said whole."""
        if not failure.retryable:
            logger.error("subscription %s could not be fed", self.name, exc_info=failure)
        elif not self._is_away:
            logger.warning("subscription %s could not be fed, and is tried again until it can: %s", self.name, failure)
        self._is_away = failure.retryable

    async def _take_turn(self) -> None:
        """Feed as long as this process has the lease; wait for it a while if it is not free."""
        self._subscriptions.listen(self._wakeup.set)
        try:
            consumer = self._held = await self._become_consumer()
        except SubscriptionBusyError as exc:
            self._is_elsewhere = True
            self._tell_changed()
            await self._wait(min(exc.seconds, _LOOK_EVERY))
        except SubscriptionPausedError:
            self._is_elsewhere = self._paused = True
            self._tell_changed()
            await self._wait(_LOOK_EVERY)
        else:
            self._is_away = self._is_elsewhere = False
            await self._feed_by(consumer)
            self._held = None
            await consumer.release()
        finally:
            self._subscriptions.stop_listening(self._wakeup.set)

    async def _become_consumer(self) -> SubscriptionConsumer:
        """Acquire the subscription, or go on with what it had when the store failed."""
        if self._held is not None:
            self._paused = await self._held.renew()
            return self._held
        self._paused = False
        lease_seconds = self._policy.lease_seconds
        return await self._subscriptions.acquire(self.name, consumer=self._consumer, lease_seconds=lease_seconds)

    async def _feed_by(self, consumer: SubscriptionConsumer) -> None:
        """Feed, and keep the lease meanwhile.

        Raises:
            SubscriptionLostError: the lease is another's now.
            StorageError: the store failed.
        """
        keeping = asyncio.create_task(self._keep_lease(consumer), name=f"trackside-lease-{self.name}")
        feeding = asyncio.create_task(self._feed(consumer), name=f"trackside-feeding-{self.name}")
        try:
            await asyncio.wait([keeping, feeding], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (feeding, keeping):
                task.cancel()
            await asyncio.wait([keeping, feeding])
        for task in (keeping, feeding):
            if not task.cancelled():
                task.result()

    async def _keep_lease(self, consumer: SubscriptionConsumer) -> None:
        """Renew the lease three times in its length; give it up when it may have ended because the store failed."""
        until = monotonic() + consumer.lease_seconds
        while True:
            await asyncio.sleep(consumer.lease_seconds / 3)
            begun = monotonic()
            try:
                self._paused = await consumer.renew()
                until = begun + consumer.lease_seconds
            except SubscriptionLostError:
                raise
            except StorageError as exc:
                if monotonic() + consumer.lease_seconds / 3 >= until:
                    raise
                logger.warning("the lease of subscription %s could not be renewed: %s", self.name, exc)

    async def _feed(self, consumer: SubscriptionConsumer) -> None:
        """Give what comes to the observer, until closed or paused."""
        with suppress(SubscriptionPausedError):
            while not self._is_to_stop:
                self._wakeup.clear()
                retries = await consumer.read_retries(self._policy.batch)
                await self._retry(consumer, retries)
                batch = await consumer.read(self._policy.batch)
                await self._handle(consumer, batch)
                if not self._is_to_stop:
                    self._delivered = batch.through
                    self._tell_changed()
                if batch.at_end and not batch.events and not retries:
                    await self._wait(_LOOK_EVERY)

    @property
    def _is_to_stop(self) -> bool:
        return self._paused or self._stopping.is_set()

    async def _handle(self, consumer: SubscriptionConsumer, batch: Batch) -> None:
        """Handle a batch, all of it unless paused, or closed while an event of it waits to be tried again."""
        left = deque(batch.events)
        self.counts.read += len(left)
        attempts = 0
        try:
            while left and not self._paused:
                taken, raised = await self._offer([stored.event for stored in left], singly=attempts > 0)
                if taken:
                    attempts = 0
                    last = [left.popleft() for _ in range(taken)][-1]
                    await consumer.acknowledge(last.position if left else batch.through)
                    self.counts.handled += taken
                if raised is None:
                    continue
                attempts += 1
                position = left[0].position
                if consumer.on_failure is OnFailure.park and self._is_hopeless(raised, attempts):
                    await consumer.park(position, text_of(raised), attempts=attempts)
                    left.popleft()
                    self.counts.parked += 1
                    attempts = 0
                    continue
                await consumer.note_failure(text_of(raised), attempts=attempts)
                await self._pause(self._policy.pause(attempts))
                if self._stopping.is_set():
                    return
        finally:
            self.counts.returned += self.counts.pending

    def _is_hopeless(self, raised: BaseException, attempts: int) -> bool:
        return attempts >= self._policy.attempts or not getattr(raised, "retryable", True)

    async def _retry(self, consumer: SubscriptionConsumer, retries: Sequence[ParkedEvent]) -> None:
        """Try parked events once more, each by itself; what fails stays parked."""
        self.counts.read += len(retries)
        try:
            for parked in retries:
                if self._is_to_stop:
                    return
                stored = parked.stored
                taken, raised = await self._offer([stored.event], singly=True)
                if taken:
                    await consumer.settle_retry(stored.position)
                    self.counts.handled += 1
                else:
                    attempts = parked.attempts + 1
                    await consumer.park(stored.position, text_of(raised), attempts=attempts)
                    self.counts.parked += 1
        finally:
            self.counts.returned += self.counts.pending

    async def _offer(self, events: Sequence[RunLifecycleEvent], *, singly: bool) -> tuple[int, BaseException | None]:
        """How many events the observer took from the front, and what it raised instead of taking the next.

        Of an observer that takes single events, it may be less than all without a failure: time to acknowledge.
        """
        taken = 0
        acknowledge_at = monotonic() + _ACKNOWLEDGE_EVERY
        try:
            if self._on_events is not None and not singly:
                await call_observer(self._on_events(events), observer=self._label, limit=self._policy.call_limit)
                return len(events), None
            for event in events:
                call = self._observer.on_event(event)
                await call_observer(call, observer=self._label, limit=self._policy.call_limit)
                taken += 1
                if self._paused or monotonic() >= acknowledge_at:
                    break
        except PartlyTaken as part:
            self.counts.failed_calls += 1
            return max(0, min(part.taken, len(events) - 1)), part.cause
        except BaseException as exc:  # the observer's failure, which is its subscription's to show
            if not is_own_failure(exc):
                raise
            self.counts.failed_calls += 1
            return taken, exc
        return taken, None

    async def _wait(self, at_most: float) -> None:
        """Wait until there may be something to do."""
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most):
                await self._wakeup.wait()
        self._wakeup.clear()

    async def _pause(self, seconds: float) -> None:
        """Wait before another try, or until closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
