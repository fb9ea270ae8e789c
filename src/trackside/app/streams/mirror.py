"""Has what other processes' runs say in this process's hub: the same parts, with the same numbers, for those who ask here.

A mirror is of one run, or of all runs of a thread, and is there as long as somebody wants it, and a moment longer. It ends
with the run: when the worker says so, or the log, whichever comes first, as a worker may be gone. What the log says first
waits a moment for what the worker may still have under way.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from time import time
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from trackside.app.streams._ring import RingReader
from trackside.app.streams.ends import EndLog, ToldEnd
from trackside.app.streams.frames import Frame
from trackside.app.streams.hub import Channel, StreamHub
from trackside.app.streams.live_messages import (
    MOST_BYTES,
    MOST_PART_BYTES,
    Begin,
    Message,
    Piece,
    State,
    UnknownMessageError,
    message_of,
    whole_part,
)
from trackside.app.streams.thread_feed import ThreadFeed
from trackside.app.streams.wire import Listening, LiveWire, Topic
from trackside.harness.errors import TracksideError
from trackside.harness.ports import StreamGap

logger = logging.getLogger("trackside.stream")

_LEFT_OUT: Final = frozenset({"completion_data", "traceback"})
_MOST_PIECES: Final = MOST_PART_BYTES // MOST_BYTES + 2
_STILL_COMING: Final = 0.5
"""Seconds after a message of a run in which another one may be expected."""
_SAID_NO_MORE: Final = frozenset({"worker_lost", "process_crashed", "memory_limit"})
"""How runs have failed whose processes did not live to say more."""
_UNHEARD: Final = "what the worker said last did not come; how the run has ended, the log says"
_KNOWN_ENDS: Final = 1_000
"""Of how many runs of a thread a mirror knows that they are over, besides those that the hub knows."""


type _Work = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorOptions:
    """Times of mirrors, in seconds."""

    linger: float = 5.0
    """How long a mirror is kept that nobody follows."""
    grace: float = 1.0
    """How long the end of a run that the log has waits for what its worker may still have said."""
    patience: float = 5.0
    """How long it waits at most, while such things come."""
    doubt: float = 2.0
    """After so long the log is asked how a run of a thread has ended of which only something else was heard."""


@dataclass(slots=True)
class MirrorStats:
    """What mirrors have done so far, and how many there are."""

    open: int = 0
    messages: int = 0
    parts: int = 0
    repeated: int = 0
    """Parts that came once more."""
    missed: int = 0
    """Parts that never came."""
    not_understood: int = 0
    """Messages of another version, or of none."""
    ends_said: int = 0
    """Ends that workers said."""
    ends_logged: int = 0
    """Those that the log had to tell."""


class Mirror:
    """Somebody wants a mirror, until he closes it, as by `with`."""

    __slots__ = ("_listens", "_mirrors")

    def __init__(self, mirrors: Mirrors, listens: _Listens | None) -> None:
        self._mirrors = mirrors
        self._listens = listens

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def catch_up(self, seconds: float = 1.0) -> bool:
        """Wait until all was heard that was said before and is kept, for so long at most; whether it was."""
        return self._listens is None or await self._listens.catch_up(seconds)

    def close(self) -> None:
        """He does not want it any more. May be called again."""
        listens, self._listens = self._listens, None
        if listens is not None:
            self._mirrors._release(listens)  # noqa: SLF001  # they are of the same module


class _Pieces(NamedTuple):
    """What has come of a large part."""

    sequence: int
    data: list[bytes]


class _Listens:
    """What is heard on one topic: of a run, or (with the `feed`) of all runs of a thread."""

    __slots__ = (
        "feed",
        "heard_at",
        "lingering",
        "listening",
        "opened_at",
        "over",
        "pieces",
        "states",
        "tasks",
        "topic",
        "users",
        "watches",
    )

    def __init__(self, topic: Topic, feed: ThreadFeed | None) -> None:
        self.topic = topic
        self.feed = feed
        self.users = 0
        self.opened_at = _now()
        self.lingering: asyncio.TimerHandle | None = None
        self.listening: Listening | None = None
        self.heard_at: dict[str, float] = {}
        """The runs that were heard of and are not over, and when something was heard of them last."""
        self.over: OrderedDict[str, None] = OrderedDict()
        self.pieces: dict[str, _Pieces] = {}
        self.states: deque[tuple[int, int]] = deque(maxlen=1_000)
        """When the thread's state was changed, and a hash of what to, as it may come again."""
        self.watches: dict[str, asyncio.Task[None]] = {}
        """Who waits for the log to tell how a run has ended."""
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def is_caught_up(self) -> bool:
        return self.listening is not None and self.listening.caught_up.is_set()

    async def catch_up(self, seconds: float) -> bool:
        if self.listening is None:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self.listening.caught_up.wait()
        except TimeoutError:
            return False
        return True


class Mirrors:
    """The mirrors of a hub. Made on its event loop; `aclose` it before the wire, and after those who follow.

    Args:
        hub: where the runs and threads are followed. From now on feeds of threads begin with their mirrors only.
        wire: what brings what others say.
        log: what knows how runs have ended.
        options: how long what is waited for.
    """

    def __init__(self, hub: StreamHub, wire: LiveWire, log: EndLog, options: MirrorOptions | None = None) -> None:
        self.log = log
        self.stats = MirrorStats()
        self._hub = hub
        self._wire = wire
        self._options = options or MirrorOptions()
        self._loop = asyncio.get_running_loop()
        self._open: dict[Topic, _Listens] = {}
        hub.mirrors_threads = True

    def run(self, thread_id: str, run_id: str) -> Mirror:
        """Have what a run says in the hub. Nothing needs to be said yet, or any more: what is kept comes first."""
        if self._hub.mirror(run_id) is None:  # it is over, and all that is known of it is here
            return Mirror(self, None)
        listens = self._open.get(Topic(thread_id))
        if listens is None or run_id in listens.over:
            topic = Topic(thread_id, run_id)
            listens = self._open.get(topic) or self._begin(_Listens(topic, None))
        if run_id not in listens.watches:
            self._watch(listens, run_id, partial(self._ask_log, listens, run_id))
        return self._used(listens)

    def thread(self, thread_id: str, *, active: str | None = None) -> Mirror:
        """Have what all runs of a thread say in the hub's feed of the thread, also of those that begin later.

        `active` is a run that had not ended a moment ago, so that its end is told even if nothing else is heard of it.
        """
        topic = Topic(thread_id)
        listens = self._open.get(topic)
        if listens is None:
            feed = self._hub.threads.feed_of(thread_id)
            feed.mirrored = True
            listens = _Listens(topic, feed)
            self._spawn(listens, partial(self._ask_log_of_thread, listens), f"trackside-mirror-{thread_id}")
            self._begin(listens)
        if active is not None and active not in listens.watches and active not in listens.over:
            self._watch(listens, active, partial(self._ask_log, listens, active))
        return self._used(listens)

    async def aclose(self) -> None:
        """End all of them. May be called again."""
        tasks = [task for listens in self._open.values() for task in listens.tasks]
        for listens in list(self._open.values()):
            self._drop(listens)
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, listens: _Listens) -> _Listens:
        self._open[listens.topic] = listens
        self.stats.open += 1
        listens.listening = self._wire.listen(listens.topic, lambda data: self._hear(listens, data))
        return listens

    def _used(self, listens: _Listens) -> Mirror:
        listens.users += 1
        if listens.lingering is not None:
            listens.lingering.cancel()
            listens.lingering = None
        return Mirror(self, listens)

    def _release(self, listens: _Listens) -> None:
        listens.users -= 1
        if listens.users == 0 and self._open.get(listens.topic) is listens:
            listens.lingering = self._loop.call_later(self._options.linger, self._drop, listens)

    def _drop(self, listens: _Listens) -> None:
        """Hear no more; what is not over is forgotten, as it would not go on."""
        if self._open.get(listens.topic) is not listens:
            return
        del self._open[listens.topic]
        self.stats.open -= 1
        if listens.lingering is not None:
            listens.lingering.cancel()
        if listens.listening is not None:
            listens.listening.close()
        for task in listens.tasks:
            if task is not asyncio.current_task():
                task.cancel()
        thread_id, run_id = listens.topic
        for one in {*listens.heard_at, *listens.watches, *(() if run_id is None else (run_id,))}:
            if not self._is_heard(thread_id, one):
                self._hub.drop_mirror(one)
            elif listens.feed is not None and (channel := self._hub.mirror(one)) is not None:
                channel.feed = None
        if listens.feed is not None:
            self._hub.threads.drop(listens.feed)

    def _is_heard(self, thread_id: str, run_id: str) -> bool:
        """Whether a mirror is left that hears of a run."""
        return Topic(thread_id, run_id) in self._open or Topic(thread_id) in self._open

    def _spawn(self, listens: _Listens, work: _Work, name: str) -> asyncio.Task[None]:
        task = self._loop.create_task(_said_if_it_fails(work, listens.topic), name=name)
        listens.tasks.add(task)
        task.add_done_callback(listens.tasks.discard)
        return task

    def _watch(self, listens: _Listens, run_id: str, work: _Work) -> None:
        listens.watches[run_id] = self._spawn(listens, work, f"trackside-mirror-{run_id}")

    def _hear(self, listens: _Listens, data: bytes) -> None:
        self.stats.messages += 1
        try:
            message = message_of(data)
        except UnknownMessageError:
            self.stats.not_understood += 1
            return
        if message.gone:
            if listens.feed is not None and listens.is_caught_up:  # what is kept may be of one that was there before
                self._drop(listens)
                listens.feed.close()
        elif message.state is not None:
            self._take_state(listens, message.state)
        elif message.watched is not None:
            if listens.feed is not None:
                listens.feed.watched = message.watched
        else:
            self._take(listens, message)

    def _take(self, listens: _Listens, message: Message) -> None:
        run_id = message.run_id
        channel = None if run_id in listens.over else self._hub.mirror(run_id)
        if channel is None:
            if listens.feed is not None and run_id not in listens.over:
                self._retell_ended(listens.feed, run_id)
            self._note_over(listens, run_id)
            return
        if run_id not in listens.watches:
            self._watch(listens, run_id, partial(self._doubt, listens, run_id))
        listens.heard_at[run_id] = self._loop.time()
        self._attach(listens, channel, message.begin)
        self._take_parts(listens, channel, message)
        if message.end is not None and message.end.says is not None:
            self.stats.ends_said += 1
            self._end(listens, ToldEnd(run_id, message.end.says, message.end.at, started=True))
        else:
            channel.wake_all()

    def _attach(self, listens: _Listens, channel: Channel, begin: Begin | None) -> None:
        """See that it is known who a run is, and that what it says goes to those who follow its thread, too."""
        if begin is not None and channel.begun is None:
            channel.agent, channel.modes, channel.resumable = begin.agent, frozenset(begin.modes), begin.resumable
            channel.begun = begin
        feed = listens.feed
        if feed is None or channel.feed is feed:
            return
        channel.feed = feed
        _retell(feed, channel)

    def _retell_ended(self, feed: ThreadFeed, run_id: str) -> None:
        """Tell those who follow a thread of a run that has ended here before anybody did: it was followed by itself."""
        channel = self._hub.ended(run_id)
        if channel is not None and channel.begun is not None:
            _retell(feed, channel)
            feed.note_end(run_id, channel.end, at=channel.ended_at)
            feed.wake()

    def _take_parts(self, listens: _Listens, channel: Channel, message: Message) -> None:
        stats, before = self.stats, channel.added
        gaps = list(message.gaps)
        for part in message.parts:
            while gaps and gaps[0][0] < part[0]:
                self._miss(channel, StreamGap(*gaps.pop(0)), at=part[5])
            if part[0] > channel.added:
                stats.missed += part[0] - channel.added - 1
                stats.parts += 1
                channel.take(Frame(*part))
            else:
                stats.repeated += 1
        at = _now() if message.end is None else message.end.at
        for gap in gaps:
            self._miss(channel, StreamGap(*gap), at=at)
        if message.piece is not None:
            self._take_piece(listens, channel, message.piece)
        self._miss(channel, StreamGap(before, message.through), at=at)

    def _take_piece(self, listens: _Listens, channel: Channel, piece: Piece) -> None:
        """Take a piece of a large part, if all before it have come; the part, if it was the last one."""
        run_id = channel.run_id
        if piece.sequence <= channel.added:
            return
        if piece.index == 0:
            listens.pieces[run_id] = _Pieces(piece.sequence, [])
        coming = listens.pieces.get(run_id)
        if coming is None or coming.sequence != piece.sequence or piece.index >= _MOST_PIECES:
            return
        if len(coming.data) == piece.index:
            coming.data.append(piece.data)
        if len(coming.data) < piece.count:
            return
        del listens.pieces[run_id]
        try:
            frame = Frame(*whole_part(b"".join(coming.data)))
        except UnknownMessageError:
            self.stats.not_understood += 1
            return
        self.stats.parts += 1
        channel.take(frame)

    def _miss(self, channel: Channel, gap: StreamGap, *, at: int) -> None:
        if gap.last > channel.added:
            self.stats.missed += gap.last - channel.added
            channel.miss(gap.last, at=at, why=gap.why)

    def _take_state(self, listens: _Listens, state: State) -> None:
        """Somebody has changed the thread's state."""
        known = state.at, hash(state.data)
        if listens.feed is None or known in listens.states:
            return
        listens.states.append(known)
        if state.data is not None:
            listens.feed.note_state(state.data, at=state.at)
        else:
            why = "the thread's state has changed, and is too large to be told"
            listens.feed.note_missed("", StreamGap(0, 0, why), at=state.at)
            listens.feed.wake()

    def _end(self, listens: _Listens, told: ToldEnd) -> None:
        """A run is over."""
        channel = self._hub.mirror(told.run_id)
        if channel is not None:
            if listens.feed is not None:
                channel.feed = listens.feed
            of_thread = self._open.get(Topic(listens.topic.thread_id))
            if of_thread is not None and of_thread is not listens and of_thread.feed is channel.feed:
                self._note_over(of_thread, told.run_id)  # with this those who follow the thread know all of it
            says = {name: value for name, value in told.says.items() if name not in _LEFT_OUT}
            self._hub.close_mirror(told.run_id, says, at=told.at)
        self._note_over(listens, told.run_id)

    def _note_over(self, listens: _Listens, run_id: str) -> None:
        listens.heard_at.pop(run_id, None)
        listens.pieces.pop(run_id, None)
        watch = listens.watches.pop(run_id, None)
        if watch is not None and watch is not asyncio.current_task():
            watch.cancel()
        if listens.topic.run_id is not None:
            self._drop(listens)
            return
        listens.over[run_id] = None
        if len(listens.over) > _KNOWN_ENDS:
            listens.over.popitem(last=False)

    async def _ask_log(self, listens: _Listens, run_id: str) -> None:
        """Have a run end as the log says, if nobody else says it."""
        told = await self.log.end_of(run_id)
        if told is not None:
            await self._end_by_log(listens, told)

    async def _doubt(self, listens: _Listens, run_id: str) -> None:
        """A run of the thread was heard of: if it does not end soon, see whether it has ended before."""
        await asyncio.sleep(self._options.doubt)
        await self._ask_log(listens, run_id)

    async def _ask_log_of_thread(self, listens: _Listens) -> None:
        """Have runs end of which nothing was heard: they were cancelled before they began, or nobody could say it."""
        async for told in self.log.ends_on(listens.topic.thread_id):
            if told.run_id not in listens.over and told.run_id not in listens.watches:
                self._watch(listens, told.run_id, partial(self._end_by_log, listens, told))

    async def _end_by_log(self, listens: _Listens, told: ToldEnd) -> None:
        """The log has the end of a run: give the wire a moment to bring what the worker said, if that may be under way."""
        options, run_id, began = self._options, told.run_id, self._loop.time()
        was_there = not listens.is_caught_up
        await listens.catch_up(options.grace)
        while not (run_id not in listens.heard_at and (was_there or not told.started)):
            heard_at = listens.heard_at.get(run_id, began)
            until = max(began + options.grace, min(heard_at + _STILL_COMING, began + options.patience))
            if (left := until - self._loop.time()) <= 0:
                break
            await asyncio.sleep(left)  # who hears the end from the worker cancels this
        self.stats.ends_logged += 1
        if (channel := self._hub.mirror(run_id)) is not None:
            channel.values = None  # the worker may have said newer ones
            followed = run_id in listens.heard_at or told.at >= listens.opened_at
            if told.started and followed and told.says.get("error_type") not in _SAID_NO_MORE:
                channel.miss(channel.added + 1, at=told.at, why=_UNHEARD)
        self._end(listens, told)


def _retell(feed: ThreadFeed, channel: Channel) -> None:
    """Tell a thread's feed who a run is, and what it has said by now."""
    begun: Begin | None = channel.begun
    if begun is None:
        feed.note_active(channel.run_id)
    elif begun.started:
        answers = None if begun.answers is None else dict.fromkeys(begun.answers, True)
        feed.note_start(channel.run_id, begun, channel.modes or frozenset(), answers, at=begun.at)
    former = RingReader(channel, 0)
    while former.has_more:
        if (gap := former.gap()) is not None:
            feed.note_missed(channel.run_id, gap, at=_now())
        for frame in former.take():
            feed.note_part(channel.run_id, frame)


async def _said_if_it_fails(work: _Work, topic: Topic) -> None:
    try:
        await work()
    except TracksideError as exc:
        where = f"thread {topic.thread_id}" if topic.run_id is None else f"run {topic.run_id}"
        logger.warning("how runs end is not known here, if nobody says it: %s (%s)", exc, where)


def _now() -> int:
    return int(time() * 1000)
