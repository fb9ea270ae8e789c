"""Runs that are repeated over HTTP: with the same request, by anybody who may start runs on their threads."""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict

import httpx
import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from tests.integration.server.endpoint_walk import keys_of

from trackside.app.settings import AccessSettings
from trackside.harness import RunContext
from trackside.harness.ids import new_id

NOWHERE = "00000000-0000-4000-8000-000000000000"


class Mending:
    """An agent that fails until it is mended, and says for whom it works."""

    def __init__(self) -> None:
        self.mended = False
        self.waits = asyncio.Event()

    async def __call__(self, input: Any, run: RunContext) -> Any:
        if input == "wait":
            await self.waits.wait()
        if not self.mended:
            raise ValueError("not yet")
        user = ((run.config or {}).get("configurable") or {}).get("langgraph_auth_user_id")
        return {"input": input, "user": user, "attempt": run.attempt}


class Said(TypedDict, total=False):
    said: str


def asking_twice() -> Any:
    """A graph that asks twice in one node."""

    def ask(state: Said) -> Said:
        return {"said": f"{interrupt('one?')} {interrupt('two?')}"}

    return StateGraph(Said).add_node("ask", ask).add_edge(START, "ask").compile()


async def failed_run(http: httpx.AsyncClient, **asked: Any) -> dict[str, Any]:
    thread = (await http.post("/threads", json={})).json()["thread_id"]
    run = (await http.post(f"/threads/{thread}/runs", json={"assistant_id": "a"} | asked)).json()
    await http.get(f"/threads/{thread}/runs/{run['run_id']}/join")
    return dict(run)


async def result_of(http: httpx.AsyncClient, run_id: str) -> Any:
    return (await http.get(f"/runs/{run_id}/join")).json()


async def test_a_run_is_done_once_more_with_all_that_it_was_asked_for(serve_agents: Any) -> None:
    agent = Mending()
    async with serve_agents({"a": agent}) as served, httpx.AsyncClient(base_url=served.url) as http:
        first = await failed_run(http, input={"n": 1}, metadata={"ticket": "T-1"}, stream_mode=["updates"])
        again = await http.post(f"/runs/{first['run_id']}/retry")
        await result_of(http, again.json()["run_id"])
        agent.mended = True
        third = (await http.post(f"/runs/{again.json()['run_id']}/retry", headers={"Idempotency-Key": "k"})).json()
        same = (await http.post(f"/runs/{again.json()['run_id']}/retry", headers={"Idempotency-Key": "k"})).json()
        other = await http.post(f"/runs/{first['run_id']}/retry", headers={"Idempotency-Key": "k"})
        result = await result_of(http, third["run_id"])
        shown = (await http.get(f"/runs/{third['run_id']}")).json()
        before = (await http.get(f"/runs/{first['run_id']}")).json()
        little = await http.post(f"/runs/{first['run_id']}/retry", headers={"Prefer": "return=minimal"})

    assert again.headers["Content-Location"].endswith(again.json()["run_id"])
    assert result == {"input": {"n": 1}, "user": None, "attempt": 3}
    assert third["run_id"] == same["run_id"]
    assert other.status_code == 422
    assert (shown["thread_id"], shown["attempt"], shown["retry_of"]) == (
        first["thread_id"],
        3,
        again.json()["run_id"],
    )
    assert shown["metadata"] == {"ticket": "T-1"}
    assert shown["request"]["stream_mode"] == ["updates"]
    assert again.json()["run_id"] in before["retries"]
    assert little.status_code == 204


async def test_several_runs_are_done_once_more_and_one_that_fails_holds_up_no_other(serve_agents: Any) -> None:
    agent = Mending()
    async with serve_agents({"a": agent}) as served, httpx.AsyncClient(base_url=served.url) as http:
        first, second = await failed_run(http, input=1), await failed_run(http, input=2)
        alone = await http.post("/runs/wait", json={"assistant_id": "a", "input": 3})
        run_alone = alone.headers["Content-Location"].rpartition("/")[2]
        thread = (await http.post("/threads", json={})).json()["thread_id"]
        going = (await http.post(f"/threads/{thread}/runs", json={"assistant_id": "a", "input": "wait"})).json()
        agent.mended = True
        ids = [first["run_id"], going["run_id"], NOWHERE, second["run_id"], run_alone, first["run_id"]]
        answer = (await http.post("/runs/retry", json={"run_ids": ids})).json()
        results = [(await result_of(http, one["new_run_id"]))["input"] for one in answer if one["new_run_id"]]
        agent.waits.set()
        refused = [
            (await http.post("/runs/retry", json=body)).status_code
            for body in ({"run_ids": []}, {"run_ids": ["x"]}, {"run_ids": None}, {})
        ]
        unended = await http.post(f"/runs/{NOWHERE}/retry")

    assert [one["run_id"] for one in answer] == ids[:-1]
    assert results == [1, 2, 3]
    assert "has not ended" in answer[1]["error"]
    assert NOWHERE in answer[2]["error"]
    assert refused == [422] * 4
    assert unended.status_code == 404


async def test_retries_that_are_asked_for_again_find_their_runs(serve_agents: Any) -> None:
    agent = Mending()
    key = {"Idempotency-Key": "k"}
    async with serve_agents({"a": agent}) as served, httpx.AsyncClient(base_url=served.url) as http:
        kept = (await failed_run(http, input=1))["run_id"]
        alone = await http.post("/runs/wait", json={"assistant_id": "a", "input": 2})
        gone = alone.headers["Content-Location"].rpartition("/")[2]
        agent.mended = True
        many = [(await http.post("/runs/retry", json={"run_ids": [kept, gone]}, headers=key)).json() for _ in range(2)]
        one = [(await http.post(f"/runs/{gone}/retry", headers=key)).json()["run_id"] for _ in range(2)]
        others = (await http.post("/runs/retry", json={"run_ids": [kept, gone]})).json()
        refused = (
            await http.post("/runs/retry", json={"run_ids": [kept]}, headers={"Idempotency-Key": "k" * 255})
        ).json()

    assert many[0] == many[1]
    assert one[0] == one[1]
    assert len({run["new_run_id"] for run in [*many[0], *others]} | {*one}) == 5
    assert "printable" in refused[0]["error"]


async def test_an_answer_is_given_once_more_to_no_other_question(serve_agents: Any) -> None:
    async def deletes(input: Any, run: RunContext) -> str:
        if (target := (input or {}).get("delete")) is not None:
            run.interrupt(f"Delete {target}?")
        if run.attempt == 1 and target == "staging":
            raise LookupError("away")
        return "deleted"

    agents = {"deletes": deletes, "graph": asking_twice()}
    async with serve_agents(agents) as served, httpx.AsyncClient(base_url=served.url) as http:
        runs, key = served.client.runs, {"Idempotency-Key": "k"}
        thread_id = new_id()
        await runs.wait(thread_id, "deletes", input={"delete": "staging"}, if_not_exists="create")
        failed = await runs.create(thread_id, "deletes", command={"resume": True})
        await runs.join(thread_id, failed["run_id"])
        await runs.wait(thread_id, "deletes", input={"delete": "production"})
        several = (await http.post("/runs/retry", json={"run_ids": [failed["run_id"]]})).json()
        one = await http.post(f"/runs/{failed['run_id']}/retry", headers=key)
        state = await served.client.threads.get_state(thread_id)

        in_a_graph = new_id()
        await runs.wait(in_a_graph, "graph", input={}, if_not_exists="create")
        asked = await runs.create(in_a_graph, "graph", command={"resume": True})
        await runs.join(in_a_graph, asked["run_id"])
        of_graph = await http.post(f"/runs/{asked['run_id']}/retry")

    assert (one.status_code, one.json()["code"]) == (409, "asked-since")
    assert several == [{"run_id": failed["run_id"], "new_run_id": None, "error": one.json()["detail"]}]
    assert [each["value"] for each in state["interrupts"]] == ["Delete production?"]
    assert (of_graph.status_code, of_graph.json()["code"]) == (409, "asked-since")


@pytest.mark.parametrize("asks", [False, True], ids=["at a stop", "at a question"])
async def test_what_was_refused_lets_no_graph_go_on_past_its_next_stop_when_it_is_done_once_more(
    serve_agents: Any, asks: bool
) -> None:
    executed: list[str] = []
    busy, free = asyncio.Event(), asyncio.Event()

    async def check(state: Said) -> Said:
        if asks:
            interrupt("check?")
        busy.set()
        await free.wait()
        executed.append("check")
        return {"said": "checked"}

    async def pay(state: Said) -> Said:
        executed.append("pay")
        return {"said": "paid"}

    builder = StateGraph(Said).add_sequence([("check", check), ("pay", pay)]).add_edge(START, "check")
    graph = builder.compile(interrupt_before=["pay"] if asks else ["check", "pay"])
    async with serve_agents({"graph": graph}) as served, httpx.AsyncClient(base_url=served.url) as http:
        runs, thread_id = served.client.runs, new_id()
        await runs.wait(thread_id, "graph", input={}, if_not_exists="create")
        clicked = [(await runs.create(thread_id, "graph", command={"resume": True}))["run_id"] for _ in range(2)]
        await busy.wait()
        free.set()
        for run_id in clicked:
            await runs.join(thread_id, run_id)
        again = (await http.post(f"/runs/{clicked[1]}/retry")).json()["run_id"]
        await runs.join(thread_id, again)
        ends = [(await runs.get(thread_id, run_id))["status"] for run_id in [*clicked, again]]
        state = await served.client.threads.get_state(thread_id)

    assert ends == ["success", "error", "error"]
    assert (state["next"], executed) == (["pay"], ["check"])


async def test_a_retry_that_asks_is_found_again_by_its_key(serve_agents: Any) -> None:
    async def asks(input: Any, run: RunContext) -> str:
        run.interrupt("first?")
        if run.attempt == 1:
            raise LookupError("away")
        return str(run.interrupt("second?"))

    async with serve_agents({"asks": asks}) as served, httpx.AsyncClient(base_url=served.url) as http:
        runs, thread_id = served.client.runs, new_id()
        await runs.wait(thread_id, "asks", input={}, if_not_exists="create")
        failed = await runs.create(thread_id, "asks", command={"resume": True})
        await runs.join(thread_id, failed["run_id"])
        again = (await http.post(f"/runs/{failed['run_id']}/retry", headers={"Idempotency-Key": "k"})).json()
        await runs.join(thread_id, again["run_id"])
        same = (await http.post(f"/runs/{failed['run_id']}/retry", headers={"Idempotency-Key": "k"})).json()
        other = await http.post(f"/runs/{failed['run_id']}/retry", headers={"Idempotency-Key": "l"})

    assert same["run_id"] == again["run_id"]
    assert (other.status_code, other.json()["code"]) == (409, "asked-since")


async def test_an_admin_does_it_for_who_had_asked_and_nobody_else_does_it_at_all(serve_agents: Any) -> None:
    agent = Mending()
    async with serve_agents({"a": agent}, access=AccessSettings(auth="keys")) as served:
        keys = await keys_of(served.app.store.api_keys)
        clients = {
            name: httpx.AsyncClient(base_url=served.url, headers={"x-api-key": key}) for name, key in keys.items()
        }
        run = await failed_run(clients["ada"], input=1)
        agent.mended = True
        strange = await clients["stranger"].post(f"/runs/{run['run_id']}/retry")
        many = await clients["stranger"].post("/runs/retry", json={"run_ids": [run["run_id"]]})
        reader = await clients["reader"].post(f"/runs/{run['run_id']}/retry")
        by_root = (await clients["root"].post(f"/runs/{run['run_id']}/retry")).json()
        by_ada = (await clients["ada"].post(f"/runs/{run['run_id']}/retry")).json()
        results = [await result_of(clients["ada"], one["run_id"]) for one in (by_root, by_ada)]
        for client in clients.values():
            await client.aclose()

    assert strange.status_code == 404
    assert many.json()[0]["new_run_id"] is None
    assert reader.status_code == 403
    assert [result["user"] for result in results] == ["ada", "ada"]
