"""Crons as LangGraph's SDK creates, finds, changes and deletes them, and the runs that they start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import httpx
import pytest
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.errors import UnprocessableEntityError
from looking_graph import Seen, ids, looking

from trackside import RunContext
from trackside.app.settings import AccessSettings
from trackside.app.storage.crons import Cron
from trackside.harness.ids import assistant_id_of

LONG_AGO = datetime(2026, 1, 1, 12, tzinfo=UTC)
YEARLY = f"0 0 1 {(datetime.now(UTC).month + 5) % 12 + 1} *"
"""First due in half a year, so that nothing becomes due by itself during a test, however late that begins."""


class Counting:
    """An agent that notes its runs."""

    def __init__(self) -> None:
        self.runs: asyncio.Queue[tuple[Any, RunContext]] = asyncio.Queue()

    async def __call__(self, input: Any, run: RunContext) -> Any:
        await self.runs.put((input, run))
        return {"given": input}


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
async def served(serve_agents: Any, counting: Counting) -> AsyncIterator[Any]:
    async with serve_agents({"counting": counting}) as served:
        yield served


async def new_thread(served: Any, owner: str | None = None) -> str:
    thread = await served.app.store.threads_of(owner).create(belongs_to=owner)
    return str(thread.thread_id)


async def become_due(served: Any, cron_id: str, when: datetime = LONG_AGO) -> None:
    """Make the cron due, as if its time had come."""
    await store_again(served, cron_id, next_run_at=when)


async def store_again(served: Any, cron_id: str, **changes: Any) -> None:
    cron: Cron = await served.app.store.crons.get(cron_id)
    assert await served.app.store.crons.replace(cron, replace(cron, **changes))


async def disabled(served: Any, cron_id: str) -> Cron:
    """Wait until the cron is disabled, and return it."""
    return await cron_once(served, cron_id, lambda cron: not cron.enabled)


async def cron_once(served: Any, cron_id: str, holds: Callable[[Cron], bool]) -> Cron:
    """Wait until this holds of the cron, and return it: a cron changes after the run that it starts is there."""
    changed = asyncio.Event()
    served.app.store.crons.on_change.append(changed.set)
    while not holds(cron := await served.app.store.crons.get(cron_id)):
        await changed.wait()
        changed.clear()
    return cron


async def test_a_cron_is_made_with_every_option(served: Any) -> None:
    end = datetime.now(UTC) + timedelta(days=400)
    cron = await served.client.crons.create(
        "counting",
        schedule="30 9 * * MON-FRI",
        input={"a": 1},
        metadata={"team": "red"},
        config={"tags": ["x"]},
        context={"user": "ada"},
        interrupt_before=["node"],
        interrupt_after="*",
        webhook="https://example.com/hook",
        on_run_completed="keep",
        multitask_strategy="reject",
        end_time=end,
        enabled=True,
        timezone=ZoneInfo("Europe/Berlin"),
        stream_mode=["values", "custom"],
        stream_subgraphs=True,
        stream_resumable=True,
        durability="sync",
    )

    assert cron["assistant_id"] == assistant_id_of("counting")
    assert (cron["schedule"], cron["timezone"]) == ("30 9 * * MON-FRI", "Europe/Berlin")
    assert datetime.fromisoformat(cron["end_time"]) == end
    assert (cron["thread_id"], cron["user_id"], cron["enabled"]) == (None, None, True)
    assert (cron["on_run_completed"], cron["metadata"]) == ("keep", {"team": "red"})
    coming = datetime.fromisoformat(cron["next_run_date"]).astimezone(ZoneInfo("Europe/Berlin"))
    assert (coming.hour, coming.minute, coming > datetime.now(UTC)) == (9, 30, True)
    assert cron["payload"] == {
        "assistant_id": "counting",
        "input": {"a": 1},
        "config": {"tags": ["x"]},
        "context": {"user": "ada"},
        "interrupt_before": ["node"],
        "interrupt_after": "*",
        "webhook": "https://example.com/hook",
        "multitask_strategy": "reject",
        "stream_mode": ["values", "custom"],
        "stream_subgraphs": True,
        "stream_resumable": True,
        "durability": "sync",
    }
    assert (await served.client.crons.search()) == [cron]


async def test_a_cron_is_changed_in_part(served: Any) -> None:
    end = datetime.now(UTC) + timedelta(days=400)
    crons = served.client.crons
    made = await crons.create("counting", schedule=YEARLY, input={"a": 1}, metadata={"a": 1, "b": 1}, end_time=end)

    changed = await crons.update(
        made["cron_id"], input={"b": 2}, metadata={"b": 2}, webhook="https://example.com", on_run_completed="keep"
    )
    assert changed["payload"] == {"assistant_id": "counting", "input": {"b": 2}, "webhook": "https://example.com"}
    assert (changed["metadata"], changed["on_run_completed"]) == ({"a": 1, "b": 2}, "keep")
    assert (changed["next_run_date"], changed["end_time"]) == (made["next_run_date"], made["end_time"])
    assert changed["updated_at"] > made["updated_at"]

    elsewhere = await crons.update(made["cron_id"], schedule="0 0 1 1 *", timezone="Asia/Tokyo", end_time=None)
    assert datetime.fromisoformat(elsewhere["next_run_date"]).hour == 15
    assert elsewhere["end_time"] is None

    with pytest.raises(UnprocessableEntityError, match="end_time = 2001-01-01T00:00:00\\+00:00 is past"):
        await crons.update(made["cron_id"], end_time=datetime(2001, 1, 1, tzinfo=UTC))
    off = await crons.update(made["cron_id"], enabled=False)
    with pytest.raises(UnprocessableEntityError, match="is past"):
        await crons.update(made["cron_id"], end_time=datetime(2001, 1, 1, tzinfo=UTC))
    assert (off["enabled"], off["next_run_date"]) == (False, None)
    on = await crons.update(made["cron_id"], enabled=True)
    assert (on["enabled"], on["next_run_date"]) == (True, elsewhere["next_run_date"])
    assert await crons.search() == [on]


async def test_a_cron_whose_end_comes_before_its_next_time_is_refused(served: Any) -> None:
    crons, now = served.client.crons, datetime.now(UTC)
    soon, between = now + timedelta(days=1), now + timedelta(days=250)
    later = f"0 0 1 {(now.month + 10) % 12 + 1} *"
    why = "comes before the next time of schedule"
    with pytest.raises(UnprocessableEntityError, match=why):
        await crons.create("counting", schedule=YEARLY, end_time=soon)
    off = await crons.create("counting", schedule=YEARLY, end_time=soon, enabled=False)
    endless = await crons.create("counting", schedule=YEARLY)
    ends = await crons.create("counting", schedule=YEARLY, end_time=between)

    for cron, changes in ((off, {"enabled": True}), (endless, {"end_time": soon}), (ends, {"schedule": later})):
        with pytest.raises(UnprocessableEntityError, match=why):
            await crons.update(cron["cron_id"], **changes)
    assert await crons.search() == [ends, endless, off]
    moved = await crons.update(ends["cron_id"], schedule=later, end_time=None)
    assert moved["next_run_date"] > ends["next_run_date"]


async def test_crons_are_found_counted_and_deleted(served: Any) -> None:
    crons = served.client.crons
    thread_id = await new_thread(served)
    a = await crons.create("counting", schedule=YEARLY, metadata={"team": "red"}, enabled=False)
    b = await crons.create(assistant_id_of("counting"), schedule=YEARLY, metadata={"team": "red", "n": 1})
    c = await crons.create_for_thread(thread_id, "counting", schedule=YEARLY)

    assert [cron["cron_id"] for cron in await crons.search()] == [c["cron_id"], b["cron_id"], a["cron_id"]]
    assert await crons.search(assistant_id="counting", limit=1, offset=1) == [b]
    assert await crons.search(assistant_id=assistant_id_of("counting"), enabled=False) == [a]
    assert await crons.search(assistant_id="gone") == []
    assert await crons.search(thread_id=thread_id) == [c]
    assert await crons.search(metadata={"team": "red", "n": 1}) == [b]
    assert [one["cron_id"] for one in await crons.search(sort_by="created_at", sort_order="asc", limit=1)] == [
        a["cron_id"]
    ]
    assert await crons.search(enabled=False, select=["cron_id", "enabled"]) == [
        {"cron_id": a["cron_id"], "enabled": False}
    ]
    assert (await crons.search(select=["now"]))[0].keys() == {"now"}
    whole = await served.client.http.post("/runs/crons/search", json={"select": []})  # as the JavaScript client may ask
    assert whole == await crons.search()
    assert await crons.count() == 3
    assert await crons.count(assistant_id="counting", thread_id=thread_id) == 1
    assert (await crons.search(thread_id=thread_id.upper()), await crons.count(thread_id=thread_id.upper())) == ([c], 1)
    assert await crons.count(metadata={"team": "red"}) == 2
    assert await crons.delete(a["cron_id"]) is None
    assert await crons.count() == 2
    async with httpx.AsyncClient(base_url=served.url) as http:
        page = await http.post("/runs/crons/search", json={"limit": 1})
    assert (page.headers["x-pagination-total"], page.headers["x-pagination-next"]) == ("2", "1")


async def test_crons_of_an_agent_that_is_not_served_are_found_by_what_they_say_it_is(serve_agents: Any) -> None:
    async with serve_agents({"kept": plain, "left-out": plain}) as served:
        await served.client.crons.create("kept", schedule=YEARLY)
        cron = await served.client.crons.create("left-out", schedule=YEARLY)
    async with serve_agents({"kept": plain}) as served:
        crons = served.client.crons
        for said in (cron["assistant_id"], cron["assistant_id"].upper(), "left-out"):
            assert await crons.search(assistant_id=said) == [cron]
            assert await crons.count(assistant_id=said) == 1


async def test_the_client_that_waits_works_too(served: Any) -> None:
    thread_id = await new_thread(served)

    def use() -> list[Any]:
        with get_sync_client(url=served.url, api_key=None) as client:
            made: Any = client.crons.create("counting", schedule=YEARLY)
            mine: Any = client.crons.create_for_thread(thread_id, "counting", schedule=YEARLY)
            changed = client.crons.update(made["cron_id"], schedule="1 * * * *")
            found = client.crons.search(thread_id=thread_id)
            client.crons.delete(mine["cron_id"])
            return [changed["schedule"], [one["cron_id"] == mine["cron_id"] for one in found], client.crons.count()]

    assert await asyncio.to_thread(use) == ["1 * * * *", [True], 1]


async def test_a_run_that_is_due_is_started_and_its_thread_removed(served: Any, counting: Counting) -> None:
    cron = await served.client.crons.create("counting", schedule=YEARLY, input={"a": 1}, metadata={"team": "red"})
    await become_due(served, cron["cron_id"])
    given, run = await counting.runs.get()

    assert given == {"a": 1}
    assert run.metadata == {"team": "red", "cron_id": cron["cron_id"]}
    started = await _whole(served, run.run_id)
    assert started["trigger"] == "cron"
    assert await served.app.store.thread(run.thread_id) is None
    await cron_once(served, cron["cron_id"], lambda after: after.next_run_at != LONG_AGO)
    (after,) = await served.client.crons.search()
    assert datetime.fromisoformat(after["next_run_date"]) > datetime.now(UTC)
    assert counting.runs.empty(), "one run for all that was missed"


async def _whole(served: Any, run_id: str) -> dict[str, Any]:
    """What the start of a run says, once the run has ended, and its thread with it."""
    events: list[Any] = []
    async for stored in served.app.store.follow():
        if stored.event.run_id == run_id:
            events.append(stored.event)
            if stored.event.event_type in {"run_completed", "run_failed"}:
                break
    return dict(events[0].payload)


async def test_a_thread_is_kept_if_that_is_wanted(served: Any, counting: Counting) -> None:
    asked: dict[str, Any] = {"on_run_completed": "keep", "metadata": {"team": "red"}}
    cron = await served.client.crons.create("counting", schedule=YEARLY, **asked)
    await become_due(served, cron["cron_id"])
    _, run = await counting.runs.get()
    await _whole(served, run.run_id)

    (thread,) = await served.client.threads.search(metadata={"team": "red", "cron_id": cron["cron_id"]})
    assert thread["thread_id"] == run.thread_id


async def test_a_cron_of_a_thread_runs_on_it(served: Any, counting: Counting) -> None:
    thread_id = await new_thread(served)
    cron = await served.client.crons.create_for_thread(thread_id, "counting", schedule=YEARLY)
    assert cron["payload"]["thread_id"] == cron["thread_id"] == thread_id

    await become_due(served, cron["cron_id"])
    _, run = await counting.runs.get()

    assert run.thread_id == thread_id


async def test_a_graph_finds_the_ids_of_its_crons_run_as_of_any_other(serve_agents: Any) -> None:
    seen: asyncio.Queue[Any] = asyncio.Queue()

    async def tell(state: Seen) -> None:
        await seen.put(state)

    graph = looking().builder.add_node("tell", tell).add_edge("look", "tell").compile()
    async with serve_agents({"look": graph}) as served:
        thread_id = await new_thread(served)
        cron = await served.client.crons.create_for_thread(thread_id, "look", schedule=YEARLY, input={})
        await become_due(served, cron["cron_id"])
        found = await seen.get()
        (run,) = await served.client.runs.list(thread_id)

    expected = ids("look", run["run_id"], thread_id)
    assert (found["own"], found["said"]) == ({**expected, "user_id": None}, expected)
    assert found["server"] == {"assistant_id": assistant_id_of("look"), "graph_id": "look"}


async def test_a_cron_whose_thread_was_removed_is_disabled_and_says_why(served: Any, counting: Counting) -> None:
    thread_id = await new_thread(served)
    cron = await served.client.crons.create_for_thread(thread_id, "counting", schedule=YEARLY)
    await served.client.threads.delete(thread_id)

    (found,) = await served.client.crons.search()
    assert (found["enabled"], found["next_run_date"]) == (False, None)
    assert thread_id in found["disabled_because"]
    again = await served.client.crons.update(cron["cron_id"], enabled=True)
    assert again["disabled_because"] is None
    await become_due(served, cron["cron_id"])
    left = await disabled(served, cron["cron_id"])
    assert left.next_run_at is None
    assert thread_id in str(left.disabled_because)
    assert counting.runs.empty()


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("look", {"interrupt_before": ["nowhere"]}, "the graph's nodes are look"),
    ("look", {"config": {"recursion_limit": 0}}, "recursion_limit"),
    ("plain", {"stream_mode": ["tasks"]}, "the agent 'plain' streams"),
    ("plain", {"interrupt_after": "look"}, "that is for graphs"),
]
"""Requests for which runs would be refused: of which agent, with what, and why."""


async def plain(input: Any) -> Any:
    return input


async def test_a_cron_whose_runs_would_be_refused_is_refused(serve_agents: Any) -> None:
    async with serve_agents({"look": looking(), "plain": plain}) as served:
        crons = served.client.crons
        for agent, asked, why in REFUSED:
            made = await crons.create(agent, schedule=YEARLY)
            with pytest.raises(UnprocessableEntityError, match=why):
                await crons.create(agent, schedule=YEARLY, **asked)
            with pytest.raises(UnprocessableEntityError, match=why):
                await crons.update(made["cron_id"], **asked)
        assert await crons.count() == len(REFUSED)
        assert all(one["payload"].keys() == {"assistant_id"} for one in await crons.search())


async def test_a_cron_whose_runs_would_be_refused_by_now_is_disabled_and_says_why(serve_agents: Any) -> None:
    async with serve_agents({"look": looking(), "plain": plain}) as served:
        for agent, asked, why in REFUSED:
            cron_id = (await served.client.crons.create(agent, schedule=YEARLY))["cron_id"]
            # As if the agent had been different when the cron was made.
            await store_again(served, cron_id, payload=asked, next_run_at=LONG_AGO)
            async with asyncio.timeout(30):
                found = await disabled(served, cron_id)
            assert why in str(found.disabled_because)
        assert await served.app.store.runs(removed=True) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"agent": "gone"}, "there is no assistant 'gone'"),
        ({"payload": {"from_another_version": 1}}, "from_another_version"),
        ({"payload": {"interrupt_before": ["nowhere"]}}, "the graph's nodes are look"),
        ({"payload": {"webhook": "nonsense"}}, "it begins with https"),
    ],
)
async def test_a_cron_that_can_start_nothing_here_can_be_disabled(
    serve_agents: Any, changes: dict[str, Any], why: str
) -> None:
    async with serve_agents({"look": looking()}) as served:
        crons = served.client.crons
        cron_id = (await crons.create("look", schedule=YEARLY))["cron_id"]
        await store_again(served, cron_id, **changes)
        with pytest.raises(UnprocessableEntityError, match=why):
            await crons.update(cron_id, schedule="1 * * * *")
        stopped = await crons.update(cron_id, enabled=False, metadata={"stopped": True})
        with pytest.raises(UnprocessableEntityError, match=why):
            await crons.update(cron_id, enabled=True)
        (found,) = await crons.search()

    assert found == stopped
    assert (found["enabled"], found["next_run_date"], found["schedule"]) == (False, None, YEARLY)
    assert found["metadata"] == {"stopped": True}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"assistant_id": "nobody"}, "nobody"),
        ({"schedule": "every day"}, "schedule"),
        ({"schedule": "* * * * * *"}, "five fields"),
        ({"schedule": "61 * * * *"}, "minute"),
        ({"schedule": "0 0 30 2 *"}, "day-of-month"),
        ({"schedule": "0," * 200 + "0 * * * *"}, "schedule"),
        ({"timezone": "Europe/Trackside"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"timezone": "Europe"}, "timezone"),
        ({"end_time": "2026-01-01T00:00:00"}, "end_time"),
        ({"end_time": "9999-12-31T23:59:59-23:00"}, "end_time"),
        ({"on_run_completed": "archive"}, "on_run_completed"),
        ({"multitask_strategy": "ask"}, "multitask_strategy"),
        ({"after_seconds": 5}, "after_seconds"),
    ],
)
async def test_what_does_not_fit_is_named(served: Any, changes: dict[str, Any], named: str) -> None:
    async with httpx.AsyncClient(base_url=served.url) as http:
        refused = await http.post("/runs/crons", json={"assistant_id": "counting", "schedule": YEARLY} | changes)

    assert refused.status_code == 422
    assert named in refused.json()["detail"]
    assert await served.client.crons.count() == 0


async def test_crons_of_threads_that_are_not_there_are_refused(served: Any) -> None:
    thread_id = await new_thread(served)
    async with httpx.AsyncClient(base_url=served.url) as http:
        body = {"assistant_id": "counting", "schedule": YEARLY}
        missing = await http.post(f"/threads/{uuid4()}/runs/crons", json=body)
        named = await http.post("/threads/mine/runs/crons", json=body)
        path = f"/threads/{thread_id}/runs/crons"
        ends = await http.post(path, json=body | {"on_run_completed": "delete"})
        gone = await http.patch(f"/runs/crons/{uuid4()}", json={"enabled": False})
        never = await http.delete(f"/runs/crons/{uuid4()}")

    assert [one.status_code for one in (missing, named, ends, gone, never)] == [404, 422, 422, 404, 404]
    assert "on_run_completed" in ends.json()["detail"]


async def test_nobody_sees_the_crons_of_somebody_else(serve_agents: Any, counting: Counting) -> None:
    async with serve_agents({"counting": counting}, access=AccessSettings(auth="keys")) as served:
        keys = served.app.store.api_keys
        ada, eve = [(await keys.create("key", owner=owner)).secret for owner in ("ada", "eve")]
        root = (await keys.create("key", owner="root", permission="admin")).secret
        async with (
            get_client(url=served.url, api_key=ada) as adas,
            get_client(url=served.url, api_key=eve) as eves,
            get_client(url=served.url, api_key=root) as roots,
        ):
            cron: Any = await adas.crons.create("counting", schedule=YEARLY)
            thread_id = await new_thread(served, "ada")
            attempts: list[Callable[[], Any]] = [
                lambda: eves.crons.update(cron["cron_id"], enabled=False),
                lambda: eves.crons.delete(cron["cron_id"]),
                lambda: eves.crons.create_for_thread(thread_id, "counting", schedule=YEARLY),
            ]
            for attempt in attempts:
                with pytest.raises(httpx.HTTPStatusError) as refused:
                    await attempt()
                assert refused.value.response.status_code == 404
            assert await eves.crons.search() == []
            assert await eves.crons.count() == 0
            by_root: Any = await roots.crons.create_for_thread(thread_id, "counting", schedule=YEARLY)
            assert {by_root["user_id"], cron["user_id"]} == {"ada"}
            assert await roots.crons.count() == 2
            assert [one["cron_id"] for one in await adas.crons.search(limit=1)] == [by_root["cron_id"]]

            await become_due(served, by_root["cron_id"])
            _, run = await counting.runs.get()
            assert run.thread_id == thread_id
            assert (await adas.runs.get(run.thread_id, run.run_id))["run_id"] == run.run_id


async def test_an_admins_cron_runs_on_a_thread_that_is_nobodys(serve_agents: Any, counting: Counting) -> None:
    async with serve_agents({"counting": counting}, access=AccessSettings(auth="keys")) as served:
        thread_id = await new_thread(served)
        root = (await served.app.store.api_keys.create("key", owner="root", permission="admin")).secret
        async with get_client(url=served.url, api_key=root) as roots:
            cron = await roots.crons.create_for_thread(thread_id, "counting", schedule=YEARLY)
            assert cron["user_id"] == "root"
            await become_due(served, cron["cron_id"])
            went_on = await cron_once(served, cron["cron_id"], lambda cron: cron.next_run_at != LONG_AGO)
            assert went_on.disabled_because is None
            _, run = await counting.runs.get()
            assert run.thread_id == thread_id
            assert (await roots.runs.get(thread_id, run.run_id))["run_id"] == run.run_id


async def test_a_cron_starts_nothing_on_a_thread_that_somebody_else_has_made_under_its_threads_id(
    serve_agents: Any, counting: Counting
) -> None:
    async with serve_agents({"counting": counting}, access=AccessSettings(auth="keys")) as served:
        store = served.app.store
        ada, thread_id = (await store.api_keys.create("key", owner="ada")).secret, await new_thread(served, "ada")
        async with get_client(url=served.url, api_key=ada) as adas:
            cron = await adas.crons.create_for_thread(thread_id, "counting", schedule=YEARLY)
            await adas.threads.delete(thread_id)
        await store.sweeper().sweep()
        eves = await store.threads_of("eve").create(thread_id, belongs_to="eve")
        await become_due(served, cron["cron_id"])

        went_on = await cron_once(served, cron["cron_id"], lambda cron: cron.next_run_at != LONG_AGO)
        assert thread_id in str(went_on.disabled_because)
        assert counting.runs.empty()
        assert await store.thread(thread_id, owner="eve") == eves
