"""What a receiver gets: signed with each secret in use, the same bytes each time, whole or cut and marked."""

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured
from cloudevents.core.formats.json import JSONFormat
from standardwebhooks import Webhook
from webhook_receiver import NEW, OLD, WebhookReceiver, status

from trackside.app.delivery import DeliveryError
from trackside.app.observers.webhook import WebhookObserver, _body
from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent
from trackside.testing.events import make_event

type Make = Callable[..., WebhookObserver]

WHEN = datetime(2026, 1, 31, 9, 30, 0, 123456, UTC)
PAYLOAD = {
    "status": "success",
    "title": "naïve 日本 👩‍🚀 \u2028 </script>",
    "completion_data": {"b": 1.5, "a": [None, True]},
}


def event(payload: dict[str, Any] | None = None, event_id: str = "0198-e") -> RunLifecycleEvent:
    kind = LifecycleEventType.RUN_COMPLETED
    return RunLifecycleEvent(event_id, kind, "run-1", "thread-1", 4, WHEN, PAYLOAD if payload is None else payload)


class At:
    """A clock that the test sets."""

    def __init__(self, now: datetime) -> None:
        self.time = now

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return 0.0


async def test_an_event_arrives_whole_and_signed(receiver: WebhookReceiver, make: Make) -> None:
    await make().on_event(event())

    (request,) = receiver.requests
    assert request.path == "/hook"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == "0198-e"
    assert request.verified == (True, False, False)
    assert json.loads(request.body) == {
        "type": "run_completed",
        "timestamp": "2026-01-31T09:30:00.123456Z",
        "data": {
            "event_id": "0198-e",
            "event_type": "run_completed",
            "run_id": "run-1",
            "thread_id": "thread-1",
            "sequence": 4,
            "occurred_at": "2026-01-31T09:30:00.123456Z",
            "payload": PAYLOAD,
        },
    }


async def test_a_cloud_event_is_read_by_the_library_of_cloud_events(receiver: WebhookReceiver, make: Make) -> None:
    observer = make(format="cloudevents")
    await observer.on_event(event())
    await observer.on_event(event({name: PAYLOAD[name] for name in reversed(PAYLOAD)}))

    request, same = receiver.requests
    assert request.headers["content-type"] == "application/cloudevents+json"
    assert request.verified == (True, False, False)
    assert request.body == same.body
    got = from_structured(HTTPMessage(dict(request.headers), request.body), JSONFormat())
    assert (got.get_id(), got.get_source(), got.get_type()) == ("0198-e", "/trackside", "trackside.run_completed")
    assert (got.get_subject(), got.get_time(), got.get_specversion()) == ("run-1", WHEN, "1.0")
    data = got.get_data()
    assert isinstance(data, dict)
    assert data["payload"] == PAYLOAD


@pytest.mark.parametrize("body_format", ["trackside", "cloudevents"])
async def test_the_same_event_has_the_same_bytes_wherever_it_was_read(
    receiver: WebhookReceiver, make: Make, body_format: str
) -> None:
    turned = {"completion_data": {"a": [None, True], "b": 1.5}, "title": PAYLOAD["title"], "status": "success"}
    await make(format=body_format).on_event(event())
    await make(format=body_format).on_event(event(turned))

    first, second = receiver.requests
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


async def test_while_receivers_change_secrets_each_of_the_two_verifies(receiver: WebhookReceiver, make: Make) -> None:
    await make(secret=[NEW, OLD]).on_event(event())
    await make(secret=OLD).on_event(event())

    both, old = receiver.requests
    assert both.verified == (True, True, False)
    assert old.verified == (False, True, False)
    newest, older = both.headers["webhook-signature"].split(" ")
    when = datetime.fromtimestamp(int(both.headers["webhook-timestamp"]), UTC)
    assert newest == Webhook(NEW).sign("0198-e", when, both.body.decode())
    assert older == Webhook(OLD).sign("0198-e", when, both.body.decode())


async def test_another_attempt_has_another_time_and_the_same_id(receiver: WebhookReceiver, make: Make) -> None:
    began = datetime.now(UTC) - timedelta(minutes=2)
    put = At(began)

    class AtItsTime(WebhookObserver):
        clock = put

    observer = make(AtItsTime)
    receiver.answers.append(status(500))
    with pytest.raises(DeliveryError):
        await observer.on_event(event())
    put.time = began + timedelta(minutes=3)
    await observer.on_event(event())

    first, again = receiver.requests
    assert int(again.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 180
    assert first.headers["webhook-id"] == again.headers["webhook-id"]
    assert first.body == again.body
    assert first.verified == again.verified == (True, False, False)


async def test_a_payload_of_a_mebibyte_arrives_whole_if_it_may(receiver: WebhookReceiver, make: Make) -> None:
    payload = {"text": "日" * 1_048_576}
    await make(max_bytes=4_000_000).on_event(event(payload))

    (request,) = receiver.requests
    assert json.loads(request.body)["data"]["payload"] == payload
    assert request.verified[0]


@pytest.mark.parametrize("body_format", ["trackside", "cloudevents"])
async def test_what_is_larger_than_it_may_be_is_cut_and_marked_the_same_each_time(
    receiver: WebhookReceiver, make: Make, body_format: str
) -> None:
    large = event(
        {"status": "success", "title": "\x01日" * 50_000, "completion_data": {"last_ai_message": "x" * 50_000}}
    )
    for _ in range(2):
        await make(format=body_format, max_bytes=20_000).on_event(large)

    first, second = receiver.requests
    assert first.body == second.body
    assert 1_000 < len(first.body) <= 20_000
    payload = json.loads(first.body)["data"]["payload"]
    assert payload["status"] == "success"
    assert payload["sanitized"] is True
    assert "… [truncated: " in payload["title"]


async def test_a_payload_that_is_cut_holds_up_nobody_meanwhile(
    receiver: WebhookReceiver, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_let, uncut = threading.Event(), _body.canonical_payload

    def held_up(*args: Any, **options: Any) -> Any:
        is_let.wait()
        return uncut(*args, **options)

    monkeypatch.setattr(_body, "canonical_payload", held_up)
    observer = make(max_bytes=20_000)
    cutting = asyncio.create_task(observer.on_event(event({"parts": [{}] * 100_000}, "large")))
    await observer.on_event(event())
    assert not cutting.done()
    is_let.set()
    await cutting

    assert [request.headers["webhook-id"] for request in receiver.requests] == ["0198-e", "large"]


async def test_what_is_too_large_without_its_payload_is_not_deliverable(receiver: WebhookReceiver, make: Make) -> None:
    with pytest.raises(DeliveryError, match="does not fit into max_bytes") as raised:
        await make(max_bytes=1_024).on_event(event(event_id="x" * 1_024))

    assert not raised.value.retryable
    assert not receiver.requests


@pytest.mark.parametrize("event_id", ["ü", "a b", "a\r\nX-Injected: 1", "ä" * 200, "a,b;c=d", "a.1"])
async def test_an_id_of_somebody_elses_harness_cannot_break_the_headers(
    receiver: WebhookReceiver, make: Make, event_id: str
) -> None:
    await make().on_event(event(event_id=event_id))

    (request,) = receiver.requests
    assert request.verified[0]
    assert "x-injected" not in request.headers
    assert json.loads(request.body)["data"]["event_id"] == event_id


async def test_headers_of_the_user_are_sent_and_nothing_of_the_environment(
    receiver: WebhookReceiver, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter22")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for proxy in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    receiver.answers.append(status(200, {"Set-Cookie": "session=1; Path=/"}))
    observer = make(headers={"X-Token": "hunter22", "Authorization": "Bearer hunter22"})
    await observer.on_event(event())
    await observer.on_event(event())

    for request in receiver.requests:
        assert request.headers["x-token"] == "hunter22"
        assert request.headers["authorization"] == "Bearer hunter22"
        assert request.headers["user-agent"] == "Trackside"
        assert "cookie" not in request.headers
    assert receiver.connections == 1


async def test_a_query_is_sent(receiver: WebhookReceiver, make: Make) -> None:
    await make(url=f"{receiver.url}?token=a%26b%20c&x=").on_event(make_event())

    assert receiver.requests[0].path == "/hook?token=a%26b%20c&x="


async def test_what_a_receiver_would_have_remembered_is_not_sent_with_the_next_event(
    receiver: WebhookReceiver, make: Make
) -> None:
    observer = make(url=receiver.url.replace("127.0.0.1", "localhost"))  # an IP address would get no cookies back
    receiver.answers.append(status(200, {"Set-Cookie": "session=of-the-first"}))
    for event_id in ("first", "second"):
        await observer.on_event(event(event_id=event_id))

    assert ["cookie" in request.headers for request in receiver.requests] == [False, False]
