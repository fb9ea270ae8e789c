"""What `trackside worker` and `trackside workers` refuse: one line that says what to do, and exit code 2."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

type Command = Callable[..., subprocess.CompletedProcess[str]]

NOWHERE = "postgresql://trackside:sesame@127.0.0.1:1/trackside"
FLEET = ("--engine", "postgres", "--database", NOWHERE)


@pytest.fixture(autouse=True)
def agents(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text("async def echo(input):\n    return input\n", encoding="utf-8")
    (tmp_path / "broken.py").write_text("raise RuntimeError('boom')\n", encoding="utf-8")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one.getsockname()[1]


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "sesame" not in done.stderr
    return last


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("agents.py:echo",), 'with the engine "inline" a server does that itself: say what moves runs between them'),
        (("agents.py:echo", "--engine", "inline"), "as `--engine postgres` or `--engine nats://host:4222`"),
        (("agents.py:echo", "--engine", "rabbit://a"), "--engine: 'rabbit://a' is not an engine"),
        (("agents.py:echo", "--engine", "postgres"), "--engine: a fleet needs PostgreSQL, and the database is sqlite"),
        (
            ("agents.py:echo", "--engine", "postgres", "--database", "sqlite:///a.db"),
            "--engine: a fleet needs PostgreSQL, and the database is sqlite:///a.db",
        ),
        (FLEET, "there is no agent to serve"),
        (("nobody", *FLEET), "nobody is no agent"),
        (("broken.py:echo", *FLEET), "importing broken.py raised RuntimeError: boom"),
        (("agents.py:echo", *FLEET), "127.0.0.1:1"),
        (("agents.py:echo", *FLEET, "--pool", "Big Ones"), "--pool: 'Big Ones' is not the name of a pool"),
        (("agents.py:echo", *FLEET, "--pool", "a", "--pool", ""), "--pool: '' is not the name of a pool"),
        (("agents.py:echo", *FLEET, "--concurrency", "0"), "--concurrency: '0' is not a whole number from 1 up"),
        (("agents.py:echo", *FLEET, "--port", "http"), "--port: 'http' is not a port"),
        (("agents.py:echo", *FLEET, "--isolation", "vm"), "--isolation: 'vm' is not a kind of isolation"),
        (("agents.py:echo", *FLEET, "--memory-limit", "1GB"), "--memory-limit: runs that share the worker's process"),
        (("agents.py:echo", *FLEET, "--drain", "soon"), "--drain: 'soon' is not a length of time"),
        (("agents.py:echo", *FLEET, "--url", "http://a"), "--url: it starts a worker, which takes its runs from a"),
    ],
)
def test_what_cannot_work_is_one_line(here: Command, arguments: tuple[str, ...], says: str) -> None:
    error = refused(here("worker", *arguments))

    assert says in error
    assert refused(here("worker", "--check", *arguments)) == error


@pytest.mark.parametrize("command", ["serve", "worker"])
@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ('url = "nats://127.0.0.1:9"\nca = "file.pem"', "engine.ca: it is for tls:// alone"),
        ('url = "tls://127.0.0.1:9"\nca = "file.pem"', "engine.ca: "),
        (
            'url = "nats://127.0.0.1:9"\ncertificate = "file.pem"\nkey = "file.pem"',
            "engine.certificate: it is for tls://",
        ),
        ('url = "tls://127.0.0.1:9"\ncertificate = "file.pem"\nkey = "file.pem"', "engine.certificate: "),
        ('url = "nats://127.0.0.1:9"\ncredentials = "file.pem"', "engine.credentials: "),
        (
            'url = "nats://a@127.0.0.1:9"\ncredentials = "file.pem"',
            "engine.credentials: there are credentials in the URL",
        ),
        ('url = "nats://a:9,tls://b:9"', "engine.url: its servers have different schemes"),
        ('url = "nats://one@a:9,nats://two@b:9"', "engine.url: its servers have different credentials"),
    ],
)
def test_a_check_refuses_an_engine_that_a_start_refuses(
    here: Command, tmp_path: Path, postgres_with_tables: str, command: str, engine: str, says: str
) -> None:
    (tmp_path / "file.pem").write_text("no certificate, and no seed\n", encoding="utf-8")
    (tmp_path / "trackside.toml").write_text(f"[engine]\n{engine}\n", encoding="utf-8")
    typed = (command, "agents.py:echo", "--database", postgres_with_tables)

    error = refused(here(*typed, "--port", "0"))

    assert error.startswith(f"error: trackside.toml, {says}")
    assert refused(here(*typed, "--check")) == error


def test_a_health_port_that_is_taken_is_said_with_what_to_do(here: Command, taken_port: int) -> None:
    error = refused(here("worker", "agents.py:echo", *FLEET, "--port", str(taken_port)))

    assert f"port {taken_port} is taken; choose another with --port, or any that is free with --port 0" in error


def test_a_server_refuses_an_engine_that_cannot_be(here: Command) -> None:
    error = refused(here("serve", "agents.py:echo", "--port", "0", "--engine", "postgres"))

    assert "--engine: a fleet needs PostgreSQL" in error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("drain",), "ID: say which worker to drain"),
        (("drain", "a", "--queue"), "--queue: it only shows; leave it out to drain workers"),
        (("list", "a"), "ID: all of them are listed; to drain one, write `trackside workers drain ID`"),
        (("--wait",), "--wait: there is nothing to wait for"),
        (("--yes",), "--yes: there is nothing to confirm"),
        (("shoot", "a"), "shoot"),
        (("drain", "nobody:1", "--yes"), "No live worker here has the name or id 'nobody:1'"),
    ],
)
def test_what_nobody_can_mean_of_workers_is_one_line(here: Command, arguments: tuple[str, ...], says: str) -> None:
    assert here("run", "agents.py:echo", "x").returncode == 0

    assert says in refused(here("workers", *arguments))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("render", "chat"), ["render"]),
        (("chat",), []),
        ((), []),
        (("--pool", "cpu"), ["chat", "render"]),
        (("render", "--pool", "gpu"), []),
    ],
)
def test_who_names_agents_of_other_pools_is_told_that_their_runs_are_not_taken(
    here: Command, tmp_path: Path, arguments: tuple[str, ...], said: list[str]
) -> None:
    text = '[agents]\nchat = "agents.py:echo"\nrender = "agents.py:echo"\n[pools]\nrender = "gpu"\n'
    (tmp_path / "trackside.toml").write_text(text, encoding="utf-8")

    done = here("worker", "--check", *arguments, *FLEET)

    pools = {"chat": "default", "render": "gpu"}
    told = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert told == [
        f"warning: runs of {agent} are in the pool {pools[agent]}, which this worker does not take: "
        f"give it `--pool {pools[agent]}`"
        for agent in said
    ]
