"""Nonsense of every kind is refused with a sentence: it never fails the server, never hangs, and changes nothing.

Requests are written byte by byte, since no Python client sends what these tests send.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from random import Random
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import httpx
import pytest

from trackside.app.server.examples import example_of
from trackside.app.server.routes import GROUPS
from trackside.app.server.routing import EVENT_STREAM, Endpoint, all_endpoints
from trackside.app.settings import ServerSettings

ENDPOINTS = [endpoint for endpoint in all_endpoints(GROUPS) if endpoint.refuses is None]
ID = "00000000-0000-4000-8000-000000000000"
DEEP = 100_000
MAX_BODY = 1_048_576

NOT_JSON = {
    "nothing but brackets": b"[" * DEEP + b"]" * DEEP,
    "brackets inside": b'{"metadata": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "never closed": b'{"a":' * DEEP,
    "invalid UTF-8": b'{"assistant_id": "\xff\xfe"}',
    "overlong UTF-8": b'{"assistant_id": "\xc0\x80"}',
    "UTF-16": '{"assistant_id": "echo"}'.encode("utf-16"),
    "UTF-32": '{"assistant_id": "echo"}'.encode("utf-32"),
    "a byte order mark": b'\xef\xbb\xbf{"assistant_id": "echo"}',
    "a zero byte": b"\x00",
    "a raw control character": b'{"assistant_id": "e\x01cho"}',
    "half a character": b'{"assistant_id": "\\ud800"}',
    "a list": b"[1]",
    "a number": b"1",
    "null": b"null",
    "a text": b'"assistant_id"',
    "two documents": b'{"assistant_id": "echo"}{}',
    "a comment": b'{/* */"assistant_id": "echo"}',
    "NaN": b'{"assistant_id": NaN}',
    "cut off": b'{"assistant_id": "ec',
    "an unknown option": b'{"no_such_option_at_all": 1}',
    "a key of half a character": b'{"\\udfff": 1}',
    "a number for a text": b'{"assistant_id": 1, "name": 1, "namespace": 1, "position": "x", "values": 1, "thread_id": 1}',
}
IDS = (
    "x",
    "%00",
    "%ff%fe",
    "%ED%A0%80",
    "..%2f..%2fetc%2fpasswd",
    "%E2%80%AE",
    "0" * 36,
    "0" * 4_000,
    "{" + ID + "}",
    f"urn:uuid:{ID}",
    ID[:-1],
    f"{ID}%20",
    f"{ID}%0a",
    "%F0%9F%92%A5",
    "null",
    "*",
    "%25s%25n",
    "'%20or%201=1",
)
QUERIES = (
    "no_such_parameter=1",
    "&".join(f"a[{level}]=1" for level in range(1_500)),
    "a" + "[b]" * 5_000 + "=1",
    "%00=%00",
    "limit=%00",
    "limit=1e400",
    "limit=" + "9" * 5_000,
    "limit=-1",
    "limit=NaN",
    "offset=-1",
    "after=%ff",
    "after=" + "9" * 30,
    "since=yesterday",
    "since=99999-01-01T00:00:00Z",
    "since=0001-01-01T00:00:00%2B23:59",
    "type=%ED%A0%80",
    "wait=perhaps",
    "=",
)
LAST_EVENT_IDS = (
    b"x",
    b"-2",
    b"1e3",
    b"0x10",
    b"9" * 5_000,
    b"\xff\xfe",
    b"\xc3\xa9",
    b"1;2",
    b"1 2",
    b"1-",
    b"-1-1",
    b"1-1-1",
    b"99999999999999999999-99999999999999999999",
    b"+1",
    b"\xd9\xa1",  # a digit, but not an ASCII one
)


class Answer(NamedTuple):
    """The server's answer."""

    status: int
    headers: bytes
    body: bytes

    @property
    def sentence(self) -> str:
        detail = json.loads(self.body)["detail"]
        assert isinstance(detail, str)
        assert detail
        return detail


def request_of(method: str, target: str, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    fields = [(b"host", b"localhost"), *headers]
    if body or method not in {"GET", "DELETE"}:
        fields.append((b"content-length", b"%d" % len(body)))
    if not any(name == b"content-type" for name, _ in headers):
        fields.append((b"content-type", b"application/json"))
    head = b"%b %b HTTP/1.1\r\n" % (method.encode(), target.encode())
    return head + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n" + body


async def ask(
    url: str, method: str, target: str, body: bytes = b"", headers: Sequence[tuple[bytes, bytes]] = ()
) -> Answer:
    """Send exactly this, and read until the server closes the connection."""
    address = urlsplit(url)
    async with asyncio.timeout(60):  # for what never ends; no test measures time
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            writer.write(request_of(method, target, body, [(b"connection", b"close"), *headers]))
            answer = await reader.read()
        finally:
            writer.close()
    first, _, rest = answer.partition(b"\r\n")
    said, _, content = rest.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in said.lower():
        content = b"".join(re.findall(rb"[0-9a-f]+\r\n(.*?)\r\n", content, re.DOTALL))
    return Answer(int(first.split()[1]), said, content)


class Asker:
    """Asks thousands of times, on one connection while the server keeps it: new ones would be a third of the work."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, target: str, body: bytes = b"") -> Answer:
        """Send exactly this, and read the answer."""
        async with asyncio.timeout(60):
            if self._reader is None or self._writer is None:
                self._reader, self._writer = await asyncio.open_connection(self._address.hostname, self._address.port)
            self._writer.write(request_of(method, target, body, ()))
            head = await self._reader.readuntil(b"\r\n\r\n")
            first, _, said = head.removesuffix(b"\r\n\r\n").partition(b"\r\n")
            content = await self._content_of(self._reader, said.lower())
        if b"connection: close" in said.lower():
            await self.aclose()
        return Answer(int(first.split()[1]), said, content)

    async def aclose(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _content_of(self, reader: asyncio.StreamReader, said: bytes) -> bytes:
        if (length := re.search(rb"content-length: (\d+)", said)) is not None:
            return await reader.readexactly(int(length[1]))
        content = b""
        while b"transfer-encoding: chunked" in said and (size := int(await reader.readline(), 16)):
            content += (await reader.readexactly(size + 2))[:-2]
        if b"transfer-encoding: chunked" in said:
            await reader.readline()
        return content


def path_of(endpoint: Endpoint, value: str = ID) -> str:
    return re.sub(r"\{\w+(?::\w+)?\}", lambda _: value, endpoint.path)


def name_of(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {endpoint.path}"


async def echo(input: Any) -> Any:
    return input


async def state_of(http: httpx.AsyncClient, thread_id: str) -> Any:
    """Everything that nonsense could have changed."""
    events = (await http.get("/events", params={"limit": 1_000})).json()
    runs = (await http.get("/runs", params={"limit": 1_000})).json()
    thread = (await http.get(f"/threads/{thread_id}")).json()
    return events, runs, thread


def check(refusals: Iterable[tuple[str, Answer]], statuses: Iterable[int]) -> None:
    refusals = [*refusals]
    allowed = frozenset(statuses)
    wrong = {what: (answer.status, answer.body[:200]) for what, answer in refusals if answer.status not in allowed}
    assert not wrong
    assert all(answer.sentence for _, answer in refusals)


@pytest.fixture
async def served(serve_agents: Any) -> Any:
    server = replace(ServerSettings(), max_body=MAX_BODY)
    async with serve_agents({"echo": echo}, server=server) as served, httpx.AsyncClient(base_url=served.url) as http:
        thread = "11111111-1111-4111-8111-111111111111"
        await served.client.runs.wait(thread, "echo", input={"a": 1}, if_not_exists="create")
        before = await state_of(http, thread)
        yield served
        assert await state_of(http, thread) == before


WITH_BODY = [endpoint for endpoint in ENDPOINTS if endpoint.body is not None]


async def test_a_body_that_is_no_json_or_does_not_fit_is_refused_everywhere(served: Any) -> None:
    refused = []
    for endpoint in WITH_BODY:
        for what, body in NOT_JSON.items():
            answer = await ask(served.url, endpoint.method, path_of(endpoint), body)
            refused.append((f"{name_of(endpoint)}, {what}", answer))
    check(refused, (400, 404, 409, 413, 422))


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(served: Any) -> None:
    large = b'{"metadata": "' + b"x" * MAX_BODY + b'"}'
    refused = [
        (name_of(endpoint), await ask(served.url, endpoint.method, path_of(endpoint), large)) for endpoint in WITH_BODY
    ]
    check(refused, (413,))


async def test_a_body_of_another_kind_is_refused(served: Any) -> None:
    kinds = (b"text/plain", b"multipart/form-data; boundary=x", b"application/x-www-form-urlencoded")
    refused = [
        (f"{name_of(endpoint)}, {kind!r}", await ask(served.url, endpoint.method, path_of(endpoint), b"a=1", headers))
        for endpoint in WITH_BODY
        for kind in kinds
        for headers in [[(b"content-type", kind)]]
    ]
    check(refused, (415,))


async def test_ids_that_are_none_are_refused_in_every_path(served: Any) -> None:
    refused = []
    for endpoint in ENDPOINTS:
        if "{" not in endpoint.path:
            continue
        body = json.dumps(example_of(endpoint)).encode() if endpoint.body is not None else b""
        for value in IDS:
            answer = await ask(served.url, endpoint.method, path_of(endpoint, value), body)
            refused.append((f"{name_of(endpoint)} with {value:.60}", answer))
    check(refused, (400, 404, 405, 422))


async def test_queries_that_do_not_fit_are_refused_everywhere(served: Any) -> None:
    answers = []
    for endpoint in ENDPOINTS:
        if endpoint.method != "GET" or endpoint.media_type == "text/event-stream":
            continue
        for query in QUERIES:
            answer = await ask(served.url, endpoint.method, f"{path_of(endpoint)}?{query}")
            if endpoint.query is None:  # nobody reads the query
                assert answer.status < 500, (name_of(endpoint), query)
            else:
                answers.append((f"{name_of(endpoint)}?{query:.60}", answer))
    check(answers, (400, 404, 422))


async def test_places_in_streams_that_are_none_are_refused(served: Any) -> None:
    answers = []
    for endpoint in ENDPOINTS:
        if endpoint.method != "GET" or endpoint.media_type != "text/event-stream":
            continue
        for last in LAST_EVENT_IDS:
            answer = await ask(served.url, "GET", path_of(endpoint), headers=[(b"last-event-id", last)])
            answers.append((f"{name_of(endpoint)} after {last[:40]!r}", answer))
    assert answers
    check(answers, (400, 404, 422))


PIECES = (
    *(b"[", b"]", b"{", b"}", b'"', b",", b":", b"\\", b"\x00", b"\xff", b"-", b"1e999", b"null", b"9" * 400),
    *(b"\\ud800", b"\\u0000"),
)
ODD: Sequence[bytes] = (
    *(b'"\\u0000"', b'"\\ud800"', b'"\\udc00\\ud800"', b'""', b'" "', b'"\\n"', '"💥\u202e\ufffe"'.encode()),
    *(b"1e400", b"-1e400", b"9" * 400, b"9223372036854775808", b"-9223372036854775809", b"1e-400", b"-0.0"),
    *(
        b"true",
        b"null",
        b"[]",
        b"{}",
        b'{"": {"": ""}}',
        b'{"a": 1, "a": 2}',
        b"[[[[[]]]]]",
        b'"' + b"x" * 100_000 + b'"',
    ),
    *(b'{"\\u0000": "\\u0000"}', b'{"__class__": "x", "lc": 1}', b'{"constructor": {"prototype": 1}}'),
)
"""JSON that means something elsewhere, or means little."""


def with_odd_parts(example: Any, odd: bytes) -> Iterable[bytes]:
    """The body with each of its parts replaced, one at a time."""
    for place in places_in(example):
        yield json.dumps(replaced(example, place, "@@")).encode().replace(b'"@@"', odd, 1)


def places_in(value: Any, path: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from places_in(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    changed = value.copy()
    changed[path[0]] = replaced(value[path[0]], path[1:], by)
    return changed


def mutated(random: Random, body: bytes) -> bytes:
    """The body with something wrong in it, or not."""
    changed = bytearray(body)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(changed) + 1)
        match random.randrange(4):
            case 0:
                del changed[place : place + random.randint(1, 8)]
            case 1:
                changed[place:place] = random.choice(PIECES)
            case 2:
                changed[place:place] = changed[: random.randrange(len(changed) + 1)]
            case _:
                changed[place : place + 1] = bytes([random.randrange(256)])
    return bytes(changed)


@pytest.mark.timeout(600)  # some thousand requests, whatever else the machine does meanwhile
async def test_odd_parts_of_a_body_never_fail_the_server(serve_agents: Any) -> None:
    failed = {}
    async with serve_agents({"NAME": echo}) as served, aclosing(Asker(served.url)) as asker:
        for endpoint in WITH_BODY:
            if endpoint.media_type == EVENT_STREAM:
                continue  # valid ones could be followed for ever
            for odd in ODD:
                for body in with_odd_parts(example_of(endpoint), odd):
                    answer = await asker.ask(endpoint.method, path_of(endpoint), body)
                    if answer.status >= 500 and answer.status != 501:
                        failed[name_of(endpoint), body[:200]] = answer
                    elif answer.status >= 400:
                        assert answer.sentence
        for page in ("/events?limit=1000", "/runs?limit=1000", "/stats", "/subscriptions"):
            assert (await asker.ask("GET", page)).status == 200
    assert not failed


@pytest.mark.parametrize("rounds", [20, pytest.param(1_000, marks=pytest.mark.long)])
async def test_bodies_that_are_nearly_right_never_fail_the_server(serve_agents: Any, rounds: int) -> None:
    random = Random(rounds)
    async with serve_agents({"NAME": echo}) as served, aclosing(Asker(served.url)) as asker:
        failed = {}
        for endpoint in WITH_BODY:
            example = example_of(endpoint)
            if endpoint.media_type == EVENT_STREAM:
                continue
            for _ in range(rounds):
                body = mutated(random, json.dumps(example, ensure_ascii=random.random() < 0.5).encode())
                answer = await asker.ask(endpoint.method, path_of(endpoint), body)
                if answer.status >= 500 and answer.status != 501:
                    failed[name_of(endpoint), body] = answer
                elif answer.status >= 400:
                    assert answer.sentence
        assert not failed
        alive = await served.client.runs.wait(None, "NAME", input={"a": 1})
    assert alive == {"a": 1}


async def test_what_is_no_http_is_refused_and_the_server_goes_on(served: Any) -> None:
    address = urlsplit(served.url)
    for nonsense in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /runs HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /runs HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST /runs HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /ok HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
        b"GET /" + quote("é" * 60_000).encode() + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\r\n" * 1_000,
    ):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(nonsense)
        writer.write_eof()
        try:
            async with asyncio.timeout(60):
                said = await reader.read()
        except ConnectionError:
            said = b""
        finally:
            writer.close()
        assert not re.match(rb"HTTP/1\.1 (2|5)", said), (nonsense[:60], said[:200])
    assert (await ask(served.url, "GET", "/ok")).status == 200
