"""A worker's process for the runs of one place, whatever the process reports about itself."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from trackside.app.engine.children import ChildLimits, ChildProcess
from trackside.app.engine.duties import LEASE_SECONDS
from trackside.app.engine.supervisor import Supervisor
from trackside.harness.types import FailureReason

SAYS = """
import json, os, socket
said = json.loads(os.environ["_TRACKSIDE_ISOLATED"])
with socket.socket(fileno=said["descriptor"]) as supervisor:
    supervisor.sendall({said})
"""
LEAVES_A_PROCESS = """
import json, os, signal, sys, time
descriptor = json.loads(os.environ["_TRACKSIDE_ISOLATED"])["descriptor"]
pid = os.fork()  # which has the socket, too
if pid == 0:
    time.sleep(3600)
with open(os.environ["LEFT"], "w") as file:
    file.write(str(pid))
running, ends = json.loads(sys.argv[1])
if running is not None:
    os.write(descriptor, b'{"worker_id": "w", "running": %d}\\n' % running)
if ends < 0:
    os.kill(os.getpid(), -ends)
os._exit(ends)
"""


@pytest.mark.parametrize("said", [b"nonsense\n", b"x" * 200_000, b""])
async def test_a_process_that_says_nonsense_is_seen_to_its_end(said: bytes) -> None:
    command = [
        sys.executable,
        "-c",
        SAYS.replace("{said}", repr(said[:1]) + f" * {len(said)}" if said[:1] == b"x" else repr(said)),
    ]
    child = await ChildProcess.start(command, os.environ, "w")
    async with asyncio.timeout(30):
        verdict = await child.wait()
    assert not await child.begun
    assert child.exit_code in {0, 1}  # a process that is not heard to the end cannot say the rest
    assert (verdict is None) == (child.exit_code == 0)


@pytest.fixture
def left(tmp_path: Path) -> Iterator[Path]:
    """The file where a process names the one it leaves behind; the test's end kills that one."""
    path = tmp_path / "left"
    yield path
    with suppress(ProcessLookupError):
        os.kill(int(path.read_text("ascii")), signal.SIGKILL)


async def child_that_leaves(left: Path, *, running: int | None, ends: int) -> ChildProcess:
    """A child that has this many runs, forks, and ends with this exit code, or by a signal if negative."""
    said = f"[{'null' if running is None else running}, {ends}]"
    command = [sys.executable, "-c", LEAVES_A_PROCESS, said]
    return await ChildProcess.start(command, {**os.environ, "LEFT": str(left)}, "w")


def has_ended(left: Path, *, within: float) -> bool:
    """Whether the process left behind ends in time."""
    try:
        descriptor = os.pidfd_open(int(left.read_text("ascii")))
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within)[0])
    finally:
        os.close(descriptor)


needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux tells of the end of any process")


@needs_pidfd
@pytest.mark.parametrize(("running", "ends"), [(1, -signal.SIGSEGV), (1, 7), (0, -signal.SIGKILL), (1, 0)])
async def test_a_process_that_has_crashed_takes_with_it_what_it_had_forked(running: int, ends: int, left: Path) -> None:
    child = await child_that_leaves(left, running=running, ends=ends)
    async with asyncio.timeout(30):
        verdict = await child.wait()
    assert verdict is not None
    assert (verdict.failure is FailureReason.process_crashed) == (ends != -signal.SIGKILL)
    assert child.stats is not None
    assert child.stats.running == running
    assert has_ended(left, within=30)


@needs_pidfd
async def test_a_process_that_has_crashed_before_it_took_runs_is_known_to_whoever_waits_for_it(left: Path) -> None:
    child = await child_that_leaves(left, running=None, ends=-signal.SIGSEGV)
    async with asyncio.timeout(30):
        assert not await child.begun
        assert await child.wait() is not None
    assert has_ended(left, within=30)


@needs_pidfd
async def test_a_process_that_left_as_asked_is_not_waited_for_longer_because_of_what_it_had_forked(left: Path) -> None:
    child = await child_that_leaves(left, running=0, ends=0)
    async with asyncio.timeout(30):
        assert await child.begun
        assert await child.wait() is None
    assert not has_ended(left, within=0)


async def test_what_a_process_does_for_the_fleet_counts_as_long_as_it_says_so() -> None:
    said = b'{"worker_id": "w", "duties": ["scheduler"]}\n'
    command = [sys.executable, "-c", SAYS.replace("{said}", repr(said)) + "    supervisor.recv(1)\n"]
    nothing: Any = None
    supervisor = Supervisor(
        nothing, "s", nothing, lease=1.0, note_gone=nothing, note_running=nothing, note_leaving=nothing, on_drain=[]
    )
    assert supervisor.standing() == {"scheduler": False}
    child = await ChildProcess.start(command, os.environ, "s")
    supervisor._children.add(child)
    async with asyncio.timeout(30):
        assert await child.begun
        child.heard_at = monotonic()
        assert supervisor.standing() == {"scheduler": True}
        child.heard_at -= LEASE_SECONDS  # blocked, or cut off from the database: another process has it by now
        assert supervisor.standing() == {"scheduler": False}
        child.heard_at = monotonic()
        child.kill()
        await child.wait()
    assert supervisor.standing() == {"scheduler": False}


async def test_the_limits_that_a_process_has_named_first_are_those_of_all_that_it_says() -> None:
    said = b'{"worker_id": "w", "limits": {"grace": 3.0, "timeouts": {"work": 5.0}}}\n{"worker_id": "w", "taken": 1}\n'
    command = [sys.executable, "-c", SAYS.replace("{said}", repr(said))]
    child = await ChildProcess.start(command, os.environ, "w")
    async with asyncio.timeout(30):
        await child.wait()
    assert child.stats is not None
    assert child.stats.taken == 1
    assert child.stats.limits == ChildLimits(grace=3.0, timeouts={"work": 5.0})
