"""A receiver that a feed delivers to, which does what it is told, and the log that it is fed from."""

import asyncio
from collections import Counter
from collections.abc import Callable

from tests.property.feeding_model import LogInMemory

from trackside.app.delivery import DeliveryError, Order
from trackside.app.storage.feeding import FeedPolicy, SubscriptionFeed
from trackside.app.storage.subscriptions import OnFailure
from trackside.harness.observer import RunLifecycleEvent
from trackside.testing import make_event

SIDE_BY_SIDE = FeedPolicy(order=Order.none, concurrency=4)
BY_RUN = FeedPolicy(order=Order.run, concurrency=4)


class Receiving:
    """An observer that records when it was called and with what, and does what it is told to."""

    def __init__(self, log: LogInMemory, do: Callable[[int, int], BaseException | float] = lambda position, n: 0.0):
        self._log = log
        self._do = do
        self._times: Counter[str] = Counter()
        self.calls: list[tuple[float, int]] = []
        self.taken: list[RunLifecycleEvent] = []
        self.under_way = self.most_under_way = 0
        self.fails_after = 0.0

    def times(self, position: int) -> list[float]:
        return [time for time, called in self.calls if called == position]

    async def on_event(self, event: RunLifecycleEvent) -> None:
        loop, position = asyncio.get_running_loop(), self._log.position_of(event)
        self.calls.append((loop.time(), position))
        self._times[event.event_id] += 1
        done = self._do(position, self._times[event.event_id])
        if isinstance(done, BaseException):
            await asyncio.sleep(self.fails_after)
            raise done
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(done)
        finally:
            self.under_way -= 1
        self.taken.append(event)
        self._log.handled.add(position)


def log_of(*runs: str, on_failure: OnFailure = OnFailure.park) -> LogInMemory:
    log = LogInMemory(on_failure)
    log.append(make_event(run_id=run, sequence=position) for position, run in enumerate(runs, 1))
    return log


def feeding(log: LogInMemory, observer: Receiving, policy: FeedPolicy) -> SubscriptionFeed:
    return SubscriptionFeed(log.subscriptions, "mail", observer, policy=policy)


def broken(retry_after: float | None = None) -> DeliveryError:
    return DeliveryError(receiver="the hook", what="an event", why="500", retry_after=retry_after)
