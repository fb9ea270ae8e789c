"""The form in which a request survives the process: whoever executes it later gets the same request."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import fields, replace

from trackside.harness import InvalidSpecError, PayloadError, RunSpec
from trackside.harness.admission import another_attempt, idempotency_of, request_of, spec_of
from trackside.harness.payload import MAX_CHARS

EVERYTHING = RunSpec(
    "chat",
    {"messages": [{"type": "human", "content": "hello"}]},
    thread_id="t",
    run_id="r",
    owner="ada",
    any_owner=True,
    thread_exists=True,
    thread_ends=True,
    options={"webhook": "https://example.org"},
    metadata={"user": "u"},
    config={"configurable": {"model": "small"}},
    context={"tenant": 7},
    command={"resume": "yes"},
    multitask="rollback",
    timeout=2.5,
    max_tokens=10_000,
    max_cost_usd=0.5,
    max_llm_calls=20,
    max_tool_calls=30,
    max_attempts=3,
    attempt=2,
    retry_of="q",
    after_seconds=60,
    idempotency_key="k",
    parent_run_id="p",
    trigger="cron",
    stream_mode=("values", "messages"),
    stream_subgraphs=True,
    interrupt_before=("tools",),
    interrupt_after="*",
    durability="exit",
    strict_resume=True,
    thread_metadata={"owner": "ada"},
    thread_ttl=60.0,
)


def through_json(spec: RunSpec, agent: str = "chat") -> RunSpec:
    return spec_of(json.loads(json.dumps(request_of(spec, agent))))


def test_everything_that_can_be_asked_for_comes_back() -> None:
    changed = [f.name for f in fields(RunSpec) if getattr(EVERYTHING, f.name) == f.default]
    assert changed == [], "a field of a spec that this test does not know"
    assert through_json(EVERYTHING) == EVERYTHING


def test_another_attempt_asks_for_the_same_but_for_what_is_asked_once() -> None:
    facts: Any = {"attempt": 3, "retry_of": "r", "thread_id": "u", "parent_run_id": "q"}
    once = ("run_id", "idempotency_key", "after_seconds", "multitask", "thread_exists", "thread_ttl", "max_attempts")
    as_new = {field.name: field.default for field in fields(RunSpec) if field.name in once}

    again = another_attempt(request_of(EVERYTHING, "chat"), **facts)

    assert again == replace(EVERYTHING, **facts, **as_new)


@pytest.mark.parametrize("input", [None, False, 0, "", [], {}, {"deep": [1, {"x": None}]}], ids=repr)
def test_inputs_come_back_as_they_were(input: Any) -> None:
    assert through_json(RunSpec("chat", input)).input == input


def test_what_was_not_asked_for_is_not_written_down() -> None:
    assert request_of(RunSpec("chat", "hello"), "chat") == {"agent": "chat", "input": "hello"}


def test_an_agent_is_written_down_by_the_name_that_others_know() -> None:
    def agent(input: Any) -> None: ...

    assert request_of(RunSpec(agent), "chat") == {"agent": "chat"}
    assert through_json(RunSpec(agent, "hi"), "chat") == RunSpec("chat", "hi")


def test_what_json_lacks_is_converted_and_that_is_said() -> None:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    request = request_of(RunSpec("chat", {"when": when, 5: b"hi"}), "chat")
    assert request == {"agent": "chat", "input": {"when": when.isoformat(), "5": "aGk="}, "sanitized": True}
    assert spec_of(request).input == {"when": when.isoformat(), "5": "aGk="}


def test_callbacks_are_this_processs_alone_and_make_no_other_request() -> None:
    def spec() -> RunSpec:
        config = {"callbacks": [object()], "tags": ["x"]}
        return RunSpec("chat", config=config, thread_id="t", idempotency_key="once")

    assert through_json(spec()).config == {"tags": ["x"]}
    assert idempotency_of(spec(), "chat") == idempotency_of(spec(), "chat")


def test_a_long_input_is_not_cut() -> None:
    text = "x" * (MAX_CHARS + 1)
    assert through_json(RunSpec("chat", text)).input == text


def test_a_value_that_cannot_be_read_is_refused() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise OSError("no")

    with pytest.raises(PayloadError, match="spec"):
        request_of(RunSpec("chat", Broken()), "chat")


def test_what_a_newer_version_asks_for_is_not_ignored() -> None:
    with pytest.raises(InvalidSpecError) as caught:
        spec_of(request_of(EVERYTHING, "chat") | {"budget": 5})
    assert caught.value.details["field"] == "budget"


def test_a_list_of_modes_comes_back_as_the_spec_has_it_by_default() -> None:
    asked = RunSpec("chat", stream_mode=["values"], interrupt_before=["a", "b"])
    assert through_json(asked) == replace(asked, stream_mode=("values",), interrupt_before=("a", "b"))


def test_a_version_that_knows_more_to_ask_for_recognises_a_request_of_this_one() -> None:
    named = idempotency_of(RunSpec("chat", {"say": "hello"}, thread_id="t", idempotency_key="once"), "chat")

    asked = {"agent": "chat", "input": {"say": "hello"}, "thread_id": "t"}  # everything else has its default
    assert named is not None
    assert named.body == hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
