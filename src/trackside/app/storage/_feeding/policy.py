"""How an observer is fed, and what became of its events."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final, Self

from trackside.app.delivery import FEED_KEYS, Order, said_by_class
from trackside.app.storage._subscriptions.records import check_member, check_number, check_seconds
from trackside.app.storage.errors import InvalidSubscriptionError
from trackside.app.storage.subscriptions import LEASE_SECONDS

_MOST_SIDE_BY_SIDE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedPolicy:
    """How an observer is fed. All times are seconds.

    Raises:
        InvalidSubscriptionError: a value does not fit; the message names it.
    """

    order: Order = Order.log
    """Which event comes only after which. A failure holds up the same: everything, the run, or nothing."""
    concurrency: int = 1
    """How many calls of the observer may be under way at once, where `order` is run or none."""
    batch: int = 100
    """How many events are read at once, and given at once to an observer that takes batches."""
    window: int = 1_000
    """How many events may be in hand, read and not delivered yet, where `order` is run or none; in order log it is two
    batches.
    """
    max_bytes: int = 64 * 1_048_576
    """About how many bytes the payloads of events in hand may take. An event gets in if there is room, whatever its
    size: one may go past the limit.
    """
    attempts: int = 5
    """How often an event is tried before it is parked, where the subscription parks. An event whose error says
    `retryable = False` is parked at once; a try whose error says `away = True` or `held_back = True` does not count.
    """
    first_pause: float = 0.5
    """The pause after the first failure; after each further one it is twice as long, half of it left to chance."""
    longest_pause: float = 60.0
    """The longest pause, unless the error says `retry_after`."""
    call_limit: float | None = 30.0
    """How long one call of the observer may take; then it is cancelled, and has failed."""
    lease_seconds: float = LEASE_SECONDS
    """How long the others wait for a process that has died."""
    grace: float = 30.0
    """How long closing waits for what the observer has in hand."""

    def __post_init__(self) -> None:
        order = check_member(Order, "order", self.order)
        object.__setattr__(self, "order", order)
        check_number("concurrency", self.concurrency, least=1)
        if self.concurrency > (1 if order is Order.log else _MOST_SIDE_BY_SIDE):
            why = "in the order of the log there is one call at a time: take order run or none"
            if order is not Order.log:
                why = f"it is at most {_MOST_SIDE_BY_SIDE}"
            raise InvalidSubscriptionError(field="concurrency", value=self.concurrency, why=why)
        for name in ("batch", "window", "max_bytes", "attempts"):
            check_number(name, getattr(self, name), least=1)
        for name in ("first_pause", "longest_pause", "grace"):
            check_seconds(name, getattr(self, name), least=0, most=86_400)
        if self.call_limit is not None:
            check_seconds("call_limit", self.call_limit, least=0.001, most=86_400)
        check_seconds("lease_seconds", self.lease_seconds, least=1, most=3_600)

    @classmethod
    def suiting(cls, observer: object, **others: Any) -> Self:
        """The policy that an observer's class asks for; `others` take precedence.

        The class may say `order`, `concurrency`, `attempts`, `longest_pause` and `call_limit`. An observer that allows
        several calls at once is called once at a time if `others` say `order="log"`.

        Raises:
            InvalidSubscriptionError: a value does not fit; the message names it.
        """
        said = {name: said_by_class(type(observer), name) for name in FEED_KEYS}
        asked = {name: value for name, value in said.items() if value is not None}
        if others.get("order") == Order.log:
            asked.pop("concurrency", None)
        return cls(**asked | others)

    @property
    def room(self) -> int:
        """How many events may be in hand."""
        return 2 * self.batch if self.order is Order.log else max(self.window, self.concurrency)

    def pause(self, attempts: int) -> float:
        """How long to wait after so many failures in a row."""
        longest = min(self.longest_pause, self.first_pause * 2.0 ** min(attempts - 1, 32))
        return longest * random.uniform(0.5, 1.0)


@dataclass(slots=True, kw_only=True)
class FeedCounts:
    """What became of the events that a feed has read: `read` = `handled` + `parked` + `returned` + `pending`, always.

    What was `returned` will be delivered again, here or elsewhere.
    """

    read: int = 0
    handled: int = 0
    parked: int = 0
    returned: int = 0
    failed_calls: int = 0

    @property
    def pending(self) -> int:
        """How many the observer has in hand."""
        return self.read - self.handled - self.parked - self.returned
