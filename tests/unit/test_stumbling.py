"""The machine that `./scripts/test --stumble` pretends to have: loops and pools stand still at times, and only if asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

STUMBLING = Path(__file__).parents[1] / "stumbling"

COUNTS = """
import asyncio
import sitecustomize

slept = []
stumbling = getattr(sitecustomize, "STUMBLING", None)
if stumbling is not None:
    stumbling.sleep = slept.append

async def works():
    {as_long_as}:
        {turn}

{runs}
print(stumbling is not None, all(seconds < sitecustomize.LONG[1] for seconds in slept))
"""
TURN, JOB, WAIT = "await asyncio.sleep(0)", "await asyncio.to_thread(int)", "await asyncio.sleep(0.0005)"
ASYNCIO, UVLOOP = "asyncio.run(works())", "import uvloop; uvloop.new_event_loop().run_until_complete(works())"


def answer(turn: str, runs: str, as_long_as: str, **environment: str) -> str:
    """What a process says that begins with this, as each one of a run of the tests does."""
    here = {**os.environ, "PYTHONPATH": str(STUMBLING), "STUMBLE_SEED": "", **environment}
    code = COUNTS.format(turn=turn, as_long_as=as_long_as, runs=runs)
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, env=here, capture_output=True, text=True, check=True, timeout=120).stdout.strip()


@pytest.mark.parametrize(
    ("turn", "runs"), [(TURN, ASYNCIO), (JOB, UVLOOP), (WAIT, UVLOOP)], ids=["turns", "jobs", "uvloop"]
)
def test_what_a_process_does_stumbles_if_that_is_asked_for_and_for_no_longer_than_is_said(turn: str, runs: str) -> None:
    assert answer(turn, runs, "while not slept", STUMBLE_SEED="1") == "True True"
    assert answer(turn, runs, "for _ in range(100)") == "False True"
