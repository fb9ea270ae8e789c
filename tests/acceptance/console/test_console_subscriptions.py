"""Subscriptions in the browser: where they stand, what they have parked, and what an operator does about it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from trackside.app.storage import Store
from trackside.testing import make_run

pytestmark = pytest.mark.asyncio(loop_scope="session")

ERROR = "the address\nis gone"
HIDE = """(hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


@asynccontextmanager
async def store_of(folder: Path) -> AsyncIterator[Store]:
    async with Store.open(f"sqlite:///{folder / 'runs.db'}") as store:
        yield store


async def prepare(store: Store) -> None:
    """A run of five events; `audit` has read it, `mail` has parked 1 and 3 and goes on failing, `hook` is paused."""
    await store.append(make_run())
    subs = store.subscriptions
    await subs.open("audit", start="now", on_failure="block")
    await subs.open("hook", types=["run_failed", "run_completed"], agent="chat", start=3)
    await subs.pause("hook")
    await subs.open("mail", start="beginning")
    async with await subs.acquire("mail") as consumer:
        await consumer.read()
        await consumer.park(1, "no such user", attempts=5)
        await consumer.acknowledge(2)
        await consumer.park(3, ERROR)
        await consumer.note_failure(ERROR, attempts=2)


async def test_without_subscriptions_it_says_what_has_some(serve: Any, visit: Any) -> None:
    server = await serve()
    async with visit(server.url) as seen:
        page = await seen.go("/ui/subscriptions")
        await expect(page.get_by_text("No subscriptions yet")).to_be_visible()
        assert await seen.violations() == []
        missing = await seen.go("/ui/subscriptions/nobody")
        await expect(missing.get_by_role("heading", level=1)).to_have_text("There is nothing here")
        seen.complaints.clear()  # the browser complains of each 404


async def test_how_all_stand_and_one_is_paused_and_goes_on(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    async with store_of(tmp_path) as store, visit(server.url) as seen:
        await prepare(store)
        page = await seen.go("/ui/subscriptions")
        rows = page.locator("tr[data-row]")
        assert await rows.locator("td:nth-child(1)").all_inner_texts() == ["audit", "hook", "mail"]
        assert await rows.locator("td:nth-child(2)").all_inner_texts() == ["active", "paused", "failing"]
        assert await rows.locator("td:nth-child(3)").all_inner_texts() == ["0", "2", "2"]
        assert await rows.locator("td:nth-child(6)").all_inner_texts() == ["0", "0", "2"]
        await expect(rows.nth(2)).to_contain_text("the address is gone")
        assert await seen.violations() == []
        await seen.picture("subscriptions")

        await page.get_by_role("button", name="Pause mail").click()
        await expect(page.locator("#toasts")).to_contain_text("mail is paused.")
        await expect(page.get_by_role("button", name="Resume mail")).to_be_visible()
        assert (await store.subscriptions.get("mail")).state == "paused"
        await page.get_by_role("button", name="Resume mail").click()
        await expect(page.get_by_role("button", name="Pause mail")).to_be_visible()
        assert (await store.subscriptions.get("mail")).state == "active"


async def test_it_is_live_also_where_the_log_says_nothing(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    async with store_of(tmp_path) as store, visit(server.url) as seen:
        await prepare(store)
        page = await seen.go("/ui/subscriptions")
        await expect(page.locator("#liveness")).to_have_text("live")
        row = page.locator("tr[data-row]", has_text="mail")
        async with await store.subscriptions.acquire("mail", consumer="the other one") as consumer:
            await expect(row).to_contain_text("the other one")
            await consumer.read()
            await consumer.acknowledge(5)
            await expect(row.locator("td:nth-child(3)")).to_have_text("0")
            await expect(row.locator("[data-rate-of]")).to_have_text(re.compile(r"^[\d.]+/s$"))
        await store.subscriptions.open("late", start="beginning")
        await expect(page.locator("tr[data-row]")).to_have_count(4)


async def test_a_rate_is_that_of_the_time_in_which_nobody_looked_too(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    async with store_of(tmp_path) as store, visit(server.url) as seen:
        await prepare(store)
        await seen.page.clock.install()
        page = await seen.go("/ui/subscriptions")
        await expect(page.locator("#liveness")).to_have_text("live")
        await page.evaluate(HIDE, True)
        await store.append(make_run("run-2", thread_id="thread-2", messages=596))
        async with await store.subscriptions.acquire("audit") as consumer:
            await consumer.read(1_000)
            await consumer.acknowledge(605)
        await page.clock.run_for(600_000)
        await page.evaluate(HIDE, False)
        rate = page.locator("[data-rate-of=audit]")
        await expect(rate).to_have_text(re.compile(r"^(?!0/s)[\d.]+/s$"))
        assert float((await rate.inner_text()).removesuffix("/s")) < 2, "600 in ten minutes"


async def test_parked_events_are_seen_tried_again_and_dropped(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    async with store_of(tmp_path) as store, visit(server.url) as seen:
        await prepare(store)
        page = await seen.go("/ui/subscriptions/mail")
        await expect(page.get_by_text("Failed 2 times in a row")).to_be_visible()
        await expect(page.locator("#standing pre")).to_have_text(ERROR)
        parked = page.locator("article.parked")
        await expect(parked).to_have_count(2)
        await expect(parked.nth(0).locator("strong")).to_have_text(re.compile(r"Event 1 \(run_started\) of run "))
        await parked.nth(0).get_by_text("Payload").click()
        await expect(parked.nth(0).locator("details pre")).to_contain_text('"agent"')
        assert await seen.violations() == []
        await seen.picture("subscription")

        await page.get_by_role("button", name="Retry position 1").click()
        await expect(parked.nth(0)).to_contain_text("will be tried again")
        assert await parked.nth(0).locator("details").get_attribute("open") is not None, "what is open stays open"
        async with await store.subscriptions.acquire("mail", consumer="the postman") as consumer:
            await consumer.read_retries()
            await consumer.park(1, "refused once more", attempts=6)
        await expect(parked.nth(0)).to_contain_text("refused once more")
        await expect(page.get_by_role("button", name="Retry position 1")).to_be_visible()
        await page.get_by_role("button", name="Drop position 3").click()
        await expect(page.locator("#confirm")).to_contain_text("It stays in the log.")
        await page.get_by_role("button", name="Back").click()
        assert len(await store.subscriptions.parked("mail")) == 2
        await page.get_by_role("button", name="Drop position 3").click()
        await page.locator("#confirm [value=yes]").click()
        await expect(parked).to_have_count(1)
        await expect(page.locator("#parked")).to_be_focused()  # and not the top of the page
        # What gets parked while the operator decides is not what the operator was asked about.
        await page.get_by_role("button", name="Drop all").click()
        await expect(page.locator("#confirm")).to_contain_text("Drop all 1 parked events?")
        async with await store.subscriptions.acquire("mail", consumer="the postman") as consumer:
            await consumer.read()
            await consumer.park(4, "the receiver is away")
        await expect(parked).to_have_count(2)
        await page.locator("#confirm [value=yes]").click()
        await expect(parked).to_have_count(1)
        assert [one.stored.position for one in await store.subscriptions.parked("mail")] == [4]
        await page.get_by_role("button", name="Drop all").click()
        await page.locator("#confirm [value=yes]").click()
        await expect(page.get_by_text("Nothing is parked")).to_be_visible()
        assert await store.subscriptions.parked("mail") == []


async def test_going_on_elsewhere_says_what_it_means_before_and_after(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    async with store_of(tmp_path) as store, visit(server.url) as seen:
        await prepare(store)
        page = await seen.go("/ui/subscriptions/audit")
        effect, position = page.locator("#seek-effect"), page.get_by_role("textbox", name="Position")
        for text, said in (
            ("2", "up to 4 events will be delivered again"),
            ("6", "It is there already"),
            ("7", "The log ends at 5"),
            ("x", "a whole number"),
        ):
            await position.fill(text)
            await expect(effect).to_contain_text(said)
        await position.fill("2")
        await page.get_by_role("button", name="Move").click()
        await expect(page.locator("#confirm")).to_contain_text("up to 4 events will be delivered again")
        await page.locator("#confirm [value=yes]").click()
        await expect(page.locator("#toasts")).to_contain_text("up to 4 events will be delivered again")
        assert (await store.subscriptions.get("audit")).cursor == 1
        await expect(position).to_have_value("2")

        await page.get_by_label("to the end: only new events").check()
        await expect(effect).to_contain_text("up to 4 events will be skipped")
        await page.get_by_role("button", name="Move").click()
        await page.locator("#confirm [value=yes]").click()
        await expect(page.locator("#toasts")).to_contain_text("up to 4 events will be skipped")
        assert (await store.subscriptions.get("audit")).cursor == 5

        await page.get_by_label("to the event at position").check()
        await position.fill("99")
        await page.get_by_role("button", name="Move").click()
        await page.locator("#confirm [value=yes]").click()
        await expect(page.locator(".toast.bad")).to_contain_text("position")
        assert (await store.subscriptions.get("audit")).cursor == 5
        seen.complaints.clear()  # the browser complains of each 422

        await page.get_by_role("button", name="Delete").click()
        await expect(page.locator("#confirm")).to_contain_text("Its position and its")
        await page.locator("#confirm [value=yes]").click()
        await expect(page).to_have_url(f"{server.url}/ui/subscriptions")
        await expect(page.locator("#toasts")).to_contain_text("audit is deleted.")
        assert [one.name for one in await store.subscriptions.all()] == ["hook", "mail"]
        seen.complaints.clear()  # its page may have looked once more before it was left


async def test_odd_names_and_pages_of_parked_events(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    odd = "a/b c?d#e%20&<b>"
    async with store_of(tmp_path) as store, visit(server.url) as seen:
        for number in range(6):
            await store.append(make_run(f"run-{number}"))
        await store.subscriptions.open(odd, start="beginning")
        async with await store.subscriptions.acquire(odd) as consumer:
            for stored in (await consumer.read()).events[:30]:
                await consumer.park(stored.position, "no")
        page = await seen.go("/ui/subscriptions")
        await page.get_by_role("link", name=odd).click()
        await expect(page.get_by_role("heading", level=1)).to_have_text(odd)
        await expect(page.locator("article.parked")).to_have_count(25)
        await page.get_by_role("link", name="Next").click()
        await expect(page.locator("article.parked")).to_have_count(5)
        await seen.go(page.url.removeprefix(server.url).partition("?")[0] + "?after=soon")
        await expect(page.get_by_role("alert")).to_contain_text("is not a position")
        await expect(page.locator("article.parked")).to_have_count(25)


async def test_without_scripts_the_forms_work_and_lead_back(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    async with store_of(tmp_path) as store, visit(server.url, java_script_enabled=False) as seen:
        await prepare(store)
        page = await seen.go("/ui/subscriptions/mail")
        await page.get_by_role("button", name="Pause").click()
        await expect(page).to_have_url(f"{server.url}/ui/subscriptions/mail")
        await expect(page.get_by_role("button", name="Resume")).to_be_visible()
        assert (await store.subscriptions.get("mail")).state == "paused"
