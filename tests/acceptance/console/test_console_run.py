"""The page of a run, in each of its states: did it work, why not, what did it cost, what is not there, who may see what."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import texts
from playwright.async_api import expect
from recorded_runs import BEGAN, MARKUP, id_of, import_runs, run_events
from run_pages import SETTINGS
from webhook_receiver import NEW, WebhookReceiver, status

from trackside.app.storage import Store

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_outcomes_are_said_first(serving: Any, visit: Any) -> None:
    server, api = await serving()
    works, fails = await api.ended("works", metadata={"who": "ada"}), await api.ended("fails")
    async with visit(server.url) as seen:
        page = await seen.go(f"/ui/runs/{works['run_id'].upper()}")
        top = page.locator("#run-top")
        await expect(top.locator(".head .status")).to_have_text("success")
        assert texts(await top.locator(".figure").all_inner_texts())[1:] == [
            "$0.00328 cost",
            "1,050 / 210 tokens in / out",
            "3 model calls",
            "2 tool calls",
        ]
        names = texts(await page.locator(".waterfall tbody th").all_inner_texts())
        assert names == [
            "run works success",
            "log events",
            "tool search_0",
            "by researcher",
            "model gpt-5",
            "model gpt-5",
            "tool search_1",
            "model gpt-5-mini",
        ]
        for table in ("By model", "By caller"):
            rows = await page.get_by_role("region", name=f"Tokens and cost {table.lower()}").locator("tr").all()
            shown = texts([await row.inner_text() for row in rows])
            assert shown[-1] == "In all 1,050 210 $0.00328"
        row = page.locator("tr[data-row]", has_text="gpt-5-mini")
        await row.focus()
        await expect(page.locator("#wf-detail")).to_contain_text("50 tokens in, 10 out")
        await expect(page.locator("#input-title ~ .conversation .message-human")).to_contain_text("hello")
        await expect(page.get_by_label("Output", exact=True).locator("pre")).to_contain_text('"found"')
        await page.locator("#stream-details > summary").click()
        await expect(page.locator("#stream-state")).to_contain_text("ended")
        assert await seen.violations() == []
        await seen.picture("run-success")

        page = await seen.go(f"/ui/runs/{fails['run_id']}")
        problem = page.locator("#run-top .problem")
        await expect(problem).to_contain_text("It failed: FileNotFoundError there is no file prices.csv")
        box, figures = await problem.bounding_box(), await page.locator(".figures").bounding_box()
        assert box is not None
        assert figures is not None
        assert box["y"] < figures["y"] < 500
        await page.get_by_text("Traceback", exact=True).click()
        await expect(problem.locator("pre")).to_contain_text('raise FileNotFoundError("there is no file prices.csv")')
        await page.locator("summary", has_text="run_failed").click()
        await expect(page.locator(".events pre:visible")).to_contain_text('"error_type": "FileNotFoundError"')
        assert await seen.violations() == []
        await seen.picture("run-error")


async def test_what_is_not_there_or_goes_away_is_said(serving: Any, visit: Any) -> None:
    server, api = await serving()
    waits = await api.start("waits")
    later = await api.start("talks", thread=waits["thread_id"])
    delayed = await api.start("talks", after_seconds=3_600)
    async with visit(server.url) as seen:
        page = await seen.go(f"/ui/runs/{later['run_id']}")
        verdict = page.locator("#run-top .verdict")
        await expect(verdict).to_contain_text(f"It waits for its thread: …{waits['run_id'][-8:]} is running there")
        await expect(page.locator("#events")).to_contain_text("None yet")
        await seen.go(f"/ui/runs/{delayed['run_id']}")
        await expect(verdict).to_contain_text("It is scheduled to start")
        await expect(verdict.locator("time").first).to_have_text(re.compile(r"^\w+ \d+, \d{4}, "))  # also which day
        assert await seen.violations() == []

        await seen.go(f"/ui/runs/{waits['run_id']}")
        await expect(page.locator("#stream-lines")).to_contain_text("still")
        await page.get_by_role("button", name="Cancel and roll back").click()
        await page.locator("#confirm [value=yes]").click()
        await expect(page.locator("#stale")).to_contain_text("not there any more")
        await expect(page.locator("#run-top")).to_contain_text(waits["run_id"])
        seen.complaints.clear()  # of the 404

        for run_id, says in (("nonsense", "is not the id of a run"), (id_of(1), "No run that you may see")):
            await seen.go(f"/ui/runs/{run_id}")
            await expect(page.get_by_role("heading", level=1)).to_have_text("There is no such run")
            await expect(page.locator(".failure")).to_contain_text(says)
            assert await seen.violations() == []
        await seen.go(f"/ui/runs/{later['run_id']}?events_after=last&rows=some")
        await expect(page.locator("#run-top .problem")).to_contain_text("events_after is a position")
        seen.complaints.clear()  # of the 404s


# In `said`, as it is shown only for a moment.
NOTE_WHAT_IS_SAID = """() => {
  window.said = [];
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes) for (const one of addedNodes) said.push(one.textContent);
  }).observe(document.getElementById("toasts"), { childList: true });
}"""


async def test_the_page_of_a_run_that_is_gone_does_not_go_on_asking(serving: Any, visit: Any) -> None:
    server, api = await serving()
    waits = await api.start("waits")
    asked: list[str] = []
    async with visit(server.url) as seen:
        await seen.page.clock.install()
        page = await seen.go(f"/ui/runs/{waits['run_id']}")
        await expect(page.locator("#stream-lines")).to_contain_text("still")
        await page.get_by_role("button", name="Cancel and roll back").click()
        await page.evaluate(NOTE_WHAT_IS_SAID)
        await page.locator("#confirm [value=yes]").click()
        await page.wait_for_function("() => said.length === 1")  # it has the answer, and asks for itself anew
        await expect(page.locator("#stale")).to_contain_text("not there any more")
        await expect(page.locator("#stream-state")).not_to_have_text("live")
        await seen.fetch_anew()  # so that nothing is to come any more of what was said and done until now
        page.on("request", lambda request: asked.append(request.url))
        for _ in range(10):  # it has been counting for longer than the run has taken
            await page.clock.run_for(1_000)
            await page.evaluate("fetch('/health/live')")
        seen.complaints.clear()  # of the 404
    again = [url for url in asked if f"/ui/runs/{waits['run_id']}" in url]
    assert len(again) <= 1, "once where the stream of changes says so, and not each second"


async def test_what_goes_on_for_days_is_counted_in_days(serving: Any, visit: Any) -> None:
    server, api = await serving()
    waits = await api.start("waits")

    async def as_if_begun_long_ago(route: Any) -> None:
        answer = await route.fetch()
        body = re.sub(r'(data-seconds=")[\d.]+', r"\g<1>176400.000", await answer.text())
        await route.fulfill(response=answer, body=body)

    async with visit(server.url) as seen:
        await seen.page.route(f"**/ui/runs/{waits['run_id']}", as_if_begun_long_ago)
        page = await seen.go(f"/ui/runs/{waits['run_id']}")
        await expect(page.locator("#run-duration")).to_have_text("2 d 1 h")


@pytest.mark.timeout(600)  # 100,000 events are imported first
async def test_outputs_and_runs_of_any_size_are_shown_in_part(serving: Any, visit: Any, tmp_path: Path) -> None:
    calls = [
        {"kind": "chat", "name": "gpt-5", "caller": "lead_agent", "at": number / 100, "seconds": 0.01}
        for number in range(1_000)
    ]
    end = {"completion_data": {"duration_seconds": 10.0, "calls": calls, "calls_omitted": 234}}
    messages = [{"type": "human", "id": f"m{number}", "content": f"line {number}"} for number in range(99_998)]
    many = run_events(1, between=messages, end=end)
    await asyncio.to_thread(import_runs, tmp_path, many)
    server, api = await serving()
    huge = await api.ended("huge")
    async with visit(server.url) as seen:
        for path in (f"/ui/runs/{id_of(1)}", f"/ui/runs/{huge['run_id']}"):
            body = (await api.client.get(path)).content
            assert len(body) < 600_000
        page = await seen.go(f"/ui/runs/{id_of(1)}")
        await expect(page.locator("#events .head")).to_contain_text("100k in total")
        await expect(page.locator("#run-timeline")).to_contain_text("702 more rows")
        await expect(page.locator("#run-timeline")).to_contain_text("234 more calls were counted and not listed")
        await page.get_by_role("link", name="Next events").click()
        await expect(page.locator(".events tbody td.num").first).to_have_text("26")
        last = (await api.get(f"/events?run_id={id_of(1)}&newest_first=true&limit=1"))[0]["position"]
        await seen.go(f"/ui/runs/{id_of(1)}?events_after={last - 1}")
        await expect(page.locator(".events summary")).to_have_text(["run_completed"])
        await page.get_by_role("link", name="show all").click()
        await expect(page.locator(".waterfall tbody tr")).to_have_count(1_002)

        await seen.go(f"/ui/runs/{huge['run_id']}")
        output = page.get_by_label("Output", exact=True)
        await expect(output).to_contain_text("characters: all of it as JSON")
        address = await output.get_by_role("link", name="all of it as JSON").get_attribute("href")
        assert len((await api.client.get(str(address))).content) > 2_000_000
        await page.locator("#stream-details > summary").click()
        await expect(page.locator("#stream-lines")).to_contain_text("more characters")
        assert await seen.violations() == []


def runs_that_say(bad: str) -> list[dict[str, Any]]:
    """Events of five runs, imported and odd, that have this text wherever a run may say something of itself."""
    model = {"input_tokens": 5, "output_tokens": 1, "cost_usd": 0.5}
    data = {
        "duration_seconds": 10.0,
        "token_usage_by_model": {bad: model},
        "token_usage_by_caller": {bad: model},
        "first_human_message": bad,
        "last_ai_message": bad,
        "calls": [
            {"kind": "invoke_agent", "name": bad, "caller": "lead_agent", "at": 1, "seconds": 8},
            {
                "kind": "chat",
                "name": bad,
                "caller": bad,
                "at": 2,
                "seconds": 3,
                "error_type": bad,
                "input_tokens": 5,
                "output_tokens": 1,
            },
            {"kind": bad, "name": bad},
            bad,
        ],
    }
    failed = run_events(
        1,
        start={"agent": bad, "metadata": {bad: bad}, "trigger": bad},
        between=[{"type": bad, "name": bad, "content": bad}],
        end={"agent": bad, "title": bad, "error": bad, "error_type": bad, "traceback": bad, "completion_data": data},
        kind="run_failed",
    )
    off = run_events(
        2,
        start={"parent_run_id": id_of(1)},
        end={"completion_data": {}},
        began=BEGAN + timedelta(seconds=9),
        seconds=7_200,
    )
    asked = {
        "interrupts": [{"id": bad, "value": {"question": bad, bad: bad}}],
        "status": "interrupted",
        "completion_data": data,
    }
    waits = run_events(3, end=asked)
    stopped = run_events(
        4, end={"cancel_mode": ["shutdown"], "completion_data": {"calls": "none"}}, kind="run_cancelled"
    )
    # A child is found whenever it began.
    late = run_events(5, start={"parent_run_id": id_of(4)}, end={}, began=BEGAN + timedelta(days=2))
    return [*failed, *off, *waits, *stopped, *late]


async def test_whatever_a_run_says_of_itself_is_only_text(serving: Any, visit: Any, tmp_path: Path) -> None:
    bad = f"{MARKUP}\u202ereversed\u200b שלום"
    await asyncio.to_thread(import_runs, tmp_path, runs_that_say(bad))
    server, _ = await serving()
    async with visit(server.url) as seen:
        for number in (1, 3, 4):
            page = await seen.go(f"/ui/runs/{id_of(number)}")
            await expect(page.locator("#run-top h1")).to_be_visible()
            for one in await page.locator("details:not(#stream-details)").all():
                await one.evaluate("one => { one.open = true; }")
            assert await page.locator("main img, main script").count() == 0
            assert await page.title() != "run"
            assert await seen.violations() == []
        await expect(page.locator("#run-rest")).to_contain_text("started by this run")
        page = await seen.go(f"/ui/runs/{id_of(1)}")
        visible = f"{MARKUP}⟨U+202E⟩reversed⟨U+200B⟩ שלום"
        await expect(page.locator("h1")).to_have_text(visible)
        child = page.locator(".waterfall tr", has=page.get_by_role("link"))
        await expect(child).to_contain_text("imported")
        await expect(page.locator("#run-timeline .notice")).to_contain_text("the clock of a machine is off")
        await expect(page.locator("#run-rest")).to_contain_text("started by this run")
        await child.get_by_role("link").click()
        await expect(page.locator("#run-top .about")).to_contain_text("started by")
        await expect(page.get_by_role("button", name="Retry")).to_be_disabled()
        await expect(page.locator("#why-not-retry")).to_contain_text("its request is not kept")


async def test_who_was_told_and_who_may_see_what(serving: Any, visit: Any, tmp_path: Path) -> None:
    async with WebhookReceiver(NEW) as receiver:
        receiver.answers += [status(200), status(413)]  # what is too large is parked at once
        observer = {
            "type": "webhook",
            "name": "crm",
            "url": receiver.url,
            "secret": NEW,
            "allow_private_addresses": True,
            "events": ["run_started", "run_failed"],
        }
        table = "\n".join(f"{name} = {json.dumps(value)}" for name, value in observer.items())
        server, _ = await serving(f'{SETTINGS}\n[server]\nauth = "keys"\n[[observers]]\n{table}\n')
        async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:
            keys = {
                permission: (await store.api_keys.create("k", owner=f"{permission}-ada", permission=permission)).secret
                for permission in ("read", "run", "admin")
            }
        async with httpx.AsyncClient(base_url=server.url, headers={"X-Api-Key": keys["run"]}) as client:
            body = {"assistant_id": "fails", "on_completion": "keep"}
            run = (await client.post("/runs", json=body)).raise_for_status().json()
        async with visit(server.url, extra_http_headers={"X-Api-Key": keys["admin"]}) as seen:
            page = await seen.go(f"/ui/runs/{run['run_id']}")
            parked = "async (path) => (await (await fetch(path)).json()).length === 1"
            await page.wait_for_function(parked, arg=f"{server.url}/subscriptions/crm/parked", polling=100)
            await page.reload()
            row = page.locator("section", has=page.get_by_role("heading", name="Deliveries")).locator("tbody tr")
            await expect(row).to_contain_text("crm")
            await expect(row).to_contain_text("after 1 attempt: ")
            await expect(row).to_contain_text("413")
            assert await seen.violations() == []
        async with visit(server.url, extra_http_headers={"X-Api-Key": keys["run"]}) as seen:
            page = await seen.go(f"/ui/runs/{run['run_id']}")
            await expect(page.get_by_role("button", name="Retry")).to_be_enabled()
            await expect(page.get_by_role("heading", name="Deliveries")).to_have_count(0)
        async with visit(server.url, extra_http_headers={"X-Api-Key": keys["read"]}) as seen:
            page = await seen.go(f"/ui/runs/{run['run_id']}")
            await expect(page.get_by_role("heading", level=1)).to_have_text("There is no such run")
            await expect(page.locator("main")).to_contain_text("No run that you may see")
            seen.complaints.clear()  # of the 404
