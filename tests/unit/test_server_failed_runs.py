"""What a server's log says of failed runs: where each failed, and a number for a flood."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.contract.ways_to_run import virtual

from trackside.app.server.failed_runs import FailedRuns, place_in
from trackside.app.streams import StreamHub
from trackside.harness.observing.recurring import IN_FULL, PERIOD

TRACE = """Traceback (most recent call last):
  File "/home/ada/ag.py", line 6, in bad
    raise RuntimeError("no")
  File "/x/lib/site-packages/langgraph/pregel.py", line 99, in run
    raise
RuntimeError: no
"""
END = {"status": "error", "error": "no", "error_type": "RuntimeError", "traceback": TRACE}


def test_the_place_is_that_of_ones_own_code() -> None:
    assert place_in(TRACE) == "ag.py:6"
    assert place_in("") == ""


def test_empty_lines_are_looked_at_once() -> None:
    """If each line were looked at once more for every line before it, this would take longer than a test may."""
    assert place_in("\n" * 400_000 + TRACE) == "ag.py:6"


async def test_a_failed_run_is_said_with_its_agent_and_place(caplog: pytest.LogCaptureFixture) -> None:
    hub = StreamHub()
    hub.on_end = FailedRuns().note
    with caplog.at_level(logging.WARNING, "trackside.server"):
        hub.close("r1", end=END)
        hub.close("r2", end={"status": "success"})
        hub.close("r3", end={"status": "timeout", "error": "too long", "error_type": "TimeoutError"})
    (said,) = caplog.messages
    assert said == "run r1 failed: RuntimeError: no (ag.py:6); see `trackside runs r1`"


@virtual
async def test_a_flood_is_counted_and_said_by_its_number_though_nothing_follows_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed = FailedRuns()
    with caplog.at_level(logging.WARNING, "trackside.server"):
        for number in range(1_000):
            failed.note(f"r{number}", "bad", END)
        assert len(caplog.messages) == IN_FULL
        assert caplog.messages[-1].endswith("others like it are counted, and reported once a minute")
        await asyncio.sleep(PERIOD + 1)
    (counted,) = caplog.messages[IN_FULL:]
    assert counted == (
        f"in 60 s {1_000 - IN_FULL} more failed like this: "
        "run r10 of agent 'bad' failed: RuntimeError: no (ag.py:6); see `trackside runs r10`"
    )


@virtual
async def test_kinds_that_are_too_many_to_tell_apart_are_counted_together(caplog: pytest.LogCaptureFixture) -> None:
    failed = FailedRuns()
    with caplog.at_level(logging.WARNING, "trackside.server"):
        for number in range(1_000):
            failed.note(f"r{number}", "bad", {**END, "error_type": f"Error{number}"})
        said = len(caplog.messages)
        failed.say_rest()
    (counted,) = caplog.messages[said:]
    assert counted == (
        f"in 0 s {1_000 - said} more failed like this: "
        f"run r{said} of agent 'bad' failed: Error{said}: no (ag.py:6); see `trackside runs r{said}`"
    )
