"""Agents in the console: what they are, how they do, and the playground, where users try them."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from browser import counting_looks
from playwright.async_api import Page, Route, expect

from trackside.app.dashboard.wording import duration

pytestmark = pytest.mark.asyncio(loop_scope="session")

PATIENT = """
[agents]
patient = "console_agents.py:patient"
[limits]
max_attempts = 2
[runs]
shutdown_grace = 0
"""
HIDE = """(hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


async def test_an_agent_is_tried_in_the_playground_and_seen_in_the_lists(serve_more: Any, visit: Any) -> None:
    server = await serve_more()
    async with visit(server.url) as seen:
        page = await seen.go("/ui/agents")
        await expect(page.locator("tbody tr")).to_have_count(7)
        await page.get_by_role("link", name="chat").click()
        await expect(page).to_have_url(f"{server.url}/ui/agents/chat")
        await page.wait_for_load_state()  # before its scripts are there, no button does anything
        await expect(page.locator(".graph-node")).to_have_count(4)
        await expect(page.locator(".graph-line.is-conditional")).to_have_count(2)
        await page.get_by_text("The graph in words").click()
        await expect(page.locator("#graph-text")).to_contain_text("tools → model")
        width = await page.locator("svg.graph").get_attribute("width")
        await page.get_by_role("button", name="Larger").click()
        assert float(await page.locator("svg.graph").get_attribute("width") or 0) > float(width or 0)

        log = page.get_by_role("log")
        await page.get_by_label("Message", exact=True).first.fill("How is the weather?")
        await page.keyboard.press("Control+Enter")
        await expect(log.locator(".message-human")).to_have_text("HumanHow is the weather?")
        await expect(log.locator(".message-tool")).to_contain_text("rain, 7 °C")
        await expect(log.locator(".message-ai").last).to_have_text("AIIt rains in Oslo.")
        await expect(log.locator(".play-run")).to_contain_text("success")
        await expect(page.get_by_role("button", name="Send")).to_be_enabled()
        assert await seen.violations() == []
        await seen.picture("agent")

        thread = await page.locator("#play-thread a").get_attribute("href")
        await page.locator("#play-input").fill("And now?")
        await page.get_by_role("button", name="Send").click()
        await expect(log.locator(".play-run")).to_have_count(2)
        assert await page.locator("#play-thread a").get_attribute("href") == thread
        await expect(page.locator("#agent-runs tbody tr")).to_have_count(2)
        await log.get_by_role("link", name="Run").last.click()
        await expect(page).to_have_url(re.compile("/ui/runs/"))
        await page.goto(f"{server.url}{thread}")
        await expect(page.locator(".message")).to_have_count(6)
        await page.get_by_role("link", name="Go on in the playground").click()
        await expect(page).to_have_url(re.compile("/ui/agents/chat"))
        await page.wait_for_load_state()
        await page.locator("#play-input").fill("A third time")
        await page.keyboard.press("Control+Enter")
        await expect(page.locator(".play-run")).to_contain_text("success")

        await seen.go("/ui/agents")
        await expect(page.locator("tbody tr").filter(has_text="chat").locator(".num").nth(1)).to_have_text("3")
        assert await seen.violations() == []
        await seen.picture("agents")


async def test_what_streams_for_long_is_stopped_by_key_and_button(serve_more: Any, visit: Any) -> None:
    server = await serve_more()
    async with visit(server.url) as seen:
        page = await seen.go("/ui/agents/babbles")
        said = page.get_by_role("log").locator(".message-ai")
        for number, stop in enumerate((page.keyboard.press("Escape"), page.get_by_role("button", name="Stop").click())):
            await page.locator("#play-input").fill("Talk")
            await page.get_by_role("button", name="Send").click()
            await expect(said.nth(number)).to_contain_text("and so on and so")
            await stop
            await expect(page.locator(".play-run").nth(number)).to_contain_text("cancelled")
            await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
            await expect(said.nth(number)).not_to_have_class(re.compile("is-streaming"))


async def test_questions_are_answered_where_they_are_asked(serve_more: Any, visit: Any) -> None:
    server = await serve_more()
    async with visit(server.url) as seen:
        page = await seen.go("/ui/agents/form")
        await expect(page.locator("#play-label")).to_have_text("Input, as JSON")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#play-asks")).to_contain_text("What is your name?")
        assert await seen.violations() == []
        await seen.picture("playground-asks")
        await page.get_by_label("Your answer to question 1").fill("Ada")
        await page.get_by_label("Your answer to question 2").fill("36")
        await page.get_by_role("button", name="Send answers").click()
        await expect(page.locator(".play-run")).to_have_count(2)
        await expect(page.locator("#play-asks form")).to_have_count(0)
        await expect(page.get_by_role("log")).to_contain_text('"age": 36')

        await seen.go("/ui/agents/decides")
        await page.get_by_role("radio", name="JSON").check()
        await page.locator("#play-input").fill("{}")
        await page.get_by_role("button", name="Send").click()
        await page.get_by_role("button", name="Answer", exact=True).click()
        await expect(page.locator("#play-problem")).to_contain_text("there is no answer yet")
        seen.complaints.clear()  # a 422
        await page.get_by_role("textbox", name="Your answer").fill("Not now")
        await page.get_by_role("button", name="Reject").click()
        await expect(page.get_by_role("log")).to_contain_text('"message": "Not now"')
        await expect(page.get_by_role("log")).to_contain_text("Reject: Not now")


async def test_who_answers_a_moment_too_late_is_told_so(serve_more: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve_more()
    async with httpx.AsyncClient(base_url=server.url) as client, visit(server.url) as seen:
        page = await seen.go("/ui/agents/decides")
        await page.get_by_role("radio", name="JSON").check()
        await page.locator("#play-input").fill('{"until": "signed"}')
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("button", name="Reject")).to_be_visible()
        (thread,) = (await client.post("/threads/search", json={})).json()

        async def be_faster(route: Route) -> None:
            """Answer once the server has read the page's answer, and before the page has started a run with it."""
            read = await route.fetch()
            body = {"assistant_id": "decides", "command": {"resume": {"decisions": [{"type": "approve"}] * 2}}}
            assert (await client.post(f"/threads/{thread['thread_id']}/runs", json=body)).status_code == 200
            await route.fulfill(response=read)

        await page.route("**/answer", be_faster, times=1)
        await page.get_by_role("button", name="Reject").click()
        await expect(page.locator("#play-problem")).to_have_text(
            "this is not asked any more: somebody has answered already"
        )
        seen.complaints.clear()  # two 409
        (tmp_path / "signed").touch()
        (_, run) = (await client.get(f"/threads/{thread['thread_id']}/runs")).json()[::-1]
        values = (await client.get(f"/threads/{thread['thread_id']}/runs/{run['run_id']}/join")).json()
        assert values["decided"] == {"decisions": [{"type": "approve"}] * 2}


async def test_what_goes_wrong_is_said_in_sentences(serve: Any, visit: Any) -> None:
    server = await serve()
    async with visit(server.url) as seen:
        page = await seen.go("/ui/agents/fails")
        problem = page.locator("#play-problem")
        await page.get_by_role("radio", name="JSON").check()
        await page.locator("#play-input").fill("{oops")
        await page.get_by_role("button", name="Send").click()
        await expect(problem).to_contain_text("Input: this is no JSON.")
        await page.locator("#play-input").fill('{"a": 1}')
        await page.get_by_text("Config and context").click()
        await page.locator("#play-config").fill("[1]")
        await page.get_by_role("button", name="Send").click()
        await expect(problem).to_contain_text("Config: a JSON object is wanted.")
        assert await seen.violations() == []
        await page.locator("#play-config").fill('{"configurable": 1}')
        await page.get_by_role("button", name="Send").click()
        await expect(problem).to_contain_text("config.configurable")
        seen.complaints.clear()  # a 422
        await page.locator("#play-config").fill("")
        await page.get_by_role("button", name="Send").click()
        log = page.get_by_role("log")
        await expect(log.locator(".problem")).to_have_text("It failed. FileNotFoundError: there is no file prices.csv")
        await expect(log.locator(".play-run")).to_contain_text("error")
        await seen.picture("playground-error")

        await seen.go("/ui/agents/nobody")
        await expect(page.get_by_role("heading", level=1)).to_have_text("There is nothing here")
        seen.complaints.clear()
        await seen.go("/ui/agents/talks?thread=nonsense")
        await expect(problem).to_contain_text("not a UUID")
        await seen.go("/ui/agents/talks?thread=../subscriptions/mail/pause%23")
        await expect(problem).to_contain_text("not a UUID")
        posted: list[str] = []
        page.on(
            "request", lambda request: posted.append(urlsplit(request.url).path) if request.method == "POST" else None
        )
        await page.locator("#play-input").fill("Are you there?")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("log").locator(".play-run")).to_contain_text("success")
        made, started = posted
        assert (made, started[:9], started[-12:]) == ("/threads", "/threads/", "/runs/stream")

        await seen.go("/ui/agents/talks")
        server.kill()
        await page.locator("#play-input").fill("Are you there?")
        await page.get_by_role("button", name="Send").click()
        await expect(problem).to_have_text("The server does not answer.")
        await expect(page.locator("#play-input")).to_have_value("Are you there?")
        seen.complaints.clear()


async def test_parts_outputs_and_hostile_texts_are_shown_as_text(serve_more: Any, visit: Any) -> None:
    server = await serve_more()
    async with visit(server.url) as seen:
        page = await seen.go("/ui/agents/counts")
        await page.get_by_role("radio", name="JSON").check()
        await page.locator("#play-input").fill('{"up": "to"}')
        await page.keyboard.press("Control+Enter")
        await expect(page.locator(".play-parts")).to_contain_text('{"number":2}')
        await expect(page.get_by_role("log")).to_contain_text('"counted": 3')

        await seen.go("/ui/agents/hostile")
        await page.locator("#play-input").fill("<script>window.hurt = 1</script>")
        await page.get_by_role("button", name="Send").click()
        await page.get_by_role("textbox", name="Your answer").fill("yes")
        await page.get_by_role("button", name="Answer", exact=True).click()
        await expect(page.locator(".play-run")).to_have_count(2)
        await page.get_by_role("button", name="New thread").click()
        await page.get_by_role("radio", name="JSON").check()
        await page.locator("#play-input").fill('{"fail": true}')
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("log").locator(".problem")).to_contain_text("<img src=x")
        assert await page.evaluate("window.hurt") is None
        await seen.go("/ui/agents/hostile")
        assert await page.evaluate("window.hurt") is None


async def test_the_newest_input_is_offered_and_what_was_written_is_kept_when_the_run_fails(
    serve: Any, visit: Any
) -> None:
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        await http.post(
            "/runs/wait", json={"assistant_id": "fails", "input": {"topic": "tea"}, "on_completion": "keep"}
        )
    async with visit(server.url) as seen:
        page = await seen.go("/ui/agents/fails")
        await expect(page.get_by_role("radio", name="JSON")).to_be_checked()
        await page.get_by_role("button", name="Use the newest run's input").click()
        await expect(page.locator("#play-input")).to_have_value('{\n  "topic": "tea"\n}')
        assert await seen.violations() == []
        await page.get_by_role("radio", name="Message").check()
        await page.locator("#play-input").fill("a long letter")
        await page.get_by_role("button", name="Send", exact=True).click()
        await expect(page.locator("#play-log")).to_contain_text("It failed")
        await expect(page.locator("#play-input")).to_have_value("a long letter")


async def send(page: Page, text: str = "Go on") -> None:
    await page.locator("#play-input").fill(text)
    await page.get_by_role("button", name="Send").click()


async def counted(page: Page, number: int) -> list[int]:
    """What `patient` has counted in the attempt shown last, once there are this many numbers."""
    parts = page.locator(".play-parts").last
    await expect(parts).to_contain_text(f'"number":{number}}}', timeout=30_000)
    return [json.loads(line)["number"] for line in (await parts.inner_text()).splitlines()]


@pytest.mark.timeout(400)  # its server starts four times
async def test_a_run_is_followed_to_the_end_of_its_last_attempt(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve(PATIENT)
    async with visit(server.url) as seen:
        page = await seen.go("/ui/agents/patient")
        log, stop = page.get_by_role("log"), page.get_by_role("button", name="Stop")
        lost = log.get_by_text("The connection was lost, and is being restored.")
        goes_on = log.get_by_text("It was broken off, and goes on as another attempt.")

        await send(page)
        await counted(page, 3)
        await asyncio.to_thread(server.kill)
        await expect(lost).to_be_visible()
        await asyncio.to_thread(server.restart)
        await expect(goes_on).to_have_count(1, timeout=60_000)
        await expect(lost).to_have_count(0)
        await expect(log.locator(".play-parts").last).to_contain_text('"attempt":2')
        await stop.click()
        await expect(log.locator(".status-cancelled")).to_have_count(1)
        await expect(stop).to_be_hidden()
        seen.complaints.clear()  # the browser complains of each request that nobody answered

        await send(page)
        await expect(log.locator(".play-parts").last).to_contain_text('"attempt":1')
        await asyncio.to_thread(server.signal, signal.SIGHUP)
        await asyncio.to_thread(server.wait_until_ready)
        await expect(goes_on).to_have_count(2, timeout=60_000)
        await expect(log.locator(".play-parts").last).to_contain_text('"attempt":2')
        (tmp_path / "go").touch()
        await expect(log.locator(".status-success")).to_have_count(1)
        await expect(log).to_contain_text('"came with attempt": 2')
        await expect(log.get_by_text("It failed")).to_have_count(0)
        seen.complaints.clear()


async def test_what_is_said_while_nobody_looks_holds_no_connection_and_is_not_missed(serve: Any, visit: Any) -> None:
    server = await serve(PATIENT)
    async with visit(server.url) as seen:
        page = await seen.go("/ui/agents/patient")
        pages = [page, *[await page.context.new_page() for _ in range(5)]]
        for one in pages:
            await one.goto(f"{server.url}/ui/agents/patient")
            await send(one)
            await counted(one, 3)
            await one.evaluate(HIDE, True)
        other = await page.context.new_page()
        await other.goto(f"{server.url}/ui/runs")  # browsers have six connections to a server
        await expect(other.locator("#liveness")).to_have_text("live")
        assert await other.evaluate("fetch('/ok').then((answer) => answer.status)") == 200

        before = (await counted(page, 3))[-1]
        await page.evaluate(HIDE, False)
        numbers = await counted(page, before + 20)
        assert numbers == list(range(len(numbers)))
        await page.get_by_role("button", name="Stop").click()
        # The list of runs says so, too.
        await expect(page.get_by_role("log").locator(".status-cancelled")).to_have_count(1)


IS_AT_END = """() => [document.getElementById("play-log"), document.querySelector(".play-parts")].every(
  (one) => one.scrollHeight > one.clientHeight && one.scrollHeight - one.scrollTop - one.clientHeight < 2)"""


async def test_what_comes_all_at_once_is_laid_out_once_and_its_end_is_seen(serve: Any, visit: Any) -> None:
    server = await serve()
    parts = "".join(f'event: custom\ndata: {{"number":{number}}}\n\n' for number in range(3_000))

    async def tell(route: Route) -> None:
        headers = {"Content-Location": "/threads/t/runs/r", "Content-Type": "text/event-stream"}
        await route.fulfill(headers=headers, body=f'{parts}event: end\ndata: {{"status":"success"}}\n\n')

    async with visit(server.url, viewport={"width": 1_360, "height": 400}) as seen:  # so low that both have to scroll
        await seen.page.add_init_script(counting_looks("#play-log, #play-log *"))
        await seen.page.route("**/runs/stream", tell)
        page = await seen.go("/ui/agents/talks")
        await send(page)
        await expect(page.locator(".play-parts")).to_contain_text('{"number":2999}')
        assert await page.evaluate("window.looks") < 100, "not once for each of them"
        await page.wait_for_function(IS_AT_END)
        await expect(page.get_by_role("button", name="Send")).to_be_enabled()
        seen.complaints.clear()  # of the run, which there is not


async def test_numbers_are_sent_and_shown_as_they_are_written(serve_more: Any, visit: Any) -> None:
    typed = '{"account": 9007199254740993, "amount": 10.0, "most": 18446744073709551615}'
    server = await serve_more()
    async with httpx.AsyncClient(base_url=server.url) as client, visit(server.url) as seen:
        page = await seen.go("/ui/agents/counts")
        await page.get_by_role("radio", name="JSON").check()
        await send(page, typed)
        log = page.get_by_role("log")
        await expect(log.locator(".message-human")).to_contain_text(typed)
        await expect(log.locator(".message-ai")).to_contain_text('"account": 9007199254740993')
        await expect(log.locator(".message-ai")).to_contain_text('"amount": 10.0')
        await seen.go("/ui/agents/counts")
        await page.get_by_role("button", name="Use the newest run's input").click()
        await page.get_by_text("Config and context").click()
        await page.locator("#play-config").fill('{"configurable": {"customer": 9007199254740993}}')
        await page.get_by_role("button", name="Send", exact=True).click()
        await expect(log.locator(".play-run")).to_have_count(1)
        runs = (await client.get("/runs")).json()
        asked = [(await client.get(f"/runs/{run['run_id']}")).json()["request"] for run in runs]
        assert [json.dumps(one["input"]) for one in asked] == [typed] * 2
        assert asked[0]["config"]["configurable"]["customer"] == 9007199254740993

        await seen.go("/ui/agents/decides")
        await page.get_by_role("radio", name="JSON").check()
        await send(page, "{}")
        await page.get_by_role("textbox", name="Your answer").fill("9007199254740993")
        await page.get_by_role("button", name="Answer", exact=True).click()
        await expect(log.locator(".play-run")).to_have_count(2)
        await expect(log).to_contain_text('"decided": 9007199254740993')


async def test_what_a_run_costs_is_written_in_the_playground_as_on_its_page(serve: Any, visit: Any) -> None:
    server = await serve('[agents]\ncosts = "console_agents.py:costs"\n')
    async with visit(server.url) as seen:
        page = await seen.go("/ui/agents/costs")
        await page.get_by_role("radio", name="JSON").check()
        shown = page.get_by_role("log").locator(".play-run")
        amounts = {"11250.5": "$11,250.50", "1": "$1.00", "0.012345": "$0.0123", "0.00000001": "< $0.0001", "0": "$0"}
        for number, (dollars, written) in enumerate(amounts.items()):
            await send(page, dollars)
            await expect(shown.nth(number).get_by_text(written, exact=True)).to_be_visible()
        pages = await shown.get_by_role("link", name="Run").evaluate_all("(links) => links.map((one) => one.pathname)")
        for path, written in zip(pages, amounts.values(), strict=True):
            await seen.go(path)
            await expect(page.locator(".figure", has_text="cost").locator("b")).to_have_text(written)


async def test_how_long_a_run_took_is_written_in_the_playground_as_on_its_page(serve: Any, visit: Any) -> None:
    server = await serve()
    lengths = [0.0, 0.0004, 0.004, 0.9994, 0.9996, 9.994, 9.996, 59.94, 59.96, 61.5, 3_599.9, 86_399.0, 176_400.0]
    async with visit(server.url) as seen:
        page = await seen.go("/ui/agents/works")
        await send(page)
        shown = page.get_by_role("log").locator(".play-run")
        written = await shown.locator("span:not(.status)").first.inner_text()
        await shown.get_by_role("link", name="Run").click()
        await page.wait_for_url("**/ui/runs/*")
        await expect(page.locator(".figure", has_text="took").locator("b")).to_have_text(written)
        names = "async (all) => all.map((await import('/ui/static/durations.js')).took)"
        assert await page.evaluate(names, lengths) == [duration(one) for one in lengths]


async def test_messages_of_any_form_are_shown_as_far_as_they_can_be_read(serve: Any, visit: Any) -> None:
    server = await serve('[agents]\nodd = "console_agents.py:says_odd_things"\n')
    async with visit(server.url) as seen:
        page = await seen.go("/ui/agents/odd")
        log = page.get_by_role("log")
        await send(page)
        await expect(log.locator(".play-run")).to_contain_text("success")
        await expect(log.locator(".message-ai .message-text")).to_have_text(["alone", "in parts", "with one call"])
        await expect(log.locator(".problem")).to_have_count(0)
        thread = await page.locator("#play-thread a").get_attribute("href")
        await log.get_by_role("link", name="Run").click()
        await page.wait_for_url("**/ui/runs/*")
        await page.locator("#stream-details > summary").click()
        await expect(page.locator("#stream-state")).to_have_text("ended")
        await expect(page.locator("#stream-lines")).to_contain_text("with one call")
        await seen.go(f"/ui/agents/odd?thread={str(thread).rpartition('/')[2]}")
        await expect(log.locator(".message-ai .message-text")).to_have_text("kept")
        await expect(page.locator("#play-problem")).to_be_hidden()


async def test_whoever_writes_while_a_run_goes_on_neither_answers_nor_stops_it(
    serve: Any, visit: Any, tmp_path: Path
) -> None:
    server = await serve('[agents]\nasks = "console_agents.py:asks_when_told"\n')
    async with visit(server.url) as seen:
        page = await seen.go("/ui/agents/asks")
        field, yes = page.locator("#play-input"), page.get_by_role("button", name="Yes")
        await send(page)
        await expect(page.get_by_role("button", name="Stop")).to_be_visible()
        await field.press_sequentially("Also")
        await field.dispatch_event("keydown", {"key": "Escape", "isComposing": True})
        (tmp_path / "ask").touch()
        await expect(yes).to_be_visible()
        await expect(page.get_by_role("button", name="Send")).to_be_enabled()
        await page.keyboard.type(" look it up")
        await expect(field).to_have_value("Also look it up")
        await expect(yes).to_be_visible()
        await expect(page.get_by_role("log").locator(".play-run")).to_have_count(1)

        await page.get_by_role("button", name="New thread").click()
        await send(page)
        await expect(yes).to_be_focused()


async def test_no_new_thread_is_begun_while_a_run_is_about_to_start(serve: Any, visit: Any) -> None:
    server, held, goes_on = await serve(), asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        held.set()
        await goes_on.wait()
        await route.continue_()

    async with visit(server.url) as seen:
        page = await seen.go("/ui/agents/works")
        await page.route("**/runs/stream", hold)
        await send(page)
        await held.wait()
        await page.get_by_role("button", name="New thread").click()
        goes_on.set()
        await expect(page.get_by_role("log").locator(".play-run")).to_contain_text("success")
        await expect(page.get_by_role("log").locator(".message-human")).to_have_count(1)
        await expect(page.locator("#play-thread a")).to_have_count(1)


async def test_without_scripts_the_playground_takes_nothing_and_says_so(serve: Any, visit: Any) -> None:
    server = await serve()
    async with visit(server.url, java_script_enabled=False) as seen:
        page = await seen.go("/ui/agents/talks")
        assert "The playground needs scripts." in await page.locator("#playground").inner_text()
        await expect(page.get_by_role("button", name="Send")).to_be_disabled()
    async with visit(server.url) as seen:
        page = await seen.go("/ui/agents/talks")
        await expect(page.get_by_role("button", name="Send")).to_be_enabled()
        assert "The playground needs scripts." not in await page.locator("#playground").inner_text()
