"""Who signs in to the console, with what, where that leads, and who he is from then on."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest
from tests.integration.server.console_visits import (
    AGENTS,
    ENDPOINTS,
    OWN,
    SECRET,
    browsing,
    filled,
    form_of,
    served_with_keys,
    things_of_ada,
)
from tests.integration.server.endpoint_walk import expired

from trackside.app.server.principal import Permission
from trackside.app.settings import AccessSettings

DIALECTS = ("sqlite",)

type ServeAgents = Callable[..., Any]

TOKEN_KEY = "k" * 40


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
        await made.revoke(revoked.key.key_id)
        ended = await expired(made)
        bad = ["", "x", "ts_0", keys["ada"][:-1], revoked.secret, ended, "a\r\nx-api-key: b", "\N{SNOWMAN}"]
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


async def test_who_is_asked_to_sign_in_amid_something_goes_on_where_he_was(serve_agents: ServeAgents) -> None:
    async with served_with_keys(serve_agents) as (served, _), browsing(served.url) as somebody:
        page, script = {"referer": f"{served.url}/ui/runs?agent=a"}, {"hx-request": "true"}
        there = "/ui/sign-in?next=%2Fui%2Fruns%3Fagent%3Da"
        form = await somebody.http.post("/ui/runs/cancel", headers=page)
        assert (form.status_code, form.headers["location"]) == (303, there)
        sent = await somebody.http.post("/ui/runs/cancel", headers=page | script)
        assert (sent.status_code, sent.headers["hx-redirect"]) == (401, there)
        # The page asks for itself with more than its address says, and for parts of others.
        for path in ("/ui/runs?agent=a&top=01a21687-8cbe-7000-8b6d-14a2352dfe24", "/ui/threads/x"):
            anew = await somebody.http.get(path, headers=page | script)
            assert (anew.status_code, anew.headers["hx-redirect"]) == (401, there)
        linked = await somebody.http.get("/ui/threads", headers=page)
        assert linked.headers["location"] == "/ui/sign-in?next=%2Fui%2Fthreads"
        for elsewhere in ("", "https://evil.example/ui/runs", f"{served.url}/threads", f"{served.url}/uix", "http://["):
            lost = await somebody.http.post("/ui/runs/cancel", headers={"referer": elsewhere})
            assert lost.headers["location"] == "/ui/sign-in?next=%2Fui"


async def test_who_signs_in_on_the_way_to_a_name_with_odd_signs_gets_there(serve_agents: ServeAgents) -> None:
    async with served_with_keys(serve_agents) as (served, keys):
        for page in ("/ui/threads/order%2342", "/ui/threads/50%25/caf%C3%A9%3F?view=state", "/ui/agents/a%2541"):
            async with browsing(served.url) as somebody:
                asked = await somebody.http.get(page, headers={"sec-fetch-site": "none"})
                form = await somebody.http.get(asked.headers["location"])
                (to,) = re.findall(r'name="next" value="([^"]+)"', form.text)
                answer = await somebody.sign_in(keys["ada"], to=html.unescape(to))
                assert (answer.status_code, answer.headers["location"]) == (303, page)


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
        form = await somebody.http.get("/ui/sign-in", params={"next": to})
        found = re.search(r'name="next" value="([^"]*)"', form.text)
        assert found is not None, (form.status_code, form.text)
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
