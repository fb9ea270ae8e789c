"""Threads in the console: found, read, compared, answered, forked, copied and deleted."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import expect

from trackside.app.storage import Store

SCRIPT = "<script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'>\u202e\u200babc"

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def thread_with(client: httpx.AsyncClient, agent: str, *inputs: Any, **more: Any) -> str:
    """A thread on which an agent has run once for each input."""
    thread_id: str = (await client.post("/threads", json={"metadata": {"customer": "acme"}})).json()["thread_id"]
    for value in inputs:
        answer = await client.post(
            f"/threads/{thread_id}/runs/wait", json={"assistant_id": agent, "input": value, **more}
        )
        assert answer.status_code == 200, answer.text
    return thread_id


def says(text: str) -> dict[str, Any]:
    """An input with one message."""
    return {"messages": [{"role": "user", "content": text}]}


async def test_a_thread_is_found_read_and_answered_while_its_page_is_open(serve: Any, visit: Any) -> None:
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url) as client, visit(server.url) as seen:
        page = await seen.go("/ui/threads")
        await expect(page.get_by_text("No threads yet")).to_be_visible()
        thread_id = await thread_with(client, "graph", says("Find the price of a fox"))
        await expect(page.locator(f"#thread-{thread_id}")).to_contain_text("waiting for a human")
        other = await thread_with(client, "talks", says("Say something"))
        await expect(page.locator(f"#thread-{other}")).to_contain_text("A fox, at length")
        assert await seen.violations() == []
        await seen.picture("threads")

        await page.locator("#filter-agent").fill("graph")
        await page.keyboard.press("Enter")
        await expect(page.locator("tbody tr")).to_have_count(1)
        await page.locator(f"#thread-{thread_id} a").first.click()

        conversation = page.get_by_role("region", name="Conversation")
        await expect(conversation.locator(".message-human")).to_contain_text("Find the price of a fox")
        await expect(conversation.locator(".message-ai")).to_contain_text("I will look it up, if I may.")
        await expect(page.get_by_text("Shall I go on?")).to_be_visible()
        assert await seen.violations() == []
        await seen.picture("thread")

        await page.get_by_text("Answer with something else").click()
        await page.get_by_role("textbox", name="Your answer").fill("half an ans")
        await client.patch(f"/threads/{thread_id}", json={"metadata": {"a": 1}})
        await page.evaluate("document.getElementById('refresh').dispatchEvent(new Event('changed'))")
        await expect(page.get_by_role("textbox", name="Your answer")).to_have_value("half an ans")
        await page.get_by_role("button", name="Yes").click()
        await expect(page.locator("#toasts")).to_contain_text("Answered")
        await expect(conversation.locator(".message-ai").nth(1)).to_contain_text("It is done.")
        await expect(page.get_by_text("Shall I go on?")).to_have_count(0)
        await expect(page.locator(".run-block")).to_have_count(2)


async def test_two_checkpoints_are_compared_and_one_is_forked(serve_more: Any, visit: Any) -> None:
    server = await serve_more()
    async with httpx.AsyncClient(base_url=server.url) as client, visit(server.url) as seen:
        thread_id = await thread_with(client, "chat", says("How is the weather?"))
        page = await seen.go(f"/ui/threads/{thread_id}")
        conversation = page.get_by_role("region", name="Conversation")
        await expect(conversation.locator(".message-tool")).to_contain_text("rain, 7 °C")
        await expect(conversation.locator(".tool-call")).to_contain_text('weather {"place":"Oslo"}')

        await page.get_by_role("link", name="State", exact=True).click()
        await expect(page.locator("details.tree").first).to_contain_text("looked_up: true")
        assert await seen.violations() == []
        await seen.picture("thread-state")

        await page.get_by_role("link", name="History", exact=True).click()
        rows = page.locator("tbody tr")
        await expect(rows).to_have_count(4)
        await rows.nth(0).get_by_role("link", name="what changed").click()
        await expect(page.locator(".difference-added")).to_contain_text("messages[3]")
        await expect(page.locator(".differences ins")).to_contain_text("It rains in Oslo.")
        await expect(page.locator(".differences del")).to_have_count(0)

        await rows.nth(0).get_by_role("radio").first.check()
        await rows.nth(3).get_by_role("radio").last.check()
        await page.get_by_role("button", name="Compare").click()
        await expect(page.locator(".difference-removed").first).to_contain_text("messages[0]")
        await expect(page.get_by_text("removed looked_up")).to_be_visible()
        assert await seen.violations() == []
        await seen.picture("thread-history")

        checkpoint = (await rows.nth(1).get_attribute("id") or "").removeprefix("checkpoint-")
        await seen.go(f"/ui/threads/{thread_id}#checkpoint-{checkpoint}")
        await expect(page.locator(f"[id='checkpoint-{checkpoint}'].is-marked")).to_be_visible()

        await rows.nth(3).get_by_role("link", name="fork").click()
        assert await seen.violations() == []
        await page.get_by_label("Input: a message").fill("How is it in Rome?")
        await page.get_by_role("button", name="Start the run").click()
        await expect(page.locator(".run-block")).to_have_count(2)
        await expect(page.locator(".run-block.status-success")).to_have_count(2)
        await expect(conversation.locator("article")).to_have_count(4)
        await expect(conversation.locator(".message-human")).to_contain_text("How is it in Rome?")


async def test_who_compares_checkpoints_of_an_older_page_stays_on_it(serve_more: Any, visit: Any) -> None:
    server = await serve_more()
    async with httpx.AsyncClient(base_url=server.url) as client, visit(server.url) as seen:
        thread_id = await thread_with(client, "chat", *[says("And now?")] * 8)
        page = await seen.go(f"/ui/threads/{thread_id}?view=history")
        rows = page.locator("tbody tr")
        newest = await rows.first.get_attribute("id")
        await page.get_by_role("link", name="Older", exact=True).click()
        await expect(page.locator(f"[id='{newest}']")).to_have_count(0)
        here = str(await rows.first.get_attribute("id"))
        await rows.first.get_by_role("link", name="what changed").click()
        await expect(page.locator("#difference")).to_be_visible()
        await expect(rows.first).to_have_attribute("id", here)
        await rows.nth(2).get_by_role("radio").first.check()
        before = page.url
        await page.get_by_role("button", name="Compare").click()
        await page.wait_for_function("before => location.href !== before", arg=before)
        await expect(rows.first).to_have_attribute("id", here)
        await page.get_by_role("link", name="Close").click()
        await expect(page.locator("#difference")).to_have_count(0)
        await rows.first.get_by_role("link", name="fork").click()
        await expect(page.locator("#fork")).to_be_visible()
        await expect(rows.first).to_have_attribute("id", here)


async def test_two_questions_are_answered_together_and_one_by_one(serve_more: Any, visit: Any) -> None:
    server = await serve_more()
    async with httpx.AsyncClient(base_url=server.url) as client, visit(server.url) as seen:
        thread_id = await thread_with(client, "form", {"name": "?"})
        page = await seen.go(f"/ui/threads/{thread_id}")
        answer = page.get_by_role("button", name=re.compile("^(Answer|Send answers)$"))
        await answer.click()
        await expect(page.locator("#toasts")).to_contain_text("there is no answer yet")
        seen.complaints.clear()  # the browser tells of each 422
        await page.get_by_label("Your answer to question 1").fill("Ada")
        await answer.click()
        await expect(page.locator("#thread-asks").get_by_text("What is your name?")).to_have_count(0)
        await expect(page.locator(".conversation")).to_contain_text("What is your name?")  # and what was answered
        await page.get_by_role("textbox", name="Your answer").fill("36")
        await answer.click()
        await expect(page.get_by_text("It waits")).to_have_count(0)
        await page.get_by_role("link", name="State", exact=True).click()
        await expect(page.locator("details.tree").first).to_contain_text("name: Ada")
        await expect(page.locator("details.tree").first).to_contain_text("age: 36")

        for answer, decision in (
            ("Approve", {"type": "approve"}),
            ("Reject", {"type": "reject", "message": "Not now"}),
        ):
            thread_id = await thread_with(client, "decides", {})
            await seen.go(f"/ui/threads/{thread_id}")
            await expect(page.locator("#thread-asks")).to_contain_text("delete_file")
            if answer == "Reject":
                await page.get_by_role("textbox", name="Your answer").fill("Not now")
            await page.get_by_role("button", name=answer).click()
            await expect(page.get_by_text("It waits")).to_have_count(0)
            await expect(page.locator(".run-block.status-success")).to_have_count(1)
            values = (await client.get(f"/threads/{thread_id}")).json()["values"]
            assert values["decided"] == {"decisions": [decision] * 2}


async def test_nothing_is_decided_but_what_the_agent_allows(serve_more: Any, visit: Any) -> None:
    server = await serve_more()
    async with httpx.AsyncClient(base_url=server.url) as client, visit(server.url) as seen:
        thread_id = await thread_with(client, "decides", {"allowed": ["approve", "edit"]})
        page = await seen.go(f"/ui/threads/{thread_id}")
        buttons, field = page.locator("form.answer button"), page.locator("form.answer textarea")
        await expect(buttons).to_contain_text(["Approve", "Answer"])
        await page.get_by_text("Answer with something else").click()
        await page.get_by_role("textbox", name="Decisions as JSON").fill("no, thanks")
        await page.get_by_role("button", name="Answer", exact=True).click()
        await expect(page.get_by_text("what may be decided is approve or edit")).to_be_visible()
        seen.complaints.clear()  # a 422
        assert len((await client.get(f"/threads/{thread_id}/runs")).json()) == 1

        thread_id = await thread_with(client, "decides", {"allowed": ["respond"]})
        await seen.go(f"/ui/threads/{thread_id}")
        await expect(page.locator("#thread-asks")).to_contain_text('What does send_mail(to="ada") return?')
        await expect(buttons).to_have_text(["Answer"])
        await field.fill("blue, please")
        await buttons.click()
        await expect(page.locator(".run-block.status-success")).to_have_count(1)
        values = (await client.get(f"/threads/{thread_id}")).json()["values"]
        assert values["decided"] == {"decisions": [{"type": "respond", "message": "blue, please"}]}


async def test_what_a_function_agent_was_asked_and_gave_is_told_run_by_run(serve: Any, visit: Any) -> None:
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url) as client, visit(server.url) as seen:
        thread_id = await thread_with(client, "talks", says("First"), says("Second"))
        await client.post(f"/threads/{thread_id}/runs/wait", json={"assistant_id": "fails", "input": {"a": 1}})
        page = await seen.go(f"/ui/threads/{thread_id}")
        turns = page.locator(".turn")
        await expect(turns).to_have_count(3)
        await expect(turns.nth(0).locator(".message-human")).to_contain_text("First")
        await expect(turns.nth(0).locator(".message-ai")).to_contain_text("The quick brown fox")
        await expect(turns.nth(2)).to_contain_text("there is no file prices.csv")
        await expect(page.locator("#thread-asks .problem")).to_contain_text("there is no file prices.csv")
        await page.get_by_role("link", name="History", exact=True).click()
        await expect(page.get_by_text("This agent keeps only the newest state of a thread")).to_be_visible()
        await seen.go(f"/ui/threads/{thread_id}?view=history&from=nope&to=neither")
        await expect(page.locator("#thread-view .problem")).to_be_visible()


async def test_a_thread_is_changed_copied_and_deleted_also_while_somebody_looks(serve: Any, visit: Any) -> None:
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url) as client, visit(server.url) as seen:
        thread_id = await thread_with(client, "talks", says("Keep this"))
        page = await seen.go(f"/ui/threads/{thread_id}")
        await page.get_by_text("Metadata, lifetime, copy, delete").click()
        await page.get_by_label("Add metadata").fill('{"region": "north"}')
        await page.get_by_label("this many minutes").fill("90")
        await page.get_by_role("button", name="Change").click()
        await expect(page.locator("#toasts")).to_contain_text("The thread is changed.")
        changed = (await client.get(f"/threads/{thread_id}")).json()
        assert changed["metadata"]["region"] == "north"
        assert changed["ttl"]["ttl_minutes"] == 90
        await page.get_by_label("Add metadata").fill("{")
        await page.get_by_role("button", name="Change").click()
        await expect(page.locator("#toasts")).to_contain_text("this is not a JSON object")
        await page.get_by_label("Add metadata").fill("")
        for ttl in ("1_0", "nan"):
            await page.get_by_label("this many minutes").fill(ttl)
            await page.get_by_role("button", name="Change").click()
            await expect(page.locator("#toasts")).to_contain_text(f"'{ttl}' is not a number of minutes")
        assert (await client.get(f"/threads/{thread_id}")).json()["ttl"]["ttl_minutes"] == 90
        seen.complaints.clear()

        await page.get_by_role("button", name="Copy the thread").click()
        await page.wait_for_url(lambda url: thread_id not in url)
        copy_id = page.url.rpartition("/")[2]
        assert (await client.get(f"/threads/{copy_id}")).json()["values"] == changed["values"]

        async with visit(server.url) as other:
            watching = await other.go(f"/ui/threads/{copy_id}")
            await page.get_by_text("Metadata, lifetime, copy, delete").click()
            await page.get_by_role("button", name="Delete the thread").click()
            await expect(page.locator("#confirm")).to_contain_text("This cannot be undone.")
            await page.locator("#confirm [value=yes]").click()
            await page.wait_for_url("**/ui/threads")
            await expect(page.locator(f"#thread-{copy_id}")).to_have_count(0)
            await other.fetch_anew()
            await expect(watching.locator("#gone")).to_be_visible()
            other.complaints.clear()  # a 404
        await seen.go(f"/ui/threads/{copy_id}")
        await expect(page.get_by_role("heading", level=1)).to_have_text("There is no such thread")
        seen.complaints.clear()


async def test_how_long_a_thread_still_lives_is_said(serve: Any, visit: Any) -> None:
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url) as client, visit(server.url) as seen:
        thread_id = await thread_with(client, "talks", says("Forget this"))
        await client.patch(f"/threads/{thread_id}", json={"ttl": 10_000})
        page = await seen.go(f"/ui/threads/{thread_id}")
        await expect(page.locator("#thread-head")).to_contain_text("expires in 6d")


async def test_filters_say_what_is_wrong_with_them_and_pages_follow_one_another(serve: Any, visit: Any) -> None:
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url) as client, visit(server.url) as seen:
        for number in range(55):
            metadata = {"customer": "acme" if number % 2 else "globex"}
            await client.post("/threads", json={"metadata": metadata})
        page = await seen.go("/ui/threads")
        rows = page.locator("tbody tr")
        await expect(rows).to_have_count(50)
        first = await rows.nth(0).get_attribute("id")
        await page.keyboard.press("n")
        await expect(rows).to_have_count(5)
        await page.keyboard.press("p")
        await expect(rows).to_have_count(50)
        assert await rows.nth(0).get_attribute("id") == first
        await page.locator("#filter-metadata").fill("customer=acme")
        await page.keyboard.press("Enter")
        await expect(rows).to_have_count(27)
        for query, said in (
            ("status=asleep", "There is no 'asleep'"),
            ("since=soon", "This is not a time"),
            ("metadata=%7B", "This is not metadata"),
            ("metadata=a%3D1&since=1h", "cannot be combined"),
        ):
            response = await page.goto(f"{server.url}/ui/threads?{query}")
            assert response is not None
            assert response.status == 200
            await expect(page.locator(".wrong")).to_contain_text(said)
        await seen.go("/ui/threads?before=nonsense")
        await expect(page.locator("#threads .problem")).to_be_visible()
        assert await seen.violations() == []


async def test_five_megabytes_make_no_large_page_and_markup_stays_text(serve_more: Any, visit: Any) -> None:
    server = await serve_more()
    async with httpx.AsyncClient(base_url=server.url) as client, visit(server.url) as seen:
        large = await thread_with(client, "huge", {"text": "y" * 500_000})
        bad = await thread_with(client, "hostile", {"a": SCRIPT, "messages": [{"role": "user", "content": SCRIPT}]})
        await client.patch(f"/threads/{bad}", json={"metadata": {SCRIPT: SCRIPT}})
        failed = await thread_with(client, "hostile", {"fail": True})
        for view in ("conversation", "state", "history"):
            assert len((await client.get(f"/ui/threads/{large}?view={view}")).content) < 400_000
        page = await seen.go(f"/ui/threads/{large}?view=state")
        await expect(page.get_by_text("more characters in the JSON")).to_be_visible()
        await seen.go(f"/ui/threads/{large}?view=history")
        await page.get_by_role("link", name="what changed").first.click()
        await expect(page.locator(".differences ins").first).to_have_text(re.compile(r"is: …x{60}!$"))
        await expect(page.get_by_text("There are more changes")).to_be_visible()
        assert len((await client.get(page.url.removeprefix(server.url))).content) < 400_000

        await seen.go("/ui/threads")
        for path in (f"/ui/threads/{bad}", f"/ui/threads/{failed}"):
            for view in ("conversation", "state", "history"):
                await seen.go(f"{path}?view={view}")
        await seen.go(f"/ui/threads/{bad}")
        await page.get_by_role("textbox", name="Your answer").fill("yes")
        await page.get_by_role("button", name="Answer", exact=True).click()
        await expect(page.locator(".message-tool")).to_be_visible()
        assert await page.evaluate("window.hurt") is None
        await expect(page.locator(".message-ai .message-text")).to_contain_text("<script>window.hurt = 1</script>")
        assert await seen.violations() == []
        await seen.go(f"/ui/threads/{bad}?view=state")
        assert await page.evaluate("window.hurt") is None
        await seen.picture("thread-hostile")


async def test_what_a_function_agent_was_asked_and_gave_is_shown_in_part_if_it_is_long(
    serve_more: Any, visit: Any
) -> None:
    long = "x" * 500_000
    server = await serve_more()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client, visit(server.url) as seen:
        asked = await thread_with(client, "counts", long)
        gave = await thread_with(client, "decides", {})
        again = {"assistant_id": "decides", "command": {"resume": long}}
        await client.post(f"/threads/{gave}/runs/wait", json=again)
        for thread_id in (asked, gave):
            assert len((await client.get(f"/ui/threads/{thread_id}")).content) < 100_000
            page = await seen.go(f"/ui/threads/{thread_id}")
            address = await page.get_by_role("link", name="all of it as JSON").last.get_attribute("href")
            assert long in (await client.get(str(address))).text


async def test_of_a_long_title_pages_show_the_beginning(serve: Any, tmp_path: Path) -> None:
    code = 'async def agent(input, run):\n    run.set_title("W" * 100_000)\n    return {}\n'
    (tmp_path / "long_title.py").write_text(code, "utf-8")
    server = await serve('[agents]\nnames = "long_title.py:agent"\n')
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        thread_id = await thread_with(client, "names", {})
        (run,) = (await client.get("/runs")).json()
        assert run["title"] == "W" * 100_000
        for path in ("runs", "threads", f"threads/{thread_id}"):
            written = (await client.get(f"/ui/{path}")).text
            assert "W" * 80 in written, path
            assert "W" * 301 not in written, path


async def test_what_somebody_does_on_a_page_stays_when_something_happens(serve_more: Any, visit: Any) -> None:
    server = await serve_more()
    async with httpx.AsyncClient(base_url=server.url) as client, visit(server.url) as seen:
        thread_id = await thread_with(client, "chat", says("How is the weather?"))

        async def goes_on(runs: int) -> None:
            await client.post(
                f"/threads/{thread_id}/runs/wait", json={"assistant_id": "chat", "input": says("And now?")}
            )
            await expect(page.locator(".run-block")).to_have_count(runs)

        page = await seen.go(f"/ui/threads/{thread_id}?view=state")
        await page.get_by_text("messages: [4]").click()
        await page.get_by_text("Metadata, lifetime, copy, delete").click()
        await page.get_by_label("Add metadata").fill('{"half": ')
        await goes_on(2)
        await expect(page.get_by_text("messages: [6]")).to_be_visible()
        await expect(page.locator("details.tree[open] details.tree[open]")).to_have_count(1)
        await expect(page.get_by_label("Add metadata")).to_have_value('{"half": ')
        await expect(page.get_by_label("Add metadata")).to_be_focused()

        await page.get_by_role("link", name="History", exact=True).click()
        await expect(page).to_have_url(re.compile("view=history"))
        await page.wait_for_load_state()  # before it is there, it has no rows
        rows = page.locator("tbody tr")
        before = await rows.count()
        await goes_on(3)
        await expect(rows).to_have_count(before + 3)
        await rows.nth(4).get_by_role("radio").first.check()
        await goes_on(4)
        await expect(rows).to_have_count(before + 3)
        await expect(rows.nth(4).get_by_role("radio").first).to_be_checked()


async def test_who_may_only_look_sees_no_way_to_change_and_others_threads_are_not_there(
    serve: Any, visit: Any, tmp_path: Path
) -> None:
    server = await serve(
        '[server]\nauth = "keys"\n[agents]\ngraph = "console_agents.py:graph"\ntalks = "console_agents.py:talks"\n'
    )
    async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        keys = [
            await store.api_keys.create("key", owner=owner, permission=permission)
            for owner, permission in (("ada", "run"), ("ada", "read"), ("bob", "run"), ("root", "admin"))
        ]
    ada, reader, bob, root = (key.secret for key in keys)
    async with httpx.AsyncClient(base_url=server.url, headers={"x-api-key": ada}) as client:
        thread_id = await thread_with(client, "graph", says("Hi"))
    for key, heading in ((reader, thread_id[-8:]), (bob, "There is no such thread"), (root, thread_id[-8:])):
        async with visit(server.url) as seen:
            page = await seen.go(f"/ui/threads/{thread_id}")
            await page.get_by_label("API key or token").fill(key)
            await page.get_by_role("button", name="Sign in").click()
            await expect(page.get_by_role("heading", level=1)).to_contain_text(heading)
            if key == bob:
                seen.complaints.clear()  # a 404
                await seen.go("/ui/threads")
                await expect(page.get_by_text("No threads yet")).to_be_visible()
            elif key == root:
                await expect(page.locator("#thread-head")).to_contain_text("of ada")
                await seen.go("/ui/threads")
                await expect(page.locator("tbody tr")).to_contain_text("ada")
                await seen.go("/ui/agents/talks")
                await page.locator("#play-input").fill("With a cookie")
                await page.keyboard.press("Control+Enter")
                await expect(page.locator(".play-run")).to_contain_text("success")
            else:
                await expect(page.get_by_text("Shall I go on?")).to_be_visible()
                await expect(page.get_by_text("the permission “run”").first).to_be_visible()
                await seen.go(f"/ui/threads/{thread_id}?view=history")
                await expect(page.get_by_role("link", name="what changed").first).to_be_visible()
                await expect(page.locator("form[method=post]:not([action$=sign-out]):not(.answer)")).to_have_count(0)
                await expect(page.get_by_role("button", name="Answer")).to_have_count(0)
                await expect(page.get_by_role("link", name="fork")).to_have_count(0)
                await seen.go("/ui/agents/graph")
                await expect(page.get_by_role("button", name="Send")).to_have_count(0)


async def test_the_thread_of_an_agent_that_is_not_served_any_more_is_shown_as_far_as_it_is_known(
    serve: Any, visit: Any, tmp_path: Path
) -> None:
    server = await serve()
    async with httpx.AsyncClient(base_url=server.url) as client:
        thread_id = await thread_with(client, "graph", says("Hi"))
    (tmp_path / "trackside.toml").write_text('[agents]\ntalks = "console_agents.py:talks"\n', "utf-8")
    await asyncio.to_thread(server.restart)
    async with visit(server.url) as seen:
        page = await seen.go(f"/ui/threads/{thread_id}")
        await expect(page.locator(".turn .message-human")).to_contain_text("Hi")
        await expect(page.get_by_role("link", name="Go on in the playground")).to_have_count(0)
        for view in ("state", "history"):
            await seen.go(f"/ui/threads/{thread_id}?view={view}")
            await expect(page.locator("#thread-view .problem")).to_contain_text("is not served here")
        assert await seen.violations() == []
