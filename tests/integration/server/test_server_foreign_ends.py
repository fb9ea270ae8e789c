"""How the runs of another harness end for those who follow them here: the log accepts whatever its emitters say."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any

import httpx
from adverse_wire import AdverseWire
from webhook_receiver import NEW, WebhookReceiver

from trackside.app.observers.storage import StorageObserver
from trackside.app.server.run_ends import RunEnds
from trackside.app.settings import ServerSettings
from trackside.app.storage import Store
from trackside.app.streams import Mirrors, StreamHub
from trackside.app.streams.mirror_options import MirrorOptions
from trackside.app.streams.protocol import Wanted, read_events
from trackside.harness.ids import new_id
from trackside.harness.types import LifecycleEventType
from trackside.testing import make_event

DIALECTS = ("sqlite",)  # the subject is what the server makes of the log
PATIENCE = 30.0  # seconds
QUICK = MirrorOptions(grace=0.05, patience=0.2)
COMPLETED, FAILED, CANCELLED = (
    LifecycleEventType.RUN_COMPLETED,
    LifecycleEventType.RUN_FAILED,
    LifecycleEventType.RUN_CANCELLED,
)
FAILURE = {"error": "boom", "error_type": "ValueError"}
BOOM = ("error", {"error": "ValueError", "message": "boom"})
QUESTION = {"id": "q", "value": "go on?"}
ENDS: dict[str, tuple[LifecycleEventType, dict[str, Any], tuple[str, Any], str]] = {
    "completed": (COMPLETED, {}, ("end", "success"), "completed"),
    "completed as done": (COMPLETED, {"status": "done"}, ("end", "success"), "completed"),
    "completed as a list": (COMPLETED, {"status": ["success"]}, ("end", "success"), "completed"),
    "asking": (COMPLETED, {"status": "interrupted", "interrupts": [3, QUESTION]}, ("end", "success"), "interrupted"),
    "asking nothing": (COMPLETED, {"status": "interrupted", "interrupts": 3}, ("end", "success"), "interrupted"),
    "failed": (FAILED, FAILURE, BOOM, "failed"),
    "failed as failed": (FAILED, {"status": "failed", **FAILURE}, BOOM, "failed"),
    "failed with objects": (
        FAILED,
        {"error": {"code": 1}, "error_type": ["E"]},
        ("error", {"error": "Error", "message": None}),
        "failed",
    ),
    "timed out": (
        FAILED,
        {"status": "timeout", "error": "late"},
        ("error", {"error": "TimeoutError", "message": "late"}),
        "failed",
    ),
    "cancelled": (CANCELLED, {"status": "stopped"}, ("end", "interrupted"), "failed"),
}
"""Emitters' last words, by what they mean: how a run's stream then ends, and what its thread's events call it."""


async def echo(input: Any) -> Any:
    return input


async def record(store: Store, kind: LifecycleEventType, says: Mapping[str, Any]) -> tuple[str, str]:
    """Announce a run as another harness does; return its id and its thread's."""
    run_id, thread_id, observer = new_id(), new_id(), StorageObserver(store)
    of_run: Any = {"run_id": run_id, "thread_id": thread_id}
    await observer.on_event(make_event(LifecycleEventType.RUN_STARTED, **of_run, payload={"agent": "theirs"}))
    await observer.on_event(make_event(kind, **of_run, sequence=2, payload=says))
    return run_id, thread_id


async def test_the_streams_of_runs_end_as_their_rows_say(serve_agents: Any) -> None:
    told = {}
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as client:
        for name, (kind, says, *_) in ENDS.items():
            run_id, thread_id = await record(served.app.store, kind, says)
            answer = await client.get(f"/threads/{thread_id}/runs/{run_id}/stream")
            last = answer.text.replace("\r", "").strip().split("\n\n")[-1]
            fields = dict(line.split(": ", 1) for line in last.split("\n"))
            data = json.loads(fields["data"])
            told[name] = (fields["event"], data if fields["event"] == "error" else data["status"])
    assert told == {name: expected for name, (_, _, expected, _) in ENDS.items()}


async def test_who_follows_their_threads_hears_it_from_the_log(database_url: str) -> None:
    told, streams = {}, StreamHub()
    async with Store.open(database_url) as store:
        mirrors = Mirrors(streams, AdverseWire(), RunEnds(store), QUICK)
        for name, (kind, says, *_) in ENDS.items():
            run_id, thread_id = await record(store, kind, says)
            with (
                mirrors.thread(thread_id, active=run_id),
                read_events(streams.threads, thread_id, Wanted(channels=("lifecycle", "values")), None) as reader,
            ):
                said = b""
                while b"lifecycle" not in said:
                    await asyncio.wait_for(reader.wait(), PATIENCE)
                    said += b"".join(reader.pieces())
            told[name] = re.findall(rb'"event":"(\w+)"', said)[-1].decode()
        await mirrors.aclose()
    assert told == {name: expected for name, (*_, expected) in ENDS.items()}


async def test_receivers_are_told_it(serve_agents: Any) -> None:
    told: dict[str, Any] = {}
    settings = ServerSettings(private_webhooks=True, webhook_secret=NEW)
    async with WebhookReceiver(NEW) as receiver, serve_agents({"echo": echo}, server=settings) as served:
        for name, (kind, says, *_) in ENDS.items():
            thread_id = (await served.client.threads.create())["thread_id"]
            asked = {"input": {}, "webhook": receiver.url, "after_seconds": 3_600}
            run_id = (await served.client.runs.create(thread_id, "echo", **asked))["run_id"]
            await served.app.store.append([make_event(kind, run_id=run_id, thread_id=thread_id, payload=says)])
            await asyncio.wait_for(receiver.until(len(told) + 1), PATIENCE)
            body = json.loads(receiver.requests[-1].body)
            told[name] = ("error", body["error"]) if "error" in body else ("end", body["status"])
    assert told == {name: expected for name, (_, _, expected, _) in ENDS.items()}
