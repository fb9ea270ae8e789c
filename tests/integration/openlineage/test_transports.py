"""How OpenLineage's own library sends: to files, by several transports, nested ones, Kafka; and options it refuses."""

import asyncio
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from endless_answers import endless_answers
from lineage_receiver import LineageReceiver, check_run_event
from openlineage.client.transport.http import ApiKeyTokenProvider

from trackside.app.delivery import DeliveryError, ObserverOptionError
from trackside.app.observers.openlineage import OpenLineageObserver
from trackside.harness.ids import new_id
from trackside.harness.types import LifecycleEventType
from trackside.testing.events import make_event, make_run


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


@pytest.mark.parametrize("nested", [False, True], ids=["side by side", "nested"])
async def test_who_has_an_event_does_not_get_it_again_when_another_is_back(
    tmp_path: Path, receiver: LineageReceiver, nested: bool
) -> None:
    first, second = ({"type": "file", "log_file_path": str(tmp_path / name), "append": True} for name in ("a", "b"))
    post = {"type": "http", "url": receiver.url}
    inner = [transforming(composite(second, post))] if nested else [second, post]
    observer = OpenLineageObserver(transport=composite(first, *inner))
    events = [make_event(LifecycleEventType.RUN_STARTED, run_id=new_id()) for _ in range(3)]
    receiver.status = 503
    for event in [*events, *events]:
        with pytest.raises(DeliveryError, match="it answered 503"):
            await observer.on_event(event)
    receiver.status = 200
    for event in events:
        await observer.on_event(event)
    runs = [event.run_id for event in events]
    assert [event["run"]["runId"] for event in receiver.events] == runs
    for name in ("a", "b"):
        assert [json.loads(line)["run"]["runId"] for line in (tmp_path / name).read_text().splitlines()] == runs
    await observer.on_event(events[0])  # which all have had: somebody wants it delivered anew
    assert len(receiver.events) == len((tmp_path / "a").read_text().splitlines()) == 4
    await observer.aclose()


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
    """An error like that of `confluent_kafka`."""

    def __init__(self, name: str, code: int) -> None:
        self._name, self._code = name, code

    def name(self) -> str:
        return self._name

    def code(self) -> int:
        return self._code

    def str(self) -> str:
        return f"Broker: {self._name.lower()}"


class Cluster:
    """A producer of `confluent_kafka` and its cluster, which reports what it is told to, or nothing at all."""

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
