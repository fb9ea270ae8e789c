"""The agents of a fleet in tests. What each call does outside goes to the journal in the folder where the worker runs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from fenced_journal import FencedJournal, FencedOff, Hold

from trackside import RunContext

FOLDER: Final = Path(os.environ.get("FLEET_JOURNAL", "."))
JOURNAL: Final = FencedJournal(FOLDER)
if "FLEET_JOURNAL" in os.environ:  # this process executes runs
    JOURNAL.open()

if "FLEET_POINT" in os.environ:  # this worker has to die
    import fleet_points

    fleet_points.install(os.environ["FLEET_POINT"], os.environ["TRACKSIDE_ENGINE_URL"].partition(":")[0])


@contextmanager
def executing(run: RunContext) -> Iterator[Hold]:
    """Write down that a run is executed, and how the execution ended."""
    hold = JOURNAL.enter(run.run_id, run.thread_id, run.attempt)
    try:
        yield hold
    except BaseException as exc:
        _leave(hold, type(exc).__name__)
        raise
    hold.leave("done")


def _leave(hold: Hold, how: str) -> None:
    with suppress(FencedOff):  # the journal has noted that
        hold.leave(how)


async def _passed(gate: str) -> None:
    """Wait until the test opens a gate."""
    while not (FOLDER / gate).exists():
        await asyncio.sleep(0.01)


async def talks(input: Any, run: RunContext) -> dict[str, Any]:
    """Say numbers, with a pause after each; give back the token that was brought, and what the thread had before.

    With a `gate` the first attempt stands before its last number until `Fleet.open` opens that; where it `breaks`,
    it fails then.
    """
    with executing(run) as hold:
        for number in range(parts := input.get("parts", 1)):
            if number == parts - 1 and "gate" in input and run.attempt == 1:
                await _passed(input["gate"])
            hold.write(str(number))
            run.send({"number": number, "pid": os.getpid(), "attempt": run.attempt})
            await asyncio.sleep(input.get("pause", 0.0))
    if input.get("breaks") and run.attempt == 1:
        raise ValueError(input["token"])
    tokens = [*run.values.get("tokens", ()), input["token"]]
    return {"token": input["token"], "tokens": tokens, "attempt": run.attempt}


async def tries(input: Any, run: RunContext) -> dict[str, Any]:
    """The same, with more than one attempt, as the settings of a fleet say."""
    return await talks(input, run)


async def fails(input: Any, run: RunContext) -> None:
    """Fail."""
    with executing(run):
        await asyncio.sleep(input.get("pause", 0.0))
        raise ValueError(input["token"])


async def asks(input: Any, run: RunContext) -> dict[str, Any]:
    """Go on only when a human has answered."""
    with executing(run):
        return {"token": run.interrupt("sure?")}


async def blocks(input: Any, run: RunContext) -> dict[str, Any]:
    """Hold up the event loop for so many seconds, as careless code does."""
    with executing(run):
        time.sleep(input["seconds"])
    return {"token": input["token"]}
