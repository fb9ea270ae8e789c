"""An agent for the tests of `run_agent`."""

from typing import Any


async def echo(input: Any) -> Any:
    return input
