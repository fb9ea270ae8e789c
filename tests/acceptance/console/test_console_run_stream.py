"""What a run says, on its page: as it comes, until its true end; what is missing of it; and of much, the newest."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from browser import counting_looks, texts
from playwright.async_api import expect
from recorded_runs import MARKUP

pytestmark = pytest.mark.asyncio(loop_scope="session")

NO_SILENCE = 'addEventListener("trackside:silence", (event) => event.stopImmediatePropagation(), true)'
"""For pages whose clock goes faster than the server's, of which nothing is heard then for a while."""


async def test_a_run_is_seen_while_it_speaks_until_its_true_end(serving: Any, visit: Any, tmp_path: Path) -> None:
    server, api = await serving()
    run = await api.start("speaks")
    async with visit(server.url) as seen:
        page = await seen.go(f"/ui/runs/{run['run_id']}")
        lines = page.locator("#stream-lines > *")
        before = [
            "teller",
            f"Once upon {MARKUP} a time",
            "parts",
            f'{{"chapter":{json.dumps(MARKUP)}}}',
            "critic",
            "I doubt it.",
        ]
        await expect(lines).to_have_text(before)  # who comes later has the past
        await expect(page.locator("#run-top .head .status")).to_have_text("running")
        await expect(page).to_have_title(re.compile("· running · Trackside$"))
        await expect(page.locator("#stream-state")).to_have_text("live")
        await page.locator("#request > summary").click()
        await page.locator("#events summary", has_text="run_started").click()
        assert await seen.violations() == []
        await seen.picture("run-running")
        await asyncio.to_thread((tmp_path / "go-on").touch)
        await expect(lines.nth(1)).to_have_text(f"Once upon {MARKUP} a time, the end.")
        await page.evaluate("window.isSame = true")
        await asyncio.to_thread((tmp_path / "end").touch)
        await expect(page.locator("#run-top .head .status")).to_have_text("success")
        await expect(page).to_have_title(re.compile("· success · Trackside$"))
        await expect(page.locator("#run-texts")).to_contain_text("Once upon a time, the end.")
        await expect(page.locator("#stream-state")).to_contain_text("ended")
        await expect(page.get_by_role("button", name="Cancel", exact=True)).to_have_count(0)
        await expect(page.get_by_role("button", name="Delete")).to_be_visible()
        # What somebody has opened, and the text, are as they were.
        assert await page.evaluate("window.isSame")
        await expect(page.locator("#request")).to_have_attribute("open", "")
        await expect(page.locator("#events summary", has_text="run_completed")).to_be_visible()
        await expect(page.locator("#events details[open] > summary")).to_have_text(["run_started"])
        await expect(lines.nth(5)).to_have_text("I doubt it.")


async def test_a_message_says_in_which_agent_it_was_said_however_messages_are_streamed(
    serving: Any, visit: Any
) -> None:
    server, api = await serving()
    async with visit(server.url) as seen:
        for agent, speaker in (("nested", "inside › talk"), ("delegates", "researcher")):
            for mode in ("messages", "messages-tuple"):
                run = await api.ended(agent, stream_mode=mode, stream_subgraphs=True)
                page = await seen.go(f"/ui/runs/{run['run_id']}")
                await page.locator("#stream-details > summary").click()
                await expect(page.locator("#stream-lines > *")).to_have_text([speaker, "hello there"])


async def test_what_a_run_says_is_asked_for_again_when_it_cannot_be_had_now(serving: Any, visit: Any) -> None:
    server, api = await serving()
    waits = await api.start("waits")
    refused: list[int] = []

    async def refuse(route: Any) -> None:
        refused.append(next(statuses))
        if refused[-1] == 200:
            await route.continue_()
        else:
            await route.fulfill(status=refused[-1], body="{}", content_type="application/json")

    async with visit(server.url) as seen:
        await seen.page.clock.install(time=0)
        await seen.page.clock.pause_at(1_000)  # it asks again only when this test says so
        await seen.page.add_init_script(NO_SILENCE)
        await seen.page.route(f"**/runs/{waits['run_id']}/stream", refuse)
        for answers, says in (
            ([502, 429, 503, 200], "live"),
            ([502, 404, 200], "it is not there any more"),
            ([403, 200], "nothing can be had here now"),
        ):
            refused, statuses = [], iter(answers)
            page = await seen.go(f"/ui/runs/{waits['run_id']}")
            state = page.locator("#stream-state")
            for asked in range(1, len(answers) + (0 if says == "live" else -1)):
                await expect(state).to_have_text("cut off: asking again")
                while len(refused) == asked:
                    await page.clock.run_for(1_000)
            await expect(state).to_have_text(says)
            await page.clock.run_for(10_000)
            assert refused == answers[: None if says == "live" else -1]
        seen.complaints.clear()  # of what was refused


async def test_what_a_run_says_is_asked_for_again_when_nothing_is_heard_of_the_server_any_more(
    serving: Any, visit: Any
) -> None:
    server, api = await serving()
    waits = await api.start("waits")
    async with visit(server.url) as seen:
        await seen.page.clock.install()
        page = await seen.go(f"/ui/runs/{waits['run_id']}")
        state = page.locator("#stream-state")
        await expect(page.locator("#liveness")).to_have_text("live")
        await expect(state).to_have_text("live")
        async with seen.unheard(server.signal):
            await expect(state).to_have_text("cut off: asking again")
        await page.clock.fast_forward(3_000)
        await expect(state).to_have_text("live")
        seen.complaints.clear()  # of what was lost


async def test_what_is_missing_of_what_a_run_said_is_said(serving: Any, visit: Any) -> None:
    server, api = await serving()
    talks, waits = await api.ended("talks"), await api.start("waits")
    missed = {"first": 2, "last": 2, "why": "the last of it did not come"}
    gap = f"event: gap\ndata: {json.dumps(missed)}\n\n"
    end = f"event: end\ndata: {json.dumps({'run_id': waits['run_id'], 'status': 'success'})}\n\n"
    spoken = 'event: custom\ndata: {"still":"here"}\n\n'
    told: list[str] = []

    async def tell(route: Any) -> None:
        await route.fulfill(body=told[-1], content_type="text/event-stream")

    async with visit(server.url) as seen:
        await seen.page.route(f"**/runs/{waits['run_id']}/stream", tell)
        missing = "Some of what it said is missing here: the last of it did not come."
        for says, shown, state in (
            (spoken + gap + end, ["parts", '{"still":"here"}', missing], "ended"),
            (gap + end, [missing], "ended, no text of it is kept"),
            (end, [], "ended, it said nothing"),
        ):
            told.append(says)
            page = await seen.go(f"/ui/runs/{waits['run_id']}")
            await expect(page.locator("#stream-state")).to_have_text(state)
            await expect(page.locator("#stream-lines > *")).to_have_text(shown)

        await asyncio.to_thread(server.restart)  # which keeps nothing of what was said
        page = await seen.go(f"/ui/runs/{talks['run_id']}")
        await page.locator("#stream-details > summary").click()
        await expect(page.locator("#stream-state")).to_have_text("ended, no text of it is kept")
        await expect(page.locator("#stream-lines > .stream-note")).to_have_text(
            re.compile(
                "^Some of what it said is missing here: what the run said is not kept here, or did not arrive; .*"
            )
        )
        seen.complaints.clear()  # of the server that was away


IS_AT_END = """() => {
  const lines = document.getElementById("stream-lines");
  return lines.scrollHeight > 2 * lines.clientHeight && lines.scrollHeight - lines.scrollTop - lines.clientHeight < 2;
}"""


async def test_of_a_run_that_says_much_the_newest_lines_are_shown_and_how_many_came_before(
    serving: Any, visit: Any
) -> None:
    server, api = await serving()
    waits = await api.start("waits")
    tells = [{"id": "m1", "type": "AIMessageChunk", "content": "Once upon "}, {"langgraph_node": "teller"}]
    goes_on = [{**tells[0], "content": "a time."}, tells[1]]
    begin, last = (f"event: messages\ndata: {json.dumps(said)}\n\n" for said in (tells, goes_on))
    spoken = begin + "".join(f'event: custom\ndata: {{"n":{n}}}\n\n' for n in range(1_100)) + last
    end = f"event: end\ndata: {json.dumps({'run_id': waits['run_id'], 'status': 'success'})}\n\n"

    async def tell(route: Any) -> None:
        await route.fulfill(body=spoken + end, content_type="text/event-stream")

    async with visit(server.url) as seen:
        await seen.page.add_init_script(counting_looks("#stream-lines"))
        await seen.page.route(f"**/runs/{waits['run_id']}/stream", tell)
        page = await seen.go(f"/ui/runs/{waits['run_id']}")
        await expect(page.locator("#stream-state")).to_have_text("ended")
        assert await page.evaluate("window.looks") < 100, "not once for each of them"
        await page.wait_for_function(IS_AT_END)
        lines = page.locator("#stream-lines > :not(.stream-note)")
        await expect(lines).to_have_count(1_000)
        await expect(lines.first).to_have_text('{"n":102}')
        note = page.locator("#stream-lines > :first-child")
        await expect(note).to_have_text("105 lines before this are not shown any more.")  # with those that say whose
        # What goes on though its line was dropped is there once more.
        assert texts(await lines.all_inner_texts())[-3:] == ['{"n":1099}', "teller", "Once upon a time."]


async def test_whoever_has_scrolled_up_stays_there_and_whoever_is_at_the_end_sees_what_is_new(
    serving: Any, visit: Any, tmp_path: Path
) -> None:
    server, api = await serving()
    run = await api.start("tells_more")
    async with visit(server.url) as seen:
        page = await seen.go(f"/ui/runs/{run['run_id']}")
        lines = page.locator("#stream-lines")
        await expect(lines).to_contain_text('{"first":99}')
        await page.wait_for_function(IS_AT_END)
        await lines.evaluate("(one) => { one.scrollTop = 100; }")
        await asyncio.to_thread((tmp_path / "first").touch)
        await expect(lines).to_contain_text('{"second":99}')
        await page.evaluate("() => new Promise((done) => setTimeout(done))")  # behind what was to be done after it
        assert await lines.evaluate("(one) => one.scrollTop") == 100
        await lines.evaluate("(one) => { one.scrollTop = one.scrollHeight; }")
        await asyncio.to_thread((tmp_path / "second").touch)
        await expect(lines).to_contain_text('{"third":99}')
        await page.wait_for_function(IS_AT_END)
        await asyncio.to_thread((tmp_path / "third").touch)
        await expect(page.locator("#stream-state")).to_contain_text("ended")
