"""What clients see of threads besides their rows: what they remember, what they ask, and how their last run failed.

For agents that keep no checkpoints, the store knows this for a whole page at once; others are asked thread by thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from trackside.app.server.access import agent_of_thread, caller_of
from trackside.app.server.parts import ServerParts
from trackside.app.server.principal import Principal
from trackside.app.server.wire.threads import LastError, ThreadView
from trackside.app.storage import StoredThread
from trackside.app.storage.threads import ThreadContents
from trackside.harness.errors import AgentFailedError, TracksideError
from trackside.harness.states import KeepsThreads, StateSnapshot, ThreadPlace, last_shown
from trackside.harness.types import ThreadStatus

logger = logging.getLogger("trackside.server")

_AT_ONCE = 8
"""How many threads are asked for at once."""


async def views_of(
    parts: ServerParts, principal: Principal, threads: Sequence[StoredThread], *, values: bool = True
) -> Mapping[str, ThreadView]:
    """The views of threads that the caller may see, by their ids; without `values`, neither values nor questions."""
    contents = await parts.store.threads_of(None).contents([thread.thread_id for thread in threads])
    kept = [thread for thread in threads if values and keeper_of(parts, thread) is not None]
    states: dict[str, StateSnapshot | None] = {}
    for place in range(0, len(kept), _AT_ONCE):
        asked = kept[place : place + _AT_ONCE]
        found = await asyncio.gather(*(_state(parts, principal, thread) for thread in asked))
        states |= {thread.thread_id: state for thread, state in zip(asked, found, strict=True)}
    return {
        thread.thread_id: _view(thread, contents.get(thread.thread_id, ThreadContents()), states) for thread in threads
    }


def keeper_of(parts: ServerParts, thread: StoredThread) -> KeepsThreads | None:
    """The agent that keeps a thread itself; None if the store does, or the agent is not served here."""
    name = agent_of_thread(thread, parts.manager)
    agent: object = None if name is None else parts.manager.agents[name]
    return agent if isinstance(agent, KeepsThreads) else None


def place_of(parts: ServerParts, principal: Principal, thread_id: str) -> ThreadPlace:
    """The newest state of a thread."""
    return ThreadPlace(thread_id=thread_id, checkpointer=parts.checkpointer, caller=caller_of(parts, principal))


async def _state(parts: ServerParts, principal: Principal, thread: StoredThread) -> StateSnapshot | None:
    """A thread's state; None also where its agent cannot say: one of many threads is no reason to show none."""
    keeper = keeper_of(parts, thread)
    assert keeper is not None
    try:
        return await last_shown(keeper, place_of(parts, principal, thread.thread_id))
    except AgentFailedError as exc:  # its code may be of another version than the thread
        logger.warning("the state of thread %s cannot be shown: %s", thread.thread_id, exc, exc_info=exc)
    except TracksideError as exc:
        logger.warning("the state of thread %s cannot be shown: %s", thread.thread_id, exc)
    return None


def _view(thread: StoredThread, contents: ThreadContents, states: Mapping[str, StateSnapshot | None]) -> ThreadView:
    error = None
    if thread.status is ThreadStatus.error and not contents.is_held:
        error = LastError(error=contents.error_type or "error", message=contents.error or "")
    if thread.thread_id in states:
        state = states[thread.thread_id]
        values = None if state is None else state.values
        tasks = [] if state is None else state.tasks
        interrupts = {task["id"]: task["interrupts"] for task in tasks if task.get("interrupts")}
    else:
        values = contents.values
        asker = thread.last_run_id or thread.thread_id
        interrupts = {asker: list(contents.interrupts)} if contents.interrupts else {}
    return ThreadView(
        values=values, interrupts=interrupts, config=contents.config, error=error, is_held=contents.is_held
    )
