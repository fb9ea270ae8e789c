"""Agents that harm their process, for workers that isolate them. Journal and folder are those of `fleet_agents`."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fleet_agents import FOLDER, executing

from trackside import RunContext

_CHUNK: Final = 8 * 1_048_576


def segfault() -> None:
    """Read an address where nothing is mapped."""
    ctypes.string_at(0)


def leave() -> None:
    """End the process, as a library might."""
    os._exit(3)


def leave_as_if_all_were_well() -> None:
    """The same with an exit code that nobody complains about."""
    os._exit(0)


def hog() -> None:
    """Take memory without end."""
    held = []
    while True:
        held.append(b"x" * _CHUNK)


def spin() -> None:
    """Block the event loop."""
    while True:
        pass


def hold() -> None:
    """Block every thread of the process, in a library that does not release the interpreter's lock."""
    re.match(r"(a+)+$", "a" * 60 + "b")


WAYS: Final[dict[str, Callable[[], None]]] = {
    one.__name__: one for one in (segfault, leave, leave_as_if_all_were_well, hog, spin, hold)
}


async def breaks(input: Any, run: RunContext) -> dict[str, Any]:
    """Do to its process what is asked for, the first time; say who it is."""
    with executing(run):
        run.send({"number": 0})
        if run.attempt == 1:
            WAYS[input["how"]]()
    return {"token": input["token"], "pid": os.getpid(), "attempt": run.attempt}


async def deaf(input: Any, run: RunContext) -> None:
    """Heed no cancel."""
    with executing(run):
        while True:
            try:
                await asyncio.sleep(3_600)
            except asyncio.CancelledError:
                continue


async def blocks_behind(input: Any, run: RunContext) -> dict[str, Any]:
    """Leave something in the event loop that blocks it when the test opens the gate `over`."""
    loop = asyncio.get_running_loop()

    def spin_when_told() -> None:
        if (FOLDER / "over").exists():
            spin()
        loop.call_later(0.02, spin_when_told)

    with executing(run):
        spin_when_told()
    return {"token": input["token"]}


async def starts(input: Any, run: RunContext) -> None:
    """Start a process, say which, and crash."""
    with executing(run):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        (FOLDER / "started").write_text(str(child.pid), "ascii")
        segfault()


async def tells(input: Any) -> dict[str, Any]:
    """What it has of its process."""
    opened = []
    for one in Path("/proc/self/fd").iterdir():
        try:
            opened.append(str(one.readlink()))
        except FileNotFoundError:  # the descriptor with which the folder was read
            continue
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text("ascii").splitlines())
    return {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "stdin": str(Path("/proc/self/fd/0").readlink()),
        "opened": opened,
        "ignored": status["SigIgn"],
        "blocked": status["SigBlk"],
        "environ": sorted(os.environ),
    }
