"""The console as people see it who are not let in, or who want more than they may, in the browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from trackside.app.storage import Store

pytestmark = pytest.mark.asyncio(loop_scope="session")

SETTINGS = '[server]\nauth = "keys"\n[agents]\ntalks = "console_agents.py:talks"\n'


async def keys_of(folder: Path) -> dict[str, Any]:
    async with Store.open(f"sqlite:///{folder / 'runs.db'}") as store:
        return {
            permission: await store.api_keys.create("k", owner=f"{permission}-ada", permission=permission)
            for permission in ("read", "run", "admin")
        }


async def sign_in(page: Any, key: str) -> None:
    await page.get_by_label("API key or token").fill(key)
    await page.get_by_role("button", name="Sign in").click()


async def test_a_reader_is_invited_to_nothing(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve(settings=SETTINGS)
    keys = await keys_of(tmp_path)
    async with visit(server.url) as seen:
        page = await seen.go("/ui")
        await sign_in(page, keys["read"].secret)
        await expect(page.get_by_text("No run yet")).to_be_visible()
        await expect(page.get_by_role("link", name="Try an agent")).to_have_count(0)
        twins = [await link.get_attribute("href") for link in await page.locator(".twins a").all()]
        assert "/stats/now" in twins
        assert not {"/subscriptions", "/observers"} & {*twins}
        page = await seen.go("/ui/runs")
        await expect(page.locator(".empty")).to_have_text("No runs yet")
        page = await seen.go("/ui/threads/nosuch")
        await expect(page.get_by_role("heading", level=1)).to_have_text("There is no such thread")
        await expect(page.locator(".failure")).to_contain_text("nosuch is not the id of a thread")
        page = await seen.go("/ui/threads/01a21687-8cbe-7000-8b6d-14a2352dfe24")
        await expect(page.locator(".failure")).to_contain_text("No thread that you may see has the id")
        assert await seen.violations() == []
        seen.complaints.clear()  # of the 404s


async def test_signing_in_and_out_again(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve(settings=SETTINGS)
    keys = await keys_of(tmp_path)
    async with visit(server.url) as seen:
        page = await seen.go("/ui/runs?agent=talks")
        await expect(page).to_have_url(re.compile(r"/ui/sign-in\?next=%2Fui%2Fruns%3Fagent%3Dtalks$"))
        await expect(page.get_by_label("API key or token")).to_be_focused()
        await expect(page.get_by_role("navigation", name="Pages")).to_have_count(0)
        assert await seen.violations() == []
        await seen.picture("sign-in")
        await sign_in(page, "ts_nobody")
        await expect(page.get_by_role("alert")).to_contain_text("That did not work")
        await expect(page.get_by_label("API key or token")).to_have_value("")
        seen.complaints.clear()  # the browser complains of the 401
        await sign_in(page, keys["run"].secret)
        await expect(page).to_have_url(f"{server.url}/ui/runs?agent=talks")
        await expect(page.locator("header")).to_contain_text("run-ada")

        assert "trackside" not in await page.evaluate("() => document.cookie"), "scripts see no cookie"
        kept = {one["name"]: one for one in await page.context.cookies()}
        assert set(kept) == {"trackside_session", "trackside_token"}
        assert all(one["httpOnly"] and one["expires"] == -1 for one in kept.values())
        sites = {name: one["sameSite"] for name, one in kept.items()}
        assert sites == {"trackside_session": "Strict", "trackside_token": "Lax"}
        for storage in ("localStorage", "sessionStorage"):
            assert keys["run"].secret not in await page.evaluate(f"() => JSON.stringify({storage})")
        assert keys["run"].secret not in await page.content()

        await page.get_by_role("button", name="Sign out").click()
        await expect(page).to_have_url(f"{server.url}/ui/sign-in")
        assert [one["name"] for one in await page.context.cookies()] == ["trackside_token"]
        await seen.go("/ui/runs")
        await expect(page).to_have_url(re.compile("/ui/sign-in"))
    assert keys["run"].secret not in server.log
    assert "ts_nobody" not in server.log


async def test_a_link_of_elsewhere_leads_there_and_leaves_other_tabs_as_they_are(
    serve: Any, visit: Any, tmp_path: Path
) -> None:
    server = await serve(settings=SETTINGS)
    keys = await keys_of(tmp_path)
    async with visit(server.url) as seen:
        page = await seen.go("/ui/sign-in")
        other = await page.context.new_page()
        await other.goto(f"{server.url}/ui/sign-in?next=/ui/threads")
        await sign_in(page, keys["run"].secret)
        await expect(page).to_have_url(f"{server.url}/ui")
        await sign_in(other, keys["run"].secret)  # the other tab showed the form as well
        await expect(other).to_have_url(f"{server.url}/ui/threads")

        async def linking(route: Any) -> None:
            await route.fulfill(body=f'<a href="{server.url}/ui/runs?agent=talks">run</a>', content_type="text/html")

        await page.route("http://elsewhere.example/**", linking)
        await page.goto("http://elsewhere.example/")
        await page.get_by_role("link").click()
        await expect(page).to_have_url(f"{server.url}/ui/runs?agent=talks")
        await expect(page.locator("header")).to_contain_text("run-ada")
        await page.goto("http://elsewhere.example/")
        await page.get_by_role("link").evaluate("(link) => { link.href = link.href.replace('runs?agent=talks', 'x'); }")
        await page.get_by_role("link").click()  # a page for everybody
        await expect(page.get_by_role("heading", level=1)).to_be_visible()
        await other.get_by_role("button", name="Sign out").click()
        await expect(other).to_have_url(f"{server.url}/ui/sign-in")
        await other.close()
        seen.complaints.clear()  # of the 401 on the way, and of the 404
        seen.elsewhere.clear()


async def test_who_is_let_in_no_longer_is_led_to_where_he_signs_in(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve(settings=SETTINGS.replace("[agents]", 'heartbeat = "1s"\n[agents]'))
    keys = await keys_of(tmp_path)
    async with visit(server.url) as seen, Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        page = await seen.go("/ui/subscriptions")
        await sign_in(page, keys["admin"].secret)
        await expect(page.locator("#liveness")).to_have_text("live")
        await store.api_keys.revoke(keys["admin"].key.key_id)
        await expect(page).to_have_url(re.compile(r"/ui/sign-in\?next=.*&gone=1"), timeout=20_000)
        await expect(page.get_by_role("alert")).to_contain_text("no longer valid")
        seen.complaints.clear()  # of the stream that was ended, and of the 401


async def test_what_somebody_may_not_do_has_no_button(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve(settings=SETTINGS)
    keys = await keys_of(tmp_path)
    async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        await store.subscriptions.open("mail")
    for who in ("read", "run"):
        async with visit(server.url) as seen:
            page = await seen.go("/ui/subscriptions")
            await sign_in(page, keys[who].secret)
            await expect(page.get_by_text("Subscriptions are for admins")).to_be_visible()
            await expect(page.locator("main")).not_to_contain_text("mail")
            await expect(page.locator("main button")).to_have_count(0)
            assert await seen.violations() == []
            await seen.picture("subscriptions-refused")
            await seen.go("/ui/subscriptions/mail")
            await expect(page.get_by_text("Subscriptions are for admins")).to_be_visible()
            await expect(page.locator("main button")).to_have_count(0)
            token = await page.locator("meta[name=trackside-token]").get_attribute("content")
            status = await page.evaluate(
                """async (token) => (await fetch('/ui/subscription/delete', {
                method: 'POST', headers: {'X-CSRF-Token': token}, body: new URLSearchParams({name: 'mail'})})).status""",
                token,
            )
            assert status == 403
            seen.complaints.clear()  # of the 403
    async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        assert [one.name for one in await store.subscriptions.all()] == ["mail"]


async def test_the_policy_stops_what_gets_into_a_page_all_the_same(serve: Any, visit: Any) -> None:
    """Escaping is one wall; this is the one behind it."""
    server = await serve()
    async with visit(server.url) as seen:

        async def plant(route: Any) -> None:
            answer = await route.fetch()
            planted = (
                "<script>window.wasHit = 'inline'</script><img src=x onerror=\"window.wasHit = 'handler'\">"
                "<script src='https://evil.example/x.js'></script><style>body{display:none}</style>"
                "<base href='https://evil.example/'><iframe src='https://evil.example/'></iframe>"
                "<form id=steal action='https://evil.example/'></form>"
                "<a id=js href=\"javascript:window.wasHit='link'\">x</a>"
                "<div id=mark data-hx-on:click=\"window.wasHit='htmx'\" hx-vals=\"js:{a: (window.wasHit = 'vals')}\""
                " hx-get=/ui/nothing hx-trigger=load>y</div></main>"
            )
            await route.fulfill(response=answer, body=(await answer.text()).replace("</main>", planted))

        await seen.page.route("**/ui/system", plant)
        page = await seen.go("/ui/system")
        await page.locator("#js").click()
        await page.locator("#mark").click()  # a real click: within `evaluate` the debugger lets `eval` through
        await page.evaluate("() => document.getElementById('steal').submit()")
        await page.evaluate("() => fetch('https://evil.example/').catch(() => {})")
        assert await page.evaluate("() => window.wasHit") is None
        assert await page.evaluate("() => getComputedStyle(document.body).display") != "none"
        assert page.url == f"{server.url}/ui/system"
        assert len([one for one in seen.complaints if "Content Security Policy" in one]) >= 6
        seen.complaints.clear()
        seen.elsewhere.clear()  # Playwright reports them before the policy stops them


async def test_no_page_of_elsewhere_has_it_in_a_frame_or_its_forms_sent(serve: Any, visit: Any, tmp_path: Path) -> None:
    """Another port is another origin but the same site: what `SameSite` lets through is stopped all the same."""
    server = await serve(settings=SETTINGS)
    keys = await keys_of(tmp_path)
    async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        await store.subscriptions.open("mail")
    async with visit(server.url) as seen:
        page = await seen.go("/ui/sign-in")
        await sign_in(page, keys["admin"].secret)
        await expect(page).to_have_url(f"{server.url}/ui")

        async def evil(route: Any) -> None:
            body = f"""<iframe id=frame src="{server.url}/ui"></iframe>
                <form id=form method=post action="{server.url}/ui/subscription/delete"><input name=name value=mail></form>"""
            await route.fulfill(body=body, content_type="text/html")

        neighbour = "http://127.0.0.1:9"
        await page.route(f"{neighbour}/**", evil)
        await page.goto(f"{neighbour}/")
        frame = page.frames[1]
        assert "Overview" not in await frame.evaluate("() => document.body ? document.body.innerText : ''")
        await page.locator("#form").evaluate("(form) => form.submit()")
        await expect(page.locator("body")).to_contain_text("was not sent by a page of this server")
        seen.complaints.clear()
        seen.elsewhere.clear()
    async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        assert [one.name for one in await store.subscriptions.all()] == ["mail"]
