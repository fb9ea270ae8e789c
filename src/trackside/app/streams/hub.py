"""One ring of encoded parts for each run, and the readers that move along it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from trackside.app.streams._messages import MessageSteps, pair_of
from trackside.app.streams.channel import Channel, EndedStream, HubLimits, Reader
from trackside.app.streams.frames import now_ms
from trackside.app.streams.live_messages import answers_in, end_as_said, is_by_command, weight_of
from trackside.app.streams.thread_feed import Start, ThreadFeeds
from trackside.harness.payload import json_bytes, whole_text
from trackside.harness.ports import StreamGap, StreamPart
from trackside.harness.types import RunRecord, RunSpec

_decode = msgspec.json.Decoder().decode
_MESSAGES = "messages"
_TUPLES = "messages-tuple"


class StreamHub:
    """The live output of the runs of one event loop (`ports.RunStream`), and of their threads (`threads`).

    What a run says is encoded when it says it, so that nobody can change it afterwards and no reader pays for it.
    """

    local = True

    def __init__(self, limits: HubLimits | None = None) -> None:
        self.limits = limits or HubLimits()
        self.threads = ThreadFeeds(self.limits.threads)
        """What is said on threads, over all their runs."""
        self.on_end: Callable[[str, str | None, Mapping[str, Any]], object] | None = None
        """Called for each run that ends here: with its id, its agent if that is known, and what its last event says."""
        self.on_begin: Callable[[Channel, RunRecord, RunSpec, bool, int], object] | None = None
        """Called before a run of this process says anything: with what the run is, whether it has started, and when."""
        self.on_part: Callable[[Channel], object] | None = None
        """Called when a run of this process has said something."""
        self.on_close: Callable[[Channel, dict[str, Any] | None, int], object] | None = None
        """Called when a run is over here: with what its last event says, as `end_as_said`, and when; None: it goes on
        elsewhere."""
        self.mirrors_threads = False
        """Whether threads are also followed by what comes from other processes: then only a mirror begins a feed."""
        self._channels: dict[str, Channel] = {}
        self._ended: OrderedDict[str, Channel | None] = OrderedDict()
        self._ended_bytes = 0
        self._awaited: set[str] = set()  # runs that have ended, of which there was more than is kept
        self._closed = False

    def begin(self, run: RunRecord, spec: RunSpec, *, started: bool = True) -> None:
        """Learn about a run before it says anything, or ends without having `started`."""
        channel, at = self._channel_of(run.run_id), now_ms()
        modes = spec.stream_mode
        channel.own, channel.mirrored, channel.agent = True, False, run.agent
        channel.by_command = is_by_command(spec)
        channel.modes = _set_of((modes,) if isinstance(modes, str) else tuple(modes))
        channel.resumable = bool(spec.options and spec.options.get("stream_resumable"))
        if not spec.thread_ends:  # else the thread goes with its run: its followers follow the run
            threads = self.threads
            channel.feed = threads.known(run.thread_id) if self.mirrors_threads else threads.feed_of(run.thread_id)
            if started and channel.feed is not None:
                answers = answers_in((spec.command or {}).get("resume"))
                start = Start(run.agent, run.attempt, channel.modes, answers, run.retry_of, channel.by_command)
                channel.feed.note_start(run.run_id, start, at=at)
        if self.on_begin is not None:
            self.on_begin(channel, run, spec, started, at)

    def publish(self, run_id: str, mode: str, data: Any, namespace: tuple[str, ...] = ()) -> None:
        """Append a part and wake those who wait for it.

        A message that comes alone, and not as a pair with what is said about it, is a part of both modes that messages
        have.
        """
        channel = self._channels.get(run_id)
        if channel is None:
            if run_id in self._ended:  # nobody hears what comes after the end
                return
            channel = self._channel_of(run_id)
        if mode == _MESSAGES:
            _say_message(channel, data, namespace)
        else:
            mode = _on_a_line(mode)
            event = _named(_MESSAGES if mode == _TUPLES else mode, namespace)
            channel.say(mode, event, whole_text(data)[1], namespace)
        channel.wake_all()
        if self.on_part is not None:
            self.on_part(channel)

    def close(self, run_id: str, *, end: Mapping[str, Any] | None = None) -> None:
        """Let every reader get to the end; keep the parts while there is room."""
        kept = None if end is None else end_as_said(end)  # ends of many runs are kept: nothing long
        channel = self._channels.get(run_id)
        if run_id in self._ended if channel is None else channel.mirrored and end is None:
            return
        at = now_ms()
        self._close(run_id, channel, kept, at)
        if channel is not None and self.on_close is not None:
            self.on_close(channel, kept, at)
        if end is not None and self.on_end is not None:
            self.on_end(run_id, None if channel is None else channel.agent, end)

    def mirror(self, run_id: str) -> Channel | None:
        """Where to put what another process's run says; None if the run has ended here.

        It may be a run of this process, because what others hear comes back: the channel takes nothing of that.
        """
        channel = self._channels.get(run_id)
        if channel is None:
            if self.end_of(run_id) is not None:
                return None
            channel = self._channel_of(run_id)
        channel.mirrored = not channel.own
        return channel

    def detach(self, run_id: str) -> None:
        """Stop passing what a run says to those who follow its thread."""
        if (channel := self._channels.get(run_id)) is not None:
            channel.feed = None

    def ended(self, run_id: str) -> Channel | None:
        """What is kept of a run that has ended here."""
        return self._ended.get(run_id)

    def is_mirrored(self, run_id: str) -> bool:
        """Whether what another process's run says comes here."""
        channel = self._channels.get(run_id)
        return channel is not None and channel.mirrored

    def close_mirror(self, run_id: str, end: Mapping[str, Any], *, at: int) -> None:
        """As `close`, for another process's run whose last event says this and was told `at` that time."""
        channel = self._channels.get(run_id)
        if channel is not None and channel.mirrored:
            self._close(run_id, channel, end, at)

    def drop_mirror(self, run_id: str) -> None:
        """Nothing more of this run comes here: its followers get to the end of what is here, and ask the log."""
        channel = self._channels.get(run_id)
        if channel is not None and channel.mirrored:
            del self._channels[run_id]
            channel.close()

    def _close(self, run_id: str, channel: Channel | None, end: Mapping[str, Any] | None, at: int) -> None:
        if channel is not None:
            del self._channels[run_id]
            channel.end, channel.ended_at, channel.steps = end, at, None
            channel.close()
            channel.pack()
            if channel.feed is not None:
                channel.feed.note_end(run_id, end, at=at, by_command=channel.by_command)
                channel.feed.wake()
                channel.feed, channel.told = None, True
        self._relieve()
        self._ended[run_id] = channel
        if channel is not None:
            self._weigh(channel)
            if channel.overflows:
                self._awaited.add(run_id)
        limits = self.limits
        while len(self._ended) > limits.ended_runs or (self._ended_bytes > limits.ended_bytes and len(self._ended) > 1):
            _, oldest = self._ended.popitem(last=False)
            self._ended_bytes -= oldest.weight if oldest is not None else 0

    def _weigh(self, channel: Channel) -> None:
        weight = channel.size + weight_of(channel.end)
        self._ended_bytes += weight - channel.weight
        channel.weight = weight

    def _relieve(self) -> None:
        """Drop what was kept of ended runs for followers who have it, or have gone, by now."""
        for run_id in [*self._awaited]:
            channel = self._ended.get(run_id)
            if channel is not None:
                channel.relieve()
                self._weigh(channel)
            if channel is None or not channel.overflows:
                self._awaited.discard(run_id)

    def end_all(self) -> None:
        """End all streams here, so that their followers go elsewhere: the process is about to end. Runs go on."""
        self._closed = True
        for channel in self._channels.values():
            channel.closing = True
            channel.close()
        self.threads.end_all()

    def values(self, run_id: str) -> bytes | None:
        """The newest state that a run has said, as JSON; None if none is known here."""
        channel = self._channels.get(run_id) or self._ended.get(run_id)
        return None if channel is None else channel.values

    def said_no_values(self, run_id: str) -> bool:
        """Whether it is known here that a run that was asked for values has ended without saying any."""
        channel = self._ended.get(run_id)
        return channel is not None and channel.said_no_values

    def end_of(self, run_id: str) -> Mapping[str, Any] | None:
        """What the last event of a run says, as `end_as_said`; None if it has not ended here, or long ago."""
        channel = self._ended.get(run_id)
        return None if channel is None else channel.end

    def read(self, run_id: str, *, after: int = 0) -> Reader:
        """Follow what a run says, starting after this part, even if it has not said anything yet.

        A reader of an ended run of which nothing is kept gets to the end at once if `close` was called; otherwise it
        waits for ever: ask the store first.
        """
        if run_id in self._ended:
            return self.read_kept(run_id, after=after)
        channel = self._channel_of(run_id)
        return Reader(channel, min(after, channel.added))

    def read_kept(self, run_id: str, *, after: int = 0) -> Reader:
        """Read what is kept of a run. For a run that is not known here there is nothing, and the reader is at the end."""
        channel = self._channels.get(run_id) or self._ended.get(run_id)
        if channel is None:
            channel = Channel(run_id, self.limits)
            channel.close()
        return Reader(channel, min(after, channel.added))

    async def follow(
        self, run_id: str, *, after: int | None = None, modes: Collection[str] | None = None
    ) -> AsyncIterator[StreamPart | StreamGap]:
        """What is kept of the run's output, then what it says, to the end; what was dropped in between is a
        `StreamGap`.
        """
        reader = self.read(run_id, after=after or 0)
        while True:
            if (gap := reader.gap()) is not None:
                yield gap
            batch = await reader.next()
            if isinstance(batch, EndedStream):
                return
            for frame in batch:
                if frame.said and (modes is None or frame.mode in modes):
                    yield StreamPart(frame.sequence, frame.mode, _decode(frame.said), frame.namespace)

    def _channel_of(self, run_id: str) -> Channel:
        channel = self._channels.get(run_id)
        if channel is None:
            if (former := self._ended.pop(run_id, None)) is not None:  # lost to another process, and taken back
                self._ended_bytes -= former.weight
            channel = self._channels[run_id] = Channel(run_id, self.limits)
            channel.closed = channel.closing = self._closed
        return channel


def _say_message(channel: Channel, piece: Any, namespace: tuple[str, ...]) -> None:
    piece, said = whole_text(piece)
    if isinstance(piece, Mapping):
        channel.say(_TUPLES, _named(_MESSAGES, namespace), json_bytes(pair_of(piece)), namespace, b"")
    channel.steps = channel.steps or MessageSteps()
    for event, step in channel.steps.take(piece):
        channel.say(_MESSAGES, event, json_bytes(step), namespace, said)
        said = b""


@lru_cache(maxsize=256)
def _set_of(names: tuple[str, ...]) -> frozenset[str]:
    """One set for all runs that were asked to say the same."""
    return frozenset(names)


def _named(event: str, namespace: tuple[str, ...]) -> str:
    return _on_a_line("|".join((event, *namespace)) if namespace else event)


def _on_a_line(name: str) -> str:
    """A name as it can stand on a line of a stream: a line break in it would begin an event that nobody has said."""
    return name if name.isprintable() else "".join(sign if sign.isprintable() else " " for sign in name)
