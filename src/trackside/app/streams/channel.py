"""What one run says, as encoded parts in a ring, and a reader's place in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from trackside.app.streams._messages import MessageSteps
from trackside.app.streams._ring import Ring, RingReader
from trackside.app.streams.frames import Frame, now_ms
from trackside.app.streams.thread_feed import FeedLimits, Start, ThreadFeed
from trackside.harness.ports import StreamGap

_decode = msgspec.json.Decoder().decode
_VALUES = "values"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubLimits:
    """How much is kept of runs' live output."""

    parts: int = 10_000
    """Parts of one run."""
    part_bytes: int = 8 * 1_048_576
    """Bytes of one run."""
    behind: int = 8
    """How many times as much of one run there may be while somebody who follows it has that still to take."""
    ended_runs: int = 1_024
    """How many runs that have ended can still be followed from their beginning."""
    ended_bytes: int = 64 * 1_048_576
    """Bytes of all these together."""
    threads: FeedLimits = FeedLimits()  # noqa: RUF009  # it is frozen
    """The limits for what is said on threads."""


@dataclass(frozen=True, slots=True)
class EndedStream:
    """There is no more to come.

    `end` is what the run's last event says, as `end_as_said`, if the run has ended in this process. Without it, either
    nothing is known here of how it ended, if it has, or (`closing`) this process ends its streams while the run may go
    on.
    """

    end: Mapping[str, Any] | None
    closing: bool = False


class Channel(Ring[Frame]):
    """What a run says."""

    __slots__ = (
        "agent",
        "begun",
        "by_command",
        "closing",
        "counted",
        "end",
        "ended_at",
        "feed",
        "mirrored",
        "missed",
        "modes",
        "own",
        "resumable",
        "run_id",
        "steps",
        "told",
        "values",
        "weight",
    )

    def __init__(self, run_id: str, limits: HubLimits) -> None:
        super().__init__(limits.parts, limits.part_bytes, limits.behind)
        self.run_id = run_id
        self.end: Mapping[str, Any] | None = None
        self.ended_at = 0
        """When the end was told, in milliseconds since 1970."""
        self.told = False
        """Whether the followers of its thread were told the end, too."""
        self.closing = False
        self.values: bytes | None = None
        """The run's newest state, as it was said last."""
        self.steps: MessageSteps | None = None
        self.modes: frozenset[str] | None = None
        """What it was asked to say; None if nobody has told yet."""
        self.resumable = False
        self.agent: str | None = None
        self.feed: ThreadFeed | None = None
        self.own = False
        """Whether this process executes the run: what other processes hear of it has been said here."""
        self.mirrored = False
        """Whether another process executes the run, so that what it says comes from there."""
        self.by_command = False
        """Whether a command of version 2 of the protocol has asked for it."""
        self.begun: Any = None
        """What that process said of the run's beginning."""
        self.counted = False
        """Whether that process has said the run's end, and so how many parts there are."""
        self.missed = False
        """Whether any of these parts will not come."""
        self.weight = 0
        """Bytes that it counts among the runs that have ended."""

    def say(
        self,
        mode: str,
        event: str,
        data: bytes,
        namespace: tuple[str, ...],
        said: bytes | None = None,
    ) -> None:
        """Append a part, here and to the thread's feed."""
        self.take(Frame(self.added + 1, mode, event, data, namespace, now_ms(), said))

    def take(self, frame: Frame) -> None:
        """Append a part that is numbered already, here and to the thread's feed; what is missing before it is a gap."""
        if frame.sequence > self.added + 1:
            self.miss(frame.sequence - 1, at=frame.at)
        self.add(frame)
        if self.feed is not None:
            self.feed.note_part(self.run_id, frame)
        if frame.mode == _VALUES and not frame.namespace and not _asks_only(frame.data):
            self.values = frame.data

    def miss(self, through: int, *, at: int, why: str | None = None) -> None:
        """Note that no part up to this one will come any more."""
        first = self.added + 1
        if through >= first:
            self.skip(through, why)
            self.missed = True
            self.values = None  # newer ones may be among them
            if self.feed is not None:
                self.feed.note_missed(self.run_id, StreamGap(first, through, why), at=at)

    def lack(self, why: str, *, at: int | None) -> None:
        """What was said last may not have come; the thread's followers hear that, if they may have missed it (`at`)."""
        if self.own:  # it was said here
            return
        self.lacks = why
        self.values = None  # newer ones may be among it
        if self.feed is not None and at is not None:
            self.feed.note_missed(self.run_id, StreamGap(self.added + 1, self.added + 1, why), at=at)

    def may_lack(self, at: int) -> bool:
        """Whether the run may have said something `at` that time, in milliseconds since 1970, that has not come here."""
        return self.mirrored and not self.counted and self.begun is not None and at >= self.begun.at

    @property
    def said_no_values(self) -> bool:
        """Whether it was asked for values and has ended without any: all that it said has come here."""
        is_whole = self.counted and self.begun is not None if self.mirrored else self.end is not None
        lacks = self.missed or self.lacks is not None
        return is_whole and not lacks and self.values is None and _VALUES in (self.modes or ())

    def retell(self, feed: ThreadFeed) -> None:
        """Tell a thread's feed which run this is, and what it has said so far."""
        begun = self.begun
        if begun is None:
            feed.note_active(self.run_id)
        elif begun.started:
            modes = self.modes or frozenset()
            start = Start(begun.agent, begun.attempt, modes, begun.answers, begun.retry_of, begun.by_command)
            feed.note_start(self.run_id, start, at=begun.at)
        former = RingReader(self, 0)
        while former.has_more:
            if (gap := former.gap()) is not None:
                feed.note_missed(self.run_id, gap, at=now_ms())
            for frame in former.take():
                feed.note_part(self.run_id, frame)

    def wake_all(self) -> None:
        """Wake those who follow the run, and those who follow its thread."""
        self.wake()
        if self.feed is not None:
            self.feed.wake()


class Reader(RingReader[Frame]):
    """One reader's place in what a run says."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Channel, seen: int) -> None:
        super().__init__(channel, seen)
        self._channel = channel

    @property
    def resumable(self) -> bool:
        """Whether the run's followers get ids by which they can resume."""
        return self._channel.resumable

    @property
    def heard_start(self) -> bool:
        """Whether the run's beginning is known here; if not, it may have said something before that is not known."""
        return not self._channel.mirrored or self._channel.begun is not None

    def learn(self, modes: Iterable[str], *, resumable: bool) -> None:
        """Learn what the run was asked to say, and whether its followers resume, if that was not heard."""
        channel = self._channel
        if channel.modes is None:
            channel.modes, channel.resumable = frozenset(modes), resumable

    @property
    def modes(self) -> frozenset[str] | None:
        """What the run was asked to say; None if that is not known here."""
        return self._channel.modes

    def knows(self, frame_id: str) -> bool | None:
        """Whether a part of the run has this id; None if one may have, and is no longer kept, or has not come here."""
        at, _, number = frame_id.partition("-")
        if not (at.isdecimal() and number.isdecimal()):
            return False
        sequence = int(number)
        channel = self._channel
        if sequence > channel.added:
            return None if channel.may_lack(int(at)) else False
        if sequence == 0:  # the id of what comes before all parts
            return True
        if sequence < channel.first_kept:
            return None
        frame = channel.items[sequence - channel.first_kept]
        return None if frame is None else frame.at == int(at)

    @property
    def standing(self) -> EndedStream:
        """How the stream has ended, if it `is_over`."""
        return EndedStream(self._channel.end, self._channel.closing)

    def ready(self) -> list[Frame] | EndedStream | None:
        """What is there now; None if the reader must wait. Call `gap` first."""
        if frames := self.take():
            return frames
        return self.standing if self.is_over else None

    async def next(self) -> list[Frame] | EndedStream:
        """What comes next: everything up to a gap, or the end. Nothing if there is a gap now."""
        while (batch := self.ready()) is None:
            if self.has_more:
                return []
            await self.wait()
        return batch


def _asks_only(values: bytes) -> bool:
    """Whether these are not values but the questions that a graph stops with."""
    return values.startswith(b'{"__interrupt__":') and len(_decode(values)) == 1
