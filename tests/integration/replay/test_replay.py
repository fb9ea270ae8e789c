"""Recorded conversations of real agents, replayed through each adapter, come to exactly what was recorded.

The models check that they hear all that was said before, and the tools that they get the recorded arguments.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.integration.replay.conftest import DELEGATE
from tests.integration.replay.playing import Played, PlayedRun
from tests.integration.replay.recorded import Totals, Trajectory, needs_recording, recorded

from trackside import RunStatus
from trackside.app.storage import TokenTotals
from trackside.testing import assert_run_order

pytestmark = [needs_recording, pytest.mark.timeout(280)]  # the first to ask plays all conversations

LEAD = "lead_agent"
ALL = Totals(
    message_count=1_617,
    human_message_count=399,
    llm_call_count=723,
    tool_call_count=445,
    input_tokens=4_832_733,
    output_tokens=78_715,
    cost=6.156831,
)


def test_each_run_comes_to_what_its_part_of_the_conversation_does(played: Played) -> None:
    for run in played.runs:
        told = told_by(run.result.completion_data, run)
        assert_same(told, run.turn.totals, f"run {run.result.run_id} of {run.trajectory.id}")


def test_a_conversation_comes_to_what_was_recorded_of_it(played: Played) -> None:
    for trajectory in played.trajectories:
        runs = played.of_thread(trajectory)
        told = total(told_by(run.result.completion_data, run) for run in runs)
        assert_same(told, expected_of(trajectory), trajectory.id)


def test_groups_and_all_come_to_what_was_recorded(played: Played) -> None:
    told = total(told_by(run.result.completion_data, run) for run in played.runs)
    assert_same(told, ALL, "all conversations")
    for group, expected in by_group().items():
        runs = [run for run in played.runs if run.trajectory.group == group]
        assert_same(total(told_by(run.result.completion_data, run) for run in runs), expected, group)


def test_each_call_is_credited_to_its_model_and_to_the_agent_that_is_run(played: Played) -> None:
    for run in played.runs:
        expected = tokens_of(run.turn.totals)
        data = run.result.completion_data
        for credited, name in (("token_usage_by_model", run.trajectory.model), ("token_usage_by_caller", LEAD)):
            assert data[credited] == ({name: expected} if run.turn.is_answered else {}), run.trajectory.id


def test_all_runs_succeed_and_their_humans_are_announced_in_order(played: Played) -> None:
    for trajectory in played.trajectories:
        runs = played.of_thread(trajectory)
        assert {run.result.status for run in runs} == {RunStatus.success}, [run.result.error for run in runs]
        said = [message["content"] for message in trajectory.messages if message["role"] == "user"]
        assert [text for run in runs for text in run.heard] == said


def test_events_are_in_order_and_the_log_has_those_that_were_announced(played: Played) -> None:
    assert_run_order(played.announced)
    assert_run_order(event for run in played.runs for event in run.events)
    stored = [event for run in played.runs for event in run.events]
    assert sorted(event.event_id for event in stored) == sorted(event.event_id for event in played.announced)


def test_the_log_has_the_same_totals(played: Played) -> None:
    assert_log_agrees(played)
    assert_same(told_by_log(played.stats.total, played.runs), ALL, "all conversations")
    for group, expected in by_group().items():
        runs = [run for run in played.runs if run.trajectory.group == group]
        assert_same(told_by_log(played.stats.by_agent[group], runs), expected, group)


def test_the_log_knows_what_each_model_was_used_for(played: Played) -> None:
    models = {one.model for one in played.trajectories}
    assert played.stats.by_model.keys() == models
    for model in models:
        expected = total(expected_of(one) for one in played.trajectories if one.model == model)
        assert_same_tokens(played.stats.by_model[model], expected)
    assert played.stats.by_caller.keys() == {LEAD}
    assert_same_tokens(played.stats.by_caller[LEAD], ALL)


def test_totals_are_the_same_on_postgres(played_on_postgres: Played) -> None:
    assert len(played_on_postgres.trajectories) == 6
    assert_log_agrees(played_on_postgres)
    assert_run_order(event for run in played_on_postgres.runs for event in run.events)


def test_an_agent_below_is_credited_by_its_name(played_by_delegate: Played) -> None:
    more_calls, more_tools = played_by_delegate.extra_calls
    for run in played_by_delegate.runs:
        assert run.result.status is RunStatus.success, run.result.error
        expected, data = expected_of(run.trajectory), run.result.completion_data
        assert data["token_usage_by_caller"][DELEGATE] == tokens_of(expected)
        assert data["token_usage_by_model"][run.trajectory.model] == tokens_of(expected)
        assert data["llm_call_count"] == expected.llm_call_count + more_calls
        assert data["tool_call_count"] == expected.tool_call_count + more_tools
        assert data["cost_usd"] == pytest.approx(expected.cost, abs=1e-6)
    whole = total(expected_of(one) for one in played_by_delegate.trajectories)
    assert_same_tokens(played_by_delegate.stats.by_caller[DELEGATE], whole)
    told = played_by_delegate.stats
    assert told.total.total_input_tokens == sum(used.input_tokens for used in told.by_caller.values())


def assert_log_agrees(played: Played) -> None:
    """Assert that the log says of each run and thread what was recorded."""
    for run in played.runs:
        assert_same(told_by_log(run.stored, [run]), run.turn.totals, f"run {run.result.run_id} in the log")
        told = {**run.result.completion_data}
        told.pop("calls", None)  # only the event has it
        assert run.stored.completion_data == told
    for one in played.trajectories:
        runs = played.of_thread(one)
        assert_same(told_by_log(played.stats_of_threads[one.id].total, runs), expected_of(one), one.id)


def assert_same(told: Totals, expected: Totals, of: str) -> None:
    """Assert that counts and tokens are exactly the same, and costs except for rounding."""
    assert replace(told, cost=0.0) == replace(expected, cost=0.0), of
    assert told.cost == pytest.approx(expected.cost, abs=1e-6), of


def assert_same_tokens(told: TokenTotals, expected: Totals) -> None:
    assert (told.input_tokens, told.output_tokens) == (expected.input_tokens, expected.output_tokens)
    assert told.cost_usd == pytest.approx(expected.cost, abs=1e-6)


def told_by(data: Mapping[str, Any], run: PlayedRun) -> Totals:
    """The totals of a run, as its terminal event gives them."""
    assert data["total_tokens"] == data["total_input_tokens"] + data["total_output_tokens"]
    return Totals(
        message_count=data["message_count"],
        human_message_count=len(run.heard),
        llm_call_count=data["llm_call_count"],
        tool_call_count=data["tool_call_count"],
        input_tokens=data["total_input_tokens"],
        output_tokens=data["total_output_tokens"],
        cost=data.get("cost_usd", 0.0),
    )


def told_by_log(row: Any, runs: Iterable[PlayedRun]) -> Totals:
    """The totals of a run or of several, as a row of the log gives them."""
    return Totals(
        message_count=row.message_count,
        human_message_count=sum(len(run.heard) for run in runs),
        llm_call_count=row.llm_call_count,
        tool_call_count=row.tool_call_count,
        input_tokens=row.total_input_tokens,
        output_tokens=row.total_output_tokens,
        cost=row.cost_usd or 0.0,
    )


def tokens_of(totals: Totals) -> dict[str, Any]:
    """The totals, as `completion_data` shows them."""
    return {
        "input_tokens": totals.input_tokens,
        "output_tokens": totals.output_tokens,
        "total_tokens": totals.input_tokens + totals.output_tokens,
        "cost_usd": pytest.approx(totals.cost, abs=1e-6),
    }


def expected_of(trajectory: Trajectory) -> Totals:
    """The figures that came with the recording, not sums of our own."""
    return Totals(**trajectory.expected)


def total(parts: Iterable[Totals]) -> Totals:
    return sum(parts, Totals())


def by_group() -> dict[str, Totals]:
    groups: dict[str, list[Totals]] = {}
    for one in recorded():
        groups.setdefault(one.group, []).append(expected_of(one))
    return {group: total(parts) for group, parts in groups.items()}
