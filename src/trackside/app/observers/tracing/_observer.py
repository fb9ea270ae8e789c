"""The observer: a span from the start of each run to its end, with the spans of its calls below it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, Final
from weakref import WeakSet

from opentelemetry import context as ambient
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from trackside.app.delivery import Delivery, ObserverOptionError
from trackside.app.observers.tracing import _conventions as names
from trackside.app.observers.tracing._calls import tell_calls
from trackside.app.observers.tracing._ends import tell_end
from trackside.app.observers.tracing._flushing import Flushed, SpanStats, in_a_thread
from trackside.app.observers.tracing._memory import OpenRun, Recent
from trackside.app.observers.tracing._messages import tell_message
from trackside.app.observers.tracing._options import OTLP_HEADERS, checked_name, traces_url
from trackside.app.observers.tracing._reading import (
    clean,
    count_of,
    known,
    mapping_of,
    nanoseconds,
    seconds_of,
    text_of,
)
from trackside.app.options import checked_flag, checked_headers
from trackside.harness.errors import ClosedError
from trackside.harness.lifecycle import is_terminal, run_status_of, thread_status_of
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus, ThreadStatus

if TYPE_CHECKING:
    from trackside.app.observers.tracing._export import Export

MAX_OPEN: Final = 10_000
"""How many runs are followed at once; beyond that, the span of the oldest ends."""

MAX_REMEMBERED: Final = 10_000
"""How many ended runs, and threads that wait for an answer, are remembered, as a later run may refer to them."""

_VERSION: Final = version("trackside")
_CLOSE_SECONDS: Final = 3.0
_NANOSECONDS: Final = 1_000_000_000
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class TracingObserver:
    """Makes a trace of each run: `invoke_agent` for the run, with `chat`, `execute_tool` and `invoke_agent` for its calls.

    A run's span is below the caller's if the run's metadata has a W3C `traceparent`; else below the run that started
    it, if that one ran in this process; else below the span that was current where the run was started. It links to the
    attempt before it, and to the run that asked the question for which its thread waits, if these ran in this process.
    Of several questions of a thread, it links to the one asked last in this process.

    If you have a tracer provider, pass it, or set it as OpenTelemetry's global one. With an `endpoint`, the observer
    has a provider of its own, and sends to that collector.

    Args:
        endpoint: a collector's address for OTLP over HTTP, as `http://localhost:4318`.
        headers: headers of each request to the collector.
        service_name: the app's name in its traces; if left out, what `OTEL_SERVICE_NAME` says, or `trackside`.
        capture_content: whether spans contain what humans and agents said, not only that they did.
        tracer_provider: makes the spans, instead of a provider of the observer's own.

    Raises:
        ObserverOptionError: (a `ValueError`) an option does not fit, or not with the others.
    """

    delivery: ClassVar[Delivery] = Delivery.live

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        service_name: str | None = None,
        capture_content: bool = False,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self._captures = checked_flag("capture_content", capture_content)
        self._export: Export | None = None
        if endpoint is not None:
            if tracer_provider is not None:
                raise ObserverOptionError(
                    option="endpoint", why="there is a tracer_provider, which has its own destination"
                )
            self._export = _export_to(endpoint, {} if headers is None else headers, service_name)
            tracer_provider = self._export.provider
        else:
            for option, value in (("headers", headers), ("service_name", service_name)):
                if value is not None:
                    raise ObserverOptionError(option=option, why="there is no `endpoint` that it could go to")
        if tracer_provider is not None and not hasattr(tracer_provider, "get_tracer"):
            raise ObserverOptionError(option="tracer_provider", why="it has no method get_tracer")
        self._provider = tracer_provider
        self._tracer = self._current_provider().get_tracer("trackside", _VERSION, schema_url=names.SCHEMA_URL)
        self._open: Recent[OpenRun] = Recent(MAX_OPEN)
        self._ended: Recent[SpanContext] = Recent(MAX_REMEMBERED)
        self._waiting: Recent[SpanContext] = Recent(MAX_REMEMBERED)
        self._closed = False
        _observers.add(self)
        self._steps: dict[LifecycleEventType, Callable[[RunLifecycleEvent], None]] = {
            LifecycleEventType.RUN_STARTED: self._start,
            LifecycleEventType.HUMAN_MESSAGE: self._note_message,
            LifecycleEventType.THREAD_STATUS_UPDATED: self._note_thread,
        }

    def stats(self) -> SpanStats | None:
        """What became of the spans; None without an `endpoint`, where the provider knows."""
        return None if self._export is None else self._export.stats()

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Begin, continue or end the span of the event's run.

        Raises:
            ClosedError: the observer is closed.
        """
        if self._closed:
            raise ClosedError(what="observer of traces")
        if is_terminal(event.event_type):
            await self._end(event)
        else:
            self._steps[event.event_type](event)

    async def flush(self, timeout: float = _CLOSE_SECONDS) -> Flushed:
        """Have all ended spans sent, for at most `timeout` seconds."""
        send = getattr(self._current_provider(), "force_flush", None)
        in_time = send is None or await in_a_thread(send, timeout)
        return Flushed(in_time, self.stats())

    async def aclose(self) -> None:
        """End the spans of runs that go on, and have everything sent, within a few seconds."""
        if self._closed:
            return
        self._closed = True
        for run in self._open.take_all():
            _cut(run, "closed")
        if self._export is None:
            await self.flush()
        else:
            await self._export.close(_CLOSE_SECONDS)

    def after_fork(self) -> None:
        """Forget, in a forked child, the runs that go on, as they and their spans are the parent's (I24)."""
        self._open.take_all()
        if self._export is not None:
            self._export.after_fork()

    def _current_provider(self) -> TracerProvider:
        return trace.get_tracer_provider() if self._provider is None else self._provider

    def _start(self, event: RunLifecycleEvent) -> None:
        if event.run_id in self._open or event.run_id in self._ended:  # it comes again
            return
        forgotten = self._open.keep(event.run_id, self._begin(event, nanoseconds(event.occurred_at)))
        if forgotten is not None:
            _cut(forgotten, "forgotten")

    def _begin(self, event: RunLifecycleEvent, began: int) -> OpenRun:
        says = event.payload
        agent = text_of(says, "agent")
        attributes = {
            names.OPERATION_NAME: names.INVOKE_AGENT,
            names.AGENT_NAME: agent,
            names.CONVERSATION_ID: clean(event.thread_id),
            names.RUN_ID: clean(event.run_id),
            names.RUN_ATTEMPT: count_of(says, "attempt"),
            names.RUN_RETRY_OF: text_of(says, "retry_of"),
            names.RUN_PARENT: text_of(says, "parent_run_id"),
            names.RUN_TRIGGER: text_of(says, "trigger"),
        }
        span = self._tracer.start_span(
            f"{names.INVOKE_AGENT} {agent}" if agent else names.INVOKE_AGENT,
            self._parent_of(says),
            SpanKind.INTERNAL,
            known(attributes),
            self._links_of(says),
            start_time=began,
        )
        return OpenRun(span, began)

    def _parent_of(self, says: Mapping[str, Any]) -> Context:
        metadata = mapping_of(says, "metadata")
        if isinstance(metadata.get("traceparent"), str):
            carrier = {key: metadata[key] for key in _PROPAGATOR.fields if isinstance(metadata.get(key), str)}
            given = _PROPAGATOR.extract(carrier, Context())
            if trace.get_current_span(given).get_span_context().is_valid:
                return given
        if (parent_id := says.get("parent_run_id")) is not None and (above := self._context_of(parent_id)) is not None:
            return trace.set_span_in_context(trace.NonRecordingSpan(above), Context())
        return ambient.get_current()

    def _links_of(self, says: Mapping[str, Any]) -> list[Link]:
        before = self._context_of(says.get("retry_of"))
        return [] if before is None else [Link(before, {names.LINK: "retry_of"})]

    def _context_of(self, run_id: Any) -> SpanContext | None:
        if not isinstance(run_id, str):
            return None
        run = self._open.get(run_id)
        return self._ended.get(run_id) if run is None else run.span.get_span_context()

    def _note_message(self, event: RunLifecycleEvent) -> None:
        run = self._open.get(event.run_id)
        if run is not None and run.span.is_recording():
            tell_message(run.span, event, captures=self._captures)

    def _note_thread(self, event: RunLifecycleEvent) -> None:
        asked = self._waiting.get(event.thread_id)
        if asked is None:
            return
        status = thread_status_of(event.event_type, event.payload)
        if status is ThreadStatus.busy and event.payload.get("previous") == ThreadStatus.interrupted:
            if (run := self._open.get(event.run_id)) is not None:
                run.span.add_link(asked, {names.LINK: "interrupted_run"})
        elif status is not ThreadStatus.interrupted:  # nor was it before: somebody has answered what was asked
            self._waiting.take(event.thread_id)

    async def _end(self, event: RunLifecycleEvent) -> None:
        data = mapping_of(event.payload, "completion_data")
        ended = nanoseconds(event.occurred_at)
        run = self._open.take(event.run_id)
        if run is None:
            if event.run_id in self._ended:  # it comes again
                return
            lasted = round(seconds_of(data, "duration_seconds") * _NANOSECONDS)  # 0 for a run that never started
            run = self._begin(event, max(0, ended - lasted))
        ended = max(run.began, ended)
        context = run.span.get_span_context()
        self._ended.keep(event.run_id, context)
        status = run_status_of(event.event_type, event.payload)
        assert status is not None, "it is no end"
        if status is RunStatus.interrupted:
            self._waiting.keep(event.thread_id, context)
        try:
            if run.span.is_recording():
                tell_end(run.span, event, status, captures=self._captures)
                await tell_calls(self._tracer, run.span, data.get("calls"), run.began, ended)
        finally:
            run.span.end(ended)


_observers: Final[WeakSet[TracingObserver]] = WeakSet()


def _forget_the_parents() -> None:
    for observer in list(_observers):
        observer.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_forget_the_parents)


def _export_to(endpoint: Any, headers: Any, service_name: Any) -> Export:
    url = traces_url(endpoint)
    headers = checked_headers("headers", headers, is_ours=OTLP_HEADERS.__contains__, owner="OTLP itself")
    name = None if service_name is None else checked_name(service_name)
    from trackside.app.observers.tracing._export import Export

    return Export(url, headers, name)


def _cut(run: OpenRun, why: str) -> None:
    """End the span of a run that has not ended."""
    run.span.set_attribute(names.SPAN_CUT, why)
    run.span.end(max(run.began, time.time_ns()))
