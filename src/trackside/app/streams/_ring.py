"""A ring of numbered things that drops the oldest beyond its limits, and readers that go along it at their own pace."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol
from weakref import WeakSet, ref

from trackside.harness.ports import StreamGap


class Sized(Protocol):
    """Something that knows roughly how many bytes it takes."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...


class Taker(Protocol):
    """Somebody who takes what is in a ring, in its order."""

    @property
    def seen(self) -> int:
        """The number up to which everything was taken."""
        ...


class Ring[T: Sized]:
    """What was added last, up to `most` things and `most_bytes`; the newest is always there.

    Adding never waits for readers. So that a reader who keeps up gets all of what is added at once, up to `behind`
    times as much is kept of what one has still to take.

    Things are numbered 1, 2, 3 …, including those that were dropped, and those that were skipped because they never
    came.
    """

    __slots__ = (
        "_behind",
        "_most",
        "_most_bytes",
        "_readers",
        "_skipped",
        "_slowest",
        "_wakers",
        "added",
        "closed",
        "items",
        "lacks",
        "size",
    )

    def __init__(self, most: int, most_bytes: int, behind: int) -> None:
        self.items: deque[T | None] | tuple[T | None, ...] = deque()
        """What is kept, one item for each number; None for each skipped number. A tuple once it is packed."""
        self.added = 0
        """How many were ever added: the number of the newest."""
        self.size = 0
        """Bytes of those that are kept."""
        self.closed = False
        """Whether there is no more to come."""
        self.lacks: str | None = None
        """Why there may have been more that did not come, for readers a gap behind all that did; None: this is all."""
        self._most = most
        self._most_bytes = most_bytes
        self._behind = behind
        self._readers: WeakSet[Taker] | None = None
        self._slowest: ref[Taker] | None = None  # who had taken least when that was looked at last
        self._skipped: list[StreamGap] = []  # hardly ever any, and a deque has room for 64 from the start
        self._wakers: set[asyncio.Future[None]] = set()

    @property
    def first_kept(self) -> int:
        """The number of the oldest thing that is kept, or that of the next one if none is."""
        return self.added - len(self.items) + 1

    def add(self, item: T) -> None:
        """Append something, without waking anybody: several things may come at once."""
        self._growing().append(item)
        self.added += 1
        self.size += item.size
        self.relieve()

    @property
    def overflows(self) -> bool:
        """Whether it has more than its limits, which is for readers who have still to take it."""
        return len(self.items) > self._most or (self.size > self._most_bytes and len(self.items) > 1)

    def relieve(self) -> None:
        """Drop what is beyond the limits, unless a reader who is not too far behind has still to take it."""
        if not self.overflows:
            return
        if isinstance(self.items, deque):
            self._drop()
        else:
            self.items = deque(self.items)
            self._drop()
            self.items = tuple(self.items)

    def _drop(self) -> None:
        items, behind = self._growing(), self._behind
        while self.overflows:
            is_far_behind = len(items) > behind * self._most or self.size > behind * self._most_bytes
            if not is_far_behind and self._is_awaited(self.first_kept):
                return
            if (dropped := items.popleft()) is not None:
                self.size -= dropped.size

    def _is_awaited(self, number: int) -> bool:
        slowest = None if self._slowest is None else self._slowest()
        if slowest is None or slowest.seen >= number:
            slowest = min(self._readers or (), key=_seen_by, default=None)
            self._slowest = None if slowest is None else ref(slowest)
        return slowest is not None and slowest.seen < number

    def attach(self, reader: Taker) -> None:
        """Keep more of what this reader has still to take, for as long as it is there."""
        if self._readers is None:
            self._readers = WeakSet()
        self._readers.add(reader)

    def skip(self, through: int, why: str | None = None) -> None:
        """Pass over all numbers up to this one, which will not come: to readers they are a gap. Wakes nobody."""
        first = self.added + 1
        if through < first:
            return
        self._prune()
        self._skipped.append(StreamGap(first, through, why))
        self._growing().extend(None for _ in range(min(through - self.added, self._most)))
        self.added = through
        self.relieve()

    def gap_at(self, number: int) -> StreamGap | None:
        """The skipped numbers that include this one; None if it was not skipped."""
        if not self._skipped:
            return None
        self._prune()
        return next((gap for gap in self._skipped if gap.first <= number <= gap.last), None)

    def _prune(self) -> None:
        skipped, first = self._skipped, self.first_kept
        while skipped and skipped[0].last < first:
            del skipped[0]

    def _growing(self) -> deque[T | None]:
        assert isinstance(self.items, deque), "nothing is added to what is packed"
        return self.items

    def close(self) -> None:
        """Let every reader get to the end."""
        self.closed = True
        self.wake()

    def pack(self) -> None:
        """Keep what is there in as little room as it takes: nothing will be added any more."""
        self.items = tuple(self.items)
        if not self.overflows:
            self._readers = None

    def wake(self) -> None:
        """Wake the readers that wait."""
        if not self._wakers:
            return
        wakers, self._wakers = self._wakers, set()
        for waker in wakers:
            if not waker.done():
                waker.set_result(None)

    def after(self, seen: int) -> list[T]:
        """What is kept of what came after this number, up to the next one that was skipped."""
        items = self.items
        kept = len(items)
        fresh = min(self.added - seen, kept)
        found = list(items) if fresh == kept else [items[index] for index in range(kept - fresh, kept)]
        if self._skipped and None in found:
            del found[found.index(None) :]
        return found  # type: ignore[return-value]  # None stands only for what was skipped

    def portion(self, seen: int, most_bytes: int) -> list[T]:
        """The first of what `after` gives: about so many bytes of it, but at least one thing."""
        items, kept = self.items, len(self.items)
        found: list[T] = []
        size = 0
        for index in range(kept - min(self.added - seen, kept), kept):
            item = items[index]
            if item is None or size >= most_bytes:
                break
            found.append(item)
            size += item.size
        return found

    def add_waker(self, waker: asyncio.Future[None]) -> None:
        """Set this future when there is more."""
        self._wakers.add(waker)

    def discard_waker(self, waker: asyncio.Future[None]) -> None:
        """Forget this future."""
        self._wakers.discard(waker)


class RingReader[T: Sized]:
    """One reader's place in a ring."""

    __slots__ = ("__weakref__", "_knows_lack", "_ring", "_roused", "_waker", "seen")

    def __init__(self, ring: Ring[T], seen: int) -> None:
        self._ring = ring
        self._knows_lack = False
        self.seen = seen
        """The number of the last thing that the reader has, or has missed."""
        self._waker: asyncio.Future[None] | None = None
        self._roused = False
        if not ring.closed:
            ring.attach(self)

    def gap(self) -> StreamGap | None:
        """What comes next but is no longer kept, or never came; this passes over it. None if there is no such thing."""
        ring, first = self._ring, self.seen + 1
        why = None
        if first < ring.first_kept:
            self.seen = ring.first_kept - 1
        while (skipped := ring.gap_at(self.seen + 1)) is not None:
            self.seen, why = skipped.last, why or skipped.why
        if self._owes_lack and ring.added <= self.seen and (lack := self.lack(why or ring.lacks)) is not None:
            return StreamGap(first, lack.last, lack.why)
        return StreamGap(first, self.seen, why) if self.seen >= first else None

    def lack(self, why: str | None) -> StreamGap | None:
        """The gap of what may have come behind all that was seen: one thing at least. None if the reader knows it."""
        if self._knows_lack:
            return None
        self._knows_lack = True
        return StreamGap(self.seen + 1, self.seen + 1, why)

    def take(self, most_bytes: int | None = None) -> list[T]:
        """What is there now and was not taken, up to the next gap; nothing where there is one: call `gap` first.

        With `most_bytes`, no more than about so many bytes of it.
        """
        ring = self._ring
        if ring.added <= self.seen or self.seen + 1 < ring.first_kept:
            return []
        if most_bytes is None or ring.size <= most_bytes:
            items = ring.after(self.seen)
        else:
            items = ring.portion(self.seen, most_bytes)
        was_last = self.seen < ring.first_kept
        self.seen += len(items)
        if was_last:
            ring.relieve()
        return items

    def pass_over(self) -> None:
        """Leave out what is there now."""
        self.seen = self._ring.added
        self._knows_lack = self._ring.closed

    @property
    def has_said_anything(self) -> bool:
        """Whether anything was ever added."""
        return self._ring.added > 0

    @property
    def has_more(self) -> bool:
        """Whether there is something to take now, or something missing to be told of."""
        return self._ring.added > self.seen or self._owes_lack

    @property
    def is_over(self) -> bool:
        """Whether everything was taken, and no more will come."""
        ring = self._ring
        return ring.closed and ring.added <= self.seen and not self._owes_lack

    @property
    def _owes_lack(self) -> bool:
        ring = self._ring
        return ring.lacks is not None and ring.closed and not self._knows_lack

    async def wait(self) -> bool:
        """Wait for more, or the end, or a nudge; returns whether there is more, or the end."""
        ring = self._ring
        if ring.added > self.seen or ring.closed:
            return True
        if self._roused:
            return False
        waker = self._waker = asyncio.get_running_loop().create_future()
        ring.add_waker(waker)
        try:
            await waker
        finally:
            self._waker = None
            ring.discard_waker(waker)
        return ring.added > self.seen or ring.closed

    async def wait_for_end(self) -> None:
        """Pass over all that comes, up to the end."""
        self.pass_over()
        while not self._ring.closed:
            await self.wait()
            self.pass_over()

    async def reaches(self, number: int, seconds: float) -> bool:
        """Wait, for at most `seconds`, until the thing with this number was added; returns whether it was."""
        ring, before = self._ring, self.seen
        try:
            async with asyncio.timeout(seconds):
                while ring.added < number and not ring.closed and not self._roused:
                    self.seen = ring.added
                    await self.wait()
        except TimeoutError:
            pass
        finally:
            self.seen = before
        return ring.added >= number

    def nudge(self) -> None:
        """End the reader's waiting, if it waits."""
        if self._waker is not None:
            _wake(self._waker)

    def rouse(self) -> None:
        """End the reader's waiting, now and from now on: its owner has something else to do."""
        self._roused = True
        self.nudge()


def _seen_by(reader: Taker) -> int:
    return reader.seen


def _wake(waker: asyncio.Future[None]) -> None:
    if not waker.done():
        waker.set_result(None)
