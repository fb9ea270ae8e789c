"""Budgets, prices, and models that never answer: the same with `run_agent` and with a `RunManager`."""

import asyncio
import functools
import logging
import operator
from collections.abc import Callable
from typing import Any

import pytest
from tests.contract.ways_to_run import ByManager, Way, both_ways, end_of, required, virtual

from trackside.harness import (
    AgentLimits,
    InvalidSpecError,
    RunContext,
    RunManager,
    RunSpec,
    RunStatus,
    StopPolicy,
    run_agent,
)
from trackside.testing import RecordingObserver, VirtualClock

type Use = Callable[[RunContext], None]


def call(run: RunContext, tokens: int = 5, cost_usd: float | None = 1.0, caller: str = "lead_agent") -> None:
    run.record_usage("m", input_tokens=tokens, output_tokens=0, cost_usd=cost_usd, caller=caller)


KINDS: dict[str, tuple[dict[str, Any], Use]] = {
    "tokens": ({"max_tokens": 15}, call),
    "cost": ({"max_cost_usd": 3.0}, call),
    "calls of models": ({"max_llm_calls": 3}, call),
    "calls of tools": ({"max_tool_calls": 3}, lambda run: run.record_tool_call("t")),
}
kinds = pytest.mark.parametrize("kind", KINDS)


@both_ways
@kinds
@virtual
async def test_a_run_may_use_what_it_may_and_is_stopped_by_what_is_more(way: Way, kind: str) -> None:
    budget, use = KINDS[kind]
    used: list[int] = []

    async def agent(times: int, run: RunContext) -> str:
        for i in range(times):
            use(run)
            used.append(i)
            await asyncio.sleep(1)
        return "done"

    for times, status in ((3, RunStatus.success), (9, RunStatus.error)):
        used.clear()
        seen = RecordingObserver()
        async with way(required(seen)) as runs:
            result = await runs.run(agent, times, **budget)
        assert result.status is status
        assert used == list(range(min(times, 4))), "it is stopped where it was when it had used too much"
        end = end_of(seen.events).payload
        assert end.get("error_type") == ("budget_exceeded" if times == 9 else None)
        if times == 9:
            (name,) = budget
            assert name in (result.error or "")
            assert end["completion_data"] == result.completion_data, "with what was used so far"


@both_ways
@kinds
@virtual
async def test_what_is_used_too_much_in_the_last_step_counts_although_the_agent_has_finished(
    way: Way, kind: str
) -> None:
    budget, use = KINDS[kind]

    async def agent(input: Any, run: RunContext) -> str:
        for _ in range(4):
            use(run)
        return "done"

    async with way() as runs:
        result = await runs.run(agent, **budget)
    assert result.status is RunStatus.error


@both_ways
@kinds
@virtual
async def test_a_function_in_a_thread_spends_the_budget_of_its_run(way: Way, kind: str) -> None:
    budget, use = KINDS[kind]
    seen: list[bool] = []

    def agent(input: Any, run: RunContext) -> str:
        for _ in range(9):
            use(run)
        while not run.cancelled:  # another thread sets it
            pass
        seen.append(run.cancelled)
        return "done"

    async with way() as runs:
        result = await runs.run(agent, **budget)
    assert (result.status, seen) == (RunStatus.error, [True])
    assert "the run " in (result.error or "")


@both_ways
@virtual
async def test_a_cost_that_adds_up_to_the_budget_does_not_exceed_it_by_a_rounding(way: Way) -> None:
    async def agent(input: Any, run: RunContext) -> None:
        for _ in range(3):
            call(run, cost_usd=0.1)

    async with way() as runs:
        assert functools.reduce(operator.add, [0.1] * 3) > 0.3, "so do floats"
        assert (await runs.run(agent, max_cost_usd=0.3)).status is RunStatus.success


@both_ways
@virtual
async def test_what_sub_agents_use_counts_against_the_run_and_what_started_runs_use_does_not(way: Way) -> None:
    async def child(input: Any, run: RunContext) -> None:
        call(run, tokens=100)

    async def parent(callers: list[str], run: RunContext) -> None:
        for caller in callers:
            call(run, caller=caller)
        await runs.run(child)
        await asyncio.sleep(1)

    async with way() as runs:
        assert (await runs.run(parent, ["lead_agent", "helper"], max_tokens=10)).status is RunStatus.success
        over = await runs.run(parent, ["lead_agent", "helper", "middleware"], max_tokens=10)
        assert over.status is RunStatus.error
        assert set(over.completion_data["token_usage_by_caller"]) == {"lead_agent", "helper", "middleware"}


@both_ways
@virtual
async def test_calls_without_a_price_do_not_exhaust_a_budget_and_that_is_said_once(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    async def agent(input: Any, run: RunContext) -> None:
        for _ in range(5):
            call(run, cost_usd=None)
        call(run, cost_usd=0.5)

    async with way() as runs:
        result = await runs.run(agent, max_cost_usd=1.0)
    assert result.status is RunStatus.success
    assert result.completion_data["cost_usd"] == 0.5
    warnings = [record.message for record in caplog.records if "max_cost_usd does not count" in record.message]
    assert len(warnings) == 1
    assert "of m" in warnings[0]


@both_ways
@pytest.mark.parametrize("field", ["max_tokens", "max_cost_usd", "max_llm_calls", "max_tool_calls"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "many", [1]])
@virtual
async def test_a_budget_that_cannot_be_one_is_refused_by_its_name(way: Way, field: str, value: Any) -> None:
    async with way() as runs:
        with pytest.raises(InvalidSpecError, match=f"^{field} ="):
            await runs.run(call, **{field: value})
    with pytest.raises(InvalidSpecError, match=rf"^limits\['a'\]\.{field} ="):
        RunManager({"a": call}, limits={"a": AgentLimits(**{field: value})})


@virtual
async def test_the_budget_of_a_spec_takes_the_place_of_its_agents_one_by_one() -> None:
    async def agent(input: Any, run: RunContext) -> None:
        for _ in range(3):
            call(run)
            run.record_tool_call("t")
        await asyncio.sleep(1)

    limits = {"agent": AgentLimits(max_tokens=10, max_tool_calls=3)}
    async with RunManager({"agent": agent}, limits=limits, clock=VirtualClock()) as manager:
        for asked, status in (
            ({}, RunStatus.error),
            ({"max_tokens": 15}, RunStatus.success),
            ({"max_tokens": 15, "max_tool_calls": 2}, RunStatus.error),
            ({"max_tool_calls": 9}, RunStatus.error),
        ):
            result = await (await manager.start(RunSpec("agent", **asked))).result()  # type: ignore[arg-type]
            assert result.status is status, asked


class Prices:
    """A price list that records what it was asked."""

    def __init__(self, price: Any) -> None:
        self.price = price
        self.asked: list[tuple[str, dict[str, int]]] = []

    def cost_usd(self, model: str, **tokens: int) -> Any:
        self.asked.append((model, tokens))
        if isinstance(self.price, BaseException):
            raise self.price
        return self.price


async def priced(agent: Any, way: Way, prices: Prices, **asked: Any) -> Any:
    if way is ByManager:
        async with RunManager(prices=prices, clock=VirtualClock()) as manager:
            return await (await manager.start(RunSpec(agent, **asked))).result()
    return await run_agent(agent, prices=prices, **asked)


async def two_calls(input: Any, run: RunContext) -> None:
    call(run, cost_usd=0.25)
    run.record_usage("n", input_tokens=7, output_tokens=3, cache_read_tokens=2, reasoning_tokens=1)


@both_ways
@virtual
async def test_the_price_list_is_asked_where_a_call_does_not_say_its_cost(way: Way) -> None:
    prices = Prices(0.5)
    result = await priced(two_calls, way, prices)
    tokens = {"input_tokens": 7, "output_tokens": 3, "cache_read_tokens": 2, "reasoning_tokens": 1}
    assert prices.asked == [("n", tokens)]
    assert result.completion_data["cost_usd"] == 0.75
    assert result.completion_data["token_usage_by_model"]["n"]["cost_usd"] == 0.5
    assert (await priced(two_calls, way, Prices(0.5), max_cost_usd=0.7)).status is RunStatus.error


@both_ways
@pytest.mark.parametrize("price", [ValueError("down"), -1, float("nan"), "0.5", True])
@virtual
async def test_a_price_list_that_fails_or_talks_nonsense_costs_a_run_its_cost_and_nothing_else(
    way: Way, price: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "trackside.journal"):
        result = await priced(two_calls, way, Prices(price))
    assert result.status is RunStatus.success
    assert result.completion_data["cost_usd"] == 0.25
    assert "cost_usd" not in result.completion_data["token_usage_by_model"]["n"], "unknown is not zero"
    assert caplog.records


@both_ways
@virtual
async def test_a_model_that_the_price_list_does_not_know_has_no_cost_and_one_that_is_free_costs_nothing(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = await priced(two_calls, way, Prices(None))
    assert "cost_usd" not in unknown.completion_data["token_usage_by_model"]["n"]
    free = await priced(two_calls, way, Prices(0))
    assert free.completion_data["token_usage_by_model"]["n"]["cost_usd"] == 0
    assert not caplog.records


@both_ways
@virtual
async def test_a_run_whose_models_never_answered_has_failed_whatever_its_agent_says(way: Way) -> None:
    async def agent(answers: int, run: RunContext) -> str:
        run.record_model_failure(ConnectionError("refused"))
        for _ in range(answers):
            call(run)
        run.record_usage("m", input_tokens=1, output_tokens=0, answered=False)
        run.record_model_failure(TimeoutError("too slow"))
        return "all is well"

    seen = RecordingObserver()
    async with way(required(seen)) as runs:
        result = await runs.run(agent, 0, run_id="lost")
        assert (await runs.run(agent, 1)).status is RunStatus.success, "an answer is an answer"
    assert result.status is RunStatus.error
    assert "too slow" in (result.error or "")
    assert end_of(seen.events, "lost").payload["error_type"] == "TimeoutError"
    assert result.completion_data["total_tokens"] == 1


@both_ways
@virtual
async def test_what_an_agent_uses_while_it_cleans_up_does_not_cancel_it_once_more(way: Way) -> None:
    cleaned: list[float] = []

    async def agent(input: Any, run: RunContext) -> None:
        call(run)
        call(run)
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            call(run, caller="clean-up")
            await asyncio.sleep(1)
            cleaned.append(asyncio.get_running_loop().time())
            raise

    async with way() as runs:
        result = await runs.run(agent, max_llm_calls=1)
    assert cleaned == [1.0]
    assert result.status is RunStatus.error


@virtual
async def test_an_agent_that_uses_more_and_more_keeps_its_time_to_stop_by_itself() -> None:
    async def agent(input: Any, run: RunContext) -> None:
        while not run.cancelled:
            call(run)
            await asyncio.sleep(1)
        call(run)
        await asyncio.sleep(5)
        seen.append("stopped by itself")

    seen: list[str] = []
    async with ByManager(stopping=StopPolicy(cancel_after=10.0)) as runs:
        await runs.run(agent, max_llm_calls=1)
    assert seen == ["stopped by itself"]
