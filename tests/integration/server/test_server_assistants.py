"""Assistants through the SDK's clients: found, described, drawn; and all calls that would change them are refused."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, TypedDict

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_sync_client
from langgraph_sdk.errors import NotFoundError


class Log(TypedDict, total=False):
    log: list[str]


def graph() -> Any:
    inner = StateGraph(Log).add_node("deep", lambda state: {"log": ["deep"]}).add_edge(START, "deep").compile()
    return StateGraph(Log).add_node("inside", inner).add_edge(START, "inside").compile()


def nested() -> Any:
    return StateGraph(Log).add_node("around", graph()).add_edge(START, "around").compile()


async def echo(input: Any) -> Any:
    return {"echo": input}


def agents() -> dict[str, Any]:
    return {"chat": graph(), "echo": echo, "another": echo}


async def test_assistants_are_found_by_what_they_are(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        assistants = served.client.assistants
        everyone = await assistants.search(sort_by="name", sort_order="asc")
        chats = await assistants.search(name="CHAT")
        of_echo = await assistants.search(graph_id="echo", metadata={"created_by": "system"})
        nobody = await assistants.search(metadata={"created_by": "me"})
        count = await assistants.count(name="o")
        last_first = await assistants.search(sort_by="name")
        first = await assistants.search(limit=2, sort_by="name", sort_order="desc", response_format="object")
        rest = await assistants.search(limit=2, offset=2, response_format="object", select=["name"])

    assert [one["name"] for one in everyone] == ["another", "chat", "echo"]
    assert last_first == everyone[::-1]
    assert [one["graph_id"] for one in chats] == ["chat"]
    assert [one["graph_id"] for one in of_echo] == ["echo"]
    assert nobody == []
    assert count == 2
    assert [one["name"] for one in first["assistants"]] == ["echo", "chat"]
    assert first["next"] == "2"
    assert rest["next"] is None
    assert [set(one) for one in rest["assistants"]] == [{"name"}]


async def test_a_name_and_an_id_mean_the_same_assistant(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        by_name = await served.client.assistants.get("chat")
        by_id = await served.client.assistants.get(by_name["assistant_id"])
        schemas = await served.client.assistants.get_schemas("chat")
        same = await served.client.assistants.get_schemas(by_name["assistant_id"])
        with pytest.raises(NotFoundError, match="there is no assistant"):
            await served.client.assistants.get("nobody")

    assert by_id == by_name
    assert by_name["version"] == 1
    assert schemas == same
    assert schemas["graph_id"] == "chat"
    assert schemas["input_schema"]["properties"].keys() == {"log"}


async def test_whose_name_has_a_slash_is_found_by_its_id(serve_agents: Any) -> None:
    async with serve_agents({"team/chat": echo}) as served:
        (found,) = await served.client.assistants.search(graph_id="team/chat")
        assert await served.client.assistants.get(found["assistant_id"]) == found
        assert (await served.client.assistants.get_graph(found["assistant_id"]))["nodes"]


async def test_a_graph_is_drawn_to_the_depth_that_is_asked_for(serve_agents: Any) -> None:
    async with serve_agents({**agents(), "nested": nested()}) as served:
        plain = await served.client.assistants.get_graph("chat")
        deep = await served.client.assistants.get_graph("chat", xray=True)
        levels = [await served.client.assistants.get_graph("nested", xray=xray) for xray in (False, 1, 2, True)]
        drawn = await RemoteGraph("chat", client=served.client).aget_graph(xray=True)
        box = await served.client.assistants.get_graph("echo")
        unknown = await served.client.assistants.get_schemas("echo")

    assert [node["id"] for node in plain["nodes"]] == ["__start__", "inside", "__end__"]
    assert "deep" in str(deep)
    shown = [[name for name in ("around", "inside", "deep") if name in str(one)] for one in levels]
    assert shown == [["around"], ["around", "inside"], *[["around", "inside", "deep"]] * 2]
    assert set(drawn.nodes) == {node["id"] for node in deep["nodes"]}
    assert [node["id"] for node in box["nodes"]] == ["echo"]
    assert unknown["graph_id"] == "echo"


async def test_graphs_inside_are_listed(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        inside = await served.client.assistants.get_subgraphs("chat", recurse=True)
        named = await served.client.assistants.get_subgraphs("chat", namespace="inside")
        none = await served.client.assistants.get_subgraphs("echo")

    assert inside.keys() == named.keys() == {"inside"}
    assert inside["inside"]["state_schema"]["properties"].keys() == {"log"}
    assert none == {}


async def test_an_assistant_has_one_version_and_cannot_be_changed(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        assistants = served.client.assistants
        versions = await assistants.get_versions("chat")
        for write in (
            partial(assistants.create, "chat"),
            partial(assistants.update, "chat", name="other"),
            partial(assistants.delete, "chat"),
            partial(assistants.set_latest, "chat", 1),
        ):
            with pytest.raises(httpx.HTTPStatusError, match="one assistant for each agent") as refused:
                await write()
            assert refused.value.response.status_code == 501

    assert [version["version"] for version in versions] == [1]


async def test_the_sync_client_sees_the_same(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        with get_sync_client(url=served.url, api_key=None) as client:
            found = await asyncio.to_thread(client.assistants.search, limit=10)
            graph = await asyncio.to_thread(client.assistants.get_graph, "chat")
        assert {one["graph_id"] for one in found} == {"chat", "echo", "another"}
        assert graph == await served.client.assistants.get_graph("chat")
