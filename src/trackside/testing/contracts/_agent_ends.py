"""How an agent's runs end when they fail or are stopped."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from trackside.harness.types import CancelAction, RunStatus
from trackside.testing.contracts._agent_stage import Arrival, Played, Stage, scripted, stage
from trackside.testing.contracts._promise import Contract, promise
from trackside.testing.contracts.scripted import ScriptedAgents

_TIMEOUT = 1.0  # seconds: time enough for an agent to come to where it waits


class Broken(Exception):
    """What an agent's code raises in these tests."""


class Ended(BaseException):
    """What only the top of a program should catch."""


class EndingPromises(Contract):
    """The part of an `AgentContract` that is about failures and about being stopped."""

    keeps_steps: ClassVar[bool] = False
    """A thread remembers what was complete of a run that was stopped, but not rolled back: what it was asked, at least."""

    @pytest.mark.parametrize("error", [Broken("the tooth is lost"), Ended("the tooth is lost")], ids=["", "base"])
    @promise("failures told")
    async def test_what_an_agent_raises_is_told_as_it_is(self, agents: ScriptedAgents, error: BaseException) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            played = await scene.play(scripted(agents, "fails")(error))
        _check_failure(played, type(error).__name__, says="the tooth is lost")
        played.has_used(1)
        trace = played.end.get("traceback") or ""
        assert "the tooth is lost" in trace, f"its traceback does not show it: {trace!r:.200}"
        assert played.thread == ["busy", "error"], f"the thread's statuses were {played.thread}"

    @pytest.mark.parametrize("swallows", [False, True], ids=["raised", "swallowed"])
    @promise("failures told")
    async def test_a_model_that_never_answers_is_an_error(self, agents: ScriptedAgents, swallows: bool) -> None:  # noqa: FBT001  # a parameter of the test
        async with stage(virtual=self.virtual_time) as scene:
            played = await scene.play(scripted(agents, "loses_model")(Broken("no route"), swallows=swallows))
        _check_failure(played, "Broken", says="no route")
        failed = played.used.get("llm_error_count", 0)
        assert failed >= 1, "no call of a model was counted as failed"

    @promise("failures told")
    async def test_the_frameworks_own_limit_of_steps_is_an_error(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            played = await scene.play(scripted(agents, "never_ends")())
        _check_failure(played)
        calls = played.used["llm_call_count"]
        assert calls > 0, "no call was counted"
        played.has_used(calls)

    @promise("failures told")
    async def test_a_thread_goes_on_after_a_failure(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            await scene.play(scripted(agents, "fails")(Broken("the tooth is lost")), thread_id="thread")
            played = await scene.play(scripted(agents, "says")("well"), thread_id="thread")
        played.has_answered("well")
        assert played.thread == ["busy", "idle"], f"the thread's statuses were {played.thread}"

    @pytest.mark.parametrize("action", list(CancelAction), ids=str)
    @promise("stopped")
    async def test_a_cancelled_agent_has_really_stopped(self, agents: ScriptedAgents, action: CancelAction) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            arrival = Arrival()
            handle = await scene.start(scripted(agents, "waits")(arrival))
            await scene.reach(handle, arrival)
            await handle.cancel(action=action)
            played = await scene.outcome(handle)
        played.has_ended(RunStatus.cancelled, calls=1)
        assert played.end["cancel_mode"] == action.value, f"cancel_mode is {played.end['cancel_mode']!r}"
        _check_stopped(arrival)

    @promise("stopped")
    async def test_a_timeout_stops_the_agent(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            arrival = Arrival()
            handle = await scene.start(scripted(agents, "waits")(arrival), timeout=_TIMEOUT)
            await scene.reach(handle, arrival)
            played = await scene.outcome(handle)
        played.has_ended(RunStatus.timeout, calls=1)
        assert played.end["error_type"] == "TimeoutError", f"error_type is {played.end['error_type']!r}"
        _check_stopped(arrival)

    @promise("stopped")
    async def test_a_manager_that_closes_stops_the_agent(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            arrival = Arrival()
            handle = await scene.start(scripted(agents, "waits")(arrival))
            await scene.reach(handle, arrival)
            await scene.manager.aclose()
            assert (await handle.result()).status is RunStatus.cancelled
        _check_stopped(arrival)

    @pytest.mark.parametrize("ends", [RunStatus.cancelled, RunStatus.timeout], ids=str)
    @promise("partial work", claim="keeps_steps")
    async def test_a_stopped_run_leaves_what_was_complete(self, agents: ScriptedAgents, ends: RunStatus) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            arrival = Arrival()
            timeout = _TIMEOUT if ends is RunStatus.timeout else None
            handle = await scene.start(scripted(agents, "waits")(arrival), thread_id="thread", timeout=timeout)
            await scene.reach(handle, arrival)
            if timeout is None:
                await handle.cancel(action=CancelAction.interrupt)
            (await scene.outcome(handle)).has_ended(ends, calls=1)
            (await scene.play(scripted(agents, "remembers")(), thread_id="thread")).has_answered("2")

    @promise("rollback")
    async def test_a_rollback_leaves_the_thread_as_it_was(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            remembers = scripted(agents, "remembers")()
            (await scene.play(remembers, thread_id="thread")).has_answered("1")
            await _rolled_back(scene, agents, "thread")
            (await scene.play(remembers, thread_id="thread")).has_answered("2")

    @promise("rollback")
    async def test_a_rollback_of_a_threads_first_run_leaves_nothing(self, agents: ScriptedAgents) -> None:
        async with stage(virtual=self.virtual_time) as scene:
            await _rolled_back(scene, agents, "thread")
            (await scene.play(scripted(agents, "remembers")(), thread_id="thread")).has_answered("1")


async def _rolled_back(scene: Stage, agents: ScriptedAgents, thread_id: str) -> None:
    arrival = Arrival()
    handle = await scene.start(scripted(agents, "waits")(arrival), "forget this", thread_id=thread_id)
    await scene.reach(handle, arrival)
    await handle.cancel(action=CancelAction.rollback)
    (await scene.outcome(handle)).has_ended(RunStatus.cancelled, calls=1)


def _check_failure(played: Played, error_type: str | None = None, *, says: str = "") -> None:
    end: Any = played.end
    assert played.result.status is RunStatus.error, f"the run ended as {played.result.status} instead of error"
    error = end["error"]
    assert error, "it says nothing"
    told = end["error_type"]
    assert told, "its class is not told"
    assert error_type is None or told == error_type, (
        f"its class is told as {told} instead of {error_type}: {error:.200}"
    )
    assert says in error, f"it says {error!r:.200}"
    assert played.result.error == error, f"the caller is told {played.result.error!r:.200} instead of {error!r:.200}"


def _check_stopped(arrival: Arrival) -> None:
    assert arrival.task is None or arrival.task.done(), "the run has ended, and its agent's code still waits"
