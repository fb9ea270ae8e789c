"""One reader's place in the events of a thread: where it begins, what it is told, and what it is not."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from trackside.app.streams._ring import RingReader
from trackside.app.streams.protocol._event import TAIL, Event
from trackside.app.streams.protocol.events import ThreadEventLog, log_of
from trackside.app.streams.protocol.wanted import Wanted, only_lifecycle
from trackside.app.streams.thread_feed import FeedReader, ThreadFeeds


class EventReader(RingReader[Event]):
    """One reader's place in the events of a thread; it must be closed, as by `with`."""

    __slots__ = ("_feed", "_first", "_instead", "_log", "_missed", "_since", "_wanted", "passes_past")

    def __init__(
        self, log: ThreadEventLog, feed: FeedReader, wanted: Wanted, since: int | None, holder: str | None
    ) -> None:
        place, is_whole = log.place_of(since, wanted, holder)
        super().__init__(log, place)
        self._log = log
        self._feed = feed
        self._wanted = wanted
        self._since = since or 0
        self._missed = not is_whole
        self._first, self._instead = log.of_questions(place) if since is None else ([], {})
        self.passes_past = False
        """Whether the reader hears nothing of what is recalled of a thread on which nothing goes on."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._feed.__exit__(kind, exc, trace)

    def pieces(self, most_bytes: int | None = None) -> list[bytes]:
        """What is new and wanted, as bytes to be sent one after another; empty if there is no such thing.

        With `most_bytes`, it looks no further than about so many bytes: `has_more` may be true though this is empty.
        """
        log = self._log
        log.catch_up()
        self._feed.seen = log.seen
        missed = self.gap() is not None or self._missed
        self._missed = False
        pieces = [*_pieces_of(log.gap_after(self.seen, self._since))] if missed else []
        only_watches = only_lifecycle(self._wanted.channels)
        has, instead = self._wanted.has, self._instead
        first, self._first = self._first, []
        for event in filter(has, first):
            pieces += _pieces_of(event)
        passed = log.past if self.passes_past else ()
        for event in self.take(most_bytes):
            if event.seq in instead:
                pieces += _pieces_of(other) if (other := instead[event.seq]) is not None and has(other) else ()
            elif has(event) and event.seq not in passed:
                pieces += (event.head, event.data, TAIL)
                if only_watches and event.ends is not None:
                    log.note_watched(event.ends)
        return pieces

    @property
    def is_over(self) -> bool:
        """Whether everything was taken, and no more will come."""
        return self._feed.is_over and not self.has_more

    @property
    def log(self) -> ThreadEventLog:
        """The log that it reads."""
        return self._log

    @property
    def thread_is_gone(self) -> bool:
        """Whether it is over because the thread no longer exists."""
        return self._feed.thread_is_gone

    async def wait(self) -> bool:
        """Wait until there may be more, or the end, or a nudge; returns whether there may be more, or the end."""
        return self.has_more or await self._feed.wait() or self.has_more

    def nudge(self) -> None:
        """End the reader's waiting, if it waits."""
        self._feed.nudge()

    def rouse(self) -> None:
        """End the reader's waiting, now and from now on."""
        self._feed.rouse()


def read_events(
    feeds: ThreadFeeds, thread_id: str, wanted: Wanted, since: int | None = None, *, holder: str | None = None
) -> EventReader:
    """A place in the events of a thread; use it as a context manager.

    Args:
        feeds: where the thread's feed is.
        thread_id: the thread. This does not check that it exists.
        wanted: which events.
        since: from behind this event on; 0 is all that is kept. None: as `ThreadEventLog.place_of` says.
        holder: the run that has the thread, which may not have begun. Counts only without `since`, as the next run.
    """
    feed = feeds.read(thread_id)
    return EventReader(log_of(feed.feed), feed, wanted, since, holder)


def _pieces_of(event: Event) -> Iterable[bytes]:
    return event.head, event.data, TAIL
