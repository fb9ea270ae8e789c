"""What an agent may have beyond what `Agent` asks of every one: each power is asked for by its name, and only here.

What is asked for by a protocol is in `states`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from trackside.harness.context import RunContext
from trackside.harness.types import RunSpec


def uses_thread_state(agent: object) -> bool:
    """Whether the harness keeps what its threads remember; without it nothing is kept, unless the agent does it."""
    return getattr(agent, "uses_thread_state", False)


def partial_of(agent: object) -> Callable[[RunContext], Mapping[str, Any] | None] | None:
    """What says what a thread keeps of a run that failed or was stopped; without it that is what it had before."""
    return getattr(agent, "partial", None)


def prepares_at_once(agent: object) -> bool:
    """Whether its `human_messages` waits for nothing; without it that is called in a task, which can be stopped."""
    return getattr(agent, "prepares_at_once", False)


def stream_modes_of(agent: object) -> AbstractSet[str] | None:
    """The modes that it streams, so that others are refused before a run starts; without them none is refused."""
    return getattr(agent, "stream_modes", None)


def says_values(agent: object) -> bool:
    """Whether it streams all that it gives back as `values`; without it there may be some that were not streamed."""
    return getattr(agent, "says_values", False)


def check_of(agent: object) -> Callable[[RunSpec], None] | None:
    """What raises `InvalidSpecError` at what is asked for; without it a run starts, and fails of that."""
    return getattr(agent, "check", None)


def completed_of(
    agent: object,
) -> Callable[[Mapping[str, Any] | None, Any], tuple[Mapping[str, Any] | None, Any]] | None:
    """What completes a run's config and context by each other, as for graphs, whose config then says what headers do;
    without it both stay as they were said.
    """
    return getattr(agent, "completed", None)


def owners_config_of(agent: object) -> Collection[str]:
    """What of a run's config only who has the permission `admin` may say to a server; without it that is nothing."""
    return getattr(agent, "owners_config", frozenset())


def calls_in_of(agent: object) -> Callable[[Any], AbstractSet[str]] | None:
    """What finds in its `AgentResult.paused` the ids of all calls of tools so far; without it an answer by the id of
    one that is not open may be taken for the answer to what is.
    """
    return getattr(agent, "calls_in", None)


def leave_of(agent: object) -> Callable[[RunContext], Coroutine[Any, Any, None]] | None:
    """What closes what it has opened for a run, when that is over; without it there is nothing to close."""
    return getattr(agent, "leave", None)


def asks_of(agent: object) -> Callable[[RunContext], Coroutine[Any, Any, bool]] | None:
    """What says whether a run's thread waits for an answer; without it what the harness keeps of that says it."""
    return getattr(agent, "asks", None)


def lacks_checkpointer(agent: object) -> bool:
    """Whether the manager's checkpointer keeps its threads, which an app opens for it; without it they are its own."""
    return getattr(agent, "lacks_checkpointer", False)
