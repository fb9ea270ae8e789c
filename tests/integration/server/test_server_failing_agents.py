"""Agents whose own code fails when asked what a thread is, or what they are made of."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

import httpx
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph_sdk.errors import InternalServerError
from webhook_receiver import NEW, WebhookReceiver

from trackside.app.settings import ServerSettings
from trackside.harness.ids import new_id

PRIVATE = ServerSettings(private_webhooks=True, webhook_secret=NEW)


class Said(TypedDict, total=False):
    said: str


@asynccontextmanager
async def away(config: RunnableConfig) -> AsyncIterator[Any]:
    raise ConnectionError("the tools are away")
    yield


def choosing(config: RunnableConfig) -> Any:
    language = config["configurable"]["language"]  # only runs give one
    builder = StateGraph(Said).add_node("says", lambda state: {"said": f"hello in {language}"})
    return builder.add_edge(START, "says").compile()


@pytest.mark.parametrize(("agent", "status"), [("away", "error"), ("choosing", "success")])
async def test_a_receiver_is_told_the_end_of_a_run_whose_agent_cannot_say_what_its_thread_is(
    serve_agents: Any, agent: str, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "trackside.server")
    async with WebhookReceiver(NEW) as receiver, serve_agents({agent: globals()[agent]}, server=PRIVATE) as served:
        await served.client.runs.create(
            new_id(),
            agent,
            input={},
            config={"configurable": {"language": "Dutch"}},
            stream_mode="updates",
            if_not_exists="create",
            webhook=receiver.url,
        )
        await asyncio.wait_for(receiver.until(1), 30)
        told = json.loads(receiver.requests[0].body)

    assert (told["status"], told["values"]) == (status, None)
    assert "is sent without values: The agent" in caplog.text


async def test_a_thread_is_made_whose_agent_cannot_say_how_it_was_left(serve_agents: Any) -> None:
    async with serve_agents({"away": away}) as served:
        threads, thread_id = served.client.threads, new_id()
        made = await threads.create(thread_id=thread_id, graph_id="away")

    assert (made["thread_id"], made["status"], made["values"]) == (thread_id, "idle", None)


async def test_who_asks_an_agent_that_fails_learns_which_one_it_is_and_the_log_why(
    serve_agents: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve_agents({"away": away}) as served:
        client, thread_id = served.client, new_id()
        await client.threads.create(thread_id=thread_id, graph_id="away")
        steps: Any = [{"updates": [{"values": {}, "as_node": "says"}]}]
        for asking in (
            client.threads.get_state(thread_id),
            client.threads.get_history(thread_id),
            client.threads.update_state(thread_id, {"said": "this"}),
            client.threads.create(graph_id="away", supersteps=steps),
            client.assistants.get_graph("away"),
            client.assistants.get_schemas("away"),
            client.assistants.get_subgraphs("away"),
        ):
            caplog.clear()
            with pytest.raises(InternalServerError, match="the agent 'away' failed when it was asked") as refused:
                await asking
            body: Any = refused.value.body
            assert body["code"] == "agent-failed"
            assert "the tools are away" not in str(body)
            assert "ConnectionError: the tools are away" in caplog.text


@pytest.mark.parametrize("agent", ["away", "choosing"])
async def test_the_console_shows_runs_and_agents_whose_code_fails(serve_agents: Any, agent: str) -> None:
    async with serve_agents({agent: globals()[agent]}) as served, httpx.AsyncClient(base_url=served.url) as browser:
        thread = await served.client.threads.create()
        run = await served.client.runs.create(
            thread["thread_id"], agent, input={}, config={"configurable": {"language": "Dutch"}}
        )
        await served.client.runs.join(thread["thread_id"], run["run_id"])
        for path in (f"/ui/runs/{run['run_id']}", f"/ui/agents/{agent}", f"/ui/threads/{thread['thread_id']}"):
            page = await browser.get(path)
            assert (page.status_code, agent in page.text) == (200, True)


async def test_a_page_that_comes_back_to_a_thread_is_told_how_its_last_run_ended(serve_agents: Any) -> None:
    async with serve_agents({"away": away}) as served:
        thread = await served.client.threads.create()
        await served.client.runs.wait(thread["thread_id"], "away", input={}, raise_error=False)
    async with serve_agents({"away": away}) as served:
        url = f"{served.url}/threads/{thread['thread_id']}/stream/events"
        asks = {"channels": ["lifecycle", "values"]}
        said = []
        async with asyncio.timeout(20), httpx.AsyncClient() as http, http.stream("POST", url, json=asks) as answer:
            async for line in answer.aiter_lines():
                said.append(line)
                if '"failed"' in line:
                    break
    assert "ConnectionError" in said[-1] or "the tools are away" in said[-1]
