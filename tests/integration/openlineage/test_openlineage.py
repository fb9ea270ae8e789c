"""What data teams see of runs: events that OpenLineage knows, sent once each, and failures that blame the culprit."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import UUID

import pytest
from endless_answers import endless_answers
from lineage_receiver import LineageReceiver

from trackside.app.delivery import DeliveryError
from trackside.app.observers.openlineage import OpenLineageObserver
from trackside.harness.errors import ClosedError
from trackside.harness.ids import new_id
from trackside.harness.types import LifecycleEventType, RunStatus
from trackside.testing.events import make_event, make_run


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (RunStatus.success, "COMPLETE"),
        (RunStatus.interrupted, "COMPLETE"),
        (RunStatus.error, "FAIL"),
        (RunStatus.timeout, "FAIL"),
        (RunStatus.cancelled, "ABORT"),
    ],
)
async def test_a_run_is_started_and_comes_to_its_end(
    observer: OpenLineageObserver, receiver: LineageReceiver, status: RunStatus, state: str
) -> None:
    run_id = new_id()
    for event in make_run(run_id, thread_id="t-1", status=status):
        await observer.on_event(event)
    started, ended = receiver.events
    assert [started["eventType"], ended["eventType"]] == ["START", state]
    assert {event["run"]["runId"] for event in receiver.events} == {run_id}
    assert {(event["job"]["namespace"], event["job"]["name"]) for event in receiver.events} == {("ours", "agent")}
    assert started["run"]["facets"]["trackside_run"]["status"] == "running"
    assert ended["run"]["facets"]["trackside_run"]["status"] == status.value
    assert ended["run"]["facets"]["trackside_run"]["threadId"] == "t-1"
    assert receiver.headers[0]["Authorization"] == "Bearer hunter2"


async def test_an_end_says_what_the_run_used_and_why_it_failed(
    observer: OpenLineageObserver, receiver: LineageReceiver
) -> None:
    used = {"total_input_tokens": 12, "total_output_tokens": 40, "llm_call_count": 2, "cost_usd": 0.5}
    failed = {"agent": "chat", "error": "it broke", "traceback": "Traceback: here", "completion_data": used}
    await observer.on_event(make_event(LifecycleEventType.RUN_FAILED, payload=failed))
    (event,) = receiver.events
    facets = event["run"]["facets"]
    assert event["job"]["name"] == "chat"
    assert facets["errorMessage"]["message"] == "it broke"
    assert facets["errorMessage"]["programmingLanguage"] == "python"
    assert facets["errorMessage"]["stackTrace"] == "Traceback: here"
    said = facets["trackside_run"]
    assert (said["totalInputTokens"], said["totalOutputTokens"]) == (12, 40)
    assert (said["llmCallCount"], said["costUsd"]) == (2, 0.5)
    assert "toolCallCount" not in said


async def test_a_run_that_a_run_started_names_its_parent(
    observer: OpenLineageObserver, receiver: LineageReceiver
) -> None:
    started = LifecycleEventType.RUN_STARTED
    await observer.on_event(make_event(started, run_id="above", payload={"agent": "planner"}))
    for run_id, above in (("below", "above"), ("alone", "of somebody unknown")):
        payload = {"agent": "worker", "parent_run_id": above, "retry_of": "earlier", "attempt": 2}
        await observer.on_event(make_event(started, run_id=run_id, payload=payload))
    parent, below, alone = receiver.events
    facet = below["run"]["facets"]["parent"]
    assert facet["run"]["runId"] == parent["run"]["runId"]
    assert facet["job"]["name"] == "planner"
    assert below["run"]["facets"]["trackside_run"]["parentRunId"] == "above"
    assert below["run"]["facets"]["trackside_run"]["retryOf"] == "earlier"
    assert "parent" not in alone["run"]["facets"], "the agent of a parent that is not known cannot be said"


async def test_a_run_id_that_is_no_uuid_becomes_the_same_one_each_time(receiver: LineageReceiver) -> None:
    for _ in range(2):
        observer = OpenLineageObserver(url=receiver.url)
        for event in make_run("order-1"):
            await observer.on_event(event)
        await observer.aclose()
    (run_id,) = {event["run"]["runId"] for event in receiver.events}
    assert UUID(run_id).version == 5
    assert {event["run"]["facets"]["trackside_run"]["runId"] for event in receiver.events} == {"order-1"}


async def test_the_end_of_another_harness_run_goes_to_the_agent_that_its_start_named(
    observer: OpenLineageObserver, receiver: LineageReceiver
) -> None:
    await observer.on_event(make_event(LifecycleEventType.RUN_STARTED, payload={"agent": "billing"}))
    await observer.on_event(make_event(LifecycleEventType.RUN_COMPLETED, sequence=2))
    await observer.on_event(make_event(LifecycleEventType.RUN_CANCELLED, run_id="never-started"))
    assert [event["job"]["name"] for event in receiver.events] == ["billing", "billing", "unnamed"]


@pytest.mark.parametrize(
    ("status", "retryable", "away"),
    [
        (101, False, False),
        (300, False, False),
        (302, False, False),
        (304, False, False),
        (500, True, False),
        (501, True, False),
        (502, True, True),
        (503, True, True),
        (429, True, True),
        (408, True, True),
        (401, True, True),
        (403, True, True),
        (400, False, False),
        (404, False, False),
        (422, False, False),
    ],
)
async def test_an_answer_says_whether_the_event_is_at_fault(
    observer: OpenLineageObserver, receiver: LineageReceiver, status: int, retryable: bool, away: bool
) -> None:
    receiver.status, receiver.answer_headers = status, {"Retry-After": "7"}
    event = make_event(LifecycleEventType.RUN_STARTED, payload={"agent": "a"})
    with pytest.raises(DeliveryError, match=rf"did not take run_started of run run-1: it answered {status}") as raised:
        await observer.on_event(event)
    assert (raised.value.away, raised.value.retryable, raised.value.retry_after) == (away, retryable, 7)
    receiver.status = 200
    await observer.on_event(event)
    assert len(receiver.events) == 1


async def test_a_receiver_is_left_alone_until_the_date_that_it_names(
    observer: OpenLineageObserver, receiver: LineageReceiver
) -> None:
    found = []
    for days in (-1, 1):
        date = format_datetime(datetime.now(UTC) + timedelta(days=days), usegmt=True)
        receiver.status, receiver.answer_headers = 503, {"Retry-After": date}
        with pytest.raises(DeliveryError) as raised:
            await observer.on_event(make_event(LifecycleEventType.RUN_STARTED))
        found.append(raised.value.retry_after)
    assert found == [0, 3_600], "an hour at most"


async def test_a_redirect_is_not_followed_and_parks_the_event(
    observer: OpenLineageObserver, receiver: LineageReceiver
) -> None:
    receiver.status, receiver.answer_headers = 307, {"Location": "/api/v1/lineage"}
    with pytest.raises(DeliveryError, match="it answered 307 Temporary Redirect") as raised:
        await observer.on_event(make_event(LifecycleEventType.RUN_STARTED))
    assert not raised.value.retryable
    assert receiver.requests == 1


@pytest.mark.parametrize("base", ["", "/", "/lineage", "/lineage/"])
async def test_the_path_of_the_api_comes_behind_that_of_the_url(receiver: LineageReceiver, base: str) -> None:
    observer = OpenLineageObserver(url=receiver.url + base)
    await observer.on_event(make_event(LifecycleEventType.RUN_STARTED))
    await observer.aclose()
    assert receiver.paths == [f"{base.rstrip('/')}/api/v1/lineage"]


def sending() -> int:
    """How many threads are sending something."""
    return sum(thread.name == "trackside-openlineage" for thread in threading.enumerate())


async def test_of_an_answer_that_never_ends_its_status_counts() -> None:
    async with endless_answers("body") as url:
        observer = OpenLineageObserver(url=url)
        for _ in range(3):
            await observer.on_event(make_event(LifecycleEventType.RUN_STARTED))
        await observer.aclose()
        while sending():
            await asyncio.sleep(0.01)
    async with endless_answers("refusal") as url:
        observer = OpenLineageObserver(url=url)
        with pytest.raises(DeliveryError, match="it answered 500"):
            await observer.on_event(make_event(LifecycleEventType.RUN_STARTED))
        await observer.aclose()


async def test_an_answer_whose_head_never_ends_is_none_in_time_and_holds_no_thread() -> None:
    async with endless_answers("head") as url:
        observer = OpenLineageObserver(url=url, timeout=0.5)
        with pytest.raises(DeliveryError, match=r"no answer within 0\.5 s") as raised:
            await observer.on_event(make_event(LifecycleEventType.RUN_STARTED))
        assert (raised.value.retryable, raised.value.away) == (True, False)
        await observer.aclose()
        while sending():
            await asyncio.sleep(0.01)


async def test_a_connection_is_used_again_where_answers_are_empty(
    observer: OpenLineageObserver, receiver: LineageReceiver
) -> None:
    for event in make_run():
        await observer.on_event(event)
    assert (receiver.requests, len(receiver.clients)) == (2, 1)


async def test_a_receiver_that_hangs_up_may_do_so_because_of_the_event() -> None:
    hanging_up = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    observer = OpenLineageObserver(url=f"http://127.0.0.1:{hanging_up.sockets[0].getsockname()[1]}")
    with pytest.raises(DeliveryError) as raised:
        await observer.on_event(make_event(LifecycleEventType.RUN_STARTED))
    assert (raised.value.retryable, raised.value.away) == (True, False)
    await observer.aclose()
    hanging_up.close()
    await hanging_up.wait_closed()


async def test_of_a_receiver_that_is_mute_or_down_the_latter_is_away(caplog: pytest.LogCaptureFixture) -> None:
    mute = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    writers: list[asyncio.StreamWriter] = []
    url = f"http://127.0.0.1:{mute.sockets[0].getsockname()[1]}"
    event = make_event(LifecycleEventType.RUN_STARTED)
    for is_down in (False, True):
        observer = OpenLineageObserver(url=url, api_key="hunter2", timeout=25 if is_down else 0.1)
        with pytest.raises(DeliveryError) as raised:
            await observer.on_event(event)
        assert (raised.value.retryable, raised.value.away) == (True, is_down)
        assert "hunter2" not in f"{raised.value}{raised.value!r}{observer!r}{caplog.text}"
        await observer.aclose()
        mute.close()
        for writer in writers:
            writer.close()
    await mute.wait_closed()


async def test_what_comes_after_it_is_closed_is_refused(observer: OpenLineageObserver) -> None:
    await observer.aclose()
    await observer.aclose()
    with pytest.raises(ClosedError):
        await observer.on_event(make_event())
