"""What is done on the page of a run: answering it, and cancelling, retrying, copying, forking and deleting it."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from browser import Visit
from playwright.async_api import Page, expect
from recorded_runs import MARKUP
from run_pages import Api

pytestmark = pytest.mark.asyncio(loop_scope="session")


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
        await seen.fetch_anew()
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

        command = await copies(page, "Copy the command that answers")
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


async def copies(page: Page, button: str) -> str:
    """What a button copies, once that is said; what was said before is dismissed."""
    await page.keyboard.press("Escape")
    await expect(page.locator(".toast")).to_have_count(0)
    await page.get_by_role("button", name=button).click()
    await expect(page.locator(".toast")).to_have_text("Copied.")
    copied: str = await page.evaluate("navigator.clipboard.readText()")
    return copied


async def copies_commands_that_work(seen: Visit, api: Api) -> dict[str, Any]:
    """Copy what starts a run, shows it and retries it, and type it into a shell; returns the run."""
    page = seen.page
    said = 'it\'s "quoted" $HOME `id`\n\\ ünï'
    talks = await api.ended("talks", said)
    await seen.go(f"/ui/runs/{talks['run_id']}")
    copied = await copies(page, "Copy as CLI")
    assert shlex.split(copied) == ["trackside", "run", "--url", seen.url, "talks", said]
    others = [await copies(page, name) for name in ("Copy command that shows it", "Copy command that retries it")]
    outcomes = [await in_shell(command) for command in (copied, *others)]
    assert [code for _, code in outcomes] == [0, 0, 0], outcomes
    assert talks["run_id"] in outcomes[1][0]
    made = json.loads((await in_shell(await copies(page, "Copy as curl")))[0])
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
