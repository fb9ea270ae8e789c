"""How long a leaving process waits for its database: without a limit it would spool the ends of its runs too late."""

from __future__ import annotations

import asyncio
import math
import signal
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from tests.integration.runs.stage import Agents, turns, within_patience

from trackside import RunSpec, RunStatus
from trackside.app.cli.serving.process_life import ProcessLife
from trackside.app.settings import Settings
from trackside.app.wiring import open_app

GRACE = 3_600.0


def say_nothing(*_: Any, **__: Any) -> None:
    """Says nothing, for a process that nobody watches."""


@pytest.mark.parametrize(("told_twice", "seconds"), [(False, 30.0), (True, 1.0)])
async def test_from_when_its_runs_are_cancelled_on_the_database_has_a_while_and_if_it_is_told_twice_a_moment(
    agents: Agents, tmp_path: Path, told_twice: bool, seconds: float
) -> None:
    settings = Settings(database_url=f"sqlite:///{tmp_path}/runs.db", shutdown_grace=30.0)
    async with open_app(settings, {"work": agents.work}) as app:
        run = await app.manager.start(RunSpec("work", "long"))
        await agents.until_running("long")
        life = ProcessLife(GRACE if told_twice else 0.0, say_nothing)
        life._on_stop(signal.SIGTERM, None)
        closing = asyncio.create_task(life.close_runs(app))
        if told_twice:
            await turns(10)
            assert app.store._writer._leaves_at == math.inf, "its runs have their time"
            life._on_stop(signal.SIGTERM, None)
        await within_patience(closing)
        assert (await run.result()).status is RunStatus.cancelled
        assert app.store._writer._leaves_at <= monotonic() + seconds
