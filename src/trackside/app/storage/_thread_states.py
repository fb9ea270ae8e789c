"""What threads remember, in the database: the port `ThreadStates` for agents that have no checkpointer of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, override

from sqlalchemy import Row

from trackside.app.storage._encoding import json_text, time_text
from trackside.app.storage._queries import one_thread_state
from trackside.app.storage._readers import Readers
from trackside.app.storage._work import UnitOfWork, Work
from trackside.app.storage._writer import NoWriter, Writer
from trackside.app.storage.errors import RunEndedError, StateTooLargeError
from trackside.harness.lifecycle import is_final
from trackside.harness.payload import canonical
from trackside.harness.ports import PausedRun, ThreadState

MAX_STATE_BYTES = 16 * 1_048_576
"""How much JSON a thread may remember. A state is never cut: an agent would go on with half of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveThreadState(Work):
    """What a thread shall remember from now on, as JSON text; nothing of a run that has ended without its process."""

    thread_id: str
    run_id: str | None
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
        run = None if self.run_id is None else unit.run(self.run_id)
        if run is not None and is_final(run.fold.status):
            raise RunEndedError(thread_id=self.thread_id, run_id=run.fold.run_id, status=run.fold.status.value)
        unit.thread_states[self.thread_id] = (self.thread_id, self.remembered, self.paused, self.updated_at)


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
        return await self._readers.first(one_thread_state(thread_id), _state_of)

    async def save(self, thread_id: str, state: ThreadState, *, run_id: str | None = None) -> None:
        """Remember this from now on; it is on disk when this returns.

        Raises:
            RunEndedError: the log has the end of the run that wants it; another process wrote that.
            StateTooLargeError: it is larger than `MAX_STATE_BYTES`.
            PayloadError: a value's own code failed while it was read.
            StorageError: it could not be written; a store that is `read_only` writes nothing.
        """
        remembered = _text(state.values)
        paused = None if state.paused is None else _text(_json_of_paused(state.paused))
        size = len(remembered.encode()) + len((paused or "").encode())
        if size > MAX_STATE_BYTES:
            raise StateTooLargeError(thread_id=thread_id, size=size, limit=MAX_STATE_BYTES)
        now = time_text(datetime.now(UTC))
        await self._writer.write(
            SaveThreadState(thread_id=thread_id, run_id=run_id, remembered=remembered, paused=paused, updated_at=now)
        )


def _text(value: Any) -> str:
    plain, _ = canonical(value, max_chars=8 * MAX_STATE_BYTES)
    return json_text(plain)


def _json_of_paused(paused: PausedRun) -> dict[str, Any]:
    return {
        "input": paused.input,
        "answers": list(paused.answers),
        "interrupts": list(paused.interrupts),
        "state": paused.state,
        "agent": paused.agent,
    }


def _state_of(row: Row[Any]) -> ThreadState:
    paused = row.paused
    return ThreadState(row.remembered, None if paused is None else PausedRun(**paused))
