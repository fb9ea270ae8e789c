"""Every way to start and look at runs, through the SDK's clients."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx
import pytest
from dialects import BOTH
from langgraph_sdk import get_sync_client
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError
from tests.integration.server.run_agents import UNKNOWN, Gate, echo, failing, gate_agent, new_thread, raw

from trackside.harness.ids import new_id

DIALECTS = BOTH


@pytest.mark.parametrize("input", [False, 0, "", []])
async def test_a_run_shows_its_input_whatever_that_is(serve_agents: Any, input: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        thread_id = await new_thread(served)
        run = await served.client.runs.create(thread_id, "echo", input=input)
        await served.client.runs.join(thread_id, run["run_id"])
        known = await served.client.runs.get(thread_id, run["run_id"])
    assert run["kwargs"]["input"] == known["kwargs"]["input"] == input


async def test_clients_learn_ids_before_anything_else_and_of_stateless_runs_no_thread(serve_agents: Any) -> None:
    created: list[Any] = []
    async with serve_agents({"echo": echo}) as served:
        runs = served.client.runs
        thread_id = await new_thread(served)
        for where in (thread_id, None):
            await runs.create(where, "echo", on_run_created=created.append)
            await runs.wait(where, "echo", on_run_created=created.append)
            async for _ in runs.stream(where, "echo", on_run_created=created.append):
                pass
    assert [meta["thread_id"] for meta in created] == [thread_id] * 3 + [None] * 3
    assert all(uuid.UUID(meta["run_id"]) for meta in created)


async def test_clients_learn_at_once_of_the_thread_that_is_kept_of_a_run_that_named_none(serve_agents: Any) -> None:
    created: list[Any] = []
    kept: Any = {"on_completion": "keep", "on_run_created": created.append}
    async with serve_agents({"echo": echo}) as served:
        runs = served.client.runs
        made = await runs.create(None, "echo", **kept)
        await runs.wait(None, "echo", **kept)
        async for _ in runs.stream(None, "echo", **kept):
            pass
        assert created[0]["thread_id"] == made["thread_id"]
        for meta in created:
            await runs.join(meta["thread_id"], meta["run_id"])
            assert (await runs.get(meta["thread_id"], meta["run_id"]))["status"] == "success"
    assert len({meta["thread_id"] for meta in created}) == 3


async def test_where_to_go_on_is_said_relative_to_the_clients_address(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        thread_id = await new_thread(served)
        base = f"/threads/{thread_id}/runs"
        wait = await raw(served, "POST", f"{base}/wait", json={"assistant_id": "echo"})
        stream = await raw(served, "POST", f"{base}/stream", json={"assistant_id": "echo", "stream_resumable": True})
        create = await raw(served, "POST", base, json={"assistant_id": "echo"})
        run_id = create.json()["run_id"]
        joined = await raw(served, "GET", f"{base}/{run_id}/stream")
        cancelled = await raw(served, "POST", f"{base}/{run_id}/cancel?wait=1")
    assert wait.headers["location"] == wait.headers["content-location"] + "/join"
    assert stream.headers["location"] == stream.headers["content-location"] + "/stream"
    assert create.headers["content-location"] == joined.headers["content-location"] == f"{base}/{run_id}"
    assert joined.headers["location"] == f"{base}/{run_id}/stream?past=0"
    assert cancelled.headers["location"] == f"{base}/{run_id}/join"
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream.headers["cache-control"] == "no-store"
    assert stream.headers["x-accel-buffering"] == "no"


async def test_runs_of_a_busy_thread_wait_their_turn_or_are_refused(serve_agents: Any) -> None:
    gate = Gate()
    async with serve_agents({"gate": gate_agent(gate), "echo": echo}) as served:
        runs = served.client.runs
        thread_id = await new_thread(served)
        await runs.create(thread_id, "gate")
        second = await runs.create(thread_id, "echo", input={"n": 2})
        assert second["status"] == "pending"
        with pytest.raises(ConflictError):
            await runs.create(thread_id, "echo", multitask_strategy="reject")
        gate.open.set()
        assert (await runs.join(thread_id, second["run_id"]))["given"] == {"n": 2}


async def test_lists_are_bare_pages_with_true_totals(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo, "failing": failing}) as served:
        client = served.client
        thread_id = await new_thread(served)
        ids = []
        for agent in ("echo", "echo", "failing", "echo", "echo"):
            run = await client.runs.create(thread_id, agent)
            await client.runs.join(thread_id, run["run_id"])
            ids.append(run["run_id"])
        newest_first = ids[::-1]
        path = f"/threads/{thread_id}/runs"
        page = await raw(served, "GET", path, params={"limit": 2, "offset": 1})
        assert [run["run_id"] for run in page.json()] == newest_first[1:3]
        assert page.headers["x-pagination-total"] == "5"
        assert page.headers["x-pagination-next"] == "3"
        last = await raw(served, "GET", path, params={"limit": 2, "offset": 3})
        assert "x-pagination-next" not in last.headers
        failed = await client.runs.list(thread_id, status="error")
        assert [run["run_id"] for run in failed] == [ids[2]]
        picked = await client.runs.list(thread_id, limit=1, select=["run_id", "status", "kwargs"])
        assert [set(run) for run in picked] == [{"run_id", "status", "kwargs"}]


async def test_a_list_says_of_each_run_the_strategy_that_the_run_itself_says(serve_agents: Any) -> None:
    nested = {"multitask": "rollback", "said": '"multitask":"reject"'}
    async with serve_agents({"echo": echo}) as served:
        runs, thread_id = served.client.runs, await new_thread(served)
        await runs.wait(thread_id, "echo", input=nested)
        for strategy in ("interrupt", "reject", "rollback", "enqueue"):
            await runs.wait(thread_id, "echo", input=nested, multitask_strategy=strategy)
        listed = await runs.list(thread_id)
        alone = [await runs.get(thread_id, run["run_id"]) for run in listed]
        picked = await runs.list(thread_id, select=["multitask_strategy"])
    strategies = ["enqueue", "rollback", "reject", "interrupt", "enqueue"]
    for shown in (listed, alone, picked):
        assert [run["multitask_strategy"] for run in shown] == strategies


async def test_runs_that_are_not_there_are_not_found_whatever_is_asked_of_them(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        runs = served.client.runs
        thread_id = await new_thread(served)
        other = await new_thread(served)
        run = await runs.create(other, "echo")
        for run_id in (UNKNOWN, run["run_id"]):
            for ask in (runs.get, runs.join, runs.cancel, runs.delete):
                with pytest.raises(httpx.HTTPStatusError) as refused:
                    await ask(thread_id, run_id)
                assert refused.value.response.status_code == 404
            with pytest.raises(NotFoundError):
                await anext(aiter(runs.join_stream(thread_id, run_id)))
            with pytest.raises(NotFoundError):
                await runs.cancel_many(thread_id=thread_id, run_ids=[run_id])
        for ask in (runs.list, lambda where: runs.create(where, "echo"), lambda where: runs.wait(where, "echo")):
            with pytest.raises(httpx.HTTPStatusError) as refused:
                await ask(UNKNOWN)
            assert refused.value.response.status_code == 404
        with pytest.raises(UnprocessableEntityError, match="UUID"):
            await runs.get(thread_id, "no-uuid")
        with pytest.raises(UnprocessableEntityError, match="nobody"):
            await runs.create(thread_id, "nobody")


async def test_a_thread_is_made_for_a_run_that_asks_for_it(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        thread_id = str(uuid.uuid4())
        await served.client.runs.wait(thread_id, "echo", if_not_exists="create")
        assert await served.app.store.thread(thread_id) is not None


async def test_the_thread_of_a_stateless_run_is_gone_with_it_unless_it_is_kept(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        runs = served.client.runs
        gone = await runs.create(None, "echo")
        kept = await runs.create(None, "echo", on_completion="keep")
        assert await runs.join(kept["thread_id"], kept["run_id"]) == {"given": None, "attempt": 1}
        assert await runs.join(gone["thread_id"], gone["run_id"]) == {"given": None, "attempt": 1}
        assert (await runs.get(kept["thread_id"], kept["run_id"]))["status"] == "success"
        with pytest.raises(NotFoundError):
            await runs.get(gone["thread_id"], gone["run_id"])
        assert await served.app.store.thread(gone["thread_id"]) is None


async def test_a_thread_that_is_not_the_run_s_own_is_not_asked_to_go_with_it(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        thread_id = await new_thread(served)
        asked = {"assistant_id": "echo", "on_completion": "delete", "if_not_exists": "create"}
        threads = [f"/threads/{where}/runs{how}" for where in (thread_id, UNKNOWN) for how in ("", "/wait", "/stream")]
        for path, body in (*((path, asked) for path in threads), ("/runs/batch", [{**asked, "thread_id": thread_id}])):
            refused = await raw(served, "POST", path, json=body)
            assert (refused.status_code, "on_completion" in refused.json()["detail"]) == (422, True)
        assert (await raw(served, "POST", threads[0], json={**asked, "on_completion": "keep"})).status_code == 200
        assert (await raw(served, "POST", "/runs/wait", json=asked)).status_code == 200


async def test_a_batch_is_started_as_a_whole_in_either_case(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        runs = await served.client.runs.create_batch(
            [
                {"assistant_id": "echo", "input": {"n": 1}},  # type: ignore[typeddict-item]  # the others are optional
                {"assistant_id": "echo", "assistantId": "echo", "input": {"n": 2}, "onCompletion": "keep"},  # type: ignore[typeddict-item,typeddict-unknown-key]
            ]
        )
        (there,) = await served.client.runs.create_batch(
            [{"assistant_id": "echo", "thread_id": runs[1]["thread_id"].upper()}]  # type: ignore[list-item,typeddict-unknown-key]
        )
        assert there["thread_id"] == runs[1]["thread_id"]
        values = [await served.client.runs.join(run["thread_id"], run["run_id"]) for run in runs]
        assert [one["given"] for one in values] == [{"n": 1}, {"n": 2}]
        before = len(await served.app.store.runs())
        with pytest.raises(UnprocessableEntityError, match="run 1 of the batch.*colour"):
            await served.client.runs.create_batch([{"assistant_id": "echo"}, {"assistant_id": "echo", "colour": 1}])  # type: ignore[list-item,typeddict-unknown-key]
        assert len(await served.app.store.runs()) == before


async def test_little_is_answered_where_little_is_wanted(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        minimal = {"Prefer": "return=minimal"}
        answer = await raw(served, "POST", "/runs", json={"assistant_id": "echo"}, headers=minimal)
        assert (answer.status_code, answer.content) == (204, b"")
        minimal = {"Prefer": "respond-async, return = minimal"}
        assert (await raw(served, "POST", "/threads", json={}, headers=minimal)).status_code == 204
        assert answer.headers["content-location"].startswith("/runs/")


async def test_a_request_that_is_made_again_finds_its_run(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        key = {"Idempotency-Key": "order-7"}
        asked = {"assistant_id": "echo", "input": {"n": 1}}
        first = (await raw(served, "POST", "/runs", json=asked, headers=key)).json()
        again = (await raw(served, "POST", "/runs", json=asked, headers=key)).json()
        assert again["run_id"] == first["run_id"]
        waited = await raw(served, "POST", "/runs/wait", json=asked, headers={"Idempotency-Key": "order-8"})
        assert (await raw(served, "POST", "/runs/wait", json=asked, headers={"Idempotency-Key": "order-8"})).json() == (
            waited.json()
        )
        stream = {"Idempotency-Key": "order-9"}
        texts = [(await raw(served, "POST", "/runs/stream", json=asked, headers=stream)).text for _ in range(2)]
        assert texts[0] == texts[1]
        other = await raw(served, "POST", "/runs", json={**asked, "input": 2}, headers=key)
        assert other.status_code == 422


@pytest.mark.parametrize("gone", ["run", "thread"])
async def test_a_request_that_is_made_again_is_told_nothing_of_what_is_gone(serve_agents: Any, gone: str) -> None:
    async with serve_agents({"failing": failing}) as served, httpx.AsyncClient(base_url=served.url) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        key, asked = {"Idempotency-Key": "k"}, {"assistant_id": "failing", "input": {"n": 1}}
        first = await http.post(f"/threads/{thread_id}/runs/wait", json=asked, headers=key)
        assert "it cannot be done" in first.text
        run_id = (await http.get(f"/threads/{thread_id}/runs")).json()[0]["run_id"]
        path = f"/threads/{thread_id}" if gone == "thread" else f"/threads/{thread_id}/runs/{run_id}"
        assert (await http.delete(path)).is_success

        for way in ("wait", "stream"):
            again = await http.post(f"/threads/{thread_id}/runs/{way}", json=asked, headers=key)
            assert (again.status_code, again.json()["code"]) == (404, "unknown-run")
        assert [run.run_id for run in await served.app.store.runs(removed=True)] == [run_id]


async def test_a_batch_that_is_asked_for_again_finds_its_runs(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        asked = [{"assistant_id": "echo", "input": {"n": number % 2}} for number in range(11)]

        async def batch(key: str, runs: Any = asked) -> httpx.Response:
            return await raw(served, "POST", "/runs/batch", json=runs, headers={"Idempotency-Key": key})

        async def ids(key: str, runs: Any = asked) -> list[str]:
            return [run["run_id"] for run in (await batch(key, runs)).json()]

        first = await ids("order")
        assert await ids("order") == first
        assert (await ids("order", asked[:3])) == first[:3]
        assert set(await ids("other")).isdisjoint(first)
        alone = await raw(served, "POST", "/runs", json=asked[0], headers={"Idempotency-Key": "order"})
        assert alone.json()["run_id"] not in first
        before = len(await served.app.store.runs(removed=True, limit=1_000))
        changed = await batch("order", [{**asked[0], "input": {"n": 7}}])
        assert (changed.status_code, "'order'" in changed.json()["detail"]) == (422, True)
        long = await batch("k" * 250)  # which is short enough for the first ten
        assert (long.status_code, "up to 249" in long.json()["detail"]) == (422, True)
        assert len(await served.app.store.runs(removed=True, limit=1_000)) == before


async def test_options_that_are_not_known_or_not_supported_are_refused_by_name(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        for option, value in {"colour": 1, "langsmith_tracer": {"project_name": "x"}, "stream_mode": "sounds"}.items():
            for path in ("/runs", "/runs/wait", "/runs/stream"):
                answer = await raw(served, "POST", path, json={"assistant_id": "echo", option: value})
                assert answer.status_code == 422
                assert option in answer.json()["detail"]
        for wrong, why in (
            ({"command": {"resumes": 1}}, "resumes"),
            ({"checkpoint": {"thread_id": new_id()}}, "another thread"),
            ({"checkpoint_id": new_id(), "config": {"configurable": "abc"}}, "config.configurable"),
        ):
            answer = await raw(served, "POST", "/runs", json={"assistant_id": "echo", **wrong})
            assert answer.status_code == 422
            assert why in answer.json()["detail"]


async def test_who_says_which_checkpoint_he_shows_gets_the_whole_run(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        asked = {"assistant_id": "echo", "input": {}, "on_completion": "keep", "stream_resumable": True}
        run = (await raw(served, "POST", "/runs", json=asked)).json()
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}/stream"
        whole = await raw(served, "GET", path)
        # So a page of `useStream` asks that is opened again.
        shown = await raw(
            served, "GET", path, params={"checkpoint_id": run["thread_id"]}, headers={"Last-Event-ID": "-1"}
        )
        assert shown.status_code == 200
        assert "event: end" in shown.text
        assert shown.text == whole.text


async def test_feedback_keys_are_given_back(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:
        thread_id = await new_thread(served)
        asked = {"assistant_id": "echo", "feedback_keys": ["liked"]}
        run = (await raw(served, "POST", f"/threads/{thread_id}/runs", json=asked)).json()
        again = (await raw(served, "GET", f"/threads/{thread_id}/runs/{run['run_id']}")).json()
        assert [one["kwargs"]["feedback_keys"] for one in (run, again)] == [["liked"]] * 2


async def test_a_client_that_does_not_wait_on_events_works_as_well(serve_agents: Any) -> None:
    async with serve_agents({"echo": echo}) as served:

        def use() -> Any:
            with get_sync_client(url=served.url, api_key=None) as client:
                thread_id = str(uuid.uuid4())
                client.runs.wait(thread_id, "echo", if_not_exists="create")
                run = client.runs.create(thread_id, "echo", input={"n": 1})
                joined = client.runs.join(thread_id, run["run_id"])
                events = [part.event for part in client.runs.stream(thread_id, "echo", stream_mode=["values"])]
                client.runs.cancel(thread_id, run["run_id"], wait=True)
                listed = client.runs.list(thread_id)
                client.runs.delete(thread_id, run["run_id"])
                batch = client.runs.create_batch([{"assistant_id": "echo"}])  # type: ignore[typeddict-item]
                return joined, events, len(listed), len(batch), client.runs.wait(None, "echo")

        joined, events, listed, batch, waited = await asyncio.to_thread(use)
    assert joined == {"given": {"n": 1}, "attempt": 1}
    assert events == ["metadata", "values", "end"]
    assert (listed, batch) == (3, 1)
    assert waited == {"given": None, "attempt": 1}
