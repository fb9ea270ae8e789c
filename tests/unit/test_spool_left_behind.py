"""The spool among processes: whose file is whose, what was left is delivered, and torn records are set aside."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest
from tests.unit.spool_log import AwayError, BrokenError, ListLog, left_behind, names_in

from trackside.app.spool import DeliveryReport, Spool
from trackside.app.spool._file import _lock
from trackside.testing import assert_run_order, make_run


async def test_what_a_process_left_is_delivered_by_the_next_before_its_own(folder: Path) -> None:
    log = ListLog()
    async with left_behind(folder, make_run("first"), make_run("second")):
        spool = Spool(folder)
        await spool.append(make_run("third"))
        assert await spool.deliver(log) == DeliveryReport(delivered=3)
    assert log.offered == ["first", "second", "third"]
    assert spool.stats().spooled == 1
    await spool.aclose()


async def test_the_file_of_a_process_that_lives_is_its_own(spool: Spool, folder: Path) -> None:
    other, log = Spool(folder), ListLog()
    await other.append(make_run("others"))
    await spool.append(make_run("own"))

    assert await spool.deliver(log) == DeliveryReport(delivered=1)
    assert log.offered == ["own"]
    await other.aclose()
    assert await spool.deliver(log) == DeliveryReport(delivered=1)
    assert log.offered == ["own", "others"]


async def test_what_was_left_by_others_counts_until_it_is_delivered(spool: Spool, folder: Path) -> None:
    log = ListLog()
    log.fails["*"] = AwayError()
    async with left_behind(folder, make_run("a"), make_run("b")):
        assert (await spool.deliver(log)).waiting == spool.waiting == 2
        log.fails.clear()
        await spool.deliver(log)
    assert spool.waiting == 0


@pytest.mark.parametrize("cut", [1, 2, 100, -1], ids=["all but a byte", "two bytes less", "a hundred", "one byte"])
async def test_a_torn_last_record_is_told_set_aside_and_counted(
    folder: Path, cut: int, caplog: pytest.LogCaptureFixture, unblocked: None
) -> None:
    log = ListLog()
    async with left_behind(folder, make_run("whole"), make_run("torn")) as path:
        content = path.read_bytes()
        first = content.index(b"\n") + 1
        path.write_bytes(content[: first + 1] if cut == -1 else content[:-cut])
        torn = path.read_bytes()[first:]
    spool = Spool(folder)

    assert await spool.deliver(log) == DeliveryReport(delivered=1, damaged=1)

    assert log.offered == ["whole"]
    assert (folder / "damaged.lines").read_bytes() == torn + b"\n"
    assert f"the line at byte {first} of {path} is not a record (it ends in the middle)" in caplog.text
    assert await names_in(folder) == ["damaged.lines"]
    assert spool.stats().damaged == 1
    await spool.aclose()


async def test_wherever_a_file_breaks_off_its_whole_records_are_delivered_and_the_rest_is_set_aside(
    tmp_path: Path, unblocked: None
) -> None:
    async with left_behind(tmp_path / "whole", make_run("a"), make_run("b")) as path:
        content = path.read_bytes()
    for end in range(1, len(content), 61):
        folder, log = tmp_path / f"{end}", ListLog()
        folder.mkdir()
        (folder / path.name).write_bytes(content[:end])
        spool = Spool(folder)
        report = await spool.deliver(log)
        await spool.aclose()

        whole, torn = content[:end].count(b"\n"), not content[:end].endswith(b"\n")
        assert report == DeliveryReport(delivered=whole, damaged=int(torn)), end
        assert log.offered == ["a", "b"][:whole]
        assert not torn or (folder / "damaged.lines").read_bytes() == content[:end].splitlines()[-1] + b"\n"


@pytest.mark.parametrize("change", [b"thread-2", b'\xff"x": {'])
async def test_a_changed_record_in_the_middle_is_set_aside_and_the_others_are_delivered(
    folder: Path, change: bytes, unblocked: None
) -> None:
    log = ListLog()
    async with left_behind(folder, make_run("a"), make_run("changed"), make_run("c")) as path:
        lines = path.read_bytes().splitlines(keepends=True)
        lines[1] = lines[1].replace(b"thread-1", change)
        path.write_bytes(b"".join(lines))
    spool = Spool(folder)

    assert await spool.deliver(log) == DeliveryReport(delivered=2, damaged=1)
    assert log.offered == ["a", "c"]
    assert (folder / "damaged.lines").read_bytes() == lines[1]
    await spool.aclose()


async def test_a_torn_record_is_set_aside_once_also_if_the_log_is_away(folder: Path, unblocked: None) -> None:
    log = ListLog()
    async with left_behind(folder, make_run("whole"), make_run("torn")) as path:
        path.write_bytes(path.read_bytes()[:-5])
    spool = Spool(folder)
    log.fails["whole"] = BrokenError()
    for _ in range(3):
        await spool.deliver(log)
    log.fails.clear()

    assert await spool.deliver(log) == DeliveryReport(delivered=1)
    assert spool.stats().damaged == 1
    assert (folder / "damaged.lines").read_bytes().count(b"\n") == 1
    await spool.aclose()


def test_a_file_that_somebody_removed_before_it_was_locked_is_no_file_to_use(tmp_path: Path) -> None:
    path = tmp_path / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        assert _lock(descriptor)
        path.unlink()
        assert not _lock(descriptor)
    finally:
        os.close(descriptor)


async def test_a_new_file_is_not_taken_away_before_its_process_has_locked_it(folder: Path) -> None:
    async def spool_in_new_files() -> None:
        for number in range(50):
            spool = Spool(folder)
            await spool.append(make_run(f"run-{number}"))
            await spool.aclose()

    log, spool = ListLog(), Spool(folder)
    spooling = asyncio.create_task(spool_in_new_files())
    while not spooling.done():
        await spool.deliver(log)
    await spooling
    await spool.deliver(log)
    await spool.aclose()

    assert_run_order(log.events)
    assert len(log.events) == 5 * 50


async def test_a_forked_child_neither_delivers_nor_frees_what_is_its_parents(
    spool: Spool, folder: Path, unblocked: None
) -> None:
    await spool.append(make_run("parents"))
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.write(tell, b"%d" % (spool.waiting + (spool._own is not None)))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(ready, 1) == b"0"
    os.close(ready)
    os.close(tell)

    other, log = Spool(folder), ListLog()
    assert await other.deliver(log) == DeliveryReport(), "it is still locked"
    await other.aclose()
    assert await spool.deliver(log) == DeliveryReport(delivered=1)
