"""Whoever is behind an observer: what it said of a delivery that failed, and whether it takes anything at all now."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

from trackside.app.storage._feeding.policy import FeedPolicy
from trackside.harness.errors import TracksideError

logger = logging.getLogger("trackside.subscriptions")

_LONGEST_REST: Final = 3_600.0
"""For how many seconds at a time a receiver can ask to be left alone."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an error says of the delivery: the attributes of `trackside.app.delivery.DeliveryError`, whatever its class."""

    retryable: bool
    away: bool
    held_back: bool
    disables: bool
    retry_after: float

    @classmethod
    def of(cls, raised: BaseException) -> Self:
        """What this error says; one that says nothing may be tried again, in the feed's own time."""
        return cls(
            retryable=_is_of_a_call(raised) or bool(getattr(raised, "retryable", True)),
            away=bool(getattr(raised, "away", False)),
            held_back=bool(getattr(raised, "held_back", False)),
            disables=bool(getattr(raised, "disables", False)),
            retry_after=_seconds(getattr(raised, "retry_after", None)),
        )

    @property
    def only_waits(self) -> bool:
        """Whether nothing has failed: the observer has no room for this event yet, and has not tried."""
        return self.held_back and self.retryable and not (self.away or self.disables)


def _is_of_a_call(raised: BaseException) -> bool:
    """Whether it is our own error on a call that the observer made, such as one to start a run on a busy thread.

    Whether that call may succeed says nothing about the event, unless the error is about what was passed, which comes
    from the event.
    """
    return isinstance(raised, TracksideError) and raised.fault != "observer" and not isinstance(raised, ValueError)


def _seconds(said: Any) -> float:
    if not isinstance(said, int | float) or math.isnan(said):
        return 0.0
    return float(min(max(said, 0.0), _LONGEST_REST))


class Receiver:
    """Knows whether the receiver is away, and lets one delivery at a time find out whether it is back."""

    def __init__(self, name: str, policy: FeedPolicy) -> None:
        self.tries = 0
        """How often in a row it was found away; 0 if it is there."""
        self._name = name
        self._policy = policy
        self._until = 0.0
        self._trying = asyncio.Lock()

    @property
    def is_away(self) -> bool:
        """Whether it takes nothing now."""
        return self.tries > 0

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Wait until something may be delivered: one by one, and after a long enough rest, if the receiver is away."""
        if self.is_away:
            async with self._trying:
                if self.is_away:
                    await self._rest()
                    yield
                    return
        yield

    def took(self, tries: int) -> None:
        """Note that it took something. `tries` is the number as the call began: an older call says nothing of now."""
        if self.is_away and tries == self.tries:
            self.tries = 0
            logger.info("the receiver of subscription %s is back", self._name)

    def went_away(self, said: Refusal, why: str, tries: int) -> bool:
        """Note that it takes nothing; True if that was not known yet, or was found out anew."""
        is_news = tries == self.tries
        if is_news:
            self._wait_longer()
            if self.tries == 1:
                logger.warning(
                    "the receiver of subscription %s is away, and is tried again until it is back: %s", self._name, why
                )
        self._until = max(self._until, asyncio.get_running_loop().time() + said.retry_after)
        return is_news

    def failed(self, tries: int) -> None:
        """Wait longer: a delivery failed while it was away, for another reason or the same one without saying so."""
        if self.is_away and tries == self.tries:
            self._wait_longer()

    def _wait_longer(self) -> None:
        self.tries += 1
        self._until = asyncio.get_running_loop().time() + self._policy.pause(self.tries)

    async def _rest(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._until - loop.time()
        while left > 0:
            await asyncio.sleep(left)
            left = self._until - loop.time()  # longer, if a call that began earlier was told so
