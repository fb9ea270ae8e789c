"""A worker that ends though nobody waits for that: its service manager must not either, or would kill it in the end."""

from __future__ import annotations

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from trackside.app.cli.serving import worker_life
from trackside.app.cli.serving.worker_life import WorkerLife


async def retire() -> None:
    """There is nothing for others to do."""


@pytest.mark.parametrize("is_limited", [True, False])
async def test_a_service_manager_hears_that_it_stops_when_that_is_limited_or_its_runs_have_ended(
    monkeypatch: pytest.MonkeyPatch, is_limited: bool
) -> None:
    heard: list[str] = []
    said: list[str] = []
    monkeypatch.setattr(worker_life, "tell_service_manager", heard.append)
    app: Any = SimpleNamespace(retire=retire)
    life, ended = WorkerLife(3_600.0, lambda what, **_: said.append(what)), asyncio.Event()

    async def until_ended() -> None:
        await ended.wait()

    life.finish("the tables are a newer version's")
    waiting = asyncio.create_task(life._unless_limited(until_ended, app, running=1))
    for _ in range(10):
        await asyncio.sleep(0)
    assert (heard, waiting.done(), life.is_told_to_end) == ([], False, True)
    if is_limited:
        life._on_stop(signal.SIGTERM, None)
    else:
        ended.set()
    await waiting
    assert heard == ["STOPPING=1"]
    assert said == ["stopping", "waiting for 1 run, however long that takes", *(["stopping"] if is_limited else [])]
