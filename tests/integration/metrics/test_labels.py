"""However many agents, models and errors there are, the exposed metrics stay bounded."""

import logging
from typing import Any

import pytest
from tests.integration.metrics.conftest import Open, WatchedApp, ended, shown

from trackside.harness import RunManager, RunStatus


@pytest.mark.parametrize("many", [10_000, pytest.param(100_000, marks=pytest.mark.long)])
async def test_however_many_agents_and_models_are_counted_under_as_many_labels_as_allowed(
    open_metrics: Open, caplog: pytest.LogCaptureFixture, many: int
) -> None:
    metrics = open_metrics(max_labels=50)
    for number in range(many):
        data = {"cost_usd": 1, "token_usage_by_model": {f"model-{number}": {"input_tokens": 1}}}
        end = ended(agent=f"agent-{number}", status=RunStatus.error, data=data, error_type=f"Error{number}")[-2]
        await metrics.on_event(end)

    values = shown(metrics)
    assert values["trackside_run_cost_usd_total"] == {
        **{(f"agent-{number}",): 1 for number in range(50)},
        ("other",): many - 50,
    }
    assert values["trackside_run_tokens_total"]["input", "other"] == many - 50
    assert len(values["trackside_run_tokens_total"]) == 5 * 51
    assert values["trackside_run_failures_total"]["other",] == many - 50
    assert sum(values["trackside_runs_total"].values()) == many
    warned = [record.args[0] for record in caplog.records if record.levelno == logging.WARNING]  # type: ignore[index]
    assert sorted(map(str, warned)) == ["agent", "error_type", "model"]


async def test_agents_that_run_are_shown_under_the_labels_that_they_are_counted_under(open_metrics: Open) -> None:
    metrics = open_metrics(max_labels=2)
    await metrics.on_events([event for name in "abc" for event in ended(name, agent=name)])
    app = WatchedApp()
    metrics.watch(app.vitals())
    app.manager = running_of({"b": 5, "c": 2, "d": 1, "e": 1})

    assert shown(metrics)["trackside_runs_active"] == {("a",): 0, ("b",): 5, ("other",): 4}


async def test_agents_that_run_before_their_first_event_came_are_as_many_labels_as_allowed(open_metrics: Open) -> None:
    metrics = open_metrics(max_labels=3)
    app = WatchedApp(running_of({f"agent-{number}": 1 for number in range(1_000)}))
    metrics.watch(app.vitals())

    active = shown(metrics)["trackside_runs_active"]
    assert len(active) == 4
    assert active["other",] == 997


@pytest.mark.parametrize(
    ("agent", "label"),
    [
        ('quoted "\\ \n', 'quoted "\\ \n'),
        ("half a character \ud83d", "half a character ?"),
        ("x" * 10_000, "x" * 128),
        ("", "unknown"),
        (None, "unknown"),
        (["a list"], "unknown"),
    ],
)
async def test_any_name_of_an_agent_becomes_a_label(open_metrics: Open, agent: Any, label: str) -> None:
    metrics = open_metrics()
    for number in range(2):
        await metrics.on_events(ended(str(number), agent=agent))

    assert shown(metrics)["trackside_runs_started_total"] == {(label,): 2}


def running_of(by_agent: dict[str, int]) -> Any:
    from dataclasses import replace

    return replace(RunManager({}).stats(), running_by_agent=by_agent, running=sum(by_agent.values()))
