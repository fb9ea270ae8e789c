"""Pages of the console: each page, and what only an address shows."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from functools import reduce
from operator import getitem
from typing import Any

import httpx
import pytest

from trackside.app.dashboard.pages import thread
from trackside.harness import RunContext, RunSpec

DIALECTS = ("sqlite",)

type ServeAgents = Callable[..., Any]


async def echo(input: Any) -> Any:
    return input


async def asks(input: Any, run: RunContext) -> Any:
    return run.interrupt("what does it say?")


async def speaks(input: Any, run: RunContext) -> Any:
    run.send(input)
    return input


def link(page: str, rel: str) -> str | None:
    """Where the page's link leads."""
    found = re.search(rf'rel="{rel}" href="([^"]+)"', page)
    return None if found is None else html.unescape(found[1])


def rows(page: str) -> list[str]:
    return re.findall(r'<tr id="thread-([^"]+)"', page)


async def test_who_goes_back_to_newer_threads_comes_to_the_newest_and_no_further(serve_agents: ServeAgents) -> None:
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        threads = [(await served.app.store.threads_of(None).create()).thread_id for _ in range(101)][::-1]
        seen: list[list[str]] = []
        address: str | None = "/ui/threads"
        while address is not None:
            page = (await http.get(address)).text
            seen.append(rows(page))
            address = link(page, "next")
        assert seen == [threads[:50], threads[50:100], threads[100:]]
        while (address := link(page, "prev")) is not None:
            page = (await http.get(address)).text
            seen.append(rows(page))
        assert seen[3:] == [threads[50:100], threads[:50]]


@pytest.mark.parametrize("position", ["0" * 5_000, "9" * 5_000, "-1", "0" * 20 + "9" * 20])
async def test_a_position_of_any_length_is_read_or_refused(serve_agents: ServeAgents, position: str) -> None:
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        asked = {"assistant_id": "echo", "input": {}}
        run = (await http.post(f"/threads/{thread_id}/runs/wait", json=asked)).headers["content-location"]
        page = await http.get(f"/ui/runs/{run.rsplit('/', 1)[-1]}", params={"events_after": position})
        assert page.status_code == 200
        assert ("events_after is a position" in page.text) is (position.strip("0") != "")


@pytest.mark.parametrize("name", ["waiting", "removed"])
async def test_a_choice_that_makes_no_sense_is_marked_beside_itself(serve_agents: ServeAgents, name: str) -> None:
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        page = await http.get("/ui/runs", params={name: "maybe"})
        assert (page.status_code, page.text.count('class="wrong"')) == (200, 1)
        assert f'aria-describedby="wrong-{name}"' in page.text
        assert f'id="wrong-{name}"' in page.text


@pytest.mark.parametrize("place", [0, 1], ids=["deleted", "there"])
async def test_runs_are_held_at_the_newest_that_is_listed_also_if_that_was_deleted(
    serve_agents: ServeAgents, place: int
) -> None:
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]

        async def new_run() -> str:
            run = await http.post(f"/threads/{thread_id}/runs/wait", json={"assistant_id": "echo", "input": {}})
            return run.headers["content-location"].rsplit("/", 1)[-1]

        runs = [await new_run() for _ in range(3)][::-1]
        await http.delete(f"/threads/{thread_id}/runs/{runs[0]}")
        await new_run()
        page = (await http.get("/ui/runs", params={"removed": "true", "top": runs[place]})).text

        assert re.findall(r'data-run="([^"]+)"', page) == runs[place:]
        assert f">{place + 1} new</a>" in page


@pytest.mark.parametrize("thread_id", ["chat-1", "acme/42", "a?b#c%20d", None])
async def test_what_a_run_says_is_had_however_its_thread_is_called(
    serve_agents: ServeAgents, thread_id: str | None
) -> None:
    async with serve_agents({"speaks": speaks}) as served, httpx.AsyncClient(base_url=served.url) as http:
        spec = RunSpec("speaks", {"n": 1}, thread_id=thread_id, stream_mode=("custom",))
        handle = await served.app.manager.start(spec)
        await handle.result()
        page = (await http.get(f"/ui/runs/{handle.run_id}")).text
        address = re.search(r'data-address="([^"]+)"', page)
        assert address is not None
        said = await http.get(html.unescape(address[1]))

        assert (said.status_code, re.findall(r"event: (\w+)", said.text)) == (200, ["metadata", "custom", "end"])


async def test_what_is_too_long_for_a_command_line_is_saved_as_what_is_sent(serve_agents: ServeAgents) -> None:
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        asked = {"assistant_id": "echo", "input": {"long": "x" * 40_000}, "metadata": {"a": "b"}}
        for path, more in ((f"/threads/{thread_id}/runs", {}), ("/runs", {"on_completion": "keep"})):
            first = (await http.post(path, json={**asked, **more})).json()["run_id"]
            await http.get(f"/runs/{first}/join")
            page = html.unescape((await http.get(f"/ui/runs/{first}")).text)
            saved = re.search(r'href="([^"]+)" download="request.json"', page)
            address = re.search(r"curl -sS -X POST (\S+)", page)
            assert saved is not None
            assert address is not None
            assert "--data-binary @request.json" in page
            found = await http.get(saved[1])
            again = await http.post(address[1], content=found.content, headers={"content-type": "application/json"})
            assert again.status_code == 200, again.text
            runs = [(await http.get(f"/runs/{id_}")).json() for id_ in (first, again.json()["run_id"])]
            assert runs[0]["request"]["input"] == runs[1]["request"]["input"] == found.json()["input"]
            assert runs[0]["metadata"] == runs[1]["metadata"]
        gone = await http.get(f"/ui/runs/{thread_id}/request.json")
        assert (gone.status_code, gone.headers["content-type"].partition(";")[0]) == (404, "text/html")


async def test_a_long_argument_is_read_from_the_file_that_the_page_says(serve_agents: ServeAgents) -> None:
    long = {"long": "x" * 40_000}
    wanted: list[tuple[dict[str, Any], str, tuple[str, str]]] = [
        ({"input": long}, "run", ("input", "input.json")),
        ({"command": {"resume": long}}, "resume", ("command.resume", "answer.json")),
    ]
    async with serve_agents({"asks": asks}) as served, httpx.AsyncClient(base_url=served.url) as http:
        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        for asked, command, argument in wanted:
            run = await http.post(f"/threads/{thread_id}/runs/wait", json={"assistant_id": "asks", **asked})
            run_id = run.headers["content-location"].rsplit("/", 1)[-1]
            page = html.unescape((await http.get(f"/ui/runs/{run_id}")).text)
            saved = (await http.get(f"/ui/runs/{run_id}/request.json")).json()
            kept = (await http.get(f"/runs/{run_id}")).json()["request"]
            parts = [reduce(getitem, argument[0].split("."), whole) for whole in (saved, kept)]

            assert re.findall(r"its <code>(\S+)</code> alone as <code>(\S+)</code>", page) == [argument]
            assert re.search(rf"^trackside {command} --url .* @{argument[1]}$", page, re.MULTILINE)
            assert parts[0] == parts[1]
            assert long in (parts[0], *parts[0].values())  # an answer is stored with its question


@pytest.mark.parametrize("name", ["echo", "runs", "a%2Fb", "nobody"])
async def test_who_asks_for_a_user_interface_of_a_graph_is_told_that_there_is_none(
    serve_agents: ServeAgents, name: str
) -> None:
    async with serve_agents({"echo": echo, "runs": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:
        # As the client asks: `client["~ui"].getComponent(name, "weather")`.
        answer = await http.post(f"/ui/{name}", json={"name": "weather"}, headers={"accept": "text/html"})
        assert (answer.status_code, answer.json()["code"]) == (501, "not-implemented")
        assert answer.json()["detail"].startswith("user interfaces of graphs are not served")
        form = await http.post(f"/ui/{name}", data={"name": "weather"})
        assert (form.status_code, form.headers["content-type"].partition(";")[0]) == (405, "text/html")


async def test_pages_lead_to_other_runs_and_to_where_they_were_asked_for(
    serve_agents: ServeAgents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread, "TURNS", 1)
    async with serve_agents({"echo": echo}) as served, httpx.AsyncClient(base_url=served.url) as http:

        async def page(address: str, **headers: str) -> str:
            return html.unescape((await http.get(f"/ui/{address}", headers=headers)).text)

        thread_id = (await http.post("/threads", json={})).json()["thread_id"]
        asked = {"assistant_id": "echo", "input": {"n": 1}}
        first = (await http.post(f"/threads/{thread_id}/runs", json=asked)).json()["run_id"]
        await http.get(f"/runs/{first}/join")
        assert "These are the newest" not in await page(f"threads/{thread_id}")
        again = (await http.post(f"/runs/{first}/retry")).json()["run_id"]
        await http.get(f"/runs/{again}/join")
        assert "These are the newest 1 runs" in await page(f"threads/{thread_id}")

        assert "attempt 2, a retry of this run" in await page(f"runs/{first}")
        assert "attempt 1, retried by this run" in await page(f"runs/{again}")
        here = served.url.partition("://")[2]
        for forwarded, scheme in {"https, http": "https", "http": "http", "javascript": "http"}.items():
            shown = await page(f"runs/{first}", **{"x-forwarded-proto": forwarded})
            assert {*re.findall(rf"(\w+)://{here}", shown)} == {scheme}
