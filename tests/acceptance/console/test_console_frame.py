"""What all pages of the console have: the frame around them, keys, light and dark, failures that say what to do."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_every_page_of_the_navigation_is_there_and_accessible(serve: Any, visit: Any) -> None:
    server = await serve()
    async with visit(server.url) as seen:
        page = await seen.go("/")
        assert page.url == f"{server.url}/ui"
        names = await page.locator("nav[aria-label=Pages] a").all_inner_texts()
        for name in names:
            await page.get_by_role("navigation", name="Pages").get_by_role("link", name=name, exact=True).click()
            assert await page.title() == f"{name} · Trackside"
            assert await page.locator("nav a[aria-current=page]").inner_text() == name
            assert await seen.violations() == []


async def test_what_is_not_there_is_said_in_words(serve: Any, visit: Any) -> None:
    server = await serve()
    async with visit(server.url) as seen:
        page = await seen.go("/ui/nope")
        assert await page.get_by_role("heading", level=1).inner_text() == "There is nothing here"
        assert await seen.violations() == []
        seen.complaints.clear()  # the browser complains of each 404
