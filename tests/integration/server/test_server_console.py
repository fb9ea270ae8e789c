"""What stands before the console: who is signed in, what a page of ours is, and what those find who are strangers.

Everything is driven by the list of the console's endpoints: a new page or action is walked over as soon as it is there.
"""

from __future__ import annotations

import asyncio
import html
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, override
from urllib.parse import quote
from uuid import uuid4

import httpx
import jwt
import limits  # noqa: F401  # the server imports it in its event loop, and it reads files then
import msgspec
import pytest
from langgraph.graph import END, START, StateGraph
from running_server import serving
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from trackside.app import dashboard
from trackside.app.dashboard.assets import NAMES
from trackside.app.server.front import Front
from trackside.app.server.guest import living
from trackside.app.server.log import ServerLog
from trackside.app.server.principal import Permission
from trackside.app.server.routing import EVENT_STREAM, Endpoint, all_endpoints
from trackside.app.settings import AccessSettings, ServerSettings, Settings
from trackside.app.storage._subscriptions import consumer as consumer_module
from trackside.app.wiring import open_app
from trackside.harness import RunContext
from trackside.testing import make_run

DIALECTS = ("sqlite",)

type ServeAgents = Callable[..., Any]

ENDPOINTS = all_endpoints(dashboard.GROUPS)
PAGES = [one for one in ENDPOINTS if one.method == "GET" and not one.path.startswith("/ui/static/")]
ACTIONS = [one for one in ENDPOINTS if one.method != "GET"]
FOREIGN = "not sent by a page of this server"
SECRET = "known-to-nobody-but-ada"
TOKEN_KEY = "k" * 40


def state(values: dict[str, Any]) -> dict[str, Any]:
    return values


def graph() -> Any:
    builder = StateGraph(dict)
    builder.add_node("state", state)
    builder.add_edge(START, "state")
    builder.add_edge("state", END)
    return builder.compile()


async def chat(input: Any, run: RunContext) -> Any:
    run.set_title(str(input))
    return input


async def fails(input: Any, run: RunContext) -> Any:
    raise ValueError(str(input))


AGENTS = {"chat": chat, "fails": fails, "graph": graph()}


class Browser:
    """Somebody's browser, which keeps cookies and knows the token of its pages."""

    def __init__(self, url: str, **options: Any) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=30, **options)

    async def token(self, page: str = "/ui/sign-in?gone=1") -> str:  # which is shown whoever has signed in
        found = re.search(r'name="trackside-token" content="([^"]+)"', (await self.http.get(page)).text)
        assert found is not None
        return html.unescape(found[1])

    async def sign_in(self, key: str, to: str = "/ui", **headers: str) -> httpx.Response:
        form = {"key": key, "next": to, "csrf": await self.token()}
        return await self.http.post("/ui/sign-in", data=form, headers=headers)


@asynccontextmanager
async def browsing(url: str, key: str | None = None) -> AsyncIterator[Browser]:
    browser = Browser(url)
    async with browser.http:
        if key is not None:
            assert (await browser.sign_in(key)).status_code == 303
        yield browser


@asynccontextmanager
async def served_with_keys(serve_agents: ServeAgents, **settings: Any) -> AsyncIterator[tuple[Any, dict[str, str]]]:
    settings = {"access": AccessSettings(auth="keys"), **settings}
    async with serve_agents(AGENTS, **settings) as served:
        made = served.app.store.api_keys
        keys = {
            name: (await made.create("k", owner=owner, permission=permission)).secret
            for name, owner, permission in (
                ("root", "root", "admin"), ("ada", "ada", "run"), ("reader", "ada", "read"), ("bob", "bob", "run")
            )
        }  # fmt: skip
        yield served, keys


async def things_of_ada(url: str, key: str) -> dict[str, Any]:
    """A run that ended and one that failed, on threads, with her secret wherever one may be."""
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30) as http:
        metadata = {"note": SECRET, "owner": "ada"}
        thread_id = (await http.post("/threads", json={"metadata": metadata})).json()["thread_id"]
        made = []
        for agent in ("graph", "chat", "fails"):
            body = {"assistant_id": agent, "input": {"text": SECRET}, "metadata": metadata}
            answer = await http.post(f"/threads/{thread_id}/runs", json=body)
            assert answer.status_code == 200, answer.text
            made.append(answer.json()["run_id"])
            await http.get(f"/threads/{thread_id}/runs/{made[-1]}/join")
        return {"thread_id": thread_id, "run_id": made[-1], "run_ids": made}


def filled(endpoint: Endpoint, things: dict[str, Any]) -> str:
    """The path of an endpoint with things in it."""

    def value(found: re.Match[str]) -> str:
        name = found[1].partition(":")[0]
        return quote(str(things.get(name, uuid4() if name.endswith("_id") else "mail")), safe="")

    return re.sub(r"{([^}]+)}", value, endpoint.path)


def form_of(endpoint: Endpoint, things: dict[str, Any]) -> dict[str, Any]:
    """A form that fits, of what has to be in it."""
    form: dict[str, Any] = {}
    for one in msgspec.structs.fields(endpoint.body):
        if one.encode_name in things:
            form[one.encode_name] = things[one.encode_name]
        elif one.required:
            form[one.encode_name] = sample(one.type)
    form.pop("csrf", None)
    return form


def sample(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    if get_origin(kind) in {Union, UnionType}:
        return sample(next(one for one in get_args(kind) if one is not type(None)))
    if get_origin(kind) is list:
        return [sample(get_args(kind)[0])]
    return {int: 1, float: 1.0, bool: "true"}.get(kind, "x")


async def inventory(store: Any) -> Any:
    """All that actions might change, as it is stored."""
    return (
        [stored.event.event_id for stored in await store.events(limit=1_000)],
        [(one.name, one.state, one.cursor, one.parked) for one in await store.subscriptions.all()],
        sorted(one.run_id for one in await store.runs(limit=100)),
    )


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


async def test_cookies_are_kept_from_scripts_and_from_others(serve_agents: ServeAgents) -> None:
    async with served_with_keys(serve_agents) as (served, keys), browsing(served.url) as somebody:
        first = await somebody.http.get("/ui/sign-in")
        for headers, is_safe in (({}, False), ({"x-forwarded-proto": "https"}, True)):
            answer = await somebody.sign_in(keys["ada"], **headers)
            for cookie, site in ((answer.headers["set-cookie"], "Strict"), (first.headers["set-cookie"], "Lax")):
                assert {"Path=/", "HttpOnly", f"SameSite={site}"} <= set(cookie.split("; "))
            assert ("Secure" in answer.headers["set-cookie"].split("; ")) is is_safe
            assert "Max-Age" not in answer.headers["set-cookie"], "it ends with the browser"
            assert "Domain" not in answer.headers["set-cookie"]
        somebody.http.cookies.set("trackside_session", quote(keys["ada"]))
        token = await somebody.token("/ui")
        out = await somebody.http.post("/ui/sign-out", data={"csrf": token})
        assert out.status_code == 303
        assert "Max-Age=0" in out.headers["set-cookie"]
        assert out.headers["location"] == "/ui/sign-in"


async def test_who_signs_in_with_what_is_good(serve_agents: ServeAgents) -> None:
    async with served_with_keys(serve_agents) as (served, keys):
        made = served.app.store.api_keys
        revoked = await made.create("k", owner="ada")
        end = datetime.now(UTC) + timedelta(milliseconds=50)
        expired = await made.create("k", owner="ada", expires_at=end)
        await made.revoke(revoked.key.key_id)
        while datetime.now(UTC) < end:
            await asyncio.sleep(0.01)
        bad = ["", "x", "ts_0", keys["ada"][:-1], revoked.secret, expired.secret, "a\r\nx-api-key: b", "\N{SNOWMAN}"]
        async with browsing(served.url) as somebody:
            for key in bad:
                answer = await somebody.sign_in(key)
                assert answer.status_code == 401, key
                assert "trackside_session" not in answer.headers.get("set-cookie", "")
                assert "That did not work" in answer.text
                assert not key or len(key) < 3 or html.escape(key) not in answer.text
                here = await somebody.http.get("/ui/runs?agent=a&x=%2F", headers={"sec-fetch-site": "none"})
                assert here.status_code == 303
                assert here.headers["location"] == "/ui/sign-in?next=%2Fui%2Fruns%3Fagent%3Da%26x%3D%252F"
            answer = await somebody.sign_in(f"  {keys['ada']}\n", to="/ui/runs?agent=a")
            assert (answer.status_code, answer.headers["location"]) == (303, "/ui/runs?agent=a")
            page = await somebody.http.get("/ui/runs")
            assert page.status_code == 200
            assert "Sign out" in page.text
        async with browsing(served.url, (one := await made.create("k", owner="ada")).secret) as ada:
            assert (await ada.http.get("/ui")).status_code == 200
            await made.revoke(one.key.key_id)
            gone = await ada.http.get("/ui")
            assert (gone.status_code, gone.headers["location"]) == (303, "/ui/sign-in?next=%2Fui&gone=1")
            assert "no longer valid" in (await ada.http.get(gone.headers["location"])).text
            script = await ada.http.get("/ui", headers={"hx-request": "true"})
            assert (script.status_code, script.headers["hx-redirect"]) == (401, "/ui/sign-in?next=%2Fui&gone=1")
            too_long = await ada.sign_in("x" * 5_000)
            assert too_long.status_code == 401


async def test_who_signs_in_in_one_tab_goes_on_in_all(serve_agents: ServeAgents) -> None:
    async with served_with_keys(serve_agents) as (served, keys), browsing(served.url) as somebody:
        first, second = await somebody.token(), await somebody.token("/ui/sign-in?next=%2Fui%2Fruns")
        for token, to in ((first, "/ui"), (second, "/ui/runs")):
            form = {"key": keys["ada"], "next": to, "csrf": token}
            answer = await somebody.http.post("/ui/sign-in", data=form)
            assert (answer.status_code, answer.headers["location"]) == (303, to)
        shown = await somebody.http.get("/ui/sign-in?next=%2Fui%2Fruns%3Fagent%3Da")
        assert (shown.status_code, shown.headers["location"]) == (303, "/ui/runs?agent=a")
        stays = await somebody.http.get("/ui/sign-in?next=%2Fui%2Fruns&gone=1")
        assert (stays.status_code, "You are signed in." in stays.text) == (200, True), "what sent him here might again"
        assert 'href="/ui/runs"' in stays.text

        # Tabs that were opened at once got cookies of their own, of which the browser kept one.
        stale = await somebody.http.post("/ui/sign-in", data={"key": keys["ada"], "next": "/ui/runs", "csrf": "0" * 64})
        assert stale.status_code == 403
        found = re.search(r'name="csrf" value="([^"]+)"', stale.text)
        assert found is not None
        assert 'name="next" value="/ui/runs"' in stale.text
        again = await somebody.http.post("/ui/sign-in", data={"key": keys["bob"], "csrf": html.unescape(found[1])})
        assert again.status_code == 303
        assert "bob" in (await somebody.http.get("/ui")).text


async def test_who_comes_by_a_link_of_elsewhere_is_who_he_was(serve_agents: ServeAgents) -> None:
    async with served_with_keys(serve_agents) as (served, keys), browsing(served.url, keys["ada"]) as ada:
        cookies = dict(ada.http.cookies)
        page = "/ui/runs?agent=a"
        async with httpx.AsyncClient(
            base_url=served.url, cookies={"trackside_token": cookies["trackside_token"]}
        ) as http:
            for site in ({}, {"sec-fetch-site": "cross-site"}):  # browsers say no site where nothing is encrypted
                linked = await http.get(page, headers=site)
                assert linked.status_code == 401
                assert linked.headers["refresh"] == "0;url=/ui/sign-in?next=%2Fui%2Fruns%3Fagent%3Da"
                assert "default-src 'none'" in linked.headers["content-security-policy"]
            for site in ("same-origin", "same-site", "none"):
                assert (await http.get(page, headers={"sec-fetch-site": site})).status_code == 303, "with all cookies"
        to = linked.headers["refresh"].partition("url=")[2]
        assert (await ada.http.get(to, headers={"sec-fetch-site": "same-origin"})).headers["location"] == page


OWN = """
from langgraph_sdk import Auth

auth = Auth()

@auth.authenticate
async def authenticate(authorization: str | None):
    name = (authorization or "").removeprefix("Bearer ")
    if name == "blocked":
        raise Auth.exceptions.HTTPException(status_code=403, detail="You are blocked.")
    assert name.startswith("user-"), "nobody knows you"
    return {"identity": name.removeprefix("user-")}

@auth.on
async def owners(ctx, value):
    filters = {"owner": ctx.user.identity}
    value.setdefault("metadata", {}).update(filters)
    return filters
"""


async def test_tokens_and_functions_of_ones_own_sign_in_as_well(
    serve_agents: ServeAgents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_OF_TOKENS", TOKEN_KEY)
    access = AccessSettings(auth="jwt", jwt_key="env:KEY_OF_TOKENS", jwt_permission="scope")
    async with serve_agents(AGENTS, access=access) as served, browsing(served.url) as somebody:

        def token(key: str = TOKEN_KEY, **more: Any) -> str:
            return jwt.encode({"sub": "ada", "exp": int(time.time()) + 600, "scope": "read", **more}, key)

        assert (await somebody.sign_in(token(key="o" * 40))).status_code == 401
        assert (await somebody.sign_in(token(exp=int(time.time()) - 600))).status_code == 401
        assert (await somebody.sign_in(token(scope="nothing"))).status_code == 403
        long = await somebody.sign_in(token(groups=["some-group-of-many"] * 300))
        assert (long.status_code, "too long for a cookie" in long.text) == (422, True)
        assert (await somebody.sign_in(token())).status_code == 303
        assert "ada" in (await somebody.http.get("/ui/runs")).text
    (tmp_path / "own.py").write_text(OWN)
    async with (
        serve_agents(AGENTS, access=AccessSettings(auth=f"{tmp_path / 'own.py'}:auth")) as served,
        browsing(served.url) as somebody,
    ):
        assert (await somebody.sign_in("nobody")).status_code == 401
        blocked = await somebody.sign_in("blocked")
        assert (blocked.status_code, "You are blocked." in blocked.text) == (403, True)
        assert (await somebody.sign_in("user-ada")).status_code == 303
        assert (await somebody.http.get("/ui/runs")).status_code == 200


@pytest.mark.parametrize(
    "to",
    ["//evil.example", "///ui", "///ui/evil.example", "https://evil.example/ui", "/\\evil.example", "\\\\evil.example",
     "/ui\\..\\..\\evil", "javascript:alert(1)", "data:text/html,x", "/uix", "ui", "", " /ui", "/ui\r\nSet-Cookie: a=b",
     "http:/ui", "https:ui", "//ui", "/%2Fevil.example", "/docs", "\t/ui", "/ui@evil.example"],
)  # fmt: skip
async def test_signing_in_leads_nowhere_else(serve_agents: ServeAgents, to: str) -> None:
    async with served_with_keys(serve_agents) as (served, keys), browsing(served.url) as somebody:
        form = (await somebody.http.get("/ui/sign-in", params={"next": to})).text
        found = re.search(r'name="next" value="([^"]*)"', form)
        assert found is not None
        assert found[1].startswith("/ui")
        answer = await somebody.sign_in(keys["ada"], to=to)
        assert answer.headers.get_list("set-cookie")[0].startswith("trackside_session")
        linked = await somebody.http.get("/ui/sign-in", params={"next": to})
        for leads in (answer, linked):
            assert leads.status_code == 303
            there = httpx.URL(served.url).join(leads.headers["location"])
            assert str(there).startswith(f"{served.url}/ui")
            assert there.path in {"/ui", "/ui/../../evil"} or there.path.startswith("/ui/")
        assert "a" not in somebody.http.cookies


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
            assert (await stranger.http.get(f"/ui/live?{name}={things[name]}")).status_code == 404
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


async def test_who_is_not_known_sends_no_more_than_a_form_has(serve_agents: ServeAgents) -> None:
    """Forms are read on the event loop: one of megabytes would hold up everybody, and nobody had to be known for it."""
    async with served_with_keys(serve_agents) as (served, keys), browsing(served.url) as nobody:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        for path, field in (("/ui/sign-in", "csrf=x&key="), ("/ui/sign-out", "csrf=")):
            long = (field + "%41" * 33_000).encode()
            answer = await nobody.http.post(path, content=long, headers=headers)
            assert answer.status_code == 413, path
            assert "65,536" in answer.text
        assert (await nobody.sign_in(keys["ada"])).status_code == 303
        assert (await nobody.sign_in("x" * 5_000)).status_code == 401


async def test_who_is_not_known_is_led_to_where_he_signs_in(serve_agents: ServeAgents) -> None:
    async with served_with_keys(serve_agents) as (served, keys), browsing(served.url) as nobody:
        things = await things_of_ada(served.url, keys["ada"])
        for cookie in ({}, {"cookie": "trackside_session=x"}):
            for endpoint in ENDPOINTS:
                path = filled(endpoint, things)
                if endpoint.needs is Permission.public:
                    continue
                if endpoint.method == "GET":
                    answer = await nobody.http.get(path, headers=cookie)
                else:
                    answer = await nobody.http.post(path, data=form_of(endpoint, things), headers=cookie)
                assert answer.status_code == 303, (endpoint.path, answer.text)
                assert answer.headers["location"].startswith("/ui/sign-in?next=%2Fui")
                assert SECRET not in answer.text


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


async def test_it_is_there_where_it_is_mounted(database_url: str) -> None:
    settings = Settings(database_url=database_url, access=AccessSettings(auth="keys"))
    async with open_app(settings, AGENTS) as app:
        key = (await app.store.api_keys.create("k", owner="root", permission="admin")).secret
        whole = Starlette(routes=[Route("/", lambda _: PlainTextResponse("mine")), Mount("/agents", app.asgi)])
        async with serving(whole) as url:
            things = await things_of_ada(f"{url}/agents", key)
            browser = Browser(url)
            async with browser.http as http:
                assert (await http.get("/")).text == "mine"
                assert (await http.get("/agents/")).headers["location"] == "/agents/ui"
                first = await http.get("/agents/ui")
                assert first.headers["location"] == "/agents/ui/sign-in?next=%2Fui"
                token = await browser.token("/agents/ui/sign-in")
                form = {"key": key, "next": "/ui/runs", "csrf": token}
                done = await http.post("/agents/ui/sign-in", data=form)
                assert done.headers["location"] == "/agents/ui/runs"
                assert "Path=/agents" in done.headers["set-cookie"].split("; ")
                for endpoint in PAGES:
                    if endpoint.media_type == EVENT_STREAM:
                        continue
                    page = await http.get("/agents" + filled(endpoint, things))
                    if endpoint.path == "/ui/sign-in":  # he is
                        assert (page.status_code, page.headers["location"]) == (303, "/agents/ui")
                        continue
                    assert page.status_code in {200, 404}, (endpoint.path, page.text[-500:])
                    links = re.findall(r'(?:href|src|action|data-hx-get|data-hx-post)="([^"]*)"', page.text)
                    assert links or "<html" not in page.text
                    for link in links:
                        assert link == "" or link.startswith(("/agents/", "#", "?")), (endpoint.path, link)
                    for link in {link for link in links if "/static/" in link}:
                        assert (await http.get(html.unescape(link))).status_code == 200
                assert (await http.post("/agents/threads", json={})).status_code == 403
                headers = {"x-csrf-token": await browser.token("/agents/ui")}
                assert (await http.post("/agents/threads", json={}, headers=headers)).status_code == 200
                ours = {name: http.cookies[name] for name in ("trackside_session", "trackside_token")}
            # Another app of ours at `/` has cookies of the same names, which browsers send behind those of the longer path.
            both = "; ".join(f"{name}={value}" for pair in ours.items() for name, value in (pair, (pair[0], "theirs")))
            async with httpx.AsyncClient(base_url=url, headers={"cookie": both}) as http:
                assert (await http.get("/agents/ui")).status_code == 200
                assert (await http.post("/agents/threads", json={}, headers=headers)).status_code == 200


async def test_an_app_behind_ours_keeps_what_is_its_own(database_url: str) -> None:
    async def mine(request: Any) -> PlainTextResponse:
        return PlainTextResponse(f"mine: {request.url.path}")

    theirs = Starlette(
        routes=[Route("/", mine), Route("/ui", mine), Route("/ui/{rest:path}", mine), Route("/me", mine)]
    )
    for console in (True, False):
        settings = Settings(database_url=database_url, server=ServerSettings(console=console))
        async with (
            open_app(settings, AGENTS) as app,
            living(theirs, name="theirs") as guest,
            serving(app.asgi_before(guest)) as url,
            httpx.AsyncClient(base_url=url) as http,
        ):
            assert (await http.get("/")).text == "mine: /"
            assert (await http.get("/me")).text == "mine: /me"
            ours = await http.get("/ui/runs")
            assert ("mine" in ours.text) is not console
            assert ("Trackside" in ours.text) is console


async def test_where_nobody_is_asked_the_session_of_another_server_counts_for_nothing(database_url: str) -> None:
    """Browsers send cookies to all ports of a host."""

    async def order(request: Any) -> PlainTextResponse:
        return PlainTextResponse(f"ordered with {request.headers.get('x-api-key')}")

    theirs = Starlette(routes=[Route("/order", order, methods=["GET", "POST"])])
    async with (
        open_app(Settings(database_url=database_url), AGENTS) as app,
        living(theirs, name="theirs") as guest,
        serving(app.asgi_before(guest)) as url,
        browsing(url) as browser,
    ):
        browser.http.cookies.set("trackside_session", "of-another-server")
        ours = {"origin": url, "sec-fetch-site": "same-origin"}
        form = await browser.http.post("/order", data={"what": "tea"}, headers=ours)
        made = await browser.http.post("/threads", json={}, headers=ours)
        looked = await browser.http.get("/order", headers={"sec-fetch-site": "same-site"})
        page = await browser.http.get("/ui")
        without = await browser.http.post("/ui/runs/cancel", data={"run_ids": ["x"]}, headers=ours)
        token = await browser.token("/ui")
        with_it = await browser.http.post("/ui/runs/cancel", data={"run_ids": ["x"], "csrf": token}, headers=ours)

    assert (form.status_code, form.text, made.status_code) == (200, "ordered with None", 200)
    assert (looked.status_code, looked.text) == (200, "ordered with None")
    assert (page.status_code, "Sign out" in page.text) == (200, False)
    assert (without.status_code, with_it.status_code) == (403, 303), "pages of ours have tokens all the same"


async def test_without_the_console_there_is_no_page(serve_agents: ServeAgents) -> None:
    async with served_with_keys(serve_agents, server=ServerSettings(console=False)) as (served, keys):
        async with httpx.AsyncClient(base_url=served.url, headers={"x-api-key": keys["root"]}) as http:
            for endpoint in ENDPOINTS:
                answer = await http.request(endpoint.method, filled(endpoint, {}))
                assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
            assert (await http.get("/")).headers["location"] == "/docs"
        cookies = {"trackside_session": keys["root"]}
        async with httpx.AsyncClient(base_url=served.url, cookies=cookies) as http:
            assert (await http.get("/runs")).status_code == 401, "then no cookie says who asks"


async def test_who_asks_too_often_is_told_so_on_a_page(serve_agents: ServeAgents) -> None:
    access = AccessSettings(auth="keys", rate="20/hour")
    async with served_with_keys(serve_agents, access=access) as (served, _), browsing(served.url) as somebody:
        statuses = [(await somebody.http.get("/ui/sign-in")).status_code for _ in range(20)]
        assert statuses == [200] * 20
        answer = await somebody.http.get("/ui/sign-in")
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["content-type"].startswith("text/html")
        assert "Too many requests" in answer.text


async def test_who_is_not_asked_is_told_so(serve_agents: ServeAgents) -> None:
    async with serve_agents(AGENTS) as served, browsing(served.url) as somebody:
        page = await somebody.http.get("/ui/sign-in?next=//evil.example")
        assert "needs no sign-in" in page.text
        assert "evil" not in page.text
        answer = await somebody.sign_in("x")
        assert "trackside_session" not in answer.headers.get("set-cookie", "")
        assert (await somebody.http.get("/ui", headers={"host": "evil.example"})).status_code == 403
        foreign = {"origin": "https://evil.example"}
        assert (await somebody.http.get("/ui", headers=foreign)).status_code == 403
