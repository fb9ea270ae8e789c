"""The page of the log: what comes, as it comes; what was, page by page; and floods."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import Visit, texts
from logged_runs import RecordedRun, record
from playwright.async_api import Page, expect

from trackside import LifecycleEventType

pytestmark = pytest.mark.asyncio(loop_scope="session")

FLOOD = 80_000
"""Milliseconds after which thousands of events that are not all drawn count as missing; the page draws 200 at once."""
MARKUP = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
TURNED = "evil\u202etxt.exe\u200b\u2066"
JOINED = "a\u200db \u0645\u06cc\u200c\u062e x\u200c\u0645 \x7f\u2028\ufeff\U000e0041"
JOINED_SEEN = "a\\u200db \u0645\u06cc\u200c\u062e x\\u200c\u0645 \\u007f\\u2028\\ufeff\\udb40\\udc41"
"""The same in JSON: a joiner inside a Persian word stays as it is."""
ARABIC = "تقرير عن الأسعار"
HIDE = """(hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""

BEATS = """{
  const Stream = EventSource;
  window.EventSource = class extends Stream {
    constructor(url) {
      super(url);
      this.addEventListener("beat", () => { window.beats += 1; });
    }
  };
}"""
STATES = """() => {
  const liveness = document.getElementById("liveness");
  const states = [];
  new MutationObserver(() => states.push(liveness.dataset.state)).observe(liveness, { attributes: true });
  return states;
}"""


def database(folder: Path) -> str:
    """The address of the server's database, for others that write there."""
    return f"sqlite:///{folder / 'runs.db'}"


async def positions(page: Page) -> list[int]:
    """The positions of the events that are shown, from the top."""
    found: list[int] = await page.locator("#log tbody").evaluate(
        "body => [...body.rows].map(row => Number(row.dataset.position))"
    )
    return found


async def all_positions(url: str, **query: Any) -> list[int]:
    """The positions of all events that the API lists, newest first."""
    async with httpx.AsyncClient(base_url=url) as client:
        found = (await client.get("/events", params={"newest_first": True, "limit": 1_000, **query})).json()
    return [event["position"] for event in found]


async def is_live(page: Page) -> None:
    """Wait until the page is live."""
    await expect(page.locator("#liveness")).to_have_attribute("data-state", "live")


async def has_times(page: Page) -> None:
    """Wait until times are written as this browser does it, which it does once it has compared the clocks."""
    await expect(page.locator("#log tbody time:not([title])")).to_have_count(0)


async def has_rows(page: Page, count: int) -> None:
    """Wait until this many events are shown."""
    await expect(page.locator("#log tbody tr")).to_have_count(count, timeout=FLOOD)


async def the_server_writes_them_alike(seen: Visit, live_payload: str) -> None:
    """Read the events that came live once more from the server, and what the failed one says."""
    page = seen.page
    rows = page.locator("#log tbody tr")
    await has_times(page)
    live = texts(await rows.all_inner_texts())
    links = await rows.locator("a").evaluate_all("all => all.map(a => [a.getAttribute('href'), a.title, a.className])")
    await seen.go("/ui/log")
    await is_live(page)
    await has_times(page)
    assert texts(await rows.all_inner_texts()) == live
    written = await rows.locator("a").evaluate_all(
        "all => all.map(a => [a.getAttribute('href'), a.title, a.className])"
    )
    assert written == links
    failed = rows.filter(has_text="run failed")
    await failed.locator("summary").click()
    assert json.loads(await failed.locator(".payload").inner_text()) == json.loads(live_payload)
    await failed.locator(".json-link").click()
    await page.wait_for_url("**/events?after=*")
    assert "KeyError" in await page.locator("body").inner_text()


async def test_events_come_as_they_happen_and_wait_while_somebody_reads(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    async with visit(server.url) as seen:
        page = await seen.go("/ui/log")
        await is_live(page)
        await expect(page.locator(".empty-title")).to_have_text("No events yet")
        assert await seen.violations() == []
        [run] = await record(
            database(tmp_path), [RecordedRun(status="error", title="Prices", error="KeyError: 'a'\nmore")]
        )
        await has_rows(page, 5)
        rows = page.locator("#log tbody tr")
        kinds = texts(await rows.locator(".event-type").all_inner_texts())
        assert kinds == [
            "thread status updated",
            "run failed",
            "human message",
            "thread status updated",
            "run started",
        ]
        live_says = texts(await rows.locator(".says").all_inner_texts())
        assert live_says[1] == "KeyError: 'a' more"
        assert live_says[0] == "busy → idle"
        await expect(rows.nth(1).locator(".run-link").first).to_have_attribute("href", f"/ui/runs/{run.run_id}")
        await expect(rows.nth(1).locator(".thread-link").first).to_have_attribute(
            "href", f"/ui/threads/{run.thread_id}"
        )

        # An open event stays where it is, and so does the list.
        await rows.nth(1).locator("summary").click()
        await expect(rows.nth(1).locator(".payload")).to_contain_text('"error": "KeyError: \'a\'\\nmore"')
        live_payload = await rows.nth(1).locator(".payload").inner_text()
        await record(database(tmp_path), [RecordedRun(question="later")])
        await expect(page.locator("#fresh")).to_have_text("5 new")
        await has_rows(page, 5)
        assert await seen.violations() == []
        await page.locator("#fresh").click()
        await has_rows(page, 10)

        await page.get_by_role("button", name="Pause").click()
        await expect(page.locator("#liveness")).to_have_text("paused")
        await record(database(tmp_path), [RecordedRun(), RecordedRun()])
        await expect(page.locator("#fresh")).to_have_text("10 new")
        await has_rows(page, 10)
        await page.get_by_role("button", name="Resume").click()
        await has_rows(page, 20)
        assert await positions(page) == await all_positions(server.url)
        await seen.picture("log")

        # The server and the script write the same event in the same way.
        await the_server_writes_them_alike(seen, live_payload)


async def test_the_log_is_filtered_and_read_back_page_by_page(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    made = await record(database(tmp_path), (RecordedRun(ago=9_000 - n, agent=f"agent {n % 2}") for n in range(50)))
    everything = await all_positions(server.url)
    async with visit(server.url) as seen:
        for address, query in {
            "type=run_started&type=run_completed": {"type": ["run_started", "run_completed"]},
            f"run_id={made[3].run_id}": {"run_id": made[3].run_id},
            f"thread_id={made[4].thread_id}": {"thread_id": made[4].thread_id},
            "agent=agent+1&type=run_started": {"agent": "agent 1", "type": "run_started"},
        }.items():
            page = await seen.go(f"/ui/log?{address}")
            await is_live(page)
            expected = await all_positions(server.url, **query)
            assert expected
            assert await positions(page) == expected, address
        page = await seen.go("/ui/log?since=1h")
        await expect(page.locator(".empty-title")).to_have_text("No events match these filters yet")
        await is_live(page)
        [new] = await record(database(tmp_path), [RecordedRun(ago=1)])
        await has_rows(page, 5)
        page = await seen.go(f"/ui/log?run_id={new.run_id}&type=run_completed")
        await is_live(page)
        await has_rows(page, 1)

        page = await seen.go("/ui/log?since=soon&type=strange")
        assert "This is not a time" in await page.locator("#wrong-since").inner_text()
        assert "There is no 'strange'" in await page.locator("#wrong-type").inner_text()
        assert await seen.violations() == []
        page = await seen.go("/ui/log?before=x")
        assert "not a position" in await page.locator("#main .problem:visible").inner_text()
        page = await seen.go("/ui/log?run_id=nope")
        await expect(page.locator(".empty-title")).to_have_text("No events match these filters yet")

        page = await seen.go("/ui/log")
        everything = await all_positions(server.url)
        pages = [await positions(page)]
        for key in ["n", "n", "p", "p"]:
            before = page.url
            await page.keyboard.press(key)
            await page.wait_for_function("before => location.href !== before", arg=before)
            await page.wait_for_load_state()
            pages.append(await positions(page))
        assert pages[0] + pages[1] + pages[2] == everything
        assert pages[3:] == [pages[1], pages[0]]
        await is_live(page)  # the newest page follows, however the user got there
        await seen.go(f"/ui/log?before={everything[-1]}")
        await expect(page.locator(".empty-title")).to_have_text("There are no older events")
        await page.get_by_role("link", name="Follow live").click()
        await is_live(page)


async def test_a_dropped_stream_goes_on_where_it_was(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    await record(database(tmp_path), [RecordedRun()])
    async with visit(server.url) as seen:
        page = await seen.go("/ui/log")
        await is_live(page)
        await record(database(tmp_path), [RecordedRun()])
        await has_rows(page, 10)
        for times in range(1, 3):
            await asyncio.to_thread(server.kill)
            await expect(page.locator("#liveness")).to_have_attribute("data-state", "lost")
            await record(database(tmp_path), [RecordedRun()])
            await asyncio.to_thread(server.start)
            await record(database(tmp_path), [RecordedRun()])
            await is_live(page)
            await has_rows(page, 10 + 10 * times)
            assert await positions(page) == await all_positions(server.url)
        seen.complaints.clear()  # the browser complains of connections that fail


async def test_a_stream_that_falls_silent_counts_as_lost_and_goes_on_where_it_was(
    serve: Any, visit: Any, tmp_path: Path
) -> None:
    server = await serve()
    await record(database(tmp_path), [RecordedRun()])
    async with visit(server.url) as seen:
        await seen.page.clock.install()
        page = await seen.go("/ui/log")
        await is_live(page)
        async with seen.unheard(server.signal):
            await expect(page.locator("#liveness")).to_have_text("not live: reconnecting")
            await page.clock.fast_forward(3_000)  # it asks again, and is not answered
            async with page.expect_event("requestfailed", lambda one: "/events?" in one.url):
                await page.clock.fast_forward(13_000)
        await record(database(tmp_path), [RecordedRun()])
        await page.clock.fast_forward(3_000)
        await is_live(page)
        await has_rows(page, 10)
        assert await positions(page) == await all_positions(server.url)
        seen.complaints.clear()  # of what was lost


async def test_a_log_in_which_nothing_happens_is_not_silent(serve: Any, visit: Any) -> None:
    server = await serve('[server]\nheartbeat = 0.2\n[agents]\ntalks = "console_agents.py:talks"\n')
    async with visit(server.url) as seen:
        await seen.page.clock.install(time=0)
        await seen.page.clock.pause_at(1_000)
        await seen.page.add_init_script(BEATS)
        page = await seen.go("/ui/log")
        await is_live(page)
        states = await page.evaluate_handle(STATES)
        for _ in range(3):
            await page.evaluate("window.beats = 0")
            async with asyncio.timeout(30):
                while not await page.evaluate("window.beats"):
                    await asyncio.sleep(0.05)
            await page.clock.run_for(8_000)
        assert await states.json_value() == []


async def test_of_what_came_while_nobody_looked_as_much_comes_as_is_shown(
    serve: Any, visit: Any, tmp_path: Path
) -> None:
    server = await serve()
    await record(database(tmp_path), [RecordedRun()])
    async with visit(server.url) as seen:
        asked: list[str] = []
        page = await seen.go("/ui/log?agent=talks")
        await is_live(page)
        page.on("request", lambda request: asked.append(request.url))

        async def away(runs: int) -> list[int]:
            await page.evaluate(HIDE, True)
            await record(database(tmp_path), (RecordedRun(ago=60 - n / 100, agent="talks") for n in range(runs)))
            await record(database(tmp_path), [RecordedRun(agent="another")])
            found = await all_positions(server.url, agent="talks")
            asked.clear()
            await page.evaluate(HIDE, False)
            newest = page.locator("#log tbody tr").first
            await expect(newest).to_have_attribute("data-position", str(found[0]), timeout=FLOOD)
            return found

        found = await away(2)
        await has_rows(page, 15)
        assert await positions(page) == found
        await expect(page.locator("#skipped")).to_be_hidden()
        await away(500)
        await expect(page.locator("#skipped")).to_contain_text("Events were skipped")
        await has_rows(page, 2_000)
        shown = await positions(page)
        [stream] = [url for url in asked if "/ui/log/stream?" in url]
        assert stream == f"{server.url}/ui/log/stream?agent=talks&after={shown[0]}"
        await page.get_by_role("link", name="Show what was skipped").click()
        await page.wait_for_url(f"**before={shown[-1]}")
        await has_rows(page, 100)


async def test_the_day_of_an_event_is_said_once_it_is_over(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    await record(database(tmp_path), [RecordedRun(ago=1)])
    async with visit(server.url) as seen:
        await seen.page.clock.install()
        page = await seen.go("/ui/log")
        await is_live(page)
        await page.clock.fast_forward(24 * 3_600 * 1_000)
        await expect(page.locator("#log .day:empty")).to_have_count(0)


async def test_numbers_are_the_same_live_as_after_a_reload(serve: Any, visit: Any) -> None:
    server = await serve()
    body = {
        "assistant_id": "talks",
        "input": {},
        "metadata": {"customer": 9007199254740993, "share": 1.0},
        "on_completion": "keep",
    }
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client, visit(server.url) as seen:
        page = await seen.go("/ui/log")
        await is_live(page)
        started = page.locator("#log tbody tr").filter(has_text="run started")

        async def shown() -> list[str]:
            for summary in await started.locator("summary").all():
                await summary.click()
            found: list[str] = await started.locator(".payload").all_inner_texts()
            return found

        await client.post("/runs/wait", json=body)  # which comes as it happens
        await expect(started).to_have_count(1)
        await page.evaluate(HIDE, True)
        await client.post("/runs/wait", json=body)  # for which the page asks when somebody looks again
        await page.evaluate(HIDE, False)
        await expect(started).to_have_count(2)
        live = await shown()
        assert all('"customer": 9007199254740993' in payload for payload in live)

        await seen.go("/ui/log")
        await is_live(page)
        assert await shown() == live


async def test_of_large_events_that_came_while_nobody_looked_few_are_asked_for_at_once(
    serve: Any, visit: Any, tmp_path: Path
) -> None:
    server = await serve()
    async with visit(server.url) as seen:
        sizes: list[int] = []
        page = await seen.go("/ui/log?type=human_message")
        await is_live(page)
        await page.evaluate(HIDE, True)
        large = "x" * 400_000
        await record(database(tmp_path), (RecordedRun(ago=60 - n / 100, question=large) for n in range(100)))
        [newest, *_] = await all_positions(server.url, type="human_message", limit=1)
        page.on(
            "response",
            lambda response: "newest_first" in response.url and sizes.append(int(response.headers["content-length"])),
        )
        await page.evaluate(HIDE, False)
        await is_live(page)
        await expect(page.locator("#log tbody tr").first).to_have_attribute("data-position", str(newest))
        await expect(page.locator("#skipped")).to_contain_text("Events were skipped")
        assert max(sizes) < 6_000_000
        assert 19_000_000 < sum(sizes) < 26_000_000, "as much as it keeps, and not all of 40 MB"
        assert len(await positions(page)) > 40


@pytest.mark.timeout(400)  # a browser on a machine that others use, too, takes its time to draw two of them
async def test_a_flood_is_drawn_as_far_as_anybody_can_read(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    async with visit(server.url) as seen:
        page = await seen.go("/ui/log")
        await is_live(page)
        await page.evaluate(
            """() => {
                window.longest = 0;
                new PerformanceObserver((list) => {
                    for (const task of list.getEntries()) window.longest = Math.max(window.longest, task.duration);
                }).observe({ type: "longtask" });
            }"""
        )
        await record(database(tmp_path), (RecordedRun(ago=60 - n / 100) for n in range(2_000)))
        [end] = await record(database(tmp_path), [RecordedRun(title="the end")])
        await expect(page.locator("#log tbody tr").first.locator(".run-link").first).to_have_attribute(
            "title", end.run_id, timeout=FLOOD
        )
        await expect(page.locator("#log tbody tr").first).to_have_attribute("data-position", "10005")
        shown = await positions(page)
        assert shown == list(range(10_005, 10_005 - len(shown), -1))
        assert 5 <= len(shown) <= 2_000
        print("the longest task took", await page.evaluate("window.longest"), "ms")

        # While paused, the page keeps what it can show; it says what it skips, and that can be fetched.
        await page.get_by_role("button", name="Pause").click()
        await record(database(tmp_path), (RecordedRun(ago=60 - n / 100) for n in range(2_000)))
        await expect(page.locator("#fresh")).to_have_text("10,000 new", timeout=FLOOD)
        assert await positions(page) == shown
        await page.get_by_role("button", name="Resume").click()
        await expect(page.locator("#skipped")).to_contain_text("events were skipped")
        await has_rows(page, 2_000)
        shown = await positions(page)
        assert shown == list(range(20_005, 18_005, -1))
        await page.get_by_role("link", name="Show what was skipped").click()
        await page.wait_for_url("**before=18006")
        assert (await positions(page))[0] == 18_005


async def test_what_others_write_stays_text(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    runs = [
        RecordedRun(
            title=MARKUP, status="error", error=MARKUP, agent=MARKUP, thread_id=f"{MARKUP}/?#", question=MARKUP
        ),
        RecordedRun(title=TURNED, agent=TURNED, thread_id=TURNED, question=f"{ARABIC} {JOINED}"),
        RecordedRun(
            payloads={
                LifecycleEventType.THREAD_STATUS_UPDATED: {},
                LifecycleEventType.RUN_STARTED: {"agent": {"a": [1, None]}, "trigger": ""},
                LifecycleEventType.HUMAN_MESSAGE: {"message": 5},
                LifecycleEventType.RUN_COMPLETED: {"status": False, "title": "False"},
            }
        ),
        RecordedRun(question="long " * 1_000_000),
    ]
    async with visit(server.url) as seen:
        page = await seen.go("/ui/log")
        await is_live(page)
        await record(database(tmp_path), runs)
        await has_rows(page, 20)
        lines = []
        for _ in range(2):  # as the script writes it, and as the server does
            for summary in await page.locator("#log summary").all():
                await summary.click()
            lines.append(await page.locator("#log .says").all_inner_texts())
            payloads = await page.locator("#log .payload").all_text_contents()
            assert any(r"evil\u202etxt.exe\u200b\u2066" in payload for payload in payloads)
            assert any(JOINED_SEEN in payload for payload in payloads)
            assert not [payload for payload in payloads if TURNED in payload]
            assert await page.title() == "Log · Trackside"
            assert await page.locator("#log img, #log script").count() == 0
            shown = await page.locator("#log").inner_text()
            assert shown.count(MARKUP) >= 3
            assert "evil⟨U+202E⟩txt.exe⟨U+200B⟩⟨U+2066⟩" in shown
            assert ARABIC in shown
            assert len(await page.content()) < 200_000
            assert await page.locator(".cut-note:visible").count() == 1
            assert await seen.violations() == []
            await seen.go("/ui/log")
            await has_rows(page, 20)
        assert lines[0] == lines[1]
        await page.keyboard.press("j")
        await page.keyboard.press("j")
        await page.keyboard.press("k")
        await page.keyboard.press("Enter")
        await page.wait_for_url(f"**/ui/runs/{runs[-1].run_id}")
