"""What `trackside serve` refuses to start with: one line that says what to do, and exit code 2."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trackside_server import PATIENCE, TracksideServer

type Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def agents(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text("async def echo(input):\n    return input\n", encoding="utf-8")
    (tmp_path / "broken.py").write_text("raise RuntimeError('boom')\n", encoding="utf-8")
    (tmp_path / "web.py").write_text(
        "from starlette.applications import Starlette\n"
        "from starlette.middleware import Middleware\n"
        "from starlette.middleware.cors import CORSMiddleware\n"
        "app = Starlette(middleware=[Middleware(CORSMiddleware, allow_origin=[])])\n",
        encoding="utf-8",
    )


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one.getsockname()[1]


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "there is no agent to serve: name one after the command, as path/file.py:name,"),
        (("agents.py:nope",), "agents.py has no nope; it has echo"),
        (("agents.py",), "it has echo"),
        (("chat",), "chat is no agent"),
        (("broken.py:echo",), "importing broken.py raised RuntimeError: boom"),
        (("agents.py:echo", "./agents.py:echo"), "would both be called 'echo'"),
        (("agents.py:echo", "--port", "99999"), "--port: '99999' is not a port from 1 to 65535"),
        (("agents.py:echo", "--port", "http"), "--port: 'http' is not a port"),
        (("agents.py:echo", "--port", "-1"), "--port: '-1' is not a port"),
        (("agents.py:echo", "--host", "203.0.113.9"), "203.0.113.9"),
        (("agents.py:echo", "--database", "sqlite:///missing/runs.db"), "There is no folder missing"),
        (("agents.py:echo", "--database", "mysql://here/runs"), "mysql"),
    ],
)
def test_what_cannot_be_served_is_one_line(here: Command, arguments: tuple[str, ...], says: str) -> None:
    options = () if "--port" in arguments else ("--port", "0")

    error = refused(here("serve", *arguments, *options))

    assert says in error.splitlines()[-1]
    assert error.splitlines()[-1].startswith("error: ")
    assert refused(here("serve", "--check", *arguments)) == error


def test_a_port_that_is_taken_is_said_with_what_to_do(here: Command, taken_port: int) -> None:
    error = refused(here("serve", "agents.py:echo", "--port", str(taken_port)))

    assert f"port {taken_port} is taken; choose another with --port, or any that is free with --port 0" in error


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_database_that_cannot_be_written_is_refused(here: Command, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)

    error = refused(here("serve", "agents.py:echo", "--port", "0", "--database", "sqlite:///closed/runs.db"))

    assert "closed/runs.db" in error


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('[server]\nport = "http"', "server.port: 'http' is not a port"),
        ("[server]\nmax_body = -1", "server.max_body: -1 is not a number of bytes"),
        ("[server]\nlog = 3", "server.log: 3 is neither true nor false"),
        ("[server]\nheartbeat = 0", "server.heartbeat: it has to be longer than zero"),
        (
            '[server]\nheartbeat = "2m"',
            "server.heartbeat: clients take a server that is silent for a minute for gone; 30s is the most",
        ),
        ("[server]\nprot = 3", "unknown key server.prot; did you mean server.port?"),
    ],
)
def test_settings_of_the_server_that_do_not_fit_name_their_key(
    here: Command, tmp_path: Path, toml: str, says: str
) -> None:
    (tmp_path / "trackside.toml").write_text(toml, encoding="utf-8")

    assert says in refused(here("serve", "agents.py:echo", "--port", "0"))


def test_a_check_has_no_json_to_write(here: Command) -> None:
    for command, waits in (("serve", "it answers"), ("worker", "it takes runs")):
        error = refused(here(command, "--check", "--json", "agents.py:echo"))

        assert error == f"error: --json: it is for who waits until {waits}; with --check nothing is started.\n"


def test_a_check_says_what_would_be_wrong_and_serves_nothing(here: Command, tmp_path: Path, taken_port: int) -> None:
    fine = here("serve", "--check", "agents.py:echo", "--port", str(taken_port))
    broken = here("serve", "--check", "broken.py:echo")

    where = f"http://127.0.0.1:{taken_port} on sqlite:///trackside.db"
    assert (fine.returncode, fine.stdout, fine.stderr) == (0, "", f"All is well: would serve echo at {where}\n")
    assert "raised RuntimeError: boom" in refused(broken)
    assert not (tmp_path / "trackside.db").exists()


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('[[observers]]\ntype = "nothing"', "nothing"),
        ('[[observers]]\ntype = "logging"\nlevl = 3', "levl"),
        ('[[observers]]\ntype = "webhook"\nurl = "https://example.org"\nsecret = "env:NOPE"', "no variable NOPE"),
        ('[server]\nauth = "agents.py:nobody"', "agents.py has no nobody"),
        ('[server]\nauth = "jwt"', "set either jwt_key or jwt_jwks"),
        ('[server]\nauth = "jwt"\njwt_key = "short"', "server.jwt_key"),
        ('[server]\nauth = "jwt"\njwt_key = "env:NOPE"', "no variable NOPE"),
        ('[server]\njwt_key = "env:NOPE"', "it has no effect without"),
        ('[server]\napp = "agents.py:nobody"', "agents.py has no nobody"),
        ('[server]\napp = "web.py:app"', "its middleware cannot be made: TypeError: CORSMiddleware.__init__() got"),
        ('[server]\nwebhook_secret = "abc"', "server.webhook_secret: its Base64 stands for 2 bytes"),
        ('[server]\nwebhook_secret = "no Base64"', "server.webhook_secret: it is not Base64"),
        ('[server]\nwebhook_secret = "env:NOPE"', "server.webhook_secret: the environment has no variable NOPE"),
        ('[runs]\nredact = "agents.py:nobody"', "agents.py has no nobody"),
        ('[database]\nurl = "sqlite:///junk.db"', "junk.db"),
        ('[database]\nurl = "sqlite:///folder"', "folder"),
        ('[database]\nurl = "postgresql://nobody@127.0.0.1:9/runs"', "127.0.0.1"),
    ],
)
def test_a_check_refuses_what_a_start_refuses_in_the_same_words(
    here: Command, tmp_path: Path, toml: str, says: str
) -> None:
    (tmp_path / "trackside.toml").write_text(toml, encoding="utf-8")
    (tmp_path / "junk.db").write_text("this is no database, and never was one\n" * 40, encoding="utf-8")
    (tmp_path / "folder").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())

    checked = refused(here("serve", "--check", "agents.py:echo"))
    after = sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__")

    assert says in checked.splitlines()[-1]
    assert checked == refused(here("serve", "agents.py:echo", "--port", "0"))
    assert after == before


def test_a_check_leaves_a_database_as_it_is(here: Command, tmp_path: Path) -> None:
    here("run", "agents.py:echo", "1")
    database = tmp_path / "trackside.db"
    before = database.read_bytes()

    assert here("serve", "--check", "agents.py:echo").returncode == 0
    assert database.read_bytes() == before
    assert [path.name for path in tmp_path.glob("trackside.db*")] == ["trackside.db"]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ('{"graph": {"a": "./agents.py:a"}}', "langgraph.json has no graphs; unknown key graph, did you mean graphs"),
        ("{}", "langgraph.json has no graphs"),
        (
            '{"graphs": {"gen": "./ag.ts:gen"}}',
            "only Python graphs are served, and langgraph.json has gen of another kind",
        ),
    ],
)
def test_a_project_without_graphs_to_serve_is_told_why(here: Command, tmp_path: Path, document: str, says: str) -> None:
    (tmp_path / "langgraph.json").write_text(document, encoding="utf-8")

    assert refused(here("serve", "--port", "0")) == f"error: there is no agent to serve: {says}. [no-agents]\n"


def test_a_check_says_what_of_a_project_has_no_effect(here: Command, tmp_path: Path) -> None:
    (tmp_path / "langgraph.json").write_text('{"grahs": {}, "dependencies": ["no-such-thing"]}', encoding="utf-8")

    done = here("serve", "--check", "agents.py:echo")

    assert done.returncode == 0
    assert "warning: langgraph.json, grahs has no effect: it is not known here; did you mean graphs?\n" in done.stderr
    assert "warning: langgraph.json, dependencies: no-such-thing is not installed" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("All is well: ")


def test_a_start_warns_of_a_spool_that_could_keep_nothing(here: Command, tmp_path: Path) -> None:
    """Otherwise it would be noticed only when the database is away, and ends of runs are lost."""
    in_the_way = tmp_path / "trackside.db-spool"
    in_the_way.write_text("no folder", encoding="utf-8")
    says = (
        f"ends of runs that the database does not take could not be kept: {in_the_way} is no folder that can be written;"
        " set database.spool to another"
    )

    checked = here("serve", "--check", "agents.py:echo")
    with TracksideServer(tmp_path, "agents.py:echo", database="sqlite:///trackside.db") as server:
        server.wait_until_said("could not be kept")  # beside what it says of itself, and maybe after that
        told = [json.loads(line) for line in server.log.splitlines()]

    assert (checked.returncode, checked.stderr.splitlines()[0]) == (0, f"warning: {says}")
    assert [line["level"] for line in told if line["event"] == says] == ["warning"]


def test_two_servers_share_an_sqlite_file(tmp_path: Path) -> None:
    """Each serves what both record."""
    import httpx

    other = tmp_path / "other"
    other.mkdir()
    (other / "agents.py").write_text("async def echo(input):\n    return input\n", encoding="utf-8")
    database = f"sqlite:///{tmp_path}/both.db"
    with (
        TracksideServer(tmp_path, "agents.py:echo", database=database) as one,
        TracksideServer(other, "agents.py:echo", database=database) as two,
    ):
        asked = {"assistant_id": "echo", "input": 1, "on_completion": "keep"}
        answer = httpx.post(f"{one.url}/runs", json=asked, timeout=PATIENCE)
        found = httpx.get(f"{two.url}/runs/{answer.json()['run_id']}", timeout=PATIENCE)
        ready = httpx.get(f"{two.url}/health/ready", timeout=PATIENCE)

    assert found.json()["agent"] == "echo"
    assert ready.json()["status"] == "ready"
