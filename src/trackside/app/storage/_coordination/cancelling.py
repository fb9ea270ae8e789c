"""Asks for a run to stop, whichever process looks after it: the request is recorded, and the run's worker heeds it."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from trackside.app.storage._coordination.steps import RequestCancel
from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._databases.signals import CommitSignals
from trackside.app.storage._reading.run_records import find_run
from trackside.app.storage._rows.arguments import members
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.harness.errors import UnknownRunError
from trackside.harness.types import CancelAction, RunRecord


class StoreCancelling:
    """The part of a store that stops runs."""

    _writer: Writer | NoWriter
    _readers: Readers
    _signals: CommitSignals
    _coordinators: WeakSet[Any]  # these ask through the function below

    async def request_cancel(self, run_id: str, action: CancelAction = CancelAction.interrupt) -> RunRecord:
        """Record that a run should stop, for whichever process looks after it; returns what is then known about it.

        A run that has not started ends at once, as does one that nobody looks after. A run that has ended stays as it
        is.

        Args:
            run_id: the run's id.
            action: whether to keep what it did, or to restore its thread to what it was before.

        Raises:
            UnknownRunError: there is no such run.
            InvalidQueryError: there is no such action.
            ReadOnlyStoreError: the store was opened with `read_only`.
            StorageError: the database failed.
        """
        (wanted,) = members(CancelAction, "action", [action])
        record = await request_cancel(self._writer, self._readers, self._signals, run_id, wanted)
        for coordinator in self._coordinators:  # other ones are told through what they share
            coordinator.nudge()
        return record


async def request_cancel(
    writer: Writer | NoWriter,
    readers: Readers,
    signals: CommitSignals,
    run_id: str,
    action: CancelAction,
    *,
    owner: str | None = None,
) -> RunRecord:
    """Do the same with the parts that do it; `owner` is the worker that asks, if one does."""
    thread_id = (await _known(readers, run_id)).thread_id
    await writer.write_to_the_end(RequestCancel(run_id=run_id, thread_id=thread_id, owner=owner, action=action))
    signals.announce()
    return await _known(readers, run_id)


async def _known(readers: Readers, run_id: str) -> RunRecord:
    if (record := await find_run(readers, run_id)) is None:
        raise UnknownRunError(run_id=run_id)
    return record
