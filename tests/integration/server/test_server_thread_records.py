"""Threads as Trackside's own API lists them over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
from dialects import BOTH

from trackside.harness import RunContext

DIALECTS = BOTH


async def echo(input: Any) -> Any:
    return input


async def failing(input: Any) -> None:
    raise ValueError("it cannot be done")


async def asking(input: Any, run: RunContext) -> Any:
    if run.resume is None:
        run.interrupt("May I?")
    return {"said": run.resume}


AGENTS = {"echo": echo, "failing": failing, "asking": asking}


async def thread_of(http: httpx.AsyncClient, agent: str, runs: int = 1, **metadata: Any) -> str:
    thread_id: str = (await http.post("/threads", json={"metadata": metadata})).json()["thread_id"]
    for _ in range(runs):
        await http.post(f"/threads/{thread_id}/runs/wait", json={"assistant_id": agent, "input": {"a": 1}})
    return thread_id


async def test_threads_are_listed_with_what_their_runs_came_to(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url, timeout=30) as http:
        ids = [await thread_of(http, "echo", 2), await thread_of(http, "failing"), await thread_of(http, "asking")]
        bare = await thread_of(http, "echo", 0, customer="acme")
        (run, *_) = (await http.get("/runs", params={"thread_id": ids[0]})).json()
        await http.delete(f"/threads/{ids[0]}/runs/{run['run_id']}")
        found = {one["thread_id"]: one for one in (await http.get("/threads")).json()}
        waiting = (await http.get("/threads", params={"status": "interrupted"})).json()
        of_failing = (await http.get("/threads", params={"agent": "failing"})).json()
        begins = (await http.get("/threads", params={"id_prefix": ids[1]})).json()

    assert [found[one]["run_count"] for one in (*ids, bare)] == [1, 1, 1, 0]
    assert [found[one]["status"] for one in (*ids, bare)] == ["idle", "error", "interrupted", "idle"]
    assert [found[one]["last_run_status"] for one in ids[1:]] == ["error", "interrupted"]
    assert found[ids[1]]["last_error"] == "it cannot be done"
    assert found[bare]["metadata"] == {"customer": "acme"}
    assert found[bare]["last_run_status"] is None
    assert [one["thread_id"] for one in waiting] == [ids[2]]
    assert [one["thread_id"] for one in of_failing] == [one["thread_id"] for one in begins] == [ids[1]]


async def test_a_deleted_run_says_nothing_of_its_thread_any_more(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url, timeout=30) as http:
        thread_id = await thread_of(http, "echo", 0)
        asked = {"assistant_id": "failing", "input": {}, "config": {"configurable": {"who": "ada"}}}
        await http.post(f"/threads/{thread_id}/runs/wait", json=asked)
        seen = (await http.get(f"/threads/{thread_id}")).json()
        (run,) = (await http.get("/runs", params={"thread_id": thread_id})).json()
        await http.delete(f"/threads/{thread_id}/runs/{run['run_id']}")
        shown = (await http.get(f"/threads/{thread_id}")).json()
        (found,) = (await http.post("/threads/search", json={})).json()
        (listed,) = (await http.get("/threads")).json()
        (failure,) = (await http.get("/stats/failures")).json()
        await http.delete(f"/threads/{thread_id}")
        (gone,) = (await http.get("/threads", params={"removed": True})).json()

    assert seen["error"]["message"] == "it cannot be done"
    assert seen["config"]["configurable"]["who"] == "ada"
    for thread in (shown, found):
        assert thread["status"] == "error"
        assert "it cannot be done" not in str(thread)
        assert "ada" not in str(thread["config"])
    assert [listed[key] for key in ("run_count", "last_run_id", "last_run_status", "last_error")] == [
        0,
        None,
        None,
        None,
    ]
    assert (failure["error_type"], failure["error"], failure["count"]) == ("ValueError", None, 1)
    assert (gone["last_run_id"], gone["last_error"]) == (run["run_id"], "it cannot be done")


async def test_threads_are_counted_as_they_are_found_also_by_their_ids(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url, timeout=30) as http:
        ids = [await thread_of(http, "echo", 0, customer=name) for name in ("acme", "acme", "globex")]
        for asked, fit in (
            ({"ids": ids[1:]}, 2),
            ({"ids": ids[1:], "metadata": {"customer": "acme"}}, 1),
            ({"ids": []}, 3),
            ({"metadata": {"customer": "acme"}}, 2),
        ):
            assert (await http.post("/threads/count", json=asked)).json() == fit
            assert len((await http.post("/threads/search", json=asked)).json()) == fit
        assert (await http.post("/threads/count", json={"ids": ["x"]})).status_code == 422


async def test_pages_of_threads_follow_one_another_both_ways_and_with_metadata(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url, timeout=30) as http:
        for number in range(7):
            await thread_of(http, "echo", 0, customer="acme" if number % 2 else "globex", deep={"number": number})
        everything = (await http.get("/threads")).json()
        first = await http.get("/threads", params={"limit": 4})
        second = await http.get("/threads", params={"limit": 4, "before": first.headers["X-Pagination-Next"]})
        back = await http.get("/threads", params={"limit": 2, "after": second.json()[0]["cursor"]})
        of_globex = {"metadata": '{"customer": "globex"}', "limit": 3}
        some = await http.get("/threads", params=of_globex)
        rest = await http.get("/threads", params={**of_globex, "before": some.headers["X-Pagination-Next"]})
        deep = (await http.get("/threads", params={"metadata": '{"deep": {"number": 3}}'})).json()
        refused = [
            await http.get("/threads", params={"metadata": "{}x"}),
            await http.get("/threads", params={**of_globex, "since": "2026-01-01T00:00:00Z"}),
            await http.get("/threads", params={**of_globex, "thread_id": first.json()[0]["thread_id"]}),
            await http.get("/threads", params={**of_globex, "before": "nonsense"}),
            await http.get("/threads", params={"before": "nonsense"}),
        ]

    assert len(everything) == 7
    assert first.json() + second.json() == everything
    assert "X-Pagination-Next" not in second.headers
    assert back.json() == everything[2:4]
    assert [len(page.json()) for page in (some, rest)] == [3, 1]
    assert "X-Pagination-Next" not in rest.headers
    assert {one["metadata"]["customer"] for one in some.json() + rest.json()} == {"globex"}
    assert [one["metadata"]["deep"]["number"] for one in deep] == [3]
    assert [answer.status_code for answer in refused] == [422] * 5


async def test_removed_threads_are_not_asked_for_by_metadata(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url, timeout=30) as http:
        await http.delete("/threads/" + await thread_of(http, "echo", 1, team="a"))
        for asked, status in (({}, 200), ({"removed": "false"}, 200), ({"removed": "true"}, 422)):
            answer = await http.get("/threads", params={"metadata": '{"team": "a"}', **asked})
            assert answer.status_code == status
        assert "removed cannot be asked for together with metadata" in answer.text
        assert len((await http.get("/threads", params={"removed": "true"})).json()) == 1
