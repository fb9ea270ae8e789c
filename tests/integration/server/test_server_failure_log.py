"""What a server's log says, when the server stops, about the runs that have failed."""

from __future__ import annotations

from typing import Any

import pytest

from trackside.harness.observing.recurring import IN_FULL

DIALECTS = ("sqlite",)


async def failing(input: Any) -> None:
    raise ValueError("it cannot be done")


async def test_how_many_were_only_counted_is_said_when_the_server_stops(
    serve_agents: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve_agents({"failing": failing}) as served:
        for _ in range(IN_FULL + 2):
            await served.client.runs.wait(None, "failing", raise_error=False)
    said = [record.getMessage() for record in caplog.records if "it cannot be done" in record.getMessage()]
    assert len(said) == IN_FULL + 1
    assert " 2 more failed like this: run " in said[-1]
