"""Runs that wait for a human: their questions, the answers, and answers that fit nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from tests.integration.runs.stage import Backend, Stage, within_patience

from trackside import AgentResult, RunContext, RunResult, RunStatus
from trackside.harness.ids import new_id

EMAIL, MONEY = new_id(), new_id()


async def asks(input: Any, run: RunContext) -> dict[str, Any]:
    run.record_usage("small", input_tokens=5, output_tokens=2)
    first = run.interrupt({"question": "which?"})
    second = run.interrupt("sure?")
    return {"input": input, "answers": [first, second]}


class AsksSeveral:
    """An agent of a framework: it pauses with two questions, and goes on with whichever were answered."""

    name = "several"
    uses_thread_state = True

    async def human_messages(self, run: RunContext) -> Sequence[dict[str, Any]]:
        return [{"id": new_id(), "type": "human", "content": str(run.resume)}] if run.resuming else []

    async def run(self, run: RunContext) -> AgentResult:
        had = dict(run.paused.state) if run.paused else {}
        had |= run.answers_by_id
        left = [{"id": each, "value": "?"} for each in (EMAIL, MONEY) if each not in had]
        if left:
            return AgentResult(interrupts=left, paused=had)
        return AgentResult("done", values={"input": run.input, "had": had})

    async def rollback(self, run: RunContext) -> None:
        return None


def questions(stage: Stage, result: RunResult) -> list[Any]:
    return [each["value"] for each in stage.end(result).payload["interrupts"]]


async def test_a_question_ends_its_run_and_each_answer_is_a_run_that_goes_on(backend: Backend) -> None:
    async with backend.open({"asks": asks}) as stage:
        first = await stage.run("asks", {"n": 1}, thread_id="t")
        second = await stage.run("asks", thread_id="t", command={"resume": "this one"})
        third = await stage.run("asks", thread_id="t", command={"resume": {"yes": [1, None]}})
        assert [each.status for each in (first, second, third)] == [
            RunStatus.interrupted,
            RunStatus.interrupted,
            RunStatus.success,
        ]
        assert (questions(stage, first), questions(stage, second)) == ([{"question": "which?"}], ["sure?"])
        assert stage.told(first)[-2:] == ["run_completed interrupted", "thread_status_updated interrupted"]
        assert stage.told(second)[1:3] == ["thread_status_updated busy", "human_message"], "an answer is a human's word"
        state = await stage.manager._services.states.load("t")
        assert state is not None
        assert state.values == {"input": {"n": 1}, "answers": ["this one", {"yes": [1, None]}]}
        assert state.paused is None
        assert {each.completion_data["total_tokens"] for each in (first, second, third)} == {7}
        if stage.store is not None:
            thread = await stage.store.thread("t")
            assert thread is not None
            assert thread.status == "idle"


async def test_several_questions_are_answered_by_their_ids_in_any_order(backend: Backend) -> None:
    async with backend.open({"several": AsksSeveral()}) as stage:
        first = await stage.run("several", "go", thread_id="t")
        assert (
            await stage.run("several", thread_id="t", command={"resume": {MONEY: 5}})
        ).status is RunStatus.interrupted
        last = await stage.run("several", thread_id="t", command={"resume": {EMAIL: "ok"}})
        together = await stage.run("several", "go", thread_id="u")
        both = await stage.run("several", thread_id="u", command={"resume": {EMAIL: 1, MONEY: 2}})
        assert (first.status, together.status) == (RunStatus.interrupted, RunStatus.interrupted)
        assert (last.status, both.status) == (RunStatus.success, RunStatus.success)
        state = await stage.manager._services.states.load("t")
        assert state is not None
        assert state.values == {"input": "go", "had": {MONEY: 5, EMAIL: "ok"}}


async def test_answers_that_fit_no_question_fail_their_run_and_leave_the_questions_open(backend: Backend) -> None:
    async with backend.open({"several": AsksSeveral()}) as stage:
        await stage.run("several", "go", thread_id="t")
        unknown = new_id()
        for answer, says in ({"resume": "one for all"}, EMAIL), ({"resume": {unknown: 1}}, unknown):
            wrong = await stage.run("several", thread_id="t", command=answer)
            assert (wrong.status, wrong.error is not None and says in wrong.error) == (RunStatus.error, True)
            assert stage.told(wrong)[-1] == "thread_status_updated interrupted"
            assert "Traceback" not in str(wrong.error)
        right = await stage.run("several", thread_id="t", command={"resume": {EMAIL: 1, MONEY: 2}})
        assert right.status is RunStatus.success


async def test_a_wrong_answer_that_came_behind_the_run_that_asks_leaves_the_question_open(backend: Backend) -> None:
    asked = asyncio.Event()

    async def slow(input: Any, run: RunContext) -> Any:
        await asked.wait()
        return run.interrupt("sure?")

    async with backend.open({"slow": slow}) as stage:
        first = await stage.start("slow", thread_id="t")
        behind = await stage.start("slow", thread_id="t", command={"resume": {new_id(): "yes"}}, multitask="enqueue")
        asked.set()
        assert (await within_patience(first.result())).status is RunStatus.interrupted
        wrong = await within_patience(behind.result())
        assert wrong.status is RunStatus.error
        assert stage.told(wrong)[-1] == "thread_status_updated interrupted"
        assert (await stage.run("slow", thread_id="t", command={"resume": "yes"})).status is RunStatus.success


async def test_a_question_whose_answer_was_in_vain_is_open_and_its_thread_waits(backend: Backend) -> None:
    async def refunds(input: Any, run: RunContext) -> Any:
        answer = run.interrupt("Refund?")
        if answer == "slow":
            await asyncio.Event().wait()
        return f"refunded: {answer['approved']}"

    async with backend.open({"refunds": refunds}) as stage:
        asking = await stage.run("refunds", thread_id="t")
        for answer, status, limit in (("yes", RunStatus.error, None), ("slow", RunStatus.timeout, 0.05)):
            vain = await stage.run("refunds", thread_id="t", command={"resume": answer}, timeout=limit)
            assert (vain.status, stage.told(vain)[-1]) == (status, "thread_status_updated interrupted")
            if stage.store is not None:
                assert [run.run_id for run in await stage.store.runs(waiting=True)] == [asking.run_id]
        if stage.store is not None:
            kept = await stage.store.prune(older_than=timedelta(0), dry_run=True)
            assert (kept.threads, kept.kept_waiting) == (0, 1)
        right = await stage.run("refunds", thread_id="t", command={"resume": {"approved": True}})
        assert (right.status, stage.told(right)[-1]) == (RunStatus.success, "thread_status_updated idle")


async def test_what_is_complete_of_an_answer_that_was_in_vain_takes_no_question_away(backend: Backend) -> None:
    class Several(AsksSeveral):
        """Its model is away when it is first answered."""

        away = True

        async def run(self, run: RunContext) -> AgentResult:
            if run.answers_by_id and self.away:
                self.away = False
                raise ConnectionError("no model")
            return await super().run(run)

        def partial(self, run: RunContext) -> dict[str, Any]:
            return {"steps": len(run.answers_by_id)}

    async with backend.open({"several": Several()}) as stage:
        await stage.run("several", "go", thread_id="t")
        answer = {"resume": {EMAIL: "yes", MONEY: "no"}}
        in_vain = await stage.run("several", thread_id="t", command=answer)
        assert (in_vain.status, stage.told(in_vain)[-1]) == (RunStatus.error, "thread_status_updated interrupted")
        done = await stage.run("several", thread_id="t", command=answer)
        assert (done.status, done.output) == (RunStatus.success, "done")


async def test_a_question_that_is_too_long_for_an_event_keeps_its_id_there(backend: Backend) -> None:
    class AsksMuch(AsksSeveral):
        """Its question is longer than an event may be."""

        async def run(self, run: RunContext) -> AgentResult:
            asked = [{"value": ["x" * 1_000] * 2_000, "id": EMAIL}]
            return AgentResult(run.answers_by_id[EMAIL]) if run.paused else AgentResult(interrupts=asked)

    async with backend.open({"asks": AsksMuch()}) as stage:
        asked = await stage.run("asks", thread_id="t")
        payload = stage.end(asked).payload
        assert (payload["sanitized"], [question["id"] for question in payload["interrupts"]]) == (True, [EMAIL])
        done = await stage.run("asks", thread_id="t", command={"resume": {EMAIL: "yes"}})
        assert (done.status, done.output) == (RunStatus.success, "yes")


async def test_a_thread_whose_question_was_answered_has_failed_where_an_input_fails(backend: Backend) -> None:
    async def asks_once(input: Any, run: RunContext) -> Any:
        return 1 / input if input is not None else run.interrupt("?")

    async with backend.open({"asks": asks_once}) as stage:
        await stage.run("asks", thread_id="t")
        await stage.run("asks", thread_id="t", command={"resume": "yes"})
        failed = await stage.run("asks", 0, thread_id="t")
        assert (failed.status, stage.told(failed)[-1]) == (RunStatus.error, "thread_status_updated error")


async def test_an_answer_that_came_before_anything_was_asked_is_none_to_the_question_that_comes_then(
    backend: Backend,
) -> None:
    go_on = asyncio.Event()

    async def refunds(order: int, run: RunContext) -> Any:
        await go_on.wait()
        return run.interrupt(f"Refund {order}?")

    async with backend.open({"refunds": refunds}) as stage:
        first = await stage.start("refunds", 7, thread_id="t")
        early = await stage.start("refunds", thread_id="t", command={"resume": "yes"}, multitask="enqueue")
        go_on.set()
        assert (await within_patience(first.result())).status is RunStatus.interrupted
        refused = await within_patience(early.result())
        assert (refused.status, stage.end(refused).payload["error_type"]) == (RunStatus.error, "UnknownQuestionError")
        assert stage.told(refused)[-1] == "thread_status_updated interrupted"
        done = await stage.run("refunds", thread_id="t", command={"resume": "no"})
        assert (done.status, done.output) == (RunStatus.success, "no")


async def test_an_answer_that_waits_behind_another_is_none_to_the_question_that_comes_then(backend: Backend) -> None:
    go_on = asyncio.Event()

    async def refunds(orders: Any, run: RunContext) -> Any:
        for order in orders:
            run.interrupt(f"Refund {order}?")
            await go_on.wait()
        return "done"

    async with backend.open({"refunds": refunds}) as stage:
        await stage.run("refunds", [7, 8], thread_id="t")
        first, again = [await stage.start("refunds", thread_id="t", command={"resume": "yes"}) for _ in range(2)]
        go_on.set()
        assert (await within_patience(first.result())).status is RunStatus.interrupted
        refused = await within_patience(again.result())
        assert (refused.status, stage.end(refused).payload["error_type"]) == (RunStatus.error, "UnknownQuestionError")
        assert stage.told(refused)[-1] == "thread_status_updated interrupted"
        assert (await stage.run("refunds", thread_id="t", command={"resume": "yes"})).status is RunStatus.success


async def test_an_answer_to_an_agent_that_had_another_name_is_none_to_the_question_that_comes_then(
    backend: Backend,
) -> None:
    go_on = asyncio.Event()

    async def refunds(input: Any, run: RunContext) -> Any:
        run.interrupt("Refund 7?")
        await go_on.wait()
        return run.interrupt("Refund 8?")

    async def payments(input: Any, run: RunContext) -> Any:
        return await refunds(input, run)

    async with backend.open({"payments": payments}) as stage:
        await stage.run(refunds, thread_id="t")
        first, again = [await stage.start("payments", thread_id="t", command={"resume": "yes"}) for _ in range(2)]
        go_on.set()
        assert (await within_patience(first.result())).status is RunStatus.interrupted
        refused = await within_patience(again.result())
        assert (refused.status, stage.end(refused).payload["error_type"]) == (RunStatus.error, "UnknownQuestionError")


async def test_an_answer_to_a_call_of_a_tool_is_none_to_the_next_call(backend: Backend) -> None:
    go_on = asyncio.Event()

    class Calls:
        """An agent of a framework that asks about one tool call after the other, by ids as models give them."""

        name = "calls"
        uses_thread_state = True

        async def human_messages(self, run: RunContext) -> Sequence[dict[str, Any]]:
            return []

        async def run(self, run: RunContext) -> AgentResult:
            done = len(run.answers)
            if done:
                await go_on.wait()
            if done == 2:
                return AgentResult(list(run.answers))
            return AgentResult(interrupts=[{"id": f"call-{done + 1}", "value": "?"}], paused=None)

        async def rollback(self, run: RunContext) -> None:
            return None

    async with backend.open({"calls": Calls()}) as stage:
        await stage.run("calls", "go", thread_id="t")
        first, again = [await stage.start("calls", thread_id="t", command={"resume": "yes"}) for _ in range(2)]
        go_on.set()
        assert (await within_patience(first.result())).status is RunStatus.interrupted
        refused = await within_patience(again.result())
        assert (refused.status, stage.end(refused).payload["error_type"]) == (RunStatus.error, "UnknownQuestionError")
        done = await stage.run("calls", thread_id="t", command={"resume": "yes"})
        assert done.output == ["yes", "yes"]


async def test_an_answer_to_one_of_several_that_names_none_is_none_to_the_question_that_comes_then(
    backend: Backend,
) -> None:
    go_on = asyncio.Event()

    class Orders(AsksSeveral):
        """Asks about two calls at once, and about a third one when these are answered."""

        async def run(self, run: RunContext) -> AgentResult:
            if run.paused is None:
                asked = "call-1", "call-2"
            elif len(run.answers_by_id) == 2:
                await go_on.wait()
                asked = ("call-3",)
            else:
                return AgentResult(dict(run.answers_by_id))
            return AgentResult(interrupts=[{"id": each, "value": "?"} for each in asked], paused={})

    async with backend.open({"orders": Orders()}) as stage:
        await stage.run("orders", "go", thread_id="t")
        both = await stage.start("orders", thread_id="t", command={"resume": {"call-1": "yes", "call-2": "yes"}})
        bare = await stage.start("orders", thread_id="t", command={"resume": "yes"}, multitask="enqueue")
        go_on.set()
        assert (await within_patience(both.result())).status is RunStatus.interrupted
        refused = await within_patience(bare.result())
        assert (refused.status, stage.end(refused).payload["error_type"]) == (RunStatus.error, "UnknownQuestionError")
        assert stage.told(refused)[-1] == "thread_status_updated interrupted"
        done = await stage.run("orders", thread_id="t", command={"resume": "yes"})
        assert done.output == {"call-3": "yes"}


async def test_an_answer_whose_run_failed_is_the_answer_of_the_one_behind_it(backend: Backend) -> None:
    answered = asyncio.Event()

    async def fails_once(input: Any, run: RunContext) -> Any:
        run.interrupt("sure?")
        if not answered.is_set():
            answered.set()
            raise ValueError("the bank is away")
        return "done"

    async with backend.open({"pays": fails_once}) as stage:
        await stage.run("pays", thread_id="t")
        first, second = [await stage.start("pays", thread_id="t", command={"resume": "yes"}) for _ in range(2)]
        assert (await within_patience(first.result())).status is RunStatus.error
        assert (await within_patience(second.result())).status is RunStatus.success


async def test_an_answer_where_nothing_was_asked_fails_its_run_and_leaves_the_thread_as_it_was(
    backend: Backend,
) -> None:
    async def echo(input: Any) -> Any:
        return {"said": input}

    async with backend.open({"echo": echo, "asks": asks}) as stage:
        await stage.run("echo", "hello", thread_id="t")
        for thread in ("t", "new"):
            wrong = await stage.run("asks", thread_id=thread, command={"resume": "yes"})
            assert wrong.status is RunStatus.error
            assert wrong.error == (
                f"Thread {thread!r} does not wait for an answer, so there is nothing to resume; start a run with an input."
            )
            assert stage.end(wrong).payload["error_type"] == "NotPausedError"
            assert stage.told(wrong)[-1] == "thread_status_updated idle"
        state = await stage.manager._services.states.load("t")
        assert state is not None
        assert state.values == {"said": "hello"}


async def test_a_question_stays_open_whatever_becomes_of_the_runs_behind_it(backend: Backend) -> None:
    may_ask = asyncio.Event()

    async def asks_late(input: Any, run: RunContext) -> dict[str, Any]:
        await may_ask.wait()
        return await asks(input, run)

    async with backend.open({"asks": asks_late}) as stage:
        first = await stage.start("asks", "go", thread_id="t")
        gone = await stage.start("asks", thread_id="t", command={"resume": "never given"})
        await within_patience(gone.cancel(wait=True))
        may_ask.set()
        assert (await within_patience(first.result())).status is RunStatus.interrupted
        for action in ("interrupt", "rollback"):
            late = await stage.start("asks", thread_id="t", command={"resume": "x"}, after_seconds=3_600)
            await within_patience(late.cancel(action=action, wait=True))
        assert (await stage.run("asks", thread_id="t", command={"resume": 1})).status is RunStatus.interrupted
        assert (await stage.run("asks", thread_id="t", command={"resume": 2})).status is RunStatus.success


async def pays_with(input: Any, run: RunContext) -> dict[str, Any]:
    purse = run.context
    return {"asked": run.interrupt("sure?") and run.interrupt("really?"), "purse": purse}


async def test_a_run_that_answers_has_the_context_of_the_one_that_asked_unless_it_has_its_own(backend: Backend) -> None:
    async with backend.open({"pays": pays_with}) as stage:
        for own, expected in ((None, {"money": 5}), ({"money": 9}, {"money": 9})):
            await stage.run("pays", "now", thread_id="t", context={"money": 5})
            await stage.run("pays", thread_id="t", command={"resume": "yes"}, context=own)
            result = await stage.run("pays", thread_id="t", command={"resume": "yes"})
            assert result.output == {"asked": "yes", "purse": expected}


async def test_a_context_that_is_no_json_has_to_be_given_again(backend: Backend) -> None:
    async with backend.open({"pays": pays_with}) as stage:
        await stage.run("pays", "now", thread_id="t", context={"purse": object()})
        refused = await stage.run("pays", thread_id="t", command={"resume": "yes"})
        answered = await stage.run("pays", thread_id="t", command={"resume": "yes"}, context={"money": 9})
        result = await stage.run("pays", thread_id="t", command={"resume": "yes"})

    assert refused.error is not None
    assert refused.error.startswith("context = None")
    assert answered.status is RunStatus.interrupted
    assert result.output == {"asked": "yes", "purse": {"money": 9}}
