"""A thread is busy from the creation of its run, whether the run has begun or has no place yet."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph_sdk.errors import ConflictError


async def test_a_thread_is_busy_before_its_run_has_a_place(serve_agents: Any) -> None:
    go_on = asyncio.Event()

    async def waits(input: Any) -> dict[str, Any]:
        await go_on.wait()
        return {"done": True}

    async with serve_agents({"waits": waits}, max_running=1) as served:
        threads, runs = served.client.threads, served.client.runs
        first, second = [await threads.create() for _ in range(2)]
        begun = await runs.create(first["thread_id"], "waits", input={})
        queued = await runs.create(second["thread_id"], "waits", input={})

        seen = await threads.get(second["thread_id"])
        listed = {thread["thread_id"]: thread["status"] for thread in await threads.search()}
        found = {said: [one["thread_id"] for one in await threads.search(status=said)] for said in ("busy", "idle")}
        counted = [await threads.count(status=said) for said in ("busy", "idle")]
        with pytest.raises(ConflictError, match=queued["run_id"]):
            await threads.update_state(second["thread_id"], {"a": 1})
        status = (await runs.get(second["thread_id"], queued["run_id"]))["status"]
        go_on.set()
        for run in (begun, queued):
            await runs.join(run["thread_id"], run["run_id"])
        after = await threads.get(second["thread_id"])

    assert (status, seen["status"], after["status"]) == ("pending", "busy", "idle")
    assert set(listed.values()) == {"busy"}
    assert ({*found["busy"]}, found["idle"], counted) == ({first["thread_id"], second["thread_id"]}, [], [2, 0])


async def test_a_run_that_is_to_begin_later_keeps_nobody_from_its_thread(serve_agents: Any) -> None:
    async def echo(input: Any) -> Any:
        return input

    async with serve_agents({"echo": echo}) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = (await threads.create(graph_id="echo"))["thread_id"]
        later = await runs.create(thread_id, "echo", input={}, after_seconds=3_600)
        (found,) = await threads.search(status="idle")
        assert (found["thread_id"], found["status"], await threads.count(status="busy")) == (thread_id, "idle", 0)
        await threads.update_state(thread_id, {"a": 1})
        assert (await threads.get_state(thread_id))["values"] == {"a": 1}
        await runs.cancel(thread_id, later["run_id"], wait=True)


async def test_a_thread_that_is_changed_before_a_later_run_waits_for_nobody(serve_agents: Any) -> None:
    async def echo(input: Any) -> Any:
        return input

    async with serve_agents({"echo": echo}) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = (await threads.create(graph_id="echo"))["thread_id"]
        later = await runs.create(thread_id, "echo", input={}, after_seconds=3_600)
        await threads.update_state(thread_id, {"a": 1})
        changed, waiting = await threads.get(thread_id), await threads.search(status="interrupted")
        await runs.cancel(thread_id, later["run_id"], wait=True)
        cancelled = await threads.get(thread_id)

    assert (changed["status"], waiting, cancelled["status"]) == ("idle", [], "idle")


@pytest.mark.parametrize(
    ("strategy", "seen"), [("interrupt", ["interrupted", "interrupted", "pending"]), ("rollback", ["pending"])]
)
async def test_of_runs_that_are_to_begin_later_the_last_one_is_left(
    serve_agents: Any, strategy: Any, seen: list[str]
) -> None:
    async def echo(input: Any) -> Any:
        return input

    async with serve_agents({"echo": echo}) as served:
        runs = served.client.runs
        thread_id = (await served.client.threads.create())["thread_id"]
        asked: Any = {"input": {}, "after_seconds": 3_600, "multitask_strategy": strategy}
        first, second, third = [await runs.create(thread_id, "echo", **asked) for _ in range(3)]
        for displaced in (first, second):
            await until_left(served, displaced["run_id"])
        listed = await runs.list(thread_id)
        message = await runs.create(thread_id, "echo", input={"a": 1}, multitask_strategy=strategy)
        said = await runs.join(thread_id, message["run_id"])
        await until_left(served, third["run_id"])
        after = await runs.list(thread_id, status="pending")

    assert (listed[0]["run_id"], sorted(run["status"] for run in listed)) == (third["run_id"], seen)
    assert (said, after) == ({"a": 1}, [])


async def test_a_run_that_is_to_begin_later_displaces_nobody_before(serve_agents: Any) -> None:
    go_on = asyncio.Event()

    async def waits(input: Any) -> Any:
        await go_on.wait()
        return input

    async with serve_agents({"waits": waits}) as served:
        runs = served.client.runs
        thread_id = (await served.client.threads.create())["thread_id"]
        active, waiting = [await runs.create(thread_id, "waits", input={"n": n}) for n in range(2)]
        await runs.create(thread_id, "waits", input={}, after_seconds=3_600, multitask_strategy="rollback")
        message = await runs.create(thread_id, "waits", input={"n": 2}, multitask_strategy="enqueue")
        with pytest.raises(ConflictError):
            await runs.create(thread_id, "waits", input={}, multitask_strategy="reject")
        go_on.set()
        said = [await runs.join(thread_id, run["run_id"]) for run in (active, waiting, message)]
        refused_by_none = await runs.wait(thread_id, "waits", input={"n": 3}, multitask_strategy="reject")
        left = await runs.list(thread_id, status="pending")

    assert [*said, refused_by_none] == [{"n": n} for n in range(4)]
    assert len(left) == 1


async def until_left(served: Any, run_id: str) -> None:
    """Wait for a run's end, which is written a moment after the run had to make room."""
    async for _ in served.app.store.follow(run_id=run_id, types=["run_cancelled"]):
        return
