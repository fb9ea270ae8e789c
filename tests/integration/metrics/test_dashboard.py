"""What people get from the metrics: the dashboard, the rules for alerts, and the table in the documentation."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_server import NoPrometheusError, promtool

from trackside.app.observers.metrics.dashboard import as_text
from trackside.app.observers.metrics.definitions import DEFINITIONS, Kind

DOCS = Path(__file__).parents[3] / "docs" / "observers"
DASHBOARD = DOCS / "grafana_dashboard.json"
ALERTS = DOCS / "alerts.yml"
SERIES = {name: definition for definition in DEFINITIONS for name in definition.series}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> Iterator[str]:
    """The queries of the dashboard's panels."""
    for panel in panels():
        yield from (target["expr"] for target in panel.get("targets", ()))


def test_the_committed_dashboard_is_up_to_date() -> None:
    assert DASHBOARD.read_text() == as_text(), (
        "make it anew: python -m trackside.app.observers.metrics.dashboard > docs/observers/grafana_dashboard.json"
    )


@pytest.mark.parametrize(
    "text", [*expressions(), *re.findall(r"expr: (?:\|\n +)?(.+(?:\n {12}.+)*)", ALERTS.read_text())]
)
def test_whatever_is_asked_for_exists_with_these_labels_and_a_rate_is_of_what_only_grows(text: str) -> None:
    asked = re.findall(r"(trackside_\w+)(?:\{([^}]*)\})?(\[)?", text)
    assert asked
    for name, matchers, ranged in asked:
        definition = SERIES[name]
        labels = set(re.findall(r"(\w+)=", matchers)) - {"job"}
        assert labels <= {*definition.labels}
        assert bool(ranged) == (definition.kind not in {Kind.gauge, Kind.info}), f"{name} in {text}"


def test_the_dashboard_shows_every_metric() -> None:
    shown = {SERIES[name] for text in expressions() for name in re.findall(r"trackside_\w+", text)}
    missing = {definition.name for definition in DEFINITIONS if definition not in shown}

    assert missing == {"trackside_build_info"}  # the choice of jobs is made from it
    assert "label_values(trackside_build_info, job)" in DASHBOARD.read_text()


def test_the_panels_of_the_dashboard_have_places_and_numbers_of_their_own() -> None:
    places: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        covered = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not covered & places, panel["title"]
        assert place["x"] + place["w"] <= 24
        places |= covered
    assert len({panel["id"] for panel in panels()}) == len(panels())
    assert [panel["title"] for panel in panels() if panel["type"] == "row"] == [
        "Runs",
        "Durations",
        "Failures",
        "Tokens and cost",
        "Queue",
        "Observers",
        "Storage",
        "Subscriptions",
        "Fleet",
    ]


def test_what_is_drawn_of_a_rate_says_in_which_time() -> None:
    for panel in panels():
        for target in panel.get("targets", ()):
            hourly = target["expr"].startswith("3600 * ")
            assert hourly == ("an hour" in panel["title"] + target["legendFormat"]), panel["title"]
            if (
                target["expr"].startswith("sum")
                and re.search(r"\brate\(", target["expr"])
                and " / " not in target["expr"]
            ):
                assert panel["fieldConfig"]["defaults"]["unit"] == "ops", panel["title"]


async def asked(*arguments: object) -> str:
    """Return promtool's output, having asserted that it is content."""
    try:
        done = await asyncio.to_thread(promtool, *arguments)
    except NoPrometheusError as exc:
        pytest.skip(str(exc))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_the_rules_for_alerts_are_rules() -> None:
    assert "SUCCESS" in await asked("check", "rules", ALERTS)


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    labels = {"job": "trackside", "instance": "a:1", **labels}
    said = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return {"series": f"{name}{{{said}}}", "values": values}


WELL = [
    series("trackside_build_info", "1x60"),
    series("trackside_runs_total", "0+60x60", agent="chat", status="success"),
    series("trackside_runs_total", "0+1x60", agent="chat", status="error"),
    series("trackside_runs_started_total", "0+61x60", agent="chat"),
    # A server of another job, which counts the runs of lost workers, and those of an agent whose runs nobody counts.
    series("trackside_runs_total", "0+1x60", agent="chat", status="error", job="servers"),
    series("trackside_runs_total", "0+1x60", agent="isolated", status="error", job="servers"),
    series("trackside_runs_started_total", "0x60", agent="isolated", job="servers"),
    series("trackside_missed_events_total", "0x60", outcome="lost"),
    series("trackside_run_cost_usd_total", "0+0.1x60", agent="chat"),
    series("trackside_subscription_active", "1x60", subscription="webhook"),
    series("trackside_subscription_paused", "0x60", subscription="webhook"),
    series("trackside_observer_lag_seconds", "0x60", observer="mail"),
    series("trackside_engine_connected", "1x60", engine="nats"),
    series("trackside_duty_held", "0x60", duty="reaper"),
    series("trackside_duty_held", "1x60", duty="reaper", instance="b:1"),
    # Processes of another job, as workers may be; none of them has what a process of this job has.
    series("trackside_duty_held", "0x60", duty="reaper", job="workers"),
    series("trackside_subscription_active", "0x60", subscription="webhook", job="workers"),
    series("trackside_subscription_paused", "0x60", subscription="webhook", job="workers"),
    series("trackside_queue_unserved_runs", "1x1 0x59", agent="chat"),
    series("trackside_queue_oldest_ready_seconds", "20x60", pool="gpu"),
]
BADLY: dict[str, list[dict[str, str]]] = {
    "TracksideGone": [],
    "TracksideRunsFail": [
        WELL[0],
        WELL[1],
        series("trackside_runs_total", "0+10x60", agent="chat", status="error"),
        series("trackside_runs_total", "0+10x60", agent="chat", status="timeout"),
        series("trackside_runs_started_total", "0+80x60", agent="chat"),
    ],
    "TracksideEventsLost": [WELL[0], series("trackside_missed_events_total", "0x50 1x10", outcome="lost")],
    "TracksideStorageIsSlow": [
        WELL[0],
        series("trackside_storage_batch_duration_seconds_sum", "0+120x60"),
        series("trackside_storage_batch_duration_seconds_count", "0+100x60"),
    ],
    "TracksideObserverIsBehind": [WELL[0], series("trackside_observer_lag_seconds", "90x60", observer="mail")],
    "TracksideSubscriptionIsNotFed": [
        WELL[0],
        series("trackside_subscription_active", "0x60", subscription="webhook"),
        series("trackside_subscription_paused", "0x60", subscription="webhook"),
    ],
    "TracksideEngineIsCutOff": [WELL[0], series("trackside_engine_connected", "1x50 0x10", engine="nats")],
    "TracksideRunsAreUnserved": [WELL[0], series("trackside_queue_unserved_runs", "0x50 2x10", agent="chat")],
    "TracksidePoolIsFull": [WELL[0], series("trackside_queue_oldest_ready_seconds", "0+60x60", pool="gpu")],
    "TracksideDutyIsNobodys": [
        WELL[0],
        series("trackside_duty_held", "0x60", duty="reaper"),
        series("trackside_duty_held", "1x50 0x10", duty="reaper", instance="b:1"),
    ],
    "TracksideSpendsFast": [WELL[0], series("trackside_run_cost_usd_total", "0+1x60", agent="chat")],
}


async def test_alerts_fire_when_something_is_wrong_and_only_then(tmp_path: Path) -> None:
    rules = str(ALERTS)
    names = re.findall(r"alert: (\w+)", ALERTS.read_text())
    tests = [
        {"interval": "1m", "input_series": given, "promql_expr_test": [firing(name, names)]}
        for name, given in BADLY.items()
    ]
    tests.append({"interval": "1m", "input_series": WELL, "promql_expr_test": [firing(None, names)]})
    path = tmp_path / "alerts_test.yml"
    path.write_text(json.dumps({"rule_files": [rules], "evaluation_interval": "1m", "tests": tests}))

    assert "SUCCESS" in await asked("test", "rules", path)


SAID = {
    "TracksideRunsAreStuck": (
        series("trackside_runs_stuck", "0x60 2x50"),
        {"instance": "a:1", "job": "trackside"},
        "2 runs of a:1 do not stop, or do not come to their ends",
    ),
    "TracksideObserverMissesEvents": (
        series("trackside_observer_dropped_events_total", "0x90 3x20", observer="mail", reason="full"),
        {"instance": "a:1", "job": "trackside", "observer": "mail"},
        "Observer mail was not given 3 events",
    ),
    "TracksideEventsAreParked": (
        series("trackside_subscription_parked_events_total", "0x90 1x20", subscription="notify"),
        {"job": "trackside", "subscription": "notify"},
        "1 events of notify were given up for now",
    ),
}


async def test_an_alert_says_as_many_as_there_were_and_no_more_than_is_known(tmp_path: Path) -> None:
    told = {
        alert["alert"]: alert["annotations"]["description"]
        for alert in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    }
    tests = []
    for name, (given, labels, summary) in SAID.items():
        annotations = {"summary": summary, "description": told[name]}
        alert = {"exp_labels": labels | {"severity": "warning"}, "exp_annotations": annotations}
        wanted = {"eval_time": "1h", "alertname": name, "exp_alerts": [alert]}
        # Not in step with the rules, so that Prometheus estimates what there may have been until they ask.
        tests.append({"interval": "35s", "input_series": [given], "alert_rule_test": [wanted]})
    path = tmp_path / "alerts_test.yml"
    path.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))

    assert "SUCCESS" in await asked("test", "rules", path)
    assert "log says where each of them waits" in told["TracksideRunsAreStuck"]


def test_events_that_another_required_observer_lost_are_not_said_to_be_lost_to_the_database() -> None:
    (alert,) = re.findall(r"alert: TracksideEventsLost\n(?:.+\n)+", ALERTS.read_text())
    assert "another observer\n            with `required`" in alert
    assert "which observer" in alert


def firing(name: str | None, names: list[str]) -> dict[str, Any]:
    """Expect that of all alerts this one alone fires after an hour."""
    assert name is None or name in names
    samples = [{"labels": f'{{alertname="{name}"}}', "value": 1}] if name else []
    return {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "1h", "exp_samples": samples}
