"""Crons and several processes: each run is started once, whoever starts it, and whoever is killed while doing so."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dialects import BOTH
from tests.crash.storage import forker
from tests.crash.storage.forker import Forker

from trackside.app.storage import Store
from trackside.app.storage.crons import Cron
from trackside.harness.ids import new_id

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
CRONS, ROUNDS, PROCESSES = 20, 5, 2
STEPS = ["before start", "after start", "after replace"]
CASES = [
    pytest.param(url, step, marks=[pytest.mark.long] if url == "postgres" and step != "after start" else [])
    for step in STEPS
    for url in BOTH
]


SCRIPT = Path(__file__).with_name("cron_child.py")


class Starter(Forker):
    """The process next to this one that starts runs."""

    def __init__(self) -> None:
        super().__init__(SCRIPT)

    def live(self, url: str, step: str) -> int:
        """Play one life, to its end or to a step; returns its exit code."""
        for _ in self.life(f"{url} {step}"):
            pass
        return self.exit_code


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    with closing(Starter()) as starter:
        yield starter


@contextmanager
def one_that_goes_on(url: str) -> Generator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, SCRIPT, url, "on"],
        env=os.environ | {"PYTHONPATH": str(Path(forker.__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    with process:
        try:
            yield process
            process.communicate(timeout=60)
        finally:
            process.kill()


async def keep_cron(store: Store, due: datetime) -> Cron:
    now = datetime.now(UTC)
    cron = Cron(cron_id=new_id(), agent="agent", schedule="0 0 1 1 *", created_at=now, updated_at=now, next_run_at=due)
    await store.crons.create(cron)
    return cron


async def runs_of(store: Store) -> Counter[str]:
    """How many runs of each cron there were, by the log, which also keeps those whose thread is gone."""
    started = await store.events(types="run_started", limit=10_000)
    return Counter(str(stored.event.payload["metadata"]["cron_id"]) for stored in started)


@pytest.mark.parametrize(("url", "step"), CASES, indirect=["url"])
async def test_a_process_that_is_killed_leaves_no_run_out_and_none_to_be_repeated(
    url: str, step: str, starter: Starter
) -> None:
    async with Store.open(url) as store:
        cron = await keep_cron(store, LONG_AGO)

    assert await asyncio.to_thread(starter.live, url, step) == -9
    assert await asyncio.to_thread(starter.live, url, "once") == 0
    assert await asyncio.to_thread(starter.live, url, "once") == 0

    async with Store.open(url) as store:
        found = await store.crons.get(cron.cron_id)
        assert found is not None
        assert found.next_run_at is not None
        assert found.next_run_at > datetime.now(UTC)
        assert await runs_of(store) == {cron.cron_id: 1}


async def test_processes_side_by_side_start_each_run_once(url: str) -> None:
    async with Store.open(url) as store:
        with ExitStack() as stack:
            others = [stack.enter_context(one_that_goes_on(url)) for _ in range(PROCESSES)]
            for other in others:
                assert other.stdout is not None
                assert await asyncio.to_thread(other.stdout.readline) == "ready\n"
            crons = [await keep_cron(store, LONG_AGO) for _ in range(CRONS)]
            ended = 0
            async for stored in store.follow():
                ended += stored.event.event_type == "run_completed"
                if ended == CRONS * ROUNDS:
                    break
                if ended == len(crons):
                    crons += [await keep_cron(store, LONG_AGO) for _ in range(CRONS)]

        assert await runs_of(store) == {cron.cron_id: 1 for cron in crons}
