"""The page of a run, in each of its states: did it work, why not, what did it cost, what does it wait for, how to answer."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from browser import Visit, texts
from playwright.async_api import expect
from recorded_runs import BEGAN, MARKUP, id_of, import_runs, run_events
from webhook_receiver import NEW, WebhookReceiver, status

from trackside.app.storage import Store

pytestmark = pytest.mark.asyncio(loop_scope="session")

AGENTS = ("talks", "fails", "asks", "waits", "graph", "works")
OWN = ("speaks", "delegates", "nested", "huge", "chooses", "wants_text", "two", "counts")
SETTINGS = "\n".join(
    [
        "[agents]",
        *(f'{name} = "console_agents.py:{name}"' for name in AGENTS),
        *(f'{name} = "run_agents.py:{name}"' for name in OWN),
    ]
)


class Api:
    """The server's API, beside the browser."""

    def __init__(self, url: str) -> None:
        self.client = httpx.AsyncClient(base_url=url, timeout=30)

    async def start(self, agent: str, said: Any = "hello", *, thread: str | None = None, **more: Any) -> dict[str, Any]:
        """Start a run."""
        path = "/runs" if thread is None else f"/threads/{thread}/runs"
        given = {"messages": [{"role": "user", "content": said}]} if isinstance(said, str) else said
        body = {"assistant_id": agent, "input": given, **more}
        if thread is None:
            body["on_completion"] = "keep"
        found: dict[str, Any] = (await self.client.post(path, json=body)).raise_for_status().json()
        return found

    async def ended(self, agent: str, said: Any = "hello", **more: Any) -> dict[str, Any]:
        """Start a run, and wait for its end."""
        run = await self.start(agent, said, **more)
        await self.client.get(f"/runs/{run['run_id']}/join")
        return run

    async def get(self, path: str) -> Any:
        """Ask."""
        return (await self.client.get(path)).raise_for_status().json()


@pytest_asyncio.fixture(loop_scope="session")
async def serving(serve: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """`server, api = await serving()` serves the agents of both files."""
    async with AsyncExitStack() as stack:

        async def start(settings: str = SETTINGS) -> tuple[Any, Api]:
            own = Path(__file__).with_name("run_agents.py")
            await asyncio.to_thread(shutil.copy, own, tmp_path)
            server = await serve(settings)
            api = Api(server.url)
            stack.push_async_callback(api.client.aclose)
            return server, api

        yield start


async def test_outcomes_are_said_first(serving: Any, visit: Any) -> None:
    server, api = await serving()
    works, fails = await api.ended("works", metadata={"who": "ada"}), await api.ended("fails")
    async with visit(server.url) as seen:
        page = await seen.go(f"/ui/runs/{works['run_id'].upper()}")
        top = page.locator("#run-top")
        await expect(top.locator(".head .status")).to_have_text("success")
        assert texts(await top.locator(".figure").all_inner_texts())[1:] == [
            "$0.00328 cost",
            "1,050 / 210 tokens in / out",
            "3 model calls",
            "2 tool calls",
        ]
        names = texts(await page.locator(".waterfall tbody th").all_inner_texts())
        assert names == [
            "run works success",
            "log events",
            "tool search_0",
            "by researcher",
            "model gpt-5",
            "model gpt-5",
            "tool search_1",
            "model gpt-5-mini",
        ]
        for table in ("By model", "By caller"):
            rows = await page.get_by_role("region", name=f"Tokens and cost {table.lower()}").locator("tr").all()
            shown = texts([await row.inner_text() for row in rows])
            assert shown[-1] == "In all 1,050 210 $0.00328"
        row = page.locator("tr[data-row]", has_text="gpt-5-mini")
        await row.focus()
        await expect(page.locator("#wf-detail")).to_contain_text("50 tokens in, 10 out")
        await expect(page.locator("#input-title ~ .conversation .message-human")).to_contain_text("hello")
        await expect(page.get_by_label("Output", exact=True).locator("pre")).to_contain_text('"found"')
        await page.locator("#stream-details > summary").click()
        await expect(page.locator("#stream-state")).to_contain_text("ended")
        assert await seen.violations() == []
        await seen.picture("run-success")

        page = await seen.go(f"/ui/runs/{fails['run_id']}")
        problem = page.locator("#run-top .problem")
        await expect(problem).to_contain_text("It failed: FileNotFoundError there is no file prices.csv")
        box, figures = await problem.bounding_box(), await page.locator(".figures").bounding_box()
        assert box is not None
        assert figures is not None
        assert box["y"] < figures["y"] < 500
        await page.get_by_text("Traceback", exact=True).click()
        await expect(problem.locator("pre")).to_contain_text('raise FileNotFoundError("there is no file prices.csv")')
        await page.locator("summary", has_text="run_failed").click()
        await expect(page.locator(".events pre:visible")).to_contain_text('"error_type": "FileNotFoundError"')
        assert await seen.violations() == []
        await seen.picture("run-error")


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
        await seen.page.clock.install()
        await seen.page.route(f"**/runs/{waits['run_id']}/stream", refuse)
        for answers, says in (
            ([502, 429, 503, 200], "live"),
            ([502, 404, 200], "it is not there any more"),
            ([403, 200], "nothing can be had here now"),
        ):
            refused, statuses = [], iter(answers)
            page = await seen.go(f"/ui/runs/{waits['run_id']}")
            state = page.locator("#stream-state")
            for _ in answers[: -1 if says == "live" else -2]:
                await expect(state).to_have_text("cut off: asking again")
                await page.clock.run_for(2_000)
            await expect(state).to_have_text(says)
            await page.clock.run_for(10_000)
            assert refused == answers[: None if says == "live" else -1]
        seen.complaints.clear()  # of what was refused


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
        await seen.page.route(f"**/runs/{waits['run_id']}/stream", tell)
        page = await seen.go(f"/ui/runs/{waits['run_id']}")
        await expect(page.locator("#stream-state")).to_have_text("ended")
        lines = page.locator("#stream-lines > :not(.stream-note)")
        await expect(lines).to_have_count(1_000)
        await expect(lines.first).to_have_text('{"n":102}')
        note = page.locator("#stream-lines > :first-child")
        await expect(note).to_have_text("105 lines before this are not shown any more.")  # with those that say whose
        # What goes on though its line was dropped is there once more.
        assert texts(await lines.all_inner_texts())[-3:] == ['{"n":1099}', "teller", "Once upon a time."]


async def answers_with_a_choice(seen: Visit, api: Api) -> None:
    """Choose one of the answers that a question offers."""
    waiting = seen.page.locator("#run-questions")
    chooses = await api.ended("chooses")
    await seen.go(f"/ui/runs/{chooses['run_id']}")
    await expect(waiting.locator(".question-text")).to_have_text(f"Which colour? {MARKUP}")
    await waiting.get_by_role("button", name=MARKUP).click()
    await expect(waiting.locator(".status")).to_have_text("success")
    assert (await api.get(f"/threads/{chooses['thread_id']}/state"))["values"] == {"chosen": MARKUP}


async def answers_with_text(seen: Visit, api: Api) -> None:
    """Type an answer, while the page is brought up to date."""
    waiting = seen.page.locator("#run-questions")
    wants = await api.ended("wants_text")
    await seen.go(f"/ui/runs/{wants['run_id']}")
    answer = waiting.get_by_role("textbox", name="Your answer")
    await answer.fill("Ada\nLovelace")
    # An answer that is being typed is not taken away by what happens meanwhile.
    async with seen.page.expect_response(lambda one: one.url.endswith(wants["run_id"])):
        await seen.page.evaluate("htmx.trigger('#refresh', 'changed')")
    await expect(answer).to_have_value("Ada\nLovelace")
    await waiting.get_by_role("button", name="Answer", exact=True).click()
    await expect(waiting.locator(".status")).to_have_text("success")
    assert (await api.get(f"/threads/{wants['thread_id']}/state"))["values"] == {"name": "Ada\nLovelace"}


async def keeps_an_answer_while_another_question_is_answered(seen: Visit, api: Api) -> None:
    """Type an answer while somebody answers another question of the same run."""
    waiting = seen.page.locator("#run-questions")
    two = await api.ended("two", {})
    await seen.go(f"/ui/runs/{two['run_id']}")
    # Of two nodes that ask at once, either may come first.
    await (
        waiting.locator(".question", has_text="How many?")
        .get_by_role("textbox", name="Your answer")
        .fill("as I was saying")
    )
    asked = (await api.get(f"/threads/{two['thread_id']}/state"))["interrupts"]
    first_id = next(one["id"] for one in asked if one["value"] == "Is the left one right?")
    await api.start("two", None, thread=two["thread_id"], command={"resume": {first_id: 1}})
    await expect(waiting.locator(".question:not(.soft)")).to_have_count(1)
    await expect(waiting.get_by_role("textbox", name="Your answer")).to_have_value("as I was saying")


async def answers_two_questions_in_turn(seen: Visit, api: Api) -> None:
    """Answer two questions of a run one after the other, and first with what is no JSON."""
    waiting = seen.page.locator("#run-questions")
    two = await api.ended("two", {})
    await seen.go(f"/ui/runs/{two['run_id']}")
    await expect(waiting.get_by_role("heading")).to_have_text("It waits for 2 answers")
    many = waiting.locator(".question", has_text="How many?")
    await many.get_by_label("Your answer is").select_option("JSON")
    await many.get_by_role("textbox", name="Your answer").fill("{no json")
    answer = waiting.get_by_role("button", name="Send answers")
    await answer.click()
    await expect(seen.page.locator(".toast.bad")).to_contain_text("the answer is not JSON")
    seen.complaints.clear()  # the browser complains of the 422
    await many.get_by_role("textbox", name="Your answer").fill("3")
    await answer.click()
    await expect(waiting.get_by_role("heading")).to_have_text("It waits for an answer")
    await waiting.locator(".question", has_text="Is the left one right?").get_by_role("button", name="No").click()
    await expect(waiting).to_contain_text("was answered")
    await expect(waiting.locator(".status")).to_have_text("success")
    assert (await api.get(f"/threads/{two['thread_id']}/state"))["values"] == {"left": False, "right": 3}


async def goes_on_past_a_stop(seen: Visit, api: Api) -> None:
    """Let a run go on that has stopped between two steps: it asks nothing."""
    waiting = seen.page.locator("#run-questions")
    stopped = await api.ended("two", {}, interrupt_before=["left", "right"])
    await seen.go(f"/ui/runs/{stopped['run_id']}")
    await expect(waiting.locator(".question-text")).to_have_text("It has stopped before left, right.")
    await waiting.get_by_role("button", name="Go on").click()
    await expect(waiting).to_contain_text("the thread went on with")
    await expect(waiting.locator(".status")).to_have_text("interrupted")


async def test_questions_are_answered_where_they_are_asked(serving: Any, visit: Any) -> None:
    server, api = await serving()
    asks = await api.ended("asks")
    async with visit(server.url) as seen:
        page = await seen.go(f"/ui/runs/{asks['run_id']}")
        waiting = page.locator("#run-questions")
        await expect(waiting).to_contain_text("May I send the mail?")
        await expect(waiting.locator("pre")).to_contain_text("ada@example.org")
        assert await seen.violations() == []
        await seen.picture("run-waiting")
        await page.evaluate("window.isSame = true")
        await waiting.get_by_role("button", name="Yes").click()
        await expect(page.locator(".toast")).to_contain_text("it goes on")
        await expect(waiting).to_contain_text("was answered: the thread went on with")
        await expect(waiting.locator(".status")).to_have_text("success")
        assert await page.evaluate("window.isSame")
        await waiting.get_by_role("link").click()
        await expect(page.get_by_label("Input", exact=True)).to_contain_text("The answer to what the thread asked")
        await expect(page.get_by_label("Output", exact=True).locator("pre")).to_contain_text('"sent": true')

        await answers_with_a_choice(seen, api)
        await answers_with_text(seen, api)
        # What is being typed is not taken away by somebody who answers another question either.
        await keeps_an_answer_while_another_question_is_answered(seen, api)
        await answers_two_questions_in_turn(seen, api)
        # What has stopped between two steps asks nothing, and goes on.
        await goes_on_past_a_stop(seen, api)


async def in_shell(command: str) -> tuple[str, int | None]:
    """What a command says, typed where the one of these tests is installed, and how it ends."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PATH": path}
    )
    async with asyncio.timeout(60):
        return (await process.communicate())[0].decode(), process.returncode


async def test_a_thread_that_the_command_line_has_named_is_shown_with_the_command_that_answers_it(
    serving: Any, visit: Any, tmp_path: Path
) -> None:
    server, api = await serving()
    there = f"cd {tmp_path} && export TRACKSIDE_DATABASE_URL=sqlite:///runs.db &&"
    _, status = await in_shell(f"{there} trackside run asks --thread 'order 7'")
    (run,) = await api.get("/runs")
    async with visit(server.url, permissions=["clipboard-read", "clipboard-write"]) as seen:
        page = await seen.go("/ui/threads")
        await page.get_by_role("link", name="order 7").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Thread order 7")
        asks = page.locator("#thread-asks")
        await expect(asks.get_by_role("heading")).to_have_text("It waits for your answer")
        await expect(asks).to_contain_text("May I send the mail?")
        await expect(asks.locator("code")).to_have_text("trackside resume 'order 7' ANSWER")
        assert await seen.violations() == []

        await page.locator("#thread-runs a").click()
        await expect(page.locator("#run-questions")).to_contain_text("May I send the mail?")
        await expect(page.locator("#run-questions form")).to_have_count(0)
        for name in ("Delete", "Fork"):
            await expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
        delete = await page.locator("#run-top code").filter(has_text="delete").inner_text()
        assert delete == f"trackside delete run {run['run_id']}"
        await page.locator("#stream-details > summary").click()
        await expect(page.locator("#stream-state")).to_have_text("ended, no text of it is kept")
        assert await seen.violations() == []
        assert seen.complaints == []

        await page.locator("#run-questions").get_by_role("button", name="Copy the command that answers").click()
        await expect(page.locator(".toast")).to_have_text("Copied.")
        command = await page.evaluate("navigator.clipboard.readText()")
        answered = await in_shell(f"{there} {command.replace('ANSWER', 'yes')}")
        await expect(page.locator("#run-questions")).to_contain_text("was answered: the thread went on with")
        await seen.go("/ui/threads/order%207")
        await expect(page.locator("#thread-runs .run-block")).to_contain_text(["interrupted", "success"])
        await expect(page.locator("#thread-asks h2")).to_have_count(0)
        assert (status, answered[1]) == (75, 0)
        said, code = await in_shell(f"{there} {delete} --yes")
        assert (said.splitlines()[0], code) == (f"Deleted run {run['run_id']}.", 0)

        await seen.go("/ui/threads/order")
        await expect(page.get_by_role("heading", level=1)).to_have_text("There is no such thread")
        seen.complaints.clear()


async def retries_once(seen: Visit, api: Api) -> None:
    """Retry a run with two clicks."""
    page = seen.page
    fails = await api.ended("fails")
    await seen.go(f"/ui/runs/{fails['run_id']}")
    await page.get_by_role("button", name="Retry").dblclick()
    await expect(page.locator("#run-top .chip")).to_have_text("attempt 2")
    assert len((await api.client.get(f"/runs/{fails['run_id']}")).json()["retries"]) == 1, "two clicks are one retry"
    await expect(page.locator("#run-rest")).to_contain_text("attempt 1, retried by this run")
    await seen.go(f"/ui/runs/{fails['run_id']}")
    await expect(page.locator("#run-rest")).to_contain_text("attempt 2, a retry of this run")


async def copies_commands_that_work(seen: Visit, api: Api) -> dict[str, Any]:
    """Copy what starts a run, shows it and retries it, and type it into a shell; returns the run."""
    page = seen.page
    said = 'it\'s "quoted" $HOME `id`\n\\ ünï'
    talks = await api.ended("talks", said)
    await seen.go(f"/ui/runs/{talks['run_id']}")
    await page.get_by_role("button", name="Copy as CLI").click()
    await expect(page.locator(".toast")).to_have_text("Copied.")
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert shlex.split(copied) == ["trackside", "run", "--url", seen.url, "talks", said]
    copies = [copied]
    for name in ("Copy command that shows it", "Copy command that retries it"):
        await page.get_by_role("button", name=name).click()
        await expect(page.locator(".toast")).to_have_count(len(copies) + 1)
        copies.append(await page.evaluate("navigator.clipboard.readText()"))
    outcomes = [await in_shell(copied) for copied in copies]
    assert [code for _, code in outcomes] == [0, 0, 0], outcomes
    assert talks["run_id"] in outcomes[1][0]
    await page.get_by_role("button", name="Copy as curl").click()
    await expect(page.locator(".toast").last).to_have_text("Copied.")
    made = json.loads((await in_shell(await page.evaluate("navigator.clipboard.readText()")))[0])
    assert (await api.get(f"/runs/{made['run_id']}"))["request"]["input"]["messages"][0]["content"] == said
    return talks


async def forks_with_another_input(seen: Visit, api: Api) -> dict[str, Any]:
    """Fork the last of three runs, first with an input that makes no sense; returns the run that this starts."""
    page = seen.page
    status = page.locator("#run-top .head .status")
    first = await api.ended("counts", {})
    for _ in range(2):
        last = await api.ended("counts", {}, thread=first["thread_id"])
    await seen.go(f"/ui/runs/{last['run_id']}")
    await page.locator("#fork > summary").click()
    assert await seen.violations() == []
    await page.get_by_label("Input, as JSON").fill("{nonsense")
    await page.get_by_role("button", name="Fork and run").click()
    await expect(page.locator(".toast.bad")).to_contain_text("the input is not JSON")
    seen.complaints.clear()  # of the 422
    await page.get_by_label("Input, as JSON").fill('{"log": ["changed"]}')
    await page.get_by_role("button", name="Fork and run").click()
    await page.wait_for_url(lambda url: url.startswith(f"{seen.url}/ui/runs/") and last["run_id"] not in url)
    await expect(status).to_have_text("success")
    await expect(page.get_by_label("Output", exact=True).locator("pre")).to_contain_text("ran 1")
    forked: dict[str, Any] = await api.get(f"/runs/{page.url.rpartition('/')[2]}")
    assert forked["thread_id"] != first["thread_id"]
    values = (await api.get(f"/threads/{forked['thread_id']}/state"))["values"]
    assert values == {"log": ["changed", "ran 1"]}
    return forked


async def test_what_can_be_done_with_a_run_is_done(serving: Any, visit: Any) -> None:
    server, api = await serving()
    waits = await api.start("waits")
    async with visit(server.url, permissions=["clipboard-read", "clipboard-write"]) as seen:
        page = await seen.go(f"/ui/runs/{waits['run_id']}")
        status = page.locator("#run-top .head .status")
        behind = await api.start("talks", thread=waits["thread_id"])
        await page.get_by_role("button", name="Cancel", exact=True).click()
        await expect(page.locator("#confirm-text")).to_have_text("Cancel this run? What it has done so far stays.")
        await expect(page.locator("#confirm [value=yes]")).to_have_text("Cancel the run")
        await page.locator("#confirm [value=yes]").click()
        await expect(status).to_have_text("cancelled")
        await expect(page.locator("#run-top .verdict")).to_contain_text("What it had done until then stays")
        await api.client.get(f"/runs/{behind['run_id']}/join")

        await retries_once(seen, api)
        talks = await copies_commands_that_work(seen, api)

        # A thread of an agent that keeps no checkpoints cannot go back, unless this was its first run.
        await expect(page.locator("#fork > summary")).to_be_visible()
        later = await api.ended("talks", thread=talks["thread_id"])
        await seen.go(f"/ui/runs/{later['run_id']}")
        await expect(page.locator("#fork")).to_have_count(0)
        await expect(page.locator("#why-not-fork")).to_contain_text("keeps only what its thread is now")

        forked = await forks_with_another_input(seen, api)
        await page.get_by_role("button", name="Delete").click()
        await page.locator("#confirm [value=yes]").click()
        await page.wait_for_url(f"{server.url}/ui/runs")
        await seen.go(f"/ui/runs/{forked['run_id']}")
        await expect(page.get_by_role("heading", level=1)).to_have_text("There is no such run")
        await expect(page.get_by_role("link", name="Its events in the log")).to_be_visible()
        assert await seen.violations() == []
        seen.complaints.clear()  # of the 404


async def test_what_is_not_there_or_goes_away_is_said(serving: Any, visit: Any) -> None:
    server, api = await serving()
    waits = await api.start("waits")
    later = await api.start("talks", thread=waits["thread_id"])
    delayed = await api.start("talks", after_seconds=3_600)
    async with visit(server.url) as seen:
        page = await seen.go(f"/ui/runs/{later['run_id']}")
        verdict = page.locator("#run-top .verdict")
        await expect(verdict).to_contain_text(f"It waits for its thread: …{waits['run_id'][-8:]} is running there")
        await expect(page.locator("#events")).to_contain_text("None yet")
        await seen.go(f"/ui/runs/{delayed['run_id']}")
        await expect(verdict).to_contain_text("It is scheduled to start")
        assert await seen.violations() == []

        await seen.go(f"/ui/runs/{waits['run_id']}")
        await expect(page.locator("#stream-lines")).to_contain_text("still")
        await page.get_by_role("button", name="Cancel and roll back").click()
        await page.locator("#confirm [value=yes]").click()
        await expect(page.locator("#stale")).to_contain_text("not there any more")
        await expect(page.locator("#run-top")).to_contain_text(waits["run_id"])
        seen.complaints.clear()  # of the 404

        for run_id, says in (("nonsense", "is not the id of a run"), (id_of(1), "No run that you may see")):
            await seen.go(f"/ui/runs/{run_id}")
            await expect(page.get_by_role("heading", level=1)).to_have_text("There is no such run")
            await expect(page.locator(".failure")).to_contain_text(says)
            assert await seen.violations() == []
        await seen.go(f"/ui/runs/{later['run_id']}?events_after=last&rows=some")
        await expect(page.locator("#run-top .problem")).to_contain_text("events_after is a position")
        seen.complaints.clear()  # of the 404s


async def test_the_page_of_a_run_that_is_gone_does_not_go_on_asking(serving: Any, visit: Any) -> None:
    server, api = await serving()
    waits = await api.start("waits")
    asked: list[str] = []
    async with visit(server.url) as seen:
        await seen.page.clock.install()
        page = await seen.go(f"/ui/runs/{waits['run_id']}")
        await expect(page.locator("#stream-lines")).to_contain_text("still")
        await page.get_by_role("button", name="Cancel and roll back").click()
        await page.locator("#confirm [value=yes]").click()
        await expect(page.locator("#stale")).to_contain_text("not there any more")
        page.on("request", lambda request: asked.append(request.url))
        for _ in range(10):  # it has been counting for longer than the run has taken
            await page.clock.run_for(1_000)
            await page.evaluate("fetch('/health/live')")
        seen.complaints.clear()  # of the 404
    again = [url for url in asked if f"/ui/runs/{waits['run_id']}" in url]
    assert len(again) <= 1, "once where the stream of changes says so, and not each second"


async def test_outputs_and_runs_of_any_size_are_shown_in_part(serving: Any, visit: Any, tmp_path: Path) -> None:
    calls = [
        {"kind": "chat", "name": "gpt-5", "caller": "lead_agent", "at": number / 100, "seconds": 0.01}
        for number in range(1_000)
    ]
    end = {"completion_data": {"duration_seconds": 10.0, "calls": calls, "calls_omitted": 234}}
    messages = [{"type": "human", "id": f"m{number}", "content": f"line {number}"} for number in range(99_998)]
    many = run_events(1, between=messages, end=end)
    await asyncio.to_thread(import_runs, tmp_path, many)
    server, api = await serving()
    huge = await api.ended("huge")
    async with visit(server.url) as seen:
        for path in (f"/ui/runs/{id_of(1)}", f"/ui/runs/{huge['run_id']}"):
            body = (await api.client.get(path)).content
            assert len(body) < 600_000
        page = await seen.go(f"/ui/runs/{id_of(1)}")
        await expect(page.locator("#events .head")).to_contain_text("100k in total")
        await expect(page.locator("#run-timeline")).to_contain_text("702 more rows")
        await expect(page.locator("#run-timeline")).to_contain_text("234 more calls were counted and not listed")
        await page.get_by_role("link", name="Next events").click()
        await expect(page.locator(".events tbody td.num").first).to_have_text("26")
        last = (await api.get(f"/events?run_id={id_of(1)}&newest_first=true&limit=1"))[0]["position"]
        await seen.go(f"/ui/runs/{id_of(1)}?events_after={last - 1}")
        await expect(page.locator(".events summary")).to_have_text(["run_completed"])
        await page.get_by_role("link", name="show all").click()
        await expect(page.locator(".waterfall tbody tr")).to_have_count(1_002)

        await seen.go(f"/ui/runs/{huge['run_id']}")
        output = page.get_by_label("Output", exact=True)
        await expect(output).to_contain_text("characters: all of it as JSON")
        address = await output.get_by_role("link", name="all of it as JSON").get_attribute("href")
        assert len((await api.client.get(str(address))).content) > 2_000_000
        await page.locator("#stream-details > summary").click()
        await expect(page.locator("#stream-lines")).to_contain_text("more characters")
        assert await seen.violations() == []


def runs_that_say(bad: str) -> list[dict[str, Any]]:
    """Events of five runs, imported and odd, that have this text wherever a run may say something of itself."""
    model = {"input_tokens": 5, "output_tokens": 1, "cost_usd": 0.5}
    data = {
        "duration_seconds": 10.0,
        "token_usage_by_model": {bad: model},
        "token_usage_by_caller": {bad: model},
        "first_human_message": bad,
        "last_ai_message": bad,
        "calls": [
            {"kind": "invoke_agent", "name": bad, "caller": "lead_agent", "at": 1, "seconds": 8},
            {
                "kind": "chat",
                "name": bad,
                "caller": bad,
                "at": 2,
                "seconds": 3,
                "error_type": bad,
                "input_tokens": 5,
                "output_tokens": 1,
            },
            {"kind": bad, "name": bad},
            bad,
        ],
    }
    failed = run_events(
        1,
        start={"agent": bad, "metadata": {bad: bad}, "trigger": bad},
        between=[{"type": bad, "name": bad, "content": bad}],
        end={"agent": bad, "title": bad, "error": bad, "error_type": bad, "traceback": bad, "completion_data": data},
        kind="run_failed",
    )
    off = run_events(
        2,
        start={"parent_run_id": id_of(1)},
        end={"completion_data": {}},
        began=BEGAN + timedelta(seconds=9),
        seconds=7_200,
    )
    asked = {
        "interrupts": [{"id": bad, "value": {"question": bad, bad: bad}}],
        "status": "interrupted",
        "completion_data": data,
    }
    waits = run_events(3, end=asked)
    stopped = run_events(
        4, end={"cancel_mode": ["shutdown"], "completion_data": {"calls": "none"}}, kind="run_cancelled"
    )
    # A child is found whenever it began.
    late = run_events(5, start={"parent_run_id": id_of(4)}, end={}, began=BEGAN + timedelta(days=2))
    return [*failed, *off, *waits, *stopped, *late]


async def test_whatever_a_run_says_of_itself_is_only_text(serving: Any, visit: Any, tmp_path: Path) -> None:
    bad = f"{MARKUP}\u202ereversed\u200b שלום"
    await asyncio.to_thread(import_runs, tmp_path, runs_that_say(bad))
    server, _ = await serving()
    async with visit(server.url) as seen:
        for number in (1, 3, 4):
            page = await seen.go(f"/ui/runs/{id_of(number)}")
            await expect(page.locator("#run-top h1")).to_be_visible()
            for one in await page.locator("details:not(#stream-details)").all():
                await one.evaluate("one => { one.open = true; }")
            assert await page.locator("main img, main script").count() == 0
            assert await page.title() != "run"
            assert await seen.violations() == []
        await expect(page.locator("#run-rest")).to_contain_text("started by this run")
        page = await seen.go(f"/ui/runs/{id_of(1)}")
        visible = f"{MARKUP}⟨U+202E⟩reversed⟨U+200B⟩ שלום"
        await expect(page.locator("h1")).to_have_text(visible)
        child = page.locator(".waterfall tr", has=page.get_by_role("link"))
        await expect(child).to_contain_text("imported")
        await expect(page.locator("#run-timeline .notice")).to_contain_text("the clock of a machine is off")
        await expect(page.locator("#run-rest")).to_contain_text("started by this run")
        await child.get_by_role("link").click()
        await expect(page.locator("#run-top .about")).to_contain_text("started by")
        await expect(page.get_by_role("button", name="Retry")).to_be_disabled()
        await expect(page.locator("#why-not-retry")).to_contain_text("its request is not kept")


async def test_who_was_told_and_who_may_see_what(serving: Any, visit: Any, tmp_path: Path) -> None:
    async with WebhookReceiver(NEW) as receiver:
        receiver.answers += [status(200), status(413)]  # what is too large is parked at once
        observer = {
            "type": "webhook",
            "name": "crm",
            "url": receiver.url,
            "secret": NEW,
            "allow_private_addresses": True,
            "events": ["run_started", "run_failed"],
        }
        table = "\n".join(f"{name} = {json.dumps(value)}" for name, value in observer.items())
        server, _ = await serving(f'{SETTINGS}\n[server]\nauth = "keys"\n[[observers]]\n{table}\n')
        async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:
            keys = {
                permission: (await store.api_keys.create("k", owner=f"{permission}-ada", permission=permission)).secret
                for permission in ("read", "run", "admin")
            }
        async with httpx.AsyncClient(base_url=server.url, headers={"X-Api-Key": keys["run"]}) as client:
            body = {"assistant_id": "fails", "on_completion": "keep"}
            run = (await client.post("/runs", json=body)).raise_for_status().json()
        async with visit(server.url, extra_http_headers={"X-Api-Key": keys["admin"]}) as seen:
            page = await seen.go(f"/ui/runs/{run['run_id']}")
            parked = "async (path) => (await (await fetch(path)).json()).length === 1"
            await page.wait_for_function(parked, arg=f"{server.url}/subscriptions/crm/parked", polling=100)
            await page.reload()
            row = page.locator("section", has=page.get_by_role("heading", name="Deliveries")).locator("tbody tr")
            await expect(row).to_contain_text("crm")
            await expect(row).to_contain_text("after 1 attempt: ")
            await expect(row).to_contain_text("413")
            assert await seen.violations() == []
        async with visit(server.url, extra_http_headers={"X-Api-Key": keys["run"]}) as seen:
            page = await seen.go(f"/ui/runs/{run['run_id']}")
            await expect(page.get_by_role("button", name="Retry")).to_be_enabled()
            await expect(page.get_by_role("heading", name="Deliveries")).to_have_count(0)
        async with visit(server.url, extra_http_headers={"X-Api-Key": keys["read"]}) as seen:
            page = await seen.go(f"/ui/runs/{run['run_id']}")
            await expect(page.get_by_role("heading", level=1)).to_have_text("There is no such run")
            await expect(page.locator("main")).to_contain_text("No run that you may see")
            seen.complaints.clear()  # of the 404
