"""Threads whose last step left what LangGraph cannot show, as the SDK's clients meet them."""

from __future__ import annotations

from typing import Any

import pytest
from clashing_graph import clashing
from dialects import BOTH
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph_sdk.errors import UnprocessableEntityError
from pydantic import BaseModel

from trackside.harness.ids import new_id

DIALECTS = BOTH


class Person(BaseModel):
    name: str = ""
    age: int = 0


def aging() -> Any:
    builder = StateGraph(Person).add_node("ages", lambda person: {"age": person.age + 1})
    return builder.add_edge(START, "ages").compile()


def making(config: RunnableConfig) -> Any:
    return clashing()


def agents() -> dict[str, Any]:
    return {"clashing": clashing(), "aging": aging(), "making": making}


def says(text: str) -> dict[str, Any]:
    return {"messages": [{"type": "human", "content": text, "id": new_id()}]}


def texts(values: Any) -> list[str]:
    return [message["content"] for message in values["messages"]]


def code_of(refused: Any) -> str:
    return str(refused.value.body["code"])


async def run(client: Any, thread_id: str, agent: str, input: Any) -> Any:
    return await client.runs.wait(thread_id, agent, input=input, if_not_exists="create", raise_error=False)


@pytest.mark.parametrize("agent", ["clashing", "making"])
async def test_a_conversation_goes_on_after_its_nodes_have_clashed(serve_agents: Any, agent: str) -> None:
    thread_id = new_id()
    async with serve_agents(agents()) as served:
        said = [await run(served.client, thread_id, agent, says(text)) for text in ("hello", "clash", "go on")]
        state = await served.client.threads.get_state(thread_id)

    assert said[1]["__error__"]["error"] == "InvalidUpdateError"
    assert texts(said[2]) == texts(state["values"]) == ["hello", "reply 1", "clash", "go on", "reply 4"]


@pytest.mark.parametrize("agent", ["clashing", "making"])
async def test_a_thread_whose_nodes_have_clashed_shows_its_last_values(serve_agents: Any, agent: str) -> None:
    thread_id = new_id()
    async with serve_agents(agents()) as served:
        threads = served.client.threads
        for text in ("hello", "clash"):
            await run(served.client, thread_id, agent, says(text))
        thread = await threads.get(thread_id)
        [found] = await threads.search(ids=[thread_id])
        with pytest.raises(UnprocessableEntityError, match="At key 'topic': Can receive only one value") as refused:
            await threads.get_state(thread_id)
        history = await threads.get_history(thread_id)

    assert (thread["status"], thread["error"]["error"], thread["interrupts"]) == ("error", "InvalidUpdateError", {})
    assert texts(thread["values"]) == texts(found["values"]) == ["hello", "reply 1", "clash"]
    assert code_of(refused) == "unshown-state"
    assert texts(history[0]["values"]) == ["hello", "reply 1", "clash"]
    assert history[0]["next"] == ["left", "right"]


async def test_a_thread_is_changed_by_hand_after_its_nodes_have_clashed(serve_agents: Any) -> None:
    thread_id = new_id()
    async with serve_agents(agents()) as served:
        await run(served.client, thread_id, "clashing", says("clash"))
        await served.client.threads.update_state(thread_id, {"topic": "mine"}, as_node="left")
        thread = await served.client.threads.get(thread_id)

    assert thread["values"]["topic"] == "mine"


async def test_a_state_that_does_not_fit_is_refused_with_what_the_graph_says(serve_agents: Any) -> None:
    thread_id = new_id()
    async with serve_agents(agents()) as served:
        threads = served.client.threads
        await run(served.client, thread_id, "aging", {"name": "Bo"})
        await run(served.client, thread_id, "aging", {"age": "old"})
        thread = await threads.get(thread_id)
        for look in (threads.get_state(thread_id), threads.get_history(thread_id)):
            with pytest.raises(UnprocessableEntityError, match="valid integer") as refused:
                await look
            assert code_of(refused) == "unshown-state"

    assert (thread["status"], thread["values"]) == ("error", {"name": "Bo", "age": 1})
