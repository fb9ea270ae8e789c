"""What runs announce fits the JSON Schemas of the reference, and has no keys beyond theirs."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from event_reference import SCHEMAS
from jsonschema import Draft202012Validator, ValidationError
from tests.contract.agents.callables_scripts import CallablesScripts
from tests.contract.agents.langgraph_scripts import LangGraphScripts
from tests.contract.agents.openai_agents_scripts import OpenAIAgentsScripts
from tests.contract.agents.pydantic_ai_scripts import PydanticAIScripts
from tests.contract.test_kit_coordinators import StoredCoordinators

from trackside import ObserverBinding, RunContext, RunLifecycleEvent, RunManager, RunSpec, run_agent
from trackside.app.event_json import data_of, encode
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store, StoredCoordinator
from trackside.testing import RecordingObserver
from trackside.testing.contracts import ScriptedAgents

SCHEMA: dict[str, Any] = json.loads((SCHEMAS / "event.json").read_text(encoding="utf-8"))
_OPEN = "HumanMessage"
"""The part that may have keys of a framework's own."""


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, allowing no keys but those that it lists."""
    schema = copy.deepcopy(schema)
    for name, part in schema["$defs"].items():
        if name != _OPEN:
            part["additionalProperties"] = False
    return schema


VALIDATOR = Draft202012Validator(closed(SCHEMA), format_checker=Draft202012Validator.FORMAT_CHECKER)


def check(events: Iterable[RunLifecycleEvent]) -> None:
    for event in events:
        VALIDATOR.validate(json.loads(encode(data_of(event))))


def test_the_schemas_are_schemas() -> None:
    found = [*SCHEMAS.glob("*.json")]
    assert len(found) == 7
    for path in found:
        Draft202012Validator.check_schema(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("scripts", [CallablesScripts, LangGraphScripts, OpenAIAgentsScripts, PydanticAIScripts])
async def test_what_runs_of_a_framework_announce_fits(scripts: type[ScriptedAgents]) -> None:
    agents = scripts()
    recorder = RecordingObserver()
    async with RunManager(observers=[recorder]) as manager:

        async def play(agent: Any, input: Any = "hello", **asked: Any) -> None:
            await (await manager.start(RunSpec(agent, None if "command" in asked else input, **asked))).result()

        await play(agents.says("hello"), metadata={"customer": "acme"}, trigger="test")
        await play(agents.calls_tool("look"))
        await play(agents.fails(ValueError("no route")))
        await play(agents.loses_model(ValueError("no model"), swallows=False))
        await play(agents.asks("go on?"), thread_id="asked")
        await play(agents.asks("go on?"), thread_id="asked", command={"resume": True})
        await play(agents.waits(lambda: None), timeout=0.05)
        began = asyncio.Event()
        loop = asyncio.get_running_loop()
        handle = await manager.start(RunSpec(agents.waits(lambda: loop.call_soon_threadsafe(began.set)), "hello"))
        await began.wait()
        await handle.cancel()
        await handle.result()
        await manager.observers.flush(5.0)
    check(recorder.events)
    ends = {(event.event_type.value, event.payload.get("status")) for event in recorder.events}
    assert {
        ("run_completed", "success"),
        ("run_completed", "interrupted"),
        ("run_failed", "error"),
        ("run_failed", "timeout"),
        ("run_cancelled", None),
        ("thread_status_updated", "interrupted"),
    } <= ends
    assert [event for event in recorder.events if event.payload.get("completion_data", {}).get("calls")]


async def test_what_is_announced_of_a_run_whose_process_is_gone_fits(tmp_path: Path) -> None:
    began = asyncio.Event()

    async def hangs(input: Any, run: RunContext) -> None:
        if run.attempt == 1:
            began.set()
            await asyncio.Event().wait()

    def manager_on(store: Store, coordinator: StoredCoordinator) -> RunManager:
        storage = ObserverBinding(StorageObserver(store), required=True)
        return RunManager({"hangs": hangs}, observers=[storage], coordinator=coordinator, shutdown_grace=0.0)

    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with Store.open(url) as gone, Store.open(url) as store:
        coordinator = gone.coordinator(lease_seconds=0.3)
        async with manager_on(gone, coordinator) as manager:
            await manager.start(RunSpec("hangs", "hello", max_attempts=2))
            await began.wait()
            await StoredCoordinators(url).kill(coordinator)
            async with manager_on(store, store.coordinator(lease_seconds=0.3)):
                ends = store.follow(types=["run_completed"])
                await anext(aiter(ends))
        events = [stored.event for stored in await store.events()]
    check(events)
    (lost,) = [event for event in events if event.event_type == "run_failed"]
    assert (lost.payload["error_type"], "retried_as" in lost.payload) == ("worker_lost", True)
    assert [event.payload["attempt"] for event in events if "attempt" in event.payload] == [2]


async def test_what_does_not_fit_is_found() -> None:
    recorder = RecordingObserver()
    await run_agent(lambda said: said, "hello", observer=recorder)
    *_, end, _ = recorder.events
    event: dict[str, Any] = json.loads(encode(data_of(end)))
    VALIDATOR.validate(event)
    for wrong in (
        {**event, "event_type": "run_paused"},
        {**event, "sequence": 0},
        {**event, "payload": {**event["payload"], "status": "done"}},
        {**event, "payload": {**event["payload"], "surprise": 1}},
        {**event, "payload": {key: value for key, value in event["payload"].items() if key != "completion_data"}},
    ):
        with pytest.raises(ValidationError):
            VALIDATOR.validate(wrong)
