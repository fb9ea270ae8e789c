"""LangGraph's client without an address: `get_client()` in code that the server runs asks that server, if there is one."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, override

import httpx
import langgraph_sdk._async.client
import langgraph_sdk._shared.utilities
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_client
from tests.integration.server.asking_graphs import COUNT, KEYS, NONE, OTHER, Said, client_of, early, graph_of
from tests.integration.server.test_server_fleet import fleet_on

from trackside import RunSpec, RunStatus
from trackside.app.settings import AccessSettings, Settings
from trackside.app.wiring import App, open_app
from trackside.app.wiring.errors import AddressNeededError

type ServeAgents = Callable[..., Any]


@pytest.mark.parametrize("access", [NONE, KEYS], ids=["open", "keys"])
async def test_a_node_asks_its_own_server(serve_agents: ServeAgents, access: AccessSettings) -> None:
    async def ask(state: Said) -> Said:
        said: list[Any] = []
        for client in (early, get_client()):
            thread_id = (await client.threads.create())["thread_id"]
            run = await client.runs.create(thread_id, "other", input={"said": 1})
            said.append(await client.runs.join(thread_id, run["run_id"]))
            said.append(await client.runs.wait(thread_id, "other", input={"said": 2}))
            said.append((await client.threads.get_state(thread_id))["values"])
            said.append([part.event async for part in client.runs.stream(None, "other", input={"said": 3})])
        remote = RemoteGraph("other", client=get_client())
        return {"said": [*said, await remote.ainvoke({"said": 4})]}

    agents = {"ask": graph_of(ask), "other": OTHER}
    async with serve_agents(agents, access=access) as served, client_of(served, "ada") as client:
        values = await client.runs.wait(None, "ask", input={})
        runs = await served.app.store.runs(agent="other")

    once = [{"said": "other: 1"}, {"said": "other: 2"}, {"said": "other: 2"}, ["metadata", "values", "values", "end"]]
    assert values == {"said": [*once, *once, {"said": "other: 4"}]}
    assert {run.status for run in runs} == {RunStatus.success}


async def test_a_run_that_waits_for_another_does_not_keep_the_place_that_it_needs(serve_agents: ServeAgents) -> None:
    async def ask(state: Said) -> Said:
        values = await early.runs.wait(None, "other", input={"said": 1})
        return {"said": [values, [part.event async for part in early.runs.stream(None, "other", input={"said": 2})]]}

    async with serve_agents({"ask": graph_of(ask), "other": OTHER}, max_running=1) as served:
        said = (await served.client.runs.wait(None, "ask", input={}))["said"]

    assert said == [{"said": "other: 1"}, ["metadata", "values", "values", "end"]]


@pytest.mark.parametrize("how", ["wait", "stream", "join", "join_stream"])
async def test_a_node_that_waits_for_a_run_behind_its_own_hears_that_this_would_be_for_ever(
    serve_agents: ServeAgents, how: str
) -> None:
    async def ask(state: Said, config: RunnableConfig) -> Said:
        thread_id, asked = config["configurable"]["thread_id"], early.runs
        run = await asked.create(thread_id, "other", input={"said": 1})
        with pytest.raises(httpx.HTTPStatusError) as refused:
            match how:
                case "wait":
                    await asked.wait(thread_id, "other", input={"said": 2})
                case "join":
                    await asked.join(thread_id, run["run_id"])
                case "stream":
                    [part async for part in asked.stream(thread_id, "other", input={"said": 2})]
                case "join_stream":
                    [part async for part in asked.join_stream(thread_id, run["run_id"])]
        return {"said": refused.value.response.json()["code"]}

    async with serve_agents({"ask": graph_of(ask), "other": OTHER}) as served:
        assert await served.client.runs.wait(None, "ask", input={}) == {"said": "waits-for-itself"}


async def test_a_node_in_a_thread_asks_on_a_loop_of_its_own(serve_agents: ServeAgents) -> None:
    async def ask() -> Any:
        return await early.runs.wait(None, "other", input={"said": 1}), await get_client().threads.count()

    agents = {"ask": graph_of(lambda state: {"said": asyncio.run(ask())}), "other": OTHER}
    async with serve_agents(agents) as served:
        assert await served.client.runs.wait(None, "ask", input={}) == {"said": [{"said": "other: 1"}, 1]}


async def test_a_run_that_is_started_and_not_waited_for_stands_by_itself(serve_agents: ServeAgents) -> None:
    async def start(state: Said) -> Said:
        client = get_client()
        await client.runs.create(None, "other", input={}, on_completion="keep")
        await client.runs.wait(None, "count", input={}, on_completion="keep")
        return {}

    agents = {"start": graph_of(start), "other": OTHER, "count": COUNT}
    async with serve_agents(agents) as served:
        run = await served.client.runs.create(None, "start", input={}, on_completion="keep")
        await served.client.runs.join(run["thread_id"], run["run_id"])
        (other,), (waited,) = [await served.app.store.runs(agent=name) for name in ("other", "count")]

    assert other.parent_run_id is None
    assert waited.parent_run_id == run["run_id"]


async def test_where_no_server_answers_the_run_says_what_to_do(database_url: str) -> None:
    async with open_app(Settings(database_url=database_url), {"count": COUNT}) as app:
        result = await (await app.manager.start(RunSpec("count", {}))).result()

    assert result.status is RunStatus.error
    assert "no server answers in this process" in str(result.error)
    assert "get_client(url=" in str(result.error)


async def leave_waiting(settings: Settings, agents: dict[str, Any], *names: str) -> None:
    """Runs of these agents, each on a thread of its own, which the next process takes over."""
    begun = asyncio.Queue[None]()

    async def stay(input: Any) -> None:
        begun.put_nowait(None)
        await asyncio.Event().wait()

    async with open_app(settings, {**agents, "stay": stay}) as app:
        for name in names:
            before = await app.manager.start(RunSpec("stay"))
            await begun.get()
            await app.manager.start(RunSpec(name, thread_id=before.thread_id))


class Heard(logging.Handler):
    """What the log says, as it comes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._said = asyncio.Queue[str]()

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self._loop.call_soon_threadsafe(self._said.put_nowait, record.getMessage())

    async def until(self, words: str) -> None:
        while words not in await self._said.get():
            pass


@pytest.fixture
async def heard(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Heard]:
    logger, heard = logging.getLogger("trackside.server"), Heard(asyncio.get_running_loop())
    caplog.set_level(logging.INFO, logger.name)
    logger.addHandler(heard)
    yield heard
    logger.removeHandler(heard)


async def test_a_run_that_is_taken_over_waits_until_its_server_answers(database_url: str, heard: Heard) -> None:
    counted = asyncio.Queue[int]()

    async def ask(input: Any) -> None:
        counted.put_nowait(await early.threads.count())

    async def ask_on_its_own_loop() -> int:
        return await get_client().threads.count()

    async def ask_elsewhere(input: Any) -> None:
        counted.put_nowait(await asyncio.to_thread(asyncio.run, ask_on_its_own_loop()))

    async def have_another_ask(input: Any) -> None:
        await (await (await opened).manager.start(RunSpec("ask"))).result()

    opened: asyncio.Future[App] = asyncio.get_running_loop().create_future()
    agents = {"ask": ask, "ask-elsewhere": ask_elsewhere, "have-another-ask": have_another_ask}
    settings = Settings(database_url=database_url, shutdown_grace=0.0)
    await leave_waiting(settings, agents, *agents)
    async with open_app(settings, agents) as app:
        opened.set_result(app)
        for _ in agents:
            await heard.until("asks the server of this process, and waits until it answers")
        assert app.asgi is not None
        assert [await counted.get() for _ in agents] == [4, 4, 4]


async def test_nobody_waits_for_a_server_whose_app_has_been_closed(database_url: str, heard: Heard) -> None:
    left: list[asyncio.Task[int]] = []

    async def ask(input: Any) -> None:
        left.append(asyncio.create_task(early.threads.count()))
        await asyncio.wait(left)

    settings = Settings(database_url=database_url, shutdown_grace=0.0)
    await leave_waiting(settings, {"ask": ask}, "ask")
    async with open_app(settings, {"ask": ask}):
        await heard.until("asks the server of this process, and waits until it answers")
    (ended,) = await asyncio.gather(*left, return_exceptions=True)

    assert isinstance(ended, AddressNeededError)
    assert "has ended before it answered anything" in str(ended)


async def test_a_run_on_a_worker_says_so_too_though_a_server_is_near_that_asks_nobody(postgres_url: str) -> None:
    async with fleet_on(postgres_url, {"count": COUNT}, {"count": COUNT}) as (_, http, _):
        values = (await http.post("/runs/wait", json={"assistant_id": "count", "input": {}}, timeout=30)).json()

    assert values["__error__"]["error"] == "AddressNeededError"
    assert "as in a worker of a fleet" in values["__error__"]["message"]


async def test_each_run_asks_the_app_that_it_is_a_run_of(database_url: str, tmp_path: Path) -> None:
    second = Settings(database_url=f"sqlite:///{tmp_path / 'second.db'}")
    async with (
        open_app(Settings(database_url=database_url), {"count": COUNT}) as one,
        open_app(second, {"count": COUNT}) as two,
        httpx.AsyncClient(transport=httpx.ASGITransport(app=one.asgi), base_url="http://localhost") as first,
        httpx.AsyncClient(transport=httpx.ASGITransport(app=two.asgi), base_url="http://localhost") as other,
    ):
        for http, threads in ((first, 2), (other, 1)):
            for _ in range(threads):
                await http.post("/threads", json={})
        seen = [
            (await http.post("/runs/wait", json={"assistant_id": "count", "input": {}})).json()
            for http in (first, other)
        ]

    assert seen == [{"said": 3}, {"said": 2}]


async def test_what_was_taken_over_of_the_sdk_is_given_back_with_the_last_app(database_url: str) -> None:
    modules = langgraph_sdk._shared.utilities, langgraph_sdk._async.client
    before = [module._registered_transports for module in modules]
    known = list(before[0])
    settings = Settings(database_url=database_url)
    async with open_app(settings, {"count": COUNT}) as app:
        assert app.asgi is not None
        async with open_app(settings, {"count": COUNT}):
            pass
        made = [get_client() for _ in range(3)]
        assert [await client.threads.count() for client in (early, *made)] == [0, 0, 0, 0]
        assert before[0] == known  # else each client that a node makes would stay
        assert os.environ["__LANGGRAPH_DEFER_LOOPBACK_TRANSPORT"] == "true"

    assert [module._registered_transports for module in modules] == before
    assert all("handle_async_request" not in vars(transport) for transport in known)
    assert "__LANGGRAPH_DEFER_LOOPBACK_TRANSPORT" not in os.environ
    with pytest.raises(AddressNeededError):
        await made[0].threads.count()
    async with open_app(settings, {"count": COUNT}) as app:
        assert app.asgi is not None
        assert [await client.threads.count() for client in (early, made[0])] == [0, 0]
