"""Whether a run's input is the answer that its thread waits for, by the protocol of LangGraph's clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trackside.app.server.access import agent_of_thread
from trackside.app.server.calls import Call
from trackside.app.server.thread_states import StatesOfThread
from trackside.app.server.wire.assistants import agent_of
from trackside.app.server.wire.runs import RunCreate
from trackside.harness.errors import TracksideError
from trackside.harness.questions import asked_in
from trackside.harness.types import ThreadStatus


def may_answer(asked: RunCreate) -> bool:
    """Whether a run's input can be an answer: the run brings no command, and does not say where it begins."""
    own = (asked.config or {}).get("configurable")
    forks = own.get("checkpoint_id") if isinstance(own, Mapping) else None  # from clients that know no other way
    return asked.input is not None and asked.command is None and not (forks or asked.checkpoint_id or asked.checkpoint)


async def is_answer(call: Call[Any, Any], asked: RunCreate) -> bool:
    """Whether the thread waits for an answer from the caller, so that the input of this run is that answer.

    While a run has the thread, the thread waits for no other, though the question is there until that run is past it.

    Raises:
        TracksideError: it is not known what the thread waits for.
    """
    return await _is_answer(call, asked, call.principal.owner)


async def is_answer_to_anybody(call: Call[Any, Any], asked: RunCreate) -> bool:
    """The same, for a thread that may not be the caller's: handlers decide that once they know what the caller wants.

    If the thread cannot be looked at, the input counts as an answer: callers are not told why before they may know, and
    fewer of them may give an answer.
    """
    try:
        return await _is_answer(call, asked, None)
    except TracksideError:
        return True


async def _is_answer(call: Call[Any, Any], asked: RunCreate, owner: str | None) -> bool:
    if not may_answer(asked):
        return False
    manager = call.parts.manager
    thread = await call.parts.store.thread(call.thread_id, owner=owner)
    if thread is None or thread.status is not ThreadStatus.interrupted:
        return False
    agent = agent_of(asked.assistant_id, manager.agents)
    if agent is None or agent != agent_of_thread(thread, manager):
        return False
    if not asked_in((await StatesOfThread.of(call, thread).state()).interrupts):
        return False
    return await call.parts.store.threads_of(None).holder(thread.thread_id) is None
