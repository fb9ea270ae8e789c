"""No log holds up a run or a program: pipes that nobody reads, disks that are full, and processes that fork."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster
from tests.unit.full_executor import full_executor
from tests.unit.logged_lines import failed, made

from trackside import RunManager, RunSpec


@pytest.fixture
def full_pipe(tmp_path: Path, blockbuster: BlockBuster) -> Iterator[tuple[Path, Callable[[], bytes]]]:
    """A pipe that nobody reads, and a function that reads it to the end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read() -> bytes:
        os.set_blocking(end, True)
        return b"".join(iter(lambda: os.read(end, 65_536), b""))

    yield path, read
    os.close(end)


async def test_a_pipe_that_nobody_reads_holds_up_neither_runs_nor_closing_and_what_is_missing_is_told(
    full_pipe: tuple[Path, Callable[[], bytes]],
) -> None:
    path, read = full_pipe
    observer = await made(path, capacity=100)

    async def agent(input: Any) -> None: ...

    async with RunManager({"support": agent}, observers=[observer]) as manager:
        for _ in range(300):
            await (await manager.start(RunSpec("support", "hello" * 100))).result()
        for number in range(1_000):
            observer._handover.offer(b"%d %s\n" % (number, b"x" * 1_000))
        assert observer.stats().dropped > 0
    await observer.aclose()
    stats = observer.stats()
    assert stats.pending > 0
    text = await asyncio.to_thread(read)
    missing = [json.loads(line)["missing"] for line in text.splitlines() if b"are missing here" in line]
    assert sum(missing) == stats.dropped
    assert text.endswith(b"\n")
    settled = observer.stats()
    assert settled.delivered + settled.dropped == settled.accepted


PROGRAM = """
import asyncio, sys
from trackside.app.observers.logging import LoggingObserver
from trackside.testing.events import make_run

async def main():
    observer = LoggingObserver(format="json", file=sys.argv[1])
    for number in range(500):
        for event in make_run(f"r{number}"):
            await observer.on_event(event)
    await observer.aclose()

asyncio.run(main())
"""


def test_a_program_whose_log_hangs_ends_all_the_same(full_pipe: tuple[Path, Callable[[], bytes]]) -> None:
    path, _ = full_pipe
    program = [sys.executable, "-W", "error", "-c", PROGRAM, str(path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


async def test_a_line_that_was_half_written_spoils_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up in the middle of a line, and then has room again."""
    write = os.write
    left = 300

    def full(file: int, data: Any) -> int:
        nonlocal left
        if threading.current_thread().name != "trackside-log-lines":
            return write(file, data)
        if not left:
            raise OSError(28, "No space left on device")
        written = write(file, bytes(data)[:left])
        left -= written
        return written

    monkeypatch.setattr(os, "write", full)
    file = tmp_path / "log"
    observer = await made(file)
    await observer.on_event(failed())
    await observer.flush(10)
    left = 10**9
    await observer.on_event(failed("whole"))
    await observer.aclose()
    half, whole = file.read_text().splitlines()
    assert len(half) == 300
    assert json.loads(whole)["error"] == "whole"
    assert (observer.stats().failed, observer.stats().delivered) == (1, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_a_forked_child_writes_none_of_its_parents_lines(
    full_pipe: tuple[Path, Callable[[], bytes]], tmp_path: Path, blockbuster: BlockBuster
) -> None:
    blockbuster.deactivate()
    observer = await made(tmp_path / "log")
    await observer.on_event(failed("the parent's"))
    await observer.flush(10)
    observer._handover._queue.put(None)  # the thread ends, so that whatever comes next stays where it is
    await asyncio.to_thread(observer._handover._ended.wait, 10)
    observer._handover.offer(b"waits in the parent\n")
    if not (child := os.fork()):
        try:
            observer._handover.offer(b"of the child\n")
            observer._handover._queue.put(None)
            os._exit(0 if observer._handover._ended.wait(10) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "log").read_text().count("of the child") == 1
    assert "waits in the parent" not in (tmp_path / "log").read_text()


async def test_plain_functions_that_fill_the_loops_threads_hold_up_neither_flushing_nor_closing(tmp_path: Path) -> None:
    observer = await made(tmp_path / "runs.jsonl")
    await observer.on_event(failed())
    async with full_executor():
        stats = await observer.flush(20)
        await observer.aclose()
    assert (stats.delivered, stats.pending) == (1, 0)
