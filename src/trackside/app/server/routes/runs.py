"""Runs: start them, wait for them, follow them, stop them."""

from __future__ import annotations

from typing import Any

from trackside.app.server.principal import Permission
from trackside.app.server.responses import json_bytes, json_reply
from trackside.app.server.routing import Call, Routes
from trackside.app.server.sse import RunEvents, event_frame
from trackside.app.server.starting import spec_of
from trackside.app.server.waiting import WhenEnded
from trackside.app.server.wire.runs import Run, RunCreate, run_on_wire
from trackside.harness import RunHandle
from trackside.harness.types import RunStatus

routes = Routes("Runs")

type CreateCall = Call[RunCreate, None]


@routes.post("/threads/{thread_id}/runs/wait", Permission.run, body=RunCreate)
async def wait_for_run(call: CreateCall) -> Any:
    """Start a run and wait for its final state."""
    return await _wait(call, call.thread_id)


@routes.post("/runs/wait", Permission.run, body=RunCreate)
async def wait_for_stateless_run(call: CreateCall) -> Any:
    """Start a run on a thread of its own and wait for its final state."""
    return await _wait(call, None)


@routes.post("/threads/{thread_id}/runs/stream", Permission.run, body=RunCreate, media_type="text/event-stream")
async def stream_run(call: CreateCall) -> Any:
    """Start a run and stream what it says."""
    return await _stream(call, call.thread_id)


@routes.post("/runs/stream", Permission.run, body=RunCreate, media_type="text/event-stream")
async def stream_stateless_run(call: CreateCall) -> Any:
    """Start a run on a thread of its own and stream what it says."""
    return await _stream(call, None)


@routes.post("/threads/{thread_id}/runs", Permission.run, body=RunCreate, answers={200: Run})
async def create_run(call: CreateCall) -> Any:
    """Start a run in the background."""
    return await _create(call, call.thread_id)


@routes.post("/runs", Permission.run, body=RunCreate, answers={200: Run})
async def create_stateless_run(call: CreateCall) -> Any:
    """Start a run in the background, on a thread of its own."""
    return await _create(call, None)


async def _wait(call: CreateCall, thread_id: str | None) -> WhenEnded:
    handle = await _start(call, thread_id)
    streams = call.parts.streams

    async def result() -> bytes:
        result = await handle.result()
        if result.status in {RunStatus.error, RunStatus.timeout}:
            return json_bytes({"__error__": {"error": result.status.value, "message": result.error}})
        return streams.values(handle.run_id) or json_bytes(result.output)

    return WhenEnded(result=result, headers=_headers(call, handle, "join"), heartbeat=call.parts.options.heartbeat)


async def _stream(call: CreateCall, thread_id: str | None) -> RunEvents:
    handle = await _start(call, thread_id)
    return RunEvents(
        run_id=handle.run_id,
        reader=call.parts.streams.read(handle.run_id),
        resumable=bool(call.body.stream_resumable),
        first=event_frame("metadata", {"run_id": handle.run_id, "attempt": 1}),
        heartbeat=call.parts.options.heartbeat,
        headers=_headers(call, handle, "stream"),
    )


async def _create(call: CreateCall, thread_id: str | None) -> Any:
    handle = await _start(call, thread_id)
    record = await call.parts.manager.get(handle.run_id)
    return json_reply(run_on_wire(record), headers=_headers(call, handle, None))


async def _start(call: CreateCall, thread_id: str | None) -> RunHandle:
    parts = call.parts
    return await parts.manager.start(spec_of(call.body, parts.manager, call.principal, thread_id))


def _headers(call: CreateCall, handle: RunHandle, ending: str | None) -> dict[str, str]:
    run = call.url(f"/threads/{handle.thread_id}/runs/{handle.run_id}")
    headers = {"Content-Location": run}
    if ending is not None:
        headers["Location"] = f"{run}/{ending}"
    return headers
