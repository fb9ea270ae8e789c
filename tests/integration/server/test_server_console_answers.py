"""Several people answer a thread's questions in the console: each question has one answer, and latecomers are told."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from operator import add
from pathlib import Path
from typing import Annotated, Any, TypedDict

import httpx
import pytest
from dialects import BOTH
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from trackside.app.dashboard.pages import _answering
from trackside.app.settings import AccessSettings
from trackside.harness import RunContext

DIALECTS = BOTH

AUTH = """
from langgraph_sdk import Auth

auth = Auth()

@auth.authenticate
async def authenticate(authorization: str):
    return {"identity": "ada"}

@auth.on
async def all_of_it(ctx, value):
    return True

@auth.on.threads.search
async def nothing(ctx, value):
    return False
"""
"""Everybody may do everything, except list runs."""

GONE = "this is not asked any more: somebody has answered already"


class Office:
    """Agents that ask, and with an answer go on when they may."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.goes_on = asyncio.Event()
        self.agents = {
            "function": self.function,
            "graph": self.graph("only"),
            "two": self.graph("left", "right"),
            "steps": self.steps("pay", "ship").compile(interrupt_before=["pay", "ship"]),
            "walks": self.steps("read", "pay", "ship").compile(),
        }

    async def work(self, answer: Any) -> Any:
        self.got.append(answer)
        await self.goes_on.wait()
        return answer

    async def function(self, input: Any, run: RunContext) -> Any:
        if input.get("is_slow"):
            await self.goes_on.wait()
        return {"only": await self.work(run.interrupt({"question": "May I?"}))}

    def graph(self, *names: str) -> Any:
        kept = TypedDict("kept", dict.fromkeys([*names, "is_slow"], Any), total=False)  # type: ignore[misc]
        builder = StateGraph(kept)
        for name in names:

            async def asks(state: Any, name: str = name) -> Any:
                if state.get("is_slow"):
                    await self.goes_on.wait()
                return {name: await self.work(interrupt({"question": name}))}

            builder.add_node(f"asks_{name}", asks)
            builder.add_edge(START, f"asks_{name}")
            builder.add_edge(f"asks_{name}", END)
        return builder.compile()

    def steps(self, *names: str) -> Any:
        """A graph of these steps, one after the other."""

        class Kept(TypedDict):
            done: Annotated[list[str], add]

        builder, before = StateGraph(Kept), START
        for name in names:

            async def does(state: Any, name: str = name) -> Any:
                return {"done": [await self.work(name)]}

            builder.add_node(name, does)
            builder.add_edge(before, name)
            before = name
        return builder


class Desk:
    """A thread as somebody sees it in the console."""

    def __init__(self, http: httpx.AsyncClient, agent: str) -> None:
        self.http = http
        self.agent = agent
        self.thread_id = ""
        self.token = ""
        self.questions: list[str] = []

    async def sit_down(self, **asked: Any) -> Desk:
        """Have the agent ask, and open the thread's page."""
        self.thread_id = (await self.http.post("/threads", json={})).json()["thread_id"]
        body = {"assistant_id": self.agent, "input": {}, **asked}
        answer = await self.http.post(f"/threads/{self.thread_id}/runs/wait", json=body)
        assert answer.status_code == 200, answer.text
        page = (await self.http.get(f"/ui/threads/{self.thread_id}")).text
        self.token = html.unescape(re.findall(r'name="trackside-token" content="([^"]+)"', page)[0])
        self.questions = await self.asked()
        assert self.questions
        return self

    async def asked(self) -> list[str]:
        """The questions for which the thread's page has a form now."""
        page = (await self.http.get(f"/ui/threads/{self.thread_id}")).text
        return re.findall(r'name="question" value="([^"]*)"', page)

    async def answer(self, said: Any, question: str | None = None, **more: str) -> tuple[int, str]:
        """Send the form; return the status and the text of the answer."""
        asked = self.questions[0] if question is None else question
        form = {"csrf": self.token, "question": asked, "answer": json.dumps(said), "read_as": "json", **more}
        path = f"/ui/threads/{self.thread_id}/answer"
        answer = await self.http.post(path, data=form, headers={"HX-Request": "true"})
        return answer.status_code, answer.text

    async def runs(self) -> list[str]:
        """How the thread's runs have ended, oldest first."""
        found = (await self.http.get("/runs", params={"thread_id": self.thread_id})).json()[::-1]
        for run in found:
            await self.http.get(f"/threads/{self.thread_id}/runs/{run['run_id']}/join")
        return [(await self.http.get(f"/runs/{run['run_id']}")).json()["status"] for run in found]

    async def status(self) -> str:
        """The status of the thread."""
        return str((await self.http.get(f"/threads/{self.thread_id}")).json()["status"])


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
def desk(serve_agents: Any, office: Office) -> Callable[..., Any]:
    """`async with desk("graph") as found` opens a thread of that agent, which asks."""

    @asynccontextmanager
    async def at(agent: str, auth: str = "none", redact: str | None = None, **asked: Any) -> AsyncIterator[Desk]:
        who = {"authorization": "Bearer ada"}
        async with (
            serve_agents(office.agents, access=AccessSettings(auth=auth), redact=redact) as served,
            httpx.AsyncClient(base_url=served.url, headers=who, timeout=30) as http,
        ):
            yield await Desk(http, agent).sit_down(**asked)

    return at


@pytest.mark.parametrize("agent", ["function", "graph"])
async def test_who_answers_while_the_run_of_the_first_answer_goes_on_is_told_that_he_comes_too_late(
    office: Office, desk: Callable[..., Any], agent: str
) -> None:
    async with desk(agent) as thread:
        first = await thread.answer("yes")
        late = await thread.answer("no")
        for_the_playground = await thread.answer("no", starts="false")
        shown = await thread.asked()
        asker = (await thread.http.get("/runs", params={"thread_id": thread.thread_id})).json()[-1]["run_id"]
        page = (await thread.http.get(f"/ui/runs/{asker}")).text
        office.goes_on.set()
        ended, after = await thread.runs(), await thread.answer("no")
        assert (first[0], late, for_the_playground, after) == (200, (409, GONE), (409, GONE), (409, GONE))
        assert (ended, await thread.status(), office.got) == (["interrupted", "success"], "idle", ["yes"])
        assert (shown, "was answered: the thread went on with" in page) == ([], True)


@pytest.mark.parametrize("agent", ["function", "graph"])
async def test_of_two_who_answer_at_once_one_is_the_first(office: Office, desk: Callable[..., Any], agent: str) -> None:
    async with desk(agent) as thread:
        both = await asyncio.gather(thread.answer("yes"), thread.answer("no"))
        office.goes_on.set()
        assert sorted(status for status, _ in both) == [200, 409]
        assert GONE in {said for _, said in both}
        assert (await thread.runs(), await thread.status(), len(office.got)) == (["interrupted", "success"], "idle", 1)


async def test_an_answer_to_another_question_waits_for_its_turn(office: Office, desk: Callable[..., Any]) -> None:
    async with desk("two") as thread:
        left, right = thread.questions
        first = await thread.answer("L", left)
        shown = await thread.asked()
        second = await thread.answer("R", right)
        late = [await thread.answer("no", one) for one in (left, right)]
        office.goes_on.set()
        assert (first[0], shown, second[0], late) == (200, [right], 200, [(409, GONE), (409, GONE)])
        assert await thread.runs() == ["interrupted", "interrupted", "success"]
        assert sorted(office.got) == ["L", "R"]


async def test_two_who_answer_different_questions_at_once_are_both_heard(
    office: Office, desk: Callable[..., Any]
) -> None:
    async with desk("two") as thread:
        both = await asyncio.gather(*(thread.answer(one, one) for one in thread.questions))
        office.goes_on.set()
        assert [status for status, _ in both] == [200, 200]
        assert await thread.runs() == ["interrupted", "interrupted", "success"]
        assert sorted(office.got) == sorted(thread.questions)


async def test_who_answers_while_the_thread_begins_anew_is_told_so(office: Office, desk: Callable[..., Any]) -> None:
    async with desk("function") as thread:
        anew = {"assistant_id": "function", "input": {"is_slow": True}}
        await thread.http.post(f"/threads/{thread.thread_id}/runs", json=anew)
        late, shown = await thread.answer("no"), await thread.asked()
        office.goes_on.set()
        assert (late, shown) == ((409, GONE), [])
        assert (await thread.runs(), office.got) == (["interrupted", "interrupted"], [])


async def test_a_run_that_is_to_begin_later_keeps_nobody_from_answering(
    office: Office, desk: Callable[..., Any]
) -> None:
    async with desk("two") as thread:
        later = {"assistant_id": "two", "input": {}, "after_seconds": 3_600}
        run = (await thread.http.post(f"/threads/{thread.thread_id}/runs", json=later)).json()
        left, right = thread.questions
        first, second = await thread.answer("L", left), await thread.answer("R", right)
        office.goes_on.set()
        await thread.http.post(f"/threads/{thread.thread_id}/runs/{run['run_id']}/cancel", params={"wait": True})
        assert (first[0], second[0]) == (200, 200)


async def test_a_question_is_closed_by_the_run_that_goes_on_whatever_is_to_begin_later(
    office: Office, desk: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_answering, "_LOOKED_AT", 2)
    async with desk("function") as thread:
        path = f"/threads/{thread.thread_id}/runs"
        await thread.http.post(path, json={"assistant_id": "function", "input": {"is_slow": True}})
        later = {"assistant_id": "function", "input": {}, "after_seconds": 3_600}
        runs = [(await thread.http.post(path, json=later)).json() for _ in range(2)]
        late, shown = await thread.answer("no"), await thread.asked()
        office.goes_on.set()
        for run in runs:
            await thread.http.post(f"{path}/{run['run_id']}/cancel", params={"wait": True})
        assert (late, shown) == ((409, GONE), [])


async def test_of_two_who_have_a_stopped_thread_go_on_one_is_the_first(
    office: Office, desk: Callable[..., Any]
) -> None:
    async with desk("graph", input={"is_slow": True}, interrupt_before=["asks_only"]) as thread:
        both = await asyncio.gather(thread.answer(None), thread.answer(None))
        office.goes_on.set()
        assert sorted(status for status, _ in both) == [200, 409]
        assert await thread.runs() == ["interrupted", "interrupted"]


async def test_that_a_thread_shall_go_on_is_said_of_the_stop_that_was_seen_and_of_no_later_one(
    office: Office, desk: Callable[..., Any]
) -> None:
    async with desk("steps") as thread:
        first, late = await thread.answer(None), await thread.answer(None)
        office.goes_on.set()
        await thread.runs()
        again, for_the_playground = await thread.answer(None), await thread.answer(None, starts="false")
        state = (await thread.http.get(f"/threads/{thread.thread_id}/state")).json()
        assert (first[0], late, again, for_the_playground) == (200, (409, GONE), (409, GONE), (409, GONE))
        assert (state["next"], office.got, await thread.status()) == (["ship"], ["pay"], "interrupted")

        (second,) = await thread.asked()
        assert (await thread.answer(None, second))[0] == 200
        assert (await thread.runs(), office.got) == (["interrupted", "interrupted", "success"], ["pay", "ship"])


@pytest.mark.parametrize("stops", [{"interrupt_before": ["pay", "ship"]}, {"interrupt_after": ["read", "pay"]}])
async def test_a_run_that_was_asked_to_stop_at_two_steps_stops_at_both(
    office: Office, desk: Callable[..., Any], stops: dict[str, Any]
) -> None:
    office.goes_on.set()
    async with desk("walks", **stops) as thread:
        for got in (["read"], ["read", "pay"]):
            assert (office.got, await thread.status()) == (got, "interrupted")
            (stop,) = await thread.asked()
            assert (await thread.answer(None, stop))[0] == 200
            await thread.runs()
        assert (office.got, await thread.status()) == (["read", "pay", "ship"], "idle")


@pytest.mark.parametrize("loss", ["deleted", "not kept"])
async def test_it_stops_at_both_also_where_nobody_knows_any_more_what_it_was_asked_for(
    office: Office, desk: Callable[..., Any], tmp_path: Path, loss: str
) -> None:
    office.goes_on.set()
    (tmp_path / "hook.py").write_text("def keep(kind, payload):\n    return payload\n")
    redact = f"{tmp_path / 'hook.py'}:keep" if loss == "not kept" else None
    async with desk("walks", redact=redact, interrupt_before=["pay", "ship"]) as thread:
        (run,) = (await thread.http.get("/runs", params={"thread_id": thread.thread_id})).json()
        path = f"/threads/{thread.thread_id}/runs/{run['run_id']}"
        if loss == "deleted":
            assert (await thread.http.delete(path)).status_code == 204
        else:
            assert (await thread.http.get(f"/runs/{run['run_id']}")).json().get("request") is None
        assert (await thread.answer(None))[0] == 200
        await thread.runs()
        assert (office.got, await thread.status()) == (["read", "pay"], "interrupted")


@pytest.mark.parametrize("is_withdrawn", [False, True])
async def test_a_stop_is_one_on_the_page_of_its_run_until_a_run_goes_on(
    office: Office, desk: Callable[..., Any], is_withdrawn: bool
) -> None:
    async with desk("steps") as thread:
        (first,) = (await thread.http.get("/runs", params={"thread_id": thread.thread_id})).json()
        later = {"assistant_id": "steps", "input": {}, "after_seconds": 3_600}
        path = f"/threads/{thread.thread_id}/runs"
        run = (await thread.http.post(path, json=later)).json()
        if is_withdrawn:
            await thread.http.post(f"{path}/{run['run_id']}/cancel", params={"wait": True})

        async def shown() -> tuple[list[str], bool]:
            page = (await thread.http.get(f"/ui/runs/{first['run_id']}")).text
            return re.findall(r'name="question" value="([^"]*)"', page), "was answered: the thread went on with" in page

        stopped = await shown()
        assert stopped == (thread.questions, False)
        assert (await thread.answer(None))[0] == 200
        while_it_goes_on = await shown()
        office.goes_on.set()
        await thread.http.post(f"{path}/{run['run_id']}/cancel", params={"wait": True})
        assert (while_it_goes_on, (await thread.runs())[-1]) == (([], True), "interrupted")
        assert await shown() == ([], True)


async def test_who_may_not_see_which_runs_a_thread_has_answers_when_it_has_none(
    office: Office, desk: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "own_auth.py").write_text(AUTH)
    async with desk("two", auth=f"{tmp_path / 'own_auth.py'}:auth") as thread:
        left, right = thread.questions
        first = await thread.answer("L", left)
        shown, late = await thread.asked(), await thread.answer("R", right)
        office.goes_on.set()
        assert (first[0], shown, late) == (200, [], (409, GONE))
