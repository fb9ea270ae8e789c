"""A little input that becomes very much: packed, nested, repeated, or long. It is refused, or costs what it weighs."""

from __future__ import annotations

import gzip
import io
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, override

import httpx
import pytest
import requests

from trackside.app.bounded_answers import bound_answers
from trackside.app.dashboard.tokens import cookies_of
from trackside.app.storage import Store
from trackside.app.storage.errors import ExportDamagedError, ForeignExportError
from trackside.app.storage.transfer import open_export

MEBI = 2**20
MANY = 200_000
BOMB = 256 * MEBI


def packed(size: int) -> bytes:
    """This many spaces, compressed."""
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as writer:
        for _ in range(size // MEBI):
            writer.write(b" " * MEBI)
    return file.getvalue()


@pytest.fixture(scope="module")
def bomb() -> bytes:
    made = packed(BOMB)
    assert len(made) < BOMB // 100
    return made


def highest() -> int:
    """This process's peak memory, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "identity, gzip", "x-gzip"])
def test_a_packed_body_is_not_unpacked(place: Any, bomb: bytes, encoding: str) -> None:
    before = place.server.memory()
    answer = httpx.post(
        f"{place.url}/runs/wait",
        content=bomb,
        headers={**place.headers(), "content-encoding": encoding, "content-type": "application/json"},
        timeout=60,
    )
    assert answer.status_code == 415
    assert place.server.memory() - before < 32 * MEBI


@pytest.fixture
def answering(bomb: bytes) -> Iterator[str]:
    """Somebody else's server, which answers everything with a bomb, or redirects to itself."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == "/elsewhere":
                self.send_response(307)
                self.send_header("Location", "/bomb")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(bomb)))
            self.end_headers()
            self.wfile.write(bomb)

        @override
        def log_message(self, format: str, *args: object) -> None: ...

    class Server(ThreadingHTTPServer):
        @override
        def handle_error(self, request: object, client_address: object) -> None: ...

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01], name="answering", daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_of_a_packed_answer_nothing_is_unpacked(answering: str) -> None:
    before = highest()
    with bound_answers(requests.Session()) as session:
        answer = session.post(f"{answering}/bomb", data=b"event")
    assert (answer.status_code, answer.content) == (200, b"")
    assert highest() - before < 64 * MEBI


def test_who_sends_on_to_elsewhere_gets_nothing_there(answering: str) -> None:
    """It gets neither the event nor the key that goes with it."""
    with bound_answers(requests.Session()) as session, pytest.raises(requests.HTTPError, match="307"):
        session.post(f"{answering}/elsewhere", data=b"event", headers={"x-key": "secret"})


@pytest.mark.parametrize(
    "answer",
    [
        "HTTP/1.1 401 not with {key}\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 300 go with {key}\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n{key} is no header\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 {key}\r\n\r\n",
        "HTTP/{key} 200 OK\r\n\r\n",
        "{key}\r\n\r\n",
    ],
)
def test_of_an_answer_no_word_is_said_again(answer: str, caplog: pytest.LogCaptureFixture) -> None:
    class Handler(BaseHTTPRequestHandler):
        @override
        def handle(self) -> None:
            self.connection.recv(65_536)
            self.connection.sendall(answer.format(key="hunter2").encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01], name="repeating", daemon=True)
        thread.start()
        said = []
        with bound_answers(requests.Session()) as session:
            try:
                response = session.post(f"http://127.0.0.1:{server.server_address[1]}", data=b"event", timeout=5)
                said.append(f"{response.status_code} {response.reason}")
                response.raise_for_status()
            except requests.RequestException as exc:
                said.append(f"{exc!r} {exc}")
        server.shutdown()
        thread.join()
    assert said
    assert "hunter2" not in f"{said}{caplog.text}"


def test_an_import_whose_line_has_no_end_is_refused_before_all_of_it_is_read(bomb: bytes) -> None:
    before = highest()
    file: Any = gzip.GzipFile(fileobj=io.BytesIO(bomb), mode="rb")
    with pytest.raises(ForeignExportError):
        open_export(file)
    assert file.tell() <= BOMB // 4
    assert highest() - before < 256 * MEBI


JSON_BOMBS = {
    "a number of a million digits": b'{"assistant_id": "echo", "input": {"n": ' + b"9" * 1_000_000 + b"}}",
    "an exponent": b'{"assistant_id": "echo", "input": {"n": 1e999999999}}',
    "a small exponent": b'{"assistant_id": "echo", "input": {"n": 1e-999999999}}',
    "a long fraction": b'{"assistant_id": "echo", "input": {"n": 0.' + b"1" * 1_000_000 + b"}}",
    "very many keys": b'{"assistant_id": "echo", "input": {' + b",".join(b'"%d":0' % n for n in range(MANY)) + b"}}",
    "very many times one key": b'{"assistant_id": "echo", "input": {' + b",".join([b'"a":0'] * MANY) + b"}}",
    "very many lists": b'{"assistant_id": "echo", "input": {"n": [' + b",".join([b"[]"] * MANY) + b"]}}",
    "half a character": b'{"assistant_id": "echo", "input": {"n": "\\ud800"}}',
    "half a character as a key": b'{"assistant_id": "echo", "input": {"\\udc00": 1}}',
    "the other half first": b'{"assistant_id": "echo", "input": {"n": "\\udc00\\ud800"}}',
    "not a number": b'{"assistant_id": "echo", "input": {"n": NaN}}',
    "without end": b'{"assistant_id": "echo", "input": {"n": -Infinity}}',
    "zero": b'{"assistant_id": "echo", "input": {"n": "\\u0000"}}',
    "an escape in each place": b'{"assistant_id": "echo", "input": {"n": "' + b"\\u0041" * 500_000 + b'"}}',
}


@pytest.mark.parametrize("body", JSON_BOMBS.values(), ids=JSON_BOMBS.keys())
def test_json_that_is_odd_is_refused_or_taken_as_it_is(place: Any, body: bytes) -> None:
    headers = {**place.headers("run"), "content-type": "application/json"}
    answer = httpx.post(f"{place.url}/runs/wait", content=body, headers=headers)
    assert answer.status_code in {200, 422}, answer.text[:500]
    assert len(answer.content) < 2 * len(body) + 1_000
    if answer.status_code == 200:
        json.loads(answer.content, parse_constant=pytest.fail)
    assert httpx.get(f"{place.url}/ok").json() == {"ok": True}


COOKIES = {
    "very many": "; ".join(f"{number:05}=" for number in range(9_000)),
    "very many times one": "trackside_session=a%41; " * 2_700,
    "without an end": 'a="' + "x" * 65_000,
    "equal signs": "a" + "=" * 65_000 + '"',
    "escapes": 'trackside_token="' + "\\" * 65_000 + '"',
    "spaces": "a" + " " * 65_000 + "=",
}


@pytest.mark.parametrize("cookies", COOKIES.values(), ids=COOKIES.keys())
def test_a_head_full_of_cookies_costs_what_it_weighs(cookies: str) -> None:
    """The server reads cookies on each request before it knows who asks, and does nothing else meanwhile."""
    ours = "trackside_session=ada%3B; trackside_token=x"
    scope = {"type": "http", "headers": [(b"cookie", ours.encode()), (b"cookie", cookies.encode())]}
    before = time.thread_time()
    assert cookies_of(scope) == {"trackside_session": "ada;", "trackside_token": "x"}
    assert time.thread_time() - before < 0.25


def test_a_key_that_comes_twice_means_one_thing_to_all(place: Any) -> None:
    """Otherwise one part would look at the first and another use the second."""
    body = b'{"assistant_id": "nobody", "assistant_id": "echo", "input": {"a": 1, "a": 2}}'
    headers = {**place.headers("run"), "content-type": "application/json"}
    answer = httpx.post(f"{place.url}/runs/wait", content=body, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"a": 2})


@pytest.mark.parametrize("path", ["/threads/search", "/threads/count"])
def test_a_search_costs_no_more_than_what_it_looks_at(place: Any, path: str) -> None:
    """However often the search asks for the last element of a list."""
    many = 3_000
    made = {"metadata": {"listed": [*range(many), {"last": True}]}}

    def answer(path: str, body: Any) -> tuple[int, Any]:
        said = httpx.post(f"{place.url}{path}", json=body, headers=place.headers("run"))
        return said.status_code, said.json()

    assert answer("/threads", made)[0] == 200
    status, found = answer(path, {"metadata": {"listed": [many - 1] * many}})
    assert status == 200
    assert found
    status, found = answer(path, {"metadata": {"listed": [{"last": True}] * many}})
    assert (status, "comparisons" in found["detail"]) == (422, True)
    assert httpx.get(f"{place.url}/ok").json() == {"ok": True}


def deep(levels: int) -> Any:
    """This many objects, each inside the next."""
    made: Any = 1
    for _ in range(levels):
        made = {"a": made}
    return made


TOO_MUCH = {"much in a list": {"a": [{}] * 30_000}, "many": {str(n): None for n in range(30_000)}, "deep": deep(3_000)}


@pytest.mark.parametrize("wanted", TOO_MUCH.values(), ids=TOO_MUCH.keys())
@pytest.mark.parametrize(
    ("path", "by"),
    [
        ("/threads/search", "metadata"),
        ("/threads/count", "values"),
        ("/runs/crons/search", "metadata"),
        ("/runs/crons/count", "metadata"),
        ("/store/items/search", "filter"),
    ],
)
def test_what_is_searched_for_has_bounds(place: Any, path: str, by: str, wanted: Any) -> None:
    before = len(place.server.log)
    answer = httpx.post(f"{place.url}{path}", json={by: wanted}, headers=place.headers())
    assert answer.status_code == 422
    assert by in answer.json()["detail"]
    assert " failed" not in place.server.log[before:]


def test_a_path_into_threads_is_as_long_as_somebody_would_write(place: Any) -> None:
    body = {"extract": {"a": "values" + ".a" * MEBI}}
    answer = httpx.post(f"{place.url}/threads/search", json=body, headers=place.headers("run"))
    assert (answer.status_code, "extract" in answer.json()["detail"]) == (422, True)


def test_a_body_beyond_the_limit_costs_no_memory(place: Any) -> None:
    before = place.server.memory()

    def much() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * MEBI

    answer = httpx.post(f"{place.url}/runs/wait", content=much(), headers=place.headers())
    assert answer.status_code == 413
    assert place.server.memory() - before < 48 * MEBI


@pytest.mark.parametrize("who", [None, "run"], ids=["a stranger", "a tenant"])
@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        (b"2\r\n{}\r\n0\r\n", b"x: y\r\n" * 10_000),
        (b"2\r\n{}\r\n0\r\nx: ", b"y" * 60_000),
        (b"2\r\n{}\r\n1;", b"x" * 60_000),
    ],
    ids=["many trailers", "one trailer", "an extension"],
)
def test_what_has_no_end_behind_a_body_ends_the_connection(
    place: Any, who: str | None, begun: bytes, piece: bytes
) -> None:
    """Whether the server reads the body or has already refused the request."""
    before = place.server.memory()
    key = b"" if who is None else b"x-api-key: %s\r\n" % place.keys[who].encode()
    head = b"POST /threads HTTP/1.1\r\nHost: 127.0.0.1\r\n" + key + b"Transfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", place.server.port), timeout=60) as connection:
        connection.sendall(head + begun)
        with pytest.raises(ConnectionError):
            for _ in range(64 * MEBI // len(piece)):
                connection.sendall(piece)
    assert place.server.memory() - before < 32 * MEBI
    assert httpx.get(f"{place.url}/ok").json() == {"ok": True}


async def test_what_is_imported_is_bounded_by_depth_too(tmp_path: Path) -> None:
    head = b'{"format":"trackside.events","version":1,"to":1,"chosen":{}}\n'
    deep = b'{"position":1,"event_id":"e","event_type":"run_started","run_id":"r","thread_id":"t","sequence":1,'
    deep += (
        b'"occurred_at":"2026-01-01T00:00:00.000000Z","payload":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}\n"
    )
    async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        export = open_export(io.BytesIO(head + deep + b'{"events":1}\n'))
        with pytest.raises(ExportDamagedError):
            await store.import_events(export)
        assert await store.events() == []
