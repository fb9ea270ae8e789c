"""Finds the run or thread that was meant, by the beginning or end of its id, or by the question that it waits on."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trackside.app.cli.arguments import ArgumentError, check_whole
from trackside.app.cli.records.questions import interrupts_of, is_stop
from trackside.harness.admission import begins_later
from trackside.harness.errors import TracksideError
from trackside.harness.ids import is_uuid
from trackside.harness.lifecycle import CLOSE_QUESTIONS, is_final
from trackside.harness.questions import stops_said
from trackside.harness.types import JsonObject, LifecycleEventType, RunStatus, ThreadStatus

if TYPE_CHECKING:
    from trackside.app.cli.records.protocol import Records
    from trackside.app.storage import StoredRun, StoredThread

_NAMED = 3  # ids that the error about an ambiguous one lists
_CUT = "…"  # how lists show that they left out the beginning of an id
_LEAST_OF_AN_END = 6  # characters, without `…`: fewer are more likely a typo than the end of an id
_STEPS = 5  # of a search, each through several hundred runs
_FOR_LATER = 50  # runs that begin later, which are skipped
_LOOKED_AT = 500  # runs that contain the text, or threads
STANDINGS = {
    ThreadStatus.idle: "it is idle",
    ThreadStatus.busy: "it is busy",
    ThreadStatus.interrupted: "its last run left no question",
    ThreadStatus.error: "its last run failed",
}


class UnknownIdError(TracksideError, LookupError):
    """No {kind} here has an id that begins with {beginning!r}, and no recent one an id that ends with it; `trackside {kind}s` lists them."""  # noqa: E501


class AmbiguousIdError(TracksideError, LookupError):
    """{typed!r} is the {part} of the ids of more than one {kind}: {found}; write more of it."""


class ShortenedIdError(TracksideError, LookupError):
    """No {kind} here has the id {typed!r}; {found} would fit, but you are not asked here whether you mean it: write its id out."""  # noqa: E501


class NotWaitingError(TracksideError):
    """Thread {thread_id!r} does not wait for an answer, {standing}; start a run on it with `trackside run AGENT INPUT --thread {thread}`."""  # noqa: E501


class UnsaidQuestionError(TracksideError):
    """Thread {thread_id!r} waits, but no run of it has said for what, as with a copy of a thread: a server that has its agent says it at /threads/{thread_id} and in its console, and takes the answer there."""  # noqa: E501


class NotEndedError(TracksideError):
    """Run {run_id!r} has not ended, it is {status}; only a run that has ended is started anew."""


class RequestNotKeptError(TracksideError, LookupError):
    """The request of run {run_id!r} is not kept: an older version admitted it, or another program recorded it, or it was imported, or events are redacted here; start another one with `trackside run AGENT INPUT --thread {thread}`."""  # noqa: E501


def not_waiting(thread_id: str, standing: str) -> NotWaitingError:
    """The error for a thread that has no question to answer; `standing` says why."""
    return NotWaitingError(thread_id=thread_id, standing=standing, thread=shlex.quote(thread_id))


async def find_run(records: Records, typed: str, *, whole: bool = False) -> StoredRun:
    """Find the run with this id, or the only one whose id begins like this; else, among the newest, the one that ends so.

    Args:
        records: where to look for it.
        typed: its id, or a part of it.
        whole: whether it must be the whole id. It must where a command does something to the run without asking:
            otherwise the id of a run that is gone could mean another run.

    Raises:
        ArgumentError: nothing was typed, or something that is not text.
        UnknownIdError, AmbiguousIdError: there is none, or more than one.
        ShortenedIdError: only a longer id matches, and this must be the whole one.
    """
    run = await _run_like(records, typed)
    _check_whole("run", typed, run.run_id, whole=whole)
    return run


async def _run_like(records: Records, typed: str) -> StoredRun:
    _check_typed("run", typed)
    if not typed.startswith(_CUT):
        if (found := await records.run(typed)) is not None:
            return found
        if begun := await records.runs(id_prefix=typed, limit=_NAMED + 1):
            return _only("run", typed, "beginning", begun, lambda run: run.run_id)
    ended = [run for run in await _ending(records, typed) if _ends(run.run_id, typed)]
    return _only("run", typed, "end", ended, lambda run: run.run_id)


async def find_thread(records: Records, typed: str, *, whole: bool = False) -> StoredThread:
    """Find the thread with this id, or the only one whose id begins like this; else, among the newest, one that ends so.

    Args:
        records: where to look for it.
        typed: its id, or a part of it.
        whole: as in `find_run`. People name threads, so one thread's id may well be the beginning of another's.

    Raises:
        ArgumentError, UnknownIdError, AmbiguousIdError, ShortenedIdError: as `find_run` does.
    """
    thread = await _thread_like(records, typed)
    _check_whole("thread", typed, thread.thread_id, whole=whole)
    return thread


async def _thread_like(records: Records, typed: str) -> StoredThread:
    _check_typed("thread", typed)
    if not typed.startswith(_CUT):
        if (found := await records.thread(typed)) is not None:
            return found
        if begun := await records.threads(id_prefix=typed, limit=_NAMED + 1):
            return _only("thread", typed, "beginning", begun, lambda thread: thread.thread_id)
    ids = dict.fromkeys(run.thread_id for run in await _ending(records, typed) if _ends(run.thread_id, typed))
    ended = [thread for id_ in [*ids][: _NAMED + 1] if (thread := await records.thread(id_)) is not None]
    if not ended and _is_an_end(typed):  # it may be a thread without runs
        latest = await records.threads(limit=_LOOKED_AT)
        ended = [thread for thread in latest if _ends(thread.thread_id, typed)]
    return _only("thread", typed, "end", ended, lambda thread: thread.thread_id)


def _check_typed(kind: str, typed: str) -> None:
    """Refuse empty text: every id begins with it, so it would mean the only run or thread there is."""
    if not typed:
        raise ArgumentError(
            name=f"the id of a {kind}", why="it is empty; was it taken from a variable that is not set?"
        )
    check_whole(typed)


def _check_whole(kind: str, typed: str, found: str, *, whole: bool) -> None:
    is_whole = typed == found or (is_uuid(typed) and typed.lower() == found)
    if whole and not is_whole:
        raise ShortenedIdError(kind=kind, typed=typed, found=found)


async def _ending(records: Records, typed: str) -> Sequence[StoredRun]:
    """The newest runs that have this text at the end of their id or their thread's id, or elsewhere."""
    if not _is_an_end(typed):
        return []
    return await records.runs(text=typed.removeprefix(_CUT), steps=_STEPS, limit=_LOOKED_AT)


def _is_an_end(typed: str) -> bool:
    """Whether the text is long enough to look for it at the ends of ids."""
    return len(typed) >= _LEAST_OF_AN_END or (typed.startswith(_CUT) and typed != _CUT)


def _ends(id_: str, typed: str) -> bool:
    return id_.casefold().endswith(typed.removeprefix(_CUT).casefold())


async def find_ended_run(records: Records, beginning: str) -> tuple[StoredRun, JsonObject]:
    """Find the run with this id, and what it was asked for.

    Raises:
        NotEndedError, RequestNotKeptError: it cannot be started anew.
        UnknownIdError, AmbiguousIdError: there is no such run, or more than one.
    """
    run = await find_run(records, beginning)
    if not is_final(run.status):
        raise NotEndedError(run_id=run.run_id, status=run.status.value)
    if (request := await records.request_of(run.run_id)) is None:
        raise RequestNotKeptError(run_id=run.run_id, thread=shlex.quote(run.thread_id))
    return run, request


async def find_paused_run(records: Records, thread: str) -> tuple[StoredRun, list[JsonObject]]:
    """Find the run that waits for an answer on the thread with this whole id, and its questions.

    Raises:
        NotWaitingError: there is none.
        UnsaidQuestionError: the thread waits, but no run of it has said for what.
        UnknownIdError, AmbiguousIdError, ShortenedIdError: there is no such thread.
    """
    found = await find_thread(records, thread, whole=True)
    run, questions = await _asked(records, found)
    if not questions and found.status is ThreadStatus.interrupted:
        raise UnsaidQuestionError(thread_id=found.thread_id)
    if run is None or not questions:
        raise not_waiting(found.thread_id, STANDINGS[found.status])
    return run, questions


async def stops_behind(records: Records, paused: StoredRun, questions: Sequence[JsonObject]) -> JsonObject:
    """Where the run that continues from this one's breakpoint stops: where this run was asked to, and no further.

    Args:
        records: they hold the run's request, if it is kept; for runs of an earlier release, only that has the stops.
        paused: the run that has stopped.
        questions: what it has stopped with. After a question, all stops are named anew.
    """
    if not is_stop(questions):
        return {}
    return stops_said(questions[0]) or stops_said(await records.request_of(paused.run_id) or {})


async def open_questions(records: Records, thread: StoredThread) -> list[JsonObject]:
    """The open questions of a thread: those its last run asked at its end, leaving out failed and cancelled runs."""
    _, questions = await _asked(records, thread)
    return questions


async def _asked(records: Records, thread: StoredThread) -> tuple[StoredRun | None, list[JsonObject]]:
    """The run that paused the thread, and its questions; or the run that closes these, with its own, if any."""
    found = await records.runs(thread_id=thread.thread_id, waiting=True, limit=1)
    # If the worker that had the answer to a graph's question was lost, the thread does not say that it waits.
    for run in found or await records.runs(thread_id=thread.thread_id, status=CLOSE_QUESTIONS, limit=_FOR_LATER):
        if run.status is RunStatus.pending:
            request = await records.request_of(run.run_id)
            if begins_later(run.created_at, request, now=datetime.now(UTC)):
                continue
        ends = await records.events(run_id=run.run_id, types=[LifecycleEventType.RUN_COMPLETED])
        return run, [interrupt for stored in ends for interrupt in interrupts_of(stored.event.payload)]
    return None, []


def _only[R](kind: str, typed: str, part: str, found: Sequence[R], id_of: Callable[[R], str]) -> R:
    if not found:
        raise UnknownIdError(kind=kind, beginning=typed)
    if len(found) > 1:
        named = [*map(id_of, found[:_NAMED]), *("…" for _ in found[_NAMED:][:1])]
        raise AmbiguousIdError(kind=kind, typed=typed, part=part, found=", ".join(named))
    return found[0]
