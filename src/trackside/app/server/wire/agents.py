"""Agents on the wire, as our own surface lists them."""

from __future__ import annotations

from msgspec import Struct


class AgentInfo(Struct, frozen=True, kw_only=True):
    """An agent that is served."""

    name: str
    assistant_id: str
    """What LangGraph's clients call it; they may use the name as well."""
    description: str | None
    running: int
    """How many of its runs go on: told to admins, all in this process; to others, those on their threads in all of them."""
    keeps_threads: bool
    """Whether it keeps what its threads were, so that one can go back in them."""
    describes: bool
    """Whether it can be drawn, and has schemas."""
