"""Authorization handlers as projects for LangGraph's server have them, on each database, through LangGraph's own client."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

import httpx
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from langgraph_sdk import get_client

from trackside import RunContext
from trackside.app.cli.records.remote import RemoteRecords
from trackside.app.cli.records.remote_connection import Connection
from trackside.app.server.crons import CronScheduler
from trackside.app.server.routes import thread_records
from trackside.app.settings import AccessSettings
from trackside.harness.ids import assistant_id_of, new_id

type ServeAgents = Callable[..., Any]

NOWHERE = "11111111-1111-4111-8111-111111111111"

AUTH = """
from langgraph_sdk import Auth

auth = Auth()

@auth.authenticate
async def authenticate(authorization: str):
    name, _, permissions = authorization.removeprefix("Bearer ").partition(":")
    return {"identity": name, "permissions": permissions.split(",") if permissions else [], "api_token": "t-" + name}

"""

OWNERS = (
    AUTH
    + """
@auth.on
async def add_owner(ctx, value):
    filters = {"owner": ctx.user.identity}
    value.setdefault("metadata", {}).update(filters)
    return filters
"""
)
"""The one handler of LangGraph's tutorial."""

EACH = (
    AUTH
    + """
@auth.on
async def deny_all(ctx, value):
    return False

@auth.on.threads.create
async def create(ctx, value):
    value.setdefault("metadata", {})["owner"] = ctx.user.identity

@auth.on.threads.create_run
async def start(ctx, value):
    value.setdefault("metadata", {})["owner"] = ctx.user.identity
    return {"owner": ctx.user.identity}

@auth.on.threads.read
async def read(ctx, value):
    return {"owner": ctx.user.identity}

@auth.on.threads.search
async def search(ctx, value):
    return {"owner": {"$eq": ctx.user.identity}}

@auth.on.store
async def scope_store(ctx, value):
    namespace = tuple(value["namespace"]) if value.get("namespace") else ()
    if not namespace or namespace[0] != ctx.user.identity:
        namespace = (ctx.user.identity, *namespace)
    value["namespace"] = namespace
"""
)
"""The example of the SDK's docstring."""

SHARED = (
    AUTH
    + """
@auth.on.threads
async def members(ctx, value):
    if "admin" in ctx.permissions:
        return True
    if ctx.action in ("create", "create_run"):
        value["metadata"].setdefault("members", [ctx.user.identity])
    if ctx.action in ("update", "delete", "create_run") and "reader" in ctx.permissions:
        return False
    return {"members": {"$contains": ctx.user.identity}}

@auth.on.crons
async def crons(ctx, value):
    value["metadata"]["made_by"] = ctx.user["identity"]
    return {"made_by": ctx.user.identity}
"""
)
"""Threads of several people, some of whom only look."""


class Text(TypedDict):
    text: str


def graph() -> Any:
    builder = StateGraph(Text)
    builder.add_node("say", lambda state: {"text": state["text"] + "!"})
    builder.add_edge(START, "say")
    builder.add_edge("say", END)
    return builder.compile()


class Tenant(TypedDict, total=False):
    tenant: str


def telling() -> Any:
    """Asks the tenant for whom it runs, and tells what he has answered."""

    def note(state: Text, runtime: Runtime[Tenant]) -> Text:
        return {"text": f"{state['text']}, {(runtime.context or {}).get('tenant')}?"}

    def ask(state: Text, runtime: Runtime[Tenant]) -> Text:
        return {"text": f"{(runtime.context or {}).get('tenant')}: {interrupt(state['text'])}"}

    builder = StateGraph(Text, context_schema=Tenant).add_node("note", note).add_node("ask", ask)
    return builder.add_edge(START, "note").add_edge("note", "ask").compile()


class Place:
    """A server whose clients say who they are."""

    def __init__(self, served: Any) -> None:
        self.served = served

    @asynccontextmanager
    async def clients(self, *names: str) -> AsyncIterator[list[Any]]:
        made = [
            get_client(url=self.served.url, api_key=None, headers={"Authorization": f"Bearer {name}"}) for name in names
        ]
        try:
            yield made
        finally:
            for client in made:
                await client.aclose()

    def http(self, name: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.served.url, headers={"Authorization": f"Bearer {name}"}, timeout=30)


@pytest.fixture
def serve_auth(serve_agents: ServeAgents, tmp_path: Path) -> Callable[[str], Any]:
    @asynccontextmanager
    async def of(code: str, **agents: Any) -> AsyncIterator[Place]:
        file = tmp_path / f"project_auth_{new_id()}.py"  # a module is imported once
        file.write_text(code)
        access = AccessSettings(auth=f"{file}:auth")
        async with serve_agents({"chat": graph(), **agents}, access=access) as served:
            yield Place(served)

    return of


def spec_for(app: Any, cron: Any) -> Any:
    """What the scheduler starts for a cron."""
    return CronScheduler(app.store.crons, app.manager)._spec(cron, datetime.now(UTC))


async def refused(asked: Any) -> int:
    with pytest.raises(httpx.HTTPStatusError) as failure:
        await asked
    return failure.value.response.status_code


async def command(client: Any, thread_id: str, method: str, **params: Any) -> Any:
    return await client.http.post(f"/threads/{thread_id}/commands", json={"id": 1, "method": method, "params": params})


async def done(client: Any, thread_id: str, method: str, **params: Any) -> str:
    """Until the run that a command starts is over; which one it is."""
    run_id: str = (await command(client, thread_id, method, **params))["result"]["run_id"]
    await client.runs.join(thread_id, run_id)
    return run_id


async def test_the_tutorials_handler_keeps_everybodys_threads_apart(serve_auth: Any) -> None:
    async with serve_auth(OWNERS) as place, place.clients("ada", "bob") as (ada, bob):
        mine = await ada.threads.create(metadata={"about": "x", "owner": "bob"})
        thread_id = mine["thread_id"]
        assert mine["metadata"] == {"about": "x", "owner": "ada"}
        assert (await ada.runs.wait(thread_id, "chat", input={"text": "hi"}))["text"] == "hi!"
        run_id = (await ada.runs.list(thread_id))[0]["run_id"]
        his = await bob.threads.create()
        for client, thread in ((ada, thread_id), (bob, his["thread_id"])):
            assert [one["thread_id"] for one in await client.threads.search()] == [thread]
            assert await client.threads.count() == 1
            assert await client.threads.search(metadata={"owner": "nobody"}) != []  # the handler overwrites it
        for asked in (
            bob.threads.get(thread_id),
            bob.threads.get_state(thread_id),
            bob.threads.get_history(thread_id),
            bob.threads.update(thread_id, metadata={"x": 1}),
            bob.threads.update_state(thread_id, {"text": "x"}),
            bob.threads.copy(thread_id),
            bob.threads.delete(thread_id),
            bob.threads.create(thread_id=thread_id, if_exists="do_nothing"),
            bob.runs.wait(thread_id, "chat", input={"text": "x"}, if_not_exists="create"),
            bob.runs.create(thread_id, "chat", input={"text": "x"}),
            bob.runs.list(thread_id),
            bob.runs.get(thread_id, run_id),
            bob.runs.join(thread_id, run_id),
            bob.runs.cancel(thread_id, run_id),
            bob.runs.delete(thread_id, run_id),
        ):
            assert await refused(asked) == 404
        assert (await ada.threads.get(thread_id))["metadata"].items() >= {"about": "x", "owner": "ada"}.items()
        await ada.threads.delete(thread_id)
        assert await ada.threads.search() == []


async def test_who_may_look_at_a_thread_sees_all_that_it_was(serve_auth: Any) -> None:
    async with serve_auth(OWNERS) as place, place.clients("ada", "bob") as (ada, bob):

        async def history(client: Any, thread_id: str, **asked: Any) -> list[tuple[str, Any]]:
            states = await client.threads.get_history(thread_id, **asked)
            return [(state["metadata"]["source"], state["values"].get("text")) for state in states]

        thread_id = (await ada.threads.create())["thread_id"]
        await ada.runs.wait(thread_id, "chat", input={"text": "hi"}, metadata={"round": 1})
        await ada.threads.update_state(thread_id, {"text": "by hand"})
        by_run = [("loop", "hi!"), ("loop", "hi"), ("input", None)]
        assert await history(ada, thread_id) == [("update", "by hand"), *by_run]
        assert await history(ada, thread_id, metadata={"round": 1}) == by_run
        assert await history(ada, thread_id, metadata={"owner": "nobody"}) == []
        steps = [
            {"updates": [{"values": {"text": "old"}, "as_node": "__input__"}]},
            {"updates": [{"values": {"text": "old!"}, "as_node": "say"}]},
        ]
        moved = (await ada.threads.create(supersteps=steps, graph_id="chat"))["thread_id"]
        assert (await history(ada, moved))[0] == ("update", "old!")
        for asked in ({}, {"metadata": {"owner": "bob"}}, {"metadata": {"owner": "ada"}}):
            assert await refused(bob.threads.get_history(thread_id, **asked)) == 404
            assert await refused(bob.threads.get_history(moved, **asked)) == 404


async def test_what_is_looked_for_in_a_thread_is_not_taken_for_what_it_is(serve_auth: Any) -> None:
    code = """
@auth.on.threads
async def mine(ctx, value):
    if ctx.action in ("create", "create_run"):
        value["metadata"]["owner"] = ctx.user.identity
        return None
    return value["metadata"].get("owner") == ctx.user.identity or {"owner": ctx.user.identity}
"""
    async with serve_auth(AUTH + code) as place, place.clients("ada", "bob") as (ada, bob):
        thread_id = (await ada.threads.create())["thread_id"]
        await ada.runs.wait(thread_id, "chat", input={"text": "hi"}, metadata={"owner": "bob"})
        assert len(await ada.threads.get_history(thread_id, metadata={"owner": "ada"})) == 3
        assert await refused(bob.threads.get_history(thread_id, metadata={"owner": "bob"})) == 404
        listed = command(bob, thread_id, "state.listCheckpoints", metadata={"owner": "bob"})
        assert await refused(listed) == 404


async def test_threads_that_runs_make_have_what_the_handler_says(serve_auth: Any) -> None:
    async with serve_auth(OWNERS) as place, place.clients("ada", "bob") as (ada, bob):
        await ada.runs.wait(None, "chat", input={"text": "a"}, on_completion="keep", metadata={"kind": "own"})
        await ada.runs.wait(NOWHERE, "chat", input={"text": "b"}, if_not_exists="create")
        (kept,) = await ada.threads.search(metadata={"kind": "own"})
        assert kept["metadata"].items() >= {"kind": "own", "owner": "ada"}.items()
        assert (await ada.threads.get(NOWHERE))["metadata"]["owner"] == "ada"
        assert await bob.threads.search() == []
        batch = await ada.runs.create_batch(
            [
                {"assistant_id": "chat", "input": {"text": "c"}, "thread_id": NOWHERE},
                {"assistant_id": "chat", "input": {"text": "d"}},
            ]
        )
        assert {run["metadata"]["owner"] for run in batch} == {"ada"}
        stolen = bob.runs.create_batch([{"assistant_id": "chat", "input": {"text": "c"}, "thread_id": NOWHERE}])
        assert await refused(stolen) == 404


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


async def test_the_most_specific_handler_decides(serve_auth: Any) -> None:
    async with serve_auth(EACH) as place, place.clients("ada", "bob") as (ada, bob):
        thread_id = (await ada.threads.create())["thread_id"]
        await ada.runs.wait(thread_id, "chat", input={"text": "hi"})
        assert [one["thread_id"] for one in await ada.threads.search()] == [thread_id]
        assert await bob.threads.search() == []
        assert await refused(bob.threads.get(thread_id)) == 404
        # Who may make threads may not for that reason have those that others have made.
        assert await refused(bob.threads.create(thread_id=thread_id, if_exists="do_nothing")) == 404
        assert await refused(bob.threads.create(thread_id=thread_id)) == 409
        again = await ada.threads.create(thread_id=thread_id, if_exists="do_nothing")
        assert again["thread_id"] == thread_id
        for asked in (
            ada.threads.update(thread_id, metadata={"x": 1}),  # which has no handler but the one for all
            ada.threads.delete(thread_id),
            ada.assistants.search(),
            ada.assistants.get("chat"),
            ada.crons.search(),
            ada.crons.create("chat", schedule="0 0 1 1 *", input={}),
            ada.crons.create_for_thread(thread_id, "chat", schedule="0 0 1 1 *", input={}),
        ):
            assert await refused(asked) == 403
        async with place.http("ada") as http:
            assert (await http.get("/ok")).status_code == 200
            assert (await http.get("/metrics")).status_code == 403
            assert (await http.get("/subscriptions")).status_code == 403


async def test_a_handler_moves_items_to_his_own_namespace(serve_auth: Any) -> None:
    async with serve_auth(EACH) as place, place.clients("ada", "bob", "eve.bob") as (ada, bob, dotted):
        await ada.store.put_item(["notes"], key="k", value={"x": 1})
        await bob.store.put_item(["notes"], key="k", value={"x": 2})
        assert (await ada.store.get_item(["notes"], key="k"))["value"] == {"x": 1}
        assert (await ada.store.get_item(["notes"], key="k"))["namespace"] == ["ada", "notes"]
        assert (await ada.store.get_item(["bob", "notes"], key="k")) is None
        assert [one["value"] for one in (await bob.store.search_items([]))["items"]] == [{"x": 2}]
        assert (await bob.store.list_namespaces())["namespaces"] == [["bob", "notes"]]
        await ada.store.delete_item(["notes"], key="k")
        assert (await ada.store.search_items([]))["items"] == []
        assert len((await bob.store.search_items([]))["items"]) == 1
        assert await refused(dotted.store.get_item(["notes"], key="k")) == 422


async def test_a_handler_may_change_what_an_item_is_and_which_are_looked_for(serve_auth: Any) -> None:
    code = """
@auth.on.store.put
async def sign(ctx, value):
    value["value"] = {**value["value"], "by": ctx.user.identity}

@auth.on.store.search
async def own(ctx, value):
    value["filter"] = {**(value["filter"] or {}), "by": ctx.user.identity}
"""
    async with serve_auth(AUTH + code) as place, place.clients("ada", "bob") as (ada, bob):
        for client, key in ((ada, "a"), (bob, "b")):
            await client.store.put_item(["notes"], key=key, value={"x": 1, "by": "somebody"})
        for wanted in (None, {"x": 1}, {"by": "bob"}):
            found = (await ada.store.search_items(["notes"], filter=wanted))["items"]
            assert [one["value"] for one in found] == [{"x": 1, "by": "ada"}]


async def test_a_namespace_of_a_handler_that_is_none_is_refused_and_nothing_kept(serve_auth: Any) -> None:
    code = """
@auth.on.store.put
async def misplace(ctx, value):
    value["namespace"] = ctx.user.identity

@auth.on.store.search
async def find(ctx, value):
    return True
"""
    async with serve_auth(AUTH + code) as place, place.clients("ada") as (ada,):
        assert await refused(ada.store.put_item(["notes"], key="k", value={"x": 1})) == 500
        assert (await ada.store.search_items([]))["items"] == []


async def test_a_filter_for_items_leaves_them_to_their_owners(serve_auth: Any) -> None:
    async with serve_auth(OWNERS) as place, place.clients("ada", "bob") as (ada, bob):
        await ada.store.put_item(["ada", "notes"], key="k", value={"x": 1})
        assert await refused(bob.store.get_item(["ada", "notes"], key="k")) == 403
        assert await refused(bob.store.search_items([])) == 403


async def test_threads_are_shared_by_those_whom_the_filter_has(serve_auth: Any) -> None:
    people = ("ada", "bob:reader", "eve", "root:admin")
    async with serve_auth(SHARED) as place, place.clients(*people) as (ada, bob, eve, root):
        thread = await ada.threads.create(metadata={"members": ["ada", "bob"]})
        thread_id = thread["thread_id"]
        await ada.runs.wait(thread_id, "chat", input={"text": "hi"})
        run_id = (await bob.runs.list(thread_id))[0]["run_id"]
        assert (await bob.threads.get_state(thread_id))["values"] == {"text": "hi!"}
        assert (await bob.runs.get(thread_id, run_id))["run_id"] == run_id
        assert [one["thread_id"] for one in await bob.threads.search()] == [thread_id]
        assert await bob.threads.count(metadata={"members": ["ada"]}) == 1
        assert [part.event async for part in bob.runs.join_stream(thread_id, run_id)][-1] == "end"
        for asked in (
            bob.threads.update(thread_id, metadata={"members": ["bob"]}),
            bob.threads.delete(thread_id),
            bob.runs.wait(thread_id, "chat", input={"text": "x"}),
            bob.runs.cancel(thread_id, run_id),
            bob.crons.create_for_thread(thread_id, "chat", schedule="0 0 1 1 *", input={}),
        ):
            assert await refused(asked) == 403
        assert await refused(eve.threads.get(thread_id)) == 404
        assert await eve.threads.search() == []
        for name, seen in (("bob:reader", [thread_id]), ("eve", [])):
            async with place.http(name) as http:
                assert [one["thread_id"] for one in (await http.get("/threads")).json()] == seen
        await root.threads.update(thread_id, metadata={"members": ["ada", "bob", "eve"]})
        assert (await eve.runs.wait(thread_id, "chat", input={"text": "hello"}))["text"] == "hello!"
        cron = await eve.crons.create_for_thread(thread_id, "chat", schedule="0 0 1 1 *", input={"text": "x"})
        assert cron["user_id"] == "eve"  # whom its runs know as their user, though the thread is Ada's
        spec = spec_for(place.served.app, await place.served.app.store.crons.get(cron["cron_id"]))
        assert (spec.owner, spec.any_owner) == ("eve", True)
        await (await place.served.app.manager.start(spec)).result()
        copied = await eve.threads.copy(thread_id)
        assert copied["metadata"]["members"] == ["ada", "bob", "eve"]
        assert len(await ada.threads.search()) == 2
        await eve.threads.delete(thread_id)
        assert await refused(ada.threads.get(thread_id)) == 404


async def test_the_log_is_of_threads_that_somebody_may_see(serve_auth: Any) -> None:
    async with serve_auth(SHARED) as place, place.clients("ada", "root:admin") as (ada, _):
        await ada.runs.wait(NOWHERE, "chat", input={"text": "hi"}, if_not_exists="create")
        run_id = (await ada.runs.list(NOWHERE))[0]["run_id"]
        ways = [
            f"/events?thread_id={NOWHERE}", f"/events?run_id={run_id}", f"/runs?thread_id={NOWHERE}", f"/runs/{run_id}",
            f"/stats?thread_id={NOWHERE}", f"/runs/{run_id}/join",
        ]  # fmt: skip
        everything = ["/events", "/runs", "/stats", "/stats/timeline?since=2026-01-01T00:00:00Z&width=86400"]
        for name, named, all_of_it in (("ada", 200, 403), ("eve", 404, 403), ("root:admin", 200, 200)):
            async with place.http(name) as http:
                for path in ways:
                    assert (await http.get(path)).status_code == named, (name, path)
                for path in everything:
                    assert (await http.get(path)).status_code == all_of_it, (name, path)
        async with place.http("ada") as http:
            both = await http.get(f"/events?thread_id={NOWHERE}&run_id={run_id}")
            assert {one["run_id"] for one in both.json()} == {run_id}


async def test_what_a_handler_puts_into_a_search_narrows_it_wherever_it_comes_from(serve_auth: Any) -> None:
    code = """
@auth.on.threads
async def mark(ctx, value):
    if ctx.action != "read":
        value["metadata"]["owner"] = ctx.user.identity
"""
    async with serve_auth(AUTH + code) as place, place.clients("ada", "bob") as (ada, bob), place.http("bob") as http:
        hers = (await ada.threads.create())["thread_id"]
        await ada.runs.wait(hers, "chat", input={"text": "hi"})
        his = (await bob.threads.create())["thread_id"]
        assert [one["thread_id"] for one in await bob.threads.search()] == [his]
        assert [one["thread_id"] for one in (await http.get("/threads")).json()] == [his]
        for path in ("/runs", "/events", "/stats"):
            for named, status in ({}, 403), ({"thread_id": his}, 200), ({"thread_id": hers}, 404):
                assert (await http.get(path, params=named)).status_code == status, (path, named)
        assert await refused(bob.runs.list(hers)) == 404


async def test_who_sees_threads_by_their_metadata_asks_for_them_as_others_do(serve_auth: Any) -> None:
    async with serve_auth(OWNERS) as place, place.clients("ada", "bob") as (ada, bob):
        hers = [(await ada.threads.create())["thread_id"] for _ in range(3)]
        his = (await bob.threads.create())["thread_id"]
        gone = (await ada.threads.create())["thread_id"]
        await ada.runs.wait(gone, "chat", input={"text": "hi"})
        await ada.threads.delete(gone)
        async with place.http("ada") as http:
            records = RemoteRecords(Connection(http, place.served.url, flags="", has_key=False))  # as the commands ask
            assert [await records.thread(one) is not None for one in (*hers, gone, his)] == [True] * 4 + [False]
            newest = (await http.get("/threads")).json()
            middle = newest[1]["updated_at"]
            for asked, found in (
                ({}, hers[::-1]),
                ({"since": middle}, hers[:0:-1]),
                ({"until": middle}, hers[:1]),
                ({"thread_id": hers[1]}, [hers[1]]),
                ({"thread_id": his}, []),
                ({"thread_id": hers[1][:-1]}, []),
                ({"id_prefix": hers[1]}, [hers[1]]),
                ({"id_prefix": his}, []),
                ({"id_prefix": gone}, []),
                ({"id_prefix": gone, "removed": "true"}, [gone]),
                ({"removed": "true"}, [gone, *hers[::-1]]),
                ({"removed": "true", "status": ["idle", "error"]}, [gone, *hers[::-1]]),
            ):
                answer = await http.get("/threads", params=asked)
                assert [one["thread_id"] for one in answer.json()] == found, asked
            first = await http.get("/threads", params={"removed": "true", "limit": 3})
            following = {"removed": "true", "limit": 3, "before": first.headers["X-Pagination-Next"]}
            assert [one["thread_id"] for one in (await http.get("/threads", params=following)).json()] == [hers[0]]
            newer = await http.get("/threads", params={"after": newest[2]["cursor"], "limit": 1})
            assert newer.json() == [newest[1]]
            again = await http.get("/threads", params={"before": newer.headers["X-Pagination-Next"]})
            assert again.json() == [newest[2]]


async def test_few_that_somebody_may_see_are_found_among_many(serve_auth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_records, "_PAGE", 3)
    monkeypatch.setattr(thread_records, "_MOST_PAGES", 2)
    async with serve_auth(OWNERS) as place, place.clients("ada", "bob") as (ada, bob):
        hers: list[str] = []
        for _ in range(3):
            hers.append((await ada.threads.create())["thread_id"])
            for _ in range(8):
                await bob.threads.create()
        async with place.http("ada") as http:
            records = RemoteRecords(Connection(http, place.served.url, flags="", has_key=False))
            assert [one.thread_id for one in await records.threads(limit=2)] == hers[:0:-1]
            assert [one.thread_id for one in await records.threads()] == hers[::-1]
            empty = await http.get("/threads", params={"removed": "true"})
            assert (empty.json(), "X-Pagination-Next" in empty.headers) == ([], True)


async def test_the_console_pages_through_the_threads_that_a_handler_wants(serve_auth: Any) -> None:
    async with serve_auth(OWNERS) as place, place.clients("ada") as (ada,), place.http("ada") as http:
        for _ in range(101):
            await ada.threads.create()
        page = (await http.get("/ui/threads")).text
        pages = [page]
        for way in ("next", "next", "prev", "next"):
            (address,) = re.findall(rf'rel="{way}" href="([^"]+)"', pages[-1])
            pages.append((await http.get(html.unescape(address))).text)
    shown = [re.findall(r'class="run-name" href="([^"]+)"', page) for page in pages]
    assert [len(one) for one in shown] == [50, 50, 1, 50, 1]
    assert (shown[3], shown[4]) == (shown[1], shown[2])


async def test_crons_have_metadata_of_their_own(serve_auth: Any) -> None:
    async with serve_auth(SHARED) as place, place.clients("ada", "eve") as (ada, eve):
        cron = await ada.crons.create("chat", schedule="0 0 1 1 *", input={"text": "x"}, metadata={"a": 1})
        cron_id = cron["cron_id"]
        marked = {"a": 1, "members": ["ada"], "made_by": "ada"}
        assert [one["metadata"] for one in await ada.crons.search()] == [marked]
        assert await ada.crons.count(metadata={"a": 1}) == 1
        assert await eve.crons.search() == []
        assert await refused(eve.crons.update(cron_id, enabled=False)) == 404
        assert await refused(eve.crons.delete(cron_id)) == 404
        thread_id = (await ada.threads.create())["thread_id"]
        on_hers = eve.crons.create_for_thread(thread_id, "chat", schedule="0 0 1 1 *", input={})
        assert await refused(on_hers) == 404
        await ada.crons.update(cron_id, enabled=False)
        await ada.crons.delete(cron_id)
        assert await ada.crons.search() == []


async def test_crons_are_found_by_those_whom_the_filter_has(serve_auth: Any) -> None:
    code = """
@auth.on.crons
async def his(ctx, value):
    if ctx.action == "create":
        value["metadata"]["made_by"] = ctx.user.identity
    return {"made_by": ctx.user.identity}
"""
    async with serve_auth(AUTH + code) as place, place.clients("ada", "eve") as (ada, eve):
        made = [await client.crons.create("chat", schedule="0 0 1 1 *", input={}) for client in (ada, eve)]
        for client, cron in zip((ada, eve), made, strict=True):
            assert [one["cron_id"] for one in await client.crons.search()] == [cron["cron_id"]]
            assert await client.crons.count() == 1


async def test_ids_that_a_search_for_crons_names_are_uuids_to_handlers(serve_auth: Any) -> None:
    code = """
from uuid import UUID

@auth.on.crons.search
async def of_thread(ctx, value):
    assert isinstance(value["thread_id"], UUID)
"""
    async with serve_auth(AUTH + code) as place, place.clients("ada") as (ada,):
        thread_id = (await ada.threads.create())["thread_id"]
        assert await ada.crons.search(thread_id=thread_id) == []
        assert await refused(ada.crons.search()) == 403


async def test_version_two_of_the_protocol_asks_handlers_too(serve_auth: Any) -> None:
    start = {"id": 1, "method": "run.start", "params": {"assistant_id": "chat", "input": {"text": "hi"}}}
    state = {"id": 2, "method": "state.get", "params": {}}
    async with serve_auth(SHARED) as place, place.http("ada") as ada, place.http("eve") as eve:
        path = f"/threads/{NOWHERE}"
        assert (await ada.post(f"{path}/commands", json=start)).json()["type"] == "success"
        assert (await ada.get(path)).json()["metadata"]["members"] == ["ada"]
        async with asyncio.timeout(20):
            while (await ada.get(path)).json()["status"] == "busy":
                pass
        assert (await ada.post(f"{path}/commands", json=state)).json()["result"]["values"] == {"text": "hi!"}
        for body in (start, state):
            assert (await eve.post(f"{path}/commands", json=body)).status_code == 404
        assert (await eve.post(f"{path}/stream/events", json={"channels": ["values"]})).status_code == 404
        async with place.http("ada:reader") as reader:
            assert (await reader.post(f"{path}/commands", json=state)).status_code == 200
            assert (await reader.post(f"{path}/commands", json=start)).status_code == 403


async def test_a_handler_may_change_what_a_run_gets(serve_auth: Any) -> None:
    code = """
@auth.on.threads.create_run
async def start(ctx, value):
    value["kwargs"]["input"] = {"text": ctx.user.identity + " says " + value["kwargs"]["input"]["text"]}
    value["metadata"] = {"agent": str(value["assistant_id"])}
"""
    start = {"id": 1, "method": "run.start", "params": {"assistant_id": "chat", "input": {"text": "ho"}}}
    async with serve_auth(AUTH + code) as place, place.clients("ada") as (ada,), place.http("ada") as http:
        assert (await ada.runs.wait(NOWHERE, "chat", input={"text": "hi"}, if_not_exists="create"))["text"] == (
            "ada says hi!"
        )
        agent = (await ada.assistants.get("chat"))["assistant_id"]
        assert (await ada.threads.get(NOWHERE))["metadata"]["agent"] == agent
        run = (await http.post(f"/threads/{NOWHERE}/commands", json=start)).json()["result"]["run_id"]
        assert (await ada.runs.join(NOWHERE, run))["text"] == "ada says ho!"


async def test_a_handler_may_add_what_a_command_does_not_say(serve_auth: Any) -> None:
    handler = "\n@auth.on.threads.create_run\nasync def start(ctx, value):\n    value['kwargs'] |= "
    for adds in ("{'config': {'configurable': {'tenant': 'blue'}}}", "{'context': {'tenant': 'blue'}}"):
        async with serve_auth(AUTH + handler + adds, chat=telling()) as place, place.clients("ada") as (ada,):
            thread_id = (await ada.threads.create())["thread_id"]
            await done(ada, thread_id, "run.start", assistant_id="chat", input={"text": "hi"})
            assert (await ada.threads.get_state(thread_id))["values"] == {"text": "hi, blue?"}
            first = (await ada.threads.get_history(thread_id))[1]["checkpoint"]["checkpoint_id"]
            await done(ada, thread_id, "state.fork", checkpoint_id=first)
            state = await ada.threads.get_state(thread_id)
            assert state["values"] == {"text": "hi, blue?"}
            await done(ada, thread_id, "input.respond", interrupt_id=state["interrupts"][0]["id"], response="yes")
            assert (await ada.threads.get_state(thread_id))["values"] == {"text": "blue: yes"}


async def test_a_handler_sees_which_agent_a_command_starts(serve_auth: Any) -> None:
    code = """
from uuid import UUID

asked = []

@auth.on.threads.create_run
async def start(ctx, value):
    if value["assistant_id"] == UUID("ADMIN"):
        return False
"""
    code = code.replace("ADMIN", assistant_id_of("admin"))
    async with serve_auth(AUTH + code, admin=graph()) as place, place.clients("ada") as (ada,):
        thread_id = (await ada.threads.create(metadata={"graph_id": "admin"}))["thread_id"]
        assert await refused(ada.runs.wait(thread_id, "admin", input={"text": "a"})) == 403
        at = (await ada.threads.update_state(thread_id, {"text": "a"}))["checkpoint"]["checkpoint_id"]
        assert await refused(command(ada, thread_id, "state.fork", checkpoint_id=at)) == 403
        assert await refused(command(ada, thread_id, "input.respond", interrupt_id="x", response=1)) == 403
        assert await ada.runs.list(thread_id) == []


async def test_a_handler_sees_an_answer_alike_however_it_is_sent(serve_auth: Any) -> None:
    code = """
import json

@auth.on.threads.create_run
async def start(ctx, value):
    if command := value["kwargs"].get("command"):
        raise Auth.exceptions.HTTPException(status_code=403, detail=json.dumps(command))
"""
    async with (
        serve_auth(AUTH + code, chat=telling()) as place,
        place.clients("ada") as (ada,),
        place.http("ada") as http,
    ):
        thread_id = (await ada.threads.create())["thread_id"]
        await ada.runs.wait(thread_id, "chat", input={"text": "hi"})
        (asked,) = (await ada.threads.get_state(thread_id))["interrupts"]
        answers = {asked["id"]: "yes"}
        both = {"command": {"resume": answers, "goto": "note"}}
        one = {"interrupt_id": asked["id"], "response": "yes", "goto": "note"}
        several = {"responses": [{"interrupt_id": asked["id"], "response": "yes"}], "goto": "note"}
        path = f"/threads/{thread_id}"
        sent = [
            (f"{path}/runs/wait", {"assistant_id": "chat", **both}),
            (f"{path}/commands", {"id": 1, "method": "run.start", "params": {"assistant_id": "chat", **both}}),
            (f"{path}/commands", {"id": 1, "method": "input.respond", "params": one}),
            (f"{path}/commands", {"id": 1, "method": "input.respond", "params": several}),
            (f"{path}/commands", {"id": 1, "method": "input.respond", "params": {**several, "config": 5}}),
        ]
        for way, body in sent:
            answer = await http.post(way, json=body)
            assert (answer.status_code, json.loads(answer.json()["detail"])) == (403, both["command"]), body
        only = {"assistant_id": "chat", "input": "yes"}  # which says of no question that it is the answer to that
        for params in (only, {**only, "config": 5}):
            answer = await http.post(f"{path}/commands", json={"id": 1, "method": "run.start", "params": params})
            assert (answer.status_code, json.loads(answer.json()["detail"])) == (403, {"resume": "yes"}), params
        assert len(await ada.runs.list(thread_id)) == 1


@pytest.mark.parametrize("waits", [True, False])
async def test_an_input_starts_as_what_a_handler_was_asked_about(serve_auth: Any, waits: bool) -> None:
    """Whether the thread waits for an answer may change while the handler thinks."""
    code = """
import httpx

@auth.on.threads.create_run
async def start(ctx, value):
    if ctx.user.identity == "boss":
        return
    asked = "answer" if "command" in value["kwargs"] else "input"
    value["kwargs"]["input"] = {"text": asked}
    headers = {"Authorization": "Bearer boss"}
    meanwhile = {"command": {"resume": "yes"}} if asked == "answer" else {"input": {"text": "hi"}}
    async with httpx.AsyncClient(base_url=value["metadata"].pop("url"), headers=headers) as http:
        path = "/threads/" + str(value["thread_id"]) + "/runs/wait"
        (await http.post(path, json={"assistant_id": "chat", **meanwhile})).raise_for_status()

@auth.on
async def all(ctx, value):
    return {}
"""
    async with serve_auth(AUTH + code, chat=telling()) as place, place.clients("ada", "boss") as (ada, boss):
        thread_id = (await ada.threads.create())["thread_id"]
        if waits:
            await boss.runs.wait(thread_id, "chat", input={"text": "hi"})
        said = {"assistant_id": "chat", "input": {"text": "mine"}, "metadata": {"url": place.served.url}}
        run_id = await done(ada, thread_id, "run.start", **said)
        state = await ada.threads.get_state(thread_id)
        if waits:
            assert (await ada.runs.get(thread_id, run_id))["status"] == "error"  # there is nothing to answer any more
            assert (state["values"], state["interrupts"]) == ({"text": "None: yes"}, [])
        else:
            assert state["values"] == {"text": "input, None?"}
            assert [question["value"] for question in state["interrupts"]] == ["input, None?"]


async def test_an_input_tells_nobody_that_a_thread_waits_which_he_does_not_see(serve_auth: Any) -> None:
    async with serve_auth(OWNERS, chat=telling()) as place, place.clients("ada", "bob") as (ada, bob):
        thread_id = (await ada.threads.create())["thread_id"]
        await ada.runs.wait(thread_id, "chat", input={"text": "hi"})
        answer = command(bob, thread_id, "run.start", assistant_id="chat", input="yes")
        assert await refused(answer) == 404
        await done(ada, thread_id, "run.start", assistant_id="chat", input="yes")
        assert (await ada.threads.get_state(thread_id))["values"] == {"text": "None: yes"}


async def test_the_agent_that_a_handler_was_asked_about_is_the_one_that_runs(serve_auth: Any) -> None:
    """Whose thread it is may change while the handler thinks."""
    code = """
import httpx

@auth.on.threads.create_run
async def start(ctx, value):
    headers = {"Authorization": "Bearer " + ctx.user.identity}
    async with httpx.AsyncClient(base_url=value["metadata"].pop("url"), headers=headers) as http:
        await http.patch("/threads/" + str(value["thread_id"]), json={"metadata": {"graph_id": "admin"}})
"""
    async with serve_auth(AUTH + code, admin=graph()) as place, place.clients("ada") as (ada,):
        thread_id = (await ada.threads.create(metadata={"graph_id": "chat"}))["thread_id"]
        at = (await ada.threads.update_state(thread_id, {"text": "a"}))["checkpoint"]["checkpoint_id"]
        run_id = await done(ada, thread_id, "state.fork", checkpoint_id=at, metadata={"url": place.served.url})
        assert (await ada.runs.get(thread_id, run_id))["assistant_id"] == assistant_id_of("chat")


async def test_what_no_handler_decides_on_is_whose_it_is(serve_auth: Any) -> None:
    """LangGraph's server lets everybody in there; who forgets a handler has not shared anything."""
    code = """
@auth.on.threads.read
async def read(ctx, value):
    return None
"""
    async with serve_auth(AUTH + code) as place, place.clients("ada", "bob") as (ada, bob):
        thread_id = (await ada.threads.create())["thread_id"]
        assert (await bob.threads.get(thread_id))["thread_id"] == thread_id
        assert await bob.threads.search() == []
        for asked in (
            bob.threads.delete(thread_id),
            bob.threads.update(thread_id, metadata={"x": 1}),
            bob.runs.wait(thread_id, "chat", input={"text": "x"}),
        ):
            assert await refused(asked) == 404


@pytest.mark.parametrize("closed", [True, False])
async def test_whom_a_handler_shows_no_agents_no_error_names_them(serve_auth: Any, closed: bool) -> None:
    code = f"""
@auth.on.{"assistants" if closed else "store"}
async def nobody(ctx, value):
    return False
"""
    async with serve_auth(AUTH + code) as place, place.clients("ada") as (ada,), place.http("ada") as http:
        thread_id, run = (await ada.threads.create())["thread_id"], {"assistant_id": "no", "input": {}}
        for path, body in (
            ("/runs/wait", run),
            (f"/threads/{thread_id}/runs", run),
            ("/runs/batch", [run]),
            ("/runs/crons", run | {"schedule": "* * * * *"}),
            (f"/threads/{thread_id}/commands", {"id": 1, "method": "run.start", "params": run}),
        ):
            text = (await http.post(path, json=body)).text
            assert "there is no assistant 'no'" in text
            assert ("there are chat" in text) is not closed, path


async def test_who_may_look_at_one_agent_and_search_for_none_is_told_of_no_other(serve_auth: Any) -> None:
    code = """
@auth.on.assistants.search
async def nobody(ctx, value):
    return False
"""
    async with serve_auth(AUTH + code) as place, place.http("ada") as http:
        assert (await http.get("/assistants/chat")).status_code == 200
        assert (await http.get("/assistants/no")).json()["detail"] == "there is no assistant 'no'"


@pytest.mark.parametrize("key", ["graph_id", "assistant_id"])
async def test_a_filter_by_agent_goes_by_what_a_threads_metadata_say(serve_auth: Any, key: str) -> None:
    """Which is the agent that it had last, whatever was said when it was made."""
    code = f"""
WHICH = {("chat" if key == "graph_id" else assistant_id_of("chat"))!r}

@auth.on.threads
async def one_agents(ctx, value):
    return {{{key!r}: WHICH}} if ctx.user.identity == "support" else None
"""
    async with serve_auth(AUTH + code, pay=graph()) as place, place.clients("boss", "support") as (boss, support):

        async def thread(agent: str | None, **metadata: str) -> str:
            thread_id: str = (await boss.threads.create(metadata=metadata))["thread_id"]
            if agent is not None:
                await boss.runs.wait(thread_id, agent, input={"text": "hi"})
            return thread_id

        chat, pay = assistant_id_of("chat"), assistant_id_of("pay")
        made = [await thread("chat"), await thread("chat", graph_id="pay"), await thread(None, graph_id="chat")]
        hidden = [await thread(None), await thread("pay", graph_id="chat"), await thread("pay", assistant_id=chat)]
        for thread_id in made:
            assert (await support.threads.get(thread_id))["metadata"][key] == {"graph_id": "chat"}.get(key, chat)
        for thread_id in hidden:
            assert await refused(support.threads.get(thread_id)) == 404
        assert {one["thread_id"] for one in await support.threads.search()} == {*made}
        assert await support.threads.count() == 3
        for own, found in (({"graph_id": "chat"}, 3), ({"graph_id": "pay"}, 0), ({"assistant_id": pay}, 0)):
            assert await support.threads.count(metadata=own) == found
        async with place.http("support") as http:
            assert {one["thread_id"] for one in (await http.get("/threads")).json()} == {*made}
            for thread_id, status in ((made[1], 200), (hidden[1], 404)):
                assert (await http.get("/events", params={"thread_id": thread_id})).status_code == status


async def test_a_handler_sees_of_a_thread_that_is_copied_what_clients_see(serve_auth: Any) -> None:
    code = """
@auth.on.threads.create
async def create(ctx, value):
    value["metadata"]["seen"] = value["metadata"].get("graph_id")
"""
    async with serve_auth(AUTH + code) as place, place.clients("ada") as (ada,):
        thread_id = (await ada.threads.create())["thread_id"]
        await ada.runs.wait(thread_id, "chat", input={"text": "hi"})
        copied = (await ada.threads.copy(thread_id))["metadata"]
        assert (copied["seen"], copied["graph_id"]) == ("chat", "chat")


LIFETIMES = (
    AUTH
    + """
@auth.on.threads
async def members_run_and_owners_change(ctx, value):
    if ctx.action == "create":
        value["metadata"]["owner"] = ctx.user.identity
        return None
    if ctx.action in ("update", "delete"):
        assert value.get("ttl") in (None, 5.0, {"ttl": 5.0, "strategy": "delete"}), value
        return {"owner": ctx.user.identity}
    if ctx.action == "create_run":
        value["metadata"] |= {"owner": ctx.user.identity, "members": [ctx.user.identity], "ttl": value.get("ttl")}
    return {"members": {"$contains": ctx.user.identity}}
"""
)


async def test_how_long_a_thread_lives_changes_by_a_run_of_whoever_may_change_it(serve_auth: Any) -> None:
    async with serve_auth(LIFETIMES) as place, place.clients("ada") as (ada,), place.http("bob") as bob:
        metadata = {"owner": "ada", "members": ["ada", "bob"]}
        thread_id = (await ada.threads.create(metadata=metadata))["thread_id"]
        one = {"assistant_id": "chat", "input": {"text": "hi"}}
        ways: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
            (f"/threads/{thread_id}/runs/wait", lambda ttl: one | ttl),
            (f"/threads/{thread_id}/commands", lambda ttl: {"id": 1, "method": "run.start", "params": one | ttl}),
            ("/runs/batch", lambda ttl: [one | {"thread_id": thread_id} | ttl]),
        ]
        for path, of in ways:
            for ttl in (5, {"ttl": 5}):
                assert (await bob.post(path, json=of({"ttl": ttl}))).status_code == 404, (path, ttl)
            assert (await bob.post(path, json=of({}))).status_code == 200, path
        assert "ttl" not in await ada.threads.get(thread_id)
        async with place.http("ada") as owner:
            assert (await owner.post(ways[0][0], json=one | {"ttl": 5})).status_code == 200
        assert (await ada.threads.get(thread_id))["ttl"]["ttl_minutes"] == 5


async def test_a_thread_that_a_run_makes_lives_as_long_as_the_run_says(serve_auth: Any) -> None:
    async with serve_auth(LIFETIMES) as place, place.http("bob") as bob:
        one = {"assistant_id": "chat", "input": {"text": "hi"}, "ttl": {"ttl": 5}, "if_not_exists": "create"}
        assert (await bob.post(f"/threads/{NOWHERE}/runs/wait", json=one)).status_code == 200
        made = (await bob.get(f"/threads/{NOWHERE}")).json()
        assert (made["ttl"]["ttl_minutes"], made["metadata"]["ttl"]["ttl"]) == (5, 5)


async def test_how_long_a_thread_lives_is_its_owners_where_no_handler_decides_on_changes(serve_auth: Any) -> None:
    code = """
@auth.on.threads.create_run
async def start(ctx, value):
    return None
"""
    async with serve_auth(AUTH + code) as place, place.clients("ada") as (ada,), place.http("bob") as bob:
        thread_id = (await ada.threads.create())["thread_id"]
        path, one = f"/threads/{thread_id}/runs/wait", {"assistant_id": "chat", "input": {"text": "hi"}}
        assert (await bob.post(path, json=one)).status_code == 200
        assert (await bob.post(path, json={**one, "ttl": 5})).status_code == 404
        async with place.http("ada") as owner:
            assert (await owner.post(path, json={**one, "ttl": 5})).status_code == 200


async def test_who_loses_a_race_for_an_id_does_not_say_how_long_the_winners_thread_lives(serve_auth: Any) -> None:
    code = """
import httpx

@auth.on.threads.create_run
async def start(ctx, value):
    async with httpx.AsyncClient(base_url=value["metadata"]["url"], headers={"Authorization": "Bearer ada"}) as http:
        (await http.post("/threads", json={"thread_id": str(value["thread_id"])})).raise_for_status()

@auth.on.threads.update
async def change(ctx, value):
    return {"owner": ctx.user.identity}
"""
    async with serve_auth(AUTH + code) as place, place.clients("ada") as (ada,), place.http("bob") as bob:
        one = {"assistant_id": "chat", "input": {"text": "hi"}, "ttl": 5, "if_not_exists": "create"}
        url = {"metadata": {"url": place.served.url}}
        assert (await bob.post(f"/threads/{NOWHERE}/runs/wait", json=one | url)).status_code == 404
        assert "ttl" not in await ada.threads.get(NOWHERE)


async def test_several_threads_are_each_decided_on(serve_auth: Any) -> None:
    async with serve_auth(SHARED) as place, place.clients("ada", "eve") as (ada, eve):
        hers = (await ada.threads.create())["thread_id"]
        theirs = (await ada.threads.create(metadata={"members": ["ada", "eve"]}))["thread_id"]
        assert (await eve.threads.prune([hers, theirs, NOWHERE]))["pruned_count"] == 1
        assert [one["thread_id"] for one in await ada.threads.search()] == [hers]
        async with place.http("eve") as http:
            body = {"thread_id": hers, "run_ids": [NOWHERE]}
            assert (await http.post("/runs/cancel", json=body)).status_code == 404


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


TENANTS = (
    AUTH
    + """
@auth.on.threads.create_run
async def start(ctx, value):
    if "reader" in ctx.permissions:
        return False
    config = value["kwargs"].get("config") or {}
    configurable = {**config.get("configurable", {}), "tenant": ctx.user.identity}
    value["kwargs"]["config"] = {**config, "configurable": configurable}
    value["metadata"] = {**value["metadata"], "agent": str(value["assistant_id"])}
"""
)


async def test_what_a_handler_makes_of_runs_holds_for_those_of_a_threads_crons(serve_auth: Any) -> None:
    elsewhere: Any = {"configurable": {"tenant": "bob", "tone": "soft"}}
    async with serve_auth(TENANTS) as place, place.clients("ada", "ada:reader") as (ada, reader):
        thread_id = (await ada.threads.create())["thread_id"]
        asked = {"schedule": "0 0 1 1 *", "input": {"text": "x"}, "config": elsewhere, "metadata": {"n": 1}}
        made = await ada.crons.create_for_thread(thread_id, "chat", **asked)
        cron_id = made["cron_id"]
        changed = await ada.crons.update(cron_id, input={"text": "y"}, config=elsewhere)
        renamed = await ada.crons.update(cron_id, metadata={"n": 2})
        for update in ({"input": {"text": "z"}}, {"schedule": "* * * * *"}):
            assert await refused(reader.crons.update(cron_id, **update)) == 403
        assert await refused(reader.crons.update(cron_id, enabled=False, config=elsewhere)) == 403
        stopped = await reader.crons.update(cron_id, enabled=False)  # it starts nothing any more
        moved = await ada.crons.update(cron_id, config=elsewhere)
        assert await refused(reader.crons.update(cron_id, enabled=True)) == 403
        again = await ada.crons.update(cron_id, enabled=True)

    for one in (made, changed, renamed, moved, again):
        assert one["payload"]["config"] == {"configurable": {"tenant": "ada", "tone": "soft"}}
        assert one["metadata"]["agent"] == assistant_id_of("chat")
    assert [one["payload"]["input"]["text"] for one in (made, changed, stopped, again)] == ["x", "y", "y", "y"]
    assert again["metadata"]["n"] == 2


PREFACED = """
@auth.on.threads.create_run
async def start(ctx, value):
    value["kwargs"]["input"] = {"text": "Be kind. " + value["kwargs"]["input"]["text"]}
"""

FOUND_BY_MAKER = """
@auth.on.threads.create_run
async def start(ctx, value):
    value["metadata"] = {"started_by": ctx.user.identity}

@auth.on.crons
async def made_by(ctx, value):
    if ctx.action == "create":
        value["metadata"]["made_by"] = ctx.user.identity
    return {"made_by": ctx.user.identity}
"""

EVERYBODYS = """
@auth.on.crons
async def everybodys(ctx, value):
    return True
"""


@pytest.mark.parametrize(
    ("code", "who"), [(AUTH + PREFACED, "ada"), (AUTH + FOUND_BY_MAKER, "ada"), (TENANTS + EVERYBODYS, "ops")]
)
async def test_a_handler_makes_of_what_a_crons_runs_get_what_it_makes_of_it_once(
    serve_auth: Any, code: str, who: str
) -> None:
    asked: Any = {"input": {"text": "Go."}, "config": {"configurable": {"tone": "soft"}}, "metadata": {"n": 1}}
    async with serve_auth(code) as place, place.clients("ada", who) as (ada, changes):
        thread_id = (await ada.threads.create())["thread_id"]
        made = await ada.crons.create_for_thread(thread_id, "chat", schedule="0 0 1 1 *", **asked)
        cron_id = made["cron_id"]
        for update in ({"timezone": "Europe/Berlin"}, {"timezone": "UTC"}, {"enabled": False}, {"enabled": True}):
            changed = await changes.crons.update(cron_id, **update)
            assert (changed["payload"], changed["metadata"]) == (made["payload"], made["metadata"])
        named = await changes.crons.update(cron_id, metadata={"n": 2}, config={"configurable": {"tone": "loud"}})
        assert named["payload"]["input"] == made["payload"]["input"]
        assert named["payload"]["config"]["configurable"]["tone"] == "loud"
        assert named["metadata"].keys() == made["metadata"].keys()
        assert [one["cron_id"] for one in await ada.crons.search()] == [cron_id]


async def test_who_may_not_start_runs_makes_no_cron_that_starts_them(serve_auth: Any) -> None:
    code = """
@auth.on.threads.create_run
async def two_people(ctx, value):
    return ctx.user.identity in ("ada", "grace")

@auth.on.crons.update
async def everybodys(ctx, value):
    return True
"""
    asked: Any = {"schedule": "0 0 1 1 *", "input": {"text": "x"}}
    async with serve_auth(AUTH + code) as place, place.clients("ada", "eve") as (ada, eve):
        assert await refused(eve.runs.create(None, "chat", input={"text": "x"})) == 403
        assert await refused(eve.crons.create("chat", **asked)) == 403
        assert await eve.crons.search() == []
        cron_id = (await ada.crons.create("chat", **asked))["cron_id"]
        for update in ({"input": {"text": "y"}}, {"schedule": "* * * * *"}, {"enabled": True}):
            assert await refused(eve.crons.update(cron_id, **update)) == 403
        assert (await eve.crons.update(cron_id, enabled=False))["enabled"] is False  # it starts nothing any more


async def test_what_a_handler_makes_of_runs_holds_for_those_of_crons_without_a_thread(serve_auth: Any) -> None:
    code = """
@auth.on.threads
async def mine(ctx, value):
    value["metadata"]["owner"] = ctx.user.identity
    if ctx.action == "create_run":
        value["kwargs"]["config"] = {"configurable": {"tenant": ctx.user.identity}}
        assert value["thread_id"] is None
    return {"owner": ctx.user.identity}
"""
    async with serve_auth(AUTH + code) as place, place.clients("ada") as (ada,):
        asked: Any = {"schedule": "0 0 1 1 *", "input": {"text": "x"}, "metadata": {"n": 1}}
        cron = await ada.crons.create("chat", on_run_completed="keep", **asked)
        changed = await ada.crons.update(cron["cron_id"], config={"configurable": {"tenant": "bob"}})
        assert changed["payload"]["config"] == cron["payload"]["config"] == {"configurable": {"tenant": "ada"}}
        app = place.served.app
        spec = spec_for(app, await app.store.crons.get(cron["cron_id"]))
        assert spec.thread_metadata == {"n": 1, "owner": "ada", "cron_id": cron["cron_id"]}
        await (await app.manager.start(spec)).result()
        [kept] = await ada.threads.search()
        assert kept["values"] == {"text": "x!"}


async def test_who_may_change_a_cron_may_not_for_that_reason_start_runs_on_its_thread(serve_auth: Any) -> None:
    code = """
@auth.on.crons
async def everybodys(ctx, value):
    return True

@auth.on.threads
async def members(ctx, value):
    if ctx.action == "create":
        value["metadata"]["member"] = ctx.user.identity
    return {"member": ctx.user.identity}
"""
    async with serve_auth(AUTH + code) as place, place.clients("ada", "bob") as (ada, bob):
        thread_id = (await ada.threads.create())["thread_id"]
        cron = await ada.crons.create_for_thread(thread_id, "chat", schedule="0 0 1 1 *", input={"text": "x"})
        assert await refused(bob.crons.update(cron["cron_id"], input={"text": "his"})) == 404
        kept = await ada.crons.update(cron["cron_id"], timezone="Europe/Berlin")
        assert kept["payload"]["input"] == {"text": "x"}


async def test_a_handler_sees_of_a_command_what_it_would_see_of_a_request(
    serve_auth: Any, caplog: pytest.LogCaptureFixture
) -> None:
    code = """
@auth.on.threads
async def mine(ctx, value):
    value["metadata"].update(owner=ctx.user.identity)
    if value.get("multitask_strategy") == "rollback":
        return False
"""
    asked = {"assistant_id": "chat", "input": {"text": "hi"}}
    sent = [
        ("run.start", {**asked, "multitask_strategy": "rollback"}, 403),
        ("run.start", {**asked, "multitaskStrategy": "rollback"}, 403),
        ("run.start", {**asked, "metadata": "x"}, 200),  # which is not done, and says why, as are the next ones
        ("run.start", {**asked, "config": 5}, 200),
        ("run.start", {**asked, "config": 5, "multitaskStrategy": "rollback"}, 403),
        ("state.fork", {"checkpoint_id": "x", "metadata": ["x"]}, 200),
        ("state.get", {"metadata": "x"}, 200),
        ("run.start", {**asked, "multitaskStrategy": "enqueue"}, 200),
    ]
    async with serve_auth(AUTH + code) as place, place.clients("ada") as (ada,), place.http("ada") as http:
        thread_id = (await ada.threads.create())["thread_id"]
        answers = [
            await http.post(f"/threads/{thread_id}/commands", json={"id": 1, "method": method, "params": params})
            for method, params, _ in sent
        ]
        assert len(await ada.runs.list(thread_id)) == 1

    assert [answer.status_code for answer in answers] == [status for _, _, status in sent]
    done = [answer.json() for answer in answers if answer.status_code == 200]
    assert [one.get("error") for one in done] == ["invalid_argument"] * 4 + [None]
    assert "metadata has to be an object" in done[0]["message"]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_handler_of_changed_crons_is_told_none_of_an_end_that_stays(serve_auth: Any) -> None:
    code = """
@auth.on.crons.update
async def ends_soon(ctx, value):
    if value["end_time"] is not None and value["end_time"].year > 2040:
        return False
"""
    end = datetime(2039, 1, 1, tzinfo=UTC)
    async with serve_auth(AUTH + code) as place, place.clients("ada") as (ada,):
        made = await ada.crons.create("chat", schedule="0 0 1 1 *", input={"text": "x"}, end_time=end)
        moved = await ada.crons.update(made["cron_id"], schedule="0 1 1 1 *")
        stopped = await ada.crons.update(made["cron_id"], enabled=False)
        assert await refused(ada.crons.update(made["cron_id"], end_time=end.replace(year=2041))) == 403
    assert (moved["schedule"], stopped["enabled"]) == ("0 1 1 1 *", False)
    assert made["end_time"] == moved["end_time"] == stopped["end_time"]


class Bought(TypedDict, total=False):
    tenant: str
    tier: str


def telling_twice() -> Any:
    """Tells what is configured, and its context."""

    def tell(state: Text, config: RunnableConfig, runtime: Runtime[Bought]) -> Text:
        both = config["configurable"], runtime.context or {}
        return {"text": "; ".join(f"{one.get('tenant')} {one.get('tier')}" for one in both)}

    builder: Any = StateGraph(Text, context_schema=Bought)
    return builder.add_node("tell", tell).add_edge(START, "tell").compile()


TIERS = """
@auth.on.threads.create_run
async def start(ctx, value):
    options = value["kwargs"]
    if into := value["metadata"].get("into"):
        (options["config"]["configurable"] if into == "configurable" else options["context"])["tier"] = "gold"
"""


@pytest.mark.parametrize("into", ["configurable", "context"])
async def test_a_handler_finds_a_config_and_a_context_to_put_something_into(serve_auth: Any, into: str) -> None:
    of_configured = None if into == "context" else "gold"  # of what the client has said of the other one
    of_context = None if into == "configurable" else "gold"
    said: list[tuple[dict[str, Any], str]] = [
        ({}, "None gold; None gold"),
        ({"config": {"configurable": None, "tags": ["a"]}}, "None gold; None gold"),
        ({"config": {"configurable": {"tenant": "blue"}}}, f"blue {of_configured}; blue gold"),
        ({"context": {"tenant": "blue"}}, f"blue gold; blue {of_context}"),
    ]
    async with serve_auth(AUTH + TIERS, chat=telling_twice()) as place, place.clients("ada") as (ada,):
        app = place.served.app
        for options, told in said:
            asked: dict[str, Any] = {**options, "input": {"text": "hi"}, "metadata": {"into": into}}
            assert (await ada.runs.wait(None, "chat", **asked))["text"] == told, options
            (run,) = await ada.runs.create_batch([{"assistant_id": "chat", "on_completion": "keep", **asked}])
            assert (await ada.runs.join(run["thread_id"], run["run_id"]))["text"] == told, options
            thread_id = (await ada.threads.create())["thread_id"]
            await done(ada, thread_id, "run.start", assistant_id="chat", **asked)
            state = await ada.threads.get_state(thread_id)
            assert state["values"]["text"] == told, options
            before = (await ada.threads.get_history(thread_id))[1]["checkpoint"]["checkpoint_id"]
            fork = {**options, "checkpoint_id": before, "metadata": {"into": into}}
            await done(ada, thread_id, "state.fork", **fork)
            assert (await ada.threads.get_state(thread_id))["values"]["text"] == told, options
            cron = await ada.crons.create_for_thread(thread_id, "chat", schedule="0 0 1 1 *", **asked)
            await (await app.manager.start(spec_for(app, await app.store.crons.get(cron["cron_id"])))).result()
            assert (await ada.threads.get_state(thread_id))["values"]["text"] == told, options


async def test_what_a_handler_leaves_of_a_run_is_as_the_client_has_said_it(serve_auth: Any) -> None:
    said: list[dict[str, Any]] = [
        {},
        {"config": {}},
        {"config": {"configurable": {}}},
        {"config": {"configurable": {"tenant": "blue"}}},
        {"config": {"tags": ["a"]}, "context": {"tenant": "blue"}},
        {"config": {"configurable": {"tier": "tin"}}, "context": {"tenant": "blue"}},
        {"context": "blue"},
    ]
    kept: list[list[Any]] = []
    for code in ("", TIERS):
        async with serve_auth(AUTH + code, chat=telling_twice()) as place, place.http("ada") as http:
            runs = [
                (await http.post("/runs", json={"assistant_id": "chat", "input": {"text": "hi"}, **options})).json()
                for options in said
            ]
            crons = [
                await http.post("/runs/crons", json={"assistant_id": "chat", "schedule": "0 0 1 1 *", **options})
                for options in said
            ]
            kept.append([run["kwargs"] for run in runs] + [cron.json()["payload"] for cron in crons])
    assert kept[0] == kept[1]


async def test_a_handler_is_told_what_becomes_of_a_run_that_does_not_say_it(serve_auth: Any) -> None:
    code = """
import json

@auth.on.threads.create_run
async def start(ctx, value):
    told = [value[name] for name in ("multitask_strategy", "if_not_exists", "after_seconds")]
    raise Auth.exceptions.HTTPException(status_code=403, detail=json.dumps(told))
"""
    run, others = {"assistant_id": "chat"}, {"multitask_strategy": "reject", "after_seconds": 5}
    answer = {"interrupt_id": "of-nothing", "response": "yes", "assistant_id": "chat"}
    async with serve_auth(AUTH + code) as place, place.http("ada") as http:
        thread = f"/threads/{(await http.post('/threads', json={})).json()['thread_id']}"
        for path, body, told in (
            (f"{thread}/runs", run, ["enqueue", "reject", 0]),
            (f"{thread}/runs", {**run, **others, "if_not_exists": "create"}, ["reject", "create", 5]),
            ("/runs", run, ["enqueue", "create", 0]),
            (f"{thread}/commands", {"id": 1, "method": "run.start", "params": run}, ["enqueue", "create", 0]),
            (f"{thread}/commands", {"id": 1, "method": "input.respond", "params": answer}, ["enqueue", "reject", 0]),
            (f"{thread}/runs/crons", {**run, "schedule": "0 0 1 1 *"}, ["enqueue", "reject", 0]),
        ):
            assert json.loads((await http.post(path, json=body)).json()["detail"]) == told, (path, body)


async def test_a_handler_of_new_crons_finds_a_config_to_put_something_into(serve_auth: Any) -> None:
    code = """
@auth.on.crons.create
async def create(ctx, value):
    value["payload"]["config"]["configurable"]["tier"] = "gold"
"""
    async with serve_auth(AUTH + code) as place, place.clients("ada") as (ada,):
        for options, configurable in (
            ({}, {"tier": "gold"}),
            ({"config": {"configurable": {"tenant": "blue"}}}, {"tenant": "blue", "tier": "gold"}),
            ({"context": {"tenant": "blue"}}, {"tenant": "blue", "tier": "gold"}),
        ):
            cron = await ada.crons.create("chat", schedule="0 0 1 1 *", input={"text": "x"}, **options)
            assert cron["payload"]["config"] == {"configurable": configurable}


async def test_what_a_handler_of_runs_puts_into_the_config_of_a_cron_may_be_no_json(serve_auth: Any) -> None:
    code = """
from pathlib import PurePosixPath

class User:
    def __repr__(self):
        return "ada herself"

@auth.on.threads.create_run
async def start(ctx, value):
    value["kwargs"]["config"]["configurable"] |= {"user": User(), "home": PurePosixPath("/home/ada")}
"""
    async with serve_auth(AUTH + code) as place, place.clients("ada") as (ada,):
        thread = (await ada.threads.create())["thread_id"]
        asked: dict[str, Any] = {"schedule": "0 0 1 1 *", "input": {"text": "x"}}
        for cron in (
            await ada.crons.create("chat", **asked, config={"configurable": {"tenant": "blue"}}),
            await ada.crons.create_for_thread(thread, "chat", **asked),
        ):
            configurable = cron["payload"]["config"]["configurable"]
            assert configurable["user"] == "ada herself"
            assert configurable["home"] == "/home/ada"


async def test_what_is_deep_is_shown_to_a_handler_or_refused_and_breaks_nothing(serve_auth: Any) -> None:
    code = """
@auth.on
async def anything(ctx, value):
    return None
"""
    async with serve_auth(AUTH + code) as place, place.http("ada") as http:
        for depth in (500, 900, 2_000):
            deep = "[" * depth + "]" * depth
            for options in (f'"context": {{"x": {deep}}}', f'"config": {{"configurable": {{"x": {deep}}}}}'):
                body = f'{{"assistant_id": "chat", "input": {{"text": "x"}}, {options}}}'
                answer = await http.post("/runs/wait", content=body, headers={"content-type": "application/json"})
                assert answer.status_code in {200, 422}, (depth, answer.text[:200])
