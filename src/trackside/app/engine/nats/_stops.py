"""Asks workers to stop runs, hears what those of this process are asked, and does for workers what they may not do.

A worker hears of stops on a subject below the name of its user, so that NATS can keep others from it. A worker says that it
is there, and as whom; it is known by its id, which nobody can guess and only the database has. So one who has the rights of
one worker cannot hear what another is asked.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Final

from nats.aio.msg import Msg

from trackside.app.engine.nats._announcing import Announcer
from trackside.app.engine.nats._connection import Connection
from trackside.app.engine.nats._link import Link
from trackside.app.engine.nats._messages import Ask, Counts, Here, RunNotice, encoded, read
from trackside.app.engine.nats._names import NOBODY, Names, token_of
from trackside.app.storage.fleet import ReadyRun

__all__ = ["Stops"]

_MOST_WORKERS: Final = 20_000


class Stops:
    """A `Part`: a server's keeps what it has heard of workers; a worker's asks servers, and hears what it is asked."""

    def __init__(
        self, connection: Connection, announcer: Announcer, names: Names, counts: Counts, *, lead: bool
    ) -> None:
        self._connection = connection
        self._announcer = announcer
        self._names = names
        self._counts = counts
        self._leads = lead
        self._users: OrderedDict[str, str] = OrderedDict()
        """The user as whom a worker comes, by the token of the worker's id."""
        self._hearers: dict[str, Callable[[str], object]] = {}
        """The functions that are told which runs have to stop, by the worker of this process that may have them."""
        self._link: Link | None = None

    def hear(self, worker_id: str, on_stop: Callable[[str], object]) -> None:
        """Have `on_stop` told which runs of a worker of this process shall stop, until the end: it may execute some long
        after it has left.
        """
        is_new = worker_id not in self._hearers
        self._hearers[worker_id] = on_stop
        if is_new and self._link is not None:
            self._hear_on(self._link, worker_id)

    def ask_to_stop(self, worker_id: str, run_id: str) -> None:
        """Tell a worker, as far as that can be done now."""
        link = self._connection.link
        if link is None:
            return
        if self._leads:
            user = self._users.get(token_of(worker_id), NOBODY)
            sent = link.publish(self._names.stop(user, worker_id), encoded(RunNotice(run_id)))
        else:
            sent = link.publish(self._names.asks(link.user), encoded(Ask(run=run_id, worker=worker_id)))
        self._counts.stops_sent += sent

    async def attend(self, link: Link) -> None:
        """Hear what workers of this process are asked; of a server also which workers there are, and what they ask for."""
        if self._leads:
            link.subscribe(self._names.here("*"), self._take_here)
            link.subscribe(self._names.asks("*"), self._take_ask, queue=self._names.servers)
            link.publish(self._names.roll_call)
        self._link = link
        for worker_id in self._hearers:
            self._hear_on(link, worker_id)
        try:
            await asyncio.wait([link.lost])
        finally:
            self._link = None

    def _hear_on(self, link: Link, worker_id: str) -> None:
        def say_here(_: Msg | None = None) -> None:
            link.publish(self._names.here(link.user), encoded(Here(worker_id)))

        link.subscribe(self._names.stop(link.user, worker_id), partial(self._take_stop, worker_id))
        link.subscribe(self._names.roll_call, say_here)
        say_here()

    def _take_stop(self, worker_id: str, message: Msg) -> None:
        notice = read(RunNotice, message.data)
        if notice is None:
            self._counts.note_unreadable(message.subject)
            return
        self._counts.stops_heard += 1
        self._hearers[worker_id](notice.run)

    def _take_here(self, message: Msg) -> None:
        here = read(Here, message.data)
        user = message.subject.split(".")[-2]
        if here is None or self._users.setdefault(token_of(here.worker), user) != user:  # the first to come is the one
            self._counts.note_unreadable(message.subject)
            return
        self._users.move_to_end(token_of(here.worker))
        if len(self._users) > _MOST_WORKERS:
            self._users.popitem(last=False)

    def _take_ask(self, message: Msg) -> None:
        match read(Ask, message.data):
            case Ask(run=str() as run, worker=str() as worker, pool=None):
                self.ask_to_stop(worker, run)
            case Ask(run=str() as run, pool=str() as pool, worker=None):
                self._announcer.announce([ReadyRun(run, pool)])
            case Ask(pool=str() as pool, run=None, worker=None):
                self._announcer.want_pool(pool)
            case _:
                self._counts.note_unreadable(message.subject)
