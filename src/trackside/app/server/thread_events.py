"""A thread as server-sent events: all its runs, one after another, as long as the client stays."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from trackside.app.server.following import FROM_THE_BEGINNING, LAG, heard_thread
from trackside.app.server.outcomes import RunEnd, event_frame, gap_said
from trackside.app.server.outlet import CLOSES, HEARTBEAT, PORTION, Departure, Outlet, SlowReaderError
from trackside.app.server.parts import ServerParts
from trackside.app.server.responses import Receive, Scope, Send
from trackside.app.server.wire.runs import status_of
from trackside.app.storage import StoredThread
from trackside.app.streams import FeedItem, FeedReader, sse_of
from trackside.app.streams.thread_feed import id_of, number_of

_RUN_MODES: Final = "run_modes"
_LIFECYCLE: Final = "lifecycle"
_STATE_UPDATE: Final = "state_update"
_MESSAGES: Final = frozenset({"messages", "messages-tuple"})
"""The modes in which a message that comes alone is said: once in each."""
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True, kw_only=True)
class ThreadEvents:
    """The answer that follows a thread until the client goes.

    In mode `run_modes` it says what each run was asked to say, between the `metadata` of the run's start and of its
    end; in `lifecycle` only these; in `state_update` what others have changed of the thread's state. Each event has an
    id. When the server stops, the connection is cut off: clients do not come back to a stream that ends properly.
    """

    parts: ServerParts
    thread: StoredThread
    modes: Collection[str]
    last_event_id: str | None
    headers: Mapping[str, str] = field(default_factory=dict)
    _asked: dict[str, Collection[str]] = field(default_factory=dict, init=False)
    """What runs that have not ended were asked to say."""
    _messages: dict[str, str] = field(default_factory=dict, init=False)
    """The mode in which messages are shown, for runs of which it is unknown what they were asked to say."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts, options = self.parts, self.parts.options
        outlet = Outlet(scope, send, patience=options.patience, heartbeat=options.heartbeat)
        async with heard_thread(parts, self.thread):
            with parts.streams.threads.read(self.thread.thread_id) as reader:
                await outlet.begin(self.headers)  # from here on the client misses nothing
                await self._follow(outlet, reader, receive)

    async def _follow(self, outlet: Outlet, reader: FeedReader, receive: Receive) -> None:
        last = None if self.last_event_id is None else number_of(self.last_event_id)
        if self.parts.mirrors is not None and last is not None:
            await reader.comes_to(last, LAG)
        first = self._place(reader)
        departure = Departure(receive, reader.rouse)
        try:
            with outlet.is_open(reader.nudge):
                await self._write(outlet, reader, departure, first)
        except SlowReaderError:
            pass  # logged already; the connection is closed, as the answer is not whole
        finally:
            await departure.aclose()

    def _place(self, reader: FeedReader) -> list[bytes]:
        """Put the reader where the client left off; returns what to say first."""
        last = self.last_event_id
        if last == FROM_THE_BEGINNING:
            reader.seen = reader.feed.first_kept - 1
        elif last is not None and not reader.after_id(last):  # the event was forgotten, or has not come here
            return [event_frame("gap", {"after": last[:80], "resumes": id_of(reader.place)})]
        return []

    async def _write(self, outlet: Outlet, reader: FeedReader, departure: Departure, pending: list[bytes]) -> None:
        while not departure.gone:
            if (gap := reader.gap()) is not None:
                pending.append(event_frame("gap", gap_said(gap)))
            if items := reader.take(PORTION):
                for item in items:
                    pending += self._events(item, id_of(item.number))
                if not reader.has_more:
                    continue
            elif reader.is_over:
                await outlet.write([*pending, CLOSES], last=reader.thread_is_gone)
                return
            if pending:
                await outlet.write(pending)
                pending = []
            elif not await reader.wait():
                pending = [HEARTBEAT]

    def _events(self, item: FeedItem, item_id: str) -> Sequence[bytes]:
        """The events that one item of the feed is to this client."""
        if item.kind == "state":
            return [sse_of("state_update", self._state(item), item_id)] if _STATE_UPDATE in self.modes else []
        if item.kind == "part":
            shows = _RUN_MODES in self.modes and self._was_asked(item.run_id, item.what.mode)
            return [sse_of(item.what.event, item.what.data, item_id)] if shows else []
        if item.kind == "missed":
            missed = event_frame("gap", {"run_id": item.run_id, **gap_said(item.what)}, item_id)
            return [missed] if _RUN_MODES in self.modes else []
        self._asked.pop(item.run_id, None)
        self._messages.pop(item.run_id, None)
        if item.kind == "started":
            self._asked[item.run_id] = item.what.modes
        if _RUN_MODES not in self.modes and _LIFECYCLE not in self.modes:
            return []
        if item.kind == "started":
            says = {"run_id": item.run_id, "attempt": item.what.attempt, "status": "run_started"}
            return [event_frame("metadata", says, item_id)]
        return self._end(item, item_id)

    def _was_asked(self, run_id: str, mode: str) -> bool:
        """Whether a run was asked to say parts of this mode. If that is not known, because its start is not kept, the
        run counts as asked for all modes, but for messages in only one: the mode in which the first one comes.
        """
        asked = self._asked.get(run_id)
        if asked is None and (known := self.parts.streams.read_kept(run_id).modes) is not None:
            asked = self._asked[run_id] = known
        if asked is not None:
            return mode in asked
        return mode not in _MESSAGES or self._messages.setdefault(run_id, mode) == mode

    def _state(self, item: FeedItem) -> bytes:
        """A changed state in the form that LangGraph's clients know, without what is only there for other streams."""
        state = _fields(item.what)
        state.pop("output", None)
        return _encode({"state": state, "thread_id": self.thread.thread_id})

    def _end(self, item: FeedItem, item_id: str) -> Sequence[bytes]:
        end = None if item.what is None else RunEnd.said(item.what)
        failure = None if end is None else end.failure
        done = {
            "run_id": item.run_id,
            "status": "run_done",
            "run_status": None if end is None else status_of(end.status),
        }
        ended = event_frame("metadata", done, item_id)
        return [ended] if failure is None or _RUN_MODES not in self.modes else [event_frame("error", failure), ended]
