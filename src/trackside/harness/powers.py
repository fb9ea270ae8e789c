"""What an agent may have beyond what `Agent` asks of every one. Each power is looked up by its name, and only here.

What is looked up by a protocol is in `states`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from trackside.harness.context import RunContext
from trackside.harness.types import RunSpec


def uses_thread_state(agent: object) -> bool:
    """Whether the harness keeps what the agent's threads remember; without it nothing is kept, unless the agent keeps
    it.
    """
    return getattr(agent, "uses_thread_state", False)


def partial_of(agent: object) -> Callable[[RunContext], Mapping[str, Any] | None] | None:
    """The method for what a thread keeps of a run that failed or was stopped; without it the thread keeps what it had
    before.
    """
    return getattr(agent, "partial", None)


def prepares_at_once(agent: object) -> bool:
    """Whether the agent's `human_messages` waits for nothing; without it the method is called in a task, which can be
    stopped.
    """
    return getattr(agent, "prepares_at_once", False)


def stream_modes_of(agent: object) -> AbstractSet[str] | None:
    """The modes that the agent streams, so that others are refused before a run starts; without them none is refused."""
    return getattr(agent, "stream_modes", None)


def says_values(agent: object) -> bool:
    """Whether the agent streams all that it gives back as `values`; without it some may not have been streamed."""
    return getattr(agent, "says_values", False)


def check_of(agent: object) -> Callable[[RunSpec], None] | None:
    """The method that raises `InvalidSpecError` for a request; without it a run starts, and fails of that."""
    return getattr(agent, "check", None)


def completed_of(
    agent: object,
) -> Callable[[Mapping[str, Any] | None, Any], tuple[Mapping[str, Any] | None, Any]] | None:
    """The method that completes a run's config and context from each other, as for graphs, whose config then says what
    headers do; without it both stay as they were given.
    """
    return getattr(agent, "completed", None)


def owners_config_of(agent: object) -> Collection[str]:
    """What of a run's config only those with the permission `admin` may set on a server; without it nothing."""
    return getattr(agent, "owners_config", frozenset())


def calls_in_of(agent: object) -> Callable[[Any], AbstractSet[str]] | None:
    """The method that finds the ids of all tool calls so far in the agent's `AgentResult.paused`; without it, an answer
    by the id of a call that is not open may be taken for the answer to one that is.
    """
    return getattr(agent, "calls_in", None)


def leave_of(agent: object) -> Callable[[RunContext], Coroutine[Any, Any, None]] | None:
    """The method that closes what the agent opened for a run, when that is over; without it there is nothing to close."""
    return getattr(agent, "leave", None)


def asks_of(agent: object) -> Callable[[RunContext], Coroutine[Any, Any, bool]] | None:
    """The method that says whether a run's thread waits for an answer; without it, what the harness keeps of that says
    so.
    """
    return getattr(agent, "asks", None)


def lacks_checkpointer(agent: object) -> bool:
    """Whether the manager's checkpointer, which an app opens for it, keeps the agent's threads; without it they are its
    own.
    """
    return getattr(agent, "lacks_checkpointer", False)
