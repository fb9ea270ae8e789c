"""The spool on a failing disk: nothing is forgotten, what is well is delivered, and the rest once the disk is, too."""

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from trackside.app.spool import DeliveryReport, Spool, SpoolError
from trackside.harness import RunLifecycleEvent
from trackside.harness.errors import EventOrderError, TracksideError
from trackside.testing import make_run

DELIVER = textwrap.dedent("""
    import asyncio, os, sys
    from trackside.app.spool import Spool, SpoolError

    async def main():
        await Spool(sys.argv[1]).deliver(None)

    if os.getuid() == 0:  # root may read everywhere
        os.setgid(65534), os.setuid(65534)
    try:
        print(asyncio.run(main()))
    except SpoolError as exc:
        print(exc)
""")


class BrokenError(TracksideError):
    """The log cannot do this."""

    fault = "store"


class Log:
    """Takes all but what `fails` names by run, and remembers what it was offered."""

    def __init__(self, **fails: Exception) -> None:
        self.fails = fails
        self.offered: list[str] = []

    async def append(self, events: Sequence[RunLifecycleEvent]) -> None:
        self.offered.append(events[0].run_id)
        await asyncio.sleep(0)
        if (failure := self.fails.get(events[0].run_id)) is not None:
            raise failure


REFUSED = EventOrderError(sequence=4, event_type="run_completed", run_id="bad", why="it has ended")


@pytest.fixture(autouse=True)
def unblocked(blockbuster: BlockBuster) -> None:
    """These tests look at files themselves."""
    blockbuster.deactivate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs.db-spool"


async def spool_of(folder: Path, whose: str, *runs: Sequence[RunLifecycleEvent]) -> Spool:
    """A spool in whose folder these wait: in this process's own file, or in that of a process that has ended."""
    writer = Spool(folder)
    for run in runs:
        await writer.append(run)
    if whose == "its own":
        return writer
    await writer.aclose()
    return Spool(folder)


@contextlib.contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Inside this context no file can grow beyond `size`."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("whose", ["its own", "another's"])
async def test_a_refused_record_that_cannot_be_set_aside_stays_and_holds_nothing_up(folder: Path, whose: str) -> None:
    runs = [make_run("bad", thread_id="t"), make_run("behind", thread_id="t"), make_run("other", thread_id="u")]
    spool, log = await spool_of(folder, whose, *runs), Log(bad=REFUSED)
    (folder / "refused.jsonl").mkdir()

    report = await spool.deliver(log)

    assert isinstance(report.failure, SpoolError)
    assert (report.delivered, report.refused, report.waiting) == (2, 0, 1)
    assert spool.waiting == spool.stats().waiting == 1
    assert not spool.holds("bad", "t"), "what comes later of the thread need not wait for it"

    (folder / "refused.jsonl").rmdir()
    assert await spool.deliver(log) == DeliveryReport(refused=1)
    assert log.offered == ["bad", "behind", "other", "bad"]
    assert spool.waiting == 0
    await spool.aclose()


@pytest.mark.parametrize("whose", ["its own", "another's"])
async def test_a_damaged_line_that_cannot_be_set_aside_stays_and_holds_nothing_up(folder: Path, whose: str) -> None:
    spool, log = await spool_of(folder, whose, make_run("damaged"), make_run("whole")), Log()
    (file,) = folder.glob("waiting-*")
    file.write_bytes(file.read_bytes().replace(b"damaged", b"changed", 1))
    (folder / "damaged.lines").mkdir()

    report = await spool.deliver(log)

    assert isinstance(report.failure, SpoolError)
    assert (report.delivered, report.damaged, report.waiting, spool.waiting) == (1, 0, 1, 1)

    (folder / "damaged.lines").rmdir()
    assert await spool.deliver(log) == DeliveryReport(damaged=1)
    assert log.offered == ["whole"]
    assert spool.waiting == 0
    await spool.aclose()


async def test_a_failure_of_the_log_counts_for_more_than_one_of_the_disk(folder: Path) -> None:
    spool = await spool_of(folder, "its own", make_run("bad", thread_id="t"), make_run("broken", thread_id="u"))
    (folder / "refused.jsonl").mkdir()
    failure = BrokenError()

    assert await spool.deliver(Log(bad=REFUSED, broken=failure)) == DeliveryReport(waiting=2, failure=failure)
    await spool.aclose()


@pytest.mark.parametrize("whose", ["its own", "another's"])
async def test_what_a_file_cannot_be_told_is_done_with_is_not_delivered_again(folder: Path, whose: str) -> None:
    runs = [make_run(name, thread_id=name) for name in ("good", "broken", "better")]
    spool, log = await spool_of(folder, whose, *runs), Log(broken=BrokenError())
    (file,) = folder.glob("waiting-*")

    with no_file_beyond(file.stat().st_size):
        report = await spool.deliver(log)
        assert (report.delivered, report.waiting, spool.waiting) == (2, 3, 3)
        assert not spool.holds("good", "better")
        assert spool.holds("broken") is (whose == "its own")
        await spool.deliver(log)
        assert log.offered == ["good", "broken", "better", "broken"]
        assert spool.stats().delivered == 2
    log.fails.clear()

    assert await spool.deliver(log) == DeliveryReport(delivered=1)
    assert spool.waiting == 0
    assert not folder.exists()
    await spool.aclose()


async def test_a_file_that_cannot_be_opened_counts_and_holds_up_no_other(folder: Path) -> None:
    spool, log = await spool_of(folder, "another's", make_run("good")), Log()
    (folder / "waiting-0.jsonl").mkdir()

    report = await spool.deliver(log)

    assert "Is a directory" in str(report.failure)
    assert (report.delivered, report.waiting, spool.waiting) == (1, 1, 1)
    (folder / "waiting-0.jsonl").rmdir()
    assert await spool.deliver(log) == DeliveryReport()
    assert spool.waiting == 0
    await spool.aclose()


async def test_what_was_known_to_wait_does_so_while_the_folder_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    spool, log = await spool_of(folder, "another's", make_run("bad"), make_run("worse", thread_id="u")), Log()
    log.fails = {"bad": BrokenError(), "worse": BrokenError()}
    await spool.deliver(log)
    folder.rename(tmp_path / "away")
    folder.symlink_to(folder)

    with pytest.raises(SpoolError, match="symbolic links"):
        await spool.deliver(log)

    assert spool.waiting == 2
    await spool.aclose()


async def test_what_could_not_be_kept_is_not_kept_later_either(folder: Path) -> None:
    spool, log = Spool(folder), Log()
    folder.symlink_to(folder)
    with pytest.raises(SpoolError, match="symbolic links"):
        await spool.append(make_run("lost", thread_id="t"))
    folder.unlink()

    await spool.append(make_run("kept", thread_id="u"))

    assert (spool.waiting, spool.holds("lost", "t")) == (1, False)
    assert await spool.deliver(log) == DeliveryReport(delivered=1)
    assert log.offered == ["kept"]
    await spool.aclose()


async def test_a_spool_of_another_user_is_an_error_and_not_empty(folder: Path) -> None:
    await spool_of(folder, "another's", make_run())
    folder.chmod(0o000)
    try:
        told = subprocess.run(
            [sys.executable, "-c", DELIVER, folder], capture_output=True, text=True, check=True
        ).stdout
    finally:
        folder.chmod(0o700)

    assert told.startswith(f"The spool {folder} cannot be used: Permission denied.")


async def test_a_delivery_that_is_cancelled_while_it_takes_files_lets_go_of_them(folder: Path) -> None:
    spool = await spool_of(folder, "another's", make_run())
    (file,) = folder.glob("waiting-*")
    for number in range(500):
        (folder / f"waiting-{number:03}.jsonl").write_bytes(file.read_bytes())
    delivery = asyncio.create_task(spool.deliver(Log()))
    while not open_in(folder):
        await asyncio.sleep(0)

    delivery.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivery
    await spool.aclose()

    assert open_in(folder) == []


def open_in(folder: Path) -> list[str]:
    """The files in a folder that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return [path for path in found if path.startswith(f"{folder}{os.sep}")]
