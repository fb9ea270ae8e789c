"""The pictures of the README, taken of the running demo: `./scripts/demo serve --pictures docs/images`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
from browser import running_browser, visiting
from playwright.async_api import Page

_WIDE: Final = {"width": 1280, "height": 800}
_PHONE: Final = {"width": 390, "height": 800}
_WAITS_FOR: Final = 40
"""How many runs there have to be before the pictures are taken."""


async def take_pictures(url: str, folder: Path) -> list[Path]:
    """Take the pictures, once enough has happened on the server at this address.

    Raises:
        LookupError: no run is of a kind that the pictures show.
    """
    runs = await _until_there_is_enough(url)
    failed = _first(runs, lambda run: run["status"] == "error" and run["cost_usd"])
    waiting = _first(runs, lambda run: run["status"] == "interrupted" and run["agent"] == "expenses")
    pages = [
        ("console-overview", "/ui?range=15min", "light", _WIDE),
        ("console-run", f"/ui/runs/{failed['run_id']}", "light", _WIDE),
        ("console-runs", "/ui/runs", "dark", _WIDE),
        ("console-question", f"/ui/runs/{waiting['run_id']}", "light", _PHONE),
        ("console-agent", "/ui/agents/research", "dark", _WIDE),
    ]
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    taken: list[Path] = []
    async with running_browser() as browser:
        for name, path, scheme, size in pages:
            async with visiting(browser, url, viewport=size, color_scheme=scheme, reduced_motion="reduce") as visit:
                page = await visit.go(path)
                if name == "console-agent":
                    await _play(page)
                await page.locator('#liveness[data-state="live"]').wait_for()
                taken.append(folder / f"{name}.png")
                await page.screenshot(path=taken[-1], animations="disabled")
    return taken


async def _until_there_is_enough(url: str) -> list[dict[str, Any]]:
    """The runs, once there are some of all kinds; this looks again with each event of the log."""
    async with (
        httpx.AsyncClient(base_url=url, timeout=60) as client,
        client.stream("GET", "/events/stream", params={"after": 0}) as log,
    ):
        async for line in log.aiter_lines():
            if line.startswith("data:"):
                runs: list[dict[str, Any]] = (await client.get("/runs", params={"limit": 200})).json()
                kinds = {run["status"] for run in runs if run["status"] != "interrupted" or run["agent"] == "expenses"}
                if len(runs) >= _WAITS_FOR and kinds >= {"error", "interrupted", "success", "timeout", "cancelled"}:
                    return runs
    raise LookupError("the server has ended")


def _first(runs: list[dict[str, Any]], fits: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    for run in runs:
        if fits(run):
            return run
    raise LookupError("there is no run of this kind")


async def _play(page: Page) -> None:
    """Ask the agent something in its playground, and wait for what it says."""
    await page.get_by_label("Message", exact=True).first.fill("How do I validate data with type hints?")
    await page.keyboard.press("Control+Enter")
    await page.get_by_text("success").first.wait_for()
    await asyncio.sleep(0.5)  # the page takes up the change
