"""What a server tells operators about itself, on each database."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import httpx
from tests.integration.server.endpoint_walk import keys_of

from trackside.app.server.system import Found, Looker, Surroundings
from trackside.app.settings import AccessSettings, ObserverSettings, ServerSettings
from trackside.app.spool import REFUSED_FILE

SECRET = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"


async def echo(input: Any) -> Any:
    return input


async def test_operators_see_the_database_the_workers_and_the_settings_without_secrets(
    serve_agents: Any, tmp_path: Path, database_url: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("trackside.app.server.system.PATIENCE", 60.0)
    access = AccessSettings(
        auth="keys", jwt_key="signed-with-this", jwt_jwks="https://ada:pass-word@keys.example/jwks?t=k"
    )
    observer = ObserverSettings(
        type="logging",
        name="lines",
        where="trackside.toml, observers[1]",
        options={"file": str(tmp_path / "lines"), "format": "json"},
    )
    settings: dict[str, Any] = {
        "access": access,
        "server": ServerSettings(webhook_secret=SECRET),
        "observers": (observer,),
    }
    async with serve_agents({"echo": echo}, **settings) as served:
        keys = await keys_of(served.app.store.api_keys)
        async with httpx.AsyncClient(base_url=served.url, headers={"x-api-key": keys["root"]}) as http:
            await http.post("/runs/wait", json={"assistant_id": "echo", "input": 1, "on_completion": "keep"})
            folder = Path((await http.get("/system")).json()["spool"]["folder"])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / REFUSED_FILE).write_text("{}\n")
            served.app.parts.system.looker._found = None
            answer = await http.get("/system")
            system = answer.json()
            denied = await http.get("/system", headers={"x-api-key": keys["ada"]})

    database, (worker,), spool = system["database"], system["workers"], system["spool"]
    assert denied.status_code == 403
    assert (database["kind"], database["schema"]) == (database_url.partition(":")[0], "0010")
    assert (database["events"], database["runs"], database["threads"]) == (4, 1, 1)
    assert database["size_bytes"] > 100_000
    assert database["oldest_event_at"] < worker["last_seen_at"] or worker["started_at"] < database["oldest_event_at"]
    assert worker.items() >= {"pid": os.getpid(), "running": 0, "is_this": True, "alive": True}.items()
    inline = {"name": "inline", "connected": True, "why": None, "since": None, "counts": {}}
    assert system["engine"] == inline
    assert spool == {"folder": str(folder), "records": 0, "refused": 1, "damaged": 0}
    (finding,) = [found for found in system["findings"] if found["where"] == str(folder)]
    assert finding["level"] == "warning"
    assert finding["next_command"].startswith("look at their reasons")
    shown = {name: one["value"] for name, one in system["settings"].items()}
    assert shown["server.webhook_secret"] == shown["server.jwt_key"] == "…"
    assert shown["server.jwt_jwks"] == "https://ada:…@keys.example/jwks?…"
    assert shown["observers.lines"] == {"type": "logging", "options": ["file", "format"]}
    assert shown["runs.cancel_after"] == 0.0
    assert not [secret for secret in (SECRET, "signed-with-this", "pass-word", "t=k") if secret in answer.text]


async def test_a_look_around_that_takes_too_long_is_not_waited_for_and_not_begun_twice(monkeypatch: Any) -> None:
    monkeypatch.setattr("trackside.app.server.system.PATIENCE", 0.05)
    monkeypatch.setattr("trackside.app.server.system._FRESH", 0.0)
    begun, go_on, looks = threading.Event(), threading.Event(), []

    def look() -> Surroundings:
        looks.append(1)
        begun.set()
        go_on.wait(60)
        return Surroundings(None, [Found("note", "all is well", "here", "")])

    looker, slow = Looker(), list[Surroundings]()
    while not begun.is_set():  # a look may be given up before its thread has begun it
        slow.append(await looker.look(look))
    slow.append(await looker.look(look))
    assert {found.findings[0].next_command for found in slow} == {"trackside doctor"}
    assert len(looks) == 1
    go_on.set()
    monkeypatch.setattr("trackside.app.server.system.PATIENCE", 60.0)
    async with asyncio.timeout(60):
        while (await looker.look(look)).findings[0].what != "all is well":
            await asyncio.sleep(0.01)
