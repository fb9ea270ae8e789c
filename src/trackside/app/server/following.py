"""From a run that a client names to what it gets: whether it may see the run, where the output is, how it ended."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from trackside.app.attempts import named_in, stopped
from trackside.app.server.failures import HttpError
from trackside.app.server.outcomes import body_heard, body_of, body_of_ended, event_frame
from trackside.app.server.parts import ServerParts
from trackside.app.server.principal import Principal
from trackside.app.server.run_ends import RunEnds
from trackside.app.storage import StoredRun, StoredThread
from trackside.app.streams import Mirror, Reader
from trackside.app.streams.ends import ToldEnd
from trackside.harness.errors import ClosedError, NoResultHereError, TracksideError, UnknownRunError
from trackside.harness.lifecycle import TERMINAL_EVENTS, is_final
from trackside.harness.managing.handle import RunHandle
from trackside.harness.states import Caller
from trackside.harness.types import CancelAction, CancelMode, RunRecord, ThreadStatus

logger = logging.getLogger("trackside.server")

_KEPT: Final = timedelta(minutes=10)
"""How long after a run's end other processes may keep what it has said."""
FROM_THE_BEGINNING: Final = "-1"
"""The `Last-Event-ID` of a client that wants all that is kept."""
LAG: Final = 1.0
"""Seconds by which one mirror may be behind another."""
_LONGEST_NUMBER: Final = 16
_CANCELS: Final = ("cancel_on_disconnect", "1")


async def visible_run(
    parts: ServerParts, principal: Principal, run_id: str, thread_id: str | None = None, *, lingers: bool = False
) -> StoredRun:
    """The run with this id, if it is on this thread and on a thread that this caller may see.

    With `lingers` also one whose thread has ended with it: its followers may have been cut off just before its end, by a
    server that another one has replaced since.

    Raises:
        UnknownRunError: it is not on such a thread, or does not exist, or is gone.
    """
    run = await parts.store.run(run_id, owner=principal.owner)
    if run is None and lingers:
        run = await _ended_with_its_thread(parts, run_id, principal.owner)
    if run is None or thread_id not in (None, run.thread_id):
        raise UnknownRunError(run_id=run_id)
    return run


async def _ended_with_its_thread(parts: ServerParts, run_id: str, owner: str | None) -> StoredRun | None:
    """The run with this id, if its thread was its own and has gone with it; None also if the run was rolled back."""
    run = await parts.store.run(run_id, owner=owner, removed=True)
    thread = None if run is None else await parts.store.thread(run.thread_id, owner=owner, removed=True)
    if thread is None or not thread.ends:
        return None
    return None if (await said_last(parts, run_id)).get("cancel_mode") == CancelMode.rollback else run


def mirror_of(parts: ServerParts, run: RunRecord | StoredRun) -> Mirror | None:
    """Bring here what another process's run says; None if no other process executes it, or nothing is kept now.

    The caller must close the mirror, and make it before the run's `reader_of`.
    """
    mirrors, ended_at = parts.mirrors, run.ended_at
    if mirrors is None or parts.manager.has(run.run_id):
        return None
    if ended_at is not None and datetime.now(UTC) - ended_at > _KEPT:
        return None
    return mirrors.run(run.thread_id, run.run_id)


def reader_of(parts: ServerParts, run_id: str) -> Reader:
    """A reader of what a run says; if that does not come here, there is nothing to read, and the reader is at the end.

    Raises:
        WaitsForItselfError: the caller is a run that has to end before this one begins.
    """
    parts.manager.check_turn(run_id)
    streams = parts.streams
    is_here = parts.manager.has(run_id) or streams.is_mirrored(run_id)
    return streams.read(run_id) if is_here else streams.read_kept(run_id)


async def hear(mirror: Mirror, reader: Reader, last_event_id: str | None) -> None:
    """Wait a moment until a mirror has what the run has said so far, and the event that a client has seen last."""
    await mirror.catch_up()
    if last_event_id is None or last_event_id == FROM_THE_BEGINNING:
        return
    number = last_event_id.rpartition("-")[2]
    if number.isdecimal() and len(number) < _LONGEST_NUMBER and not reader.is_over:
        await reader.reaches(int(number), LAG)


async def learn(parts: ServerParts, run: StoredRun, reader: Reader) -> None:
    """See that a reader knows what a run was asked to say, also if the run has not begun, or its start is not kept."""
    if reader.modes is None:
        request = await parts.store.request_of(run.run_id) or {}
        modes = request.get("stream_mode") or ("values",)
        resumable = bool((request.get("options") or {}).get("stream_resumable"))
        reader.learn((modes,) if isinstance(modes, str) else modes, resumable=resumable)


@asynccontextmanager
async def heard_thread(parts: ServerParts, thread: StoredThread) -> AsyncGenerator[None]:
    """Within the block, bring here what other processes' runs of a thread say, starting with what is kept."""
    if parts.mirrors is None:
        yield
        return
    active = thread.last_run_id if thread.status is ThreadStatus.busy else None
    with parts.mirrors.thread(thread.thread_id, active=active, made_at=thread.created_at) as mirror:
        await mirror.catch_up()
        yield


def resume(reader: Reader, last_event_id: str | None, *, past: bool = True, unsure: bool = False) -> bool:
    """Put a reader behind the event that a client has seen last; returns whether the reader gets all that is kept.

    Without such an event, it begins with all that is kept, or (not `past`) with what comes from now on. If it is
    `unsure` what the run has said, an unknown id may be right.

    Raises:
        HttpError: the run never said anything with this id.
    """
    if last_event_id is None or last_event_id == FROM_THE_BEGINNING:
        if last_event_id is None and not past:
            reader.pass_over()
            return False
        return True
    at, _, number = last_event_id.partition("-")
    if not (at.isdecimal() and number.isdecimal()) or len(last_event_id) > 40:
        detail = f"Last-Event-ID is the id of an event, or -1 for all that is kept, and not {last_event_id!r:.80}"
        raise HttpError(status=422, detail=detail)
    unsure = unsure or (reader.is_over and not reader.has_said_anything)  # the run said it elsewhere, or too long ago
    if reader.knows(last_event_id) is False and not unsure:
        raise HttpError(status=422, detail=f"Last-Event-ID: the run has said nothing with the id {last_event_id!r}")
    reader.seen = int(number)
    return False


async def end_of(parts: ServerParts, run_id: str) -> ToldEnd | None:
    """How a run of another process has ended, as soon as it has; None if the store is closed before."""
    return await RunEnds(parts.store).end_of(run_id)


async def final_body(
    parts: ServerParts, run: RunRecord | StoredRun, caller: Caller, *, handle: RunHandle | None = None
) -> bytes:
    """What a `caller` who waits for a run gets, wherever the run is executed, and even if it ended long ago.

    If the run goes on as another attempt, that is the attempt's result. The `handle` is that of whoever started the
    run, and knows its result for as long as it exists.

    Raises:
        UnknownRunError: it was removed meanwhile.
        ClosedError: this process ends before the run has, and another one goes on with it.
        HttpError: it has ended elsewhere, and what it gave back has gone with its thread.
    """
    while True:
        body = await _body_of_one(parts, run, caller, handle)
        again = await next_attempt(parts, run.run_id)
        if again is None:
            return body
        if parts.manager.closing:  # the server that is asked next waits for it
            raise ClosedError(what="run manager")
        run, handle = again, None


async def next_attempt(parts: ServerParts, run_id: str) -> StoredRun | None:
    """The run that goes on for a run that has ended; None: the run has not ended, or no other goes on for it."""
    again = named_in(await said_last(parts, run_id))
    return None if again is None else await parts.store.run(again, removed=True)


async def said_last(parts: ServerParts, run_id: str) -> Mapping[str, Any]:
    """What the event that ends a run says, as it was said live or else as the log has it; empty if it has not ended."""
    says = parts.streams.end_of(run_id)
    if says is None:
        ends = await parts.store.events(run_id=run_id, types=TERMINAL_EVENTS, limit=1)
        says = ends[0].event.payload if ends else {}
    return says


async def cancelled(
    parts: ServerParts, run: StoredRun, *, action: CancelAction | str = CancelAction.interrupt
) -> StoredRun:
    """Cancel a run, or the last attempt that goes on for it; returns that one. A run that has ended is left alone."""
    return await stopped(
        run, lambda one: next_attempt(parts, one.run_id), lambda one: parts.manager.cancel(one.run_id, action=action)
    )


async def _body_of_one(
    parts: ServerParts, run: RunRecord | StoredRun, caller: Caller, handle: RunHandle | None
) -> bytes:
    run_id = run.run_id
    if handle is not None or parts.manager.has(run_id):
        try:
            result = await (parts.manager.result(run_id) if handle is None else handle.result())
            return await body_of(parts, result, run.agent or "", caller)
        except NoResultHereError:  # another process goes on with it
            if parts.manager.closing:  # that process is asked next
                raise ClosedError(what="run manager") from None
    if (mirror := mirror_of(parts, run)) is not None:
        with mirror:
            body = await _body_heard(parts, run_id)
        if body is not None:
            return body
    if isinstance(run, RunRecord) or not is_final(run.status):
        if await end_of(parts, run_id) is None:
            raise ClosedError(what="store")
        stored = await parts.store.run(run_id, removed=True)
        if stored is None:
            raise UnknownRunError(run_id=run_id)
        run = stored
    return await body_of_ended(parts, run, caller)


async def _body_heard(parts: ServerParts, run_id: str) -> bytes | None:
    """Wait for the end of another process's run; returns the answer's body, if what was heard of the run suffices."""
    await parts.streams.read(run_id).wait_for_end()
    return body_heard(parts, run_id)


def first_frame(run: RunRecord | StoredRun, *, resumable: bool = False) -> bytes:
    """What a run's stream says first; if resumable, with an id, so that a client that gets no further begins anew."""
    frame_id = f"{int(run.created_at.timestamp() * 1000)}-0" if resumable else None
    return event_frame("metadata", {"run_id": run.run_id, "attempt": run.attempt}, frame_id)


def run_headers(thread_id: str, run_id: str, *, stateless: bool = False, then: str | None = None) -> dict[str, str]:
    """Where a run is, and (`then`) where to go on if the answer is cut off.

    Clients put their base address before both, wherever the server is mounted, so they begin with `/threads`. A stateless
    run is known by its own id, but its stream goes on where its thread is, as clients can only ask there whether it ended.
    """
    run = f"/threads/{thread_id}/runs/{run_id}"
    headers = {"Content-Location": f"/runs/{run_id}" if stateless else run}
    if then is not None:
        headers["Location"] = f"{run}/{then}"
    return headers


def stream_again(
    *,
    modes: Iterable[str] | None = None,
    namespaces: Iterable[str] | None = None,
    past: bool = True,
    cancels: bool = False,
) -> str:
    """Where a client whose stream is cut off goes on, below what it follows: with the same selection and, where it has
    no ids (not `past`), with what comes then. It need not say again what it wants, or that its leaving `cancels`.
    """
    asked = [("stream_mode", mode) for mode in sorted(set(modes or ()))]
    asked += [("namespace", namespace) for namespace in namespaces or ()]
    if not past:
        asked.append(("past", "0"))
    if cancels:
        asked.append(_CANCELS)
    return f"stream?{urlencode(asked)}" if asked else "stream"


def join_again(*, cancels: bool) -> str:
    """As `stream_again`, for a client who waits for a run."""
    return f"join?{urlencode([_CANCELS])}" if cancels else "join"


def cancelling(parts: ServerParts, run_id: str) -> Any:
    """Cancels a run, or the attempt that goes on for it, because the client who wanted it has gone, whichever process
    executes it; a run that is over is left alone.
    """

    async def cancel() -> None:
        try:
            run = await parts.store.run(run_id, removed=True)
            if run is not None:
                await cancelled(parts, run)
        except UnknownRunError:
            pass
        except TracksideError as exc:  # there is nobody left to tell
            logger.warning("run %s goes on, though its client has gone: %s", run_id, exc)

    return cancel
