"""A server for others: it starts with keys only, and knows within seconds of keys made and revoked beside it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from forking import Forkery
from langgraph_sdk import get_sync_client
from trackside_server import TracksideProcess, TracksideServer

type Command = Callable[..., subprocess.CompletedProcess[str]]

KEYS = '[server]\nauth = "keys"\n'


@pytest.fixture(autouse=True)
def agents(tmp_path: Path) -> None:
    (tmp_path / "agents.py").write_text("async def echo(input):\n    return input\n", encoding="utf-8")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_server_that_asks_nobody_is_for_this_machine(here: Command, host: str) -> None:
    for check in ((), ("--check",)):
        refused = here("serve", "agents.py:echo", "--host", host, "--port", "0", *check)
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"error: a server at {host} is open to others")
        assert refused.stderr.count("\n") == 1


def test_keys_are_made_and_revoked_while_it_serves(tmp_path: Path, trackside: Command, forkery: Forkery) -> None:
    with TracksideServer(
        tmp_path, "agents.py:echo", settings=KEYS, options=["--host", "0.0.0.0"], forkery=forkery
    ) as server:
        url = f"http://127.0.0.1:{server.ready['port']}"
        made = json.loads(trackside("auth", "create", "laptop", "--json", "-d", "sqlite:///runs.db").stdout)
        with get_sync_client(url=url, api_key=made["secret"]) as client:
            assert client.runs.wait(None, "echo", input={"a": 1}) == {"a": 1}
            assert trackside("auth", "revoke", made["key_id"], "--yes", "-d", "sqlite:///runs.db").returncode == 0
            assert status_in_the_end(client) == 401
        assert made["secret"] not in server.log
    assert server.log.count("no API key is valid here, so nobody is let in; `trackside auth create NAME") == 1


def test_a_server_that_lets_nobody_in_says_where_a_key_has_to_be_made(tmp_path: Path, forkery: Forkery) -> None:
    (tmp_path / "trackside.toml").write_text(KEYS)
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    arguments = ["serve", "agents.py:echo", "--port", "0", "--json"]
    with TracksideProcess(
        tmp_path, arguments, name="server", env={"TRACKSIDE_DATABASE_URL": url}, forkery=forkery
    ) as server:
        assert server.terminate() == 0
    hint = f"`trackside auth create NAME` makes one at {url}, if TRACKSIDE_DATABASE_URL is the same there"
    assert hint in server.log


def status_in_the_end(client: Any) -> int:
    """What a client gets that was answered before; a server reads its keys again after holding them for two seconds."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            client.threads.search()
        except httpx.HTTPStatusError as exc:
            return exc.response.status_code
        time.sleep(0.1)
    return 200
