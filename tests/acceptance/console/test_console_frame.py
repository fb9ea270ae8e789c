"""What all pages of the console share: the frame around them, keys, light and dark, failures that say what to do."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, Route, expect

from trackside.app import dashboard
from trackside.app.server.routing import EVENT_STREAM, all_endpoints

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGES = [
    one.path
    for one in all_endpoints(dashboard.GROUPS)
    if one.method == "GET" and one.media_type != EVENT_STREAM and not one.path.startswith("/ui/static/")
    if not one.path.endswith(".json")  # a file to save
]
WIDER_THAN_IT_SHOULD_BE = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  return [...document.querySelectorAll('main *')].filter((one) => one.getBoundingClientRect().right > width + 1
    && !one.parentElement.closest('.table-wrap, pre')).slice(0, 3).map((one) => one.outerHTML.slice(0, 160));
}"""


async def run_some(url: str) -> dict[str, str]:
    """Do runs that go well, fail, and ask something; gives the names that paths use for them."""
    async with httpx.AsyncClient(base_url=url) as http:
        named: dict[str, str] = {"assistant_id": "graph", "name:path": "mail", "rest:path": "nowhere"}
        for agent in ("talks", "fails", "works", "asks", "graph"):
            thread_id = (await http.post("/threads", json={})).json()["thread_id"]
            body = {"assistant_id": agent, "input": {"messages": [{"role": "user", "content": "Hello there"}]}}
            run_id = (await http.post(f"/threads/{thread_id}/runs", json=body)).json()["run_id"]
            await http.get(f"/threads/{thread_id}/runs/{run_id}/join")
            named |= {"thread_id": thread_id, "run_id": run_id}
        await http.post("/subscriptions", json={"name": "mail", "start": "beginning"})
        return named


def address(template: str, named: dict[str, str]) -> str:
    return re.sub(r"{([^}]+)}", lambda found: named[found[1]], template)


async def test_every_page_of_the_navigation_is_there_and_accessible(serve: Any, visit: Any) -> None:
    server = await serve()
    async with visit(server.url) as seen:
        page = await seen.go("/")
        assert page.url == f"{server.url}/ui"
        names = await page.locator("nav[aria-label=Pages] a").all_inner_texts()
        for name in names:
            await page.get_by_role("navigation", name="Pages").get_by_role("link", name=name, exact=True).click()
            await expect(page).to_have_title(f"{name} · Trackside")
            assert await page.locator("nav a[aria-current=page]").inner_text() == name
            assert await seen.violations() == []


async def test_every_page_fits_a_phone_and_is_accessible_in_the_dark(serve: Any, visit: Any) -> None:
    server = await serve()
    named = await run_some(server.url)
    phone = {
        "viewport": {"width": 360, "height": 740},
        "color_scheme": "dark",
        "reduced_motion": "reduce",
        "is_mobile": True,
    }
    wrong: list[str] = []
    async with visit(server.url, **phone) as seen:
        for template in PAGES:
            page = await seen.go(address(template, named))
            wrong += [f"{template} in the dark: {one}" for one in await seen.violations()]
            wrong += [f"{template} is too wide: {one}" for one in await page.evaluate(WIDER_THAN_IT_SHOULD_BE)]
            moves = await page.evaluate(
                "() => document.getAnimations().filter((one) => one.playState === 'running').length"
            )
            if moves:
                wrong.append(f"{template} moves, where somebody wants nothing to move")
            await page.locator("body").press("Tab")
            if await page.evaluate("() => document.activeElement.className") != "skip" and "sign-in" not in template:
                wrong.append(f"{template}: the first Tab does not lead to the content")
        seen.complaints = [one for one in seen.complaints if "404" not in one]
    assert not wrong, "\n".join(wrong)


async def test_names_without_a_space_in_them_make_no_page_wider(serve: Any, visit: Any, tmp_path: Path) -> None:
    name = "a_name_without_spaces" * 6
    code = 'async def agent(input, run):\n    run.set_title("W" * 400)\n    return {"output": "Y" * 400}\n'
    (tmp_path / "long_names.py").write_text(code, "utf-8")
    server = await serve(f'[agents]\n{name} = "long_names.py:agent"\n')
    async with httpx.AsyncClient(base_url=server.url) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        asked = {"assistant_id": name, "input": "Z" * 400}
        run_id = (await http.post(f"/threads/{thread_id}/runs", json=asked)).json()["run_id"]
        await http.get(f"/threads/{thread_id}/runs/{run_id}/join")
    places = ["", "/runs", f"/runs/{run_id}", "/threads", f"/threads/{thread_id}", "/agents", f"/agents/{name}", "/log"]
    wrong: list[str] = []
    async with visit(server.url, viewport={"width": 390, "height": 844}) as seen:
        for path in places:
            page = await seen.go(f"/ui{path}")
            await expect(page.locator("main")).not_to_be_empty()
            wrong += [f"{path} is too wide: {one}" for one in await page.evaluate(WIDER_THAN_IT_SHOULD_BE)]
    assert not wrong, "\n".join(wrong)


async def test_what_is_not_there_is_said_in_words(serve: Any, visit: Any) -> None:
    server = await serve()
    async with visit(server.url) as seen:
        page = await seen.go("/ui/nope")
        assert await page.get_by_role("heading", level=1).inner_text() == "There is nothing here"
        assert await seen.violations() == []
        seen.complaints.clear()  # the browser complains of each 404


async def test_keys_lead_everywhere(serve: Any, visit: Any) -> None:
    server = await serve()
    await run_some(server.url)
    async with visit(server.url) as seen:
        page = await seen.go("/ui")
        for key, path in (
            ("r", "/ui/runs"),
            ("s", "/ui/subscriptions"),
            ("t", "/ui/threads"),
            ("w", "/ui/workers"),
            ("y", "/ui/system"),
            ("r", "/ui/runs"),
        ):
            await page.keyboard.press("g")
            await page.keyboard.press(key)
            await expect(page).to_have_url(f"{server.url}{path}")
            await page.wait_for_load_state()  # before its scripts are there, no key does anything
        await page.keyboard.press("j")
        await page.keyboard.press("j")
        rows = page.locator("[data-row]")
        await expect(rows.nth(1)).to_have_class(re.compile("is-current"))
        await page.keyboard.press("k")
        await expect(rows.nth(0)).to_have_class(re.compile("is-current"))
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(re.compile("/ui/(runs|threads)/."))
        await page.go_back()
        await page.keyboard.press("/")
        assert await page.evaluate("() => !!document.activeElement.closest('.filters')")
        await page.keyboard.type("gr?")  # what is typed into a filter is not a shortcut
        await expect(page).to_have_url(f"{server.url}/ui/runs")
        await page.locator("h1").click()
        await page.keyboard.press("?")
        dialog = page.get_by_role("dialog", name="Keys")
        await expect(dialog).to_be_visible()
        assert await seen.violations() == []
        await page.keyboard.press("g")
        await page.keyboard.press("o")
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await expect(page).to_have_url(f"{server.url}/ui/runs")


async def test_keys_go_on_where_they_were_when_the_page_has_changed(serve: Any, visit: Any) -> None:
    server = await serve()
    await run_some(server.url)
    async with visit(server.url) as seen:
        page = await seen.go("/ui/threads")
        await expect(page.locator("#liveness")).to_have_text("live")
        before = [await row.get_attribute("id") for row in await page.locator("[data-row]").all()]
        await page.keyboard.press("j")
        await page.keyboard.press("j")
        await expect(page.locator(f"#{before[1]} a").first).to_be_focused()
        async with httpx.AsyncClient(base_url=server.url) as http:
            await http.post("/runs/wait", json={"assistant_id": "talks", "input": "Hello", "on_completion": "keep"})
        await expect(page.locator("[data-row]")).to_have_count(len(before) + 1)
        await page.keyboard.press("j")
        await expect(page.locator(f"#{before[2]} a").first).to_be_focused()
        await expect(page.locator(".is-current")).to_have_count(1)
        async with httpx.AsyncClient(base_url=server.url) as http:
            await http.post("/runs/wait", json={"assistant_id": "talks", "input": "Hello", "on_completion": "keep"})
        await expect(page.locator("[data-row]")).to_have_count(len(before) + 2)
        await expect(page.locator(f"#{before[2]}.is-current")).to_have_count(1)


async def test_light_and_dark_are_chosen_and_kept(serve: Any, visit: Any) -> None:
    server = await serve()
    dark, light = "rgb(14, 17, 22)", "rgb(247, 248, 250)"
    async with visit(server.url, color_scheme="dark") as seen:
        page = await seen.go("/ui")
        body = page.locator("body")
        await expect(body).to_have_css("background-color", dark)
        await page.get_by_role("button", name="Switch between light and dark").click()
        await expect(body).to_have_css("background-color", light)
        await seen.go("/ui/runs")
        await expect(body).to_have_css("background-color", light)
        await page.emulate_media(media="print")
        await expect(page.locator(".bar nav")).to_be_hidden()
        await expect(page.locator("#main")).to_be_visible()


async def test_the_first_key_leads_to_the_content(serve: Any, visit: Any) -> None:
    server = await serve()
    async with visit(server.url) as seen:
        page = await seen.go("/ui/runs")
        await page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to the content")
        await expect(skip).to_be_focused()
        await expect(skip).to_be_in_viewport()
        await page.keyboard.press("Enter")
        await expect(page.locator("#main")).to_be_focused()
        order: list[str] = []
        await page.reload()
        for _ in range(10):
            await page.keyboard.press("Tab")
            order.append(await page.evaluate("() => document.activeElement.innerText.trim()"))
        pages = ["Overview", "Runs", "Threads", "Agents", "Subscriptions", "Workers", "Log", "System"]
        assert order == ["Skip to the content", "Trackside", *pages]


async def test_when_the_server_is_gone_nothing_is_said_to_be_done(serve: Any, visit: Any) -> None:
    server = await serve()
    await run_some(server.url)
    async with visit(server.url) as seen:
        page = await seen.go("/ui/subscriptions")
        liveness = page.locator("#liveness")
        await expect(liveness).to_have_text("live")
        await expect(liveness).to_have_attribute("aria-live", "off")
        await asyncio.to_thread(server.kill)
        await expect(liveness).to_have_text("not live: reconnecting")
        await expect(liveness).to_have_attribute("aria-live", "polite")
        await expect(page.get_by_role("link", name="mail")).to_be_visible()
        await page.get_by_role("button", name="Pause mail").click()
        await expect(page.locator(".toast.bad")).to_contain_text("Check whether it was done")
        await asyncio.to_thread(server.restart)
        await expect(liveness).to_have_text("live")
        async with httpx.AsyncClient(base_url=server.url) as http:
            assert (await http.get("/subscriptions/mail")).json()["state"] == "active"
            await http.post("/subscriptions", json={"name": "later"})
        await expect(page.get_by_role("link", name="later")).to_be_visible()
        seen.complaints.clear()  # of what could not be fetched meanwhile


async def test_what_a_proxy_refuses_is_said(serve: Any, visit: Any) -> None:
    server = await serve()
    await run_some(server.url)
    answer: dict[str, Any] = {}

    async def refuse(route: Route) -> None:
        await route.fulfill(**answer)

    async with visit(server.url) as seen:
        await seen.page.route("**/ui/subscription/pause", refuse)
        await seen.page.route("**/ui/threads/*/answer", refuse)
        for status, kind, body in ((413, "text/html", "<h1>Request Entity Too Large</h1>"), (502, "text/plain", "")):
            answer |= {"status": status, "content_type": kind, "body": body}
            page = await seen.go("/ui/subscriptions")
            await page.get_by_role("button", name="Pause mail").click()
            await expect(page.locator(".toast.bad")).to_have_text(
                f"The server answered with {status}. Check whether it was done before you try again."
            )
            page = await seen.go("/ui/agents/asks")
            await page.locator("#play-input").fill("Go on")
            await page.get_by_role("button", name="Send", exact=True).click()
            await page.get_by_role("button", name="Yes").click()
            await expect(page.locator("#play-problem")).to_have_text(f"The server answered with {status}.")
        seen.complaints.clear()  # of what was refused


async def test_a_server_that_hangs_counts_as_gone_until_it_answers(serve: Any, visit: Any) -> None:
    server = await serve()
    async with visit(server.url) as seen:
        await seen.page.clock.install()
        page = await seen.go("/ui")
        liveness = page.locator("#liveness")
        await expect(liveness).to_have_text("live")
        async with seen.unheard(server.signal):
            await expect(liveness).to_have_text("not live: reconnecting")
        await page.clock.fast_forward(3_000)
        await expect(liveness).to_have_text("live")
        seen.complaints.clear()


async def test_a_stream_that_does_not_open_counts_as_lost_and_is_tried_again(serve: Any, visit: Any) -> None:
    server = await serve()
    held = asyncio.Event()

    async def hold(_: Route) -> None:
        held.set()

    async with visit(server.url) as seen:
        await seen.page.clock.install()
        await seen.page.route("**/ui/live**", hold, times=1)
        page = await seen.go("/ui")
        await held.wait()
        await page.clock.fast_forward(13_000)
        await expect(page.locator("#liveness")).to_have_text("not live: reconnecting")
        await page.clock.fast_forward(3_000)
        await expect(page.locator("#liveness")).to_have_text("live")
        seen.complaints.clear()


LISTEN = """() => new Promise((open) => {
  const stream = new EventSource("/ui/live");
  window.heard = 0;
  stream.addEventListener("changed", (event) => { window.heard = Number(event.lastEventId); });
  stream.addEventListener("open", open);
}).then(() => null)"""


async def test_what_changes_while_a_page_fetches_itself_is_not_missed(serve: Any, visit: Any) -> None:
    server = await serve()
    gate, held = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        answer = await route.fetch()
        held.set()
        await gate.wait()
        await route.fulfill(response=answer)

    async with (
        visit(server.url) as seen,
        httpx.AsyncClient(base_url=server.url) as http,
    ):
        page = await seen.go("/ui/runs")
        await expect(page.locator("#liveness")).to_have_text("live")
        await page.route("**/ui/runs", hold, times=1)
        await http.post("/runs/wait", json={"assistant_id": "talks", "input": "Hello", "on_completion": "keep"})
        await held.wait()
        await page.evaluate(LISTEN)
        await http.post("/runs/wait", json={"assistant_id": "works", "input": "Hello", "on_completion": "keep"})
        (newest,) = (await http.get("/events", params={"newest_first": True, "limit": 1})).json()
        await page.wait_for_function("(position) => window.heard >= position", arg=newest["position"])
        gate.set()
        await expect(page.locator("#runs tbody tr")).to_have_count(2)
        took = (await http.get("/ui/runs")).headers["server-timing"]
        assert re.fullmatch(r"page;dur=[0-9]+\.[0-9]", took)


OPENS_AT_ONCE = """() => {
  window.EventSource = class extends EventTarget {
    constructor() {
      super();
      queueMicrotask(() => this.dispatchEvent(new Event("open")));
      setInterval(() => this.dispatchEvent(new Event("beat")), 1_000);
    }
    close() {}
  };
  const soon = window.setTimeout;
  const late = []; // a browser that is busy comes to what is to be done soon when all has been loaded
  window.setTimeout = (does, wait = 0) => (wait ? soon(does, wait) : late.push(does));
  addEventListener("load", () => {
    window.setTimeout = soon;
    for (const does of late) soon(does);
  });
}"""


async def test_what_changes_before_a_stream_opens_is_not_missed_however_soon_that_is(serve: Any, visit: Any) -> None:
    server = await serve()
    async with visit(server.url) as seen, httpx.AsyncClient(base_url=server.url) as http:

        async def be_late(route: Route) -> None:
            """Have a run end between the moment that the page shows and its arrival."""
            answer = await route.fetch()
            await http.post("/runs/wait", json={"assistant_id": "talks", "input": "Hello", "on_completion": "keep"})
            await route.fulfill(response=answer)

        await seen.page.add_init_script(f"({OPENS_AT_ONCE})()")
        await seen.page.route("**/ui/runs", be_late, times=1)
        page = await seen.go("/ui/runs")
        await expect(page.locator("#runs tbody tr")).to_have_count(1)


async def test_what_is_deleted_while_it_is_looked_at_is_said_to_be_gone(serve: Any, visit: Any) -> None:
    server = await serve()
    named = await run_some(server.url)
    async with visit(server.url) as seen:
        page = await seen.go(f"/ui/subscriptions/{named['name:path']}")
        await expect(page.locator("#liveness")).to_have_text("live")
        async with httpx.AsyncClient(base_url=server.url) as http:
            await http.delete("/subscriptions/mail")
        await expect(page.locator("#stale")).to_contain_text("This is not there any more")
        await expect(page.get_by_role("heading", level=1)).to_have_text("mail")
        assert await seen.violations() == []
        seen.complaints.clear()


async def until_it_asks(page: Page, asked: asyncio.Event) -> None:
    """Have a page fetch itself, until it has asked: it does nothing of the kind while it does so already."""
    while not asked.is_set():
        await page.evaluate("() => htmx.trigger('#refresh', 'changed')")
        await asyncio.wait([asyncio.ensure_future(asked.wait())], timeout=0.5)


async def test_a_page_that_could_not_be_looked_up_looks_again_though_nothing_happens(serve: Any, visit: Any) -> None:
    server = await serve()
    await run_some(server.url)
    async with visit(server.url) as seen:
        page = await seen.go("/ui/runs")
        await expect(page.locator("#liveness")).to_have_text("live")
        refused = asyncio.Event()

        async def refuse(route: Route) -> None:
            refused.set()
            await route.fulfill(status=503, body="not now")

        await page.route("**/ui/runs", refuse)
        await until_it_asks(page, refused)
        await expect(page.locator("#stale")).to_contain_text("cannot look this up now")
        await page.unroute("**/ui/runs")
        await expect(page.locator("#stale")).to_be_hidden()
        await expect(page.locator("#liveness")).to_have_text("live")
        seen.complaints.clear()  # of the 503


async def test_a_page_whose_answer_is_lost_asks_again_though_nothing_happens(serve: Any, visit: Any) -> None:
    server = await serve()
    async with visit(server.url) as seen:
        page = await seen.go("/ui/runs")
        await expect(page.locator("#liveness")).to_have_text("live")
        lost, asked = asyncio.Event(), asyncio.Event()

        async def lose(route: Route) -> None:
            if not lost.is_set():
                lost.set()
                await route.abort("connectionreset")
            else:
                asked.set()
                await route.continue_()

        await page.route("**/ui/runs", lose)
        await until_it_asks(page, lost)
        async with asyncio.timeout(60):
            await asked.wait()
        await page.unroute_all(behavior="wait")
        seen.complaints.clear()  # of what was lost


async def test_the_database_away_is_said_on_a_page(serve: Any, visit: Any, own_postgres_server: Any) -> None:
    """Open pages say that they are out of date; new ones say why there is nothing to see."""
    database = own_postgres_server
    server = await serve(database=await asyncio.to_thread(database.create_database, "console"))
    await run_some(server.url)
    async with visit(server.url) as seen:
        page = await seen.go("/ui/subscriptions")
        await expect(page.get_by_role("link", name="mail")).to_be_visible()
        await asyncio.to_thread(database.stop, "immediate")
        await seen.fetch_anew()
        await expect(page.locator("#stale")).to_contain_text("cannot look this up now", timeout=30_000)
        await seen.go("/ui/subscriptions")
        await expect(page.get_by_role("heading", level=1)).to_have_text("The server cannot do this now")
        assert await seen.violations() == []
        await asyncio.to_thread(database.start)
        async with httpx.AsyncClient(base_url=server.url) as http:
            while (await http.get("/health/ready")).status_code != 200:
                pass
        await page.reload()
        await expect(page.get_by_role("link", name="mail")).to_be_visible()
        seen.complaints.clear()
