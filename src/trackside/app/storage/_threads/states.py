"""What threads remember, in the database: the port `ThreadStates` for agents that have no checkpointer of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, override

from sqlalchemy import Row

from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._reading.queries import one_thread_state
from trackside.app.storage._rows.encoding import json_of, json_text, time_text
from trackside.app.storage._threads.works import OnThread, last_run_of
from trackside.app.storage._writing.fences import check_run, holds_run
from trackside.app.storage._writing.outages import patiently
from trackside.app.storage._writing.work import UnitOfWork, Work
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.app.storage.errors import StateTooLargeError
from trackside.harness.errors import ThreadBusyError
from trackside.harness.payload import canonical
from trackside.harness.ports import PausedRun, ThreadState
from trackside.harness.types import JsonObject, ThreadStatus

MAX_STATE_BYTES = 16 * 1_048_576
"""How many bytes of JSON a thread may remember. A state is never cut: an agent would continue with half of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveThreadState(Work):
    """What a thread is to remember from now on, as JSON text; nothing from a run that has ended without its process.

    `held` says that its process claimed the run here.
    """

    thread_id: str
    run_id: str | None
    held: bool
    remembered: str
    paused: str | None
    updated_at: str

    @property
    @override
    def size(self) -> int:
        return len(self.remembered) + len(self.paused or "")

    @override
    def run_ids(self) -> Iterable[str]:
        return () if self.run_id is None else (self.run_id,)

    @override
    def apply(self, unit: UnitOfWork) -> None:
        check_run(unit, self.thread_id, self.run_id, held=self.held)
        unit.thread_states[self.thread_id] = (self.thread_id, self.remembered, self.paused, self.updated_at)


@dataclass(slots=True, eq=False, kw_only=True)
class ChangeThreadState(OnThread):
    """Values that a thread at rest is to remember in addition to what it does already; an open question stays open.

    It looks and writes in one transaction, so that no run begins in between and others' changes are not undone.
    """

    values: JsonObject

    @property
    @override
    def size(self) -> int:
        return len(json_text(self.values))

    @override
    def apply(self, unit: UnitOfWork) -> None:
        lane = self.seen(unit)
        if lane.holder is not None or unit.thread_status(self.thread_id) is ThreadStatus.busy:
            run_id = last_run_of(unit, self.thread_id) if lane.holder is None else lane.holder.run_id
            raise ThreadBusyError(thread_id=self.thread_id, run_id=run_id)
        known, paused = unit.remembered(self.thread_id) or ("{}", None)
        remembered = json_text({**json_of(known), **self.values})
        _check_size(self.thread_id, remembered, paused)
        unit.thread_states[self.thread_id] = (self.thread_id, remembered, paused, self.now)


class DatedThreadState(NamedTuple):
    """What a thread remembers, and when that was saved."""

    state: ThreadState
    saved_at: datetime


class StoredThreadStates:
    """Remembers across processes. Values come back as JSON: tuples as lists, what JSON lacks in its canonical form."""

    def __init__(self, writer: Writer | NoWriter, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def load(self, thread_id: str) -> ThreadState | None:
        """What the thread remembers; None for a new one.

        Raises:
            StorageError: the database cannot be read.
        """
        found = await self.load_dated(thread_id)
        return None if found is None else found.state

    async def load_dated(self, thread_id: str) -> DatedThreadState | None:
        """What the thread remembers, and since when; None for a new thread.

        Raises:
            StorageError: the database cannot be read.
        """
        return await self._readers.first(one_thread_state(thread_id), _state_of)

    async def save(self, thread_id: str, state: ThreadState, *, run_id: str | None = None) -> None:
        """Remember this from now on; it is on disk when this returns. For a run, this waits while the database is away,
        at most five minutes, or until the run is to stop.

        Raises:
            RunEndedError: the run that saves this has ended; another process wrote that.
            StateTooLargeError: the state is larger than `MAX_STATE_BYTES`.
            PayloadError: a value's own code failed while the value was read.
            StorageError: it could not be written; a `read_only` store writes nothing.
        """
        remembered = _text(state.values)
        paused = None if state.paused is None else _text(_json_of_paused(state.paused))
        _check_size(thread_id, remembered, paused)
        now = time_text(datetime.now(UTC))
        work = SaveThreadState(
            thread_id=thread_id,
            run_id=run_id,
            held=holds_run(self._writer, run_id),
            remembered=remembered,
            paused=paused,
            updated_at=now,
        )
        await patiently(self._writer, partial(self._writer.write, work), f"what thread {thread_id} remembers")

    async def change(self, thread_id: str, values: Mapping[str, Any]) -> None:
        """Remember these values on behalf of no run. They replace values of the same names; all others stay.

        Raises:
            ThreadBusyError: a run of the thread is not over.
            UnknownThreadError: there is no such thread.
            StateTooLargeError, PayloadError, StorageError: as `save`.
        """
        now = time_text(datetime.now(UTC))
        await self._writer.write(ChangeThreadState(thread_id=thread_id, owner=None, now=now, values=_plain(values)))


def _check_size(thread_id: str, remembered: str, paused: str | None) -> None:
    size = len(remembered.encode()) + len((paused or "").encode())
    if size > MAX_STATE_BYTES:
        raise StateTooLargeError(thread_id=thread_id, size=size, limit=MAX_STATE_BYTES)


def _text(value: Any) -> str:
    return json_text(_plain(value))


def _plain(value: Any) -> Any:
    return canonical(value, max_chars=8 * MAX_STATE_BYTES)[0]


def _json_of_paused(paused: PausedRun) -> dict[str, Any]:
    return {
        "input": paused.input,
        "answers": list(paused.answers),
        "interrupts": list(paused.interrupts),
        "state": paused.state,
        "agent": paused.agent,
    }


def _state_of(row: Row[Any]) -> DatedThreadState:
    paused = row.paused
    state = ThreadState(row.remembered, None if paused is None else PausedRun(**paused))
    return DatedThreadState(state, row.updated_at)
