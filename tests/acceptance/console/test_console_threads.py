"""Threads in the console: found, read, compared, answered, forked, copied and deleted."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from playwright.async_api import expect

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def thread_with(client: httpx.AsyncClient, agent: str, *inputs: Any, **more: Any) -> str:
    """A thread on which an agent has run once for each input."""
    thread_id: str = (await client.post("/threads", json={"metadata": {"customer": "acme"}})).json()["thread_id"]
    for value in inputs:
        answer = await client.post(
            f"/threads/{thread_id}/runs/wait", json={"assistant_id": agent, "input": value, **more}
        )
        assert answer.status_code == 200, answer.text
    return thread_id


def says(text: str) -> dict[str, Any]:
    """An input with one message."""
    return {"messages": [{"role": "user", "content": text}]}


async def test_a_thread_is_found_read_and_answered_while_its_page_is_open(serve: Any, visit: Any) -> None:
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client, visit(server.url) as seen:
        page = await seen.go("/ui/threads")
        await expect(page.get_by_text("No threads yet")).to_be_visible()
        thread_id = await thread_with(client, "graph", says("Find the price of a fox"))
        await expect(page.locator(f"#thread-{thread_id}")).to_contain_text("waits for an answer")
        other = await thread_with(client, "talks", says("Say something"))
        await expect(page.locator(f"#thread-{other}")).to_contain_text("A fox, at length")
        assert await seen.violations() == []
        await seen.picture("threads")

        await page.locator("#filter-agent").fill("graph")
        await page.keyboard.press("Enter")
        await expect(page.locator("tbody tr")).to_have_count(1)
        await page.locator(f"#thread-{thread_id} a").first.click()

        conversation = page.get_by_role("region", name="Conversation")
        await expect(conversation.locator(".message-human")).to_contain_text("Find the price of a fox")
        await expect(conversation.locator(".message-ai")).to_contain_text("I will look it up, if I may.")
        await expect(page.get_by_text("Shall I go on?")).to_be_visible()
        assert await seen.violations() == []
        await seen.picture("thread")

        await page.get_by_role("textbox", name="Your answer").fill("half an ans")
        await client.patch(f"/threads/{thread_id}", json={"metadata": {"a": 1}})
        await page.evaluate("document.getElementById('refresh').dispatchEvent(new Event('changed'))")
        await expect(page.get_by_role("textbox", name="Your answer")).to_have_value("half an ans")
        await page.get_by_role("button", name="Yes").click()
        await expect(page.locator("#toasts")).to_contain_text("Answered")
        await expect(conversation.locator(".message-ai").nth(1)).to_contain_text("It is done.")
        await expect(page.get_by_text("Shall I go on?")).to_have_count(0)
        await expect(page.locator(".run-block")).to_have_count(2)
