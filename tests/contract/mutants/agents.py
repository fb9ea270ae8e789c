"""Adapters, each broken in one way, and the test of the contract that has to notice."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import replace
from typing import Any

import pytest
from tests.contract.agents.callables_scripts import CallablesScripts

from trackside.harness.adapters.callables import CallableAgent
from trackside.harness.context import AgentResult, RunContext, bind_run
from trackside.harness.ids import new_id
from trackside.testing import AgentContract


class Sound:
    """Runs a function as our own adapter does; the others break this adapter. All agents share `memory`."""

    uses_thread_state = True

    def __init__(self, function: Callable[..., Any], memory: dict[str, Any]) -> None:
        self.inner = CallableAgent(function)
        self.name = self.inner.name
        self.memory = memory

    async def human_messages(self, run: RunContext) -> Sequence[Mapping[str, Any]]:
        return await self.inner.human_messages(run)

    async def run(self, run: RunContext) -> AgentResult:
        return await self.inner.run(run)

    async def rollback(self, run: RunContext) -> None:
        await self.inner.rollback(run)


class AnnouncesTwice(Sound):
    async def human_messages(self, run: RunContext) -> Sequence[Mapping[str, Any]]:
        messages = await super().human_messages(run)
        return [*messages, *({**message, "id": new_id()} for message in messages)]


class AnnouncesNothing(Sound):
    async def human_messages(self, run: RunContext) -> Sequence[Mapping[str, Any]]:
        return []


class CountsTwice(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        record = run.record_usage
        run.record_usage = lambda *asked, **used: [record(*asked, **used) for _ in range(2)]  # type: ignore[method-assign]
        return await super().run(run)


class CreditsTheLead(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        record = run.record_usage
        run.record_usage = lambda *asked, **used: record(*asked, **used | {"caller": "lead_agent"})  # type: ignore[method-assign]
        return await super().run(run)


class CountsInTheEnd(Sound):
    """Reports nothing about a run before it ends."""

    async def run(self, run: RunContext) -> AgentResult:
        told: list[Callable[[], None]] = []
        record = run.record_usage
        run.record_usage = lambda *asked, **used: told.append(lambda: record(*asked, **used))  # type: ignore[method-assign]
        try:
            return await super().run(run)
        finally:
            for tell in told:
                tell()


class ForgetsTheUsageOfFailures(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        told: list[Callable[[], None]] = []
        record = run.record_usage
        run.record_usage = lambda *asked, **used: told.append(lambda: record(*asked, **used))  # type: ignore[method-assign]
        result = await super().run(run)
        for tell in told:
            tell()
        return result


class CountsNoTools(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        run.record_tool_call = lambda name: None  # type: ignore[method-assign]
        return await super().run(run)


class ListsCallsTwice(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        run.begin_call("chat", CallablesScripts.model).end()
        return await super().run(run)


class AnswersForFailures(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        try:
            return await super().run(run)
        except Exception as exc:
            return AgentResult(output=f"sorry: {exc}")


class GivesFailuresAnotherClass(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        try:
            return await super().run(run)
        except Exception as exc:
            raise RuntimeError(f"the agent failed: {exc}") from exc


class HidesLostModels(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        run.record_model_failure = lambda error: None  # type: ignore[method-assign]
        return await super().run(run)


class LeavesItsCodeRunning(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        self.memory["left"] = left = asyncio.ensure_future(super().run(run))
        return await asyncio.shield(left)


class KeepsWhatIsRolledBack(Sound):
    """Has a memory of its own, and writes to it before it knows how the run ends."""

    uses_thread_state = False

    async def run(self, run: RunContext) -> AgentResult:
        heard = self.memory.get(run.thread_id, 0)
        self.memory[run.thread_id] = heard + 1
        run.values = {"heard": heard}
        return await super().run(run)


class ForgetsThreads(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        run.values = {}
        return await super().run(run)


class RemembersOtherThreads(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        run.values = self.memory.get("values", {})
        result = await super().run(run)
        self.memory["values"] = result.values or {}
        return result


class StreamsNothing(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        run.send = lambda *part, **where: None  # type: ignore[method-assign]
        return await super().run(run)


class StreamsObjects(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        result = await super().run(run)
        run.send({"answer": {"good morning"}}, "values")
        return result


class GivesObjects(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        return replace(await super().run(run), output=object())


class AsksWithoutAQuestion(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        result = await super().run(run)
        return replace(result, interrupts=[{"id": asked["id"], "value": None} for asked in result.interrupts])


class AsksAgain(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        run.answers = ()
        return await super().run(run)


class AnswersItself(Sound):
    """Takes an answer to anything for an answer to its question."""

    uses_thread_state = False

    async def run(self, run: RunContext) -> AgentResult:
        if run.resuming:
            run.answers = [run.resume]
        return await super().run(run)


class LosesItsRun(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        return await asyncio.create_task(super().run(run), context=Context())


class SeesTheFirstRun(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        bind_run(self.memory.setdefault("run", run))
        return await super().run(run)


class SoundLeaver(Sound):
    """Opens something when it runs, and closes it in `leave`."""

    async def run(self, run: RunContext) -> AgentResult:
        self.memory[run.run_id] = asyncio.create_task(asyncio.Event().wait(), name="pump of the framework")
        return await super().run(run)

    async def leave(self, run: RunContext) -> None:
        if (pump := self.memory.pop(run.run_id, None)) is not None:
            pump.cancel()
            await asyncio.wait({pump})


class CannotBeLeft(Sound):
    async def leave(self, run: RunContext) -> None:
        raise RuntimeError("cannot close")


class CannotSayWhetherItAsks(Sound):
    async def asks(self, run: RunContext) -> bool:
        raise RuntimeError("no idea")


class PausesWithAnObject(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        result = await super().run(run)
        return replace(result, paused=object()) if result.interrupts else result


class KeepsItsOutput(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        return replace(await super().run(run), output=None)


class CountsToolsTwice(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        record = run.record_tool_call
        run.record_tool_call = lambda name: [record(name) for _ in range(2)]  # type: ignore[method-assign]
        return await super().run(run)


class NamesNoModel(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        record = run.record_usage
        run.record_usage = lambda model, **used: record("a model", **used)  # type: ignore[method-assign]
        return await super().run(run)


class FailsAgainWhereItFailed(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        if run.thread_id in self.memory:
            raise RuntimeError("the transcript of this thread is damaged")
        try:
            return await super().run(run)
        except Exception:
            self.memory[run.thread_id] = "damaged"
            raise


class KeepsWhatAFirstRunLeft(KeepsWhatIsRolledBack):
    async def run(self, run: RunContext) -> AgentResult:
        if run.thread_id not in self.memory:
            return await super().run(run)
        run.values = {"heard": self.memory[run.thread_id]}
        result = await Sound.run(self, run)
        self.memory[run.thread_id] += 1
        return result


class HearsTheLatestRun(Sound):
    latest: RunContext

    async def human_messages(self, run: RunContext) -> Sequence[Mapping[str, Any]]:
        self.latest = run
        await asyncio.sleep(0)
        return await super().human_messages(self.latest)


class ShowsNoQuestion(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        send = run.send
        run.send = lambda data, *more, **where: (  # type: ignore[method-assign]
            None if "__interrupt__" in data else send(data, *more, **where)
        )
        return await super().run(run)


class GoesOnWhenItIsStopped(Sound):
    async def run(self, run: RunContext) -> AgentResult:
        inner = asyncio.create_task(super().run(run))
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            inner.cancel()


MUTANTS: dict[type[Sound], str] = {
    AnnouncesTwice: "test_a_human_message_is_announced_once_and_counted",
    AnnouncesNothing: "test_a_human_message_is_announced_once_and_counted",
    CountsTwice: "test_calls_are_counted_by_model_and_caller",
    CreditsTheLead: "test_calls_of_an_agent_below_are_credited_to_it",
    CountsInTheEnd: "test_a_budget_stops_the_run_that_exceeds_it",
    ForgetsTheUsageOfFailures: "test_what_an_agent_raises_is_told_as_it_is",
    CountsNoTools: "test_calls_of_tools_are_counted",
    ListsCallsTwice: "test_calls_are_counted_by_model_and_caller",
    AnswersForFailures: "test_what_an_agent_raises_is_told_as_it_is",
    GivesFailuresAnotherClass: "test_what_an_agent_raises_is_told_as_it_is",
    HidesLostModels: "test_a_model_that_never_answers_is_an_error",
    LeavesItsCodeRunning: "test_a_cancelled_agent_has_really_stopped",
    KeepsWhatIsRolledBack: "test_a_rollback_leaves_the_thread_as_it_was",
    ForgetsThreads: "test_a_thread_remembers_and_others_do_not",
    RemembersOtherThreads: "test_a_thread_remembers_and_others_do_not",
    StreamsNothing: "test_a_follower_sees_what_the_agent_came_to",
    StreamsObjects: "test_a_follower_sees_what_the_agent_came_to",
    GivesObjects: "test_the_output_is_plain_json",
    AsksWithoutAQuestion: "test_a_question_interrupts_the_run_and_its_answer_resumes",
    AsksAgain: "test_a_question_is_answered_by_its_id",
    AnswersItself: "test_an_answer_where_nobody_asked_is_refused",
    LosesItsRun: "test_an_agents_code_sees_its_run",
    SeesTheFirstRun: "test_runs_side_by_side_keep_apart",
    CannotBeLeft: "test_a_follower_sees_what_the_agent_came_to",
    CannotSayWhetherItAsks: "test_a_cancelled_agent_has_really_stopped",
    PausesWithAnObject: "test_a_question_interrupts_the_run_and_its_answer_resumes",
    KeepsItsOutput: "test_a_run_has_an_opening_a_closing_and_its_output",
    CountsToolsTwice: "test_a_budget_that_is_just_enough_stops_nothing",
    NamesNoModel: "test_calls_have_the_price_of_their_model",
    FailsAgainWhereItFailed: "test_a_thread_goes_on_after_a_failure",
    KeepsWhatAFirstRunLeft: "test_a_rollback_of_a_threads_first_run_leaves_nothing",
    HearsTheLatestRun: "test_one_agent_in_several_runs_at_once_keeps_them_apart",
    ShowsNoQuestion: "test_a_follower_sees_what_is_asked",
    GoesOnWhenItIsStopped: "test_a_timeout_stops_the_agent",
}


class Scripts:
    """What a framework would provide whose agents are functions and whose adapter is `kind`."""

    model = CallablesScripts.model

    def __init__(self, kind: type[Sound]) -> None:
        self._kind = kind
        self._memory: dict[str, Any] = {}

    def __getattr__(self, what: str) -> Any:
        make = getattr(CallablesScripts(), what)
        return make and (lambda *asked, **options: self._kind(make(*asked, **options), self._memory))


def suite(kind: type[Sound]) -> type[AgentContract]:
    class TestSuite(AgentContract):
        virtual_time = True

        @pytest.fixture
        def agents(self) -> Scripts:
            return Scripts(kind)

    return TestSuite
