"""Crons where authorization handlers decide: who sees and changes them, and what handlers make of their runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.integration.server.handler_projects import AUTH, SHARED, refused, spec_for

from trackside.harness.ids import assistant_id_of


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
