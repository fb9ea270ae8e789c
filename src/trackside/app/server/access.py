"""Which threads and agents a request is about, as far as whoever asks may know of them."""

from __future__ import annotations

from typing import Any

from trackside.app.server.calls import Call
from trackside.app.server.failures import HttpError
from trackside.app.server.parts import ServerParts
from trackside.app.server.principal import Principal
from trackside.app.server.wire.assistants import agent_of
from trackside.app.storage import StoredThread
from trackside.harness import RunManager
from trackside.harness.errors import UnknownThreadError
from trackside.harness.states import Caller


async def thread_for(call: Call[Any, Any]) -> StoredThread:
    """The thread that the path names. One of somebody else is not there.

    Raises:
        HttpError: its id is no UUID.
        UnknownThreadError: there is none, or it is not his who asks.
    """
    thread = await call.parts.store.thread(call.thread_id, owner=call.principal.owner)
    if thread is None:
        raise UnknownThreadError(thread_id=call.thread_id)
    return thread


def agent_of_thread(thread: StoredThread, manager: RunManager) -> str | None:
    """The agent that a thread is kept by: that of its newest run that has begun, else the one that it was made for; None if
    it is not known here.
    """
    if thread.agent is not None:
        return thread.agent if thread.agent in manager.agents else None
    named = (thread.metadata.get(key) for key in ("graph_id", "assistant_id"))
    found = (agent_of(name, manager.agents) for name in named if isinstance(name, str))
    return next((agent for agent in found if agent is not None), None)


def check_served(thread: StoredThread, manager: RunManager) -> None:
    """See that who keeps a thread can be asked here.

    Raises:
        HttpError: its agent is known here no more, or on other servers alone.
    """
    if thread.agent is not None and thread.agent not in manager.agents:
        raise HttpError(status=409, detail=f"the thread's agent {thread.agent!r} is not served here")


def caller_of(parts: ServerParts, principal: Principal) -> Caller:
    """Who asks, for agents that are made for each call."""
    return Caller(user=principal.user or None, items=parts.store.items)
