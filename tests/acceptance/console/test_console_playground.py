"""The playground where answers are lost, late, or do not come any more: nothing is started twice or left to hang."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, Route, expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

COUNTS = """
[agents]
patient = "console_agents.py:patient"
[limits]
max_attempts = 2
"""
MAYBE = "The run may have begun all the same. Send the same again to see it: it does not begin twice."
SOON = "() => new Promise((done) => setTimeout(done))"


async def send(page: Page, text: str) -> None:
    await page.locator("#play-input").fill(text)
    await page.get_by_role("button", name="Send", exact=True).click()


async def take_and_lose(route: Route) -> None:
    """Have the server take what is asked for, and cut the connection before its answer arrives."""
    await route.fetch()
    await route.abort("connectionreset")


async def take_and_fail(route: Route) -> None:
    """The same by a proxy that does not wait for the answer."""
    await route.fetch()
    await route.fulfill(status=504, content_type="text/html", body="<h1>Gateway Time-out</h1>")


@pytest.mark.parametrize(
    ("lose", "why"),
    [(take_and_lose, "The server does not answer."), (take_and_fail, "The server answered with 504.")],
    ids=["lost", "gateway"],
)
async def test_what_is_sent_again_because_no_answer_came_begins_no_second_run(
    serve: Any, visit: Any, lose: Any, why: str
) -> None:
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url) as client, visit(server.url) as seen:
        page = await seen.go("/ui/agents/works")
        log = page.get_by_role("log")
        await page.route("**/runs/stream", lose, times=1)
        await send(page, "Look it up")
        await expect(page.locator("#play-problem")).to_have_text(f"{why} {MAYBE}")
        await expect(page.locator("#play-input")).to_have_value("Look it up")
        await page.get_by_role("button", name="Send", exact=True).click()
        await expect(log.locator(".play-run")).to_contain_text("success")
        await expect(log.locator(".message-human")).to_have_text("HumanLook it up")
        assert len((await client.get("/runs")).json()) == 1
        await send(page, "Look it up")  # which is meant anew: the one before was answered
        await expect(log.locator(".play-run")).to_have_count(2)
        assert len((await client.get("/runs")).json()) == 2
        seen.complaints.clear()  # of what was lost


async def test_an_answer_is_sent_again_though_the_run_that_it_began_has_taken_it(serve: Any, visit: Any) -> None:
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url) as client, visit(server.url) as seen:
        page = await seen.go("/ui/agents/asks")
        log = page.get_by_role("log")
        await send(page, "Go on")
        yes = page.get_by_role("button", name="Yes")
        await expect(yes).to_be_visible()
        await page.route("**/runs/stream", take_and_lose, times=1)
        await yes.click()
        await expect(page.locator("#play-problem")).to_contain_text(MAYBE)
        await yes.click()
        await expect(log.locator(".play-run")).to_have_count(2)
        await expect(log.locator(".play-run").last).to_contain_text("success")
        assert [run["status"] for run in (await client.get("/runs")).json()] == ["success", "interrupted"]
        seen.complaints.clear()  # of what was lost


async def gone(route: Route) -> None:
    await route.abort("connectionreset")


async def fail(route: Route) -> None:
    await route.fulfill(status=500, content_type="text/html", body="<main>It failed</main>")


async def ask_nothing(route: Route) -> None:
    await route.fulfill(content_type="text/html", body='<main><div id="thread-asks"></div></main>')


@pytest.mark.parametrize("answer", [gone, fail, ask_nothing])
async def test_a_question_that_cannot_be_shown_is_said_to_be_there_and_can_be_answered(
    serve: Any, visit: Any, answer: Any
) -> None:
    server = await serve()
    async with visit(server.url) as seen:
        page = await seen.go("/ui/agents/asks")
        log, asks = page.get_by_role("log"), page.locator("#play-asks")
        await page.route("**/ui/threads/*", answer, times=2)
        await send(page, "Go on")
        await expect(asks.get_by_role("alert")).to_contain_text("what it asks cannot be shown here")
        assert await seen.violations() == []
        thread = await asks.get_by_role("link", name="thread").get_attribute("href")
        assert thread == await page.locator("#play-thread a").get_attribute("href")
        again = asks.get_by_role("button", name="Try again")
        async with page.expect_event("request", lambda one: one.url.endswith(thread)):
            await again.click()
        await expect(asks.get_by_role("alert")).to_be_visible()
        await again.click()
        await asks.get_by_role("button", name="Yes").click()
        await expect(log.locator(".play-run").last).to_contain_text("success")
        await expect(asks).to_be_empty()
        seen.complaints.clear()  # of what was lost


async def test_what_a_thread_said_before_stands_before_what_is_said_to_it_and_in_no_other_one(
    serve: Any, visit: Any
) -> None:
    server = await serve()
    arrived, goes_on = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        answer = await route.fetch()
        arrived.set()
        await goes_on.wait()
        await route.fulfill(response=answer)

    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client, visit(server.url) as seen:
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        said = {"messages": [{"role": "user", "content": "Do you know foxes?"}]}
        await client.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "graph", "input": said})
        began: list[str] = []
        seen.page.on("request", lambda one: began.append(one.url) if one.url.endswith("/runs/stream") else None)
        for is_new, expected in (
            (False, ["HumanDo you know foxes?", "HumanAnd hounds?"]),
            (True, ["HumanAnd hounds?"]),
        ):
            arrived.clear()
            goes_on.clear()
            began.clear()
            await seen.page.route(f"**/threads/{thread}", hold, times=1)
            page = await seen.go(f"/ui/agents/graph?thread={thread}")
            log = page.get_by_role("log")
            await arrived.wait()
            if is_new:
                await page.get_by_role("button", name="New thread").click()
                await send(page, "And hounds?")
                await expect(log.locator(".play-run")).to_have_count(1)
            else:
                await send(page, "And hounds?")
                await page.evaluate(SOON)
                assert began == []
            async with page.expect_event("requestfinished", lambda one: one.url.endswith(f"/threads/{thread}")):
                goes_on.set()
            await page.evaluate(SOON)
            await expect(log.locator(".play-run")).to_have_count(1)
            await expect(log.locator(".message-human")).to_have_text(expected)


@pytest.mark.parametrize("of", ["/threads", "/ui/threads"], ids=["thread", "question"])
async def test_of_a_thread_that_somebody_has_left_nothing_is_asked_or_said_any_more(
    serve: Any, visit: Any, of: str
) -> None:
    server = await serve()
    arrived, goes_on = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        answer = await route.fetch()
        arrived.set()
        await goes_on.wait()
        if of == "/threads":
            await route.fulfill(status=500, json={"detail": "It was left"})
        else:
            await route.fulfill(response=answer)

    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client, visit(server.url) as seen:
        thread = (await client.post("/threads", json={})).json()["thread_id"]
        await client.post(f"/threads/{thread}/runs/wait", json={"assistant_id": "asks", "input": {"messages": []}})
        await seen.page.route(f"{server.url}{of}/{thread}", hold, times=1)
        page = await seen.go(f"/ui/agents/asks?thread={thread}")
        await arrived.wait()
        await page.get_by_role("button", name="New thread").click()
        async with page.expect_event("requestfinished", lambda one: one.url.endswith(f"{of}/{thread}")):
            goes_on.set()
        await page.evaluate(SOON)
        await expect(page.locator("#play-asks")).to_be_empty()
        await expect(page.locator("#play-problem")).to_be_hidden()
        seen.complaints.clear()  # of what was lost


async def test_a_run_is_followed_again_when_nothing_is_heard_of_the_server_any_more(serve: Any, visit: Any) -> None:
    server = await serve(COUNTS)
    async with visit(server.url) as seen:
        await seen.page.clock.install()
        page = await seen.go("/ui/agents/patient")
        await expect(page.locator("#liveness")).to_have_text("live")
        await send(page, "Count")
        parts = page.locator(".play-parts")
        lost = page.get_by_role("log").get_by_text("The connection was lost, and is being restored.")
        await expect(parts).to_contain_text('"number":3}')
        async with seen.unheard(server.signal):
            await expect(lost).to_be_visible()
        before = len((await parts.inner_text()).splitlines())
        await page.clock.fast_forward(3_000)
        await expect(lost).to_have_count(0)
        await expect(parts).to_contain_text(f'"number":{before + 20}}}')
        numbers = [json.loads(line)["number"] for line in (await parts.inner_text()).splitlines()]
        assert numbers == list(range(len(numbers)))
        await page.get_by_role("button", name="Stop").click()
        await expect(page.get_by_role("log").locator(".status-cancelled")).to_have_count(1)
        seen.complaints.clear()  # of what was lost
