"""Who may say how long a thread lives, where authorization handlers decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.integration.server.handler_projects import AUTH, NOWHERE

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
