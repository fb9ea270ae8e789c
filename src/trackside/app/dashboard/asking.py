"""Asks for the parts of a page at once, so that one that is unavailable does not take the others with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trackside.app.dashboard.declaring import API
from trackside.app.server.failures import answer_of
from trackside.app.server.routes import records
from trackside.app.server.routing import Call, Handler
from trackside.harness.errors import TracksideError


@dataclass(frozen=True, slots=True)
class Part:
    """What an endpoint has answered, or why it has not."""

    value: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    why: str | None = None
    """A sentence, if there is no value."""

    @property
    def is_forbidden(self) -> bool:
        """Whether somebody with more permission would see it."""
        return self.status == 403


async def part(call: Call[Any, Any], handler: Handler, query: Mapping[str, Any] | None = None, **more: Any) -> Part:
    """What an endpoint answers to the page's viewer; a refusal is shown where the answer would be."""
    try:
        answered = await API.ask(call, handler, query=query, **more)
    except TracksideError as exc:
        failed = answer_of(exc)
        return Part(status=failed.status, why=failed.detail)
    return Part(answered.value, answered.headers)


async def value_or_why(call: Call[Any, Any], handler: Handler, **asked: Any) -> tuple[Any, str | None]:
    """What an endpoint answers, or why it does not."""
    found = await part(call, handler, **asked)
    return found.value, found.why


async def parts_of(call: Call[Any, Any], asked: Mapping[str, tuple[Handler, Mapping[str, Any]]]) -> dict[str, Part]:
    """What several endpoints answer, by the names in `asked`."""
    async with asyncio.TaskGroup() as group:
        tasks = {
            name: group.create_task(part(call, handler, query), name=f"trackside-console-{name}")
            for name, (handler, query) in asked.items()
        }
    return {name: task.result() for name, task in tasks.items()}


async def served_agents(call: Call[Any, Any]) -> Sequence[str]:
    """The names of the agents that are served, as suggestions: a page works without them."""
    return [agent.name for agent in (await part(call, records.list_agents)).value or ()]
