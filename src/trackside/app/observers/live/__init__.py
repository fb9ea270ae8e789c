"""Lets any number of readers in this process follow runs as they happen, for example as server-sent events.

Each event is kept once, and turned into JSON once, however many readers there are; a reader is just a place in what is
kept. So announcing an event never waits for a reader, and a slow reader costs nobody anything. When a reader comes to
events that are no longer kept, it gets a `LiveGap` for them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from trackside.app.delivery import Delivery, ObserverOptionError
from trackside.app.observers.live._channels import Bounds, Channel, FollowEnd, LiveEvent, size_of
from trackside.app.observers.live._follower import FollowCounts, LiveFollower, LiveGap, OnSlow
from trackside.harness.amounts import is_count
from trackside.harness.errors import ClosedError, TracksideError
from trackside.harness.lifecycle import is_terminal, thread_status_of
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import ThreadStatus

__all__ = [
    "FollowEnd",
    "InvalidFollowError",
    "LiveEvent",
    "LiveFollower",
    "LiveGap",
    "LiveObserver",
    "LiveStats",
    "NotLiveError",
    "OnSlow",
]

_LINGER = 0.25
"""Seconds for which followers of an ended run wait for the thread's new status, which may not come."""

_WOKEN_AT_ONCE = 1_000
"""The most readers that are woken in one turn of the event loop."""


class NotLiveError(TracksideError, LookupError):
    """{what} is not known here: {why}. Read it from the log."""


class InvalidFollowError(TracksideError, ValueError):
    """{option} does not fit: {why}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveStats:
    """How a `LiveObserver` is doing. Totals only grow."""

    readers: int
    running: int
    """Runs that go on and are kept."""
    finished: int
    """Runs that are over and are kept."""
    bytes: int
    """About how many bytes all that is kept takes."""
    events_total: int
    repeated_total: int
    """Events that came again and were left out."""
    gaps_total: int
    """Gaps that readers were told of."""
    slow_total: int
    """Readers that were ended because they were too slow."""
    forgotten_total: int
    """Runs that were not kept to their end, for lack of room."""


class LiveObserver:
    """Keeps the latest events of each run of this process for those who follow it.

        live = LiveObserver()
        async with live.follow(run_id) as events:
            async for item in events:
                ...

    It belongs to one event loop.

    Args:
        run_events: how many events of one run (one thread, all) are kept for readers that come late or are slow.
        run_bytes: about how many bytes of memory these take at most.
        running: how many running runs are kept; beyond that, the one that has been quiet for longest is forgotten.
        finished: how many runs are kept after their end.
        finished_seconds: for how many seconds they are kept.
        max_bytes: about how many bytes everything takes at most. Finished runs go first.

    Raises:
        ObserverOptionError: a number is out of range.
    """

    delivery: ClassVar[Delivery] = Delivery.live

    def __init__(
        self,
        *,
        run_events: int = 1_000,
        run_bytes: int = 4 * 1_048_576,
        running: int = 10_000,
        finished: int = 1_000,
        finished_seconds: float = 300.0,
        max_bytes: int = 64 * 1_048_576,
    ) -> None:
        for option, value, least in (
            ("run_events", run_events, 1),
            ("run_bytes", run_bytes, 1),
            ("running", running, 1),
            ("finished", finished, 0),
            ("max_bytes", max_bytes, 1),
        ):
            if not is_count(value, least):
                raise ObserverOptionError(option=option, why=f"it is a whole number from {least} up, not {value!r}")
        if type(finished_seconds) not in {int, float} or not finished_seconds >= 0:
            why = f"it is a number of seconds from 0 up, not {finished_seconds!r}"
            raise ObserverOptionError(option="finished_seconds", why=why)
        self._bounds = Bounds(run_events, run_bytes)
        self._most_running = running
        self._most_finished = finished
        self._finished_seconds = finished_seconds
        self._max_bytes = max_bytes
        self._running: OrderedDict[str, Channel] = OrderedDict()  # the quietest first
        self._finished: OrderedDict[str, Channel] = OrderedDict()  # in the order of their ends
        self._threads: dict[str, Channel] = {}
        self._all = Channel(self._bounds)
        self._ending: dict[str, float] = {}  # runs, and until when they linger, in the order of these times
        self._end_timer: asyncio.TimerHandle | None = None
        self._woken: deque[set[asyncio.Future[None]]] = deque()
        self._bytes = 0
        self._readers = self._events = self._repeated = self._forgotten = 0
        self._counts = FollowCounts()
        self._closed = False

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Keep an event and wake the readers that wait for it.

        Raises:
            ClosedError: the observer has been closed.
        """
        if self._closed:
            raise ClosedError(what="live observer")
        self._take(event)
        self._make_room()

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Keep several events, as `on_event` does."""
        if self._closed:
            raise ClosedError(what="live observer")
        for event in events:
            self._take(event)
        self._make_room()

    def follow(
        self,
        run_id: str | None = None,
        *,
        thread_id: str | None = None,
        after: int | None = None,
        expected: bool = False,
        on_slow: OnSlow | str = OnSlow.gap,
    ) -> LiveFollower:
        """Follow one run from its beginning to its end, or a thread, or everything, from now on.

        A run ends with its terminal event and what follows that. Where events are missing before, between or after
        those that are kept, a `LiveGap` comes.

        Args:
            run_id: the run. It may be over, if it is still kept.
            thread_id: the thread, across its runs.
            after: where to continue, as `LiveFollower.mark`: after this sequence number for a run, else after this
                position.
            expected: whether to wait for a run that has not begun.
            on_slow: what becomes of the follower if it is too slow.

        Raises:
            NotLiveError: nothing is known of the run, or of so high a position.
            InvalidFollowError: the arguments do not fit together.
            ClosedError: the observer has been closed.
        """
        if self._closed:
            raise ClosedError(what="live observer")
        if run_id is not None and thread_id is not None:
            raise InvalidFollowError(
                option="thread_id", why="follow a run or a thread, not both: a run belongs to one thread"
            )
        if after is not None and not is_count(after, least=0):
            raise InvalidFollowError(
                option="after", why=f"sequences and positions count from 1, and {after!r} is neither"
            )
        if on_slow not in OnSlow:
            raise InvalidFollowError(option="on_slow", why=f"it is {' or '.join(OnSlow)}, not {on_slow!r}")
        self._forget_old()
        if run_id is not None:
            channel, mark = self._channel_of(run_id, expected=expected), after or 0
        else:
            mark = self._all.mark if after is None else after
            if mark > self._all.mark:
                why = f"{self._all.mark} is the last in this process"
                raise NotLiveError(what=f"position {mark}", why=why)
            channel = self._all if thread_id is None else self._thread(thread_id)
        self._readers += 1
        return LiveFollower(
            channel,
            after=mark,
            run_id=run_id,
            on_slow=OnSlow(on_slow),
            counts=self._counts,
            on_leave=partial(self._on_leave, channel, run_id, thread_id),
        )

    def stats(self) -> LiveStats:
        """How the observer is doing; may be called at any time."""
        return LiveStats(
            readers=self._readers,
            running=len(self._running),
            finished=len(self._finished),
            bytes=self._bytes,
            events_total=self._events,
            repeated_total=self._repeated,
            gaps_total=self._counts.gaps,
            slow_total=self._counts.slow,
            forgotten_total=self._forgotten,
        )

    async def aclose(self) -> None:
        """Let all followers end, once they have what is kept for them. May be called again."""
        self._closed = True
        if self._end_timer is not None:
            self._end_timer.cancel()
            self._end_timer = None
        self._ending.clear()
        for channel in (*self._running.values(), *self._threads.values(), self._all):
            self._end(channel, FollowEnd.closed)

    def _take(self, event: RunLifecycleEvent) -> None:
        run_id = event.run_id
        channel = self._running.get(run_id)
        if channel is not None:
            self._running.move_to_end(run_id)
        elif (channel := self._finished.get(run_id)) is None:
            channel = self._running[run_id] = Channel(self._bounds, by_sequence=True)
        sequence = event.sequence
        if sequence <= channel.mark:
            self._repeated += 1
            return
        begins = not channel.mark
        self._events = position = self._events + 1
        item = LiveEvent(event, position, size_of(event))
        self._push(channel, item, sequence)
        self._push(self._all, item, position)
        if (thread := self._threads.get(event.thread_id)) is not None:
            self._push(thread, item, position)
        if run_id in self._ending:
            self._finish(run_id)
        elif is_terminal(event.event_type) or (begins and _follows_an_end(event)):
            self._linger(run_id)

    def _push(self, channel: Channel, item: LiveEvent, mark: int) -> None:
        self._bytes += channel.push(item, mark)
        if channel.waiters:
            self._rouse(channel)

    def _linger(self, run_id: str) -> None:
        """Let the run be over in a while, or earlier if its next event comes; one timer serves all runs."""
        loop = asyncio.get_running_loop()
        self._ending[run_id] = until = loop.time() + _LINGER
        if self._end_timer is None:
            self._end_timer = loop.call_at(until, self._finish_those_due, until)

    def _finish_those_due(self, now: float) -> None:
        loop = asyncio.get_running_loop()
        self._end_timer = None
        now = max(now, loop.time())
        while self._ending:
            run_id, until = next(iter(self._ending.items()))
            if until > now:
                self._end_timer = loop.call_at(until, self._finish_those_due, until)
                return
            self._finish(run_id)

    def _rouse(self, channel: Channel) -> None:
        """Wake those who wait; they get everything that has come by then in one go."""
        if channel.waiters:
            if not self._woken:
                asyncio.get_running_loop().call_soon(self._wake)
            self._woken.append(channel.waiters)
            channel.waiters = None

    def _wake(self) -> None:
        for _ in range(_WOKEN_AT_ONCE):
            while self._woken and not self._woken[0]:
                self._woken.popleft()
            if not self._woken:
                return
            waiter = self._woken[0].pop()
            if not waiter.done():
                waiter.set_result(None)
        asyncio.get_running_loop().call_soon(self._wake)

    def _finish(self, run_id: str) -> None:
        """Note that the run is over, and that nothing more of it is expected."""
        self._ending.pop(run_id, None)
        if (channel := self._running.pop(run_id, None)) is not None:
            channel.ended_at = asyncio.get_running_loop().time()
            self._finished[run_id] = channel
            self._end(channel, FollowEnd.finished)

    def _end(self, channel: Channel, end: FollowEnd) -> None:
        channel.end = end
        self._rouse(channel)

    def _channel_of(self, run_id: str, *, expected: bool) -> Channel:
        if (channel := self._running.get(run_id)) is not None:
            return channel
        if (channel := self._finished.get(run_id)) is not None:
            return channel
        if not expected:
            raise NotLiveError(
                what=f"run {run_id}", why="it has not begun in this process, or is over and not kept any more"
            )
        channel = self._running[run_id] = Channel(self._bounds, by_sequence=True)
        return channel

    def _thread(self, thread_id: str) -> Channel:
        """The channel of a thread from now on; its past is there as far as the channel of everything still has it."""
        if (channel := self._threads.get(thread_id)) is None:
            channel = self._threads[thread_id] = Channel(self._bounds, mark=self._all.gone_mark)
            for item in self._all.events:
                if item.event.thread_id == thread_id:
                    channel.push(item, item.position)
            self._bytes += channel.bytes
        return channel

    def _on_leave(self, channel: Channel, run_id: str | None, thread_id: str | None) -> None:
        self._readers -= 1
        if channel.readers:
            return
        if thread_id is not None and self._threads.get(thread_id) is channel:
            self._drop(self._threads.pop(thread_id))
        elif run_id is not None and not channel.mark and self._running.get(run_id) is channel:
            del self._running[run_id]  # nobody waits for the expected run any more

    def _make_room(self) -> None:
        """Forget what is old, and what there is no room for."""
        self._forget_old()
        while len(self._running) > self._most_running:
            self._forget(next(iter(self._running)))
        while self._bytes > self._max_bytes and self._finished:
            self._drop(self._finished.popitem(last=False)[1])
        if self._bytes > self._max_bytes:
            self._let_go_of_quiet_ones()

    def _forget_old(self) -> None:
        while self._finished:
            channel = next(iter(self._finished.values()))
            is_old = asyncio.get_running_loop().time() - channel.ended_at > self._finished_seconds
            if not (is_old or len(self._finished) > self._most_finished):
                return
            self._finished.popitem(last=False)
            self._drop(channel)

    def _forget(self, run_id: str) -> None:
        self._forgotten += 1
        self._ending.pop(run_id, None)
        channel = self._running.pop(run_id)
        self._end(channel, FollowEnd.forgotten)
        self._drop(channel)

    def _drop(self, channel: Channel) -> None:
        """Count a channel no more; those who still read it keep it."""
        self._bytes -= channel.bytes

    def _let_go_of_quiet_ones(self) -> None:
        """Make room when all that is kept belongs to running runs: their events go, those of the quietest run first."""
        newest = next(reversed(self._running.values()), None)
        for channel in (*self._running.values(), *self._threads.values(), self._all):
            least = 1 if channel is newest else 0  # the event that has just come must remain readable
            while len(channel.events) > least and self._bytes > self._max_bytes:
                before = channel.bytes
                channel.let_go()
                self._bytes += channel.bytes - before


def _follows_an_end(event: RunLifecycleEvent) -> bool:
    """Whether this first event of a run here shows that it is over: a beginning run sets its thread only to busy."""
    return thread_status_of(event.event_type, event.payload) not in {None, ThreadStatus.busy}
