"""`StorageObserver` with a spool that an earlier process has left: when that is delivered, and what a start survives."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from tests.contract.ways_to_run import virtual
from tests.unit.spooled_log import AwayError, Log, missed, observing, settled

from trackside.app.spool import Spool, SpoolError
from trackside.harness import ClosedError, RunLifecycleEvent
from trackside.testing import make_run


def test_a_spool_that_fails_keeps_nobody_from_starting(
    tmp_path: Path, blockbuster: BlockBuster, caplog: pytest.LogCaptureFixture
) -> None:
    blockbuster.deactivate()

    @virtual
    async def story() -> None:
        log = Log()
        async with observing(log, tmp_path / "spool") as (observer, _):
            log.away = AwayError()
            await missed(observer, make_run())
        log.away = None
        (file,) = (tmp_path / "spool").glob("waiting-*")
        file.write_bytes(b"torn")
        (tmp_path / "spool" / "damaged.lines").mkdir()
        async with observing(log, tmp_path / "spool") as (observer, _):
            report = await observer.deliver_spooled()
            assert isinstance(report.failure, SpoolError)
            await observer.on_events(make_run())

    with caplog.at_level(logging.WARNING):
        story()
    assert "Is a directory" in caplog.text


@virtual
async def test_what_is_left_at_the_end_is_delivered_by_the_next_start(tmp_path: Path) -> None:
    log, events = Log(), make_run()
    async with observing(log, tmp_path / "spool") as (observer, _):
        log.away = AwayError()
        await missed(observer, events)
        await asyncio.sleep(1.0005)  # in the middle of a delivery
    with pytest.raises(ClosedError):
        await observer.on_missed(events, AwayError())
    assert {task.get_name() for task in asyncio.all_tasks()}.isdisjoint(
        {"trackside-spool-delivery", "trackside-spool-lookout"}
    )
    log.away = None
    async with observing(log, tmp_path / "spool") as (observer, spool):
        report = await observer.deliver_spooled()
        assert (report.delivered, spool.waiting) == (1, 0)

    assert log.events == events


@virtual
async def test_what_is_left_at_the_start_is_tried_again_later(tmp_path: Path) -> None:
    log = Log()
    log.away = AwayError()
    async with observing(log, tmp_path / "spool") as (observer, _):
        await missed(observer, make_run())
    async with observing(log, tmp_path / "spool") as (observer, spool):
        assert (await observer.deliver_spooled()).waiting == 1
        log.away = None
        await settled(observer)
        assert spool.waiting == 0


async def leave_behind(folder: Path, *runs: Sequence[RunLifecycleEvent]) -> None:
    """Spool these as a process that has ended."""
    spool = Spool(folder)
    for run in runs:
        await spool.append(run)
    await spool.aclose()


def test_what_this_disk_fails_with_at_the_start_is_tried_again_later(tmp_path: Path, blockbuster: BlockBuster) -> None:
    blockbuster.deactivate()
    aside = tmp_path / "spool" / "refused.jsonl"

    @virtual
    async def story() -> None:
        log = Log()
        await leave_behind(tmp_path / "spool", make_run("gone")[3:], make_run("good", thread_id="other"))
        aside.mkdir()
        async with observing(log, tmp_path / "spool") as (observer, spool):
            report = await observer.deliver_spooled()
            assert isinstance(report.failure, SpoolError)
            assert (report.delivered, report.waiting) == (1, 1)
            await asyncio.sleep(10)
            aside.rmdir()
            await settled(observer)
            assert (spool.waiting, spool.stats().refused) == (0, 1)

    story()
    assert aside.is_file()


def test_a_folder_that_cannot_be_read_at_the_start_is_looked_into_again(
    tmp_path: Path, blockbuster: BlockBuster, caplog: pytest.LogCaptureFixture
) -> None:
    blockbuster.deactivate()
    folder = tmp_path / "spool"

    @virtual
    async def story() -> None:
        log = Log()
        await leave_behind(tmp_path / "away", run := make_run())
        folder.symlink_to(folder)
        async with observing(log, folder) as (observer, _):
            assert isinstance((await observer.deliver_spooled()).failure, SpoolError)
            folder.unlink()
            (tmp_path / "away").rename(folder)
            await settled(observer)
        assert log.events == run

    story()
    assert f"something may wait in the spool {folder}" in caplog.text
