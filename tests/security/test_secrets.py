"""Nothing that a process says, to anybody or anywhere, contains secrets of the settings, or the credentials that
clients send.

Each secret is a canary; the tests search all output for all of them. What observers say of their receivers is tested in
`tests/acceptance/test_cli_observers_bad.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest
import typer
from postgres_server import RunningServer
from trackside_server import TracksideServer

from trackside.app import dashboard
from trackside.app.cli.commands.parser import app
from trackside.app.server.routes import GROUPS
from trackside.app.server.routing import EVENT_STREAM, all_endpoints
from trackside.app.settings import load_settings
from trackside.app.settings.errors import SettingsError
from trackside.app.storage import Store
from trackside.app.storage.errors import StorageError
from trackside.app.wiring.system import system_sources

CANARIES = {
    "database": "canary-database-3f9a1c",
    "tokens": "canary-tokens-7be20d-of-32-bytes-at-least",
    "webhook": "whsec_Y2FuYXJ5LXdlYmhvb2stNTE4OGFjLW9mLTMyLWJ5dGVz",
    "header": "canary-header-90cd4e",
    "nats": "canary-nats-c01a88",
    "claim": "canary-claim-14b7f3",
    "key": "ts_00000000ca4a_" + "ca" * 32,
    "cookie": "canary-cookie-66d9e2",
    "query": "canary-query-28e5b0",
}
AGENTS = """
async def echo(input):
    return input

async def fails(input):
    raise ValueError("no such card")
"""
SETTINGS = """
[server]
auth = "jwt"
jwt_key = "env:KEY_OF_TOKENS"
jwt_permission = "scope"
webhook_secret = "{webhook}"

[agents]
echo = "agents.py:echo"
fails = "agents.py:fails"

[[observers]]
type = "webhook"
url = "http://127.0.0.1:9/"
secret = "{webhook}"
headers = {{ x-key = "{header}" }}
allow_private_addresses = true

[[observers]]
type = "metrics"
"""


def leaked(text: str) -> list[str]:
    """Which canaries are in a text, either as they are or quoted for an address."""
    return [name for name, canary in CANARIES.items() if canary in text or quote(canary, safe="") in text]


@pytest.fixture
def database(postgres_server: RunningServer, postgres_names: Iterator[str]) -> Iterator[tuple[str, str]]:
    """The address of a database whose user has a password, and the database's name."""
    name = next(postgres_names)
    postgres_server.create_database(name)
    postgres_server.execute(f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD '{CANARIES['database']}'")
    yield postgres_server.url(name, user=name, password=CANARIES["database"]), name
    postgres_server.drop_database(name)
    postgres_server.execute(f"DROP ROLE {name}")


def said_by(pid: int) -> str:
    """A process's command line and title, which every user of the machine may see."""
    folder = Path(f"/proc/{pid}")
    return "".join((folder / name).read_text("utf-8", "replace") for name in ("cmdline", "comm", "stat"))


def walk(http: httpx.Client, headers: dict[str, str]) -> str:
    """All answers to a client that looks at everything: headers and bodies."""
    said = ""
    for endpoint in (*all_endpoints(GROUPS), *all_endpoints(dashboard.GROUPS)):
        if endpoint.method == "GET" and endpoint.media_type != EVENT_STREAM and "/static/" not in endpoint.path:
            path = endpoint.path.replace("{assistant_id}", "echo")
            answer = http.get(path, headers=headers)
            said += f"{answer.headers} {answer.text}"
    return said


def test_no_secret_is_in_anything_that_a_server_says(
    tmp_path: Path, postgres_server: RunningServer, database: tuple[str, str]
) -> None:
    url, name = database
    (tmp_path / "agents.py").write_text(AGENTS, "utf-8")
    env = {"KEY_OF_TOKENS": CANARIES["tokens"], "TRACKSIDE_DEBUG": "1", "TRACKSIDE_DATABASE_URL": url}
    server = TracksideServer(tmp_path, settings=SETTINGS.format(**CANARIES), env=env, name="serve")
    server._arguments = ["serve", "--json"]  # the database is in the environment, as secrets should be
    claims = {"sub": "ada", "exp": int(time.time()) + 600, "scope": "admin", "note": CANARIES["claim"]}
    token = jwt.encode(claims, CANARIES["tokens"])
    with server, httpx.Client(base_url=server.url) as http:
        good = {"authorization": f"Bearer {token}"}
        said = f"{server.ready} {said_by(server.pid)}"
        for agent in ("echo", "fails", "nobody"):
            said += http.post("/runs/wait", json={"assistant_id": agent, "input": {"a": 1}}, headers=good).text
        for bad in (
            {"x-api-key": CANARIES["key"]},
            {"authorization": f"Bearer {CANARIES['key']}"},
            {"authorization": f"Bearer {token}x{CANARIES['claim']}"},
            {"cookie": f"trackside_session={CANARIES['cookie']}"},
            {"x-csrf-token": CANARIES["cookie"], "cookie": f"trackside_session={CANARIES['cookie']}"},
        ):
            for path in ("/runs", "/ui/runs", f"/runs?token={CANARIES['query']}", "/threads/x"):
                answer = http.get(path, headers=bad)
                # A redirect to the sign-in page leads back to the address that the user typed, with all that is in it.
                said += answer.text + str(answer.headers).replace(CANARIES["query"], "")
            said += http.post("/runs/wait", json={}, headers=bad).text
        said += walk(http, good)
        postgres_server.execute("ALTER TABLE threads RENAME TO elsewhere", database=name)
        said += walk(http, good)
        postgres_server.drop_database(name)
        said += walk(http, good)
        assert "database" in said
        server.terminate()
    assert server.log.count("\n") > 100
    assert leaked(said) == []
    assert leaked(server.log) == []
    assert token.rpartition(".")[2] not in said + server.log


ADDRESSES = (
    "postgresql://me:{database}@127.0.0.1:9/db",
    "postgresql://me:{database}@127.0.0.1:9/db?sslmode=disable",
    "postgresql://127.0.0.1:9/db?user=me&password={database}",
    "postgres://me:{database}%40%2F@127.0.0.1:9/db",
)
ENGINES = (
    "nats://me:{nats}@127.0.0.1:9",
    "nats://{nats}@127.0.0.1:9",
    "nats://me:{nats}@127.0.0.1:9,nats://me:{nats}@127.0.0.1:10",
)


@pytest.mark.parametrize("database", ADDRESSES)
@pytest.mark.parametrize("engine", ENGINES)
def test_no_secret_is_in_what_settings_say_of_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str, engine: str
) -> None:
    """Even if somebody logs them, shows them on a page, or has them in a traceback with its variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKSIDE_DATABASE_URL", database.format(**CANARIES))
    monkeypatch.setenv("TRACKSIDE_ENGINE_URL", engine.format(**CANARIES))
    monkeypatch.setenv("TRACKSIDE_SERVER_JWT_KEY", CANARIES["tokens"])
    monkeypatch.setenv("TRACKSIDE_SERVER_WEBHOOK_SECRET", CANARIES["webhook"])
    (tmp_path / "trackside.toml").write_text(SETTINGS.format(**CANARIES), "utf-8")
    settings = load_settings()
    assert settings.server.webhook_secret == CANARIES["webhook"]
    said = f"{settings!r} {settings} {system_sources(settings)} {settings.database_complaint('it is away')}"
    assert leaked(said) == []


@pytest.mark.parametrize(
    "table",
    [
        '[server]\nwebhook_secret = ["{webhook}"]\n',
        '[server]\njwt_key = {{ a = "{tokens}" }}\n',
        '[engine]\nurl = "nats://me:{nats}@:x"\n',
        '[engine]\nurl = "http://me:{nats}@127.0.0.1"\n',
        '[database]\nurl = "postgres//me:{database}@host/db"\n',
        '[database]\nurl = "postgres:me:{database}@host/db"\n',
    ],
)
def test_no_secret_is_in_what_is_wrong_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TRACKSIDE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "trackside.toml").write_text(table.format(**CANARIES), "utf-8")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert leaked(f"{refused.value} {refused.value!r} {refused.value.details}") == []


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:{database}@host:port/db",
        "postgresql://me:{database}@127.0.0.1:9/db?no_such_option=1",
        "postgresql://me:{database}@127.0.0.1:9/db",
        "mysql://me:{database}@host/db",
    ],
)
async def test_no_secret_is_in_what_is_wrong_with_a_database(address: str) -> None:
    with pytest.raises(StorageError) as refused:
        async with Store.open(address.format(**CANARIES), busy_timeout=0):
            pass
    assert leaked(f"{refused.value} {refused.value!r} {refused.value.details}") == []


def test_no_secret_of_the_environment_is_in_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variables = {
        "TRACKSIDE_DATABASE_URL": "database",
        "TRACKSIDE_ENGINE_URL": "nats",
        "TRACKSIDE_API_KEY": "key",
        "TRACKSIDE_SERVER_JWT_KEY": "tokens",
        "TRACKSIDE_SERVER_WEBHOOK_SECRET": "webhook",
    }
    for variable, name in variables.items():
        monkeypatch.setenv(variable, CANARIES[name])
    assert len(said := helps(capsys)) > 10_000
    assert leaked(said) == []


def helps(capsys: pytest.CaptureFixture[str]) -> str:
    for command, context in commands():
        print(command.get_help(context))
    return capsys.readouterr().out


def commands(command: Any = None, name: str = "trackside", above: Any = None) -> Iterator[tuple[Any, Any]]:
    command = command or typer.main.get_command(app)
    context = command.context_class(command, info_name=name, parent=above)
    yield command, context
    for below, one in getattr(command, "commands", {}).items():
        yield from commands(one, below, context)
