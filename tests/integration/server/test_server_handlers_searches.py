"""What authorization handlers leave of searches, lists and counts of threads."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from dialects import BOTH
from tests.integration.server.handler_projects import AUTH, OWNERS, command, graph, refused

from trackside.app.cli.records.remote import RemoteRecords
from trackside.app.cli.records.remote_connection import Connection
from trackside.app.server.routes import thread_records
from trackside.harness.ids import assistant_id_of

DIALECTS = BOTH


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
