"""One ring of encoded parts for each run, and the readers that go along it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from time import time
from typing import Any

import msgspec

from trackside.app.streams._messages import MessageSteps
from trackside.harness.ports import StreamGap, StreamPart

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_MESSAGES = "messages"
_VALUES = "values"
_EVENT_OF = {"messages-tuple": _MESSAGES}  # what LangGraph's clients call it on the wire


@dataclass(frozen=True, slots=True, kw_only=True)
class HubLimits:
    """How much is kept of runs' live output."""

    parts: int = 10_000
    """Of one run."""
    part_bytes: int = 8 * 1_048_576
    """Of one run."""
    ended_runs: int = 1_024
    """How many runs that have ended can still be followed from their beginning."""
    ended_bytes: int = 64 * 1_048_576
    """Of all these together."""


class Frame:
    """One part, as it goes to every reader. `sequence` counts 1, 2, 3 … within its run.

    `mode` is what was asked for, `event` what it is called on the wire, with the namespace of who says it; `data` is JSON,
    on one line. `sse` and `resumable_sse` are the whole event, the second one with the id by which a reader resumes.
    """

    __slots__ = ("_resumable_sse", "_sse", "at", "data", "event", "mode", "namespace", "sequence")

    def __init__(self, sequence: int, mode: str, event: str, data: bytes, namespace: tuple[str, ...], at: int) -> None:
        self.sequence = sequence
        self.mode = mode
        self.event = event
        self.data = data
        self.namespace = namespace
        self.at = at
        """When it was said, in milliseconds since 1970."""
        self._sse: bytes | None = None
        self._resumable_sse: bytes | None = None

    @property
    def sse(self) -> bytes:
        """The event as server-sent events have it."""
        if self._sse is None:
            self._sse = b"event: %b\r\ndata: %b\r\n\r\n" % (self.event.encode(), self.data)
        return self._sse

    @property
    def resumable_sse(self) -> bytes:
        """The same with an id."""
        if self._resumable_sse is None:
            self._resumable_sse = b"event: %b\r\ndata: %b\r\nid: %d-%d\r\n\r\n" % (
                self.event.encode(),
                self.data,
                self.at,
                self.sequence,
            )
        return self._resumable_sse


@dataclass(frozen=True, slots=True)
class EndedStream:
    """There is no more to come. `end` is what the run's last event says, if it has ended in this process."""

    end: Mapping[str, Any] | None


class _Channel:
    """A run's frames, the oldest dropped beyond the limits."""

    __slots__ = ("closed", "end", "frames", "limits", "published", "size", "steps", "values", "wakers")

    def __init__(self, limits: HubLimits) -> None:
        self.limits = limits
        self.frames: deque[Frame] = deque()
        self.size = 0
        self.published = 0
        self.closed = False
        self.end: Mapping[str, Any] | None = None
        self.values: bytes | None = None
        """The run's newest state, as it was said last."""
        self.steps: MessageSteps | None = None
        self.wakers: set[asyncio.Future[None]] = set()

    @property
    def first_kept(self) -> int:
        return self.published - len(self.frames) + 1

    def add(self, mode: str, event: str, data: bytes, namespace: tuple[str, ...]) -> None:
        self.published += 1
        self.frames.append(Frame(self.published, mode, event, data, namespace, int(time() * 1000)))
        self.size += len(data)
        while len(self.frames) > self.limits.parts or (self.size > self.limits.part_bytes and len(self.frames) > 1):
            self.size -= len(self.frames.popleft().data)

    def wake(self) -> None:
        wakers, self.wakers = self.wakers, set()
        for waker in wakers:
            if not waker.done():
                waker.set_result(None)

    def after(self, seen: int) -> list[Frame]:
        fresh = min(self.published - seen, len(self.frames))
        if fresh == len(self.frames):
            return list(self.frames)
        return [self.frames[index] for index in range(len(self.frames) - fresh, len(self.frames))]


class StreamHub:
    """The live output of the runs of one event loop (`ports.RunStream`).

    What a run says is encoded when it says it, so that nobody changes it afterwards and no reader pays for it.
    """

    local = True

    def __init__(self, limits: HubLimits | None = None) -> None:
        self.limits = limits or HubLimits()
        self._channels: dict[str, _Channel] = {}
        self._ended: OrderedDict[str, _Channel | None] = OrderedDict()
        self._ended_bytes = 0

    def publish(self, run_id: str, mode: str, data: Any, namespace: tuple[str, ...] = ()) -> None:
        """Append a part and wake who waits for it."""
        channel = self._channels.get(run_id)
        if channel is None:
            channel = self._channels[run_id] = _Channel(self.limits)
        if mode == _MESSAGES:
            channel.steps = channel.steps or MessageSteps()
            for event, step in channel.steps.take(data):
                channel.add(mode, _named(event, namespace), _encode(step), namespace)
        else:
            encoded = _encode(data)
            channel.add(mode, _named(_EVENT_OF.get(mode, mode), namespace), encoded, namespace)
            if mode == _VALUES and not namespace:
                channel.values = encoded
        if channel.wakers:
            channel.wake()

    def close(self, run_id: str, *, end: Mapping[str, Any] | None = None) -> None:
        """Let every reader get to the end; keep the parts while there is room."""
        channel = self._channels.pop(run_id, None)
        if channel is not None:
            channel.closed, channel.end, channel.steps = True, end, None
            channel.wake()
        elif run_id in self._ended:
            return
        self._ended[run_id] = channel
        self._ended_bytes += channel.size if channel is not None else 0
        limits = self.limits
        while len(self._ended) > limits.ended_runs or (self._ended_bytes > limits.ended_bytes and len(self._ended) > 1):
            _, oldest = self._ended.popitem(last=False)
            self._ended_bytes -= oldest.size if oldest is not None else 0

    def knows(self, run_id: str) -> bool:
        """Whether anything is kept here of what a run says or said."""
        return run_id in self._channels or self._ended.get(run_id) is not None

    def values(self, run_id: str) -> bytes | None:
        """The newest state that a run has said, as JSON; None if none is known here."""
        channel = self._channels.get(run_id) or self._ended.get(run_id)
        return None if channel is None else channel.values

    def read(self, run_id: str, *, after: int = 0) -> Reader:
        """Go along what a run says, from behind this part on; also of one that has not said anything yet.

        Whoever asks for a run that has ended, and of which nothing is kept, gets to the end at once if `close` was called;
        else he waits for ever: ask the store first.
        """
        channel = self._channels.get(run_id)
        if channel is None:
            if run_id in self._ended:
                channel = self._ended[run_id]
                if channel is None:
                    channel = _Channel(self.limits)
                    channel.closed = True
            else:
                channel = self._channels[run_id] = _Channel(self.limits)
        return Reader(channel, min(after, channel.published))

    async def follow(
        self, run_id: str, *, after: int | None = None, modes: Collection[str] | None = None
    ) -> AsyncIterator[StreamPart | StreamGap]:
        """What is kept, then what comes, to the end; what was dropped in between is a `StreamGap`."""
        reader = self.read(run_id, after=after or 0)
        while True:
            if (gap := reader.gap()) is not None:
                yield gap
            batch = await reader.next()
            if isinstance(batch, EndedStream):
                return
            for frame in batch:
                if modes is None or frame.mode in modes:
                    yield StreamPart(frame.sequence, frame.mode, _decode(frame.data), frame.namespace)


class Reader:
    """One reader's place in what a run says."""

    __slots__ = ("_channel", "seen")

    def __init__(self, channel: _Channel, seen: int) -> None:
        self._channel = channel
        self.seen = seen
        """The number of the last part that it has, or has missed."""

    def gap(self) -> StreamGap | None:
        """The parts that come next and are not kept any more, which it passes over; None if there are none."""
        first = self._channel.first_kept
        if self.seen + 1 >= first:
            return None
        missed = StreamGap(self.seen + 1, first - 1)
        self.seen = first - 1
        return missed

    def ready(self) -> list[Frame] | EndedStream | None:
        """What is there now; None if it has to wait. Call `gap` before."""
        channel = self._channel
        if channel.published > self.seen:
            frames = channel.after(self.seen)
            self.seen = channel.published
            return frames
        return EndedStream(channel.end) if channel.closed else None

    async def next(self) -> list[Frame] | EndedStream:
        """What comes next: all that is there, or the end."""
        while (batch := self.ready()) is None:
            await self.wait()
        return batch

    async def wait(self, seconds: float | None = None) -> bool:
        """Until there is more, or so long; whether there is."""
        channel, loop = self._channel, asyncio.get_running_loop()
        if channel.published > self.seen or channel.closed:
            return True
        waker = loop.create_future()
        channel.wakers.add(waker)
        timer = None if seconds is None else loop.call_later(seconds, _time_out, waker)
        try:
            await waker
        finally:
            channel.wakers.discard(waker)
            if timer is not None:
                timer.cancel()
        return channel.published > self.seen or channel.closed


def _time_out(waker: asyncio.Future[None]) -> None:
    if not waker.done():
        waker.set_result(None)


def _named(event: str, namespace: tuple[str, ...]) -> str:
    return "|".join((event, *namespace)) if namespace else event
