"""What is said on a thread, over all its runs: which run starts, its parts, how it ends, and what else changes the thread.

For those who follow a thread, and not one of its runs. A feed has what happened in this process since somebody began to
follow or a run began, bounded as runs' own streams are. Its items count 1, 2, 3 …, so that a follower resumes; a feed that
was forgotten meanwhile begins anew, with another `epoch`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import time
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from trackside.app.streams._ring import Ring, RingReader
from trackside.app.streams.frames import Frame
from trackside.harness.types import RunRecord

_SMALL = 200  # bytes: what an item takes that is no part


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedLimits:
    """How much is kept of what is said on threads."""

    items: int = 10_000
    """Of one thread."""
    item_bytes: int = 4 * 1_048_576
    """Of one thread."""
    idle_threads: int = 512
    """Threads without a run, and without a follower, that can still be followed from where one left."""
    idle_bytes: int = 16 * 1_048_576
    """Of all these together."""


class FeedItem(NamedTuple):
    """One thing that happened on a thread.

    A run has `started` (`what` is its `RunRecord`), said a `part` (its `Frame`), or `ended` (the payload of its last event;
    None if how it ended is not known here: another process has it now). Or somebody has changed the thread's `state`
    to what it is now (JSON), on behalf of no run.
    """

    kind: Literal["started", "part", "ended", "state"]
    run_id: str
    what: Any
    size: int = _SMALL
    at: int = 0
    """When, in milliseconds since 1970; of a part its frame knows."""
    modes: frozenset[str] = frozenset()
    """What a run that has started was asked to say."""
    resume: Any = None
    """The answer that it brings, if it brings one."""


class ThreadFeed(Ring[FeedItem]):
    """What is said on one thread."""

    __slots__ = ("_owner", "active", "derived", "epoch", "readers", "started_at", "thread_id")

    def __init__(self, owner: ThreadFeeds, thread_id: str) -> None:
        super().__init__(owner.limits.items, owner.limits.item_bytes)
        self._owner = owner
        self.thread_id = thread_id
        self.epoch = owner.next_epoch()
        """When it began, in milliseconds since 1970; part of its items' ids."""
        self.readers = 0
        self.active: set[str] = set()
        """The runs that have started here, and not ended."""
        self.started_at: int = 0
        """The number of the item by which the run started that started last."""
        self.derived: Any = None
        """What somebody has made of the items, to be forgotten with them: see `protocol`."""

    def note_start(self, run: RunRecord, modes: frozenset[str] = frozenset(), resume: Any = None) -> None:
        """A run has started, which was asked to say something, and may bring an answer."""
        self.add(FeedItem("started", run.run_id, run, at=_now(), modes=modes, resume=resume))
        self.active.add(run.run_id)
        self.started_at = self.added

    def note_part(self, run_id: str, frame: Frame) -> None:
        """A run has said something. Wakes nobody."""
        self.add(FeedItem("part", run_id, frame, frame.size))

    def note_end(self, run_id: str, end: Mapping[str, Any] | None) -> None:
        """A run has ended; one that never started, too."""
        self.add(FeedItem("ended", run_id, end, at=_now()))
        self.active.discard(run_id)
        self._owner.settle(self)

    @property
    def limits(self) -> FeedLimits:
        """How much is kept of it."""
        return self._owner.limits

    @property
    def is_kept(self) -> bool:
        """Whether it is still the thread's feed, and was not forgotten."""
        return self._owner.known(self.thread_id) is self

    def id_of(self, sequence: int) -> str:
        """By which a reader resumes after an item."""
        return f"{self.epoch}-{sequence}"


class ThreadFeeds:
    """The feeds of the threads that anything happens on, or that somebody follows."""

    def __init__(self, limits: FeedLimits | None = None) -> None:
        self.limits = limits or FeedLimits()
        self._feeds: dict[str, ThreadFeed] = {}
        self._idle: OrderedDict[str, int] = OrderedDict()
        self._idle_bytes = 0
        self._closed = False
        self._epoch = 0

    def next_epoch(self) -> int:
        """When the next feed begins: later than every other one, whatever the clock says."""
        self._epoch = max(_now(), self._epoch + 1)
        return self._epoch

    def feed_of(self, thread_id: str) -> ThreadFeed:
        """The feed of a thread, which begins now if there is none."""
        feed = self._feeds.get(thread_id)
        if feed is None:
            feed = self._feeds[thread_id] = ThreadFeed(self, thread_id)
            feed.closed = self._closed
        else:
            self._idle_bytes -= self._idle.pop(thread_id, 0)
        return feed

    def read(self, thread_id: str, *, after: int | None = None) -> FeedReader:
        """Go along what is said on a thread: `with feeds.read(thread_id) as reader`.

        Args:
            thread_id: which one. Whether there is such a thread is for others to know.
            after: from behind this item on; 0 is all that is kept. None: from the start of the run that is active now,
                and if there is none from now on.
        """
        feed = self.feed_of(thread_id)
        if after is None:
            after = feed.started_at - 1 if feed.active else feed.added
        return FeedReader(feed, min(after, feed.added))

    def note_state(self, thread_id: str, state: bytes) -> None:
        """Somebody has changed a thread's state, to this as JSON, on behalf of no run; tells those who follow it."""
        if (feed := self._feeds.get(thread_id)) is not None:
            feed.add(FeedItem("state", "", state, _SMALL + len(state), at=_now()))
            feed.wake()
            self.settle(feed)

    def forget(self, thread_ids: Iterable[str]) -> None:
        """These threads are gone: who follows one gets to the end."""
        for thread_id in thread_ids:
            if (feed := self._feeds.pop(thread_id, None)) is not None:
                self._idle_bytes -= self._idle.pop(thread_id, 0)
                feed.close()

    def known(self, thread_id: str) -> ThreadFeed | None:
        """The feed of a thread, if there is one."""
        return self._feeds.get(thread_id)

    def settle(self, feed: ThreadFeed) -> None:
        """Let a feed go that nobody needs now, if there are many such."""
        if feed.active or feed.readers or self._feeds.get(feed.thread_id) is not feed:
            return
        size = feed.size if feed.derived is None else feed.size + feed.derived.size
        self._idle_bytes += size - self._idle.pop(feed.thread_id, 0)
        self._idle[feed.thread_id] = size
        limits = self.limits
        while self._idle and (len(self._idle) > limits.idle_threads or self._idle_bytes > limits.idle_bytes):
            thread_id, size = self._idle.popitem(last=False)
            self._idle_bytes -= size
            del self._feeds[thread_id]

    def end_all(self) -> None:
        """Have all who follow a thread get to the end."""
        self._closed = True
        for feed in self._feeds.values():
            feed.close()


class FeedReader(RingReader[FeedItem]):
    """One reader's place in what is said on a thread; it has to be closed, as by `with`."""

    __slots__ = ("feed",)

    def __init__(self, feed: ThreadFeed, seen: int) -> None:
        super().__init__(feed, seen)
        self.feed = feed
        feed.readers += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.feed.readers -= 1
        self.feed._owner.settle(self.feed)  # noqa: SLF001  # the feed is of the same module

    def after_id(self, item_id: str) -> bool:
        """Go on behind the item with this id; False if it is none of this feed, whose reader stays where it is."""
        epoch, _, number = item_id.partition("-")
        if epoch != str(self.feed.epoch) or not number.isdecimal() or int(number) > self.feed.added:
            return False
        self.seen = int(number)
        return True


def _now() -> int:
    return int(time() * 1000)
