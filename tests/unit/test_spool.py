"""The spool by itself: what is on disk, who may read it, and what becomes of what cannot be delivered or read."""

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import resource
import signal
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster

from trackside.app.spool import DeliveryReport, Spool, SpoolError, SpoolFullError
from trackside.app.spool._file import _lock
from trackside.harness import ClosedError, RunLifecycleEvent
from trackside.harness.errors import EventOrderError, TracksideError
from trackside.harness.lifecycle import RunFold
from trackside.testing import assert_run_order, make_run


class AwayError(TracksideError):
    """The log is away."""

    fault = "store"
    retryable = True


class BrokenError(TracksideError):
    """The log cannot do this."""

    fault = "store"


class ListLog:
    """A log in memory: each event once, runs in their order. `fails` says what goes wrong with the events of a run."""

    def __init__(self, *stored: RunLifecycleEvent) -> None:
        self.events = list(stored)
        self.fails: dict[str, Exception] = {}
        self.offered: list[str] = []

    async def append(self, events: Sequence[RunLifecycleEvent]) -> None:
        run_id = events[0].run_id
        self.offered.append(run_id)
        await asyncio.sleep(0)
        if (failure := self.fails.get(run_id) or self.fails.get("*")) is not None:
            raise failure
        fold = RunFold(run_id)
        known = [event for event in self.events if event.run_id == run_id]
        new = [event for event in events if event.event_id not in {one.event_id for one in known}]
        for event in [*known, *new]:
            fold = fold.apply(event.event_type, event.sequence, event.payload)
        self.events += new


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs.db-spool"


@pytest.fixture
async def spool(folder: Path) -> AsyncIterator[Spool]:
    spool = Spool(folder)
    yield spool
    await spool.aclose()


@pytest.fixture
def unblocked(blockbuster: BlockBuster) -> None:
    """The test looks at files itself."""
    blockbuster.deactivate()


@contextlib.asynccontextmanager
async def left_behind(folder: Path, *rests: Sequence[RunLifecycleEvent]) -> AsyncIterator[Path]:
    """The file of a process that has spooled these and has ended."""
    spool = Spool(folder)
    for rest in rests:
        await spool.append(rest)
    await spool.aclose()
    (path,) = await asyncio.to_thread(lambda: sorted(folder.glob("waiting-*.jsonl"))[-1:])
    yield path


async def names_in(folder: Path) -> list[str]:
    return await asyncio.to_thread(lambda: sorted(path.name for path in folder.iterdir()) if folder.exists() else [])


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


async def test_a_failure_that_may_pass_ends_the_delivery_and_leaves_everything(spool: Spool) -> None:
    log = ListLog()
    for run_id in ("a", "b", "c"):
        await spool.append(make_run(run_id))
    log.fails["b"] = AwayError()

    report = await spool.deliver(log)
    assert report == DeliveryReport(delivered=1, waiting=2, failure=log.fails.pop("b"))
    assert log.offered == ["a", "b"]
    assert [spool.holds(run_id) for run_id in "abc"] == [False, True, True]

    assert (await spool.deliver(log)).delivered == 2
    assert log.offered == ["a", "b", "b", "c"]
    assert_run_order(log.events)


async def test_while_the_log_is_away_one_record_is_tried_for_all(spool: Spool) -> None:
    log = ListLog()
    log.fails["*"] = AwayError()
    for number in range(10):
        await spool.append(make_run(f"run-{number}", thread_id=f"thread-{number}"))

    assert (await spool.deliver(log)).waiting == 10
    assert log.offered == ["run-0"]


async def test_many_records_are_given_to_the_log_beside_each_other_but_those_of_a_thread_in_order(spool: Spool) -> None:
    class Slow(ListLog):
        async def append(self, events: Sequence[RunLifecycleEvent]) -> None:
            inside.append(events[0].thread_id)
            most.append(len(inside))
            assert len(inside) == len(set(inside))
            await super().append(events)
            inside.remove(events[0].thread_id)

    inside: list[str] = []
    most: list[int] = []
    log = Slow()
    for number in range(200):
        await spool.append(make_run(f"run-{number}", thread_id=f"thread-{number % 70}"))

    assert (await spool.deliver(log)).delivered == 200
    assert max(most) == 64
    for thread in range(70):
        runs = [event.run_id for event in log.events if event.thread_id == f"thread-{thread}" and event.sequence == 1]
        assert runs == [f"run-{number}" for number in range(thread, 200, 70)]


async def test_a_rest_that_comes_in_two_records_is_delivered_in_order(spool: Spool) -> None:
    log = ListLog()
    log.fails["*"] = AwayError()
    events = make_run()
    await spool.append(events[:4])
    await spool.deliver(log)
    await spool.append(events[4:])
    log.fails.clear()

    assert (await spool.deliver(log)).delivered == 2
    assert log.events == events


async def test_what_is_refused_for_good_is_kept_with_the_reason_and_holds_nothing_up(
    spool: Spool, folder: Path, caplog: pytest.LogCaptureFixture, unblocked: None
) -> None:
    lost, good = make_run("lost"), make_run("good")
    log = ListLog(*make_run("lost"))  # ended meanwhile by somebody else, under other ids
    await spool.append(lost[3:])
    await spool.append(good)

    assert await spool.deliver(log) == DeliveryReport(delivered=1, refused=1)

    (line,) = (folder / "refused.jsonl").read_text().splitlines()
    kept = json.loads(line)["record"]
    assert [event["event_id"] for event in kept["events"]] == [event.event_id for event in lost[3:]]
    assert "does not follow" in kept["reason"]
    assert await names_in(folder) == ["refused.jsonl"]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "the rest of run lost" in record.getMessage()
    assert "does not follow" in record.getMessage()
    assert spool.stats().refused == 1
    assert await spool.deliver(log) == DeliveryReport()


async def test_what_is_set_aside_is_safe_from_a_power_cut_before_it_leaves_its_place(
    spool: Spool, folder: Path, unblocked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ListLog(*make_run("lost"))
    log.fails["stays"] = BrokenError()  # so that its file stays, too
    await spool.append(make_run("lost")[3:])
    await spool.append(make_run("stays", thread_id="another"))
    (waiting,) = folder.iterdir()
    done: list[tuple[str, int]] = []

    def noted(name: str) -> Callable[..., object]:
        really: Callable[..., object] = getattr(os, name)

        def note(descriptor: int, *rest: object) -> object:
            done.append((name, os.fstat(descriptor).st_ino))
            return really(descriptor, *rest)

        return note

    for name in ("write", "fsync"):
        monkeypatch.setattr(os, name, noted(name))
    assert (await spool.deliver(log)).refused == 1
    monkeypatch.undo()

    refused, of = (folder / "refused.jsonl").stat().st_ino, waiting.stat().st_ino
    kept = [("write", refused), ("fsync", refused), ("fsync", folder.stat().st_ino)]  # or a power cut loses it
    assert done == [*kept, ("write", of), ("fsync", of)]


async def test_who_sets_something_aside_waits_for_another_process_that_is_just_at_it(
    spool: Spool, folder: Path, unblocked: None
) -> None:
    # A failed write cuts the file back to its earlier size: that must not cut off what others wrote meanwhile.
    log = ListLog(*make_run("lost"))
    await spool.append(make_run("lost")[3:])
    with (folder / "refused.jsonl").open("wb", buffering=0) as others:
        fcntl.flock(others, fcntl.LOCK_EX)
        delivers = asyncio.create_task(spool.deliver(log))
        await asyncio.wait({delivers}, timeout=0.3)
        assert not delivers.done()
        others.write(b"{}\n")
    assert (await delivers).refused == 1
    before, own = (folder / "refused.jsonl").read_bytes().splitlines()
    assert before == b"{}"
    assert json.loads(own)["record"]["reason"]


async def test_a_failure_that_will_not_pass_holds_up_only_what_comes_behind_on_the_same_thread(spool: Spool) -> None:
    log = ListLog()
    log.fails["bad"] = BrokenError()
    for run_id, thread_id in (("bad", "t1"), ("behind", "t1"), ("other", "t2")):
        await spool.append(make_run(run_id, thread_id=thread_id))

    report = await spool.deliver(log)

    assert report == DeliveryReport(delivered=1, waiting=2, failure=log.fails.pop("bad"))
    assert log.offered == ["bad", "other"]
    await spool.deliver(log)
    assert log.offered[2:] == ["bad", "behind"]


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


async def test_a_cancelled_delivery_goes_on_where_it_was(spool: Spool) -> None:
    class Slow(ListLog):
        async def append(self, events: Sequence[RunLifecycleEvent]) -> None:
            await super().append(events)
            if events[0].run_id == "b":
                reached.set()
                await asyncio.Event().wait()

    log, reached = Slow(), asyncio.Event()
    for run_id in ("a", "b", "c"):
        await spool.append(make_run(run_id))
    delivery = asyncio.create_task(spool.deliver(log))
    await reached.wait()
    delivery.cancel()
    await asyncio.wait([delivery])

    rest = ListLog(*log.events)
    assert delivery.cancelled()
    assert await spool.deliver(rest) == DeliveryReport(delivered=2)
    assert rest.offered == ["b", "c"]
    assert_run_order(rest.events)


async def test_what_is_spooled_while_a_delivery_is_under_way_waits_for_the_next(spool: Spool) -> None:
    class Slow(ListLog):
        async def append(self, events: Sequence[RunLifecycleEvent]) -> None:
            if not self.offered:
                await spool.append(make_run("meanwhile"))
            await super().append(events)

    log = Slow()
    await spool.append(make_run("a"))

    assert await spool.deliver(log) == DeliveryReport(delivered=1, waiting=1)
    assert spool.holds("meanwhile")
    assert await spool.deliver(log) == DeliveryReport(delivered=1)


async def test_many_at_once_are_all_kept_and_delivered_once(spool: Spool) -> None:
    log = ListLog()
    await asyncio.gather(*(spool.append(make_run(f"run-{number}")) for number in range(50)))
    reports = await asyncio.gather(*(spool.deliver(log) for _ in range(5)))

    assert sum(report.delivered for report in reports) == 50
    assert_run_order(log.events)
    assert spool.stats().delivered == spool.stats().spooled == 50


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


async def test_a_closed_spool_takes_and_delivers_nothing_more(folder: Path) -> None:
    spool = Spool(folder)
    await spool.append(make_run())
    await spool.aclose()
    await spool.aclose()

    with pytest.raises(ClosedError):
        await spool.append(make_run())
    with pytest.raises(ClosedError):
        await spool.deliver(ListLog())


def test_the_log_of_these_tests_keeps_the_order_itself() -> None:
    with pytest.raises(EventOrderError):
        asyncio.run(ListLog().append(make_run()[1:]))
