"""Watches the agents that a watched agent's tools call.

A capability watches the run that it is passed to, and Pydantic AI passes none on to the agents that a tool calls: to it
they are separate runs. It has nothing that is told of every run, short of instrumenting the whole process. But every
way to run an `Agent` leads through `Agent.iter`, so that is made to add a watch for each agent that is run inside a
watched one; everywhere else it does what it did.

What stays unseen: a model that a tool calls itself (`pydantic_ai.direct`), an agent in a realtime session, an agent that
runs in another process, and a custom class that has `AbstractAgent.iter` without an `Agent` below.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from pydantic_ai import Agent

from trackside.harness.adapters.pydantic_ai._watch import Watch, tool_under_way, watch_of
from trackside.harness.context import RunContext, keep_to_run
from trackside.harness.ids import new_id

_watched: ContextVar[RunContext | None] = ContextVar("trackside_pydantic_ai_run", default=None)
keep_to_run(_watched, None)  # a run that a tool starts watches its agent itself


@asynccontextmanager
async def delegates_watched(run: RunContext) -> AsyncGenerator[None]:
    """Watch every agent that code inside calls, its tasks and threads included, until the run is over."""
    _watch_iter()
    token = _watched.set(run)
    try:
        yield
    finally:
        _watched.reset(token)


@functools.cache
def _watch_iter() -> None:
    """Give `Agent.iter` its watch, once."""
    original = Agent.iter

    @functools.wraps(original)
    def watched(self: Agent[Any, Any], *arguments: Any, **options: Any) -> Any:
        run = _watched.get()
        given = options.get("capabilities") or ()
        if run is not None and not any(isinstance(one, Watch) for one in given):
            options["capabilities"] = [*given, *_watch_on(self, run).capabilities]
        return original(self, *arguments, **options)

    setattr(Agent, "iter", watched)  # noqa: B010  # an assignment would be one to a method


def _watch_on(agent: Agent[Any, Any], run: RunContext) -> Watch:
    tool, caller = tool_under_way()
    name = agent.name or tool or "agent"
    return watch_of(run, caller=name, speaker=name, namespace=(f"{name}:{new_id()}",), invoked_by=caller)
