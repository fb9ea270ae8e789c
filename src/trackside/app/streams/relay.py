"""Tells other processes what this one's runs say: what waits of a run is one message, and a lone part goes at once.

Nothing is copied for that while it waits: the relay has a place in each run's ring, as readers have, and what falls out
of the ring before it could be sent is a gap. Runs do not wait for anything here. `RelayLimits` says how much is kept of
runs that have ended and could not be sent; how they have ended, the log says, too.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import msgspec

from trackside.app.streams.channel import Channel
from trackside.app.streams.frames import now_ms
from trackside.app.streams.hub import StreamHub
from trackside.app.streams.live_messages import (
    MOST_BYTES,
    MOST_PART_BYTES,
    THREAD_STATE,
    Begin,
    End,
    Message,
    Part,
    Piece,
    answers_in,
    bytes_about,
    bytes_of,
    is_by_command,
    part_of,
    pieces_of,
    state_of,
)
from trackside.app.streams.wire import LiveWire, Topic
from trackside.harness.types import RunRecord, RunSpec

_PER_TURN: Final = 1_048_576
"""Bytes that are sent before the event loop gets on with other things."""
_REPEATED_AFTER: Final = 10_000
"""Milliseconds after which a run says again what it is, for those who come when its beginning is no longer kept."""
_TRY_AGAIN: Final = 1.0
"""Seconds after which the relay tries a wire that should have said by then that it is writable."""
_AWAY: Final = 10.0
"""Seconds for which more than else is kept of runs for a wire that takes nothing: it is busy, or was made anew."""
_UNSAYABLE: Final = (TypeError, ValueError, RecursionError, msgspec.MsgspecError)
"""What is raised for values that msgpack lacks, such as halves of characters."""
_UNSAID: Final = "the name of something that was said cannot be sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """How much is kept of runs that have ended and are not sent because the wire is away."""

    ended_runs: int = 10_000
    ended_bytes: int = 64 * 1_048_576


@dataclass(slots=True)
class RelayStats:
    """What a relay has done so far."""

    parts: int = 0
    parts_missed: int = 0
    """Parts that fell out of their ring before they could be sent, or are too large."""
    refused: int = 0
    """Messages that the wire did not take at that moment."""
    runs_given_up: int = 0
    """Runs whose end was never said, because too many waited for that."""


class _Run:
    """One run on its way: how far it has been said, and what must be said of it besides its parts."""

    __slots__ = ("__weakref__", "_relay", "begin", "begun_at", "channel", "end", "pieces", "queued", "said", "topic")

    def __init__(self, relay: Relay, channel: Channel, topic: Topic, begin: Begin) -> None:
        self._relay = relay
        self.channel: Channel | None = channel
        self.topic = topic
        self.begin = begin
        self.begun_at = 0
        """When the run last said what it is."""
        self.said = 0
        """The number of the last part that was sent, or will not be."""
        self.pieces: deque[Piece] = deque()
        """The pieces of the next part that are still to be sent, if that part is a large one."""
        self.end: End | None = None
        self.queued = False

    @property
    def seen(self) -> int:
        """The number of the last part that was sent, or for which no more room is taken than for any other: `Taker`."""
        return self.newest if self._relay.is_away else self.said

    @property
    def newest(self) -> int:
        return self.said if self.channel is None else self.channel.added

    @property
    def has_more(self) -> bool:
        return self.said < self.newest or self.end is not None or self.begun_at == 0


class Relay:
    """Sends what the runs of a hub say. Made on the event loop of both; `aclose` it after the runs have ended."""

    def __init__(self, hub: StreamHub, wire: LiveWire, limits: RelayLimits | None = None) -> None:
        self.limits = limits or RelayLimits()
        self.stats = RelayStats()
        self._hub = hub
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._runs: dict[str, _Run] = {}
        self._queue: deque[_Run] = deque()
        self._states: deque[tuple[Topic, bytes]] = deque(maxlen=256)
        self._ended: OrderedDict[str, int] = OrderedDict()
        """The bytes that are kept of runs that have ended."""
        self._ended_bytes = 0
        self._turn: asyncio.Handle | None = None
        self._again: asyncio.TimerHandle | None = None
        self._is_blocked = False
        self._refused_at: float | None = None
        """When the wire began to refuse everything; None if it takes what it is given."""
        self._idle = asyncio.Event()
        hub.on_begin, hub.on_part, hub.on_close = self._begin, self._part, self._close
        threads = hub.threads
        threads.on_state, threads.on_forget, threads.on_watched = self._state, self._forget, self._watched
        wire.on_writable.append(self._go_on)

    @property
    def is_away(self) -> bool:
        """Whether the wire has taken nothing for so long that it may do so for hours."""
        return self._refused_at is not None and self._loop.time() - self._refused_at > _AWAY

    async def aclose(self, seconds: float = 1.0) -> None:
        """Send what waits, for at most `seconds`, and nothing from then on. May be called again."""
        hub = self._hub
        try:
            async with asyncio.timeout(seconds):
                while self._queue or self._states:
                    self._idle.clear()
                    self._flush_soon()
                    await self._idle.wait()
        except TimeoutError:
            pass
        if hub.on_part == self._part:
            hub.on_begin = hub.on_part = hub.on_close = None
            hub.threads.on_state = hub.threads.on_forget = hub.threads.on_watched = None
            self._wire.on_writable.remove(self._go_on)
        for handle in (self._turn, self._again):
            if handle is not None:
                handle.cancel()

    def _begin(self, channel: Channel, run: RunRecord, spec: RunSpec, started: bool, at: int) -> None:  # noqa: FBT001
        begin = Begin(
            agent=run.agent,
            attempt=run.attempt,
            modes=tuple(channel.modes or ()),
            resumable=channel.resumable,
            has_feed=not spec.thread_ends,
            started=started,
            at=at,
            answers=answers_in((spec.command or {}).get("resume")),
            retry_of=run.retry_of,
            by_command=is_by_command(spec),
        )
        self._give_up(run.run_id)  # the run was lost to another process, and is back: what was left to say is old
        run_on_way = self._runs[run.run_id] = _Run(self, channel, Topic(run.thread_id, run.run_id), begin)
        channel.attach(run_on_way)
        self._enqueue(run_on_way)

    def _part(self, channel: Channel) -> None:
        run = self._runs.get(channel.run_id)
        if run is not None and not run.queued:
            self._enqueue(run)

    def _close(self, channel: Channel, end: dict[str, Any] | None, at: int) -> None:
        run = self._runs.get(channel.run_id)
        if run is None:
            return
        run.end = End(end, at)
        self._ended[channel.run_id] = channel.weight
        self._ended_bytes += channel.weight
        if not run.queued:
            self._enqueue(run)
        self._bound()

    def _state(self, thread_id: str, state: bytes, at: int) -> bool:
        """Say that a thread's state has changed; returns whether all who listen hear it."""
        return self._tell(thread_id, Message(THREAD_STATE, state=state_of(state, at)))

    def _forget(self, thread_id: str) -> None:
        self._tell(thread_id, Message(THREAD_STATE, gone=True))

    def _watched(self, thread_id: str, run_id: str) -> None:
        self._tell(thread_id, Message(THREAD_STATE, watched=run_id))

    def _tell(self, thread_id: str, message: Message) -> bool:
        self._states.append((Topic(thread_id, THREAD_STATE), bytes_of(message)))
        if not self._is_blocked:
            self._send_states()
        return not self._states

    def _bound(self) -> None:
        """Give up the parts, then also the ends, of the runs that have waited longest, if too much waits."""
        limits = self.limits
        if self._ended_bytes > limits.ended_bytes:
            for run_id, size in self._ended.items():
                if size and (run := self._runs[run_id]).channel is not None:
                    self.stats.parts_missed += run.newest - run.said
                    run.said, run.channel = run.newest, None
                    run.pieces.clear()
                    self._ended[run_id] = 0
                    self._ended_bytes -= size
                    if self._ended_bytes <= limits.ended_bytes:
                        break
        while len(self._ended) > limits.ended_runs:
            self._give_up(next(iter(self._ended)))
            self.stats.runs_given_up += 1

    def _give_up(self, run_id: str) -> None:
        """Say no more of a run, if there is anything to say."""
        self._ended_bytes -= self._ended.pop(run_id, 0)
        run = self._runs.pop(run_id, None)
        if run is not None and run.queued:
            self._queue.remove(run)

    def _enqueue(self, run: _Run) -> None:
        run.queued = True
        self._queue.append(run)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._turn is None and not self._is_blocked:
            self._turn = self._loop.call_soon(self._flush)

    def _go_on(self) -> None:
        """The wire takes messages again."""
        self._is_blocked = False
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._flush_soon()

    def _flush(self) -> None:
        """Send what waits, one message of each run in turn."""
        self._turn = None
        sent = 0
        self._send_states()
        while self._queue and not self._is_blocked:
            if sent >= _PER_TURN:
                self._flush_soon()
                return
            run = self._queue[0]
            if (size := self._send(run)) == 0:
                return
            sent += size
            self._queue.popleft()
            if run.has_more:
                self._queue.append(run)
            else:
                run.queued = False
        if not self._is_blocked:
            self._idle.set()

    def _send_states(self) -> None:
        while self._states and self._say(*self._states[0]):
            self._states.popleft()

    def _say(self, topic: Topic, data: bytes) -> bool:
        if self._wire.say(topic, data):
            self._refused_at = None
            return True
        if self._refused_at is None:
            self._refused_at = self._loop.time()
        self.stats.refused += 1
        self._is_blocked = True
        if self._again is None:
            self._again = self._loop.call_later(_TRY_AGAIN, self._go_on)
        return False

    def _send(self, run: _Run) -> int:
        """Send the next message of a run; returns its size, or 0 if the wire did not take it."""
        try:
            message, said, pieces = self._message_of(run)
            data = _encoded(message)
        except _UNSAYABLE:  # from an agent: the other runs must not wait for that
            said, pieces = run.newest, deque[Piece]()
            message = Message(run.topic.run_id or "", gaps=((run.said + 1, said, _UNSAID),), through=said)
            run.begun_at = run.begun_at or now_ms()
            data = bytes_of(message)
        if not self._say(run.topic, data):
            return 0
        self.stats.parts += len(message.parts)
        self.stats.parts_missed += sum(last - first + 1 for first, last, _ in message.gaps)
        run.said, run.pieces = said, pieces
        if run.channel is not None:
            run.channel.relieve()
        if message.begin is not None:
            run.begun_at = now_ms()
        if message.end is not None:
            run.end = None
            del self._runs[run.topic.run_id or ""]
            self._ended_bytes -= self._ended.pop(run.topic.run_id or "", 0)
        return len(data)

    def _message_of(self, run: _Run) -> tuple[Message, int, deque[Piece]]:
        """What of a run comes next: the message, up to which part all is then said, and the pieces that are left."""
        said, pieces = run.said, run.pieces
        message = Message(run.topic.run_id or "")
        if run.begun_at == 0 or (not run.end and now_ms() - run.begun_at >= _REPEATED_AFTER):
            message.begin = run.begin
        if pieces:
            message.piece = pieces[0]
            pieces = deque(islice(pieces, 1, None))
            said += not pieces
        elif run.channel is not None:
            said, pieces = _fill(message, run.channel, said)
        message.through = said
        if said >= run.newest and not pieces:
            message.end = run.end
        return message, said, pieces


def _fill(message: Message, channel: Channel, said: int) -> tuple[int, deque[Piece]]:
    """Put the parts behind `said` into a message, as many as fit; returns the last, and the pieces of a large one."""
    gaps: list[tuple[int, int, str | None]] = []
    parts: list[Part] = []
    room = MOST_BYTES
    if said + 1 < channel.first_kept:
        gaps.append((said + 1, channel.first_kept - 1, "more was said than could be sent"))
        said = channel.first_kept - 1
    pieces: deque[Piece] = deque()
    items = channel.items
    for index in range(said + 1 - channel.first_kept, len(items)):  # a deque finds quickly what is near its ends
        frame = items[index]
        if frame is None:  # only mirrors have these, and no relay sends them
            break
        size = bytes_about(frame)
        if size > MOST_BYTES:
            if parts:
                break
            if size <= MOST_PART_BYTES:
                cut = pieces_of(frame)
                pieces = deque(Piece(frame.sequence, at, len(cut), data) for at, data in enumerate(cut))
                message.piece = pieces.popleft()
                said += not pieces
                break
            gaps.append((frame.sequence, frame.sequence, f"a part of {size:,} bytes is too large to be sent"))
            said = frame.sequence
            continue
        room -= size
        if room < 0:
            break
        parts.append(part_of(frame))
        said = frame.sequence
    message.gaps, message.parts = tuple(gaps), tuple(parts)
    return said, pieces


def _encoded(message: Message) -> bytes:
    """A message as it goes over the wire; an end that is too large for the wire is left to the log."""
    try:
        data = bytes_of(message)
        if message.end is None or len(data) <= MOST_BYTES + 32_768:
            return data
    except _UNSAYABLE:  # the payload has what msgpack lacks
        if message.end is None:
            raise
    message.end = End(None, message.end.at)
    return bytes_of(message)
