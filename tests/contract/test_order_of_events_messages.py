"""Human messages: one event for each new one, whatever form the input has, including those that come later."""

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import pytest
from tests.contract.ways_to_run import ByManager, Gate, Way, both_ways, required, told, virtual

from trackside.harness import LifecycleEventType, RunContext, RunLifecycleEvent, RunStatus
from trackside.testing import RecordingObserver, assert_run_order

HUMAN = LifecycleEventType.HUMAN_MESSAGE


@dataclass
class LangChainLike:
    """A message object in LangChain's form: `type`, `content`, `id`."""

    type: str
    content: Any
    id: str | None = None


@dataclass
class RoleObject:
    """A message object in OpenAI's form."""

    role: str
    content: Any


def messages_of(events: list[RunLifecycleEvent]) -> list[dict[str, Any]]:
    return [event.payload["message"] for event in events if event.event_type is HUMAN]


async def agent(input: Any) -> None: ...


def an_ai(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def serialized(name: str, text: str) -> dict[str, Any]:
    """A LangChain message object as JSON."""
    return {"lc": 1, "type": "constructor", "id": ["langchain_core", "messages", name], "kwargs": {"content": text}}


FORMS = [
    pytest.param("hi", ["hi"], id="text"),
    pytest.param("", [""], id="empty text"),
    pytest.param({"role": "user", "content": "hi"}, ["hi"], id="one message by role"),
    pytest.param({"type": "human", "content": "hi"}, ["hi"], id="one message by type"),
    pytest.param(
        [{"role": "user", "content": "a"}, an_ai("b"), {"role": "human", "content": "c"}], ["a", "c"], id="list"
    ),
    pytest.param({"messages": "hi"}, ["hi"], id="messages is a text"),
    pytest.param({"messages": [{"type": "human", "content": "a"}, an_ai("b")]}, ["a"], id="messages is a list"),
    pytest.param({"messages": {"role": "user", "content": "hi"}}, ["hi"], id="messages is one message"),
    pytest.param({"messages": [("user", "a"), ("ai", "b"), ("human", "c")]}, ["a", "c"], id="pairs"),
    pytest.param({"messages": [["user", "a"], ["ai", "b"], ["human", "c"]]}, ["a", "c"], id="pairs in JSON"),
    pytest.param(
        {"messages": [serialized("HumanMessage", "a"), serialized("AIMessage", "b")]}, ["a"], id="LangChain's in JSON"
    ),
    pytest.param([LangChainLike("human", "a"), LangChainLike("ai", "b")], ["a"], id="objects with type"),
    pytest.param({"messages": [RoleObject("user", "a"), RoleObject("system", "b")]}, ["a"], id="objects with role"),
    pytest.param(
        {"role": "user", "content": [{"type": "text", "text": "hi"}]}, [[{"type": "text", "text": "hi"}]], id="blocks"
    ),
    pytest.param(None, [], id="nothing"),
    pytest.param({"question": "hi"}, [], id="no message"),
    pytest.param([1, "two", None], [], id="a list of other things"),
    pytest.param(42, [], id="a number"),
    pytest.param([], [], id="empty list"),
    pytest.param({"type": "human"}, [], id="human without content"),
    pytest.param([an_ai("b"), {"role": "developer", "content": "c"}], [], id="nobody human"),
]


@both_ways
@pytest.mark.parametrize(("given", "contents"), FORMS)
@virtual
async def test_each_human_message_of_the_input_is_announced_once(way: Way, given: Any, contents: list[Any]) -> None:
    seen = RecordingObserver()
    async with way(seen) as runs:
        result = await runs.run(agent, given)
    assert result.status is RunStatus.success
    assert_run_order(seen.events)
    messages = messages_of(seen.events)
    assert [m["content"] for m in messages] == contents
    assert all(m["type"] == "human" and m["id"] and "role" not in m for m in messages)
    assert len({m["id"] for m in messages}) == len(messages)
    assert [e.event_type for e in seen.events[2 : 2 + len(contents)]] == [HUMAN] * len(contents)


@virtual
async def test_a_message_that_the_thread_has_already_is_not_announced_to_a_function_once_more() -> None:
    async def chat(input: Any) -> Any:
        return {"messages": [*input["messages"], an_ai("well")]}

    seen = RecordingObserver()
    async with ByManager(seen) as runs:
        said: list[Any] = []
        for given_id in ("m-1", 2, "m-3"):
            said += [{"id": given_id, "type": "human", "content": f"this is {given_id}"}]
            result = await runs.run(chat, {"messages": said}, thread_id="of-all")
            said = result.output["messages"]
            assert result.completion_data["message_count"] == 2
        await runs.run(chat, {"messages": said[:1]}, thread_id="of-another")
    assert [message["id"] for message in messages_of(seen.events)] == ["m-1", "2", "m-3", "m-1"]


@virtual
async def test_of_messages_without_ids_nobody_knows_whether_the_thread_has_them() -> None:
    async def chat(input: Any) -> Any:
        return {"messages": [*input["messages"], an_ai("well")]}

    seen = RecordingObserver()
    async with ByManager(seen) as runs:
        for _ in range(2):
            await runs.run(chat, {"messages": [{"type": "human", "content": "hi"}]}, thread_id="of-all")
    assert [message["content"] for message in messages_of(seen.events)] == ["hi", "hi"]


@both_ways
@virtual
async def test_of_messages_with_one_id_one_is_announced_as_it_was_said_last(way: Way) -> None:
    def message(given_id: str, text: str) -> dict[str, str]:
        return {"type": "human", "id": given_id, "content": text}

    seen = RecordingObserver()
    async with way(seen) as runs:
        result = await runs.run(agent, [message("m-1", "helo"), message("m-2", "there"), message("m-1", "hello")])
    assert [said["content"] for said in messages_of(seen.events)] == ["hello", "there"]
    used = result.completion_data
    assert (used["message_count"], used["first_human_message"]) == (2, "hello")


@both_ways
@virtual
async def test_a_message_keeps_its_id_and_whatever_else_it_has(way: Way) -> None:
    seen = RecordingObserver()
    given = {"id": "m-1", "role": "user", "content": "hi", "name": "ada", "additional_kwargs": {"tone": "kind"}}
    async with way(seen) as runs:
        await runs.run(agent, {"messages": [given]})
    (message,) = messages_of(seen.events)
    assert message == {
        "id": "m-1",
        "type": "human",
        "content": "hi",
        "name": "ada",
        "additional_kwargs": {"tone": "kind"},
    }
    assert given["role"] == "user", "what the caller passed is not touched"


@both_ways
@virtual
async def test_a_message_that_comes_while_the_agent_runs_is_announced_at_once(way: Way) -> None:
    seen = RecordingObserver()

    async def agent(input: str, run: RunContext) -> None:
        run.message({"type": "human", "content": "in the first step"})
        await asyncio.sleep(1)
        assert told(seen.events)[-2:] == ["human_message", "human_message"]
        run.message({"role": "user", "content": "later", "id": "m"})
        run.message({"role": "assistant", "content": "not human"})
        await asyncio.sleep(1)
        assert len(seen.events) == 5
        run.message({"type": "human", "content": "last words"})

    async with way(required(seen)) as runs:
        assert (await runs.run(agent, "hello")).error is None
    assert [m["content"] for m in messages_of(seen.events)] == ["hello", "in the first step", "later", "last words"]
    assert told(seen.events)[-3:] == ["human_message", "run_completed success", "thread_status_updated idle"]
    assert_run_order(seen.events)


@both_ways
@virtual
async def test_messages_that_come_during_an_announcement_are_announced_next(way: Way) -> None:
    gate = Gate(HUMAN, nth=2)

    async def agent(input: str, run: RunContext) -> None:
        run.message({"type": "human", "content": "1"})
        await gate.reached.wait()
        run.message({"type": "human", "content": "2"})
        run.message({"type": "human", "content": "3"})
        gate.opened.set()
        await asyncio.sleep(1)
        assert [m["content"] for m in messages_of(gate.events)] == ["0", "1", "2", "3"]

    async with way(required(gate)) as runs:
        assert (await runs.run(agent, "0")).error is None
    assert_run_order(gate.events)


@both_ways
async def test_a_message_is_announced_once_however_often_it_is_brought_and_reported(way: Way) -> None:
    seen = RecordingObserver()
    first = {"type": "human", "content": "first", "id": "m1"}
    second = {"role": "user", "content": "second", "id": "m2"}

    async def agent(input: dict[str, Any], run: RunContext) -> None:
        run.record_message(second)  # counted, but not announced
        for message in [*input["messages"], second]:
            run.message(message)
        await asyncio.to_thread(run.message, second)

    async with way(required(seen)) as runs:
        result = await runs.run(agent, {"messages": [first, first]})
    assert [m["content"] for m in messages_of(seen.events)] == ["first", "second"]
    assert result.completion_data["message_count"] == 2
    assert_run_order(seen.events)


@both_ways
async def test_messages_from_threads_keep_their_order(way: Way) -> None:
    seen = RecordingObserver()

    def agent(input: str, run: RunContext) -> str:
        for i in range(50):
            run.message({"type": "human", "content": str(i)})
        return "done"

    async with way(seen) as runs:
        await runs.run(agent, "hello")
    assert [m["content"] for m in messages_of(seen.events)] == ["hello", *map(str, range(50))]
    assert_run_order(seen.events)


@both_ways
@virtual
async def test_leftover_code_of_an_ended_run_has_nothing_more_to_say(way: Way) -> None:
    seen = RecordingObserver()
    kept: list[RunContext] = []

    async def agent(input: str, run: RunContext) -> None:
        kept.append(run)

    async with way(required(seen)) as runs:
        await runs.run(agent)
        kept[0].message({"type": "human", "content": "too late"})
        kept[0].send("too late")
        await asyncio.sleep(1)
        await runs.run(agent)
    assert told(seen.events).count("human_message") == 0
    assert_run_order(seen.events)


@both_ways
@pytest.mark.parametrize(
    ("said", "names"), [({"content": "x"}, "type"), ("a text is fine", None), (5, "message"), (None, "message")]
)
@virtual
async def test_what_is_no_message_is_the_agents_error(way: Way, said: Any, names: str | None) -> None:
    seen = RecordingObserver()

    async def agent(input: Any, run: RunContext) -> None:
        run.message(said)

    async with way(seen) as runs:
        result = await runs.run(agent)
    assert_run_order(seen.events)
    assert (result.status is RunStatus.success) == (names is None)
    assert names is None or names in (result.error or "")


@both_ways
@virtual
async def test_input_whose_own_code_fails_is_the_runs_error_after_its_start(way: Way) -> None:
    seen = RecordingObserver()

    class Broken:
        type = "human"

        @property
        def content(self) -> str:
            raise RuntimeError("unreadable")

        def model_dump(self) -> dict[str, Any]:
            return {"type": self.type, "content": self.content}

    async with way(seen) as runs:
        result = await runs.run(agent, {"messages": [Broken()]})
    assert result.status is RunStatus.error
    assert "unreadable" in (result.error or "")
    assert told(seen.events) == [
        "run_started",
        "thread_status_updated busy",
        "run_failed error",
        "thread_status_updated error",
    ]


async def test_a_message_from_a_thread_that_outlives_its_run_is_dropped() -> None:
    seen = RecordingObserver()
    ended, said = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def straggler(run: RunContext) -> None:
        ended.wait(10)
        run.message({"type": "human", "content": "too late"})
        run.send("too late")
        loop.call_soon_threadsafe(said.set)

    async def agent(input: Any, run: RunContext) -> None:
        threading.Thread(target=straggler, args=(run,)).start()

    async with ByManager(required(seen)) as runs:
        result = await runs.run(agent)
        ended.set()
        await said.wait()
        assert [part async for part in runs.manager.stream(result.run_id)] == []
    assert told(seen.events)[-1] == "thread_status_updated idle"
