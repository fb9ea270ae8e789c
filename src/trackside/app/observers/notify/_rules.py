"""Decides which events somebody is notified of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from string import Template
from typing import Any, Final

from trackside.app.delivery import ObserverOptionError
from trackside.app.observers.notify._messages import completion_data, number_of, status_of, template
from trackside.harness.lifecycle import STATUSES_OF_EVENT, TERMINAL_EVENTS
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus, ThreadStatus

_ABOVE: Final = {"cost_above": "cost_usd", "duration_above": "duration_seconds", "tokens_above": "total_tokens"}
_KEYS: Final = ("events", "agent", "status", "error_type", *_ABOVE, "title", "body")

_NAMES_AGENT: Final = TERMINAL_EVENTS | {LifecycleEventType.RUN_STARTED}

_STATUSES: Final[Mapping[LifecycleEventType, Sequence[str]]] = {
    **STATUSES_OF_EVENT,
    LifecycleEventType.THREAD_STATUS_UPDATED: list(ThreadStatus),
}
"""Which statuses an event can have, if it has any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule fits an event if every condition holds; None and empty ones always hold."""

    events: frozenset[LifecycleEventType]
    agents: tuple[str, ...] | None
    statuses: frozenset[str] | None
    error_types: tuple[str, ...] | None
    above: Mapping[str, float]
    """Values that must be exceeded, by their name in `completion_data`."""
    title: Template | None = None
    body: Template | None = None

    def means(self, event: RunLifecycleEvent) -> bool:
        """Whether somebody is to be notified of this event."""
        if event.event_type not in self.events:
            return False
        if self.statuses is not None and status_of(event) not in self.statuses:
            return False
        if not (_fits(event, "agent", self.agents) and _fits(event, "error_type", self.error_types)):
            return False
        data = completion_data(event)
        return all((number_of(data, key) or 0) > limit for key, limit in self.above.items())


def _fits(event: RunLifecycleEvent, key: str, patterns: Sequence[str] | None) -> bool:
    if patterns is None:
        return True
    said = event.payload.get(key)
    return isinstance(said, str) and any(fnmatchcase(said, pattern) for pattern in patterns)


def rules_of(said: Any) -> tuple[Rule, ...]:
    """The rules from the settings, which are a list of tables.

    Raises:
        ObserverOptionError: a rule does not fit; the message names its number, counted from 1, and the key.
    """
    if not isinstance(said, Sequence) or isinstance(said, str) or not said:
        raise ObserverOptionError(
            option="on", why='it is a list of rules, as [{events = ["run_failed"], agent = "billing"}]'
        )
    return tuple(_rule(f"on[{number}]", one) for number, one in enumerate(said, 1))


def _rule(option: str, said: Any) -> Rule:
    if not isinstance(said, Mapping):
        raise ObserverOptionError(option=option, why=f'a rule is a table, as {{events = ["run_failed"]}}, not {said!r}')
    for key in said:
        if key not in _KEYS:
            raise ObserverOptionError(
                option=f"{option}.{key}", why=f"a rule has no such key; it has {', '.join(_KEYS)}"
            )

    def texts(key: str) -> tuple[str, ...] | None:
        return _texts(f"{option}.{key}", said[key]) if key in said else None

    above = {of: _limit(f"{option}.{key}", said[key]) for key, of in _ABOVE.items() if key in said}
    statuses = texts("status")
    rule = Rule(
        events=_events(option, texts("events"), statuses),
        agents=texts("agent"),
        statuses=None if statuses is None else frozenset(statuses),
        error_types=texts("error_type"),
        above=above,
        **{key: template(f"{option}.{key}", said[key]) for key in ("title", "body") if key in said},
    )
    _check_said(option, rule)
    return rule


def _events(
    option: str, said: tuple[str, ...] | None, statuses: tuple[str, ...] | None
) -> frozenset[LifecycleEventType]:
    """The events that a rule names, or else the ends of runs, as far as they can have one of its statuses."""
    for name in said or ():
        _check_one_of(f"{option}.events", name, list(LifecycleEventType))
    kinds = TERMINAL_EVENTS if said is None else frozenset(map(LifecycleEventType, said))
    if statuses is None:
        return kinds
    known = [*RunStatus, *(ThreadStatus if LifecycleEventType.THREAD_STATUS_UPDATED in kinds else ())]
    for name in statuses:
        _check_one_of(f"{option}.status", name, known)
    saying = frozenset(kind for kind in kinds if not set(_STATUSES.get(kind, ())).isdisjoint(statuses))
    if not saying:
        nobody = "no run ends like that" if said is None else f"no {', '.join(sorted(kinds))} says that"
        raise ObserverOptionError(option=f"{option}.status", why=f"{nobody}, so the rule never holds")
    return saying


def _check_one_of(option: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ObserverOptionError(option=option, why=f"{name!r} is not one of {', '.join(dict.fromkeys(known))}")


def _check_said(option: str, rule: Rule) -> None:
    """Check that the rule can ever hold: not every event says everything."""
    needs: list[tuple[str, bool, frozenset[LifecycleEventType]]] = [
        ("agent", rule.agents is not None, _NAMES_AGENT),
        ("error_type", rule.error_types is not None, frozenset({LifecycleEventType.RUN_FAILED})),
        *((key, of in rule.above, TERMINAL_EVENTS) for key, of in _ABOVE.items()),
    ]
    for key, is_asked, sayers in needs:
        if is_asked and not rule.events & sayers:
            events = ", ".join(sorted(rule.events))
            raise ObserverOptionError(option=f"{option}.{key}", why=f"no {events} says that, so the rule never holds")


def _texts(option: str, said: Any) -> tuple[str, ...]:
    given = [said] if isinstance(said, str) else said
    if not isinstance(given, Sequence) or not given or not all(isinstance(one, str) and one for one in given):
        raise ObserverOptionError(option=option, why=f"it is a text or a list of texts, not {said!r}")
    return tuple(given)


def _limit(option: str, said: Any) -> float:
    if isinstance(said, bool) or not isinstance(said, int | float) or not said >= 0:
        raise ObserverOptionError(option=option, why=f"it is a number from 0 up, not {said!r}")
    return said
