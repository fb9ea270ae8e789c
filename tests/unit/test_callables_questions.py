"""What functions ask: which of several questions goes to a human, and that the answer reaches only that question."""

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.contract.ways_to_run import virtual

from trackside.harness import RunContext, RunLifecycleEvent, RunManager, RunResult, RunSpec, RunStatus
from trackside.harness.payload import whole
from trackside.harness.ports import PausedRun, ThreadState
from trackside.harness.remembered import MemoryThreadStates


class Office:
    """Runs one agent on one thread, and records what each run asked."""

    def __init__(self, agent: Callable[..., Any], states: MemoryThreadStates | None = None) -> None:
        self.asked: list[Any] = []
        self._agent = agent
        self._states = states or MemoryThreadStates()

    async def run(self, **given: Any) -> RunResult:
        async with RunManager(observers=[self._note], states=self._states) as manager:
            handle = await manager.start(RunSpec(self._agent, thread_id="t", **given))
            return await handle.result()

    async def answer(self, answer: Any) -> RunResult:
        return await self.run(command={"resume": answer})

    async def _note(self, event: RunLifecycleEvent) -> None:
        self.asked += [asked["value"] for asked in event.payload.get("interrupts", ())]


async def in_a_group(*asking: Awaitable[None]) -> None:
    async with asyncio.TaskGroup() as group:
        for each in asking:
            group.create_task(each)  # type: ignore[arg-type]


async def gathered(*asking: Awaitable[None]) -> None:
    await asyncio.gather(*asking)


@pytest.mark.parametrize("at_once", [in_a_group, gathered])
@virtual
async def test_of_two_tasks_that_ask_the_one_that_asked_first_is_answered_also_if_it_ends_last(at_once: Any) -> None:
    deleted: list[str] = []

    async def agent(input: Any, run: RunContext) -> None:
        async def delete(what: str, seconds: float) -> None:
            try:
                if run.interrupt(f"Delete {what}?"):
                    deleted.append(what)
            finally:
                await asyncio.sleep(seconds)

        await at_once(delete("prod", 0.01), delete("test", 0))

    office = Office(agent)
    await office.run()
    assert (await office.answer(False)).status is RunStatus.interrupted
    assert (await office.answer(True)).status is RunStatus.success

    assert (office.asked, deleted) == (["Delete prod?", "Delete test?"], ["test"])


def in_a_list(done: list[Any]) -> Any:
    return done


def in_an_object(done: list[Any]) -> Any:
    return {"done": {order: (one, "…") for order, one in enumerate(done)}}


@pytest.mark.parametrize("output", [in_a_list, in_an_object])
async def test_what_tasks_ask_is_put_to_a_human_also_if_their_exceptions_are_gathered_as_values(output: Any) -> None:
    async def agent(input: Any, run: RunContext) -> Any:
        async def refund(order: int) -> str:
            if order == 0:
                raise ValueError("no such order")
            return f"{order}: {run.interrupt(f'Refund {order}?')}"

        return output(await asyncio.gather(refund(0), refund(1), refund(2), return_exceptions=True))

    office = Office(agent)
    statuses = [(await office.run()).status, (await office.answer("yes")).status]
    result = await office.answer("no")

    assert (statuses, office.asked) == ([RunStatus.interrupted] * 2, ["Refund 1?", "Refund 2?"])
    assert result.output == whole(output([ValueError("no such order"), "1: yes", "2: no"]))


async def test_what_tasks_of_a_group_ask_is_put_to_a_human_also_if_their_group_is_given_back() -> None:
    async def agent(input: Any, run: RunContext) -> Any:
        async def ask() -> Any:
            return run.interrupt("Sure?")

        return await asyncio.gather(in_a_group(ask()), return_exceptions=True)

    office = Office(agent)

    assert (await office.run()).status is RunStatus.interrupted
    assert (await office.answer("yes")).output == [None]


async def test_a_question_that_a_function_has_done_without_is_put_to_nobody_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def agent(input: Any, run: RunContext) -> str:
        async def ask() -> Any:
            return run.interrupt("Which one?")

        async def look() -> str:
            return "found it"

        _, found = await asyncio.gather(ask(), look(), return_exceptions=True)
        return str(found)

    office = Office(agent)
    result = await office.run()

    assert (result.status, result.output, office.asked) == (RunStatus.success, "found it", [])
    assert f"run {result.run_id} asked something, but ended without an answer" in caplog.text


async def test_of_two_threads_that_ask_the_one_that_asked_first_is_answered() -> None:
    answers: dict[str, Any] = {}

    def agent(input: Any, run: RunContext) -> None:
        second_has_asked = threading.Event()

        def ask(question: str) -> None:
            if question == "one?":
                second_has_asked.wait()
            try:
                answers[question] = run.interrupt(question)
            finally:
                second_has_asked.set()

        with ThreadPoolExecutor() as pool:
            list(pool.map(ask, ["one?", "two?"]))

    office = Office(agent)
    for answer in (None, 2, 1):
        await (office.run() if answer is None else office.answer(answer))

    assert (office.asked, answers) == (["two?", "one?"], {"one?": 1, "two?": 2})


async def test_an_answer_finds_its_question_also_where_another_one_is_asked_first_now() -> None:
    answers: dict[str, Any] = {}
    orders = iter([("one?", "two?"), ("two?", "one?"), ("two?", "one?", "three?"), ("three?", "one?", "two?")])

    async def agent(input: Any, run: RunContext) -> None:
        for question in next(orders):
            answers[question] = run.interrupt(question)

    office = Office(agent)
    await office.run()
    for answer in (1, 2, 3):
        result = await office.answer(answer)

    assert office.asked == ["one?", "two?", "three?"]
    assert (result.status, answers) == (RunStatus.success, {"one?": 1, "two?": 2, "three?": 3})


async def test_an_answer_to_what_is_not_asked_any_more_answers_nothing(caplog: pytest.LogCaptureFixture) -> None:
    drafts = iter(["Dear Ada", "Dear Bob", "Dear Bob"])
    sent: list[str] = []

    async def agent(input: Any, run: RunContext) -> None:
        draft = next(drafts)
        if run.interrupt({"send": draft}):
            sent.append(draft)

    office = Office(agent)
    await office.run()
    assert caplog.messages == []
    assert ((await office.answer(True)).status, sent) == (RunStatus.interrupted, [])
    (said,) = caplog.messages
    assert "asks something else than what was answered (1 of 1 answers have found no question)" in said
    assert ((await office.answer(True)).status, sent) == (RunStatus.success, ["Dear Bob"])
    assert office.asked == [{"send": "Dear Ada"}, {"send": "Dear Bob"}]


async def test_the_same_question_asked_several_times_gets_its_answers_in_order() -> None:
    async def agent(input: Any, run: RunContext) -> list[Any]:
        return [run.interrupt("more?") for _ in range(3)]

    office = Office(agent)
    await office.run()
    for answer in (True, None):
        await office.answer(answer)
    assert (await office.answer(False)).output == [True, None, False]


class Order:
    pass


@pytest.mark.parametrize("plain", [Order, lambda: {1, "two", None}, lambda: b"raw", lambda: {1: [("a", float("nan"))]}])
async def test_a_question_is_known_again_whatever_it_is(plain: Callable[[], Any]) -> None:
    async def agent(input: Any, run: RunContext) -> Any:
        return [run.interrupt({"sure?": plain()}), run.interrupt("really?")]

    office = Office(agent)
    await office.run()
    await office.answer(1)
    assert (await office.answer(2)).output == [1, 2]


async def test_a_run_that_goes_on_after_it_has_asked_waits_for_the_answer_to_what_it_asked_first() -> None:
    async def agent(input: Any, run: RunContext) -> Any:
        try:
            first = run.interrupt("one?")
        except BaseException:  # as in code that cleans up and forgets to raise
            first = None
        return [first, run.interrupt("two?")]

    office = Office(agent)
    await office.run()
    await office.answer(1)
    assert ((await office.answer(2)).output, office.asked) == ([1, 2], ["one?", "two?"])


@pytest.mark.parametrize("state", [{"context": None}, None, {"answered_questions": []}])
@pytest.mark.parametrize("questions", [("what was asked then", "and then"), ("which?", "sure?")])
async def test_answers_that_were_kept_without_their_questions_go_by_number(
    state: Any, questions: Sequence[str]
) -> None:
    states = MemoryThreadStates()
    asked = [{"id": "b", "value": "sure?"}]
    await states.save("t", ThreadState({}, PausedRun(input="x", answers=["this"], interrupts=asked, state=state)))

    async def agent(input: Any, run: RunContext) -> Any:
        return [run.interrupt(questions[0]), run.interrupt(questions[1])]

    office = Office(agent, states)
    result = await office.answer("yes")
    if questions[1] == "sure?":
        assert result.output == ["this", "yes"]
    else:
        assert (result.status, office.asked) == (RunStatus.interrupted, ["and then"])


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"lines": [{"n": n} for n in range(150)]},
        {"page": "[a](b)" * 120},
        {"number": "1" * 19},
        {"who": ("Ada", threading.Lock())},
        pytest.param({"deep": functools.reduce(lambda inner, _: [inner], range(200), [])}, id="deep"),
    ],
)
async def test_an_input_that_a_function_changes_before_it_asks_is_as_it_was_when_it_is_answered(more: Any) -> None:
    seen: list[Any] = []

    async def agent(input: Any, run: RunContext) -> Any:
        seen.append(list(input["items"]))
        input["items"].append("fee")
        return run.interrupt("sure?") and run.interrupt("really?") and input["items"]

    office = Office(agent)
    await office.run(input={"items": ["book"], **more})
    await office.answer(True)
    assert (await office.answer(True)).output == ["book", "fee"]
    assert seen == [["book"]] * 3


async def test_an_answer_that_a_function_changes_before_it_asks_again_is_as_it_was_given() -> None:
    async def agent(input: Any, run: RunContext) -> Any:
        answer = run.interrupt("change what?")
        return [answer.pop("ok"), answer["lines"].pop(), run.interrupt("sure?"), run.interrupt("really?")]

    office = Office(agent)
    await office.run()
    await office.answer({"ok": True, "lines": [1, 2]})
    await office.answer("yes")
    assert (await office.answer("yes!")).output == [True, 2, "yes", "yes!"]
    assert office.asked == ["change what?", "sure?", "really?"]


async def test_a_context_that_a_function_changes_before_it_asks_is_as_it_was_when_it_is_answered() -> None:
    async def agent(input: Any, run: RunContext) -> Any:
        run.context["spent"] += 1
        return run.interrupt("sure?") and run.context

    office = Office(agent)
    await office.run(context={"spent": 1})
    assert (await office.answer(True)).output == {"spent": 2}


@pytest.mark.parametrize("gives", [True, False])
async def test_what_a_function_does_to_the_values_of_its_thread_is_not_remembered_while_it_asks(gives: bool) -> None:
    states = MemoryThreadStates()
    await states.save("t", ThreadState({"messages": ["hello"]}))

    async def agent(input: Any, run: RunContext) -> Any:
        run.values["messages"].append("bye")
        run.interrupt("sure?")
        return dict(run.values) if gives else None

    office = Office(agent, states)
    await office.run()
    asking = await states.load("t")
    assert asking is not None
    assert asking.values == {"messages": ["hello"]}
    await office.answer(True)
    assert await states.load("t") == ThreadState({"messages": ["hello", "bye"] if gives else ["hello"]})


async def test_an_input_that_is_no_json_is_kept_as_it_is() -> None:
    lock = threading.Lock()

    async def agent(input: Any, run: RunContext) -> Any:
        run.interrupt("sure?")
        return input[0] is lock

    office = Office(agent)
    await office.run(input=[lock])
    assert (await office.answer(True)).output is True
