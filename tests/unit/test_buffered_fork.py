"""I24: after a fork the child never delivers what its parent accepted."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

PROGRAM = """
import asyncio, dataclasses, json, logging, os, sys
from trackside.harness.observing.buffered import BufferedObserver
from trackside.testing import make_event

mode = sys.argv[1]

def say(**what):
    os.write(1, (json.dumps({"parent": os.getpid() == parent, **what}) + "\\n").encode())

async def tells(event):
    if event.sequence == 1:
        await asyncio.sleep(0.01)
    say(sequence=event.sequence)

def accounts(buffer):
    say(stats=dataclasses.asdict(buffer.stats()))

parent = os.getpid()
buffer = BufferedObserver(tells)
closed = BufferedObserver(tells)
unused = BufferedObserver(tells)

async def child():
    await buffer.on_event(make_event(sequence=10))
    await buffer.aclose()
    accounts(buffer)

async def main():
    await closed.aclose()
    await buffer.on_events([make_event(sequence=number) for number in (1, 2, 3)])
    if mode == "in a call":
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    if not (pid := os.fork()):
        accounts(buffer)
        asyncio.run(child())
        if mode == "child goes on":
            return
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    await buffer.aclose()
    accounts(buffer)

if mode == "between loops":
    logging.disable()  # that the loop's end cuts the first call off, and ends the consumer, is another test's
    asyncio.run(buffer.on_events([make_event(sequence=1), make_event(sequence=2)]))
    if not os.fork():
        accounts(buffer)
        asyncio.run(child())
        os._exit(0)
    os.wait()
    async def later():
        await buffer.aclose()
        accounts(buffer)
    asyncio.run(later())
else:
    asyncio.run(main())
"""


def run(mode: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the parent said and what the child said."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, mode]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.stderr, result.returncode) == ("", 0)
    parent, child = [], []
    for said in map(json.loads, result.stdout.splitlines()):
        (parent if said.pop("parent") else child).append(said)
    return parent, child


def stats(accepted: int, *, delivered: int = 0, failed: int = 0, deaths: int = 0, **dropped: int) -> dict[str, Any]:
    return {
        "stats": {
            "accepted": accepted,
            "delivered": delivered,
            "failed": failed,
            "dropped": dropped,
            "pending": 0,
            "pending_bytes": 0,
            "oldest_at": None,
            "left_behind": 0,
            "consumer_deaths": deaths,
            "deferred": 0,
            "reread_total": 0,
        }
    }


@pytest.mark.parametrize(
    "mode",
    [
        "before a call",
        "in a call",
        pytest.param(
            "child goes on",
            marks=pytest.mark.skipif(
                sys.version_info >= (3, 14), reason="asyncio lets no child go on in the loop of its parent any more"
            ),
        ),
    ],
)
def test_child_starts_empty_and_the_parent_gives_on_all_it_accepted(mode: str) -> None:
    parent, child = run(mode)

    assert child == [stats(3, fork=3), {"sequence": 10}, stats(4, delivered=1, fork=3)]
    assert parent == [{"sequence": 1}, {"sequence": 2}, {"sequence": 3}, stats(3, delivered=3)]


def test_child_of_a_process_between_two_loops_starts_empty_too() -> None:
    parent, child = run("between loops")

    assert child == [
        stats(2, failed=1, deaths=1, fork=1),
        {"sequence": 10},
        stats(3, delivered=1, failed=1, deaths=1, fork=1),
    ]
    assert parent == [{"sequence": 2}, stats(2, delivered=1, failed=1, deaths=1)]


READS_AGAIN = """
import asyncio, os, sys
from trackside.harness.observing.buffered import BufferedObserver
from trackside.testing import make_event

parent = os.getpid()

class Log:
    async def read(self, spans):
        assert os.getpid() == parent, "the child reads over the parent's connection"
        return [make_event(sequence=number) for span in spans for number in span.sequences]

async def tells(event):
    os.write(1, f"{os.getpid() == parent} {event.sequence}\\n".encode())

async def child():
    await buffer.on_events([make_event(sequence=number) for number in (11, 12)])
    await buffer.aclose()
    os.write(1, f"dropped {dict(buffer.stats().dropped)}\\n".encode())

async def main():
    await buffer.on_events([make_event(sequence=number) for number in (1, 2, 3)])
    if not os.fork():
        asyncio.run(child())
        os._exit(0)
    os.wait()
    await buffer.aclose()

buffer = BufferedObserver(tells, capacity=1, terminal_reserve=0, log=Log())
asyncio.run(main())
"""


def test_child_reads_nothing_again_from_its_parents_log() -> None:
    command = [sys.executable, "-c", READS_AGAIN]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    said = result.stdout.splitlines()
    assert said == ["False 11", "dropped {'fork': 3, 'overflow': 1}", "True 1", "True 2", "True 3"]
