"""A receiver of traces: OTLP over HTTP with protobuf, read by OpenTelemetry's own definitions, in its own thread.

with OtlpReceiver() as receiver:
    receiver.answers.append(503)  # once; then 200
    receiver.holds()  # answers nobody from now on
    receiver.spans  # what came
"""

from __future__ import annotations

import gzip
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2

_PATIENCE = 60.0  # real seconds


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it arrived."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    start: int
    end: int
    attributes: Mapping[str, Any]
    events: tuple[tuple[str, Mapping[str, Any]], ...]
    links: tuple[tuple[str, str, Mapping[str, Any]], ...]
    """The trace, the span and the attributes of each link."""
    status: str
    description: str


@dataclass(frozen=True)
class ReceivedRequest:
    """A request: its path, its headers, the attributes of its resource, the schema that it names."""

    path: str
    headers: Mapping[str, str]
    resource: Mapping[str, Any]
    schema_url: str
    spans: tuple[ReceivedSpan, ...]


class OtlpReceiver:
    """A collector at `url`, on loopback."""

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []
        self.answers: deque[int] = deque()
        """HTTP statuses of the next answers; 200 when there are none."""
        self.always: int | None = None
        """The HTTP status of each answer."""
        self.tries = 0
        """How many requests came, whatever the answer."""
        self._release = threading.Event()
        self._release.set()
        self._came = threading.Condition()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans that came and were answered with 200."""
        return [span for request in self.requests for span in request.spans]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, at the last port if there was one."""
        self._server = _Server(("127.0.0.1", self._port), self._handler())
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=[0.01], name="otlp-receiver", daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self._release.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def holds(self) -> None:
        """Answer nobody until `stop` or `lets_go`."""
        self._release.clear()

    def lets_go(self) -> None:
        """Answer those who wait, and all who come."""
        self._release.set()

    def wait_for_tries(self, number: int) -> None:
        """Wait until so many requests have come."""
        with self._came:
            assert self._came.wait_for(lambda: self.tries >= number, _PATIENCE), f"{self.tries} requests came"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # the name that the base class calls
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.take(self.path, dict(self.headers), body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> int:
        """Read a request, and return the status that answers it."""
        with self._came:
            self.tries += 1
            self._came.notify_all()
            status = self.always or (self.answers.popleft() if self.answers else 200)
        self._release.wait(_PATIENCE)
        lower = {name.lower(): value for name, value in headers.items()}
        if lower.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if status == 200:
            self.requests += _requests_in(path, lower, ExportTraceServiceRequest.FromString(body))
        return status


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing about clients that go away, as those do which lose patience."""


def _requests_in(path: str, headers: Mapping[str, str], asked: ExportTraceServiceRequest) -> list[ReceivedRequest]:
    return [
        ReceivedRequest(
            path,
            headers,
            _attributes(resource.resource.attributes),
            scope.schema_url,
            tuple(_span(span) for span in scope.spans),
        )
        for resource in asked.resource_spans
        for scope in resource.scope_spans
    ]


def _span(span: trace_pb2.Span) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        events=tuple((event.name, _attributes(event.attributes)) for event in span.events),
        links=tuple((link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in span.links),
        status=trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_").lower(),
        description=span.status.message,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)
