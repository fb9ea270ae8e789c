"""Whatever agents, users and clients write is text on every page: no page executes it or makes an element of it.

The pages are those that exist: a new one is opened, too, and one whose path takes something unknown here fails.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import hostile_agents
import httpx
import pytest
from browser import Visit
from hostile_agents import hostile, short
from playwright.async_api import Page, expect

from trackside.app import dashboard
from trackside.app.server.routing import EVENT_STREAM, all_endpoints
from trackside.app.storage import Store
from trackside.harness import RunLifecycleEvent
from trackside.harness.types import RunStatus
from trackside.testing import make_run

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGES = [
    one.path
    for one in all_endpoints(dashboard.GROUPS)
    if one.method == "GET" and one.media_type != EVENT_STREAM and not one.path.startswith("/ui/static/")
    if not one.path.endswith(".json")  # a file to save
]
AGENTS = Path(hostile_agents.__file__)
SETTINGS = """
[server]
auth = "keys"

[agents]
says = "hostile_agents.py:says"
fails = "hostile_agents.py:fails"
asks = "hostile_agents.py:asks"
graph = "hostile_agents.py:graph"
"""
NAMES = ["run_id", "run", "thread_id", "thread", "agent", "text", "q", "status", "type", "name", "after", "before", "since",
         "until", "range", "from", "to", "min_cost", "min_duration", "sort", "view", "metadata", "limit", "next", "key",
         "checkpoint", "a", "b", "tab", "at", "fork", "rows", "events_after", "width", "model", "gone"]  # fmt: skip
"""The names of filters: each is tried with a value that makes no sense."""

SHOWN = {
    "/ui/runs/{run_id}": {"title", "result", "human", "ai", "tool", "model", "error", "question"},
    "/ui/threads/{thread_id}": {"ai", "graph ai", "tool result", "thread note", "state value", "action description"},
    "/ui/log": {"ai", "stored agent"},
    "/ui/runs": {"title", "error", "stored agent"},
    "/ui/subscriptions": {"subscription", "subscription error", "consumer"},
    "/ui/subscriptions/{name:path}": {"subscription", "subscription error", "parked error", "stored agent", "consumer"},
}
"""The fields that must be seen as text, so that a page cannot pass by showing nothing."""

NOTHING_PLANTED = """() => {
  const bad = [...document.querySelectorAll(
    '.planted, script:not([src]), style, iframe, object, embed, base, meta[http-equiv], [style*=expression]')];
  for (const element of document.querySelectorAll('*'))
    for (const {name, value} of element.attributes)
      if (/^on/i.test(name) || /^hx-(?!morph)/i.test(name) || (/^(href|src|action|formaction|xlink:href)$/i.test(name)
          && !/^(\\/|\\?|#|$|data:image\\/)/.test(value) && !value.startsWith(location.origin + '/'))) bad.push(element);
  return [window.wasHit, ...bad.map((element) => element.outerHTML.slice(0, 200))].filter(Boolean);
}"""


VIEWS = {
    "/ui/threads/{thread_id}": ("", "?view=state", "?view=history"),
    "/ui/runs/{run_id}": ("", "?rows=all"),
}
"""What else a page shows, by its query."""


class Things:
    """What was stored, by the names that paths use."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.threads: list[str] = []

    def paths(self, template: str) -> list[str]:
        """All addresses of a page."""
        values = {
            "run_id": [*self.runs, short("run id")],
            "thread_id": [*self.threads, short("thread id")],
            "assistant_id": ["says", "graph", short("assistant id")],
            "name:path": [hostile("subscription", 200), short("no subscription")],
            "rest:path": ["nowhere/" + hostile("nowhere")],
        }
        found = re.search(r"{([^}]+)}", template)
        if found is None:
            return [template]
        assert found[1] in values, f"{template}: say here what {found[1]} names"
        paths = [template.replace(found[0], quote(value, safe="")) for value in values[found[1]]]
        return [path + view for path in paths for view in VIEWS.get(template, ("",))]


async def store_things(store: Store) -> str:
    """Store what only somebody with the database can write, and an admin's key with an odd name."""
    stored: list[RunLifecycleEvent] = []
    for status in (RunStatus.success, RunStatus.error, RunStatus.interrupted):
        run = make_run(
            f"{status.value}{short('run id', 3)}", thread_id=f"{status.value}{short('thread id', 3)}", status=status
        )
        for event in run:
            payload = dict(event.payload)
            if "agent" in payload:
                payload["agent"] = short("stored agent")
                payload["metadata"] = {hostile("stored metadata"): hostile("stored metadata")}
            if status is RunStatus.error and "completion_data" in payload:
                payload |= {"error": hostile("stored error"), "error_type": short("stored error type")}
            stored.append(replace(event, payload=payload))
    await store.append(stored)
    name = hostile("subscription", 200)
    await store.subscriptions.open(name, agent=short("stored agent"), start="beginning")
    consumer = await store.subscriptions.acquire(name, consumer=hostile("consumer", 200), lease_seconds=600)
    batch = await consumer.read()
    for event in batch.events[:3]:
        await consumer.park(event.position, hostile("parked error", 1_900), attempts=2)
    await consumer.note_failure(hostile("subscription error", 1_900), attempts=2)
    made = await store.api_keys.create(hostile("key name", 200), owner=hostile("key owner", 200), permission="admin")
    return str(made.secret)


async def send_things(url: str, key: str, things: Things) -> None:
    """Send what clients write."""
    async with httpx.AsyncClient(base_url=url, headers={"x-api-key": key}) as http:
        for agent in ("says", "fails", "asks", "graph"):
            metadata = {hostile("thread note"): hostile("thread note"), "nul": "a\0b"}
            answer = await http.post("/threads", json={"metadata": metadata})
            thread_id = answer.json()["thread_id"]
            content = {"role": "user", "content": hostile("input"), "id": short("input id")}
            body = {
                "assistant_id": agent,
                "input": {"messages": [content], hostile("input key"): "\0 \ud800".encode("utf-8", "replace").decode()},
                "metadata": {hostile("run note"): hostile("run note")},
            }
            done = await http.post(f"/threads/{thread_id}/runs", json=body)
            assert done.status_code == 200, done.text
            await http.get(f"/threads/{thread_id}/runs/{done.json()['run_id']}/join")
            things.threads.append(thread_id)
            things.runs.append(done.json()["run_id"])
        cron = {
            "assistant_id": "says",
            "schedule": "0 0 1 1 *",
            "input": hostile("cron"),
            "metadata": {"a": hostile("cron")},
        }
        item = {"namespace": [short("namespace", 0)], "key": hostile("item key", 200), "value": {"a": hostile("item")}}
        assistant = {"graph_id": "says", "name": hostile("assistant", 200), "description": hostile("description")}
        for method, path, body in (
            ("POST", "/runs/crons", cron), ("PUT", "/store/items", item), ("POST", "/assistants", assistant),
        ):  # fmt: skip
            await http.request(method, path, json=body)  # what a server does not accept cannot be shown
        raw = b'{"assistant_id": "says", "input": {"half": "\\ud800", "nul": "\\u0000"}}'
        await http.post("/runs/wait", content=raw)


@asynccontextmanager
async def hostile_place(serve: Any, visit: Any, folder: Path) -> AsyncIterator[tuple[Visit, Things]]:
    """A visit to a server that is full of it, by somebody who may see everything."""
    (folder / "hostile_agents.py").write_text(AGENTS.read_text("utf-8"), "utf-8")
    server = await serve(settings=SETTINGS)
    things = Things()
    async with Store.open(f"sqlite:///{folder / 'runs.db'}") as store:
        key = await store_things(store)
    await send_things(server.url, key, things)
    async with visit(server.url) as seen:
        page = await seen.go("/ui/sign-in")
        await page.get_by_label("API key or token").fill(key)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page).to_have_url(f"{server.url}/ui")
        page.on("dialog", lambda dialog: seen.complaints.append(f"a dialog: {dialog.message}"))
        yield seen, things


async def look(seen: Visit, path: str) -> tuple[Page, str]:
    """Open a page and everything that can be opened on it; gives all of its text."""
    page = await seen.go(path)
    await page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    await page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert await page.evaluate(NOTHING_PLANTED) == [], path
    title = await page.title()
    text = await page.evaluate("() => document.body.textContent")
    assert str(7919 * 7907) not in title + text, f"{path} evaluates templates"
    assert title.endswith("· Trackside"), (path, title, text[:500])
    assert not title.startswith("500"), (path, text[:500])
    return page, str(text)


async def test_whatever_is_written_is_text_on_every_page(serve: Any, visit: Any, tmp_path: Path) -> None:
    async with hostile_place(serve, visit, tmp_path) as (seen, things):
        for template in PAGES:
            said = ""
            for path in things.paths(template):
                page, text = await look(seen, path)
                said += text
                if await page.locator("#refresh").count():  # what comes later is inserted as text, too
                    await page.evaluate("() => htmx.trigger('#refresh', 'changed')")
                    await asyncio.sleep(0)
                    await page.wait_for_function("() => !document.querySelector('.htmx-request, .htmx-swapping')")
                    assert await page.evaluate(NOTHING_PLANTED) == [], f"{path}, anew"
            missing = [field for field in SHOWN.get(template, ()) if f"[{field}]" not in said]
            assert not missing, f"{template} does not show {missing}"
            if SHOWN.get(template):
                assert "<img class=planted src=x onerror=window.wasHit=1>" in said, (
                    f"{template} does not show it as it is"
                )
            # The browser complains of pages that are missing or make no sense, but also of whatever the policy refuses.
            seen.complaints = [one for one in seen.complaints if "Failed to load resource" not in one]
            seen.check()


async def test_filters_that_make_no_sense_are_text(serve: Any, visit: Any, tmp_path: Path) -> None:
    async with hostile_place(serve, visit, tmp_path) as (seen, things):
        for template in PAGES:
            for attack in (
                hostile("filter", 400),
                "\0\ud800".encode("utf-8", "surrogatepass"),
                "-1",
                "9" * 40,
                "[]{}'\";--",
            ):
                path = things.paths(template)[0]
                page = await seen.go(f"{path}?{urlencode(dict.fromkeys(NAMES, attack))}")
                assert await page.evaluate(NOTHING_PLANTED) == [], (path, attack)
                assert await page.title() != "500 · Trackside", (path, attack)
        seen.complaints = [one for one in seen.complaints if "Failed to load resource" not in one]


async def test_a_graph_is_drawn_with_names_as_text(serve: Any, visit: Any, tmp_path: Path) -> None:
    async with hostile_place(serve, visit, tmp_path) as (seen, _):
        page, _ = await look(seen, "/ui/agents/graph")
        await expect(page.locator("svg", has_text="approve").first).to_be_visible()
        await expect(page.locator("svg", has_text="plan<img").first).to_be_visible()
        assert await page.evaluate(NOTHING_PLANTED) == []
