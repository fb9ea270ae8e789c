"""Rules say which events to notify somebody of; a rule that can never hold or be filled in is refused at the start."""

import inspect
import os
from typing import Any

import pytest

from trackside.app.delivery import ObserverOptionError
from trackside.app.observers.notify import NotifyObserver
from trackside.app.observers.notify._messages import FIELDS, Templates, fields_of
from trackside.app.observers.notify._rules import rules_of
from trackside.harness import LifecycleEventType, RunLifecycleEvent, RunStatus
from trackside.testing.events import make_event, make_run


def ended(status: str = "error", **says: Any) -> RunLifecycleEvent:
    (event,) = (e for e in make_run(status=RunStatus(status)) if "completion_data" in e.payload)
    return make_event(event.event_type, payload={**event.payload, **says})


def used(**data: Any) -> RunLifecycleEvent:
    return ended("success", completion_data=data)


@pytest.mark.parametrize(
    ("rule", "event", "means"),
    [
        ({}, ended("error"), True),
        ({}, ended("cancelled"), True),
        ({}, make_run()[0], False),
        ({"events": "run_started"}, make_run()[0], True),
        ({"events": ["run_failed"]}, ended("timeout"), True),
        ({"events": ["run_failed"]}, ended("success"), False),
        ({"status": "timeout"}, ended("timeout"), True),
        ({"status": "timeout"}, ended("error"), False),
        ({"status": ["error", "cancelled"]}, ended("cancelled"), True),
        ({"agent": "billing"}, ended(agent="billing"), True),
        ({"agent": "billing"}, ended(agent="billing2"), False),
        ({"agent": ["search", "bill*"]}, ended(agent="billing"), True),
        ({"agent": "*"}, ended(agent=None), False),
        ({"error_type": "*Error"}, ended(error_type="ValueError"), True),
        ({"error_type": "Value*"}, ended(error_type="OSError"), False),
        ({"cost_above": 1}, used(cost_usd=1.01), True),
        ({"cost_above": 1}, used(cost_usd=1.0), False),
        ({"cost_above": 0}, used(), False),
        ({"cost_above": 1}, used(cost_usd="much"), False),
        ({"cost_above": 1}, used(cost_usd=float("nan")), False),
        ({"duration_above": 60, "tokens_above": 10}, used(duration_seconds=61, total_tokens=11), True),
        ({"duration_above": 60, "tokens_above": 10}, used(duration_seconds=61, total_tokens=10), False),
        ({"events": "thread_status_updated", "status": "idle"}, make_run()[-1], True),
        ({"events": "thread_status_updated", "status": "error"}, make_run()[-1], False),
        ({"events": ["run_failed", "thread_status_updated"], "status": "idle"}, make_run()[-1], True),
        ({"events": ["run_failed", "thread_status_updated"], "status": "error"}, ended("error"), True),
    ],
)
def test_a_rule_means_an_event_if_all_that_it_says_holds(
    rule: dict[str, Any], event: RunLifecycleEvent, means: bool
) -> None:
    (read,) = rules_of([rule])
    assert read.means(event) is means


@pytest.mark.parametrize(
    ("rules", "option", "said"),
    [
        ([], "on", "a list of rules"),
        ("run_failed", "on", "a list of rules"),
        (["run_failed"], "on[1]", "a rule is a table"),
        ([{}, {"agents": "x"}], "on[2].agents", "it has events, agent, status"),
        ([{"events": ["run_exploded"]}], "on[1].events", "run_started, run_completed"),
        ([{"events": []}], "on[1].events", "a list of texts"),
        ([{"status": "broken"}], "on[1].status", "pending, running"),
        ([{"status": "pending"}], "on[1].status", "never holds"),
        ([{"status": "pending", "agent": "x"}], "on[1].status", "no run ends like that, so the rule never holds"),
        (
            [{"events": "run_completed", "status": "error"}],
            "on[1].status",
            "no run_completed says that, so the rule never",
        ),
        ([{"events": "human_message", "status": "error"}], "on[1].status", "no human_message says that"),
        ([{"events": "thread_status_updated", "status": "ilde"}], "on[1].status", "'ilde' is not one of pending"),
        ([{"events": "run_failed", "status": "idle"}], "on[1].status", "'idle' is not one of pending"),
        (
            [{"events": ["run_completed", "run_failed"], "status": "success", "error_type": "X"}],
            "on[1].error_type",
            "no run_completed says that",
        ),
        ([{"agent": 5}], "on[1].agent", "a text or a list of texts"),
        ([{"cost_above": "1"}], "on[1].cost_above", "a number from 0 up"),
        ([{"cost_above": -1}], "on[1].cost_above", "a number from 0 up"),
        ([{"cost_above": True}], "on[1].cost_above", "a number from 0 up"),
        ([{"events": "run_started", "cost_above": 1}], "on[1].cost_above", "never holds"),
        ([{"events": "run_completed", "error_type": "X"}], "on[1].error_type", "never holds"),
        ([{"events": "human_message", "agent": "x"}], "on[1].agent", "never holds"),
        ([{"title": "$agnet failed"}], "on[1].title", "no field $agnet; there are agent, cost"),
        ([{"body": "costs $ 5"}], "on[1].body", 'write "$$"'),
        ([{"body": "${agent.__class__}"}], "on[1].body", "begins the name of a field"),
        ([{"body": ""}], "on[1].body", "it is a text"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused_by_its_place(rules: Any, option: str, said: str) -> None:
    with pytest.raises(ObserverOptionError) as refused:
        NotifyObserver(to="json://localhost/", on=rules)
    assert refused.value.details["option"] == option
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"to": []}, "to"),
        ({"max_per_hour": 0}, "max_per_hour"),
        ({"max_per_hour": True}, "max_per_hour"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": 60}, "timeout"),
        ({"templates": "x"}, "templates"),
        ({"templates": {"run_exploded": {}}}, "templates.run_exploded"),
        ({"templates": {"run_failed": "x"}}, "templates.run_failed"),
        ({"templates": {"run_failed": {"subject": "x"}}}, "templates.run_failed"),
        ({"templates": {"run_failed": {"title": "$nothing"}}}, "templates.run_failed.title"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_by_name(options: dict[str, Any], option: str) -> None:
    with pytest.raises(ObserverOptionError) as refused:
        NotifyObserver(**{"to": "json://localhost/"} | options)
    assert refused.value.details["option"] == option


def test_the_example_in_its_docstring_makes_an_observer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_CHAT", "json://localhost/")
    said = inspect.getdoc(NotifyObserver) or ""
    (example,) = (line.strip() for line in said.splitlines() if "NotifyObserver(" in line)
    made = eval(example, {"NotifyObserver": NotifyObserver, "os": os})
    assert isinstance(made, NotifyObserver)


@pytest.mark.parametrize("kind", list(LifecycleEventType))
def test_every_event_has_all_fields_and_a_message_whatever_it_says(kind: LifecycleEventType) -> None:
    for payload in ({}, {"agent": 5, "completion_data": "x", "message": None, "error": ["x"], "status": {}}):
        event = make_event(kind, payload=payload)
        assert set(fields_of(event)) == set(FIELDS)
        message = Templates({}).message(event)
        assert message.title
        assert message.body
        assert "$" not in message.title + message.body


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (ended("error"), "failure"),
        (ended("timeout"), "failure"),
        (ended("cancelled"), "warning"),
        (ended("interrupted"), "warning"),
        (ended("success"), "success"),
        (make_run()[0], "info"),
    ],
)
def test_a_message_is_as_serious_as_its_event(event: RunLifecycleEvent, kind: str) -> None:
    assert Templates({}).message(event).kind == kind
