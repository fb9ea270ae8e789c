"""Which threads and agents a request is about, as far as the caller may know of them."""

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
    """The thread that the path names. For the caller, somebody else's thread does not exist.

    Raises:
        HttpError: its id is no UUID.
        UnknownThreadError: there is none, or it is not the caller's.
    """
    thread = await call.parts.store.thread(call.thread_id, owner=call.principal.owner)
    if thread is None:
        raise UnknownThreadError(thread_id=call.thread_id)
    return thread


def agent_of_thread(thread: StoredThread, manager: RunManager) -> str | None:
    """The agent that keeps a thread: that of its newest run that has begun, else the one that the thread was made for;
    None if that agent is not known here.
    """
    if thread.agent is not None:
        return thread.agent if thread.agent in manager.agents else None
    named = (thread.metadata.get(key) for key in ("graph_id", "assistant_id"))
    found = (agent_of(name, manager.agents) for name in named if isinstance(name, str))
    return next((agent for agent in found if agent is not None), None)


def check_served(thread: StoredThread, manager: RunManager) -> None:
    """See that the agent that keeps a thread can be asked here.

    Raises:
        HttpError: its agent is no longer known here, or only on other servers.
    """
    if thread.agent is not None and thread.agent not in manager.agents:
        raise HttpError(status=409, detail=f"the thread's agent {thread.agent!r} is not served here")


def caller_of(parts: ServerParts, principal: Principal) -> Caller:
    """The caller, for agents that are made for each call."""
    return Caller(user=principal.user or None, items=parts.store.items)
