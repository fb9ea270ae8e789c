"""The console's page of the system: what the API says of it, for admins; others are told which permission they lack."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

SETTINGS = (
    '[agents]\ntalks = "console_agents.py:talks"\n[runs]\nmax_running = 7\n[server]\n'
    'webhook_secret = "whsec_b3Blbi1zZXNhbWUtYW5kLWxldC1tZS1pbg=="\n'
)


async def asked(url: str, path: str) -> Any:
    """What the API answers."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        answer = await client.get(path)
        answer.raise_for_status()
        return answer.json()


async def test_it_shows_what_the_server_is_and_hides_secrets(serve: Any, visit: Any) -> None:
    server = await serve(SETTINGS)
    async with visit(server.url) as seen:
        page = await seen.go("/ui/system")
        said = await asked(server.url, "/system")
        await expect(page.locator("main")).to_contain_text(said["python"])
        await expect(page.locator("#database")).to_contain_text(said["database"]["url"])
        await expect(page.locator("#spool")).to_contain_text(said["spool"]["folder"])
        await expect(page.locator("#processes")).to_have_text(f"{len(said['workers'])} alive")
        row = page.locator("#settings tr", has=page.get_by_role("rowheader", name="runs.max_running", exact=True))
        await expect(row).to_contain_text("7")
        await expect(row).to_contain_text("trackside.toml")
        assert "b3Blbi1z" not in await page.content()
        more = page.locator("#settings details")
        await expect(more.locator("tr").first).to_be_hidden()
        await more.locator("summary").click()
        usual = [name for name, one in said["settings"].items() if one["source"] is None]
        assert await more.get_by_role("rowheader").all_inner_texts() == sorted(usual)
        for name, path in (("API reference", "/docs"), ("OpenAPI", "/openapi.json"), ("Prometheus", "/metrics")):
            await expect(page.get_by_role("link", name=name)).to_have_attribute("href", path)
        assert await seen.violations() == []
        await seen.picture("system")


async def test_what_the_doctor_finds_comes_with_the_next_command_to_copy(
    serve: Any, visit: Any, tmp_path: Path
) -> None:
    server = await serve(SETTINGS)
    spool = tmp_path / "runs.db-spool"
    spool.mkdir(exist_ok=True)
    (spool / "waiting-01.jsonl").write_text("torn\n")
    (spool / "refused.jsonl").write_text("{}\n{}\n")
    async with visit(server.url, permissions=["clipboard-read", "clipboard-write"]) as seen:
        page = await seen.go("/ui/system")
        said = (await asked(server.url, "/system"))["findings"]
        wrong = [one for one in said if one["level"] != "note"]
        items = page.locator("#findings > ul > li")
        await expect(items).to_have_count(len(wrong))
        for item, one in zip(await items.all(), wrong, strict=True):
            await expect(item).to_contain_text(one["what"])
            await expect(item).to_contain_text(one["level"])
        await expect(items.filter(has_text="2 ends of runs do not fit")).to_contain_text(str(spool / "refused.jsonl"))
        waiting = items.filter(has_text="the database has not taken")
        command = f"trackside serve --database sqlite:///{tmp_path / 'runs.db'}"  # from whatever folder it is typed
        await expect(waiting.locator("code")).to_have_text(command)
        await waiting.get_by_role("button", name="Copy").click()
        await expect(page.get_by_text("Copied.")).to_be_visible()
        assert await page.evaluate("navigator.clipboard.readText()") == command
        assert await seen.violations() == []
        await seen.picture("system-findings")
        for left in spool.iterdir():
            left.unlink()
        while any(one["level"] != "note" for one in (await asked(server.url, "/system"))["findings"]):
            pass  # a finding is reported for two more seconds
        await page.get_by_role("link", name="Check again").click()
        await expect(page.get_by_role("heading", name="Nothing is wrong")).to_be_visible()


async def test_who_is_no_admin_is_told_what_he_would_need(serve: Any, visit: Any, trackside: Any) -> None:
    server = await serve(f'{SETTINGS}auth = "keys"\n')
    made = await asyncio.to_thread(
        trackside, "auth", "create", "ada", "--owner", "ada", "--permission", "run", "--json", "-d", "sqlite:///runs.db"
    )
    async with visit(server.url) as seen:
        page = await seen.go("/ui/system")
        await page.get_by_label("API key or token").fill(json.loads(made.stdout)["secret"])
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.locator("#no-system")).to_contain_text("This needs the permission 'admin'")
        await expect(page.get_by_text("ready", exact=True)).to_be_visible()
        await expect(page.locator("#settings")).to_have_count(0)
        assert await seen.violations() == []
        await seen.picture("system-forbidden")
