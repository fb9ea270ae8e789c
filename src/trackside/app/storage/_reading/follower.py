"""A follower of the log: a cursor, which the feed serves as long as it is near the end. Otherwise it reads for itself."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import Protocol, override

from trackside.app.storage import errors
from trackside.app.storage._reading.follow import EventFeed, HearOutage, pause_after
from trackside.app.storage._reading.recent import EventFilter
from trackside.app.storage._rows.records import StoredEvent
from trackside.harness.errors import ClosedError

_OWN_PAGE = 100
"""How many events a follower reads at once, and so the most that it holds for itself."""


class ReadPage(Protocol):
    """Reads wanted events from the log, in order: `Store.events`, with the filter in it."""

    def __call__(self, after: int, *, before: int, limit: int) -> Awaitable[list[StoredEvent]]:
        """The first `limit` of them between two positions."""
        ...


class Follower(AsyncIterator[StoredEvent]):
    """The events of the log after a position, one after another, without end: what `Store.follow` returns.

    While the database is away, it waits. An exception does not end it: the next call continues from where it was, and
    so it does after a cancel. It holds nothing that has to be given back; `end` is for ending it from elsewhere.
    """

    def __init__(
        self,
        feed: EventFeed,
        wanted: EventFilter,
        after: int,
        read: ReadPage,
        *,
        on_outage: HearOutage | None = None,
    ) -> None:
        self.wanted = wanted
        self.on_outage = on_outage
        self._feed = feed
        self._read = read
        self._cursor = after
        self._page: deque[StoredEvent] = deque()
        self._turned = len(feed.turns)
        self._asked = False
        self._ended = False
        self._awake = asyncio.Event()
        feed.join(self)

    @property
    def position(self) -> int:
        """All events up to this position have been given, or are not wanted: continue after it to miss nothing."""
        return self._page[0].position - 1 if self._page else self._cursor

    @override
    async def __anext__(self) -> StoredEvent:
        """The next event, as soon as there is one.

        Raises:
            InvalidQueryError: the log has never been as long as the position to begin after.
            FollowerBusyError: it is waited for already.
            StorageError: the log cannot be read, and not because the database is away.
        """
        if self._asked:
            raise errors.FollowerBusyError
        self._asked = True
        failures = 0
        try:
            while not self._page:
                if self._ended or self._feed.closed:
                    raise StopAsyncIteration
                try:
                    stored = await self._look()
                except errors.StorageError as exc:
                    self._feed.note_outage(exc)
                    failures += 1
                    await self._rest(pause_after(failures))
                else:
                    failures = 0
                    if stored is not None:
                        return stored
            return self._page.popleft()
        except ClosedError:
            raise StopAsyncIteration from None
        finally:
            self._asked = False

    async def skip(self) -> None:
        """Wait until there is an event that is wanted, and go past it and all that are known to be there by now.

        For code that wants to know that something has happened, and finds out itself what. Where all events are wanted,
        none is read for that.

        Raises:
            ClosedError: the store is closed.
            StorageError: the log cannot be read, and not because the database is away.
        """
        if self.wanted.wants_all and not self._page:
            self._turn_back()
            self._cursor = await self._feed.growth.beyond(self._cursor)
            return
        try:
            await anext(self)
        except StopAsyncIteration:
            raise ClosedError(what="store") from None
        self._page.clear()
        self._cursor = self._feed.newest(self._cursor)

    async def _look(self) -> StoredEvent | None:
        """Return the next event if the feed has it; otherwise wait, or fetch a page from the log."""
        feed = self._feed
        self._turn_back()
        if feed.holds(self._cursor):
            stored, self._cursor = await feed.first(self._cursor, self.wanted)
            if stored is None and feed.holds(self._cursor):
                self._cursor = max(self._cursor, await feed.wait(self))
            return stored
        end = await feed.reach(self._cursor)
        if self._cursor > end:
            why = f"the log ends at {end}; after that no position was ever given to an event"
            raise errors.InvalidQueryError(field="after", value=self._cursor, why=why)
        if not feed.holds(self._cursor):
            page = await self._read(self._cursor, before=end + 1, limit=_OWN_PAGE)
            self._feed.note_return()
            self._page.extend(page)
            self._cursor = page[-1].position if len(page) == _OWN_PAGE else end
        return None

    def _turn_back(self) -> None:
        """Go back with the log if it has lost what this follower has seen."""
        if self._turned < len(turns := self._feed.turns):
            self._cursor = min(self._cursor, *turns[self._turned :])
            self._turned = len(turns)

    async def _rest(self, seconds: float) -> None:
        """Wait so long, or until this ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._awake.wait()

    def wake(self) -> None:
        """Stop waiting for the database, because the follower is ending."""
        self._awake.set()

    async def aclose(self) -> None:
        """As `end`, so that whatever closes asynchronous iterators can close this one, too."""
        self.end()

    def end(self) -> None:
        """Give nothing more, even to a caller that waits for the next event now. May be called again."""
        self._ended = True
        self.wake()
        self._page.clear()
        self._feed.leave(self)
