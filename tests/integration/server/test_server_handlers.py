"""Authorization handlers as projects for LangGraph's server have them, on each database: what they let whom see."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph_sdk.errors import ConflictError
from tests.integration.server.handler_projects import AUTH, EACH, NOWHERE, OWNERS, SHARED, refused, spec_for


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


@pytest.mark.parametrize("project", [OWNERS, EACH])
async def test_only_who_may_have_the_thread_with_an_id_that_is_taken_is_sent_to_it(
    serve_auth: Any, project: str
) -> None:
    async with serve_auth(project) as place, place.clients("ada", "bob") as (ada, bob):
        thread_id = (await ada.threads.create())["thread_id"]
        told = []
        for client in (ada, bob):
            with pytest.raises(ConflictError) as taken:
                await client.threads.create(thread_id=thread_id)
            told.append("do_nothing" in taken.value.body["detail"])
        assert told == [True, False]


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


async def test_several_threads_are_each_decided_on(serve_auth: Any) -> None:
    async with serve_auth(SHARED) as place, place.clients("ada", "eve") as (ada, eve):
        hers = (await ada.threads.create())["thread_id"]
        theirs = (await ada.threads.create(metadata={"members": ["ada", "eve"]}))["thread_id"]
        assert (await eve.threads.prune([hers, theirs, NOWHERE]))["pruned_count"] == 1
        assert [one["thread_id"] for one in await ada.threads.search()] == [hers]
        async with place.http("eve") as http:
            body = {"thread_id": hers, "run_ids": [NOWHERE]}
            assert (await http.post("/runs/cancel", json=body)).status_code == 404


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
