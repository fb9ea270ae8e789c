"""A dashboard for Grafana, made from the definitions of the metrics.

python -m trackside.app.observers.metrics.dashboard > dashboard.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from trackside.app.observers.metrics import definitions as d
from trackside.app.observers.metrics._grafana import Panel, Query, Row, choice, dashboard
from trackside.harness.lifecycle import STATUSES_OF_EVENT
from trackside.harness.types import LifecycleEventType

_RATE = "$__rate_interval"
_FAILED = f'status=~"{"|".join(STATUSES_OF_EVENT[LifecycleEventType.RUN_FAILED])}"'


def selected(definition: d.Definition, suffix: str = "", *, matching: str | None = None) -> str:
    """The matching series of a metric, limited to what is chosen on the dashboard."""
    matchers = ['job=~"$job"', 'agent=~"$agent"' if "agent" in definition.labels else None, matching]
    return f"{definition.name}{suffix}{{{','.join(filter(None, matchers))}}}"


def total(definition: d.Definition, *by: str) -> str:
    """How much there is now."""
    return f"sum{_by(by)} ({selected(definition)})"


def highest(definition: d.Definition, *by: str) -> str:
    """The highest value of all processes."""
    return f"max{_by(by)} ({selected(definition)})"


def rate(definition: d.Definition, *by: str, matching: str | None = None) -> str:
    """By how much it grows in a second."""
    return f"sum{_by(by)} (rate({selected(definition, matching=matching)}[{_RATE}]))"


def per_hour(definition: d.Definition, *by: str) -> str:
    """By how much it grows in an hour, if it goes on as now."""
    return f"3600 * {rate(definition, *by)}"


def quantile(q: float, definition: d.Definition, *by: str) -> str:
    """The value that this share of observations stays below."""
    return f"histogram_quantile({q}, sum{_by(('le', *by))} (rate({selected(definition, '_bucket')}[{_RATE}])))"


def average(definition: d.Definition) -> str:
    """The mean of a summary."""
    parts = (f"sum (rate({selected(definition, suffix)}[{_RATE}]))" for suffix in ("_sum", "_count"))
    return " / ".join(parts)


def _by(labels: Sequence[str]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""


_ROWS: Sequence[Row] = (
    Row(
        "Runs",
        (
            Panel("Runs that ended, by status", "ops", [Query(rate(d.RUNS, "status"), "{{status}}")], stacked=True),
            Panel("Runs that started, by agent", "ops", [Query(rate(d.RUNS_STARTED, "agent"), "{{agent}}")]),
            Panel("Running now", "short", [Query(total(d.RUNS_ACTIVE, "agent"), "{{agent}}")], stacked=True),
            Panel("Messages of humans", "ops", [Query(rate(d.HUMAN_MESSAGES, "agent"), "{{agent}}")]),
        ),
    ),
    Row(
        "Durations",
        (
            Panel(
                "Runs",
                "s",
                [
                    Query(quantile(0.5, d.RUN_DURATION, "agent"), "p50 {{agent}}"),
                    Query(quantile(0.95, d.RUN_DURATION, "agent"), "p95 {{agent}}"),
                ],
            ),
            Panel(
                "Calls of models, tools and agents",
                "s",
                [
                    Query(quantile(0.5, d.CALL_DURATION, "kind"), "p50 {{kind}}"),
                    Query(quantile(0.95, d.CALL_DURATION, "kind"), "p95 {{kind}}"),
                ],
            ),
        ),
    ),
    Row(
        "Failures",
        (
            Panel(
                "Part of the runs that fail",
                "percentunit",
                [Query(f"{rate(d.RUNS, 'agent', matching=_FAILED)} / {rate(d.RUNS, 'agent')}", "{{agent}}")],
            ),
            Panel("Failed runs, by error", "ops", [Query(rate(d.RUN_FAILURES, "error_type"), "{{error_type}}")]),
            Panel(
                "Failed calls",
                "ops",
                [
                    Query(rate(d.LLM_ERRORS, "agent"), "model, {{agent}}"),
                    Query(rate(d.TOOL_ERRORS, "agent"), "tool, {{agent}}"),
                ],
            ),
            Panel(
                "Stuck runs and missed events",
                "short",
                [
                    Query(total(d.RUNS_STUCK), "stuck runs"),
                    Query(per_hour(d.STUCK_RUNS), "stuck an hour"),
                    Query(per_hour(d.MISSED_EVENTS, "outcome"), "events {{outcome}} an hour"),
                ],
            ),
        ),
    ),
    Row(
        "Tokens and cost",
        (
            Panel(
                "Tokens an hour, by model",
                "short",
                [Query(per_hour(d.RUN_TOKENS, "model", "direction"), "{{model}} {{direction}}")],
            ),
            Panel("Cost an hour, by model", "currencyUSD", [Query(per_hour(d.MODEL_COST, "model"), "{{model}}")], True),
            Panel("Cost an hour, by agent", "currencyUSD", [Query(per_hour(d.RUN_COST, "agent"), "{{agent}}")], True),
            Panel(
                "Calls",
                "ops",
                [
                    Query(rate(d.LLM_CALLS, "agent"), "model, {{agent}}"),
                    Query(rate(d.TOOL_CALLS, "agent"), "tool, {{agent}}"),
                ],
            ),
        ),
    ),
    Row(
        "Queue",
        (
            Panel(
                "Waiting runs",
                "short",
                [Query(total(d.RUNS_QUEUED, "waiting_for"), "for {{waiting_for}}")],
                stacked=True,
            ),
            Panel("Blocks of the event loop an hour", "short", [Query(per_hour(d.LOOP_BLOCKS, "job"), "{{job}}")]),
        ),
    ),
    Row(
        "Observers",
        (
            Panel("How far behind", "s", [Query(highest(d.OBSERVER_LAG, "observer"), "{{observer}}")]),
            Panel(
                "Events",
                "ops",
                [
                    Query(rate(d.OBSERVER_ACCEPTED, "observer"), "accepted, {{observer}}"),
                    Query(rate(d.OBSERVER_DELIVERED, "observer"), "delivered, {{observer}}"),
                ],
            ),
            Panel(
                "Failed and dropped events",
                "ops",
                [
                    Query(rate(d.OBSERVER_FAILED, "observer"), "failed, {{observer}}"),
                    Query(rate(d.OBSERVER_DROPPED, "observer", "reason"), "dropped ({{reason}}), {{observer}}"),
                ],
            ),
            Panel(
                "Waiting events and calls left behind",
                "short",
                [
                    Query(total(d.OBSERVER_PENDING, "observer"), "events, {{observer}}"),
                    Query(total(d.OBSERVER_DEFERRED, "observer"), "of them in the log, {{observer}}"),
                    Query(total(d.OBSERVER_LEFT_BEHIND, "observer"), "calls, {{observer}}"),
                ],
            ),
            Panel(
                "Events read again from the log", "ops", [Query(rate(d.OBSERVER_REREAD, "observer"), "{{observer}}")]
            ),
            Panel(
                "Memory of waiting events",
                "bytes",
                [Query(total(d.OBSERVER_PENDING_BYTES, "observer"), "{{observer}}")],
            ),
        ),
    ),
    Row(
        "Storage",
        (
            Panel("Mean time of a transaction", "s", [Query(average(d.STORAGE_BATCH_DURATION), "transaction")]),
            Panel("Mean events in a transaction", "short", [Query(average(d.STORAGE_BATCH_SIZE), "events")]),
            Panel(
                "Requests",
                "ops",
                [
                    Query(rate(d.STORAGE_REQUESTS), "requests"),
                    Query(rate(d.STORAGE_FAILURES), "failed transactions"),
                ],
            ),
            Panel(
                "Waiting",
                "short",
                [
                    Query(total(d.STORAGE_PENDING), "requests for a transaction"),
                    Query(total(d.SPOOLED_RUNS), "runs on disk for the database"),
                ],
            ),
        ),
    ),
    Row(
        "Subscriptions",
        (
            Panel("How far behind", "s", [Query(highest(d.SUBSCRIPTION_LAG, "subscription"), "{{subscription}}")]),
            Panel(
                "Events",
                "ops",
                [
                    Query(rate(d.SUBSCRIPTION_READ, "subscription"), "read, {{subscription}}"),
                    Query(rate(d.SUBSCRIPTION_HANDLED, "subscription"), "handled, {{subscription}}"),
                ],
            ),
            Panel(
                "Failed calls, parked and returned events",
                "ops",
                [
                    Query(rate(d.SUBSCRIPTION_FAILED_CALLS, "subscription"), "failed calls, {{subscription}}"),
                    Query(rate(d.SUBSCRIPTION_PARKED, "subscription"), "parked, {{subscription}}"),
                    Query(rate(d.SUBSCRIPTION_RETURNED, "subscription"), "returned, {{subscription}}"),
                ],
            ),
            Panel(
                "In hand, fed and paused",
                "short",
                [
                    Query(total(d.SUBSCRIPTION_PENDING, "subscription"), "in hand, {{subscription}}"),
                    Query(total(d.SUBSCRIPTION_ACTIVE, "subscription"), "fed by so many, {{subscription}}"),
                    Query(highest(d.SUBSCRIPTION_PAUSED, "subscription"), "paused, {{subscription}}"),
                ],
            ),
        ),
    ),
    Row(
        "Fleet",
        (
            Panel(
                "Runs that are ready, wait and run, by pool",
                "short",
                [Query(highest(d.QUEUE_RUNS, "pool", "state"), "{{pool}}: {{state}}")],
            ),
            Panel("Longest wait for a worker", "s", [Query(highest(d.QUEUE_OLDEST, "pool"), "{{pool}}")]),
            Panel(
                "Runs that no worker serves, by agent",
                "short",
                [Query(highest(d.QUEUE_UNSERVED, "agent"), "{{agent}}")],
                stacked=True,
            ),
            Panel(
                "Workers, and their places",
                "short",
                [
                    Query(highest(d.QUEUE_WORKERS, "pool"), "workers, {{pool}}"),
                    Query(highest(d.QUEUE_PLACES, "pool"), "places, {{pool}}"),
                    Query(total(d.WORKER_PLACES), "places, of workers that are watched"),
                    Query(total(d.WORKER_RUNNING), "taken, of workers that are watched"),
                ],
            ),
            Panel(
                "Engine and duties",
                "short",
                [
                    Query(total(d.ENGINE_CONNECTED, "engine"), "processes that reach {{engine}}"),
                    Query(total(d.DUTY_HELD, "duty"), "processes that are the {{duty}}"),
                    Query(per_hour(d.ENGINE_RECONNECTS), "reached again, an hour"),
                ],
            ),
            Panel(
                "Runs on their way",
                "ops",
                [
                    Query(rate(d.ENGINE_ANNOUNCED), "announced"),
                    Query(rate(d.ENGINE_OFFERS), "offered"),
                    Query(rate(d.WORKER_TAKEN), "taken"),
                    Query(rate(d.WORKER_FOUND), "found without an offer"),
                ],
            ),
            Panel(
                "What goes astray",
                "ops",
                [
                    Query(rate(d.ENGINE_ANNOUNCE_FAILURES), "runs not announced"),
                    Query(rate(d.ENGINE_REDELIVERED), "offers delivered again"),
                    Query(rate(d.WORKER_VAIN_OFFERS, "reason"), "offers in vain: {{reason}}"),
                    Query(rate(d.WORKER_LOST), "runs lost to others"),
                    Query(rate(d.ENGINE_UNREADABLE), "messages of nobody here"),
                ],
            ),
            Panel(
                "Live output",
                "ops",
                [Query(rate(d.ENGINE_MESSAGES, "outcome"), "messages {{outcome}}")],
            ),
            Panel("Words that a run shall stop", "ops", [Query(rate(d.ENGINE_STOPS, "direction"), "{{direction}}")]),
        ),
    ),
)


def as_text() -> str:
    """The dashboard as Grafana imports it."""
    choices = [choice("job", d.BUILD.name), choice("agent", d.RUNS.name)]
    return json.dumps(dashboard("Trackside", _ROWS, choices), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_text())
