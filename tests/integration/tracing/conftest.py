"""A listening receiver, traced runs, and the spans that come of them."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from otlp_receiver import OtlpReceiver, ReceivedSpan

from trackside import RunManager
from trackside.app.observers.tracing import TracingObserver, _export, _observer

type Make = Callable[..., TracingObserver]

PATIENCE = 60.0  # seconds


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a request and a close as much time as they may need on a busy machine."""
    monkeypatch.setattr(_export, "_REQUEST_SECONDS", PATIENCE)
    monkeypatch.setattr(_observer, "_CLOSE_SECONDS", PATIENCE)


class Trace:
    """Spans by their names, and which span is below which."""

    def __init__(self, spans: list[ReceivedSpan]) -> None:
        self.spans = sorted(spans, key=lambda span: span.start)

    def __getitem__(self, name: str) -> ReceivedSpan:
        (span,) = self.all(name)
        return span

    def all(self, name: str) -> list[ReceivedSpan]:
        """All spans with this name, in the order in which they started."""
        return [span for span in self.spans if span.name == name]

    def tree(self) -> list[str]:
        """The name of each span, after those of the spans above it, from the top: `a > b > c`."""
        by_id = {span.span_id: span for span in self.spans}

        def path(span: ReceivedSpan) -> str:
            above = by_id.get(span.parent_id)
            return span.name if above is None else f"{path(above)} > {span.name}"

        return sorted(path(span) for span in self.spans)


class Traced:
    """Makes a manager whose runs are traced; once it is closed, the spans are there."""

    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    @asynccontextmanager
    async def manager(self, *, options: dict[str, Any] | None = None, **arguments: Any) -> AsyncGenerator[RunManager]:
        observer = TracingObserver(endpoint=self._receiver.url, **(options or {}))
        try:
            async with RunManager(observers=[observer], **arguments) as manager:
                yield manager
                await manager.observers.flush(PATIENCE)
        finally:
            await observer.aclose()

    @property
    def trace(self) -> Trace:
        return Trace(self._receiver.spans)


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as listening:
        yield listening


@pytest.fixture
def traced(receiver: OtlpReceiver) -> Traced:
    return Traced(receiver)


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes observers, and closes them at the end."""
    made: list[TracingObserver] = []

    def make_one(**options: Any) -> TracingObserver:
        made.append(TracingObserver(**options))
        return made[-1]

    yield make_one
    for one in made:
        await one.aclose()
