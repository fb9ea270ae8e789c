"""An observer that sends traces to a real receiver, or to a provider of its user's, keeps the observer contract."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from otlp_receiver import OtlpReceiver

from trackside.app.observers.tracing import TracingObserver
from trackside.testing.contracts import ObserverContract


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as listening:
        yield listening


class TestTracingObserver(ObserverContract):
    @pytest.fixture
    def observer(self, receiver: OtlpReceiver) -> object:
        return self._sending(receiver.url)

    @asynccontextmanager
    async def _sending(self, url: str) -> AsyncGenerator[TracingObserver]:
        observer = TracingObserver(endpoint=url, capture_content=True)
        yield observer
        await observer.aclose()


class TestTracingObserverWithAProviderOfTheUsers(ObserverContract):
    @pytest.fixture
    def observer(self) -> object:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
        return TracingObserver(tracer_provider=provider)
