"""What type checkers say to people who run agents within limits: this file is read by mypy and pyright, never run."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, assert_type

from trackside import (
    AgentLimits,
    ManagerStats,
    Redact,
    RunFieldsFilter,
    RunHandle,
    RunManager,
    RunStatus,
    StopPolicy,
    StreamGap,
    StreamPart,
    run_fields,
)


class Prices:
    """A price list is any object with this method."""

    def cost_usd(
        self, model: str, *, input_tokens: int, output_tokens: int, cache_read_tokens: int, reasoning_tokens: int
    ) -> float | None:
        return None


def redact(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    """An event's type is a text, too."""
    return payload


hook: Redact = redact

manager = RunManager(
    limits={"agent": AgentLimits(max_running=2, max_cost_usd=1.0)},
    stopping=StopPolicy(cancel_after=1),
    prices=Prices(),
    redact=redact,
    block_warning_after=None,
)
assert_type(manager.stats(), ManagerStats)
assert_type(manager.stats().running, int)
assert_type(manager.stats().ended_by_status, Mapping[RunStatus, int])
assert_type(run_fields(), dict[str, str])
RunFieldsFilter()

StopPolicy(1.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
RunManager(block_warning_after="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
RunManager(redact=lambda kind: {})  # type: ignore[arg-type,misc]  # pyright: ignore[reportArgumentType]


async def first_parts(handle: RunHandle) -> None:
    """Whoever looks no longer closes what it looks at."""
    async with aclosing(handle.stream()) as parts:
        assert_type(await anext(parts), StreamPart | StreamGap)
    async with aclosing(manager.stream(handle.run_id, modes=["custom"])) as parts:
        async for part in parts:
            assert_type(part, StreamPart | StreamGap)
