"""The events of a thread as server-sent events: of all its runs, as long as the client stays."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from trackside.app.attempts import last_attempt
from trackside.app.server.failures import HttpError
from trackside.app.server.following import LAG, end_of, heard_thread, next_attempt, said_last
from trackside.app.server.outcomes import RunEnd
from trackside.app.server.outlet import CLOSES, HEARTBEAT, PORTION, Departure, Outlet, SlowReaderError
from trackside.app.server.parts import ServerParts
from trackside.app.server.responses import Receive, Scope, Send
from trackside.app.server.thread_states import StatesOfThread
from trackside.app.storage import StoredRun
from trackside.app.streams.protocol import EventReader, ThreadEventLog, Wanted, log_of, only_lifecycle, read_events
from trackside.app.streams.thread_feed import PER_MS, FeedReader
from trackside.harness.errors import TracksideError, UnknownInterruptError
from trackside.harness.lifecycle import is_final
from trackside.harness.types import ThreadStatus

logger = logging.getLogger("trackside.server")

_WORD_OF_WATCHERS: Final = 0.5
"""Seconds after a run's end in which another server's word that a client has watched the end may still be under way."""

_LOOK_FIRST: Final = 5.0
"""Seconds for which a stream, before it begins, waits to learn what is open, and then what the client has missed; after
that, it looks while it streams.
"""


@dataclass(slots=True, kw_only=True)
class ProtocolEvents:
    """The answer that says the events that are wanted of a thread, from behind `since` on, until the client goes.

    An event `gap` stands for what is no longer kept. When the server stops, the connection is cut off, because clients
    do not come back to a stream that ends properly.
    """

    parts: ServerParts
    states: StatesOfThread
    wanted: Wanted
    since: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    _elsewhere: asyncio.Task[None] | None = None
    _looking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = self.parts
        options = parts.options
        outlet = Outlet(scope, send, patience=options.patience, heartbeat=options.heartbeat)
        async with heard_thread(parts, self.states.thread):
            threads, thread_id = parts.streams.threads, self.states.thread.thread_id
            with threads.read(thread_id) as feed:
                await self._note_attempts(log_of(feed.feed))
                if parts.mirrors is not None:
                    await self._hear_of(feed)
                log = log_of(feed.feed)
                log.catch_up()
                if self.since is None and log.in_doubt is not None:  # begin with what is open, if that is soon known
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_FIRST):
                            await self._ask_again(log)
                holder = await self._holder_beside(feed, log)
                reader = read_events(threads, thread_id, self.wanted, self.since, holder=holder)
            with reader:
                await outlet.begin(self.headers)
                await self._follow(outlet, reader, receive)

    async def _note_attempts(self, log: ThreadEventLog) -> None:
        """Before the last run's events are made here, note which run clients know it as, if it goes on for another."""
        last_run_id = self.states.thread.last_run_id
        if log.last is not None or last_run_id is None:
            return
        run = await self.parts.store.run(last_run_id)
        if run is not None and run.retry_of is not None:
            attempts = await self._attempts(run)
            for run_id in attempts:
                log.note_next(run_id, attempts[0])

    async def _hear_of(self, feed: FeedReader) -> None:
        """Wait a moment for what the client has from another server, or (without a number) for another
        server's word that a client has watched the end of the last run.
        """
        if self.since is not None:
            await feed.comes_to(self.since - self.since % PER_MS, LAG)
            return
        ended = self.states.thread.last_run_id
        if ended is None or not self._only_watches_what_is_past:
            return
        log = log_of(feed.feed)
        if log.last is not None and (log.last.run_id != ended or log.seconds_since() < _WORD_OF_WATCHERS):
            await feed.is_watched(ended, _WORD_OF_WATCHERS)

    @property
    def _only_watches_what_is_past(self) -> bool:
        """Whether the client wants to know how runs end, and begins on a thread that waits for nothing."""
        return self._begins_watching and self.states.thread.status is not ThreadStatus.interrupted

    @property
    def _begins_watching(self) -> bool:
        """Whether the client wants to know how runs end, and begins on a thread on which nothing goes on."""
        is_at_rest = self.states.thread.status is not ThreadStatus.busy
        return is_at_rest and not self.since and only_lifecycle(self.wanted.channels)

    async def _follow(self, outlet: Outlet, reader: EventReader, receive: Receive) -> None:
        departure = Departure(receive, reader.rouse)
        try:
            with outlet.is_open(reader.nudge):
                reader.passes_past = self._begins_watching
                looking = self._look_beside(reader, self._look_back(reader), name="trackside-looks-back")
                first = (looking, departure.watching)
                await asyncio.wait(first, timeout=_LOOK_FIRST, return_when=asyncio.FIRST_COMPLETED)
                await self._write(outlet, reader, departure)
        except SlowReaderError:
            pass  # logged already; the connection is closed, as the answer is not whole
        finally:
            await departure.aclose()
            for task in (self._elsewhere, self._looking):  # another follower of the thread does that then
                if task is not None:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)  # if it has failed, nobody needs to hear of it

    async def _write(self, outlet: Outlet, reader: EventReader, departure: Departure) -> None:
        while not departure.gone:
            if pieces := reader.pieces(PORTION):
                await outlet.write(pieces)
            elif reader.is_over:
                await outlet.write([CLOSES], last=reader.thread_is_gone)
                return
            elif reader.log.moved and self._elsewhere is None:
                self._follow_elsewhere(reader, reader.log.moved.pop())
            elif self._has_looked() and reader.log.in_doubt is not None and not reader.log.looking.locked():
                self._look_beside(reader, self._ask_again(reader.log), name="trackside-looks-what-is-open")
            elif not await reader.wait():
                await outlet.write([HEARTBEAT])

    def _look_beside(self, reader: EventReader, look: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Look at the thread while the client is told what comes: its agent may take long to say what it knows."""
        looking = self._looking = asyncio.create_task(look, name=name)
        looking.add_done_callback(lambda _: reader.nudge())
        return looking

    def _has_looked(self) -> bool:
        """Whether no look at the thread is under way; if the last one failed, that is raised."""
        if self._looking is not None and self._looking.done():
            self._looking.result()
            self._looking = None
        return self._looking is None

    async def _ask_again(self, log: ThreadEventLog) -> None:
        """Say which questions that a failed run was to answer are open still: they left every page when it began."""
        async with log.looking:  # once, for all readers of this log
            run_id = log.in_doubt
            if run_id is None:
                return
            try:
                thread = await self.parts.store.thread(self.states.thread.thread_id)
                if thread is not None:
                    log.ask_again(run_id, (await replace(self.states, thread=thread).state()).interrupts)
            except TracksideError as exc:  # the thread's agent cannot say, or is not served: mostly it asked nothing
                level = logging.DEBUG if isinstance(exc, HttpError) and not log.knows_questions else logging.WARNING
                said = "what run %s has left open is not announced to those who follow its thread: %s"
                logger.log(level, said, run_id, exc)
            if log.in_doubt == run_id:
                log.in_doubt = None

    async def _look_back(self, reader: EventReader) -> None:
        """If nothing has happened on the thread here, say what the client has missed: what is asked, or how it ended.

        Clients that come back give no number: they begin with the last run, and know what they had of it. A client that
        only watches would take its end for that of the next run.
        """
        thread, log = self.states.thread, reader.log
        if log.last is not None or thread.last_run_id is None or self.parts.manager.has(thread.last_run_id):
            return
        is_done = reader.passes_past and thread.status is ThreadStatus.idle  # there is no question either
        if is_done or (run := await self._last_run()) is None:
            return
        if (goes_on := await self._tell(reader, run, looks_back=True)) is not None:
            log.moved.append(goes_on)

    async def _last_run(self) -> StoredRun | None:
        """The run that the thread had last; None if a run is let in that has not begun: the client that has just asked
        for it would take the last one's end for its own. Such a client has a number by then; one without a number has
        not asked for a run of tomorrow.
        """
        store, thread = self.parts.store, self.states.thread
        if thread.status is not ThreadStatus.busy:
            is_let_in = self.states.goes_on if self.since is not None else self._is_held
            if await is_let_in():
                return None
            thread = await store.thread(thread.thread_id) or thread  # the run that had it before may have ended
        return None if thread.last_run_id is None else await store.run(thread.last_run_id)

    async def _is_held(self) -> bool:
        return await self._holder() is not None

    async def _holder(self) -> str | None:
        return await self.parts.store.threads_of(None).holder(self.states.thread.thread_id)

    async def _holder_beside(self, feed: FeedReader, log: ThreadEventLog) -> str | None:
        """The run that has the thread, if no run that is known here is active and the client gives no number."""
        has_rested = self.since is None and not feed.feed.active and log.newest
        return await self._holder() if has_rested else None

    async def _tell(self, reader: EventReader, run: StoredRun, *, looks_back: bool = False) -> str | None:
        """Say how a run, or its last attempt, has ended; else return the one whose end nobody tells here."""
        known_as = (await self._attempts(run))[0]

        async def after(ended: StoredRun) -> StoredRun | None:
            again = await next_attempt(self.parts, ended.run_id)
            if again is not None:
                reader.log.note_next(again.run_id, known_as)
            return again

        run = await last_attempt(run, after)
        if is_final(run.status):
            await self._recall(reader, run, known_as, looks_back=looks_back)
            return None
        comes_here = self.parts.mirrors is not None or self.parts.manager.has(run.run_id)
        return None if comes_here else run.run_id

    async def _attempts(self, run: StoredRun) -> Sequence[str]:
        """The runs that this one goes on for, and itself, last. Clients know it as the first of them, which is itself
        if it is an attempt that somebody asked for.
        """
        attempts = [run.run_id]
        while run.retry_of is not None:
            again = await next_attempt(self.parts, run.retry_of)
            before = await self.parts.store.run(run.retry_of, removed=True)
            if again is None or again.run_id != run.run_id or before is None:
                break
            run = before
            attempts.insert(0, run.run_id)
        return attempts

    def _follow_elsewhere(self, reader: EventReader, run_id: str) -> None:
        """Wait for the end of a run that another process executes."""
        self._elsewhere = asyncio.create_task(self._end_elsewhere(reader, run_id), name=f"trackside-end-{run_id}")

    async def _end_elsewhere(self, reader: EventReader, run_id: str) -> None:
        waits_for: str | None = run_id
        try:
            while waits_for is not None and await end_of(self.parts, waits_for) is not None:
                run = await self.parts.store.run(waits_for)
                waits_for = None if run is None else await self._tell(reader, run)
            waits_for = None
        except TracksideError as exc:  # the database is away: the next heartbeat looks again
            logger.warning(
                "how run %s has ended is not announced yet to those who follow its thread: %s", waits_for, exc
            )
        finally:
            if waits_for is not None:  # the client has gone, or this failed: another follower waits for it
                reader.log.moved.append(waits_for)
            self._elsewhere = None

    async def _recall(self, reader: EventReader, run: StoredRun, known_as: str, *, looks_back: bool) -> None:
        end = RunEnd.stored(run)
        says: dict[str, Any] = {"status": end.status.value, "error": end.error, "error_type": end.error_type}
        if end.error_type == UnknownInterruptError.__name__:
            says["refused"] = (await said_last(self.parts, run.run_id)).get("refused")
        values = None
        try:
            state = await self.states.state()
            values, says["interrupts"] = state.output, state.interrupts
        except TracksideError:  # its agent is not served here: how the run has ended is known all the same
            pass
        reader.log.recall(
            run.run_id,
            run.agent or "",
            says,
            values,
            known_as=known_as,
            is_first=looks_back,
            is_past=looks_back and self.states.thread.status is not ThreadStatus.busy,
        )
