"""What live observers do with an event, by hand: nothing but the calls of the libraries below them.

They know this benchmark's events, check nothing, forget nothing, and run in the caller that announces it. So they
show the least that counters, spans and lines cost, whoever asks for them.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, set_span_in_context
from prometheus_client import CollectorRegistry, Counter, Histogram

from trackside import RunLifecycleEvent
from trackside.app.observers.storage import StorageObserver
from trackside.harness.lifecycle import is_terminal
from trackside.harness.types import LifecycleEventType

_KINDS = {"chat": SpanKind.CLIENT, "execute_tool": SpanKind.INTERNAL}


class RawMetrics:
    """Counters and histograms of `prometheus_client`, with labels looked up in advance."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        names = ("started", "messages", "ended", "llm_calls", "tool_calls", "input_tokens", "output_tokens", "cost_usd")
        self._counters = {name: Counter(name, name, registry=registry) for name in names}
        self._took = Histogram("took", "took", registry=registry)
        self._calls = Histogram("calls", "calls", ["kind"], registry=registry)
        self._call_kinds = {kind: self._calls.labels(kind) for kind in _KINDS}

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Count it."""
        counters = self._counters
        if event.event_type is LifecycleEventType.RUN_STARTED:
            counters["started"].inc()
        elif event.event_type is LifecycleEventType.HUMAN_MESSAGE:
            counters["messages"].inc()
        elif is_terminal(event.event_type):
            counters["ended"].inc()
            data = event.payload["completion_data"]
            self._took.observe(data["duration_seconds"])
            counters["llm_calls"].inc(data["llm_call_count"])
            counters["tool_calls"].inc(data["tool_call_count"])
            for usage in data["token_usage_by_model"].values():
                for name in ("input_tokens", "output_tokens", "cost_usd"):
                    counters[name].inc(usage.get(name, 0))
            for call in data["calls"]:
                self._call_kinds[call["kind"]].observe(call["seconds"])


class RawSpans:
    """Spans of OpenTelemetry's SDK: one for the run, one below it for each call, four or five attributes each."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("by hand")
        self._open: dict[str, Span] = {}

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Begin or end the span of its run."""
        if event.event_type is LifecycleEventType.RUN_STARTED:
            agent = event.payload["agent"]
            says = {"operation": "invoke_agent", "agent": agent, "run": event.run_id, "thread": event.thread_id}
            self._open[event.run_id] = self._tracer.start_span(f"invoke_agent {agent}", Context(), attributes=says)
        elif is_terminal(event.event_type):
            data, span = event.payload["completion_data"], self._open.pop(event.run_id)
            usage = {name: data[name] for name in ("total_input_tokens", "total_output_tokens", "llm_call_count")}
            span.set_attributes({"status": "success", **usage})
            self._tell_calls(data["calls"], set_span_in_context(span, Context()))
            span.end()

    def _tell_calls(self, calls: Sequence[Mapping[str, Any]], below: Context) -> None:
        for call in calls:
            kind, name = call["kind"], call["name"]
            says = {"operation": kind, "name": name, "caller": call["caller"], "seconds": call["seconds"]}
            self._tracer.start_span(f"{kind} {name}", below, _KINDS[kind], says).end()


class RawLines:
    """A line of `json.dumps` for each event, written to a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Write its line."""
        line = {
            "time": event.occurred_at.isoformat(),
            "level": "info",
            "message": event.event_type.value,
            "run_id": event.run_id,
            "thread_id": event.thread_id,
            "sequence": event.sequence,
            "event_id": event.event_id,
        }
        self._file.write(json.dumps(line) + "\n")

    async def aclose(self) -> None:
        """Close the file."""
        self._file.close()


class RawKept:
    """The latest events, in a deque."""

    def __init__(self) -> None:
        self._events: deque[RunLifecycleEvent] = deque(maxlen=4_000)

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Keep it."""
        self._events.append(event)


type RawObserver = RawMetrics | RawSpans | RawLines | RawKept


class StorageAndByHand:
    """Stores events, then does the rest by hand, in the same call."""

    def __init__(self, storage: StorageObserver, raw: Sequence[RawObserver]) -> None:
        self._storage = storage
        self._raw = raw

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Take one event."""
        await self.on_events((event,))

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Take these events."""
        await self._storage.on_events(events)
        for event in events:
            for observer in self._raw:
                await observer.on_event(event)
