"""An observer that fails on every event: its first failures are logged in full, the others as a number; all count."""

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
from tests.contract.ways_to_run import virtual

from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.observing.buffered import BufferedObserver
from trackside.harness.observing.recurring import IN_FULL, PERIOD
from trackside.testing import make_event, run_virtual


class Failing:
    """Fails on each event in the way that the payload names."""

    async def on_event(self, event: RunLifecycleEvent) -> None:
        match event.payload["how"]:
            case "refused":
                raise ConnectionError("nobody is there")
            case "elsewhere":
                raise ConnectionError("nobody is here")
            case how:  # in a place that no other failure has
                exec(f"raise ValueError({how!r})", {})


class FailingOnBatches(Failing):
    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        raise ConnectionError("a batch is too much")


async def give(buffer: BufferedObserver, count: int, how: str = "refused") -> None:
    failed = buffer.stats().failed
    await buffer.on_events([make_event(payload={"how": how}) for _ in range(count)])
    await buffer.flush(1)
    assert buffer.stats().failed == failed + count, "each is counted, whether it is said or not"


def in_full(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.exc_info is not None for record in caplog.records)


def in_numbers(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.exc_info is None]


@virtual
async def test_flood_is_said_by_its_number_once_in_a_period(caplog: pytest.LogCaptureFixture) -> None:
    buffer = BufferedObserver(Failing())
    await give(buffer, 1_000)
    assert (in_full(caplog), in_numbers(caplog)) == (IN_FULL, [])

    await asyncio.sleep(PERIOD)
    (said,) = in_numbers(caplog)
    assert said == (
        "observer Failing failed 990 more times in 60 s in the same place, first with "
        "ConnectionError on human_message of run run-1: nobody is there"
    )
    await give(buffer, 500)
    await asyncio.sleep(PERIOD)
    assert "failed 500 more times" in in_numbers(caplog)[1]
    assert in_full(caplog) == IN_FULL, "it goes on, and what it is has been said"
    await buffer.aclose()
    assert len(in_numbers(caplog)) == 2


@virtual
async def test_failures_now_and_then_are_each_said_in_full(caplog: pytest.LogCaptureFixture) -> None:
    buffer = BufferedObserver(Failing())
    for _ in range(3 * IN_FULL):
        await give(buffer, 1)
        await asyncio.sleep(PERIOD / 2)
    assert in_full(caplog) == 3 * IN_FULL
    await buffer.aclose()
    assert not in_numbers(caplog)


@virtual
async def test_flood_that_comes_again_after_a_quiet_period_is_said_in_full_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    buffer = BufferedObserver(Failing())
    await give(buffer, 100)
    await asyncio.sleep(2 * PERIOD)
    await give(buffer, 100)
    assert in_full(caplog) == 2 * IN_FULL
    await buffer.aclose()


@virtual
async def test_close_says_what_was_not_said_yet(caplog: pytest.LogCaptureFixture) -> None:
    buffer = BufferedObserver(Failing())
    await give(buffer, IN_FULL + 7)
    await buffer.aclose()
    (said,) = in_numbers(caplog)
    assert "failed 7 more times in 0 s" in said
    await asyncio.sleep(2 * PERIOD)
    assert len(in_numbers(caplog)) == 1


@virtual
async def test_failure_of_another_kind_is_said_in_full_in_the_middle_of_a_flood(
    caplog: pytest.LogCaptureFixture,
) -> None:
    buffer = BufferedObserver(Failing())
    await give(buffer, 100)
    await give(buffer, 1, "elsewhere")
    await give(buffer, 1, "another type")
    texts = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert texts == ["nobody is there"] * IN_FULL + ["nobody is here", "another type"]
    await buffer.aclose()


@virtual
async def test_batch_observer_that_fails_on_every_event_is_summed_up_too(caplog: pytest.LogCaptureFixture) -> None:
    buffer = BufferedObserver(FailingOnBatches())
    await give(buffer, 100)
    await buffer.aclose()
    assert in_full(caplog) == IN_FULL
    assert "failed 90 more times" in in_numbers(caplog)[0]


@virtual
async def test_kinds_that_are_too_many_to_tell_apart_are_one(caplog: pytest.LogCaptureFixture) -> None:
    buffer = BufferedObserver(Failing())
    for number in range(1_000):
        await give(buffer, 1, f"number {number}")
    assert in_full(caplog) == 100 + IN_FULL
    await asyncio.sleep(PERIOD)
    (said,) = in_numbers(caplog)
    assert "failed 890 more times" in said

    await asyncio.sleep(PERIOD)
    caplog.clear()
    for number in range(50):
        await give(buffer, 1, f"another number {number}")
    assert in_full(caplog) == 50, "those before are forgotten"
    await buffer.aclose()


def test_what_one_event_loop_has_left_unsaid_is_said_on_the_next(caplog: pytest.LogCaptureFixture) -> None:
    buffer = BufferedObserver(Failing())
    run_virtual(give(buffer, IN_FULL + 5))

    async def go_on() -> None:
        await give(buffer, 2)
        await asyncio.sleep(PERIOD)
        await buffer.aclose()

    caplog.clear()
    run_virtual(go_on())
    assert sum("more times" in said for said in in_numbers(caplog)) == 1
    assert any("failed 7 more times" in said for said in in_numbers(caplog))


class GoneError(Exception):
    """Counts its living instances."""

    alive = 0

    def __init__(self) -> None:
        type(self).alive += 1

    def __del__(self) -> None:
        type(self).alive -= 1


class FailingAnew:
    async def on_event(self, event: RunLifecycleEvent) -> None:
        raise GoneError


@virtual
async def test_flood_leaves_nothing_to_the_garbage_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logging.Logger.handle", lambda self, record: None)  # caplog keeps what it has seen
    buffer = BufferedObserver(FailingAnew())
    gc.disable()
    try:
        await give(buffer, 3 * IN_FULL)
        assert GoneError.alive == 0
    finally:
        gc.enable()
    await buffer.aclose()


PROGRAM = """
import asyncio, os
from trackside.harness.observing.buffered import BufferedObserver
from trackside.harness.observing.recurring import IN_FULL
from trackside.testing import make_event

async def fails(event):
    raise ConnectionError("nobody is there")

async def main():
    buffer = BufferedObserver(fails)
    await buffer.on_events([make_event() for _ in range(IN_FULL + 5)])
    await buffer.flush(60)
    if child := os.fork():
        os.waitpid(child, 0)
        await buffer.aclose()
    else:
        os.dup2(1, 2)
        asyncio.run(buffer.aclose())
        os._exit(0)

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_what_the_parent_has_left_unsaid_is_not_said_by_a_forked_child() -> None:
    program = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "", "of the child"
    assert "failed 5 more times" in result.stderr
