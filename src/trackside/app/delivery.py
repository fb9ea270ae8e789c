"""How events get to observers in an app, and what an observer may say about an event that it could not deliver.

There are two ways. *Live*: the observer is bound to the manager, behind a buffer, and takes the events of this process
as they happen. *Durable*: the observer has a subscription, which is a name and a cursor in the log, and takes every
event that it wants at least once, whatever dies in between. An observer class says which way is its own, and in which
order it wants events:

    class Mail:
        delivery = Delivery.durable
        order = Order.none

        async def on_event(self, event): ...

Both are the defaults; the user may say something else. In the same way a class says by `concurrency`, `attempts`,
`longest_pause` and `call_limit` how many calls may be under way at once, how often an event is tried before it is
parked, at most how many seconds lie between two tries, and how many seconds one call may take.
"""

from __future__ import annotations

from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final

from trackside.harness.errors import TracksideError

__all__ = [
    "FEED_KEYS",
    "LONGEST_TRY",
    "OUR_SUBSCRIPTIONS",
    "RUN_WEBHOOKS",
    "Delivery",
    "DeliveryError",
    "ObserverOptionError",
    "Order",
    "retry_after_seconds",
    "said_by_class",
]

RUN_WEBHOOKS: Final = "run-webhooks"
"""The subscription by which a server tells the webhook addresses of runs how these ended."""

OUR_SUBSCRIPTIONS: Final = frozenset({RUN_WEBHOOKS})
"""Names that no observer and no subscription of a user's may have: each would get what is the other's."""

FEED_KEYS: Final = ("order", "concurrency", "attempts", "longest_pause", "call_limit")
"""What an observer's class, and the table of its user, may say about how it is fed; the table wins."""

LONGEST_TRY: Final = 25
"""How many seconds an observer may give its receiver for an event. That is less than its subscription lets a call take:
otherwise the subscription would not know what became of the event, and would count that against it.
"""

_LONGEST_RETRY_AFTER: Final = 3_600.0


class Delivery(StrEnum):
    """How an observer gets its events."""

    live = "live"
    """As they happen in this process, behind a buffer: fast, and gone with the process."""
    durable = "durable"
    """From the log, by a subscription: at least once, also after a crash."""


class Order(StrEnum):
    """Which event a subscription delivers only after which other."""

    log = "log"
    """All in the order of the log, one after another; in batches for an observer that takes them."""
    run = "run"
    """The events of each run in their order; those of different runs side by side."""
    none = "none"
    """As many side by side as allowed."""


def said_by_class(kind: type, name: str) -> Any:
    """What a class says under a name about how its observers get their events; None if it does not.

    Only what the class itself says counts, and no property or method: what an object calls so may be something else,
    such as the events that it has seen, or a count of its own attempts.
    """
    said = getattr(kind, name, None)
    return None if hasattr(said, "__get__") else said


class ObserverOptionError(TracksideError, ValueError):
    """{option}: {why}."""

    def __init__(self, *, option: str, why: str) -> None:
        """An option of an observer does not fit; raised by its constructor, before anything is delivered.

        Args:
            option: the name of the constructor's argument, which is also the key in `trackside.toml`.
            why: what is wrong with its value, and what to write instead; without the value itself if it is a secret.
        """
        super().__init__(option=option, why=why)


class DeliveryError(TracksideError):
    """{receiver} did not take {what}: {why}."""

    fault = "observer"
    away: bool
    retry_after: float | None
    held_back: bool
    disables: bool

    def __init__(
        self,
        *,
        receiver: str,
        what: str,
        why: str,
        retryable: bool = True,
        away: bool = False,
        retry_after: float | None = None,
        held_back: bool = False,
        disables: bool = False,
    ) -> None:
        """An observer could not pass an event on; it says what it knows, so that its subscription does the right thing.

        Args:
            receiver: the receiver that did not take it, as people may read it: without secrets.
            what: the event, in words.
            why: what the receiver answered, or what became of the connection.
            retryable: whether the same event may be taken later; otherwise it is parked at once.
            away: whether the receiver takes nothing at all now: it cannot be reached, or says that it is busy. That is not
                the event's fault and does not count against it: it is tried again until it is taken, and nothing is parked.
            retry_after: seconds that the receiver wants to be left alone, if it said so.
            held_back: whether the observer did not even try, for example because of a limit of its own. That does not
                count against the event either: it comes again after `retry_after`, and meanwhile events that need not
                wait for it go on.
            disables: whether the receiver never wants events again: its subscription pauses until somebody resumes it.
        """
        super().__init__(
            receiver=receiver,
            what=what,
            why=why,
            retryable=retryable,
            away=away,
            retry_after=retry_after,
            held_back=held_back,
            disables=disables,
        )


def retry_after_seconds(retry_after: str | None, now: datetime) -> float | None:
    """How many seconds a receiver wants to be left alone; None if it does not say.

    Args:
        retry_after: the header `Retry-After` of its answer: a number or a date. The result is never more than an hour,
            which is what a mistake in the header may cost.
        now: the current time.
    """
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        return min(float(retry_after), _LONGEST_RETRY_AFTER)
    try:
        seconds = (parsedate_to_datetime(retry_after) - now).total_seconds()
    except (TypeError, ValueError, OverflowError):  # no date, or one without a zone
        return None
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER)
