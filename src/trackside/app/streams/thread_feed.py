"""What is said on a thread, over all its runs: which run starts, its parts, how it ends, and what else changes the thread.

This is for those who follow a thread, and not one of its runs. A feed has what happened in this process, or came here
from others, since somebody began to follow or a run began, bounded as runs' own streams are.

Its items are numbered by when they happened (`number_after`), which each process that hears of them knows. So two
processes give the same item the same number, and a follower can resume in a different process. Where they do not,
because one of them has not heard everything, a number or its neighbours are missing; then the follower is told of a
gap.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self

from trackside.app.streams._ring import Ring, RingReader, Sized
from trackside.app.streams.frames import Frame, now_ms
from trackside.app.streams.live_messages import State, state_of, weight_of
from trackside.harness.ports import StreamGap

_SMALL = 500  # bytes: what an item that is no part takes besides what it says
_KNOWN_STATES: Final = 1_000
"""How many changes of a thread's state are recognised if they come once more."""
_LOOK_AGAIN: Final = 0.01
"""Seconds between two looks at whether a run was watched, which is no item."""
PER_MS: Final = 1_000
"""Numbers for each millisecond: nothing is said faster than that."""


def number_after(newest: int, at: int, *, unsure: bool = False) -> int:
    """The number of what happened `at` that time, in milliseconds since 1970, behind what has the number `newest`.

    It is the time, with three more digits for items of the same millisecond. If the item is `unsure`, because other
    processes may have had something before it in this millisecond, the number is one that they will not have.
    """
    return max(newest + 1, at * PER_MS + (PER_MS // 2 if unsure else 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedLimits:
    """How much is kept of what is said on threads."""

    items: int = 10_000
    """Items of one thread."""
    item_bytes: int = 4 * 1_048_576
    """Bytes of one thread."""
    behind: int = 8
    """How many times as much of one thread there may be while somebody who follows it has that still to take."""
    idle_threads: int = 512
    """Threads without a run and without a follower that can still be followed from where a follower left."""
    idle_bytes: int = 16 * 1_048_576
    """Bytes of all these together."""


class Start(NamedTuple):
    """What is told of a run that starts: not all that is known of it, because a feed has thousands of them."""

    agent: str
    attempt: int
    modes: frozenset[str] = frozenset()
    """What it was asked to say."""
    answers: tuple[str, ...] | None = None
    """To which questions it brings answers; empty if it says no names, None if it brings none."""
    retry_of: str | None = None
    """The run that it is another attempt of."""
    by_command: bool = False
    """Whether a command of version 2 of the protocol has asked for it: a client that sends one watches the thread."""


class FeedItem(NamedTuple):
    """One thing that happened on a thread.

    A run has `started` (`what` is a `Start`), said a `part` (its `Frame`), or `ended` (what its last event says,
    without what is long; None if how it ended is not known here, as another process has it now). Parts that have not
    come here are `missed` (the `StreamGap`). Or somebody has changed the thread's `state`, on behalf of no run, to what
    it is now (JSON).
    """

    kind: Literal["started", "part", "ended", "missed", "state"]
    run_id: str
    what: Any
    size: int = _SMALL
    at: int = 0
    """When, in milliseconds since 1970; for a part, its frame knows."""
    number: int = 0
    """Grows along the feed; see `number_after`."""
    by_command: bool = False
    """For an end: whether a command has asked for the run, as its start says, too, if there was one."""

    @property
    def time(self) -> int:
        """When it happened, also for a part."""
        return self.what.at if self.kind == "part" else self.at


class ThreadFeed(Ring[FeedItem]):
    """What is said on one thread."""

    __slots__ = (
        "_owner",
        "_states",
        "active",
        "derived",
        "floor",
        "mirrored",
        "newest",
        "readers",
        "started_at",
        "thread_id",
        "watched",
    )

    def __init__(self, owner: ThreadFeeds, thread_id: str) -> None:
        super().__init__(owner.limits.items, owner.limits.item_bytes, owner.limits.behind)
        self._owner = owner
        self._states: dict[tuple[int, int], None] = {}
        """When the thread's state was changed, and a hash of the new state, if other processes hear of that, too."""
        self.thread_id = thread_id
        self.floor = self.newest = owner.floor
        """The number that all items' numbers are greater than, and the number of the newest item."""
        self.readers = 0
        self.watched: str | None = None
        """The run whose end somebody who watches the thread has last heard of."""
        self.mirrored = False
        """Whether other processes tell what happens on the thread."""
        self.active: set[str] = set()
        """The runs that have started here, and not ended."""
        self.started_at: int = 0
        """How many items there were, including the start of the run that started last."""
        self.derived: Any = None
        """What somebody has made from the items, to be forgotten with them: see `protocol`."""

    def note_start(self, run_id: str, start: Start, *, at: int) -> None:
        """A run has started."""
        self.add(FeedItem("started", run_id, start, at=at, number=self._number(at)))
        self.active.add(run_id)
        self.started_at = self.added

    def note_active(self, run_id: str) -> None:
        """A run has started whose start is not known here; what it says comes next."""
        self.active.add(run_id)
        self.started_at = self.added + 1

    def note_part(self, run_id: str, frame: Frame) -> None:
        """A run has said something. Wakes nobody."""
        self.add(FeedItem("part", run_id, frame, frame.size, number=self._number(frame.at)))

    def note_missed(self, run_id: str, gap: StreamGap, *, at: int) -> None:
        """What a run said before that time has not come here."""
        self.add(FeedItem("missed", run_id, gap, at=at, number=self._number(at, unsure=True)))

    def note_end(
        self, run_id: str, end: Mapping[str, Any] | None, *, at: int | None = None, by_command: bool = False
    ) -> None:
        """A run has ended; this includes a run that never started."""
        at = now_ms() if at is None else at
        size, number = _SMALL + weight_of(end), self._number(at)
        self.add(FeedItem("ended", run_id, end, size, at=at, number=number, by_command=by_command))
        self.active.discard(run_id)
        self._owner.settle(self)

    def note_state(self, state: bytes, *, at: int) -> None:
        """Somebody has changed the thread's state on behalf of no run; it is now this, as JSON."""
        self.add(FeedItem("state", "", state, _SMALL + len(state), at=at, number=self._number(at)))
        self.wake()
        self._owner.settle(self)

    def remember_state(self, state: State) -> bool:
        """Remember a change of the thread's state, which may come more than once; returns whether it was new."""
        key = state.at, hash(state.data)
        if key in self._states:
            return False
        self._states[key] = None
        if len(self._states) > _KNOWN_STATES:
            del self._states[next(iter(self._states))]
        return True

    def note_watched(self, run_id: str) -> None:
        """Somebody who watches the thread has heard how a run has ended."""
        if self.watched != run_id:
            self.watched = run_id
            if self.mirrored and self._owner.on_watched is not None:
                self._owner.on_watched(self.thread_id, run_id)

    def begin_anew(self, earlier: set[str] | None = None, *, through: int = 0) -> None:
        """Forget what was said: it was said on another thread, which had this id before.

        If it is known which runs are the `earlier` ones, this forgets what was said up to their last word, and the
        changes before any other run, up to that many items.
        """
        behind, first, is_own = 0, self.first_kept, False
        for place, item in enumerate(items := self.after(0), first):
            if earlier is None or item.run_id in earlier:
                behind = place
            elif item.run_id:
                is_own = True
            elif place <= through and not is_own:
                behind = place
        for item in items[: max(0, behind + 1 - first)]:
            self._growing().popleft()
            self.size -= item.size
        self.active -= self.active if earlier is None else earlier
        if behind or earlier is None:
            self.watched = self.derived = None

    def _number(self, at: int, *, unsure: bool = False) -> int:
        self.newest = number_after(self.newest, at, unsure=unsure)
        return self.newest

    @property
    def limits(self) -> FeedLimits:
        """How much is kept of it."""
        return self._owner.limits

    @property
    def is_kept(self) -> bool:
        """Whether this is still the thread's feed, and was not forgotten."""
        return self._owner.known(self.thread_id) is self

    def place_of(self, number: int) -> tuple[int, bool]:
        """How many items there were up to and including the one with this number, and whether nothing is missing after
        it.

        If no item has this number, it is the place of the last one before. A number that is greater than all was given
        elsewhere to something that is not known here: then it is the place before everything that is kept.
        """
        return place_among(self, number, _number_of)


def id_of(number: int) -> str:
    """The id by which a reader resumes after an item."""
    return f"{number // PER_MS}-{number % PER_MS}"


def number_of(item_id: str) -> int | None:
    """The number in an id; None if it is none."""
    at, _, more = item_id.partition("-")
    if not (at.isdecimal() and more.isdecimal()) or len(item_id) > 40:
        return None
    return int(at) * PER_MS + int(more)


def place_among[T: Sized](ring: Ring[T], number: int, number_of: Callable[[T], int]) -> tuple[int, bool]:
    """As `ThreadFeed.place_of`, for any ring whose things have growing numbers."""
    items: Sequence[T] = ring.items  # type: ignore[assignment]  # nothing was skipped
    first = ring.first_kept
    at = bisect_left(items, number, key=number_of)
    if at < len(items) and number_of(items[at]) == number:
        return first + at, True
    if at == len(items) and items:
        return first - 1, False
    # Nothing can be between this number and the next one.
    return first + at - 1, at < len(items) and number_of(items[at]) == number + 1


def _number_of(item: FeedItem) -> int:
    return item.number


class ThreadFeeds:
    """The feeds of the threads on which anything happens, or that somebody follows."""

    def __init__(self, limits: FeedLimits | None = None) -> None:
        self.limits = limits or FeedLimits()
        self._feeds: dict[str, ThreadFeed] = {}
        self._idle: OrderedDict[str, int] = OrderedDict()
        self._idle_bytes = 0
        self._closed = False
        self.floor = 0
        """The greatest number that an item of a forgotten feed may have: new items get greater ones."""
        self.on_forget: Callable[[str], object] | None = None
        """Called with each thread that is gone."""
        self.on_watched: Callable[[str, str], object] | None = None
        """Called with a thread that other processes tell of, and the run on it whose end was watched."""
        self.on_state: Callable[[str, bytes, int], bool] | None = None
        """Called with a thread, its changed state, and when; returns whether all mirrors hear that, also ours."""

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
        """Follow what is said on a thread: `with feeds.read(thread_id) as reader`.

        Args:
            thread_id: the thread. This does not check that it exists.
            after: start after this item; 0: everything that is kept. None: from the start of the run that is active
                now, or from now on if there is none.
        """
        feed = self.feed_of(thread_id)
        if after is None:
            after = feed.started_at - 1 if feed.active else feed.added
        return FeedReader(feed, min(after, feed.added))

    def is_heard(self, thread_id: str) -> bool:
        """Whether somebody may hear what is noted about a thread: its followers here or, as nothing is known of them
        here, in another process.
        """
        return thread_id in self._feeds or self.on_state is not None

    def note_state(self, thread_id: str, state: bytes) -> None:
        """Somebody has changed a thread's state on behalf of no run, to this as JSON; tells those who follow it."""
        at, feed = now_ms(), self._feeds.get(thread_id)
        comes_back = self.on_state is not None and self.on_state(thread_id, state, at)
        if feed is None or (feed.mirrored and comes_back):
            return
        if feed.mirrored:
            feed.remember_state(state_of(state, at))  # it comes back once the wire takes it
        feed.note_state(state, at=at)

    def forget(self, thread_ids: Iterable[str]) -> None:
        """These threads are gone: those who follow one get to the end."""
        for thread_id in thread_ids:
            if (feed := self._feeds.get(thread_id)) is not None:
                self.drop(feed)
                feed.close()
            if self.on_forget is not None:
                self.on_forget(thread_id)

    def known(self, thread_id: str) -> ThreadFeed | None:
        """The feed of a thread, if there is one."""
        return self._feeds.get(thread_id)

    def settle(self, feed: ThreadFeed) -> None:
        """Let go of a feed that nobody needs now, if there are many of these."""
        if feed.active or feed.readers or feed.mirrored or self._feeds.get(feed.thread_id) is not feed:
            return
        size = feed.size if feed.derived is None else feed.size + feed.derived.size
        self._idle_bytes += size - self._idle.pop(feed.thread_id, 0)
        self._idle[feed.thread_id] = size
        limits = self.limits
        while self._idle and (len(self._idle) > limits.idle_threads or self._idle_bytes > limits.idle_bytes):
            self.drop(self._feeds[next(iter(self._idle))])

    def drop(self, feed: ThreadFeed) -> None:
        """Forget a feed that nobody follows; later followers begin anew."""
        if self._feeds.get(feed.thread_id) is not feed:
            return
        del self._feeds[feed.thread_id]
        self._idle_bytes -= self._idle.pop(feed.thread_id, 0)
        if not feed.mirrored:  # what others have said may go by another clock
            self.floor = max(self.floor, feed.newest, 0 if feed.derived is None else feed.derived.highest)

    def end_all(self) -> None:
        """End the streams of all who follow a thread."""
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
        self.pass_over()
        self.feed.relieve()
        self.feed._owner.settle(self.feed)  # noqa: SLF001  # the feed is of the same module

    async def comes_to(self, number: int, seconds: float) -> bool:
        """Wait, for at most `seconds`, until something with this number or a greater one is there; returns whether it
        is.
        """
        before, self.seen = self.seen, self.feed.added
        try:
            async with asyncio.timeout(seconds):
                while self.feed.newest < number and not self.is_over:
                    self.pass_over()
                    if not await self.wait():
                        break
        except TimeoutError:
            pass
        finally:
            self.seen = before
        return self.feed.newest >= number

    async def is_watched(self, run_id: str, seconds: float) -> bool:
        """Wait, for at most `seconds`, until it is known that somebody has watched how this run ended; returns whether
        it is.
        """
        try:
            async with asyncio.timeout(seconds):
                while self.feed.watched != run_id and not self.is_over:  # noqa: ASYNC110  # to wake it, all would be woken
                    await asyncio.sleep(_LOOK_AGAIN)
        except TimeoutError:
            pass
        return self.feed.watched == run_id

    @property
    def thread_is_gone(self) -> bool:
        """Whether the feed is over because the thread no longer exists, and not because this process ends its streams."""
        return self.feed.closed and not self.feed.is_kept

    @property
    def place(self) -> int:
        """The number after which it continues."""
        feed = self.feed
        items = feed.after(self.seen)
        return items[0].number - 1 if items else feed.newest

    def after_id(self, item_id: str) -> bool:
        """Continue after the item with this id, or as near to it as is known here; returns whether nothing is missing
        in between.
        """
        number = number_of(item_id)
        if number is None:
            self.seen = self.feed.first_kept - 1
            return False
        self.seen, is_whole = self.feed.place_of(number)
        return is_whole
