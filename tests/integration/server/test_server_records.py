"""The records over HTTP: runs across threads, totals, agents, subscriptions, metrics."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from dialects import BOTH

from trackside.app.settings import ObserverSettings
from trackside.app.storage._reading import reads, run_search
from trackside.harness import RunContext, RunSpec

DIALECTS = BOTH


async def echo(input: Any) -> Any:
    return input


async def failing(input: Any) -> None:
    raise ValueError("it cannot be done")


AGENTS = {"echo": echo, "failing": failing}


async def two_runs(served: Any) -> None:
    await served.client.runs.wait(None, "echo", input={"a": 1}, metadata={"team": "red"}, on_completion="keep")
    await served.client.runs.wait(None, "failing", input={}, raise_error=False, on_completion="keep")


async def test_runs_of_all_threads_are_listed_newest_first_and_page_both_ways(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        await two_runs(served)
        await two_runs(served)
        everything = (await http.get("/runs")).json()
        first = await http.get("/runs", params={"limit": 3})
        second = await http.get("/runs", params={"limit": 3, "before": first.headers["X-Pagination-Next"]})
        back = await http.get("/runs", params={"limit": 2, "after": second.json()[0]["cursor"]})

    assert [run["agent"] for run in everything] == ["failing", "echo"] * 2
    assert first.json() + second.json() == everything
    assert "X-Pagination-Next" not in second.headers
    assert back.json() == everything[1:3]
    assert back.headers["X-Pagination-Next"] == everything[2]["cursor"]


async def test_runs_are_found_by_status_agent_and_metadata(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        await two_runs(served)
        for params in ({"status": ["error", "timeout"]}, {"agent": "failing"}):
            (found,) = (await http.get("/runs", params=params)).json()
            assert found["error"] == "it cannot be done"
        (red,) = (await http.get("/runs", params={"metadata": '{"team": "red"}'})).json()
        refused = await http.get("/runs", params={"metadata": '{"team": ["red"]}'})

    assert red["agent"] == "echo"
    assert refused.status_code == 422


async def test_runs_are_found_by_who_started_them(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        manager = served.app.manager
        parent = await (await manager.start(RunSpec("echo", {}))).result()
        children = [await manager.start(RunSpec("echo", {}, parent_run_id=parent.run_id)) for _ in range(3)]
        for child in children:
            await child.result()
        its = {"parent_run_id": parent.run_id}
        first = await http.get("/runs", params={**its, "limit": 2})
        second = await http.get("/runs", params={**its, "before": first.headers["X-Pagination-Next"]})
        none = await http.get("/runs", params={"parent_run_id": children[0].run_id})

    assert [run["run_id"] for run in first.json() + second.json()] == [child.run_id for child in reversed(children)]
    assert none.json() == []


async def test_runs_are_found_whose_question_is_still_open(serve_agents: Any) -> None:
    async def asks(input: Any, run: RunContext) -> Any:
        return run.interrupt("May I?")

    async with serve_agents({"asks": asks}) as served, httpx.AsyncClient(base_url=served.url) as http:
        answered, left = [(await served.client.threads.create())["thread_id"] for _ in range(2)]
        for thread in (answered, left):
            await served.client.runs.wait(thread, "asks", input={})
        both = (await http.get("/runs", params={"waiting": "true"})).json()
        await served.client.runs.wait(answered, "asks", command={"resume": True})
        open_ = (await http.get("/runs", params={"waiting": "true", "text": "asks"})).json()
        asked = (await http.get("/runs", params={"status": "interrupted"})).json()
        none = (await http.get("/runs", params={"waiting": "true", "status": "error"})).json()

    assert [run["thread_id"] for run in both] == [left, answered]
    assert [run["thread_id"] for run in open_] == [left]
    assert {run["thread_id"] for run in asked} == {answered, left}
    assert none == []


async def test_runs_are_found_by_what_they_say_and_a_search_that_is_cut_short_says_where_it_goes_on(
    serve_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_search, "LOOKED_AT", 3)
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        await two_runs(served)
        await two_runs(served)
        by_text = await http.get("/runs", params={"text": "CANNOT BE"})
        rest = await http.get("/runs", params={"text": "CANNOT be", "before": by_text.headers["X-Search-Continues"]})
        by_metadata = await http.get("/runs", params={"text": "red", "limit": 1})
        dear = await http.get("/runs", params={"min_cost": "0.5"})
        long = await http.get("/runs", params={"min_duration": "0", "limit": 2})
        refused = [await http.get("/runs", params={"min_cost": said}) for said in ("-1", "nan", "much")]

    assert [run["agent"] for run in by_text.json() + rest.json()] == ["failing", "failing"]
    assert "X-Search-Continues" not in rest.headers
    assert [run["metadata"] for run in by_metadata.json()] == [{"team": "red"}]
    assert dear.json() == []
    assert long.headers["X-Pagination-Next"] == long.json()[1]["cursor"]
    assert [answer.status_code for answer in refused] == [422] * 3


async def test_a_run_is_shown_in_full_with_what_was_asked_for(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        await two_runs(served)
        (listed,) = (await http.get("/runs?agent=echo")).json()
        shown = (await http.get(f"/runs/{listed['run_id']}")).json()
        unknown = await http.get("/runs/00000000-0000-4000-8000-000000000000")

    assert listed.items() <= shown.items()
    assert shown["request"]["input"] == {"a": 1}
    assert unknown.status_code == 404


async def test_why_runs_failed_is_ranked(serve_agents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        await two_runs(served)
        await two_runs(served)
        found = await http.get("/stats/failures")
        newest = (await http.get("/runs?agent=failing&limit=1")).json()[0]
        nobodys = await http.get("/stats/failures?agent=echo&limit=5")
        monkeypatch.setattr(reads, "MOST_FAILURES", 1)
        cut = await http.get("/stats/failures")

    assert found.json() == [
        {
            "error_type": "ValueError",
            "error": "it cannot be done",
            "status": "error",
            "agent": "failing",
            "count": 2,
            "last_at": newest["ended_at"],
            "run_id": newest["run_id"],
        }
    ]
    assert "X-Truncated" not in found.headers
    assert nobodys.json() == []
    assert cut.json()[0]["count"] == 1
    assert cut.headers["X-Truncated"] == "true"


async def test_what_goes_on_now_is_counted_by_what_it_waits_for(serve_agents: Any) -> None:
    begun, let_go = asyncio.Event(), asyncio.Event()

    async def held(input: Any) -> Any:
        begun.set()
        await let_go.wait()
        return input

    async def asks(input: Any, run: RunContext) -> Any:
        return run.interrupt("May I?")

    agents = {"held": held, "asks": asks}
    async with serve_agents(agents, max_running=1) as served, httpx.AsyncClient(base_url=served.url) as http:
        before = (await http.get("/stats/now")).json()
        await served.client.runs.wait(None, "asks", input={}, on_completion="keep")
        thread, other = [(await served.client.threads.create())["thread_id"] for _ in range(2)]
        await served.client.runs.create(thread, "held", input={})
        await begun.wait()
        await served.client.runs.create(thread, "held", input={})
        waits = await served.client.runs.create(other, "held", input={})
        await served.client.runs.create(None, "held", input={}, after_seconds=3_600)
        now = (await http.get("/stats/now")).json()
        let_go.set()

    assert before["running"] == before["waiting_for_human"] == 0
    assert before["oldest_waiting_at"] is None
    assert now == {
        "running": 1,
        "waiting_for_place": 1,
        "waiting_for_thread": 1,
        "delayed": 1,
        "stuck": 0,
        "waiting_for_human": 1,
        "oldest_waiting_at": now["oldest_waiting_at"],
        "running_by_agent": {"held": 1},
    }
    assert datetime.fromisoformat(now["oldest_waiting_at"]) == datetime.fromisoformat(waits["created_at"])


async def test_what_subscriptions_did_with_a_run_is_told(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        await http.post("/subscriptions", json={"name": "mail", "types": ["run_failed"]})
        await two_runs(served)
        failed, done = (await http.get("/runs")).json()
        told = [(await http.get(f"/runs/{run['run_id']}/deliveries")).json() for run in (failed, done)]
        unknown = await http.get("/runs/00000000-0000-4000-8000-000000000000/deliveries")

    assert told == [[{"subscription": "mail", "wanted": 1, "delivered": 0, "waiting": 1, "parked": []}], []]
    assert unknown.status_code == 404


async def test_totals_are_those_of_the_runs_in_all_and_over_time(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        await two_runs(served)
        stats = (await http.get("/stats")).json()
        since = (await http.get("/runs")).json()[-1]["created_at"]
        buckets = (await http.get("/stats/timeline", params={"since": since, "width": 60})).json()
        refused = await http.get("/stats/timeline", params={"since": since, "width": 61})

    assert stats["total"]["by_status"] == {"success": 1, "error": 1}
    assert {of["agent"]: of["total"]["runs"] for of in stats["by_agent"]} == {"echo": 1, "failing": 1}
    assert sum(bucket["total"]["runs"] for bucket in buckets) == 2
    assert refused.status_code == 422


async def test_agents_are_listed_with_the_ids_that_clients_know(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        agents = (await http.get("/agents")).json()
        values = await served.client.runs.wait(None, agents[0]["assistant_id"], input={"a": 1})

    assert [agent["name"] for agent in agents] == ["echo", "failing"]
    assert values == {"a": 1}


async def test_the_subscription_that_the_server_has_itself_is_nobody_elses_to_make(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        refused = await http.post("/subscriptions", json={"name": "run-webhooks", "types": ["run_failed"]})
        listed = await http.get("/subscriptions")

    assert refused.status_code == 422
    assert "run-webhooks is the server's own subscription" in refused.json()["detail"]
    assert listed.json() == []


async def test_a_subscription_is_made_paused_moved_and_forgotten(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        await two_runs(served)
        made = await http.post("/subscriptions", json={"name": "mail", "types": ["run_failed"]})
        again = await http.post("/subscriptions", json={"name": "mail", "types": ["run_failed"], "start": "beginning"})
        other = await http.post("/subscriptions", json={"name": "mail"})
        paused = await http.post("/subscriptions/mail/pause")
        resumed = await http.post("/subscriptions/mail/resume")
        moved = await http.post("/subscriptions/mail/seek", json={"position": "beginning"})
        too_far = await http.post("/subscriptions/mail/seek", json={"position": 1_000_000})
        listed = await http.get("/subscriptions")
        gone = await http.delete("/subscriptions/mail")
        missing = await http.get("/subscriptions/mail")

    assert made.json()["behind"] == 0
    assert again.json()["cursor"] == made.json()["cursor"]
    assert other.status_code == 409
    assert (paused.json()["state"], resumed.json()["state"]) == ("paused", "active")
    assert moved.json()["cursor"] == 0
    assert too_far.status_code == 422
    assert listed.json() == [moved.json()]
    assert (gone.status_code, gone.content) == (204, b"")
    assert missing.status_code == 404


async def test_parked_events_are_listed_retried_and_dropped(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        await two_runs(served)
        subscriptions = served.app.store.subscriptions
        await http.post("/subscriptions", json={"name": "mail", "start": "beginning"})
        async with await subscriptions.acquire("mail") as consumer:
            batch = await consumer.read(limit=3)
            for stored in batch.events:
                await consumer.park(stored.position, "no such address", attempts=5)
        page = await http.get("/subscriptions/mail/parked", params={"limit": 2})
        rest = await http.get("/subscriptions/mail/parked", params={"after": page.headers["X-Pagination-Next"]})
        position = page.json()[0]["event"]["position"]
        retried = await http.post("/subscriptions/mail/parked/retry", json={"position": position})
        (first, *_) = (await http.get("/subscriptions/mail/parked")).json()
        before = (datetime.fromisoformat(first["parked_at"]) - timedelta(microseconds=1)).isoformat()
        shown = await http.post("/subscriptions/mail/parked/drop", json={"until": before})
        dropped = await http.post("/subscriptions/mail/parked/drop", json={})
        nothing = await http.post("/subscriptions/mail/parked/retry", json={"position": position})

    assert len(page.json() + rest.json()) == 3
    assert page.json()[0]["error"] == "no such address"
    assert retried.json() == {"count": 1}
    assert first["state"] == "retry"
    assert (shown.json()["count"], dropped.json()["count"]) == (0, 3)
    assert nothing.status_code == 404


async def test_metrics_are_shown_if_they_are_counted(serve_agents: Any) -> None:
    metrics = ObserverSettings(type="metrics", name="metrics", where="observers[1]")
    async with serve_agents(AGENTS, observers=(metrics,)) as served, httpx.AsyncClient(base_url=served.url) as http:
        await two_runs(served)
        shown = await http.get("/metrics")
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        missing = await http.get("/metrics")

    assert shown.headers["content-type"].startswith("text/plain")
    assert "trackside_runs" in shown.text
    assert missing.status_code == 404
    assert "[[observers]]" in missing.json()["detail"]


@pytest.mark.usefixtures("any_pace")
async def test_the_server_says_what_it_is_and_that_its_database_answers(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        info = (await http.get("/info")).json()
        answers = [await http.get("/ok", params=params) for params in ({}, {"check_db": 1}, {"check_db": "true"})]

    assert info["version"]
    assert info["flags"]["strict_resume"] is True
    assert all(answer.json() == {"ok": True} for answer in answers)


async def test_what_was_deleted_is_found_by_who_asks_for_it_with_all_that_is_kept(serve_agents: Any) -> None:
    async with serve_agents(AGENTS) as served, httpx.AsyncClient(base_url=served.url) as http:
        await two_runs(served)
        failed, done = (await http.get("/runs")).json()
        await served.client.runs.delete(failed["thread_id"], failed["run_id"])
        await served.client.threads.delete(done["thread_id"])
        seen = await http.get("/runs")
        (whole, gone) = (await http.get("/runs", params={"removed": True, "details": True})).json()
        alone = [await http.get(f"/runs/{failed['run_id']}", params={"removed": said}) for said in (False, True)]
        threads = (await http.get("/threads", params={"removed": True})).json()
        of_failed = await http.get("/events", params={"status": "error", "type": "run_started"})

    assert seen.json() == []
    assert [whole["run_id"], gone["run_id"]] == [failed["run_id"], done["run_id"]]
    assert whole["removed_at"] is not None
    assert whole["completion_data"]["llm_call_count"] == 0
    assert "completion_data" not in failed
    assert [answer.status_code for answer in alone] == [404, 200]
    assert alone[1].json()["removed_at"] == whole["removed_at"]
    assert {thread["thread_id"]: thread["removed_at"] is None for thread in threads} == {
        failed["thread_id"]: True,
        done["thread_id"]: False,
    }
    assert [event["run_id"] for event in of_failed.json()] == [failed["run_id"]]
