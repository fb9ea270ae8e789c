"""Assistants on the wire: one for each agent, and as lasting as its name."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from uuid import UUID, uuid5

_NAMESPACE = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")  # as LangGraph's servers make theirs, so that ids stay


@lru_cache(1_024)
def assistant_id_of(agent: str) -> str:
    """The id of an agent's assistant."""
    return str(uuid5(_NAMESPACE, agent))


def agent_of(assistant: str, agents: Collection[str]) -> str | None:
    """The agent that a name or an assistant's id means; None if there is none."""
    if assistant in agents:
        return assistant
    return next((agent for agent in agents if assistant_id_of(agent) == assistant.lower()), None)
