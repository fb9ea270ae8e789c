"""Finds the run or thread that is meant, by the beginning of its id or by what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trackside.app.cli.questions import interrupts_of
from trackside.harness.errors import TracksideError
from trackside.harness.lifecycle import is_final
from trackside.harness.types import JsonObject, LifecycleEventType, RunStatus, ThreadStatus

if TYPE_CHECKING:
    from trackside.app.cli.records import Records
    from trackside.app.storage import StoredRun, StoredThread

_NAMED = 3  # ids that a complaint about an ambiguous one lists
_CLOSE_QUESTIONS = (RunStatus.success, RunStatus.interrupted, RunStatus.running, RunStatus.pending)
_STANDINGS = {
    ThreadStatus.idle: "it is idle",
    ThreadStatus.busy: "it is busy",
    ThreadStatus.interrupted: "its last run left no question",
    ThreadStatus.error: "its last run failed",
}


class UnknownIdError(TracksideError, LookupError):
    """No {kind} here has an id that begins with {beginning!r}; `trackside {kind}s` lists them."""


class AmbiguousIdError(TracksideError, LookupError):
    """{beginning!r} is the beginning of the ids of more than one {kind}: {found}; write more of it."""


class NotWaitingError(TracksideError):
    """Thread {thread_id!r} does not wait for an answer, {standing}; start a run on it with `trackside run AGENT INPUT --thread {thread_id}`."""  # noqa: E501


class NotEndedError(TracksideError):
    """Run {run_id!r} has not ended, it is {status}; only a run that has ended is started anew."""


class RequestNotKeptError(TracksideError, LookupError):
    """What run {run_id!r} was asked for is not kept: an older version let it in, or another program recorded it, or it was imported, or events are redacted here; start another one with `trackside run AGENT INPUT --thread {thread_id}`."""  # noqa: E501


async def find_run(records: Records, beginning: str) -> StoredRun:
    """The run whose id this is, or whose id alone begins like this.

    Raises:
        UnknownIdError, AmbiguousIdError: there is none, or more than one.
    """
    if (found := await records.run(beginning)) is not None:
        return found
    return _only("run", beginning, await records.runs(id_prefix=beginning, limit=_NAMED + 1), lambda run: run.run_id)


async def find_thread(records: Records, beginning: str) -> StoredThread:
    """The thread whose id this is, or whose id alone begins like this.

    Raises:
        UnknownIdError, AmbiguousIdError: there is none, or more than one.
    """
    if (found := await records.thread(beginning)) is not None:
        return found
    return _only(
        "thread",
        beginning,
        await records.threads(id_prefix=beginning, limit=_NAMED + 1),
        lambda thread: thread.thread_id,
    )


async def find_ended_run(records: Records, beginning: str) -> tuple[StoredRun, JsonObject]:
    """The run whose id this is, or whose id alone begins like this, and what it was asked for.

    Raises:
        NotEndedError, RequestNotKeptError: it cannot be started anew.
        UnknownIdError, AmbiguousIdError: there is no such run, or more than one.
    """
    run = await find_run(records, beginning)
    if not is_final(run.status):
        raise NotEndedError(run_id=run.run_id, status=run.status.value)
    if (request := await records.request_of(run.run_id)) is None:
        raise RequestNotKeptError(run_id=run.run_id, thread_id=run.thread_id)
    return run, request


async def find_paused_run(records: Records, thread: str) -> tuple[StoredRun, list[JsonObject]]:
    """The run that waits for an answer on this thread, and its questions.

    Raises:
        NotWaitingError: there is none.
        UnknownIdError, AmbiguousIdError: there is no such thread, or more than one.
    """
    found = await find_thread(records, thread)
    run, questions = await _asked(records, found)
    if run is None or not questions:
        raise NotWaitingError(thread_id=found.thread_id, standing=_STANDINGS[found.status])
    return run, questions


async def open_questions(records: Records, thread: StoredThread) -> list[JsonObject]:
    """What a thread waits to be answered: what its last run asked in the end, of those that came to anything."""
    _, questions = await _asked(records, thread)
    return questions


async def _asked(records: Records, thread: StoredThread) -> tuple[StoredRun | None, list[JsonObject]]:
    """The run that paused the thread, and its questions. An answer that failed, or was cancelled, closes none."""
    for run in await records.runs(thread_id=thread.thread_id, status=_CLOSE_QUESTIONS, limit=1):
        ends = await records.events(run_id=run.run_id, types=[LifecycleEventType.RUN_COMPLETED])
        return run, [interrupt for stored in ends for interrupt in interrupts_of(stored.event.payload)]
    return None, []


def _only[R](kind: str, beginning: str, found: Sequence[R], id_of: Callable[[R], str]) -> R:
    if not found:
        raise UnknownIdError(kind=kind, beginning=beginning)
    if len(found) > 1:
        named = [*map(id_of, found[:_NAMED]), *("…" for _ in found[_NAMED:])]
        raise AmbiguousIdError(kind=kind, beginning=beginning, found=", ".join(named))
    return found[0]
