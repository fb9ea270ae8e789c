"""Observers that are misconfigured, behave badly, or whose receivers do: said at the start or at the end, and no run
stops because of them.
"""

from __future__ import annotations

import inspect
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any, override

import pytest

from trackside.app.wiring.observer_types import BUILT_IN

Trackside = Callable[..., "subprocess.CompletedProcess[str]"]

UNAWAITED = (
    "'int' object can't be awaited" if sys.version_info >= (3, 14) else "object int can't be used in 'await' expression"
)
BAD = """
import asyncio
from trackside.app.delivery import DeliveryError

class Boom:
    async def on_event(self, event):
        raise RuntimeError("boom")

class Cancel:
    async def on_event(self, event):
        raise asyncio.CancelledError

class Exit:
    async def on_event(self, event):
        raise SystemExit(3)

class Interrupt:
    async def on_event(self, event):
        raise KeyboardInterrupt

class Nothing:
    def on_event(self, event):
        return 3

class Refusing:
    async def on_event(self, event):
        raise DeliveryError(receiver="it", what="that", why="too large", retryable=False)

class Hanging:
    async def on_event(self, event):
        await asyncio.Event().wait()

class Deaf:
    async def on_event(self, event):
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

class Closing:
    async def on_event(self, event): ...
    async def aclose(self):
        raise SystemExit("not closed")

class Watching(Closing):
    def watch(self, vitals):
        raise SystemExit(5)

class Making(Closing):
    def __init__(self):
        raise SystemExit(7)
"""

SECRETS = {
    "HOOK": "whsec_QSBzZWNyZXQgb2YgMzIgYnl0ZXMgZm9yIHRoZSBkb2Nz",
    "HEADER": "header-hunter2",
    "MAIL": "mail-hunter2",
    "CHAT": "chat-hunter2",
    "NATS": "nats-hunter2",
    "REDIS": "redis-hunter2",
    "LINEAGE": "lineage-hunter2",
    "TRACES": "traces-hunter2",
}

# What each of them needs besides the option under test.
NEEDED: dict[str, list[dict[str, str]]] = {
    "metrics": [{}],
    "tracing": [{"endpoint": '"http://127.0.0.1:9"'}],
    "logging": [{"format": '"json"'}],
    "webhook": [{"url": '"https://example.org/x"', "secret": f'"{SECRETS["HOOK"]}"'}],
    "notify": [{"to": '"json://127.0.0.1:9/"'}],
    "broker": [{"url": '"nats://127.0.0.1:9"'}, {"url": '"redis://127.0.0.1:9"'}],
    "openlineage": [{"url": '"http://127.0.0.1:9"'}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agents.py").write_text('async def echo(input, run):\n    return "done"\n', encoding="utf-8")
    (tmp_path / "bad.py").write_text(BAD, encoding="utf-8")
    return tmp_path


def configure(folder: Path, *tables: str) -> None:
    text = "".join(f"[[observers]]\n{table}\n" for table in tables)
    (folder / "trackside.toml").write_text(text, encoding="utf-8")


def run(trackside: Trackside, **env: str) -> subprocess.CompletedProcess[str]:
    return trackside("run", "agents.py:echo", "hi", **env)


def bad(name: str, delivery: str = "live") -> str:
    return f'type = "bad.py:{name}"\nname = "bad"\ndelivery = "{delivery}"'


def _options_of(kind: str) -> list[str]:
    module, _, name = BUILT_IN[kind].place.partition(":")
    return list(inspect.signature(getattr(import_module(module), name)).parameters)


@pytest.mark.parametrize("kind", [*BUILT_IN])
def test_a_value_of_another_type_is_one_line_that_names_the_key(here: Trackside, folder: Path, kind: str) -> None:
    for needed in NEEDED[kind]:
        for option in _options_of(kind):
            for value in ("{ a = 1 }", "1979-05-27", "-1"):
                table = {"type": f'"{kind}"', **needed, option: value}
                configure(folder, "\n".join(f"{key} = {one}" for key, one in table.items()))
                done = run(here)

                said = f"{kind} {option} = {value}: {done.stderr}"
                assert (done.returncode, done.stdout) == (2, ""), said
                (line,) = done.stderr.splitlines()
                assert line.startswith(f"error: trackside.toml, observers[1] ({kind})."), said
                assert option in line, said
    assert not (folder / "trackside.db").exists(), "nothing was run"


def test_of_a_long_value_the_beginning_and_the_end_of_what_is_wrong_are_said(here: Trackside, folder: Path) -> None:
    configure(folder, f'type = "logging"\nlevel = "{"x" * 100_000}"')
    said = run(here).stderr
    assert len(said) < 1_200
    assert said.endswith('is not one of "debug", "info", "warning", "error". [settings]\n')


def test_a_port_that_is_taken_is_an_error_of_its_key(here: Trackside, folder: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        configure(folder, f'type = "metrics"\nport = {port}')
        done = run(here)

    assert done.returncode == 2
    whose = "by another program, or by an observer of this one that was not closed"
    why = f"127.0.0.1:{port} is taken {whose}; close it, or choose another port"
    assert done.stderr == f"error: trackside.toml, observers[1] (metrics).port: {why}. [settings]\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Watching", "observers[1] (bad): its method watch raised SystemExit: 5."),
        ("Making", "observers[1] (bad): bad.py:Making raised SystemExit: 7."),
    ],
)
def test_an_observer_that_exits_while_it_is_made_is_an_error_of_the_settings(
    here: Trackside, folder: Path, name: str, said: str
) -> None:
    configure(folder, bad(name))
    done = run(here)
    assert (done.returncode, done.stderr) == (2, f"error: trackside.toml, {said} [settings]\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Boom", "boom (and 4 more times)"),
        ("Cancel", "although nobody had cancelled it (and 4 more times)"),
        ("Exit", "SystemExit: 3 (and 4 more times)"),
        ("Nothing", f"{UNAWAITED} (and 4 more times)"),
        ("Closing", "observer bad could not be closed: SystemExit: not closed"),
    ],
)
def test_what_a_live_observer_raises_stops_nothing_and_is_said_in_the_end(
    here: Trackside, folder: Path, name: str, said: str
) -> None:
    configure(folder, bad(name))
    done = run(here)
    assert done.returncode == 0
    assert "✓ completed" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.endswith(said)


@pytest.mark.parametrize("delivery", ["live", "durable"])
def test_a_keyboard_interrupt_of_an_observer_is_no_ctrl_c(trackside: Trackside, folder: Path, delivery: str) -> None:
    configure(folder, bad("Interrupt", delivery))
    done = run(trackside)
    assert done.returncode == 0
    assert "✓ completed" in done.stdout
    assert "bad" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_observer_that_swallows_cancels_keeps_no_command_from_ending(trackside: Trackside, folder: Path) -> None:
    configure(folder, bad("Deaf", "durable"))
    done = run(trackside)
    assert done.returncode == 0
    assert "✓ completed" in done.stdout
    why = "not everything is delivered yet to bad (what it was given is not done yet)"
    assert done.stderr == f"{why}: `trackside deliver` continues, as does the next `trackside run`\n"


def test_ctrl_c_while_a_live_observer_hangs_does_not_hide_how_the_run_ended(
    terminal: Callable[..., Any], folder: Path
) -> None:
    configure(folder, bad("Hanging"))
    settings = folder / "trackside.toml"
    settings.write_text(f"[runs]\nshutdown_grace = 5\n{settings.read_text(encoding='utf-8')}", encoding="utf-8")
    screen = terminal("run", "agents.py:echo", "hi")
    screen.wait_for("observers have 5 s")
    screen.press(b"\x03")

    assert screen.wait() == 0
    assert "✓ completed" in screen.text
    assert "observer bad misses 4 events" in screen.text


def test_what_a_run_parks_is_said_with_where_to_look(here: Trackside, folder: Path) -> None:
    configure(folder, bad("Refusing", "durable"))
    done = run(here)
    assert done.returncode == 0
    assert done.stderr == "bad did not take 5 events, parked now; see `trackside parked bad`\n"


def test_spans_that_no_collector_takes_are_said(here: Trackside, folder: Path) -> None:
    configure(folder, 'type = "tracing"\nendpoint = "http://127.0.0.1:9"')
    done = run(here)
    assert done.returncode == 0
    assert "http://127.0.0.1:9/v1/traces" in done.stderr


class Flooding(ThreadingHTTPServer):
    """A receiver that accepts everything, and answers with 10 GB to whoever listens."""

    daemon_threads = True

    def __init__(self) -> None:
        self.sent = sent = list[int]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(200)
                self.send_header("Content-Length", str(10 * 2**30))
                self.end_headers()
                with suppress(OSError):
                    for _ in range(10 * 2**14):
                        self.wfile.write(b"x" * 2**16)
                        sent.append(2**16)

            @override
            def log_message(self, format: str, *args: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)

    @override
    def handle_error(self, request: object, client_address: object) -> None: ...


def test_of_an_answer_of_10_gb_little_is_read_and_the_event_is_delivered(here: Trackside, folder: Path) -> None:
    with Flooding() as server:
        threading.Thread(target=server.serve_forever, args=[0.01], name="flooding", daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        configure(
            folder,
            f'type = "webhook"\nurl = "{url}"\nsecret = "{SECRETS["HOOK"]}"\nallow_private_addresses = true',
            f'type = "openlineage"\nurl = "{url}"',
            f'type = "tracing"\nendpoint = "{url}"',
        )
        done = run(here)
        server.shutdown()

    assert (done.returncode, done.stderr) == (0, "")
    assert sum(server.sent) < 100 * 2**20, "no more than what fits into the buffers of some connections"


class Echoing(ThreadingHTTPServer):
    """A receiver that refuses everything, and repeats in its answer everything that it was sent."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answer = f"not with {self.path} {self.headers}".encode() + body
                self.send_response(401, " ".join(f"not with {self.headers}".split()))
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            @override
            def log_message(self, format: str, *args: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)


class Babbling(ThreadingHTTPServer):
    """A receiver that repeats in one line what is sent to it, and hangs up."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            @override
            def handle(self) -> None:
                said = self.connection.recv(65_536)
                self.connection.sendall(b"-ERR what is " + b" ".join(said.split()) + b"\r\n\r\n")

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def ports() -> Iterator[dict[str, int]]:
    """Receivers that fail: one that is not there, one that refuses, one that speaks another language."""
    with ExitStack() as stack:
        found = {"nobody": 9}
        for name, kind in (("refusing", Echoing), ("babbling", Babbling)):
            server = stack.enter_context(kind())
            threading.Thread(target=server.serve_forever, args=[0.01], name=name, daemon=True).start()
            stack.callback(server.shutdown)
            found[name] = server.server_address[1]
        yield found


# Who listens for a receiver to speak first does so for 10 s, and these never do.
FAILING_AT_ONCE = {"webhook", "redis", "openlineage", "chat"}
LISTENING = {"nats", "mail"}


@pytest.mark.parametrize(
    ("failure", "failing"),
    [("nobody", FAILING_AT_ONCE | LISTENING), ("refusing", FAILING_AT_ONCE), ("babbling", FAILING_AT_ONCE)],
    ids=["nobody", "refusing", "babbling"],
)
def test_secrets_of_observers_are_in_no_output_however_their_receivers_fail(
    here: Trackside,
    folder: Path,
    ports: dict[str, int],
    failure: str,
    failing: set[str],
    left_for_later_when: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    left_for_later_when(lambda found: failing <= {one.name for one in found.values() if one.last_error})
    monkeypatch.setattr("trackside.app.cli.actions.running.DELIVERY_SECONDS", 1.0)
    host = f"127.0.0.1:{ports[failure]}"
    hook = 'secret = "env:HOOK"\nheaders = { Authorization = "env:HEADER" }\nallow_private_addresses = true'
    ends = 'events = ["run_completed"]\non = [{ events = ["run_completed"] }]'
    configure(
        folder,
        f'type = "webhook"\nurl = "http://{host}/"\n{hook}',
        f'type = "broker"\nname = "nats"\nurl = "nats://{host}"\ntoken = "env:NATS"',
        f'type = "broker"\nname = "redis"\nurl = "redis://{host}"\nusername = "me"\npassword = "env:REDIS"',
        f'type = "openlineage"\nurl = "http://{host}"\napi_key = "env:LINEAGE"',
        f'type = "tracing"\nendpoint = "http://{host}"\nheaders = {{ x-key = "env:TRACES" }}',
        f'type = "notify"\nname = "mail"\nto = "env:MAIL_URL"\n{ends}',
        f'type = "notify"\nname = "chat"\nto = "env:CHAT_URL"\n{ends}',
    )
    addresses = {
        "MAIL_URL": f"mailto://me:{SECRETS['MAIL']}@{host}/?from=a@example.org&to=b@example.org&mode=insecure",
        "CHAT_URL": f"json://me:{SECRETS['CHAT']}@{host}/{SECRETS['CHAT']}",
    }
    env = {**SECRETS, **addresses, "TRACKSIDE_DEBUG": "1"}
    commands = [
        ["run", "agents.py:echo", "hi"],
        ["observers"],
        ["observers", "--json"],
        ["subscriptions"],
        ["subscriptions", "--json"],
        *(["parked", name, "--json"] for name in ("webhook", "nats", "redis", "openlineage", "mail", "chat")),
    ]
    if failure == "refusing":  # it loads each of them in a process of its own
        commands.append(["doctor"])
    done = [here(*command, **env) for command in commands]
    assert "✓ completed" in done[0].stdout
    subscriptions = [json.loads(line) for line in done[4].stdout.splitlines()]
    assert {one["name"] for one in subscriptions} == FAILING_AT_ONCE | LISTENING
    assert {one["name"] for one in subscriptions if one["last_error"]} >= failing

    said = "".join(one.stdout + one.stderr for one in done) + caplog.text
    kept = b"".join(path.read_bytes() for path in folder.glob("trackside.db*")).decode("latin-1")
    assert host in said
    for secret in SECRETS.values():
        assert secret not in said, f"{secret} was said"
        assert secret not in kept, f"{secret} is in the database"
