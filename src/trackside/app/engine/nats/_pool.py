"""The pulls of one worker from one pool."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from time import monotonic
from typing import Final

import msgspec
from nats.aio.msg import Msg

from trackside.app.engine.nats._connection import Connection
from trackside.app.engine.nats._errors import JetStreamError, NotAllowedError
from trackside.app.engine.nats._jetstream import JetStream, status_of
from trackside.app.engine.nats._link import Link, Subscribed
from trackside.app.engine.nats._messages import Ask, encoded
from trackside.app.engine.nats._names import Names

__all__ = ["Pool"]

_PULL_SECONDS: Final = 30.0
_GRACE_SECONDS: Final = 5.0
_PULL: Final = msgspec.json.encode({"batch": 1, "expires": int(_PULL_SECONDS * 1e9)})
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0


class Pool:
    """Pulls from a pool on the connection that there is."""

    def __init__(
        self,
        name: str,
        connection: Connection,
        jetstream: JetStream,
        names: Names,
        *,
        on_offer: Callable[[Pool, Msg], None],
        on_change: Callable[[], None],
    ) -> None:
        self.name = name
        self._connection = connection
        self._jetstream = jetstream
        self._names = names
        self._on_offer = on_offer
        self._on_change = on_change
        self._link: Link | None = None
        self._subscribed: Subscribed | None = None
        self._inbox = ""
        self._number = 0
        self._pulls: dict[str, float] = {}
        """When each pull that waits at the server is over, by the last word of the subject of its answer."""
        self._broken = asyncio.Event()
        self._found = False
        self.made = ""
        """When its consumer was made: what was offered by an earlier one is nobody's business any more."""

    @property
    def is_there(self) -> bool:
        """Whether its consumer has been found on this connection."""
        return self._found

    async def attend(self, link: Link, on_open: Callable[[Pool], None]) -> None:
        """Pull whenever `pull_up_to` says so, as long as the connection lasts."""
        self._inbox = link.inbox_within()
        self._subscribed = link.subscribe(f"{self._inbox}.*", self._take)
        try:
            while True:
                self.made = await self._until_there(link)
                self._link, self._found = link, True
                on_open(self)
                self._on_change()
                await self._broken.wait()
                self._broken.clear()
                self._found = False
                self._pulls.clear()
                await asyncio.sleep(random.uniform(0.5, 1) * _FIRST_PAUSE * 4)
        finally:
            self._link, self._found = None, False
            self._pulls.clear()

    def pull_up_to(self, wanted: int) -> None:
        """Have so many pulls wait at the server; those that are there already stay."""
        link = self._link
        if link is None:
            return
        while len(self._pulls) < wanted:
            self._number += 1
            token = str(self._number)
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._names.runs_stream}.{self.name}"
            if not link.publish(subject, _PULL, reply=f"{self._inbox}.{token}"):
                return
            self._pulls[token] = monotonic() + _PULL_SECONDS + _GRACE_SECONDS

    def forget_lost(self, now: float) -> None:
        """Forget pulls that the server has forgotten, too."""
        for token in [token for token, end in self._pulls.items() if end < now]:
            del self._pulls[token]

    async def leave(self, link: Link) -> None:
        """Pull no more; what is on its way still comes."""
        self._link = None
        if self._subscribed is not None:
            await link.drain(self._subscribed)

    def _take(self, message: Msg) -> None:
        status = status_of(message)
        token = message.subject.rpartition(".")[2]
        if status is None:
            # Its subject is the run's. Pulls are alike, so it does not matter which one it answers.
            self._pulls.pop(next(iter(self._pulls), ""), None)
            self._on_offer(self, message)
            return
        if self._pulls.pop(token, None) is None:
            self._pulls.pop(next(iter(self._pulls), ""), None)
        if status not in {404, 408} and self._link is not None:  # those: there was nothing; else look what there is
            self._link = None
            self._broken.set()
        self._on_change()

    async def _until_there(self, link: Link) -> str:
        pause = _FIRST_PAUSE
        what = f"pool {self.name}"
        while True:
            try:
                made = await self._jetstream.see_to_pool(link, self.name)
            except NotAllowedError:  # a server makes it, if there is one
                link.publish(self._names.asks(link.user), encoded(Ask(pool=self.name)))
                if pause == _LONGEST_PAUSE:
                    self._connection.report(what, "it waits for a server of the fleet, which makes its consumer")
            except JetStreamError as exc:
                self._connection.report(what, str(exc))
            except TimeoutError:
                self._connection.report(what, "JetStream does not answer")
            else:
                self._connection.report(what, None)
                return made
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, _LONGEST_PAUSE)
