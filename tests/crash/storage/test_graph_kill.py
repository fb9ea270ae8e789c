"""SIGKILL at any moment: a run of which anybody was told has left its checkpoints, and every checkpoint is whole."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from trackside.app.storage import Store

KILLS = 12


class Grapher:
    """The process beside us that runs graphs, and what it said."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("grapher.py")
        self._process = subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._said = self._process.stdin, self._process.stdout
        self._child = 0

    def run_and_die(self, url: str, acknowledged: int, delay: float) -> dict[str, str]:
        """Let it run; kill it `delay` seconds after so many runs have ended. Threads by the ids of these."""
        self._orders.write(f"{url}\n")
        seen: dict[str, str] = {}
        for line in self._said:
            head, _, tail = line.strip().partition(" ")
            if head == "child":
                self._child = int(tail)
            elif head == "dead":
                self._child = 0
                assert int(tail) == -signal.SIGKILL
                return seen
            else:
                seen[tail] = head
            if self._child and len(seen) >= acknowledged:
                acknowledged = sys.maxsize
                with suppress(subprocess.TimeoutExpired):  # it never ends by itself: this is how long it may go on
                    self._process.wait(delay)
                os.kill(self._child, signal.SIGKILL)
        raise AssertionError("the process ended by itself")

    def close(self) -> None:
        if self._child:
            os.kill(self._child, signal.SIGKILL)
        self._orders.close()
        self._said.close()
        self._process.wait()


@pytest.fixture
def grapher() -> Iterator[Grapher]:
    with closing(Grapher()) as grapher:
        yield grapher


async def assert_whole(url: str, acknowledged: dict[str, str]) -> None:
    newest: dict[Any, Any] = {}
    places = set()
    parents = set()
    async with Store.open(url) as store:
        async for found in store.checkpointer().alist(None):  # one that lacked a value could not be read
            newest.setdefault(found.metadata.get("run_id"), found)
            places.add(str(found.config))
            parents.add(str(found.parent_config or found.config))
    assert parents <= places
    for run_id, thread_id in acknowledged.items():
        found = newest[run_id]
        notes = found.checkpoint["channel_values"]["notes"]
        assert found.config["configurable"]["thread_id"] == thread_id
        assert (notes[-3], notes[-2], notes[-1]) == ("n", len(notes) - 2, len(notes) - 1)


async def test_killed_again_and_again(grapher: Grapher, url: str, blockbuster: Any) -> None:
    blockbuster.deactivate()  # this waits for the other process
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    acknowledged: dict[str, str] = {}
    for _ in range(KILLS):
        acknowledged |= grapher.run_and_die(url, moments.choice([1, 10, 40]), moments.uniform(0, 0.05))
        await assert_whole(url, acknowledged)
    assert len(acknowledged) >= KILLS
