"""Feeds an observer from a durable subscription, across failures of the observer, of the store and of processes.

Any number of processes may feed the same subscription: one does, by a lease, and the others wait to take over.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Final, Self

from trackside.app.storage._feeding.delivery import LOOK_EVERY, Calls, LeasedDelivery
from trackside.app.storage._feeding.policy import FeedCounts, FeedPolicy
from trackside.app.storage._feeding.receiver import Receiver
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
from trackside.harness.observer import ObserverBinding, RunEventCallback, RunObserver

__all__ = ["FeedCounts", "FeedPolicy", "SubscriptionFeed"]

logger = logging.getLogger("trackside.subscriptions")

_STORE_PAUSE: Final = 1.0
"""Seconds before a feed whose store failed tries again."""
_TURN_PAUSE: Final = 0.5
"""Seconds between looks of a feed that waits for its turn, whatever is committed: most commits do not concern it."""


class SubscriptionFeed:
    """Gives the events of a subscription to an observer, each at least once, in the order that its policy says.

        async with SubscriptionFeed(store.subscriptions, "mail", observer):
            ...

    An observer that raises gets the event again, after a pause. If it goes on raising, the event is parked, or blocks
    those that come after it in its order, as the subscription says. Observers with `on_events` get batches. If an
    observer failed on a batch and did not say at which event (`PartlyTaken`), it gets those events one by one. An event
    that is delivered twice has the same `event_id`.

    What an observer raises may say more, as `trackside.app.delivery.DeliveryError` does:

    * `retryable = False`: this event will never be taken; it is parked at once.
    * `away = True`: nothing is taken now; everything waits, and one event at a time is tried until one is taken.
    * `held_back = True`: the observer itself has no room for this event yet; that does not count as a failure of the
      event.
    * `retry_after`: for how many seconds, at most an hour, to leave the receiver alone.
    * `disables = True`: the receiver is gone; the subscription is paused.

    Args:
        subscriptions: those of the store, as `store.subscriptions`.
        name: the subscription, which has to exist: `Subscriptions.open`.
        observer: the observer to feed. With a `concurrency` above 1 it is called that many times at once.
        policy: how to feed it; what the observer's class asks for if left out: `FeedPolicy.suiting`.
        consumer: the name of the consumer that others see; this machine and process if left out.

    Raises:
        NotAnObserverError: (a `TypeError`) `observer` cannot take events.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        name: str,
        observer: RunObserver | RunEventCallback,
        *,
        policy: FeedPolicy | None = None,
        consumer: str | None = None,
    ) -> None:
        taking = ObserverBinding(observer).observer
        self.name = name
        self.counts = FeedCounts()
        self.failure: TracksideError | None = None
        """Why it ended without being closed: its subscription was deleted, or the store closed."""
        self._subscriptions = subscriptions
        self._policy = policy or FeedPolicy.suiting(taking)
        self._calls = Calls(taking, limit=self._policy.call_limit, counts=self.counts)
        self._receiver = Receiver(name, self._policy)
        self._consumer = consumer
        self._stopping = asyncio.Event()
        self._wakeup = asyncio.Event()
        self._held: SubscriptionConsumer | None = None
        self._delivery: LeasedDelivery | None = None
        self._is_elsewhere = self._is_paused = False
        self._store_is_away = False
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin feeding.

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
        """How the feed is doing; may be called from any thread."""
        counts, delivery = self.counts, self._delivery
        oldest_at = None if delivery is None else delivery.window.oldest_at
        handled, parked, returned = counts.handled, counts.parked, counts.returned
        read = counts.read  # read last: whatever the loop's thread does, no more has left than has come
        return FeedStats(
            subscription=self.name,
            active=self._held is not None,
            paused=self._is_paused or (delivery is not None and delivery.paused),
            read_total=read,
            handled_total=handled,
            parked_total=parked,
            returned_total=returned,
            failed_calls_total=counts.failed_calls,
            pending=read - handled - parked - returned,
            behind_seconds=0.0 if oldest_at is None else max(0.0, (datetime.now(UTC) - oldest_at).total_seconds()),
        )

    async def reach(self, position: int) -> bool:
        """Wait until everything up to a position is delivered, parked or not wanted.

        Returns False if the subscription is not fed here: another process feeds it, it is paused, has failed or was
        closed.
        """
        while self._held is None or self._held.passed < position:
            if self._is_elsewhere or self._task is None or self._task.done():
                return False
            await self._changed.wait()
        return True

    async def aclose(self) -> None:
        """Finish what the observer has in hand, acknowledge it, and let others feed. May be called again.

        Nothing more is begun, except the rest of a batch that the observer gets one by one. What is not handled after
        the policy's `grace`, or waits to be tried again, is left to the next feed.
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
                    logger.warning("subscription %s is no longer fed: %s", self.name, exc)
                    self.failure = exc
                    return
                except SubscriptionLostError as exc:
                    logger.info("%s", exc)
                    await self._let_go()
                except StorageError as exc:
                    self._say_store_is_away(exc)
                    await self._pause(_STORE_PAUSE)
                except Exception:  # our own failure: log it, and try again
                    logger.exception("subscription %s could not be fed", self.name)
                    await self._pause(_STORE_PAUSE)
        finally:
            with suppress(TracksideError):  # then its lease ends by itself
                await self._give_back()
            self._tell_changed()

    def _say_store_is_away(self, failure: StorageError) -> None:
        """Log what keeps the store from being read, once for each outage; in full if it does not pass."""
        if not failure.retryable:
            logger.error("subscription %s could not be fed", self.name, exc_info=failure)
        elif not self._store_is_away:
            logger.warning("subscription %s could not be fed, and is tried again until it can: %s", self.name, failure)
        self._store_is_away = failure.retryable

    async def _take_turn(self) -> None:
        """Feed as long as this process has the lease; wait for it a while if it is not free."""
        self._subscriptions.listen(self._wakeup.set)
        try:
            consumer = self._held = await self._become_consumer()
        except SubscriptionBusyError as exc:
            self._is_paused = False
            await self._wait_elsewhere(min(exc.seconds, LOOK_EVERY))
        except SubscriptionPausedError:
            self._is_paused = True
            await self._wait_elsewhere(LOOK_EVERY)
        else:
            self._store_is_away = self._is_elsewhere = self._is_paused = False
            self._delivery = self._delivery_by(consumer)
            await self._delivery.run()
            await self._give_back()
        finally:
            self._subscriptions.stop_listening(self._wakeup.set)

    async def _become_consumer(self) -> SubscriptionConsumer:
        """Acquire the subscription, or go on with the one that was held when the store failed."""
        if self._held is None:
            lease_seconds = self._policy.lease_seconds
            return await self._subscriptions.acquire(self.name, consumer=self._consumer, lease_seconds=lease_seconds)
        await self._held.renew()
        if self._delivery is not None:
            await self._delivery.acknowledge()
        return self._held

    def _delivery_by(self, consumer: SubscriptionConsumer) -> LeasedDelivery:
        return LeasedDelivery(
            consumer,
            self._calls,
            self._receiver,
            policy=self._policy,
            counts=self.counts,
            wakeup=self._wakeup,
            stopping=self._stopping,
            pause=partial(self._subscriptions.pause, self.name),
            on_passed=self._tell_changed,
        )

    async def _give_back(self) -> None:
        """Acknowledge what was handled, and let others feed."""
        if self._held is None:
            return
        if self._delivery is not None:
            await self._delivery.acknowledge()
        await self._held.release()
        self._held = self._delivery = None

    async def _let_go(self) -> None:
        """Forget the subscription that was lost; its lease still exists if it was the log that lost events."""
        lost, self._held, self._delivery = self._held, None, None
        if lost is not None:
            with suppress(TracksideError):  # then its lease ends by itself
                await lost.release()

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait_elsewhere(self, at_most: float) -> None:
        """Wait until it may be this process's turn."""
        self._is_elsewhere = True
        self._tell_changed()
        until = asyncio.get_running_loop().time() + at_most
        await self._pause(min(_TURN_PAUSE, at_most))
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._wakeup.wait()
        self._wakeup.clear()

    async def _pause(self, seconds: float) -> None:
        """Wait before another try, or until closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
