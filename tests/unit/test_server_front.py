"""What stands in front of an app: what it records of requests, and how it ends those that go on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from trackside.app.dashboard.browsing import Browsing
from trackside.app.server.front import END_MEANS_OVER, Front
from trackside.app.server.principal import Permission, Principal

_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_JSON = (b"content-type", b"application/json")


class Client:
    """The other side of an ASGI app."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def receive(self) -> Any:
        await asyncio.get_running_loop().create_future()

    async def send(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])

    @property
    def is_whole(self) -> bool:
        return not self.messages[-1].get("more_body", False)


@dataclass
class Matched:
    path: str


class Answering:
    """An app that starts its answer, and continues it until told to end."""

    def __init__(
        self, *headers: tuple[bytes, bytes], starts: bool = True, goes_on: bool = True, body: bytes = b"first\r\n\r\n"
    ) -> None:
        self.begun = asyncio.Event()
        self._body = body
        self._headers = headers
        self._starts = starts
        self._goes_on = goes_on

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["route"] = Matched("/threads/{thread_id}/runs")
        scope["path_params"] = {"thread_id": "the-thread"}
        scope["trackside.principal"] = Principal(identity="ann", permission=Permission.run)
        if self._starts:
            await send({"type": "http.response.start", "status": 200, "headers": list(self._headers)})
            await send({"type": "http.response.body", "body": self._body, "more_body": self._goes_on})
        self.begun.set()
        if self._goes_on:
            await asyncio.get_running_loop().create_future()


def request() -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": "/threads/the-thread/runs", "query_string": b"secret=1"}


async def test_a_request_is_noted_with_its_template_ids_and_who_asked() -> None:
    noted: list[Mapping[str, Any]] = []
    location = (b"content-location", b"/threads/the-thread/runs/the-run")

    await Front(Answering(_JSON, location, goes_on=False), note=noted.append)(request(), None, Client().send)

    [line] = noted
    assert line.pop("ms") >= 0  # type: ignore[attr-defined]  # a dict of the app's own
    assert line == {
        "method": "POST",
        "path": "/threads/{thread_id}/runs",
        "status": 200,
        "bytes": 9,
        "thread_id": "the-thread",
        "run_id": "the-run",
        "principal": "ann",
    }


async def test_a_request_by_cookie_is_noted_and_cut_off_as_any_other() -> None:
    class Following(Answering):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            assert (b"x-api-key", b"the-key") in scope["headers"]
            scope[END_MEANS_OVER] = True
            await super().__call__(scope, receive, send)

    app, client, noted = Following(_EVENTS), Client(), list[Mapping[str, Any]]()
    front = Front(Browsing(app), note=noted.append)
    headers = [(b"cookie", b"trackside_session=the-key"), (b"sec-fetch-site", b"same-origin")]
    asked = {**request(), "method": "GET", "headers": headers}
    asking = asyncio.create_task(front(asked, client.receive, client.send))
    await app.begun.wait()

    front.begin_ending()
    front.end_streams()
    await asking

    assert not client.is_whole
    assert noted[0]["path"] == "/threads/{thread_id}/runs"
    assert (noted[0]["principal"], noted[0]["thread_id"]) == ("ann", "the-thread")


async def test_an_app_may_answer_with_a_view_of_what_it_has() -> None:
    async def picture(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": memoryview(b"pixels")})

    noted: list[Mapping[str, Any]] = []
    await Front(picture, note=noted.append)(request(), None, Client().send)

    assert noted[0]["bytes"] == 6


async def test_a_path_that_there_is_not_is_noted_as_far_as_it_is_short() -> None:
    async def missing(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    noted: list[Mapping[str, Any]] = []
    await Front(missing, note=noted.append)({**request(), "path": "/" + "x" * 1_000}, None, Client().send)

    assert noted[0]["path"] == "/" + "x" * 199
    assert "thread_id" not in noted[0]


async def test_a_stream_ends_properly_when_the_server_does() -> None:
    app, client, noted = Answering(_EVENTS), Client(), list[Mapping[str, Any]]()
    front = Front(app, note=noted.append)
    asking = asyncio.create_task(front(request(), client.receive, client.send))
    await app.begun.wait()

    front.begin_ending()
    front.end_streams()
    await asking

    assert client.body == b"first\r\n\r\n"
    assert client.is_whole
    assert not noted[0].get("cut")
    assert asking.cancelling() == 0


async def test_a_stream_is_cut_off_in_the_middle_of_an_event() -> None:
    app, client = Answering(_EVENTS, body=b"data: half of a va"), Client()
    front = Front(app)
    asking = asyncio.create_task(front(request(), client.receive, client.send))
    await app.begun.wait()

    front.begin_ending()
    front.end_streams()
    await asking

    assert not client.is_whole


async def test_what_is_no_stream_is_left_to_come_to_its_end() -> None:
    app, client = Answering(_JSON), Client()
    front = Front(app)
    asking = asyncio.create_task(front(request(), client.receive, client.send))
    await app.begun.wait()

    front.begin_ending()
    front.end_streams()
    await asyncio.sleep(0)
    assert not asking.done()
    asking.cancel()  # as the server does when nothing is left to wait for
    await asking

    assert not client.is_whole  # so that the client sees that something is missing


async def test_who_was_not_answered_yet_is_told_that_the_server_stops() -> None:
    app, client = Answering(starts=False), Client()
    front = Front(app)
    asking = asyncio.create_task(front(request(), client.receive, client.send))
    await app.begun.wait()
    front.begin_ending()
    asking.cancel()
    await asking

    assert client.messages[0]["status"] == 503
    assert client.headers[b"retry-after"] == b"1"
    assert client.is_whole


async def test_a_cancel_of_a_server_that_does_not_end_is_passed_on() -> None:
    app, client = Answering(_JSON), Client()
    asking = asyncio.create_task(Front(app)(request(), client.receive, client.send))
    await app.begun.wait()
    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_connections_are_closed_after_their_answers_once_the_server_ends() -> None:
    front = Front(Answering(_JSON, goes_on=False))
    before, after = Client(), Client()

    await front(request(), None, before.send)
    front.begin_ending()
    await front(request(), None, after.send)

    assert b"connection" not in before.headers
    assert after.headers[b"connection"] == b"close"
