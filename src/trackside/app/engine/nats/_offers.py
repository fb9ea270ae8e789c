"""What a worker is offered: runs of its pools, pulled from the work queue one by one, and kept as its own until it is done.

One pull for each place that is free waits at the server, up to a few; so an offer goes to a worker that has a place for it,
and costs nobody anything while there is none. A pull of many at once would give them to one worker while others wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

import msgspec
from nats.aio.msg import Msg

from trackside.app.engine.nats._connection import Connection
from trackside.app.engine.nats._jetstream import JetStream
from trackside.app.engine.nats._link import Link
from trackside.app.engine.nats._messages import Counts, RunNotice, read
from trackside.app.engine.nats._names import Names
from trackside.app.engine.nats._pool import Pool

__all__ = ["NatsOffer", "NatsOffers"]

_MOST_PULLS: Final = 4
_MOST_OWED: Final = 10_000
_MOST_WAITING: Final = 2**20  # bytes: behind so much, one more sign of life does not get through either
_DONE, _NOT_MINE, _AT_IT, _NONSENSE = b"+ACK", b"-NAK", b"+WPI", b"+TERM"


class NatsOffer:
    """A message of the work queue that this worker has."""

    __slots__ = ("_answer", "again", "made", "passed_on", "pool", "run_id", "since", "subject")

    def __init__(
        self, run_id: str, pool: str, made: str, subject: str, answer: Callable[[NatsOffer, bytes], None]
    ) -> None:
        self.run_id: str | None = run_id
        self.passed_on = _deliveries(subject) - 1
        self.pool = pool
        self.made = made
        self.subject = subject
        self.since = monotonic()
        self.again = False
        """Whether the run is ready once more, so that it has to be offered to somebody when this is done."""
        self._answer = answer

    def done(self) -> None:
        """Nobody else has to look at it."""
        self._answer(self, _NOT_MINE if self.again else _DONE)

    def decline(self, *, after: float) -> None:
        """Somebody else should have it, in so many seconds."""
        delay = max(0, int(after * 1e9))
        self._answer(self, _NOT_MINE + b" " + msgspec.json.encode({"delay": delay}) if delay else _NOT_MINE)


class NatsOffers:
    """A `Part`: the offers of a worker."""

    def __init__(
        self,
        pools: Sequence[str],
        *,
        connection: Connection,
        jetstream: JetStream,
        names: Names,
        counts: Counts,
        ack_wait: float,
    ) -> None:
        self._connection = connection
        self._counts = counts
        self._ack_wait = ack_wait
        self._pools = [
            Pool(pool, connection, jetstream, names, on_offer=self._take, on_change=self._pull)
            for pool in dict.fromkeys(pools)
        ]
        self._free: int | None = None
        self._asking: deque[asyncio.Future[NatsOffer]] = deque()
        self._ready: deque[NatsOffer] = deque()
        self._held: dict[str, NatsOffer] = {}
        """All offers that are not answered, by the subject of the answer."""
        self._runs: dict[str, NatsOffer] = {}
        self._owed: deque[tuple[NatsOffer, bytes]] = deque(maxlen=_MOST_OWED)
        """Answers that could not be given yet."""
        self._has_said = asyncio.Event()
        self._left = False

    async def next(self) -> NatsOffer:
        """The next offer; waits for it."""
        if self._ready:
            return self._hand_over(self._ready.popleft())
        asking: asyncio.Future[NatsOffer] = asyncio.get_running_loop().create_future()
        self._asking.append(asking)
        self._pull()
        try:
            return self._hand_over(await asking)
        except asyncio.CancelledError:
            if asking.done() and not asking.cancelled():  # it came in the same moment
                self._ready.appendleft(asking.result())
            elif asking in self._asking:
                self._asking.remove(asking)
            self._trim()
            raise

    def note_free(self, places: int) -> None:
        """How many places are free now."""
        self._free = max(0, places)
        self._trim()
        self._pull()

    def offer_again(self, run_id: str) -> bool:
        """Note that the run is ready once more; False: this worker has no offer of it."""
        offer = self._runs.get(run_id)
        if offer is None:
            return False
        offer.again = True
        return True

    async def attend(self, link: Link) -> None:
        """Get offers on this connection."""
        async with asyncio.TaskGroup() as group:
            for pool in self._pools:
                group.create_task(pool.attend(link, self._settle_owed), name=f"trackside-nats-pool-{pool.name}")
            group.create_task(self._say_alive(link), name="trackside-nats-alive")

    async def leave(self) -> None:
        """Give back what was offered and not taken."""
        self._left = True
        for asking in self._asking:
            asking.cancel()
        self._asking.clear()
        link = self._connection.link
        if link is not None and link.is_up:
            for pool in self._pools:
                await pool.leave(link)
        self._trim()

    @property
    def is_owing(self) -> bool:
        """Whether there is something that it has not answered."""
        return bool(self._held or self._owed)

    async def until_answered(self) -> None:
        """Wait until it has answered all that it was offered."""
        while self.is_owing:
            self._has_said.clear()
            await self._has_said.wait()

    def _hand_over(self, offer: NatsOffer) -> NatsOffer:
        if self._free:
            self._free -= 1
        self._counts.offers += 1
        return offer

    @property
    def _room(self) -> int:
        """How many more offers may come now."""
        if self._left:
            return -len(self._ready)
        places = len(self._asking) if self._free is None else max(self._free, len(self._asking))
        return places - len(self._ready)

    def _pull(self) -> None:
        wanted = min(self._room, _MOST_PULLS)
        if wanted > 0:
            each = -(-wanted // len(self._pools))
            for pool in self._pools:
                pool.pull_up_to(each)

    def _take(self, pool: Pool, message: Msg) -> None:
        notice = read(RunNotice, message.data)
        offer = NatsOffer(notice.run if notice else "", pool.name, pool.made, message.reply, self._answer)
        if notice is None:
            self._counts.note_unreadable(message.subject)
            self._answer(offer, _NONSENSE)
        else:
            self._counts.redelivered += offer.passed_on > 0
            self._held[offer.subject] = self._runs[notice.run] = offer
            self._give(offer)
        self._pull()

    def _give(self, offer: NatsOffer) -> None:
        while self._asking:
            asking = self._asking.popleft()
            if not asking.done():
                asking.set_result(offer)
                return
        self._ready.append(offer)
        self._trim()

    def _trim(self) -> None:
        """Give back what there is no place for any more."""
        while self._ready and self._room < 0:
            self._answer(self._ready.pop(), _NOT_MINE)

    def _answer(self, offer: NatsOffer, answer: bytes) -> None:
        if self._held.pop(offer.subject, None) is None and answer is not _NONSENSE:
            return  # it has been answered
        if offer.run_id is not None and self._runs.get(offer.run_id) is offer:
            del self._runs[offer.run_id]
        link = self._connection.link
        pool = self._pool(offer.pool)
        # A consumer that was made since would take the answer to be about another run.
        is_for_it = not pool.is_there or offer.made == pool.made
        if is_for_it and (link is None or not pool.is_there or not link.publish(offer.subject, answer)):
            self._owed.append((offer, answer))
        self._has_said.set()

    def _settle_owed(self, pool: Pool) -> None:
        """Say what could not be said, unless the consumer is another one by now, which would misunderstand it."""
        link = self._connection.link
        others = [each for each in self._owed if each[0].pool != pool.name]
        mine = [each for each in self._owed if each[0].pool == pool.name and each[0].made == pool.made]
        self._owed.clear()
        self._owed.extend(others)
        for offer, answer in mine:
            if link is not None:
                link.publish(offer.subject, answer)
        self._has_said.set()

    def _pool(self, name: str) -> Pool:
        return next(pool for pool in self._pools if pool.name == name)

    async def _say_alive(self, link: Link) -> None:
        """Say in time that somebody is at what this worker has; one task for all of it."""
        while True:
            await asyncio.sleep(self._ack_wait / 3)
            now = monotonic()
            while self._ready and self._ready[0].since < now - self._ack_wait:  # nobody asks for it
                self._answer(self._ready.popleft(), _NOT_MINE)
            made = {pool.name: pool.made for pool in self._pools if pool.is_there}
            for offer in [*self._held.values()]:
                if made.get(offer.pool) == offer.made and link.waiting_bytes < _MOST_WAITING:
                    link.publish(offer.subject, _AT_IT)
            for pool in self._pools:
                pool.forget_lost(now)
            self._pull()


def _deliveries(subject: str) -> int:
    """How often a message was delivered, as the subject of its answer says; there are two kinds of these."""
    words = subject.split(".")
    number = words[4] if len(words) == 9 else words[6] if len(words) > 9 else ""
    return int(number) if number.isdigit() else 1
