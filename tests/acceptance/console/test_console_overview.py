"""The console's first page: its numbers are the API's, each leads to the runs behind it, and it moves with what happens."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from logged_runs import RecordedRun, record
from playwright.async_api import Locator, Page, expect

from trackside import LifecycleEventType

pytestmark = pytest.mark.asyncio(loop_scope="session")

SETTINGS = "\n".join(
    ["[agents]", *(f'{name} = "console_agents.py:{name}"' for name in ("talks", "fails", "asks", "works"))]
)

AGENTS = ("talks", "talks", "works", "fails", "fails", "fails", "asks")


async def ran(url: str, *agents: str, headers: dict[str, str] | None = None, kept: str = "keep") -> None:
    """Run each of these agents, one after another, to the end; the runs are kept, or deleted then."""
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
        for agent in agents:
            answer = await client.post("/runs/wait", json={"assistant_id": agent, "input": {}, "on_completion": kept})
            assert answer.status_code in {200, 500}, answer.text


async def asked(url: str, path: str, headers: dict[str, str] | None = None, **query: Any) -> Any:
    """What the API answers."""
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
        answer = await client.get(path, params=query)
        answer.raise_for_status()
        return answer.json()


def figure(page: Page, name: str) -> Locator:
    """One of the numbers at the top."""
    return page.locator(f"[data-figure={name}]")


async def behind(url: str, link: Locator) -> list[Any]:
    """The runs to which a link leads, as the API lists them."""
    href = await link.get_attribute("href")
    assert href is not None
    parts = urlsplit(href)
    assert parts.path == "/ui/runs"
    found: list[Any] = await asked(url, "/runs", **parse_qs(parts.query), limit=1_000)
    return found


async def test_an_empty_database_says_what_to_do_and_shows_the_first_run_by_itself(serve: Any, visit: Any) -> None:
    server = await serve()
    async with visit(server.url) as seen:
        page = await seen.go("/ui")
        await expect(page.get_by_text("No run yet")).to_be_visible()
        await expect(page.get_by_role("link", name="Try an agent")).to_have_attribute("href", "/ui/agents")
        await expect(page.locator("#liveness")).to_have_attribute("data-state", "live")
        assert await seen.violations() == []
        await seen.picture("overview-empty")
        await ran(server.url, "fails")
        await expect(figure(page, "runs")).to_have_text("1")
        await expect(page.locator("#verdict")).to_contain_text("1 of 1 run failed")
        await expect(page.locator("#chart-runs canvas")).to_be_visible()


async def test_its_numbers_are_what_the_api_says_and_lead_to_the_runs_behind_them(serve: Any, visit: Any) -> None:
    server = await serve()
    await ran(server.url, *AGENTS)
    async with visit(server.url) as seen:
        page = await seen.go("/ui?range=1h")
        stats = await asked(server.url, "/stats")
        assert stats["total"]["runs"] == len(AGENTS)
        await expect(figure(page, "runs")).to_have_text(str(len(AGENTS)))
        await expect(figure(page, "failed")).to_have_text("3")
        await expect(figure(page, "calls")).to_have_text(str(stats["total"]["llm_call_count"]))
        await expect(figure(page, "tools")).to_have_text(str(stats["total"]["tool_call_count"]))
        await expect(figure(page, "cost")).to_have_text(f"${stats['total']['cost_usd']:.3g}")
        await _see_where_figures_lead(server.url, page)
        await _see_what_fails(server.url, page)
        await _see_what_costs(page, stats)
        await _see_the_agents(server.url, page, stats)
        assert await seen.violations() == []
        await seen.picture("overview")
        await ran(server.url, "fails", kept="delete")
        await expect(figure(page, "failed")).to_have_text("4")
        await figure(page, "failed").click()
        await expect(page.locator("tr[data-run]")).to_have_count(4)


async def _see_where_figures_lead(url: str, page: Page) -> None:
    failed = await behind(url, page.locator("#totals a", has=figure(page, "failed")))
    assert [run["agent"] for run in failed] == ["fails"] * 3
    assert len(await behind(url, page.locator("#totals a", has=figure(page, "runs")))) == len(AGENTS)
    costly = await behind(url, page.locator("#totals a", has=figure(page, "cost")))
    assert {run["agent"] for run in costly} == {"talks", "works"}
    slow = await behind(url, page.locator("#totals a", has=figure(page, "p95")))
    assert 1 <= len(slow) < len(AGENTS)
    asks = await behind(url, page.locator("[data-outcome=interrupted]"))
    assert [run["agent"] for run in asks] == ["asks"]


async def _see_what_fails(url: str, page: Page) -> None:
    row = page.locator("#failures tbody tr")
    await expect(row).to_have_count(1)
    await expect(row).to_contain_text("FileNotFoundError")
    await expect(row).to_contain_text("there is no file prices.csv")
    assert len(await behind(url, row.locator("td.num a"))) == 3
    newest = (await asked(url, "/runs", status="error", limit=1))[0]["run_id"]
    await expect(row.locator("td.why a")).to_have_attribute("href", f"/ui/runs/{newest}")


async def _see_what_costs(page: Page, stats: Any) -> None:
    dearest = max(stats["by_model"], key=lambda name: stats["by_model"][name]["cost_usd"])
    await expect(page.locator("#models tbody tr")).to_have_count(2)
    first = page.locator("#models tbody tr").first
    await expect(first).to_contain_text(dearest)
    await expect(first).to_contain_text(f"${stats['by_model'][dearest]['cost_usd']:.3g}")
    await expect(page.locator("#verdict")).to_contain_text("3 of 7 runs failed in the last hour")


async def _see_the_agents(url: str, page: Page, stats: Any) -> None:
    await expect(page.locator("#agents tbody tr")).to_have_count(len(stats["by_agent"]))
    row = page.locator("#agents tbody tr", has_text="talks")
    assert len(await behind(url, row.locator("td:nth-child(2) a"))) == 2
    await row.get_by_role("link", name="talks").click()
    await expect(figure(page, "runs")).to_have_text("2")
    await expect(page.locator("#chart-runs canvas")).to_be_visible()
    assert parse_qs(urlsplit(page.url).query) == {"range": ["1h"], "agent": ["talks"]}
    await page.get_by_role("link", name="show all").click()
    await expect(figure(page, "runs")).to_have_text(str(len(AGENTS)))


async def test_charts_tell_what_is_under_the_pointer_lead_there_and_move_without_losing_it(
    serve: Any, visit: Any
) -> None:
    server = await serve()
    await ran(server.url, "fails", "talks")
    async with visit(server.url) as seen:
        page = await seen.go("/ui?range=15min")
        await expect(page.locator("#liveness")).to_have_attribute("data-state", "live")
        numbers = page.locator("[data-numbers=runs]")
        await numbers.locator("summary").click()
        await expect(numbers.locator("tbody tr").first).to_be_visible()
        canvas = await page.locator("#chart-runs canvas").element_handle()
        over = page.locator("#chart-runs .u-over")
        box = await over.bounding_box()
        assert box is not None
        await page.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] - 6)
        tip = page.locator("#chart-runs .tip")
        await expect(tip).to_be_visible()
        await ran(server.url, "fails", "fails")
        await expect(figure(page, "failed")).to_have_text("3")
        assert await canvas.evaluate("it => it.isConnected")
        await expect(tip).to_be_visible()
        await expect(numbers).to_have_attribute("open", "")
        cells = numbers.locator("tbody td:nth-child(2)")
        assert sum(int(text) for text in await cells.all_inner_texts() if text != "–") == 3
        await _see_what_a_bar_leads_to(server.url, page)


async def _see_what_a_bar_leads_to(url: str, page: Page) -> None:
    numbers = page.locator("[data-numbers=runs] tbody tr").first.locator("td a").first
    href = await numbers.get_attribute("href")
    assert href is not None
    chosen = parse_qs(urlsplit(href).query)
    assert chosen["status"] == ["error"]
    runs = await asked(url, "/runs", **chosen)
    assert len(runs) == int(await numbers.inner_text())
    # The bar of this step, in the middle and just above the ground, where errors are drawn.
    step = await page.evaluate(
        """since => {
          const given = JSON.parse(document.getElementById("series").dataset.series);
          return [given.starts.indexOf(Date.parse(since) / 1000), given.starts.length];
        }""",
        chosen["since"][0],
    )
    box = await page.locator("#chart-runs .u-over").bounding_box()
    assert box is not None
    await page.mouse.click(box["x"] + box["width"] * (step[0] + 0.5) / step[1], box["y"] + box["height"] - 4)
    await page.wait_for_url("**/ui/runs?**")
    assert {name: parse_qs(urlsplit(page.url).query)[name] for name in chosen} == chosen


async def test_the_time_is_in_the_address_is_typed_as_the_browser_has_it_and_nonsense_is_said(
    serve: Any, visit: Any
) -> None:
    server = await serve()
    await ran(server.url, "talks")
    async with visit(server.url, timezone_id="Asia/Tokyo") as seen:
        page = await seen.go("/ui")
        times = page.get_by_role("navigation", name="Time")
        # Runs that have just begun fill the shortest time range, and would be a single bar in a day.
        await expect(times.get_by_role("link", name="15 min")).to_have_attribute("aria-current", "true")
        await times.get_by_role("link", name="6 h").click()
        await page.wait_for_url("**/ui?range=6h")
        await page.get_by_text("From–to").click()
        await page.get_by_label("From", exact=True).fill("2026-03-01T09:00")
        await page.get_by_label("To", exact=True).fill("2026-03-02T09:00")
        await page.get_by_role("button", name="Show", exact=True).click()
        await page.wait_for_url("**since=**")
        chosen = parse_qs(urlsplit(page.url).query)
        assert chosen == {"since": ["2026-03-01T00:00:00.000Z"], "until": ["2026-03-02T00:00:00.000Z"]}
        await expect(page.get_by_label("From", exact=True)).to_have_value("2026-03-01T09:00")
        await expect(page.get_by_text("No runs in this time")).to_be_visible()
        for nonsense in (
            "range=forever",
            "since=yesterdayish",
            "since=2026-03-02&until=2026-03-01",
            "since=2999-01-01",
        ):
            await seen.go(f"/ui?{nonsense}")
            await expect(page.get_by_role("alert").filter(has_text="24 hours instead")).to_be_visible()
            await expect(figure(page, "runs")).to_have_text("1")
        assert await seen.violations() == []


async def test_charts_are_drawn_in_light_and_dark_and_dragging_over_one_shows_that_time(serve: Any, visit: Any) -> None:
    server = await serve()
    await ran(server.url, "talks")
    async with visit(server.url) as seen:
        page = await seen.go("/ui?range=15min")
        drawn = "() => document.querySelector('#chart-runs canvas').toDataURL()"
        await expect(page.locator("#chart-runs canvas")).to_be_visible()
        light = await page.evaluate(drawn)
        await page.get_by_role("button", name="Switch between light and dark").click()
        await page.wait_for_function(f"light => ({drawn})() !== light", arg=light)
        assert await page.locator("[data-chart] canvas").count() == 4
        box = await page.locator("#chart-runs .u-over").bounding_box()
        assert box is not None
        middle = box["y"] + box["height"] / 2
        await page.mouse.move(box["x"] + box["width"] * 0.75, middle)
        await page.mouse.down()
        await page.mouse.move(box["x"] + box["width"] * 0.999, middle, steps=4)
        await page.mouse.up()
        await page.wait_for_url("**/ui?since=**")
        chosen = {name: datetime.fromisoformat(said[0]) for name, said in parse_qs(urlsplit(page.url).query).items()}
        assert timedelta(minutes=3) <= chosen["until"] - chosen["since"] <= timedelta(minutes=5)
        await expect(figure(page, "runs")).to_have_text("1")


async def test_what_nobody_has_touched_of_a_time_stays_what_it_was_where_an_hour_comes_twice(
    serve: Any, visit: Any
) -> None:
    server = await serve()
    # In Berlin both are between two and three for the second time.
    chosen = {"since": ["2026-10-25T01:30:00.123456Z"], "until": ["2026-10-25T01:45:07Z"]}
    query = urlencode(chosen, doseq=True)
    async with visit(server.url, timezone_id="Europe/Berlin") as seen:
        page = await seen.go(f"/ui?{query}")
        await expect(page.get_by_label("From", exact=True)).to_have_value("2026-10-25T02:30")
        await page.get_by_role("button", name="Show", exact=True).click()
        await page.wait_for_load_state()
        assert parse_qs(urlsplit(page.url).query) == chosen
        await page.get_by_label("To", exact=True).fill("2026-10-25T04:00")
        await page.get_by_role("button", name="Show", exact=True).click()
        await page.wait_for_url("**until=2026-10-25T03**")
        assert parse_qs(urlsplit(page.url).query)["since"] == chosen["since"]
        for path in ("runs", "threads"):
            await seen.go(f"/ui/{path}?{query}")
            await page.get_by_label("error", exact=True).check()
            await page.wait_for_url("**status=error**")
            assert parse_qs(urlsplit(page.url).query) == chosen | {"status": ["error"]}


MIDNIGHT_IS_24 = """{
  const Now = Intl.DateTimeFormat; // browsers of 2023 count the hours of some languages to 24 where none are to be of twelve
  Intl.DateTimeFormat = function (language, { hour12, ...asked } = {}) {
    return new Now(language, hour12 === false ? { ...asked, hourCycle: "h24" } : { ...asked, hour12 });
  };
}"""


async def test_charts_write_midnight_money_durations_and_large_numbers_as_people_do(
    serve: Any, visit: Any, tmp_path: Path
) -> None:
    server = await serve()
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    costs = {0.0000001: "$0.0000001", 0.012345: "$0.0123", 0.9996: "$1.00", 11_250.5: "$11,250.50"}
    tokens = {12: "12", 9_999: "9,999", 999_450: "999k", 999_960: "1M"}
    durations = {0.0004: "0.4 ms", 0.9996: "1 s", 59.96: "1 min", 3_598: "1 h"}
    for number, (cost, count, seconds) in enumerate(zip(costs, tokens, durations, strict=True)):
        ago = (datetime.now(UTC) - day - timedelta(minutes=5 + 15 * number)).total_seconds()
        used = {"gpt-5": {"input_tokens": count, "output_tokens": 0, "cost_usd": cost}}
        end = {"status": "success", "completion_data": {"cost_usd": cost, "token_usage_by_model": used}}
        run = RecordedRun(ago=ago, seconds=seconds, payloads={LifecycleEventType.RUN_COMPLETED: end})
        await record(f"sqlite:///{tmp_path / 'runs.db'}", [run])
    query = urlencode({"since": f"{day:%Y-%m-%dT%H:%M}", "until": f"{day + timedelta(hours=1):%Y-%m-%dT%H:%M}"})
    async with visit(server.url, locale="en-US", timezone_id="UTC") as seen:
        await seen.page.add_init_script(MIDNIGHT_IS_24)
        page = await seen.go(f"/ui?{query}")
        numbers = page.locator("[data-numbers=cost]")
        await numbers.locator("summary").click()
        rows = numbers.locator("tbody tr")
        await expect(rows.locator("td")).to_have_text([*costs.values()][::-1])
        await expect(rows.last.locator("th")).to_contain_text("00:04 – 00:06")
        numbers = page.locator("[data-numbers=tokens]")
        await numbers.locator("summary").click()
        await expect(numbers.locator("tbody td:nth-child(2)")).to_have_text([*tokens.values()][::-1])
        numbers = page.locator("[data-numbers=duration]")
        await numbers.locator("summary").click()
        await expect(numbers.locator("tbody td:nth-child(2)")).to_have_text([*durations.values()][::-1])
        await page.evaluate(
            """() => document.getElementById("main").insertAdjacentHTML(
                "beforeend", '<time id="midnight" datetime="2026-01-31T00:05:06.007Z" data-clock></time>')"""
        )
        await expect(page.locator("#midnight")).to_have_text("00:05:06.007")


async def test_whoever_reads_numbers_by_keys_stays_there_when_they_change(serve: Any, visit: Any) -> None:
    server = await serve()
    await ran(server.url, "fails")
    async with visit(server.url) as seen:
        page = await seen.go("/ui?range=24h")
        await expect(page.locator("#liveness")).to_have_attribute("data-state", "live")
        numbers = page.locator("[data-numbers=runs]")
        await numbers.locator("summary").click()
        first = numbers.locator("tbody td a").first
        await first.focus()
        where = await first.get_attribute("href")
        await ran(server.url, "fails", "works")
        await page.wait_for_function(
            """() => [...document.querySelectorAll("[data-numbers=runs] tbody td:nth-child(2)")].reduce(
                (sum, cell) => sum + (Number(cell.textContent) || 0), 0) === 2"""
        )
        await expect(numbers.locator("a:focus")).to_have_attribute("href", str(where))


async def test_series_are_told_apart_where_the_system_has_colours_of_its_own(serve: Any, visit: Any) -> None:
    server = await serve()
    await ran(server.url, "fails", "talks")
    async with visit(server.url, forced_colors="active") as seen:
        page = await seen.go("/ui?range=15min")
        await expect(page.locator("#chart-runs canvas")).to_be_visible()
        assert await page.evaluate(SEEN_SERIES) == ["error", "success"]


SEEN_SERIES = """() => {
  const numbers = (colour) => colour.match(/\\d+/g).slice(0, 3).map(Number);
  const canvas = document.querySelector("#chart-runs canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const drawn = new Set();
  for (let at = 0; at < data.length; at += 4) drawn.add(`${data.slice(at, at + 3)}`);
  const ground = `${numbers(getComputedStyle(document.body).backgroundColor)}`;
  const keys = [...document.querySelectorAll("[data-outcome]")];
  const tones = keys.map((key) => `${numbers(getComputedStyle(key, "::before").backgroundColor)}`);
  return keys.filter((_, place) => drawn.has(tones[place]) && tones[place] !== ground).map((key) => key.dataset.outcome);
}"""


def key_of(made: Any) -> str:
    """The secret of a key that the command line made."""
    assert made.returncode == 0, made.stderr
    return str(json.loads(made.stdout)["secret"])


async def sign_in(page: Page, key: str) -> None:
    """Sign in with a key."""
    await page.get_by_label("API key or token").fill(key)
    await page.get_by_role("button", name="Sign in").click()


async def test_who_is_no_admin_sees_what_is_his_and_is_told_what_is_not(serve: Any, visit: Any, trackside: Any) -> None:
    server = await serve(f'[server]\nauth = "keys"\n{SETTINGS}\n[[observers]]\ntype = "logging"\n')
    make = partial(asyncio.to_thread, trackside, "auth", "create", "--json", "-d", "sqlite:///runs.db")
    admin, ada, bob = (
        key_of(made)
        for made in (
            await make("all", "--permission", "admin"),
            await make("ada", "--owner", "ada", "--permission", "run"),
            await make("bob", "--owner", "bob", "--permission", "run"),
        )
    )
    await ran(server.url, "fails", "fails", headers={"x-api-key": ada})
    await ran(server.url, "talks", "fails", headers={"x-api-key": bob})
    async with visit(server.url) as seen:
        page = await seen.go("/ui")
        await sign_in(page, ada)
        await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        await expect(page.locator("#failures tbody tr td.num a").first).to_have_text("2")
        await expect(page.locator("#health")).to_contain_text("need the permission admin")
        his = await asked(server.url, "/stats", {"x-api-key": ada})
        assert his["total"]["runs"] == 2
        await expect(figure(page, "runs")).to_have_text("2")
        await expect(page.locator("#verdict")).to_contain_text("2 of 2 runs failed")
        await expect(page.locator("#agents tbody tr")).to_have_count(1)
        assert await seen.violations() == []
        await seen.picture("overview-owner")
    async with visit(server.url) as seen:
        page = await seen.go("/ui")
        await sign_in(page, admin)
        await expect(figure(page, "runs")).to_have_text("4")
        said = await asked(server.url, "/observers", {"x-api-key": admin})
        assert [one["delivered"] for one in said] == [await _delivered(page)]
        assert said[0]["delivered"] > 0


async def _delivered(page: Page) -> int:
    row = page.locator("#observers tbody tr")
    await expect(row).to_have_count(1)
    return int(await row.locator("td").nth(1).inner_text())
