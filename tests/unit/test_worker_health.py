"""What a worker answers at its health port, both to those who may know and to everybody else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from trackside.app.server.worker_health import WorkerHealth
from trackside.app.storage import Store
from trackside.app.vitals import Vitals
from trackside.harness import RunManager


class Counting:
    """An observer that shows what it has counted."""

    def render(self, accept: str = "") -> tuple[bytes, str]:
        return f"runs 3 # {accept}".encode(), "text/plain; version=0.0.4"


class Answer:
    """What came back."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def send(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def text(self) -> str:
        return b"".join(message["body"] for message in self.messages[1:]).decode()


async def nothing() -> Any:
    raise AssertionError("nobody reads a body")


async def ask(health: WorkerHealth, path: str, method: str = "GET") -> Answer:
    answer = Answer()
    scope = {"type": "http", "path": path, "method": method, "headers": [(b"accept", b"text/plain")]}
    await health(scope, nothing, answer.send)
    return answer


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.open(f"sqlite:///{tmp_path}/runs.db") as one:
        yield one


@pytest.fixture
def health(store: Store, tmp_path: Path) -> WorkerHealth:
    manager = RunManager({})
    vitals = Vitals(
        manager=manager.stats,
        observers=manager.observers.stats,
        writer=store.writer_stats,
        feeds=list,
        spooled=lambda: 0,
    )
    return WorkerHealth(store, vitals, [Counting()], [str(tmp_path)])


async def test_it_lives_and_is_ready_until_it_ends(health: WorkerHealth) -> None:
    live, ready = await ask(health, "/live"), await ask(health, "/ready")
    health.begin_ending("it takes no more runs, and leaves")
    ending, still = await ask(health, "/ready"), await ask(health, "/live", "HEAD")

    assert (live.status, json.loads(live.text)) == (200, {"status": "live"})
    assert (ready.status, json.loads(ready.text)["reasons"]) == (200, [])
    assert ending.status == 503
    assert json.loads(ending.text)["reasons"] == [{"check": "closing", "why": "it takes no more runs, and leaves"}]
    assert still.status == 200
    assert ready.headers["cache-control"] == "no-store"


async def test_metrics_are_those_of_the_observer_that_counts(health: WorkerHealth) -> None:
    found = await ask(health, "/metrics")

    assert (found.status, found.text) == (200, "runs 3 # text/plain")
    assert found.headers["content-type"].startswith("text/plain; version")


async def test_without_an_observer_that_counts_there_are_no_metrics(store: Store, health: WorkerHealth) -> None:
    found = await ask(WorkerHealth(store, health._vitals, [], []), "/metrics")

    assert found.status == 404
    assert "nothing is counted" in found.text


@pytest.mark.parametrize("path", ["/", "/runs", "/live/", "/threads/../live", "/ui", "/docs"])
async def test_nothing_else_is_there(health: WorkerHealth, path: str) -> None:
    found = await ask(health, path)

    assert found.status == 404
    why = "there is nothing here but /live, /ready, /metrics"
    assert json.loads(found.text) == {"detail": why, "code": "not-found"}


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
async def test_nothing_can_be_done_there(health: WorkerHealth, method: str) -> None:
    found = await ask(health, "/live", method)

    assert (found.status, found.headers["allow"]) == (405, "GET, HEAD")
