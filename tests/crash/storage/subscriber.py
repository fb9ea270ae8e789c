"""Consumes a subscription until it dies at a named step, and says what it has handled.

It reads `URL NUMBER ORDER STEP` from its standard input. For each line it forks a child that feeds an observer from the
subscription "mail" in this order and kills itself when it comes to the step for the `NUMBER`th time; at "end" it never
does, and ends when nothing is left. Every fifth event cannot be handled, and is parked.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from obeying import obey, say

from trackside.app.delivery import Order
from trackside.app.storage import Store
from trackside.app.storage.feeding import FeedPolicy, SubscriptionFeed
from trackside.app.storage.subscriptions import SubscriptionConsumer
from trackside.harness.observer import RunLifecycleEvent

STEPS = ["read", "acknowledge", "park", "note_failure", "release"]
POLICIES = {
    "log": FeedPolicy(batch=7, attempts=2, first_pause=0),
    "none": FeedPolicy(order=Order.none, concurrency=4, batch=7, window=20, attempts=2, first_pause=0),
}


class Fate:
    """Kills this process when it comes to a step for a certain time."""

    def __init__(self, step: str, number: int) -> None:
        self._step = step
        self._left = number

    def at(self, step: str) -> None:
        if step == self._step:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def on(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def fated(*args: Any, **options: Any) -> Any:
            self.at(f"before {method.__name__}")
            result = await method(*args, **options)
            self.at(f"after {method.__name__}")
            return result

        return fated


async def consume(url: str, order: str, fate: Fate) -> None:
    for step in STEPS:
        setattr(SubscriptionConsumer, step, fate.on(getattr(SubscriptionConsumer, step)))
    number = count(1)

    async def handle(event: RunLifecycleEvent) -> None:
        if event.sequence % 5 == 0:
            fate.at("failing")
            raise ValueError(f"{next(number)} times nothing")
        fate.at("handling")
        for _ in range(event.sequence % 4 if order == "none" else 0):  # later events overtake it
            await asyncio.sleep(0)
        say(f"handled {event.sequence} {event.event_id}")
        fate.at("handled")

    async with Store.open(url) as store:
        await store.subscriptions.open("mail")
        fate.at("opened")
        async with SubscriptionFeed(store.subscriptions, "mail", handle, policy=POLICIES[order]) as feed:
            while (await store.subscriptions.get("mail")).behind or feed.counts.pending:
                await asyncio.sleep(0.001)


async def consume_as_ordered(line: str) -> None:
    url, number, order, step = line.split(" ", 3)
    await consume(url, order, Fate(step, int(number)))


if __name__ == "__main__":
    obey(consume_as_ordered)
