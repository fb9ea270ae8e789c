"""Feeds all durable observers of an app: opens their subscriptions, feeds each one, and closes them in the end.

Any number of processes may dispatch to observers of the same names. One of them feeds each subscription; if it dies,
another takes over within its lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from trackside.app.closing import close_observer
from trackside.app.delivery import OUR_SUBSCRIPTIONS
from trackside.app.storage._subscriptions.records import (
    OnFailure,
    Start,
    SubscriptionFilter,
    check_member,
    check_start,
    check_text,
)
from trackside.app.storage.errors import InvalidSubscriptionError, SubscriptionConflictError
from trackside.app.storage.feeding import FeedPolicy, SubscriptionFeed
from trackside.app.storage.subscriptions import Subscriptions
from trackside.app.vitals import FeedStats
from trackside.harness.errors import TracksideError
from trackside.harness.observer import ObserverBinding, RunEventCallback, RunObserver

__all__ = ["Dispatcher", "DrainReport", "DurableObserver"]

logger = logging.getLogger("trackside.subscriptions")

_OPEN_PAUSE: Final = 1.0
"""Seconds before a subscription whose store failed is opened again."""
_CLOSE_LIMIT: Final = 10.0
"""Seconds that an observer has for its `aclose`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableObserver:
    """An observer that has a subscription.

    Raises:
        NotAnObserverError: (a `TypeError`) `observer` cannot take events.
        InvalidSubscriptionError: another value does not fit; the message names it.
    """

    name: str
    """The name of the subscription, in all processes."""
    observer: RunObserver | RunEventCallback
    filter: SubscriptionFilter = SubscriptionFilter()  # noqa: RUF009  # it is frozen
    """Which events the observer wants; all if left out."""
    start: Start = "now"
    """Where its subscription begins if there is none yet; see `Subscriptions.open`."""
    on_failure: OnFailure = OnFailure.park
    """Whether an event that keeps failing is parked, or blocks those after it."""
    policy: FeedPolicy | None = None
    """How the observer is fed; what its class asks for if left out: `FeedPolicy.suiting`."""

    _taken: ClassVar[AbstractSet[str]] = OUR_SUBSCRIPTIONS

    def __post_init__(self) -> None:
        ObserverBinding(self.observer)  # refuses what would take events and do nothing with them, such as None
        check_text("name", self.name)
        if self.name in self._taken:
            why = "it is the server's own subscription, whose events this would take: give it another name"
            raise InvalidSubscriptionError(field="name", value=self.name, why=why)
        check_start("start", self.start)
        object.__setattr__(self, "on_failure", check_member(OnFailure, "on_failure", self.on_failure))
        for field, kind in (("filter", SubscriptionFilter), ("policy", FeedPolicy | None)):
            if not isinstance(value := getattr(self, field), kind):
                raise InvalidSubscriptionError(
                    field=field, value=value, why=f"it is a {getattr(kind, '__name__', kind)}"
                )
        if self.policy is None:
            object.__setattr__(self, "policy", FeedPolicy.suiting(self.observer))


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """The result of a drain, by the names of the subscriptions."""

    through: int
    """The last position in the log when the drain began."""
    delivered: tuple[str, ...]
    """Subscriptions for which everything up to there was delivered, is parked, or is not wanted."""
    late: tuple[str, ...]
    """Subscriptions for which time ran out first."""
    elsewhere: tuple[str, ...]
    """Subscriptions that this process does not feed: another one does, they are paused, or they have failed."""

    @property
    def complete(self) -> bool:
        """Whether all that this process feeds was delivered in time."""
        return not self.late


class Dispatcher:
    """Feeds durable observers, each by a subscription of its name.

        async with Dispatcher(store.subscriptions, [DurableObserver(name="mail", observer=Mail())]) as dispatcher:
            ...

    A subscription that does not exist yet is created. One that exists continues where it was; if it wanted other events
    or had another policy for failures, it is changed to what its observer says here. All subscriptions are open once
    `async with` has begun, so nothing that is appended afterwards is missed. The exception is a subscription that could
    not be opened: the program's log says so, and opening it is tried again as long as the store is what failed.

    Args:
        subscriptions: those of the store, as `store.subscriptions`.
        observers: the observers to feed.
        consumer: the name of the consumer that others see; this machine and process if left out.

    Raises:
        InvalidSubscriptionError: two observers have the same name.
    """

    def __init__(
        self, subscriptions: Subscriptions, observers: Sequence[DurableObserver], *, consumer: str | None = None
    ) -> None:
        for name, times in Counter(durable.name for durable in observers).items():
            if times > 1:
                raise InvalidSubscriptionError(field="name", value=name, why="each observer has one of its own")
        self._subscriptions = subscriptions
        self._fed = [_FedObserver(subscriptions, durable, consumer) for durable in observers]
        self._closed = False

    @property
    def failures(self) -> dict[str, Exception]:
        """The subscriptions that are not fed, and will not be: they could not be opened, or were deleted."""
        failed = ((fed.durable.name, fed.failure or fed.feed.failure) for fed in self._fed)
        return {name: failure for name, failure in failed if failure is not None}

    def stats(self) -> list[FeedStats]:
        """How each feed is doing, in the order in which the observers were given; may be called from any thread."""
        return [fed.feed.stats() for fed in self._fed]

    async def drain(self, timeout: float) -> DrainReport:
        """Wait, at most `timeout` seconds, until what is in the log now is delivered to all observers that this process
        feeds.

        Raises:
            StorageError: the log cannot be read.
        """
        end = await self._subscriptions.end()
        waiting = {
            asyncio.create_task(fed.reach(end), name=f"trackside-drain-{fed.durable.name}"): fed.durable.name
            for fed in self._fed
        }
        try:
            if waiting:
                await asyncio.wait(waiting, timeout=timeout)
        finally:
            late = [task for task in waiting if not task.done()]
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        reached = {name: None if task.cancelled() else task.result() for task, name in waiting.items()}
        delivered, late_ones, elsewhere = (
            tuple(name for name, found in reached.items() if found is wanted) for wanted in (True, None, False)
        )
        return DrainReport(through=end, delivered=delivered, late=late_ones, elsewhere=elsewhere)

    async def __aenter__(self) -> Self:
        """Open and feed them all."""
        try:
            for fed in self._fed:
                fed.begin()
            for fed in self._fed:
                await fed.was_tried.wait()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop feeding, as `SubscriptionFeed.aclose` does, all at once; then close the observers. May be called again.

        Cancelling this ends what is under way, and is passed on when the observers are closed.
        """
        if self._closed:
            return
        self._closed = True
        try:
            await _side_by_side("stop", (fed.aclose() for fed in self._fed))
        finally:
            observers = {id(fed.durable.observer): fed.durable for fed in self._fed}
            closing = (
                close_observer(durable.observer, name=durable.name, limit=_CLOSE_LIMIT, logger=logger)
                for durable in observers.values()
            )
            await _side_by_side("close", closing)


async def _side_by_side(what: str, calls: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Make these calls, each from its first step on: one that is cancelled before that would do nothing."""
    loop, name = asyncio.get_running_loop(), f"trackside-{what}-fed"
    await asyncio.gather(*[asyncio.Task(call, loop=loop, name=name, eager_start=True) for call in calls])


class _FedObserver:
    """One observer that a dispatcher feeds, its feed, and the task that opens its subscription."""

    def __init__(self, subscriptions: Subscriptions, durable: DurableObserver, consumer: str | None) -> None:
        self.durable = durable
        self.feed = SubscriptionFeed(
            subscriptions, durable.name, durable.observer, policy=durable.policy, consumer=consumer
        )
        self.failure: Exception | None = None
        """Why the subscription could not be opened, and will not be."""
        self.was_tried = asyncio.Event()
        self._subscriptions = subscriptions
        self._opening: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin to open the subscription, however long that takes, and then to feed."""
        self._opening = asyncio.create_task(self._open_and_feed(), name=f"trackside-open-{self.durable.name}")

    async def reach(self, position: int) -> bool:
        """Wait until the feed has delivered everything up to a position; False: the observer is not fed here."""
        if self._opening is not None:
            await asyncio.wait([self._opening])
        return self.failure is None and await self.feed.reach(position)

    async def aclose(self) -> None:
        """Stop opening and feeding."""
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
            await asyncio.wait([self._opening])
        await self.feed.aclose()

    async def _open_and_feed(self) -> None:
        while True:
            if await self._try_to_open():
                return
            await asyncio.sleep(_OPEN_PAUSE)

    async def _try_to_open(self) -> bool:
        """Open the subscription and begin to feed; False if that failed and may succeed in a while."""
        try:
            await self._see_to_subscription()
            await self.feed.__aenter__()
        except TracksideError as exc:
            name = self.durable.name
            if exc.retryable:
                if not self.was_tried.is_set():
                    logger.warning(
                        "subscription %s could not be opened, and is tried again until it can: %s", name, exc
                    )
                return False
            logger.error("subscription %s could not be opened, and is not fed: %s", name, exc)  # noqa: TRY400  # it says all
            self.failure = exc
        except Exception as exc:  # our own failure: the others are fed all the same
            logger.exception("subscription %s could not be opened, and is not fed", self.durable.name)
            self.failure = exc
        finally:
            self.was_tried.set()
        return True

    async def _see_to_subscription(self) -> None:
        """Make sure that the subscription exists and is as the observer says."""
        name, wanted, on_failure = self.durable.name, self.durable.filter, self.durable.on_failure
        options: dict[str, Any] = {"start": self.durable.start, "on_failure": on_failure}
        try:
            await self._subscriptions.open(
                name,
                types=wanted.types,
                run_id=wanted.run_id,
                thread_id=wanted.thread_id,
                agent=wanted.agent,
                **options,
            )
        except SubscriptionConflictError as exc:
            await self._subscriptions.update(name, filter=wanted, on_failure=on_failure)
            details = exc.details
            logger.info(
                "subscription %s was changed: its %s was %s and is %s",
                name,
                details["field"],
                details["found"],
                details["wanted"],
            )
