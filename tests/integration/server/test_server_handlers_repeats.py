"""Runs that are asked for once more, left alone or stopped, where authorization handlers decide."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.integration.server.handler_projects import AUTH, EACH, SHARED, refused

from trackside import RunContext


async def test_who_may_not_start_runs_on_a_thread_does_none_of_it_once_more(serve_auth: Any) -> None:
    async with serve_auth(SHARED) as place, place.clients("ada", "bob", "ada:reader") as (ada, bob, reader):
        thread_id = (await ada.threads.create())["thread_id"]
        run = await ada.runs.create(thread_id, "chat", input={"text": "a"}, metadata={"kind": "own"})
        await ada.runs.join(thread_id, run["run_id"])
        path = f"/runs/{run['run_id']}/retry"
        assert await refused(bob.http.post(path, json=None)) == 404
        assert await refused(reader.http.post(path, json=None)) == 403
        again = await ada.http.post(path, json=None)
        await ada.runs.join(thread_id, again["run_id"])
        assert again["metadata"] == {"kind": "own", "members": ["ada"]}
        (told,) = await bob.http.post("/runs/retry", json={"run_ids": [run["run_id"]]})
        assert told["new_run_id"] is None
        assert [one["run_id"] for one in await ada.runs.list(thread_id)] == [again["run_id"], run["run_id"]]


async def test_who_does_once_more_what_somebody_else_has_asked_for_does_it_in_his_own_name(serve_auth: Any) -> None:
    async def who(input: Any, run: RunContext) -> dict[str, Any]:
        return {"who": run.config["configurable"]["langgraph_auth_user_id"]}

    async with serve_auth(SHARED, who=who) as place, place.clients("ada", "eve") as (ada, eve):
        thread_id = (await ada.threads.create(metadata={"members": ["ada", "eve"]}))["thread_id"]
        run = await ada.runs.create(thread_id, "who")
        assert await ada.runs.join(thread_id, run["run_id"]) == {"who": "ada"}
        again = await eve.http.post(f"/runs/{run['run_id']}/retry", json=None)
        assert await eve.runs.join(thread_id, again["run_id"]) == {"who": "eve"}


async def test_who_may_only_look_at_a_thread_does_not_stop_a_run_by_going_away_from_it(serve_auth: Any) -> None:
    async with serve_auth(SHARED) as place, place.clients("ada") as (ada,), place.http("ada:reader") as reader:
        thread_id = (await ada.threads.create())["thread_id"]
        run_id = (await ada.runs.create(thread_id, "chat", input={"text": "a"}))["run_id"]
        await ada.runs.join(thread_id, run_id)
        for of_thread in (f"/threads/{thread_id}", ""):
            for way in ("join", "stream"):
                path = f"{of_thread}/runs/{run_id}/{way}"
                assert (await reader.get(path)).status_code == 200
                assert (await reader.get(path, params={"cancel_on_disconnect": "true"})).status_code == 403, path


@pytest.mark.parametrize("way", ["stream", "wait"])
async def test_who_may_start_and_read_comes_back_to_a_run_that_his_going_was_to_cancel(
    serve_auth: Any, way: str
) -> None:
    let_go = asyncio.Event()

    async def slow(input: Any) -> dict[str, Any]:
        await let_go.wait()
        return {"text": "done"}

    asked = {"assistant_id": "slow", "input": {}, "on_disconnect": "cancel"}
    async with serve_auth(EACH, slow=slow) as place, place.clients("ada") as (ada,), place.http("ada") as http:
        thread_id = (await ada.threads.create())["thread_id"]
        async with (
            http.stream("POST", f"/threads/{thread_id}/runs/{way}", json=asked) as first,
            http.stream("GET", first.headers["location"]) as again,
        ):
            assert (first.status_code, again.status_code) == (200, 200)
            let_go.set()
            assert "done" in (await again.aread()).decode()


async def test_a_handler_that_decides_by_run_is_told_which_one_is_wanted_once_more(serve_auth: Any) -> None:
    code = """
@auth.on.threads.read
async def of_runs(ctx, value):
    return value.get("run_id") is not None
"""
    async with serve_auth(AUTH + code) as place, place.clients("ada") as (ada,):
        thread_id = (await ada.threads.create())["thread_id"]
        run_id = (await ada.runs.create(thread_id, "chat", input={"text": "a"}))["run_id"]
        await ada.runs.join(thread_id, run_id)
        assert await refused(ada.threads.get(thread_id)) == 403
        again = await ada.http.post(f"/runs/{run_id}/retry", json=None)
        (one,) = await ada.http.post("/runs/retry", json={"run_ids": [run_id]})
        assert again["thread_id"] == thread_id
        assert one["new_run_id"] is not None


async def test_who_stops_all_runs_stops_those_of_threads_that_he_has(serve_auth: Any) -> None:
    go_on = asyncio.Event()

    async def waits(input: Any) -> None:
        await go_on.wait()

    async with serve_auth(SHARED, waits=waits) as place, place.clients("ada", "eve") as (ada, eve):
        hers, his = [await client.runs.create(None, "waits", on_completion="keep") for client in (ada, eve)]
        await eve.http.post("/runs/cancel", json={"status": "all"})
        await eve.runs.join(his["thread_id"], his["run_id"])
        go_on.set()
        await ada.runs.join(hers["thread_id"], hers["run_id"])
        assert (await eve.runs.get(his["thread_id"], his["run_id"]))["status"] == "interrupted"
        assert (await ada.runs.get(hers["thread_id"], hers["run_id"]))["status"] == "success"
