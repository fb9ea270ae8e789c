"""Every way to stop runs and to remove them, through the SDK's clients."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph_sdk.errors import ConflictError, NotFoundError
from tests.integration.server.run_agents import Gate, echo, gate_agent, new_thread, parts_of, raw


async def test_a_run_that_interrupts_takes_the_place_of_the_active_one(serve_agents: Any) -> None:
    gate = Gate()
    async with serve_agents({"gate": gate_agent(gate), "echo": echo}) as served:
        runs = served.client.runs
        thread_id = await new_thread(served)
        first = await runs.create(thread_id, "gate")
        await gate.started.wait()
        values = await runs.wait(thread_id, "echo", multitask_strategy="interrupt")
        assert values["attempt"] == 1
        assert (await runs.get(thread_id, first["run_id"]))["status"] == "interrupted"


async def test_a_run_is_cancelled_once_and_asking_again_is_no_error(serve_agents: Any) -> None:
    gate = Gate()
    async with serve_agents({"gate": gate_agent(gate)}) as served:
        runs = served.client.runs
        thread_id = await new_thread(served)
        run_id = (await runs.create(thread_id, "gate"))["run_id"]
        await gate.started.wait()
        path = f"/threads/{thread_id}/runs/{run_id}/cancel"
        assert (await raw(served, "POST", path)).status_code == 202
        assert await runs.cancel(thread_id, run_id, wait=True) is None
        assert (await runs.get(thread_id, run_id))["status"] == "interrupted"
        for _ in range(2):
            await runs.cancel(thread_id, run_id)
            await runs.cancel(thread_id, run_id, wait=True)
        assert (await raw(served, "POST", path + "?wait=1")).json() is None
        assert (await raw(served, "POST", path + "?reason=taken")).status_code == 422


async def test_a_run_that_is_rolled_back_is_gone(serve_agents: Any) -> None:
    gate = Gate()
    async with serve_agents({"gate": gate_agent(gate)}) as served:
        runs = served.client.runs
        thread_id = await new_thread(served)
        run_id = (await runs.create(thread_id, "gate"))["run_id"]
        await gate.started.wait()
        await runs.cancel(thread_id, run_id, wait=True, action="rollback")
        with pytest.raises(NotFoundError):
            await runs.get(thread_id, run_id)
        assert await runs.list(thread_id) == []
        for path in ("join", "stream"):
            assert (await raw(served, "GET", f"/threads/{thread_id}/runs/{run_id}/{path}")).status_code == 404
        thread = await served.app.store.thread(thread_id)
        assert thread.status == "idle"


@pytest.mark.parametrize(("action", "status"), [("interrupt", 200), ("rollback", 404)])
async def test_a_stateless_run_that_is_rolled_back_is_gone_for_who_comes_back_to_it(
    serve_agents: Any, action: Any, status: int
) -> None:
    gate = Gate()
    async with serve_agents({"gate": gate_agent(gate)}) as served:
        run: Any = await served.client.runs.create(None, "gate")
        await gate.started.wait()
        await served.client.runs.cancel(run["thread_id"], run["run_id"], wait=True, action=action)
        for path in ("join", "stream"):
            assert (await raw(served, "GET", f"/runs/{run['run_id']}/{path}")).status_code == status, path


async def test_a_pending_run_is_cancelled_without_a_start(serve_agents: Any) -> None:
    gate = Gate()
    async with serve_agents({"gate": gate_agent(gate)}) as served:
        runs = served.client.runs
        thread_id = await new_thread(served)
        first = await runs.create(thread_id, "gate")
        waiting = await runs.create(thread_id, "gate")
        following = asyncio.create_task(parts_of(runs.join_stream(thread_id, waiting["run_id"])))
        await runs.cancel(thread_id, waiting["run_id"], wait=True)
        assert (await following)[-1][0] == "end"
        gate.open.set()
        await runs.join(thread_id, first["run_id"])
        assert (await runs.get(thread_id, waiting["run_id"]))["status"] == "interrupted"


async def test_many_runs_are_cancelled_by_id_and_by_status(serve_agents: Any) -> None:
    gate = Gate()
    async with serve_agents({"gate": gate_agent(gate)}) as served:
        client = served.client
        thread_id = await new_thread(served)
        ids = [(await client.runs.create(thread_id, "gate"))["run_id"] for _ in range(4)]
        await client.runs.cancel_many(thread_id=thread_id.upper(), run_ids=[ids[1].upper(), ids[2]])
        await client.runs.cancel_many(status="pending")
        await client.runs.cancel_many(status="all")
        for run_id in ids:
            await client.runs.join(thread_id, run_id)
        assert {run["status"] for run in await client.runs.list(thread_id)} == {"interrupted"}
        await client.runs.cancel_many(status="running")  # nobody is left
        for body in ({}, {"thread_id": thread_id}, {"run_ids": ids}, {"status": "all", "thread_id": thread_id}):
            assert (await raw(served, "POST", "/runs/cancel", json=body)).status_code == 422


@pytest.mark.parametrize(
    ("status", "became"), [("pending", ["success", "interrupted"]), ("running", ["interrupted", "success"])]
)
async def test_runs_of_one_status_are_cancelled_and_no_others(
    serve_agents: Any, status: Any, became: list[str]
) -> None:
    gate = Gate()
    async with serve_agents({"gate": gate_agent(gate)}) as served:
        runs, thread_id = served.client.runs, await new_thread(served)
        running, pending = [(await runs.create(thread_id, "gate"))["run_id"] for _ in range(2)]
        await gate.started.wait()
        await runs.cancel_many(status=status)
        gate.open.set()
        for run_id in (running, pending):
            await runs.join(thread_id, run_id)
        assert [(await runs.get(thread_id, run_id))["status"] for run_id in (running, pending)] == became


async def test_a_run_that_has_ended_can_be_removed_and_an_active_one_not(serve_agents: Any) -> None:
    gate = Gate()
    async with serve_agents({"gate": gate_agent(gate)}) as served:
        runs = served.client.runs
        thread_id = await new_thread(served)
        run_id = (await runs.create(thread_id, "gate"))["run_id"]
        await gate.started.wait()
        with pytest.raises(ConflictError):
            await runs.delete(thread_id, run_id)
        gate.open.set()
        await runs.join(thread_id, run_id)
        await runs.delete(thread_id, run_id)
        with pytest.raises(NotFoundError):
            await runs.get(thread_id, run_id)
