"""Every method of LangGraph's Python clients, asynchronous and synchronous, against a real server on both databases."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from http_reference import PARTS, methods
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.errors import APIStatusError, ConflictError, NotFoundError
from served_project import PLACES, ServedProject


class Calls:
    """Either kind of client as an asynchronous one, and the names of its methods that were called."""

    def __init__(self, client: Any) -> None:
        self.called: set[str] = set()
        for part in PARTS:
            setattr(self, part, _Part(part, getattr(client, part), self.called))


class _Part:
    def __init__(self, name: str, part: Any, called: set[str]) -> None:
        self._name, self._part, self._called = name, part, called

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._part, name)

        def call(*positional: Any, **named: Any) -> Any:
            self._called.add(f"{self._name}.{name}")
            if name == "stream" and self._name == "threads":  # not a call, but something with methods of its own
                return method(*positional, **named)
            return _Call(lambda: method(*positional, **named), synchronous=_is_synchronous(method))

        return call


def _is_synchronous(method: Callable[..., Any]) -> bool:
    return "_sync" in inspect.getmodule(method).__name__  # type: ignore[union-attr]  # each has a module


class _Call:
    """The result of one method call, to be awaited or iterated."""

    def __init__(self, make: Callable[[], Any], *, synchronous: bool) -> None:
        self._make, self._synchronous = make, synchronous

    def __await__(self) -> Generator[Any, None, Any]:
        return (asyncio.to_thread(self._make) if self._synchronous else self._make()).__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        if not self._synchronous:
            made = self._make()
            async for part in await made if inspect.isawaitable(made) else made:
                yield part
            return
        parts = await asyncio.to_thread(self._make)
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            yield part


@pytest.fixture(params=PLACES)
def url(request: pytest.FixtureRequest, project: ServedProject) -> str:
    return project.on(request.param).url


@pytest.mark.parametrize("kind", ["asynchronous", "synchronous"])
async def test_every_method_of_the_client_works_or_says_why_not(url: str, kind: str) -> None:
    if kind == "synchronous":
        with get_sync_client(url=url, api_key=None) as plain:
            calls = Calls(plain)
            await call_everything(calls)
    else:
        async with get_client(url=url, api_key=None) as client:
            calls = Calls(client)
            await call_everything(calls)
    assert set(methods()) - calls.called == set()


async def call_everything(client: Any) -> None:
    for scenario in (assistants, threads, states, runs, streams, thread_streams, questions, busy_threads, crons, store):
        await scenario(client)


async def assistants(client: Any) -> None:
    found = await client.assistants.search(limit=100)
    assert "chat" in {one["graph_id"] for one in found}
    assert await client.assistants.count() == len(found)
    assert await client.assistants.get("chat") in found
    assert {node["id"] for node in (await client.assistants.get_graph("chat"))["nodes"]} >= {"talk"}
    assert "messages" in (await client.assistants.get_schemas("chat"))["input_schema"]["properties"]
    assert [*await client.assistants.get_subgraphs("nested")] == ["inside"]
    assert [one["version"] for one in await client.assistants.get_versions("chat")] == [1]
    for refused in (
        client.assistants.create("chat"),
        client.assistants.update("chat", name="other"),
        client.assistants.delete("chat"),
        client.assistants.set_latest("chat", 1),
    ):
        with pytest.raises(APIStatusError, match="one assistant for each agent") as failure:
            await refused
        assert failure.value.status_code == 501


async def threads(client: Any) -> None:
    mark = {"mark": str(uuid4())}
    made = await client.threads.create(metadata=mark, graph_id="steps", ttl=60)
    thread_id = made["thread_id"]
    assert (await client.threads.create(thread_id=thread_id, if_exists="do_nothing"))["thread_id"] == thread_id
    with pytest.raises(ConflictError):
        await client.threads.create(thread_id=thread_id)
    assert (await client.threads.update(thread_id, metadata={"more": 1}))["metadata"].items() >= mark.items()
    assert (await client.threads.get(thread_id))["metadata"]["more"] == 1
    assert [one["thread_id"] for one in await client.threads.search(metadata=mark)] == [thread_id]
    assert await client.threads.count(metadata=mark) == 1
    await client.runs.wait(thread_id, "steps", input={})
    copy = await client.threads.copy(thread_id)
    assert copy["values"] == {"log": ["first", "second", "third"]}
    assert (await client.threads.prune([copy["thread_id"]], strategy="delete"))["pruned_count"] == 1
    await client.threads.delete(thread_id)
    with pytest.raises(NotFoundError):
        await client.threads.get(thread_id)


async def states(client: Any) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "steps", input={"log": ["zero"]})
    history = await client.threads.get_history(thread_id, limit=20)
    assert history[0]["values"]["log"] == ["zero", "first", "second", "third"]
    before = next(state for state in history if state["next"] == ["second"])
    checkpoint_id = before["checkpoint"]["checkpoint_id"]
    assert await client.threads.get_state(thread_id, checkpoint_id=checkpoint_id) == before
    assert await client.threads.get_state(thread_id, checkpoint=before["checkpoint"]) == before
    again = await client.runs.wait(thread_id, "steps", checkpoint_id=checkpoint_id)
    assert again["log"] == ["zero", "first", "second", "third"]
    forked = await client.threads.update_state(
        thread_id, {"log": ["forked"]}, as_node="second", checkpoint=before["checkpoint"]
    )
    assert (await client.threads.get_state(thread_id))["values"]["log"] == ["zero", "first", "forked"]
    values = await client.runs.wait(thread_id, "steps", checkpoint=forked["checkpoint"])
    assert values["log"] == ["zero", "first", "forked", "third"]


async def runs(client: Any) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread_id, "greet", input={}, context={"name": "Ada"}, metadata={"from": "here"})
    assert run["metadata"]["from"] == "here"
    assert await client.runs.join(thread_id, run["run_id"]) == {"log": ["hello Ada (en)"]}
    assert (await client.runs.get(thread_id, run["run_id"]))["status"] == "success"
    assert [one["run_id"] for one in await client.runs.list(thread_id)] == [run["run_id"]]
    await client.runs.delete(thread_id, run["run_id"])
    assert await client.runs.list(thread_id) == []
    batch = await client.runs.create_batch(
        [{"assistant_id": "steps", "input": {}}, {"assistant_id": "greet", "input": {}}]
    )
    assert [one["assistant_id"] for one in batch] == [
        (await client.assistants.get(name))["assistant_id"] for name in ("steps", "greet")
    ]
    assert await client.runs.wait(None, "greet", config={"configurable": {"language": "de"}}, input={}) == {
        "log": ["hello nobody (de)"]
    }
    failed = await client.runs.wait(None, "fail", input={}, raise_error=False)
    assert failed["__error__"] == {"error": "ValueError", "message": "it cannot be done"}
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        await client.runs.wait(None, "nobody", input={})


async def streams(client: Any) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    asked = {"input": {"messages": [{"role": "user", "content": "hi"}]}, "stream_mode": ["messages-tuple", "values"]}
    parts = [part async for part in client.runs.stream(thread_id, "chat", **asked, stream_resumable=True)]
    assert [parts[0].event, parts[-1].event] == ["metadata", "end"]
    chunks = [part.data[0]["content"] for part in parts if part.event == "messages"]
    assert len(chunks) > 3
    assert "".join(chunks) == "you said hi"
    values = [part for part in parts if part.event == "values"]
    run_id = parts[0].data["run_id"]
    rest = [part async for part in client.runs.join_stream(thread_id, run_id, last_event_id=values[0].id)]
    assert rest == parts[parts.index(values[0]) + 1 :]
    async for part in client.threads.join_stream(thread_id, last_event_id="-1"):
        assert part.data["run_id"] == run_id
        break  # it would go on with the thread's next runs

    typed = [part async for part in client.runs.stream(None, "steps", input={}, stream_mode="custom", version="v2")]
    assert [part["data"] for part in typed if part["type"] == "custom"] == [
        {"at": "first"},
        {"at": "second"},
        {"at": "third"},
    ]


async def thread_streams(client: Any) -> None:
    """Version 2 of the protocol; the tests of the server itself call each of its methods."""
    stream = client.threads.stream(assistant_id="chat")
    asked = {"messages": [{"role": "user", "content": "hi"}]}
    if hasattr(stream, "__aenter__"):
        async with stream as thread:
            await thread.run.start(input=asked)
            messages = [message async for message in thread.messages]  # a message is not read on while it waits for it
            said = [str(await message.text) for message in messages]
            values = await thread.output
    else:

        def follow() -> tuple[list[str], Any]:
            with stream as thread:
                thread.run.start(input=asked)
                return [str(message.text) for message in thread.messages], thread.output

        said, values = await asyncio.to_thread(follow)
    assert said == ["you said hi"]
    assert [message["content"] for message in values["messages"]] == ["hi", "you said hi"]


async def questions(client: Any) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    values = await client.runs.wait(thread_id, "approve", input={"messages": [{"role": "user", "content": "pay"}]})
    (asked,) = values["__interrupt__"]
    assert asked["value"] == {"question": "pay?", "amount": 3}
    thread = await client.threads.get(thread_id)
    assert (thread["status"], next(iter(thread["interrupts"].values()))[0]["id"]) == ("interrupted", asked["id"])
    values = await client.runs.wait(thread_id, "approve", command={"resume": {asked["id"]: "yes"}})
    assert values["messages"][-1]["content"] == "it is paid"
    assert (await client.threads.get_state(thread_id))["next"] == []


async def busy_threads(client: Any) -> None:
    thread_id, key = (await client.threads.create())["thread_id"], str(uuid4())
    run = await client.runs.create(thread_id, "gate", input={"key": key}, stream_mode="custom")
    async for part in client.runs.join_stream(thread_id, run["run_id"]):
        if part.event == "custom" and "waits" in part.data:
            break
    with pytest.raises(ConflictError):
        await client.runs.create(thread_id, "steps", input={}, multitask_strategy="reject")
    queued = await client.runs.create(thread_id, "steps", input={})
    assert queued["status"] == "pending"
    await client.runs.cancel_many(thread_id=thread_id, run_ids=[queued["run_id"]])
    await client.runs.join(thread_id, queued["run_id"])
    assert (await client.runs.get(thread_id, queued["run_id"]))["status"] == "interrupted"
    await client.runs.cancel(thread_id, run["run_id"], wait=True)
    assert (await client.runs.get(thread_id, run["run_id"]))["status"] == "interrupted"
    assert (await client.threads.get(thread_id))["status"] == "idle"


async def crons(client: Any) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    mark = {"mark": thread_id}
    own = await client.crons.create_for_thread(thread_id, "steps", schedule="0 4 * * *", input={}, metadata=mark)
    free = await client.crons.create("steps", schedule="0 4 * * *", input={}, metadata=mark, enabled=False)
    assert own["thread_id"] == thread_id
    assert [one["cron_id"] for one in await client.crons.search(thread_id=thread_id)] == [own["cron_id"]]
    assert await client.crons.count(metadata=mark) == 2
    changed = await client.crons.update(free["cron_id"], schedule="0 5 * * *", timezone="Europe/Berlin")
    assert changed["schedule"] == "0 5 * * *"
    for cron in (own, free):
        await client.crons.delete(cron["cron_id"])
    assert await client.crons.count(metadata=mark) == 0


async def store(client: Any) -> None:
    place = ["people", str(uuid4())]
    await client.store.put_item(place, "ada", {"born": 1815}, ttl=60)
    assert (await client.store.get_item(place, "ada"))["value"] == {"born": 1815}
    assert [item["key"] for item in (await client.store.search_items(place, filter={"born": 1815}))["items"]] == ["ada"]
    assert (await client.store.list_namespaces(prefix=place))["namespaces"] == [place]
    await client.store.delete_item(place, "ada")
    assert await client.store.get_item(place, "ada") is None
    assert (await client.runs.wait(None, "remember", input={}))["log"][0].startswith("run ")
