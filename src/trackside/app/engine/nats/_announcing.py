"""Tells pools of runs that workers may claim: a message for each in the work queue."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, NamedTuple

from nats.aio.msg import Msg

from trackside.app.engine.nats._connection import WORK_QUEUE, Connection
from trackside.app.engine.nats._errors import JetStreamError, NotAllowedError
from trackside.app.engine.nats._jetstream import ALREADY_THERE, NO_STREAM, JetStream, api_error
from trackside.app.engine.nats._link import Link
from trackside.app.engine.nats._messages import Ask, Counts, RunNotice, encoded
from trackside.app.engine.nats._names import Names, is_token
from trackside.app.storage.fleet import ReadyRun

__all__ = ["Announcer"]

logger = logging.getLogger("trackside.engine")

_MOST_WAITING: Final = 20_000
_MOST_UNDER_WAY: Final = 1_000
_STALE_SECONDS: Final = 5.0
"""After so long, the sweep has found a run, or a worker that looks into the database has."""
_RETRY_SECONDS: Final = 1.0


class _Waiting(NamedTuple):
    run: ReadyRun
    since: float


class Announcer:
    """A `Part`: publishes what is ready, and counts what the stream did not take in time: the sweep finds that."""

    def __init__(
        self, connection: Connection, jetstream: JetStream, names: Names, counts: Counts, *, lead: bool
    ) -> None:
        self._connection = connection
        self._jetstream = jetstream
        self._names = names
        self._counts = counts
        self._leads = lead
        self._waiting: deque[_Waiting] = deque()
        self._under_way: dict[str, tuple[_Waiting, Callable[[], None]]] = {}
        self._wanted_pools: set[str] = set()
        self._known_pools: set[str] = set()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._link: Link | None = None
        self._has_lost_stream = True
        self._asks = False
        self.offer_again: Callable[[str], bool] = lambda _: False
        """Has the holder of the run's offer here give it back when done, to be offered anew; False: nobody holds it."""

    async def drained(self) -> None:
        """Wait until nothing waits to be taken any more."""
        self._idle.clear()
        if self._waiting or self._under_way:
            await self._idle.wait()

    def announce(self, ready: Sequence[ReadyRun]) -> None:
        """Tell of these runs as soon as it can be done."""
        now = monotonic()
        for run in ready:
            if not is_token(run.pool):
                logger.error("%r cannot be the name of a pool: up to 64 letters, digits, _ and -", run.pool)
                self._counts.announce_failures += 1
            elif self.offer_again(run.run_id):
                self._counts.announced += 1
            elif len(self._waiting) >= _MOST_WAITING:
                self._counts.announce_failures += 1
            else:
                self._waiting.append(_Waiting(run, now))
        if self._link is None:
            self._give_up_stale()
        self._pump()

    def want_pool(self, pool: str) -> None:
        """Make sure that a pool has its consumer."""
        if is_token(pool) and pool not in self._wanted_pools:
            self._wanted_pools.add(pool)
            self._wake.set()

    async def attend(self, link: Link) -> None:
        """Make sure that the work queue is there, and publish."""
        self._known_pools.clear()
        self._asks = False
        self._give_up_stale()
        try:
            while True:
                if self._has_lost_stream:
                    await self._see_to_stream(link)
                    self._link, self._has_lost_stream = link, False
                    self._pump()
                await self._see_to_pools(link)
                self._wake.clear()
                if self._wanted_pools or self._has_lost_stream:
                    continue
                try:
                    async with asyncio.timeout(_RETRY_SECONDS if self._under_way or self._waiting else None):
                        await self._wake.wait()
                except TimeoutError:
                    self._give_up_stale()
        finally:
            self._link, self._has_lost_stream = None, True
            for token in [*self._under_way]:
                self._settle(link, token, taken=False)
            self._pump()

    async def _see_to_stream(self, link: Link) -> None:
        while True:
            try:
                await self._jetstream.see_to_runs(link)
            except NotAllowedError as exc:
                if not self._leads:  # a server sees to it
                    self._connection.report(WORK_QUEUE, None)
                    return
                self._connection.report(WORK_QUEUE, str(exc))
            except JetStreamError as exc:
                self._connection.report(WORK_QUEUE, str(exc))
            except TimeoutError:
                self._connection.report(WORK_QUEUE, "JetStream does not answer")
            else:
                self._connection.report(WORK_QUEUE, None)
                return
            self._give_up_stale()
            await asyncio.sleep(_RETRY_SECONDS)

    async def _see_to_pools(self, link: Link) -> None:
        while self._wanted_pools:
            pool = self._wanted_pools.pop()
            try:
                await self._jetstream.see_to_pool(link, pool)
            except (NotAllowedError, JetStreamError, TimeoutError) as exc:
                logger.info("the consumer of pool %s could not be looked after: %s", pool, exc)
                self._known_pools.discard(pool)

    def _pump(self) -> None:
        link = self._link
        while link is not None and self._waiting and len(self._under_way) < _MOST_UNDER_WAY:
            waiting = self._waiting.popleft()
            self._publish(link, waiting)
        if not self._waiting and not self._under_way:
            self._idle.set()

    def _publish(self, link: Link, waiting: _Waiting) -> None:
        run = waiting.run
        if self._asks:
            ask = encoded(Ask(run=run.run_id, pool=run.pool))
            self._count(link.publish(self._names.asks(link.user), ask))
            return
        if run.pool not in self._known_pools:
            self._known_pools.add(run.pool)
            self.want_pool(run.pool)
        subject = self._names.run(run.pool, run.run_id)
        token, reply = link.expect(lambda message: self._take_answer(link, token, message))
        self._under_way[token] = (waiting, link.on_denied(subject, lambda: self._ask_instead(link, token)))
        if not link.publish(subject, encoded(RunNotice(run.run_id)), reply=reply):
            self._settle(link, token, taken=False)
        elif len(self._under_way) == 1:  # from now on somebody looks at the time
            self._wake.set()

    def _take_answer(self, link: Link, token: str, answer: Msg) -> None:
        try:
            error = api_error(answer)
        except JetStreamError as exc:
            error = (0, str(exc))
        if error is None or error[0] == ALREADY_THERE:
            self._settle(link, token, taken=True)
            self._connection.report(WORK_QUEUE, None)
        elif error[0] == NO_STREAM:  # it was there a moment ago
            waiting = self._end(link, token)
            if waiting is not None:
                self._waiting.append(waiting)
            self._link, self._has_lost_stream = None, True
            self._wake.set()
        else:
            self._settle(link, token, taken=False)
            self._connection.report(WORK_QUEUE, f"it takes no runs: {error[1]}")
        self._pump()

    def _ask_instead(self, link: Link, token: str) -> None:
        """We may not publish: a server does it for us from now on."""
        waiting = self._end(link, token)
        self._asks = True
        if waiting is not None:
            self._publish(link, waiting)
        self._pump()

    def _give_up_stale(self) -> None:
        before = monotonic() - _STALE_SECONDS
        link = self._connection.link
        for token in [token for token, (waiting, _) in self._under_way.items() if waiting.since < before]:
            if link is not None:
                self._settle(link, token, taken=False)
        while self._waiting and self._waiting[0].since < before:
            self._waiting.popleft()
            self._count(taken=False)
        self._pump()

    def _settle(self, link: Link, token: str, *, taken: bool) -> None:
        if self._end(link, token) is not None:
            self._count(taken)

    def _end(self, link: Link, token: str) -> _Waiting | None:
        waiting, end = self._under_way.pop(token, (None, None))
        if end is not None:
            end()
        link.forget(token)
        return waiting

    def _count(self, taken: bool) -> None:  # noqa: FBT001  # it is what is counted
        if taken:
            self._counts.announced += 1
        else:
            self._counts.announce_failures += 1
