"""Start a run in the background, wait for its result, or follow it as it goes."""

from __future__ import annotations

from typing import Any

from trackside.app.server.access import caller_of
from trackside.app.server.authorizing import About
from trackside.app.server.following import (
    cancelling,
    end_of,
    final_body,
    first_frame,
    join_again,
    mirror_of,
    reader_of,
    run_headers,
    stream_again,
)
from trackside.app.server.principal import Permission
from trackside.app.server.responses import Reply, empty, json_reply
from trackside.app.server.routing import EVENT_STREAM, Call, Routes
from trackside.app.server.run_events import RunEvents
from trackside.app.server.starting import FOLLOWED_MODES, Started, batched, started
from trackside.app.server.waiting import WhenEnded
from trackside.app.server.wire.runs import Batch, CreateStreamQuery, DescribedBatch, Run, RunCreate

routes = Routes("Runs")

type CreateCall = Call[RunCreate, Any]


@routes.post(
    "/threads/{thread_id}/runs/wait", Permission.run, about=About("threads", "create_run", "thread"), body=RunCreate
)
async def wait_for_run(call: CreateCall) -> Any:
    """Start a run and wait for its final state.

    A run that fails does not fail the request: the response is 200 with `{"__error__": {"error", "message"}}`. If the
    run waits for a human, its questions are among the values, as `__interrupt__`.
    """
    return await _wait(call, call.thread_id)


@routes.post("/runs/wait", Permission.run, about=About("threads", "create_run", "new_thread"), body=RunCreate)
async def wait_for_stateless_run(call: CreateCall) -> Any:
    """Start a run on a thread of its own and wait for its final state."""
    return await _wait(call, None)


@routes.post(
    "/threads/{thread_id}/runs/stream",
    Permission.run,
    about=About("threads", "create_run", "thread"),
    body=RunCreate,
    query=CreateStreamQuery,
    answers={200: str},
    media_type=EVENT_STREAM,
)
async def stream_run(call: CreateCall) -> Any:
    """Start a run and stream its output.

    The first event is `metadata`. The last one is `end`, or `error` if the run failed. With `stream_resumable`, events
    have ids, and a client that was cut off goes on at `Location` with `Last-Event-ID`.
    """
    return await _stream(call, call.thread_id)


@routes.post(
    "/runs/stream",
    Permission.run,
    about=About("threads", "create_run", "new_thread"),
    body=RunCreate,
    query=CreateStreamQuery,
    answers={200: str},
    media_type=EVENT_STREAM,
)
async def stream_stateless_run(call: CreateCall) -> Any:
    """Start a run on a thread of its own and stream its output."""
    return await _stream(call, None)


@routes.post(
    "/threads/{thread_id}/runs",
    Permission.run,
    about=About("threads", "create_run", "thread"),
    body=RunCreate,
    answers={200: Run},
)
async def create_run(call: CreateCall) -> Any:
    """Start a run in the background."""
    return await _create(call, call.thread_id)


@routes.post(
    "/runs", Permission.run, about=About("threads", "create_run", "new_thread"), body=RunCreate, answers={200: Run}
)
async def create_stateless_run(call: CreateCall) -> Any:
    """Start a run in the background, on a thread of its own."""
    return await _create(call, None)


@routes.post(
    "/runs/batch",
    Permission.run,
    about=About("threads", "create_run", "each"),
    body=Batch,
    described=DescribedBatch,
    answers={200: list[Run]},
)
async def create_batch(call: Call[Batch, None]) -> Any:
    """Start up to 1,000 runs in the background, each on a thread of its own unless it names one.

    The server checks all of these runs before it starts the first one. Field names may be in camel case, as the
    JavaScript client has them. With the header `Idempotency-Key`, a batch that is sent again finds the runs that it
    made before.
    """
    runs = await batched(call)
    return empty() if call.wants_little else json_reply([run.shown for run in runs])


async def _wait(call: CreateCall, thread_id: str | None) -> WhenEnded:
    parts = call.parts
    run = await started(call, thread_id)
    handle, caller = run.handle, caller_of(parts, call.principal)
    own = handle if parts.executes and not handle.existing else None
    return WhenEnded(
        result=lambda: final_body(parts, handle.record, caller, handle=own),
        headers=_headers(run, join_again(cancels=_cancels_again(call))),
        heartbeat=parts.options.heartbeat,
        on_disconnect=_on_disconnect(call, run),
    )


async def _stream(call: CreateCall, thread_id: str | None) -> RunEvents:
    parts = call.parts
    run = await started(call, thread_id)
    handle, spec = run.handle, run.spec
    run_id = handle.run_id
    resumable = bool(call.body.stream_resumable)
    mirror = mirror_of(parts, handle.record)
    # Without ids, nobody knows what a client that was cut off has had: it goes on with what comes then.
    then = stream_again(namespaces=call.query.namespace, past=resumable, cancels=_cancels_again(call))
    return RunEvents(
        run_id=run_id,
        reader=reader_of(parts, run_id),
        mirror=mirror,
        ended=lambda: end_of(parts, run_id),
        modes=frozenset(spec.stream_mode),
        namespaces=call.query.namespace,
        resumable=resumable,
        first=[first_frame(handle.record, resumable=resumable)],
        heartbeat=parts.options.heartbeat,
        patience=parts.options.patience,
        headers=_headers(run, then),
        on_disconnect=_on_disconnect(call, run),
    )


async def _create(call: CreateCall, thread_id: str | None) -> Reply:
    run = await started(call, thread_id, modes=FOLLOWED_MODES)
    headers = _headers(run)
    return empty(headers=headers) if call.wants_little else json_reply(run.shown, headers=headers)


def _headers(run: Started, then: str | None = None) -> dict[str, str]:
    return run_headers(run.handle.thread_id, run.handle.run_id, stateless=run.stateless, then=then)


def _on_disconnect(call: CreateCall, run: Started) -> Any:
    return cancelling(call.parts, run.handle.run_id) if _cancels(call) else None


def _cancels(call: CreateCall) -> bool:
    return call.body.on_disconnect == "cancel"


def _cancels_again(call: CreateCall) -> bool:
    """Whether `Location` says so, too. Where handlers decide, that is more than starting a run and reading."""
    return _cancels(call) and call.handlers is None
