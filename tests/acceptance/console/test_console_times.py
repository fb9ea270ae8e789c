"""Times as they are typed and shown where the browser is, and said in addresses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote_plus, unquote, urlsplit

import pytest
from browser import texts
from logged_runs import RecordedRun, record
from playwright.async_api import expect

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_times_are_typed_as_they_are_where_the_browser_is(serve: Any, visit: Any, tmp_path: Path) -> None:
    server = await serve()
    await record(
        f"sqlite:///{tmp_path / 'runs.db'}",
        [RecordedRun(title="before", ago=7_200), RecordedRun(title="after", ago=60)],
    )
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    typed = f"{hour_ago.astimezone(timezone(timedelta(hours=5, minutes=30))):%Y-%m-%dT%H:%M}"
    meant = f"{hour_ago:%Y-%m-%dT%H:%M}"
    async with visit(server.url, timezone_id="Asia/Kolkata") as seen:
        page = await seen.go("/ui/runs")
        for label, expected in {"Since": "after", "Until": "before"}.items():
            await seen.go("/ui/runs")
            await page.get_by_label(label).fill(typed)
            await page.keyboard.press("Enter")
            await page.wait_for_url(lambda url: meant in unquote(url))
            assert texts(await page.locator("#runs tbody .run-name").all_inner_texts()) == [expected]
            await expect(page.get_by_label(label)).to_have_value(typed)
        for path, label in {"runs": "Since", "threads": "Changed since", "log": "Since"}.items():
            await seen.go(f"/ui/{path}")
            await page.get_by_label(label).fill("today")
            await page.keyboard.press("Enter")
            await page.wait_for_url("**since=today%2B05%3A30")
            await expect(page.get_by_label(label)).to_have_value("today")

        # A time that an address gives, and a form repeats, stays what it was.
        for since, shown in {
            "2026-01-31": "2026-01-31T05:30",
            "2026-01-30T18:30:00Z": "2026-01-31",
            "2026-01-31T08:00:05+01:00": "2026-01-31T12:30:05",
            "2026-01-31T08:00:05.123456Z": "2026-01-31T13:30:05.123",
            "today": "today+00:00",
            "1h": "1h",
            "2026-02-31": "2026-02-31",
        }.items():
            await seen.go(f"/ui/runs?since={quote_plus(since)}")
            await expect(page.get_by_label("Since")).to_have_value(shown)
            await page.get_by_role("button", name="Filter").click()
            await page.wait_for_url(lambda url, said=since: url.endswith(f"?since={quote_plus(said)}"))
        for path in ("runs", "log"):  # and so does one that has a name
            await seen.go(f"/ui/{path}?range=24h")
            await page.get_by_label("Agent").fill("talks")
            await page.get_by_role("button", name="Filter").click()
            await page.wait_for_url("**agent=talks**")
            assert parse_qs(urlsplit(page.url).query) == {"agent": ["talks"], "range": ["24h"]}
        assert await seen.violations() == []
    async with visit(server.url, java_script_enabled=False) as seen:
        page = await seen.go("/ui/runs")
        assert "Since (UTC)" in await page.locator("#filters").inner_text()


async def test_today_is_said_so_that_it_begins_when_it_did_also_where_clocks_change(serve: Any, visit: Any) -> None:
    server = await serve()
    for zone, now, said in (
        ("Europe/Berlin", "2026-03-28T12:00+01:00", "today+01:00"),
        ("Europe/Berlin", "2026-03-29T12:00+02:00", "today+02:00+01:00"),
        ("Europe/Berlin", "2026-10-25T23:30+01:00", "today+01:00+02:00"),
        ("Africa/Cairo", "2026-04-24T12:00+03:00", "today+03:00+02:00"),  # which had no midnight
        ("Europe/London", "2026-03-29T12:00+01:00", "today+01:00+00:00"),
    ):
        async with visit(server.url, timezone_id=zone) as seen:
            await seen.page.clock.set_fixed_time(now)
            page = await seen.go("/ui/runs")
            await page.get_by_role("link", name="Failed today").click()
            await page.wait_for_url(lambda url, said=said: url.endswith(quote_plus(f"since={said}", safe="=")))
            await expect(page.get_by_role("link", name="Failed today")).to_have_attribute("aria-current", "true")
            await expect(page.get_by_label("Since")).to_have_value("today")
