"""What data teams see of runs: events that OpenLineage knows, sent once each, and failures that blame who is at fault."""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from endless_answers import endless_answers
from lineage_receiver import LineageReceiver, check_run_event
from openlineage.client.transport.http import ApiKeyTokenProvider

from trackside.app.delivery import DeliveryError, ObserverOptionError
from trackside.app.observers.openlineage import OpenLineageObserver
from trackside.harness.errors import ClosedError
from trackside.harness.ids import new_id
from trackside.harness.types import LifecycleEventType, RunStatus
from trackside.testing.events import make_event, make_run


@pytest.fixture
async def receiver() -> AsyncIterator[LineageReceiver]:
    async with LineageReceiver() as listening:
        yield listening


@pytest.fixture
async def observer(receiver: LineageReceiver) -> AsyncIterator[OpenLineageObserver]:
    made = OpenLineageObserver(url=receiver.url, api_key="hunter2", namespace="ours")
    yield made
    await made.aclose()


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
    """How many threads send something."""
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
        observer = OpenLineageObserver(url=url, api_key="hunter2", timeout=0.1)
        with pytest.raises(DeliveryError) as raised:
            await observer.on_event(event)
        assert (raised.value.retryable, raised.value.away) == (True, is_down)
        assert "hunter2" not in f"{raised.value}{raised.value!r}{observer!r}{caplog.text}"
        await observer.aclose()
        mute.close()
        for writer in writers:
            writer.close()
    await mute.wait_closed()


async def test_a_file_gets_a_line_for_each_event_and_nothing_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE__FACETS__ENVIRONMENT_VARIABLES", '["PATH"]')
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:1")
    path = tmp_path / "lineage.jsonl"
    observer = OpenLineageObserver(transport={"type": "file", "log_file_path": str(path), "append": True})
    runs = [make_run(new_id(), messages=0) for _ in range(20)]
    await asyncio.gather(*(observer.on_event(event) for run in runs for event in run))
    await observer.aclose()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        check_run_event(event)
        assert event["run"]["facets"].keys() == {"trackside_run"}
        assert event["job"]["facets"].keys() == {"jobType"}
    assert len(events) == 40


async def test_of_several_transports_each_has_to_take_an_event(tmp_path: Path, receiver: LineageReceiver) -> None:
    files = [{"type": "file", "log_file_path": str(tmp_path / name), "append": True} for name in ("a", "b")]
    both = OpenLineageObserver(transport=composite(*files))
    await both.on_event(make_event(LifecycleEventType.RUN_STARTED))
    await both.aclose()
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() != ""
    receiver.status = 500
    one = OpenLineageObserver(
        transport=composite(files[0], {"type": "http", "url": receiver.url, "retry": {"total": 0}})
    )
    with pytest.raises(DeliveryError, match=r"composite did not take run_started of run run-1: .*500"):
        await one.on_event(make_event(LifecycleEventType.RUN_STARTED))
    await one.aclose()


@pytest.mark.parametrize("kind", ["http", "datadog", "transform", "composite", "by name", "deep"])
async def test_a_transport_within_another_waits_as_one_by_itself(receiver: LineageReceiver, kind: str) -> None:
    post = {"type": "http", "url": receiver.url}
    transport = {
        "http": post,
        "datadog": {"type": "datadog", "apiKey": "hunter2", "site": receiver.url},
        "transform": transforming(post),
        "composite": composite(post),
        "by name": composite() | {"transports": {"type": post}},
        "deep": composite({"type": "console"}, transforming(composite(post))),
    }[kind]
    observer = OpenLineageObserver(transport=transport)
    receiver.status, receiver.answer_headers = 503, {"Retry-After": "1"}
    event = make_event(LifecycleEventType.RUN_STARTED)
    with pytest.raises(DeliveryError, match="it answered 503") as raised:
        await observer.on_event(event)
    assert (raised.value.away, raised.value.retryable, raised.value.retry_after) == (True, True, 1)
    assert receiver.requests == 1
    receiver.status = 200
    await observer.on_event(event)
    assert len(receiver.events) == 1
    await observer.aclose()


async def test_what_is_said_of_tries_holds_and_what_is_no_request_is_raised_as_it_is(receiver: LineageReceiver) -> None:
    again = {"total": 2, "backoff_factor": 0, "status_forcelist": [503]}
    observer = OpenLineageObserver(
        transport=transforming(composite({"type": "http", "url": receiver.url, "retry": again}))
    )
    receiver.status = 503
    with pytest.raises(DeliveryError):
        await observer.on_event(make_event(LifecycleEventType.RUN_STARTED))
    assert receiver.requests == 3
    await observer.aclose()
    auth = {"type": "jwt", "apiKey": "hunter2", "tokenEndpoint": f"{receiver.url}/api/v1/lineage"}
    observer = OpenLineageObserver(transport=composite({"type": "http", "url": receiver.url, "auth": auth}))
    with pytest.raises(RuntimeError, match="failed to emit event"):
        await observer.on_event(make_event(LifecycleEventType.RUN_STARTED))
    await observer.aclose()


async def test_answers_to_a_transport_within_another_are_bounded_too() -> None:
    async with endless_answers("refusal") as url:
        observer = OpenLineageObserver(
            transport={
                "type": "datadog",
                "apiKey": "hunter2",
                "site": url,
                "retry": {"total": 0, "status_forcelist": []},
            }
        )
        with pytest.raises(DeliveryError, match="it answered 500"):
            await observer.on_event(make_event(LifecycleEventType.RUN_STARTED))
        await observer.aclose()
    with pytest.raises(ObserverOptionError, match=r"transport\.timeout"):
        OpenLineageObserver(transport=composite({"type": "http", "url": "http://a", "timeout": 26}))


class KafkaError:
    """As that of `confluent_kafka`."""

    def __init__(self, name: str, code: int) -> None:
        self._name, self._code = name, code

    def name(self) -> str:
        return self._name

    def code(self) -> int:
        return self._code

    def str(self) -> str:
        return f"Broker: {self._name.lower()}"


class Cluster:
    """A producer of `confluent_kafka` and its cluster, which reports as it is told to, or not at all."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.report: KafkaError | None = None
        self.is_mute = False
        self.left = 0

    def produce(self, **message: Any) -> None:
        self.messages.append(message)
        self.left += 1

    def flush(self, timeout: float) -> int:
        assert timeout >= 0, "nobody waits without an end"
        if not self.is_mute and self.left:
            self.left = 0
            self.messages[-1]["on_delivery"](self.report, object())
        return self.left

    def purge(self) -> None:
        self.left = 0


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setitem(sys.modules, "confluent_kafka", SimpleNamespace(Producer=lambda config: made))
    return made


KAFKA = {"type": "kafka", "topic": "lineage", "config": {"bootstrap.servers": "127.0.0.1:9092"}}


@pytest.mark.parametrize(
    ("report", "away"),
    [
        (KafkaError("TOPIC_AUTHORIZATION_FAILED", 29), True),
        (KafkaError("_MSG_TIMED_OUT", -192), True),
        (KafkaError("MSG_SIZE_TOO_LARGE", 10), False),
    ],
)
async def test_what_kafka_reports_of_a_message_is_said(cluster: Cluster, report: KafkaError, away: bool) -> None:
    observer = OpenLineageObserver(transport=KAFKA)
    event = make_event(LifecycleEventType.RUN_STARTED)
    cluster.report = report
    with pytest.raises(DeliveryError if away else RuntimeError, match=report.str()) as raised:
        await observer.on_event(event)
    assert getattr(raised.value, "away", False) is away
    cluster.report = None
    await observer.on_event(event)
    await observer.aclose()
    assert [(message["topic"], message["key"]) for message in cluster.messages] == [
        ("lineage", "run:trackside/unnamed")
    ] * 2


async def test_a_message_that_kafka_says_nothing_of_is_waited_for_and_not_kept(cluster: Cluster) -> None:
    observer = OpenLineageObserver(transport=KAFKA)
    cluster.is_mute = True
    with pytest.raises(DeliveryError, match="it did not take it within 3 s") as raised:
        await observer.on_event(make_event(LifecycleEventType.RUN_STARTED))
    assert (raised.value.away, cluster.left) == (True, 0)
    await observer.aclose()


def test_kafka_has_to_report_at_once(cluster: Cluster) -> None:
    for transport in ({**KAFKA, "flush": False}, composite({**KAFKA, "flush": False})):
        with pytest.raises(ObserverOptionError, match="leave out flush = false"):
            OpenLineageObserver(transport=transport)


async def test_what_comes_after_it_is_closed_is_refused(observer: OpenLineageObserver) -> None:
    await observer.aclose()
    await observer.aclose()
    with pytest.raises(ClosedError):
        await observer.on_event(make_event())


def composite(*transports: dict[str, Any]) -> dict[str, Any]:
    return {"type": "composite", "transports": [*transports], "continue_on_failure": False}


def transforming(transport: dict[str, Any]) -> dict[str, Any]:
    name = "openlineage.client.transport.transform.JobNamespaceReplaceTransformer"
    told = {"new_job_namespace": "theirs"}
    return {"type": "transform", "transformer_class": name, "transformer_properties": told, "transport": transport}


def posting(**more: Any) -> dict[str, Any]:
    return {"type": "http", "url": "http://127.0.0.1:9"} | more


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({}, "url"),
        ({"url": "http://a", "transport": {"type": "console"}}, "url"),
        ({"url": "ftp://a"}, "url"),
        ({"url": "http://user:hunter2@a"}, "url"),
        ({"url": 5}, "url"),
        ({"url": "http://a:hunter2"}, "url"),
        ({"url": "http://a/?token=hunter2"}, "url"),
        ({"url": "http://a/?"}, "url"),
        ({"url": "http://a/#hunter2"}, "url"),
        ({"url": "http://exa mple.com"}, "url"),
        ({"url": "http://exa\nmple.com"}, "url"),
        ({"url": "http://[::1"}, "url"),
        ({"url": "http://a%zz/"}, "url"),
        ({"url": "http://a", "api_key": ""}, "api_key"),
        ({"url": "http://a", "api_key": "hunter2…"}, "url"),
        ({"transport": {"type": "console"}, "api_key": "hunter2"}, "api_key"),
        ({"transport": {"type": "console"}, "timeout": 7}, "timeout"),
        ({"url": "http://a", "namespace": ""}, "namespace"),
        ({"url": "http://a", "timeout": 0}, "timeout"),
        ({"url": "http://a", "timeout": True}, "timeout"),
        ({"url": "http://a", "timeout": 26}, "timeout"),
        ({"transport": {"type": "http", "url": "http://a", "timeout": 26}}, "transport.timeout"),
        ({"transport": "console"}, "transport"),
        ({"transport": {}}, "transport"),
        ({"transport": {"type": "no.such.Transport"}}, "transport"),
        ({"transport": {"type": "http", "auth": {"type": "api_key", "key": "hunter2"}}}, "transport"),
        ({"transport": posting(auth={"type": "api_key", "apiKey": "hunter2\n"})}, "transport"),
        ({"transport": posting(custom_headers={"x-api-key": "hunter2\r"})}, "transport"),
        ({"transport": posting(auth={"type": "api_key", "apiKey": "hunter2…"})}, "transport"),
        ({"transport": posting(custom_headers={"x-api-key": "“hunter2”"})}, "transport"),
        ({"transport": posting(custom_headers={"x-kéy": "hunter2"})}, "transport"),
        ({"transport": posting(custom_headers="hunter2")}, "transport"),
        ({"transport": composite(posting(auth={"type": "api_key", "apiKey": "hun\nter2"}))}, "transport"),
        ({"transport": {"type": "datadog", "apiKey": "hunter2\n", "async_transport_rules": {}}}, "transport"),
        ({"transport": {"type": "http", "url": "http://me:hunter2@/"}}, "transport"),
        ({"transport": {"type": "async_http", "url": "http://a"}}, "transport"),
        ({"transport": {"type": "composite", "transports": [{"type": "console"}]}}, "transport"),
        ({"transport": composite({"type": "composite", "transports": {"a": {"type": "console"}}})}, "transport"),
        ({"transport": composite({"type": "async_http", "url": "http://a"})}, "transport"),
        (
            {"transport": {"type": "datadog", "apiKey": "hunter2", "async_transport_rules": {"*": {"*": True}}}},
            "transport",
        ),
    ],
)
def test_an_option_that_does_not_fit_is_named_and_not_shown(options: dict[str, Any], option: str) -> None:
    with pytest.raises(ObserverOptionError) as raised:
        OpenLineageObserver(**options)
    assert str(raised.value).startswith(f"{option}: ")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("option", ["url", "transport"])
def test_a_library_that_is_switched_off_takes_nothing(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    given: Any = "http://a" if option == "url" else {"type": "console"}
    with pytest.raises(ObserverOptionError, match=f"{option}: .*unset OPENLINEAGE_DISABLED"):
        OpenLineageObserver(**{option: given})


async def test_credentials_in_the_url_of_a_transport_are_in_no_message() -> None:
    observer = OpenLineageObserver(transport={"type": "http", "url": "http://me:hunter2@127.0.0.1:9"})
    with pytest.raises(DeliveryError, match=r"http://127\.0\.0\.1:9 did not take") as raised:
        await observer.on_event(make_event(LifecycleEventType.RUN_STARTED))
    assert "hunter2" not in str(raised.value)
    await observer.aclose()


async def test_a_key_with_a_letter_beyond_ascii_is_sent(receiver: LineageReceiver) -> None:
    observer = OpenLineageObserver(url=receiver.url, api_key="naïve")
    await observer.on_event(make_event(LifecycleEventType.RUN_STARTED))
    sent = receiver.headers[0]["Authorization"].encode(errors="surrogateescape")
    assert sent == "Bearer naïve".encode("latin-1")
    await observer.aclose()


@pytest.mark.parametrize(("token", "error"), [("hunter2\n", "InvalidHeader"), ("hunter2…", "UnicodeEncodeError")])
async def test_a_token_that_cannot_be_sent_is_not_shown_and_no_fault_of_the_event(
    monkeypatch: pytest.MonkeyPatch, token: str, error: str
) -> None:
    observer = OpenLineageObserver(transport=posting(auth={"type": "api_key", "apiKey": "short"}))
    monkeypatch.setattr(ApiKeyTokenProvider, "get_bearer", lambda _: f"Bearer {token}")  # as one that was asked for it
    with pytest.raises(DeliveryError, match=f"what is set for it cannot be sent: {error}") as raised:
        await observer.on_event(make_event(LifecycleEventType.RUN_STARTED))
    assert "hunter2" not in str(raised.value)
    assert raised.value.away
    await observer.aclose()
