"""From a run that has ended to another attempt at it, for a caller who may start runs on its thread."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from trackside.app.attempts import check_that_it_answers
from trackside.app.server.authorizing import on_run, on_thread
from trackside.app.server.failures import HttpError
from trackside.app.server.following import visible_run
from trackside.app.server.preparing import prepared, with_user, with_user_of
from trackside.app.server.principal import Permission
from trackside.app.server.routing import Call
from trackside.app.server.starting import Started, expect_webhook, is_let_in, let_in
from trackside.app.server.wire.runs import RunCreate, request_shown
from trackside.app.storage import StoredRun
from trackside.app.streams.live_messages import by_no_command
from trackside.harness import RunSpec
from trackside.harness.admission import another_attempt
from trackside.harness.lifecycle import is_final
from trackside.harness.types import JsonObject


class _Ended(NamedTuple):
    """A run that has ended, what it was asked for, and whether its thread went with it."""

    run: StoredRun
    request: JsonObject
    lost_thread: bool


async def retried(call: Call[Any, Any], run_id: str, *, key: str | None = None, part: str = "") -> Started:
    """Start once more what a run was asked for, as another attempt of it: on its thread, or on a new one if that has gone.

    A caller who may run agents does that in their own name. An admin does it on behalf of whoever had asked for it.

    Args:
        call: the request.
        run_id: the run.
        key: what the client calls the request, so that it finds the new run if it sends the request again.
        part: which one of the runs that are retried with one key this is.

    Raises:
        UnknownRunError: there is no such run for the caller.
        HttpError: it has not ended, or nobody knows what it was asked for.
        AskedSinceError: it brought an answer, and by now something else is asked.
        TracksideError: the run is not let in.
    """
    readable = await on_run(call, "read", run_id)
    ended = await _ended(readable, run_id)
    store = call.parts.store
    if not await is_let_in(call, key, part):
        await check_that_it_answers(store, run_id, ended.request, thread_id=ended.run.thread_id)
    spec = another_attempt(
        ended.request,
        attempt=ended.run.attempt + 1,
        retry_of=run_id,
        thread_id=ended.run.thread_id,
        parent_run_id=ended.run.parent_run_id,
    )
    spec = by_no_command(spec)  # nobody who watches the thread for the end of a command waits for this run
    if ended.lost_thread:
        spec = msgspec.structs.replace(spec, thread_id=None)
    if spec.agent not in call.parts.manager.agents:
        raise HttpError(status=422, detail=f"there is no agent {spec.agent!r:.120} here to run it again")
    if call.handlers is not None:
        call = await on_thread(replace(call, body=_as_asked(spec)), "create_run", spec.thread_id, again=True)
        spec = _with_changes(spec, call.body)
        if call.wanted is not None:
            spec = msgspec.structs.replace(spec, thread_metadata=call.body.metadata)
    if call.principal.may(Permission.admin):
        spec = msgspec.structs.replace(spec, any_owner=True)
    else:
        principal = call.principal
        config = with_user(spec.config, principal)
        spec = msgspec.structs.replace(spec, owner=principal.identity, any_owner=principal.owner is None, config=config)
    spec = await prepared(call.parts, call.principal, spec)
    webhook = (spec.options or {}).get("webhook")
    await expect_webhook(call.parts, webhook if isinstance(webhook, str) else None)
    return Started(await let_in(call, spec, key, part), spec, spec.thread_ends)


async def _ended(call: Call[Any, Any], run_id: str) -> _Ended:
    store = call.parts.store
    run = await visible_run(call.parts, call.principal, run_id, lingers=True)
    if not is_final(run.status):
        raise HttpError(status=409, detail=f"run {run_id} has not ended, it is {run.status.value}: cancel it first")
    request = await store.request_of(run_id)
    if request is None:
        raise HttpError(status=422, detail=f"the request of run {run_id} is not kept")
    return _Ended(run, request, bool(request.get("thread_ends")) and await store.thread(run.thread_id) is None)


def _as_asked(spec: RunSpec) -> RunCreate:
    """What handlers get to see of the run, as if a client had asked for it."""
    asked = {
        "assistant_id": spec.agent,
        "input": spec.input,
        "command": spec.command,
        "config": spec.config,
        "context": spec.context,
        "metadata": spec.metadata,
    }
    return msgspec.convert(request_shown(asked), RunCreate)


def _with_changes(spec: RunSpec, body: RunCreate) -> RunSpec:
    """The run with what a handler may have changed of it."""
    given = None if spec.command is not None else body.input
    config = with_user_of(body.config, spec.config)
    return msgspec.structs.replace(spec, input=given, config=config, context=body.context, metadata=body.metadata)
