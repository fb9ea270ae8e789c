"""What runs announce fits the JSON Schemas of the reference, and has no key that these do not have."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterable
from typing import Any

import pytest
from event_reference import SCHEMAS
from jsonschema import Draft202012Validator, ValidationError
from tests.contract.agents.callables_scripts import CallablesScripts
from tests.contract.agents.langgraph_scripts import LangGraphScripts
from tests.contract.agents.openai_agents_scripts import OpenAIAgentsScripts
from tests.contract.agents.pydantic_ai_scripts import PydanticAIScripts

from trackside import RunLifecycleEvent, RunManager, RunSpec, run_agent
from trackside.app.event_json import data_of, encode
from trackside.testing import RecordingObserver
from trackside.testing.contracts import ScriptedAgents

SCHEMA: dict[str, Any] = json.loads((SCHEMAS / "event.json").read_text(encoding="utf-8"))
_OPEN = "HumanMessage"
"""What may have keys of its framework's."""


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, which allows no keys but those that it lists."""
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
