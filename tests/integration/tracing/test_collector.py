"""A collector that is down, slow, full of errors or back again: runs go on, and every span is accounted for."""

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from endless_answers import endless_answers
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from otlp_receiver import OtlpReceiver
from tests.integration.tracing.conftest import PATIENCE, Make

from trackside import RunContext, RunManager, RunSpec, RunStatus
from trackside.app.observers.tracing import TracingObserver, _export, _observer
from trackside.app.observers.tracing._flushing import SpanStats


async def nothing(_: Any, run: RunContext) -> None:
    """Do nothing."""


async def play(observer: TracingObserver, runs: int = 1) -> None:
    """Execute so many runs, which all succeed."""
    async with RunManager(observers=[observer]) as manager:
        for _ in range(runs):
            assert (await (await manager.start(RunSpec(nothing, "go"))).result()).status is RunStatus.success
        await manager.observers.flush(PATIENCE)


def accounts(observer: TracingObserver) -> tuple[int, int, int, int, int]:
    """The numbers of spans ended, exported, failed, dropped and pending."""
    stats = observer.stats()
    assert stats is not None
    assert stats.ended == stats.exported + stats.failed + stats.dropped + stats.pending
    return stats.ended, stats.exported, stats.failed, stats.dropped, stats.pending


@pytest.fixture
def impatient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a request little time where all of it passes, as nobody answers or the request is tried again."""
    monkeypatch.setattr(_export, "_REQUEST_SECONDS", 0.3)


def give_time(observer: TracingObserver) -> None:
    """Give further requests of this observer their time."""
    exporter: Any = observer._export
    client = exporter._sender._exporter._client
    assert client._timeout == 0.3, "else this would change nothing"
    client._timeout = PATIENCE


@pytest.mark.usefixtures("impatient")
async def test_a_collector_that_is_down_costs_spans_and_no_run_and_is_said_once(
    make: Make, receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    observer = make(endpoint=receiver.url)
    receiver.stop()
    for _ in range(3):
        await play(observer)
        await observer.flush(PATIENCE)
    assert accounts(observer) == (3, 0, 3, 0, 0)
    (record,) = caplog.records
    assert record.name == "trackside.tracing"
    assert record.levelno == logging.WARNING
    assert f"spans are not delivered to {receiver.url}/v1/traces" in record.getMessage()
    assert "The first failure: Failed to export spans batch" in record.getMessage()

    receiver.start()
    give_time(observer)
    await play(observer)
    await observer.flush(PATIENCE)
    assert accounts(observer) == (4, 1, 3, 0, 0)
    assert len(receiver.spans) == 1
    again = caplog.records[1].getMessage()
    assert again == f"spans are delivered to {receiver.url}/v1/traces again; 3 were lost"
    assert len(caplog.records) == 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("status", [300, 302, 304, 400, 401, 404, 429, 500, 503])
async def test_a_collector_that_refuses_costs_spans_and_no_run(make: Make, receiver: OtlpReceiver, status: int) -> None:
    observer = make(endpoint=receiver.url)
    receiver.always = status
    await play(observer)
    await observer.flush(PATIENCE)
    assert accounts(observer) == (1, 0, 1, 0, 0)
    receiver.always = None
    give_time(observer)
    await play(observer)
    await observer.aclose()
    assert accounts(observer) == (2, 1, 1, 0, 0)


async def test_what_has_no_room_while_a_collector_is_slow_is_dropped_and_counted(
    make: Make, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_export, "MAX_WAITING", 10)
    monkeypatch.setattr(_export, "_BATCH", 5)
    observer = make(endpoint=receiver.url)
    receiver.holds()
    await play(observer, runs=30)
    assert accounts(observer) == (30, 0, 0, 20, 10)
    receiver.lets_go()
    await observer.aclose()
    assert accounts(observer) == (30, 10, 0, 20, 0)
    assert len(receiver.spans) == 10


async def test_a_collector_that_never_answers_holds_up_no_close(
    make: Make, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_observer, "_CLOSE_SECONDS", 0.3)
    observer = make(endpoint=receiver.url)
    receiver.holds()
    await play(observer, runs=3)
    flushed = await observer.flush(0.01)
    assert not flushed.in_time
    assert flushed.spans == observer.stats()
    await asyncio.to_thread(receiver.wait_for_tries, 1)
    await observer.aclose()
    assert accounts(observer) == (3, 0, 0, 3, 0)
    assert [record.getMessage() for record in caplog.records] == [
        f"3 spans were not delivered to {receiver.url}/v1/traces before the end"
    ]
    receiver.lets_go()


async def test_of_an_answer_that_never_ends_its_status_counts(make: Make) -> None:
    async with endless_answers("body") as url:
        observer = make(endpoint=url)
        for ended in (1, 2, 3):
            await play(observer)
            await observer.flush(PATIENCE)
            assert accounts(observer) == (ended, ended, 0, 0, 0)
        await observer.aclose()


@pytest.mark.usefixtures("impatient")
async def test_an_answer_whose_head_never_ends_costs_its_spans_and_holds_up_none_after_them(make: Make) -> None:
    async with endless_answers("head") as url:
        observer = make(endpoint=url)
        for ended in (1, 2):
            await play(observer)
            await observer.flush(PATIENCE)
            assert accounts(observer) == (ended, 0, ended, 0, 0)
        await observer.aclose()


async def test_spans_reach_a_collector_without_waiting_for_a_close(make: Make, receiver: OtlpReceiver) -> None:
    observer = make(endpoint=f"{receiver.url}/otlp/traces")
    await play(observer)
    await asyncio.to_thread(receiver.wait_for_tries, 1)
    await observer.flush(PATIENCE)
    assert [request.path for request in receiver.requests] == ["/otlp/traces"]


async def test_what_comes_after_the_close_is_refused(make: Make, receiver: OtlpReceiver) -> None:
    observer = make(endpoint=receiver.url)
    await observer.aclose()
    await observer.aclose()
    await play(observer)
    assert accounts(observer) == (0, 0, 0, 0, 0)


def test_a_batch_that_was_given_up_is_not_counted_again_when_it_comes_back() -> None:
    begun, answered = threading.Event(), threading.Event()

    class Late(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            begun.set()
            answered.wait()
            return SpanExportResult.SUCCESS

    sender = _export._Sender(Late, "http://localhost")
    spans = [ReadableSpan("late")] * 3
    assert all(sender.admit() for _ in spans)
    sending = threading.Thread(target=sender.export, args=[spans])
    sending.start()
    begun.wait()
    assert sender.drop_rest() == 3
    answered.set()
    sending.join()
    assert sender.stats() == SpanStats(ended=3, exported=0, failed=0, dropped=3, pending=0)
