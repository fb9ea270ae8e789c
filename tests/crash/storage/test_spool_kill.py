"""SIGKILL while runs are spooled and delivered: what was acknowledged reaches the log, whole, in order and once (I14)."""

import json
import random
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from tests.crash.storage.forker import Forker

from trackside.app.spool import DeliveryReport, Spool
from trackside.app.storage import Store
from trackside.harness import RunStatus
from trackside.testing import assert_run_order

KILLS = 20


class Spooler(Forker):
    """The process next to this one that spools and delivers, and what it said."""

    place: dict[str, str]

    def __init__(self) -> None:
        super().__init__("spooler.py")

    def work_and_die(
        self, *, spools: int = 0, dies_after: int = 0, kill_after: int = sys.maxsize, delay: float = 0.0
    ) -> set[str]:
        """Let it work and die; returns the runs whose rests it has said are spooled.

        It dies by itself when it has spooled `spools` runs, or when the log has taken `dies_after`; or it is killed
        `delay` seconds after it has spooled `kill_after`.
        """
        order = json.dumps(self.place | {"spools": spools, "dies_after": dies_after})
        return {run_id for _, run_id in self.killed_life(order, kill_after, delay)}


@pytest.fixture(autouse=True)
def unblocked(blockbuster: BlockBuster) -> None:
    """Let these tests block: they wait for another process."""
    blockbuster.deactivate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs.db-spool"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


@pytest.fixture(scope="module")
def one_spooler() -> Iterator[Spooler]:
    with closing(Spooler()) as spooler:
        yield spooler


@pytest.fixture
def spooler(one_spooler: Spooler, url: str, folder: Path) -> Spooler:
    one_spooler.place = {"url": url, "folder": str(folder)}
    return one_spooler


async def deliver_and_check(url: str, folder: Path, spooled: set[str]) -> DeliveryReport:
    """Deliver what the dead left; check that all that was acknowledged is in the log."""
    async with Store.open(url) as store:
        spool = Spool(folder)
        report = await spool.deliver(store)
        await spool.aclose()
        events = [stored.event for stored in await store.events(limit=100_000)]
        assert_run_order(events, ended=False)
        ended = {run.run_id for run in await store.runs(limit=100_000) if run.status is RunStatus.success}
        positions = [stored.position for stored in await store.events(limit=100_000)]
    assert spooled <= ended
    assert positions == list(range(1, len(events) + 1))
    assert (report.refused, report.waiting) == (0, 0)
    assert list(folder.glob("waiting-*")) == []
    return report


async def test_killed_between_the_write_and_the_delivery(spooler: Spooler, url: str, folder: Path) -> None:
    spooled = spooler.work_and_die(spools=3)

    assert len(spooled) == 3
    assert (await deliver_and_check(url, folder, spooled)).delivered == 3


@pytest.mark.parametrize("dies_after", [1, 2, 3])
async def test_killed_when_the_log_has_it_and_the_spool_does_not_know(
    spooler: Spooler, url: str, folder: Path, dies_after: int
) -> None:
    spooled = spooler.work_and_die(spools=3, dies_after=dies_after)

    assert (await deliver_and_check(url, folder, spooled)).delivered == 3


async def test_killed_again_and_again_in_the_middle_of_the_same_delivery(
    spooler: Spooler, url: str, folder: Path
) -> None:
    spooled = spooler.work_and_die(spools=3)
    for dies_after in (1, 2, 3, 1):
        spooler.work_and_die(dies_after=dies_after)

    await deliver_and_check(url, folder, spooled)


async def test_killed_at_any_moment(spooler: Spooler, url: str, folder: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    spooled: set[str] = set()
    for _ in range(KILLS):
        spooled |= spooler.work_and_die(kill_after=moments.choice([1, 5, 20]), delay=moments.uniform(0, 0.05))

    await deliver_and_check(url, folder, spooled)
    assert len(spooled) > KILLS
