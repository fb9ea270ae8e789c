"""What a collector gets of runs, with real agents, the real SDK and real OTLP."""

import asyncio
import json
import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.contract.ways_to_run import virtual
from tests.integration.tracing.conftest import Make, Traced
from tests.integration.tracing.traced_agents import event, works

from trackside import RunContext, RunManager, RunSpec, RunStatus, current_run
from trackside.app.observers.tracing import TracingObserver, _observer
from trackside.app.process_name import process_name


def call(kind: str, name: str, at: float, seconds: float, caller: str = "lead_agent") -> dict[str, Any]:
    return {"kind": kind, "name": name, "caller": caller, "at": at, "seconds": seconds}


async def test_a_run_is_a_span_with_its_calls_below_it(traced: Traced, receiver: Any) -> None:
    async with traced.manager(options={"service_name": "shop", "headers": {"x-key": "secret"}}) as manager:
        spec = RunSpec(works, "Why?", thread_id="thread-1", trigger="cron")
        result = await (await manager.start(spec)).result()
    spans = traced.trace
    assert spans.tree() == [
        "invoke_agent works",
        "invoke_agent works > chat gpt-5-mini",
        "invoke_agent works > execute_tool search",
    ]
    run, chat, tool = spans["invoke_agent works"], spans["chat gpt-5-mini"], spans["execute_tool search"]
    assert (run.kind, chat.kind, tool.kind) == ("internal", "client", "internal")
    assert run.attributes == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "works",
        "gen_ai.conversation.id": "thread-1",
        "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 40,
        "trackside.run.id": result.run_id,
        "trackside.run.status": "success",
        "trackside.run.trigger": "cron",
        "trackside.run.llm_calls": 1,
        "trackside.run.tool_calls": 1,
    }
    assert chat.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 40,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.cache_creation.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 7,
        "trackside.caller": "lead_agent",
    }
    assert tool.attributes == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "search",
        "trackside.caller": "lead_agent",
    }
    assert run.start <= chat.start <= chat.end <= tool.start <= tool.end <= run.end
    assert {span.status for span in spans.spans} == {"unset"}
    assert [name for name, _ in run.events] == ["trackside.human_message"]
    (request,) = receiver.requests
    assert request.path == "/v1/traces"
    assert request.headers["x-key"] == "secret"
    assert request.resource["service.name"] == "shop"
    assert request.resource["service.instance.id"] == process_name()
    assert request.resource["telemetry.sdk.name"] == "opentelemetry"


@pytest.mark.parametrize("others", [[], ["gpt-4o"], ["gpt-4o-mini"]], ids=["alone", "asked for by itself", "another"])
async def test_a_model_that_answers_by_another_name_has_both(traced: Traced, others: list[str]) -> None:
    async def asks(_: Any, run: RunContext) -> str:
        for asked in ["gpt-4o", *others]:
            with run.call("chat", asked) as call:
                run.record_usage("gpt-4o-2024-08-06", input_tokens=3, output_tokens=2, call=call)
        return "done"

    async with traced.manager() as manager:
        await (await manager.start(RunSpec(asks, "Why?"))).result()

    def models(span: Any) -> dict[str, Any]:
        return {name: value for name, value in span.attributes.items() if name.endswith("model")}

    both = {"gen_ai.request.model": "gpt-4o", "gen_ai.response.model": "gpt-4o-2024-08-06"}
    spans = traced.trace
    assert models(spans.all("chat gpt-4o")[0]) == both
    one = {"gen_ai.response.model": "gpt-4o-2024-08-06"}
    assert models(spans["invoke_agent asks"]) == (one if others == ["gpt-4o-mini"] else both)


@pytest.mark.parametrize("variable", [True, False])
async def test_traces_say_which_process_they_are_of_as_the_environment_does(
    traced: Traced, receiver: Any, monkeypatch: pytest.MonkeyPatch, variable: bool
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=prod,service.instance.id=w-1")
    if variable:
        monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    async with traced.manager() as manager:
        await (await manager.start(RunSpec(works, "go"))).result()
    (request,) = receiver.requests

    assert request.resource["service.name"] == ("shop" if variable else "trackside")
    assert request.resource["deployment.environment.name"] == "prod"
    assert request.resource["service.instance.id"] == "w-1"


async def test_an_agent_that_ended_with_its_tool_is_below_it_however_times_were_rounded() -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    observer = TracingObserver(tracer_provider=provider)
    calls = [
        call("execute_tool", "delegate", 0.000001, 0.1),
        call("invoke_agent", "sub", 0.0, 0.100003),
        call("chat", "m", 0.01, 0.01, caller="sub"),
    ]
    await observer.on_event(event("r", "run_started", agent="a"))
    await asyncio.sleep(0.2)
    says = {"status": "success", "agent": "a", "completion_data": {"duration_seconds": 0.2, "calls": calls}}
    await observer.on_event(event("r", "run_completed", 2, **says))
    await observer.aclose()
    by_name = {span.name: span for span in spans.get_finished_spans()}

    above = by_name["invoke_agent sub"].parent
    assert above is not None
    assert above.span_id == by_name["execute_tool delegate"].context.span_id


async def test_a_failed_run_and_its_failed_call_are_errors(traced: Traced) -> None:
    async def fails(_: Any, run: RunContext) -> None:
        with run.call("execute_tool", "send"):
            raise ConnectionError("nobody is there")

    async with traced.manager() as manager:
        await (await manager.start(RunSpec(fails, "go"))).result()
    run, tool = traced.trace["invoke_agent fails"], traced.trace["execute_tool send"]
    assert (run.status, run.description) == ("error", "nobody is there")
    assert run.attributes["error.type"] == "ConnectionError"
    ((_, raised),) = [happened for happened in run.events if happened[0] == "exception"]
    assert raised["exception.type"] == "ConnectionError"
    assert raised["exception.message"] == "nobody is there"
    assert "raise ConnectionError" in raised["exception.stacktrace"]
    assert (tool.status, tool.attributes["error.type"]) == ("error", "ConnectionError")


async def waits(_: Any, run: RunContext) -> None:
    with run.call("execute_tool", "slow"):
        run.send("there")
        await asyncio.Event().wait()


@virtual
async def test_a_run_that_takes_too_long_is_an_error_and_its_call_broken_off(traced: Traced) -> None:
    async with traced.manager() as manager:
        await (await manager.start(RunSpec(waits, "go", timeout=0.01))).result()
    run, tool = traced.trace["invoke_agent waits"], traced.trace["execute_tool slow"]
    assert (run.status, run.attributes["error.type"]) == ("error", "TimeoutError")
    assert run.attributes["trackside.run.status"] == "timeout"
    assert (tool.status, tool.attributes["trackside.call.broken_off"]) == ("unset", "cancelled")


async def test_a_cancelled_run_ends_too_and_is_no_error(traced: Traced) -> None:
    async with traced.manager() as manager:
        handle = await manager.start(RunSpec(waits, "go", stream_mode="custom"))
        async for _ in handle.stream():
            break
        await handle.cancel()
        assert (await handle.result()).status is RunStatus.cancelled
    run = traced.trace["invoke_agent waits"]
    assert run.status == "unset"
    assert run.attributes["trackside.run.status"] == "cancelled"
    assert run.attributes["trackside.cancel.mode"] == "interrupt"
    assert "error.type" not in run.attributes
    assert traced.trace["execute_tool slow"].attributes["trackside.call.broken_off"] == "cancelled"


async def test_a_run_that_never_started_is_a_span_without_length(traced: Traced) -> None:
    async with traced.manager() as manager:
        first = await manager.start(RunSpec(waits, "go", thread_id="thread"))
        second = await manager.start(RunSpec(works, "go", thread_id="thread"))
        await second.cancel()
        await second.result()
        await first.cancel()
        await first.result()
    never = traced.trace["invoke_agent works"]
    assert never.start == never.end
    assert never.attributes["trackside.run.status"] == "cancelled"


async def test_what_was_said_is_in_a_trace_only_if_that_was_asked_for(traced: Traced, receiver: Any) -> None:
    async def answers(_: Any) -> str:
        return "the answer"

    for captures in (False, True):
        async with traced.manager(options={"capture_content": captures}) as manager:
            await (await manager.start(RunSpec(answers, "the question"))).result()
    without, with_it = traced.trace.all("invoke_agent answers")
    assert "the question" not in str(without)
    assert "the answer" not in str(without)
    ((_, said),) = with_it.events
    assert said["trackside.message.content"] == "the question"
    for name, role, text in (("input", "user", "the question"), ("output", "assistant", "the answer")):
        (message,) = json.loads(with_it.attributes[f"gen_ai.{name}.messages"])
        assert message == {"role": role, "parts": [{"type": "text", "content": text}]}


async def test_what_a_hook_takes_out_is_in_no_trace(traced: Traced, receiver: Any) -> None:
    async def fails(_: Any) -> None:
        raise ValueError("hunter2 is wrong")

    def without(_: Any, payload: dict[str, Any]) -> Any:
        return json.loads(json.dumps(payload).replace("hunter2", "***"))

    async with traced.manager(options={"capture_content": True}, redact=without) as manager:
        await (await manager.start(RunSpec(fails, "my word is hunter2"))).result()
    assert "hunter2" not in str(receiver.requests)
    assert traced.trace["invoke_agent fails"].description == "*** is wrong"


async def test_spans_of_runs_that_go_on_end_when_the_observer_closes(make: Make, receiver: Any) -> None:
    observer = make(endpoint=receiver.url)
    await observer.on_event(event("r1", "run_started", agent="waits"))
    await observer.aclose()
    (span,) = receiver.spans
    assert span.name == "invoke_agent waits"
    assert span.attributes["trackside.span.cut"] == "closed"


async def test_no_more_runs_are_remembered_than_there_is_room_for(
    make: Make, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_observer, "MAX_OPEN", 10)
    observer = make(endpoint=receiver.url)
    for number in range(25):
        await observer.on_event(event(f"r{number}", "run_started", agent="waits"))
    await observer.on_event(event("r0", "run_completed", 2, status="success"))
    await observer.aclose()
    cut = [span.attributes.get("trackside.span.cut") for span in receiver.spans]
    assert cut.count("forgotten") == 15
    assert cut.count("closed") == 10
    assert cut.count(None) == 1  # the end of a run that had been forgotten


async def test_a_text_that_cannot_be_encoded_costs_no_span(make: Make, receiver: Any) -> None:
    observer = make(endpoint=receiver.url, capture_content=True)
    half = "half \ud83d" + "x" * 100_000
    await observer.on_event(event("r1", "run_started", agent=half, trigger=half))
    await observer.on_event(event("r1", "human_message", 2, message={"id": half, "content": half}))
    calls = [{"kind": "chat", "name": half, "caller": half, "at": 0, "seconds": 1e300, "input_tokens": 10**30}]
    data = {"calls": calls, "last_ai_message": half, "cost_usd": 1, "total_input_tokens": -1}
    failed = {"error": half, "error_type": half, "traceback": half, "status": "error"}
    await observer.on_event(event("r1", "run_failed", 3, completion_data=data, **failed))
    await observer.on_event(event("r2", "run_started", agent="next"))
    await observer.on_event(event("r2", "run_completed", 2, status="success"))
    await observer.aclose()
    assert [span.name[:11] for span in receiver.spans] == ["chat half ?", "invoke_agen", "invoke_agen"]
    assert len(str(receiver.spans[1])) < 100_000


async def test_without_a_provider_of_any_kind_nothing_happens(make: Make) -> None:
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    observer = make()
    async with RunManager(observers=[observer]) as manager:
        assert (await (await manager.start(RunSpec(works, "go"))).result()).status is RunStatus.success
        await manager.observers.flush(60)
    assert (await observer.flush()).in_time


async def test_calls_of_several_hundreds_leave_others_their_turn(traced: Traced) -> None:
    async def busy(_: Any, run: RunContext) -> None:
        for number in range(1_200):
            run.record_tool_call(f"tool-{number % 7}", seconds=0)

    async with traced.manager() as manager:
        await (await manager.start(RunSpec(busy, "go"))).result()
    assert len(traced.trace.spans) == 1_001
    assert traced.trace["invoke_agent busy"].attributes["trackside.run.calls_omitted"] == 200


async def test_a_run_whose_calls_are_not_all_told_has_its_span(make: Make, receiver: Any) -> None:
    """As when the observer took so long that it was cut off."""
    observer = make(endpoint=receiver.url)
    calls = [{"kind": "execute_tool", "name": "search", "caller": "lead_agent", "at": 0, "seconds": 0}] * 200
    await observer.on_event(event("r1", "run_started", agent="works"))
    ended = event("r1", "run_completed", 2, status="success", completion_data={"calls": calls})
    telling = asyncio.ensure_future(observer.on_event(ended))
    await asyncio.sleep(0)  # the observer lets others have a turn after the first calls
    telling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await telling
    await observer.aclose()

    (run,) = [span for span in receiver.spans if span.name == "invoke_agent works"]
    assert run.attributes["trackside.run.status"] == "success"
    assert 0 < len(receiver.spans) - 1 < len(calls)


async def test_the_agents_code_sees_its_run_and_the_loggers_of_the_sdk_are_left_alone(
    traced: Traced, caplog: pytest.LogCaptureFixture
) -> None:
    async def says(_: Any) -> None:
        run = current_run()
        assert run is not None
        logging.getLogger("opentelemetry.exporter.otlp.common.http").error("about somebody else's spans")

    async with traced.manager() as manager:
        assert (await (await manager.start(RunSpec(says, "go"))).result()).status is RunStatus.success
    assert [record.getMessage() for record in caplog.records] == ["about somebody else's spans"]


async def test_an_event_that_comes_again_makes_no_second_span(make: Make, receiver: Any) -> None:
    observer = make(endpoint=receiver.url)
    calls = [{"kind": "chat", "name": "small", "caller": "lead_agent", "at": 0, "seconds": 0}]
    started = event("r1", "run_started", agent="works")
    ended = event("r1", "run_completed", 2, status="success", completion_data={"calls": calls})
    for told in (started, started, ended, ended, started):
        await observer.on_event(told)
    await observer.aclose()
    assert [span.name for span in receiver.spans] == ["chat small", "invoke_agent works"]


async def test_whose_a_call_is_stays_open_where_several_may_have_made_it(
    make: Make, traced: Traced, receiver: Any
) -> None:
    calls = [
        call("execute_tool", "left", 0, 10),
        call("execute_tool", "right", 0, 10),
        call("invoke_agent", "helper", 1, 2),  # called by left or by right
        call("chat", "small", 2, 0, caller="helper"),
        call("invoke_agent", "helper", 5, 2),
        call("chat", "large", 6, 0, caller="helper"),
        call("chat", "tiny", 9, 0, caller="helper"),  # at a time when no agent of that name worked
        call("chat", "huge", 9, 0, caller="middleware:summary"),
    ]
    observer = make(endpoint=receiver.url)
    ended = event("r1", "run_completed", completion_data={"calls": calls, "duration_seconds": 12.0}, agent="lead")
    await observer.on_event(ended)
    await observer.aclose()
    assert traced.trace.tree() == [
        "invoke_agent lead",
        "invoke_agent lead > chat huge",
        "invoke_agent lead > chat tiny",
        "invoke_agent lead > execute_tool left",
        "invoke_agent lead > execute_tool right",
        "invoke_agent lead > invoke_agent helper",
        "invoke_agent lead > invoke_agent helper",
        "invoke_agent lead > invoke_agent helper > chat large",
        "invoke_agent lead > invoke_agent helper > chat small",
    ]
    first, second = traced.trace.all("invoke_agent helper")
    assert traced.trace["chat small"].parent_id == first.span_id
    assert traced.trace["chat large"].parent_id == second.span_id
    assert traced.trace["invoke_agent lead"].end - first.start == 11_000_000_000


async def test_a_call_belongs_to_the_agent_of_its_callers_name_that_was_called_last(
    make: Make, traced: Traced, receiver: Any
) -> None:
    calls = [
        call("execute_tool", "ask", 0, 4),
        call("invoke_agent", "helper", 0, 9),  # goes on after the tool has returned, so the tool did not call it
        call("invoke_agent", "helper", 2, 3, caller="helper"),
        call("chat", "small", 3, 1, caller="helper"),
        call("chat", "large", 7, 1, caller="helper"),
    ]
    observer = make(endpoint=receiver.url)
    data = {"calls": calls, "duration_seconds": 10.0}
    await observer.on_event(event("r1", "run_completed", completion_data=data, agent="lead"))
    await observer.aclose()
    assert traced.trace.tree() == [
        "invoke_agent lead",
        "invoke_agent lead > execute_tool ask",
        "invoke_agent lead > invoke_agent helper",
        "invoke_agent lead > invoke_agent helper > chat large",
        "invoke_agent lead > invoke_agent helper > invoke_agent helper",
        "invoke_agent lead > invoke_agent helper > invoke_agent helper > chat small",
    ]


async def test_no_span_ends_before_it_begins_when_the_clock_is_set_back(
    make: Make, traced: Traced, receiver: Any
) -> None:
    began = event("r1", "run_started", agent="lead")
    data = {"calls": [call("chat", "small", 1, 2)], "duration_seconds": 4.0}
    ended = replace(
        event("r1", "run_completed", completion_data=data), occurred_at=began.occurred_at - timedelta(hours=1)
    )
    observer = make(endpoint=receiver.url)
    await observer.on_event(began)
    await observer.on_event(ended)
    await observer.aclose()
    run, chat = traced.trace["invoke_agent lead"], traced.trace["chat small"]
    assert run.start == run.end == chat.start == chat.end
