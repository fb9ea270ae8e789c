"""A server that is missing, is another one, or goes away meanwhile: one sentence says so, and what follows goes on."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from forking import Forkery
from trackside_server import TracksideServer

from trackside.app.cli.records import remote_connection
from trackside.app.cli.records.remote_connection import NotThereError, OtherVersionError, RemoteError, connected
from trackside.app.storage import Store
from trackside.harness.ids import new_id
from trackside.testing import make_run

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]
Piped = Callable[..., "subprocess.Popen[str]"]
Terminals = Callable[..., Any]

AGENTS = """
import asyncio
import os

async def echo(input):
    return input

async def sleep(input):
    await asyncio.Event().wait()
async def patient(input, run):
    run.send({"attempt": run.attempt})
    if run.attempt == 1 or input == "for ever":
        await asyncio.Event().wait()
    return {"came with attempt": run.attempt}

async def slow(input):
    try:
        await asyncio.Event().wait()
    finally:
        open("stopping", "x").close()
        while not os.path.exists("go"): await asyncio.sleep(0.02)

async def told(input, run):
    run.send({"part": 1})
    while not os.path.exists("go"):
        await asyncio.sleep(0.02)
    run.send({"part": 2})
"""


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--url", "nonsense"], "--url: 'nonsense' is not an address of a server"),
        (["--url", "ftp://127.0.0.1"], "--url: 'ftp://127.0.0.1' is not an address of a server"),
        (["--url", "http://[::1"], "--url: 'http://[::1' is not an address of a server"),
        (["--url", "http://127.0.0.1:99999"], "--url: 'http://127.0.0.1:99999' is not an address of a server"),
        (["--url", "http://ada:secret@127.0.0.1"], "--url: a key does not belong in the address"),
        (["--url", "http://127.0.0.1", "-d", "sqlite:///runs.db"], "leave one of the two out"),
        (["--api-key", "ts_1"], "--api-key: it is for a server"),
        (["--url", "http://127.0.0.1", "--api-key", "ts\n1"], "--api-key: it has characters that no key has"),
    ],
)
def test_what_is_typed_wrongly_is_said_before_anybody_is_asked(here: Trackside, typed: list[str], said: str) -> None:
    for command in (["runs"], ["run", "echo", "x"], ["doctor"], ["cancel", "x"], ["parked", "mail"]):
        done = here(*command, *typed)

        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["serve"],
        ["export"],
        ["import", "x"],
        ["prune", "--older-than", "1d"],
        ["db", "check"],
        ["db", "upgrade"],
        ["auth", "list"],
        ["deliver"],
        ["observers"],
    ],
)
def test_what_needs_the_database_says_so(here: Trackside, command: list[str]) -> None:
    done = here(*command, "--url", "http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --url: ")
    assert done.stderr.count("\n") == 1
    assert "--url " not in here(*command, "--help").stdout
    if command == ["export"]:
        assert "`trackside export` on that machine" in done.stderr
        assert "cannot be imported" in done.stderr

    if command[0] not in {"serve", "observers"}:  # which do not depend on where runs are recorded
        done = here(*command, TRACKSIDE_URL="http://127.0.0.1:1")
        assert (done.returncode, done.stderr.startswith("error: TRACKSIDE_URL: ")) == (2, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("TRACKSIDE_URL", "localhost:2024"), ("TRACKSIDE_API_KEY", "two words\n")],
)
def test_what_a_variable_says_wrongly_is_not_blamed_on_an_option(here: Trackside, name: str, value: str) -> None:
    for command in (["runs"], ["run", "echo", "x"], ["doctor"]):
        done = here(*command, **{"TRACKSIDE_URL": "http://127.0.0.1:1", name: value})

        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {name}: ")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SSL_CERT_FILE", "none.pem", "none.pem cannot be used: No such file or directory"),
        ("SSL_CERT_FILE", "empty.pem", "empty.pem cannot be used: there are no certificates in it"),
        ("ALL_PROXY", "socks://ada:secret@127.0.0.1:1080", "it cannot be used; a proxy is written http://host:port"),
        ("all_proxy", "socks5://ada:secret@127.0.0.1:1080", "for SOCKS: pip install 'httpx[socks]'"),
        ("HTTPS_PROXY", "http://ada:secret@127.0.0.1:none", "it cannot be used; a proxy is written http://host:port"),
        ("NO_PROXY", "localhost,[::1]", "hosts without one localhost,::1"),
    ],
)
def test_what_the_environment_names_on_the_way_to_a_server_is_not_taken_for_a_bug(
    here: Trackside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    for proxy in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.lower(), raising=False)
    monkeypatch.setitem(sys.modules, "socksio", None)  # it is not installed
    (tmp_path / "empty.pem").touch()
    for command in (["runs"], ["run", "echo", "x"], ["doctor"]):
        done = here(*command, TRACKSIDE_URL="http://127.0.0.1:1", **{name: value})

        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {name}: ")
        assert said in done.stderr
        assert "secret" not in done.stderr
        assert done.stderr.count("\n") == 1


@contextmanager
def answering(status: int, body: str, headers: dict[str, str]) -> Iterator[str]:
    """Something at an address of its own that answers everything like this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="answering")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "headers", "code", "said"),
    [
        (200, "<html>hello</html>", {}, 2, "is not a Trackside server: it answers 200"),
        (404, "not here", {}, 2, "is not a Trackside server: it answers 404"),
        (
            200,
            '{"version": "3", "host": {"kind": "cloud"}}',
            {},
            2,
            "is not a Trackside server: it calls itself 'cloud'",
        ),
        (301, "", {"Location": "https://example.org/"}, 2, "redirects to https://example.org/: give that as --url"),
        (502, "bad gateway", {}, 1, "could not do it: it answers 502"),
        (200, '{"version": "9.9", "host": {"kind": "trackside"}}', {}, 1, "has version 9.9 and this command"),
    ],
)
def test_what_is_no_server_of_this_version_is_not_taken_for_one(
    here: Trackside, status: int, body: str, headers: dict[str, str], code: int, said: str
) -> None:
    with answering(status, body, headers) as url:
        done = here("runs", "--url", url)

    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


GUEST = """
from starlette.applications import Starlette

app = Starlette()
"""


@pytest.mark.parametrize("settings", ["", '[server]\napp = "guest.py:app"\n'], ids=["alone", "with a guest"])
def test_what_a_server_of_another_version_lacks_is_told_from_what_is_not_there(
    tmp_path: Path, forkery: Forkery, settings: str
) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)
    (tmp_path / "guest.py").write_text(GUEST)

    async def failure(method: str, path: str) -> RemoteError:
        async with connected(server.url, None) as connection:
            with pytest.raises(RemoteError) as caught:
                await connection.ask(method, path)
        return caught.value

    with TracksideServer(tmp_path, "agents.py:echo", settings=settings, forkery=forkery) as server:
        lacking = [asyncio.run(failure(*asked)) for asked in (("GET", "not/yet"), ("POST", "not/yet"), ("PUT", "runs"))]
        absent = [
            asyncio.run(failure(*asked)) for asked in (("GET", f"runs/{new_id()}"), ("GET", "subscriptions/nobody"))
        ]

    assert [type(error) for error in lacking] == [OtherVersionError] * 3
    assert "it does not have what is asked for" in str(lacking[0])
    assert [type(error) for error in absent] == [NotThereError] * 2


def test_a_server_that_does_not_answer_is_not_waited_for_without_end(
    here: Trackside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_connection, "_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = here("runs", "--url", url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "did not answer within 0.2 s" in done.stderr

    gone = here("runs", "--url", url)
    assert (gone.returncode, gone.stderr) == (
        1,
        f"error: No server answers at {url}: nobody listens there; `trackside serve` starts one. [server-away]\n",
    )


async def test_a_stream_that_falls_silent_says_for_how_long_it_was_waited_for() -> None:
    async def fall_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nid: 0\n\n")
        await reader.read()  # until the other side is gone
        writer.close()

    silent = await asyncio.start_server(fall_silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    async with silent, httpx.AsyncClient(base_url=url) as client:
        connection = remote_connection.Connection(client, url, flags="", has_key=False)
        with pytest.raises(RemoteError, match=r"did not answer within 0\.2 s"):
            async with connection.stream("GET", "events/stream", silence=0.2) as pieces:
                async for piece in pieces:
                    assert piece == b"id: 0\n\n"


def test_a_server_that_is_not_trusted_is_not_asked(here: Trackside) -> None:
    with answering(200, "", {}) as url:
        done = here("runs", "--url", url.replace("http:", "https:"))

    assert (done.returncode, done.stdout) == (2, "")
    assert "is not trusted" in done.stderr


def test_a_tail_goes_on_without_a_gap_when_the_server_is_killed_and_comes_back(
    tmp_path: Path, piped: Piped, forkery: Forkery
) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)
    database = f"sqlite:///{tmp_path / 'runs.db'}"

    async def record(number: int) -> None:
        async with Store.open(database) as store:
            await store.append(make_run(f"run-{number}", thread_id=f"thread-{number}"))

    with TracksideServer(tmp_path, "agents.py:echo", database=database, forkery=forkery) as server:
        asyncio.run(record(1))
        tail = piped("tail", "--json", "--after", "0", "--url", server.url)
        starts = piped("tail", "--json", "--after", "0", "--type", "run_started", "--url", server.url)
        assert positions(tail, 5) == [1, 2, 3, 4, 5]
        assert positions(starts, 1) == [1]  # both were there before the server goes

        server.kill()
        assert tail.stderr is not None
        assert "waiting: " in (said := tail.stderr.readline())
        assert "This command continues when that is over." in said
        asyncio.run(record(2))  # while nobody serves
        server.restart()
        assert positions(tail, 5) == [6, 7, 8, 9, 10]
        asyncio.run(record(3))
        assert positions(tail, 5) == [11, 12, 13, 14, 15]
        assert positions(starts, 2) == [6, 11]
        server.terminate()  # in order, and with nothing new since: that is an outage as well
        assert "waiting: " in tail.stderr.readline()
        server.restart()
        asyncio.run(record(4))
        assert positions(tail, 5) == [16, 17, 18, 19, 20]
        assert positions(starts, 1) == [16]
        server.terminate()
        assert "waiting: " in tail.stderr.readline()

        for process, code in ((tail, signal.SIGINT), (starts, signal.SIGTERM)):
            process.send_signal(code)
            out, err = process.communicate(timeout=60)
            assert (out, process.returncode) == ("", 130), err
            assert "Traceback" not in err


def test_ctrl_c_stops_the_run_on_the_server_or_leaves_it_where_that_is_away(
    tmp_path: Path, piped: Piped, forkery: Forkery
) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)
    with TracksideServer(tmp_path, "agents.py:sleep", "agents.py:echo", forkery=forkery) as server:
        stopped = piped("run", "sleep", "x", "--json", "--url", server.url)
        assert stopped.stdout is not None
        stopped.stdout.readline()  # it has started
        stopped.send_signal(signal.SIGINT)
        out, err = stopped.communicate(timeout=60)
        assert (err, stopped.returncode) == ("", 130)
        assert json.loads(out.splitlines()[-1])["result"]["status"] == "cancelled"

        left = piped("run", "sleep", "x", "--json", "--url", server.url)
        assert left.stdout is not None
        run_id = json.loads(left.stdout.readline())["run_id"]
        server.kill()
        assert left.stderr is not None
        assert left.stderr.readline().startswith("waiting: ")
        left.send_signal(signal.SIGINT)
        _, err = left.communicate(timeout=60)
        assert left.returncode == 130
        assert f"run {run_id} was left to the server: No server answers at {server.url}" in err
        assert "Traceback" not in err


def test_a_run_that_ends_while_its_server_stops_is_shown_to_its_end_when_that_is_back(
    tmp_path: Path, piped: Piped, forkery: Forkery
) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)
    with TracksideServer(tmp_path, "agents.py:told", forkery=forkery) as server:
        run = piped("run", "told", "x", "--json", "--url", server.url)
        started = next_start(run)
        server.signal(signal.SIGTERM)  # it lets the run end, and takes no more requests
        (tmp_path / "go").touch()
        assert server.wait() == 0
        assert run.stderr is not None
        assert run.stderr.readline().startswith("waiting: ")
        server.restart()
        out, err = run.communicate(timeout=60)

    assert (run.returncode, err) == (0, "")
    result = json.loads(out.splitlines()[-1])["result"]
    assert (result["run_id"], result["status"]) == (started, "success")


def test_a_run_that_ends_as_it_is_told_to_while_its_server_stops_has_been_cancelled(
    tmp_path: Path, piped: Piped, forkery: Forkery
) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)
    with TracksideServer(tmp_path, "agents.py:slow", forkery=forkery) as server:
        run_id = next_start(piped("run", "slow", "x", "--json", "--url", server.url))
        cancel = piped("cancel", run_id, "--wait", "--url", server.url)
        while not (tmp_path / "stopping").exists():
            time.sleep(0.02)
        server.signal(signal.SIGTERM)
        (tmp_path / "go").touch()
        assert server.wait() == 0
        server.restart()
        out, _ = cancel.communicate(timeout=60)
    assert (cancel.returncode, out) == (0, f"Run {run_id} has ended: cancelled.\n")


@pytest.mark.parametrize(("shown", "term"), [(["--json"], "xterm"), ([], "dumb")])
def test_a_terminal_that_shows_no_live_lines_is_told_that_the_server_is_away(
    tmp_path: Path, terminal: Terminals, forkery: Forkery, shown: list[str], term: str
) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)
    with TracksideServer(tmp_path, "agents.py:sleep", forkery=forkery) as server:
        run = terminal("run", "sleep", "x", *shown, "--url", server.url, TERM=term)
        run.wait_for("started")
        server.kill()
        run.wait_for("waiting: No server answers at ")
        server.restart()
        assert run.wait() == 1  # its server was lost


@pytest.mark.parametrize("way", ["killed", "begun anew"])
def test_a_run_that_goes_on_as_another_attempt_is_watched_to_the_end_of_that(
    tmp_path: Path, piped: Piped, forkery: Forkery, way: str
) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)
    settings = "[limits]\nmax_attempts = 2\n[runs]\nshutdown_grace = 0\n"
    with TracksideServer(tmp_path, "agents.py:patient", settings=settings, forkery=forkery) as server:
        at = ("--url", server.url)
        watched, read, stopped = (
            piped("run", "patient", *asked, *at) for asked in (["x"], ["x", "--json"], ["for ever", "--json"])
        )
        assert watched.stdout is not None
        assert any('{"attempt": 1}' in line for line in watched.stdout)
        firsts = [next_start(process) for process in (read, stopped)]

        if way == "killed":
            server.kill()
            server.restart()
        else:
            server.signal(signal.SIGHUP)
            server.wait_until_ready()

        second = next_start(stopped)
        stopped.send_signal(signal.SIGINT)
        (shown, _), (out, _), (last, _) = (process.communicate(timeout=60) for process in (watched, read, stopped))

    assert [process.returncode for process in (watched, read, stopped)] == [0, 0, 130]
    assert "goes on as run " in shown
    assert shown.index("goes on as run ") < shown.index('{"attempt": 2}') < shown.index('{"came with attempt": 2}')
    *events, end = map(json.loads, out.splitlines())
    (again,) = [event["payload"]["retried_as"] for event in events if "retried_as" in event["payload"]]
    assert again == end["result"]["run_id"] != firsts[0]
    assert (end["result"]["status"], end["result"]["output"]) == ("success", {"came with attempt": 2})
    result = json.loads(last.splitlines()[-1])["result"]
    assert (result["run_id"], result["status"]) == (second, "cancelled") != (firsts[1], "cancelled")


async def test_what_a_run_has_said_is_shown_once_however_often_its_stream_is_cut_off(
    tmp_path: Path, piped: Piped, forkery: Forkery
) -> None:
    (tmp_path / "agents.py").write_text(AGENTS)
    with TracksideServer(tmp_path, "agents.py:told", forkery=forkery) as server:
        async with relayed(server.url) as (url, connections):
            run = piped("run", "told", "x", "--url", url)
            assert run.stdout is not None
            shown = await asyncio.to_thread(lines_up_to, run.stdout, '{"part": 1}')
            for connection in connections:
                connection.transport.abort()
            (tmp_path / "go").touch()
            rest, _ = await asyncio.to_thread(run.communicate, timeout=60)
    assert [(shown + rest).count(f'{{"part": {number}}}') for number in (1, 2)] == [1, 1]


@asynccontextmanager
async def relayed(url: str) -> AsyncIterator[tuple[str, set[asyncio.StreamWriter]]]:
    """Another address for a server, and the connections that exist through it."""
    connections: set[asyncio.StreamWriter] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        both = {writer, ours}
        connections.update(both)
        with suppress(ConnectionError):
            await asyncio.gather(pass_on(reader, ours), pass_on(theirs, writer))
        connections.difference_update(both)
        for one in both:
            one.transport.abort()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as relaying:
        yield f"http://127.0.0.1:{relaying.sockets[0].getsockname()[1]}", connections


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65_536):
        writer.write(piece)
        await writer.drain()
    writer.close()


def lines_up_to(text: Iterable[str], part: str) -> str:
    """What comes up to a line that contains this part."""
    lines = []
    for line in text:
        lines.append(line)
        if part in line:
            break
    return "".join(lines)


def next_start(run: subprocess.Popen[str]) -> str:
    """The next attempt of a run that is watched as JSON, once it has started."""
    assert run.stdout is not None
    events = map(json.loads, run.stdout)
    return next(str(event["run_id"]) for event in events if event["event_type"] == "run_started")


def positions(tail: subprocess.Popen[str], count: int) -> list[int]:
    assert tail.stdout is not None
    return [json.loads(tail.stdout.readline())["position"] for _ in range(count)]
