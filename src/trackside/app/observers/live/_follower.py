"""A follower: a place in a channel, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from trackside.app.observers.live._channels import Channel, FollowEnd, LiveEvent


class OnSlow(StrEnum):
    """What becomes of a follower that is so slow that events for it are no longer kept."""

    gap = "gap"
    """It is told which events it missed, and goes on."""
    end = "end"
    """It ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveGap:
    """Events that a follower does not get here, because they are no longer kept or never came: read them from the log.

    For a run, `first` to `last` are sequence numbers. Otherwise they are positions, and a follower of one thread knows
    only that events of it may be among them.
    """

    first: int
    last: int
    run_id: str | None = None


@dataclass(slots=True)
class FollowCounts:
    """What became of all followers so far."""

    gaps: int = 0
    slow: int = 0


class LiveFollower:
    """What `LiveObserver.follow` returns: an async iterator that may be left and taken up again, as for a heartbeat.

        async with live.follow(run_id) as events:
            async for item in events:
                ...

    A cancelled call of `__anext__` loses nothing. Only one task may read it at a time.
    """

    __slots__ = ("_channel", "_counts", "_on_leave", "_on_slow", "_place", "_run_id", "end", "mark")

    def __init__(
        self,
        channel: Channel,
        *,
        after: int,
        run_id: str | None,
        on_slow: OnSlow,
        counts: FollowCounts,
        on_leave: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._run_id = run_id
        self._on_slow = on_slow
        self._counts = counts
        self._on_leave = on_leave
        self.mark = after
        """The sequence (of a run) or position of the last item it got, to continue after: as `Last-Event-ID`."""
        self.end: FollowEnd | None = None
        """Why it has ended, if it has."""
        # -1: it continues from before the first kept event, and first gets a gap for that.
        self._place = -1 if after < channel.gone_mark else channel.place_after(after)
        channel.readers += 1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LiveEvent | LiveGap:
        while (item := self.next_ready()) is None:
            if self.end is not None:
                raise StopAsyncIteration
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._channel.wait(waiter)
            try:
                await waiter
            finally:
                self._channel.wait_no_more(waiter)
        return item

    def next_ready(self) -> LiveEvent | LiveGap | None:
        """The next item if one is there without waiting, for sending several at once."""
        channel = self._channel
        if self.end is not None:
            return None
        while (index := self._place - channel.gone) < len(channel.events):
            if index < 0:
                return self._overtaken()
            item = channel.events[index]
            mark = channel.mark_of(item)
            if self._run_id is not None and mark > self.mark + 1:
                return self._gap(until=mark - 1)
            self._place += 1
            if mark > self.mark:  # otherwise it got that elsewhere, before the channel did
                self.mark = mark
                return item
        if channel.end is not None:
            self._leave(channel.end)
        return None

    def _overtaken(self) -> LiveGap | None:
        if self._on_slow is OnSlow.end and self._place >= 0:
            self._counts.slow += 1
            self._leave(FollowEnd.slow)
            return None
        self._place = self._channel.gone
        return self._gap(until=self._channel.gone_mark)

    def _gap(self, *, until: int) -> LiveGap:
        gap = LiveGap(first=self.mark + 1, last=until, run_id=self._run_id)
        self.mark = until
        self._counts.gaps += 1
        return gap

    def _leave(self, end: FollowEnd) -> None:
        if self.end is None:
            self.end = end
            self._channel.readers -= 1
            self._on_leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop following. May be called again."""
        self._leave(FollowEnd.left)

    def __del__(self) -> None:
        self._leave(FollowEnd.left)  # for a reader that broke off without closing it
