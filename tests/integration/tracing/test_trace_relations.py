"""Which runs a span is linked to, and which span it is below."""

from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.integration.tracing.conftest import Make, Traced
from tests.integration.tracing.traced_agents import event, works

from trackside import RunContext, RunLifecycleEvent, RunManager, RunSpec

CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"


CALLER_SPAN = "00f067aa0ba902b7"


async def test_an_answer_links_to_the_run_that_asked(traced: Traced) -> None:
    async def asks(_: Any, run: RunContext) -> Any:
        return run.interrupt("May I?")

    async with traced.manager() as manager:
        for asked in ({"input": "go"}, {"command": {"resume": "yes"}}, {"input": "again"}):
            await (await manager.start(RunSpec(asks, **asked, thread_id="thread"))).result()
    first, second, third = traced.trace.all("invoke_agent asks")
    assert first.attributes["trackside.run.status"] == "interrupted"
    assert first.attributes["trackside.interrupts"] == 1
    assert first.links == ()
    assert second.links == ((first.trace_id, first.span_id, {"trackside.link": "interrupted_run"}),)
    assert second.attributes["trackside.run.status"] == "success"
    assert third.links == ()


async def links_of(make: Make, *events: RunLifecycleEvent) -> dict[str, int]:
    """How many links the span of each run has, once an observer has seen these events."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    observer = make(tracer_provider=provider)
    for one in events:
        await observer.on_event(one)
    return {str((span.attributes or {})["trackside.run.id"]): len(span.links) for span in kept.get_finished_spans()}


def told(run_id: str, before: str | None, status: str, after: str | None) -> list[RunLifecycleEvent]:
    """The events of a run that found its thread in one status and left it in another."""
    events = [event(run_id, "run_started")]
    if before is not None:
        events.append(event(run_id, "thread_status_updated", 2, status="busy", previous=before))
    kind = "run_cancelled" if status == "cancelled" else "run_completed"
    events.append(event(run_id, kind, 3, status=status))
    if after is not None:
        events.append(event(run_id, "thread_status_updated", 4, status=after, previous="busy"))
    return events


ASKED = told("asks", "idle", "interrupted", "interrupted")


async def test_a_run_after_an_answer_that_was_executed_elsewhere_links_to_nothing(make: Make) -> None:
    later = told("later", "idle", "success", "idle")
    assert await links_of(make, *ASKED, *later) == {"asks": 0, "later": 0}


async def test_a_run_that_waited_behind_an_answer_links_to_nothing(make: Make) -> None:
    answers, behind = told("answers", "interrupted", "success", None), told("behind", None, "success", "idle")
    assert await links_of(make, *ASKED, *answers, *behind) == {"asks": 0, "answers": 1, "behind": 0}


async def test_an_answer_links_to_the_run_that_asked_also_if_one_before_it_was_taken_back(make: Make) -> None:
    taken_back = told("taken back", "interrupted", "cancelled", "interrupted")
    answers = told("answers", "interrupted", "success", "idle")
    assert await links_of(make, *ASKED, *taken_back, *answers) == {"asks": 0, "taken back": 1, "answers": 1}


async def test_another_attempt_links_to_the_one_before(traced: Traced) -> None:
    async with traced.manager() as manager:
        first = await (await manager.start(RunSpec(works, "go"))).result()
        await (await manager.start(RunSpec(works, "go", attempt=2, retry_of=first.run_id))).result()
    before, again = traced.trace.all("invoke_agent works")
    assert again.links == ((before.trace_id, before.span_id, {"trackside.link": "retry_of"}),)
    assert again.attributes["trackside.run.attempt"] == 2
    assert again.attributes["trackside.run.retry_of"] == first.run_id


async def test_a_run_belongs_to_the_trace_that_its_metadata_names(traced: Traced) -> None:
    metadata = {"traceparent": f"00-{CALLER}-{CALLER_SPAN}-01", "tracestate": "shop=1"}
    async with traced.manager() as manager:
        await (await manager.start(RunSpec(works, "go", metadata=metadata))).result()
    run = traced.trace["invoke_agent works"]
    assert (run.trace_id, run.parent_id) == (CALLER, CALLER_SPAN)
    assert {span.trace_id for span in traced.trace.spans} == {CALLER}


async def test_nothing_is_sent_of_a_run_that_its_caller_does_not_sample(traced: Traced) -> None:
    async with traced.manager() as manager:
        for flag in ("00", "01"):
            metadata = {"traceparent": f"00-{CALLER}-{CALLER_SPAN}-{flag}", "user": flag}
            await (await manager.start(RunSpec(works, "go", metadata=metadata))).result()
    assert len(traced.trace.all("invoke_agent works")) == 1
    assert len(traced.trace.spans) == 3


@pytest.mark.parametrize("traceparent", ["rubbish", "", None, 7, f"00-{'0' * 32}-{CALLER_SPAN}-01"], ids=repr)
async def test_a_traceparent_that_is_none_is_passed_over(traced: Traced, traceparent: Any) -> None:
    async with traced.manager() as manager:
        await (await manager.start(RunSpec(works, "go", metadata={"traceparent": traceparent}))).result()
    assert traced.trace["invoke_agent works"].parent_id == ""


async def test_a_run_belongs_below_the_span_in_which_it_was_started(make: Make) -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    observer = make(tracer_provider=provider)
    async with RunManager(observers=[observer]) as manager:
        with provider.get_tracer("app").start_as_current_span("request") as request:
            handle = await manager.start(RunSpec(works, "go"))
        await handle.result()
        await manager.observers.flush(60)
    spans = {span.name: span for span in kept.get_finished_spans()}
    parent = spans["invoke_agent works"].parent
    assert parent is not None
    assert parent.span_id == request.get_span_context().span_id
    assert spans["chat gpt-5-mini"].parent == spans["invoke_agent works"].get_span_context()
    assert observer.stats() is None


async def test_a_run_that_a_run_starts_belongs_below_it(traced: Traced) -> None:
    async def asks_another(_: Any, run: RunContext) -> None:
        started = await manager.start(RunSpec(works, "go"))
        await started.result()

    async with traced.manager() as manager:
        await (await manager.start(RunSpec(asks_another, "go"))).result()
    assert "invoke_agent asks_another > invoke_agent works > chat gpt-5-mini" in traced.trace.tree()


async def test_a_run_stays_below_the_one_that_has_started_it_if_its_traceparent_is_none(traced: Traced) -> None:
    async def asks_another(_: Any, run: RunContext) -> None:
        await (await manager.start(RunSpec(works, "go", metadata={"traceparent": "rubbish"}))).result()

    async with traced.manager() as manager:
        await (await manager.start(RunSpec(asks_another, "go"))).result()
    assert "invoke_agent asks_another > invoke_agent works > chat gpt-5-mini" in traced.trace.tree()
