"""A collector of traces, which gets one trace of the whole demo: of the program, its runs, and their calls."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import override

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from otlp_receiver import OtlpReceiver, ReceivedSpan
from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.observers.record import Arrival, Record
from demo.observers.stand import Stand, headline
from trackside import RunStatus
from trackside.app.cli.formatting import count, duration
from trackside.app.cli.views.appearance import RUN_LOOKS
from trackside.app.observers.tracing import TracingObserver
from trackside.app.wiring import App

PATIENCE = 10.0  # seconds
PROGRAM = "the program that asks"
"""The span around all runs, from another service than theirs."""

_SECOND = 1_000_000_000  # nanoseconds


class TraceStand(Stand):
    """The collector."""

    name = "traces"

    def __init__(self) -> None:
        self._receiver = OtlpReceiver()

    @override
    async def open(self, stack: AsyncExitStack) -> None:
        self._receiver.start()
        stack.push_async_callback(asyncio.to_thread, self._receiver.stop)

    @override
    def settings(self) -> str:
        return f'[[observers]]\ntype = "tracing"\nendpoint = "{self._receiver.url}"\nservice_name = "agents"\n'

    @property
    @override
    def place(self) -> str:
        return f"{self._receiver.url}/v1/traces, OTLP over HTTP"

    @override
    def came(self) -> str:
        return f"{count(len(self._receiver.spans), 'span')} in {count(len(self._receiver.requests), 'request')}"

    @asynccontextmanager
    async def program(self) -> AsyncGenerator[None]:
        """A span of the program that starts the runs, made the way any instrumented program makes its spans."""
        provider = TracerProvider(resource=Resource({"service.name": "demo"}), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{self._receiver.url}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter))
        try:
            with provider.get_tracer("demo").start_as_current_span(PROGRAM):
                yield
        finally:
            await asyncio.to_thread(provider.shutdown)  # which sends the span

    @override
    async def settle(self, app: App, record: Record) -> None:
        (observer,) = (each.observer for each in app.observers if isinstance(each.observer, TracingObserver))
        await observer.flush(PATIENCE)

    @override
    def arrivals(self, record: Record) -> Sequence[Arrival]:
        wanted = [PROGRAM]
        wanted += [f"invoke_agent {run.agent}" for run in record.runs]
        wanted += [f"{call['kind']} {call['name']}" for call in record.calls()]
        traces = {span.trace_id for span in self._receiver.spans}
        remark = f"{len(record.runs)} runs, their {len(record.calls())} calls, and who asked, in one trace"
        if len(traces) != 1:
            remark = f"in {len(traces)} traces, and not in one"
        trace = next((span.trace_id for span in self._receiver.spans if span.name == PROGRAM), None)
        got = [span.name if span.trace_id == trace else f"{span.name}, elsewhere" for span in self._receiver.spans]
        return [Arrival.of("collector", "spans", wanted, got, remark)]

    @override
    def show(self, console: Console, record: Record) -> None:
        spans = self._receiver.spans
        headline(console, "Trace", f"{self.came()}; ↩ has the answer to what another run asked")
        began = min((span.start for span in spans), default=0)
        whole = max((span.end for span in spans), default=0) - began
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(no_wrap=True, ratio=5)
        table.add_column(no_wrap=True, ratio=3)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(ratio=4, no_wrap=True)
        for branch, span in _in_tree(spans):
            table.add_row(
                Text(branch, "dim").append(
                    span.name, "not dim bold" if "trackside.run.id" in span.attributes else "not dim"
                ),
                _about(span, record),
                duration((span.end - span.start) / _SECOND),
                Bar(
                    whole,
                    span.start - began,
                    max(span.end - began, span.start - began + whole / 200),
                    color=_color(span),
                ),
            )
        console.print(table)


def _in_tree(spans: Sequence[ReceivedSpan]) -> Iterator[tuple[str, ReceivedSpan]]:
    """The spans in tree order, each with the lines that lead to it."""
    known = {span.span_id for span in spans}
    below: dict[str, list[ReceivedSpan]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        below[span.parent_id if span.parent_id in known else ""].append(span)

    def walk(above: str, lead: str) -> Iterator[tuple[str, ReceivedSpan]]:
        for span in below[above]:
            is_last = span is below[above][-1]
            yield f"{lead}{'└ ' if is_last else '├ '}", span
            yield from walk(span.span_id, lead + ("  " if is_last else "│ "))

    for root in below[""]:
        yield "", root
        yield from walk(root.span_id, "")


def _about(span: ReceivedSpan, record: Record) -> Text:
    """How a run ended, or what is known about a call."""
    says = span.attributes
    if (status := says.get("trackside.run.status")) is not None:
        look = RUN_LOOKS[RunStatus(status)]
        text = Text(f"{look.symbol} {record.lane(says['trackside.run.id'])}", look.style)
        text.append(f" {says.get('error.type', '')}", "red")
        return text.append("↩", "yellow") if span.links else text
    if (tokens := says.get("gen_ai.usage.input_tokens")) is not None:
        return Text(f"{tokens} in, {says.get('gen_ai.usage.output_tokens', 0)} out", "dim")
    return Text(str(says.get("trackside.caller", "")), "dim")


def _color(span: ReceivedSpan) -> str:
    if span.status == "error":
        return "red"
    kind = str(span.attributes.get("gen_ai.operation.name", ""))
    return {"invoke_agent": "cyan", "chat": "magenta", "execute_tool": "yellow"}.get(kind, "white")
