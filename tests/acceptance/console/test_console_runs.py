"""The page of runs: what it shows of which, what is done with several, and what happens while somebody looks."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import texts
from logged_runs import RecordedRun, record
from playwright.async_api import Page, expect

SETTINGS = '[agents]\nwaits = "console_agents.py:waits"\n'

pytestmark = pytest.mark.asyncio(loop_scope="session")

MARKUP = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
TURNED = "evil\u202etxt.exe\u200b\u2066"
ARABIC = "تقرير عن الأسعار"
FOUND_BY = {
    "": ["asking one", "late one", "bad one", "dear one", "slow one", "old one"],
    "?status=error&status=timeout": ["late one", "bad one"],
    "?agent=fails": ["bad one"],
    "?thread_id=a-thread-of-its-own": ["late one"],
    "?thread=a-thread-of-its-own": ["late one"],
    "?since=1h&status=success": ["dear one", "slow one"],
    "?until=2h": ["old one"],
    "?text=PRICES": ["bad one"],
    "?text=acme": ["slow one"],
    "?min_cost=$1": ["dear one"],
    "?min_duration=5m": ["slow one"],
    "?range=24h&status=interrupted": ["asking one"],
}
"""Filters in an address, and the names of the runs that each of them finds."""


def database(folder: Path) -> str:
    """The address of the server's database, for others that write there."""
    return f"sqlite:///{folder / 'runs.db'}"


async def started(client: httpx.AsyncClient, agent: str, *, wait: bool = False) -> dict[str, Any]:
    """A run on a thread of its own, started over the API; with `wait` it has ended."""
    thread = (await client.post("/threads", json={})).json()["thread_id"]
    made = (await client.post(f"/threads/{thread}/runs", json={"assistant_id": agent, "input": {"text": "go"}})).json()
    if wait:
        await client.get(f"/threads/{made['thread_id']}/runs/{made['run_id']}/join")
    return dict(made)


async def names(page: Page) -> list[str]:
    """The names of the table's rows."""
    return texts(await page.locator("#runs tbody .run-name").all_inner_texts())


async def test_every_filter_finds_its_runs_and_says_what_makes_no_sense(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    await record(
        database(tmp_path),
        [
            RecordedRun(title="old one", agent="archive", ago=90_000, cost=None),
            RecordedRun(title="dear one", cost=2.5, seconds=5),
            RecordedRun(title="slow one", seconds=400, ago=500, metadata={"customer": "acme"}),
            RecordedRun(title="bad one", status="error", error="KeyError: 'prices'\n  second line", agent="fails"),
            RecordedRun(title="late one", status="timeout", thread_id="a-thread-of-its-own"),
            RecordedRun(title="asking one", status="interrupted"),
        ],
    )
    async with visit(server.url) as seen:
        for address, expected in FOUND_BY.items():
            page = await seen.go(f"/ui/runs{address}")
            assert sorted(await names(page)) == sorted(expected), address
        row = (await seen.go("/ui/runs?text=prices")).locator("#runs tbody tr")
        assert "KeyError: 'prices'" in await row.inner_text()
        assert "second line" not in await row.inner_text()

        page = await seen.go("/ui/runs?status=wild&since=yesterday&min_cost=much&min_duration=-1&agent=fails")
        for label, said in {
            "Since": "This is not a time",
            "Min. cost, $": "This is not an amount in US dollars",
            "Min. duration": "This is not a duration",
        }.items():
            box = page.get_by_label(label, exact=True)
            await expect(box).to_have_attribute("aria-invalid", "true")
            assert said in await page.locator(f"#{await box.get_attribute('aria-describedby')}").inner_text()
        assert "There is no 'wild'" in await page.get_by_role("group", name="Status").inner_text()
        await expect(page.locator(".empty-title")).to_have_text("No runs are shown")
        assert await seen.violations() == []
        page = await seen.go("/ui/runs?since=1h&until=2h")
        assert "has to be after the start" in await page.locator("#wrong-until").inner_text()
        page = await seen.go("/ui/runs?before=nonsense")
        await expect(page.locator("#runs .problem")).to_contain_text("nonsense")
        page = await seen.go("/ui/runs?agent=nobody")
        await expect(page.locator(".empty-title")).to_have_text("No runs of the agent nobody")

        await page.get_by_label("Agent", exact=True).fill("")
        await page.get_by_label("Text", exact=True).fill("one")
        await page.get_by_role("button", name="Filter", exact=True).click()
        await page.wait_for_url("**/ui/runs?text=one")
        await page.get_by_label("error", exact=True).check()
        await page.wait_for_url("**/ui/runs?text=one&status=error")
        assert await names(page) == ["bad one"]
        await page.get_by_role("link", name="Clear").click()
        await page.wait_for_url("**/ui/runs")
        assert await seen.violations() == []
        await seen.picture("runs")


async def test_pages_follow_each_other_over_many_runs_without_gap_or_repeat(
    serve: Any, visit: Any, tmp_path: Path
) -> None:
    server = await serve()
    made = await record(database(tmp_path), (RecordedRun(title=f"number {n}", ago=9_000 - n) for n in range(120)))
    async with visit(server.url) as seen:
        page = await seen.go("/ui/runs")
        pages = [await names(page)]
        assert await page.locator("a[rel=prev]").count() == 0
        for key in ["n", "n", "p", "p"]:
            before = page.url
            await page.keyboard.press(key)
            await page.wait_for_function("before => location.href !== before", arg=before)
            await page.wait_for_load_state()
            pages.append(await names(page))
        assert [len(one) for one in pages] == [50, 50, 20, 50, 50]
        assert pages[0] + pages[1] + pages[2] == [run.title for run in reversed(made)]
        assert pages[3:] == [pages[1], pages[0]]
        assert await page.locator("a[rel=prev]").count() == 0

        await page.keyboard.press("n")
        await page.wait_for_url("**before=**")
        await page.get_by_role("link", name="Newest").click()
        await page.wait_for_url("**/ui/runs?")
        assert await names(page) == pages[0]
        page = await seen.go("/ui/runs?text=number 1&since=1d")
        assert len(await names(page)) == 31
        assert await page.locator(".pager").count() == 0


async def test_a_search_says_how_far_it_looked_and_goes_on(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    await record(database(tmp_path), (RecordedRun(title=f"hay {n}", ago=9_000 - n) for n in range(2_000)))
    await record(database(tmp_path), [RecordedRun(title="needle", ago=90_000), RecordedRun(title="needle too", ago=5)])
    async with visit(server.url) as seen:
        page = await seen.go("/ui/runs?text=needle")
        await expect(page.locator("#liveness")).to_have_attribute("data-state", "live")
        assert await names(page) == ["needle too"]
        await expect(page.locator("#runs .notice")).to_contain_text("Searched back to")
        assert await seen.violations() == []
        await seen.picture("runs-search")
        await record(database(tmp_path), [RecordedRun(title="needle now", ago=0)])
        await expect(page.locator("#runs .run-name").first).to_have_text("needle now")
        on = page.get_by_role("link", name="Continue the search")
        while await on.count():
            before = page.url
            await on.click()
            await page.wait_for_function("before => location.href !== before", arg=before)
            await page.wait_for_load_state()
        assert await names(page) == ["needle"]
        while await page.locator("a[rel=prev]").count():
            before = page.url
            await page.locator("a[rel=prev]").click()
            await page.wait_for_function("before => location.href !== before", arg=before)
            await page.wait_for_load_state()
        assert await names(page) == ["needle now", "needle too"]


async def test_several_runs_are_cancelled_and_started_anew_at_once(serve: Any, visit: Any) -> None:
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client, visit(server.url) as seen:
        failed = [await started(client, "fails", wait=True) for _ in range(2)]
        going = [await started(client, "waits") for _ in range(3)]
        page = await seen.go("/ui/runs")
        await expect(page.locator("#runs tbody .status-running")).to_have_count(3)
        bulk = page.locator("#bulk")
        await expect(bulk).to_be_hidden()
        await page.get_by_label("Select all runs of this page").check()
        await expect(page.locator("#bulk-count")).to_have_text("5 runs selected")
        await page.get_by_role("button", name="Select none").click()
        await expect(bulk).to_be_hidden()
        boxes = page.locator("#runs tbody input[type=checkbox]")
        await boxes.nth(0).click()
        await boxes.nth(3).click(modifiers=["Shift"])
        await expect(page.locator("#runs tbody input:checked")).to_have_count(4)
        assert await seen.violations() == []
        await seen.picture("runs-selected")

        await page.get_by_role("button", name="Cancel 3").click()
        await expect(page.locator("#confirm-text")).to_contain_text("Cancel 3 runs?")
        await page.locator("#confirm [value=yes]").click()
        done = page.locator("#bulk-done")
        await expect(done.get_by_role("heading")).to_have_text("Cancelled: 3 of 3")
        said = texts(await done.locator("li").all_inner_texts())
        assert said == [f"…{run['run_id'][-8:]} is being cancelled" for run in reversed(going)]
        await expect(page.locator("#runs tbody .status-cancelled")).to_have_count(3)
        await expect(bulk).to_be_hidden()
        await page.get_by_role("button", name="Close").click()

        for run in failed:
            await page.locator(f"#run-{run['run_id']} input").check()
        await page.get_by_role("button", name="Retry 2").click()
        await page.locator("#confirm [value=yes]").click()
        await expect(done.get_by_role("heading")).to_have_text("Retried: 2 of 2")
        again = await done.locator("li a:last-child").all_inner_texts()
        assert len(again) == 2
        await page.mouse.move(5, 5)
        await expect(page.locator("#runs tbody tr")).to_have_count(7)
        await expect(page.locator("#runs tbody .status-error")).to_have_count(4)
        assert await seen.violations() == []


async def test_nothing_moves_under_whoever_is_at_work_in_the_table(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client, visit(server.url) as seen:
        first = await started(client, "waits")
        page = await seen.go("/ui/runs")
        await expect(page.locator("#liveness")).to_have_attribute("data-state", "live")
        await expect(page.locator("#runs tbody tr")).to_have_count(1)
        second = await started(client, "fails", wait=True)
        await expect(page.locator("#runs tbody tr")).to_have_count(2)  # nobody is there: it comes at the top
        top = page.locator("#runs tbody tr").first
        await expect(top).to_have_id(f"run-{second['run_id']}")

        await page.locator(f"#run-{first['run_id']} input").check()
        await page.keyboard.press("j")
        current = await page.locator("tr.is-current").get_attribute("id")
        await started(client, "fails", wait=True)
        await started(client, "talks", wait=True)
        await expect(page.locator("#newer a")).to_have_text("2 new")
        await expect(page.locator("#runs tbody tr")).to_have_count(2)
        await expect(top).to_have_id(f"run-{second['run_id']}")
        await expect(page.locator(f"#run-{first['run_id']} input")).to_be_checked()
        assert await page.locator("tr.is-current").get_attribute("id") == current
        await page.locator("#newer a").click()
        await expect(page.locator("#runs tbody tr")).to_have_count(4)
        await expect(page.locator("#newer a")).to_have_count(0)
        await expect(page.locator("#bulk")).to_be_hidden()

        # A row that no longer fits stays while the pointer is in the table, and goes when the pointer leaves.
        page = await seen.go("/ui/runs?status=running")
        await expect(page.locator("#liveness")).to_have_attribute("data-state", "live")
        await page.locator(f"#run-{first['run_id']} .status").hover()
        await client.post(f"/threads/{first['thread_id']}/runs/{first['run_id']}/cancel", params={"wait": True})
        await expect(page.locator(f"#run-{first['run_id']}")).to_have_class("is-gone")
        await page.mouse.move(5, 5)
        await expect(page.locator(".empty-title")).to_have_text("No runs match these filters")

        # The page says that its stream dropped, and has afterwards what it missed.
        page = await seen.go("/ui/runs")
        await expect(page.locator("#liveness")).to_have_attribute("data-state", "live")
        await asyncio.to_thread(server.kill)
        await expect(page.locator("#liveness")).to_have_attribute("data-state", "lost")
        await record(database(tmp_path), [RecordedRun(title="meanwhile", ago=0)])
        await asyncio.to_thread(server.start)
        await expect(page.locator("#runs tbody .run-name").first).to_have_text("meanwhile")
        await expect(page.locator("#liveness")).to_have_attribute("data-state", "live")
        seen.complaints.clear()  # the browser complains of connections that fail


async def test_views_are_kept_by_name_and_are_addresses(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    made = [RecordedRun(title="fine", ago=2), RecordedRun(title="bad", status="error", ago=1)]
    await record(database(tmp_path), made)
    async with visit(server.url, timezone_id="Asia/Kolkata") as seen:
        page = await seen.go("/ui/runs")
        views = page.get_by_role("navigation", name="Views")
        await expect(views.get_by_role("button", name="Save this view")).to_be_hidden()
        for name, expected in {
            "Failed today": ["bad"],
            "Running": [],
            "Waiting for a human": [],
            "Expensive: $0.10 and more": [],
            "Slow: 1 min and more": [],
            "All": ["bad", "fine"],
        }.items():
            await views.get_by_role("link", name=name, exact=True).click()
            await expect(views.locator("[aria-current]")).to_have_text(name)
            assert await names(page) == expected
        await views.get_by_role("link", name="Failed today").click()
        await page.wait_for_url("**since=today%2B05%3A30")

        await seen.go("/ui/runs?text=fine")
        await views.get_by_role("button", name="Save this view").click()
        await page.get_by_label("Name").fill(f"Fine {MARKUP}")
        await page.get_by_role("button", name="Save", exact=True).click()
        saved = views.get_by_role("link", name="Fine")
        await expect(saved).to_have_attribute("aria-current", "true")
        await seen.go("/ui/runs")
        await saved.click()
        await page.wait_for_url("**/ui/runs?text=fine")
        assert await names(page) == ["fine"]
        assert await seen.violations() == []
        await views.get_by_role("button", name="Forget the view Fine").click()
        await expect(saved).to_have_count(0)

        await seen.go("/ui/runs?since=today%2B05:30")
        await views.get_by_role("button", name="Save this view").click()
        await page.get_by_label("Name").fill("New")
        await page.get_by_role("button", name="Save", exact=True).click()
        await expect(views.get_by_role("link", name="New")).to_have_attribute("aria-current", "true")
        kept = await page.context.storage_state()
    async with visit(server.url, timezone_id="Etc/GMT-1", storage_state=kept) as seen:
        page = await seen.go("/ui/runs")
        await page.get_by_role("link", name="New", exact=True).click()
        await page.wait_for_url("**since=today%2B01%3A00")  # of the day where the browser is now


async def test_those_that_wait_for_a_human_are_those_that_nobody_has_answered(serve: Any, visit: Any) -> None:
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client, visit(server.url) as seen:
        asked: list[tuple[str, str]] = []
        for _ in range(2):
            thread_id = (await client.post("/threads", json={})).json()["thread_id"]
            body = {"assistant_id": "asks", "input": {"messages": [{"role": "user", "content": "Go"}]}}
            run_id = (await client.post(f"/threads/{thread_id}/runs", json=body)).json()["run_id"]
            await client.get(f"/threads/{thread_id}/runs/{run_id}/join")
            asked.append((thread_id, run_id))
        (waiting, run_id), (answered, _) = asked
        body = {"assistant_id": "asks", "command": {"resume": "yes"}}
        await client.post(f"/threads/{answered}/runs/wait", json=body)
        page = await seen.go("/ui/runs")
        await page.get_by_role("link", name="Waiting for a human").click()
        await expect(page.locator("#runs tr[data-run]")).to_have_count(1)
        await expect(page.locator(f"#run-{run_id}")).to_contain_text("interrupted")
        await expect(page.get_by_label("waiting for a human")).to_be_checked()
        await client.post(f"/threads/{waiting}/runs/wait", json=body)
        await expect(page.locator(".empty-title")).to_have_text("No runs match these filters")


async def test_on_a_phone_filters_are_folded_until_one_is_set(serve: Any, visit: Any) -> None:
    server = await serve()
    async with visit(server.url, viewport={"width": 390, "height": 844}, is_mobile=True) as seen:
        for path, first, query in (
            ("/ui/runs", "Text", "text=x"),
            ("/ui/threads", "Agent", "agent=x"),
            ("/ui/log", "Run", "agent=x"),
        ):
            page = await seen.go(path)
            form, fold = page.get_by_role("search"), page.locator("summary", has_text="Filters")
            await expect(form).to_be_hidden()
            await fold.click()
            await expect(form.get_by_label(first, exact=True)).to_be_visible()
            assert await seen.violations() == []
            await seen.go(f"{path}?{query}")
            await expect(form).to_be_visible()
            await page.set_viewport_size({"width": 1280, "height": 800})
            await seen.go(path)
            await expect(form).to_be_visible()
            await expect(fold).to_be_hidden()
            await page.set_viewport_size({"width": 390, "height": 844})


async def test_keys_lead_through_the_table_and_texts_of_others_stay_texts(
    serve: Any, visit: Any, tmp_path: Path
) -> None:
    server = await serve()
    await record(
        database(tmp_path),
        [
            RecordedRun(
                title=MARKUP,
                status="error",
                error=MARKUP,
                agent=MARKUP,
                thread_id=f"{MARKUP}/?#",
                metadata={"a": MARKUP},
            ),
            RecordedRun(title=TURNED, agent=TURNED, thread_id=TURNED),
            RecordedRun(title=ARABIC, agent=ARABIC),
            RecordedRun(title="\u200b\u200b", status="error", error="x" * 5_000_000),
            RecordedRun(title="word " * 2_000),
        ],
    )
    async with visit(server.url) as seen:
        page = await seen.go("/ui/runs")
        assert await page.title() == "Runs · Trackside"
        assert await page.locator("#runs img, #runs script").count() == 0
        shown = await page.locator("#runs").inner_text()
        assert shown.count(MARKUP) == 3
        assert shown.count("evil⟨U+202E⟩txt.exe⟨U+200B⟩⟨U+2066⟩") == 2
        assert "⟨U+200B⟩⟨U+200B⟩" in shown
        assert ARABIC in shown
        assert len(await page.content()) < 100_000
        assert await seen.violations() == []
        await seen.picture("runs-hostile")

        await page.keyboard.press("j")
        await page.keyboard.press("j")
        await page.keyboard.press("k")
        await page.keyboard.press("x")
        first = page.locator("#runs tbody tr").first
        await expect(first.locator("input")).to_be_checked()
        await page.keyboard.press("Escape")
        await expect(first.locator("input")).not_to_be_checked()
        await page.keyboard.press("/")
        await expect(page.get_by_label("Text", exact=True)).to_be_focused()
        await page.keyboard.type("txt.exe")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**text=txt.exe")
        await page.keyboard.press("j")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/ui/runs/*-*")


async def test_everybody_sees_and_stops_what_is_his(serve: Any, visit: Any, trackside: Any, tmp_path: Path) -> None:
    server = await serve(f'[server]\nauth = "keys"\n{SETTINGS}')
    secrets = {}
    for name, permission in {"ada": "run", "eve": "run", "ron": "read"}.items():
        owner = "ada" if name == "ron" else name
        options = ["--owner", owner, "--permission", permission, "--json", "-d", "sqlite:///runs.db"]
        made = await asyncio.to_thread(trackside, "auth", "create", name, *options)
        secrets[name] = json.loads(made.stdout)["secret"]
    async with httpx.AsyncClient(base_url=server.url, timeout=30, headers={"X-API-Key": secrets["ada"]}) as client:
        run = await started(client, "waits")
    async with visit(server.url) as seen:
        page = await signed_in(await seen.go("/ui/runs"), secrets["ron"])
        await expect(page.locator("#runs tbody .status-running")).to_have_count(1)
        await expect(page.locator("#runs input")).to_have_count(0)  # this user may only look
        await expect(page.locator("#bulk")).to_have_count(0)
        await seen.go("/ui/log")
        await expect(page.locator("#log tbody tr")).to_have_count(2)
        assert await seen.violations() == []
    async with visit(server.url) as seen:
        page = await signed_in(await seen.go("/ui/runs"), secrets["eve"])
        await expect(page.locator(".empty-title")).to_have_text("No runs yet")
        await seen.go("/ui/log")
        await expect(page.locator(".empty-title")).to_have_text("No events yet")
        await seen.go("/ui/runs")
        for what in ("cancel", "retry"):  # nothing can be done with somebody else's run
            said = await page.evaluate(
                """async ([what, id]) => {
                    const headers = {"HX-Request": "true", "Content-Type": "application/x-www-form-urlencoded"};
                    const body = new URLSearchParams({csrf: document.querySelector("meta[name=trackside-token]").content});
                    body.append("run_ids", id);
                    body.append("run_ids", "01900000-0000-7000-8000-000000000000");
                    return (await fetch(`/ui/runs/${what}`, {method: "POST", headers, body})).text();
                }""",
                [what, run["run_id"]],
            )
            assert "0 of 2" in said, said
    async with visit(server.url) as seen:
        page = await signed_in(await seen.go("/ui/runs?agent=waits"), secrets["ada"])
        await page.locator(f"#run-{run['run_id']} input").check()
        await page.get_by_role("button", name="Cancel 1").click()
        await page.locator("#confirm [value=yes]").click()
        await expect(page.locator("#bulk-done")).to_contain_text("1 of 1")
        await expect(page.locator("#runs tbody .status-cancelled")).to_have_count(1)


async def signed_in(page: Page, secret: str) -> Page:
    """The page that somebody wanted, after signing in."""
    await page.get_by_label("API key or token").fill(secret)
    await page.get_by_role("button", name="Sign in").click()
    return page
