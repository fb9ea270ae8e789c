"""The spool by itself: what is on disk, who may read it, how much it takes, and what becomes of writes that fail."""

import asyncio
import errno
import json
import os
import resource
import signal
import stat
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.unit.spool_log import AwayError, ListLog, left_behind, names_in

from trackside.app.spool import DeliveryReport, Spool, SpoolError, SpoolFullError
from trackside.harness import ClosedError, RunLifecycleEvent
from trackside.testing import assert_run_order, make_run


async def test_nothing_is_on_disk_before_something_is_spooled_and_after_it_is_delivered(
    spool: Spool, folder: Path
) -> None:
    log = ListLog()
    assert await spool.deliver(log) == DeliveryReport()
    assert not await asyncio.to_thread(folder.exists)

    await spool.append(make_run())
    assert spool.waiting == 1
    assert len(await names_in(folder)) == 1
    assert await spool.deliver(log) == DeliveryReport(delivered=1)

    assert_run_order(log.events)
    assert spool.waiting == 0
    assert not await asyncio.to_thread(folder.exists)


async def test_events_come_back_as_they_were(spool: Spool) -> None:
    log = ListLog()
    events = make_run(messages=3)
    odd = {
        "text": "\u2028 é \ud800 \0",
        "number": 10**400,
        "nan": float("nan"),
        "bytes": b"\xff",
        "list": [1, 2.5, None],
    }
    events[0] = RunLifecycleEvent(**{**vars(events[0]), "payload": {"agent": "a", "metadata": odd}})

    await spool.append(events)
    await spool.deliver(log)

    assert log.events[1:] == events[1:]
    assert log.events[0].payload["metadata"]["list"] == [1, 2.5, None]
    assert log.events[0].payload["sanitized"] is True


async def test_who_is_told_that_something_is_spooled_need_fear_no_power_cut(
    spool: Spool, folder: Path, unblocked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, int, int]] = []  # on which inode, and how many files there were

    def noted(name: str) -> Callable[..., object]:
        really: Callable[..., object] = getattr(os, name)

        def note(descriptor: int, *rest: object) -> object:
            done.append((name, os.fstat(descriptor).st_ino, len(list(folder.glob("*")))))
            return really(descriptor, *rest)

        return note

    for name in ("write", "fsync"):
        monkeypatch.setattr(os, name, noted(name))
    await spool.append(make_run("a"))
    first = [*done]
    await spool.append(make_run("b"))
    monkeypatch.undo()

    (path,) = folder.iterdir()
    file = path.stat().st_ino
    for told in (first, done[len(first) :]):
        assert [name for name, inode, _ in told if inode == file] == ["write", "fsync"]
    for above in (folder, folder.parent):  # or a power cut loses the file
        assert ("fsync", above.stat().st_ino, 1) in first


async def test_what_is_on_disk_is_for_its_owner_alone(spool: Spool, folder: Path, unblocked: None) -> None:
    before = os.umask(0)
    try:
        await spool.append(make_run())
        await spool.append(make_run("refused")[2:])
        await spool.deliver(refusing := ListLog())
        refusing.fails["*"] = AwayError()
        await spool.append(make_run("another"))
    finally:
        os.umask(before)

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert (folder / "refused.jsonl").exists()


async def test_each_line_is_json_with_the_checksum_of_its_record(spool: Spool, folder: Path, unblocked: None) -> None:
    events = make_run()
    await spool.append(events)

    (line,) = next(folder.iterdir()).read_bytes().splitlines()
    said = json.loads(line)
    assert [event["event_id"] for event in said["record"]["events"]] == [event.event_id for event in events]
    assert sha256(line.partition(b'"record":')[2][:-1]).hexdigest() == said["sha256"]


async def test_a_full_spool_refuses_with_a_clear_error_and_keeps_what_it_has(folder: Path) -> None:
    spool, log = Spool(folder, max_bytes=5_000), ListLog()
    await spool.append(make_run("a"))
    with pytest.raises(SpoolFullError, match=r"holds \d+ bytes and may hold 5000") as full:
        for number in range(10):
            await spool.append(make_run(f"more-{number}"))
    kept = spool.waiting

    assert full.value.details["size"] <= 5_000 < full.value.details["size"] + full.value.details["more"]
    assert 1 < kept < 10
    assert (await spool.deliver(log)).delivered == kept
    await spool.append(make_run("there is room again"))
    await spool.aclose()


async def test_what_is_spooled_at_once_counts_for_the_limit_together(folder: Path, unblocked: None) -> None:
    spool, log = Spool(folder, max_bytes=5_000), ListLog()
    told = await asyncio.gather(*(spool.append(make_run(f"{n}")) for n in range(10)), return_exceptions=True)
    kept = [number for number, failure in enumerate(told) if failure is None]

    assert 1 < len(kept) < 10
    assert all(failure is None or isinstance(failure, SpoolFullError) for failure in told)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 5_000
    assert (await spool.deliver(log)).delivered == spool.stats().spooled == len(kept)
    assert {event.run_id for event in log.events} == {f"{number}" for number in kept}
    await spool.aclose()


async def test_what_other_processes_left_counts_for_the_limit(folder: Path) -> None:
    async with left_behind(folder, *[make_run(f"{number}") for number in range(3)]):
        spool = Spool(folder, max_bytes=2_000)
        with pytest.raises(SpoolFullError):
            await spool.append(make_run())
        await spool.aclose()


async def test_a_write_that_fails_half_way_leaves_nothing_of_it(spool: Spool, unblocked: None) -> None:
    log = ListLog()
    await spool.append(make_run("a"))
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, kept[1]))
    try:
        with pytest.raises(SpoolError, match="File too large") as failed:
            await spool.append(make_run("b", messages=50))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, handler)
    await spool.append(make_run("c"))

    assert (failed.value.fault, spool.waiting) == ("store", 2)
    assert await spool.deliver(log) == DeliveryReport(delivered=2)
    assert log.offered == ["a", "c"]


async def test_a_first_write_that_fails_leaves_no_empty_file_and_the_next_one_works(
    spool: Spool, folder: Path, unblocked: None
) -> None:
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, kept[1]))
    try:
        with pytest.raises(SpoolError, match="File too large"):
            await spool.append(make_run("a"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, handler)

    assert not folder.exists()
    await spool.append(make_run("b"))
    assert await spool.deliver(ListLog()) == DeliveryReport(delivered=1)


async def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path, unblocked: None) -> None:
    (tmp_path / "file").write_text("")
    spool = Spool(tmp_path / "file" / "spool")

    with pytest.raises(SpoolError, match=r"/file/spool cannot be used: Not a directory\. See that"):
        await spool.append(make_run())
    assert await spool.deliver(ListLog()) == DeliveryReport()
    await spool.aclose()


async def test_a_file_that_somebody_removed_is_said_and_forgotten(
    spool: Spool, folder: Path, caplog: pytest.LogCaptureFixture, unblocked: None
) -> None:
    log = ListLog()
    await spool.append(make_run("removed"))
    next(folder.iterdir()).unlink()
    await spool.append(make_run("kept"))

    assert "with the remaining events of 1 runs in it" in caplog.text
    assert spool.waiting == 1
    assert await spool.deliver(log) == DeliveryReport(delivered=1)


async def test_a_folder_that_is_removed_as_it_is_found_to_be_there_is_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, seen = Path.mkdir, list[Path]()

    def make_after_another(path: Path, *args: Any, **options: Any) -> None:
        if path == folder and not seen:  # there when it is to be made, and gone when somebody looks
            seen.append(path)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        make(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", make_after_another)
    spool, log = Spool(folder), ListLog()
    await spool.append(make_run("run"))
    assert await spool.deliver(log) == DeliveryReport(delivered=1)
    await spool.aclose()
    assert seen == [folder]


async def test_a_file_in_the_place_of_the_folder_is_said(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.touch()
    spool = Spool(folder)
    with pytest.raises(SpoolError, match="cannot be used: "):
        await spool.append(make_run("run"))
    await spool.aclose()


async def test_a_closed_spool_takes_and_delivers_nothing_more(folder: Path) -> None:
    spool = Spool(folder)
    await spool.append(make_run())
    await spool.aclose()
    await spool.aclose()

    with pytest.raises(ClosedError):
        await spool.append(make_run())
    with pytest.raises(ClosedError):
        await spool.deliver(ListLog())
