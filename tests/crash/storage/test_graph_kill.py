"""SIGKILL at any moment: a run that anybody was told of has left its checkpoints, and every checkpoint is whole."""

import random
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from tests.crash.storage.forker import Forker

from trackside.app.storage import Store


class Grapher(Forker):
    """The process next to this one that runs graphs, and what it said."""

    def __init__(self) -> None:
        super().__init__("grapher.py")

    def run_and_die(self, url: str, acknowledged: int, delay: float) -> dict[str, str]:
        """Let it run; kill it `delay` seconds after so many runs have ended. Returns their threads by their ids."""
        return {run_id: thread_id for thread_id, run_id in self.killed_life(url, acknowledged, delay)}


@pytest.fixture
def grapher() -> Iterator[Grapher]:
    with closing(Grapher()) as grapher:
        yield grapher


async def assert_whole(url: str, acknowledged: dict[str, str]) -> None:
    newest: dict[Any, Any] = {}
    places = set()
    parents = set()
    async with Store.open(url) as store:
        async for found in store.checkpointer().alist(None):  # one without a value could not be read
            newest.setdefault(found.metadata.get("run_id"), found)
            places.add(str(found.config))
            parents.add(str(found.parent_config or found.config))
    assert parents <= places
    for run_id, thread_id in acknowledged.items():
        found = newest[run_id]
        notes = found.checkpoint["channel_values"]["notes"]
        assert found.config["configurable"]["thread_id"] == thread_id
        assert (notes[-3], notes[-2], notes[-1]) == ("n", len(notes) - 2, len(notes) - 1)


@pytest.mark.parametrize(
    "kills", [pytest.param(4, marks=pytest.mark.timeout(280)), pytest.param(40, marks=pytest.mark.long)]
)
async def test_killed_again_and_again(grapher: Grapher, url: str, blockbuster: Any, kills: int) -> None:
    blockbuster.deactivate()  # the test waits for the other process
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    acknowledged: dict[str, str] = {}
    for _ in range(kills):
        acknowledged |= grapher.run_and_die(url, moments.choice([1, 10, 40]), moments.uniform(0, 0.05))
        await assert_whole(url, acknowledged)
    assert len(acknowledged) >= kills
