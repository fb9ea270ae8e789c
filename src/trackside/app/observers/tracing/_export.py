"""Sends spans to a collector by OTLP over HTTP, from a thread, in bounded memory, and counts what became of each.

This uses the batching and sending of OpenTelemetry's SDK, and adds what the SDK does not do: say how many spans were
lost, say once and not for every batch that a collector is away, and end in time.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import requests
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk import version
from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_TRACES_HEADERS
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.util.re import parse_env_headers

from trackside.app.bounded_answers import bound_answers
from trackside.app.observers.tracing import _conventions as names
from trackside.app.observers.tracing._flushing import SpanStats, in_a_thread
from trackside.app.process_name import process_name
from trackside.harness.foreign.failures import line_of

__all__ = ["MAX_WAITING", "Export"]

logger = logging.getLogger("trackside.tracing")

MAX_WAITING: Final = 8_192
"""The most spans that wait for the collector; beyond that, spans are dropped."""

_SERVICE: Final = "trackside"
_BATCH: Final = 512
_DELAY_MS: Final = 1_000
_REQUEST_SECONDS: Final = 10.0
_THEIR_LOGGERS: Final = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.common._internal",
    "opentelemetry.exporter.otlp.proto.http._common",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
)


class Export:
    """A tracer provider whose spans go to a collector.

    Args:
        url: where the collector takes traces.
        headers: sent with each request.
        service_name: what the app is called; None: as the environment says, or else `trackside`.
    """

    def __init__(self, url: str, headers: Mapping[str, str], service_name: str | None) -> None:
        self._sender = _Sender(partial(_exporter, url, dict(headers)), url)
        self._queue = _Queue(self._sender)
        self.provider = TracerProvider(resource=_resource(service_name), shutdown_on_exit=False)
        self.provider.add_span_processor(self._queue)

    def stats(self) -> SpanStats:
        """What became of the spans so far."""
        return self._sender.stats()

    def after_fork(self) -> None:
        """Start over in a forked child: the parent sends what waits, over connections of its own (I24)."""
        self._sender.begin()

    async def close(self, limit: float) -> None:
        """Send what waits, for at most this many seconds; what is left then is dropped, and reported."""
        if not await in_a_thread(self._queue.shutdown, limit):
            self._sender.give_up()
        lost = self._sender.drop_rest()
        if lost:
            logger.warning("%d spans were not delivered to %s before the end", lost, self._sender.url)


def _resource(service_name: str | None) -> Resource:
    """What tells for each span which process it comes from, including what the environment says about that.

    The same as `Resource.create` makes; but that would wait for threads, on an event loop.
    """
    ours = Resource(
        {
            names.SERVICE_NAME: _SERVICE,
            names.SERVICE_INSTANCE: process_name(),
            names.SDK_LANGUAGE: "python",
            names.SDK_NAME: "opentelemetry",
            names.SDK_VERSION: version.__version__,
        }
    )
    said = ours.merge(OTELResourceDetector().detect())
    return said if service_name is None else said.merge(Resource({names.SERVICE_NAME: service_name}))


def _exporter(url: str, headers: dict[str, str]) -> SpanExporter:
    session = bound_answers(requests.Session())
    return OTLPSpanExporter(url, headers=_with_those_of_environment(headers), timeout=_REQUEST_SECONDS, session=session)


def _with_those_of_environment(headers: dict[str, str]) -> dict[str, str]:
    """These headers, plus others from the environment, as older exporters use those only if they are given none."""
    if not headers:
        return headers
    said = os.environ.get(OTEL_EXPORTER_OTLP_TRACES_HEADERS) or os.environ.get(OTEL_EXPORTER_OTLP_HEADERS, "")
    ours = {name.lower(): value for name, value in headers.items()}
    return {**parse_env_headers(said, liberal=True), **ours}


class _Sender(SpanExporter):
    """An exporter that is counted, and quiet.

    Spans are counted when they end (`admit`), and when a batch of them was sent or not: only one thread writes each
    counter, so that no thread waits for another when a span ends.
    """

    def __init__(self, make: Callable[[], SpanExporter], url: str) -> None:
        self.url = url
        self._make = make
        self._given_up = False
        self.begin()

    def begin(self) -> None:
        """Start with a new connection and nothing counted."""
        self._exporter = self._make()
        self._lock = threading.Lock()
        self._ended = self._refused = self._exported = self._failed = self._left = 0
        self._is_away = False
        self._lost_before = 0

    def admit(self) -> bool:
        """Count a span that has ended; returns whether there is room for it."""
        self._ended += 1
        if self._given_up or self._pending() > MAX_WAITING:
            self._refused += 1
            return False
        return True

    def stats(self) -> SpanStats:
        """What became of the spans so far."""
        ended, exported, failed, dropped = self._ended, self._exported, self._failed, self._refused + self._left
        return SpanStats(ended, exported, failed, dropped, ended - exported - failed - dropped)

    def _pending(self) -> int:
        return self._ended - self._exported - self._failed - self._refused - self._left

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; called from the SDK's thread, which it holds up for at most a request's time limit."""
        if self._given_up:
            return SpanExportResult.FAILURE
        with _quiet() as said:
            try:
                result = self._exporter.export(spans)
            except Exception as exc:  # noqa: BLE001  # the exporter failed, which costs these spans
                said.append(line_of(exc))
                result = SpanExportResult.FAILURE
        if self._count(result, len(spans)):
            self._say(result, said)
        return result

    def _count(self, result: SpanExportResult, spans: int) -> bool:
        """Count what became of a batch; False if it has already been counted as given up."""
        with self._lock:
            if self._given_up:
                return False
            if result is SpanExportResult.SUCCESS:
                self._exported += spans
            else:
                self._failed += spans
            return True

    def _say(self, result: SpanExportResult, said: Sequence[str]) -> None:
        """Report when a collector goes away and when it is back, and nothing in between."""
        stats = self.stats()
        lost = stats.failed + stats.dropped
        if result is not SpanExportResult.SUCCESS and not self._is_away:
            self._is_away = True
            why = said[0] if said else "no reason was given"
            message = "spans are not delivered to %s; up to %d wait, more are dropped. The first failure: %s"
            logger.warning(message, self.url, MAX_WAITING, why)
        elif result is SpanExportResult.SUCCESS and self._is_away:
            self._is_away = False
            logger.warning("spans are delivered to %s again; %d were lost", self.url, lost - self._lost_before)
        if result is SpanExportResult.SUCCESS:
            self._lost_before = lost

    def give_up(self) -> None:
        """Send nothing more, and break off retries."""
        self._given_up = True
        with _quiet():
            self._exporter.shutdown()

    def drop_rest(self) -> int:
        """Count all spans that wait as dropped; returns how many they are."""
        with self._lock:
            rest = self._pending()
            self._left += rest
            self._given_up = True
            return rest

    def shutdown(self) -> None:
        """Close the exporter."""
        if not self._given_up:
            with _quiet():
                self._exporter.shutdown()


class _Queue(SpanProcessor):
    """The SDK's queue, which never gets more than it can hold, because it does not count what it drops by itself."""

    def __init__(self, sender: _Sender) -> None:
        self._sender = sender
        self._batches: SpanProcessor = BatchSpanProcessor(
            sender,
            max_queue_size=MAX_WAITING + 1,
            max_export_batch_size=_BATCH,
            schedule_delay_millis=_DELAY_MS,
            export_timeout_millis=_REQUEST_SECONDS * 1_000,
        )

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: only spans that have ended are sent."""

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a span until its batch is sent."""
        context = span.get_span_context()
        if context is not None and context.trace_flags.sampled and self._sender.admit():
            self._batches.on_end(span)

    def shutdown(self) -> None:
        """Send what is left; blocks for as long as that takes, or some tens of seconds."""
        self._batches.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what there is; blocks meanwhile."""
        return self._batches.force_flush(timeout_millis)


class _Muffled(threading.local):
    """What the SDK would have logged in this thread while it sends for us; None while it does not."""

    said: list[str] | None = None


_muffled: Final = _Muffled()


def _is_not_ours(record: logging.LogRecord) -> bool:
    """A filter of log records: keeps those about somebody else's spans."""
    if _muffled.said is None:
        return True
    _muffled.said.append(record.getMessage())
    return False


@contextmanager
def _quiet() -> Generator[list[str]]:
    """Collect what the SDK logs in this thread, to keep it out of the log: a line for each batch and each try."""
    for name in _THEIR_LOGGERS:
        logging.getLogger(name).addFilter(_is_not_ours)  # once, however often it is added
    before, _muffled.said = _muffled.said, []
    try:
        yield _muffled.said
    finally:
        _muffled.said = before
