"""A worker's process for the runs of one place, whatever it says of itself."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

from trackside.app.engine.children import ChildProcess

SAYS = """
import json, os, socket
said = json.loads(os.environ["_TRACKSIDE_ISOLATED"])
with socket.socket(fileno=said["descriptor"]) as supervisor:
    supervisor.sendall({said})
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
    assert child.exit_code in {0, 1}  # who is not heard to the end cannot say the rest
    assert (verdict is None) == (child.exit_code == 0)
