"""Brings what other processes' runs say into this hub: the same parts, with the same numbers, for those who ask here.

A mirror is of one run, or of all runs of a thread, and exists as long as somebody wants it, and a moment longer. It
ends with the run: when the worker or the log says so, whichever comes first, because a worker may be gone. An end that
the log says first waits a moment for what the worker may still have under way.

Nobody waits for what will not come: a run that is followed has a mirror that hears it until it is over, or, where none
hears it any more or the log cannot tell, the run's stream is closed, and the follower itself asks the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from trackside.app.streams._arrivals import Arrivals
from trackside.app.streams.channel import Channel
from trackside.app.streams.ends import EndLog, ToldEnd, answered
from trackside.app.streams.frames import now_ms
from trackside.app.streams.hub import StreamHub
from trackside.app.streams.live_messages import Begin, Message, State, UnknownMessageError, end_as_said, message_of
from trackside.app.streams.mirror_options import MirrorOptions, MirrorStats
from trackside.app.streams.thread_feed import ThreadFeed
from trackside.app.streams.wire import Listening, LiveWire, Topic
from trackside.harness.errors import TracksideError
from trackside.harness.ports import StreamGap
from trackside.harness.types import FailureReason

logger = logging.getLogger("trackside.stream")

_STILL_COMING: Final = 0.5
"""Seconds after a message of a run in which another one may be expected."""
_SAID_NO_MORE: Final = frozenset(FailureReason) - {FailureReason.budget_exceeded}
"""Failures of runs whose processes did not live to say more."""
_UNHEARD: Final = "what the worker said last did not arrive; the log says how the run has ended"
_KNOWN_ENDS: Final = 1_000
"""How many runs of a thread a mirror remembers as over, besides those that the hub knows."""

type _Work = Callable[[], Coroutine[Any, Any, None]]


class Mirror:
    """A request for a mirror, until it is closed, as by `with`."""

    __slots__ = ("_mirrors", "run_id", "shared")

    def __init__(self, mirrors: Mirrors, run_id: str | None = None) -> None:
        self._mirrors = mirrors
        self.run_id = run_id
        """The run that is wanted; None if all runs of a thread are."""
        self.shared: _SharedMirror | None = None
        """What brings the wanted output now; None if nothing more comes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def catch_up(self, seconds: float = 1.0) -> bool:
        """Wait, for at most `seconds`, until all that was said before and is kept was heard, and nothing that happens
        from then on is missed; returns whether that is so.
        """
        return self.shared is None or await self.shared.catch_up(seconds)

    def close(self) -> None:
        """Say that the mirror is no longer wanted. May be called again."""
        if self.shared is not None:
            self._mirrors._release(self)  # noqa: SLF001  # they are of the same module


class _SharedMirror:
    """What requests for the same mirror share: what is heard of a run, or (with the `feed`) of all runs of a thread."""

    __slots__ = (
        "arrivals",
        "feed",
        "forgotten",
        "heard_at",
        "lingering",
        "listening",
        "made_at",
        "opened_at",
        "over",
        "placed",
        "tasks",
        "topic",
        "users",
        "watches",
    )

    def __init__(
        self, topic: Topic, arrivals: Arrivals, feed: ThreadFeed | None = None, made_at: datetime | None = None
    ) -> None:
        self.topic = topic
        self.feed = feed
        self.made_at = made_at
        self.users: set[Mirror] = set()
        self.opened_at = now_ms()
        self.lingering: asyncio.TimerHandle | None = None
        self.listening: Listening | None = None
        self.heard_at: dict[str, float] = {}
        """The runs that were heard of and are not over, and when something was last heard of each."""
        self.over: OrderedDict[str, None] = OrderedDict()
        self.forgotten: set[str] = set()
        """Runs that were heard of before a thread with this id was gone, and that count as over."""
        self.arrivals = arrivals
        self.watches: dict[str, asyncio.Task[None]] = {}
        """The tasks that wait for the log to tell how a run has ended."""
        self.tasks: set[asyncio.Task[None]] = set()
        self.placed = asyncio.Event()
        """Set once it is known from which place on the log tells how runs of the thread end."""
        if feed is None:
            self.placed.set()

    @property
    def is_caught_up(self) -> bool:
        return self.listening is not None and self.listening.caught_up.is_set()

    async def catch_up(self, seconds: float) -> bool:
        if self.listening is None:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self.listening.caught_up.wait()
                await self.placed.wait()
        except TimeoutError:
            return False
        return True


class Mirrors:
    """The mirrors of a hub. Made on its event loop; `aclose` it before the wire, and after those who follow.

    Args:
        hub: where the runs and threads are followed. From now on feeds of threads begin with their mirrors only.
        wire: brings what other processes say.
        log: knows how runs have ended.
        options: how long to wait for what.
    """

    def __init__(self, hub: StreamHub, wire: LiveWire, log: EndLog, options: MirrorOptions | None = None) -> None:
        self.log = log
        self.stats = MirrorStats()
        self._hub = hub
        self._wire = wire
        self._options = options or MirrorOptions()
        self._loop = asyncio.get_running_loop()
        self._open: dict[Topic, _SharedMirror] = {}
        hub.mirrors_threads = True

    def run(self, thread_id: str, run_id: str) -> Mirror:
        """Bring what a run says into the hub. The run need not have begun, and may be over: what is kept comes first."""
        mirror = Mirror(self, run_id)
        if self._hub.mirror(run_id) is None:  # it is over, and all that is known of it is here
            return mirror
        shared = self._open.get(Topic(thread_id))
        if shared is None or run_id in shared.over:
            shared = self._own(Topic(thread_id, run_id))
        if run_id not in shared.watches:
            self._watch(shared, run_id, partial(self._ask_log, shared, run_id))
        return self._used(shared, mirror)

    def thread(self, thread_id: str, *, active: str | None = None, made_at: datetime | None = None) -> Mirror:
        """Bring what all runs of a thread say into the hub's feed of the thread, also runs that begin later.

        `active` is a run that had not ended a moment ago, so that its end is told even if nothing else is heard of it;
        `made_at` is when the thread was made, which tells it from others that had its id before it or have it later.
        """
        topic = Topic(thread_id)
        shared = self._open.get(topic)
        if shared is not None and shared.feed is not None and _is_outlived(shared.feed, shared.made_at, made_at):
            self._end_thread(shared, shared.feed)
            shared = None
        if shared is None:
            feed = self._hub.threads.feed_of(thread_id)
            feed.mirrored = True
            shared = _SharedMirror(topic, Arrivals(), feed, made_at)
            self._spawn(shared, partial(self._ask_log_of_thread, shared), f"trackside-mirror-{thread_id}")
            self._spawn(shared, partial(self._look_after, shared, feed), f"trackside-mirror-looks-{thread_id}")
            self._begin(shared)
        if active is not None and active not in shared.watches and active not in shared.over:
            self._watch(shared, active, partial(self._ask_log, shared, active))
        return self._used(shared, Mirror(self))

    async def aclose(self) -> None:
        """End all mirrors. May be called again."""
        tasks = [task for shared in self._open.values() for task in shared.tasks]
        for shared in list(self._open.values()):
            self._drop(shared)
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, shared: _SharedMirror) -> _SharedMirror:
        self._open[shared.topic] = shared
        self.stats.open += 1
        shared.listening = self._wire.listen(shared.topic, lambda data: self._hear(shared, data))
        return shared

    def _own(self, topic: Topic) -> _SharedMirror:
        """The mirror of one run alone."""
        return self._open.get(topic) or self._begin(_SharedMirror(topic, Arrivals()))

    def _used(self, shared: _SharedMirror, mirror: Mirror) -> Mirror:
        shared.users.add(mirror)
        mirror.shared = shared
        if shared.lingering is not None:
            shared.lingering.cancel()
            shared.lingering = None
        return mirror

    def _release(self, mirror: Mirror) -> None:
        shared, mirror.shared = mirror.shared, None
        if shared is None:
            return
        shared.users.discard(mirror)
        self._linger(shared)

    def _linger(self, shared: _SharedMirror) -> None:
        """Have the mirror go in a moment if nobody wants it."""
        if not shared.users and shared.lingering is None and self._open.get(shared.topic) is shared:
            shared.lingering = self._loop.call_later(self._options.linger, self._drop, shared)

    def _doubt_thread(self, shared: _SharedMirror, feed: ThreadFeed) -> None:
        """A thread with this id is gone. It may be an earlier one, because what is kept comes first, and again after an
        outage, and that word may come late: the log says which thread exists. Until all that is kept has come, what
        came before that word must not reach those who follow this one.
        """
        heard = {*shared.heard_at, *shared.over} - shared.forgotten
        if not shared.is_caught_up:
            self._forget(shared, heard)
            feed.begin_anew()
            heard = set()
        doubt = partial(self._end_or_begin_anew, shared, feed, heard, feed.added)
        self._spawn(shared, doubt, f"trackside-mirror-gone-{feed.thread_id}")

    async def _end_or_begin_anew(self, shared: _SharedMirror, feed: ThreadFeed, heard: set[str], through: int) -> None:
        """End a thread that is gone; if one with its id exists, forget what was heard that is not of that one."""
        await self._end_if_gone(shared, feed)
        if feed.closed:
            return
        if earlier := heard and heard - await answered(partial(self.log.runs_on, feed.thread_id, heard)):
            self._forget(shared, earlier)
        feed.begin_anew(earlier, through=through)

    def _forget(self, shared: _SharedMirror, run_ids: set[str]) -> None:
        self._hand_over(shared)
        self._let_go(shared, run_ids & shared.heard_at.keys())
        for run_id in run_ids:
            self._note_over(shared, run_id)
        shared.forgotten |= run_ids

    async def _look_after(self, shared: _SharedMirror, feed: ThreadFeed) -> None:
        while not feed.closed:
            await asyncio.sleep(self._options.look_every)
            await self._end_if_gone(shared, feed)

    async def _end_if_gone(self, shared: _SharedMirror, feed: ThreadFeed) -> None:
        made_at = await answered(partial(self.log.thread_made_at, feed.thread_id))
        if made_at is None or shared.made_at not in {None, made_at}:
            self._end_thread(shared, feed)

    def _end_thread(self, shared: _SharedMirror, feed: ThreadFeed) -> None:
        """A thread is gone: its followers get to the end."""
        self._hand_over(shared)
        self._drop(shared)
        feed.close()

    def _hand_over(self, shared: _SharedMirror) -> None:
        """A thread is gone. Those of its runs that somebody follows get mirrors of their own, until they are over: the
        word of their ends may be under way, behind that of the thread's end.
        """
        for mirror in [*shared.users]:
            run_id = mirror.run_id
            if run_id is None or run_id in shared.over:
                continue
            own = self._own(Topic(shared.topic.thread_id, run_id))
            own.heard_at.setdefault(run_id, self._loop.time())
            if run_id not in own.watches:
                self._watch(own, run_id, partial(self._ask_log, own, run_id))
            shared.users.discard(mirror)
            self._used(own, mirror)
        self._linger(shared)

    def _drop(self, shared: _SharedMirror) -> None:
        """Hear no more; close and forget what is not over, because it would not go on."""
        if self._open.get(shared.topic) is not shared:
            return
        del self._open[shared.topic]
        self.stats.open -= 1
        if shared.lingering is not None:
            shared.lingering.cancel()
        if shared.listening is not None:
            shared.listening.close()
        for task in shared.tasks:
            if task is not asyncio.current_task():
                task.cancel()
        run_id = shared.topic.run_id
        self._let_go(shared, {*shared.heard_at, *shared.watches, *(() if run_id is None else (run_id,))})
        if shared.feed is not None:
            self._hub.threads.drop(shared.feed)

    def _let_go(self, shared: _SharedMirror, run_ids: Iterable[str]) -> None:
        """Nothing of these runs comes by this mirror any more; close those that no other mirror hears."""
        thread_id = shared.topic.thread_id
        for run_id in run_ids:
            if shared.feed is not None:
                self._hub.detach(run_id)
            if all(self._open.get(topic) in {None, shared} for topic in (Topic(thread_id, run_id), Topic(thread_id))):
                self._hub.drop_mirror(run_id)

    def _spawn(self, shared: _SharedMirror, work: _Work, name: str) -> asyncio.Task[None]:
        task = self._loop.create_task(_said_if_it_fails(work, shared.topic), name=name)
        shared.tasks.add(task)
        task.add_done_callback(shared.tasks.discard)
        return task

    def _watch(self, shared: _SharedMirror, run_id: str, work: _Work) -> None:
        shared.watches[run_id] = self._spawn(shared, work, f"trackside-mirror-{run_id}")

    def _hear(self, shared: _SharedMirror, data: bytes) -> None:
        self.stats.messages += 1
        try:
            message = message_of(data)
        except UnknownMessageError:
            self.stats.not_understood += 1
            return
        if message.gone:
            if shared.feed is not None:
                self._doubt_thread(shared, shared.feed)
        elif message.state is not None:
            self._take_state(shared, message.state)
        elif message.watched is not None:
            if shared.feed is not None:
                shared.feed.watched = message.watched
        else:
            self._take(shared, message)

    def _take(self, shared: _SharedMirror, message: Message) -> None:
        run_id = message.run_id
        if run_id in shared.forgotten and message.begin is not None and not shared.is_caught_up:
            shared.forgotten.discard(run_id)  # what is kept comes once more: it may be of the thread that exists
            shared.over.pop(run_id, None)
        channel = None if run_id in shared.over else self._hub.mirror(run_id)
        if channel is None:
            if shared.feed is not None and run_id not in shared.over and run_id not in shared.heard_at:
                self._retell_ended(shared.feed, run_id)
            self._note_over(shared, run_id)
            return
        if run_id not in shared.watches:
            self._watch(shared, run_id, partial(self._doubt, shared, run_id))
        shared.heard_at[run_id] = self._loop.time()
        self._attach(shared, channel, message.begin)
        shared.arrivals.take(channel, message)
        if message.end is not None and message.end.says is not None:
            self.stats.ends_said += 1
            channel.counted = True
            self._end(shared, ToldEnd(run_id, message.end.says, message.end.at, started=True))
        else:
            channel.wake_all()

    def _attach(self, shared: _SharedMirror, channel: Channel, begin: Begin | None) -> None:
        """See that it is known what a run is, and that what it says also goes to those who follow its thread."""
        if begin is not None and channel.begun is None:
            channel.agent, channel.modes, channel.resumable = begin.agent, frozenset(begin.modes), begin.resumable
            channel.begun, channel.by_command = begin, begin.by_command
        feed = shared.feed
        if feed is None or channel.feed is feed:
            return
        channel.feed = feed
        channel.retell(feed)

    def _retell_ended(self, feed: ThreadFeed, run_id: str) -> None:
        """Tell a thread's followers of a run that ended here before anybody told them: it was followed by itself."""
        channel = self._hub.ended(run_id)
        if channel is not None and (channel.begun is not None or not channel.told):
            channel.told = True
            channel.retell(feed)
            feed.note_end(run_id, channel.end, at=channel.ended_at, by_command=channel.by_command)
            feed.wake()

    def _take_state(self, shared: _SharedMirror, state: State) -> None:
        """Somebody has changed the thread's state."""
        feed = shared.feed
        if feed is None or not feed.remember_state(state):
            return
        if state.data is not None:
            feed.note_state(state.data, at=state.at)
        else:
            why = "the thread's state has changed, and is too large to be sent"
            feed.note_missed("", StreamGap(0, 0, why), at=state.at)
            feed.wake()

    def _end(self, shared: _SharedMirror, told: ToldEnd) -> None:
        """A run is over."""
        channel = self._hub.mirror(told.run_id)
        if channel is not None:
            if shared.feed is not None:
                channel.feed = shared.feed
            of_thread = self._open.get(Topic(shared.topic.thread_id))
            if of_thread is not None and of_thread is not shared and of_thread.feed is channel.feed:
                self._note_over(of_thread, told.run_id)  # with this end, the thread's followers know all of the run
            says = end_as_said(told.says)
            self._hub.close_mirror(told.run_id, says, at=told.at)
        elif shared.feed is not None and (former := self._hub.ended(told.run_id)) is not None and not former.told:
            self._retell_ended(shared.feed, told.run_id)
        self._note_over(shared, told.run_id)

    def _note_over(self, shared: _SharedMirror, run_id: str) -> None:
        shared.heard_at.pop(run_id, None)
        shared.arrivals.forget(run_id)
        watch = shared.watches.pop(run_id, None)
        if watch is not None and watch is not asyncio.current_task():
            watch.cancel()
        if shared.topic.run_id is not None:
            self._drop(shared)
            return
        shared.over[run_id] = None
        if len(shared.over) > _KNOWN_ENDS:
            shared.over.popitem(last=False)

    async def _ask_log(self, shared: _SharedMirror, run_id: str) -> None:
        """Have a run end as the log says, if nothing else does; if the log cannot tell, those who wait ask it anew."""
        try:
            told = await self.log.end_of(run_id)
        except Exception:
            self._leave(shared, run_id)
            raise
        if told is None:
            self._leave(shared, run_id)
        else:
            await self._end_by_log(shared, told)

    def _leave(self, shared: _SharedMirror, run_id: str) -> None:
        """From now on, nothing here would end this run, unless its worker does."""
        shared.watches.pop(run_id, None)
        if shared.topic.run_id is not None:
            self._drop(shared)
        self._hub.drop_mirror(run_id)

    async def _doubt(self, shared: _SharedMirror, run_id: str) -> None:
        """A run of the thread was heard of: if it does not end soon, see whether it had ended before."""
        await asyncio.sleep(self._options.doubt)
        await self._ask_log(shared, run_id)

    async def _ask_log_of_thread(self, shared: _SharedMirror) -> None:
        """Have runs end of which nothing was heard: they were cancelled before they began, or nobody could tell."""
        place = await answered(self.log.place)
        shared.placed.set()
        async for told in self.log.ends_on(shared.topic.thread_id, after=place):
            if told.run_id not in shared.over and told.run_id not in shared.watches:
                self._watch(shared, told.run_id, partial(self._end_by_log, shared, told))

    async def _end_by_log(self, shared: _SharedMirror, told: ToldEnd) -> None:
        """The log has a run's end: give the wire a moment to bring what the worker said, if that may be under way."""
        options, run_id, began = self._options, told.run_id, self._loop.time()
        was_there = not shared.is_caught_up
        goes_on = "retried_as" in told.says and told.says.get("error_type") in _SAID_NO_MORE  # and at once
        await shared.catch_up(options.grace)
        while not goes_on and (run_id in shared.heard_at or not (was_there or not told.started)):
            heard_at = shared.heard_at.get(run_id, began)
            until = max(began + options.grace, min(heard_at + _STILL_COMING, began + options.patience))
            if (left := until - self._loop.time()) <= 0:
                break
            await asyncio.sleep(left)  # hearing the end from the worker cancels this
        self.stats.ends_logged += 1
        if (channel := self._hub.mirror(run_id)) is not None:
            channel.feed = shared.feed or channel.feed
            said_more = told.started and told.says.get("error_type") not in _SAID_NO_MORE
            if said_more or (told.started and channel.begun is None):
                followed = said_more and (run_id in shared.heard_at or told.at >= shared.opened_at)
                channel.lack(_UNHEARD, at=told.at if followed else None)
        self._end(shared, told)


def _is_outlived(feed: ThreadFeed, made_at: datetime | None, newer: datetime | None) -> bool:
    """Whether the feed's thread is gone, and one that was made later has its id: the word of that is under way."""
    return not feed.is_kept or (made_at is not None and newer is not None and made_at < newer)


async def _said_if_it_fails(work: _Work, topic: Topic) -> None:
    try:
        await work()
    except TracksideError as exc:
        where = f"thread {topic.thread_id}" if topic.run_id is None else f"run {topic.run_id}"
        logger.warning("how runs end is not known here unless somebody reports it: %s (%s)", exc, where)
