"""What is counted of runs, from the events of real managers and from those of somebody else's harness."""

import asyncio
import math
from typing import Any

import pytest
from tests.integration.metrics.conftest import ended, shown

from trackside.app.observers.metrics import MetricsObserver, _counting
from trackside.harness import LifecycleEventType, ObserverBinding, RunContext, RunManager, RunSpec
from trackside.testing.events import make_event, make_run


async def spending(input: str, run: RunContext) -> str:
    run.record_usage(
        "small", input_tokens=10, output_tokens=4, cache_read_tokens=6, cache_write_tokens=3, cost_usd=0.25
    )
    run.record_usage("large", input_tokens=100, output_tokens=40, reasoning_tokens=30, cost_usd=1.0)
    run.record_tool_call("search")
    return input


async def failing(input: Any) -> None:
    raise LookupError(input)


async def asking(input: Any, run: RunContext) -> None:
    run.interrupt("go on?")


async def waiting(begun: asyncio.Event | None) -> None:
    if begun is not None:
        begun.set()
    await asyncio.Event().wait()


async def searching(begun: asyncio.Event, run: RunContext) -> None:
    with run.call("execute_tool", "search"):
        await waiting(begun)


def manager_of(metrics: MetricsObserver) -> RunManager:
    agents = {"spending": spending, "failing": failing, "asking": asking, "waiting": waiting, "searching": searching}
    return RunManager(agents, observers=[ObserverBinding(metrics, required=True)])


async def test_every_way_in_which_a_run_ends_is_counted_under_its_agent_and_status(metrics: MetricsObserver) -> None:
    async with manager_of(metrics) as manager:
        for agent in ("spending", "failing", "asking"):
            await (await manager.start(RunSpec(agent, "hello"))).result()
        await (await manager.start(RunSpec("waiting", timeout=0.01))).result()
        begun = asyncio.Event()
        cancelled = await manager.start(RunSpec("waiting", begun))
        await begun.wait()
        await manager.cancel(cancelled.run_id)
        await cancelled.result()

    values = shown(metrics)
    runs = {labels: count for labels, count in values["trackside_runs_total"].items() if count}
    assert runs == {
        ("spending", "success"): 1,
        ("failing", "error"): 1,
        ("asking", "interrupted"): 1,
        ("waiting", "timeout"): 1,
        ("waiting", "cancelled"): 1,
    }
    assert values["trackside_run_duration_seconds_count"] == runs
    assert values["trackside_run_failures_total"] == {("LookupError",): 1, ("TimeoutError",): 1}
    assert values["trackside_runs_started_total"]["waiting",] == 2
    assert values["trackside_human_messages_total"]["failing",] == 1


async def test_tokens_cost_and_calls_are_counted_by_model_and_agent(metrics: MetricsObserver) -> None:
    async with manager_of(metrics) as manager:
        for _ in range(2):
            await (await manager.start(RunSpec("spending", "hello"))).result()

    values = shown(metrics)
    assert values["trackside_run_tokens_total"] == {
        ("input", "small"): 20,
        ("output", "small"): 8,
        ("cache_read", "small"): 12,
        ("cache_write", "small"): 6,
        ("reasoning", "small"): 0,
        ("input", "large"): 200,
        ("output", "large"): 80,
        ("cache_read", "large"): 0,
        ("cache_write", "large"): 0,
        ("reasoning", "large"): 60,
    }
    assert values["trackside_run_cost_usd_total"] == {("spending",): 2.5}
    assert values["trackside_model_cost_usd_total"] == {("small",): 0.5, ("large",): 2.0}
    assert values["trackside_llm_calls_total"] == {("spending",): 4}
    assert values["trackside_tool_calls_total"] == {("spending",): 2}


async def test_calls_are_counted_by_how_long_they_took_and_whether_they_failed(metrics: MetricsObserver) -> None:
    calls = [
        {"kind": "chat", "name": "small", "at": 0.0, "seconds": 2.0, "error_type": "TimeoutError"},
        {"kind": "execute_tool", "name": "search", "caller": "lead_agent", "at": 2.0, "seconds": 0.2},
        {"kind": "execute_tool", "name": "search", "at": 3.0, "seconds": 0.2, "error_type": "OSError"},
        {"kind": "chat", "name": "counted by hand", "at": 4.0, "seconds": 0.0},
        {"kind": "a new kind", "seconds": 1.0},
    ]
    await metrics.on_events(ended(data={"llm_error_count": 3, "calls": calls}))

    values = shown(metrics)
    assert values["trackside_call_duration_seconds_count"] == {("chat",): 1, ("execute_tool",): 2, ("invoke_agent",): 0}
    assert values["trackside_call_duration_seconds_sum"]["chat",] == 2.0
    assert values["trackside_tool_errors_total"] == {("chat",): 1}
    assert values["trackside_llm_errors_total"] == {("chat",): 3}


async def test_a_call_of_a_tool_that_was_broken_off_has_not_failed(metrics: MetricsObserver) -> None:
    async with manager_of(metrics) as manager:
        begun = asyncio.Event()
        handle = await manager.start(RunSpec("searching", begun))
        await begun.wait()
        await manager.cancel(handle.run_id)
        await handle.result()
    await metrics.on_events(
        ended(data={"calls": [{"kind": "execute_tool", "name": "search", "seconds": 0.2, "error_type": "unfinished"}]})
    )

    values = shown(metrics)
    assert values["trackside_tool_calls_total"]["searching",] == 1
    assert values["trackside_tool_errors_total"] == {("searching",): 0, ("chat",): 0}
    assert values["trackside_call_duration_seconds_count"]["execute_tool",] == 2


async def test_durations_fall_into_the_buckets_that_were_asked_for(open_metrics: Any) -> None:
    metrics = open_metrics(buckets=[1, 2.5])
    for seconds in (0.5, 1.0, 2.0, 9.0):
        await metrics.on_events(ended(data={"duration_seconds": seconds}))

    buckets = shown(metrics)["trackside_run_duration_seconds_bucket"]
    assert {bound: count for (_, bound, _), count in buckets.items()} == {"1.0": 2, "2.5": 3, "+Inf": 4}


async def test_the_end_of_a_run_that_never_started_counts_and_has_no_duration(metrics: MetricsObserver) -> None:
    says = {"agent": "chat", "completion_data": {"duration_seconds": 0.0}}
    await metrics.on_event(make_event(LifecycleEventType.RUN_CANCELLED, payload=says))

    values = shown(metrics)
    assert values["trackside_runs_total"]["chat", "cancelled"] == 1
    assert values["trackside_runs_started_total"]["chat",] == 0
    assert "trackside_run_duration_seconds_count" not in values


async def test_runs_of_somebody_elses_harness_are_counted_under_the_agent_of_their_start(
    metrics: MetricsObserver,
) -> None:
    started, *between, end, idle = make_run()
    started.payload["agent"] = "theirs"  # type: ignore[index]
    for event in (started, *between, make_event(end.event_type, sequence=end.sequence), idle):
        await metrics.on_event(event)
    await metrics.on_event(make_event(LifecycleEventType.RUN_FAILED, run_id="run-2"))

    values = shown(metrics)
    assert values["trackside_runs_total"]["theirs", "success"] == 1
    assert values["trackside_human_messages_total"]["theirs",] == 1
    assert values["trackside_runs_total"]["unknown", "error"] == 1
    assert values["trackside_run_failures_total"] == {("unknown",): 1}


async def test_runs_are_active_from_their_start_to_their_end_where_no_app_is_watched(metrics: MetricsObserver) -> None:
    first, second = ended("run-1"), ended("run-2", agent="mail")
    await metrics.on_events([*first[:2], *second[:2]])
    assert shown(metrics)["trackside_runs_active"] == {("chat",): 1, ("mail",): 1}

    await metrics.on_events([*first[2:], *first[3:]])
    assert shown(metrics)["trackside_runs_active"] == {("chat",): 0, ("mail",): 1}


async def test_runs_whose_end_is_never_announced_are_forgotten_when_there_are_too_many(
    metrics: MetricsObserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_counting, "_MOST_RUNNING", 2)
    for run_id in ("lost", "run-2", "run-3"):
        await metrics.on_events(ended(run_id)[:1])
    assert shown(metrics)["trackside_runs_active"] == {("chat",): 2}

    await metrics.on_events(ended("lost")[1:])
    assert shown(metrics)["trackside_runs_active"][("chat",)] == 2
    assert sum(shown(metrics)["trackside_runs_total"].values()) == 1


@pytest.mark.parametrize(
    "nonsense",
    [None, "many", -1, True, math.nan, math.inf, 1e18, 10**400, [1], {"input_tokens": "x"}, [{"kind": ["chat"]}]],
)
async def test_nonsense_in_an_end_is_not_counted_and_hides_nothing(metrics: MetricsObserver, nonsense: Any) -> None:
    keys = ("duration_seconds", "llm_call_count", "llm_error_count", "tool_call_count", "cost_usd", "calls")
    data = dict.fromkeys((*keys, "token_usage_by_model"), nonsense)
    before = shown(metrics)
    await metrics.on_events(ended(data=data))
    await metrics.on_events(ended(data={"token_usage_by_model": {"small": nonsense}}))
    await metrics.on_events(ended(data={"token_usage_by_model": {"small": {"input_tokens": nonsense}}}))
    await metrics.on_events(ended(completion_data=nonsense, agent=nonsense))

    assert "trackside_runs_total" not in before
    values = shown(metrics)
    assert sum(values["trackside_runs_total"].values()) == 4
    for name in ("trackside_run_cost_usd_total", "trackside_llm_calls_total", "trackside_run_tokens_total"):
        assert sum(values[name].values()) == 0
