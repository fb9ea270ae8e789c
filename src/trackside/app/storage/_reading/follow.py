"""Following the log: any number of followers, one reader.

A feed keeps the latest events, decoded once, and serves every follower near the end of the log from there. What this
process commits gets there straight from its writer, as long as nothing of other processes lies in between; the feed
reads that from the log when somebody waits for it. A follower is no more than a cursor: one that falls behind what the
feed keeps reads pages of its own until it has caught up, and costs nobody else anything.

A database that is away ends nobody: the feed and each follower that reads for itself try again, with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from sqlalchemy import Connection, func, select

from trackside.app.storage import errors
from trackside.app.storage._databases.growth import LogGrowth
from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._databases.signals import CommitSignals
from trackside.app.storage._reading import queries
from trackside.app.storage._reading.landmarks import Landmark, Sight, landmarks, last_common, look_for, sight_of
from trackside.app.storage._reading.recent import EventFilter, RecentEvents
from trackside.app.storage._rows.arguments import check_count_option, check_seconds_option
from trackside.app.storage._rows.encoding import EventRow
from trackside.app.storage._rows.records import StoredEvent
from trackside.app.storage._rows.tables import events
from trackside.harness.errors import ClosedError, TracksideError

logger = logging.getLogger("trackside.storage")

_PAGE = 500
"""How many events the feed reads at once."""
_EVENT_BYTES = 500
"""About how many bytes an event takes besides its payload."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds between two tries to read a database that is away


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowOptions:
    """What `Store.follow` keeps in memory for all its followers, and how soon it sees what other processes write.

    Raises:
        StoreOptionError: a value does not fit.
    """

    recent_count: int = 4_096
    """How many events are kept."""
    recent_bytes: int = 16 * 1_048_576
    look_every: float = 0.05
    """How many seconds pass between two looks at an SQLite file for commits of other processes, while somebody waits
    for them.
    """

    def __post_init__(self) -> None:
        for name in ("recent_count", "recent_bytes"):
            check_count_option(name, getattr(self, name))
        check_seconds_option("look_every", self.look_every, least=0.001, most=3600)


class _Reading(NamedTuple):
    """What was found in the log: the next events with the sizes of their payloads.

    Without a page, the feed goes on at the end of the log; `before` is what is before that.
    """

    sight: Sight
    page: Sequence[tuple[StoredEvent, int]] | None = None
    before: Sequence[Landmark] = ()


def _read_on(connection: Connection, *, after: Landmark | None, most: int | None) -> _Reading:
    """Read the log after a place; only its end if there is no place, or more than `most` positions in between."""
    # First, so that all events up to this end are in the page, whatever is committed meanwhile.
    sight = sight_of(after, connection.execute(look_for(after)).one())
    end = sight.end.position
    if sight.is_other:
        return _Reading(sight)
    if after is None or (most is not None and end - after.position > most):
        return _Reading(sight, before=landmarks(connection, end - _PAGE, end))
    query = select(events, func.length(events.c.payload).label("size"))
    rows = connection.execute(query.where(events.c.position > after.position).order_by(events.c.position).limit(_PAGE))
    return _Reading(sight, [(queries.event_of(row), row.size) for row in rows])


def pause_after(failures: int) -> float:
    """Seconds to wait, after so many failures, before a database that is away is asked again."""
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures - 1, 8))


type HearOutage = Callable[[errors.StorageError], object]
"""Called on the loop with the error, once for each time that the database is away."""

type _Waiter = asyncio.Future[int | TracksideError]


class Following(Protocol):
    """A follower, as far as the feed needs to know it."""

    wanted: EventFilter
    on_outage: HearOutage | None

    def wake(self) -> None:
        """Stop waiting for the database."""
        ...


class EventFeed:
    """The end of the log, for all followers of one store. Belongs to the store's event loop."""

    def __init__(self, readers: Readers, signals: CommitSignals, options: FollowOptions, *, database: str) -> None:
        self._readers = readers
        self._database = database
        self._signals = signals
        self._recent = RecentEvents(count=options.recent_count, size=options.recent_bytes)
        self._recent_count = options.recent_count
        self._loop = asyncio.get_running_loop()
        self._followers: weakref.WeakSet[Following] = weakref.WeakSet()
        self._waiting: dict[str | None, dict[Following, _Waiter]] = {}
        self._begun = False
        self._behind = False
        self._is_doubtful = False
        """Whether the log was seen to have lost what is here: nothing is added before it is known how much."""
        self._is_unread = False
        """Whether the last try to read the log failed: when it can be read, it is seen whether it is the same log."""
        self._committed = 0
        self._untold: set[str] = set()
        self._told = 0
        self._reading_lock = asyncio.Lock()
        self._agents_lock = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self._is_away = False
        self.growth = LogGrowth(readers, signals, self.note_outage, self.note_return)
        """Wakes those who only want to know that there is more."""
        self.turns: list[int] = []
        """For each time that the log has lost events, the position up to which it stayed what it was."""
        self.closed = False

    def join(self, follower: Following) -> None:
        """Add a follower, until it leaves or nobody refers to it any more.

        Raises:
            ClosedError: the store is closed.
        """
        if self.closed:
            raise ClosedError(what="store")
        self._followers.add(follower)

    def leave(self, follower: Following) -> None:
        """Remove a follower, even one that is waiting. May be called again."""
        self._followers.discard(follower)
        if (waiter := self._waiting.get(follower.wanted.subject, {}).get(follower)) is not None:
            _answer(waiter, 0)
        if not self._followers:
            self._pause()

    def on_commit(self, rows: Sequence[EventRow]) -> None:
        """Take what this process has committed, unless something that is not here comes before it."""
        self._committed = rows[-1].position
        self.growth.reach(self._committed)
        if not self._begun:
            return
        if not self._followers:
            self._pause()
        elif self._is_doubtful or self._is_unread or rows[0].position > self._recent.end + 1:
            self._fall_behind()
        elif self._recent.has_another(rows[0]):
            self._is_doubtful = True
            self._fall_behind()
        else:
            for row in rows:
                self._take(StoredEvent(row.position, row.event), len(row.payload))

    def holds(self, cursor: int) -> bool:
        """Whether all that comes after this position is here, as far as it is known."""
        return self._begun and self._recent.holds(cursor)

    def newest(self, cursor: int) -> int:
        """The end of what is here, for a follower that has seen all that it wants up to this position."""
        return self._recent.end if self.holds(cursor) else cursor

    async def first(self, cursor: int, wanted: EventFilter) -> tuple[StoredEvent | None, int]:
        """The first event that is here after the cursor and is wanted; and the position up to which all has been seen.

        If it is not known whose event it is, or of which agent, that is looked up before the cursor goes past it.

        Raises:
            StorageError: an agent or an owner could not be looked up.
        """
        while self.holds(cursor):
            stored = self._recent.first(cursor, wanted)
            if stored is None:
                return None, self._recent.end
            if self._recent.is_known(stored, wanted):
                return stored, stored.position
            cursor = stored.position - 1
            if wanted.agent is not None:
                await self._learn_agents()
            if wanted.owner is not None and (unowned := self._recent.unowned(cursor)):
                found = await self._readers.run(partial(queries.owners_of, run_ids=unowned))
                self._recent.learn_owners(unowned, found)
        return None, cursor

    async def reach(self, cursor: int) -> int:
        """Where the log ends; if that seems to be before this position, the log is read on, at least up to it.

        Raises:
            StorageError: the log could not be read.
        """
        if not self._begun or cursor > self._recent.end:
            async with self._reading_lock:
                ends_later = True
                while not self._begun or (ends_later and cursor > self._recent.end):
                    ends_later = await self._read_locked() > self._recent.end
        return self._recent.end

    async def wait(self, follower: Following) -> int:
        """Wait until something may have come that is wanted by this follower, which has seen all that is here.

        Returns a position up to which it has missed nothing.

        Raises:
            StorageError: the log could not be read.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            raise errors.ForeignLoopError(database=self._database)
        subject = follower.wanted.subject
        waiter: _Waiter = loop.create_future()
        if not self._waiting:
            self._signals.listen(self._fall_behind)
        self._waiting.setdefault(subject, {})[follower] = waiter
        if self._behind:
            self._read_soon()
        try:
            outcome = await waiter
        finally:
            self._forget(subject, follower)
        if isinstance(outcome, TracksideError):
            # Many followers hear what stopped their common reader: each gets its own exception.
            raise type(outcome)(**outcome.details) from outcome
        return outcome

    def _forget(self, subject: str | None, follower: Following) -> None:
        waiting = self._waiting.get(subject)
        if waiting is not None:
            waiting.pop(follower, None)
            if not waiting:
                del self._waiting[subject]
        if not self._waiting:
            self._signals.stop_listening(self._fall_behind)

    async def aclose(self) -> None:
        """End all followers. May be called again."""
        self.closed = True
        await self.growth.aclose()
        self._answer_all(0)
        for follower in self._followers:
            follower.wake()
        self._followers.clear()
        self._pause()
        if (reader := self._reader) is not None:
            reader.cancel()
            await asyncio.wait([reader])

    def note_outage(self, failure: errors.StorageError) -> None:
        """Note that the log could not be read; this is said once, until it can be read again.

        Raises:
            StorageError: this failure, if it is not one that passes.
        """
        if not failure.retryable:
            raise failure
        if self._is_away:
            return
        self._is_away = True
        logger.warning("the log cannot be followed for now, and is tried again until it can: %s", failure)
        for follower in self._followers:
            if follower.on_outage is not None:
                self._loop.call_soon(follower.on_outage, failure)  # not here: what it raises is its own affair

    def note_return(self) -> None:
        """Note that the log could be read."""
        self._is_away = False

    def _pause(self) -> None:
        """Keep nothing while nobody follows."""
        self._begun = False
        self._restart(Landmark(0))

    def _restart(self, end: Landmark, before: Sequence[Landmark] = ()) -> None:
        self._untold.clear()
        self._is_unread = False
        self._recent.restart(end, before)

    def _fall_behind(self) -> None:
        """Note that there may be more in the log than is here."""
        self._behind = True
        if self._waiting:
            self._read_soon()

    def _read_soon(self) -> None:
        if self._reader is None or self._reader.done():
            reads = self._read_for_all()
            self._reader = self._loop.create_task(reads, name="trackside-follow", context=Context())  # in nobody's run

    async def _read_for_all(self) -> None:
        """Read on while there may be more and somebody waits for it: followers that do not wait have enough to do."""
        failures = 0
        try:
            while self._behind and self._waiting:
                try:
                    async with self._reading_lock:
                        await self._read_locked()
                except errors.StorageError as exc:
                    self.note_outage(exc)
                    failures += 1
                    await asyncio.sleep(pause_after(failures))
                else:
                    failures = 0
        except TracksideError as exc:
            self._answer_all(exc)
        except Exception as exc:  # whatever it is, those who wait must hear of it
            logger.exception("the log could not be followed")
            self._answer_all(errors.StorageError(database=self._database, why=f"{type(exc).__name__}: {exc}"))

    async def _read_locked(self) -> int:
        """Read on by a page; begin at the end of the log, and again there if nobody waits and pages would be many.

        Returns where the log ended by then, which may be beyond the page.
        """
        after = self._recent.landmark if self._begun else None
        most = None if self._waiting else self._recent_count
        committed = self._committed
        self._behind = self._is_doubtful = False
        try:
            found = await self._readers.run(partial(_read_on, after=after, most=most))
        except BaseException:
            self._behind = self._is_unread = True
            raise
        self._is_unread = False
        self.note_return()
        if found.sight.is_other and self._begun:
            await self._turn_back()
        elif found.page is None or not self._begun:
            self._begun = True
            self._restart(found.sight.end, found.before)
            self._answer_all(0)  # a follower that began to wait meanwhile is behind this end
        else:
            for stored, size in found.page:
                self._take(stored, size)
            if len(found.page) < _PAGE:
                self._recent.reach(found.sight.end)
            else:
                self._behind = True
        if found.sight.end.position < committed == self._committed:  # the database has lost it
            self._committed = found.sight.end.position
        if self._committed > self._recent.end:  # meanwhile, before there was anything for it to follow on
            self._behind = True
        return found.sight.end.position

    async def _turn_back(self) -> None:
        """Go back, with all followers, to where the log is still the one that was read, and read on from there."""
        self._behind = self._is_doubtful = True  # until it is known how far, which may take more than one try
        known = self._recent.landmarks
        common = await self._readers.run(partial(last_common, known=known))
        what = "the log of %s has lost events that were committed, as a failover can do: it is followed anew from %d on"
        logger.error(what, self._database, common)
        self.turns.append(common)
        self._committed = min(self._committed, common)
        self.growth.turn_back(common)
        self._restart(Landmark(common), [landmark for landmark in known if landmark.position <= common])
        self._is_doubtful = False
        self._answer_all(0)

    async def _learn_agents(self) -> None:
        async with self._agents_lock:
            if unknown := self._recent.agents.unknown:
                found = await self._readers.run(partial(queries.agents_of, run_ids=unknown))
                self._recent.agents.learn(unknown, found)

    def _take(self, stored: StoredEvent, size: int) -> None:
        if stored.position <= self._recent.end:
            return
        if not self._untold:
            self._told = self._recent.end
            # Soon, not now: whoever committed this goes first, as the next commit takes longer than the news of it.
            self._loop.call_soon(self._tell)
        self._untold.update((stored.event.run_id, stored.event.thread_id))
        self._recent.append(stored, size + _EVENT_BYTES)

    def _tell(self) -> None:
        """Wake those who may want what has come. The others have seen nothing of it, and have missed nothing."""
        subjects, self._untold = self._untold, set()
        if subjects:
            for subject in (None, *subjects):
                for waiter in self._waiting.pop(subject, {}).values():
                    _answer(waiter, self._told)

    def _answer_all(self, answer: int | TracksideError) -> None:
        waiting, self._waiting = self._waiting, {}
        for waiters in waiting.values():
            for waiter in waiters.values():
                _answer(waiter, answer)


def _answer(waiter: _Waiter, answer: int | TracksideError) -> None:
    if not waiter.done():
        waiter.set_result(answer)
