"""Times and durations as pages write them: by the clocks where the browser is, and in words that fit."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ("2026-01-31T12:00:00Z", "today+01:00"),
        ("2026-03-29T10:00:00Z", "today+01:00"),  # clocks were put forward after this day had begun
        ("2026-03-29T22:30:00Z", "today+02:00"),
        ("2026-10-25T10:00:00Z", "today+02:00"),  # and back
        ("2026-10-25T22:30:00Z", "today+01:00"),  # by the clocks of this morning it is tomorrow
        ("2026-10-25T23:30:00Z", "today+01:00"),
    ],
)
async def test_today_begins_as_clocks_are_at_its_midnight(serve: Any, visit: Any, now: str, said: str) -> None:
    server = await serve()
    async with visit(server.url, timezone_id="Europe/Berlin") as seen:
        await seen.page.clock.install(time=now)
        page = await seen.go("/ui/runs")
        assert await page.evaluate("import('/ui/static/filters.js').then((filters) => filters.TODAY)") == said


async def test_a_chart_writes_a_duration_that_rounds_to_the_next_unit_in_that(serve: Any, visit: Any) -> None:
    server = await serve()
    expected = {
        0: "0",
        0.0004: "0.4 ms",
        0.9994: "999 ms",
        0.9996: "1 s",
        59.94: "59.9 s",
        59.98: "1 min",
        3_598: "60 min",
        3_599: "1 h",
        7_200: "2 h",
        360_000: "100 h",
    }
    async with visit(server.url) as seen:
        page = await seen.go("/ui")
        written = "(all) => import('/ui/static/durations.js').then(({ roughly }) => all.map(roughly))"
        assert await page.evaluate(written, [*expected]) == [*expected.values()]
