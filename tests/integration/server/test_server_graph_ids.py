"""What a graph's nodes find out about their own run, in the form in which LangGraph's server tells them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph_sdk import get_client
from looking_graph import NAMES, ids, looking

from trackside import RunManager, RunSpec, run_agent
from trackside.app.settings import AccessSettings
from trackside.harness.ids import assistant_id_of, new_id

LOOK = {"assistant_id": assistant_id_of("look"), "graph_id": "look"}


async def test_nodes_find_the_ids_of_their_run_whatever_a_client_says_of_them(serve_agents: Any) -> None:
    others = {"assistant_id": new_id(), "graph_id": "other", "run_id": new_id()}
    config: Any = {"configurable": {**others, "user_id": "mine"}, "metadata": others}
    async with serve_agents({"look": looking()}) as served:
        runs, thread_id = served.client.runs, (await served.client.threads.create())["thread_id"]
        plain = await runs.wait(thread_id, "look", input={})
        claimed = await runs.wait(thread_id, LOOK["assistant_id"], input={}, config=config, metadata=others)
        newest, oldest = [run["run_id"] for run in await runs.list(thread_id)]

    assert plain["own"] == {**ids("look", oldest, thread_id), "user_id": None}
    assert claimed["own"] == {**ids("look", newest, thread_id), "user_id": "mine"}
    assert (plain["said"], claimed["said"]) == (ids("look", oldest, thread_id), ids("look", newest, thread_id))
    assert plain["server"] == claimed["server"] == LOOK
    assert "assistant_id" not in plain["given"]


async def test_messages_are_streamed_with_the_ids_of_their_run(serve_agents: Any) -> None:
    async def talk(state: MessagesState) -> Any:
        model = GenericFakeChatModel(messages=iter([AIMessage("hello")]))
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("talk", talk).add_edge(START, "talk").compile()
    asked = {"messages": [{"role": "user", "content": "hi"}]}
    async with serve_agents({"look": graph}) as served:
        stream = served.client.runs.stream(None, "look", input=asked, stream_mode="messages-tuple")
        parts = [part async for part in stream]

    said = [part.data[1] for part in parts if part.event == "messages"]
    expected = {**LOOK, "run_id": parts[0].data["run_id"]}
    assert said
    assert all(metadata.items() >= expected.items() for metadata in said)


async def test_nodes_find_the_user_who_asks_without_his_secrets(serve_agents: Any, tmp_path: Path) -> None:
    module = tmp_path / "who.py"
    module.write_text(
        "def authenticate(headers):\n"
        "    return {'identity': headers['x-api-key'], 'org': 'acme', 'permissions': [], 'api_token': 'hush'}\n"
    )
    customer: Any = {"configurable": {"user_id": "customer-7", "langgraph_auth_user": {"identity": "root"}}}
    async with (
        serve_agents({"look": looking()}, access=AccessSettings(auth=f"{module}:authenticate")) as served,
        get_client(url=served.url, api_key="ada") as ada,
    ):
        own: Any = await ada.runs.wait(None, "look", input={})
        others: Any = await ada.runs.wait(None, "look", input={}, config=customer)

    assert (own["own"]["user_id"], others["own"]["user_id"]) == ("ada", "customer-7")
    assert own["server"] == others["server"]
    assert own["server"].items() > LOOK.items()
    user = own["server"]["user"]
    assert (user["identity"], user["org"], "api_token" in user) == ("ada", "acme", False)


async def test_a_graph_is_told_the_name_by_which_its_manager_knows_it_however_it_is_passed() -> None:
    graph = looking()
    async with RunManager({"look": graph}) as manager:
        for agent, name in (("look", "look"), (graph, "look"), (looking(), None)):
            handle = await manager.start(RunSpec(agent, {}))
            output = (await handle.result()).output
            assert output["own"]["graph_id"] == name
            assert output["own"]["run_id"] == handle.run_id


@pytest.mark.parametrize("config", [None, {"configurable": {"assistant_id": "mine"}}], ids=["plain", "own"])
async def test_in_a_program_that_runs_a_graph_itself_there_is_no_server(config: Any) -> None:
    result = await run_agent(looking(), {}, config=config)
    known = {"run_id": result.run_id, "thread_id": result.thread_id}
    if config is None:
        assert result.output["own"] == {**dict.fromkeys(NAMES), **known}
        assert result.output["server"] is None
    else:
        assert result.output["own"] == {**dict.fromkeys(NAMES), **known, "assistant_id": "mine"}
