"""What stands before the console: what a page of ours is, and what those find who are strangers.

Everything is driven by the list of the console's endpoints: a new page or action is walked over as soon as it is there.
"""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from typing import Any, override
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from running_server import serving
from tests.integration.server.console_visits import (
    ACTIONS,
    AGENTS,
    ENDPOINTS,
    FOREIGN,
    OWN,
    PAGES,
    SECRET,
    browsing,
    filled,
    form_of,
    inventory,
    served_with_keys,
    things_of_ada,
)

from trackside.app.dashboard.assets import NAMES
from trackside.app.server.front import Front
from trackside.app.server.log import ServerLog
from trackside.app.server.principal import Permission
from trackside.app.server.routing import EVENT_STREAM
from trackside.app.settings import AccessSettings
from trackside.app.storage._subscriptions import consumer as consumer_module
from trackside.testing import make_run

DIALECTS = ("sqlite",)

type ServeAgents = Callable[..., Any]


async def test_no_action_is_done_for_a_page_of_elsewhere(serve_agents: ServeAgents) -> None:
    assert {one.method for one in ACTIONS} == {"POST"}
    assert all(one.path.startswith("/ui/") and one.form for one in ACTIONS)
    async with (
        served_with_keys(serve_agents) as (served, keys),
        browsing(served.url, keys["root"]) as root,
        browsing(served.url, keys["ada"]) as ada,
    ):
        things = {**await things_of_ada(served.url, keys["ada"]), "name": "mail", "key": keys["root"], "agent": "chat"}
        await served.app.store.subscriptions.open("mail", start="beginning")
        before = await inventory(served.app.store)
        good, hers = await root.token("/ui"), await ada.token("/ui")
        assert good == await root.token("/ui/runs")  # of the same session
        nobodys = await root.token()
        random = root.http.cookies["trackside_token"]
        tries: list[tuple[str, dict[str, str], dict[str, str]]] = [
            ("nothing", {}, {}),
            ("an empty one", {"csrf": ""}, {}),
            ("a wrong one", {"csrf": "0" * 64}, {}),
            ("the cookie itself", {"csrf": random}, {}),
            ("that of somebody else", {"csrf": hers}, {}),
            ("a wrong header", {"csrf": good}, {"x-csrf-token": hers}),
            ("a page of elsewhere", {"csrf": good}, {"sec-fetch-site": "cross-site"}),
            ("a page of a neighbour", {"csrf": good}, {"sec-fetch-site": "same-site"}),
        ]
        wrong: list[str] = []
        for action in ACTIONS:
            path, form = filled(action, things), form_of(action, things)
            for what, more, headers in tries:
                for script in ({}, {"hx-request": "true"}):
                    answer = await root.http.post(path, data={**form, **more}, headers={**headers, **script})
                    if answer.status_code != 403 or FOREIGN not in html.unescape(answer.text):
                        wrong.append(f"{path} with {what}: {answer.status_code} {answer.text[-300:]}")
            answer = await root.http.post(f"{path}?csrf={good}", data=form)
            if answer.status_code != 403:
                wrong.append(f"{path} takes the token from its address: {answer.status_code}")
            of_another = good if path == "/ui/sign-in" else nobodys
            answer = await root.http.post(path, data={**form, "csrf": of_another})
            if answer.status_code != 403:
                wrong.append(f"{path} takes a token of nobody's, or signs in with somebody's: {answer.status_code}")
        assert not wrong, "\n".join(wrong)
        assert await inventory(served.app.store) == before

        signing = [one for one in ACTIONS if one.path.startswith("/ui/sign-")]
        for action in [one for one in ACTIONS if one not in signing] + signing:
            form = {**form_of(action, things), "csrf": nobodys if action.path == "/ui/sign-in" else good}
            answer = await root.http.post(filled(action, things), data=form, headers={"hx-request": "true"})
            assert FOREIGN not in html.unescape(answer.text), action.path
            assert answer.status_code < 500, (action.path, answer.text)
        assert await inventory(served.app.store) != before, "with the token something is done"


async def test_with_a_cookie_the_api_takes_nothing_but_from_our_pages(serve_agents: ServeAgents) -> None:
    async with served_with_keys(serve_agents) as (served, keys), browsing(served.url, keys["ada"]) as ada:
        assert (await ada.http.get("/runs")).status_code == 200
        before = await inventory(served.app.store)
        for method, path in (("POST", "/threads"), ("DELETE", f"/threads/{uuid4()}"), ("PUT", "/store/items")):
            answer = await ada.http.request(method, path, json={})
            assert (answer.status_code, FOREIGN in answer.json()["detail"]) == (403, True)
        assert await inventory(served.app.store) == before
        token = await ada.token("/ui")
        made = await ada.http.post("/threads", json={}, headers={"x-csrf-token": token})
        assert made.status_code == 200
        headers = {"x-csrf-token": token, "sec-fetch-site": "same-site"}
        assert (await ada.http.post("/threads", json={}, headers=headers)).status_code == 403
        for site, status in (("same-site", 403), ("cross-site", 403), ("same-origin", 200), ("none", 200)):
            looked = await ada.http.get("/runs", headers={"sec-fetch-site": site})
            assert looked.status_code == status, "reading may cancel a run whose reader goes"
        linked = await ada.http.get("/ui/runs", headers={"sec-fetch-site": "same-site"})
        assert linked.status_code == 200, "others may link to pages"
        with_key = await ada.http.post("/threads", json={}, headers={"x-api-key": keys["bob"]})
        assert with_key.status_code == 200, "who says who he is by a header is no browser"
        owner = (await served.app.store.thread(with_key.json()["thread_id"])).owner
        assert owner == "bob", "and the header counts"


async def test_what_somebody_may_not_do_is_refused_whatever_the_page_shows(serve_agents: ServeAgents) -> None:
    async with served_with_keys(serve_agents) as (served, keys):
        things = {**await things_of_ada(served.url, keys["ada"]), "name": "mail", "agent": "chat"}
        await served.app.store.subscriptions.open("mail", start="beginning")
        before = await inventory(served.app.store)
        for who, lacks in (("reader", {Permission.run, Permission.admin}), ("ada", {Permission.admin})):
            async with browsing(served.url, keys[who]) as somebody:
                token = await somebody.token("/ui")
                for action in ACTIONS:
                    if action.needs in lacks:
                        form = {**form_of(action, things), "csrf": token}
                        answer = await somebody.http.post(filled(action, things), data=form)
                        assert answer.status_code == 403, (who, action.path, answer.text[-500:])
                for endpoint in PAGES:
                    if endpoint.media_type == EVENT_STREAM:
                        continue
                    answer = await somebody.http.get(filled(endpoint, things))
                    assert answer.status_code < 500, (who, endpoint.path, answer.text[-2_000:])
                    shown = set(re.findall(r'(?:action|data-hx-post)="([^"?]+)', answer.text))
                    for action in ACTIONS:
                        if action.needs in lacks:
                            like = re.compile(re.sub(r"{[^}]+}", "[^/]+", action.path))
                            assert not [one for one in shown if like.fullmatch(one)], (who, endpoint.path, action.path)
        assert await inventory(served.app.store) == before


@pytest.mark.parametrize("auth", ["keys", "handlers"])
async def test_a_stranger_finds_nothing_of_others_on_any_page(
    serve_agents: ServeAgents, tmp_path: Path, auth: str
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    settings = {} if auth == "keys" else {"access": AccessSettings(auth=f"{tmp_path / 'own.py'}:auth")}
    async with served_with_keys(serve_agents, **settings) as (served, keys):
        ada, bob = (keys["ada"], keys["bob"]) if auth == "keys" else ("user-ada", "user-bob")
        things = await things_of_ada(served.url, ada)
        secrets = [SECRET, things["thread_id"], *things["run_ids"]]
        found: list[str] = []
        before = await inventory(served.app.store)
        async with browsing(served.url, bob) as stranger, browsing(served.url, ada) as herself:
            for endpoint in PAGES:
                if endpoint.media_type == EVENT_STREAM:
                    continue
                path, names = filled(endpoint, things), endpoint.path.count("{")
                for query in (
                    "",
                    "?thread_id={thread_id}&run_id={run_id}&thread={thread_id}&run={run_id}".format_map(things),
                    f"?text={SECRET[:5]}&q={SECRET[:5]}",
                ):
                    answer = await stranger.http.get(path + query)
                    said = (
                        answer.text.replace(path, "").replace(quote(query, safe=""), "").replace(html.escape(query), "")
                    )
                    if answer.status_code >= 500:
                        found.append(f"{path} fails: {answer.status_code} {answer.text[-1_500:]}")
                    leaked = (
                        [secret for secret in secrets if secret in said] if not query else [SECRET][: SECRET in said]
                    )
                    if leaked and answer.status_code < 400:
                        found.append(
                            f"{path}{query} shows {leaked}: {said[max(0, said.find(leaked[0]) - 300) :][:600]}"
                        )
                    if (
                        names
                        and endpoint.needs is not Permission.public
                        and {"thread_id", "run_id"} & set(re.findall(r"{(\w+)", endpoint.path))
                    ):
                        if answer.status_code not in {403, 404}:
                            found.append(f"{path} is hers: {answer.status_code}")
                        its_own = await herself.http.get(path)
                        if its_own.status_code != 200:
                            found.append(f"{path} is not seen by herself: {its_own.status_code} {its_own.text[-800:]}")
                        nothing = await stranger.http.get(filled(endpoint, {}))
                        if (answer.status_code, its(answer)) != (nothing.status_code, its(nothing)):
                            found.append(f"{path} says that there is something: {its(answer)} != {its(nothing)}")
            token = await stranger.token("/ui")
            for action in ACTIONS:
                if not action.path.startswith("/ui/sign-"):
                    form = {**form_of(action, {**things, "agent": "chat"}), "csrf": token}
                    answer = await stranger.http.post(filled(action, things), data=form, headers={"hx-request": "true"})
                    if SECRET in answer.text or answer.status_code >= 500:
                        found.append(f"POST {action.path}: {answer.status_code} {answer.text[:300]}")
        assert not found, "\n".join(dict.fromkeys(found))
        after = await inventory(served.app.store)
        hers = set(before[2])
        assert hers <= set(after[2])
        for run_id in hers:
            run = await served.app.store.run(run_id)
            assert run is not None
            assert run.status in {"success", "error"}


def its(answer: httpx.Response) -> str:
    """What a page says, without ids and tokens."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", answer.text)
    return re.sub(r"[0-9a-f]{64}", "TOKEN", text.partition("<main")[2].partition("</main>")[0])


async def test_a_stranger_is_told_of_nothing_live(serve_agents: ServeAgents, tmp_path: Path) -> None:
    async with served_with_keys(serve_agents) as (served, keys), browsing(served.url, keys["bob"]) as stranger:
        things = await things_of_ada(served.url, keys["ada"])
        for name in ("run_id", "thread_id"):
            for path in ("/ui/live", "/ui/log/stream"):
                assert (await stranger.http.get(f"{path}?{name}={things[name]}")).status_code == 404
        assert (await stranger.http.get("/ui/subscription/live")).status_code == 403
        async with stranger.http.stream("GET", "/ui/live") as answer:
            lines = answer.aiter_lines()
            await things_of_ada(served.url, keys["ada"])
            await things_of_ada(served.url, keys["bob"])
            seen: list[str] = []
            async with asyncio.timeout(20):
                async for line in lines:
                    seen.append(line)
                    if line == "event: changed":
                        break
        position = int(next(line for line in reversed(seen) if line.startswith("id:"))[3:])
        hers = [stored for stored in await served.app.store.events(limit=1_000) if stored.position == position]
        assert hers[0].event.thread_id != things["thread_id"]
        assert (await served.app.store.thread(hers[0].event.thread_id)).owner == "bob"
    (tmp_path / "own.py").write_text(OWN)
    access = AccessSettings(auth=f"{tmp_path / 'own.py'}:auth")
    async with serve_agents(AGENTS, access=access) as served, browsing(served.url, "user-bob") as stranger:
        things = await things_of_ada(served.url, "user-ada")
        assert (await stranger.http.get(f"/ui/live?run_id={things['run_id']}")).status_code == 404
        for query in ("", "?agent=chat"):  # no event says whose it is: pages look now and then
            async with stranger.http.stream("GET", f"/ui/live{query}") as answer:
                assert answer.status_code == 200
                assert await anext(answer.aiter_lines()) == "event: beat"


def test_these_alone_are_for_everybody() -> None:
    public = {(one.method, one.path) for one in ENDPOINTS if one.needs is Permission.public}
    signing = {("GET", "/ui/sign-in"), ("POST", "/ui/sign-in"), ("POST", "/ui/sign-out")}
    static = {("GET", f"/ui/static/{name}") for name in NAMES}
    assert public == signing | static | {("GET", "/ui/{rest:path}")}


async def test_pages_are_closed_to_frames_and_to_what_is_not_ours(serve_agents: ServeAgents) -> None:
    async with served_with_keys(serve_agents) as (served, keys), browsing(served.url, keys["root"]) as root:
        things = await things_of_ada(served.url, keys["ada"])
        for endpoint in PAGES:
            if endpoint.media_type == EVENT_STREAM:
                continue
            answer = await root.http.get(filled(endpoint, things))
            policy = answer.headers["content-security-policy"]
            if answer.headers["content-type"].startswith("text/html"):
                directives = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
                assert directives["default-src"] == directives["frame-ancestors"] == directives["base-uri"] == "'none'"
                assert directives["script-src"] == directives["style-src"] == directives["form-action"] == "'self'"
                assert "unsafe" not in policy
                assert answer.headers["x-frame-options"] == "DENY"
                body = answer.text
                assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", body), (
                    endpoint.path
                )
            assert answer.headers["cache-control"] == "no-store", endpoint.path
            assert answer.headers["x-content-type-options"] == "nosniff"
        for name in NAMES:
            answer = await root.http.get(f"/ui/static/{name}")
            assert answer.status_code == 200
            assert answer.headers["x-content-type-options"] == "nosniff"
        for path in ("/ui/static/../assets.py", "/ui/static/nothing.js", "/ui/static/%2e%2e/assets.py"):
            assert (await root.http.get(path)).status_code == 404


async def test_no_key_and_no_cookie_is_logged(serve_agents: ServeAgents, tmp_path: Path) -> None:
    logged = tmp_path / "log"
    with logged.open("w", encoding="utf-8") as file, ServerLog(file, as_json=True) as log:
        note = partial(log.say, "request")
        async with (
            served_with_keys(serve_agents) as (served, keys),
            serving(Front(served.app.asgi, note=note)) as url,
            browsing(url) as somebody,
        ):
            await somebody.sign_in("a-wrong-key-of-somebody's")
            await somebody.sign_in(keys["root"])
            token = await somebody.token("/ui")
            await somebody.http.get("/ui/nowhere")
            await somebody.http.post("/ui/sign-out", data={"csrf": token})
    said = await asyncio.to_thread(logged.read_text, "utf-8")
    assert said.count("/ui/sign-in") >= 2
    assert "/ui/sign-out" in said
    for secret in (keys["root"], "a-wrong-key", token):
        assert secret not in said


async def test_what_somebody_does_in_the_console_is_logged_with_who_he_is(serve_agents: ServeAgents) -> None:
    noted: list[Mapping[str, Any]] = []
    async with served_with_keys(serve_agents) as (served, keys):
        things = await things_of_ada(served.url, keys["ada"])
        async with serving(Front(served.app.asgi, note=noted.append)) as url, browsing(url, keys["ada"]) as ada:
            await ada.http.get(f"/ui/runs/{things['run_id']}")
            await ada.http.get(f"/threads/{things['thread_id']}/state", headers={"sec-fetch-site": "same-origin"})
    by_path = {facts["path"]: facts for facts in noted}
    page, state = by_path["/ui/runs/{run_id}"], by_path["/threads/{thread_id}/state"]
    assert (page["principal"], page["run_id"]) == ("ada", things["run_id"])
    assert (state["principal"], state["thread_id"]) == ("ada", things["thread_id"])
    assert page["status"] == state["status"] == 200


async def test_a_subscription_is_moved_to_no_place_that_nobody_named(serve_agents: ServeAgents) -> None:
    async with serve_agents(AGENTS) as served, browsing(served.url) as somebody:
        await served.app.store.subscriptions.open("mail", start="beginning")
        before = await inventory(served.app.store)
        token = await somebody.token("/ui")
        for to, position in (("the end", "1"), ("position", ""), ("position", "-1"), ("position", "0" * 5_000)):
            form = {"name": "mail", "to": to, "position": position, "csrf": token}
            answer = await somebody.http.post("/ui/subscription/seek", data=form, headers={"hx-request": "true"})
            assert answer.status_code == 422, (to, position, answer.text)
        assert await inventory(served.app.store) == before


@pytest.mark.parametrize("ahead", [timedelta(minutes=1), -timedelta(minutes=1)], ids=["ahead", "behind"])
async def test_what_a_page_has_counted_is_what_is_dropped_whatever_the_clock_of_who_parks_says(
    serve_agents: ServeAgents, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    class Clock(datetime):
        @classmethod
        @override
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + ahead

    monkeypatch.setattr(consumer_module, "datetime", Clock)
    async with serve_agents(AGENTS) as served, browsing(served.url) as somebody:
        await served.app.store.append(make_run())
        subscriptions = served.app.store.subscriptions
        await subscriptions.open("mail", start="beginning")
        async with await subscriptions.acquire("mail") as consumer:
            await consumer.read()
            for position in (1, 2):
                await consumer.park(position, "no such user")
            shown = await somebody.http.get("/ui/subscriptions/mail")
            await consumer.park(3, "the receiver is away")
        until = re.findall(r'name="until" value="([^"]*)"', shown.text)[-1]
        form = {"name": "mail", "until": until, "csrf": await somebody.token("/ui")}
        answer = await somebody.http.post("/ui/subscription/drop", data=form, headers={"hx-request": "true"})
        left = [one.stored.position for one in await subscriptions.parked("mail")]

    assert (answer.status_code, left) == (200, [3])
