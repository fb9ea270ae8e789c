"""Two servers on one database: what those hear who wait at one server for a run that the other has executed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any, NamedTuple

import httpx
import pytest
from running_server import serving
from tests.integration.server.conftest import Served

from trackside.app.server.waiting import AT_ONCE
from trackside.app.settings import Settings
from trackside.app.storage import Store
from trackside.app.storage._coordination.recovery import Disown
from trackside.app.wiring import open_app
from trackside.harness import RunContext


class Gate:
    """An agent that goes on when its gate is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, input: Any, run: RunContext) -> Any:
        await self.open.wait()
        return input


async def echo(input: Any) -> Any:
    return input


async def until_it_has_runs(http: httpx.AsyncClient, count: int) -> list[dict[str, Any]]:
    """Wait until there are so many runs, and return them all, the newest first."""
    async with asyncio.timeout(60):
        while len(runs := (await http.get("/runs")).json()) < count:
            await asyncio.sleep(0.01)
    return list(runs)


async def take_over(run_id: str, first: Served, second: Served, *, looks: bool = False) -> None:
    """Take a run that waits at one server from it, as if that server were taken for dead, and have another adopt it.

    The first server learns of this when it `looks`, or else when the run has its turn there.
    """
    losing, winning = (served.app.manager._services.coordinator._upkeep for served in (first, second))
    losing.stop()
    await first.app.store._writer.write(Disown(owner=losing._worker_id, strangers={run_id}))
    if looks:
        await losing.look()
    await winning.clear_up()


async def until_it_has_ended(store: Store, run_id: str) -> None:
    async with asyncio.timeout(60):
        while (run := await store.run(run_id, removed=True)) is None or run.ended_at is None:
            await asyncio.sleep(0.05)


class Neighbours(NamedTuple):
    """Two servers on one database. The first executes a run that waits for the `gate`, and has no place for another."""

    first: Served
    second: Served
    http: httpx.AsyncClient
    """A client of the first."""
    gate: Gate


@pytest.fixture
async def neighbours(serve_agents: Any) -> AsyncIterator[Neighbours]:
    agents = {"gate": (gate := Gate()), "echo": echo}
    async with (
        serve_agents(agents, max_running=1) as first,
        serve_agents(agents) as second,
        httpx.AsyncClient(base_url=first.url) as http,
    ):
        await http.post("/runs", json={"assistant_id": "gate", "input": {}})
        yield Neighbours(first, second, http, gate)
        gate.open.set()


async def test_who_cancels_a_run_elsewhere_and_waits_is_not_told_that_it_has_ended_as_his_server_closes(
    database_url: str, serve_agents: Any
) -> None:
    async def stubborn(input: Any) -> None:
        while not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await let_go.wait()

    let_go = asyncio.Event()
    agents = {"stubborn": stubborn}
    async with serve_agents(agents) as first, AsyncExitStack() as in_the_end, AsyncExitStack() as open_there:
        in_the_end.callback(let_go.set)
        run = await first.client.runs.create(None, "stubborn", input={})
        second = await open_there.enter_async_context(open_app(Settings(database_url=database_url), agents))
        async with serving(second.asgi) as url, httpx.AsyncClient(base_url=url) as http:
            path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/cancel"
            async with http.stream("POST", path, params={"wait": True}) as answer:
                await open_there.aclose()
                with pytest.raises(httpx.RemoteProtocolError):  # cut off: a client that asks again is told why
                    await answer.aread()


@pytest.mark.parametrize("left", ["kept", "lingers", "gone"])
async def test_who_waits_for_a_run_that_another_server_has_ended_is_not_told_that_it_gave_nothing(
    neighbours: Neighbours, left: str
) -> None:
    first, second, http, gate = neighbours
    asked = {"assistant_id": "echo", "input": {"said": 1}, "on_completion": "keep" if left == "kept" else None}
    async with http.stream("POST", "/runs/wait", json=asked) as answer:
        (waiting, _) = await until_it_has_runs(http, 2)
        await take_over(waiting["run_id"], first, second)
        await until_it_has_ended(first.app.store, waiting["run_id"])
        if left == "gone":
            assert (await first.app.store.sweeper().sweep()).forgotten == 1
        gate.open.set()
        try:
            body = await answer.aread()
        except httpx.RemoteProtocolError:  # cut off: a client that asks again is told why
            body = None
    joined = await http.get(answer.headers["location"])

    if left == "gone":
        assert "went with its thread" in joined.json()["detail"]
        assert body is None, body
    else:
        assert joined.json() == json.loads(body or b"") == {"said": 1}


async def test_who_waits_for_a_run_that_goes_on_elsewhere_gets_what_it_gives_there_in_the_same_answer(
    neighbours: Neighbours,
) -> None:
    first, second, http, _ = neighbours
    async with http.stream("POST", "/runs/wait", json={"assistant_id": "echo", "input": {"said": 1}}) as answer:
        (waiting, _) = await until_it_has_runs(http, 2)
        await take_over(waiting["run_id"], first, second, looks=True)
        assert json.loads(await answer.aread()) == {"said": 1}


async def test_who_asks_slowly_for_what_has_gone_is_told_so_and_not_cut_off(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_agents({"echo": echo}) as first, serve_agents({"echo": echo}) as second:
        async with httpx.AsyncClient(base_url=first.url) as http:
            ended = await http.post("/runs/wait", json={"assistant_id": "echo", "input": {"said": 1}})
        assert (await first.app.store.sweeper().sweep()).forgotten == 1
        states = type(second.app.store.thread_states())
        read = states.load

        async def read_slowly(of: Any, thread_id: str) -> Any:
            await asyncio.sleep(2 * AT_ONCE)
            return await read(of, thread_id)

        monkeypatch.setattr(states, "load", read_slowly)
        async with httpx.AsyncClient(base_url=second.url) as http:
            joined = await http.get(ended.headers["location"])

    assert (joined.status_code, "went with its thread" in joined.text) == (404, True)


async def test_who_waits_for_a_run_that_has_not_begun_when_its_server_ends_is_not_kept_waiting(
    neighbours: Neighbours,
) -> None:
    first, _, http, _ = neighbours
    async with http.stream("POST", "/runs/wait", json={"assistant_id": "echo", "input": {}}) as answer:
        await until_it_has_runs(http, 2)
        await first.app.manager.aclose(grace=0)
        with pytest.raises(httpx.RemoteProtocolError):
            await asyncio.wait_for(answer.aread(), 60)
