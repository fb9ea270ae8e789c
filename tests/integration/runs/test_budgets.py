"""What a run may use: checked at each use, and reported with what was used so far."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.integration.runs.stage import Backend, in_memory, within_patience

from trackside import InvalidSpecError, RunContext, RunManager, RunSpec, RunStatus
from trackside.harness.types import AgentLimits

SPENDS = {"max_tokens": 10, "max_cost_usd": 1.0, "max_llm_calls": 1, "max_tool_calls": 1}


async def spender(input: Any, run: RunContext) -> str:
    """Report calls of a model, or of a tool, to the run as often as the input says."""
    for _ in range(input["times"]):
        if input["what"] == "tool":
            run.record_tool_call("search")
        else:
            run.record_usage("small", input_tokens=6, output_tokens=4, cost_usd=1.0)
        await asyncio.sleep(0)
    return "done"


async def test_a_run_that_uses_more_than_it_may_is_stopped_and_one_that_uses_all_is_not(backend: Backend) -> None:
    async with backend.open({"spender": spender}) as stage:
        for name, most in SPENDS.items():
            what = "tool" if name == "max_tool_calls" else "model"
            exact = await stage.run("spender", {"what": what, "times": 1}, thread_id="t", **{name: most})
            assert exact.status is RunStatus.success, name
            over = await stage.run("spender", {"what": what, "times": 1_000}, thread_id="t", **{name: most})
            assert over.status is RunStatus.error, name
            end = stage.end(over)
            assert (end.event_type, end.payload["status"], end.payload["error_type"]) == (
                "run_failed",
                "error",
                "budget_exceeded",
            )
            assert name in str(over.error), "which budget, and how much was used"
            used = end.payload["completion_data"]
            assert used == over.completion_data
            assert (used["llm_call_count"], used["tool_call_count"]) == ((0, 2) if what == "tool" else (2, 0))
            assert used["total_tokens"] == 10 * used["llm_call_count"]
            assert (await stage.record(over)).status is RunStatus.error
            if stage.store is not None:
                row = await stage.store.run(over.run_id)
                assert row is not None
                assert (row.error_type, row.total_input_tokens) == ("budget_exceeded", used["total_input_tokens"])


async def test_the_limits_of_an_agent_count_where_a_run_has_none_of_its_own(backend: Backend) -> None:
    limits = {"spender": AgentLimits(max_llm_calls=3)}
    async with backend.open({"spender": spender, "other": spender}, limits=limits) as stage:
        ten = {"what": "model", "times": 10}
        assert (await stage.run("spender", ten)).error is not None
        assert (await stage.run("spender", ten, max_llm_calls=10)).status is RunStatus.success
        assert (await stage.run("other", ten)).status is RunStatus.success


async def test_a_cost_that_is_not_known_is_not_one_that_exceeds_a_budget(backend: Backend) -> None:
    async def agent(input: Any, run: RunContext) -> None:
        run.record_usage("unheard of", input_tokens=10**9, output_tokens=1)

    async with backend.open({"agent": agent}) as stage:
        result = await stage.run("agent", max_cost_usd=0.000001)
        assert result.status is RunStatus.success
        assert "cost_usd" not in result.completion_data, "absent, and never 0"


async def test_what_an_agent_does_after_its_budget_is_spent_counts_and_changes_nothing(backend: Backend) -> None:
    async def deaf(input: Any, run: RunContext) -> str:
        run.record_usage("small", input_tokens=11, output_tokens=0)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            run.record_usage("small", input_tokens=5, output_tokens=0, caller="cleaner")
        return "done all the same"

    async with backend.open({"deaf": deaf}) as stage:
        result = await stage.run("deaf", max_tokens=10)
        assert (result.status, result.completion_data["total_tokens"]) == (RunStatus.error, 16)
        assert stage.end(result).payload["error_type"] == "budget_exceeded"
        assert set(result.completion_data["token_usage_by_caller"]) == {"lead_agent", "cleaner"}


async def test_a_plain_function_that_spends_too_much_is_waited_for(backend: Backend) -> None:
    def plain(input: Any, run: RunContext) -> str:
        run.record_usage("small", input_tokens=11, output_tokens=0)
        while not run.cancelled:
            pass
        return "saw it"

    async with backend.open({"plain": plain}) as stage:
        result = await stage.run("plain", max_tokens=10)
        assert (result.status, stage.end(result).payload["error_type"]) == (RunStatus.error, "budget_exceeded")


async def test_a_thread_sees_at_once_that_it_has_used_too_much(backend: Backend) -> None:
    seen: list[bool] = []

    def plain(_: Any, run: RunContext) -> None:
        for _ in range(2):
            run.record_tool_call("pay")
            seen.append(run.cancelled)

    async with backend.open({"plain": plain}) as stage:
        result = await stage.run("plain", max_tool_calls=1)
        assert stage.end(result).payload["error_type"] == "budget_exceeded"
        assert seen == [False, True]


async def test_a_thread_that_tells_in_the_agents_last_step_of_too_much_is_heard(backend: Backend) -> None:
    async def agent(_: Any, run: RunContext) -> str:
        run.record_tool_call("pay")
        asyncio.get_running_loop().run_in_executor(None, run.record_tool_call, "pay")
        while not run.cancelled:
            pass  # the loop takes no turn between the thread's report and the agent's end
        return "paid"

    async with backend.open({"agent": agent}) as stage:
        result = await stage.run("agent", max_tool_calls=1)
        assert stage.end(result).payload["error_type"] == "budget_exceeded"


@in_memory
@pytest.mark.parametrize("value", [0, -1, True, "9", 2.5, float("nan")], ids=repr)
async def test_a_budget_that_is_none_is_refused_by_name(backend: Backend, value: Any) -> None:
    async with backend.open({"spender": spender}) as stage:
        for name in SPENDS:
            if name == "max_cost_usd" and value == 2.5:
                continue
            with pytest.raises(InvalidSpecError, match=f"^{name} = ") as refused:
                await stage.start("spender", **{name: value})
            assert refused.value.details["value"] is value
            with pytest.raises(InvalidSpecError, match=name):
                RunManager({"spender": spender}, limits={"spender": AgentLimits(**{name: value})})
        assert (await within_patience(stage.manager.start(RunSpec("spender", {"what": "", "times": 0})))).run_id
