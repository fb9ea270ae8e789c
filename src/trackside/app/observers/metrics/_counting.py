"""Counts runs by the events that are announced for them."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import Counter, Histogram, Metric

from trackside.app.observers.metrics import definitions as d
from trackside.app.observers.metrics._instruments import collected, counter, histogram
from trackside.app.observers.metrics._labels import Bounded
from trackside.harness.calls import BROKEN_OFF, CALL_KINDS
from trackside.harness.lifecycle import FINAL_STATUSES, is_final, run_status_of
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus

_MOST_RUNNING = 100_000
"""How many runs are remembered as running; those whose end is never announced must not stay for ever."""

_MOST = 1e18
"""More than this of anything is an emitter's mistake, and would hide all that comes after."""

_COUNTERS = tuple(each for each in d.DEFINITIONS if each.source is d.Source.events and each.kind is d.Kind.counter)
_HISTOGRAMS = (d.RUN_DURATION, d.CALL_DURATION)

type _Counters = Mapping[d.Definition, Counter]


class RunCounts:
    """Everything that is counted from events.

    One thread calls it, and any thread may scrape it: what is counted has its own locks, which nobody holds for long.

    Args:
        max_labels: how many agents, models and types of errors are told apart.
        buckets: the upper bounds of the buckets of durations, in seconds.
    """

    def __init__(self, max_labels: int, buckets: Sequence[float]) -> None:
        counters: _Counters = {definition: counter(definition) for definition in _COUNTERS}
        durations, calls = (histogram(definition, buckets) for definition in _HISTOGRAMS)
        self._instruments: tuple[Counter | Histogram, ...] = (*counters.values(), durations, calls)
        self._agents = Bounded("agent", max_labels, lambda name: _Agent(name, counters, durations))
        self._models = Bounded("model", max_labels, lambda name: _Model(name, counters))
        self._errors = Bounded("error_type", max_labels, counters[d.RUN_FAILURES].labels)
        self._calls: dict[str, Histogram] = {kind: calls.labels(kind) for kind in CALL_KINDS}
        self._running: dict[str, _Agent] = {}

    def take(self, event: RunLifecycleEvent) -> None:
        """Count one event. Whatever is in its payload, nothing is raised."""
        status = run_status_of(event.event_type, event.payload)
        if status is None:
            if event.event_type is LifecycleEventType.HUMAN_MESSAGE:
                self._agent_of(event.run_id).messages.inc()
        elif is_final(status):
            self._end(event, status)
        else:
            self._start(event)

    def collect(self) -> Iterable[Metric]:
        """All that has been counted so far."""
        for instrument in self._instruments:
            yield from collected(instrument)

    def running(self) -> Mapping[str, int]:
        """How many runs of each agent have started and not ended, as far as the events show."""
        return self.by_agent(Tally(agent.name for agent in [*self._running.values()]))

    def expect(self, agents: Iterable[str]) -> None:
        """Show these agents from now on, with 0 runs: what is counted first may be the end of a run from elsewhere."""
        for name in agents:
            self._agents[name]  # creates its instruments

    def by_agent(self, counts: Mapping[str, int]) -> Mapping[str, int]:
        """The given numbers by agent, under the labels that agents have here."""
        return self._agents.merged(counts)

    def _start(self, event: RunLifecycleEvent) -> None:
        agent = self._agents[event.payload.get("agent")]
        agent.started.inc()
        if len(self._running) >= _MOST_RUNNING:
            del self._running[next(iter(self._running))]
        self._running[event.run_id] = agent

    def _end(self, event: RunLifecycleEvent, status: RunStatus) -> None:
        payload = event.payload
        agent = self._agent_of(event.run_id) if "agent" not in payload else self._agents[payload["agent"]]
        self._running.pop(event.run_id, None)
        agent.ended[status].inc()
        if event.event_type is LifecycleEventType.RUN_FAILED:
            self._errors[payload.get("error_type")].inc()
        data = _mapping(payload.get("completion_data"))
        if event.sequence > 1 and "duration_seconds" in data:  # otherwise it never started
            agent.took(status).observe(_amount(data["duration_seconds"]))
        agent.llm_calls.inc(_amount(data.get("llm_call_count")))
        agent.llm_errors.inc(_amount(data.get("llm_error_count")))
        agent.tool_calls.inc(_amount(data.get("tool_call_count")))
        agent.cost.inc(_amount(data.get("cost_usd")))
        for model, usage in _mapping(data.get("token_usage_by_model")).items():
            self._models[model].add(_mapping(usage))
        if calls := data.get("calls"):
            self._look_at(calls, agent)

    def _look_at(self, calls: object, agent: _Agent) -> None:
        for call in calls if isinstance(calls, list) else ():
            says = _mapping(call)
            kind = says.get("kind")
            if isinstance(kind, str) and (durations := self._calls.get(kind)) is not None:
                if seconds := _amount(says.get("seconds")):  # 0: the call was counted, but not measured
                    durations.observe(seconds)
                if kind == "execute_tool" and says.get("error_type") not in (None, *BROKEN_OFF):
                    agent.tool_errors.inc()

    def _agent_of(self, run_id: str) -> _Agent:
        return self._running.get(run_id) or self._agents[None]


class _Agent:
    """What is counted for the runs of one agent. There from the start, at 0: a rate needs the step to the first one."""

    __slots__ = (
        "_durations",
        "_took",
        "cost",
        "ended",
        "llm_calls",
        "llm_errors",
        "messages",
        "name",
        "started",
        "tool_calls",
        "tool_errors",
    )

    def __init__(self, name: str, counters: _Counters, durations: Histogram) -> None:
        self.name = name
        self.started = counters[d.RUNS_STARTED].labels(name)
        self.messages = counters[d.HUMAN_MESSAGES].labels(name)
        self.cost = counters[d.RUN_COST].labels(name)
        self.llm_calls = counters[d.LLM_CALLS].labels(name)
        self.llm_errors = counters[d.LLM_ERRORS].labels(name)
        self.tool_calls = counters[d.TOOL_CALLS].labels(name)
        self.tool_errors = counters[d.TOOL_ERRORS].labels(name)
        self.ended = {status: counters[d.RUNS].labels(name, status.value) for status in sorted(FINAL_STATUSES)}
        self._durations = durations
        self._took: dict[RunStatus, Histogram] = {}

    def took(self, status: RunStatus) -> Histogram:
        """How long runs that ended like this took. It has a series for each bucket, so only the first one makes it."""
        if (took := self._took.get(status)) is None:
            took = self._took[status] = self._durations.labels(self.name, status.value)
        return took


class _Model:
    """What is counted for one model."""

    __slots__ = ("_cost", "_tokens")

    def __init__(self, name: str, counters: _Counters) -> None:
        tokens = counters[d.RUN_TOKENS]
        directions = ("input", "output", "cache_read", "cache_write", "reasoning")
        self._tokens = [(f"{direction}_tokens", tokens.labels(name, direction)) for direction in directions]
        self._cost = counters[d.MODEL_COST].labels(name)

    def add(self, usage: Mapping[str, Any]) -> None:
        for key, tokens in self._tokens:
            if amount := _amount(usage.get(key)):
                tokens.inc(amount)
        if cost := _amount(usage.get("cost_usd")):
            self._cost.inc(cost)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _amount(value: Any) -> float:
    """An amount from an event; 0 if it is not a valid one. Events from other emitters may contain anything."""
    return float(value) if type(value) in (int, float) and 0 < value < _MOST else 0
